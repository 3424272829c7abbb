//! Inventory and policy in, a verdict for each device out. Pure: no clock, no
//! I/O, no memory. What cannot be decided is refused.

mod gates;
mod policy;
mod reason;
#[cfg(test)]
mod tests;
mod view;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

pub use policy::Policy;
pub use reason::{Reason, Refusal};

use crate::{
    claim::{Claim, ClaimId, Geometry, Stage, Table},
    fact::Fact,
    observe::{
        Device, Inventory, Medium, Mountpoint,
        medium::{Depth, Inside},
        signature::{Found, Signature},
        superblock::Progress,
    },
    units::{DiskName, Filesystem},
};
use view::View;

/// The decision on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It carries our committed claim.
    Managed(Managed),
    /// It looks blank and may be provisioned, after the proof on the open disk.
    Provision(Provision),
    /// We began and were interrupted.
    Resume(Resume),
    /// It is left alone.
    Refused(Refusal),
}

/// A disk of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Managed {
    /// Its claim.
    pub claim: ClaimId,
    /// What its partition holds.
    pub filesystem: Filesystem,
    /// Mounted where it belongs.
    pub mounted: bool,
    /// Both copies of the table say committed; otherwise the commit was
    /// interrupted and is completed.
    pub committed_whole: bool,
}

/// A disk that may be provisioned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provision {
    /// Its name for life.
    pub name: DiskName,
    /// What it is given.
    pub filesystem: Filesystem,
    /// The claim that an earlier start journalled and never wrote: it is used
    /// now, so that its name is not lost.
    pub begun: Option<ClaimId>,
}

/// A disk whose provisioning is finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resume {
    /// The claim that it carries already.
    pub claim: ClaimId,
    /// What it is given.
    pub filesystem: Filesystem,
}

/// What a verdict comes down to, for people and machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum VerdictKind {
    /// [`Verdict::Managed`].
    Managed,
    /// [`Verdict::Provision`].
    Provision,
    /// [`Verdict::Resume`].
    Resume,
    /// [`Verdict::Refused`].
    Refused,
}

impl Verdict {
    /// Without its particulars.
    pub fn kind(&self) -> VerdictKind {
        match self {
            Self::Managed(_) => VerdictKind::Managed,
            Self::Provision(_) => VerdictKind::Provision,
            Self::Resume(_) => VerdictKind::Resume,
            Self::Refused(_) => VerdictKind::Refused,
        }
    }

    /// The name for life, where there is one.
    pub fn disk_name(&self) -> Option<&DiskName> {
        match self {
            Self::Managed(managed) => Some(&managed.claim.name),
            Self::Provision(provision) => Some(&provision.name),
            Self::Resume(resume) => Some(&resume.claim.name),
            Self::Refused(_) => None,
        }
    }
}

/// Disks whose medium the decision needs, and how much of it.
pub fn shortlist(inventory: &Inventory, policy: &Policy) -> BTreeMap<String, Depth> {
    let view = View::new(inventory, policy);
    inventory
        .devices
        .values()
        .filter(|device| gates::kind(&view, device).is_ok())
        .filter_map(|disk| {
            let eligible = before_medium(&view, disk).is_ok();
            let might_be_ours =
                view.partitions(disk).len() == 1 || !journalled(inventory, disk).is_empty();
            let depth = if eligible {
                Depth::Blankness
            } else if might_be_ours {
                Depth::Claim
            } else {
                return None;
            };
            Some((disk.name.clone(), depth))
        })
        .collect()
}

/// Claims that the journal says were begun on a disk.
pub fn journalled(inventory: &Inventory, disk: &Device) -> Vec<ClaimId> {
    let (Ok(entries), Ok(size), Ok(Some(sector))) = (
        inventory.journal.known(),
        disk.size.known(),
        disk.sector.known(),
    ) else {
        return Vec::new();
    };
    let geometry = Geometry {
        size: *size,
        sector: *sector,
    };
    let text = |fact: &Fact<Option<String>>| fact.known().map_or(None, Clone::clone);
    let (wwn, serial) = (text(&disk.wwn), text(&disk.serial));
    entries
        .iter()
        .filter(|entry| {
            entry.still_holds() && entry.fits(geometry, wwn.as_deref(), serial.as_deref())
        })
        .map(|entry| entry.claim.clone())
        .collect()
}

