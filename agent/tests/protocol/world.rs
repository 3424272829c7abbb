//! The world of the model: disks cell by cell, what the host keeps, how far
//! the agent has come. Small plain values, so that millions can be compared.

use std::fmt;

/// What a disk can hold, in pieces that are written or lost as one. Sectors
/// that the tables of a claim never differ in are one cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cell {
    /// Protective MBR, the same for each claim and stage.
    Boot,
    PrimaryHeader,
    PrimaryEntry,
    /// A sector of the primary entries that our tables leave zero.
    PrimaryRest,
    BackupEntry,
    BackupRest,
    BackupHeader,
    /// Between the table and the partition.
    Gap,
    /// The partition but for the superblock.
    Body,
    Superblock,
}

pub const CELLS: [Cell; 10] = [
    Cell::Boot,
    Cell::PrimaryHeader,
    Cell::PrimaryEntry,
    Cell::PrimaryRest,
    Cell::BackupEntry,
    Cell::BackupRest,
    Cell::BackupHeader,
    Cell::Gap,
    Cell::Body,
    Cell::Superblock,
];
pub const PRIMARY: [Cell; 4] = [
    Cell::Boot,
    Cell::PrimaryHeader,
    Cell::PrimaryEntry,
    Cell::PrimaryRest,
];
pub const BACKUP: [Cell; 3] = [Cell::BackupEntry, Cell::BackupRest, Cell::BackupHeader];

impl Cell {
    pub fn is_of_table(self) -> bool {
        PRIMARY.contains(&self) || BACKUP.contains(&self)
    }
}

/// What a cell holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Value {
    Zero,
    /// What was there when a person approved the disk.
    Before,
    /// Somebody else's.
    Foreign,
    /// The protective MBR of a table of ours.
    Boot,
    /// A sector of the pending table of a claim.
    Pending(Claim),
    /// The same sector of its committed table.
    Committed(Claim),
    /// In the body: what mkfs wrote.
    Made,
    /// In the body: files of a user.
    Files,
    /// A superblock as mkfs.xfs writes it first: in progress.
    Begun(Claim),
    /// The superblock of a filesystem that was never mounted.
    Fresh(Claim),
    /// The superblock of one that was.
    Used(Claim),
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zero => f.write_str("0"),
            Self::Before => f.write_str("before"),
            Self::Foreign => f.write_str("FOREIGN"),
            Self::Boot => f.write_str("mbr"),
            Self::Pending(claim) => write!(f, "pending {claim:?}"),
            Self::Committed(claim) => write!(f, "committed {claim:?}"),
            Self::Made => f.write_str("mkfs"),
            Self::Files => f.write_str("FILES"),
            Self::Begun(claim) => write!(f, "begun {claim:?}"),
            Self::Fresh(claim) => write!(f, "fresh {claim:?}"),
            Self::Used(claim) => write!(f, "used {claim:?}"),
        }
    }
}

impl Value {
    pub fn claim(self) -> Option<Claim> {
        match self {
            Self::Pending(claim)
            | Self::Committed(claim)
            | Self::Begun(claim)
            | Self::Fresh(claim)
            | Self::Used(claim) => Some(claim),
            Self::Zero | Self::Before | Self::Foreign | Self::Boot | Self::Made | Self::Files => {
                None
            }
        }
    }
}

/// A claim: its number stands for its GUIDs.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Claim {
    pub number: u8,
    pub name: Name,
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.name.text(), self.number)
    }
}

/// A disk's name for life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Name(u8);

/// Every name that the disks of the model can get.
pub const NAMES: [&str; 8] = [
    "sdb1", "sdb1-2", "sdb1-3", "sdb1-4", "sdc1", "sdc1-2", "sdc1-3", "sdc1-4",
];

impl Name {
    pub fn of(text: &str) -> Self {
        let at = NAMES.iter().position(|name| *name == text);
        Self(at.unwrap_or_else(|| panic!("the model has no name {text}")) as u8)
    }

    pub fn text(self) -> &'static str {
        NAMES[self.index()]
    }

    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Everything on a disk.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Image(pub [Value; CELLS.len()]);

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cells = CELLS.into_iter().zip(self.0);
        f.debug_map()
            .entries(cells.filter(|(_, value)| *value != Value::Zero))
            .finish()
    }
}

