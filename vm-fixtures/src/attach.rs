//! Disks in a machine: where each one sits, and how QEMU is told of it.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use serde_json::{Map, Value, json};

use crate::disk::{Bus, Disk};

/// Where a disk sits. Given out by the harness, so that a disk is found in the guest by its place,
/// even when its serial is missing or not its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// A slot of the PCI bus.
    PciSlot(u16),
    /// A target of the virtio-scsi host.
    ScsiTarget(u16),
    /// A port of the xHCI root hub.
    UsbPort(u16),
}

/// The machine's fixed devices take the slots below [`FIRST_FREE_SLOT`].
pub(crate) const SERIAL_SLOT: u16 = 2;
pub(crate) const RNG_SLOT: u16 = 3;
pub(crate) const ROOT_SLOT: u16 = 4;
pub(crate) const SCSI_SLOT: u16 = 5;
pub(crate) const USB_SLOT: u16 = 6;
pub(crate) const NIC_SLOT: u16 = 7;
const FIRST_FREE_SLOT: u16 = 8;

impl Place {
    /// The first free place on `bus`.
    pub(crate) fn first_free(bus: Bus, taken: &[Place]) -> Result<Self> {
        let (place, mut range): (fn(u16) -> Place, _) = match bus {
            Bus::Virtio | Bus::Nvme => (Place::PciSlot, FIRST_FREE_SLOT..=31),
            Bus::Scsi => (Place::ScsiTarget, 0..=255),
            Bus::Usb => (Place::UsbPort, 1..=15),
        };
        match range.find(|&number| !taken.contains(&place(number))) {
            Some(number) => Ok(place(number)),
            None => bail!("the machine has no place left for a {bus:?} disk"),
        }
    }

    /// A shell pattern for the disk's directory in the guest's sysfs.
    pub(crate) fn sysfs(self, bus: Bus) -> String {
        match self {
            Place::PciSlot(slot) => {
                let device = format!("/sys/bus/pci/devices/0000:00:{slot:02x}.0");
                if bus == Bus::Nvme {
                    format!("{device}/nvme/nvme*/nvme*n*")
                } else {
                    format!("{device}/virtio*/block/*")
                }
            }
            Place::ScsiTarget(target) => format!(
                "/sys/bus/pci/devices/0000:00:{SCSI_SLOT:02x}.0/virtio*/host*/target*:0:{target}/*:0:{target}:*/block/*"
            ),
            Place::UsbPort(port) => {
                format!("/sys/bus/usb/devices/*-{port}/*/host*/target*/*/block/*")
            }
        }
    }
}

/// A disk of a machine: its file and its place are settled.
#[derive(Debug, Clone)]
pub(crate) struct Attached {
    pub(crate) disk: Disk,
    pub(crate) path: PathBuf,
    pub(crate) place: Place,
}

impl Attached {
    /// Finds a place for the disk and makes its file in `dir` if it has none.
    pub(crate) fn new(disk: Disk, dir: &Path, others: &[Attached]) -> Result<Self> {
        disk.check()?;
        if others.iter().any(|other| other.disk.name == disk.name) {
            bail!("the machine already has a disk named {}", disk.name);
        }
        let taken: Vec<Place> = others.iter().map(|other| other.place).collect();
        let place = Place::first_free(disk.bus, &taken)?;
        let path = match &disk.file {
            Some(path) => std::path::absolute(path)?,
            None => dir.join(format!("{}.img", disk.name)),
        };
        if let Some(size) = disk.size {
            let file = std::fs::File::options()
                .create(disk.file.is_none())
                .truncate(false)
                .write(true)
                .open(&path);
            if let Err(error) = file.and_then(|file| file.set_len(size)) {
                bail!(
                    "disk {}: cannot size {}: {error}",
                    disk.name,
                    path.display()
                );
            }
        }
        Ok(Self { disk, path, place })
    }

    /// The disk, to be attached again with the same content.
    pub(crate) fn detach(self) -> Disk {
        // Its size is the file's by now: it may have been resized.
        Disk {
            size: None,
            file: Some(self.path),
            ..self.disk
        }
    }

    /// The id of its QEMU device.
    pub(crate) fn device_id(&self) -> String {
        format!("disk-{}", self.disk.name)
    }

    /// The QEMU block node of its file.
    pub(crate) fn node(&self) -> String {
        format!("file-{}", self.disk.name)
    }

    fn filter_node(&self) -> String {
        format!("filter-{}", self.disk.name)
    }

