//! A state directory that is full or cannot be written: then no disk is.

use anyhow::Result;
use vm_fixtures::Disk;
use vm_tests::{Node, Untouched};

use crate::{
    Case, Ground, When,
    ward::{self, error_of, failures, is_mounted},
};

pub const CASES: &[Case] = &[(
    "no_disk_is_begun_while_journal_or_ledger_cannot_be_written_and_each_is_when_they_can",
    When::Always,
    not_written,
)];

const STATE: &str = "/var/lib/disk-discovery";

/// What makes writing fail, what is said, and how it is mended.
struct Hindrance {
    disk: &'static str,
    begins: String,
    error: &'static [&'static str],
    ends: String,
}

fn hindrances() -> [Hindrance; 3] {
    // An approval is about 60 bytes: this ledger does not fit a second time
    // into what is left, and any journal entry does. It comes last, or a round
    // that misses the names in it would still have the room to write them.
    let approvals =
        "for i in $(seq 3000); do printf '\"approve-%016x-%032x\",' 1 $i; done | sed 's/,$//'";
    [
        Hindrance {
            disk: "journal",
            begins: format!("! cat /dev/zero > {STATE}/filler"),
            error: &["nothing was written to the disk: ", "/journal/", "No space left"],
            ends: format!("rm {STATE}/filler"),
        },
        Hindrance {
            disk: "ledger",
            begins: format!(
                "(printf '{{\"version\":1,\"formats\":[],\"usedApprovals\":['; {approvals}; printf ']}}') > /run/ledger
                 has=$(stat -c %s {STATE}/ledger.json)
                 gets=$(stat -c %s /run/ledger)
                 left=$(($(stat -f -c '%a*%S' {STATE})))
                 head -c $((left + has - gets - 98304)) /dev/zero > {STATE}/filler
                 cp /run/ledger {STATE}/ledger.json"
            ),
            error: &["nothing was written to the disk: ledger", "No space left"],
            ends: format!("cmp /run/ledger {STATE}/ledger.json && rm {STATE}/filler"),
        },
        Hindrance {
            disk: "read-only",
            begins: format!(
                "mount --bind {STATE}/journal {STATE}/journal && mount -o remount,bind,ro {STATE}/journal"
            ),
            error: &["nothing was written to the disk: ", "/journal/", "Read-only"],
            // The agent may be in it at this moment, about to fail once more.
            ends: format!("umount -l {STATE}/journal"),
        },
    ]
}

fn not_written(ground: &Ground) -> Result<()> {
    let (mut node, foreign) = ward::node(ground, "state", Vec::new(), "")?;
    node.vm.sh(&format!(
        "mkdir -p {STATE} && mount -t tmpfs -o size=1m tmpfs {STATE}"
    ))?;
    node.start_agent()?;
    for hindrance in hindrances() {
        hinder(ground, &mut node, &hindrance)?;
    }
    foreign.check(ground, &mut node)
}

fn hinder(ground: &Ground, node: &mut Node, hindrance: &Hindrance) -> Result<()> {
    node.vm.sh(&hindrance.begins)?;
    node.vm.plug(Disk::virtio(hindrance.disk).gib(12))?;
    let device = node.vm.kernel_name(hindrance.disk)?;
    let before = Untouched::note(node, &[hindrance.disk])?;
    node.wait_until("it failed again and again", |disks| {
        let error = error_of(disks, &device);
        failures(disks, &device) >= 2 && hindrance.error.iter().all(|part| error.contains(part))
    })?;
    ground.tally.met();
    before
        .check(node)
        .inspect_err(|_written| ground.tally.harmed())?;
    // In the middle of a further attempt there is more.
    node.wait_for("nothing is begun", |node| {
        let left = node.vm.sh(&format!(
            "ls {STATE}/journal; ls -d /mnt/longhorn/{device}1; true"
        ))?;
        // What is left of an attempt is the file that was not finished.
        Ok(left.lines().all(|line| line.ends_with(".tmp")))
    })?;
    node.vm.sh(&hindrance.ends)?;
    node.wait_until("it is mounted", |disks| is_mounted(disks, &device))?;
    ground.tally.recovered();
    Ok(())
}
