//! What is left of a damaged owner. An input is a recipe again: which disk, and
//! what is written to it, mostly where the agent looks.

use std::{collections::BTreeMap, io, ops::Range};

use disk_discovery::{
    claim::Geometry,
    observe::traces::{Place, Trace, find, places},
};

use crate::recipe::Recipe;

const BLOCK: u64 = 4096;
/// The most that may be read of a disk to prove it blank.
const BUDGET: usize = 64 << 20;
/// The longest structure is a label of ZFS.
const LONGEST: u64 = 256 << 10;

/// Beginnings of structures: where in them, and which bytes.
const MAGICS: [(u64, &[u8]); 16] = [
    (0x38, b"\x53\xef"),
    (0, b"XFSB"),
    (0x40, b"_BHRfS_M"),
    (0, b"EFI PART"),
    (3, b"NTFS    "),
    (0, b"FILE0\0"),
    (0, b"SKUL\xba\xbe"),
    (0, b"LABELONE"),
    (0x18, b"LVM2 001"),
    (0, b"OCFSV2"),
    (0, b"bluestore block device"),
    (0, b"\xfc\x4e\x2b\xa9"),
    (0, b"\x0c\xb1\xba\0\0\0\0\0"),
    (510, b"\x55\xaa"),
    (0x400, b"\x10\x20\xf5\xf2"),
    (0x10, b"BTRFS"),
];

/// Where a copy has its magic number and its UUID.
fn marks(kind: &str) -> Option<(Range<u64>, Range<u64>)> {
    match kind {
        "ext2" | "ext3" | "ext4" | "jbd" => Some((0x38..0x3a, 0x68..0x78)),
        "xfs" => Some((0..4, 32..48)),
        "btrfs" => Some((0x40..0x48, 0x20..0x30)),
        _ => None,
    }
}

/// A disk that is zero but for some blocks.
#[derive(Default)]
struct Disk {
    size: u64,
    blocks: BTreeMap<u64, Vec<u8>>,
}

impl Disk {
    fn write(&mut self, at: u64, bytes: &[u8]) {
        for (at, byte) in (at..self.size).zip(bytes) {
            let block = self.blocks.entry(at / BLOCK);
            let block = block.or_insert_with(|| vec![0; BLOCK as usize]);
            block[(at % BLOCK) as usize] = *byte;
        }
    }

    /// Zero beyond the end as well: who reads there is stopped elsewhere.
    fn read(&self, range: Range<u64>) -> Vec<u8> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        let near = range.start / BLOCK..range.end.div_ceil(BLOCK);
        for (number, block) in self.blocks.range(near) {
            let start = number * BLOCK;
            let (from, to) = (range.start.max(start), range.end.min(start + BLOCK));
            let there = &block[(from - start) as usize..(to - start) as usize];
            let place = (from - range.start) as usize..(to - range.start) as usize;
            bytes[place].copy_from_slice(there);
        }
        bytes
    }

    fn is_zero(&self, range: Range<u64>) -> bool {
        self.read(range).iter().all(|byte| *byte == 0)
    }

    /// Each byte of the disk where these bytes begin.
    fn occurrences(&self, bytes: &[u8]) -> Vec<u64> {
        let len = bytes.len() as u64;
        let near = self.blocks.keys().flat_map(|number| {
            let start = (number * BLOCK).saturating_sub(len);
            let there = self.read(start..(number + 1).saturating_mul(BLOCK));
            let windows = there.windows(bytes.len()).zip(start..);
            let found = windows.filter(|(window, _)| *window == bytes);
            found.map(|(_, at)| at).collect::<Vec<u64>>()
        });
        near.collect()
    }
}

fn geometry(recipe: &mut Recipe<'_>) -> Geometry {
    let choice = recipe.byte();
    let sector = if choice & 1 == 0 { 512 } else { 4096 };
    let size = match choice >> 1 & 7 {
        0 => 12 << 30,
        1 => 4096,
        2 => (1 << 20) + 4096,
        3 => 64 << 20,
        4 => 1 << 40,
        5 => 16 << 40,
        6 => (16 << 40) - 512,
        _ => (1 << 63) - 512,
    };
    Geometry { size, sector }
}

