//! XFS begins every allocation group with a copy of the superblock. Where the
//! groups begin depends on how many there are, which mkfs.xfs chooses by the
//! size of the filesystem and by what the disk says of itself (xfsprogs,
//! `calc_default_ag_geometry`, `calc_concurrency_ag_geometry` and
//! `align_ag_geometry`). A stretch of some mebibytes costs less than the seeks
//! to every start that is possible within it.

use std::{io, ops::Range};

use super::{BLOCK, Fields, GIB, MIB, Owner, Piece, Places, Reader, TIB, Trace, piece::Likeness};

const MAGIC: &[u8] = b"XFSB";
/// What is read of a superblock.
const SUPERBLOCK: usize = 512;
/// `sb_blocksize`, `sb_uuid`, `sb_agblocks` and `sb_agcount`.
const LIKENESS: Likeness = Likeness {
    magic: (0, 4),
    same: &[(4, 4), (32, 16), (84, 4), (88, 4)],
};
/// Headers behind the copy of the superblock, each with its version: of free
/// space and of inodes.
const HEADERS: [&[u8]; 2] = [b"XAGF\0\0\0\x01", b"XAGI\0\0\0\x01"];

/// Size of all groups where four would be larger than the largest group.
const LARGEST_GROUP: u64 = TIB - BLOCK;
/// Whatever the number of groups, one of them is near that part of the
/// filesystem whose number of groups it divides: 2 to 10, and most of what a
/// person may ask for. Each further prime costs over a megabyte of reading.
const PARTS: [u64; 4] = [2, 3, 5, 7];
/// The most groups, of a number that one of [`PARTS`] divides, of which one is
/// found: each may be larger or smaller than that part by a block.
const MOST_GROUPS: u64 = 256;
/// On a disk that states a stripe, groups are rounded up to the stripe unit,
/// or shifted back by one so that they do not all begin on the same disk.
const STRIPE_UP: u64 = 4 * MIB;
const STRIPE_BACK: u64 = 2 * MIB;
/// For partitions that begin or end a little beside the usual places.
const MARGIN: u64 = MIB;
/// A gap that is read rather than skipped.
const GAP: u64 = MIB;

/// A filesystem that fills what it is given.
struct Filesystem {
    start: u64,
    blocks: u64,
}

pub(super) fn places(places: &mut Places) {
    let partitions = partitions(places);
    let mut stretches: Vec<Range<u64>> = Vec::new();
    for filesystem in &partitions {
        stretches.extend(PARTS.map(|part| filesystem.part(part)));
    }
    for filesystem in volumes(places).iter().chain(&partitions) {
        stretches.push(filesystem.part(2));
        stretches.extend(filesystem.defaults());
        stretches.extend(filesystem.on_flash());
        stretches.push(filesystem.striped());
    }
    stretches.sort_by_key(|stretch| stretch.start);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for stretch in stretches {
        match joined.last_mut() {
            Some(last) if stretch.start <= last.end.saturating_add(GAP) => {
                last.end = last.end.max(stretch.end);
            }
            Some(_) | None => joined.push(stretch),
        }
    }
    for stretch in joined {
        places.add_what_there_is(Owner::Xfs, stretch);
    }
}

/// Filesystems on the disk itself and in a partition to one of the usual ends:
/// before a table's copy, at the mebibyte before, or, those of an MBR, with
/// the disk.
fn partitions(places: &Places) -> Vec<Filesystem> {
    let (size, usable) = (places.size, places.usable_end());
    [
        (0, size),
        (MIB, usable),
        (MIB, usable - usable % MIB),
        (MIB, size),
    ]
    .into_iter()
    .filter_map(Filesystem::between)
    .collect()
}

/// Filesystems in a logical volume of all extents, on the disk or in a
/// partition.
fn volumes(places: &Places) -> Vec<Filesystem> {
    const EXTENT: u64 = 4 * MIB;
    let usable = places.usable_end();
    [(MIB, places.size), (2 * MIB, usable - usable % MIB)]
        .into_iter()
        .filter_map(|(start, end)| {
            let space = end.checked_sub(start)?;
            Filesystem::between((start, end - space % EXTENT))
        })
        .collect()
}

