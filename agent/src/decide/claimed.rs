//! What may be done with a disk that carries our claim.

use super::{Reason, Refusal, view::View};
use crate::{
    claim::{Claim, ClaimId, Resized, Stage, Table},
    observe::{
        Device, Medium, Mountpoint,
        medium::Inside,
        signature::{Found, Signature},
        superblock::Progress,
        tables::Mount,
    },
    units::{Bytes, DiskName, Filesystem},
};

/// What may be done with a claim that is found on a disk.
///
/// # Errors
/// Why nothing may be done.
pub fn claimed(medium: &Medium) -> Result<Claimed, Refusal> {
    let failed = |why: &crate::fact::Unreadable| Refusal::new(Reason::ProbeFailed, why);
    let Table::Ours {
        claim,
        whole,
        only_ours,
        resized,
    } = medium.table.known().map_err(failed)?
    else {
        return Err(Refusal::new(Reason::ClaimDamaged, "the claim is gone"));
    };
    match (claim.stage, resized) {
        (Stage::Committed, Some(Resized::Shrunk { from })) => {
            let detail = format_args!("its partition table is for {}", Bytes(*from));
            return Err(Refusal::new(Reason::DiskShrunk, detail));
        }
        (Stage::Pending, Some(_)) => {
            let detail = "the disk has another size than when it was begun";
            return Err(Refusal::new(Reason::ClaimDamaged, detail));
        }
        (Stage::Committed, Some(Resized::Grown { .. }) | None) | (Stage::Pending, None) => {}
    }
    let inside = medium
        .partition
        .as_ref()
        .ok_or_else(|| Refusal::new(Reason::ProbeFailed, "not read"))?;
    let ours = match inside.signature.known().map_err(failed)? {
        Signature::Nothing => None,
        Signature::Ambivalent => {
            return Err(Refusal::new(
                damaged(claim.stage),
                "more than one format inside",
            ));
        }
        Signature::Found(found) => Some(our_filesystem(found, claim).ok_or_else(|| {
            Refusal::new(
                damaged(claim.stage),
                format_args!("{} inside, not from this agent", found.kind),
            )
        })?),
    };
    match (claim.stage, ours) {
        (Stage::Committed, Some(filesystem)) => Ok(Claimed::Committed {
            id: claim.id.clone(),
            filesystem,
            whole: *whole,
            only_ours: *only_ours,
            resized: *resized,
        }),
        (Stage::Committed, None) => Err(Refusal::new(
            Reason::FilesystemDamaged,
            "no filesystem found",
        )),
        (Stage::Pending, ours) => {
            let left = pending_left(inside, ours, *only_ours)?;
            Ok(Claimed::Pending {
                id: claim.id.clone(),
                whole: *whole,
                left,
            })
        }
    }
}

/// What an interrupted provisioning has left in its partition, once nothing
/// speaks for anybody else's data in it or beside it.
fn pending_left(
    inside: &Inside,
    ours: Option<Filesystem>,
    only_ours: bool,
) -> Result<Left, Refusal> {
    let failed = |why: &crate::fact::Unreadable| Refusal::new(Reason::ProbeFailed, why);
    let not_read = || Refusal::new(Reason::ProbeFailed, "not read");
    if !only_ours {
        return Err(Refusal::new(
            Reason::ClaimDamaged,
            "other data beside the claim",
        ));
    }
    match inside
        .beside
        .as_ref()
        .ok_or_else(not_read)?
        .known()
        .map_err(failed)?
    {
        Signature::Nothing => {}
        Signature::Ambivalent => {
            return Err(Refusal::new(
                Reason::ClaimDamaged,
                "more than one format beside the claim",
            ));
        }
        Signature::Found(found) => {
            let detail = format_args!("{} on the disk beside the claim", found.kind);
            return Err(Refusal::new(Reason::ClaimDamaged, detail));
        }
    }
    let around = inside.around.as_ref().ok_or_else(not_read)?;
    if let Some(at) = around.known().map_err(failed)? {
        return Err(Refusal::new(
            Reason::ClaimDamaged,
            format_args!("other data beside the partition, at byte {at}"),
        ));
    }
    if let Some(filesystem) = ours {
        return match inside
            .progress
            .as_ref()
            .ok_or_else(not_read)?
            .known()
            .map_err(failed)?
        {
            Progress::Unused => Ok(Left::Unfinished),
            Progress::Finished => Ok(Left::Finished(filesystem)),
        };
    }
    let residue = inside
        .residue
        .as_ref()
        .ok_or_else(not_read)?
        .known()
        .map_err(failed)?;
    match residue {
        // An mkfs that was cut off writes its superblocks last. Without our
        // journal, what is there may be anybody's.
        Some(at) if !inside.journalled => Err(Refusal::new(
            Reason::ClaimDamaged,
            format_args!("data of unknown origin in the partition, at byte {at}"),
        )),
        Some(_) | None => Ok(Left::Unfinished),
    }
}

