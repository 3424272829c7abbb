//! Writes the claim's table to a disk: the first and the last bytes that the
//! agent itself writes there.

use std::{
    fs::File,
    os::{fd::AsFd, unix::fs::FileExt},
    thread,
    time::Duration,
};

use super::{
    BlankProof, ExclusiveDisk, LockedDisk, PendingProof, ProvisionError, exclusive::partition_name,
};
use crate::{
    claim::{Begun, ClaimId, Resized, Stage, Table, TableImage, TableWrite},
    observe::{device, medium},
    sys,
    units::DevNo,
};

/// devtmpfs makes a node at once; a slow udevd may still be renaming.
const NODE_ATTEMPTS: u32 = 250;
const NODE_PAUSE: Duration = Duration::from_millis(20);

/// A locked disk with our pending claim and the partition that the kernel
/// knows, kept open.
#[derive(Debug)]
pub struct PendingDisk {
    disk: LockedDisk,
    claim: ClaimId,
    partition: Partition,
}

/// An open partition. While it is open its name means this partition.
#[derive(Debug)]
pub struct Partition {
    file: File,
    node: std::path::PathBuf,
    devno: DevNo,
}

impl Partition {
    /// The device, open for reading.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Its node.
    pub fn node(&self) -> &std::path::Path {
        &self.node
    }

    /// Its device number.
    pub fn devno(&self) -> DevNo {
        self.devno
    }
}

impl BlankProof {
    /// Writes the pending table and consumes the proof.
    ///
    /// # Errors
    /// When a write fails or the table read back is another.
    pub fn claim(
        self,
        claim: ClaimId,
        pending: &TableImage,
    ) -> Result<PendingDisk, ProvisionError> {
        let disk = self.into_disk();
        write_table(disk.file(), pending)?;
        verify_table(disk.disk(), disk.file(), &claim, Stage::Pending)?;
        partitioned(disk, claim)
    }
}

impl PendingProof {
    /// Completes the pending table where it was torn and consumes the proof.
    ///
    /// # Errors
    /// When a write fails or the table read back is another.
    pub fn resume(self) -> Result<PendingDisk, ProvisionError> {
        let (disk, claim, whole) = self.into_parts();
        // Reading it took a while.
        disk.disk().check_nobody_writes()?;
        if whole {
            // Who wrote it may have been killed before it was durable. If it
            // were not when the commit begins, a power cut could tear both
            // copies at once.
            flush(disk.file(), "flush the partition table")?;
        } else {
            let pending =
                TableImage::build(disk.disk().target().geometry(), &claim, Stage::Pending)?;
            write_table(disk.file(), &pending)?;
            verify_table(disk.disk(), disk.file(), &claim, Stage::Pending)?;
        }
        partitioned(disk, claim)
    }
}

impl PendingDisk {
    /// The claim.
    pub fn claim(&self) -> &ClaimId {
        &self.claim
    }

    /// The partition.
    pub fn partition(&self) -> &Partition {
        &self.partition
    }

    /// Flips the claim to committed. Called only after the filesystem was made
    /// and checked.
    ///
    /// # Errors
    /// When a write fails; the claim then reads as pending or committed, and
    /// either is safe: the filesystem is complete.
    pub(super) fn commit(self) -> Result<(LockedDisk, Partition), ProvisionError> {
        let file = open_exclusively_soon(&self.disk)?;
        write_committed(&self.disk, &file, &self.claim, Stage::Pending, &[])?;
        sys::close_for_others(file);
        Ok((self.disk, self.partition))
    }
}

/// Completes a commit that was interrupted between the two copies. `begun` are
/// claims that the journal says were begun on the disk.
///
/// # Errors
/// When the disk is in use, or holds anything but this claim's own tables.
pub(super) fn complete_commit(
    disk: &LockedDisk,
    claim: &ClaimId,
    begun: &[Begun],
) -> Result<(), ProvisionError> {
    let file = open_exclusively_soon(disk)?;
    disk.check_nobody_writes()?;
    write_committed(disk, &file, claim, Stage::Committed, begun)?;
    sys::close_for_others(file);
    Ok(())
}

/// Completes the table of a committed claim for the present size of its disk,
/// while its partition is mounted. Called with a proof that nothing lies in the
/// space that the partition gains.
///
/// The filesystem holds the disk, so nobody can hold it exclusively; and nobody
/// can write to what the filesystem holds by this, since both ends of the disk
/// lie outside the partition.
///
/// # Errors
/// When the ends hold anything but this claim's own tables, a write fails, or
/// the table read back is another.
pub(super) fn complete_table(
    disk: &LockedDisk,
    file: &File,
    claim: &ClaimId,
) -> Result<(), ProvisionError> {
    write_committed(disk, file, claim, Stage::Committed, &[])
}

/// Writes the committed table over what is found to be this claim's own, at
/// that stage, and nothing else. The disk was not held exclusively while mkfs
/// ran, so it is read again first.
fn write_committed(
    disk: &LockedDisk,
    file: &File,
    claim: &ClaimId,
    from: Stage,
    begun: &[Begun],
) -> Result<(), ProvisionError> {
    match disk.read_table(file, begun)?.known() {
        Ok(Table::Ours {
            claim: found,
            only_ours: true,
            ..
        }) if found.id == *claim && found.stage == from => {}
        other => return Err(ProvisionError::TableNotRead(format!("{other:?}"))),
    }
    let committed = TableImage::build(disk.target().geometry(), claim, Stage::Committed)?;
    write_table(file, &committed)?;
    verify_table(disk, file, claim, Stage::Committed)
}

