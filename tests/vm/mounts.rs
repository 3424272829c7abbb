//! Mounts over a life of pulled cables, failing media and other people's
//! mounts.

use anyhow::{Result, ensure};
use vm_fixtures::{Disk, Lab};
use vm_tests::{Disks, Node};

use crate::Case;

pub const CASES: &[Case] = &[
    (
        "a_disk_that_comes_back_under_another_name_has_one_live_mount_and_no_dead_one",
        link_flap,
    ),
    (
        "a_dead_mount_that_is_in_use_is_reported_and_goes_when_the_use_ends",
        dead_in_use,
    ),
    (
        "what_somebody_else_mounted_at_our_place_is_reported_and_not_touched",
        foreign_mount,
    ),
    (
        "a_filesystem_that_the_kernel_stops_writing_to_is_noticed",
        stopped,
    ),
];

/// Lines of the host's mount table about a path.
fn mounts_at(node: &mut Node, path: &str) -> Result<Vec<String>> {
    let table = node
        .vm
        .sh(&format!("awk '$5 == \"{path}\"' /proc/1/mountinfo"))?;
    Ok(table.lines().map(str::to_owned).collect())
}

/// Waits until this partition is mounted at a path: what the agent shows may be
/// from before, when the same disk was mounted there under another name.
fn wait_live(node: &mut Node, path: &str, partition: &str) -> Result<()> {
    let mounted = format!(
        "[ -e /sys/class/block/{partition} ] &&
         awk '$5 == \"{path}\" {{print $3}}' /proc/1/mountinfo | grep -qxF \"$(cat /sys/class/block/{partition}/dev)\""
    );
    let what = format!("{partition} is mounted at {path}");
    node.wait_for(&what, |node| Ok(node.vm.run(&mounted)?.success()))
}

fn not_ready(node: &mut Node, words: &str) -> Result<()> {
    let ready = node
        .vm
        .sh("curl -sS --max-time 120 -w '%{http_code}' http://localhost:9807/readyz")?;
    ensure!(ready.contains(words) && ready.ends_with("503"), "{ready}");
    Ok(())
}

fn dead(disks: &Disks) -> usize {
    let dead = disks.0.get("deadMounts").and_then(|dead| dead.as_array());
    dead.map_or(0, Vec::len)
}

fn link_flap(lab: &Lab) -> Result<()> {
    let place = "/mnt/longhorn/sda1";
    let mut node = Node::boot(lab.machine("link-flap").disk(Disk::scsi("alpha").gib(12)))?;
    node.start_agent()?;
    node.wait_mounted(&[place])?;
    node.vm
        .sh(&format!("echo precious > {place}/data && sync"))?;
    for round in 0..3 {
        let alpha = node.vm.yank("alpha")?;
        if round == 0 {
            // Away for long, and nothing is below its place meanwhile.
            node.wait_until("the dead mount is gone", |disks| {
                disks.row("sda").is_none() && dead(disks) == 0
            })?;
            ensure!(mounts_at(&mut node, place)?.is_empty(), "still mounted");
            let write = node.vm.run(&format!("touch {place}/file"))?;
            ensure!(!write.success(), "written below the mountpoint");
            // Another disk has its kernel name now.
            node.vm.plug(Disk::scsi("beta").gib(12))?;
            node.vm.settle()?;
        }
        node.vm.plug(alpha)?;
        let kernel_name = node.vm.kernel_name("alpha")?;
        wait_live(&mut node, place, &format!("{kernel_name}1"))?;
        node.wait_mounted(&[place, "/mnt/longhorn/sda1-2"])?;
        let mounts = mounts_at(&mut node, place)?;
        ensure!(mounts.len() == 1, "{mounts:?}");
        let there = node
            .vm
            .sh(&format!("cat {place}/data && touch {place}/live"))?;
        ensure!(there == "precious\n", "{there}");
    }
    ensure!(
        node.vm.kernel_name("alpha")? != "sda",
        "the name is the same"
    );
    node.check_healthy()
}

