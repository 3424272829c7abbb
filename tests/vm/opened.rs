//! Disks that somebody uses without holding them exclusively: what is written
//! through an open descriptor shows neither in mount tables nor in sysfs.

use anyhow::{Result, ensure};
use vm_fixtures::{Disk, Lab};
use vm_tests::{Disks, Node, Untouched};

use crate::{Case, adopted};

pub const CASES: &[Case] = &[(
    "disks_that_others_have_open_for_writing_or_under_a_loop_device_are_taken_only_afterwards",
    opened,
)];

fn opened(lab: &Lab) -> Result<()> {
    let names = ["installed", "passed", "looped"];
    let mut node = Node::boot(
        lab.machine("opened")
            .disk(Disk::virtio("installed").gib(12))
            .disk(Disk::virtio("looped").gib(12))
            .disk(Disk::scsi("passed").gib(12)),
    )?;
    let (installed, looped) = (
        node.vm.kernel_name("installed")?,
        node.vm.kernel_name("looped")?,
    );
    adopted::by_hand(&mut node, "sda", "ext4", Some(adopted::CONFIG))?;
    // A blank disk that was given to somebody, one with a filesystem that a
    // virtual machine has, by a node of its own, and a loop device in the middle
    // of another. A snap, of which nothing follows.
    node.vm.sh(&format!(
        "set -e
         # /run takes no nodes.
         mknod /dev/passed b $((0x$(stat -c %t /dev/sda1))) $((0x$(stat -c %T /dev/sda1)))
         for device in {installed} passed; do
             perl -MFcntl -e 'sysopen(D, \"/dev/$ARGV[0]\", O_RDWR) or die; open(R, \">/run/$ARGV[0].open\"); sleep' \
                 $device >/dev/null 2>&1 &
             echo $! > /run/$device.pid
         done
         losetup --offset 1G /dev/loop0 /dev/{looped}
         truncate -s 1M /var/tmp/core.snap && losetup --read-only /dev/loop1 /var/tmp/core.snap
         SECONDS=0
         while [ $SECONDS -lt 100 ]; do
             [ -e /run/{installed}.open ] && [ -e /run/passed.open ] && break; sleep 0.1
         done
         rm /run/{installed}.open /run/passed.open /dev/passed && udevadm settle && sync"
    ))?;
    let before = Untouched::note(&mut node, &names)?;
    node.start_agent()?;
    for (device, who) in [(installed.as_str(), installed.as_str()), ("sda", "passed")] {
        let pid = node.vm.sh(&format!("cat /run/{who}.pid"))?;
        let held = format!("(open for writing: perl, pid {})", pid.trim());
        node.wait_until(&format!("{device}: {held}"), |disks| {
            error_of(disks, device).contains(&held)
        })?;
    }
    node.wait_refused(&looped, "stacked")?;
    node.takes_another()?;
    before.check(&mut node)?;
    // Nor was a name taken down, by which it would be served from then on.
    let left = node
        .vm
        .run("ls /mnt/longhorn; grep sdh1 /var/lib/disk-discovery/ledger.json")?;
    ensure!(!left.stdout.contains("sdh1"), "{left:?}");
    node.vm.sh(&format!(
        "kill $(cat /run/{installed}.pid /run/passed.pid) && losetup -d /dev/loop0"
    ))?;
    let another = node.vm.kernel_name("another")?;
    let mut paths = [installed, looped, another].map(|name| format!("/mnt/longhorn/{name}1"));
    paths.sort_unstable();
    let mut paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    paths.insert(0, "/mnt/longhorn/sdh1");
    node.wait_mounted(&paths).map(drop)
}

/// Why the last attempt on a disk failed.
fn error_of<'a>(disks: &'a Disks, device: &str) -> &'a str {
    let row = disks.row(device);
    let error = row.and_then(|row| row.pointer("/operation/error"));
    error
        .and_then(serde_json::Value::as_str)
        .unwrap_or_default()
}
