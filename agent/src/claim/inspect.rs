//! Reads a claim back from the two ends of a disk, torn or whole.

use std::{
    collections::BTreeMap,
    io::{Seek, SeekFrom},
};

use gptman::{GPTHeader, GPTPartitionEntry};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Begun, Claim, ClaimId, Ends, Resized, Stage, TableImage,
    ends::ENTRY_ARRAY,
    parse_partition_name,
    resized::{Older, resized},
    table::LINUX_FILESYSTEM,
};

/// What the two ends of a disk say about a claim of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Table {
    /// No header of a GPT in either place and nothing of a claim that is known
    /// to the journal. Not a statement about anything else on the disk.
    Absent,
    /// Our claim.
    Ours {
        /// The claim.
        claim: Claim,
        /// Both copies are exactly what the claim's stage demands.
        whole: bool,
        /// Each sector of both ends is zero, from this claim's own tables, or
        /// what a person approved to be written over: completing the table
        /// cannot destroy anything else at these places. For a committed claim
        /// its tables for a smaller disk count as well.
        only_ours: bool,
        /// The disk is larger or smaller than the one that the table, or a part
        /// of it, was made for. Then completing the table also moves the end of
        /// the partition.
        resized: Option<Resized>,
    },
    /// A GPT that is not ours, or a damaged one of unknown origin.
    Foreign,
}

/// Reads the claim. `begun` are the claims that the journal says were begun on
/// this disk: they let a table be recognised that was torn before either copy
/// was valid.
pub fn inspect(ends: &Ends, begun: &[Begun]) -> Table {
    inspect_with(ends, None, begun)
}

/// The same with the ends of a smaller disk that this one once was, as far as
/// its table says: there the backup lies that an interrupted write of a newer
/// table has not reached.
pub fn inspect_with(ends: &Ends, earlier: Option<&Ends>, begun: &[Begun]) -> Table {
    let last = |ends: &Ends| ends.geometry().sectors().saturating_sub(1);
    let primary = read_copy(ends, 1);
    let backup = read_copy(ends, last(ends));
    let left = earlier.map_or(Copy::NoHeader, |earlier| read_copy(earlier, last(earlier)));
    let present = [&primary, &backup]
        .into_iter()
        .any(|copy| matches!(copy, Copy::Ours(_)));
    // What was left behind speaks where the present copies do not, or more of
    // the same claim; another's is nothing to this disk.
    let copies = match &left {
        Copy::Ours(claim)
            if !present || [&primary, &backup].iter().any(|copy| copy.is_of(claim)) =>
        {
            vec![&primary, &backup, &left]
        }
        Copy::Ours(_) | Copy::NoHeader | Copy::Foreign => vec![&primary, &backup],
    };

    // A committed copy wins over a pending one: the commit writes one copy
    // after the other, and what is committed once is never formatted again.
    let found = [Stage::Committed, Stage::Pending]
        .into_iter()
        .find_map(|stage| {
            copies.iter().find_map(|copy| match copy {
                Copy::Ours(claim) if claim.stage == stage => Some(claim.clone()),
                Copy::Ours(_) | Copy::NoHeader | Copy::Foreign => None,
            })
        });
    if let Some(claim) = found {
        let all_ours = copies.into_iter().all(|copy| match copy {
            Copy::Ours(other) => other.id == claim.id,
            // Torn, or moved because the disk grew: `only_ours` tells.
            Copy::NoHeader | Copy::Foreign => true,
        });
        return if all_ours {
            let begun = begun.iter().find(|begun| begun.id == claim.id);
            compare(ends, claim, begun.map(|begun| &begun.before))
        } else {
            Table::Foreign
        };
    }

    let torn = begun.iter().find_map(|begun| {
        let id = &begun.id;
        let claim = Claim {
            id: id.clone(),
            stage: Stage::Pending,
        };
        let table = compare(ends, claim, Some(&begun.before));
        let ours = matches!(
            table,
            Table::Ours {
                only_ours: true,
                ..
            }
        );
        (ours && carries(ends, id)).then_some(table)
    });
    match (torn, primary, backup) {
        (Some(torn), _, _) => torn,
        (None, Copy::NoHeader, Copy::NoHeader) => Table::Absent,
        (None, _, _) => Table::Foreign,
    }
}