impl Image {
    pub const BLANK: Self = Self([Value::Zero; CELLS.len()]);
    pub const FOREIGN: Self = Self([Value::Foreign; CELLS.len()]);

    /// With both copies of a table, and nothing in its partition.
    fn with_table(value: Value) -> Self {
        let mut image = Self::BLANK;
        image.put(Cell::Boot, Value::Boot);
        for cell in [
            Cell::PrimaryHeader,
            Cell::PrimaryEntry,
            Cell::BackupEntry,
            Cell::BackupHeader,
        ] {
            image.put(cell, value);
        }
        image
    }

    /// A disk that has its pending table and no filesystem.
    pub fn pending(claim: Claim) -> Self {
        Self::with_table(Value::Pending(claim))
    }

    /// One that has its filesystem as well.
    pub fn fresh(claim: Claim) -> Self {
        let mut image = Self::pending(claim);
        image.put(Cell::Body, Value::Made);
        image.put(Cell::Superblock, Value::Fresh(claim));
        image
    }

    /// A disk that was mounted and used.
    pub fn used(claim: Claim) -> Self {
        let mut image = Self::with_table(Value::Committed(claim));
        image.put(Cell::Body, Value::Files);
        image.put(Cell::Superblock, Value::Used(claim));
        image
    }

    pub fn at(&self, cell: Cell) -> Value {
        self.0[cell as usize]
    }

    pub fn put(&mut self, cell: Cell, value: Value) {
        self.0[cell as usize] = value;
    }

    /// Claims of which a sector of a table is there.
    pub fn claims(&self) -> impl Iterator<Item = Claim> {
        self.0.into_iter().filter_map(|value| match value {
            Value::Pending(claim) | Value::Committed(claim) => Some(claim),
            _ => None,
        })
    }

    pub fn is_committed(&self) -> bool {
        let committed = |value: &Value| matches!(value, Value::Committed(_));
        self.0.iter().any(committed)
    }

    /// The claim whose primary table is whole: what the kernel takes for a
    /// partition table when it reads one. It does not look for the backup.
    pub fn primary(&self) -> Option<Claim> {
        let [boot, header, entry, rest] = PRIMARY.map(|cell| self.at(cell));
        let whole = boot == Value::Boot && header == entry && rest == Value::Zero;
        match header {
            Value::Pending(claim) | Value::Committed(claim) if whole => Some(claim),
            _ => None,
        }
    }
}

/// A disk with a cache: what was written since the last flush may be lost, all
/// of it or any part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Disk {
    /// What a power cut leaves for sure.
    pub stable: Image,
    /// What is read now.
    pub seen: Image,
    /// The name under which it was committed first.
    pub committed_as: Option<Name>,
}

impl Disk {
    pub fn of(image: Image) -> Self {
        Self {
            stable: image,
            seen: image,
            committed_as: None,
        }
    }

    pub fn dirty(&self) -> impl Iterator<Item = Cell> {
        let (stable, seen) = (self.stable, self.seen);
        CELLS
            .into_iter()
            .filter(move |cell| stable.at(*cell) != seen.at(*cell))
    }

    pub fn flush(&mut self, which: impl Fn(Cell) -> bool) {
        for cell in CELLS.into_iter().filter(|cell| which(*cell)) {
            self.stable.put(cell, self.seen.at(cell));
        }
    }

    /// Somebody writes without our help, and it is durable at once.
    pub fn write_through(&mut self, cell: Cell, value: Value) {
        self.seen.put(cell, value);
        self.stable.put(cell, value);
    }
}

/// A directory below the mount root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Directory {
    Absent,
    /// Made, and lost in a power cut perhaps.
    Made,
    Kept,
}

/// An entry of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Journalled {
    pub claim: Claim,
    /// The disk by its hardware identity.
    pub of: u8,
    /// The disk was not blank but approved.
    pub approved: bool,
}

/// What the host knows and keeps.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Host {
    pub journal: Vec<Journalled>,
    pub directories: [Directory; NAMES.len()],
    /// The approval was used.
    pub used_approval: bool,
    /// It was installed anew and knows nothing of disks that are away.
    pub is_new: bool,
    /// Which disk is mounted at which name; in the order of disks.
    pub mounts: Vec<(u8, Name)>,
    /// Which disk is `sdb` and which is `sdc`.
    pub slots: [Option<u8>; 2],
    /// The kernel knows a partition on it.
    pub known: [bool; 2],
}

