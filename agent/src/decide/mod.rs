//! Inventory and policy in, a verdict for each device out. Pure: no clock, no
//! I/O, no memory. What cannot be decided is refused.

mod claimed;
mod gates;
mod names;
mod policy;
mod reason;
#[cfg(test)]
mod tests;
mod verdict;
mod view;

use std::collections::{BTreeMap, BTreeSet};

pub use claimed::{Claimed, Left, claimed};
pub use policy::Policy;
pub use reason::{Reason, Refusal};
pub use verdict::{Managed, Provision, Resume, Verdict, VerdictKind};

use crate::{
    claim::{Claim, ClaimId, Geometry, Table},
    fact::Fact,
    observe::{Device, Inventory, Medium, medium::Depth},
    units::{DiskName, Filesystem},
};
use claimed::mounted_in_place;
use names::{begun_claim, free_name, refuse_shared_names, taken_names};
use view::View;

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
    let mut verdicts = inventory
        .devices
        .values()
        .map(|device| {
            let verdict = judge(&view, device, &taken).unwrap_or_else(Verdict::Refused);
            (device.name.clone(), verdict)
        })
        .collect();
    refuse_shared_names(&mut verdicts);
    verdicts
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
fn judge(
    view: &View<'_>,
    device: &Device,
    taken: &Result<BTreeSet<DiskName>, Refusal>,
) -> Result<Verdict, Refusal> {
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
    let begun = begun_claim(view, device)?;
    let name = match &begun {
        Some(claim) => claim.name.clone(),
        None => free_name(device, taken.as_ref().map_err(Clone::clone)?)?,
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
        Claimed::Committed { filesystem, .. } => {
            let mounted = mounted_in_place(view, disk, claim)?;
            Ok(Verdict::Managed(Managed {
                claim: claim.id.clone(),
                filesystem,
                mounted,
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
