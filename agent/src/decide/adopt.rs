//! Disks that this node's agent has not made and mounts all the same: those of
//! Longhorn, and those of an agent on another node. Never formatted, and their
//! table never written to.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use uuid::Uuid;

use super::{
    Adopt, Adoption, Reason, Refusal, Source, Verdict, arrays, claimed::mounted_in_place, copies,
    gates, names, released, view::View,
};
use crate::{
    claim::ClaimId,
    fact::Fact,
    observe::{
        Device,
        longhorn_disk::LonghornDisk,
        medium::Window,
        signature::{Found, Signature},
    },
    units::{DiskName, Filesystem},
};

type Taken = Result<BTreeSet<DiskName>, Refusal>;

/// How to look into the only partition of a disk: nobody else may be at it, and
/// it may be this node's own. A disk that the operator's rules or a hazard keep
/// away is not handed to the kernel's filesystems; whether it was mounted here
/// before, its UUID tells.
pub(super) fn window(view: &View<'_>, disk: &Device) -> Option<Window> {
    let [partition] = view.partitions(disk) else {
        return None;
    };
    if gates::never_touch(view, disk).is_err() {
        return None;
    }
    if let Some(name) = place_of(view, partition) {
        let path = PathBuf::from(&view.policy.mount_root).join(name.as_str());
        return Some(Window::Mounted(path));
    }
    gates::in_use(view, disk).ok()?;
    Some(if newcomer(view, disk).is_ok() {
        Window::Device
    } else {
        Window::Closed
    })
}

/// The name under which a device is mounted below the mount root of the host,
/// wherever else it may be mounted, too.
fn place_of(view: &View<'_>, partition: &Device) -> Option<DiskName> {
    let devno = partition.devno.known().ok()?;
    let mounts = view.inventory.host_mounts.known().ok()?.iter().rev();
    let mut mounts = mounts.filter(|mount| mount.devno == *devno && mount.root == "/");
    mounts.find_map(|mount| {
        let name = mount.mountpoint.strip_prefix(&view.policy.mount_root)?;
        name.strip_prefix('/')?.parse().ok()
    })
}

/// A filesystem in the only partition of a disk that may be adopted.
pub(super) struct Lodger {
    uuid: Uuid,
    filesystem: Filesystem,
    /// What Longhorn calls it.
    named: Option<String>,
}

/// What a disk without a claim holds for Longhorn. `None` when nothing speaks
/// for that, an error when it cannot be told: then nobody must be advised to
/// erase it.
pub(super) fn lodger(view: &View<'_>, disk: &Device) -> Option<Result<Lodger, Refusal>> {
    let medium = view.inventory.media.get(&disk.name)?.known().ok()?;
    let lodger = medium.lodger.as_ref()?;
    let unread = |why| Some(Err(Refusal::new(Reason::ProbeFailed, why)));
    let found = match lodger.signature.known() {
        Ok(Signature::Found(found)) => found,
        Ok(Signature::Nothing | Signature::Ambivalent) => return None,
        Err(why) => return unread(why),
    };
    let (uuid, filesystem) = identified(found)?;
    let standing = view.inventory.standing.known();
    let known = standing.is_ok_and(|standing| standing.name_of(uuid).is_some());
    let named = match lodger.longhorn.as_ref().map(Fact::known) {
        Some(Ok(LonghornDisk::Named { name, .. })) => name.clone(),
        // It was Longhorn's when it was mounted first.
        Some(Ok(LonghornDisk::Nameless | LonghornDisk::None) | Err(_)) | None if known => None,
        Some(Ok(LonghornDisk::Nameless)) => {
            return Some(Err(Reason::NamelessLonghornDisk.into()));
        }
        Some(Err(why)) => return unread(why),
        Some(Ok(LonghornDisk::None)) | None => return None,
    };
    Some(Ok(Lodger {
        uuid,
        filesystem,
        named,
    }))
}

/// Names that disks of Longhorn's bring with them. No new disk gets one of them.
pub(super) fn brought(view: &View<'_>) -> BTreeSet<DiskName> {
    let disks = view.inventory.devices.values();
    disks
        .filter_map(|disk| lodger(view, disk)?.ok()?.named?.parse().ok())
        .collect()
}

fn identified(found: &Found) -> Option<(Uuid, Filesystem)> {
    let filesystem = Filesystem::from_name(&found.kind)?;
    let uuid = found.uuid.as_ref()?.parse().ok()?;
    Some((uuid, filesystem))
}

/// A disk of Longhorn's.
pub(super) fn longhorn(
    view: &View<'_>,
    disk: &Device,
    lodger: &Lodger,
    taken: &Taken,
) -> Result<Verdict, Refusal> {
    released::gate(view, lodger.uuid)?;
    gates::never_touch(view, disk)?;
    view.unique_filesystem(lodger.uuid)?;
    copies::gate(view, disk, lodger.uuid)?;
    let given = view.inventory.standing.known()?.name_of(lodger.uuid);
    if given.is_none() {
        if view.policy.adopt == Adoption::None {
            return Err(Reason::NotAdopted.into());
        }
        newcomer(view, disk)?;
    }
    let place = view
        .partitions(disk)
        .first()
        .and_then(|partition| place_of(view, partition));
    let called = lodger.named.as_ref().and_then(|name| name.parse().ok());
    let name = match (given, place, called) {
        (Some(name), _, _) => name.clone(),
        (None, Some(place), _) => place,
        (None, None, Some(called)) => names::free(&called, &owned_names(view, disk)?)?,
        (None, None, None) => names::free_name(disk, taken.as_ref().map_err(Clone::clone)?)?,
    };
    as_it_is(
        view,
        disk,
        name,
        lodger.uuid,
        lodger.filesystem,
        Source::Longhorn,
    )
}

