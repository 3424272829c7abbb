//! What happens to a disk between the decision and the proof: strace holds the
//! agent in the very call that opens the disk that it has decided on.

use anyhow::{Result, ensure};
use vm_fixtures::{Disk, Lab, digest_file};
use vm_tests::{Node, Untouched};

use crate::Case;

pub const CASES: &[Case] = &[
    (
        "a_foreign_disk_that_takes_the_place_of_a_blank_one_before_the_write_is_not_written",
        foreign_instead,
    ),
    (
        "a_blank_disk_that_takes_the_place_of_another_is_written_only_after_a_decision_of_its_own",
        blank_instead,
    ),
    (
        "a_table_that_a_tool_writes_after_the_decision_is_seen_by_the_proof",
        table_by_a_tool,
    ),
    (
        "a_table_that_appears_without_an_event_after_the_decision_is_seen_by_the_proof",
        table_without_an_event,
    ),
];

/// A node whose agent stands still, about to open `sda`, the blank disk
/// `first` that it has decided to provision.
struct Held {
    node: Node,
}

/// Seconds for which each opening of the disk is delayed: within them the test
/// must hear of the decision, which it does as soon as the journal has it. The
/// agent waits a little longer for a disk that it reads.
const DELAY: u32 = 8;

impl Held {
    fn at_open(lab: &Lab, name: &str) -> Result<Self> {
        let mut node = Node::boot(lab.machine(name).disk(Disk::virtio("plain").gib(12)))?;
        node.start_agent()?;
        node.wait_mounted(&["/mnt/longhorn/vdb1"])?;
        node.vm.sh(&format!(
            "agent=$(systemctl show -p MainPID --value disk-discovery)
             strace -f -qq -o /run/strace -P /dev/sda -e trace=openat \
                 -e inject=openat:delay_enter={DELAY}000000 -p $agent >/dev/null 2>/run/strace.err &
             echo $! > /run/tracer
             SECONDS=0
             while [ $SECONDS -lt 100 ]; do
                 grep -L 'TracerPid:.0' /proc/$agent/task/*/status | wc -l | grep -qx \"$(ls /proc/$agent/task | wc -l)\" && exit 0
                 sleep 0.1
             done; cat /run/strace.err >&2; exit 1",
        ))?;
        // The first opening reads for the decision; the next one is the job's.
        // Whoever traces stops, and nothing that is traced goes on.
        node.vm.sh(
            "(journalctl -q --no-pager -f -n all -o cat -u disk-discovery | while read -r line; do
                 case $line in
                     *decided*vdb*) : > /run/listens ;;
                     *decided*sda*provision*) kill -STOP $(</run/tracer); : > /run/stands; break ;;
                 esac
             done) </dev/null >/dev/null 2>&1 &
             while [ $SECONDS -lt 100 ]; do [ -e /run/listens ] && exit 0; sleep 0.1; done; exit 1",
        )?;
        node.vm.plug(Disk::scsi("first").gib(12).serial("FIRST"))?;
        node.vm.sh(
            "while [ $SECONDS -lt 280 ]; do [ -e /run/stands ] && exit 0; sleep 0.1; done
             journalctl -u disk-discovery >&2; exit 1",
        )?;
        node.vm.settle()?;
        Ok(Self { node })
    }

    /// Another disk in the place of the first, with its kernel name.
    fn swap(&mut self, disk: Disk) -> Result<()> {
        self.node.vm.yank("first")?;
        self.node.vm.plug(disk)?;
        self.node.vm.settle()?;
        let name = self.node.vm.kernel_name("second")?;
        ensure!(name == "sda", "the other disk is {name}");
        Ok(())
    }

    /// The agent goes on; the next opening of the disk is delayed again.
    fn go_on(&mut self) -> Result<()> {
        self.node.vm.sh("kill -CONT $(cat /run/tracer)").map(drop)
    }

    /// The agent goes on without anything that holds it.
    fn let_go(mut self) -> Result<Node> {
        let tracer = "$(cat /run/tracer)";
        self.node.vm.sh(&format!(
            "kill -TERM {tracer}; kill -CONT {tracer}
             while [ $SECONDS -lt 100 ]; do kill -0 {tracer} 2>/dev/null || exit 0; sleep 0.1; done; exit 1"
        ))?;
        Ok(self.node)
    }
}

fn foreign_instead(lab: &Lab) -> Result<()> {
    let mut held = Held::at_open(lab, "foreign-instead")?;
    let file = crate::foreign_image(&held.node.vm.run_dir())?;
    held.swap(Disk::scsi("second").file(file).serial("SECOND"))?;
    let before = Untouched::note(&mut held.node, &["second"])?;
    let mut node = held.let_go()?;
    node.wait_logged(&["sda", "not the disk that was decided on"])?;
    node.wait_refused("sda", "signature:ext4")?;
    node.takes_another()?;
    before.check(&mut node)
}

fn blank_instead(lab: &Lab) -> Result<()> {
    let mut held = Held::at_open(lab, "blank-instead")?;
    let first = held.node.vm.disk_path("first")?;
    let first_before = digest_file(&first)?;
    held.swap(Disk::scsi("second").gib(12).serial("SECOND"))?;
    let before = Untouched::note(&mut held.node, &["second"])?;
    held.go_on()?;
    held.node
        .wait_logged(&["sda", "not the disk that was decided on"])?;
    // To decide anew it has to open the disk again, which is delayed.
    before.check(&mut held.node)?;
    let mut node = held.let_go()?;
    node.wait_mounted(&["/mnt/longhorn/sda1", "/mnt/longhorn/vdb1"])?;
    ensure!(
        digest_file(&first)? == first_before,
        "the first was written"
    );
    // What was noted for the first disk is not what the second was given.
    let serial = node
        .vm
        .sh("udevadm info -q property --property=ID_SCSI_SERIAL --value /dev/sda")?;
    ensure!(serial.trim() == "SECOND", "{serial}");
    Ok(())
}

fn table_by_a_tool(lab: &Lab) -> Result<()> {
    let mut held = Held::at_open(lab, "table-by-a-tool")?;
    held.node
        .vm
        .sh("printf 'label: gpt\\n,1G\\n' | sfdisk -q /dev/sda && udevadm settle && sync")?;
    let before = Untouched::note(&mut held.node, &["first"])?;
    let mut node = held.let_go()?;
    node.wait_logged(&["sda", "not proven"])?;
    node.wait_refused("sda", "partitioned")?;
    before.check(&mut node)
}

fn table_without_an_event(lab: &Lab) -> Result<()> {
    let mut held = Held::at_open(lab, "table-without-an-event")?;
    let file = held.node.vm.disk_path("first")?;
    crate::host("sgdisk", &["-n", "1:0:+1G"], &file)?;
    let before = Untouched::note(&mut held.node, &["first"])?;
    let known = "ls /sys/block/sda | grep '^sda'; udevadm info -q property /dev/sda | grep TABLE";
    let known = held.node.vm.run(known)?;
    ensure!(known.stdout.is_empty(), "somebody was told: {known:?}");
    let mut node = held.let_go()?;
    node.wait_logged(&["sda", "not proven: signature:gpt"])?;
    // Where the proof had the disk open to write, udevd looks again after it.
    node.wait_until("it is refused for the table", |disks| {
        ["signature:gpt", "partitioned"].contains(&disks.field("sda", "reason"))
    })?;
    before.check(&mut node)
}
