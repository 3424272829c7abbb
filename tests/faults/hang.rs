//! Disks that stop answering in the middle of a write.

use anyhow::{Result, ensure};
use vm_fixtures::Disk;
use vm_tests::{Disks, Node};

use crate::{
    Case, Ground, When,
    ward::{self, another_is_mounted, is_mounted, operation, throttle},
};

pub const CASES: &[Case] = &[
    (
        "as_many_disks_hang_in_a_write_as_there_are_workers_and_another_is_mounted_all_the_same",
        When::Always,
        hang,
    ),
    (
        "an_agent_whose_disk_hangs_in_a_write_is_stopped_and_started_again",
        When::InAll,
        restarted,
    ),
];

/// Disks that are slow, then do not answer: one in the agent's own write, one
/// while mkfs runs.
const STUCK: [&str; 2] = ["vdb", "vdc"];

/// A node with two workers, both of which wait for a disk that hangs.
fn stuck(ground: &Ground, name: &str) -> Result<(Node, ward::Foreign)> {
    let disks = ["table", "mkfs"].map(|name| Disk::virtio(name).gib(12));
    let (mut node, foreign) = ward::node(ground, name, disks.into(), "parallel: 2\n")?;
    throttle(&mut node, "table", 1)?;
    throttle(&mut node, "mkfs", 500_000)?;
    node.start_agent()?;
    node.wait_until("mkfs runs", |disks| phase(disks, "vdc") == "formatting")?;
    throttle(&mut node, "mkfs", 1)?;
    for _ in STUCK {
        ground.tally.met();
    }
    Ok((node, foreign))
}

fn phase<'a>(disks: &'a Disks, device: &str) -> &'a str {
    let phase = operation(disks, device, "phase");
    phase.and_then(|phase| phase.as_str()).unwrap_or_default()
}

/// The disks answer again.
fn let_go(ground: &Ground, node: &mut Node) -> Result<()> {
    throttle(node, "table", 0)?;
    throttle(node, "mkfs", 0)?;
    node.wait_until("both are mounted", |disks| {
        STUCK.iter().all(|device| is_mounted(disks, device))
    })?;
    for _ in STUCK {
        ground.tally.recovered();
    }
    Ok(())
}

fn hang(ground: &Ground) -> Result<()> {
    let (mut node, foreign) = stuck(ground, "hang")?;
    another_is_mounted(ground, &mut node)?;
    // For the other disk it was enough that one of them made way.
    let disks = node.wait_until("both have made way", |disks| {
        let aside = |device| operation(disks, device, "overdue").is_some_and(|it| it == "aside");
        STUCK.iter().all(|device| aside(device))
    })?;
    ensure!(phase(&disks, "vdb") == "partitioning", "{:#}", disks.0);
    let ready = node.vm.sh("curl -sS localhost:9807/readyz")?;
    ensure!(
        ready.contains("operations: vdb: takes long; vdc: takes long"),
        "{ready}"
    );
    node.check_healthy()?;
    let_go(ground, &mut node)?;
    ward::check_filesystems(ground, &mut node, &STUCK.map(str::to_owned))?;
    foreign.check(ground, &mut node)
}

fn restarted(ground: &Ground) -> Result<()> {
    let (mut node, foreign) = stuck(ground, "restarted")?;
    // The kernel lets nobody end a thread that waits for the disk: systemd
    // gives up on it, four times after this.
    node.vm.sh(
        "mkdir -p /run/systemd/system/disk-discovery.service.d
         printf '[Service]\nTimeoutStopSec=5\n' > /run/systemd/system/disk-discovery.service.d/stop.conf
         systemctl daemon-reload && systemctl stop disk-discovery",
    )?;
    node.wait_logged(&["left to be resumed", "vdb", "vdc"])?;
    let left = node.vm.sh("ps -eo stat,comm | grep -E 'mkfs|disk-disc'")?;
    ensure!(left.lines().count() == 2, "nothing hangs: {left}");
    node.start_agent()?;
    another_is_mounted(ground, &mut node)?;
    let disks = node.wait_refused("vdb", "not-answering")?;
    ensure!(!is_mounted(&disks, "vdc"), "{:#}", disks.0);
    let_go(ground, &mut node)?;
    ward::check_filesystems(ground, &mut node, &STUCK.map(str::to_owned))?;
    foreign.check(ground, &mut node)
}
