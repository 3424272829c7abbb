//! The steps of a job, as lists: what `provision` does, in its order, and the
//! same with one mistake.

use std::sync::LazyLock;

use disk_discovery::{
    claim::{ClaimId, Ends, Stage, TableImage},
    units::Filesystem,
};

use crate::{
    bytes,
    world::{Job, Plan},
};

/// What a job does next. Each is done or not done; what a crash within one
/// leaves is in the cells of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Opens, locks, compares identities, asks for the exclusive right.
    Open,
    /// Reads the disk again: blank, approved, ours and pending, or committed.
    Prove,
    /// Writes the entry of the journal, durably.
    Record,
    /// Makes the directory that keeps the name.
    Reserve,
    WriteBackup(Stage),
    WritePrimary(Stage),
    FlushTable,
    /// Compares the table on the disk with the one written.
    ReadBack(Stage),
    /// Tells the kernel of the partition, gives up the exclusive right.
    HandOver,
    Mkfs(Mkfs),
    FlushFilesystem,
    /// The filesystem is of the right type and carries the claim's GUID.
    CheckFilesystem,
    /// Before the commit: nothing but this claim at this stage is there.
    ReadClaim(Stage),
    /// Makes the mountpoint, if it is not there.
    Mountpoint,
    Mount,
    /// Removes the entry of the journal, durably.
    Forget,
}

/// What mkfs does, as `strace` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mkfs {
    /// mke2fs zeroes the place of the superblock.
    Clear,
    /// mkfs.xfs writes a superblock that says "in progress".
    Begin,
    Body,
    Flush,
    /// The superblock as it stays.
    Superblock,
    End,
}

impl Step {
    /// Its name in the table of `docs/protocol.md`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Prove => "prove",
            Self::Record => "record",
            Self::Reserve => "reserve",
            Self::WriteBackup(Stage::Pending) => "write-backup",
            Self::WritePrimary(Stage::Pending) => "write-primary",
            Self::FlushTable => "flush-table",
            Self::ReadBack(_) => "read-back",
            Self::HandOver => "hand-over",
            Self::Mkfs(_) => "mkfs",
            Self::FlushFilesystem => "flush-filesystem",
            Self::CheckFilesystem => "check-filesystem",
            Self::ReadClaim(_) => "read-claim",
            Self::WriteBackup(Stage::Committed) => "commit-backup",
            Self::WritePrimary(Stage::Committed) => "commit-primary",
            Self::Mountpoint => "mountpoint",
            Self::Mount => "mount",
            Self::Forget => "forget",
        }
    }

    /// What the job reads or changes is not the disk alone.
    pub fn is_shared(self) -> bool {
        matches!(
            self,
            Self::Open
                | Self::Record
                | Self::Reserve
                | Self::WriteBackup(_)
                | Self::Mountpoint
                | Self::Mount
                | Self::Forget
        )
    }

    /// While this is what comes next, the job holds the disk exclusively: a
    /// person who partitions or mounts gets an error.
    pub fn is_exclusive(self) -> bool {
        match self {
            Self::Open
            | Self::Mkfs(_)
            | Self::FlushFilesystem
            | Self::CheckFilesystem
            | Self::ReadClaim(_)
            | Self::Mountpoint
            | Self::Mount
            | Self::Forget => false,
            Self::Prove
            | Self::Record
            | Self::Reserve
            | Self::WriteBackup(_)
            | Self::WritePrimary(_)
            | Self::FlushTable
            | Self::ReadBack(_)
            | Self::HandOver => true,
        }
    }
}

/// A mistake in the protocol that the checker must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mistake {
    /// The copy that partition tables are read from is written first.
    PrimaryFirst,
    /// Both copies are flushed at once.
    OneFlush,
    /// No copy is flushed.
    NoFlush,
    /// A table that is found whole is taken for durable.
    ResumeUnflushed,
    /// The claim is committed before there is a filesystem.
    CommitFirst,
    /// The claim is committed before the filesystem is durable.
    CommitUnflushed,
    /// The journal is written when the table is.
    RecordLate,
    /// The entry is removed before the commit.
    ForgetEarly,
    /// The table is not read again after mkfs.
    NotReadAgain,
    /// What is in the partition of a pending claim is taken for ours.
    ResidueIgnored,
    /// The primary copy is believed where the copies disagree.
    PrimaryBelieved,
    /// The disk is not read again once it is open.
    NotProven,
    /// The directory that keeps the name may be lost in a power cut.
    NameNotDurable,
}

impl Mistake {
    pub const ALL: [Self; 13] = [
        Self::PrimaryFirst,
        Self::OneFlush,
        Self::NoFlush,
        Self::ResumeUnflushed,
        Self::CommitFirst,
        Self::CommitUnflushed,
        Self::RecordLate,
        Self::ForgetEarly,
        Self::NotReadAgain,
        Self::ResidueIgnored,
        Self::PrimaryBelieved,
        Self::NotProven,
        Self::NameNotDurable,
    ];
}

