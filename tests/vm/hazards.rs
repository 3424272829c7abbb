//! Disks that are blank, or might be taken for blank, and must be left alone
//! for what they are. In each machine another disk is taken, which shows that
//! the agent does write.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use vm_fixtures::{Disk, Lab};
use vm_tests::{Node, Untouched};

use crate::Case;

pub const CASES: &[Case] = &[
    (
        "a_blank_longhorn_volume_is_left_alone_when_it_is_attached",
        longhorn_volume,
    ),
    ("two_paths_to_one_blank_disk_are_both_left_alone", two_paths),
    (
        "a_second_path_to_a_disk_that_was_taken_changes_nothing_on_it",
        late_path,
    ),
    (
        "disks_with_the_same_serial_number_are_left_alone_and_those_without_one_taken",
        same_serial,
    ),
    ("a_usb_disk_is_left_alone", usb),
    ("a_write_protected_disk_is_left_alone", read_only),
    (
        "a_disk_of_ten_gigabytes_is_left_alone_and_one_of_a_sector_more_taken",
        exact_size,
    ),
    (
        "a_card_reader_without_a_card_is_left_alone_and_asked_no_more_than_others",
        card_reader,
    ),
    ("a_disk_of_no_size_is_left_alone", no_size),
    (
        "tables_for_either_sector_size_on_4096_byte_sectors_are_left_alone",
        foreign_four_kilobyte_sectors,
    ),
    (
        "a_loop_device_of_a_root_image_is_left_alone_with_allow_loop",
        root_image,
    ),
];

fn longhorn_volume(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(
        lab.machine("longhorn-volume")
            .disk(Disk::scsi("plain").gib(12)),
    )?;
    node.start_agent()?;
    node.wait_mounted(&["/mnt/longhorn/sda1"])?;
    let volume = Disk::scsi("volume").gib(12);
    node.vm.plug(volume.vendor("IET").product("VIRTUAL-DISK"))?;
    let before = Untouched::note(&mut node, &["volume"])?;
    node.wait_refused("sdb", "longhorn-volume")?;
    // Not even where the policy names it.
    node.configure(
        "mode: enforce\ninterval: 1h\nmin-size: 0\nallow:\n  - vendor: IET\n    model: VIRTUAL-DISK\n  - name: '*'\n",
    )?;
    node.vm.sh("systemctl restart disk-discovery")?;
    node.wait_refused("sdb", "longhorn-volume")?;
    node.takes_another()?;
    before.check(&mut node)
}

fn path(name: &str) -> Disk {
    Disk::scsi(name)
        .serial("ONE-DISK")
        .wwn(0x5000_c500_15ea_71ac)
        .shared()
}

fn two_paths(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(lab.machine("two-paths").disk(path("first").gib(12)))?;
    let file = node.vm.disk_path("first")?;
    node.vm.plug(path("second").file(file))?;
    node.vm.settle()?;
    let before = Untouched::note(&mut node, &["first", "second"])?;
    node.start_agent()?;
    for device in ["sda", "sdb"] {
        node.wait_refused(device, "duplicate-identity")?;
    }
    node.takes_another()?;
    before.check(&mut node)
}

fn late_path(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(lab.machine("late-path").disk(path("first").gib(12)))?;
    node.start_agent()?;
    node.wait_mounted(&["/mnt/longhorn/sda1"])?;
    node.vm
        .sh("echo precious > /mnt/longhorn/sda1/file && sync")?;
    let file = node.vm.disk_path("first")?;
    node.vm.plug(path("second").file(file))?;
    node.wait_refused("sdb", "duplicate-identity")?;
    node.takes_another()?;
    // The content is that of the other path, to which its owner writes.
    let commands = node.vm.block_stats("second")?;
    ensure!(
        commands.get("wr_operations") == Some(&json!(0)),
        "{commands}"
    );
    node.vm
        .sh("grep -q precious /mnt/longhorn/sda1/file && findmnt -nro SOURCE --mountpoint /mnt/longhorn/sda1 | grep -qx /dev/sda1")
        .map(drop)
}