    /// Its block nodes, each after those it needs, as for `blockdev-add`.
    pub(crate) fn nodes(&self) -> Vec<Value> {
        let mut file = json!({
            "driver": "file",
            "filename": self.path,
            "discard": "unmap",
            "read-only": self.disk.read_only,
        });
        if let (true, Some(file)) = (self.disk.shared, file.as_object_mut()) {
            file.insert("locking".to_owned(), "off".into());
        }
        let mut nodes = vec![json!({
            "driver": "raw",
            "node-name": self.node(),
            "discard": "unmap",
            "read-only": self.disk.read_only,
            "file": file,
        })];
        if let Some(Value::Object(filter)) = &self.disk.filter {
            let mut filter = filter.clone();
            filter.insert("node-name".to_owned(), self.filter_node().into());
            let below = if filter
                .get("driver")
                .is_some_and(|driver| driver == "blkdebug")
            {
                "image"
            } else {
                "file"
            };
            // A filter on a filter says itself what lies below.
            filter.entry(below).or_insert_with(|| self.node().into());
            nodes.push(Value::Object(filter));
        }
        nodes
    }

    /// Its device, as for `device_add`.
    pub(crate) fn device(&self) -> Value {
        let drive = match &self.disk.filter {
            Some(_) => self.filter_node(),
            None => self.node(),
        };
        let mut device = Map::new();
        let mut set = |name: &str, value: Value| device.insert(name.to_owned(), value);
        set("id", self.device_id().into());
        set("drive", drive.into());
        let driver = match self.disk.bus {
            Bus::Virtio => "virtio-blk-pci",
            Bus::Scsi => "scsi-hd",
            Bus::Nvme => "nvme",
            Bus::Usb => "usb-storage",
        };
        set("driver", driver.into());
        if self.disk.bus == Bus::Virtio {
            // As for the machine's own devices: see there.
            set("disable-modern", true.into());
        }
        match self.place {
            Place::PciSlot(slot) => {
                set("addr", format!("{slot:#x}").into());
            }
            Place::ScsiTarget(target) => {
                set("bus", "scsi0.0".into());
                set("scsi-id", target.into());
            }
            Place::UsbPort(port) => {
                set("bus", "xhci.0".into());
                set("port", port.to_string().into());
            }
        }
        match (&self.disk.serial, self.disk.bus) {
            (Some(serial), _) => {
                set("serial", serial.as_str().into());
            }
            (None, Bus::Nvme) => {
                set("serial", "".into());
            }
            (None, Bus::Virtio | Bus::Scsi | Bus::Usb) => {}
        }
        device.extend(self.disk.properties.clone());
        Value::Object(device)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn attach(disks: Vec<Disk>) -> Result<Vec<Attached>> {
        let dir = tempfile::tempdir().unwrap();
        let mut attached = Vec::new();
        for disk in disks {
            attached.push(Attached::new(disk, dir.path(), &attached)?);
        }
        Ok(attached)
    }

    #[test]
    fn every_bus_gives_out_its_places_in_order() {
        let disks = attach(vec![
            Disk::virtio("a").mib(1),
            Disk::nvme("b").mib(1),
            Disk::scsi("c").mib(1),
            Disk::scsi("d").mib(1),
            Disk::usb("e").mib(1),
        ])
        .unwrap();
        let places: Vec<Place> = disks.iter().map(|disk| disk.place).collect();
        use Place::{PciSlot, ScsiTarget, UsbPort};
        let expected = [
            PciSlot(8),
            PciSlot(9),
            ScsiTarget(0),
            ScsiTarget(1),
            UsbPort(1),
        ];
        assert_eq!(places, expected);
    }

    #[test]
    fn twenty_four_pci_disks_fit_and_no_more() {
        let disks = |n| {
            (0..n)
                .map(|i| Disk::virtio(&format!("d{i}")).mib(1))
                .collect()
        };
        assert_eq!(attach(disks(24)).unwrap().len(), 24);
        assert!(attach(disks(25)).is_err());
    }

    #[test]
    fn what_a_machine_cannot_have_is_refused() {
        assert!(attach(vec![Disk::virtio("a")]).is_err());
        assert!(attach(vec![Disk::virtio("a b").mib(1)]).is_err());
        assert!(attach(vec![Disk::nvme("a").mib(1).wwn(7)]).is_err());
        assert!(attach(vec![Disk::scsi("a").mib(1), Disk::usb("a").mib(1)]).is_err());
    }
}