impl Filesystem {
    fn between((start, end): (u64, u64)) -> Option<Self> {
        let blocks = end.checked_sub(start)? / BLOCK;
        (blocks > 0).then_some(Self { start, blocks })
    }

    /// What lies so far before and behind a place of the filesystem.
    fn around(&self, position: u64, before: u64, behind: u64) -> Range<u64> {
        let at = self.start + position;
        at.saturating_sub(before)..at.saturating_add(behind).saturating_add(BLOCK)
    }

    /// Where one of any number of groups begins that this divides.
    fn part(&self, part: u64) -> Range<u64> {
        let reach = MOST_GROUPS / part * BLOCK;
        self.around(self.blocks / part * BLOCK, reach, reach)
    }

    /// The first groups of those that every disk gets by default.
    fn defaults(&self) -> [Range<u64>; 3] {
        let size = if self.blocks >= 4 * TIB / BLOCK {
            LARGEST_GROUP
        } else {
            self.blocks.div_ceil(4) * BLOCK
        };
        [1, 2, 3].map(|group| self.around(group * size, MARGIN, MARGIN))
    }

    /// On flash there are as many groups as processors, but none below 4 GiB.
    fn on_flash(&self) -> Option<Range<u64>> {
        let count = self.blocks / (4 * GIB / BLOCK);
        let size = (5..MOST_GROUPS)
            .contains(&count)
            .then(|| self.blocks / count * BLOCK)?;
        Some(self.around(size, 0, 0))
    }

    /// The second group on a disk that states a stripe.
    fn striped(&self) -> Range<u64> {
        let size = match self.blocks * BLOCK {
            size if size >= 32 * TIB => LARGEST_GROUP,
            size if size > 512 * GIB => size / 32,
            size if size > 8 * GIB => size / 16,
            size => size / 8,
        };
        self.around(size, STRIPE_BACK, STRIPE_UP)
    }
}

pub(super) fn look(piece: &Piece, reader: &mut Reader<'_>) -> io::Result<Vec<Trace>> {
    let mut traces = Vec::new();
    for (at, superblock) in piece.sectors(SUPERBLOCK) {
        if !superblock.has(0, MAGIC) {
            continue;
        }
        let Some(group_size) = group_size(superblock) else {
            continue;
        };
        // All copies are the same, so which group this is follows from where
        // it is: no start is as large as the smallest group, 16 MiB.
        let primary = at % group_size;
        let wiped = primary != at && reader.is_wiped(primary, superblock, LIKENESS)?;
        traces.push(trace(at, wiped));
        if !wiped {
            return Ok(traces);
        }
    }
    if traces.is_empty() {
        traces.extend(header(piece).map(|at| trace(at, false)));
    }
    Ok(traces)
}

fn trace(at: u64, wiped: bool) -> Trace {
    Trace {
        at,
        kind: "xfs".to_owned(),
        wiped,
    }
}

/// A header of a group that has lost its copy of the superblock. Those of the
/// first group tell nothing: `wipefs` leaves them.
fn header(piece: &Piece) -> Option<u64> {
    let mut sectors = piece.sectors(SUPERBLOCK);
    let (at, _) = sectors.find(|(_, sector)| {
        let known = HEADERS.iter().any(|magic| sector.has(0, magic));
        // `agf_seqno` and `agi_seqno`.
        known && sector.be32(8).is_some_and(|group| group > 0)
    })?;
    Some(at)
}

/// Bytes of a group; `None` when this is no superblock.
fn group_size(superblock: Fields<'_>) -> Option<u64> {
    let block = superblock.be32(4)?;
    let sector = superblock.be16(102)?;
    let version = superblock.be16(100)? & 0xf;
    let plausible =
        block.is_power_of_two() && sector.is_power_of_two() && (1..=5).contains(&version);
    let size = u64::from(block) * u64::from(superblock.be32(84)?);
    (plausible && size > 0).then_some(size)
}
