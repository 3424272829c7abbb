//! The places on a disk where a damaged owner still shows, and how each is
//! recognised. Does no I/O of its own.
//!
//! A disk whose beginning was zeroed looks blank to libblkid, which reads the
//! first superblock of each format and no more. Most formats keep a copy of
//! what they cannot do without further in. [`places`] lists where such copies
//! would be on a disk of a given size, [`find`] looks at each of them. What
//! lies within the first and last 8 MiB of a disk is found by reading that it
//! is not zero; the places there only give it a name.
//!
//! Each family of formats has a file with two functions: `places` adds where
//! to look, `look` says what a piece of the disk holds. Taking random bytes
//! for a superblock refuses a disk that could be used; missing one endangers
//! what the disk holds. So the checks are no stricter than they must be.

mod btrfs;
mod ext;
mod fixed;
mod gpt;
mod ntfs;
mod partition;
mod piece;
mod table;
#[cfg(test)]
mod tests;
mod xfs;
mod zfs;

use std::{collections::BTreeSet, io, ops::Range};

use serde::{Deserialize, Serialize};

use self::piece::{Fields, Piece, Reader};
use crate::claim::Geometry;

/// What every place is aligned to, so that it can be read past the page cache
/// whatever the sector size.
const BLOCK: u64 = 4096;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
const TIB: u64 = 1024 * GIB;

/// Where partitions began when disks had cylinders.
const SECTOR_63: u64 = 63 * 512;

/// Who keeps a copy at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// GUID partition table.
    Gpt,
    /// ext2, ext3 and ext4.
    Ext,
    /// XFS.
    Xfs,
    /// btrfs.
    Btrfs,
    /// NTFS.
    Ntfs,
    /// ZFS.
    Zfs,
    /// Whatever a partition of a usual layout begins with.
    Partition,
    /// OCFS2.
    Ocfs2,
    /// Ceph's BlueStore.
    Bluestore,
    /// SPDK's blobstore, in which Longhorn's V2 engine keeps volumes.
    Spdk,
    /// GFS2.
    Gfs2,
    /// DRBD with metadata on the disk itself.
    Drbd,
    /// Oracle ASM.
    Asm,
    /// VMFS of VMware.
    Vmfs,
    /// LVM.
    Lvm,
    /// LUKS.
    Luks,
    /// bcache and bcachefs.
    Bcache,
    /// VDO.
    Vdo,
    /// Stratis.
    Stratis,
    /// Linux software RAID.
    Md,
    /// RAIDs of the DDF standard.
    Ddf,
    /// Intel Matrix Storage RAIDs.
    Imsm,
    /// RAIDs of other host adapters.
    BiosRaid,
    /// NILFS2.
    Nilfs2,
    /// F2FS.
    F2fs,
    /// JFS.
    Jfs,
    /// UFS of the BSDs.
    Ufs,
    /// UDF.
    Udf,
    /// HFS+.
    Hfs,
    /// APFS.
    Apfs,
    /// FAT32.
    Vfat,
    /// exFAT.
    Exfat,
    /// ReFS.
    Refs,
}

/// A place where some format keeps a copy of what it cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// First byte, a multiple of 4096.
    pub at: u64,
    /// Number of bytes, a multiple of 4096 except where the disk ends before.
    pub len: usize,
    /// Whose copy would be there.
    pub owner: Owner,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Trace {
    /// First byte of the structure.
    pub at: u64,
    /// The format by libblkid's name.
    pub kind: String,
    /// The first superblock is at its place and carries the same UUID, but its
    /// magic number is zero: what `wipefs` leaves, which is a deliberate act.
    pub wiped: bool,
}

/// Every place worth a look on a disk, sorted, each once.
pub fn places(geometry: Geometry) -> Vec<Place> {
    let mut places = Places::new(geometry);
    gpt::places(&mut places);
    ext::places(&mut places);
    xfs::places(&mut places);
    btrfs::places(&mut places);
    ntfs::places(&mut places);
    zfs::places(&mut places);
    partition::places(&mut places);
    fixed::places(&mut places);
    places.list.into_iter().collect()
}

