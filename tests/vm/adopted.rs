//! Disks that were Longhorn's before the agent came, and disks that only look
//! like it.

use anyhow::{Result, ensure};
use vm_fixtures::{Disk, Lab};
use vm_tests::{Node, Untouched};

use crate::Case;

pub const CASES: &[Case] = &[
    (
        "a_disk_of_longhorns_stays_where_it_is_mounted_and_comes_back_there",
        in_place,
    ),
    (
        "looking_into_a_filesystem_that_was_cut_off_changes_not_one_byte",
        cut_off,
    ),
    (
        "a_filesystem_that_is_not_longhorns_is_left_alone",
        not_longhorns,
    ),
];

pub(crate) const CONFIG: &str = r#"{"diskName":"sdh1","diskUUID":"1fa0e2c8-7f1c-4f9d-bb3c-e2d0b4b8a1f3","diskDriver":"","state":"ready"}"#;

/// A disk as people make one: a table, a filesystem, a line in fstab.
pub(crate) fn by_hand(
    node: &mut Node,
    device: &str,
    filesystem: &str,
    config: Option<&str>,
) -> Result<()> {
    let config = config.map_or_else(String::new, |config| {
        format!("echo '{config}' > /srv/longhorn-disk.cfg && mkdir /srv/replicas")
    });
    node.vm
        .sh(&format!(
            "set -e
             sgdisk -n 1:0:0 /dev/{device} && udevadm settle
             mkfs.{filesystem} -q /dev/{device}1 && mount /dev/{device}1 /srv
             {config}
             sync && umount /srv && udevadm settle"
        ))
        .map(drop)
}

fn in_place(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(lab.machine("in-place").disk(Disk::scsi("alpha").gib(12)))?;
    by_hand(&mut node, "sda", "ext4", Some(CONFIG))?;
    node.vm.sh("mkdir -p /mnt/longhorn/sdx1 && mount /dev/sda1 /mnt/longhorn/sdx1 && echo precious > /mnt/longhorn/sdx1/data")?;
    node.start_agent()?;
    let disks = node.wait_mounted(&["/mnt/longhorn/sdx1"])?;
    ensure!(disks.field("sda", "verdict") == "adopt", "{:#}", disks.0);
    let mounts = node.vm.sh("grep -c ' /mnt/longhorn/' /proc/1/mountinfo")?;
    ensure!(mounts.trim() == "1", "{mounts} mounts");
    // Its place is its own from here on, without anybody's fstab, and whatever
    // the kernel calls it.
    node.vm
        .sh("systemctl stop disk-discovery && umount /mnt/longhorn/sdx1")?;
    let alpha = node.vm.unplug("alpha")?;
    node.vm.plug(Disk::scsi("beta").gib(12))?;
    node.vm.settle()?;
    node.vm.plug(alpha)?;
    node.vm.settle()?;
    node.start_agent()?;
    node.wait_mounted(&["/mnt/longhorn/sda1", "/mnt/longhorn/sdx1"])?;
    ensure!(
        node.vm.kernel_name("alpha")? == "sdb",
        "the name is the same"
    );
    let there = node
        .vm
        .sh("cat /mnt/longhorn/sdx1/data /mnt/longhorn/sdx1/longhorn-disk.cfg")?;
    ensure!(there == format!("precious\n{CONFIG}\n"), "{there}");
    Ok(())
}

fn cut_off(lab: &Lab) -> Result<()> {
    let names = ["ext4", "xfs"];
    let mut node = Node::boot(
        lab.machine("cut-off")
            .disk(Disk::scsi("ext4").gib(12))
            .disk(Disk::scsi("xfs").gib(12)),
    )?;
    node.vm
        .sh("systemctl disable --quiet disk-discovery && sync")?;
    for filesystem in names {
        // The kernel looks at several at a time: whichever it calls sda.
        let device = &node.vm.kernel_name(filesystem)?;
        by_hand(&mut node, device, filesystem, Some(CONFIG))?;
        node.vm.sh(&format!(
            "mkdir /srv/{device} && mount /dev/{device}1 /srv/{device} && cd /srv/{device}
             exec 9> deleted && echo gone >&9 && rm deleted
             for i in $(seq 50); do mkdir $i; echo $i > $i/file; done
             sync -f . && (sleep 10000 <&9 >/dev/null 2>&1 &)"
        ))?;
    }
    let mut node = Node::again(node.vm.power_cut()?)?;
    // The kernel may have found them in another order.
    let device = node.vm.kernel_name("ext4")?;
    let dirty = node.vm.sh(&format!("dumpe2fs -h /dev/{device}1 2>&1"))?;
    ensure!(dirty.contains("needs_recovery"), "{dirty}");
    let before = Untouched::note(&mut node, &names)?;
    let plan = node.plan()?;
    for device in ["sda", "sdb"] {
        ensure!(plan.field(device, "verdict") == "adopt", "{:#}", plan.0);
    }
    before.check(&mut node)?;
    // One that udevd has open goes when udevd has looked at it.
    node.vm.sh(
        "while [ $SECONDS -lt 100 ]; do [ -z \"$(losetup --list --noheadings)\" ] && exit 0; sleep 0.1; done
         losetup --list >&2; exit 1",
    )?;
    // And then they are mounted, and have recovered.
    node.start_agent()?;
    node.wait_until("both are mounted", |disks| disks.mounted().len() == 2)?;
    let there = node.vm.sh("cat /mnt/longhorn/*/50/file")?;
    ensure!(there == "50\n50\n", "{there}");
    Ok(())
}

fn not_longhorns(lab: &Lab) -> Result<()> {
    let names = ["plain", "nameless", "link"];
    let machine = lab.machine("not-longhorns");
    let mut node = Node::boot(names.iter().fold(machine, |machine, name| {
        machine.disk(Disk::scsi(name).gib(12))
    }))?;
    by_hand(&mut node, "sda", "ext4", None)?;
    by_hand(&mut node, "sdb", "xfs", Some("{}"))?;
    by_hand(&mut node, "sdc", "ext4", None)?;
    // A link that would lead out of the disk.
    node.vm.sh(&format!(
        "echo '{CONFIG}' > /root/config && mount /dev/sdc1 /srv && ln -s /root/config /srv/longhorn-disk.cfg && umount /srv && udevadm settle"
    ))?;
    let before = Untouched::note(&mut node, &names)?;
    node.start_agent()?;
    node.wait_refused("sda", "partitioned")?;
    node.wait_refused("sdb", "nameless-longhorn-disk")?;
    node.wait_refused("sdc", "nameless-longhorn-disk")?;
    node.takes_another()?;
    before.check(&mut node)
}
