//! From the cells of the model to the bytes of a disk, and what the agent's own
//! readers say of them. What is in a partition was made by mkfs.

use std::{
    collections::HashMap,
    fs::File,
    os::unix::fs::FileExt,
    path::Path,
    process::Command,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use disk_discovery::{
    approval::Token,
    claim::{Begun, ClaimId, Ends, Geometry, Stage, Table, TableImage, partition_range},
    fact::Fact,
    observe::{
        Identity, Medium,
        medium::{self, Depth, Question},
        sample::Seed,
        superblock::{Told, parse},
    },
    units::Filesystem,
};
use gptman::{GPT, GPTPartitionEntry};
use nix::sys::memfd::{MFdFlags, memfd_create};
use uuid::Uuid;

use crate::host::remembered;
use crate::world::{CELLS, Cell, Claim, Image, Value};

const SECTOR: usize = 512;

/// As small as it gets: each look reads the whole disk.
pub fn geometry(filesystem: Filesystem) -> Geometry {
    let mebibytes = match filesystem {
        Filesystem::Ext4 => 4,
        Filesystem::Xfs => 320,
    };
    Geometry {
        size: mebibytes << 20,
        sector: 512,
    }
}

/// The claim with its GUIDs.
pub fn claim_id(claim: Claim) -> ClaimId {
    ClaimId {
        disk_guid: Uuid::from_u128(0xd15c_0000_0000_4000_8000 << 48 | u128::from(claim.number)),
        partition_guid: partition_guid(claim.number),
        name: claim.name.text().parse().expect("a name"),
    }
}

fn partition_guid(number: u8) -> Uuid {
    Uuid::from_u128(0x9a27_0000_0000_4000_8000 << 48 | u128::from(number))
}

/// The claim of an id that [`claim_id`] made.
pub fn claim_of(id: &ClaimId) -> Claim {
    Claim {
        number: id.partition_guid.as_bytes()[15],
        name: crate::world::Name::of(id.name.as_str()),
    }
}

/// Number of the filesystem that somebody else made.
const SOMEBODYS: u8 = 0xee;

/// A filesystem as mkfs leaves it, in two parts.
struct Template {
    superblock_at: u64,
    fresh: Vec<u8>,
    used: Vec<u8>,
    /// Of XFS: where a mount leaves its mark besides.
    used_at: Option<u64>,
    /// Of XFS: as mkfs writes it first.
    begun: Vec<u8>,
    /// What is not zero besides.
    body: Vec<(u64, Vec<u8>)>,
}

impl Template {
    fn of(filesystem: Filesystem, number: u8) -> Arc<Self> {
        type Known = Mutex<HashMap<(&'static str, u8), Arc<Template>>>;
        static KNOWN: LazyLock<Known> = LazyLock::new(Known::default);
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let made = || Arc::new(Self::make(filesystem, number));
        let template = known
            .entry((filesystem.name(), number))
            .or_insert_with(made);
        Arc::clone(template)
    }

    fn make(filesystem: Filesystem, number: u8) -> Self {
        let range = partition_range(geometry(filesystem)).expect("room");
        let file = tempfile::NamedTempFile::new().expect("a file");
        let length = range.end - range.start;
        file.as_file().set_len(length).expect("its size");
        let uuid = partition_guid(number).to_string();
        let (superblock_at, size) = match filesystem {
            Filesystem::Ext4 => {
                let words = ["-q", "-F", "-U", &uuid, "-E", "nodiscard"];
                run("mkfs.ext4", &words, file.path());
                (1024, 1024)
            }
            Filesystem::Xfs => {
                let made = format!("uuid={uuid}");
                run("mkfs.xfs", &["-q", "-K", "-m", &made], file.path());
                (0, 512)
            }
        };
        let superblock = || {
            let mut bytes = vec![0; size];
            let read = file.as_file().read_exact_at(&mut bytes, superblock_at);
            read.expect("a superblock");
            bytes
        };
        let fresh = superblock();
        let mut body = Vec::new();
        for at in (0..length).step_by(SECTOR) {
            let mut bytes = vec![0; SECTOR];
            file.as_file()
                .read_exact_at(&mut bytes, at)
                .expect("a sector");
            let of_superblock = (superblock_at..superblock_at + size as u64).contains(&at);
            if !of_superblock && bytes.iter().any(|byte| *byte != 0) {
                body.push((at, bytes));
            }
        }
        let mut begun = fresh.clone();
        let (used, used_at) = match filesystem {
            Filesystem::Ext4 => {
                run("tune2fs", &["-C", "1"], file.path());
                (superblock(), None)
            }
            Filesystem::Xfs => {
                // sb_inprogress.
                begun[126] = 1;
                let mut bytes = fresh.clone();
                bytes.resize(2048, 0);
                let Some(Told::InLog(log)) = parse(&bytes, filesystem) else {
                    panic!("mkfs.xfs made no log");
                };
                (fresh.clone(), Some(log.start))
            }
        };
        Self {
            superblock_at,
            fresh,
            used,
            used_at,
            begun,
            body,
        }
    }
}

fn run(program: &str, words: &[&str], file: &Path) {
    let done = Command::new(program).args(words).arg(file).output();
    let done = done.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(done.status.success(), "{program}: {done:?}");
}

/// A table that another program wrote.
fn somebodys_table(geometry: Geometry) -> Ends {
    let mut ends = Ends::zeroed(geometry).expect("room");
    GPT::write_protective_mbr_into(&mut ends, 512).expect("an MBR");
    let mut table = GPT::new_from(&mut ends, 512, [7; 16]).expect("a table");
    table[1] = GPTPartitionEntry {
        partition_type_guid: [9; 16],
        unique_partition_guid: [8; 16],
        starting_lba: 2048,
        ending_lba: 4095,
        attribute_bits: 0,
        partition_name: "data".into(),
    };
    table.write_into(&mut ends).expect("both copies");
    ends
}

/// Where in [`Ends::sectors`] the sector of a cell is.
fn place(cell: Cell) -> Option<usize> {
    match cell {
        Cell::Boot => Some(0),
        Cell::PrimaryHeader => Some(1),
        Cell::PrimaryEntry => Some(2),
        Cell::PrimaryRest => Some(7),
        Cell::BackupEntry => Some(34),
        Cell::BackupRest => Some(38),
        Cell::BackupHeader => Some(66),
        Cell::Gap | Cell::Body | Cell::Superblock => None,
    }
}

fn sector(geometry: Geometry, cell: Cell, at: usize, value: Value) -> Vec<u8> {
    let of = |claim, stage| {
        let image = TableImage::build(geometry, &claim_id(claim), stage).expect("a table");
        image.ends().sectors().nth(at).expect("a sector").to_vec()
    };
    match value {
        Value::Zero => vec![0; SECTOR],
        Value::Before => vec![0x5a; SECTOR],
        Value::Pending(claim) => of(claim, Stage::Pending),
        Value::Committed(claim) => of(claim, Stage::Committed),
        Value::Boot => {
            let name = crate::world::Name::of("sdb1");
            of(Claim { number: 0, name }, Stage::Pending)
        }
        Value::Foreign => {
            let table = somebodys_table(geometry);
            let mut bytes = table.sectors().nth(at).expect("a sector").to_vec();
            match cell {
                // Boot code: otherwise it would be the same as ours.
                Cell::Boot => bytes[0] = 0xfa,
                Cell::PrimaryRest | Cell::BackupRest => bytes.fill(0xf0),
                _ => {}
            }
            bytes
        }
        _ => panic!("{value:?} is nothing for {cell:?}"),
    }
}

/// Writes all cells to a file.
pub fn render(image: &Image, filesystem: Filesystem) -> File {
    let geometry = geometry(filesystem);
    let file = File::from(memfd_create(c"disk", MFdFlags::MFD_CLOEXEC).expect("a memory file"));
    file.set_len(geometry.size).expect("its size");
    let write = |bytes: &[u8], at| file.write_all_at(bytes, at).expect("written");
    let offsets: Vec<u64> = {
        let zero = Ends::zeroed(geometry).expect("room");
        zero.sectors_at().map(|(at, _)| at).collect()
    };
    let partition = partition_range(geometry).expect("room").start;
    for cell in CELLS {
        let value = image.at(cell);
        if value == Value::Zero {
            continue;
        }
        if let Some(at) = place(cell) {
            write(&sector(geometry, cell, at, value), offsets[at]);
            continue;
        }
        let made = || {
            for (at, bytes) in &Template::of(filesystem, 0).body {
                write(bytes, partition + at);
            }
        };
        let superblock = |number, of: fn(&Template) -> &[u8]| {
            let template = Template::of(filesystem, number);
            write(of(&template), partition + template.superblock_at);
        };
        match (cell, value) {
            (Cell::Gap, Value::Before) => write(&[0x5a; SECTOR], 128 << 10),
            (Cell::Gap, Value::Foreign) => write(&[0xf0; SECTOR], 128 << 10),
            (Cell::Body, Value::Before) => write(&[0x5a; 4096], partition + (1024 << 10)),
            (Cell::Body, Value::Foreign) => write(&[0xf0; 4096], partition + (1536 << 10)),
            (Cell::Body, Value::Made) => made(),
            (Cell::Body, Value::Files) => {
                made();
                write(&[0xda; 4096], partition + (1792 << 10));
            }
            (Cell::Superblock, Value::Foreign) => superblock(SOMEBODYS, |t| &t.fresh),
            (Cell::Superblock, Value::Begun(claim)) => superblock(claim.number, |t| &t.begun),
            (Cell::Superblock, Value::Fresh(claim)) => superblock(claim.number, |t| &t.fresh),
            (Cell::Superblock, Value::Used(claim)) => {
                superblock(claim.number, |t| &t.used);
                if let Some(at) = Template::of(filesystem, claim.number).used_at {
                    write(&[1; SECTOR], partition + at);
                }
            }
            _ => panic!("{value:?} is nothing for {cell:?}"),
        }
    }
    file
}

/// What is asked of a disk besides what is on it, in the words of the model.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Asked {
    /// Claims of the journal, and whether the disk was approved.
    pub begun: Vec<(Claim, bool)>,
    /// No claim, then only the claim is read; or all that blankness takes.
    pub blankness: bool,
    /// With the approval of the policy.
    pub approval: bool,
    /// Whose hardware identity it has.
    pub identity: u8,
}

type Known = Mutex<HashMap<(&'static str, Image, Asked), Arc<Medium>>>;
static KNOWN: LazyLock<Known> = LazyLock::new(Known::default);

/// Reads a disk as the agent does; remembered, as it is the same every time.
pub fn examine(
    image: &Image,
    filesystem: Filesystem,
    asked: &Asked,
    begun: &[Begun],
    identity: &Identity,
    approvals: &[Token],
) -> Arc<Medium> {
    remembered(&KNOWN, (filesystem.name(), *image, asked.clone()), || {
        let question = Question {
            begun,
            partition: None,
            mounted: None,
            window: None,
            nodes: Path::new("/dev"),
            depth: if asked.blankness {
                Depth::Blankness
            } else {
                Depth::Claim
            },
            seed: Seed(1),
            identity: &Fact::Known(identity.clone()),
            approvals: if asked.approval { approvals } else { &[] },
        };
        let file = render(image, filesystem);
        let geometry = geometry(filesystem);
        let medium = medium::examine(&file, Path::new("a disk"), geometry, &question);
        Arc::new(medium)
    })
}

/// Reads the table alone, without the journal, as before a commit.
pub fn table(image: &Image, filesystem: Filesystem) -> Table {
    let asked = Asked {
        begun: Vec::new(),
        blankness: false,
        approval: false,
        identity: 0,
    };
    let identity = crate::host::identity(0, false);
    let medium = examine(image, filesystem, &asked, &[], &identity, &[]);
    medium.table.known().expect("readable").clone()
}

/// What a table will be written over on an approved disk, as the agent takes
/// it down: the sectors of both ends, and a digest of what lies beside.
pub fn before(image: &Image, filesystem: Filesystem) -> (Ends, String) {
    let (file, geometry) = (render(image, filesystem), geometry(filesystem));
    let ends = medium::read_ends(&file, geometry).expect("readable");
    let gaps = medium::digest_gaps(&file, geometry).expect("readable");
    (ends.expect("room"), gaps)
}
