//! Names for life: which are taken, and which a new disk gets.

use std::collections::BTreeSet;

use super::{Reason, Refusal, journalled, view::View};
use crate::{claim::ClaimId, observe::Device, units::DiskName};

/// A claim that was journalled for this very disk and is on no disk.
pub(super) fn begun_claim(view: &View<'_>, disk: &Device) -> Option<ClaimId> {
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
pub(super) fn taken_names(view: &View<'_>) -> BTreeSet<DiskName> {
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
pub(super) fn free_name(
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
