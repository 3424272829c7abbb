//! Takes away what is mounted of a disk that a person has released, and finds out
//! whether anybody has it nevertheless: it may be pulled when that is done.

use std::{fs::OpenOptions, os::unix::fs::OpenOptionsExt, path::Path};

use super::{
    super::{ProvisionError, Surroundings},
    mounts_at, not_seen,
};
use crate::{
    fact::Unreadable,
    observe::{Host, device, medium},
    units::{DevNo, DiskName},
};

/// Unmounts a disk that a person has released, whoever mounted it at its place.
/// Never lazily, and after what was written to it is on the disk. That may take
/// minutes, so what allows it is asked again after that; `needed` says why others
/// need the disk, where they do.
///
/// # Errors
/// When it was taken back meanwhile, something else is mounted there or on top
/// of it, or it is needed or still in use.
pub fn unmount_released(
    name: &DiskName,
    devno: DevNo,
    around: &Surroundings,
    needed: impl Fn() -> Option<String>,
) -> Result<(), ProvisionError> {
    let place = around.mount_root.join(name.as_str());
    let check = || {
        if let Some(why) = needed() {
            return Err(ProvisionError::Needed(why));
        }
        check_alone(&place, devno, around)?;
        check_left(name, around)
    };
    check()?;
    write_out(&place);
    check()?;
    match nix::mount::umount2(&place, nix::mount::MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => {}
        Err(nix::errno::Errno::EBUSY) => return Err(ProvisionError::InUse(place)),
        Err(error) => {
            let step = format!("unmount {}", place.display());
            return Err(ProvisionError::io(step)(error.into()));
        }
    }
    match mounts_at(&around.host.init_mountinfo(), &place)?.pop() {
        None => Ok(()),
        left => Err(not_seen(&place, left.as_ref())),
    }
}

/// A disk that a person has taken back stays mounted.
fn check_left(name: &DiskName, around: &Surroundings) -> Result<(), ProvisionError> {
    let standing = around.state.ledger.standing();
    let standing = standing
        .known()
        .map_err(|why| ProvisionError::Unidentified(why.clone()))?;
    let released = standing.release_of(name);
    if released.is_none_or(|(filesystem, _)| !standing.has_left(filesystem)) {
        return Err(ProvisionError::TakenBack(name.clone()));
    }
    Ok(())
}

/// Nothing else is mounted at the place of a disk, below it or on top.
fn check_alone(place: &Path, devno: DevNo, around: &Surroundings) -> Result<(), ProvisionError> {
    for table in [around.host.own_mountinfo(), around.host.init_mountinfo()] {
        match mounts_at(&table, place)?.as_slice() {
            [only] if only.devno == devno && only.root == "/" => {}
            others => return Err(not_seen(place, others.last())),
        }
    }
    Ok(())
}

/// Has what was written to a filesystem put on its disk. The unmount does that
/// only where no other mount namespace keeps the filesystem alive. A disk that
/// fails is unmounted all the same: it would not take what is left tomorrow.
fn write_out(place: &Path) {
    let directory = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_CLOEXEC | libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(place);
    let written = directory.and_then(|directory| Ok(nix::unistd::syncfs(directory)?));
    if let Err(error) = written {
        let place = place.display();
        tracing::warn!(%place, %error, "what was written to a released disk may not be on it");
    }
}

/// Makes sure that nobody uses the partitions of a disk that no mount table
/// shows as mounted. Other mount namespaces have tables of their own: a
/// container that got a copy of the host's mounts keeps the filesystem alive
/// until it ends, and writes to it. An exclusive open sees that.
///
/// # Errors
/// When one is in use, or that cannot be told.
pub fn check_unused(partitions: &[String], host: &Host) -> Result<(), ProvisionError> {
    let unknown = |why: &Unreadable| ProvisionError::Unidentified(why.clone());
    for name in partitions {
        let partition = device::read(host, name);
        let devname = partition.devname.known().map_err(unknown)?;
        let devno = *partition.devno.known().map_err(unknown)?;
        let node = host.node(devname);
        let file = match medium::open(&node, devno) {
            Ok(file) => file,
            // The kernel has given the device up: nothing reaches it any more.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENXIO | libc::ENODEV)) => {
                continue;
            }
            Err(error) => {
                let step = format!("open {}", node.display());
                return Err(ProvisionError::io(step)(error));
            }
        };
        if *medium::is_busy(&node, &file).known().map_err(unknown)? {
            return Err(ProvisionError::UsedElsewhere { node, devno });
        }
    }
    Ok(())
}
