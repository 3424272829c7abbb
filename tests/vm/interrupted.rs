//! What is left when the agent is interrupted, and that the next start ends it.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde_json::json;
use vm_fixtures::{Disk, Lab};
use vm_tests::Node;

use crate::Case;

pub const CASES: &[Case] = &[
    (
        "sigterm_while_formatting_does_not_wait_for_mkfs_and_is_resumed",
        sigterm,
    ),
    (
        "a_power_cut_while_formatting_is_resumed_after_the_reboot",
        power_cut,
    ),
    (
        "sigkill_while_formatting_leaves_no_mkfs_behind_and_is_resumed",
        sigkill,
    ),
    (
        "a_used_ext4_under_a_pending_claim_is_kept_and_committed",
        |lab| used_while_pending(lab, "ext4"),
    ),
    (
        "a_used_xfs_under_a_pending_claim_is_kept_and_committed",
        |lab| used_while_pending(lab, "xfs"),
    ),
    ("a_torn_xfs_under_a_pending_claim_is_made_again", torn_xfs),
    (
        "a_table_that_somebody_writes_while_mkfs_runs_is_not_overwritten",
        table_changed,
    ),
    (
        "an_old_journal_entry_of_a_mounted_disk_is_forgotten",
        old_entry,
    ),
];

/// A node in the middle of mkfs, on a disk so slow to write that it stays there
/// for a while on any machine.
fn formatting(lab: &Lab, name: &str) -> Result<Node> {
    formatting_with(lab, name, "ext4")
}

