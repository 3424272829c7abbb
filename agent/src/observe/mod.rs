//! Reads what is: sysfs, the udev database, mount and swap tables, the medium.
//! Nothing here writes, and nothing here decides.
//!
//! - [`Observer`] keeps what was read of each device until an event, a changed
//!   list or a full pass asks for it again, and hands out an [`Inventory`].
//! - [`medium`] reads the disks that `decide` shortlisted: [`signature`] asks
//!   libblkid, [`scan`] looks for whatever else is not zero, [`traces`] knows
//!   where the copies of a damaged owner would be, [`sample`] where to look in
//!   between; `beyond` what lies behind the partition of a disk that grew.
//!   [`Readers`] keeps a disk that does not answer from holding up the
//!   others.
//! - [`doorbell`] says that something changed and where to look, never what.
//! - [`loops`] and [`openers`] find those who use a disk without holding it.
//! - [`witness`] is a second opinion through another library; it can only veto.

mod ailment;
mod beyond;
pub mod device;
pub mod doorbell;
pub mod host;
mod identity;
pub mod longhorn_disk;
pub mod loops;
pub mod medium;
mod observer;
pub mod openers;
pub mod peek;
mod pieces;
mod readers;
pub mod resectored;
pub mod sample;
pub mod scan;
pub mod signature;
pub mod superblock;
mod sysfs;
pub mod tables;
pub mod traces;
mod transport;
pub mod udev_db;
pub mod witness;

pub use device::{Device, Transport, UdevRecord};
pub use host::Host;
pub use identity::{Hardware, Identity, Purpose, identity_keys};
pub use medium::Medium;
pub use observer::{Dirty, Observer};
pub use readers::{Answer, Readers};

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    fact::Fact,
    journal::Entry,
    ledger::Standing,
    observe::tables::{Mount, Swap},
    units::DiskName,
};

/// Everything that one round knows, as plain data; `plan -o evidence` shows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
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
    /// Disks whose medium was asked for and has not answered yet.
    pub not_answering: BTreeSet<String>,
    /// Disks that this process works on at this moment.
    pub working: BTreeSet<String>,
    /// What was begun on this host lately, and whether formatting is frozen.
    pub standing: Fact<Standing>,
    /// What is wrong with filesystems that are mounted below the mount root, by
    /// their mountpoint.
    #[serde(default)]
    pub ailments: BTreeMap<String, String>,
    /// Disks that the second witness sees in use, by kernel name.
    pub witness: Fact<BTreeMap<String, String>>,
}

/// A directory below the mount root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mountpoint {
    /// Made by the agent for the disk of that name (mode 0000).
    Reserved,
    /// An empty directory that somebody made beforehand.
    Empty,
    /// Holds files, or is a mount: no place for a new disk.
    Occupied,
}
