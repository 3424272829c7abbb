//! A disk keeps its name and its contents for life: on another bus, after a new
//! installation, beside a clone, and on another node.

use std::{fs, process::Command};

use anyhow::{Context, Result, ensure};
use vm_fixtures::{Bus, Disk, Lab, Off};
use vm_tests::{Node, Untouched};

use crate::Case;

pub const CASES: &[Case] = &[
    (
        "a_disk_keeps_its_name_and_contents_from_virtio_to_scsi_to_nvme",
        other_bus,
    ),
    (
        "two_clones_of_a_disk_are_both_left_alone_and_it_is_said_loudly",
        clones,
    ),
    (
        "after_a_new_installation_a_disk_is_mounted_where_it_was",
        reinstalled,
    ),
    (
        "a_disk_from_another_node_is_mounted_under_a_free_name_and_keeps_that",
        from_another_node,
    ),
    (
        "what_another_node_has_not_finished_is_left_alone",
        unfinished_elsewhere,
    ),
];

/// A node of that name whose disk is mounted at `/mnt/longhorn/vdb1`, with a
/// file on it, switched off.
fn used(lab: &Lab, machine: &str, node: &str) -> Result<Off> {
    let mut node = named(lab, machine, node, Some(Disk::virtio("alpha").gib(12)))?;
    node.start_agent()?;
    node.wait_mounted(&["/mnt/longhorn/vdb1"])?;
    node.vm
        .sh("echo precious > /mnt/longhorn/vdb1/data && sync && systemctl stop disk-discovery && umount /mnt/longhorn/vdb1")?;
    node.vm.shutdown()
}

fn named(lab: &Lab, machine: &str, node: &str, disk: Option<Disk>) -> Result<Node> {
    let machine = disk
        .into_iter()
        .fold(lab.machine(machine), |machine, disk| machine.disk(disk));
    let mut booted = Node::boot(machine)?;
    booted.configure(&format!("mode: enforce\ninterval: 1h\nnode-name: {node}\n"))?;
    Ok(booted)
}

fn precious(node: &mut Node, path: &str) -> Result<()> {
    let there = node.vm.sh(&format!("cat {path}/data"))?;
    ensure!(there == "precious\n", "{path}: {there}");
    Ok(())
}

fn other_bus(lab: &Lab) -> Result<()> {
    let mut off = used(lab, "other-bus", "k3s1")?;
    for (bus, device) in [(Bus::Scsi, "sda"), (Bus::Nvme, "nvme0n1")] {
        let mut node = Node::again(off.rebus("alpha", bus)?)?;
        node.wait_mounted(&["/mnt/longhorn/vdb1"])?;
        precious(&mut node, "/mnt/longhorn/vdb1")?;
        ensure!(node.vm.kernel_name("alpha")? == device, "not on {bus:?}");
        let disks = node.disks()?;
        ensure!(disks.field(device, "verdict") == "managed", "{:#}", disks.0);
        off = node.vm.shutdown()?;
    }
    Ok(())
}

fn clones(lab: &Lab) -> Result<()> {
    let off = used(lab, "clones", "k3s1")?;
    let original = off.disk_path("alpha")?;
    let copy = original.with_file_name("copy.img");
    let copied = Command::new("cp")
        .arg("--sparse=always")
        .args([&original, &copy])
        .status()?;
    ensure!(copied.success(), "not copied");
    // Of two that appear one after the other the first is mounted, as long as
    // nobody can know of the second: here both are there before the agent.
    let mut node = Node::again(off)?;
    node.wait_mounted(&["/mnt/longhorn/vdb1"])?;
    node.vm
        .sh("systemctl stop disk-discovery && umount /mnt/longhorn/vdb1")?;
    node.vm.plug(Disk::scsi("beta").file(&copy))?;
    node.vm.settle()?;
    node.start_agent()?;
    for device in ["vdb", "sda"] {
        node.wait_refused(device, "duplicate-identity")?;
    }
    let before = Untouched::note(&mut node, &["alpha", "beta"])?;
    let ready = node
        .vm
        .sh("curl -sS --max-time 120 -w '%{http_code}' http://localhost:9807/readyz")?;
    ensure!(
        ready.contains("duplicate-identity") && ready.ends_with("503"),
        "{ready}"
    );
    node.takes_another()?;
    before.check(&mut node)?;
    // Without the copy the original is what it was.
    node.vm.unplug("beta")?;
    node.wait_mounted(&["/mnt/longhorn/vdb1", "/mnt/longhorn/vdc1"])?;
    precious(&mut node, "/mnt/longhorn/vdb1")?;
    // A copy that comes later takes nothing away from it, nor its place while the
    // original is away.
    node.vm.plug(Disk::scsi("beta").file(&copy))?;
    node.wait_refused("sda", "duplicate-identity")?;
    precious(&mut node, "/mnt/longhorn/vdb1")?;
    let alpha = node.vm.unplug("alpha")?;
    node.wait_refused("sda", "copy")?;
    node.vm.sh("systemctl restart disk-discovery")?;
    let disks = node.wait_refused("sda", "copy")?;
    ensure!(disks.mounted() == ["/mnt/longhorn/vdc1"], "{:#}", disks.0);
    node.vm.plug(alpha)?;
    node.wait_refused("sda", "duplicate-identity")?;
    node.vm.unplug("beta")?;
    node.wait_mounted(&["/mnt/longhorn/vdb1", "/mnt/longhorn/vdc1"])?;
    precious(&mut node, "/mnt/longhorn/vdb1")?;
    fs::remove_file(copy).context("remove the copy")
}

