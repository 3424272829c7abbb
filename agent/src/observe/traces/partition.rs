//! Where a filesystem begins behind something else that was erased: in the
//! second partition of a usual layout, or behind the metadata of an md array.
//! The first superblock itself is there and nothing is damaged but the way
//! to it.

use std::io;

use super::{MIB, Owner, Piece, Places, Reader, Trace, ext, xfs};

/// Behind 16 MiB that Windows keeps, behind an EFI partition of 512 MiB or
/// 1 GiB or a `/boot` of 1 GiB.
const STARTS: [u64; 3] = [16 * MIB, 513 * MIB, 1025 * MIB];

/// What a partition may begin with, besides ext and XFS.
const BEGINNINGS: [(u64, usize, &[u8], &str); 4] = [
    (0, 0, b"LUKS\xba\xbe", "crypto_LUKS"),
    (512, 0, b"LABELONE", "LVM2_member"),
    (0, 3, b"NTFS    ", "ntfs"),
    (0, 3, b"EXFAT   ", "exfat"),
];

pub(super) fn places(places: &mut Places) {
    // mdadm keeps a thousandth free in front, but no more than 128 MiB, and
    // rounds up to the next mebibyte (mdadm, `super1.c`).
    let mut headroom = 128 * MIB;
    while headroom > MIB && headroom * 1024 > places.size {
        headroom /= 2;
    }
    let data = [headroom, headroom + MIB, headroom + 2 * MIB];
    for start in STARTS.into_iter().chain(data) {
        places.add(Owner::Partition, start, 4096);
    }
}

pub(super) fn look(piece: &Piece, reader: &mut Reader<'_>) -> io::Result<Vec<Trace>> {
    let mut traces = ext::look(piece, reader)?;
    traces.extend(xfs::look(piece, reader)?);
    for (within, magic_at, magic, kind) in BEGINNINGS {
        let at = piece.at.saturating_add(within);
        let found = piece
            .structure(at, 512)
            .is_some_and(|sector| sector.has(magic_at, magic));
        if found {
            traces.push(Trace {
                at,
                kind: kind.to_owned(),
                wiped: false,
            });
        }
    }
    Ok(traces)
}
