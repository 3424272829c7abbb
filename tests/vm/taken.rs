//! Which disks are taken, and that no other is touched.

use anyhow::{Result, ensure};
use vm_fixtures::{Disk, Lab};
use vm_tests::Node;

use crate::Case;

pub const CASES: &[Case] = &[
    (
        "blank_disks_are_mounted_and_small_foreign_and_system_disks_untouched",
        whole_story,
    ),
    ("xfs_is_made_where_the_policy_asks_for_it", xfs),
    (
        "a_disk_with_4096_byte_sectors_is_taken",
        four_kilobyte_sectors,
    ),
    ("a_loop_device_is_taken_only_with_allow_loop", loop_device),
    ("without_udevd_the_medium_alone_decides", without_udevd),
    ("observe_and_plan_write_nothing", observe),
    ("sixteen_disks_at_once_are_all_mounted", sixteen),
    (
        "in_a_network_namespace_without_udevds_events_a_new_disk_is_taken",
        own_network,
    ),
];

fn whole_story(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(
        lab.machine("whole-story")
            .disk(Disk::virtio("alpha").gib(12))
            .disk(
                Disk::scsi("beta")
                    .gib(12)
                    .wwn(0x5000_c500_15ea_71ac)
                    .vendor("ACME")
                    .product("DISK1"),
            )
            .disk(Disk::virtio("small").bytes(10_000_000_000))
            .disk(Disk::virtio("foreign").gib(12)),
    )?;
    let name = |node: &mut Node, disk: &str| node.vm.kernel_name(disk);
    let (alpha, beta) = (name(&mut node, "alpha")?, name(&mut node, "beta")?);
    let (small, foreign) = (name(&mut node, "small")?, name(&mut node, "foreign")?);
    node.vm.sh(&format!(
        "mkfs.ext4 -q /dev/{foreign} && mount /dev/{foreign} /media && echo precious > /media/data && umount /media && sync"
    ))?;
    node.vm.settle()?;
    // The system disk cannot change while it is mounted read-only; what the
    // agent writes for itself goes to memory.
    node.vm.sh("mkdir -p /var/lib/disk-discovery /mnt
         mount -t tmpfs tmpfs /var/lib/disk-discovery && mount -t tmpfs tmpfs /mnt
         sync && mount -o remount,ro / && sync")?;
    let before = [
        node.vm.digest("small")?,
        node.vm.digest("foreign")?,
        node.vm.root_digest()?,
    ];

    node.start_agent()?;
    let (at_alpha, at_beta) = (
        format!("/mnt/longhorn/{alpha}1"),
        format!("/mnt/longhorn/{beta}1"),
    );
    let mut paths = vec![at_beta.as_str(), at_alpha.as_str()];
    paths.sort_unstable();
    node.wait_mounted(&paths)?;

    node.vm.plug(Disk::nvme("gamma").gib(12))?;
    let gamma = node.vm.kernel_name("gamma")?;
    let at_gamma = format!("/mnt/longhorn/{gamma}p1");
    let mut paths = vec![at_alpha.as_str(), at_beta.as_str(), at_gamma.as_str()];
    paths.sort_unstable();
    let disks = node.wait_mounted(&paths)?;

    for path in &paths {
        let kind = node
            .vm
            .sh(&format!("findmnt -nro FSTYPE --mountpoint {path}"))?;
        ensure!(kind.trim() == "ext4", "{path} is {kind}");
        node.vm.sh(&format!(
            "echo hello > {path}/file && sync && grep -q hello {path}/file"
        ))?;
    }
    let reason = |device: &str| disks.field(device, "reason").to_owned();
    ensure!(reason(&small) == "too-small", "{}", reason(&small));
    ensure!(reason(&foreign) == "signature:ext4", "{}", reason(&foreign));
    ensure!(reason("vda") == "system-disk", "{}", reason("vda"));
    for device in [small.as_str(), foreign.as_str(), "vda"] {
        ensure!(
            !disks.field(device, "advice").is_empty(),
            "{device} has no advice"
        );
    }
    let after = [
        node.vm.digest("small")?,
        node.vm.digest("foreign")?,
        node.vm.root_digest()?,
    ];
    ensure!(before == after, "changed: {before:?} {after:?}");
    // One pass at the start, the rest by events: the timer is an hour away.
    let health = node
        .vm
        .sh("curl -sS --fail http://localhost:9807/healthz")?;
    ensure!(health.starts_with("ok"), "{health}");
    node.vm.sh("curl -sS --fail http://localhost:9807/readyz")?;
    // A second reader, which shares no code with us, agrees about the table.
    node.vm.sh(&format!(
        "sgdisk -v /dev/{alpha} | grep -q 'No problems found'"
    ))?;
    let label = node.vm.sh(&format!(
        "udevadm settle; lsblk -dnro PARTLABEL /dev/{alpha}1"
    ))?;
    ensure!(label.trim() == format!("longhorn:{alpha}1"), "{label}");
    let same = node
        .vm
        .sh(&format!("lsblk -dnro UUID,PARTUUID /dev/{alpha}1"))?;
    let ids: Vec<&str> = same.split_whitespace().collect();
    ensure!(ids.len() == 2 && ids[0] == ids[1], "{same}");
    Ok(())
}

fn xfs(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(lab.machine("xfs").disk(Disk::virtio("alpha").gib(12)))?;
    node.configure("mode: enforce\nfilesystem: xfs\ninterval: 1h\n")?;
    node.start_agent()?;
    node.wait_mounted(&["/mnt/longhorn/vdb1"])?;
    let kind = node
        .vm
        .sh("findmnt -nro FSTYPE,OPTIONS --mountpoint /mnt/longhorn/vdb1")?;
    ensure!(
        kind.starts_with("xfs") && kind.contains("noatime"),
        "{kind}"
    );
    Ok(())
}

fn four_kilobyte_sectors(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(
        lab.machine("4kn")
            .disk(Disk::scsi("alpha").gib(12).logical_block_size(4096)),
    )?;
    node.start_agent()?;
    node.wait_mounted(&["/mnt/longhorn/sda1"])?;
    let sector = node
        .vm
        .sh("blockdev --getss /dev/sda; sgdisk -v /dev/sda")?;
    ensure!(
        sector.starts_with("4096") && sector.contains("No problems found"),
        "{sector}"
    );
    Ok(())
}

fn loop_device(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(lab.machine("loop"))?;
    node.vm
        .sh("truncate -s 12G /var/tmp/image && losetup /dev/loop0 /var/tmp/image")?;
    let plan = node.plan()?;
    ensure!(
        plan.field("loop0", "reason") == "unsupported-kind",
        "{:#}",
        plan.0
    );
    node.configure("mode: enforce\nallow-loop: true\ninterval: 1h\n")?;
    node.start_agent()?;
    node.wait_mounted(&["/mnt/longhorn/loop0p1"])?;
    Ok(())
}

fn without_udevd(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(lab.machine("no-udevd"))?;
    node.vm.sh("systemctl stop systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-udevd.service && rm -rf /run/udev")?;
    node.start_agent()?;
    let disks = node.wait_until("it answers", |_| true)?;
    ensure!(
        disks.degraded() == ["udev-missing"],
        "{:?}",
        disks.degraded()
    );
    node.vm.plug(Disk::virtio("late").gib(12))?;
    node.wait_mounted(&["/mnt/longhorn/vdb1"])?;
    Ok(())
}

fn observe(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(lab.machine("observe").disk(Disk::virtio("alpha").gib(12)))?;
    node.configure("mode: observe\ninterval: 1s\n")?;
    let before = node.vm.digest("alpha")?;
    let plan = node.plan()?;
    ensure!(plan.field("vdb", "verdict") == "provision", "{:#}", plan.0);
    ensure!(
        plan.field("vdb", "mountPath") == "/mnt/longhorn/vdb1",
        "{:#}",
        plan.0
    );
    node.start_agent()?;
    node.wait_until("several rounds", |disks| disks.round("number") > 3)?;
    let stat = node.vm.sh("awk '{print $5}' /sys/block/vdb/stat")?;
    ensure!(stat.trim() == "0", "{stat} writes");
    ensure!(before == node.vm.digest("alpha")?, "the disk changed");
    ensure!(
        !node.vm.run("test -e /mnt/longhorn")?.success(),
        "a directory was made"
    );
    Ok(())
}

fn sixteen(lab: &Lab) -> Result<()> {
    let mut machine = lab.machine("sixteen");
    for at in 0..16 {
        machine = machine.disk(Disk::scsi(&format!("disk{at}")).gib(12));
    }
    let mut node = Node::boot(machine)?;
    node.start_agent()?;
    let paths: Vec<String> = ('a'..='p')
        .map(|letter| format!("/mnt/longhorn/sd{letter}1"))
        .collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    node.wait_mounted(&paths)?;
    // None was lost on the way or needed a second attempt, but where somebody else
    // had it open for a moment: udevd, or a child of the agent that was about to
    // become the mkfs of another disk.
    let log = node.log()?;
    let unfinished = log.lines().filter(|line| line.contains("not finished"));
    let for_a_moment = |line: &&str| {
        let others = ["held by somebody else", "apparently in use by the system"];
        others.iter().any(|words| line.contains(words))
    };
    let needless = unfinished.filter(|line| !for_a_moment(line));
    ensure!(needless.count() == 0, "{log}");
    Ok(())
}

/// As in a pod without the host's network: the kernel's events come through,
/// udevd's do not.
fn own_network(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(lab.machine("own-network"))?;
    node.vm.sh(
        "ip netns add pod
         nsenter --net=/run/netns/pod disk-discovery run --mode enforce --interval 1h >/run/agent.log 2>&1 &
         SECONDS=0
         while [ $SECONDS -lt 100 ]; do grep -q decided /run/agent.log && exit 0; sleep 0.1; done; exit 1",
    )?;
    node.vm.plug(Disk::virtio("late").gib(12))?;
    let mounted = node.vm.run(
        "while [ $SECONDS -lt 100 ]; do findmnt /mnt/longhorn/vdb1 && exit 0; sleep 0.1; done; cat /run/agent.log; exit 1",
    )?;
    ensure!(mounted.success(), "{}", mounted.stdout);
    Ok(())
}