/// The steps of a job from its beginning; the list beyond `Prove` depends on
/// what was proven.
pub fn steps(filesystem: Filesystem, job: &Job, mistake: Option<Mistake>) -> Vec<Step> {
    let mut steps = vec![Step::Open, Step::Prove];
    match job.plan {
        Plan::Provision { .. } => {
            steps.extend([Step::Record, Step::Reserve]);
            steps.extend(table(Stage::Pending));
        }
        // Who wrote it may have been killed before it was durable.
        Plan::Resume(_) if job.whole => steps.push(Step::FlushTable),
        Plan::Resume(_) => steps.extend(table(Stage::Pending)),
        Plan::Mount(_) if !job.whole => {
            steps.push(Step::ReadClaim(Stage::Committed));
            steps.extend(table(Stage::Committed));
        }
        Plan::Mount(_) => {}
    }
    steps.push(Step::HandOver);
    if !matches!(job.plan, Plan::Mount(_)) {
        if !job.finished {
            steps.extend(mkfs(filesystem).iter().copied().map(Step::Mkfs));
        }
        steps.extend([Step::FlushFilesystem, Step::CheckFilesystem]);
        steps.push(Step::ReadClaim(Stage::Pending));
        steps.extend(table(Stage::Committed));
    }
    steps.extend([Step::Mountpoint, Step::Mount, Step::Forget]);
    match mistake {
        Some(mistake) => mistaken(steps, mistake),
        None => steps,
    }
}

/// The order of the two copies is not the model's: it is the agent's own.
fn table(stage: Stage) -> Vec<Step> {
    static BACKUP_OR_NOT: LazyLock<Vec<bool>> = LazyLock::new(|| {
        let geometry = bytes::geometry(Filesystem::Ext4);
        let id = ClaimId::fresh("sdb1".parse().expect("a name"));
        let image = TableImage::build(geometry, &id, Stage::Pending).expect("a table");
        let tail = Ends::tail_start(geometry);
        image.writes().map(|write| Some(write.at) == tail).into()
    });
    let write = |backup: &bool| match backup {
        true => Step::WriteBackup(stage),
        false => Step::WritePrimary(stage),
    };
    let writes = BACKUP_OR_NOT.iter().map(write);
    let mut steps: Vec<Step> = writes.flat_map(|write| [write, Step::FlushTable]).collect();
    steps.push(Step::ReadBack(stage));
    steps
}

fn mkfs(filesystem: Filesystem) -> &'static [Mkfs] {
    match filesystem {
        // The superblock is written when all else is durable.
        Filesystem::Ext4 => &[
            Mkfs::Clear,
            Mkfs::Body,
            Mkfs::Flush,
            Mkfs::Superblock,
            Mkfs::End,
        ],
        // One flush for everything.
        Filesystem::Xfs => &[Mkfs::Begin, Mkfs::Body, Mkfs::Superblock, Mkfs::End],
    }
}

fn mistaken(mut steps: Vec<Step>, mistake: Mistake) -> Vec<Step> {
    let position = |steps: &[Step], step: Step| steps.iter().position(|there| *there == step);
    let moved = |steps: &mut Vec<Step>, step: Step, to: usize| {
        if let Some(from) = position(steps, step) {
            steps.remove(from);
            steps.insert(if from < to { to - 1 } else { to }, step);
        }
    };
    match mistake {
        Mistake::PrimaryFirst => {
            for step in &mut steps {
                *step = match *step {
                    Step::WriteBackup(stage) => Step::WritePrimary(stage),
                    Step::WritePrimary(stage) => Step::WriteBackup(stage),
                    other => other,
                };
            }
        }
        Mistake::OneFlush => {
            let again = steps.clone();
            let mut at = 0;
            steps.retain(|step| {
                at += 1;
                let next = again.get(at);
                !(*step == Step::FlushTable && matches!(next, Some(Step::WritePrimary(_))))
            });
        }
        Mistake::NoFlush => steps.retain(|step| *step != Step::FlushTable),
        Mistake::ResumeUnflushed => {
            let prove = position(&steps, Step::Prove).expect("every job proves");
            if steps.get(prove + 1) == Some(&Step::FlushTable) {
                steps.remove(prove + 1);
            }
        }
        Mistake::CommitFirst => {
            if let (Some(to), Some(from)) = (
                position(&steps, Step::HandOver),
                position(&steps, Step::ReadClaim(Stage::Pending)),
            ) {
                let commit: Vec<Step> = steps.drain(from..from + 6).collect();
                steps.splice(to + 1..to + 1, commit);
            }
        }
        Mistake::CommitUnflushed => {
            let end = |step: &Step| matches!(step, Step::FlushFilesystem | Step::Mkfs(Mkfs::End));
            steps.retain(|step| !end(step));
        }
        Mistake::RecordLate => {
            if let Some(to) = position(&steps, Step::ReadBack(Stage::Pending)) {
                moved(&mut steps, Step::Record, to + 1);
            }
        }
        Mistake::ForgetEarly => {
            if let Some(to) = position(&steps, Step::HandOver) {
                moved(&mut steps, Step::Forget, to + 1);
            }
        }
        Mistake::NotReadAgain => steps.retain(|step| *step != Step::ReadClaim(Stage::Pending)),
        Mistake::ResidueIgnored
        | Mistake::PrimaryBelieved
        | Mistake::NotProven
        | Mistake::NameNotDurable => {}
    }
    steps
}
