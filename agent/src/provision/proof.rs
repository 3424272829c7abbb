//! The two proofs that permit a write, each made on the open, exclusively held
//! disk and consumed by the first write.

use super::{ExclusiveDisk, ProvisionError, Target};
use crate::{
    approval::Token,
    claim::{Begun, ClaimId},
    decide::{self, Claimed, Left, Reason, Refusal},
    journal::Approved,
    observe::medium::Depth,
};

/// An exclusively held disk that was found blank, or else is what a person
/// approved, byte for byte as far as it was read.
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
///     let _proof = disk_discovery::provision::BlankProof { disk, approved: None };
/// }
/// ```
#[derive(Debug)]
pub struct BlankProof {
    disk: ExclusiveDisk,
    approved: Option<Approved>,
}

impl BlankProof {
    /// Reads the disk once more and proves it blank, or with an approval that
    /// it is in the state that was approved.
    ///
    /// # Errors
    /// [`ProvisionError::NotProven`] with the reason.
    pub fn of(
        disk: ExclusiveDisk,
        begun: &[Begun],
        approval: Option<Token>,
    ) -> Result<Self, ProvisionError> {
        let mut medium = disk
            .disk()
            .examine(begun, Depth::Blankness, approval, disk.file())?;
        // That somebody holds it exclusively is true by now: we do.
        if let Some(content) = &mut medium.content {
            content.busy = crate::fact::Fact::Known(false);
        }
        let approved = match approval {
            None => {
                decide::blank(&medium).map_err(ProvisionError::NotProven)?;
                None
            }
            Some(token) => {
                decide::approved(&medium, token).map_err(ProvisionError::NotProven)?;
                Some(disk.disk().approved(token, disk.file())?)
            }
        };
        let partitions = disk.disk().partitions()?;
        if !partitions.is_empty() {
            let refusal = Refusal::new(Reason::Partitioned, partitions.join(" "));
            return Err(ProvisionError::NotProven(refusal));
        }
        if let Some(scan) = medium
            .content
            .as_ref()
            .and_then(|content| content.scan.as_ref()?.known().ok())
        {
            tracing::debug!(
                disk = disk.disk().target().name(),
                seed = %scan.seed,
                digest = scan.digest,
                bytes = scan.bytes,
                "proven"
            );
        }
        Ok(Self { disk, approved })
    }

    /// By which approval, and what is written over, if the disk is not blank.
    pub fn approved(&self) -> Option<&Approved> {
        self.approved.as_ref()
    }

    /// Asks once more whether anybody else uses the disk: reading it took a
    /// while.
    ///
    /// # Errors
    /// [`ProvisionError::Held`] with who does, or when that cannot be told.
    pub(super) fn check_nobody_writes(&self) -> Result<(), ProvisionError> {
        self.disk.disk().check_nobody_writes()
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
        begun: &[Begun],
    ) -> Result<Self, ProvisionError> {
        let medium = disk
            .disk()
            .examine(begun, Depth::Claim, None, disk.file())?;
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
