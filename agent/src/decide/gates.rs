//! The gates that a disk passes before anything is done with it, in order.
//! Each returns the reason at which it stops.

use super::{Reason, Refusal, view::View};
use crate::{
    fact::{Fact, Unreadable},
    observe::{Device, Transport, medium::Content, signature::Signature},
};

impl From<&Unreadable> for Refusal {
    fn from(why: &Unreadable) -> Self {
        Self::new(Reason::Unreadable, why)
    }
}

type Gate = Result<(), Refusal>;

fn refuse_if(condition: bool, reason: Reason, detail: impl std::fmt::Display) -> Gate {
    if condition {
        Err(Refusal::new(reason, detail))
    } else {
        Ok(())
    }
}

/// Whole disks of a kind that is provisioned.
pub(super) fn kind(view: &View<'_>, device: &Device) -> Gate {
    let name = device.name.as_str();
    let digits_after = |prefix: &str| {
        name.strip_prefix(prefix)
            .is_some_and(|rest| !rest.is_empty() && rest.chars().all(|c| c.is_ascii_digit()))
    };
    let letters_after = |prefix: &str| {
        name.strip_prefix(prefix)
            .is_some_and(|rest| !rest.is_empty() && rest.chars().all(|c| c.is_ascii_lowercase()))
    };
    let nvme = name
        .strip_prefix("nvme")
        .and_then(|rest| rest.split_once('n'))
        .is_some_and(|(controller, namespace)| {
            let number = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
            number(controller) && number(namespace)
        });
    refuse_if(device.is_partition(), Reason::Partition, "")?;
    let hidden = device.hidden.is_known_and(|hidden| *hidden);
    refuse_if(hidden, Reason::HiddenPath, "")?;
    let disk = ["sd", "vd", "xvd"].into_iter().any(letters_after)
        || digits_after("mmcblk")
        || nvme
        || (view.policy.allow_loop && digits_after("loop"));
    refuse_if(!disk, Reason::UnsupportedKind, "")?;
    device.hidden.known()?;
    Ok(())
}

/// Disks that are never touched, whatever a policy says.
pub(super) fn never_touch(view: &View<'_>, disk: &Device) -> Gate {
    match &view.system {
        Err(why) => return Err(Refusal::new(Reason::SystemDiskUnresolved, why)),
        Ok(system) => refuse_if(system.contains(disk.name.as_str()), Reason::SystemDisk, "")?,
    }
    let vendor = disk.vendor.known()?.as_deref().unwrap_or_default();
    let model = disk.model.known()?.as_deref().unwrap_or_default();
    let id_path = match disk.udev.known()? {
        Some(record) => record.id_path.as_deref().unwrap_or_default(),
        None => "",
    };
    let longhorn = (vendor == "IET" && model == "VIRTUAL-DISK")
        || model == "SPDK bdev Controller"
        || id_path.contains("iqn.2019-10.io.longhorn");
    refuse_if(
        longhorn,
        Reason::LonghornVolume,
        format_args!("{vendor} {model}"),
    )?;
    match disk.transport.known()? {
        transport @ (Transport::Iscsi | Transport::FibreChannel | Transport::NvmeFabrics) => Err(
            Refusal::new(Reason::NetworkTransport, format_args!("{transport:?}")),
        ),
        Transport::Other => Err(Reason::UnknownTransport.into()),
        Transport::Usb => Err(Refusal::new(Reason::Removable, "USB")),
        Transport::Virtio
        | Transport::Scsi
        | Transport::Nvme
        | Transport::Mmc
        | Transport::Virtual => refuse_if(
            *disk.removable.known()?,
            Reason::Removable,
            "removable medium",
        ),
    }
}

/// What the operator asks of a new disk.
pub(super) fn policy(view: &View<'_>, disk: &Device) -> Gate {
    let size = crate::units::Bytes(*disk.size.known()?);
    let least = view.policy.min_size;
    refuse_if(
        size <= least,
        Reason::TooSmall,
        format_args!("{size} is not more than {least}"),
    )?;
    refuse_if(*disk.read_only.known()?, Reason::ReadOnly, "")
}