/// What a verdict asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Plan {
    Provision {
        name: Name,
        begun: Option<Claim>,
        approval: bool,
    },
    Resume(Claim),
    Mount(Claim),
}

/// A job on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Job {
    pub plan: Plan,
    /// Known once it is recorded or found.
    pub claim: Option<Claim>,
    /// Where the decision saw the disk.
    pub slot: u8,
    /// Another disk may be where the decision saw this one.
    pub stale: bool,
    /// Both copies of the table are as they should be.
    pub whole: bool,
    /// The filesystem is there already.
    pub finished: bool,
    /// The next step.
    pub at: u8,
}

/// What may still go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Budget {
    pub crashes: u8,
    /// Times that the journal, or all of the host's own disk, is lost.
    pub losses: u8,
    /// Times that somebody writes to a disk.
    pub foreign: u8,
    /// Times that somebody stores files in a filesystem that is not mounted by us.
    pub stores: u8,
    /// Times that a disk is taken out or put in.
    pub moves: u8,
    /// Times that the first disk is copied to the second.
    pub clones: u8,
}

impl Budget {
    pub const NOTHING: Self = Self {
        crashes: 0,
        losses: 0,
        foreign: 0,
        stores: 0,
        moves: 0,
        clones: 0,
    };
}

/// A promise that was broken by a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Harm {
    /// What somebody else wrote was written over.
    Foreign,
    /// Files, or a filesystem that was mounted, were formatted.
    Files,
    /// A committed claim was formatted, or taken back.
    Committed,
    /// A second disk got a name while the first one was there, or known.
    SharedName,
    /// A committed disk got another name.
    SecondName,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    pub disks: Vec<Disk>,
    pub host: Host,
    /// The agent runs.
    pub on: bool,
    /// By disk.
    pub jobs: [Option<Job>; 2],
    /// A mkfs that outlived its agent: the disk, and its next step.
    pub orphan: Option<(u8, Job)>,
    pub left: Budget,
    pub harm: Option<Harm>,
}

impl World {
    pub fn new(images: &[Image], slots: [Option<u8>; 2], left: Budget) -> Self {
        Self {
            disks: images.iter().map(|image| Disk::of(*image)).collect(),
            host: Host {
                journal: Vec::new(),
                directories: [Directory::Absent; NAMES.len()],
                used_approval: false,
                is_new: false,
                mounts: Vec::new(),
                slots,
                known: [false; 2],
            },
            on: false,
            jobs: [None; 2],
            orphan: None,
            left,
            harm: None,
        }
    }

    pub fn disk(&self, disk: u8) -> &Disk {
        &self.disks[usize::from(disk)]
    }

    pub fn disk_mut(&mut self, disk: u8) -> &mut Disk {
        &mut self.disks[usize::from(disk)]
    }

    pub fn slot_of(&self, disk: u8) -> Option<usize> {
        self.host.slots.iter().position(|slot| *slot == Some(disk))
    }

    /// A number that no claim has.
    pub fn free_number(&self) -> u8 {
        let images = self.disks.iter().flat_map(|disk| [disk.seen, disk.stable]);
        let on_disks = images.flat_map(|image| image.0).filter_map(Value::claim);
        let jobs = self.jobs.iter().flatten().filter_map(|job| job.claim);
        let orphan = self.orphan.iter().filter_map(|(_, job)| job.claim);
        let journal = self.host.journal.iter().map(|entry| entry.claim);
        let taken: Vec<u8> = (on_disks.chain(jobs).chain(orphan).chain(journal))
            .map(|claim| claim.number)
            .collect();
        (0..)
            .find(|number| !taken.contains(number))
            .expect("a number")
    }

    pub fn attached(&self) -> impl Iterator<Item = u8> {
        self.host.slots.into_iter().flatten()
    }

    pub fn mounted(&self, disk: u8) -> Option<Name> {
        let mut mounts = self.host.mounts.iter();
        mounts
            .find(|(there, _)| *there == disk)
            .map(|(_, name)| *name)
    }

    pub fn harmed(&mut self, harm: Harm) {
        self.harm.get_or_insert(harm);
    }
}