/// Others may hold the disk for a moment, to look at it: that is no reason to
/// make the filesystem once more.
fn open_exclusively_soon(disk: &LockedDisk) -> Result<File, ProvisionError> {
    let mut attempt = 0;
    loop {
        match disk.open_exclusively() {
            Err(ProvisionError::Held { .. }) if attempt < NODE_ATTEMPTS => {
                attempt += 1;
                thread::sleep(NODE_PAUSE);
            }
            other => return other,
        }
    }
}

/// The partition of a claimed disk, made known to the kernel where it is not.
/// Where its table is for a smaller disk, it ends where that one says.
pub(super) fn open_partition(
    disk: &LockedDisk,
    stage: Stage,
    resized: Option<Resized>,
) -> Result<Partition, ProvisionError> {
    let target = disk.target();
    let range = medium::claimed_range(target.geometry(), resized)
        .ok_or_else(|| ProvisionError::TableNotRead("no room for a partition".to_owned()))?;
    if disk.partition()?.is_none() {
        sys::add_partition(disk.locked_file(), 1, range.start, range.end - range.start)
            .map_err(ProvisionError::io("tell the kernel of the partition"))?;
    }
    let name = partition_name(target.name());
    let device = device::read(disk.host(), &name);
    let known = |why: &crate::fact::Unreadable| ProvisionError::Unidentified(why.clone());
    let place = (
        device.start.known().map_err(known)?,
        device.size.known().map_err(known)?,
    );
    // A committed partition may have grown with its disk; a pending one is
    // what we wrote, or the kernel knows another table than the disk carries.
    let in_place = *place.0 == Some(range.start) && device.parent.as_deref() == Some(target.name());
    let whole = *place.1 == range.end - range.start;
    if !in_place || (stage == Stage::Pending && !whole) {
        return Err(ProvisionError::TableNotRead(format!(
            "the kernel has {name} at {place:?}"
        )));
    }
    let devno = *device.devno.known().map_err(known)?;
    let node = disk.host().node(device.devname.known().map_err(known)?);
    let mut attempt = 0;
    loop {
        match medium::open(&node, devno) {
            Ok(file) => return Ok(Partition { file, node, devno }),
            Err(error) if attempt == NODE_ATTEMPTS => {
                return Err(ProvisionError::io(format!("open {}", node.display()))(
                    error,
                ));
            }
            Err(_not_there_yet) => {
                attempt += 1;
                thread::sleep(NODE_PAUSE);
            }
        }
    }
}

/// The only partition of a disk whose table is not ours.
///
/// # Errors
/// When there is none, or more than one, or the first one is not it.
pub(super) fn open_only_partition(disk: &LockedDisk) -> Result<Partition, ProvisionError> {
    let unknown = |why: &crate::fact::Unreadable| ProvisionError::Unidentified(why.clone());
    let names = disk.partitions()?;
    let [name] = names.as_slice() else {
        return Err(ProvisionError::TableNotRead(format!(
            "{} partitions instead of one",
            names.len()
        )));
    };
    let device = device::read(disk.host(), name);
    let devno = *device.devno.known().map_err(unknown)?;
    let node = disk.host().node(device.devname.known().map_err(unknown)?);
    let file = medium::open(&node, devno)
        .map_err(ProvisionError::io(format!("open {}", node.display())))?;
    Ok(Partition { file, node, devno })
}

/// The hand-over to mkfs.
///
/// mkfs claims the partition with its own `O_EXCL`, which the kernel grants
/// only when the whole disk is not claimed. So our claim ends here, while the
/// lock, an open disk and an open partition remain: nobody who respects the
/// lock takes the disk, no name can change its meaning, and whoever claims the
/// partition in between makes mkfs fail with EBUSY. What is on the partition
/// at this moment is nothing but our own pending claim's.
fn partitioned(disk: ExclusiveDisk, claim: ClaimId) -> Result<PendingDisk, ProvisionError> {
    let partition = open_partition(disk.disk(), Stage::Pending, None)?;
    let disk = disk.into_locked();
    Ok(PendingDisk {
        disk,
        claim,
        partition,
    })
}

/// Each copy is durable before the next begins. What a torn write of either
/// leaves is told apart sector by sector.
fn write_table(disk: &File, image: &TableImage) -> Result<(), ProvisionError> {
    for TableWrite { step, at, bytes } in image.writes() {
        disk.write_all_at(bytes, at)
            .map_err(ProvisionError::io(step))?;
        flush(disk, step)?;
    }
    Ok(())
}

pub(super) fn flush(disk: &File, step: &'static str) -> Result<(), ProvisionError> {
    nix::unistd::fsync(disk.as_fd()).map_err(|error| ProvisionError::io(step)(error.into()))
}

fn verify_table(
    disk: &LockedDisk,
    through: &File,
    claim: &ClaimId,
    stage: Stage,
) -> Result<(), ProvisionError> {
    match disk.read_table(through, &[])?.known() {
        Ok(Table::Ours {
            claim: found,
            whole: true,
            ..
        }) if found.id == *claim && found.stage == stage => Ok(()),
        other => Err(ProvisionError::TableNotRead(format!("{other:?}"))),
    }
}
