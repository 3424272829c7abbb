//! Inventory and policy in, a verdict for each device out. Pure: no clock, no
//! I/O, no memory. What cannot be decided is refused.

mod adopt;
mod arrays;
mod claimed;
mod copies;
mod gates;
mod growth;
mod limits;
mod names;
mod policy;
mod reason;
mod released;
mod rule;
#[cfg(test)]
mod tests;
mod verdict;
mod view;
mod volumes;

use std::collections::{BTreeMap, BTreeSet};

pub use claimed::{Claimed, Left, claimed};
pub use copies::copied;
pub use growth::{Growth, Obstacle, Withheld, room};
pub use policy::{Adoption, Policy};
pub use reason::{Reason, Refusal};
pub use released::{Released, released};
pub use rule::{BadRule, Rule};
#[cfg(test)]
pub(crate) use tests::{example_disk, example_host};
pub use verdict::{Adopt, Managed, Provision, Resume, Source, Verdict, VerdictKind};

use crate::{
    approval::Token,
    claim::{Begun, Claim, Geometry, Table},
    fact::{Fact, Unreadable},
    journal::Entry,
    observe::{
        Device, Inventory, Medium, identity_keys,
        medium::{Content, Depth, Window},
    },
    units::{DevNo, DiskName, Filesystem},
};
use claimed::mounted_in_place;
use names::{begun_claim, free_name, refuse_shared_names, taken_names};
use view::View;

/// What a decision needs to have read of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// How much of it.
    pub depth: Depth,
    /// How to look into its only partition, where it may be looked into.
    pub window: Option<Window>,
}

/// Disks whose medium the decision needs, and how much of it.
pub fn shortlist(inventory: &Inventory, policy: &Policy) -> BTreeMap<String, Wanted> {
    let view = View::new(inventory, policy);
    inventory
        .devices
        .values()
        .filter(|device| gates::kind(&view, device).is_ok())
        .filter_map(|disk| {
            let eligible = before_medium(&view, disk).is_ok();
            let partitions = view.partitions(disk).len();
            let might_be_ours = partitions == 1
                || !begun(inventory, disk).is_empty()
                || (partitions == 0 && has_torn_table(disk));
            let depth = if eligible {
                Depth::Blankness
            } else if might_be_ours {
                Depth::Claim
            } else {
                return None;
            };
            let window = adopt::window(&view, disk);
            Some((disk.name.clone(), Wanted { depth, window }))
        })
        .collect()
}

/// udevd sees a table where the kernel sees no partition: what a power cut
/// leaves of a table of ours whose backup is whole. The disk must be recognised
/// whatever a policy says of new disks.
fn has_torn_table(disk: &Device) -> bool {
    let seen = disk.udev.known().map_or(None, Option::as_ref);
    seen.is_some_and(|record| record.table.is_some())
}

/// Claims that the journal says were begun on a disk.
pub fn begun(inventory: &Inventory, disk: &Device) -> Vec<Begun> {
    entries_of(inventory, disk)
        .filter_map(Entry::begun)
        .collect()
}

/// Approvals of the policy that may still be used for a disk.
pub fn open_approvals(inventory: &Inventory, policy: &Policy, disk: &Device) -> Vec<Token> {
    let Ok(standing) = inventory.standing.known() else {
        return Vec::new();
    };
    // What was begun with an approval goes on with it.
    let again: Vec<Token> = entries_of(inventory, disk)
        .filter_map(|entry| entry.approval.as_ref())
        .map(|approved| approved.token)
        .collect();
    let open = |token: &&Token| !standing.used_approvals.contains(token) || again.contains(token);
    policy.approvals.iter().filter(open).copied().collect()
}

