//! A block device as observed: facts only.

use serde::{Deserialize, Serialize};

use super::{Host, loops::Backing, sysfs};
use crate::{fact::Fact, units::DevNo};

/// Reads one device as it is at this moment, past any cache.
pub fn read(host: &Host, name: &str) -> Device {
    sysfs::read_device(host, name)
}

/// One block device of sysfs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// Kernel name, `sda`, `nvme0n1p1`.
    pub name: String,
    /// Canonical path below `/sys`, which shows the bus it hangs on.
    pub path: Fact<String>,
    /// For a partition: the kernel name of its disk.
    pub parent: Option<String>,
    /// Device number.
    pub devno: Fact<DevNo>,
    /// Name of its node below `/dev`.
    pub devname: Fact<String>,
    /// Number of a partition on its disk.
    pub partition_number: Fact<Option<u32>>,
    /// Given once by the kernel and never again; Linux 5.15 and newer.
    pub diskseq: Fact<Option<u64>>,
    /// Bytes.
    pub size: Fact<u64>,
    /// First byte on the disk, for partitions.
    pub start: Fact<Option<u64>>,
    /// Logical sector size in bytes; `None` for partitions.
    pub sector: Fact<Option<u32>>,
    /// The kernel refuses writes.
    pub read_only: Fact<bool>,
    /// The medium can be taken out.
    pub removable: Fact<bool>,
    /// A path that the kernel hides behind another device.
    pub hidden: Fact<bool>,
    /// Has spinning platters, as far as the kernel knows.
    pub rotational: Fact<Option<bool>>,
    /// Kernel names of devices built on this one.
    pub holders: Fact<Vec<String>>,
    /// Kernel names of devices that this one is built on.
    pub slaves: Fact<Vec<String>>,
    /// What a loop device lies on; `None` for one that is not in use, and for
    /// all others.
    pub backing: Fact<Option<Backing>>,
    /// As the device says it.
    pub vendor: Fact<Option<String>>,
    /// As the device says it.
    pub model: Fact<Option<String>>,
    /// As the device says it.
    pub serial: Fact<Option<String>>,
    /// World-wide name or another unique id of the device.
    pub wwn: Fact<Option<String>>,
    /// How the disk is attached.
    pub transport: Fact<Transport>,
    /// What udevd recorded; `None` when it has no record.
    pub udev: Fact<Option<UdevRecord>>,
}

/// How a disk is attached, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// virtio-blk.
    Virtio,
    /// SCSI, SAS or SATA inside the machine.
    Scsi,
    /// NVMe over PCIe.
    Nvme,
    /// SD or eMMC.
    Mmc,
    /// USB.
    Usb,
    /// iSCSI.
    Iscsi,
    /// Fibre Channel.
    FibreChannel,
    /// NVMe over a network.
    NvmeFabrics,
    /// SCSI over InfiniBand or another network with RDMA.
    Srp,
    /// The kernel's own SCSI target, looped back to this machine (`tcm_loop`).
    TargetLoop,
    /// Not a device with a bus: loop, ram, md, dm.
    Virtual,
    /// Anything else.
    Other,
}

impl Transport {
    /// Every way there is.
    pub const ALL: &[Self] = &[
        Self::Virtio,
        Self::Scsi,
        Self::Nvme,
        Self::Mmc,
        Self::Usb,
        Self::Iscsi,
        Self::FibreChannel,
        Self::NvmeFabrics,
        Self::Srp,
        Self::TargetLoop,
        Self::Virtual,
        Self::Other,
    ];

    /// As it is shown and as rules name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Virtio => "virtio",
            Self::Scsi => "scsi",
            Self::Nvme => "nvme",
            Self::Mmc => "mmc",
            Self::Usb => "usb",
            Self::Iscsi => "iscsi",
            Self::FibreChannel => "fibre-channel",
            Self::NvmeFabrics => "nvme-fabrics",
            Self::Srp => "srp",
            Self::TargetLoop => "target-loop",
            Self::Virtual => "virtual",
            Self::Other => "other",
        }
    }
}

/// The part of udevd's record that is used here.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UdevRecord {
    /// udevd has finished with the device at least once.
    pub initialized: bool,
    /// `ID_FS_TYPE`.
    pub filesystem: Option<String>,
    /// `ID_PART_TABLE_TYPE`.
    pub table: Option<String>,
    /// `ID_PATH`.
    pub id_path: Option<String>,
    /// `ID_BUS`.
    pub bus: Option<String>,
    /// `DM_MULTIPATH_DEVICE_PATH` is there and is not 0: it is one of several
    /// paths, or multipathd still waits to see whether it is.
    pub multipath_member: bool,
    /// Links below `/dev/disk/by-id` and `/dev/disk/by-path`, as
    /// `by-id/scsi-0QEMU`.
    pub links: Vec<String>,
}

impl Device {
    /// A partition of another device.
    pub fn is_partition(&self) -> bool {
        self.parent.is_some()
    }
}

/// Whether a device is a disk or one of its partitions, by the kernel's names.
pub fn is_part_of(name: &str, disk: &str) -> bool {
    let Some(rest) = name.strip_prefix(disk) else {
        return false;
    };
    let number = if disk.ends_with(|c: char| c.is_ascii_digit()) {
        rest.strip_prefix('p')
    } else {
        Some(rest)
    };
    let is_number = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
    rest.is_empty() || number.is_some_and(is_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transports_are_shown_by_their_names() {
        for transport in Transport::ALL {
            let shown = serde_json::to_value(transport).expect("JSON");
            assert_eq!(shown, transport.name());
        }
    }

    #[test]
    fn partitions_belong_to_their_own_disk_only() {
        for (name, disk) in [
            ("sda", "sda"),
            ("sda1", "sda"),
            ("nvme0n1p2", "nvme0n1"),
            ("loop0p1", "loop0"),
        ] {
            assert!(is_part_of(name, disk), "{name} {disk}");
        }
        for (name, disk) in [
            ("sdaa", "sda"),
            ("nvme0n11", "nvme0n1"),
            ("nvme0n11p1", "nvme0n1"),
            ("loop10", "loop1"),
            ("sdb", "sda"),
        ] {
            assert!(!is_part_of(name, disk), "{name} {disk}");
        }
    }
}