/// Whether a sector is there that only this claim writes. The protective MBR
/// is the same for every disk of a size, whoever made it.
fn carries(ends: &Ends, id: &ClaimId) -> bool {
    [Stage::Pending, Stage::Committed].into_iter().any(|stage| {
        TableImage::build(ends.geometry(), id, stage).is_ok_and(|image| {
            let mut sectors = ends.sectors().zip(image.ends().sectors()).skip(1);
            sectors.any(|(there, ours)| there == ours && !is_zero(there))
        })
    })
}

fn is_zero(sector: &[u8]) -> bool {
    sector.iter().all(|byte| *byte == 0)
}

/// Compares what is there with the tables that the claim would write. One
/// sector that only the committed table has makes the claim committed: the
/// commit begins when the filesystem is complete, and what is committed is
/// never formatted again. `before` are sectors that were on the disk when it
/// was approved.
fn compare(ends: &Ends, mut claim: Claim, before: Option<&BTreeMap<u64, Vec<u8>>>) -> Table {
    let image = |stage| TableImage::build(ends.geometry(), &claim.id, stage);
    let (Ok(pending), Ok(committed)) = (image(Stage::Pending), image(Stage::Committed)) else {
        return Table::Foreign;
    };
    let both = || pending.ends().sectors().zip(committed.ends().sectors());
    let geometry = ends.geometry();
    let older: Vec<Older> = ends
        .sectors()
        .zip(both())
        .enumerate()
        .filter(|(_, (there, (pending, committed)))| there != pending && there != committed)
        .filter_map(|(number, (there, _))| Older::of(number, there, geometry.sector, &claim.id))
        .collect();
    let committed_now = ends
        .sectors()
        .zip(both())
        .any(|(there, (pending, committed))| pending != committed && there == committed);
    if committed_now || older.iter().any(|older| older.committed) {
        claim.stage = Stage::Committed;
    }
    let wanted = match claim.stage {
        Stage::Pending => &pending,
        Stage::Committed => &committed,
    };
    let whole = ends.sectors().eq(wanted.ends().sectors());
    let was_there = |at: u64, there: &[u8]| {
        let then = before.and_then(|before| before.get(&at));
        then.is_some_and(|then| then.as_slice() == there)
    };
    // Only what is committed is ever grown.
    let replaceable = |number: usize| {
        let mut there = older.iter().filter(|older| older.number == number);
        claim.stage == Stage::Committed && there.any(|older| older.may_be_replaced(geometry))
    };
    let only_ours = ends.sectors_at().zip(both()).enumerate().all(
        |(number, ((at, there), (pending, committed)))| {
            there == pending
                || there == committed
                || is_zero(there)
                || was_there(at, there)
                || replaceable(number)
        },
    );
    let moved = ends.tail() == committed.ends().tail();
    let resized = resized(&older, geometry, moved);
    Table::Ours {
        claim,
        whole,
        only_ours,
        resized,
    }
}

/// One copy of the table.
enum Copy {
    /// No `EFI PART` where the header belongs.
    NoHeader,
    /// A valid copy with one partition that carries our name.
    Ours(Claim),
    /// Anything else behind an `EFI PART`.
    Foreign,
}

impl Copy {
    fn is_of(&self, claim: &Claim) -> bool {
        match self {
            Self::Ours(own) => own.id == claim.id,
            Self::NoHeader | Self::Foreign => false,
        }
    }
}

