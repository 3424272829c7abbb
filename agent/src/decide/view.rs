//! The inventory, indexed for the questions that the gates ask.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use uuid::Uuid;

use super::{Policy, Reason, Refusal};
use crate::{
    approval::Token,
    claim::{Claim, ClaimId, Origin, Table},
    fact::Fact,
    observe::{
        Device, Inventory, Medium, identity_keys, loops::Backing, signature::Signature,
        tables::Mount,
    },
    units::{DevNo, DiskName},
};

/// Mountpoints whose disks are the system's, whatever else is mounted on them.
const SYSTEM_MOUNTPOINTS: &[&str] = &[
    "/",
    "/boot",
    "/boot/efi",
    "/boot/firmware",
    "/efi",
    "/etc",
    "/usr",
    "/var",
    "/var/lib",
    "/var/lib/containerd",
    "/var/lib/containers",
    "/var/lib/docker",
    "/var/lib/kubelet",
    "/var/lib/rancher",
    "/run/k3s",
];

/// Filesystems that live on no disk at all.
const DISKLESS: &[&str] = &[
    "tmpfs", "ramfs", "rootfs", "nfs", "nfs4", "9p", "virtiofs", "devtmpfs", "efivarfs", "autofs",
];

/// The inventory with its indexes.
pub(super) struct View<'a> {
    pub inventory: &'a Inventory,
    pub policy: &'a Policy,
    partitions: HashMap<&'a str, Vec<&'a Device>>,
    by_devno: HashMap<DevNo, &'a Device>,
    /// The number of each device is known: one that is not there is gone.
    by_devno_complete: bool,
    /// Loop devices that are in use, or may be.
    loops: Vec<&'a Device>,
    /// From either mount table: use that is proven.
    mounts: HashMap<DevNo, Vec<&'a Mount>>,
    /// Disks of the system, or why they cannot be told.
    pub system: Result<BTreeSet<&'a str>, String>,
    /// Disks under swap, or why they cannot be told.
    pub swap: Result<BTreeMap<&'a str, &'a str>, String>,
    /// Claims and identities that more than one disk carries.
    duplicates: HashSet<String>,
}

impl<'a> View<'a> {
    pub fn new(inventory: &'a Inventory, policy: &'a Policy) -> Self {
        let mut partitions: HashMap<&str, Vec<&Device>> = HashMap::new();
        let mut by_devno = HashMap::new();
        let by_devno_complete = !inventory.devices.is_empty()
            && inventory
                .devices
                .values()
                .all(|device| device.devno.known().is_ok());
        for device in inventory.devices.values() {
            if let Some(parent) = &device.parent {
                partitions.entry(parent).or_default().push(device);
            }
            if let Ok(devno) = device.devno.known() {
                by_devno.insert(*devno, &**device);
            }
        }
        let loops = inventory.devices.values().map(|device| &**device);
        let loops = loops.filter(|device| device.backing != Fact::Known(None));
        let mut mounts: HashMap<DevNo, Vec<&Mount>> = HashMap::new();
        let tables = [&inventory.host_mounts, &inventory.own_mounts];
        for mount in tables
            .iter()
            .filter_map(|table| table.known().ok())
            .flatten()
        {
            mounts.entry(mount.devno).or_default().push(mount);
        }
        let mut view = Self {
            inventory,
            policy,
            partitions,
            by_devno,
            by_devno_complete,
            loops: loops.collect(),
            mounts,
            system: Ok(BTreeSet::new()),
            swap: Ok(BTreeMap::new()),
            duplicates: HashSet::new(),
        };
        view.system = view.system_disks();
        view.swap = view.disks_under_swap();
        view.duplicates = view.duplicated();
        view
    }

    pub fn partitions(&self, disk: &Device) -> &[&'a Device] {
        self.partitions
            .get(disk.name.as_str())
            .map_or(&[], Vec::as_slice)
    }

