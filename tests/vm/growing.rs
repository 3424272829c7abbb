//! Growing that is interrupted: at each of its steps, and within the longest.

use anyhow::{Result, ensure};
use vm_fixtures::{Disk, Lab};
use vm_tests::Node;

use crate::{
    Case,
    grown::{GIB, check_filesystem, fill, identity, wait_grown},
    interrupted::throttle,
};

pub const CASES: &[Case] = &[
    (
        "growing_that_is_killed_at_any_step_is_completed_by_the_next_start",
        killed,
    ),
    (
        "growing_that_is_cut_off_with_the_power_at_any_step_is_completed_after_the_boot",
        power_cut,
    ),
    (
        "a_front_that_is_torn_between_two_tables_is_mounted_by_the_backup_and_completed",
        torn_front,
    ),
];

/// Calls in the middle of growing, each with the file that it is made on: the
/// agent is killed when it makes this one.
const STEPS: &[(&str, u32, &str)] = &[
    // Before anything is written, and with the backup only in memory.
    ("pwrite64", 1, "/dev/vdb"),
    ("fsync", 1, "/dev/vdb"),
    // The backup is there, the primary is not, or only in memory.
    ("pwrite64", 2, "/dev/vdb"),
    ("fsync", 2, "/dev/vdb"),
    // Table and partition are grown, the filesystem is not.
    ("ioctl", 1, "/mnt/longhorn/vdb1"),
];

/// Every step where all are asked for, else every second one. Between them, the
/// tests try each step also then.
fn some_steps(odd: bool) -> impl Iterator<Item = &'static (&'static str, u32, &'static str)> {
    let all = std::env::var("DISK_DISCOVERY_VM_ALL").is_ok_and(|value| value == "1");
    let steps = STEPS.iter().enumerate();
    steps.filter_map(move |(at, step)| (all || (at % 2 == 1) == odd).then_some(step))
}

