//! Reads what is: sysfs, the udev database, mount and swap tables, the medium.
//! Nothing here writes, and nothing here decides.
//!
//! - [`Observer`] keeps what was read of each device until an event, a changed
//!   list or a full pass asks for it again, and hands out an [`Inventory`].
//! - [`medium`] reads the disks that `decide` shortlisted.
//! - [`doorbell`] says that something changed and where to look, never what.
//! - [`witness`] is a second opinion through another library; it can only veto.

pub mod device;
pub mod doorbell;
pub mod host;
pub mod medium;
mod observer;
pub mod signature;
pub mod superblock;
mod sysfs;
pub mod tables;
pub mod traces;
pub mod udev_db;
pub mod witness;

pub use device::{Device, Transport, UdevRecord};
pub use host::Host;
pub use medium::Medium;
pub use observer::{Dirty, Observer};

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    fact::Fact,
    journal::Entry,
    observe::tables::{Mount, Swap},
    units::DiskName,
};

/// Everything that one round knows, as plain data.
#[derive(Debug, Clone)]
pub struct Inventory {
    /// Every block device in sysfs, by kernel name.
    pub devices: BTreeMap<String, Arc<Device>>,
    /// Mounts as the host's first process sees them.
    pub host_mounts: Fact<Vec<Mount>>,
    /// Mounts as this process sees them: can prove use, never its absence.
    pub own_mounts: Fact<Vec<Mount>>,
    /// Swap areas in use.
    pub swaps: Fact<Vec<Swap>>,
    /// Whether udevd serves this host.
    pub udevd: Fact<bool>,
    /// What was read off the shortlisted disks, by kernel name.
    pub media: BTreeMap<String, Arc<Fact<Medium>>>,
    /// Disk names that a directory below the mount root keeps for a disk that
    /// may be absent, and whether it is ours to mount on.
    pub mountpoints: Fact<BTreeMap<DiskName, Mountpoint>>,
    /// Provisioning that was begun and not finished.
    pub journal: Fact<Vec<Entry>>,
    /// Disks that the second witness sees in use, by kernel name.
    pub witness: Fact<BTreeMap<String, String>>,
}

/// A directory below the mount root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mountpoint {
    /// Made by the agent for the disk of that name (mode 0000).
    Reserved,
    /// An empty directory that somebody made beforehand.
    Empty,
    /// Holds files, or is a mount: no place for a new disk.
    Occupied,
}