/// A claim that can be gone on with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    /// Its filesystem is there and may be mounted.
    Committed {
        /// Whose it is.
        id: ClaimId,
        /// Of this type.
        filesystem: Filesystem,
        /// Both copies of the table are as they should be.
        whole: bool,
        /// The ends hold nothing but this claim's tables.
        only_ours: bool,
        /// The table, or a part of it, is for another size of the disk.
        resized: Option<Resized>,
    },
    /// Nothing but our own unfinished work is on it.
    Pending {
        /// Whose it is.
        id: ClaimId,
        /// Both copies of the table are as they should be.
        whole: bool,
        /// What is in the partition.
        left: Left,
    },
}

/// What an interrupted provisioning has left in its partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// Nothing, or a filesystem that was never mounted: mkfs runs again.
    Unfinished,
    /// A finished filesystem, perhaps used by somebody: it is kept.
    Finished(Filesystem),
}

fn damaged(stage: Stage) -> Reason {
    match stage {
        Stage::Pending => Reason::ClaimDamaged,
        Stage::Committed => Reason::FilesystemDamaged,
    }
}

fn our_filesystem(found: &Found, claim: &Claim) -> Option<Filesystem> {
    let filesystem = Filesystem::from_name(&found.kind)?;
    let uuid = found.uuid.as_ref()?;
    (uuid.eq_ignore_ascii_case(&claim.id.partition_guid.to_string())).then_some(filesystem)
}

/// How it stands with the place of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// The disk is mounted there.
    pub mounted: bool,
    /// It is, and something is wrong with its filesystem.
    pub ailment: Option<String>,
}

/// Whether a disk is mounted where its name says.
///
/// # Errors
/// When something else is there, or it is mounted elsewhere.
pub(super) fn mounted_in_place(
    view: &View<'_>,
    disk: &Device,
    name: &DiskName,
) -> Result<Place, Refusal> {
    view.inventory.host_mounts.known()?;
    let place = format!("{}/{name}", view.policy.mount_root);
    let partitions = view.partitions(disk);
    let holds = |mount: &Mount| {
        partitions
            .iter()
            .any(|partition| partition.devno.is_known_and(|devno| *devno == mount.devno))
    };
    if let Some(there) = view.mounted_at(&place) {
        if let Some(above) = view.hidden_below(&place) {
            let detail = format_args!("{place} is hidden below a later mount of {}", above.source);
            return Err(Refusal::new(Reason::MountPathTaken, detail));
        }
        if holds(there) && there.root == "/" {
            return Ok(Place {
                mounted: true,
                ailment: view.inventory.ailments.get(&place).cloned(),
            });
        }
        // What the agent mounted of a device that is gone, it takes away first.
        if !view.is_dead(name, there) {
            return Err(Refusal::new(
                Reason::MountPathTaken,
                format_args!("{} is mounted at {place}", there.source),
            ));
        }
    }
    if let Some(elsewhere) = partitions
        .iter()
        .flat_map(|partition| view.mounts_of(partition))
        .next()
    {
        return Err(Refusal::new(
            Reason::MountedElsewhere,
            &elsewhere.mountpoint,
        ));
    }
    let dead = view.mounted_at(&place).is_some();
    if !dead && let Some(Mountpoint::Occupied) = view.inventory.mountpoints.known()?.get(name) {
        return Err(Refusal::new(
            Reason::MountPathTaken,
            format_args!("{place} holds files"),
        ));
    }
    Ok(Place {
        mounted: false,
        ailment: None,
    })
}
