//! Claims for sectors of another size than the disk has here.

use std::fs::File;

use serde::{Deserialize, Serialize};

use super::medium::read_with_earlier;
use crate::claim::{Claim, Geometry, Table, inspect_with};

/// A claim that the kernel and everybody else overlooks: some adapters show
/// sectors of another size, and the table is found by sectors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resectored {
    /// What it says.
    pub claim: Claim,
    /// The size of sectors that it was made for, in bytes.
    pub sector: u32,
}

/// Looks for a claim where it would be with sectors of another size. What
/// cannot be read of it stays unseen: nothing but advice depends on it.
pub(super) fn resectored(disk: &File, geometry: Geometry) -> Option<Resectored> {
    let other = |sector| Geometry { sector, ..geometry };
    let others = [512, 4096].into_iter().map(other);
    let mut others = others.filter(|other| other.sector != geometry.sector);
    others.find_map(|other| {
        let (ends, earlier) = read_with_earlier(disk, other).ok()??;
        match inspect_with(&ends, earlier.as_ref(), &[]) {
            Table::Ours { claim, .. } => Some(Resectored {
                claim,
                sector: other.sector,
            }),
            Table::Absent | Table::Foreign => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::FileExt, path::Path};

    use super::*;
    use crate::{
        claim::{ClaimId, Stage, TableImage},
        fact::Fact,
        observe::{
            medium::{Depth, Medium, Question, examine},
            sample::Seed,
        },
    };

    const SIZE: u64 = 64 << 20;

    fn geometry(sector: u32) -> Geometry {
        Geometry { size: SIZE, sector }
    }

    fn looked_at(disk: &File, sector: u32, depth: Depth) -> Medium {
        let identity = Fact::unreadable("serial", "nobody asks");
        let question = Question {
            begun: &[],
            partition: None,
            window: None,
            nodes: Path::new("/dev"),
            mounted: None,
            depth,
            seed: Seed(1),
            identity: &identity,
            approvals: &[],
        };
        examine(disk, Path::new("a disk"), geometry(sector), &question)
    }

    #[test]
    fn a_claim_is_found_through_an_adapter_that_shows_other_sectors() {
        for (made, shown) in [(512, 4096), (4096, 512)] {
            let id = ClaimId::fresh("sdb1".parse().expect("a name"));
            let table = TableImage::build(geometry(made), &id, Stage::Committed).expect("a table");
            // One copy of the table is enough.
            for copies in [0..1, 1..2, 0..2] {
                let disk = tempfile::tempfile().expect("a file");
                disk.set_len(SIZE).expect("its size");
                for write in &table.writes()[copies] {
                    disk.write_all_at(write.bytes, write.at).expect("written");
                }
                for depth in [Depth::Claim, Depth::Blankness] {
                    let there = looked_at(&disk, shown, depth).resectored.expect("found");
                    assert_eq!((there.claim.id, there.sector), (id.clone(), made));
                    let as_made = looked_at(&disk, made, depth);
                    assert!(matches!(as_made.table, Fact::Known(Table::Ours { .. })));
                    assert_eq!(as_made.resectored, None);
                }
            }
        }
    }

    #[test]
    fn there_is_none_on_a_blank_disk_and_on_one_with_something_else() {
        let disk = tempfile::tempfile().expect("a file");
        disk.set_len(SIZE).expect("its size");
        assert_eq!(looked_at(&disk, 512, Depth::Blankness).resectored, None);
        disk.write_all_at(b"something else", 0).expect("written");
        assert_eq!(looked_at(&disk, 512, Depth::Blankness).resectored, None);
    }
}
