//! The two proofs that permit a write, each made on the open, exclusively held
//! disk and consumed by the first write.

use super::{ExclusiveDisk, ProvisionError, Target};
use crate::{
    claim::{Claim, ClaimId, Table},
    decide::{self, Claimed, Reason, Refusal},
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
            .examine(journalled, Depth::Blankness, disk.file());
        // That somebody holds it exclusively is true by now: we do.
        if let Some(content) = &mut medium.content {
            content.busy = crate::fact::Fact::Known(false);
        }
        decide::blank(&medium).map_err(ProvisionError::NotProven)?;
        if disk.disk().partition().is_some() {
            return Err(ProvisionError::NotProven(Reason::Partitioned.into()));
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
        let medium = disk.disk().examine(journalled, Depth::Claim, disk.file());
        match decide::claimed(&medium).map_err(ProvisionError::NotProven)? {
            Claimed::Pending => {}
            Claimed::Committed { .. } => {
                let refusal = Refusal::new(
                    Reason::ClaimDamaged,
                    "the claim is committed and is never formatted again",
                );
                return Err(ProvisionError::NotProven(refusal));
            }
        }
        match medium.table.known() {
            Ok(Table::Ours {
                claim: Claim { id, .. },
                whole,
                ..
            }) if id == claim => Ok(Self {
                whole: *whole,
                claim: claim.clone(),
                disk,
            }),
            Ok(_) | Err(_) => {
                let refusal = Refusal::new(Reason::ClaimDamaged, "the disk carries another claim");
                Err(ProvisionError::NotProven(refusal))
            }
        }
    }

    /// The claim, whether its table is whole, and the disk.
    pub(super) fn into_parts(self) -> (ExclusiveDisk, ClaimId, bool) {
        (self.disk, self.claim, self.whole)
    }
}
