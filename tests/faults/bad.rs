//! Disks full of bad sectors.

use anyhow::Result;

use crate::{
    Case, Ground, When,
    ward::{
        self, Fault, another_is_mounted, check_filesystems, error_of, failing, failures, heal,
        is_mounted, was_met,
    },
};

pub const CASES: &[Case] = &[(
    "a_disk_with_bad_sectors_is_refused_or_backed_off_from_and_taken_when_it_has_none",
    When::InAll,
    bad_sectors,
)];

const MIB: u64 = 1 << 11;

fn bad_sectors(ground: &Ground) -> Result<()> {
    // Here and there, in the ends that are always read too.
    let reads = Fault::ReadsOf((0..1536).map(|at| (8 * at + 4) * MIB).collect());
    // From 1 GiB on, wherever ext4 begins a group of blocks.
    let writes = Fault::WritesTo((8..96).map(|group| MIB + group * 128 * MIB).collect());
    let disks = vec![failing("reads", &reads), failing("writes", &writes)];
    let (mut node, foreign) = ward::node(ground, "bad-sectors", disks, "")?;
    node.start_agent()?;
    node.wait_refused("vdb", "probe-failed")?;
    node.wait_until("mkfs failed again and again", |disks| {
        failures(disks, "vdc") >= 2 && error_of(disks, "vdc").contains("mkfs.ext4 failed")
    })?;
    for (name, fault) in [("reads", &reads), ("writes", &writes)] {
        anyhow::ensure!(was_met(&mut node, name, fault)?, "{name} did not fail");
        ground.tally.met();
    }
    another_is_mounted(ground, &mut node)?;
    for name in ["reads", "writes"] {
        heal(&mut node, name)?;
    }
    let devices = ["vdb", "vdc"].map(str::to_owned);
    node.wait_until("both are mounted", |disks| {
        devices.iter().all(|device| is_mounted(disks, device))
    })?;
    for _ in &devices {
        ground.tally.recovered();
    }
    check_filesystems(ground, &mut node, &devices)?;
    foreign.check(ground, &mut node)
}