/// A verdict for every device.
pub fn decide(inventory: &Inventory, policy: &Policy) -> BTreeMap<String, Verdict> {
    let view = View::new(inventory, policy);
    let taken = taken_names(&view);
    inventory
        .devices
        .values()
        .map(|device| {
            let verdict = judge(&view, device, &taken).unwrap_or_else(Verdict::Refused);
            (device.name.clone(), verdict)
        })
        .collect()
}

/// Whether what was read on the exclusively opened disk proves it blank. The
/// same question as in [`decide`], asked again where the answer is used.
///
/// # Errors
/// Why it is not proven.
pub fn blank(medium: &Medium) -> Result<(), Refusal> {
    let failed = |why: &crate::fact::Unreadable| Refusal::new(Reason::ProbeFailed, why);
    match medium.table.known().map_err(failed)? {
        Table::Absent => {}
        Table::Ours { .. } => return Err(Refusal::new(Reason::ClaimDamaged, "a claim appeared")),
        Table::Foreign => return Err(Refusal::new(Reason::Signature, "gpt")),
    }
    let content = medium
        .content
        .as_ref()
        .ok_or_else(|| Refusal::new(Reason::ProbeFailed, "not read"))?;
    gates::blank(content)
}

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
    } = medium.table.known().map_err(failed)?
    else {
        return Err(Refusal::new(Reason::ClaimDamaged, "the claim is gone"));
    };
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
    if let Some(at) = inside
        .around
        .as_ref()
        .ok_or_else(not_read)?
        .known()
        .map_err(failed)?
    {
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

/// Gates that need nothing from the medium.
fn before_medium(view: &View<'_>, disk: &Device) -> Result<(), Refusal> {
    gates::never_touch(view, disk)?;
    gates::policy(view, disk)?;
    gates::in_use(view, disk)?;
    gates::unpartitioned(view, disk)?;
    view.unique_hardware(disk)?;
    // Before udevd is done there is no use in reading: it will be read again.
    if *view.inventory.udevd.known()? {
        gates::udev_done(disk)?;
    }
    Ok(())
}

/// The chain of refusals. What reaches the end may be provisioned.
fn judge(view: &View<'_>, device: &Device, taken: &BTreeSet<DiskName>) -> Result<Verdict, Refusal> {
    gates::kind(view, device)?;
    if let Some(claim) = view.claim_of(&device.name) {
        return ours(view, device, claim);
    }
    before_medium(view, device)?;
    // The journal may be what explains the disk.
    view.inventory.journal.known()?;
    let unread = || Refusal::new(Reason::ProbeFailed, "not read yet");
    let medium = view.inventory.media.get(&device.name).ok_or_else(unread)?;
    let medium = medium
        .known()
        .map_err(|why| Refusal::new(Reason::ProbeFailed, why))?;
    blank(medium)?;
    gates::udev_agrees(device)?;
    gates::witness_agrees(view, device)?;
    let begun = begun_claim(view, device);
    let name = match &begun {
        Some(claim) => claim.name.clone(),
        None => free_name(view, device, taken)?,
    };
    Ok(Verdict::Provision(Provision {
        name,
        filesystem: view.policy.filesystem,
        begun,
    }))
}

/// A disk with our claim: filters for new disks do not apply to it.
fn ours(view: &View<'_>, disk: &Device, claim: &Claim) -> Result<Verdict, Refusal> {
    view.unique_claim(claim)?;
    let medium = view
        .inventory
        .media
        .get(&disk.name)
        .map(|medium| medium.known());
    let Some(Ok(medium)) = medium else {
        return Err(Refusal::new(Reason::ProbeFailed, "not read yet"));
    };
    match claimed(medium)? {
        Claimed::Pending { .. } => {
            gates::never_touch(view, disk)?;
            gates::in_use(view, disk)?;
            if *disk.read_only.known()? {
                return Err(Reason::ReadOnly.into());
            }
            let filesystem = begun_filesystem(view, claim);
            Ok(Verdict::Resume(Resume {
                claim: claim.id.clone(),
                filesystem,
            }))
        }
        Claimed::Committed {
            filesystem,
            whole,
            only_ours,
            id: _,
        } => {
            let mounted = mounted_in_place(view, disk, claim)?;
            let committed_whole = whole || !only_ours;
            Ok(Verdict::Managed(Managed {
                claim: claim.id.clone(),
                filesystem,
                mounted,
                committed_whole,
            }))
        }
    }
}

/// The filesystem that was begun, or the policy's where nothing is known of it.
fn begun_filesystem(view: &View<'_>, claim: &Claim) -> Filesystem {
    let entries = view
        .inventory
        .journal
        .known()
        .map_or(&[][..], Vec::as_slice);
    let begun = entries.iter().find(|entry| entry.claim == claim.id);
    begun.map_or(view.policy.filesystem, |entry| entry.filesystem)
}

fn mounted_in_place(view: &View<'_>, disk: &Device, claim: &Claim) -> Result<bool, Refusal> {
    view.inventory.host_mounts.known()?;
    let place = format!("{}/{}", view.policy.mount_root, claim.id.name);
    let partitions = view.partitions(disk);
    let holds = |mount: &crate::observe::tables::Mount| {
        partitions
            .iter()
            .any(|partition| partition.devno.is_known_and(|devno| *devno == mount.devno))
    };
    if let Some(there) = view.mounted_at(&place) {
        if let Some(above) = view.hidden_below(&place) {
            let detail = format_args!("{place} is hidden below a later mount of {}", above.source);
            return Err(Refusal::new(Reason::MountPathTaken, detail));
        }
        return if holds(there) && there.root == "/" {
            Ok(true)
        } else {
            Err(Refusal::new(
                Reason::MountPathTaken,
                format_args!("{} is mounted at {place}", there.source),
            ))
        };
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
    if let Some(Mountpoint::Occupied) = view.inventory.mountpoints.known()?.get(&claim.id.name) {
        return Err(Refusal::new(
            Reason::MountPathTaken,
            format_args!("{place} holds files"),
        ));
    }
    Ok(false)
}

/// A claim that was journalled for this very disk and is on no disk.
fn begun_claim(view: &View<'_>, disk: &Device) -> Option<ClaimId> {
    let (wwn, serial) = (disk.wwn.known().ok()?, disk.serial.known().ok()?);
    let carried = |claim: &ClaimId| {
        view.inventory
            .devices
            .keys()
            .any(|disk| view.claim_of(disk).is_some_and(|found| found.id == *claim))
    };
    let fitting = journalled(view.inventory, disk);
    let entries = view.inventory.journal.known().ok()?;
    entries
        .iter()
        .filter(|entry| entry.names(wwn.as_deref(), serial.as_deref()))
        .map(|entry| &entry.claim)
        .find(|claim| fitting.contains(claim) && !carried(claim))
        .cloned()
}

/// Names that belong to some disk, present or not. An empty directory may wait
/// for a disk that an older setup mounts there.
fn taken_names(view: &View<'_>) -> BTreeSet<DiskName> {
    let claims = view
        .inventory
        .devices
        .keys()
        .filter_map(|disk| view.claim_of(disk))
        .map(|claim| claim.id.name.clone());
    let journal = view
        .inventory
        .journal
        .known()
        .map_or(&[][..], Vec::as_slice);
    let journal = journal.iter().map(|entry| entry.claim.name.clone());
    let mountpoints = view.inventory.mountpoints.known().ok();
    let kept = mountpoints
        .into_iter()
        .flatten()
        .map(|(name, _)| name.clone());
    claims.chain(journal).chain(kept).collect()
}

/// The kernel's name for the first partition; numbered when it is taken.
fn free_name(
    view: &View<'_>,
    disk: &Device,
    taken: &BTreeSet<DiskName>,
) -> Result<DiskName, Refusal> {
    view.inventory.mountpoints.known()?;
    let unusable = |error| Refusal::new(Reason::NoName, error);
    let ends_in_digit = disk.name.ends_with(|c: char| c.is_ascii_digit());
    let plain = format!("{}{}1", disk.name, if ends_in_digit { "p" } else { "" });
    let plain: DiskName = plain.parse().map_err(unusable)?;
    if !taken.contains(&plain) {
        return Ok(plain);
    }
    for number in 2..1000 {
        let name = plain.numbered(number).map_err(unusable)?;
        if !taken.contains(&name) {
            return Ok(name);
        }
    }
    Err(Refusal::new(
        Reason::NoName,
        format_args!("{plain} and its numbered names are taken"),
    ))
}