/// Entries of the journal that may be about a disk.
fn entries_of<'a>(inventory: &'a Inventory, disk: &Device) -> impl Iterator<Item = &'a Entry> {
    let geometry = match (disk.size.known(), disk.sector.known()) {
        (Ok(size), Ok(Some(sector))) => Some(Geometry {
            size: *size,
            sector: *sector,
        }),
        (Ok(_), Ok(None)) | (Err(_), _) | (_, Err(_)) => None,
    };
    let entries = inventory.journal.known().map_or(&[][..], Vec::as_slice);
    let text = |fact: &Fact<Option<String>>| fact.known().map_or(None, Clone::clone);
    let (wwn, serial) = (text(&disk.wwn), text(&disk.serial));
    entries.iter().filter(move |entry| {
        geometry
            .is_some_and(|geometry| entry.may_be_of(geometry, wwn.as_deref(), serial.as_deref()))
    })
}

/// A verdict for every device.
pub fn decide(inventory: &Inventory, policy: &Policy) -> BTreeMap<String, Verdict> {
    let view = View::new(inventory, policy);
    let taken = taken_names(&view);
    let mut verdicts: BTreeMap<String, Verdict> = inventory
        .devices
        .values()
        .map(|device| {
            let verdict = judge(&view, device, &taken).unwrap_or_else(Verdict::Refused);
            (device.name.clone(), verdict)
        })
        .collect();
    adopt::share_names(&view, &mut verdicts, &taken);
    refuse_shared_names(&mut verdicts);
    limits::keep(&view, &mut verdicts);
    verdicts
}

/// Mounts that the agent made of devices that are gone by now.
pub fn dead_mounts(inventory: &Inventory, policy: &Policy) -> BTreeMap<DiskName, DevNo> {
    let view = View::new(inventory, policy);
    let standing = inventory.standing.known().ok();
    let names = standing.into_iter().flat_map(|standing| {
        let kept = standing.disks.values();
        kept.map(|kept| &kept.name)
    });
    names
        .filter_map(|name| {
            let there = view.mounted_at(&format!("{}/{name}", policy.mount_root))?;
            view.is_dead(name, there)
                .then(|| (name.clone(), there.devno))
        })
        .collect()
}

/// Whether what was read on the exclusively opened disk proves it blank. The
/// same question as in [`decide`], asked again where the answer is used.
///
/// # Errors
/// Why it is not proven.
pub fn blank(medium: &Medium) -> Result<(), Refusal> {
    gates::zero(gates::unowned(unclaimed(medium)?)?)
}

/// Whether what was read on the exclusively opened disk is what a person
/// approved: nothing known, and the state that the token is for.
///
/// # Errors
/// Why it is not.
pub fn approved(medium: &Medium, token: Token) -> Result<(), Refusal> {
    let content = unclaimed(medium)?;
    gates::unowned(content)?;
    if content.approvals.contains(&token) {
        Ok(())
    } else {
        let detail = "the disk is not in the state that was approved any more";
        Err(Refusal::new(Reason::ResidualData, detail))
    }
}

/// Whether a disk may turn out to be taken, as far as its medium goes.
pub fn may_be_taken(medium: &Medium) -> bool {
    blank(medium).is_ok() || unclaimed(medium).is_ok_and(|content| !content.approvals.is_empty())
}

/// What a disk without a claim or another GPT holds.
fn unclaimed(medium: &Medium) -> Result<&Content, Refusal> {
    let failed = |why: &Unreadable| Refusal::new(Reason::ProbeFailed, why);
    match medium.table.known().map_err(failed)? {
        Table::Absent => {}
        Table::Ours { .. } => return Err(Refusal::new(Reason::ClaimDamaged, "a claim appeared")),
        Table::Foreign => return Err(Refusal::signature("gpt", "")),
    }
    medium
        .content
        .as_ref()
        .ok_or_else(|| Refusal::new(Reason::ProbeFailed, "not read"))
}

/// Gates that need nothing from the medium.
fn before_medium(view: &View<'_>, disk: &Device) -> Result<(), Refusal> {
    gates::never_touch(view, disk)?;
    gates::hazard(view, disk)?;
    gates::policy(view, disk)?;
    gates::in_use(view, disk)
        .and_then(|()| gates::unpartitioned(view, disk))
        .map_err(|refusal| claim_unread(view, disk, &refusal).unwrap_or(refusal))?;
    view.unique_hardware(disk)?;
    // Before udevd is done there is no use in reading: it will be read again.
    if *view.inventory.udevd.known()? {
        gates::udev_done(disk)?;
    }
    Ok(())
}

