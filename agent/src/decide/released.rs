//! Disks that a person has released: they are left alone, and what is still
//! mounted of them is taken away.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{Policy, Reason, Refusal, view::View};
use crate::{
    ledger::ReleasePhase,
    observe::{Device, Inventory},
    units::{DevNo, DiskName},
};

/// A disk that was released for good, as it is found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Released {
    /// Kernel name of the disk; none while it is away or not recognised.
    pub disk: Option<String>,
    /// Kernel names of its partitions, which may be in use where no mount table
    /// shows it.
    pub partitions: Vec<String>,
    /// What is mounted of it at its place, on top of whatever else is there.
    pub mounted: Option<DevNo>,
    /// Other places where it is mounted, by somebody else.
    pub elsewhere: Vec<String>,
}

/// Refuses a disk that was released for good. Where the ledger cannot be read,
/// what is ours is served: nobody's wish is known then.
pub(super) fn gate(view: &View<'_>, filesystem: Uuid) -> Result<(), Refusal> {
    let Ok(standing) = view.inventory.standing.known() else {
        return Ok(());
    };
    match standing.releases.get(&filesystem) {
        Some(release) if release.phase == ReleasePhase::Left => {
            Err(Refusal::new(Reason::Released, &release.name))
        }
        Some(_) | None => Ok(()),
    }
}

/// Disks that were released for good, by their names. A mount at the place of
/// one is its own when the disk says so itself, or the ledger knows it as one
/// that the agent made: a disk that fails cannot be read any more.
pub fn released(inventory: &Inventory, policy: &Policy) -> BTreeMap<DiskName, Released> {
    let Ok(standing) = inventory.standing.known() else {
        return BTreeMap::new();
    };
    let left = standing.releases.iter();
    let mut left = left
        .filter(|(_, release)| release.phase == ReleasePhase::Left)
        .peekable();
    if left.peek().is_none() {
        return BTreeMap::new();
    }
    let view = View::new(inventory, policy);
    left.map(|(uuid, release)| {
        let name = &release.name;
        let is_its_own = |device: &&Device| {
            let says = device
                .parent
                .as_ref()
                .and_then(|disk| view.filesystem_of(disk));
            let made = device
                .devno
                .is_known_and(|devno| standing.mounted_by_us(name, *devno));
            says == Some(*uuid) || (says.is_none() && made)
        };
        let found = found(&view, name, is_its_own);
        (name.clone(), found)
    })
    .collect()
}

fn found(view: &View<'_>, name: &DiskName, is_its_own: impl Fn(&&Device) -> bool) -> Released {
    let devices = view.inventory.devices.values().map(|device| &**device);
    let parts: Vec<&Device> = devices.filter(is_its_own).collect();
    let place = format!("{}/{name}", view.policy.mount_root);
    let there = view.mounted_at(&place).filter(|mount| {
        let same = |part: &&Device| part.devno.is_known_and(|devno| *devno == mount.devno);
        mount.root == "/" && parts.iter().any(same)
    });
    let elsewhere = parts.iter().flat_map(|part| view.mounts_of(part));
    let elsewhere = elsewhere.filter(|mount| there.is_none() || mount.mountpoint != place);
    let mut elsewhere: Vec<String> = elsewhere.map(|mount| mount.mountpoint.clone()).collect();
    elsewhere.sort_unstable();
    elsewhere.dedup();
    Released {
        disk: parts.first().and_then(|part| part.parent.clone()),
        partitions: parts.iter().map(|part| part.name.clone()).collect(),
        mounted: there.map(|mount| mount.devno),
        elsewhere,
    }
}
