//! Disks as a test declares them.

use std::path::PathBuf;

use anyhow::{Result, bail};
use serde_json::{Map, Value};

/// How a disk is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    /// `virtio-blk-pci`: `vdb`, `vdc` and so on; the system disk is `vda`.
    Virtio,
    /// `scsi-hd` behind the machine's `virtio-scsi-pci`: `sda` and so on, up to 256 of them.
    Scsi,
    /// An NVMe controller with one namespace: `nvme0n1` and so on.
    Nvme,
    /// `usb-storage` at the machine's xHCI: `sda` and so on, up to 15 of them.
    Usb,
}

/// A disk: its name (for the test, never seen by the guest), its bus and what the guest sees.
///
/// The content is a sparse raw file in the machine's run directory unless [`Disk::file`] names
/// one. The serial is the name unless set.
#[derive(Debug, Clone)]
pub struct Disk {
    pub(crate) name: String,
    pub(crate) bus: Bus,
    pub(crate) size: Option<u64>,
    pub(crate) file: Option<PathBuf>,
    pub(crate) serial: Option<String>,
    pub(crate) read_only: bool,
    pub(crate) shared: bool,
    pub(crate) filter: Option<Value>,
    pub(crate) properties: Map<String, Value>,
}

impl Disk {
    /// A disk on a bus chosen at run time.
    pub fn on(bus: Bus, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            bus,
            size: None,
            file: None,
            serial: Some(name.to_owned()),
            read_only: false,
            shared: false,
            filter: None,
            properties: Map::new(),
        }
    }

    /// A virtio disk.
    pub fn virtio(name: &str) -> Self {
        Self::on(Bus::Virtio, name)
    }

    /// A SCSI disk.
    pub fn scsi(name: &str) -> Self {
        Self::on(Bus::Scsi, name)
    }

    /// An NVMe disk.
    pub fn nvme(name: &str) -> Self {
        Self::on(Bus::Nvme, name)
    }

    /// A USB disk.
    pub fn usb(name: &str) -> Self {
        Self::on(Bus::Usb, name)
    }

    /// Its size in bytes. An existing [`Disk::file`] is grown or cut to it.
    pub fn bytes(mut self, bytes: u64) -> Self {
        self.size = Some(bytes);
        self
    }

    /// Its size in MiB.
    pub fn mib(self, mib: u64) -> Self {
        self.bytes(mib << 20)
    }

    /// Its size in GiB.
    pub fn gib(self, gib: u64) -> Self {
        self.bytes(gib << 30)
    }

    /// An existing raw image as its content, written to unless [`Disk::read_only`].
    pub fn file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some(path.into());
        self
    }

    /// The serial number the guest sees.
    pub fn serial(mut self, serial: &str) -> Self {
        self.serial = Some(serial.to_owned());
        self
    }

    /// No serial number (an empty one on NVMe, which cannot do without).
    pub fn no_serial(mut self) -> Self {
        self.serial = None;
        self
    }

    /// The world wide name; SCSI only.
    pub fn wwn(self, wwn: u64) -> Self {
        self.property("wwn", wwn)
    }

    /// The vendor, up to 8 characters; SCSI only.
    pub fn vendor(self, vendor: &str) -> Self {
        self.property("vendor", vendor)
    }

    /// The product, up to 16 characters; SCSI only.
    pub fn product(self, product: &str) -> Self {
        self.property("product", product)
    }

    /// Bytes in a logical (and physical) block; QEMU's default is 512.
    pub fn logical_block_size(self, bytes: u32) -> Self {
        self.property("logical_block_size", bytes)
            .property("physical_block_size", bytes)
    }

    /// The guest can only read it.
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Its file is also the file of another disk of this machine: two paths to one disk.
    pub fn shared(mut self) -> Self {
        self.shared = true;
        self.property("share-rw", true)
    }

    /// Puts a block filter of QEMU between device and file: an object as for `blockdev-add`,
    /// without `node-name` and `file` (`blkdebug`, `blklogwrites`, `throttle` ...). One with a
    /// `file` of its own lies on another filter, which names `file-<disk>` as what is below it.
    pub fn filter(mut self, filter: Value) -> Self {
        self.filter = Some(filter);
        self
    }

    /// Any other property of the QEMU device (`qemu-system-x86_64 -device scsi-hd,help`).
    pub fn property(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.properties.insert(name.to_owned(), value.into());
        self
    }

    /// What no machine could take, before QEMU says it less clearly.
    pub(crate) fn check(&self) -> Result<()> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if self.name.is_empty() || !self.name.chars().all(plain) {
            bail!(
                "disk name {:?} is not made of letters, digits, '-' and '_'",
                self.name
            );
        }
        if self.size.is_none() && self.file.is_none() {
            bail!("disk {} has neither a size nor a file", self.name);
        }
        if let Some(filter) = &self.filter
            && !filter.is_object()
        {
            bail!("disk {}: the filter {filter} is no object", self.name);
        }
        if self.bus != Bus::Scsi {
            for property in ["wwn", "vendor", "product"] {
                if self.properties.contains_key(property) {
                    bail!("disk {}: only SCSI disks have a {property} here", self.name);
                }
            }
        }
        Ok(())
    }
}