fn read_copy(ends: &Ends, header_at: u64) -> Copy {
    let mut ends = ends.clone();
    let sector = u64::from(ends.geometry().sector);
    let Ok(position) = ends.seek(SeekFrom::Start(header_at.saturating_mul(sector))) else {
        return Copy::Foreign;
    };
    let signed = ends
        .sectors()
        .nth(if position == sector {
            1
        } else {
            ends.sectors().count().saturating_sub(1)
        })
        .is_some_and(|header| header.starts_with(b"EFI PART"));
    if !signed {
        return Copy::NoHeader;
    }
    let Ok(header) = GPTHeader::read_from(&mut ends) else {
        return Copy::Foreign;
    };
    // Checked before the entries are read: counts and places come from the disk.
    let entries_at = match header_at {
        1 => 2,
        last => last.saturating_sub(ENTRY_ARRAY / sector),
    };
    let like_ours = header.number_of_partition_entries == 128
        && header.size_of_partition_entry == 128
        && header.primary_lba == header_at
        && header.partition_entry_lba == entries_at;
    if !like_ours {
        return Copy::Foreign;
    }
    let Ok(entries) = header.read_partitions(&mut ends, sector) else {
        return Copy::Foreign;
    };
    match claim_in(&header, &entries) {
        Some(claim) => Copy::Ours(claim),
        None => Copy::Foreign,
    }
}