/// Use by anybody, of the disk or of a partition on it.
pub(super) fn in_use(view: &View<'_>, disk: &Device) -> Gate {
    let parts = || std::iter::once(disk).chain(view.partitions(disk).iter().copied());
    for device in parts() {
        if let Some(mount) = view.mounts_of(device).first() {
            return Err(Refusal::new(
                Reason::Mounted,
                format_args!("{} at {}", device.name, mount.mountpoint),
            ));
        }
        if let Some(mount) = view.raw_mount_of(device) {
            let detail = format_args!("{} as a raw device at {}", device.name, mount.mountpoint);
            return Err(Refusal::new(Reason::Mounted, detail));
        }
        refuse_if(view.is_swap(device), Reason::Swap, &device.name)?;
        for (relation, stacked) in [
            ("under", device.holders.known()?),
            ("on", device.slaves.known()?),
        ] {
            if let Some(other) = stacked.first() {
                return Err(Refusal::new(
                    Reason::Stacked,
                    format_args!("{} is {relation} {other}", device.name),
                ));
            }
        }
        let multipath = device
            .udev
            .known()?
            .as_ref()
            .is_some_and(|record| record.multipath_member);
        refuse_if(multipath, Reason::MultipathMember, &device.name)?;
    }
    // No use was found: now it counts that everything could be looked at.
    for device in parts() {
        device.devno.known()?;
        device.devname.known()?;
    }
    view.inventory.host_mounts.known()?;
    view.inventory.swaps.known()?;
    Ok(())
}

/// A new disk has no partitions that the kernel knows.
pub(super) fn unpartitioned(view: &View<'_>, disk: &Device) -> Gate {
    let partitions = view.partitions(disk);
    let names: Vec<&str> = partitions
        .iter()
        .map(|partition| partition.name.as_str())
        .collect();
    refuse_if(!partitions.is_empty(), Reason::Partitioned, names.join(" "))
}

/// udevd has finished with the disk.
pub(super) fn udev_done(disk: &Device) -> Gate {
    let done = disk
        .udev
        .known()?
        .as_ref()
        .is_some_and(|record| record.initialized);
    refuse_if(!done, Reason::UdevPending, "")
}

/// udevd sees nothing either. Asked after the medium, which names what it
/// holds better than an older record does.
pub(super) fn udev_agrees(disk: &Device) -> Gate {
    let record = disk.udev.known()?.as_ref();
    match record.and_then(|record| record.filesystem.as_ref().or(record.table.as_ref())) {
        Some(seen) => Err(Refusal::new(
            Reason::SourcesDisagree,
            format_args!("udev says {seen}, the medium says nothing"),
        )),
        None => Ok(()),
    }
}

/// The medium proves that the disk is blank.
pub(super) fn blank(content: &Content) -> Gate {
    let failed = |why: &Unreadable| Refusal::new(Reason::ProbeFailed, why);
    match content.signature.known().map_err(failed)? {
        Signature::Nothing => {}
        Signature::Found(found) => return Err(Refusal::new(Reason::Signature, &found.kind)),
        Signature::Ambivalent => return Err(Reason::AmbivalentSignatures.into()),
    }
    if let Some(at) = content.residue.known().map_err(failed)? {
        return Err(Refusal::new(
            Reason::ResidualData,
            format_args!("first at byte {at}"),
        ));
    }
    refuse_if(*content.busy.known().map_err(failed)?, Reason::Busy, "")
}

/// The second witness sees no use.
pub(super) fn witness_agrees(view: &View<'_>, disk: &Device) -> Gate {
    match &view.inventory.witness {
        Fact::Known(seen) => match seen.get(&disk.name) {
            Some(seen) => Err(Refusal::new(
                Reason::SourcesDisagree,
                format_args!("blockdev sees it in use: {seen}"),
            )),
            None => Ok(()),
        },
        Fact::Unreadable(why) => Err(why.into()),
    }
}