/// Looks at each place. `read` gets the first byte and the number of bytes.
///
/// # Errors
/// The first that `read` returns, and when it returns fewer bytes than asked
/// for: what cannot be read is not empty.
pub fn find(
    geometry: Geometry,
    read: &mut dyn FnMut(u64, usize) -> io::Result<Vec<u8>>,
) -> io::Result<Vec<Trace>> {
    let mut reader = Reader::new(geometry, read);
    let mut traces = BTreeSet::new();
    for place in places(geometry) {
        let piece = reader.piece(place.at, place.len)?;
        if !piece.is_zero() {
            traces.extend(look(place.owner, &piece, &mut reader)?);
        }
    }
    Ok(traces.into_iter().collect())
}

/// Where partitions may have been whose table is gone, as first byte and byte
/// behind the last. `first` is the first byte of the disk that is not zero.
///
/// # Errors
/// As for [`find`].
pub fn partitions(
    geometry: Geometry,
    first: u64,
    read: &mut dyn FnMut(u64, usize) -> io::Result<Vec<u8>>,
) -> io::Result<BTreeSet<(u64, u64)>> {
    partition::ranges(geometry, first, &mut Reader::new(geometry, read))
}

fn look(owner: Owner, piece: &Piece, reader: &mut Reader<'_>) -> io::Result<Vec<Trace>> {
    match owner {
        Owner::Gpt => Ok(gpt::look(piece)),
        Owner::Ext => ext::look(piece, reader),
        Owner::Xfs => xfs::look(piece, reader),
        Owner::Btrfs => btrfs::look(piece, reader),
        Owner::Ntfs => ntfs::look(piece, reader),
        Owner::Zfs => Ok(zfs::look(piece)),
        Owner::Partition => partition::look(piece, reader),
        Owner::Ocfs2
        | Owner::Bluestore
        | Owner::Spdk
        | Owner::Gfs2
        | Owner::Drbd
        | Owner::Asm
        | Owner::Vmfs
        | Owner::Lvm
        | Owner::Luks
        | Owner::Bcache
        | Owner::Vdo
        | Owner::Stratis
        | Owner::Md
        | Owner::Ddf
        | Owner::Imsm
        | Owner::BiosRaid
        | Owner::Nilfs2
        | Owner::F2fs
        | Owner::Jfs
        | Owner::Ufs
        | Owner::Udf
        | Owner::Hfs
        | Owner::Apfs
        | Owner::Vfat
        | Owner::Exfat
        | Owner::Refs => fixed::look(owner, piece, reader),
    }
}

/// Bytes of the disk that can be read.
fn whole_sectors(geometry: Geometry) -> u64 {
    geometry.size - geometry.size % u64::from(geometry.sector.max(512))
}

/// Collects places, leaving out those that the disk is too small for.
struct Places {
    geometry: Geometry,
    size: u64,
    list: BTreeSet<Place>,
}

impl Places {
    fn new(geometry: Geometry) -> Self {
        Self {
            geometry,
            size: whole_sectors(geometry),
            list: BTreeSet::new(),
        }
    }

    /// Where the last partition of a GPT may end: a copy of the table is behind
    /// it, in 33 sectors of 512 or 5 of 4096 bytes.
    fn usable_end(&self) -> u64 {
        let table = if self.geometry.sector == 4096 {
            5 * 4096
        } else {
            33 * 512
        };
        self.size.saturating_sub(table)
    }

    /// Adds the blocks that hold `len` bytes from `position` on.
    fn add(&mut self, owner: Owner, position: u64, len: u64) {
        let Some(end) = position.checked_add(len).filter(|end| *end <= self.size) else {
            return;
        };
        let at = position - position % BLOCK;
        let end = end
            .checked_next_multiple_of(BLOCK)
            .map_or(self.size, |end| end.min(self.size));
        if let Ok(len) = usize::try_from(end - at) {
            self.list.insert(Place { at, len, owner });
        }
    }

    /// Adds the blocks of a stretch, as far as the disk goes.
    fn add_what_there_is(&mut self, owner: Owner, stretch: Range<u64>) {
        let end = stretch.end.min(self.size);
        if let Some(len) = end.checked_sub(stretch.start).filter(|len| *len > 0) {
            self.add(owner, stretch.start, len);
        }
    }

    /// Adds what lies this many bytes before the end of the disk.
    fn add_before_end(&mut self, owner: Owner, distance: u64, len: u64) {
        if let Some(position) = self.size.checked_sub(distance) {
            self.add(owner, position, len);
        }
    }
}