fn claim_in(header: &GPTHeader, entries: &[GPTPartitionEntry]) -> Option<Claim> {
    let (first, others) = entries.split_first()?;
    let alone = first.is_used() && others.iter().all(GPTPartitionEntry::is_unused);
    let linux = Uuid::from_bytes_le(first.partition_type_guid) == LINUX_FILESYSTEM;
    let (name, stage) = parse_partition_name(first.partition_name.as_str())?;
    (alone && linux).then_some(Claim {
        id: ClaimId {
            disk_guid: Uuid::from_bytes_le(header.disk_guid),
            partition_guid: Uuid::from_bytes_le(first.unique_partition_guid),
            name,
        },
        stage,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::claim::Geometry;

    fn id(name: &str) -> ClaimId {
        ClaimId::fresh(name.parse().expect("a name"))
    }

    fn begun(id: &ClaimId) -> Begun {
        Begun::on_blank(id.clone())
    }

    fn image(id: &ClaimId, stage: Stage, sector: u32) -> Ends {
        let geometry = Geometry {
            size: 12 << 30,
            sector,
        };
        TableImage::build(geometry, id, stage)
            .expect("a table")
            .ends()
            .clone()
    }

    /// Both ends with each sector taken from the table chosen for it.
    fn mixed(sources: &[&Ends], choice: impl Fn(usize) -> usize) -> Ends {
        let geometry = sources[0].geometry();
        let sector = geometry.sector as usize;
        let bytes: Vec<u8> = (0..sources[0].sectors().count())
            .flat_map(|at| {
                sources[choice(at)]
                    .sectors()
                    .nth(at)
                    .expect("same size")
                    .to_vec()
            })
            .collect();
        let head = usize::try_from(Ends::head_len(geometry)).expect("small");
        assert_eq!(bytes.len() % sector, 0);
        Ends::new(geometry, bytes[..head].to_vec(), bytes[head..].to_vec()).expect("both ends")
    }

    #[test]
    fn a_whole_table_is_read_back_at_both_stages_and_sector_sizes() {
        for sector in [512, 4096] {
            for stage in [Stage::Pending, Stage::Committed] {
                let id = id("sdb1");
                let found = inspect(&image(&id, stage, sector), &[]);
                let claim = Claim { id, stage };
                assert_eq!(
                    found,
                    Table::Ours {
                        claim,
                        whole: true,
                        only_ours: true,
                        resized: None,
                    }
                );
            }
        }
    }

    #[test]
    fn a_blank_disk_has_no_table_even_if_the_journal_expects_one() {
        let ends = Ends::zeroed(Geometry {
            size: 12 << 30,
            sector: 512,
        })
        .expect("ends");
        assert_eq!(inspect(&ends, &[begun(&id("sdb1"))]), Table::Absent);
    }

    #[test]
    fn a_committed_copy_beside_a_pending_one_counts_as_committed() {
        let id = id("sdb1");
        let pending = image(&id, Stage::Pending, 512);
        let committed = image(&id, Stage::Committed, 512);
        let head = pending.head().len() / 512;
        for backup_first in [true, false] {
            let ends = mixed(&[&pending, &committed], |at| {
                usize::from((at >= head) == backup_first)
            });
            let Table::Ours {
                claim,
                whole,
                only_ours,
                ..
            } = inspect(&ends, &[])
            else {
                panic!("not recognised");
            };
            assert_eq!(
                (claim.stage, whole, only_ours),
                (Stage::Committed, false, true)
            );
        }
    }

    #[test]
    fn a_protective_mbr_alone_is_not_recognised_as_any_claim() {
        let id = id("sdb1");
        let ours = image(&id, Stage::Pending, 512);
        let zero = Ends::zeroed(ours.geometry()).expect("ends");
        let ends = mixed(&[&zero, &ours], |at| usize::from(at == 0));
        assert_ne!(ends, zero);
        assert_eq!(inspect(&ends, &[begun(&id)]), Table::Absent);
    }

    #[test]
    fn one_sector_of_the_commit_makes_a_torn_claim_committed() {
        let id = id("sdb1");
        let committed = image(&id, Stage::Committed, 512);
        let zero = Ends::zeroed(committed.geometry()).expect("ends");
        // Both headers are lost, the entries are still there.
        let last = committed.sectors().count() - 1;
        let ends = mixed(&[&zero, &committed], |at| {
            usize::from(at != 1 && at != last)
        });
        let Table::Ours { claim, .. } = inspect(&ends, &[begun(&id)]) else {
            panic!("not recognised");
        };
        assert_eq!(claim.stage, Stage::Committed);
    }

    /// As `wipefs` or a shorter overwrite leaves the entries of an old table.
    #[test]
    fn over_an_approved_residue_a_torn_table_is_recognised_and_anything_else_is_not() {
        let id = id("sdb1");
        let ours = image(&id, Stage::Pending, 512);
        let residue = vec![0x5a; 512];
        let mut head = ours.head().to_vec();
        head[4 * 512..5 * 512].copy_from_slice(&residue);
        let ends = Ends::new(ours.geometry(), head, ours.tail().to_vec()).expect("ends");
        let only_ours = |before: &[(u64, &[u8])]| {
            let begun = Begun {
                before: before
                    .iter()
                    .map(|(at, bytes)| (*at, bytes.to_vec()))
                    .collect(),
                gaps: Some(String::new()),
                ..begun(&id)
            };
            match inspect(&ends, &[begun]) {
                Table::Ours { only_ours, .. } => only_ours,
                Table::Absent | Table::Foreign => false,
            }
        };
        assert!(only_ours(&[(4 * 512, &residue)]));
        assert!(!only_ours(&[]));
        assert!(!only_ours(&[(5 * 512, &residue)]), "at another place");
        assert!(!only_ours(&[(4 * 512, &[0x5b; 512])]), "other bytes");
    }

    #[test]
    fn copies_of_two_different_claims_are_nobodys() {
        let (a, b) = (
            image(&id("sdb1"), Stage::Committed, 512),
            image(&id("sdb1"), Stage::Committed, 512),
        );
        let head = a.head().len() / 512;
        assert_eq!(
            inspect(&mixed(&[&a, &b], |at| usize::from(at >= head)), &[]),
            Table::Foreign
        );
    }

    #[test]
    fn a_copy_that_has_its_entries_anywhere_else_is_not_ours() {
        let ours = image(&id("sdb1"), Stage::Committed, 512);
        for entries_at in [0, 3, 1 << 40, u64::MAX] {
            let mut reader = ours.clone();
            reader.seek(SeekFrom::Start(512)).expect("the header");
            let mut header = GPTHeader::read_from(&mut reader).expect("a header");
            header.partition_entry_lba = entries_at;
            let checksum = header.generate_crc32_checksum();
            let mut head = ours.head().to_vec();
            head[512 + 72..512 + 80].copy_from_slice(&entries_at.to_le_bytes());
            head[512 + 16..512 + 20].copy_from_slice(&checksum.to_le_bytes());
            let tail = vec![0; ours.tail().len()];
            let ends = Ends::new(ours.geometry(), head, tail).expect("ends");
            assert_eq!(inspect(&ends, &[]), Table::Foreign, "{entries_at}");
        }
    }

    /// A table is moved to the end of a disk that grew as any table is written:
    /// backup copy first, the primary one last, each durable before the next.
    #[test]
    fn a_table_that_is_torn_while_it_moves_to_the_new_end_stays_committed() {
        let id = id("sdb1");
        let old = image(&id, Stage::Committed, 512);
        let size = 16 << 30;
        let grown = Geometry { size, sector: 512 };
        let new = TableImage::build(grown, &id, Stage::Committed).expect("a table");
        let tails = [vec![0; new.ends().tail().len()], new.ends().tail().to_vec()];
        let heads = [old.head(), new.ends().head()];
        let found = |head: Vec<u8>, tail: Vec<u8>| {
            let ends = Ends::new(grown, head, tail).expect("ends");
            match inspect(&ends, &[]) {
                Table::Ours { claim, .. } => Some(claim),
                Table::Absent | Table::Foreign => None,
            }
        };
        let mix = |of: [&[u8]; 2], second: [bool; 3], places: [usize; 3]| {
            let mut bytes = of[0].to_vec();
            for (second, at) in second.into_iter().zip(places) {
                let sector = at * 512..(at + 1) * 512;
                bytes[sector.clone()].copy_from_slice(&of[usize::from(second)][sector]);
            }
            bytes
        };
        let claim = Some(Claim {
            id,
            stage: Stage::Committed,
        });
        for parts in 0..8_u8 {
            let second = [1, 2, 4].map(|bit| parts & bit != 0);
            // Entry and header of the backup copy; the boot record, header and
            // entry of the primary one.
            let tail = mix([&tails[0], &tails[1]], second, [0, 1, 32]);
            assert_eq!(found(heads[0].to_vec(), tail), claim, "backup {second:?}");
            let head = mix(heads, second, [0, 1, 2]);
            assert_eq!(found(head, tails[1].clone()), claim, "primary {second:?}");
        }
    }

    proptest! {
        /// Any sector of any of our writes may be missing: the claim is still
        /// recognised with the journal, never as committed before a whole
        /// committed copy is there, and always safe to complete.
        #[test]
        fn a_torn_table_is_recognised_with_the_journal(written in proptest::collection::vec(0..3_usize, 67)) {
            let id = id("sdb1");
            let pending = image(&id, Stage::Pending, 512);
            let committed = image(&id, Stage::Committed, 512);
            let zero = Ends::zeroed(pending.geometry()).expect("ends");
            let ends = mixed(&[&zero, &pending, &committed], |at| written[at % written.len()]);
            match inspect(&ends, &[begun(&id)]) {
                Table::Ours { claim, only_ours, .. } => {
                    prop_assert_eq!(&claim.id, &id);
                    prop_assert!(only_ours);
                }
                // Nothing but the protective MBR, or not even that.
                Table::Absent => prop_assert!(ends.sectors().skip(1).all(is_zero)),
                Table::Foreign => prop_assert!(false, "not recognised"),
            }
        }

        /// One foreign byte in either end is enough: nothing is ours to write.
        #[test]
        fn one_foreign_byte_forbids_completing_a_table(at in 0..34_304_usize, bit in 0..8_u32) {
            let id = id("sdb1");
            let ours = image(&id, Stage::Pending, 512);
            let (mut head, mut tail) = (ours.head().to_vec(), ours.tail().to_vec());
            let (part, at) = if at < head.len() { (&mut head, at) } else { (&mut tail, at - ours.head().len()) };
            let at = at.min(part.len() - 1);
            part[at] ^= 1 << bit;
            let ends = Ends::new(ours.geometry(), head, tail).expect("ends");
            let found = inspect(&ends, &[begun(&id)]);
            let writable = matches!(found, Table::Ours { only_ours: true, .. });
            prop_assert!(!writable, "{:?}", found);
        }

        #[test]
        fn any_bytes_are_read_without_panic_and_never_as_ours(
            head in proptest::collection::vec(any::<u8>(), 17_408),
            tail in proptest::collection::vec(any::<u8>(), 16_896),
        ) {
            let geometry = Geometry { size: 12 << 30, sector: 512 };
            let ends = Ends::new(geometry, head, tail).expect("ends");
            let ours = matches!(inspect(&ends, &[begun(&id("sdb1"))]), Table::Ours { .. });
            prop_assert!(!ours);
        }
    }
}
