//! Where a partition may begin whose table is gone, or what an md array holds
//! whose metadata are gone. The first superblock itself is there and nothing
//! is damaged but the way to it.

use std::{collections::BTreeSet, io, ops::Range};

use super::{
    BLOCK, MIB, Owner, Piece, Places, Reader, SECTOR_63, Trace, ext, fixed::LUKS_IN_REENCRYPTION,
    table, whole_sectors, xfs,
};
use crate::claim::Geometry;

/// Where every tool of the last decades puts the first partition, and where
/// the second one begins behind 16 MiB that Windows keeps, behind an EFI
/// partition of 512 MiB or 1 GiB or a `/boot` of 1 GiB.
const STARTS: [u64; 9] = [
    34 * 512,
    SECTOR_63,
    MIB,
    2 * MIB,
    4 * MIB,
    8 * MIB,
    16 * MIB,
    513 * MIB,
    1025 * MIB,
];

/// What a partition may begin with, besides ext and XFS. Whoever has libblkid
/// asks it as well; this tells what it finds no whole header of.
const BEGINNINGS: [(usize, &[u8], &str); 5] = [
    (0, b"LUKS\xba\xbe", "crypto_LUKS"),
    (0, LUKS_IN_REENCRYPTION, "crypto_LUKS"),
    (0, b"LABELONE", "LVM2_member"),
    (3, b"NTFS    ", "ntfs"),
    (3, b"EXFAT   ", "exfat"),
];

fn usual_starts(geometry: Geometry) -> impl Iterator<Item = u64> {
    // mdadm keeps a thousandth free in front, but no more than 128 MiB, and
    // rounds up to the next mebibyte (mdadm, `super1.c`).
    let mut headroom = 128 * MIB;
    while headroom > MIB && headroom * 1024 > whole_sectors(geometry) {
        headroom /= 2;
    }
    let data = [headroom, headroom + MIB, headroom + 2 * MIB];
    let first_usable = 34 * u64::from(geometry.sector.max(512));
    STARTS.into_iter().chain(data).chain([first_usable])
}

pub(super) fn places(places: &mut Places) {
    for start in usual_starts(places.geometry) {
        // The rest of the block.
        places.add(Owner::Partition, start, BLOCK - start % BLOCK);
    }
}

/// Where partitions may have been, for libblkid: at the usual starts, where
/// entries of an erased table say, and where the `first` data are.
pub(super) fn ranges(
    geometry: Geometry,
    first: u64,
    reader: &mut Reader<'_>,
) -> io::Result<BTreeSet<(u64, u64)>> {
    let size = whole_sectors(geometry);
    let at_first = first / MIB * MIB;
    // A filesystem often leaves its first blocks empty.
    let guessed = [at_first, at_first.saturating_sub(MIB)];
    let to_the_end = usual_starts(geometry)
        .chain(guessed)
        .map(|start| start..size);
    let told = table::partitions(geometry, reader)?;
    // At 0 libblkid has looked already; it wants room for a superblock.
    let worth_a_look =
        |range: &Range<u64>| range.start > 0 && range.end.saturating_sub(range.start) >= MIB;
    Ok(to_the_end
        .chain(told)
        .filter(worth_a_look)
        .map(|range| (range.start, range.end))
        .collect())
}

pub(super) fn look(piece: &Piece, reader: &mut Reader<'_>) -> io::Result<Vec<Trace>> {
    let mut traces = ext::look(piece, reader)?;
    traces.extend(xfs::look(piece, reader)?);
    for (at, sector) in piece.sectors(512) {
        let known = BEGINNINGS
            .iter()
            .find(|(magic_at, magic, _)| sector.has(*magic_at, magic));
        traces.extend(known.map(|(_, _, kind)| Trace {
            at,
            kind: (*kind).to_owned(),
            wiped: false,
        }));
    }
    Ok(traces)
}
