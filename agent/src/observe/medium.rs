//! Reads what a disk holds: the claim at its ends, what libblkid knows, and
//! whether both ends are zero. Read only, through one descriptor.

use std::{
    fs::{File, OpenOptions},
    io,
    ops::Range,
    os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt},
    path::Path,
};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use serde::Serialize;

use super::{
    signature::{Part, Signature, probe},
    superblock::{Progress, progress},
};
use crate::{
    claim::{Claim, ClaimId, Ends, Geometry, Stage, Table, inspect, partition_range},
    fact::Fact,
    sys,
    units::{DevNo, Filesystem},
};

/// Bytes at either end of a disk that must be zero. Every format that Linux
/// knows keeps a signature or a backup within them.
pub const ZERO_END: u64 = 8 * 1024 * 1024;
/// Read in pieces of this size.
const PIECE: usize = 1024 * 1024;
/// What `O_DIRECT` asks of buffers on any sector size.
const ALIGNMENT: usize = 4096;

/// What was read off a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Medium {
    /// Our claim, if it carries one.
    pub table: Fact<Table>,
    /// Inside and around the claimed partition. `None` when there is no claim.
    pub partition: Option<Inside>,
    /// Of the whole disk, when it carries no claim and might be blank.
    pub content: Option<Content>,
}

/// What a claimed partition holds, and the space around it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inside {
    /// What libblkid finds in the partition.
    pub signature: Fact<Signature>,
    /// How far a filesystem has come that may be ours. `None` when there is
    /// none, or the claim is committed and nothing depends on it.
    pub progress: Option<Fact<Progress>>,
    /// First byte in either end of the partition that is not zero, while the
    /// claim is pending.
    pub residue: Option<Fact<Option<u64>>>,
    /// First byte that is not zero between the table and the partition, in
    /// front or behind, while the claim is pending.
    pub around: Option<Fact<Option<u64>>>,
    /// The claim was recognised with the help of this host's journal.
    pub journalled: bool,
}

impl Inside {
    fn is_settled(&self) -> bool {
        let known = |fact: &Option<Fact<Option<u64>>>| {
            fact.as_ref().is_none_or(|fact| fact.known().is_ok())
        };
        let progress = self
            .progress
            .as_ref()
            .is_none_or(|fact| fact.known().is_ok());
        self.signature.known().is_ok() && progress && known(&self.residue) && known(&self.around)
    }
}

impl Medium {
    /// Everything that was asked for could be read, and nothing was said that
    /// may be otherwise without any event, as somebody's exclusive hold may.
    pub fn is_settled(&self) -> bool {
        let content = self.content.as_ref().is_none_or(|content| {
            content.signature.known().is_ok()
                && content.residue.known().is_ok()
                && content.busy == Fact::Known(false)
        });
        let partition = self.partition.as_ref().is_none_or(Inside::is_settled);
        self.table.known().is_ok() && content && partition
    }
}

/// What speaks for and against blankness.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Content {
    /// What libblkid finds on the whole disk.
    pub signature: Fact<Signature>,
    /// First byte in either end that is not zero.
    pub residue: Fact<Option<u64>>,
    /// Somebody holds the disk exclusively: a mount in any namespace, a
    /// stacked driver, another program.
    pub busy: Fact<bool>,
}

/// How much to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// The claim only: the disk is in some use or not eligible.
    Claim,
    /// All that a proof of blankness needs, unless there is a claim.
    Blankness,
}

/// Opens a block device for reading and makes sure that it is the one meant.
///
/// # Errors
/// When it cannot be opened or its device number is another.
pub fn open(node: &Path, devno: DevNo) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(node)?;
    check_identity(&file, node, devno)?;
    Ok(file)
}

/// Makes sure that an open file is the block device of that number.
///
/// # Errors
/// When it is not.
pub fn check_identity(file: &File, node: &Path, devno: DevNo) -> io::Result<()> {
    let metadata = file.metadata()?;
    let there = DevNo::from_raw(metadata.rdev());
    if metadata.file_type().is_block_device() && there == devno {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "{} is not block device {devno} but {there}",
        node.display()
    )))
}

/// Size and sector size as the open device says.
///
/// # Errors
/// What the kernel answers.
pub fn geometry(disk: &File) -> io::Result<Geometry> {
    Ok(Geometry {
        size: sys::device_size(disk)?,
        sector: sys::logical_sector_size(disk)?,
    })
}

/// Reads the claim alone.
pub fn read_table(
    disk: &File,
    node: &Path,
    geometry: Geometry,
    journalled: &[ClaimId],
) -> Fact<Table> {
    match read_ends(disk, geometry) {
        Ok(Some(ends)) => Fact::Known(inspect(&ends, journalled)),
        // Too small or odd for a table of ours, so there is no claim.
        Ok(None) => Fact::Known(Table::Absent),
        Err(error) => Fact::unreadable(node.display(), error),
    }
}

