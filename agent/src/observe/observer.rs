//! Keeps what was read of each device until it is worth reading again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Device, Host, Inventory, Mountpoint,
    ailment::ailment,
    sysfs,
    tables::{Mount, read_mounts, read_swaps},
};
use crate::{
    fact::Fact,
    state::State,
    units::{DevNo, DiskName},
};

/// What to read again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dirty {
    /// Every device.
    Everything,
    /// Every device, and nothing that was read before counts any more: events
    /// were lost.
    Lost,
    /// These, by kernel name, their partitions, and whatever is stacked on or
    /// under them.
    Devices(BTreeSet<String>),
}

impl Dirty {
    /// Only the tables and the list of devices.
    pub fn nothing() -> Self {
        Self::Devices(BTreeSet::new())
    }

    /// Both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Devices(mut names), Self::Devices(more)) => {
                names.extend(more);
                Self::Devices(names)
            }
            (Self::Lost, _) | (_, Self::Lost) => Self::Lost,
            (Self::Everything, _) | (_, Self::Everything) => Self::Everything,
        }
    }

    /// Every device is read again.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Everything | Self::Lost => true,
            Self::Devices(_) => false,
        }
    }
}

/// Reads the system, device by device only where something may have changed.
#[derive(Debug)]
pub struct Observer {
    host: Host,
    mount_root: PathBuf,
    state: State,
    devices: BTreeMap<String, Arc<Device>>,
    /// Devices that were read in the last pass.
    read: BTreeSet<String>,
}

impl Observer {
    /// Knows nothing yet.
    pub fn new(host: Host, mount_root: PathBuf, state: State) -> Self {
        Self {
            host,
            mount_root,
            state,
            devices: BTreeMap::new(),
            read: BTreeSet::new(),
        }
    }

    /// Reads what is dirty and hands out everything. Devices that are new or
    /// gone are noticed in any case.
    pub fn observe(&mut self, dirty: &Dirty) -> Inventory {
        let class_block = self.host.class_block();
        let names = match sysfs::list(&class_block) {
            Fact::Known(names) => names,
            Fact::Unreadable(why) => {
                tracing::warn!(%why, "the list of block devices cannot be read");
                Vec::new()
            }
        };
        let present: BTreeSet<String> = names.into_iter().collect();
        self.read = self.stale(&present, dirty);
        let stacked = self.refresh(&self.read.clone(), &present);
        // A device that was stacked on another shows in both: one more step.
        let again: BTreeSet<String> = stacked.difference(&self.read).cloned().collect();
        self.refresh(&again, &present);
        self.read.extend(again);
        let host_mounts = self.mounts(&self.host.init_mountinfo());
        let ailments = self.ailments(&host_mounts);
        Inventory {
            devices: self.devices.clone(),
            host_mounts,
            ailments,
            own_mounts: self.mounts(&self.host.own_mountinfo()),
            swaps: read_swaps(&self.host.swaps()),
            udevd: udevd(&self.host),
            media: BTreeMap::new(),
            mountpoints: mountpoints(&self.mount_root),
            journal: self.state.journal.list(),
            not_answering: BTreeSet::new(),
            working: BTreeSet::new(),
            standing: self.state.ledger.standing(),
            witness: Fact::unreadable("blockdev", "not asked"),
        }
    }

    /// What is wrong with what is mounted below the mount root.
    fn ailments(&self, mounts: &Fact<Vec<Mount>>) -> BTreeMap<String, String> {
        let mounts = mounts.known().map_or(&[][..], Vec::as_slice);
        let below =
            |mount: &&Mount| Path::new(&mount.mountpoint).parent() == Some(&self.mount_root);
        mounts
            .iter()
            .filter(below)
            .filter_map(|mount| {
                let mut devices = self.devices.values();
                let device = devices
                    .find(|device| device.devno.is_known_and(|devno| *devno == mount.devno))?;
                let ailment = ailment(&self.host, mount, &device.name)?;
                Some((mount.mountpoint.clone(), ailment))
            })
            .collect()
    }

    /// Devices that the last pass read from sysfs.
    pub fn last_read(&self) -> &BTreeSet<String> {
        &self.read
    }

