//! NTFS keeps a copy of its boot sector in the last sector of the partition,
//! and the first records of its file table twice. Windows puts the table at
//! cluster 786432, which is 3 GiB, and mkntfs the copy of its first records in
//! the middle.

use std::io;

use super::{BLOCK, Fields, GIB, MIB, Owner, Piece, Places, Reader, Trace, piece::Likeness};

/// Windows leaves 16 MiB, formerly 128 MiB, to itself in front of the first
/// partition of a GPT.
const STARTS: [u64; 4] = [0, MIB, 16 * MIB, 129 * MIB];
/// Where Windows puts the file table of all but small filesystems.
const TABLE: u64 = 3 * GIB;
const BOOT: usize = 512;
const MAGIC: &[u8] = b"NTFS    ";
/// Shape of the volume, number of sectors, and serial number.
const LIKENESS: Likeness = Likeness {
    magic: (3, 8),
    same: &[(11, 3), (40, 8), (72, 8)],
};

pub(super) fn places(places: &mut Places) {
    let usable = places.usable_end();
    let ends = [places.size, usable, usable - usable % MIB];
    for end in ends {
        for sector in [512, 4096] {
            if let Some(position) = end.checked_sub(sector) {
                places.add(Owner::Ntfs, position, BOOT as u64);
            }
        }
    }
    for start in STARTS {
        places.add(Owner::Ntfs, start + TABLE, BLOCK);
        if start > MIB {
            places.add(Owner::Ntfs, start, BLOCK);
        }
    }
    for (start, end) in [(0, ends[0]), (MIB, ends[0]), (MIB, ends[1]), (MIB, ends[2])] {
        // All sectors but the one of the copy, in clusters of 8 sectors.
        let sectors = end.saturating_sub(start) / 512;
        let middle = sectors.saturating_sub(1) / 2 / 8 * BLOCK;
        places.add(Owner::Ntfs, start + middle, BLOCK);
    }
}

pub(super) fn look(piece: &Piece, reader: &mut Reader<'_>) -> io::Result<Vec<Trace>> {
    let mut traces = Vec::new();
    for (at, sector) in piece.sectors(BOOT) {
        let wiped = if sector.has(3, MAGIC) {
            match first(at, sector) {
                Some(first) if first != at => reader.is_wiped(first, sector, LIKENESS)?,
                Some(_) | None => false,
            }
        } else if is_record(sector) {
            is_table_of_wiped(at, reader)?
        } else {
            continue;
        };
        traces.push(Trace {
            at,
            kind: "ntfs".to_owned(),
            wiped,
        });
    }
    Ok(traces)
}

/// Where the boot sector is of which this is the copy: it counts the sectors
/// in front of the copy.
fn first(at: u64, copy: Fields<'_>) -> Option<u64> {
    at.checked_sub(copy.le64(40)?.checked_mul(copy.le16(11)?.into())?)
}

/// A record of the file table. Its update sequence begins behind the header.
fn is_record(sector: Fields<'_>) -> bool {
    sector.has(0, b"FILE") && matches!(sector.le16(4), Some(0x2a | 0x30))
}

/// Whether a boot sector without its magic number says that the table or its
/// copy is here: records carry no serial number, so the place has to do.
fn is_table_of_wiped(at: u64, reader: &mut Reader<'_>) -> io::Result<bool> {
    for start in STARTS {
        if start >= at {
            continue;
        }
        let piece = reader.around(start, BOOT)?;
        let Some(boot) = piece
            .as_ref()
            .and_then(|piece| piece.structure(start, BOOT))
        else {
            continue;
        };
        let erased = boot.has(3, &[0; 8]);
        if erased && holds_table(boot, at - start) == Some(true) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn holds_table(boot: Fields<'_>, within: u64) -> Option<bool> {
    let sector = u64::from(boot.le16(11)?);
    let cluster = sector * u64::from(boot.byte(13)?);
    let table = boot.le64(48)?.checked_mul(cluster)?;
    let copy = boot.le64(56)?.checked_mul(cluster)?;
    // A piece may begin with the second record or a later one.
    let there = |position: u64| (position..position.saturating_add(BLOCK)).contains(&within);
    Some(cluster > 0 && (there(table) || there(copy)))
}
