//! What can go wrong while a disk is worked on.

use std::{io, path::PathBuf};

use thiserror::Error;

use crate::{
    claim::TableError,
    decide::{Refusal, Withheld},
    fact::Unreadable,
    journal::JournalError,
    ledger::LedgerError,
    units::{DevNo, DiskName},
};

/// A job on a disk did not come to its end. Nothing is lost: the disk is as it
/// was, or carries a pending claim that the next attempt resumes.
#[derive(Debug, Error)]
pub enum ProvisionError {
    /// A fact that identifies the disk is not known.
    #[error("the disk cannot be identified: {0}")]
    Unidentified(Unreadable),
    /// The kernel name belongs to another disk by now.
    #[error("{node} is not the disk that was decided on: {difference}", node = node.display())]
    AnotherDisk {
        /// Its device node.
        node: PathBuf,
        /// What differs.
        difference: String,
    },
    /// Somebody else holds the disk or its lock.
    #[error("{} is held by somebody else ({how})", node.display())]
    Held {
        /// Its device node.
        node: PathBuf,
        /// By which means, and by whom where that is known.
        how: String,
    },
    /// It is not known that nobody else writes to the disk.
    #[error("it cannot be told who has {} open for writing: {why}", node.display())]
    OpenersUnknown {
        /// Its device node.
        node: PathBuf,
        /// What could not be read.
        why: Unreadable,
    },
    /// The proof on the open disk failed.
    #[error("not proven: {0}")]
    NotProven(Refusal),
    /// The space that a disk of ours was to gain cannot be taken.
    #[error("not grown: {0}")]
    NoRoom(Withheld),
    /// Table, partition and filesystem are as large as they can be.
    #[error("nothing is left to grow")]
    NothingToGrow,
    /// The filesystem is smaller than its partition after it was grown.
    #[error("the filesystem has {bytes} bytes after it was grown, of {room}")]
    NotGrown {
        /// What it has.
        bytes: u64,
        /// What its partition has.
        room: u64,
    },
    /// A system call failed.
    #[error("cannot {step}")]
    Io {
        /// What was being done.
        step: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The journal was not written, so the disk was not either.
    #[error("nothing was written to the disk")]
    Journal(#[from] JournalError),
    /// The disk may not be begun now, or its name cannot be kept.
    #[error("nothing was written to the disk")]
    Ledger(#[from] LedgerError),
    /// No table for this disk.
    #[error("no partition table for this disk")]
    Table(#[from] TableError),
    /// The table read back is not the one written.
    #[error("the partition table read back is not the one written: {0}")]
    TableNotRead(String),
    /// A program that makes filesystems is not installed.
    #[error("{program} is not installed (package {package})")]
    NoProgram {
        /// Its name.
        program: &'static str,
        /// The package that has it.
        package: &'static str,
    },
    /// A program that makes filesystems failed.
    #[error("{program} failed ({status}): {output}")]
    Mkfs {
        /// Its name.
        program: &'static str,
        /// How it ended.
        status: String,
        /// What it printed.
        output: String,
    },
    /// The filesystem found afterwards is not the one asked for.
    #[error("the new filesystem is not found on the partition: {0}")]
    FilesystemNotRead(String),
    /// The mount is not what was asked for.
    #[error("the mount at {path} is not the one made: {found}", path = path.display())]
    MountNotSeen {
        /// Where.
        path: PathBuf,
        /// What is there.
        found: String,
    },
    /// A person has released the disk.
    #[error("{0} was released: it is not mounted until it is taken back")]
    Released(DiskName),
    /// A release was called off.
    #[error("{0} is not released any more")]
    TakenBack(DiskName),
    /// Others need a disk that was released.
    #[error("{0}")]
    Needed(String),
    /// It cannot be unmounted. The kernel does not say who uses it.
    #[error("{path} is in use, by whom the kernel does not tell; fuser -vm {path} may", path = .0.display())]
    InUse(PathBuf),
    /// It is not mounted where the host or this process could see it, and in use.
    #[error(
        "still mounted in another container, or held in another way: {node}; on the host, grep -l ' {devno} ' /proc/[0-9]*/mountinfo may tell by whom",
        node = node.display()
    )]
    UsedElsewhere {
        /// Its device node.
        node: PathBuf,
        /// Its number, as mount tables have it.
        devno: DevNo,
    },
}

impl ProvisionError {
    /// For `map_err` on a system call.
    pub(super) fn io(step: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let step = step.into();
        move |source| Self::Io { step, source }
    }
}
