//! The only code that writes to disks.
//!
//! A job is a function of a verdict and runs from its beginning to its end in
//! one thread. Each step consumes the value that permits it:
//!
//! ```text
//! Target ─open, flock, O_EXCL, identity,
//!         nobody else writes to it──────► ExclusiveDisk
//!        ─read the medium──────────────► BlankProof or PendingProof
//!        ─journal, write the table─────► PendingDisk
//!        ─mkfs, verify, commit, mount──► Mounted
//!
//! Target ─open, flock, identity────────► LockedDisk
//!        ─read the medium, mounts──────► GrowProof
//!        ─table, partition, filesystem─► Grown
//! ```

mod error;
mod exclusive;
mod grow;
mod mkfs;
mod mount;
mod proof;
mod table;
#[cfg(test)]
mod tests;

use std::{path::PathBuf, time::Duration};

use serde::Serialize;

pub use error::ProvisionError;
pub use exclusive::{ExclusiveDisk, LockedDisk, Target};
pub use grow::{GrowProof, Grown};
pub use mkfs::{Ground, Program};
pub use mount::{check_unused, unmount_dead, unmount_released};
pub use proof::{BlankProof, PendingProof};
pub use table::{Partition, PendingDisk};

use mount::Occupant;

use crate::{
    claim::{Begun, ClaimId, Stage, TableImage},
    decide::{Adopt, Claimed, Growth, Left, Managed, Provision, Resume, Source, Verdict, claimed},
    journal::Entry,
    observe::Host,
    state::State,
    text::chain,
    units::{DiskName, Filesystem},
};

/// What a job needs of its surroundings.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Where the host's trees are.
    pub host: Host,
    /// What is about to be written, and what was done.
    pub state: State,
    /// Disks begun within an hour; unlimited when there is no number.
    pub max_formats_per_hour: Option<u32>,
    /// How long a mkfs may take.
    pub mkfs_timeout: Duration,
    /// Directory below which disks are mounted.
    pub mount_root: PathBuf,
    /// Name of this node.
    pub node: String,
}

/// Work on one disk.
#[derive(Debug, Clone)]
pub enum Job {
    /// A blank disk becomes a mounted one.
    Provision(Provision),
    /// An interrupted provisioning is finished.
    Resume(Resume),
    /// A committed disk is mounted, its commit completed where it was cut off.
    Mount(Managed),
    /// A disk is mounted that this node's agent has not made.
    Adopt(Adopt),
    /// A mounted disk that was enlarged is grown.
    Grow(Managed),
}

impl Job {
    /// The work that a verdict asks for, if any.
    pub fn for_verdict(verdict: &Verdict) -> Option<Self> {
        match verdict {
            Verdict::Provision(provision) => Some(Self::Provision(provision.clone())),
            Verdict::Resume(resume) => Some(Self::Resume(resume.clone())),
            Verdict::Managed(managed) if !managed.mounted => Some(Self::Mount(managed.clone())),
            Verdict::Managed(managed) => {
                let due = managed.growth == Some(Growth::Due);
                due.then(|| Self::Grow(managed.clone()))
            }
            Verdict::Adopt(adopt) => (!adopt.mounted).then(|| Self::Adopt(adopt.clone())),
            Verdict::Refused(_) => None,
        }
    }

    /// Whether it does nothing but mount.
    pub fn mounts_only(&self) -> bool {
        match self {
            Self::Mount(_) | Self::Adopt(_) => true,
            Self::Provision(_) | Self::Resume(_) | Self::Grow(_) => false,
        }
    }

    /// Whether it grows what is mounted already.
    pub fn grows(&self) -> bool {
        matches!(self, Self::Grow(_))
    }

    /// Whether it may write to a disk anything but the end of a commit.
    pub fn formats(&self) -> bool {
        match self {
            Self::Provision(_) | Self::Resume(_) | Self::Grow(_) => true,
            Self::Mount(_) | Self::Adopt(_) => false,
        }
    }
}

/// How far a job has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Waits for a free worker.
    Waiting,
    /// Opens, locks and identifies the disk.
    Claiming,
    /// Reads the medium.
    Proving,
    /// Writes the journal and the partition table.
    Partitioning,
    /// mkfs runs.
    Formatting,
    /// Checks the filesystem and commits the claim.
    Committing,
    /// Mounts.
    Mounting,
    /// Grows table, partition and filesystem.
    Growing,
}