fn reinstalled(lab: &Lab) -> Result<()> {
    let mut off = used(lab, "reinstalled-before", "k3s1")?;
    let alpha = off.remove("alpha")?;
    // Nothing is left of the old system but the node's name.
    let mut node = named(lab, "reinstalled", "k3s1", None)?;
    node.start_agent()?;
    node.takes_another()?;
    node.vm.plug(alpha)?;
    let disks = node.wait_until("both are mounted", |disks| disks.mounted().len() == 2)?;
    // The new system gave the name away before it knew the disk.
    ensure!(
        disks.mounted() == ["/mnt/longhorn/vdb1", "/mnt/longhorn/vdb1-2"],
        "{:#}",
        disks.0
    );
    precious(&mut node, "/mnt/longhorn/vdb1-2")?;
    drop(node);
    // With the disk in it from the start nothing of the kind happens.
    let mut off = used(lab, "reinstalled-present-before", "k3s1")?;
    let alpha = off.remove("alpha")?;
    let mut node = named(lab, "reinstalled-present", "k3s1", Some(alpha))?;
    node.start_agent()?;
    let disks = node.wait_mounted(&["/mnt/longhorn/vdb1"])?;
    precious(&mut node, "/mnt/longhorn/vdb1")?;
    ensure!(disks.field("vdb", "verdict") == "managed", "{:#}", disks.0);
    Ok(())
}

fn from_another_node(lab: &Lab) -> Result<()> {
    let mut off = used(lab, "node-one", "k3s1")?;
    let alpha = off.remove("alpha")?;
    let mut node = named(lab, "node-two", "k3s2", Some(Disk::virtio("own").gib(12)))?;
    node.start_agent()?;
    node.wait_mounted(&["/mnt/longhorn/vdb1"])?;
    let table = "dd if=/dev/vdc bs=512 count=34 status=none | sha256sum; tail -c 16896 /dev/vdc | sha256sum";
    let config =
        |adopt: &str| format!("mode: enforce\ninterval: 1h\nnode-name: k3s2\nadopt: {adopt}\n");
    node.configure(&config("none"))?;
    node.vm.sh("systemctl restart disk-discovery")?;
    node.vm.plug(alpha)?;
    node.wait_refused("vdc", "another-node")?;
    let before = node.vm.sh(table)?;
    node.configure(&config("all"))?;
    node.vm.sh("systemctl restart disk-discovery")?;
    let both = ["/mnt/longhorn/vdb1", "/mnt/longhorn/vdb1-2"];
    let disks = node.wait_mounted(&both)?;
    ensure!(disks.field("vdc", "verdict") == "adopt", "{:#}", disks.0);
    precious(&mut node, "/mnt/longhorn/vdb1-2")?;
    ensure!(before == node.vm.sh(table)?, "the table was written to");
    // Once it was mounted here it stays, under that name, in any order.
    node.configure(&config("none"))?;
    let off = node.vm.shutdown()?.reorder(&["alpha", "own"])?;
    let mut node = Node::again(off)?;
    node.wait_mounted(&both)?;
    precious(&mut node, "/mnt/longhorn/vdb1-2")
}

fn unfinished_elsewhere(lab: &Lab) -> Result<()> {
    let mut one = named(
        lab,
        "unfinished-one",
        "k3s1",
        Some(Disk::virtio("alpha").gib(12)),
    )?;
    // Its mkfs never comes to an end.
    one.vm.sh("mv /usr/sbin/mkfs.ext4 /usr/sbin/mkfs.other && printf '#!/bin/sh\\nsleep 1000\\n' > /usr/sbin/mkfs.ext4 && chmod +x /usr/sbin/mkfs.ext4")?;
    one.start_agent()?;
    one.wait_until("its table is written", |disks| {
        disks
            .row("vdb")
            .and_then(|row| row.pointer("/operation/phase"))
            .is_some_and(|phase| phase == "formatting")
    })?;
    let mut off = one.vm.power_cut()?;
    let alpha = off.remove("alpha")?;
    let mut two = named(lab, "unfinished-two", "k3s2", Some(alpha))?;
    let before = Untouched::note(&mut two, &["alpha"])?;
    two.start_agent()?;
    two.wait_refused("vdb", "another-node")?;
    two.takes_another()?;
    before.check(&mut two)
}
