//! Disks that a cloud or a storage driver attaches and detaches as volumes. A
//! blank one is not free: it was just made for somebody.

use crate::observe::{Device, Transport};

/// A provider and how its volumes call themselves. `*` stands for any vendor or
/// model.
struct Model {
    provider: &'static str,
    vendor: &'static str,
    model: &'static str,
}

const fn model(provider: &'static str, vendor: &'static str, model: &'static str) -> Model {
    Model {
        provider,
        vendor,
        model,
    }
}

/// Where a provider's root and data disks call themselves like its volumes
/// (Azure, vSphere, EBS, Nutanix), they cannot be told apart, and all are left
/// alone.
const MODELS: &[Model] = &[
    model("Amazon EBS", "*", "Amazon Elastic Block Store"),
    model("Google Persistent Disk", "Google", "PersistentDisk"),
    model("Google Persistent Disk", "*", "nvme_card-pd"),
    model("Azure Disk or Hyper-V", "Msft", "Virtual Disk"),
    model("Azure Disk", "*", "MSFT NVMe Accelerator v1.0"),
    model("Hetzner Cloud", "HC", "Volume"),
    model("DigitalOcean", "DO", "Volume"),
    model("Linode", "Linode", "Volume"),
    model("Oracle Cloud", "ORACLE", "BlockVolume"),
    model("Scaleway", "SCW", "b_ssd"),
    model("Alibaba Cloud", "*", "Alibaba Cloud Elastic Block Storage"),
    model("VMware vSphere", "VMware", "Virtual disk"),
    model("VMware vSphere", "*", "VMware Virtual NVMe Disk"),
    model("Nutanix", "NUTANIX", "VDISK"),
    // What the kernel's own target offers to its own machine.
    model("a target of this machine (LIO)", "LIO-ORG", "*"),
];

/// Proxmox CSI gives its volumes world-wide names that begin with `PVC-ID`.
const PROXMOX: &str = "5056432d4944";

/// Whose volume a disk is, by its vendor, model and serial number.
pub(super) fn provider(
    disk: &Device,
    vendor: &str,
    model: &str,
    serial: &str,
    wwn: &str,
) -> Option<&'static str> {
    let same = |wanted: &str, there: &str| wanted == "*" || wanted.eq_ignore_ascii_case(there);
    let known = MODELS
        .iter()
        .find(|known| same(known.vendor, vendor) && same(known.model, model));
    if let Some(known) = known {
        return Some(known.provider);
    }
    let Ok(transport) = disk.transport.known() else {
        return None;
    };
    match transport {
        // Cinder gives its volumes their UUID as serial number, of which
        // virtio-blk shows the first 20 characters and SCSI shows all. Others
        // leave its dashes out.
        Transport::Virtio if has_uuid(serial) => Some("OpenStack Cinder"),
        Transport::Virtio if is_plain_uuid(serial) => Some("CloudStack or UpCloud"),
        Transport::Scsi if vendor == "QEMU" && wwn.contains(PROXMOX) => Some("Proxmox CSI"),
        Transport::Scsi if vendor == "QEMU" && (has_uuid(serial) || has_uuid(wwn)) => {
            Some("OpenStack Cinder")
        }
        Transport::Virtio
        | Transport::Scsi
        | Transport::Nvme
        | Transport::Mmc
        | Transport::Usb
        | Transport::Iscsi
        | Transport::FibreChannel
        | Transport::NvmeFabrics
        | Transport::Srp
        | Transport::TargetLoop
        | Transport::Virtual
        | Transport::Other => None,
    }
}

/// The 20 hexadecimal digits that virtio-blk shows of a UUID without dashes.
fn is_plain_uuid(serial: &str) -> bool {
    serial.len() == 20 && serial.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The beginning of a UUID, as far as 20 characters hold it.
fn has_uuid(text: &str) -> bool {
    let form = |window: &[u8]| {
        window.iter().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
    };
    text.as_bytes().windows(20).any(form)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{decide::example_disk, fact::Fact};

    fn on(transport: Transport) -> Device {
        let mut disk = example_disk();
        disk.transport = Fact::Known(transport);
        disk
    }

    #[test]
    fn volumes_of_each_provider_are_told_by_their_model() {
        for known in MODELS {
            let vendor = known.vendor.trim_matches('*');
            let model = known.model.trim_matches('*');
            let found = provider(&on(Transport::Scsi), vendor, model, "", "");
            assert_eq!(found, Some(known.provider));
        }
        for (vendor, model) in [
            ("ATA", "Samsung SSD 870"),
            ("Google", "EphemeralDisk"),
            ("QEMU", "QEMU HARDDISK"),
            ("ACME", "Volume"),
            ("", ""),
        ] {
            let found = provider(&on(Transport::Scsi), vendor, model, "S1", "naa.1");
            assert_eq!(found, None, "{vendor} {model}");
        }
    }

    #[test]
    fn volumes_of_drivers_are_told_by_the_numbers_that_these_give_them() {
        let told = |transport, vendor, serial, wwn| {
            provider(&on(transport), vendor, "QEMU HARDDISK", serial, wwn)
        };
        let proxmox = "naa.5056432d49443031";
        assert_eq!(
            told(Transport::Scsi, "QEMU", "", proxmox),
            Some("Proxmox CSI")
        );
        assert_eq!(told(Transport::Scsi, "ATA", "", proxmox), None);
        let plain = "8d1c5b2e0f6a4c1b9d3e";
        let of = |serial| told(Transport::Virtio, "", serial, "");
        assert_eq!(of(plain), Some("CloudStack or UpCloud"));
        for other in [&plain[..19], "8d1c5b2e0f6a4c1b9d3x", ""] {
            assert_eq!(of(other), None, "{other}");
        }
        assert_eq!(told(Transport::Scsi, "QEMU", plain, ""), None);
    }

    #[test]
    fn volumes_of_openstack_are_told_by_the_uuid_in_their_serial_number() {
        let uuid = "8d1c5b2e-0f6a-4c1b-9d3e-2a7f6b5c4d3e";
        let short = &uuid[..20];
        let virtio = |serial| provider(&on(Transport::Virtio), "", "", serial, "");
        assert!(virtio(short).is_some());
        for plain in ["", "WD-WCC4N1234567", "20-characters-of-no-u", &uuid[..19]] {
            assert_eq!(virtio(plain), None, "{plain}");
        }
        let wwn = format!("t10.QEMU    QEMU HARDDISK   {uuid}");
        let scsi = |vendor| provider(&on(Transport::Scsi), vendor, "QEMU HARDDISK", "", &wwn);
        assert!(scsi("QEMU").is_some());
        assert_eq!(scsi("ATA"), None);
        // An NVMe disk of any maker may have a UUID for a name.
        assert_eq!(
            provider(
                &on(Transport::Nvme),
                "",
                "SSD",
                "S1",
                &format!("uuid.{uuid}")
            ),
            None
        );
    }
}
