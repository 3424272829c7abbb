//! Disks that fail on command, and what a node says of them.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};
use vm_fixtures::Disk;
use vm_tests::{Disks, Node, Untouched};

use crate::Ground;

/// `EIO`.
const EIO: u32 = 5;

/// What a disk does from some moment on. The moment is counted by QEMU, at the
/// requests that the guest sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The n-th write fails, and every one after it.
    Writes(usize),
    /// The n-th flush fails, and every one after it.
    Flushes(usize),
    /// After the n-th write every read fails.
    ReadsAfterWrite(usize),
    /// Reads of these sectors fail.
    ReadsOf(Vec<u64>),
    /// Writes to these sectors fail.
    WritesTo(Vec<u64>),
}

impl Fault {
    /// As a block node of QEMU on the file of a disk.
    fn node(&self, disk: &str) -> Value {
        // In state n the n-th request of the kind is sent.
        let count = |event: &str, requests: usize| -> Vec<Value> {
            (1..=requests)
                .map(|state| json!({"event": event, "state": state, "new_state": state + 1}))
                .collect()
        };
        let error = |event: &str, state: usize, iotype: &str| {
            json!({
                "event": event, "state": state, "iotype": iotype,
                "errno": EIO, "once": false,
            })
        };
        let at = |iotype: &str, sectors: &[u64]| -> Vec<Value> {
            let always = |sector: &u64| {
                json!({
                    "event": "none", "iotype": iotype, "sector": sector,
                    "errno": EIO, "once": false,
                })
            };
            sectors.iter().map(always).collect()
        };
        let (errors, states) = match self {
            Self::Writes(n) => (
                vec![
                    error("write_aio", *n, "write"),
                    error("write_aio", *n, "write-zeroes"),
                ],
                count("write_aio", n - 1),
            ),
            Self::Flushes(n) => (
                vec![error("flush_to_disk", *n, "flush")],
                count("flush_to_disk", n - 1),
            ),
            Self::ReadsAfterWrite(n) => (
                vec![error("read_aio", n + 1, "read")],
                count("write_aio", *n),
            ),
            Self::ReadsOf(sectors) => (at("read", sectors), Vec::new()),
            Self::WritesTo(sectors) => (at("write", sectors), Vec::new()),
        };
        let mut node = Map::from_iter([
            ("driver".to_owned(), "blkdebug".into()),
            ("image".to_owned(), format!("file-{disk}").into()),
            ("inject-error".to_owned(), errors.into()),
        ]);
        // QEMU takes no empty list.
        if !states.is_empty() {
            node.insert("set-state".to_owned(), states.into());
        }
        node.into()
    }

    /// Which of QEMU's counters tells that it was met.
    fn counter(&self) -> &'static str {
        match self {
            Self::Writes(_) | Self::WritesTo(_) => "failed_wr_operations",
            Self::Flushes(_) => "failed_flush_operations",
            Self::ReadsAfterWrite(_) | Self::ReadsOf(_) => "failed_rd_operations",
        }
    }
}

/// A blank virtio disk that fails. The raw format above the fault tells it of
/// each request.
pub fn failing(name: &str, fault: &Fault) -> Disk {
    Disk::virtio(name).gib(12).filter(json!({
        "driver": "raw", "discard": "unmap", "file": fault.node(name),
    }))
}

/// Takes the fault away: the device goes on, on the bare file.
pub fn heal(node: &mut Node, name: &str) -> Result<()> {
    let drive = json!({
        "path": backend(name), "property": "drive", "value": format!("file-{name}"),
    });
    node.vm.qmp("qom-set", drive).map(drop)
}

/// The block device of virtio is a child of the PCI device.
fn backend(name: &str) -> String {
    format!("/machine/peripheral/disk-{name}/virtio-backend")
}

/// Whether a disk has failed at least once as it was told to.
pub fn was_met(node: &mut Node, name: &str, fault: &Fault) -> Result<bool> {
    let stats = node.vm.block_stats(name)?;
    let failed = stats.get(fault.counter()).and_then(Value::as_u64);
    Ok(failed.context("QEMU counts no failures")? > 0)
}

/// Limits the bytes that can be written to a disk in a second; 0 lifts the
/// limit.
pub fn throttle(node: &mut Node, name: &str, bytes_per_second: u64) -> Result<()> {
    let limits = json!({
        "id": backend(name),
        "bps": 0, "bps_rd": 0, "bps_wr": bytes_per_second,
        "iops": 0, "iops_rd": 0, "iops_wr": 0,
    });
    node.vm.qmp("block_set_io_throttle", limits).map(drop)
}

/// Boots a node with these disks and one that belongs to somebody else. The
/// agent is not started yet.
pub fn node(
    ground: &Ground,
    name: &str,
    disks: Vec<Disk>,
    config: &str,
) -> Result<(Node, Foreign)> {
    let mut machine = ground.lab.machine(name);
    for disk in disks {
        machine = machine.disk(disk);
    }
    let mut node = Node::boot(machine)?;
    let foreign = Foreign::plug(&mut node)?;
    node.configure(&format!("mode: enforce\ninterval: 1h\n{config}"))?;
    Ok((node, foreign))
}