/// A disk with the committed claim of another node, or with one of this node
/// whose name went to another disk.
pub(super) fn claim(
    view: &View<'_>,
    disk: &Device,
    id: &ClaimId,
    filesystem: Filesystem,
) -> Result<Verdict, Refusal> {
    gates::never_touch(view, disk)?;
    let standing = view.inventory.standing.known()?;
    let name = match standing.name_of(id.partition_guid) {
        Some(name) => name.clone(),
        None => {
            if view.is_of_another_node(id) {
                if view.policy.adopt == Adoption::None {
                    return Err(Reason::AnotherNode.into());
                }
                newcomer(view, disk)?;
            }
            name_of_claim(view, disk, id)?
        }
    };
    let source = Source::Claim(id.clone());
    as_it_is(view, disk, name, id.partition_guid, filesystem, source)
}

/// The claim's own name where no other disk has it here.
fn name_of_claim(view: &View<'_>, disk: &Device, id: &ClaimId) -> Result<DiskName, Refusal> {
    let [partition] = view.partitions(disk) else {
        return Err(Refusal::new(
            Reason::NoName,
            "its partition is not known to the kernel",
        ));
    };
    if let Some(place) = place_of(view, partition) {
        return Ok(place);
    }
    names::free(&id.name, &owned_names(view, disk)?)
}

/// Names that belong to other disks. A directory does not say whose it is: it
/// may be waiting for this very disk.
fn owned_names(view: &View<'_>, disk: &Device) -> Result<BTreeSet<DiskName>, Refusal> {
    let others = view
        .inventory
        .devices
        .keys()
        .filter(|name| **name != disk.name);
    let others = others.filter_map(|name| view.claim_of(name));
    let others = others.map(|claim| claim.id.name.clone());
    let journal = view.inventory.journal.known()?.iter();
    let journal = journal.map(|entry| entry.claim.name.clone());
    let given = view.inventory.standing.known()?.disks.values();
    let given = given.map(|kept| kept.name.clone());
    Ok(others.chain(journal).chain(given).collect())
}

/// What the operator asks of a disk that is mounted here for the first time.
fn newcomer(view: &View<'_>, disk: &Device) -> Result<(), Refusal> {
    gates::hazard(view, disk)?;
    gates::rules(view, disk)
}

fn as_it_is(
    view: &View<'_>,
    disk: &Device,
    name: DiskName,
    uuid: Uuid,
    filesystem: Filesystem,
    from: Source,
) -> Result<Verdict, Refusal> {
    let place = mounted_in_place(view, disk, &name)?;
    if !place.mounted {
        gates::in_use(view, disk)?;
        arrays::gate(view, disk, uuid, view.medium(disk)?)?;
        if *disk.read_only.known()? {
            return Err(Reason::ReadOnly.into());
        }
    }
    Ok(Verdict::Adopt(Adopt {
        uuid,
        name,
        filesystem,
        from,
        mounted: place.mounted,
        ailment: place.ailment,
    }))
}

/// Two disks that come with one name: the first by its kernel name keeps it,
/// the next ones are numbered. What the ledger has named, or is mounted, has its
/// name.
pub(super) fn share_names(
    view: &View<'_>,
    verdicts: &mut BTreeMap<String, Verdict>,
    taken: &Taken,
) {
    let standing = view.inventory.standing.known();
    let settled = |adopt: &Adopt| {
        let given = standing.is_ok_and(|standing| standing.name_of(adopt.uuid).is_some());
        given || adopt.mounted
    };
    let mut seen: BTreeSet<DiskName> = verdicts
        .values()
        .filter_map(|verdict| match verdict {
            Verdict::Adopt(adopt) if settled(adopt) => Some(adopt.name.clone()),
            Verdict::Managed(managed) => Some(managed.claim.name.clone()),
            Verdict::Provision(provision) => Some(provision.name.clone()),
            Verdict::Resume(resume) => Some(resume.claim.name.clone()),
            Verdict::Adopt(_) | Verdict::Refused(_) => None,
        })
        .collect();
    for verdict in verdicts.values_mut() {
        let Verdict::Adopt(adopt) = verdict else {
            continue;
        };
        if settled(adopt) || seen.insert(adopt.name.clone()) {
            continue;
        }
        let mut taken = match taken {
            Ok(taken) => taken.clone(),
            Err(refusal) => {
                *verdict = Verdict::Refused(refusal.clone());
                continue;
            }
        };
        taken.extend(seen.iter().cloned());
        match names::free(&adopt.name, &taken) {
            Ok(name) => {
                seen.insert(name.clone());
                adopt.name = name;
            }
            Err(refusal) => *verdict = Verdict::Refused(refusal),
        }
    }
}
