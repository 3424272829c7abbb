//! Headers of a GUID partition table: in the second sector, with a copy in the
//! last one (UEFI specification, "GUID Partition Table").

use super::{Owner, Piece, Places, Trace};

const MAGIC: &[u8] = b"EFI PART";
const HEADER: u64 = 92;

/// A table may have been written when the disk sat behind a bridge with
/// another sector size, so both are looked at whatever the disk says.
const SECTORS: [u64; 2] = [512, 4096];

pub(super) fn places(places: &mut Places) {
    for sector in SECTORS {
        places.add(Owner::Gpt, sector, HEADER);
        places.add_before_end(Owner::Gpt, sector, HEADER);
    }
}

/// A table is never `wiped`: its copy alone is a whole table, which the kernel
/// reads.
pub(super) fn look(piece: &Piece) -> Vec<Trace> {
    piece
        .sectors(512)
        .filter(|(_, header)| header.has(0, MAGIC))
        .map(|(at, _)| Trace {
            at,
            kind: "gpt".to_owned(),
            wiped: false,
        })
        .collect()
}