/// Reads a disk. `journalled` are claims that were begun on it;
/// `partition_node` is the node of its first partition where the kernel knows
/// one (its cache is the one that a mount and mkfs write through).
pub fn examine(
    disk: &File,
    node: &Path,
    geometry: Geometry,
    journalled: &[ClaimId],
    partition_node: Option<(&Path, DevNo)>,
    depth: Depth,
) -> Medium {
    let table = read_table(disk, node, geometry, journalled);
    let claim = match table.known() {
        Ok(Table::Ours { claim, .. }) => Some(claim.clone()),
        Ok(Table::Absent | Table::Foreign) | Err(_) => None,
    };
    let content = (claim.is_none() && depth == Depth::Blankness).then(|| Content {
        signature: probe(disk, Part::Whole),
        residue: residue_fact(node, first_residue(disk, 0..geometry.size)),
        busy: is_busy(node, disk),
    });
    let partition = claim.map(|claim| {
        let journalled = journalled.contains(&claim.id);
        inside(disk, node, geometry, &claim, journalled, partition_node)
    });
    Medium {
        table,
        partition,
        content,
    }
}

/// Reads a claimed partition, through its own node where the kernel knows it.
fn inside(
    disk: &File,
    node: &Path,
    geometry: Geometry,
    claim: &Claim,
    journalled: bool,
    partition_node: Option<(&Path, DevNo)>,
) -> Inside {
    let nothing = |why: &dyn std::fmt::Display| Inside {
        signature: Fact::unreadable(node.display(), why),
        progress: None,
        residue: None,
        around: None,
        journalled,
    };
    let Some(range) = partition_range(geometry) else {
        return nothing(&"no room for a partition");
    };
    let opened = partition_node
        .map(|(node, devno)| open(node, devno))
        .transpose();
    let opened = match opened {
        Ok(opened) => opened,
        Err(error) => return nothing(&error),
    };
    let length = range.end - range.start;
    let (device, start, part) = match &opened {
        Some(partition) => (partition, 0, Part::Whole),
        None => (
            disk,
            range.start,
            Part::Range {
                start: range.start,
                length,
            },
        ),
    };
    let signature = probe(device, part);
    // What follows matters only to whether mkfs may run again.
    let pending = claim.stage == Stage::Pending;
    let ours = match signature.known() {
        Ok(Signature::Found(found)) => Filesystem::from_name(&found.kind),
        Ok(Signature::Nothing | Signature::Ambivalent) | Err(_) => None,
    };
    let progress =
        ours.filter(|_| pending)
            .map(|filesystem| match progress(device, start, filesystem) {
                Ok(progress) => Fact::Known(progress),
                Err(error) => Fact::unreadable(node.display(), error),
            });
    let residue = pending.then(|| residue_fact(node, first_residue(device, start..start + length)));
    let around = pending.then(|| {
        let tail = Ends::tail_start(geometry).unwrap_or(range.end);
        let gaps = [Ends::head_len(geometry)..range.start, range.end..tail];
        let found = gaps
            .into_iter()
            .find_map(|gap| first_nonzero(disk, gap.start, gap.end).transpose());
        residue_fact(node, found.transpose())
    });
    Inside {
        signature,
        progress,
        residue,
        around,
        journalled,
    }
}

fn residue_fact(node: &Path, found: io::Result<Option<u64>>) -> Fact<Option<u64>> {
    match found {
        Ok(residue) => Fact::Known(residue),
        Err(error) => Fact::unreadable(node.display(), error),
    }
}

/// Reads both ends; `None` where no table of ours has room.
fn read_ends(disk: &File, geometry: Geometry) -> io::Result<Option<Ends>> {
    let Some(tail_start) = Ends::tail_start(geometry) else {
        return Ok(None);
    };
    let read = |at: u64, len: u64| -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        disk.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    };
    let head = read(0, Ends::head_len(geometry))?;
    let tail = read(tail_start, Ends::tail_len(geometry))?;
    Ok(Ends::new(geometry, head, tail))
}

