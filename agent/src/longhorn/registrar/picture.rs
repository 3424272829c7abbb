//! What one step of the registrar starts from, besides the Node.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::super::{
    audit::Facts,
    disks::{OurDisk, Said},
    node::Node,
};
use crate::{
    ledger::{ReleasePhase, Standing},
    report::Round,
    units::DiskName,
};

/// A step's view of things.
pub(super) struct Picture {
    pub round: Arc<Round>,
    pub disks: Vec<OurDisk>,
    pub said: BTreeMap<DiskName, Said>,
    pub known: BTreeSet<DiskName>,
    pub released: BTreeSet<DiskName>,
    pub left: BTreeSet<DiskName>,
    pub occupied: BTreeSet<DiskName>,
    pub standing: Option<Standing>,
    pub complete: bool,
}

impl Picture {
    /// Of a round and what the mounted disks say. The ledger is yet to be read.
    pub(super) fn of(
        round: Arc<Round>,
        disks: Vec<OurDisk>,
        said: BTreeMap<DiskName, Said>,
        mount_root: &str,
    ) -> Self {
        let occupied = occupied(&round, mount_root);
        Self {
            round,
            disks,
            said,
            known: BTreeSet::new(),
            released: BTreeSet::new(),
            left: BTreeSet::new(),
            occupied,
            standing: None,
            complete: false,
        }
    }

    /// How the ledger stands now.
    pub(super) fn read_again(&mut self, standing: Option<Standing>) {
        let known = standing.iter().flat_map(|standing| standing.disks.values());
        self.known = known.map(|kept| kept.name.clone()).collect();
        let releases = standing
            .iter()
            .flat_map(|standing| standing.releases.values());
        let is_leaving = |phase: &ReleasePhase| match phase {
            ReleasePhase::Leaving { .. } | ReleasePhase::Left => true,
            ReleasePhase::Returning { .. } => false,
        };
        self.released = releases
            .filter(|release| is_leaving(&release.phase))
            .map(|release| release.name.clone())
            .collect();
        let left = standing
            .iter()
            .flat_map(|standing| standing.releases.values());
        self.left = left
            .filter(|release| release.phase == ReleasePhase::Left)
            .map(|release| release.name.clone())
            .collect();
        self.complete = standing.is_some()
            && self.round.inventory.host_mounts.known().is_ok()
            && !self.round.inventory.devices.is_empty();
        self.standing = standing;
    }

    pub(super) fn facts<'a>(&'a self, node: &'a Node, mount_root: &'a str) -> Facts<'a> {
        Facts {
            node,
            disks: &self.disks,
            said: &self.said,
            known: &self.known,
            released: &self.released,
            left: &self.left,
            occupied: &self.occupied,
            mount_root,
            complete: self.complete,
        }
    }
}

/// Names at whose places something is mounted on the host.
fn occupied(round: &Round, mount_root: &str) -> BTreeSet<DiskName> {
    let mounts = round.inventory.host_mounts.known();
    let mounts = mounts.map_or(&[][..], Vec::as_slice).iter();
    let place = |path: &str| {
        path.strip_prefix(mount_root)?
            .strip_prefix('/')?
            .parse()
            .ok()
    };
    mounts
        .filter_map(|mount| place(&mount.mountpoint))
        .collect()
}
