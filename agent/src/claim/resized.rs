//! A table of ours that was made for another size than the disk has: the disk
//! was enlarged or cut since. Each sector in front of it speaks of a size
//! itself; it is ours when it is exactly what the claim writes for that size.

use serde::{Deserialize, Serialize};

use super::{ClaimId, Ends, Geometry, Stage, TableImage, partition_range};

/// How the disk differs from the one that its table was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Resized {
    /// It is larger. Nothing behind the partition as it was is known to be ours.
    Grown {
        /// Byte behind the partition by the oldest part of the table.
        partition_end: u64,
        /// The backup for the present size is whole: the space was proven blank
        /// before it was written, and the partition reaches to the new end.
        moved: bool,
    },
    /// It is smaller.
    Shrunk {
        /// Bytes that it had.
        from: u64,
    },
}

/// A sector in front that is not from a table for the present size, but from
/// one of the same claim for another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Older {
    /// Its number among the sectors of both ends.
    pub number: usize,
    geometry: Geometry,
    /// Only a committed table has it.
    pub committed: bool,
}

impl Older {
    /// The sector with this number, which is in no table for the present size.
    pub fn of(number: usize, sector: &[u8], sector_size: u32, id: &ClaimId) -> Option<Self> {
        let geometry = stated(number, sector, sector_size)?;
        let image = |stage| TableImage::build(geometry, id, stage).ok();
        let is_in = |image: &TableImage| image.ends().sectors().nth(number) == Some(sector);
        let pending = is_in(&image(Stage::Pending)?);
        let committed = is_in(&image(Stage::Committed)?);
        (pending || committed).then_some(Self {
            number,
            geometry,
            committed: committed && !pending,
        })
    }

    /// Whether the table may be completed over it: what was made for a larger
    /// disk says that some of the disk is missing.
    pub fn may_be_replaced(&self, now: Geometry) -> bool {
        self.geometry.size < now.size
    }
}

/// What such sectors say together. The boot record alone says nothing of where
/// the partition is, and anybody's is the same.
pub(super) fn resized(older: &[Older], now: Geometry, moved: bool) -> Option<Resized> {
    let header = older.iter().find(|older| older.number == 1);
    if let Some(header) = header.filter(|header| header.geometry.size > now.size) {
        return Some(Resized::Shrunk {
            from: header.geometry.size,
        });
    }
    let ends = older
        .iter()
        .filter(|older| older.number > 0 && older.may_be_replaced(now))
        .filter_map(|older| Some(partition_range(older.geometry)?.end));
    ends.min().map(|partition_end| Resized::Grown {
        partition_end,
        moved,
    })
}

/// The smaller disk that the header in front was made for, if it says so. Not
/// checked: it is where another copy of the table may be.
pub fn earlier_geometry(ends: &Ends) -> Option<Geometry> {
    let now = ends.geometry();
    let header = ends.sectors().nth(1)?;
    let earlier = stated(1, header, now.sector)?;
    (earlier.size < now.size && Ends::tail_start(earlier).is_some()).then_some(earlier)
}

/// The size of the disk that a sector speaks of: the protective MBR, the header,
/// and the first of the entries, for which it is the smallest disk that has such
/// a partition. The others are zero in every table of ours.
fn stated(number: usize, sector: &[u8], sector_size: u32) -> Option<Geometry> {
    let field = |from: usize| -> Option<u64> {
        let bytes = sector.get(from..from.checked_add(8)?)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    };
    let bytes = |sectors: u64| sectors.checked_mul(u64::from(sector_size));
    let size = match number {
        // The length in the record of the one partition, without the record's
        // own sector; the last value stands for all that is longer.
        0 => {
            let length = sector.get(458..462)?;
            let length = u32::from_le_bytes(length.try_into().ok()?);
            (length != u32::MAX).then(|| bytes(u64::from(length) + 1))??
        }
        // The place of the other header, which is the last sector.
        1 if sector.starts_with(b"EFI PART") => bytes(field(32)?.checked_add(1)?)?,
        // The last sector of the first partition.
        2 => {
            let end = bytes(field(40)?.checked_add(1)?)?;
            let table = Geometry {
                size: end,
                sector: sector_size,
            };
            end.checked_add(Ends::tail_len(table))?
        }
        _ => return None,
    };
    let geometry = Geometry {
        size,
        sector: sector_size,
    };
    // What no offset of a file can reach is no size of a disk.
    i64::try_from(size).is_ok().then_some(geometry)
}

