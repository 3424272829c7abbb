//! A row of the corpus: one foreign state of one disk or of several that
//! belong together.

use anyhow::Result;
use vm_fixtures::Bus;

use crate::canvas::Canvas;

/// One foreign state.
#[derive(Clone, Copy)]
pub struct Row {
    /// What it promises; the name of its test.
    pub name: &'static str,
    /// Size of each of its disks.
    pub mib: u64,
    /// Bytes in a logical sector.
    pub sector: u32,
    /// How its disks are attached.
    pub bus: Bus,
    /// The reason for which each of its disks must be refused.
    pub reasons: &'static [&'static str],
    /// How it is made.
    pub made: Made,
}

/// How a state is made.
#[derive(Clone, Copy)]
pub enum Made {
    /// By a bash script in the guest, on `$disk`, `$disk2` and so on; what it
    /// can call besides is in `making.sh`. It leaves nothing mounted or
    /// assembled.
    ByTool(&'static str),
    /// By bytes on the disk's file, before the disk is attached. For what no
    /// tool in Debian makes, and for data that is nobody's format.
    ByHand(fn(&mut Canvas) -> Result<()>),
    /// By the agent, which takes the disk while it is blank, and then, when it
    /// is unmounted, by a script.
    Claimed(&'static str),
}

/// A disk that a script makes.
pub const fn by_tool(
    name: &'static str,
    mib: u64,
    reasons: &'static [&'static str],
    script: &'static str,
) -> Row {
    Row {
        name,
        mib,
        sector: 512,
        bus: Bus::Scsi,
        reasons,
        made: Made::ByTool(script),
    }
}

/// A disk made of bytes.
pub const fn by_hand(
    name: &'static str,
    mib: u64,
    reasons: &'static [&'static str],
    make: fn(&mut Canvas) -> Result<()>,
) -> Row {
    Row {
        name,
        mib,
        sector: 512,
        bus: Bus::Scsi,
        reasons,
        made: Made::ByHand(make),
    }
}

/// A disk that was this agent's own before the script.
pub const fn claimed(
    name: &'static str,
    reasons: &'static [&'static str],
    script: &'static str,
) -> Row {
    Row {
        name,
        mib: CLAIMED_MIB,
        sector: 512,
        bus: Bus::Scsi,
        reasons,
        made: Made::Claimed(script),
    }
}

/// Only disks of this size are taken by the first run of the agent.
pub const CLAIMED_MIB: u64 = 2048;

impl Row {
    /// With this many bytes in a logical sector.
    pub const fn with_sector(mut self, bytes: u32) -> Self {
        self.sector = bytes;
        self
    }

    /// Attached in another way than most.
    pub const fn over(mut self, bus: Bus) -> Self {
        self.bus = bus;
        self
    }
}
