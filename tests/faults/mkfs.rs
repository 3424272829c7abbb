//! mkfs that is killed, that stands still, and that waits for a disk.

use anyhow::{Result, ensure};
use vm_fixtures::Disk;

use crate::{
    Case, Ground, When,
    ward::{
        self, another_is_mounted, check_filesystems, error_of, is_mounted, operation, throttle,
    },
};

pub const CASES: &[Case] = &[(
    "a_mkfs_that_is_killed_stopped_or_hangs_is_named_and_made_to_begin_again",
    When::InAll,
    ended_badly,
)];

/// Disk, kernel name, and how mkfs ends there.
const ENDS: [(&str, &str, &str); 3] = [
    ("killed", "vdb", "signal: 9 (SIGKILL)"),
    ("stopped", "vdc", "killed because it took too long"),
    ("hangs", "vdd", "killed because it took too long"),
];

fn ended_badly(ground: &Ground) -> Result<()> {
    let disks = ENDS.map(|(name, _, _)| Disk::virtio(name).gib(12));
    // Long enough to find mkfs at work on each of them, on any machine; and they are
    // so slow that none of them ends before.
    let config = "mkfs-timeout: 90s\n";
    let (mut node, foreign) = ward::node(ground, "mkfs", disks.into(), config)?;
    for (name, _, _) in ENDS {
        throttle(&mut node, name, 50_000)?;
    }
    node.start_agent()?;
    node.wait_until("mkfs runs on each", |disks| {
        ENDS.iter().all(|(_, device, _)| {
            operation(disks, device, "phase").is_some_and(|phase| phase == "formatting")
        })
    })?;
    node.vm.sh("pkill -KILL -f 'mkfs.*/dev/vdb1'")?;
    node.vm.sh("pkill -STOP -f 'mkfs.*/dev/vdc1'")?;
    throttle(&mut node, "hangs", 1)?;
    // What waits for a disk dies, or stops, only when the disk has answered.
    for name in ["killed", "stopped"] {
        throttle(&mut node, name, 0)?;
    }
    node.wait_logged(&["not finished", "vdb", ENDS[0].2])?;
    node.wait_logged(&["not finished", "vdc", ENDS[1].2])?;
    let hanging = node.wait_until("the one that hangs is overdue", |disks| {
        operation(disks, "vdd", "overdue").is_some()
    })?;
    ensure!(error_of(&hanging, "vdd").is_empty(), "{:#}", hanging.0);
    for _ in ENDS {
        ground.tally.met();
    }
    another_is_mounted(ground, &mut node)?;
    throttle(&mut node, "hangs", 0)?;
    node.wait_logged(&["not finished", "vdd", ENDS[2].2])?;
    let devices = ENDS.map(|(_, device, _)| device.to_owned());
    node.wait_until("all are mounted", |disks| {
        devices.iter().all(|device| is_mounted(disks, device))
    })?;
    for _ in ENDS {
        ground.tally.recovered();
    }
    check_filesystems(ground, &mut node, &devices)?;
    foreign.check(ground, &mut node)
}