    /// Where a device is mounted, in either table.
    pub fn mounts_of(&self, device: &Device) -> &[&'a Mount] {
        let devno = device.devno.known().ok();
        devno
            .and_then(|devno| self.mounts.get(devno))
            .map_or(&[], Vec::as_slice)
    }

    /// What is mounted at a path, the topmost last.
    pub fn mounted_at(&self, path: &str) -> Option<&'a Mount> {
        let mounts = self.inventory.host_mounts.known().ok()?;
        mounts.iter().rev().find(|mount| mount.mountpoint == path)
    }

    /// A mount made after the one at a path, on a directory above it: what is
    /// below it cannot be reached any more. The kernel lists mounts in order.
    pub fn hidden_below(&self, path: &str) -> Option<&'a Mount> {
        let mounts = self.inventory.host_mounts.known().ok()?;
        let ours = mounts.iter().rposition(|mount| mount.mountpoint == path)?;
        let above = |mount: &&Mount| {
            path.strip_prefix(mount.mountpoint.as_str())
                .is_some_and(|rest| rest.starts_with('/'))
        };
        mounts.iter().skip(ours).find(above)
    }

    /// Where a device's node is mounted by itself: how a volume is given to a
    /// container as a raw block device, which holds nothing exclusively.
    pub fn raw_mount_of(&self, device: &Device) -> Option<&'a Mount> {
        let node = device.devname.known().map(|name| format!("/{name}")).ok()?;
        let tables = [&self.inventory.host_mounts, &self.inventory.own_mounts];
        let mut mounts = tables
            .into_iter()
            .filter_map(|table| table.known().ok())
            .flatten();
        mounts.find(|mount| mount.filesystem == "devtmpfs" && mount.root == node)
    }

    /// A loop device that is known to lie on a device.
    pub fn loop_on(&self, device: &Device) -> Option<&'a str> {
        let lies = |backing: &Option<Backing>| backing.as_ref().is_some_and(|it| it.is(device));
        let mut loops = self.loops.iter();
        let found = loops.find(|other| other.backing.is_known_and(lies))?;
        Some(&found.name)
    }

    /// Whether it is known of every loop device what it lies on.
    pub fn loops_are_known(&self) -> Result<(), Refusal> {
        for other in &self.loops {
            other.backing.known()?;
        }
        Ok(())
    }

    /// What was read off a disk.
    pub fn medium(&self, disk: &Device) -> Result<&'a Medium, Refusal> {
        match self.inventory.media.get(&disk.name) {
            Some(medium) => medium
                .known()
                .map_err(|why| Refusal::new(Reason::ProbeFailed, why)),
            None if self.inventory.not_answering.contains(&disk.name) => {
                Err(Reason::NotAnswering.into())
            }
            None => Err(Refusal::new(Reason::ProbeFailed, "not read yet")),
        }
    }

    /// Disks whose state an approval holds for.
    pub fn disks_approved_by(&self, token: Token) -> usize {
        let holds = |medium: &Medium| {
            let content = medium.content.as_ref();
            content.is_some_and(|content| content.approvals.contains(&token))
        };
        let media = self.inventory.media.values();
        media.filter(|medium| medium.is_known_and(holds)).count()
    }

    /// Refuses a disk of ours whose table the kernel does not find.
    pub fn resectored(&self, disk: &Device) -> Result<(), Refusal> {
        let medium = self.inventory.media.get(&disk.name);
        let medium = medium.and_then(|medium| medium.known().ok());
        match medium.and_then(|medium| medium.resectored.as_ref()) {
            Some(there) => Err(Refusal::new(
                Reason::SectorSize,
                format_args!(
                    "{} is for sectors of {} bytes",
                    there.claim.id.name, there.sector
                ),
            )),
            None => Ok(()),
        }
    }

    /// What our claim on a disk says, if it carries one.
    pub fn claim_of(&self, disk: &str) -> Option<&'a Claim> {
        match self.table_of(disk)? {
            Table::Ours { claim, .. } => Some(claim),
            Table::Absent | Table::Foreign => None,
        }
    }

    pub fn table_of(&self, disk: &str) -> Option<&'a Table> {
        let medium = self.inventory.media.get(disk)?.known().ok()?;
        medium.table.known().ok()
    }

    /// Whether the agent of this node has made a claim, or mounted its disk under
    /// that very name before. One that does not say where it was made is taken
    /// for its own, unless its name was given to another disk.
    pub fn is_own(&self, id: &ClaimId) -> bool {
        match self.inventory.standing.known() {
            Ok(standing) => match standing.name_of(id.partition_guid) {
                Some(name) => *name == id.name,
                None => !self.is_of_another_node(id) && standing.owner_of(&id.name).is_none(),
            },
            Err(_) => !self.is_of_another_node(id),
        }
    }

    /// Whether a claim was made on another node, and not begun here: a node may
    /// have had another name then.
    pub fn is_of_another_node(&self, id: &ClaimId) -> bool {
        let begun = self
            .inventory
            .journal
            .is_known_and(|entries| entries.iter().any(|entry| entry.claim == *id));
        id.origin(&self.policy.node) == Origin::AnotherNode && !begun
    }

    /// A mount below the mount root that the agent made in this boot, of a
    /// device that is not there any more.
    pub fn is_dead(&self, name: &DiskName, mount: &Mount) -> bool {
        self.by_devno_complete
            && !self.by_devno.contains_key(&mount.devno)
            && self
                .inventory
                .standing
                .is_known_and(|standing| standing.mounted_by_us(name, mount.devno))
    }

    /// Refuses a disk whose claim or identity another disk carries as well.
    pub fn unique_claim(&self, claim: &Claim) -> Result<(), Refusal> {
        let mut keys = vec![
            claim_key(claim.id.partition_guid),
            claim_key(claim.id.disk_guid),
        ];
        if self.is_own(&claim.id) {
            keys.push(name_key(&claim.id.name));
        }
        match keys.into_iter().find(|key| self.duplicates.contains(key)) {
            Some(key) => Err(Refusal::new(Reason::DuplicateIdentity, key)),
            None => Ok(()),
        }
    }

    /// Refuses a filesystem that another disk has as well.
    pub fn unique_filesystem(&self, uuid: Uuid) -> Result<(), Refusal> {
        let key = claim_key(uuid);
        if self.duplicates.contains(&key) {
            return Err(Refusal::new(Reason::DuplicateIdentity, key));
        }
        Ok(())
    }

    /// UUID of the filesystem in the only partition of a disk without a claim.
    fn lodger_of(&self, disk: &str) -> Option<Uuid> {
        let medium = self.inventory.media.get(disk)?.known().ok()?;
        match medium.lodger.as_ref()?.signature.known().ok()? {
            Signature::Found(found) => found.uuid.as_ref()?.parse().ok(),
            Signature::Nothing | Signature::Ambivalent => None,
        }
    }

    /// UUID of the filesystem for which a disk is ours, or Longhorn's.
    pub fn filesystem_of(&self, disk: &str) -> Option<Uuid> {
        match self.claim_of(disk) {
            Some(claim) => Some(claim.id.partition_guid),
            None => self.lodger_of(disk),
        }
    }

    pub fn unique_hardware(&self, disk: &Device) -> Result<(), Refusal> {
        // The disk is opened by what identifies it: an identity that cannot be
        // read cannot be compared later.
        disk.diskseq.known()?;
        disk.wwn.known()?;
        disk.serial.known()?;
        disk.sector.known()?;
        match identity_keys(disk)
            .into_iter()
            .find(|key| self.duplicates.contains(key))
        {
            Some(key) => Err(Refusal::new(Reason::DuplicateIdentity, key)),
            None => Ok(()),
        }
    }

    fn duplicated(&self) -> HashSet<String> {
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        for device in self
            .inventory
            .devices
            .values()
            // The kernel hides the paths of a disk and shows the disk besides.
            .filter(|device| {
                !device.is_partition() && !device.hidden.is_known_and(|hidden| *hidden)
            })
        {
            let claim = self.claim_of(&device.name).map(|claim| {
                let mut keys = vec![
                    claim_key(claim.id.partition_guid),
                    claim_key(claim.id.disk_guid),
                ];
                // Any other gets a name that is free here.
                if self.is_own(&claim.id) {
                    keys.push(name_key(&claim.id.name));
                }
                keys
            });
            let lodger = self.lodger_of(&device.name).map(claim_key);
            let keys = claim.into_iter().flatten().chain(lodger);
            for key in keys.chain(identity_keys(device)) {
                *seen.entry(key).or_default() += 1;
            }
        }
        seen.into_iter()
            .filter(|(_, count)| *count > 1)
            .map(|(key, _)| key)
            .collect()
    }

    fn system_disks(&self) -> Result<BTreeSet<&'a str>, String> {
        let mounts = self
            .inventory
            .host_mounts
            .known()
            .map_err(ToString::to_string)?;
        let mut disks = BTreeSet::new();
        if !mounts.iter().any(|mount| mount.mountpoint == "/") {
            return Err("the mount table has no root".to_owned());
        }
        for mount in mounts
            .iter()
            .filter(|mount| SYSTEM_MOUNTPOINTS.contains(&mount.mountpoint.as_str()))
        {
            if DISKLESS.contains(&mount.filesystem.as_str()) {
                continue;
            }
            let device = self.by_devno.get(&mount.devno).ok_or_else(|| {
                format!(
                    "{} is a {} from {}, which is no known device",
                    mount.mountpoint, mount.filesystem, mount.source
                )
            })?;
            self.collect_disks(device, &mut disks, 0)?;
        }
        Ok(disks)
    }

    /// Disks under swap, each with the swap area. A swap file lies on a
    /// filesystem, which is mounted.
    fn disks_under_swap(&self) -> Result<BTreeMap<&'a str, &'a str>, String> {
        let swaps = self.inventory.swaps.known().map_or(&[][..], Vec::as_slice);
        let mut found = BTreeMap::new();
        for swap in swaps {
            let Some(name) = swap.path.strip_prefix("/dev/") else {
                continue;
            };
            let named = |device: &&Arc<Device>| device.devname.is_known_and(|there| there == name);
            let mut disks = BTreeSet::new();
            for device in self.inventory.devices.values().filter(named) {
                self.collect_disks(device, &mut disks, 0)?;
            }
            if disks.is_empty() {
                return Err(format!("swap is on {}, no known device", swap.path));
            }
            found.extend(disks.into_iter().map(|disk| (disk, swap.path.as_str())));
        }
        Ok(found)
    }

    /// Goes down through partitions, device mapper and md to whole disks.
    fn collect_disks(
        &self,
        device: &'a Device,
        disks: &mut BTreeSet<&'a str>,
        depth: u32,
    ) -> Result<(), String> {
        if depth > 16 {
            return Err(format!("{} is stacked too deeply", device.name));
        }
        if let Some(parent) = &device.parent {
            let parent = self
                .inventory
                .devices
                .get(parent)
                .ok_or_else(|| format!("{parent} is not known"))?;
            return self.collect_disks(parent, disks, depth + 1);
        }
        disks.insert(&device.name);
        for slave in device.slaves.known().map_err(ToString::to_string)? {
            let slave = self
                .inventory
                .devices
                .get(slave)
                .ok_or_else(|| format!("{slave} is not known"))?;
            self.collect_disks(slave, disks, depth + 1)?;
        }
        Ok(())
    }
}

fn claim_key(guid: Uuid) -> String {
    format!("GUID {guid}")
}

fn name_key(name: &DiskName) -> String {
    format!("name {name}")
}
