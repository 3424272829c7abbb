//! The gates that a disk passes before anything is done with it, in order.
//! Each returns the reason at which it stops.

use super::{Reason, Refusal, rule::Field, view::View, volumes};
use crate::{
    fact::{Fact, Unreadable},
    observe::{Device, Transport, medium::Content, scan::Scan, signature::Signature},
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
    if let Some(disk) = &device.parent {
        return Err(Refusal::new(Reason::Partition, format_args!("of {disk}")));
    }
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
    match &view.swap {
        Err(why) => return Err(Refusal::new(Reason::SystemDiskUnresolved, why)),
        Ok(swap) => {
            if let Some(area) = swap.get(disk.name.as_str()) {
                return Err(Refusal::new(Reason::Swap, area));
            }
        }
    }
    let vendor = disk.vendor.known()?.as_deref().unwrap_or_default();
    let model = disk.model.known()?.as_deref().unwrap_or_default();
    let record = disk.udev.known()?.as_ref();
    let id_path = record.and_then(|record| record.id_path.as_deref());
    let of_longhorn = |text: &str| text.to_ascii_lowercase().contains("longhorn");
    let longhorn = (vendor == "IET" && model == "VIRTUAL-DISK")
        || model == "SPDK bdev Controller"
        || of_longhorn(id_path.unwrap_or_default())
        || of_longhorn(vendor)
        || of_longhorn(model);
    refuse_if(
        longhorn,
        Reason::LonghornVolume,
        format_args!("{vendor} {model}"),
    )?;
    refuse_if(
        *disk.transport.known()? == Transport::Other,
        Reason::UnknownTransport,
        "",
    )
}

/// Disks that are probably not this node's own: left alone unless the policy
/// names the very property that makes them so.
pub(super) fn hazard(view: &View<'_>, disk: &Device) -> Gate {
    let unless_named = |field, reason, detail: &dyn std::fmt::Display| {
        refuse_if(!view.policy.names(disk, field), reason, detail)
    };
    match disk.transport.known()? {
        transport @ (Transport::Iscsi
        | Transport::FibreChannel
        | Transport::NvmeFabrics
        | Transport::Srp
        | Transport::TargetLoop) => {
            unless_named(
                Field::Transport,
                Reason::NetworkTransport,
                &transport.name(),
            )?;
        }
        Transport::Usb => unless_named(Field::Transport, Reason::Removable, &"USB")?,
        Transport::Virtio
        | Transport::Scsi
        | Transport::Nvme
        | Transport::Mmc
        | Transport::Virtual
        | Transport::Other => {}
    }
    if *disk.removable.known()? {
        unless_named(Field::Removable, Reason::Removable, &"removable medium")?;
    }
    let text = |fact: &'_ Fact<Option<String>>| -> Result<String, Refusal> {
        Ok(fact.known()?.clone().unwrap_or_default())
    };
    let (vendor, model) = (text(&disk.vendor)?, text(&disk.model)?);
    let (serial, wwn) = (text(&disk.serial)?, text(&disk.wwn)?);
    match volumes::provider(disk, &vendor, &model, &serial, &wwn) {
        Some(provider) => unless_named(Field::Model, Reason::CsiVolume, &provider),
        None => Ok(()),
    }
}

/// What the operator's rules say of a new disk.
pub(super) fn rules(view: &View<'_>, disk: &Device) -> Gate {
    let mut doubt = None;
    for rule in &view.policy.deny {
        match rule.matches(disk) {
            Fact::Known(true) => return Err(Refusal::new(Reason::Denied, rule)),
            Fact::Known(false) => {}
            Fact::Unreadable(why) => return Err((&why).into()),
        }
    }
    let mut allowed = view.policy.allow.is_empty();
    for rule in &view.policy.allow {
        match rule.matches(disk) {
            Fact::Known(matches) => allowed |= matches,
            Fact::Unreadable(why) => doubt = Some(why),
        }
    }
    if !allowed {
        return Err(doubt.map_or(Reason::NotAllowed.into(), |why| (&why).into()));
    }
    Ok(())
}

/// What the operator asks of a disk that is to be formatted.
pub(super) fn policy(view: &View<'_>, disk: &Device) -> Gate {
    rules(view, disk)?;
    let size = crate::units::Bytes(*disk.size.known()?);
    let least = view.policy.min_size;
    if size <= least {
        let (mut is, least_is) = (size.to_string(), least.to_string());
        if is == least_is {
            is = format!("{is} ({} bytes)", size.0);
        }
        let detail = format_args!("{is} is not more than {least_is}");
        return Err(Refusal::new(Reason::TooSmall, detail));
    }
    refuse_if(*disk.read_only.known()?, Reason::ReadOnly, "")
}

/// Formatting is not frozen on this node. Asked late, so that one can see
/// meanwhile what a thaw would do.
pub(super) fn frozen(view: &View<'_>) -> Gate {
    match &view.inventory.standing.known()?.frozen {
        Some(why) => Err(Refusal::new(Reason::Frozen, why)),
        None => Ok(()),
    }
}

/// Use by anybody, of the disk or of a partition on it.
pub(super) fn in_use(view: &View<'_>, disk: &Device) -> Gate {
    let parts = || std::iter::once(disk).chain(view.partitions(disk).iter().copied());
    for device in parts() {
        if let Some(mount) = view.mounts_of(device).first() {
            let detail = format_args!("{} at {}", device.name, mount.mountpoint);
            return Err(Refusal::new(Reason::Mounted, detail));
        }
        if let Some(mount) = view.raw_mount_of(device) {
            let detail = format_args!("{} as a raw device at {}", device.name, mount.mountpoint);
            return Err(Refusal::new(Reason::Mounted, detail));
        }
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
        if let Some(other) = view.loop_on(device) {
            let detail = format_args!("{} is under {other}", device.name);
            return Err(Refusal::new(Reason::Stacked, detail));
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
    view.loops_are_known()?;
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

/// Nothing is known of the disk's owner and nobody holds it.
pub(super) fn unowned(content: &Content) -> Result<&Scan, Refusal> {
    let failed = |why: &Unreadable| Refusal::new(Reason::ProbeFailed, why);
    match content.signature.known().map_err(failed)? {
        Signature::Nothing => {}
        Signature::Found(found) => return Err(Refusal::signature(&found.kind, "")),
        Signature::Ambivalent => return Err(Reason::AmbivalentSignatures.into()),
    }
    let scan = content
        .scan
        .as_ref()
        .ok_or_else(|| Refusal::new(Reason::ProbeFailed, "not scanned"))?
        .known()
        .map_err(failed)?;
    if let Some(trace) = scan.traces.iter().find(|trace| !trace.wiped) {
        let detail = format_args!("a copy or a partition at byte {}", trace.at);
        return Err(Refusal::signature(&trace.kind, detail));
    }
    refuse_if(*content.busy.known().map_err(failed)?, Reason::Busy, "")?;
    Ok(scan)
}

/// Nothing that was read is other than zero.
pub(super) fn zero(scan: &Scan) -> Gate {
    let Some(at) = scan.residue else {
        return Ok(());
    };
    let wiped = scan.traces.iter().find(|trace| trace.wiped);
    Err(match wiped {
        Some(trace) => Refusal::new(
            Reason::ResidualData,
            format_args!(
                "first at byte {at}; {} was wiped, a copy is at byte {}",
                trace.kind, trace.at
            ),
        ),
        None => Refusal::new(Reason::ResidualData, format_args!("first at byte {at}")),
    })
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
