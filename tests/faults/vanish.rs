//! Disks that are pulled out in the middle of the work on them, and come back.
//! strace holds the agent, or mkfs, in the very call before which the disk goes.

use anyhow::{Result, ensure};
use vm_fixtures::Disk;
use vm_tests::{Disks, Node};

use crate::{
    Case, Ground, When,
    ward::{self, another_is_mounted, is_mounted, operation, take_out, wait_gone},
};

pub const CASES: &[Case] = &[
    (
        "a_disk_that_vanishes_at_any_step_is_resumed_when_it_is_back_and_never_formatted_once_committed",
        When::Always,
        at_any_step,
    ),
    (
        "a_mounted_disk_that_vanishes_is_mounted_with_its_data_when_it_is_back",
        When::InAll,
        mounted,
    ),
];

/// A step, by the call that it is held in: the n-th of its kind that a thread
/// makes on the disk.
struct Step {
    name: &'static str,
    phase: &'static str,
    call: &'static str,
    nth: u32,
    /// The disk goes before the call, not after it.
    before: bool,
    /// The call is on the partition.
    partition: bool,
    /// One copy of the claim at least is committed.
    committed: bool,
    /// One of the few that always run.
    sample: bool,
}

const BEFORE: Step = Step {
    name: "",
    phase: "",
    call: "",
    nth: 1,
    before: true,
    partition: false,
    committed: false,
    sample: false,
};

/// The thread of a job opens the disk to lock it, to have it exclusively, and
/// for the commit. For the proof the cache is dropped, then libblkid begins.
#[rustfmt::skip]
const STEPS: &[Step] = &[
    Step { name: "claiming", phase: "claiming", call: "flock", ..BEFORE },
    Step { name: "proving", phase: "proving", call: "fadvise64", nth: 2, ..BEFORE },
    Step { name: "no-table", phase: "partitioning", call: "pwrite64", ..BEFORE },
    Step { name: "backup-not-flushed", phase: "partitioning", call: "fsync", ..BEFORE },
    Step { name: "between-tables", phase: "partitioning", call: "pwrite64", nth: 2, ..BEFORE },
    Step { name: "primary-not-flushed", phase: "partitioning", call: "fsync", nth: 2, ..BEFORE },
    Step { name: "not-read-back", phase: "partitioning", call: "fsync", nth: 2, before: false, ..BEFORE },
    Step { name: "in-mkfs", phase: "formatting", call: "fsync", partition: true, sample: true, ..BEFORE },
    Step { name: "before-commit", phase: "committing", call: "openat", nth: 3, ..BEFORE },
    Step { name: "commit-not-written", phase: "committing", call: "pwrite64", nth: 3, ..BEFORE },
    Step { name: "between-commits", phase: "committing", call: "pwrite64", nth: 4, committed: true, sample: true, ..BEFORE },
    Step { name: "commit-not-flushed", phase: "committing", call: "fsync", nth: 4, committed: true, ..BEFORE },
    Step { name: "commit-not-read-back", phase: "committing", call: "fsync", nth: 4, before: false, committed: true, ..BEFORE },
    Step { name: "mounting", phase: "mounting", call: "mount", partition: true, committed: true, ..BEFORE },
];

/// Seconds that a call is held at most: as long as a test is ready to wait for
/// whatever it does meanwhile.
const HELD: u32 = 600;

fn at_any_step(ground: &Ground) -> Result<()> {
    let config = "log: disk_discovery=debug\n";
    let (mut node, foreign) = ward::node(ground, "vanish", Vec::new(), config)?;
    node.start_agent()?;
    let steps: Vec<&Step> = STEPS
        .iter()
        .filter(|step| ground.all || step.sample)
        .collect();
    for (at, step) in steps.iter().enumerate() {
        vanish(ground, &mut node, step, at == 0)?;
    }
    foreign.check(ground, &mut node)
}

/// Takes the disk away at a step, and brings it back.
fn vanish(ground: &Ground, node: &mut Node, step: &Step, with_another: bool) -> Result<()> {
    let before = failed(&node.log()?);
    hold(node, step)?;
    node.vm.plug(Disk::scsi(step.name).gib(12))?;
    let device = node.vm.kernel_name(step.name)?;
    let in_phase =
        |disks: &Disks| operation(disks, &device, "phase").is_some_and(|phase| phase == step.phase);
    // A thread that strace looks at stands still as well, for a moment that is long
    // on a slow machine.
    node.wait_until(&format!("{}: {}", step.name, step.phase), in_phase)?;
    wait_held(node)?;
    let held = node.disks()?;
    ensure!(
        in_phase(&held),
        "{}: held in another phase: {:#}",
        step.name,
        held.0
    );
    if with_another {
        another_is_mounted(ground, node)?;
    }
    let disk = node.vm.yank(step.name)?;
    wait_gone(node, &device)?;
    let_go(node)?;
    node.wait_until(&format!("{}: {device} is gone", step.name), |disks| {
        disks.row(&device).is_none()
    })?;
    node.wait_for(&format!("{}: it has failed", step.name), |node| {
        Ok(failed(&node.log()?) > before)
    })?;
    ground.tally.met();
    let formatted = formats(&node.log()?);
    node.vm.plug(disk)?;
    let device = node.vm.kernel_name(step.name)?;
    node.wait_until(&format!("{}: {device} is mounted", step.name), |disks| {
        is_mounted(disks, &device)
    })?;
    let again = formats(&node.log()?) - formatted;
    if step.committed && again > 0 {
        ground.tally.harmed();
    }
    ensure!(
        !step.committed || again == 0,
        "{}: it was committed and was formatted again:\n{}",
        step.name,
        node.log()?
    );
    ground.tally.recovered();
    take_out(node, step.name, &device).map(drop)
}

