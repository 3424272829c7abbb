//! Mounts a committed disk at its place.

mod released;

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use nix::mount::MsFlags;
use uuid::Uuid;

use super::{LockedDisk, Partition, ProvisionError, Surroundings};
use crate::{
    claim::ClaimId,
    durable,
    fact::Unreadable,
    ledger::LedgerError,
    observe::{
        signature::{Part, Signature, probe},
        tables::{Mount, read_mounts},
    },
    sys,
    text::chain,
    units::{DevNo, DiskName, Filesystem},
};

pub use released::{check_unused, unmount_released};

/// What is mounted, and under which name.
#[derive(Debug)]
pub(super) struct Occupant<'a> {
    /// UUID of the filesystem.
    pub uuid: Uuid,
    /// Name of the disk for life.
    pub name: &'a DiskName,
    /// Its type.
    pub filesystem: Filesystem,
    /// The disk itself says its name; otherwise only the ledger knows it.
    pub named_by_disk: bool,
}

/// Mounts the partition of a disk of ours and makes sure that it is there.
/// The disk stays locked until this returns, so that udevd does not look at a
/// filesystem in the middle of its mount.
///
/// # Errors
/// The step that failed; nothing is mounted then.
pub(super) fn mount(
    locked: &LockedDisk,
    partition: &Partition,
    occupant: &Occupant<'_>,
    around: &Surroundings,
) -> Result<PathBuf, ProvisionError> {
    check_filesystem(partition, occupant.uuid, occupant.filesystem)?;
    check_not_released(occupant.uuid, occupant.name, around)?;
    let place = around.mount_root.join(occupant.name.as_str());
    let on_host = || mounts_at(&locked.host().init_mountinfo(), &place);
    if let Some(there) = mounted_at(&place)? {
        let host = on_host()?.pop();
        let seen = host
            .as_ref()
            .is_some_and(|host| host.devno == partition.devno());
        if seen && there.devno == partition.devno() {
            return Ok(place);
        }
        // A disk that was pulled out leaves its mount behind.
        unmount_dead(occupant.name, there.devno, around)?;
    }
    // Before the name is taken down: a disk that was mounted here once is served
    // whatever the rules for others say.
    serve_known(
        locked.check_nobody_writes(),
        is_known(occupant, around),
        occupant.name,
    )?;
    prepare_mountpoint(&place)?;
    keep_name(partition, occupant, around)?;
    // The decision may be old by now.
    check_not_released(occupant.uuid, occupant.name, around)?;
    nix::mount::mount(
        Some(partition.node()),
        &place,
        Some(occupant.filesystem.name()),
        MsFlags::MS_NOATIME,
        occupant.filesystem.mount_options(),
    )
    .map_err(|error| ProvisionError::io(format!("mount {}", place.display()))(error.into()))?;
    // The host must see it: a mount that stays in this container serves
    // nobody. Nor may it have come to lie on somebody else's.
    let host = on_host()?;
    if let [only] = host.as_slice()
        && only.devno == partition.devno()
    {
        return Ok(place);
    }
    // What somebody has mounted over it meanwhile is not taken away.
    if mounted_at(&place)?.is_some_and(|there| there.devno == partition.devno()) {
        unmount(&place, "take back the mount at")?;
    }
    Err(not_seen(&place, host.last()))
}

/// A disk that was released for good stays as it is. Where the ledger cannot be
/// read, what is ours is served.
pub(super) fn check_not_released(
    filesystem: Uuid,
    name: &DiskName,
    around: &Surroundings,
) -> Result<(), ProvisionError> {
    let standing = around.state.ledger.standing();
    if standing.is_known_and(|standing| standing.has_left(filesystem)) {
        return Err(ProvisionError::Released(name.clone()));
    }
    Ok(())
}

/// Whether a disk was mounted here before under its name.
fn is_known(occupant: &Occupant<'_>, around: &Surroundings) -> bool {
    let standing = around.state.ledger.standing();
    standing.is_known_and(|standing| standing.name_of(occupant.uuid) == Some(occupant.name))
}

