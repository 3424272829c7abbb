//! Grows a mounted disk of ours to the size that it was enlarged to: table,
//! then partition, then filesystem, all while it is in use.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use super::{
    LockedDisk, Partition, ProvisionError,
    mount::{check_filesystem, shown_at},
    table::{complete_table, flush, open_partition},
};
use crate::{
    claim::{ClaimId, Stage, partition_range},
    decide::{Claimed, Managed, Reason, Refusal, claimed, room},
    observe::{
        medium,
        superblock::{Extent, extent},
    },
    sys,
    units::Filesystem,
};

/// A mounted disk of ours that has room behind its partition, and nothing in
/// that room.
///
/// The disk cannot be held exclusively, since its own filesystem holds it. What
/// stands in for that: the lock, the identity of the open disk, and that the
/// one partition is the one that is mounted at the claim's place. A proof is
/// used once:
///
/// ```compile_fail
/// fn twice(proof: disk_discovery::provision::GrowProof) {
///     let (_a, _b) = (proof.clone(), proof);
/// }
/// ```
///
/// and for the disk that it was made on:
///
/// ```compile_fail
/// use disk_discovery::provision::{GrowProof, LockedDisk};
/// fn exchange(disk: LockedDisk, proof: GrowProof) -> GrowProof {
///     GrowProof { disk, ..proof }
/// }
/// ```
#[derive(Debug)]
pub struct GrowProof {
    disk: LockedDisk,
    partition: Partition,
    claim: ClaimId,
    filesystem: Filesystem,
    /// The table is for the present size already: an earlier attempt came so far.
    whole: bool,
    place: PathBuf,
    mount: File,
}

impl GrowProof {
    /// Reads the disk once more and proves that the claim is committed, its
    /// filesystem mounted at its place, and the space to be gained blank.
    ///
    /// # Errors
    /// [`ProvisionError::NotProven`] with the reason, or what else is not so.
    pub fn of(
        disk: LockedDisk,
        managed: &Managed,
        mount_root: &Path,
    ) -> Result<Self, ProvisionError> {
        let medium = disk.examine_claim(&[])?;
        let refused = |reason, detail: &str| {
            let refusal = Refusal::new(reason, detail);
            Err(ProvisionError::NotProven(refusal))
        };
        let (whole, resized) = match claimed(&medium).map_err(ProvisionError::NotProven)? {
            Claimed::Committed {
                id, whole, resized, ..
            } if id == managed.claim => (whole, resized),
            Claimed::Committed { .. } => {
                return refused(Reason::ClaimDamaged, "the disk carries another claim");
            }
            Claimed::Pending { .. } => {
                return refused(Reason::ClaimDamaged, "the claim is not committed");
            }
        };
        room(&medium).map_err(ProvisionError::NoRoom)?;
        let partition = open_partition(&disk, Stage::Committed, resized)?;
        let partitions = disk.partitions()?;
        if partitions.len() != 1 {
            return refused(Reason::Partitioned, &partitions.join(" "));
        }
        check_filesystem(&partition, managed.claim.partition_guid, managed.filesystem)?;
        let place = shown_at(&disk, &partition, &managed.claim, mount_root)?;
        let mount = medium::open_mount(&place, partition.file()).map_err(ProvisionError::io(
            format!("open the mount at {}", place.display()),
        ))?;
        Ok(Self {
            disk,
            partition,
            claim: managed.claim.clone(),
            filesystem: managed.filesystem,
            whole,
            place,
            mount,
        })
    }