/// A disk that must not change, whatever happens beside it.
#[derive(Debug)]
pub struct Foreign(Untouched);

impl Foreign {
    fn plug(node: &mut Node) -> Result<Self> {
        let file = foreign_image(&node.vm.run_dir())?;
        node.vm.plug(Disk::scsi("foreign").file(file))?;
        node.vm.settle()?;
        Ok(Self(Untouched::note(node, &["foreign"])?))
    }

    /// Checks that it did not.
    pub fn check(&self, ground: &Ground, node: &mut Node) -> Result<()> {
        self.0
            .check(node)
            .inspect_err(|_changed| ground.tally.harmed())
    }
}

/// Shows that another disk is mounted while faults stand.
pub fn another_is_mounted(ground: &Ground, node: &mut Node) -> Result<()> {
    node.takes_another()
        .inspect_err(|_not_mounted| ground.tally.delayed())
}

/// A number of the work on a disk.
pub fn operation<'a>(disks: &'a Disks, device: &str, field: &str) -> Option<&'a Value> {
    disks.row(device)?.get("operation")?.get(field)
}

/// Why the last attempt on a disk failed; empty when none did.
pub fn error_of<'a>(disks: &'a Disks, device: &str) -> &'a str {
    operation(disks, device, "error")
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// Attempts on a disk that failed in a row.
pub fn failures(disks: &Disks, device: &str) -> u64 {
    operation(disks, device, "failures")
        .and_then(Value::as_u64)
        .unwrap_or_default()
}

/// Whether a disk is mounted under its name.
pub fn is_mounted(disks: &Disks, device: &str) -> bool {
    disks.row(device).and_then(|row| row.get("mounted")) == Some(&Value::Bool(true))
}

/// Checks the filesystems of disks that are mounted, and unmounts them for it.
pub fn check_filesystems(ground: &Ground, node: &mut Node, devices: &[String]) -> Result<()> {
    node.vm.sh("systemctl stop disk-discovery")?;
    for device in devices {
        let sound = node.vm.run(&format!(
            "umount /dev/{device}1 && e2fsck -fn /dev/{device}1"
        ))?;
        if !sound.success() {
            ground.tally.harmed();
        }
        ensure!(sound.success(), "{device}: {sound:?}");
    }
    Ok(())
}

/// Takes out a mounted SCSI disk without a word, and waits until the agent has
/// taken away what its mount leaves.
pub fn take_out(node: &mut Node, name: &str, device: &str) -> Result<Disk> {
    let disk = node.vm.yank(name)?;
    wait_gone(node, device)?;
    node.wait_until("the disk and its mount are gone", |disks| {
        let dead = disks.0.get("deadMounts").and_then(|dead| dead.as_array());
        disks.row(device).is_none() && dead.is_some_and(Vec::is_empty)
    })?;
    node.vm
        .sh(&format!("! grep '/dev/{device}1 ' /proc/1/mountinfo"))?;
    Ok(disk)
}

/// Waits until the kernel has let go of a disk.
pub fn wait_gone(node: &mut Node, device: &str) -> Result<()> {
    node.vm
        .sh(&format!(
            "while [ $SECONDS -lt 110 ]; do [ -e /sys/block/{device} ] || exit 0; sleep 0.1; done; exit 1"
        ))
        .map(drop)
}

/// A disk with an ext4 that was made elsewhere.
pub fn foreign_image(directory: &Path) -> Result<PathBuf> {
    let file = directory.join("foreign.img");
    for command in ["truncate -s 12G", "mkfs.ext4 -q -F"] {
        let mut words = command.split(' ');
        let mut program = Command::new(words.next().context("no program")?);
        let ended = program.args(words).arg(&file).output()?;
        ensure!(ended.status.success(), "{command}: {ended:?}");
    }
    Ok(file)
}

/// Whether either copy of the table on a disk is committed, as its file says.
pub fn is_committed(node: &Node, name: &str) -> Result<bool> {
    const LENGTH: usize = 34 * 512;
    let file = File::open(node.vm.disk_path(name)?)?;
    let mark: Vec<u8> = "longhorn:"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let mut committed = false;
    for at in [0, file.metadata()?.len() - LENGTH as u64] {
        let mut table = vec![0; LENGTH];
        file.read_exact_at(&mut table, at)?;
        committed |= table.windows(mark.len()).any(|window| window == mark);
    }
    Ok(committed)
}

/// Runs of mkfs on a device that the log tells of, at level debug.
pub fn formats(log: &str, device: &str) -> usize {
    log.matches(&format!("disk=\"{device}\" phase=Formatting"))
        .count()
}
