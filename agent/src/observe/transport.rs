//! How a disk is attached to the machine: its path in sysfs, and what its
//! controller says where the path does not tell.

use super::{device::Transport, sysfs::Directory};
use crate::fact::Fact;

/// Of a disk, by its path; `directory` is that of the disk.
pub(super) fn read(path: &str, name: &str, directory: &Directory) -> Fact<Transport> {
    if path.starts_with("/devices/virtual/") && !name.starts_with("nvme") {
        return Fact::Known(Transport::Virtual);
    }
    if name.starts_with("nvme") {
        return nvme_transport(directory);
    }
    let through = |part: &str| path.split('/').any(|dir| dir.starts_with(part));
    let told = if through("usb") {
        Transport::Usb
    } else if through("session") {
        Transport::Iscsi
    } else if through("rport-") {
        Transport::FibreChannel
    } else if name.starts_with("vd") {
        Transport::Virtio
    } else if through("mmc") {
        Transport::Mmc
    } else if through("host") {
        return scsi_transport(path, directory);
    } else {
        Transport::Other
    };
    Fact::Known(told)
}

/// How a disk is attached whose path shows no more than that it is SCSI: the
/// name of its controller's driver (`proc_name` in its `scsi_host_template`)
/// tells the two that reach other machines, or storage of this one, without a
/// trace in the path. Every kernel has that attribute; where it is missing all
/// the same, the path is all there is.
fn scsi_transport(path: &str, directory: &Directory) -> Fact<Transport> {
    let is_host = |part: &str| {
        let number = part.strip_prefix("host");
        number.is_some_and(|n| !n.is_empty() && n.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let mut above = path.rsplit('/').enumerate();
    let Some((steps, host)) = above.find(|(_, part)| is_host(part)) else {
        return Fact::Known(Transport::Scsi);
    };
    let attribute = format!("{}scsi_host/{host}/proc_name", "../".repeat(steps));
    directory.attribute(&attribute).map(|driver| {
        match driver.as_deref() {
            // drivers/infiniband/ulp/srp/ib_srp.c
            Some("ib_srp") => Transport::Srp,
            // drivers/target/loopback/tcm_loop.c
            Some("tcm_loopback") => Transport::TargetLoop,
            Some(_) | None => Transport::Scsi,
        }
    })
}

/// Whether it is a card for a slot: the kernel calls no device of the MMC bus
/// removable, but says of each what it is. `MMC` is a chip on the board, with
/// few exceptions; `SD` and the others can be taken out.
pub(super) fn is_card(name: &str, directory: &Directory) -> Fact<bool> {
    const TYPE: &str = "device/type";
    if !name.starts_with("mmcblk") {
        return Fact::Known(false);
    }
    directory.attribute(TYPE).and_then(|kind| match kind {
        Some(kind) => Fact::Known(kind != "MMC"),
        None => directory.unreadable(TYPE, "absent"),
    })
}

/// How an NVMe disk is attached: its controller says. Behind native multipath
/// the disk hangs below a subsystem, which has a link to each controller; one
/// on a network is enough.
fn nvme_transport(directory: &Directory) -> Fact<Transport> {
    let kind = |transport: &str| match transport {
        "pcie" => Transport::Nvme,
        _ => Transport::NvmeFabrics,
    };
    directory.attribute("device/transport").and_then(|own| {
        if let Some(own) = own {
            return Fact::Known(kind(&own));
        }
        directory.names("device").and_then(|names| {
            let mut found = directory.unreadable("device", "no controller says its transport");
            for name in names.iter().filter(|name| name.starts_with("nvme")) {
                match directory.attribute(&format!("device/{name}/transport")) {
                    // A disk or a character device beside the controllers.
                    Fact::Known(None) => {}
                    Fact::Known(Some(transport)) => found = Fact::Known(kind(&transport)),
                    Fact::Unreadable(why) => return Fact::Unreadable(why),
                }
                if found == Fact::Known(Transport::NvmeFabrics) {
                    break;
                }
            }
            found
        })
    })
}
