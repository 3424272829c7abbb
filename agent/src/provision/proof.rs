//! The two proofs that permit a write, each made on the open, exclusively held
//! disk and consumed by the first write.

use super::{ExclusiveDisk, ProvisionError, Target};
use crate::{
    claim::ClaimId,
    decide::{self, Claimed, Left, Reason, Refusal},
    observe::medium::Depth,
};

/// An exclusively held disk that was found blank.
///
/// It owns the disk, so that what was proven and what is written are the same
/// open file; it cannot be copied, so that a proof is used once:
///
/// ```compile_fail
/// fn twice(proof: disk_discovery::provision::BlankProof) {
///     let (_a, _b) = (proof.clone(), proof);
/// }
/// ```
///
/// ```compile_fail
/// fn forge(disk: disk_discovery::provision::ExclusiveDisk) {
///     let _proof = disk_discovery::provision::BlankProof { disk };
/// }
/// ```
#[derive(Debug)]
pub struct BlankProof {
    disk: ExclusiveDisk,
}

impl BlankProof {
    /// Reads the disk once more and proves it blank.
    ///
    /// # Errors
    /// [`ProvisionError::NotProven`] with the reason.
    pub fn of(disk: ExclusiveDisk, journalled: &[ClaimId]) -> Result<Self, ProvisionError> {
        let mut medium = disk
            .disk()
            .examine(journalled, Depth::Blankness, disk.file())?;
        // That somebody holds it exclusively is true by now: we do.
        if let Some(content) = &mut medium.content {
            content.busy = crate::fact::Fact::Known(false);
        }
        decide::blank(&medium).map_err(ProvisionError::NotProven)?;
        let partitions = disk.disk().partitions()?;
        if !partitions.is_empty() {
            let refusal = Refusal::new(Reason::Partitioned, partitions.join(" "));
            return Err(ProvisionError::NotProven(refusal));
        }
        Ok(Self { disk })
    }

    /// The disk that was proven blank.
    pub fn target(&self) -> &Target {
        self.disk.disk().target()
    }

    pub(super) fn into_disk(self) -> ExclusiveDisk {
        self.disk
    }
}

/// An exclusively held disk that carries nothing but our own pending claim and
/// what our own unfinished mkfs left.
///
/// ```compile_fail
/// fn twice(proof: disk_discovery::provision::PendingProof) {
///     let (_a, _b) = (proof.clone(), proof);
/// }
/// ```
#[derive(Debug)]
pub struct PendingProof {
    disk: ExclusiveDisk,
    claim: ClaimId,
    whole: bool,
    left: Left,
}

impl PendingProof {
    /// Reads the claim once more and proves that it is pending.
    ///
    /// # Errors
    /// [`ProvisionError::NotProven`] with the reason.
    pub fn of(
        disk: ExclusiveDisk,
        claim: &ClaimId,
        journalled: &[ClaimId],
    ) -> Result<Self, ProvisionError> {
        let medium = disk.disk().examine(journalled, Depth::Claim, disk.file())?;
        let refused = |what| {
            Err(ProvisionError::NotProven(Refusal::new(
                Reason::ClaimDamaged,
                what,
            )))
        };
        match decide::claimed(&medium).map_err(ProvisionError::NotProven)? {
            Claimed::Pending { id, whole, left } if id == *claim => Ok(Self {
                disk,
                claim: id,
                whole,
                left,
            }),
            Claimed::Pending { .. } => refused("the disk carries another claim"),
            Claimed::Committed { .. } => {
                refused("the claim is committed and is never formatted again")
            }
        }
    }

    /// What the interrupted provisioning has left in the partition.
    pub fn left(&self) -> Left {
        self.left
    }

    /// The claim, whether its table is whole, and the disk.
    pub(super) fn into_parts(self) -> (ExclusiveDisk, ClaimId, bool) {
        (self.disk, self.claim, self.whole)
    }
}
