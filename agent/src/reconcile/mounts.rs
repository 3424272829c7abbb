//! What a round sees to besides starting jobs: whose a name is, what the journal
//! has no more use for, and mounts of devices that are gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Instant,
};

use tokio::task::JoinHandle;

use super::{News, Reconciler};
use crate::{
    decide::{self, Verdict},
    observe::{Hardware, Inventory},
    provision,
    report::DeadMount,
    text::chain,
    units::{DevNo, DiskName},
};

/// Dead mounts that are taken away at the same time.
const CLEARED_AT_ONCE: usize = 4;

impl Reconciler {
    /// Removes entries of disks that are mounted: an agent that was killed
    /// between its mount and its last step left them.
    pub(super) fn forget_finished(
        &self,
        inventory: &Inventory,
        verdicts: &BTreeMap<String, Verdict>,
    ) {
        let Ok(entries) = inventory.journal.known() else {
            return;
        };
        for entry in entries {
            let mounted = verdicts.values().any(|verdict| match verdict {
                Verdict::Managed(managed) => managed.mounted && managed.claim == entry.claim,
                Verdict::Adopt(adopt) => adopt.mounted && adopt.uuid == entry.claim.partition_guid,
                Verdict::Provision(_) | Verdict::Resume(_) | Verdict::Refused(_) => false,
            });
            if mounted && let Err(error) = self.around.state.journal.forget(&entry.claim) {
                tracing::warn!(error = chain(&error), "an old entry of the journal stays");
            }
        }
    }

    /// Takes down that there are copies of disks of this host: when one of two
    /// is gone, nobody could tell any more which of them is which. The names of
    /// all disks of which there is one.
    pub(super) fn keep_copied(
        &self,
        inventory: &Inventory,
        verdicts: &BTreeMap<String, Verdict>,
    ) -> BTreeSet<DiskName> {
        let Ok(standing) = inventory.standing.known() else {
            return BTreeSet::new();
        };
        let new = decide::copied(inventory, &self.settings.policy, verdicts);
        for filesystem in &new {
            match self.around.state.ledger.copied(*filesystem) {
                Ok(()) => tracing::warn!(%filesystem, "there is a copy of a disk of this host"),
                Err(error) => {
                    let error = chain(&error);
                    tracing::warn!(%filesystem, error, "that there is a copy is not kept");
                }
            }
        }
        let disks = standing.disks.iter();
        let copied = disks.filter(|(filesystem, kept)| kept.copied || new.contains(filesystem));
        copied.map(|(_, kept)| kept.name.clone()).collect()
    }

    /// Takes down which disks are mounted, and the names of those that were
    /// mounted before the ledger kept names, or by others.
    pub(super) fn keep_names(
        &mut self,
        inventory: &Inventory,
        verdicts: &BTreeMap<String, Verdict>,
    ) {
        let Ok(standing) = inventory.standing.known() else {
            return;
        };
        let now = Instant::now();
        for (disk, verdict) in verdicts {
            let (uuid, name) = match verdict {
                Verdict::Managed(managed) if managed.mounted => {
                    (managed.claim.partition_guid, &managed.claim.name)
                }
                Verdict::Adopt(adopt) if adopt.mounted => (adopt.uuid, &adopt.name),
                Verdict::Managed(_)
                | Verdict::Adopt(_)
                | Verdict::Provision(_)
                | Verdict::Resume(_)
                | Verdict::Refused(_) => continue,
            };
            // Where there are units of ours for systemd, a mount that it made by
            // one is ours as well: who else would take it away when it is dead?
            let place = self.around.mount_root.join(name.as_str());
            let by_unit = self.mount_units.as_ref();
            let by_unit = by_unit.is_some_and(|units| units.has(name));
            let devno = inventory.host_mounts.known().ok().and_then(|mounts| {
                let mut there = mounts.iter().rev();
                let there = there.find(|mount| Path::new(&mount.mountpoint) == place)?;
                Some(there.devno)
            });
            let hardware = inventory.devices.get(disk);
            let hardware = hardware.and_then(|disk| Hardware::of(disk).ok());
            let other = hardware.filter(|this| standing.hardware_of(uuid) != Some(this));
            let ledger = &self.around.state.ledger;
            let kept = match devno.filter(|_| by_unit) {
                _ if self.working.contains_key(disk) => continue,
                _ if !self.unkept.may_try(name.as_str(), now) => continue,
                Some(devno) if !standing.mounted_by_us(name, devno) => {
                    ledger.mounting(uuid, name, devno)
                }
                None if standing.name_of(uuid).is_none() => ledger.keep(uuid, name),
                Some(_) | None => match other {
                    Some(hardware) => ledger.mounted_from(uuid, &hardware),
                    None => continue,
                },
            };
            match kept {
                Ok(()) => self.unkept.forget(name.as_str()),
                Err(error) => {
                    let error = chain(&error);
                    tracing::warn!(disk, %name, error, "the name is not kept");
                    self.unkept.failed(name.as_str(), error, now);
                }
            }
        }
    }

    /// Takes away mounts of devices that are gone. One that is in use is tried
    /// again, ever more seldom.
    pub(super) fn clear(&mut self, dead: &BTreeMap<DiskName, DevNo>) {
        let now = Instant::now();
        for (name, devno) in dead {
            // Each takes a thread for as long as it hangs.
            if self.clearing.len() >= CLEARED_AT_ONCE {
                return;
            }
            if self.clearing.contains(name) || !self.stuck.may_try(name.as_str(), now) {
                continue;
            }
            self.clearing.insert(name.clone());
            let (around, news) = (self.around.clone(), self.news.0.clone());
            let (name, devno) = (name.clone(), *devno);
            let _detached: JoinHandle<()> = tokio::task::spawn_blocking(move || {
                let failure = match provision::unmount_dead(&name, devno, &around) {
                    Ok(()) => {
                        tracing::info!(%name, "unmounted: its device is gone");
                        None
                    }
                    Err(error) => {
                        let error = chain(&error);
                        tracing::warn!(%name, error, "its device is gone, and its mount stays");
                        Some(error)
                    }
                };
                // The loop is gone at shutdown.
                drop(news.send(News::Cleared(name, failure)));
            });
        }
    }

    pub(super) fn dead_mounts(&self, dead: &BTreeMap<DiskName, DevNo>) -> Vec<DeadMount> {
        dead.iter()
            .map(|(name, devno)| DeadMount {
                path: self.around.mount_root.join(name.as_str()),
                devno: *devno,
                error: self.stuck.error_of(name.as_str()),
            })
            .collect()
    }
}