/// What a job has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    /// The disk is mounted at its place.
    Mounted(Mounted),
    /// The disk was mounted before and is as large as it can be.
    Grown(Grown),
}

/// A disk that was mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// Its name.
    pub name: DiskName,
    /// Where.
    pub path: PathBuf,
}

/// Does a job. Blocks; progress is told as it goes.
///
/// # Errors
/// What failed. The next round looks again and finds the disk as it was, or
/// with a claim that it resumes.
pub fn execute(
    job: &Job,
    target: Target,
    around: &Surroundings,
    progress: &dyn Fn(Phase),
) -> Result<Done, ProvisionError> {
    progress(Phase::Claiming);
    match job {
        Job::Provision(provision) => {
            let disk = ExclusiveDisk::open(target, &around.host)?;
            progress(Phase::Proving);
            let begun = begun_claims(disk.disk().target(), around)?;
            let proof = BlankProof::of(disk, &begun, provision.approval)?;
            // Not before the proof: without mkfs the disk stays as it is.
            Program::for_filesystem(provision.filesystem).find()?;
            progress(Phase::Partitioning);
            let pending = begin(proof, provision, around)?;
            progress(Phase::Formatting);
            let patience = around.mkfs_timeout;
            mkfs::make(&pending, provision.filesystem, Ground::Fresh, patience)?;
            finish(pending, provision.filesystem, around, progress).map(Done::Mounted)
        }
        Job::Resume(resume) => {
            let disk = ExclusiveDisk::open(target, &around.host)?;
            progress(Phase::Proving);
            let begun = begun_claims(disk.disk().target(), around)?;
            let proof = PendingProof::of(disk, &resume.claim, &begun)?;
            Program::for_filesystem(resume.filesystem).find()?;
            around.state.ledger.check_not_frozen()?;
            progress(Phase::Partitioning);
            let left = proof.left();
            let pending = proof.resume()?;
            let filesystem = match left {
                Left::Unfinished => {
                    progress(Phase::Formatting);
                    let patience = around.mkfs_timeout;
                    mkfs::make(&pending, resume.filesystem, Ground::Resumed, patience)?;
                    resume.filesystem
                }
                Left::Finished(filesystem) => filesystem,
            };
            finish(pending, filesystem, around, progress).map(Done::Mounted)
        }
        Job::Mount(managed) => {
            let disk = LockedDisk::open(target, &around.host)?;
            progress(Phase::Proving);
            let another = |what: &str| Err(ProvisionError::TableNotRead(what.to_owned()));
            // As the decision read it. What is committed is mounted also where the
            // journal cannot be read.
            let begun = begun_claims(disk.target(), around);
            let begun = begun.as_ref().map_or(&[][..], Vec::as_slice);
            let resized = match claimed(&disk.examine_claim(begun)?)
                .map_err(ProvisionError::NotProven)?
            {
                Claimed::Committed { id, .. } if id != managed.claim => {
                    return another("another claim");
                }
                Claimed::Committed {
                    whole: false,
                    only_ours: true,
                    resized: None,
                    ..
                } => {
                    progress(Phase::Committing);
                    table::complete_commit(&disk, &managed.claim, begun)?;
                    None
                }
                // To complete that is to take the space behind it: not before
                // it is mounted and a proof allows it.
                Claimed::Committed { resized, .. } => resized,
                Claimed::Pending { .. } => return another("the claim is not committed any more"),
            };
            let partition = table::open_partition(&disk, Stage::Committed, resized)?;
            mount_committed(
                &disk,
                &partition,
                &managed.claim,
                managed.filesystem,
                around,
                progress,
            )
            .map(Done::Mounted)
        }
        Job::Grow(managed) => {
            let disk = LockedDisk::open(target, &around.host)?;
            progress(Phase::Proving);
            around.state.ledger.check_not_frozen()?;
            let claim = &managed.claim;
            mount::check_not_released(claim.partition_guid, &claim.name, around)?;
            let proof = GrowProof::of(disk, managed, &around.mount_root)?;
            progress(Phase::Growing);
            proof.grow().map(Done::Grown)
        }
        Job::Adopt(adopt) => {
            let disk = LockedDisk::open(target, &around.host)?;
            progress(Phase::Proving);
            let partition = match &adopt.from {
                Source::Claim(id) => {
                    let found = claimed(&disk.examine_claim(&[])?);
                    let resized = match found.map_err(ProvisionError::NotProven)? {
                        Claimed::Committed {
                            id: found, resized, ..
                        } if found == *id => resized,
                        Claimed::Committed { .. } | Claimed::Pending { .. } => {
                            return Err(ProvisionError::TableNotRead("another claim".to_owned()));
                        }
                    };
                    table::open_partition(&disk, Stage::Committed, resized)?
                }
                Source::Longhorn => table::open_only_partition(&disk)?,
            };
            progress(Phase::Mounting);
            let occupant = Occupant {
                uuid: adopt.uuid,
                name: &adopt.name,
                filesystem: adopt.filesystem,
                named_by_disk: false,
            };
            let path = mount::mount(&disk, &partition, &occupant, around)?;
            Ok(Done::Mounted(Mounted {
                name: adopt.name.clone(),
                path,
            }))
        }
    }
}