/// First byte in the first and last 8 MiB of a range that is not zero.
fn first_residue(device: &File, range: Range<u64>) -> io::Result<Option<u64>> {
    let head_end = range.end.min(range.start.saturating_add(ZERO_END));
    let tail_start = range.end.saturating_sub(ZERO_END).max(head_end);
    for (start, end) in [(range.start, head_end), (tail_start, range.end)] {
        if let Some(at) = first_nonzero(device, start, end)? {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

/// First byte of a range that is not zero. Reads past the page cache where the
/// device allows it: the medium is the witness, not a cached copy, and nothing
/// is pushed out of memory for it.
fn first_nonzero(disk: &File, start: u64, end: u64) -> io::Result<Option<u64>> {
    let direct = reopen_direct(disk).ok();
    let mut buffer = vec![0_u8; PIECE + ALIGNMENT];
    let aligned = buffer.as_ptr().align_offset(ALIGNMENT);
    let buffer = buffer
        .get_mut(aligned..aligned + PIECE)
        .ok_or_else(|| io::Error::other("no aligned buffer"))?;
    let mut position = start;
    while position < end {
        let len = usize::try_from(end - position).map_or(PIECE, |left| left.min(PIECE));
        let piece = buffer
            .get_mut(..len)
            .ok_or_else(|| io::Error::other("piece too long"))?;
        match &direct {
            Some(direct) => match direct.read_exact_at(piece, position) {
                // Not every length is a multiple of the sector size.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                    disk.read_exact_at(piece, position)?
                }
                other => other?,
            },
            None => disk.read_exact_at(piece, position)?,
        }
        if let Some(at) = nonzero_in(piece) {
            return Ok(Some(position + at as u64));
        }
        position += len as u64;
    }
    Ok(None)
}

/// A second open file of the same device with `O_DIRECT`, by way of the
/// descriptor, so that it cannot be another device.
fn reopen_direct(disk: &File) -> io::Result<File> {
    use std::os::fd::AsRawFd;
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_CLOEXEC | libc::O_DIRECT)
        .open(format!("/proc/self/fd/{}", disk.as_raw_fd()))
}

/// What blank pieces are compared with.
static ZEROES: [u8; 64 * 1024] = [0; 64 * 1024];

fn nonzero_in(piece: &[u8]) -> Option<usize> {
    // Comparing slices is memcmp, which no loop of ours matches.
    let blank = |block: &[u8]| ZEROES.get(..block.len()) == Some(block);
    let block = piece.chunks(ZEROES.len()).position(|block| !blank(block))?;
    let start = block * ZEROES.len();
    let within = piece.get(start..)?.iter().position(|byte| *byte != 0)?;
    Some(start + within)
}

/// Asks the kernel for the exclusive right and gives it back at once. It sees
/// use in every mount namespace, which no mount table does.
fn is_busy(node: &Path, disk: &File) -> Fact<bool> {
    use std::os::fd::AsRawFd;
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_CLOEXEC | libc::O_EXCL)
        .open(format!("/proc/self/fd/{}", disk.as_raw_fd()));
    match opened {
        Ok(_released_at_once) => Fact::Known(false),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Fact::Known(true),
        Err(error) => Fact::unreadable(format_args!("exclusive open of {}", node.display()), error),
    }
}

/// Clears `O_NONBLOCK`, which is only wanted while opening a device that may
/// have no medium.
///
/// # Errors
/// What the kernel answers.
pub fn set_blocking(file: &File) -> io::Result<()> {
    fcntl(file, FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_single_byte_anywhere_in_the_ends_is_found() {
        let geometry = Geometry {
            size: 64 << 20,
            sector: 512,
        };
        for at in [
            0,
            1,
            511,
            ZERO_END - 1,
            geometry.size - ZERO_END,
            geometry.size - 1,
        ] {
            let file = tempfile::tempfile().expect("a file");
            file.set_len(geometry.size).expect("its size");
            assert_eq!(
                first_residue(&file, 0..geometry.size).expect("zeroes"),
                None
            );
            file.write_all_at(&[1], at).expect("a byte");
            assert_eq!(
                first_residue(&file, 0..geometry.size).expect("a byte"),
                Some(at)
            );
        }
    }

    #[test]
    fn the_ends_of_a_disk_smaller_than_both_are_read_once_and_whole() {
        let geometry = Geometry {
            size: 12 << 20,
            sector: 512,
        };
        let file = tempfile::tempfile().expect("a file");
        file.set_len(geometry.size).expect("its size");
        file.write_all_at(&[1], geometry.size - 1).expect("a byte");
        assert_eq!(
            first_residue(&file, 0..geometry.size).expect("read"),
            Some(geometry.size - 1)
        );
    }

    #[test]
    fn a_short_device_is_an_error_and_not_zero() {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(1 << 20).expect("its size");
        let geometry = Geometry {
            size: 64 << 20,
            sector: 512,
        };
        assert!(first_residue(&file, 0..geometry.size).is_err());
    }

    proptest! {
        #[test]
        fn nonzero_is_found_where_it_is(at in 0..4096_usize, len in 1..4096_usize) {
            let mut piece = vec![0; len];
            prop_assert_eq!(nonzero_in(&piece), None);
            let at = at % len;
            piece[at] = 0x80;
            prop_assert_eq!(nonzero_in(&piece), Some(at));
        }
    }
}
