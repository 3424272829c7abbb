//! XFS begins every allocation group with a copy of the superblock. Where the
//! groups begin depends on how many there are, which mkfs.xfs chooses by the
//! size of the filesystem (xfsprogs, `calc_default_ag_geometry` and
//! `calc_concurrency_ag_geometry`).

use std::{collections::BTreeSet, io};

use super::{BLOCK, Fields, GIB, MIB, Owner, Piece, Places, Reader, TIB, Trace, piece::Likeness};

const MAGIC: &[u8] = b"XFSB";
/// What is read of a superblock.
const SUPERBLOCK: usize = 512;
/// `sb_blocksize`, `sb_uuid`, `sb_agblocks` and `sb_agcount`.
const LIKENESS: Likeness = Likeness {
    magic: (0, 4),
    same: &[(4, 4), (32, 16), (84, 4), (88, 4)],
};
/// Size of all groups where four would be larger than the largest group.
const LARGEST_GROUP: u64 = TIB - BLOCK;
/// The most groups, when their number is even, of which one is found around
/// the middle of the filesystem.
const MOST_GROUPS: u64 = 64;

pub(super) fn places(places: &mut Places) {
    for (start, blocks) in filesystems(places) {
        for position in groups(blocks) {
            places.add(Owner::Xfs, start + position, SUPERBLOCK as u64);
        }
        let middle = blocks / 2 * BLOCK;
        let reach = MOST_GROUPS / 2 * BLOCK;
        if middle > reach {
            places.add(Owner::Xfs, start + middle - reach, 2 * reach + BLOCK);
        }
    }
}

/// Where a filesystem on all of the disk begins and how many blocks it has:
/// on the disk itself, in a partition to one of the usual ends, in a logical
/// volume of all extents on the disk or in such a partition.
fn filesystems(places: &Places) -> BTreeSet<(u64, u64)> {
    const EXTENT: u64 = 4 * MIB;
    // Partitions end before a table's copy, at the mebibyte before, or, those
    // of an MBR, with the disk.
    let size = places.size;
    let usable = places.usable_end();
    let aligned = usable - usable % MIB;
    let extents = |start: u64, end: u64| {
        let space = end.saturating_sub(start);
        start + (space - space % EXTENT)
    };
    [
        (0, size),
        (MIB, usable),
        (MIB, aligned),
        (MIB, size),
        (MIB, extents(MIB, size)),
        (2 * MIB, extents(2 * MIB, aligned)),
    ]
    .into_iter()
    .filter_map(|(start, end)| Some((start, end.checked_sub(start)? / BLOCK)))
    .collect()
}

/// Where the groups after the first begin, for the default numbers of groups.
fn groups(blocks: u64) -> Vec<u64> {
    let size = if blocks >= 4 * TIB / BLOCK {
        LARGEST_GROUP
    } else {
        blocks.div_ceil(4) * BLOCK
    };
    // On flash, as many as there are processors, but none below 4 GiB.
    let small = match blocks / (4 * GIB / BLOCK) {
        count if count > 4 && count < MOST_GROUPS => Some(blocks / count * BLOCK),
        _ => None,
    };
    (1..=3)
        .map(|group| group * size)
        .chain(small)
        .filter(|position| *position > 0)
        .collect()
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
        traces.push(Trace {
            at,
            kind: "xfs".to_owned(),
            wiped,
        });
    }
    Ok(traces)
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