/// Journals what is about to be written, reserves the name, then writes the
/// pending table.
fn begin(
    proof: BlankProof,
    provision: &Provision,
    around: &Surroundings,
) -> Result<PendingDisk, ProvisionError> {
    let target = proof.target();
    let claim = provision
        .begun
        .clone()
        .unwrap_or_else(|| ClaimId::fresh(provision.name.clone()).made_on(&around.node));
    let pending = TableImage::build(target.geometry(), &claim, Stage::Pending)?;
    let committed = TableImage::build(target.geometry(), &claim, Stage::Committed)?;
    let entry = Entry::new(
        claim.clone(),
        target.geometry(),
        target.wwn_and_serial(),
        provision.filesystem,
        (&pending, &committed),
        proof.approved().cloned(),
    );
    let again = provision.begun.is_some();
    let State {
        journal, ledger, ..
    } = &around.state;
    journal.record(&entry)?;
    // The decision may be old: meanwhile another disk may have come by the
    // name, somebody have begun to write to the disk, or formatting been frozen.
    let allowed = mount::reserve(&around.mount_root, &claim, again).and_then(|()| {
        let begun = proof.check_nobody_writes().and_then(|()| {
            let limit = around.max_formats_per_hour;
            Ok(ledger.begin(&claim.name, provision.approval, again, limit)?)
        });
        if begun.is_err() && !again {
            mount::give_back(&around.mount_root, &claim);
        }
        begun
    });
    if let Err(error) = allowed {
        // What was begun before keeps its entry and with it its name.
        if !again {
            journal.forget(&claim)?;
        }
        return Err(error);
    }
    proof.claim(claim, &pending)
}

/// From a complete filesystem under a pending claim to a mounted disk.
fn finish(
    pending: PendingDisk,
    filesystem: Filesystem,
    around: &Surroundings,
    progress: &dyn Fn(Phase),
) -> Result<Mounted, ProvisionError> {
    progress(Phase::Committing);
    mkfs::verify(&pending, filesystem)?;
    let claim = pending.claim().clone();
    let (disk, partition) = pending.commit()?;
    mount_committed(&disk, &partition, &claim, filesystem, around, progress)
}

fn mount_committed(
    disk: &LockedDisk,
    partition: &Partition,
    claim: &ClaimId,
    filesystem: Filesystem,
    around: &Surroundings,
    progress: &dyn Fn(Phase),
) -> Result<Mounted, ProvisionError> {
    progress(Phase::Mounting);
    let occupant = Occupant {
        uuid: claim.partition_guid,
        name: &claim.name,
        filesystem,
        named_by_disk: true,
    };
    let path = mount::mount(disk, partition, &occupant, around)?;
    // The claim on the disk says everything from here on.
    if let Err(error) = around.state.journal.forget(claim) {
        tracing::warn!(
            error = chain(&error),
            "an entry of the journal stays until the next round"
        );
    }
    Ok(Mounted {
        name: claim.name.clone(),
        path,
    })
}

/// Claims that the journal says were begun on this disk.
fn begun_claims(target: &Target, around: &Surroundings) -> Result<Vec<Begun>, ProvisionError> {
    let entries = around.state.journal.list();
    let entries = entries
        .known()
        .map_err(|why| ProvisionError::Unidentified(why.clone()))?;
    let (wwn, serial) = target.wwn_and_serial();
    Ok(entries
        .iter()
        .filter(|entry| entry.may_be_of(target.geometry(), wwn.as_deref(), serial.as_deref()))
        .filter_map(Entry::begun)
        .collect())
}
