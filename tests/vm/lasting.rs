//! What stays: names, mounts and contents, over restarts and reboots.

use anyhow::{Result, ensure};
use vm_fixtures::{Disk, Lab};
use vm_tests::{Node, data_disks};

use crate::Case;

pub const CASES: &[Case] = &[
    (
        "a_second_run_changes_nothing_and_the_mounts_stay",
        second_run,
    ),
    (
        "after_a_reboot_in_another_order_each_disk_is_where_it_was",
        reordered,
    ),
    ("a_name_is_kept_for_a_disk_that_is_away", name_kept),
    (
        "nothing_can_be_written_below_the_mountpoint_of_an_absent_disk",
        mountpoint_protected,
    ),
];

fn second_run(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(
        lab.machine("second-run")
            .disk(Disk::virtio("alpha").gib(12))
            .disk(Disk::scsi("beta").gib(12)),
    )?;
    node.start_agent()?;
    let paths = ["/mnt/longhorn/sda1", "/mnt/longhorn/vdb1"];
    node.wait_mounted(&paths)?;
    node.vm.sh("systemctl stop disk-discovery")?;
    let result = node
        .vm
        .sh("systemctl show -p Result --value disk-discovery")?;
    ensure!(result.trim() == "success", "{result}");
    let mounts = "grep longhorn /proc/self/mountinfo";
    let (table, counters) = (node.vm.sh(mounts)?, node.wait_quiet()?);
    node.start_agent()?;
    node.wait_mounted(&paths)?;
    node.vm.sh("systemctl stop disk-discovery")?;
    ensure!(table == node.vm.sh(mounts)?, "the mounts are other ones");
    let after = node.write_counters()?;
    ensure!(
        data_disks(&counters) == data_disks(&after),
        "{counters} became {after}"
    );
    ensure!(data_disks(&after).len() == 2, "{after}");
    Ok(())
}

fn reordered(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(
        lab.machine("reordered")
            .disk(Disk::virtio("alpha").gib(12))
            .disk(Disk::virtio("beta").gib(12))
            .disk(Disk::virtio("gamma").gib(12)),
    )?;
    node.start_agent()?;
    let paths = [
        "/mnt/longhorn/vdb1",
        "/mnt/longhorn/vdc1",
        "/mnt/longhorn/vdd1",
    ];
    node.wait_mounted(&paths)?;
    for disk in ["alpha", "beta", "gamma"] {
        let name = node.vm.kernel_name(disk)?;
        node.vm
            .sh(&format!("echo {disk} > /mnt/longhorn/{name}1/whose"))?;
    }
    node.vm.sh("sync")?;
    let off = node.vm.shutdown()?.reorder(&["gamma", "alpha", "beta"])?;
    let mut node = Node::again(off)?;
    node.wait_mounted(&paths)?;
    let whose = node
        .vm
        .sh("cat /mnt/longhorn/vdb1/whose /mnt/longhorn/vdc1/whose /mnt/longhorn/vdd1/whose")?;
    ensure!(
        whose.split_whitespace().eq(["alpha", "beta", "gamma"]),
        "{whose}"
    );
    // The kernel's names did change: otherwise this shows nothing.
    ensure!(
        node.vm.kernel_name("gamma")? == "vdb",
        "the order is the same"
    );
    Ok(())
}

fn name_kept(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(lab.machine("name-kept").disk(Disk::virtio("alpha").gib(12)))?;
    node.start_agent()?;
    node.wait_mounted(&["/mnt/longhorn/vdb1"])?;
    node.vm
        .sh("systemctl stop disk-discovery; umount /mnt/longhorn/vdb1")?;
    let mut off = node.vm.shutdown()?;
    let alpha = off.remove("alpha")?;
    // Another disk is vdb now; its name is a free one.
    let mut node = Node::again(off.attach(Disk::virtio("beta").gib(12)))?;
    node.wait_mounted(&["/mnt/longhorn/vdb1-2"])?;
    node.vm.plug(alpha)?;
    node.wait_mounted(&["/mnt/longhorn/vdb1", "/mnt/longhorn/vdb1-2"])?;
    Ok(())
}

fn mountpoint_protected(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(lab.machine("protected").disk(Disk::virtio("alpha").gib(12)))?;
    node.start_agent()?;
    node.wait_mounted(&["/mnt/longhorn/vdb1"])?;
    node.vm
        .sh("systemctl stop disk-discovery && umount /mnt/longhorn/vdb1")?;
    let write = node.vm.run("id -u; touch /mnt/longhorn/vdb1/file")?;
    ensure!(
        !write.success() && write.stderr.contains("not permitted"),
        "{write:?}"
    );
    node.start_agent()?;
    node.wait_mounted(&["/mnt/longhorn/vdb1"])?;
    node.vm.sh("touch /mnt/longhorn/vdb1/file")?;
    Ok(())
}
