//! Disks that somebody uses in a way that the medium does not show.

use anyhow::{Result, ensure};
use vm_fixtures::{Disk, Lab};
use vm_tests::{Node, Untouched};

use crate::Case;

pub const CASES: &[Case] = &[
    (
        "disks_under_the_system_through_lvm_on_md_are_left_alone",
        lvm_on_md,
    ),
    ("a_disk_under_swap_through_lvm_is_left_alone", swap_on_lvm),
    (
        "a_blank_disk_under_device_mapper_is_left_alone",
        device_mapper,
    ),
    (
        "a_disk_mounted_in_another_mount_namespace_is_busy_though_its_medium_is_blank",
        other_namespace,
    ),
    (
        "a_disk_that_a_process_holds_exclusively_is_busy_until_it_lets_go",
        held_exclusively,
    ),
    (
        "a_disk_that_a_process_holds_by_flock_is_written_only_after_it_lets_go",
        held_by_flock,
    ),
];

/// As an installer lays out a mirrored system: partitions, md, LVM.
fn lvm_on_md(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(
        lab.machine("lvm-on-md")
            .disk(Disk::scsi("left").gib(12))
            .disk(Disk::scsi("right").gib(12)),
    )?;
    node.vm.sh(
        "for disk in sda sdb; do echo 'label: gpt\n,,R' | sfdisk -q /dev/$disk || exit; done
         udevadm settle
         mdadm --create /dev/md1 --run --quiet --level=1 --raid-devices=2 --assume-clean \
             --bitmap=none --metadata=1.2 /dev/sda1 /dev/sdb1
         pvcreate -q /dev/md1 && vgcreate -q system /dev/md1 && lvcreate -q -y -n rancher -L 2G system
         mkfs.ext4 -q /dev/system/rancher && mkdir -p /var/lib/rancher
         mount /dev/system/rancher /var/lib/rancher && echo precious > /var/lib/rancher/file
         umount /var/lib/rancher && mount -o ro /dev/system/rancher /var/lib/rancher
         udevadm settle && sync
         SECONDS=0
         while [ $SECONDS -lt 100 ]; do
             [ \"$(cat /sys/block/md1/md/array_state)\" = clean ] && exit 0; sleep 0.1
         done; exit 1",
    )?;
    // md calls it clean a moment before the superblocks do.
    node.wait_quiet()?;
    // Their medium would give them away as well: here their use has to.
    let before = Untouched::note(&mut node, &["left", "right"])?;
    node.start_agent()?;
    for device in ["sda", "sdb"] {
        node.wait_refused(device, "system-disk")?;
    }
    node.takes_another()?;
    before.check(&mut node)
}

fn swap_on_lvm(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(lab.machine("swap-on-lvm").disk(Disk::scsi("swap").gib(12)))?;
    node.vm.sh(
        "pvcreate -q /dev/sda && vgcreate -q pool /dev/sda && lvcreate -q -y -n swap -L 256M pool
         mkswap -q /dev/pool/swap && swapon /dev/pool/swap && udevadm settle && sync",
    )?;
    let before = Untouched::note(&mut node, &["swap"])?;
    node.start_agent()?;
    node.wait_refused("sda", "swap")?;
    node.takes_another()?;
    before.check(&mut node)
}

fn device_mapper(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(
        lab.machine("device-mapper")
            .disk(Disk::virtio("under").gib(12)),
    )?;
    node.vm.sh(
        "echo \"0 $(blockdev --getsz /dev/vdb) linear /dev/vdb 0\" | dmsetup create plain
         udevadm settle",
    )?;
    let before = Untouched::note(&mut node, &["under"])?;
    node.start_agent()?;
    node.wait_refused("vdb", "stacked")?;
    node.takes_another()?;
    before.check(&mut node)?;
    // Nothing but its use spoke against it.
    node.vm
        .sh("dmsetup remove plain && udevadm trigger --settle /dev/vdb")?;
    node.wait_mounted(&["/mnt/longhorn/vdb1", "/mnt/longhorn/vdc1"])
        .map(drop)
}

/// XFS reads its superblock past the cache of the device, so that the medium
/// can be blank while it is mounted.
fn other_namespace(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(
        lab.machine("namespace")
            .disk(Disk::virtio("mounted").gib(12)),
    )?;
    node.vm.sh(
        "mkfs.xfs -q /dev/vdb && udevadm settle && sync
         unshare --mount --propagation private sh -c 'mount -o ro,norecovery /dev/vdb /media && echo > /run/mounted && exec sleep 1000' >/dev/null 2>&1 &
         SECONDS=0
         while [ $SECONDS -lt 100 ]; do [ -e /run/mounted ] && exit 0; sleep 0.1; done; exit 1",
    )?;
    let file = node.vm.disk_path("mounted")?;
    crate::host("truncate", &["-s", "0"], &file)?;
    crate::host("truncate", &["-s", "12G"], &file)?;
    let seen = node
        .vm
        .run("grep vdb /proc/1/mountinfo; blkid -p /dev/vdb")?;
    ensure!(seen.stdout.is_empty(), "{seen:?}");
    let before = Untouched::note(&mut node, &["mounted"])?;
    node.start_agent()?;
    node.wait_refused("vdb", "busy")?;
    node.takes_another()?;
    before.check(&mut node)
}

fn held_exclusively(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(lab.machine("exclusive").disk(Disk::virtio("held").gib(12)))?;
    // Nobody announces that a reader lets go: the timer has to notice.
    node.configure("mode: enforce\ninterval: 2s\n")?;
    node.vm.sh(
        "perl -MFcntl -e 'sysopen(D, \"/dev/vdb\", O_RDONLY | O_EXCL) or die; open(R, \">/run/held\"); sleep' >/dev/null 2>&1 &
         echo $! > /run/holder
         SECONDS=0
         while [ $SECONDS -lt 100 ]; do [ -e /run/held ] && exit 0; sleep 0.1; done; exit 1",
    )?;
    let before = Untouched::note(&mut node, &["held"])?;
    node.start_agent()?;
    node.wait_refused("vdb", "busy")?;
    node.takes_another()?;
    before.check(&mut node)?;
    node.vm.sh("kill $(cat /run/holder)")?;
    node.wait_mounted(&["/mnt/longhorn/vdb1", "/mnt/longhorn/vdc1"])
        .map(drop)
}

fn held_by_flock(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(lab.machine("flock").disk(Disk::virtio("held").gib(12)))?;
    node.vm.sh(
        "flock --exclusive --no-fork /dev/vdb sleep 1000 >/dev/null 2>&1 &
         echo $! > /run/holder
         SECONDS=0
         while [ $SECONDS -lt 100 ]; do flock --nonblock /dev/vdb true || exit 0; sleep 0.1; done; exit 1",
    )?;
    let before = Untouched::note(&mut node, &["held"])?;
    node.start_agent()?;
    // It waits three seconds for the lock, and tries again.
    node.wait_logged(&["vdb", "held by somebody else (flock)"])?;
    node.takes_another()?;
    node.wait_until("a second attempt", |disks| {
        let failures = disks
            .row("vdb")
            .and_then(|row| row.pointer("/operation/failures"));
        failures.and_then(serde_json::Value::as_u64) >= Some(2)
    })?;
    before.check(&mut node)?;
    node.vm.sh("kill $(cat /run/holder)")?;
    node.wait_mounted(&["/mnt/longhorn/vdb1", "/mnt/longhorn/vdc1"])
        .map(drop)
}
