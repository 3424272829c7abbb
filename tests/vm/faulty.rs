//! Disks that fail, that do not answer, and records that are wrong.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use vm_fixtures::{Disk, Lab};
use vm_tests::{Node, Untouched};

use crate::Case;

pub const CASES: &[Case] = &[
    (
        "a_read_error_in_the_first_or_last_8_mib_is_no_proof_of_blankness",
        some_reads_fail,
    ),
    (
        "a_disk_on_which_every_read_fails_is_refused_and_delays_no_other",
        all_reads_fail,
    ),
    (
        "a_disk_that_does_not_answer_delays_no_other_and_is_taken_when_it_does",
        hangs,
    ),
    (
        "without_udevd_a_foreign_disk_is_left_alone_and_a_blank_one_taken",
        without_udevd,
    ),
    (
        "a_filesystem_that_udevd_does_not_know_of_is_seen_on_the_medium",
        udev_missed_it,
    ),
    (
        "a_filesystem_that_only_udevd_knows_of_is_a_reason_to_leave_the_disk_alone",
        only_udev_knows,
    ),
];

/// Reads of this sector fail, or every read.
fn failing(sector: Option<u64>) -> Value {
    let mut error = json!({"event": "none", "iotype": "read", "errno": 5, "once": false});
    if let (Some(sector), Some(error)) = (sector, error.as_object_mut()) {
        error.insert("sector".to_owned(), sector.into());
    }
    json!({"driver": "blkdebug", "inject-error": [error]})
}

fn some_reads_fail(lab: &Lab) -> Result<()> {
    let sectors = (12_u64 << 30) / 512;
    let mib = 1 << 11;
    let names = ["first", "last"];
    let mut node = Node::boot(
        lab.machine("some-reads-fail")
            .disk(Disk::virtio("first").gib(12).filter(failing(Some(5 * mib))))
            .disk(
                Disk::virtio("last")
                    .gib(12)
                    .filter(failing(Some(sectors - 5 * mib))),
            ),
    )?;
    let before = Untouched::note(&mut node, &names)?;
    node.start_agent()?;
    for device in ["vdb", "vdc"] {
        node.wait_refused(device, "probe-failed")?;
    }
    node.takes_another()?;
    node.check_healthy()?;
    before.check(&mut node)
}

fn all_reads_fail(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(
        lab.machine("all-reads-fail")
            .disk(Disk::virtio("virtio").gib(12).filter(failing(None)))
            .disk(Disk::scsi("scsi").gib(12).filter(failing(None))),
    )?;
    let before = Untouched::note(&mut node, &["virtio", "scsi"])?;
    node.start_agent()?;
    for device in ["vdb", "sda"] {
        node.wait_refused(device, "probe-failed")?;
    }
    node.takes_another()?;
    node.check_healthy()?;
    before.check(&mut node)
}

fn hangs(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(
        lab.machine("hangs")
            .disk(Disk::virtio("stuck").gib(12))
            .disk(Disk::virtio("plain").gib(12)),
    )?;
    let before = Untouched::note(&mut node, &["stuck"])?;
    reads_per_second(&mut node, 1)?;
    node.start_agent()?;
    node.wait_mounted(&["/mnt/longhorn/vdc1"])?;
    node.wait_refused("vdb", "not-answering")?;
    node.takes_another()?;
    node.check_healthy()?;
    before.check(&mut node)?;
    reads_per_second(&mut node, 0)?;
    node.wait_mounted(&[
        "/mnt/longhorn/vdb1",
        "/mnt/longhorn/vdc1",
        "/mnt/longhorn/vdd1",
    ])
    .map(drop)
}

/// Limits how many bytes of `stuck` can be read a second; 0 lifts the limit.
fn reads_per_second(node: &mut Node, bytes: u64) -> Result<()> {
    let id = "/machine/peripheral/disk-stuck/virtio-backend";
    let limits = json!({"id": id, "bps": 0, "bps_rd": bytes, "bps_wr": 0, "iops": 0, "iops_rd": 0, "iops_wr": 0});
    node.vm.qmp("block_set_io_throttle", limits).map(drop)
}

fn without_udevd(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(lab.machine("foreign-no-udevd"))?;
    node.vm.sh("systemctl stop systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-udevd.service && rm -rf /run/udev")?;
    node.start_agent()?;
    let file = crate::foreign_image(&node.vm.run_dir())?;
    node.vm.plug(Disk::virtio("foreign").file(file))?;
    let before = Untouched::note(&mut node, &["foreign"])?;
    let disks = node.wait_refused("vdb", "signature:ext4")?;
    ensure!(
        disks.degraded() == ["udev-missing"],
        "{:?}",
        disks.degraded()
    );
    node.takes_another()?;
    before.check(&mut node)
}

fn udev_missed_it(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(
        lab.machine("udev-missed-it")
            .disk(Disk::virtio("stale").gib(12)),
    )?;
    let file = node.vm.disk_path("stale")?;
    crate::host("mkfs.ext4", &["-q", "-F"], &file)?;
    let record = node.vm.sh("udevadm info -q property /dev/vdb")?;
    ensure!(!record.contains("ID_FS_TYPE"), "{record}");
    let before = Untouched::note(&mut node, &["stale"])?;
    node.start_agent()?;
    node.wait_refused("vdb", "signature:ext4")?;
    node.takes_another()?;
    before.check(&mut node)
}

fn only_udev_knows(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(lab.machine("only-udev").disk(Disk::virtio("stale").gib(12)))?;
    node.vm
        .sh("echo E:ID_FS_TYPE=ext4 >> /run/udev/data/b$(cat /sys/block/vdb/dev)")?;
    let before = Untouched::note(&mut node, &["stale"])?;
    node.start_agent()?;
    node.wait_refused("vdb", "sources-disagree")?;
    node.takes_another()?;
    before.check(&mut node)?;
    // Nothing else spoke against it.
    node.vm.sh("udevadm trigger --settle /dev/vdb")?;
    node.wait_mounted(&["/mnt/longhorn/vdb1", "/mnt/longhorn/vdc1"])
        .map(drop)
}
