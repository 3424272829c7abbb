//! Entries of a partition table whose magic numbers were erased, as `wipefs`
//! does: they still say where the partitions are. Anything may stand there
//! instead, so what they say is a hint where to look and nothing else.

use std::{io, ops::Range};

use super::{Fields, Reader, whole_sectors};
use crate::claim::Geometry;

/// Entries of a GPT: 128 of 128 bytes, behind the first header and before the
/// last one (UEFI specification, "GUID Partition Table").
const ENTRY: usize = 128;
const ENTRIES: usize = 128 * ENTRY;
/// A table may have been written behind a bridge with another sector size.
const SECTORS: [u64; 2] = [512, 4096];
/// Entries of an MBR: four of 16 bytes.
const MBR_ENTRIES: [usize; 4] = [446, 462, 478, 494];

/// Where partitions are by what is left of a table, each within the disk.
pub(super) fn partitions(
    geometry: Geometry,
    reader: &mut Reader<'_>,
) -> io::Result<Vec<Range<u64>>> {
    let size = whole_sectors(geometry);
    let mut found = Vec::new();
    let mbr = reader.around(0, 512)?;
    if let Some(sector) = mbr.as_ref().and_then(|piece| piece.structure(0, 512)) {
        let entries = MBR_ENTRIES.into_iter();
        found.extend(entries.filter_map(|at| in_mbr(sector, at, geometry)));
    }
    for sector in SECTORS {
        let behind_first = Some(2 * sector);
        let before_last = size.checked_sub(sector + ENTRIES as u64);
        for start in [behind_first, before_last].into_iter().flatten() {
            let piece = reader.around(start, ENTRIES)?;
            if let Some(entries) = piece
                .as_ref()
                .and_then(|piece| piece.structure(start, ENTRIES))
            {
                let at = (0..ENTRIES).step_by(ENTRY);
                found.extend(at.filter_map(|at| in_gpt(entries, at, sector)));
            }
        }
    }
    for range in &mut found {
        range.end = range.end.min(size);
    }
    found.retain(|range| !range.is_empty());
    Ok(found)
}

fn in_gpt(entries: Fields<'_>, at: usize, sector: u64) -> Option<Range<u64>> {
    let kind = entries.bytes(at..at + 16)?;
    let first = entries.le64(at + 32)?.checked_mul(sector)?;
    let behind_last = entries.le64(at + 40)?.checked_add(1)?.checked_mul(sector)?;
    let used = kind.iter().any(|byte| *byte != 0);
    used.then_some(first..behind_last)
}

/// Numbers are in sectors of the disk.
fn in_mbr(mbr: Fields<'_>, at: usize, geometry: Geometry) -> Option<Range<u64>> {
    const ACTIVE: u8 = 0x80;
    let sector = u64::from(geometry.sector.max(512));
    let flag = mbr.byte(at)?;
    let used = (flag == 0 || flag == ACTIVE) && mbr.byte(at + 4)? != 0;
    let start = u64::from(mbr.le32(at + 8)?) * sector;
    let len = u64::from(mbr.le32(at + 12)?) * sector;
    used.then_some(start..start + len)
}