fn formatting_with(lab: &Lab, name: &str, filesystem: &str) -> Result<Node> {
    let mut node = Node::boot(lab.machine(name).disk(Disk::virtio("alpha").gib(12)))?;
    throttle(&mut node, 300_000)?;
    node.configure(&format!(
        "mode: enforce\ninterval: 1h\nfilesystem: {filesystem}\n"
    ))?;
    node.start_agent()?;
    for _ in 0..600 {
        let mkfs = node.vm.run(&format!("pgrep -x mkfs.{filesystem}"))?;
        if mkfs.success() {
            // Some of it is on the disk before the interruption.
            std::thread::sleep(Duration::from_millis(500));
            return Ok(node);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    bail!("mkfs was not seen: {}", node.log()?)
}

/// Limits what can be written to the disk alpha a second; 0 lifts the limit.
pub fn throttle(node: &mut Node, bytes_per_second: u64) -> Result<()> {
    // The block device is a child of the virtio PCI device.
    let id = "/machine/peripheral/disk-alpha/virtio-backend";
    let limits = json!({"id": id, "bps": 0, "bps_rd": 0, "bps_wr": bytes_per_second, "iops": 0, "iops_rd": 0, "iops_wr": 0});
    node.vm.qmp("block_set_io_throttle", limits).map(drop)
}

fn sigterm(lab: &Lab) -> Result<()> {
    let mut node = formatting(lab, "sigterm")?;
    // The agent gives it four seconds, and says so. systemd judges whether it ended
    // by itself, after a time that any machine has.
    node.vm.sh(
        "mkdir -p /run/systemd/system/disk-discovery.service.d
         printf '[Service]\nTimeoutStopSec=60\n' > /run/systemd/system/disk-discovery.service.d/stop.conf
         systemctl daemon-reload && systemctl stop --no-block disk-discovery
         SECONDS=0
         while [ $SECONDS -lt 200 ]; do
             [ $(systemctl show -p MainPID --value disk-discovery) = 0 ] && exit 0
             sleep 0.2
         done; exit 1",
    )?;
    // mkfs is gone when the kernel has done with what it was writing.
    throttle(&mut node, 0)?;
    node.vm.sh("systemctl stop disk-discovery")?;
    let ended = node
        .vm
        .sh("systemctl show -p ExecMainCode,ExecMainStatus --value disk-discovery")?;
    // 1 is CLD_EXITED: it ended by itself, with exit code 0.
    ensure!(ended.split_whitespace().eq(["1", "0"]), "{ended}");
    node.wait_logged(&["left to be resumed"])?;
    resumed(node)
}

fn sigkill(lab: &Lab) -> Result<()> {
    let mut node = formatting(lab, "sigkill")?;
    node.vm.sh("systemctl kill --kill-whom=main --signal=SIGKILL disk-discovery; systemctl stop disk-discovery")?;
    throttle(&mut node, 0)?;
    node.vm.sh(
        "while [ $SECONDS -lt 100 ]; do pgrep -x mkfs.ext4 || exit 0; sleep 0.1; done; exit 1",
    )?;
    resumed(node)
}

fn power_cut(lab: &Lab) -> Result<()> {
    let node = formatting(lab, "power-cut")?;
    let mut node = Node::again(node.vm.power_cut()?)?;
    node.wait_mounted(&["/mnt/longhorn/vdb1"])?;
    node.wait_logged(&["resume"])?;
    node.vm
        .sh("systemctl stop disk-discovery && umount /mnt/longhorn/vdb1 && e2fsck -fn /dev/vdb1")
        .map(drop)
}

fn resumed(mut node: Node) -> Result<()> {
    let plan = node.plan()?;
    ensure!(plan.field("vdb", "verdict") == "resume", "{:#}", plan.0);
    node.start_agent()?;
    node.wait_mounted(&["/mnt/longhorn/vdb1"])?;
    let journal = node.vm.sh("ls /var/lib/disk-discovery/journal")?;
    ensure!(journal.trim().is_empty(), "{journal}");
    node.vm
        .sh("systemctl stop disk-discovery && umount /mnt/longhorn/vdb1 && e2fsck -fn /dev/vdb1")
        .map(drop)
}

/// Commands that copy both ends of the disk to files, or back.
fn copy_ends(from: &str, to: &str) -> String {
    let ends = [(0_u64, 34), ((12_u64 << 30) / 512 - 33, 33)];
    let dd = ends.map(|(at, count)| {
        let (skip, seek) = if from == "/dev/vdb" { (at, 0) } else { (0, at) };
        let name = |path: &str| if path == "/dev/vdb" { path.to_owned() } else { format!("{path}.{count}") };
        format!(
            "dd if={} of={} bs=512 count={count} skip={skip} seek={seek} conv=notrunc,fsync status=none",
            name(from),
            name(to)
        )
    });
    dd.join(" && ")
}

/// The disk gets its pending table back, and the agent goes on with it.
fn pending_again(node: &mut Node) -> Result<()> {
    node.vm.sh(&format!(
        "{} && udevadm settle",
        copy_ends("/root/pending", "/dev/vdb")
    ))?;
    let plan = node.plan()?;
    ensure!(plan.field("vdb", "verdict") == "resume", "{:#}", plan.0);
    node.start_agent()?;
    node.wait_mounted(&["/mnt/longhorn/vdb1"]).map(drop)
}

/// mkfs.xfs makes everything durable at once: a power cut may leave a superblock
/// that says nothing is in progress, and not what it speaks of. Here it was
/// never mounted and lacks the headers of its last allocation group.
fn torn_xfs(lab: &Lab) -> Result<()> {
    let mut node = formatting_with(lab, "torn-xfs", "xfs")?;
    node.vm.sh(&copy_ends("/dev/vdb", "/root/pending"))?;
    throttle(&mut node, 0)?;
    node.wait_mounted(&["/mnt/longhorn/vdb1"])?;
    node.vm
        .sh("systemctl stop disk-discovery && umount /mnt/longhorn/vdb1
         uuid=$(blkid -p -s UUID -o value /dev/vdb1)
         mkfs.xfs -q -K -f -m uuid=$uuid /dev/vdb1
         group=$(xfs_db -r -c 'sb 0' -c 'p agblocks' /dev/vdb1 | tr -dc 0-9)
         dd if=/dev/zero of=/dev/vdb1 bs=4096 seek=$((3 * group)) count=4 conv=fsync status=none
         ! xfs_repair -n /dev/vdb1")?;
    pending_again(&mut node)?;
    node.vm
        .sh("systemctl stop disk-discovery && umount /mnt/longhorn/vdb1 && xfs_repair -n /dev/vdb1")
        .map(drop)
}

/// As if every commit had failed, and somebody had mounted the disk by hand
/// and stored something.
fn used_while_pending(lab: &Lab, filesystem: &str) -> Result<()> {
    let mut node = formatting_with(lab, "used-pending", filesystem)?;
    node.vm.sh(&copy_ends("/dev/vdb", "/root/pending"))?;
    throttle(&mut node, 0)?;
    node.wait_mounted(&["/mnt/longhorn/vdb1"])?;
    node.vm
        .sh("echo precious > /mnt/longhorn/vdb1/data && sync")?;
    node.vm
        .sh("systemctl stop disk-discovery && umount /mnt/longhorn/vdb1")?;
    pending_again(&mut node)?;
    let kept = node
        .vm
        .sh("cat /mnt/longhorn/vdb1/data && lsblk -dnro PARTLABEL /dev/vdb1")?;
    ensure!(kept.starts_with("precious"), "{kept}");
    Ok(())
}

/// With a tool that respects no lock, while mkfs holds only the partition.
fn table_changed(lab: &Lab) -> Result<()> {
    let mut node = formatting(lab, "table-changed")?;
    node.vm.sh("pkill -STOP -x mkfs.ext4")?;
    throttle(&mut node, 0)?;
    node.vm
        .sh("sgdisk -c 1:mine /dev/vdb && pkill -CONT -x mkfs.ext4")?;
    let failed = |disks: &vm_tests::Disks| disks.field("vdb", "verdict") == "refused";
    let disks = node.wait_until("the disk is left alone", failed)?;
    ensure!(
        disks.field("vdb", "reason") == "partitioned",
        "{:#}",
        disks.0
    );
    node.wait_logged(&["read back is not the one written"])?;
    let name = node.vm.sh("sgdisk -i 1 /dev/vdb | grep 'Partition name'")?;
    ensure!(name.contains("mine"), "{name}");
    Ok(())
}

/// As if the agent had been killed between its mount and its last step.
fn old_entry(lab: &Lab) -> Result<()> {
    let mut node = formatting(lab, "old-entry")?;
    let journal = "/var/lib/disk-discovery/journal";
    node.vm.sh(&format!("cp {journal}/*.json /root/"))?;
    throttle(&mut node, 0)?;
    node.wait_mounted(&["/mnt/longhorn/vdb1"])?;
    node.vm.sh(&format!(
        "systemctl stop disk-discovery && cp /root/*.json {journal}/"
    ))?;
    node.start_agent()?;
    node.wait_mounted(&["/mnt/longhorn/vdb1"])?;
    let left = node.vm.sh(&format!("ls {journal}"))?;
    ensure!(left.trim().is_empty(), "{left}");
    Ok(())
}