    /// Grows table, partition and filesystem, and consumes the proof.
    ///
    /// No journal is needed. The backup at the new end is durable before the
    /// primary is touched, and the older backup stays where it is until the
    /// filesystem takes its place, which is after the primary is durable. So at
    /// each instant there is a whole copy of the table with this claim's GUIDs,
    /// and each sector that is not of a whole copy is from one of two tables,
    /// which the next start tells apart and completes. The kernel's idea of the
    /// partition and the filesystem only follow: both are at any time smaller
    /// than what the table says, or equal, and grown again where they are behind.
    ///
    /// # Errors
    /// When a step fails; the disk stays mounted and is served as it is.
    pub(super) fn grow(self) -> Result<Grown, ProvisionError> {
        let geometry = self.disk.target().geometry();
        let range = partition_range(geometry)
            .ok_or_else(|| ProvisionError::TableNotRead("no room for a partition".to_owned()))?;
        let length = range.end - range.start;
        let size = |file: &File| {
            sys::device_size(file).map_err(ProvisionError::io("ask for the partition's size"))
        };
        let known = size(self.partition.file())?;
        let before = self.extent()?;
        // A decision that comes again and again for nothing must not spin.
        if self.whole && known == length && length.saturating_sub(before.bytes) < before.slack {
            return Err(ProvisionError::NothingToGrow);
        }
        // udevd looks again when this is closed, which is when all is done: a
        // partition whose length is not that of the table has no links by GUID.
        let file = self.disk.open_shared()?;
        if self.whole {
            // Who wrote it may have been killed before it was durable, and the
            // filesystem is about to take the place of the older backup.
            flush(&file, "flush the partition table")?;
        } else {
            complete_table(&self.disk, &file, &self.claim)?;
        }
        if known < length {
            sys::resize_partition(self.disk.locked_file(), 1, range.start, length).map_err(
                ProvisionError::io("tell the kernel of the partition's size"),
            )?;
        }
        let known = size(self.partition.file())?;
        if known != length {
            let detail = format!("the kernel has {known} bytes of {length}");
            return Err(ProvisionError::TableNotRead(detail));
        }
        let extent = self.grow_filesystem(before, length)?;
        drop(file);
        Ok(Grown {
            claim: self.claim,
            path: self.place,
            bytes: extent.bytes,
        })
    }

    fn extent(&self) -> Result<Extent, ProvisionError> {
        extent(self.partition.file(), &self.mount, self.filesystem)
            .map_err(ProvisionError::io("ask for the filesystem's size"))
    }

    fn grow_filesystem(&self, before: Extent, length: u64) -> Result<Extent, ProvisionError> {
        for bytes in steps(before.bytes, length) {
            let blocks = bytes.checked_div(u64::from(before.block)).unwrap_or(0);
            let grown = match self.filesystem {
                Filesystem::Ext4 => sys::grow_ext4(&self.mount, blocks),
                // Inodes keep the share that they have.
                Filesystem::Xfs => sys::xfs_size(&self.mount)
                    .and_then(|size| sys::grow_xfs(&self.mount, blocks, size.inodes_percent)),
            };
            grown.map_err(ProvisionError::io("grow the filesystem"))?;
        }
        let after = self.extent()?;
        if length.saturating_sub(after.bytes) >= after.slack {
            return Err(ProvisionError::NotGrown {
                bytes: after.bytes,
                room: length,
            });
        }
        Ok(after)
    }
}

/// Bytes that a filesystem takes in one go. While the kernel grows it, no signal
/// ends the agent: a large disk is grown piece by piece.
const STEP: u64 = 128 << 30;

/// Sizes on the way from one to the other, which is the last.
fn steps(from: u64, to: u64) -> impl Iterator<Item = u64> {
    let first = from / STEP + 1;
    let whole = (first..).map(|step| step.saturating_mul(STEP));
    whole
        .take_while(move |size| *size < to)
        .chain(std::iter::once(to))
}

/// A disk that was grown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grown {
    /// Its claim.
    pub claim: ClaimId,
    /// Where it is mounted.
    pub path: PathBuf,
    /// Bytes of its filesystem.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filesystem_is_grown_in_steps_up_to_the_whole_partition() {
        let all = |from, to| steps(from, to).collect::<Vec<_>>();
        assert_eq!(all(12 << 30, 24 << 30), [24 << 30]);
        assert_eq!(all(24 << 30, 24 << 30), [24 << 30]);
        assert_eq!(all(STEP - 1, STEP + 1), [STEP, STEP + 1]);
        assert_eq!(all(STEP, 3 * STEP), [2 * STEP, 3 * STEP]);
    }
}
