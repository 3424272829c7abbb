//! What lies behind the partition of a disk that was enlarged. The partition is
//! to reach to the new end, so everything there has to be blank, as a new disk
//! has to be; only backups of this claim's own table may lie in it, the one for
//! the size that the disk had and, torn or whole, the one for its new size.

use std::{fs::File, io, ops::ControlFlow};

use super::{
    pieces::{Pieces, first_nonzero},
    sample::Seed,
    scan::ranges,
};
use crate::claim::{ClaimId, Ends, Geometry, is_backup_of};

/// First byte behind the partition that is neither zero nor the claim's own,
/// in all that a proof of blankness reads: the first and last 8 MiB, the
/// places where formats keep copies, and a sample.
///
/// # Errors
/// When anything of it cannot be read.
pub fn first_foreign(
    disk: &File,
    geometry: Geometry,
    partition_end: u64,
    id: &ClaimId,
    seed: Seed,
) -> io::Result<Option<u64>> {
    let mut pieces = Pieces::of(disk);
    for range in ranges(geometry, partition_end, seed) {
        let mut from = range.start;
        while let Some(at) = first_nonzero(&mut pieces, from..range.end)? {
            match own_backup(&mut pieces, geometry, at, id)? {
                Some(end) => from = end,
                None => return Ok(Some(at)),
            }
        }
    }
    Ok(None)
}

/// Where a backup of the claim's table ends that a byte belongs to.
fn own_backup(
    pieces: &mut Pieces<'_>,
    geometry: Geometry,
    at: u64,
    id: &ClaimId,
) -> io::Result<Option<u64>> {
    let tail_len = Ends::tail_len(geometry);
    let mut read = |start: u64, end: u64| -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        pieces.each(start..end, |_, piece| {
            bytes.extend_from_slice(piece);
            ControlFlow::Continue(())
        })?;
        Ok(bytes)
    };
    // The one for the present size may be torn and without its header.
    if Ends::tail_start(geometry).is_some_and(|start| start <= at) {
        let tail = read(geometry.size - tail_len, geometry.size)?;
        return Ok(is_backup_of(id, geometry, &tail).then_some(geometry.size));
    }
    // An older one ends with its header, which is the last sector of its disk.
    // Where that was not written any more, it begins here, with its entries.
    let sector = u64::from(geometry.sector);
    let first = at / sector * sector;
    let last = first.saturating_add(tail_len).min(geometry.size);
    let ahead = read(first, last)?;
    let headers = ahead.chunks(usize::try_from(sector).map_err(io::Error::other)?);
    let end = headers
        .zip(1_u64..)
        .find_map(|(header, sectors)| header.starts_with(b"EFI PART").then_some(sectors * sector));
    let older = Geometry {
        size: first + end.unwrap_or(tail_len),
        ..geometry
    };
    let Some(start) = Ends::tail_start(older) else {
        return Ok(None);
    };
    let tail = read(start, older.size)?;
    Ok(is_backup_of(id, older, &tail).then_some(older.size))
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::unix::fs::FileExt};

    use super::*;
    use crate::claim::{Stage, TableImage, partition_range};

    const OLD: u64 = 64 << 20;
    const NEW: u64 = 200 << 20;

    fn geometry(size: u64, sector: u32) -> Geometry {
        Geometry { size, sector }
    }

    /// A disk of ours that had 64 MiB and now has 200.
    fn grown(id: &ClaimId, sector: u32) -> File {
        let disk = tempfile::tempfile().expect("a file");
        disk.set_len(NEW).expect("its size");
        write_tail(&disk, id, geometry(OLD, sector));
        disk
    }

    fn write_tail(disk: &File, id: &ClaimId, geometry: Geometry) {
        let table = TableImage::build(geometry, id, Stage::Committed).expect("a table");
        let start = Ends::tail_start(geometry).expect("room");
        disk.write_all_at(table.ends().tail(), start)
            .expect("written");
    }

    fn claim() -> ClaimId {
        ClaimId::fresh("sdb1".parse().expect("a name"))
    }

    fn found(disk: &File, id: &ClaimId, sector: u32) -> Option<u64> {
        let old = partition_range(geometry(OLD, sector)).expect("room");
        first_foreign(disk, geometry(NEW, sector), old.end, id, Seed(1)).expect("read")
    }

    #[test]
    fn the_claims_own_backups_are_passed_over_and_anything_beside_them_is_found() {
        for sector in [512, 4096] {
            let id = claim();
            let disk = grown(&id, sector);
            assert_eq!(found(&disk, &id, sector), None);
            // A backup that another enlargement has left, and the new one.
            write_tail(&disk, &id, geometry(70 << 20, sector));
            write_tail(&disk, &id, geometry(NEW, sector));
            assert_eq!(found(&disk, &id, sector), None, "{sector}");
            for at in [
                OLD - (20 << 10) - 1,
                OLD,
                OLD + 1,
                (70 << 20) - 1,
                NEW - (21 << 10),
                NEW - 1,
            ] {
                let mut byte = [0];
                disk.read_exact_at(&mut byte, at).expect("read");
                disk.write_all_at(&[byte[0] ^ 1], at).expect("written");
                let first = found(&disk, &id, sector);
                assert!(
                    first.is_some_and(|first| first <= at),
                    "{sector} {at}: {first:?}"
                );
                disk.write_all_at(&byte, at).expect("written");
            }
            assert_eq!(found(&disk, &id, sector), None, "{sector}");
        }
    }

    #[test]
    fn a_new_backup_that_is_torn_anywhere_is_still_the_claims() {
        // At the end, or where the end was before one more enlargement.
        for (sector, size) in [
            (512_u32, NEW),
            (4096, NEW),
            (512, 70 << 20),
            (4096, 70 << 20),
        ] {
            let id = claim();
            let disk = grown(&id, sector);
            let now = geometry(size, sector);
            write_tail(&disk, &id, now);
            let start = Ends::tail_start(now).expect("room");
            let header = size - u64::from(sector);
            for lost in [start, header] {
                let mut kept = vec![0; sector as usize];
                disk.read_exact_at(&mut kept, lost).expect("read");
                disk.write_all_at(&vec![0; kept.len()], lost)
                    .expect("written");
                assert_eq!(found(&disk, &id, sector), None, "{lost}");
                disk.write_all_at(&kept, lost).expect("written");
            }
        }
    }

    #[test]
    fn the_backup_of_another_claim_is_not_ours() {
        let (id, other) = (claim(), claim());
        for at in [
            geometry(OLD, 512),
            geometry(100 << 20, 512),
            geometry(NEW, 512),
        ] {
            let disk = grown(&id, 512);
            write_tail(&disk, &other, at);
            assert!(found(&disk, &id, 512).is_some(), "{at:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_an_error_and_not_blank() {
        let id = claim();
        let disk = tempfile::tempfile().expect("a file");
        disk.set_len(NEW / 2).expect("its size");
        assert!(first_foreign(&disk, geometry(NEW, 512), OLD, &id, Seed(1)).is_err());
    }
}
