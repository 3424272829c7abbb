//! btrfs keeps its superblock at 64 KiB and copies at 64 MiB, 256 GiB and
//! 1 PiB (btrfs-man5, "Superblock").

use std::io;

use super::{GIB, KIB, MIB, Owner, Piece, Places, Reader, TIB, Trace, piece::Likeness};

const PRIMARY: u64 = 64 * KIB;
const COPIES: [u64; 3] = [64 * MIB, 256 * GIB, 1024 * TIB];
const MAGIC: &[u8] = b"_BHRfS_M";
/// `fsid`, `sectorsize` and `nodesize`.
const LIKENESS: Likeness = Likeness {
    magic: (0x40, 8),
    same: &[(0x20, 16), (0x90, 4), (0x94, 4)],
};

pub(super) fn places(places: &mut Places) {
    for start in [0, MIB] {
        for copy in COPIES {
            places.add(Owner::Btrfs, start + copy, 512);
        }
    }
}

pub(super) fn look(piece: &Piece, reader: &mut Reader<'_>) -> io::Result<Vec<Trace>> {
    let mut traces = Vec::new();
    for (at, superblock) in piece.sectors(512) {
        if !superblock.has(0x40, MAGIC) {
            continue;
        }
        // `bytenr`: where in the filesystem this copy believes to be.
        let primary = superblock
            .le64(0x30)
            .and_then(|within| at.checked_sub(within))
            .map(|start| start.saturating_add(PRIMARY));
        let wiped = match primary {
            Some(primary) if primary != at => reader.is_wiped(primary, superblock, LIKENESS)?,
            Some(_) | None => false,
        };
        traces.push(Trace {
            at,
            kind: "btrfs".to_owned(),
            wiped,
        });
    }
    Ok(traces)
}
