//! What the two ends of a disk say about a claim.
//!
//! Random bytes never get past the checksums of a partition table, so an input
//! is a recipe: which disk, what is in front and behind, which edits are made
//! to it, and whether the checksums are made right afterwards.

use disk_discovery::claim::{
    Begun, Claim, ClaimId, Ends, Geometry, Resized, Stage, Table, TableImage, earlier_geometry,
    inspect, inspect_with, partition_range,
};
use uuid::{Uuid, uuid};

use crate::{
    gpt::{self, Copy},
    recipe::Recipe,
};

const COPIES: [Copy; 2] = [Copy::Primary, Copy::Backup];
const STAGES: [Stage; 2] = [Stage::Pending, Stage::Committed];

fn id(disk: Uuid, partition: Uuid, name: &str) -> ClaimId {
    ClaimId {
        disk_guid: disk,
        partition_guid: partition,
        name: name.parse().expect("a name"),
    }
}

/// What a person approved to be written over: something in a few sectors.
fn approved(geometry: Geometry) -> gpt::Table {
    let mut table = gpt::Table::zero(geometry);
    let sector = table.sector;
    for end in [&mut table.head, &mut table.tail] {
        for at in [0, 3] {
            end[at * sector..][..sector].fill(0x5a);
        }
    }
    table
}

/// Two claims, of the name that two nodes would give their second disk.
fn ids() -> [ClaimId; 2] {
    [
        id(
            uuid!("11111111-2222-3333-4444-555555555555"),
            uuid!("66666666-7777-8888-9999-aaaaaaaaaaaa"),
            "sdb1",
        ),
        id(
            uuid!("bbbbbbbb-2222-3333-4444-555555555555"),
            uuid!("cccccccc-7777-8888-9999-aaaaaaaaaaaa"),
            "sdb1",
        ),
    ]
}

impl Recipe<'_> {
    fn geometry(&mut self) -> Geometry {
        let choice = self.byte();
        let sector = if choice & 1 == 0 { 512 } else { 4096 };
        let size = match choice >> 1 & 3 {
            0 => 12 << 30,
            // As small as a disk may be, and as large as one will ever be.
            1 => 4 << 20,
            2 => (16 << 40) + 4096,
            _ => (1 << 63) - 4096,
        };
        Geometry { size, sector }
    }

    /// Claims that the journal says were begun here, perhaps over what a person
    /// approved.
    fn journal(&mut self, ids: &[ClaimId; 2], approved: &gpt::Table) -> Vec<Begun> {
        let [a, b] = ids.clone().map(Begun::on_blank);
        let choice = self.byte();
        let mut begun = match choice & 3 {
            0 => vec![],
            1 => vec![a],
            2 => vec![b],
            _ => vec![b, a],
        };
        if choice & 4 != 0
            && let Some(first) = begun.first_mut()
        {
            first.gaps = Some(String::new());
            first.before = approved.sectors_by_offset();
        }
        begun
    }

    /// Something whole to begin with.
    fn base(&mut self, geometry: Geometry, ids: &[ClaimId; 2]) -> gpt::Table {
        let [a, b] = ids;
        // The same disk before it grew.
        let before = Geometry {
            size: geometry.size / 2 / 4096 * 4096,
            ..geometry
        };
        match self.byte() & 7 {
            1 => gpt::Table::of(geometry, a, Stage::Pending),
            2 => gpt::Table::of(geometry, a, Stage::Committed),
            3 => gpt::Table::of(geometry, b, Stage::Pending),
            4 => gpt::Table::of(geometry, b, Stage::Committed),
            5 if before.size >= 4 << 20 => gpt::Table::of(before, a, Stage::Committed),
            6 => approved(geometry),
            _ => gpt::Table::zero(geometry),
        }
    }

    fn edit(&mut self, table: &mut gpt::Table, geometry: Geometry, ids: &[ClaimId; 2]) {
        let kind = self.byte();
        let copy = COPIES[usize::from(kind >> 7)];
        let sector = table.sector;
        match kind & 7 {
            // Bytes anywhere.
            0 => {
                let at = self.number();
                self.write(table.end_mut(copy), at);
            }
            // Bytes in the header.
            1 => {
                let header = if copy == Copy::Primary {
                    sector
                } else {
                    gpt::ARRAY
                };
                let at = header + usize::from(self.byte()) % 96;
                self.write(table.end_mut(copy), at);
            }
            // Bytes in the first two entries.
            2 => {
                let array = if copy == Copy::Primary { 2 * sector } else { 0 };
                let at = array + usize::from(self.byte());
                self.write(table.end_mut(copy), at);
            }
            // Sectors of another table, or zeroes.
            3 => {
                let other = self.base(geometry, ids);
                let sectors = table.end(copy).len() / sector;
                let from = self.number() % sectors;
                let to = (from + 1 + usize::from(self.byte())).min(sectors);
                let range = from * sector..to * sector;
                table.end_mut(copy)[range.clone()].copy_from_slice(&other.end(copy)[range]);
            }
            // Makes the checksums right, now: later edits make them wrong.
            _ => table.seal(copy),
        }
    }

    fn write(&mut self, to: &mut [u8], at: usize) {
        let at = at % to.len();
        let len = usize::from(self.byte()) % 32 + 1;
        for place in to.iter_mut().skip(at).take(len) {
            *place = self.byte();
        }
    }
}