fn same_serial(lab: &Lab) -> Result<()> {
    let twin = |disk: Disk| disk.gib(12).serial("TWIN");
    let plain = |name| Disk::virtio(name).gib(12).no_serial();
    let mut node = Node::boot(
        lab.machine("same-serial")
            .disk(twin(Disk::virtio("virtio-a")))
            .disk(twin(Disk::virtio("virtio-b")))
            .disk(twin(Disk::scsi("scsi-a")).wwn(0x5000_c500_0000_000a))
            .disk(twin(Disk::scsi("scsi-b")).wwn(0x5000_c500_0000_000b))
            .disk(plain("nameless-a"))
            .disk(plain("nameless-b")),
    )?;
    let twins = ["virtio-a", "virtio-b", "scsi-a", "scsi-b"];
    let before = Untouched::note(&mut node, &twins)?;
    node.start_agent()?;
    for name in twins {
        let device = node.vm.kernel_name(name)?;
        node.wait_refused(&device, "duplicate-identity")?;
    }
    // Unknown never equals unknown.
    node.wait_mounted(&["/mnt/longhorn/vdd1", "/mnt/longhorn/vde1"])?;
    before.check(&mut node)
}

fn usb(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(lab.machine("usb"))?;
    node.start_agent()?;
    node.vm.plug(Disk::usb("stick").gib(12))?;
    let before = Untouched::note(&mut node, &["stick"])?;
    node.wait_refused("sda", "removable")?;
    node.takes_another()?;
    before.check(&mut node)
}

fn read_only(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(
        lab.machine("read-only")
            .disk(Disk::virtio("virtio").gib(12).read_only())
            .disk(Disk::scsi("scsi").gib(12).read_only()),
    )?;
    let before = Untouched::note(&mut node, &["virtio", "scsi"])?;
    node.start_agent()?;
    for device in ["vdb", "sda"] {
        node.wait_refused(device, "read-only")?;
    }
    node.takes_another()?;
    before.check(&mut node)
}

fn exact_size(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(
        lab.machine("exact-size")
            .disk(Disk::virtio("exact").bytes(10_000_000_000))
            .disk(Disk::virtio("more").bytes(10_000_000_512)),
    )?;
    let before = Untouched::note(&mut node, &["exact"])?;
    node.start_agent()?;
    node.wait_refused("vdb", "too-small")?;
    node.wait_mounted(&["/mnt/longhorn/vdc1"])?;
    before.check(&mut node)
}