fn dead_in_use(lab: &Lab) -> Result<()> {
    let place = "/mnt/longhorn/sda1";
    let mut node = Node::boot(lab.machine("dead-in-use").disk(Disk::scsi("alpha").gib(12)))?;
    node.start_agent()?;
    node.wait_mounted(&[place])?;
    let pid = node.vm.sh(&format!(
        "echo precious > {place}/data && sync && (sleep 10000 < {place}/data > /dev/null 2>&1 & echo $!)"
    ))?;
    let alpha = node.vm.yank("alpha")?;
    node.wait_until("the dead mount is in use", |disks| {
        let error = disks.0.pointer("/deadMounts/0/error");
        error.is_some_and(|error| error.to_string().contains("busy"))
    })?;
    not_ready(&mut node, "its device is gone")?;
    node.vm.plug(alpha)?;
    // Back under another name, and it does not lie over the dead one.
    node.wait_until("the disk is back and waits", |disks| {
        disks
            .row("sdb")
            .is_some_and(|row| row.get("mounted") == Some(&serde_json::Value::Bool(false)))
    })?;
    ensure!(mounts_at(&mut node, place)?.len() == 1, "stacked");
    node.vm.sh(&format!("kill {pid}"))?;
    node.wait_mounted(&[place])?;
    let mounts = mounts_at(&mut node, place)?;
    ensure!(mounts.len() == 1, "{mounts:?}");
    let there = node.vm.sh(&format!("cat {place}/data"))?;
    ensure!(there == "precious\n", "{there}");
    Ok(())
}

fn foreign_mount(lab: &Lab) -> Result<()> {
    let place = "/mnt/longhorn/vdb1";
    let mut node = Node::boot(
        lab.machine("foreign-mount")
            .disk(Disk::virtio("alpha").gib(12)),
    )?;
    node.start_agent()?;
    node.wait_mounted(&[place])?;
    node.vm.sh(&format!(
        "systemctl stop disk-discovery && umount {place} && mount -t tmpfs theirs {place} && echo theirs > {place}/data"
    ))?;
    node.start_agent()?;
    node.wait_refused("vdb", "mount-path-taken")?;
    not_ready(&mut node, "mount-path-taken")?;
    node.takes_another()?;
    let mounts = mounts_at(&mut node, place)?;
    let theirs = node.vm.sh(&format!("cat {place}/data"))?;
    ensure!(mounts.len() == 1 && theirs == "theirs\n", "{mounts:?}");
    // The change of the mount table is what tells the agent.
    node.vm.sh(&format!("umount {place}"))?;
    node.wait_mounted(&[place, "/mnt/longhorn/vdc1"]).map(drop)
}

fn stopped(lab: &Lab) -> Result<()> {
    let places = ["/mnt/longhorn/vdb1", "/mnt/longhorn/vdc1"];
    let mut node = Node::boot(lab.machine("stopped").disk(Disk::virtio("alpha").gib(12)))?;
    node.configure("mode: enforce\ninterval: 2s\n")?;
    node.start_agent()?;
    node.wait_mounted(&places[..1])?;
    node.configure("mode: enforce\ninterval: 2s\nfilesystem: xfs\n")?;
    node.vm.sh("systemctl restart disk-discovery")?;
    node.vm.plug(Disk::virtio("beta").gib(12))?;
    node.wait_mounted(&places)?;
    let ails = |disks: &Disks, device: &str| !disks.field(device, "ailment").is_empty();
    let sound = node.disks()?;
    ensure!(
        !ails(&sound, "vdb") && !ails(&sound, "vdc"),
        "{:#}",
        sound.0
    );
    // What the kernel does of itself when it finds a damaged filesystem.
    node.vm.sh(
        "echo damaged > /sys/fs/ext4/vdb1/trigger_fs_error && xfs_io -x -c shutdown /mnt/longhorn/vdc1",
    )?;
    node.wait_until("both are seen to be ill", |disks| {
        ails(disks, "vdb") && ails(disks, "vdc")
    })?;
    not_ready(&mut node, "vdb1 (vdb): errors that the kernel found")?;
    not_ready(&mut node, "vdc1 (vdc): it does not answer")?;
    node.check_healthy()?;
    // Mended by a person, they are mounted again. The agent would mount them at
    // once, so it is stopped for that.
    node.vm.sh("systemctl stop disk-discovery
         umount /mnt/longhorn/vdb1 && { e2fsck -fy /dev/vdb1 || [ $? -lt 4 ]; }
         umount /mnt/longhorn/vdc1 && systemctl start disk-discovery")?;
    node.wait_until("both are mounted and sound", |disks| {
        disks.mounted() == places && !ails(disks, "vdb") && !ails(disks, "vdc")
    })
    .map(drop)
}