pub fn check(input: &[u8]) {
    let mut recipe = Recipe(input);
    let ids = ids();
    let geometry = recipe.geometry();
    let journalled = recipe.journal(&ids, &approved(geometry));
    let own = |id: &ClaimId| {
        let begun = journalled.iter().find(|begun| begun.id == *id);
        Own::of(
            geometry,
            id,
            begun.is_some_and(|begun| begun.gaps.is_some()),
        )
    };
    let mut table = gpt::Table::zero(geometry);
    table.tail = recipe.base(geometry, &ids).tail;
    table.head = recipe.base(geometry, &ids).head;
    while !recipe.0.is_empty() {
        recipe.edit(&mut table, geometry, &ids);
    }
    let ends = Ends::new(geometry, table.head.clone(), table.tail.clone());
    let ends = ends.expect("ends of the right length");

    let found = inspect(&ends, &journalled);
    // What the disk says for itself.
    let alone = if journalled.is_empty() {
        found.clone()
    } else {
        inspect(&ends, &[])
    };
    match &found {
        Table::Ours {
            claim,
            whole,
            only_ours,
            resized,
        } => {
            let own = own(&claim.id);
            let committed = claim.stage == Stage::Committed;
            assert_eq!(*only_ours, own.has_nothing_else(&table, committed));
            assert_eq!(*whole, table == *own.at(claim.stage));
            assert_eq!(*resized, own.resized(&table));
            if claim.stage == Stage::Pending {
                assert!(!own.is_committed_anywhere(&table), "would be formatted");
                let says = COPIES.map(|copy| table.says(copy));
                let committed = |said: &Claim| said.stage == Stage::Committed;
                assert!(!says.iter().flatten().any(committed), "would be formatted");
            }
            let says = |copy| said(&table, copy).is_some_and(|said| said == claim.id);
            if COPIES.into_iter().any(says) {
                // The journal helps where the disk cannot speak for itself, and
                // says what else may be written over.
                let same = matches!(&alone, Table::Ours { claim: said, whole: same, only_ours: less, .. }
                    if said == claim && same == whole && less <= only_ours);
                assert!(same, "{alone:?} is {found:?} by the journal");
            } else {
                let begun = journalled.iter().any(|begun| begun.id == claim.id);
                assert!(begun, "found from nothing");
                // Alone, and by more than a boot record that anybody writes.
                assert!(own.is_torn(&table), "recognised by too little");
            }
            if !whole {
                completed(&ends, claim.stage, &claim.id);
            }
        }
        Table::Absent => {
            assert!(!COPIES.into_iter().any(|copy| table.has_header(copy)));
            for begun in &journalled {
                assert!(!own(&begun.id).is_torn(&table), "not recognised");
            }
        }
        Table::Foreign => {
            assert!(COPIES.into_iter().any(|copy| table.has_header(copy)));
            let both = COPIES.map(|copy| said(&table, copy));
            let one = both[0] == both[1] || both.contains(&None);
            assert!(!one || both == [None, None], "a valid claim is not seen");
            for begun in &journalled {
                assert!(!own(&begun.id).is_torn(&table), "not recognised");
            }
        }
    }
    // Where a smaller disk would have had its backup, there is none: that says
    // nothing else.
    if let Some(earlier) = earlier_geometry(&ends) {
        assert!(earlier.size < geometry.size);
        let tail = vec![0; Ends::tail_len(earlier) as usize];
        let earlier = Ends::new(earlier, table.head.clone(), tail).expect("its ends");
        assert_eq!(inspect_with(&ends, Some(&earlier), &journalled), found);
    }
    // With less knowledge, less is ours and never something else.
    if let Table::Ours { .. } = alone {
        assert!(matches!(found, Table::Ours { .. }), "{alone:?} alone");
    }
}

/// The claim that a valid copy is of.
fn said(table: &gpt::Table, copy: Copy) -> Option<ClaimId> {
    table.says(copy).map(|claim| claim.id)
}

/// What is found once the table of a claim is complete.
fn completed(ends: &Ends, stage: Stage, id: &ClaimId) {
    let image = TableImage::build(ends.geometry(), id, stage).expect("it was found there");
    let again = inspect(image.ends(), &[]);
    let right = matches!(&again, Table::Ours { claim, whole: true, only_ours: true, resized: None }
        if claim.id == *id && claim.stage == stage);
    assert!(right, "{again:?}");
}

