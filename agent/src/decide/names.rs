//! Names for life: which are taken, and which a new disk gets.

use std::collections::{BTreeMap, BTreeSet};

use super::{Reason, Refusal, Verdict, entries_of, view::View};
use crate::{claim::ClaimId, journal::Entry, observe::Device, units::DiskName};

/// The entry of the journal for this very disk, whose claim is on no disk and
/// whose name no other disk carries.
pub(super) fn begun_claim<'a>(
    view: &View<'a>,
    disk: &Device,
) -> Result<Option<&'a Entry>, Refusal> {
    let (wwn, serial) = (disk.wwn.known()?, disk.serial.known()?);
    let carried = |claim: &ClaimId| {
        let mut found = view
            .inventory
            .devices
            .keys()
            .filter_map(|disk| view.claim_of(disk));
        found.any(|found| found.id == *claim || found.id.name == claim.name)
    };
    view.inventory.journal.known()?;
    let mut entries = entries_of(view.inventory, disk);
    Ok(entries
        .find(|entry| entry.names(wwn.as_deref(), serial.as_deref()) && !carried(&entry.claim)))
}

/// Names that belong to some disk, present or not. An empty directory may wait
/// for a disk that an older setup mounts there.
///
/// # Errors
/// When they are not all known: then none is free.
pub(super) fn taken_names(view: &View<'_>) -> Result<BTreeSet<DiskName>, Refusal> {
    let claims = view
        .inventory
        .devices
        .keys()
        .filter_map(|disk| view.claim_of(disk));
    let claims = claims.map(|claim| claim.id.name.clone());
    Ok(claims.chain(kept_names(view)?).collect())
}

/// Names that the host keeps, for disks that are present or away.
///
/// # Errors
/// When they are not all known.
pub(super) fn kept_names(view: &View<'_>) -> Result<BTreeSet<DiskName>, Refusal> {
    let journal = view.inventory.journal.known()?.iter();
    let journal = journal.map(|entry| entry.claim.name.clone());
    let places = view.inventory.mountpoints.known()?.keys().cloned();
    let given = view.inventory.standing.known()?.disks.values();
    let given = given.map(|kept| kept.name.clone());
    Ok(journal.chain(places).chain(given).collect())
}

/// Two disks that would get one name get none.
pub(super) fn refuse_shared_names(verdicts: &mut BTreeMap<String, Verdict>) {
    let mut seen: BTreeMap<DiskName, usize> = BTreeMap::new();
    for verdict in verdicts.values() {
        if let Verdict::Provision(provision) = verdict {
            *seen.entry(provision.name.clone()).or_default() += 1;
        }
    }
    for verdict in verdicts.values_mut() {
        if let Verdict::Provision(provision) = verdict
            && seen.get(&provision.name).is_some_and(|disks| *disks > 1)
        {
            let detail = format_args!("another blank disk would be {} as well", provision.name);
            *verdict = Verdict::Refused(Refusal::new(Reason::DuplicateIdentity, detail));
        }
    }
}

/// The kernel's name for the first partition; numbered when it is taken.
pub(super) fn free_name(disk: &Device, taken: &BTreeSet<DiskName>) -> Result<DiskName, Refusal> {
    let ends_in_digit = disk.name.ends_with(|c: char| c.is_ascii_digit());
    let plain = format!("{}{}1", disk.name, if ends_in_digit { "p" } else { "" });
    let unusable = |error| Refusal::new(Reason::NoName, error);
    free(&plain.parse().map_err(unusable)?, taken)
}

/// A name, numbered when it is taken.
pub(super) fn free(plain: &DiskName, taken: &BTreeSet<DiskName>) -> Result<DiskName, Refusal> {
    let unusable = |error| Refusal::new(Reason::NoName, error);
    if !taken.contains(plain) {
        return Ok(plain.clone());
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
