//! More events than anybody reads, and disks that come and go all day.

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};
use vm_fixtures::Disk;
use vm_tests::Node;

use crate::{
    Case, Ground, When,
    ward::{foreign_image, is_mounted, take_out, wait_gone},
};

pub const CASES: &[Case] = &[
    (
        "when_events_are_lost_in_a_storm_no_disk_is_and_later_events_are_heard",
        When::Always,
        overflow,
    ),
    (
        "disks_that_come_and_go_all_day_leave_nothing_behind_in_the_agent",
        When::Always,
        come_and_go,
    ),
];

/// Events of a device that nobody wants: what the kernel and udevd make of
/// them reaches the agent all the same.
fn storm(events: u32) -> String {
    format!("for i in $(seq {events}); do echo change; done > /sys/block/loop0/uevent")
}

fn overflow(ground: &Ground) -> Result<()> {
    let mut node = Node::boot(
        ground
            .lab
            .machine("storm")
            .disk(Disk::virtio("early").gib(12))
            .disk(Disk::scsi("leaves").mib(64)),
    )?;
    // libudev asks for a buffer of 128 MiB, which takes CAP_NET_ADMIN.
    node.vm.sh(
        "mkdir -p /run/systemd/system/disk-discovery.service.d
         printf '[Service]\nCapabilityBoundingSet=~CAP_NET_ADMIN\n' > /run/systemd/system/disk-discovery.service.d/buffer.conf
         systemctl daemon-reload",
    )?;
    node.start_agent()?;
    node.wait_mounted(&["/mnt/longhorn/vdb1"])?;
    let leaves = node.vm.kernel_name("leaves")?;
    node.wait_refused(&leaves, "too-small")?;
    node.vm
        .sh("systemctl kill --signal=SIGSTOP disk-discovery")?;
    node.vm
        .sh(&storm(if ground.all { 10_000 } else { 1_000 }))?;
    node.vm.yank("leaves")?;
    wait_gone(&mut node, &leaves)?;
    node.vm.plug(Disk::virtio("comes").gib(12))?;
    let comes = node.vm.kernel_name("comes")?;
    // So that udevd's own socket runs over, too.
    let patience = Duration::from_mins(10);
    node.vm
        .sh_within(patience, "udevadm settle --timeout=590")?;
    node.vm
        .sh("systemctl kill --signal=SIGCONT disk-discovery")?;
    node.wait_logged(&["events were lost"])?;
    let path = format!("/mnt/longhorn/{comes}1");
    let disks = node.wait_mounted(&["/mnt/longhorn/vdb1", &path])?;
    ensure!(disks.row(&leaves).is_none(), "{:#}", disks.0);
    // Heard, not found by a timer: there is none for an hour.
    node.takes_another()?;
    node.check_healthy()
}

/// What the agent has in use.
#[derive(Debug)]
struct Use {
    resident_kib: u64,
    descriptors: u64,
    threads: u64,
}

impl Use {
    /// At rest: threads that have nothing to do end after ten seconds. Of each
    /// figure the least of several moments, since a full pass every five seconds
    /// has files open and threads at work.
    fn of(node: &mut Node) -> Result<Self> {
        thread::sleep(Duration::from_secs(12));
        let figures = node.vm.sh(
            "agent=/proc/$(systemctl show -p MainPID --value disk-discovery)
             for i in $(seq 40); do
                 echo $(awk '/^VmRSS/ {print $2}' $agent/status) $(ls $agent/fd | wc -l) $(ls $agent/task | wc -l)
                 sleep 0.4
             done",
        )?;
        let mut least: Option<Self> = None;
        for line in figures.lines() {
            let mut figures = line.split_whitespace();
            let mut next = || -> Result<u64> {
                let figure = figures.next().context("a figure is missing")?;
                Ok(figure.parse()?)
            };
            let (resident_kib, descriptors, threads) = (next()?, next()?, next()?);
            let least = least.get_or_insert(Self {
                resident_kib,
                descriptors,
                threads,
            });
            least.resident_kib = least.resident_kib.min(resident_kib);
            least.descriptors = least.descriptors.min(descriptors);
            least.threads = least.threads.min(threads);
        }
        least.context("no figures")
    }
}

/// Memory that may be more at the end. After 200 times, 6 KiB each would show.
const TOLERANCE_KIB: u64 = 1024;

/// A disk of ours and one of somebody else's, in and out.
fn come_and_go(ground: &Ground) -> Result<()> {
    let mut node = Node::boot(ground.lab.machine("come-and-go"))?;
    // Full passes are part of the day.
    node.configure("mode: enforce\ninterval: 5s\n")?;
    node.start_agent()?;
    let foreign = foreign_image(&node.vm.run_dir())?;
    let mut ours = Disk::scsi("ours").gib(12);
    let mut theirs = Disk::virtio("theirs").file(foreign);
    let mut early = None;
    let cycles = if ground.all { 200 } else { 20 };
    for cycle in 1..=cycles {
        node.vm.plug(ours)?;
        node.vm.plug(theirs)?;
        let devices = ["ours", "theirs"].map(|name| node.vm.kernel_name(name));
        let [our_device, their_device] = devices;
        let (our_device, their_device) = (our_device?, their_device?);
        node.wait_until("one is mounted, one is left alone", |disks| {
            is_mounted(disks, &our_device)
                && disks.field(&their_device, "reason") == "signature:ext4"
        })?;
        if cycle == 5 {
            early = Some(Use::of(&mut node)?);
        }
        if cycle == cycles {
            break;
        }
        ours = take_out(&mut node, "ours", &our_device)?;
        theirs = node.vm.unplug("theirs")?;
        wait_gone(&mut node, &their_device)?;
    }
    let (early, late) = (early.context("too few cycles")?, Use::of(&mut node)?);
    println!("after 5 of {cycles} times {early:?}, after all {late:?}");
    // A thread without work ends after ten seconds. Passes come every five, and the
    // threads that are left take turns at them: one more or less is chance.
    ensure!(
        late.descriptors <= early.descriptors
            && late.threads <= early.threads + 1
            && late.resident_kib <= early.resident_kib + TOLERANCE_KIB,
        "after 5 of {cycles} times {early:?}, after all {late:?}"
    );
    Ok(())
}
