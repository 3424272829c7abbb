//! Bad input and missing things, as an operator meets them on a node.

use anyhow::{Result, ensure};
use vm_fixtures::{Disk, Lab};
use vm_tests::Node;

use crate::Case;

pub const CASES: &[Case] = &[
    ("an_occupied_port_is_a_one_line_error", occupied_port),
    (
        "a_second_agent_for_the_same_state_directory_says_so_and_ends",
        second_agent,
    ),
    (
        "in_a_plain_container_plan_says_what_it_cannot_see_and_takes_nothing",
        plain_container,
    ),
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
        .run("disk-discovery run --mode enforce --state-dir /run/other 2>&1 >/dev/null | grep -v ' INFO '")?;
    ensure!(
        second.stdout.contains("cannot listen on 0.0.0.0:9807"),
        "{second:?}"
    );
    ensure!(second.stdout.lines().count() == 1, "{second:?}");
    Ok(())
}

fn second_agent(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(lab.machine("second").disk(Disk::virtio("alpha").gib(12)))?;
    node.start_agent()?;
    node.wait_mounted(&["/mnt/longhorn/vdb1"])?;
    let second = node
        .vm
        .run("disk-discovery run --mode enforce --listen 127.0.0.1:0")?;
    ensure!(
        second.code == 1
            && second
                .stderr
                .contains("another agent works with /var/lib/disk-discovery"),
        "{second:?}"
    );
    // The first one is killed: its lock goes with it.
    node.vm
        .sh("systemctl kill --signal=SIGKILL disk-discovery; systemctl start disk-discovery")?;
    node.wait_mounted(&["/mnt/longhorn/vdb1"])?;
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

/// What a container without any of the host's trees sees: a root of its own on
/// overlay, its own /proc, the host's /sys, an empty /dev, no udevd.
fn plain_container(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(lab.machine("container").disk(Disk::virtio("alpha").gib(12)))?;
    let plan = node.vm.sh("cd /run && mkdir -p c/upper c/work c/root
         mount -t overlay overlay -o lowerdir=/,upperdir=/run/c/upper,workdir=/run/c/work c/root
         unshare --mount --pid --fork --root=/run/c/root sh -c '
             mount -t proc proc /proc && mount -t sysfs sysfs /sys && mount -t tmpfs tmpfs /dev
             disk-discovery plan -o json'")?;
    let plan = vm_tests::Disks::parse(&plan)?;
    ensure!(
        plan.field("vdb", "reason") == "system-disk-unresolved",
        "{:#}",
        plan.0
    );
    ensure!(plan.degraded() == ["udev-missing"], "{:?}", plan.degraded());
    // The same disk is blank to a plan on the host.
    ensure!(
        node.plan()?.field("vdb", "verdict") == "provision",
        "{:#}",
        plan.0
    );
    Ok(())
}