/// Where the processes of the host cannot be looked at, nothing begins; but a
/// disk that was mounted here before must not stay away for that.
fn serve_known(
    checked: Result<(), ProvisionError>,
    known: bool,
    name: &DiskName,
) -> Result<(), ProvisionError> {
    match checked {
        Err(error @ ProvisionError::OpenersUnknown { .. }) if known => {
            let error = chain(&error);
            tracing::warn!(%name, error, "mounted all the same: it was mounted here before");
            Ok(())
        }
        other => other,
    }
}

/// Takes the name down before the mount. A disk that says its name itself must
/// not stay away because the host's own disk is full.
fn keep_name(
    partition: &Partition,
    occupant: &Occupant<'_>,
    around: &Surroundings,
) -> Result<(), ProvisionError> {
    let ledger = &around.state.ledger;
    let known = is_known(occupant, around);
    match ledger.mounting(occupant.uuid, occupant.name, partition.devno()) {
        Ok(()) => Ok(()),
        Err(error @ (LedgerError::Read(_) | LedgerError::Write(_)))
            if occupant.named_by_disk || known =>
        {
            tracing::warn!(
                name = %occupant.name,
                error = chain(&error),
                "mounted, but not taken down in the ledger"
            );
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// Unmounts what the agent mounted of a device that is gone: what is below it
/// can be neither read nor written any more, and it keeps the place from the
/// disk when that comes back. Never lazily: who still has files open there must
/// notice, and a new mount must not lie over old ones.
///
/// # Errors
/// When it is not dead, not the agent's, or still in use.
pub fn unmount_dead(
    name: &DiskName,
    devno: DevNo,
    around: &Surroundings,
) -> Result<(), ProvisionError> {
    let place = around.mount_root.join(name.as_str());
    let unknown = |why: &Unreadable| ProvisionError::Unidentified(why.clone());
    let there = mounted_at(&place)?;
    let standing = around.state.ledger.standing();
    let ours = standing
        .known()
        .map_err(unknown)?
        .mounted_by_us(name, devno);
    let same = there.as_ref().is_some_and(|mount| mount.devno == devno);
    if !ours
        || !same
        || around
            .host
            .has_block_device(devno)
            .map_err(ProvisionError::io("look for the device of a mount"))?
    {
        return Err(not_seen(&place, there.as_ref()));
    }
    unmount(&place, "unmount, after its device is gone,")?;
    match mounts_at(&around.host.init_mountinfo(), &place)?.pop() {
        None => Ok(()),
        left => Err(not_seen(&place, left.as_ref())),
    }
}

fn unmount(place: &Path, step: &str) -> Result<(), ProvisionError> {
    nix::mount::umount2(place, nix::mount::MntFlags::UMOUNT_NOFOLLOW)
        .map_err(|error| ProvisionError::io(format!("{step} {}", place.display()))(error.into()))
}

/// Where the partition of a committed claim is mounted: at its place, as this
/// process sees it and as the host does.
///
/// # Errors
/// When it is not, or cannot be told.
pub(super) fn shown_at(
    locked: &LockedDisk,
    partition: &Partition,
    claim: &ClaimId,
    mount_root: &Path,
) -> Result<PathBuf, ProvisionError> {
    let place = mount_root.join(claim.name.as_str());
    let host = mounts_at(&locked.host().init_mountinfo(), &place)?.pop();
    let own = mounted_at(&place)?;
    let ours = |mount: &Option<Mount>| {
        let mount = mount.as_ref();
        mount.is_some_and(|mount| mount.devno == partition.devno() && mount.root == "/")
    };
    if ours(&host) && ours(&own) {
        Ok(place)
    } else {
        Err(not_seen(
            &place,
            host.as_ref().filter(|_| !ours(&host)).or(own.as_ref()),
        ))
    }
}

fn not_seen(place: &Path, there: Option<&Mount>) -> ProvisionError {
    ProvisionError::MountNotSeen {
        path: place.to_owned(),
        found: there.map_or_else(
            || "nothing".to_owned(),
            |mount| format!("{} ({})", mount.source, mount.devno),
        ),
    }
}

/// The filesystem must be the one that the claim names: a copy of the table on
/// another disk's data must not be mounted in its place.
pub(super) fn check_filesystem(
    partition: &Partition,
    uuid: Uuid,
    filesystem: Filesystem,
) -> Result<(), ProvisionError> {
    let found = probe(partition.file(), Part::Whole);
    let uuid = uuid.to_string();
    let right = found.is_known_and(|signature| match signature {
        Signature::Found(found) => {
            found.kind == filesystem.name() && found.uuid.as_deref() == Some(uuid.as_str())
        }
        Signature::Nothing | Signature::Ambivalent => false,
    });
    if right {
        Ok(())
    } else {
        Err(ProvisionError::FilesystemNotRead(format!("{found:?}")))
    }
}

/// What is mounted at a path, as this process sees it.
fn mounted_at(place: &Path) -> Result<Option<Mount>, ProvisionError> {
    Ok(mounts_at(Path::new("/proc/self/mountinfo"), place)?.pop())
}

/// Every mount at a path, the topmost last.
fn mounts_at(table: &Path, place: &Path) -> Result<Vec<Mount>, ProvisionError> {
    let table = read_mounts(table);
    let mounts = table
        .known()
        .map_err(|why| ProvisionError::Unidentified(why.clone()))?;
    Ok(mounts
        .iter()
        .filter(|mount| Path::new(&mount.mountpoint) == place)
        .cloned()
        .collect())
}

/// Makes the directory that keeps a name for a disk, before anything is
/// written to the disk: `mkdir` lets one of two win. `again` when the name was
/// the disk's own already. The directory is all that keeps the name of a disk
/// that is away later on, so it is made durable.
///
/// # Errors
/// When the name is taken, or the directory cannot be made.
pub(super) fn reserve(
    mount_root: &Path,
    claim: &ClaimId,
    again: bool,
) -> Result<(), ProvisionError> {
    let place = mount_root.join(claim.name.as_str());
    let step = |what: &str| ProvisionError::io(format!("{what} {}", place.display()));
    fs::create_dir_all(mount_root).map_err(step("make the directory above"))?;
    let made = match DirBuilder::new().mode(0o000).create(&place) {
        Ok(()) => true,
        Err(error) if again && error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(error) => return Err(step("reserve")(error)),
    };
    durable::sync_parents(&place).map_err(|error| {
        if made && !again {
            give_back(mount_root, claim);
        }
        step("make durable")(error)
    })
}

/// Removes a directory that was reserved a moment before, for a disk that was
/// not begun after all. One that stays only keeps a name.
pub(super) fn give_back(mount_root: &Path, claim: &ClaimId) {
    let place = mount_root.join(claim.name.as_str());
    if let Err(error) = fs::remove_dir(&place) {
        tracing::warn!(place = %place.display(), %error, "a reserved directory stays");
    }
}

/// A directory that nothing can be written to while the disk is away: mode
/// 0000 stops everybody but root, the immutable flag stops root as well.
fn prepare_mountpoint(place: &Path) -> Result<(), ProvisionError> {
    let step = |what: &str| ProvisionError::io(format!("{what} {}", place.display()));
    if let Some(above) = place.parent() {
        fs::create_dir_all(above).map_err(step("make the directory above"))?;
    }
    match DirBuilder::new().mode(0o000).create(place) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(step("make")(error)),
    }
    durable::sync_parents(place).map_err(step("make durable"))?;
    let directory = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_CLOEXEC | libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(place)
        .map_err(step("open"))?;
    protect(&directory, place)
}

fn protect(directory: &File, place: &Path) -> Result<(), ProvisionError> {
    let step = |what: &str| ProvisionError::io(format!("{what} {}", place.display()));
    if matches!(sys::is_immutable(directory), Ok(true)) {
        return Ok(());
    }
    if fs::read_dir(place).map_err(step("read"))?.next().is_some() {
        return Err(step("mount over the files in")(io::Error::from(
            io::ErrorKind::DirectoryNotEmpty,
        )));
    }
    directory
        .set_permissions(fs::Permissions::from_mode(0o000))
        .map_err(step("set the mode of"))?;
    match sys::set_immutable(directory, true) {
        Ok(()) => Ok(()),
        // tmpfs and overlay have no such flag: the mode is what is left.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTTY | libc::EOPNOTSUPP)) => {
            tracing::debug!(place = %place.display(), "the filesystem has no immutable flag");
            Ok(())
        }
        Err(error) => Err(step("protect")(error)),
    }
}

#[cfg(test)]
mod tests;