    /// Names to read again: asked for, new, or related to one that is gone.
    fn stale(&mut self, present: &BTreeSet<String>, dirty: &Dirty) -> BTreeSet<String> {
        let asked = match dirty {
            Dirty::Everything | Dirty::Lost => present.clone(),
            Dirty::Devices(names) => {
                let mut asked = names.clone();
                asked.extend(names.iter().flat_map(|name| self.relatives(name)));
                // Nobody tells when the kernel is given another length of one.
                let partitions = self.devices.values().filter(|device| {
                    let parent = device.parent.as_ref();
                    parent.is_some_and(|parent| names.contains(parent))
                });
                asked.extend(partitions.map(|partition| partition.name.clone()));
                asked
            }
        };
        let gone: Vec<String> = self
            .devices
            .keys()
            .filter(|name| !present.contains(*name))
            .cloned()
            .collect();
        let bereaved: Vec<String> = gone.iter().flat_map(|name| self.relatives(name)).collect();
        for name in &gone {
            self.devices.remove(name);
        }
        let new = present
            .iter()
            .filter(|name| !self.devices.contains_key(*name))
            .cloned();
        asked
            .into_iter()
            .chain(bereaved)
            .chain(new)
            .filter(|name| present.contains(name))
            .collect()
    }

    /// Reads devices and returns what they are stacked on or under.
    fn refresh(
        &mut self,
        names: &BTreeSet<String>,
        present: &BTreeSet<String>,
    ) -> BTreeSet<String> {
        for name in names {
            let device = sysfs::read_device(&self.host, name);
            self.devices.insert(name.clone(), Arc::new(device));
        }
        names
            .iter()
            .flat_map(|name| self.relatives(name))
            .filter(|name| present.contains(name))
            .collect()
    }

    fn relatives(&self, name: &str) -> Vec<String> {
        let Some(device) = self.devices.get(name) else {
            return Vec::new();
        };
        let stacked = [&device.holders, &device.slaves]
            .into_iter()
            .filter_map(|names| names.known().ok());
        stacked.flatten().chain(&device.parent).cloned().collect()
    }

    /// Mounts, those without a device number of their own (btrfs) given the
    /// one of the node that they were mounted from.
    fn mounts(&self, file: &Path) -> Fact<Vec<Mount>> {
        read_mounts(file).map(|mut mounts| {
            for mount in mounts.iter_mut().filter(|mount| mount.devno.major == 0) {
                let Some(name) = mount.source.strip_prefix("/dev/") else {
                    continue;
                };
                // What cannot be resolved keeps major 0, which decide treats
                // as unresolved.
                if let Some(devno) = fs::metadata(self.host.node(name))
                    .ok()
                    .map(|node| node.rdev())
                {
                    mount.devno = DevNo::from_raw(devno);
                }
            }
            mounts
        })
    }
}

/// udevd leaves `/run/udev/control` while it runs and a database behind.
fn udevd(host: &Host) -> Fact<bool> {
    let control = host.udev_runtime().join("control");
    match fs::metadata(&control) {
        Ok(_present) => Fact::Known(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Fact::Known(false),
        Err(error) => Fact::unreadable(control.display(), error),
    }
}

/// Directories below the mount root that have the form of a disk name.
fn mountpoints(root: &Path) -> Fact<BTreeMap<DiskName, Mountpoint>> {
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Fact::Known(BTreeMap::new());
        }
        Err(error) => return Fact::unreadable(root.display(), error),
    };
    let mut found = BTreeMap::new();
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => return Fact::unreadable(root.display(), error),
        };
        let Ok(name) = entry.file_name().to_string_lossy().parse::<DiskName>() else {
            continue;
        };
        // What cannot be looked at, such as the mount of a dying disk, keeps
        // its name and hinders no other.
        let kind = match mountpoint(root, &entry.path()) {
            Ok(kind) => kind,
            Err(error) => {
                tracing::debug!(path = %entry.path().display(), %error, "counts as occupied");
                Mountpoint::Occupied
            }
        };
        found.insert(name, kind);
    }
    Fact::Known(found)
}

fn mountpoint(root: &Path, path: &Path) -> io::Result<Mountpoint> {
    let metadata = fs::symlink_metadata(path)?;
    if !metadata.is_dir() || metadata.dev() != fs::metadata(root)?.dev() {
        return Ok(Mountpoint::Occupied);
    }
    if metadata.permissions().mode() & 0o7777 == 0 {
        return Ok(Mountpoint::Reserved);
    }
    let empty = fs::read_dir(path)?.next().is_none();
    Ok(if empty {
        Mountpoint::Empty
    } else {
        Mountpoint::Occupied
    })
}