/// Runs of mkfs on SCSI disks that the log tells of: not on those that show that
/// the agent is at work.
fn formats(log: &str) -> usize {
    let words = ["disk=\"sd", "phase=Formatting"];
    log.lines()
        .filter(|line| words.iter().all(|word| line.contains(word)))
        .count()
}

/// Attempts that the log says have failed.
fn failed(log: &str) -> usize {
    log.matches("not finished").count()
}

/// Lets strace wait for the call, on any disk but the first, which is foreign.
fn hold(node: &mut Node, step: &Step) -> Result<()> {
    let part = if step.partition { "1" } else { "" };
    let paths: String = ('b'..='h')
        .map(|letter| format!(" -P /dev/sd{letter}{part}"))
        .collect();
    let (call, nth) = (step.call, step.nth);
    let delay = if step.before {
        "delay_enter"
    } else {
        "delay_exit"
    };
    node.vm
        .sh(&format!(
            "agent=$(systemctl show -p MainPID --value disk-discovery)
             strace -f -qq -o /run/strace {paths} -e trace={call} \
                 -e inject={call}:{delay}={HELD}000000:when={nth} -p $agent >/dev/null 2>/run/strace.err &
             echo $! > /run/tracer
             SECONDS=0
             while [ $SECONDS -lt 100 ]; do
                 grep -L 'TracerPid:.0' /proc/$agent/task/*/status | wc -l | grep -qx \"$(ls /proc/$agent/task | wc -l)\" && exit 0
                 sleep 0.1
             done; cat /run/strace.err >&2; exit 1"
        ))
        .map(drop)
}

/// Waits until a thread stands still: one that is only looked at goes on.
fn wait_held(node: &mut Node) -> Result<()> {
    node.vm
        .sh(
            "still() {
                 grep -lE \"TracerPid:.$(cat /run/tracer)\\$\" /proc/[0-9]*/task/*/status 2>/dev/null |
                     xargs grep -lE 'State:.t' 2>/dev/null | sort
             }
             while [ $SECONDS -lt 280 ]; do
                 before=$(still)
                 for i in 1 2 3 4 5; do
                     sleep 0.2
                     before=$(comm -12 <(echo \"$before\") <(still))
                 done
                 [ -n \"$before\" ] && exit 0
             done; journalctl -u disk-discovery | tail -30 >&2; cat /run/strace >&2; exit 1",
        )
        .map(drop)
}

fn let_go(node: &mut Node) -> Result<()> {
    let tracer = "$(cat /run/tracer)";
    node.vm
        .sh(&format!(
            "kill -TERM {tracer}
             while [ $SECONDS -lt 100 ]; do kill -0 {tracer} 2>/dev/null || exit 0; sleep 0.1; done; exit 1"
        ))
        .map(drop)
}

fn mounted(ground: &Ground) -> Result<()> {
    let (mut node, foreign) = ward::node(
        ground,
        "vanish-mounted",
        vec![Disk::scsi("comes-and-goes").gib(12)],
        "log: disk_discovery=debug\n",
    )?;
    node.start_agent()?;
    let device = node.vm.kernel_name("comes-and-goes")?;
    let path = format!("/mnt/longhorn/{device}1");
    node.wait_mounted(&[&path])?;
    node.vm
        .sh(&format!("echo precious > {path}/data && sync"))?;
    let formatted = formats(&node.log()?);
    let disk = take_out(&mut node, "comes-and-goes", &device)?;
    ground.tally.met();
    another_is_mounted(ground, &mut node)?;
    node.vm.plug(disk)?;
    node.wait_until("it is mounted again", |disks| {
        disks.mounted().contains(&path)
    })?;
    let kept = node.vm.sh(&format!("cat {path}/data"))?;
    let harmed = kept != "precious\n" || formats(&node.log()?) != formatted;
    if harmed {
        ground.tally.harmed();
    }
    ensure!(!harmed, "{kept:?}\n{}", node.log()?);
    ground.tally.recovered();
    foreign.check(ground, &mut node)
}
