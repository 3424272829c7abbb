//! Bad input and missing things, as an operator meets them on a node.

use anyhow::{Result, ensure};
use vm_fixtures::{Disk, Lab};
use vm_tests::Node;

use crate::Case;

pub const CASES: &[Case] = &[
    ("an_occupied_port_is_a_one_line_error", occupied_port),
    (
        "a_missing_mkfs_leaves_the_disk_as_it_was_and_is_named",
        missing_mkfs,
    ),
];

fn occupied_port(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(lab.machine("port"))?;
    node.start_agent()?;
    node.wait_until("it answers", |_| true)?;
    let second = node
        .vm
        .run("disk-discovery run --mode enforce 2>&1 >/dev/null | grep -v ' INFO '")?;
    ensure!(
        second.stdout.contains("cannot listen on 0.0.0.0:9807"),
        "{second:?}"
    );
    ensure!(second.stdout.lines().count() == 1, "{second:?}");
    Ok(())
}

fn missing_mkfs(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(lab.machine("no-mkfs").disk(Disk::virtio("alpha").gib(12)))?;
    let before = node.vm.digest("alpha")?;
    node.vm.sh("mv /usr/sbin/mkfs.ext4 /root/")?;
    node.start_agent()?;
    let named = |disks: &vm_tests::Disks| {
        let row = disks
            .row("vdb")
            .and_then(|row| row.pointer("/operation/error").cloned());
        row.is_some_and(|error| error.to_string().contains("e2fsprogs"))
    };
    node.wait_until("the missing program is named", named)?;
    ensure!(before == node.vm.digest("alpha")?, "the disk was written");
    ensure!(
        !node
            .vm
            .run("curl -sS --fail http://localhost:9807/readyz")?
            .success(),
        "ready all the same"
    );
    node.vm.sh("mv /root/mkfs.ext4 /usr/sbin/")?;
    node.wait_mounted(&["/mnt/longhorn/vdb1"])?;
    Ok(())
}
