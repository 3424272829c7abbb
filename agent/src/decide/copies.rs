//! Copies of disks of this host: what holds the same filesystem as one of them
//! and is another disk.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{Policy, Reason, Refusal, Verdict, view::View};
use crate::{
    ledger::Kept,
    observe::{Device, Hardware, Inventory},
};

/// Refuses a disk that is a copy of the one that was mounted here. While both are
/// there, both are refused; but the original may be away for a moment, or come
/// later after a reboot, and what is on the copy is from another time. Where the
/// ledger cannot be read, what is ours is served.
pub(super) fn gate(view: &View<'_>, disk: &Device, filesystem: Uuid) -> Result<(), Refusal> {
    let Some(original) = original(view.inventory, filesystem) else {
        return Ok(());
    };
    let this = Hardware::of(disk).map_err(|why| Refusal::from(&why))?;
    if original.is_same(&this) || view.policy.names_one(disk) {
        return Ok(());
    }
    Err(Refusal::new(
        Reason::Copy,
        format_args!("the disk that was mounted here has {original}"),
    ))
}

/// The disk that a filesystem of this host is mounted from, where a copy of it
/// was here.
fn original(inventory: &Inventory, filesystem: Uuid) -> Option<&Hardware> {
    let kept = inventory.standing.known().ok()?.disks.get(&filesystem)?;
    kept.hardware.as_ref().filter(|_| kept.copied)
}

/// Filesystems of this host of which a copy is there, and the ledger does not
/// say so yet.
pub fn copied(
    inventory: &Inventory,
    policy: &Policy,
    verdicts: &BTreeMap<String, Verdict>,
) -> Vec<Uuid> {
    let two = |verdict: &Verdict| match verdict {
        Verdict::Refused(refusal) => refusal.reason == Reason::DuplicateIdentity,
        Verdict::Adopt(_) | Verdict::Managed(_) | Verdict::Provision(_) | Verdict::Resume(_) => {
            false
        }
    };
    let Ok(standing) = inventory.standing.known() else {
        return Vec::new();
    };
    if !verdicts.values().any(two) {
        return Vec::new();
    }
    let view = View::new(inventory, policy);
    let is_copied = |(filesystem, kept): &(&Uuid, &Kept)| {
        let Some(original) = kept.hardware.as_ref().filter(|_| !kept.copied) else {
            return false;
        };
        let disks = inventory.devices.values();
        let disks = disks.filter(|disk| view.filesystem_of(&disk.name) == Some(**filesystem));
        let disks: Vec<_> = disks.map(|disk| Hardware::of(disk)).collect();
        // One alone may have come to another controller, which says less of it.
        let is_other =
            |this: &Result<Hardware, _>| this.as_ref().is_ok_and(|this| !original.is_same(this));
        disks.len() > 1 && disks.iter().any(is_other)
    };
    let disks = standing.disks.iter().filter(is_copied);
    disks.map(|(filesystem, _)| *filesystem).collect()
}