/// The tables of one claim, and what it may write over besides.
struct Own([gpt::Table; 2], gpt::Table, Geometry, ClaimId);

impl Own {
    fn of(geometry: Geometry, id: &ClaimId, over: bool) -> Self {
        let before = if over {
            approved(geometry)
        } else {
            gpt::Table::zero(geometry)
        };
        Self(
            STAGES.map(|stage| gpt::Table::of(geometry, id, stage)),
            before,
            geometry,
            id.clone(),
        )
    }

    fn at(&self, stage: Stage) -> &gpt::Table {
        match stage {
            Stage::Pending => &self.0[0],
            Stage::Committed => &self.0[1],
        }
    }

    /// Each sector that is there, with those of both tables at its place.
    fn beside<'a>(&'a self, table: &'a gpt::Table) -> impl Iterator<Item = [&'a [u8]; 3]> {
        let [pending, committed] = &self.0;
        let own = pending.sectors().zip(committed.sectors());
        let all = table.sectors().zip(own);
        all.map(|(there, (pending, committed))| [there, pending, committed])
    }

    /// Only what is committed may have sectors of a smaller disk.
    fn has_nothing_else(&self, table: &gpt::Table, claimed_committed: bool) -> bool {
        let grows = claimed_committed || self.is_committed_anywhere(table);
        let older = self.older(table);
        let smaller = |number: usize| {
            let mut there = older.iter().filter(|(at, ..)| *at == number);
            there.any(|(_, geometry, _)| geometry.size < self.2.size)
        };
        let mut all = self.beside(table).zip(self.1.sectors()).enumerate();
        all.all(|(number, ([there, pending, committed], before))| {
            [pending, committed, before].contains(&there)
                || is_zero(there)
                || (grows && smaller(number))
        })
    }

    fn is_committed_anywhere(&self, table: &gpt::Table) -> bool {
        self.beside(table)
            .any(|[there, pending, committed]| there == committed && there != pending)
            || self.older(table).iter().any(|(.., committed)| *committed)
    }

    /// Sectors in front that are from the claim's tables for the size that they
    /// speak of, another than the present one; and whether only a committed
    /// table has them.
    fn older(&self, table: &gpt::Table) -> Vec<(usize, Geometry, bool)> {
        let sector = table.sector;
        let head = &table.head;
        let number = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight"));
        let record = u32::from_le_bytes(head[458..462].try_into().expect("four"));
        let size = sector as u64;
        let header = head[sector..].starts_with(b"EFI PART");
        let end = number(2 * sector + 40).checked_add(1);
        let end = end.and_then(|end| end.checked_mul(size));
        let sizes = [
            (record != u32::MAX).then(|| (u64::from(record) + 1) * size),
            number(sector + 32)
                .checked_add(1)
                .filter(|_| header)
                .and_then(|sectors| sectors.checked_mul(size)),
            end.and_then(|end| end.checked_add((gpt::ARRAY + sector) as u64)),
        ];
        let mut found = Vec::new();
        for (at, size) in sizes.into_iter().enumerate() {
            let place = at * sector..(at + 1) * sector;
            let there = &head[place.clone()];
            let now = self.0.iter().any(|own| own.head[place.clone()] == *there);
            let Some(size) = size.filter(|size| !now && *size <= i64::MAX as u64) else {
                continue;
            };
            let geometry = Geometry { size, ..self.2 };
            if partition_range(geometry).is_none() {
                continue;
            }
            let own = STAGES.map(|stage| gpt::Table::of(geometry, &self.3, stage));
            let [pending, committed] = own.map(|own| own.head[place.clone()] == *there);
            if pending || committed {
                found.push((at, geometry, committed && !pending));
            }
        }
        found
    }

    fn resized(&self, table: &gpt::Table) -> Option<Resized> {
        let older = self.older(table);
        if let Some((_, larger, _)) = older
            .iter()
            .find(|(at, geometry, _)| *at == 1 && geometry.size > self.2.size)
        {
            return Some(Resized::Shrunk { from: larger.size });
        }
        let smaller = older
            .iter()
            .filter(|(at, geometry, _)| *at > 0 && geometry.size < self.2.size);
        let ends = smaller.filter_map(|(_, geometry, _)| Some(partition_range(*geometry)?.end));
        ends.min().map(|partition_end| Resized::Grown {
            partition_end,
            moved: table.tail == self.at(Stage::Committed).tail,
        })
    }

    /// Something of this claim is there besides the boot record, which every
    /// maker of a table writes, and nothing that is not of it.
    fn is_torn(&self, table: &gpt::Table) -> bool {
        let mut beyond_boot_record = self.beside(table).skip(1);
        self.has_nothing_else(table, false)
            && beyond_boot_record.any(|[there, pending, committed]| {
                [pending, committed].contains(&there) && !is_zero(there)
            })
    }
}

fn is_zero(sector: &[u8]) -> bool {
    sector.iter().all(|byte| *byte == 0)
}