fn edit(recipe: &mut Recipe<'_>, disk: &mut Disk, places: &[Place]) {
    let kind = recipe.byte();
    // Where the agent looks, or near the beginning.
    let start = match places.get(recipe.number() % places.len().max(1)) {
        Some(place) if kind & 1 == 0 => {
            let sectors = (place.len / 512).max(1) as u64;
            place.at + 512 * (recipe.number() as u64 % sectors)
        }
        Some(_) | None => 512 * recipe.number() as u64,
    };
    match kind >> 1 & 3 {
        0 => {
            let (at, bytes) = MAGICS[usize::from(recipe.byte()) % MAGICS.len()];
            disk.write(start.saturating_add(at), bytes);
        }
        1 => {
            let at = recipe.number() as u64 % 512;
            let len = usize::from(recipe.byte()) % 64 + 1;
            let bytes: Vec<u8> = (0..len).map(|_| recipe.byte()).collect();
            disk.write(start.saturating_add(at), &bytes);
        }
        // A copy of what is somewhere else, as formats make them.
        2 => {
            let from = recipe.number() % places.len().max(1);
            let from = places.get(from).map_or(0, |place| place.at);
            let bytes = disk.read(from..from.saturating_add(1024));
            disk.write(start, &bytes);
        }
        _ => disk.write(start, &[0; 512]),
    }
}

pub fn check(input: &[u8]) {
    let mut recipe = Recipe(input);
    let geometry = geometry(&mut recipe);
    let broken = recipe.number();
    let places = places(geometry);
    let mut disk = Disk {
        size: geometry.size,
        ..Disk::default()
    };
    while !recipe.0.is_empty() {
        edit(&mut recipe, &mut disk, &places);
    }

    let (mut reads, mut bytes) = (0, 0);
    let traces = find(geometry, &mut |at, len| {
        let end = at.checked_add(len as u64);
        let end = end.filter(|end| *end <= geometry.size);
        (reads, bytes) = (reads + 1, bytes + len);
        Ok(disk.read(at..end.expect("inside of the disk")))
    });
    let traces = traces.expect("every read succeeds");
    assert!(bytes <= BUDGET, "{bytes} bytes are read");
    assert!(traces.is_sorted_by(|a, b| a < b), "in order, each once");
    for trace in &traces {
        let end = trace.at.saturating_add(LONGEST).min(geometry.size);
        assert!(trace.at < end, "{trace:?}");
        assert!(!disk.is_zero(trace.at..end), "{trace:?} of zeroes");
        assert!(!trace.kind.is_empty());
        erased_on_purpose(&disk, trace);
    }
    if reads > 0 {
        stops(geometry, &disk, broken % reads);
    }
}

/// What counts as erased on purpose can be approved by a person, so it needs
/// what `wipefs` leaves: the same superblock elsewhere, its magic number zero.
fn erased_on_purpose(disk: &Disk, trace: &Trace) {
    let Some((magic, uuid)) = marks(&trace.kind).filter(|_| trace.wiped) else {
        return;
    };
    let own = disk.read(trace.at + uuid.start..trace.at + uuid.end);
    assert!(own.iter().any(|byte| *byte != 0), "{trace:?} without UUID");
    let first = disk.occurrences(&own).into_iter().any(|at| {
        let start = at
            .checked_sub(uuid.start)
            .filter(|start| *start != trace.at);
        start.is_some_and(|start| disk.is_zero(start + magic.start..start + magic.end))
    });
    assert!(first, "{trace:?} without a first superblock");
}

/// A read that fails or is short ends the search: nothing is concluded.
fn stops(geometry: Geometry, disk: &Disk, broken: usize) {
    for short in [false, true] {
        let mut reads = 0;
        let found = find(geometry, &mut |at, len| {
            reads += 1;
            match (reads - 1 == broken, short) {
                (false, _) => Ok(disk.read(at..at + len as u64)),
                (true, false) => Err(io::Error::other("a bad sector")),
                (true, true) => Ok(disk.read(at..at + len as u64 - 1)),
            }
        });
        assert!(found.is_err(), "read {broken} does not matter");
    }
}