/// The card is taken out under the agent's eyes.
fn card_reader(lab: &Lab) -> Result<()> {
    let card = Disk::scsi("card").gib(12).property("removable", true);
    let mut node = Node::boot(lab.machine("card-reader").disk(card))?;
    let before = Untouched::note(&mut node, &["card"])?;
    node.start_agent()?;
    node.wait_refused("sda", "removable")?;
    let device = json!({"id": "disk-card", "force": true});
    node.vm.qmp("blockdev-open-tray", device)?;
    node.vm
        .qmp("blockdev-remove-medium", json!({"id": "disk-card"}))?;
    node.vm.sh("while [ $SECONDS -lt 100 ]; do
             blockdev --rereadpt /dev/sda 2>/dev/null
             [ \"$(cat /sys/block/sda/size)\" = 0 ] && exit 0
             sleep 0.1
         done; exit 1")?;
    // The agent that saw the card, and one that starts without it.
    node.takes_another()?;
    node.wait_refused("sda", "removable")?;
    node.vm.sh("systemctl restart disk-discovery")?;
    node.wait_refused("sda", "removable")?;
    asks_no_more(&mut node)?;
    before.check(&mut node)
}

fn no_size(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(
        lab.machine("no-size")
            .disk(Disk::virtio("nothing").bytes(0)),
    )?;
    let size = node.vm.sh("cat /sys/block/vdb/size")?;
    ensure!(size.trim() == "0", "{size}");
    // Even where every size is large enough.
    node.configure("mode: enforce\nmin-size: 0\nallow-loop: true\ninterval: 1h\n")?;
    node.start_agent()?;
    node.wait_refused("vdb", "too-small")?;
    node.wait_refused("loop0", "too-small")?;
    node.takes_another()?;
    asks_no_more(&mut node)
}

/// Without an event there is nothing to look at again: once the last ones have
/// come, which takes a slow machine its time, five seconds pass with two rounds
/// at most.
fn asks_no_more(node: &mut Node) -> Result<()> {
    node.vm.settle()?;
    node.wait_for("there are no more rounds", |node| {
        let before = node.disks()?.round("number");
        std::thread::sleep(std::time::Duration::from_secs(5));
        Ok(node.disks()?.round("number") <= before + 2)
    })?;
    node.check_healthy()
}

fn foreign_four_kilobyte_sectors(lab: &Lab) -> Result<()> {
    let disk = |name| Disk::scsi(name).gib(12);
    let names = ["table", "empty", "moved"];
    let mut machine = lab.machine("4kn-foreign");
    for name in names {
        machine = machine.disk(disk(name).logical_block_size(4096));
    }
    let mut node = Node::boot(machine)?;
    node.vm
        .sh("sgdisk -n 1:0:0 /dev/sda && udevadm settle && mkfs.ext4 -q /dev/sda1 && sgdisk -o /dev/sdb && sync")?;
    // As on a disk that sat behind a bridge with sectors of 512 bytes before.
    let moved = node.vm.disk_path("moved")?;
    crate::host("sgdisk", &["-n", "1:0:0"], &moved)?;
    node.vm.settle()?;
    let sectors = node
        .vm
        .sh("cat /sys/block/sd[abc]/queue/logical_block_size")?;
    ensure!(
        sectors.split_whitespace().all(|size| size == "4096"),
        "{sectors}"
    );
    let before = Untouched::note(&mut node, &names)?;
    node.start_agent()?;
    node.wait_refused("sda", "partitioned")?;
    node.wait_refused("sdb", "signature:gpt")?;
    let disks = node.wait_until("the moved table is seen", |disks| {
        disks.field("sdc", "verdict") == "refused"
    })?;
    let reason = disks.field("sdc", "reason");
    ensure!(reason.starts_with("signature:"), "{reason}");
    node.takes_another()?;
    before.check(&mut node)
}

fn root_image(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(lab.machine("root-image"))?;
    node.configure("mode: enforce\nallow-loop: true\ninterval: 1h\n")?;
    node.vm.sh(
        "cd /var/tmp && truncate -s 12G root.img blank.img && mkdir -p tree/{bin,dev,proc}
         cp -a /etc tree/ && cp /bin/busybox tree/bin/ && mkfs.ext4 -q -d tree root.img
         losetup /dev/loop0 root.img && losetup /dev/loop1 blank.img && udevadm settle && sync",
    )?;
    // To hash its holes as well takes minutes under emulation.
    let sum = "cd /var/tmp && sync root.img && tar --sparse -cf - root.img | sha256sum";
    let before = node.vm.sh(sum)?;
    let wrote = "awk '{print $5, $7, $12}' /sys/block/loop0/stat";
    let commands = node.vm.sh(wrote)?;
    node.start_agent()?;
    node.wait_refused("loop0", "signature:ext4")?;
    node.wait_mounted(&["/mnt/longhorn/loop1p1"])?;
    ensure!(node.vm.sh(wrote)? == commands, "something was written");
    let after = node.vm.sh(sum).context("hash the image again")?;
    ensure!(before == after, "{before} {after}");
    Ok(())
}