/// Where the place of a claim could not be read, the disk may be ours: that
/// comes before the advice to erase what somebody else has left.
fn claim_unread(view: &View<'_>, disk: &Device, refusal: &Refusal) -> Option<Refusal> {
    if view.inventory.not_answering.contains(&disk.name) {
        return Some(Reason::NotAnswering.into());
    }
    let why = match view.inventory.media.get(&disk.name)?.known() {
        Ok(medium) => medium.table.known().err()?,
        // That it is in use is known without it.
        Err(why) if refusal.reason == Reason::Partitioned => why,
        Err(_) => return None,
    };
    Some(Refusal::new(Reason::ProbeFailed, why))
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
    if let Some(lodger) = adopt::lodger(view, device) {
        return adopt::longhorn(view, device, &lodger?, taken);
    }
    view.resectored(device)?;
    before_medium(view, device)?;
    // The journal may be what explains the disk.
    view.inventory.journal.known()?;
    let medium = view.medium(device)?;
    let content = unclaimed(medium)?;
    let scan = gates::unowned(content)?;
    let begun = begun_claim(view, device)?;
    let approval = match gates::zero(scan) {
        Ok(()) => None,
        Err(residue) => Some(approval(view, device, content, begun)?.ok_or(residue)?),
    };
    gates::udev_agrees(device)?;
    gates::witness_agrees(view, device)?;
    gates::frozen(view)?;
    let name = match begun {
        Some(entry) => entry.claim.name.clone(),
        None => free_name(device, taken.as_ref().map_err(Clone::clone)?)?,
    };
    Ok(Verdict::Provision(Provision {
        name,
        filesystem: view.policy.filesystem,
        begun: begun.map(|entry| entry.claim.clone()),
        approval,
    }))
}

/// The approval by which a disk may be taken that is not blank: in the policy,
/// for its state, for no other disk, and not used but by what was begun on it.
/// A disk that nothing tells from another cannot be approved.
fn approval(
    view: &View<'_>,
    disk: &Device,
    content: &Content,
    begun: Option<&Entry>,
) -> Result<Option<Token>, Refusal> {
    if identity_keys(disk).is_empty() {
        return Ok(None);
    }
    let used = &view.inventory.standing.known()?.used_approvals;
    let again = begun.and_then(|entry| entry.approval.as_ref().map(|approved| approved.token));
    let valid = |token: &&Token| {
        view.policy.approvals.contains(token)
            && view.disks_approved_by(**token) == 1
            && (!used.contains(token) || again == Some(**token))
    };
    Ok(content.approvals.iter().find(valid).copied())
}

/// A disk with our claim: filters for new disks do not apply to it.
fn ours(view: &View<'_>, disk: &Device, claim: &Claim) -> Result<Verdict, Refusal> {
    released::gate(view, claim.id.partition_guid)?;
    view.unique_claim(claim)?;
    copies::gate(view, disk, claim.id.partition_guid)?;
    let medium = view.medium(disk)?;
    match claimed(medium)? {
        Claimed::Pending { .. } => {
            if view.is_of_another_node(&claim.id) {
                return Err(Reason::AnotherNode.into());
            }
            // Another path to the disk may be what the work goes on through.
            view.unique_hardware(disk)?;
            gates::never_touch(view, disk)?;
            gates::hazard(view, disk)?;
            gates::frozen(view)?;
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
            if !view.is_own(&claim.id) {
                return adopt::claim(view, disk, &claim.id, filesystem);
            }
            let place = mounted_in_place(view, disk, &claim.id.name)?;
            if !place.mounted {
                arrays::gate(view, disk, claim.id.partition_guid, medium)?;
            }
            let growth = growth::growth(view, disk, medium, &claim.id, place.mounted);
            Ok(Verdict::Managed(Managed {
                claim: claim.id.clone(),
                filesystem,
                mounted: place.mounted,
                ailment: place.ailment,
                growth,
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