/// A node with a filled disk of ours, whose agent is not started again by itself.
fn fragile(lab: &Lab, name: &str, filesystem: &str) -> Result<(Node, String)> {
    let mut node = Node::boot(lab.machine(name).disk(Disk::virtio("alpha").gib(12)))?;
    node.vm
        .sh("mkdir -p /etc/systemd/system/disk-discovery.service.d
         printf '[Service]\\nRestart=no\\n' > /etc/systemd/system/disk-discovery.service.d/once.conf
         systemctl daemon-reload")?;
    node.configure(&format!(
        "mode: enforce\ninterval: 1h\nfilesystem: {filesystem}\n"
    ))?;
    node.start_agent()?;
    node.wait_mounted(&["/mnt/longhorn/vdb1"])?;
    fill(&mut node, "/mnt/longhorn/vdb1")?;
    let before = identity(&mut node, "vdb1", "/mnt/longhorn/vdb1")?;
    node.vm.sh("sync")?;
    Ok((node, before))
}

/// Enlarges the disk, and kills the agent at a step of growing.
fn kill_at(node: &mut Node, step: &(&str, u32, &str), size: u64) -> Result<()> {
    let (call, when, path) = step;
    node.vm.sh(&format!(
        "agent=$(systemctl show -p MainPID --value disk-discovery)
         strace -f -qq -o /run/strace -P {path} -e trace={call} \
             -e inject={call}:signal=KILL:when={when} -p $agent >/dev/null 2>/run/strace.err &
         SECONDS=0
         while [ $SECONDS -lt 100 ]; do
             grep -L 'TracerPid:.0' /proc/$agent/task/*/status | wc -l | grep -qx \"$(ls /proc/$agent/task | wc -l)\" && exit 0
             sleep 0.1
         done; cat /run/strace.err >&2; exit 1",
    ))?;
    node.vm.resize("alpha", size)?;
    node.vm.sh("while [ $SECONDS -lt 100 ]; do
             systemctl is-active -q disk-discovery || exit 0
             sleep 0.1
         done; cat /run/strace; journalctl -u disk-discovery >&2; exit 1")?;
    let killed = node
        .vm
        .sh("systemctl show -p ExecMainStatus --value disk-discovery")?;
    ensure!(
        killed.trim() == "9",
        "{step:?}: it ended by itself: {killed}"
    );
    Ok(())
}

fn killed(lab: &Lab) -> Result<()> {
    for (filesystem, odd) in [("ext4", false), ("xfs", true)] {
        let (mut node, before) = fragile(lab, "grown-killed", filesystem)?;
        for (round, step) in (1_u64..).zip(some_steps(odd)) {
            let size = (12 + 4 * round) * GIB;
            kill_at(&mut node, step, size)?;
            let plan = node.plan()?;
            ensure!(
                plan.field("vdb", "verdict") == "managed",
                "{step:?} {:#}",
                plan.0
            );
            node.vm.sh("systemctl reset-failed disk-discovery; true")?;
            node.start_agent()?;
            wait_grown(&mut node, "vdb", "/mnt/longhorn/vdb1", size)?;
            let after = identity(&mut node, "vdb1", "/mnt/longhorn/vdb1")?;
            ensure!(before == after, "{step:?}: {before} became {after}");
        }
        check_filesystem(&mut node, "vdb1", "/mnt/longhorn/vdb1")?;
    }
    Ok(())
}

fn power_cut(lab: &Lab) -> Result<()> {
    let (mut node, before) = fragile(lab, "grown-cut", "ext4")?;
    for (round, step) in (1_u64..).zip(some_steps(true)) {
        let size = (12 + 4 * round) * GIB;
        kill_at(&mut node, step, size)?;
        node = Node::again(node.vm.power_cut()?)?;
        wait_grown(&mut node, "vdb", "/mnt/longhorn/vdb1", size)?;
        let after = identity(&mut node, "vdb1", "/mnt/longhorn/vdb1")?;
        ensure!(before == after, "{step:?}: {before} became {after}");
    }
    // In the middle of the filesystem's own work, on a disk that is slow to write.
    throttle(&mut node, 300_000)?;
    node.vm.resize("alpha", 200 * GIB)?;
    node.wait_until("the filesystem is being grown", |disks| {
        let phase = disks
            .row("vdb")
            .and_then(|row| row.pointer("/operation/phase"));
        phase.is_some_and(|phase| phase == "growing")
    })?;
    node.vm.sh("sleep 2")?;
    let phase = node.disks()?;
    ensure!(
        phase
            .row("vdb")
            .and_then(|row| row.get("operation"))
            .is_some(),
        "it was grown too fast to be cut off: {:#}",
        phase.0
    );
    node = Node::again(node.vm.power_cut()?)?;
    wait_grown(&mut node, "vdb", "/mnt/longhorn/vdb1", 200 * GIB)?;
    let after = identity(&mut node, "vdb1", "/mnt/longhorn/vdb1")?;
    ensure!(before == after, "{before} became {after}");
    check_filesystem(&mut node, "vdb1", "/mnt/longhorn/vdb1")
}

/// The sectors in front are written in one go; here one of them stays behind,
/// after a power cut before the filesystem was grown. The kernel knows no
/// partition then, and by the policy nobody would look at the disk.
fn torn_front(lab: &Lab) -> Result<()> {
    let (mut node, before) = fragile(lab, "grown-torn", "ext4")?;
    let config = "mode: enforce\ninterval: 1h\nmin-size: 1TB\n";
    node.configure(config)?;
    for (size, sector) in [(16, 1), (20, 2)] {
        let file = node.vm.disk_path("alpha")?;
        let kept = file.with_file_name("front");
        let from = format!("if={}", file.display());
        let dd = ["bs=64k", "count=1", "status=none", &from];
        crate::host_to("dd", &dd, "of=", &kept)?;
        kill_at(&mut node, &("ioctl", 1, "/mnt/longhorn/vdb1"), size * GIB)?;
        node.vm.sh("sync")?;
        let off = node.vm.power_cut()?;
        let (skip, seek) = (format!("skip={sector}"), format!("seek={sector}"));
        let from = format!("if={}", kept.display());
        let dd = [
            from.as_str(),
            "bs=512",
            "count=1",
            "conv=notrunc",
            "status=none",
            &skip,
            &seek,
        ];
        crate::host_to("dd", &dd, "of=", &off.disk_path("alpha")?)?;
        node = Node::again(off)?;
        wait_grown(&mut node, "vdb", "/mnt/longhorn/vdb1", size * GIB)?;
        let after = identity(&mut node, "vdb1", "/mnt/longhorn/vdb1")?;
        ensure!(before == after, "{before} became {after}");
        // grep ends with 1 where it counts none, as it should.
        let kernel = node.vm.sh("dmesg | grep -c 'vdb: vdb1' || true")?;
        ensure!(
            kernel.trim() == "0",
            "the kernel knew the partition: not torn"
        );
    }
    check_filesystem(&mut node, "vdb1", "/mnt/longhorn/vdb1")
}