/// Whether the last bytes of a disk of that geometry are the backup of a claim's
/// table, whole or torn: each sector is zero or the claim's own.
pub fn is_backup_of(id: &ClaimId, geometry: Geometry, tail: &[u8]) -> bool {
    let tables: Option<Vec<TableImage>> = [Stage::Pending, Stage::Committed]
        .into_iter()
        .map(|stage| TableImage::build(geometry, id, stage).ok())
        .collect();
    let (Some(tables), Ok(sector)) = (tables, usize::try_from(geometry.sector)) else {
        return false;
    };
    if tail.len() as u64 != Ends::tail_len(geometry) || sector == 0 {
        return false;
    }
    tail.chunks(sector).enumerate().all(|(at, there)| {
        let is_in = |table: &TableImage| table.ends().tail().chunks(sector).nth(at) == Some(there);
        there.iter().all(|byte| *byte == 0) || tables.iter().any(is_in)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::claim::{Table, inspect_with};

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    fn geometry(size: u64, sector: u32) -> Geometry {
        Geometry { size, sector }
    }

    fn id() -> ClaimId {
        ClaimId::fresh("sdb1".parse().expect("a name"))
    }

    fn image(id: &ClaimId, geometry: Geometry, stage: Stage) -> Ends {
        let table = TableImage::build(geometry, id, stage).expect("a table");
        table.ends().clone()
    }

    fn committed(id: &ClaimId, geometry: Geometry) -> Ends {
        image(id, geometry, Stage::Committed)
    }

    fn end(geometry: Geometry) -> u64 {
        partition_range(geometry).expect("room").end
    }

    /// One end with each sector from the table that is chosen for it.
    fn mixed(sector: u32, sources: &[&[u8]], choice: impl Fn(usize) -> usize) -> Vec<u8> {
        let size = sector as usize;
        let sectors = sources[0].len() / size;
        (0..sectors)
            .flat_map(|at| sources[choice(at)][at * size..][..size].to_vec())
            .collect()
    }

    /// A disk of a size whose head speaks of others. The older ones' backups
    /// are where they were written.
    fn inspected(
        now: Geometry,
        head: Vec<u8>,
        tail: Vec<u8>,
        older: &[&Ends],
    ) -> (Table, Option<Geometry>) {
        let ends = Ends::new(now, head.clone(), tail).expect("ends");
        let earlier = earlier_geometry(&ends);
        let left = earlier.map(|earlier| {
            let there = older.iter().find(|older| older.geometry() == earlier);
            let tail = there.expect("a size that it had").tail().to_vec();
            Ends::new(earlier, head, tail).expect("ends")
        });
        (inspect_with(&ends, left.as_ref(), &[]), earlier)
    }

    /// Sizes before and after, the alignment of the partition and the largest
    /// number of the boot record between some of them.
    fn sizes(sector: u32) -> Vec<(u64, u64)> {
        let one = u64::from(sector);
        vec![
            (12 * GIB, 24 * GIB),
            (12 * GIB, 12 * GIB + one),
            (12 * GIB + one, 12 * GIB + 700 * 1024),
            (1024 * GIB, 3 << 40),
            (3 << 40, 20 << 40),
            (8 * MIB, 12 * GIB),
        ]
    }

    #[test]
    fn any_mix_of_the_old_and_the_new_front_over_a_new_backup_is_ours_and_completed() {
        for sector in [512, 4096] {
            for (old, new) in sizes(sector) {
                let (old, new) = (geometry(old, sector), geometry(new, sector));
                let id = id();
                let (before, after) = (committed(&id, old), committed(&id, new));
                for mix in 0..8_usize {
                    let is_new = |at: usize| at > 2 || mix >> at & 1 == 1;
                    let sources = [before.head(), after.head()];
                    let head = mixed(sector, &sources, |at| usize::from(is_new(at)));
                    let whole = head == after.head();
                    let tail = after.tail().to_vec();
                    let (found, _) = inspected(new, head.clone(), tail, &[&before]);
                    let parts = |at: usize| {
                        let place = at * sector as usize..(at + 1) * sector as usize;
                        head[place.clone()] != after.head()[place]
                    };
                    let resized = (parts(1) || parts(2)).then(|| Resized::Grown {
                        partition_end: end(old),
                        moved: true,
                    });
                    let expected = Table::Ours {
                        claim: crate::claim::Claim {
                            id: id.clone(),
                            stage: Stage::Committed,
                        },
                        whole,
                        only_ours: true,
                        resized,
                    };
                    assert_eq!(found, expected, "{old:?} {new:?} {mix:03b}");
                }
            }
        }
    }

    #[test]
    fn a_disk_that_grew_once_more_before_the_first_time_was_complete_is_ours() {
        for sector in [512, 4096] {
            let sizes = [12 * GIB, 24 * GIB, 48 * GIB].map(|size| geometry(size, sector));
            let id = id();
            let [first, second, _] = sizes.map(|size| committed(&id, size));
            for mix in 0..8_usize {
                let sources = [first.head(), second.head()];
                let head = mixed(sector, &sources, |at| mix >> at.min(2) & 1);
                let zero = vec![0; Ends::tail_len(sizes[2]) as usize];
                let (found, _) = inspected(sizes[2], head, zero, &[&first, &second]);
                let expected = if mix >> 1 == 3 { sizes[1] } else { sizes[0] };
                let right = matches!(&found, Table::Ours {
                    claim,
                    whole: false,
                    only_ours: true,
                    resized: Some(Resized::Grown { partition_end, moved: false }),
                } if claim.id == id && claim.stage == Stage::Committed && *partition_end == end(expected));
                assert!(right, "{sector} {mix:03b}: {found:?}");
            }
        }
    }

    #[test]
    fn a_commit_that_was_cut_off_before_the_disk_grew_is_a_commit() {
        let id = id();
        let (old, new) = (geometry(12 * GIB, 512), geometry(24 * GIB, 512));
        let head = image(&id, old, Stage::Pending).head().to_vec();
        let zero = vec![0; Ends::tail_len(new) as usize];
        let (found, _) = inspected(new, head.clone(), zero.clone(), &[&committed(&id, old)]);
        let right = matches!(&found, Table::Ours { claim, only_ours: true, .. } if claim.stage == Stage::Committed);
        assert!(right, "{found:?}");
        // Pending in both places it is pending, and nothing of it is written over.
        let pending = image(&id, old, Stage::Pending);
        let (found, _) = inspected(new, head, zero, &[&pending]);
        let right = matches!(&found, Table::Ours { claim, only_ours: false, .. } if claim.stage == Stage::Pending);
        assert!(right, "{found:?}");
    }

    #[test]
    fn a_disk_that_was_cut_is_told_and_nothing_of_it_may_be_written_over() {
        for sector in [512, 4096] {
            for (small, large) in sizes(sector) {
                let (now, then) = (geometry(small, sector), geometry(large, sector));
                let id = id();
                let zero = vec![0; Ends::tail_len(now) as usize];
                let head = committed(&id, then).head().to_vec();
                let (found, earlier) = inspected(now, head, zero, &[]);
                assert_eq!(earlier, None, "a larger disk cannot be read");
                let right = matches!(
                    &found,
                    Table::Ours {
                        whole: false,
                        only_ours: false,
                        resized: Some(Resized::Shrunk { from }),
                        ..
                    } if *from == large
                );
                assert!(right, "{small} {large}: {found:?}");
            }
        }
    }

    #[test]
    fn the_front_of_another_claim_or_of_another_program_is_not_ours() {
        let (old, new) = (geometry(12 * GIB, 512), geometry(24 * GIB, 512));
        let (id, other) = (id(), id());
        let (ours, theirs) = (committed(&id, old), committed(&other, old));
        for foreign in [1, 2] {
            let sources = [ours.head(), theirs.head()];
            let head = mixed(512, &sources, |at| usize::from(at == foreign));
            let tail = committed(&id, new).tail().to_vec();
            let (found, _) = inspected(new, head, tail, &[&ours]);
            let harmless = matches!(
                found,
                Table::Ours {
                    only_ours: false,
                    ..
                } | Table::Foreign
            );
            assert!(harmless, "{foreign}: {found:?}");
        }
    }

    proptest! {
        /// The new backup comes first: whatever of it is there, the old table in
        /// front is whole.
        #[test]
        fn a_torn_new_backup_behind_the_old_front_is_ours(
            there in proptest::collection::vec(any::<bool>(), 33),
            large in any::<bool>(),
        ) {
            let sector = if large { 4096 } else { 512 };
            let (old, new) = (geometry(12 * GIB, sector), geometry(20 * GIB, sector));
            let id = id();
            let (before, after) = (committed(&id, old), committed(&id, new));
            let zero = vec![0; after.tail().len()];
            let sources = [zero.as_slice(), after.tail()];
            let tail = mixed(sector, &sources, |at| usize::from(there[at % there.len()]));
            let complete = tail == after.tail();
            let (found, earlier) = inspected(new, before.head().to_vec(), tail, &[&before]);
            prop_assert_eq!(earlier, Some(old));
            let right = matches!(&found, Table::Ours {
                claim,
                whole: false,
                only_ours: true,
                resized: Some(Resized::Grown { partition_end, moved }),
            } if claim.id == id && *partition_end == end(old) && *moved == complete);
            prop_assert!(right, "{:?}", found);
        }

        /// One foreign byte at either end: nothing is ours to write.
        #[test]
        fn one_foreign_byte_forbids_growing(at in 0..34_304_usize, bit in 0..8_u32) {
            let (old, new) = (geometry(12 * GIB, 512), geometry(24 * GIB, 512));
            let id = id();
            let (before, after) = (committed(&id, old), committed(&id, new));
            // What a sector says of a size can be another size by one bit; then
            // it is ours for that one, and the space behind it is looked at.
            prop_assume!(!(458..462).contains(&at) && !(1064..1072).contains(&at));
            let (mut head, mut tail) = (before.head().to_vec(), after.tail().to_vec());
            match at.checked_sub(head.len()) {
                None => head[at] ^= 1 << bit,
                Some(at) => tail[at] ^= 1 << bit,
            }
            let ends = Ends::new(new, head, tail).expect("ends");
            let left = Ends::new(old, ends.head().to_vec(), before.tail().to_vec());
            let found = inspect_with(&ends, left.as_ref(), &[]);
            let writable = matches!(found, Table::Ours { only_ours: true, .. });
            prop_assert!(!writable, "{:?}", found);
        }

        #[test]
        fn any_front_is_read_without_panic(
            mut head in proptest::collection::vec(any::<u8>(), 17_408),
            places in proptest::array::uniform3(any::<u64>()),
        ) {
            let now = geometry(12 * GIB, 512);
            head[454..458].copy_from_slice(&1_u32.to_le_bytes());
            head[512..520].copy_from_slice(b"EFI PART");
            head[512 + 32..512 + 40].copy_from_slice(&places[0].to_le_bytes());
            head[1024 + 40..1024 + 48].copy_from_slice(&places[1].to_le_bytes());
            let ends = Ends::new(now, head, committed(&id(), now).tail().to_vec()).expect("ends");
            let earlier = earlier_geometry(&ends);
            prop_assert!(earlier.is_none_or(|earlier| earlier.size < now.size));
            let found = inspect_with(&ends, None, &[]);
            let harmless = matches!(found, Table::Ours { only_ours: false, .. });
            prop_assert!(harmless, "{:?}", found);
        }
    }
}
