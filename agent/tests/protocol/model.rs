//! Everything that can happen, as a model for the checker: the steps of the
//! agent, crashes, people, and disks that come and go, in every order.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use stateright::{Model, Property};

use crate::{
    execute::make,
    host::Oracle,
    promises,
    steps::Step,
    world::{BACKUP, CELLS, Cell, Directory, Disk, Image, Job, PRIMARY, Value, World},
};

/// What happens next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The agent starts; after a power cut, the machine as well.
    Start,
    /// The agent looks, decides, and begins jobs.
    Round,
    /// The same, without reading the disks that it works on.
    RoundPast,
    /// The job on a disk does its next step.
    Step(u8, Step),
    /// SIGKILL. What was written stays in the caches.
    Kill,
    /// SIGKILL, and the mkfs on a disk lives on for a while.
    KillBeside(u8),
    /// That mkfs goes on.
    MkfsStep,
    MkfsDies,
    /// The power fails. Of what is not flushed, the parts of this set survive.
    PowerCut(u32),
    /// The agent's state directory is lost.
    LoseState,
    /// The host's own disk is lost, the system installed anew.
    Reinstall,
    /// Somebody writes to a disk.
    Write(u8, Theirs),
    /// Somebody mounts our filesystem elsewhere, stores files, unmounts it.
    Store(u8),
    /// A user stores files where we mounted the disk.
    Use(u8),
    /// A disk is pulled; of what is not flushed, the parts of this set survive.
    Pull(u8, u32),
    /// A disk is put in as `sdb` or `sdc`.
    Plug(u8, u8),
    /// The first disk is copied to the second.
    Clone,
}

/// What somebody writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Theirs {
    /// One sector where our table leaves zeroes.
    Sector,
    /// A partition table of their own.
    Table,
    /// Zeroes over both copies of the table.
    Zeroes,
    /// Data without any known format into the partition.
    Data,
    /// A filesystem into the partition.
    Filesystem,
    /// Something between the table and the partition.
    Gap,
}

const THEIRS: [Theirs; 6] = [
    Theirs::Sector,
    Theirs::Table,
    Theirs::Zeroes,
    Theirs::Data,
    Theirs::Filesystem,
    Theirs::Gap,
];

#[derive(Debug, Clone)]
pub struct Protocol {
    pub oracle: Arc<Oracle>,
    pub start: World,
    pub reached: Vec<promises::Reached>,
    /// Whether a state is left as promised; by state.
    pub settled: Arc<Mutex<HashMap<World, bool>>>,
}

impl Protocol {
    pub fn new(oracle: Oracle, start: World, reached: &[promises::Reached]) -> Self {
        Self {
            oracle: Arc::new(oracle),
            start,
            reached: reached.to_vec(),
            settled: Arc::default(),
        }
    }

    fn may_write(&self, world: &World, disk: u8, theirs: Theirs) -> bool {
        let seen = &world.disk(disk).seen;
        let job = world.jobs[usize::from(disk)];
        let orphan = world.orphan.is_some_and(|(there, _)| there == disk);
        let free = job.is_none_or(|job| !self.oracle.next(&job).is_exclusive());
        match theirs {
            Theirs::Sector | Theirs::Table | Theirs::Zeroes => free,
            Theirs::Gap => free && world.mounted(disk).is_none(),
            Theirs::Filesystem => job.is_none() && !orphan && world.mounted(disk).is_none(),
            Theirs::Data => {
                let committed = seen.is_committed() && world.disk(disk).stable.is_committed();
                let pending = seen.claims().next().is_some() && !committed;
                let journalled = world.host.journal.iter().any(|entry| entry.of == disk);
                let made = seen.at(Cell::Superblock) != Value::Zero;
                let alone = job.is_none() && !orphan && world.mounted(disk).is_none();
                alone && !(self.oracle.setup.considerate && pending && (journalled || made))
            }
        }
    }

    fn may_store(&self, world: &World, disk: u8) -> bool {
        let seen = &world.disk(disk).seen;
        let there = matches!(seen.at(Cell::Superblock), Value::Fresh(_) | Value::Used(_))
            && matches!(seen.at(Cell::Body), Value::Made | Value::Files);
        let known = world
            .slot_of(disk)
            .is_some_and(|slot| world.host.known[slot]);
        let orphan = world.orphan.is_some_and(|(there, _)| there == disk);
        let alone = match world.jobs[usize::from(disk)] {
            None => true,
            // Between the proof and mkfs.
            Some(job) => {
                let next = self.oracle.next(&job);
                !self.oracle.setup.considerate
                    && matches!(next, Step::Mkfs(_))
                    && self.oracle.steps(&job)[usize::from(job.at) - 1] == Step::HandOver
            }
        };
        there && known && alone && !orphan && world.mounted(disk).is_none()
    }
}

/// Which parts of what is not flushed may survive a power cut: any set of
/// cells and directories. With two disks, all cells or none: how a disk is
/// torn does not matter to another one.
fn power_cuts(world: &World) -> Vec<u32> {
    let cells: usize = world
        .attached()
        .map(|disk| world.disk(disk).dirty().count())
        .sum();
    let made = |there: &&Directory| **there == Directory::Made;
    let directories = world.host.directories.iter().filter(made).count();
    let all = 0..1_u32 << (cells + directories);
    let whole = (1 << cells) - 1;
    let coarse = |survivors: &u32| matches!(survivors & whole, 0) || survivors & whole == whole;
    match world.disks.len() {
        1 => all.collect(),
        _ => all.filter(coarse).collect(),
    }
}

/// Loses what is not flushed but for a set of parts.
fn lose(disk: &mut Disk, survivors: &mut u32) {
    let dirty: Vec<Cell> = disk.dirty().collect();
    for cell in dirty {
        if *survivors & 1 == 1 {
            disk.stable.put(cell, disk.seen.at(cell));
        }
        *survivors >>= 1;
    }
    disk.seen = disk.stable;
}

/// Whether the kernel finds a partition when it reads the table.
fn partitioned(image: &Image) -> bool {
    let foreign = |cell| image.at(cell) == Value::Foreign;
    image.primary().is_some()
        || [Cell::Boot, Cell::PrimaryHeader, Cell::PrimaryEntry]
            .into_iter()
            .all(foreign)
}

fn power_cut(world: &mut World, mut survivors: u32) {
    for slot in 0..2 {
        if let Some(disk) = world.host.slots[slot] {
            lose(world.disk_mut(disk), &mut survivors);
            world.host.known[slot] = partitioned(&world.disk(disk).seen);
        }
    }
    for directory in &mut world.host.directories {
        if *directory == Directory::Made {
            *directory = if survivors & 1 == 1 {
                Directory::Kept
            } else {
                Directory::Absent
            };
            survivors >>= 1;
        }
    }
    world.host.mounts.clear();
    stop(world);
    world.orphan = None;
}

pub fn stop(world: &mut World) {
    world.on = false;
    world.jobs = [None; 2];
}

fn pull(world: &mut World, disk: u8, mut survivors: u32) {
    let Some(slot) = world.slot_of(disk) else {
        return;
    };
    lose(world.disk_mut(disk), &mut survivors);
    world.host.slots[slot] = None;
    world.host.known[slot] = false;
    let job = &mut world.jobs[usize::from(disk)];
    *job = job
        .filter(|job| job.at == 0)
        .map(|job| Job { stale: true, ..job });
    if world.orphan.is_some_and(|(there, _)| there == disk) {
        world.orphan = None;
    }
}

fn write(world: &mut World, disk: u8, theirs: Theirs) {
    let slot = world.slot_of(disk);
    let mounted = world.mounted(disk).is_some();
    let on = world.disk_mut(disk);
    let mut put = |cells: &[Cell], value| {
        for cell in cells {
            on.write_through(*cell, value);
        }
    };
    match theirs {
        Theirs::Sector => put(&[Cell::PrimaryRest], Value::Foreign),
        Theirs::Table => {
            put(&PRIMARY, Value::Foreign);
            put(&BACKUP, Value::Foreign);
            put(&[Cell::PrimaryRest, Cell::BackupRest], Value::Zero);
        }
        Theirs::Zeroes => {
            put(&PRIMARY, Value::Zero);
            put(&BACKUP, Value::Zero);
        }
        Theirs::Data => put(&[Cell::Body], Value::Foreign),
        Theirs::Filesystem => put(&[Cell::Body, Cell::Superblock], Value::Foreign),
        Theirs::Gap => put(&[Cell::Gap], Value::Foreign),
    }
    if let Some(slot) = slot
        && !mounted
        && matches!(theirs, Theirs::Table | Theirs::Zeroes)
    {
        world.host.known[slot] = partitioned(&world.disk(disk).seen);
    }
}

impl Model for Protocol {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![self.start.clone()]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        // What was broken once stays broken.
        if world.harm.is_some() {
            return;
        }
        let disks = || (0..world.disks.len() as u8).filter(|disk| world.slot_of(*disk).is_some());
        let left = world.left;
        if world.on {
            actions.push(Action::Round);
            if world.disks.len() > 1 && world.jobs.iter().any(Option::is_some) {
                actions.push(Action::RoundPast);
            }
        } else {
            actions.push(Action::Start);
        }
        for disk in (0..).take(world.disks.len()) {
            if let Some(job) = world.jobs[usize::from(disk)] {
                actions.push(Action::Step(disk, self.oracle.next(&job)));
            }
        }
        if world.orphan.is_some() {
            actions.extend([Action::MkfsStep, Action::MkfsDies]);
        }
        if left.crashes > 0 {
            if world.on {
                actions.push(Action::Kill);
                actions.extend(
                    disks()
                        .filter(|disk| self.makes(world, *disk))
                        .map(Action::KillBeside),
                );
            }
            actions.extend(power_cuts(world).into_iter().map(Action::PowerCut));
        }
        if left.losses > 0 && !world.on {
            actions.push(Action::LoseState);
            if world.host.mounts.is_empty() && world.orphan.is_none() {
                actions.push(Action::Reinstall);
            }
        }
        for disk in disks() {
            if left.foreign > 0 {
                let may = |theirs: &Theirs| self.may_write(world, disk, *theirs);
                actions.extend(
                    THEIRS
                        .into_iter()
                        .filter(may)
                        .map(|theirs| Action::Write(disk, theirs)),
                );
            }
            if left.stores > 0 && self.may_store(world, disk) {
                actions.push(Action::Store(disk));
            }
            if world.mounted(disk).is_some() && world.disk(disk).seen.at(Cell::Body) == Value::Made
            {
                actions.push(Action::Use(disk));
            }
            if left.moves > 0 && world.mounted(disk).is_none() {
                let dirty = world.disk(disk).dirty().count();
                let mut survivors = vec![0, (1 << dirty) - 1];
                survivors.dedup();
                actions.extend(
                    survivors
                        .into_iter()
                        .map(|survivors| Action::Pull(disk, survivors)),
                );
            }
        }
        if left.moves > 0 {
            let away = (0..world.disks.len() as u8).filter(|disk| world.slot_of(*disk).is_none());
            for disk in away {
                let free = (0..2).filter(|slot| world.host.slots[usize::from(*slot)].is_none());
                actions.extend(free.map(|slot| Action::Plug(disk, slot)));
            }
        }
        if left.clones > 0 && !world.on && world.mounted(1).is_none() && world.orphan.is_none() {
            actions.push(Action::Clone);
        }
    }

    fn next_state(&self, before: &World, action: Action) -> Option<World> {
        let mut world = before.clone();
        match action {
            Action::Start => world.on = true,
            Action::Round => self.oracle.round(&mut world, false),
            Action::RoundPast => self.oracle.round(&mut world, true),
            Action::Step(disk, _) => self.oracle.step(&mut world, disk),
            Action::Kill => {
                world.left.crashes -= 1;
                stop(&mut world);
            }
            Action::KillBeside(disk) => {
                world.left.crashes -= 1;
                world.orphan = world.jobs[usize::from(disk)].map(|job| (disk, job));
                stop(&mut world);
            }
            Action::MkfsStep => mkfs_goes_on(&self.oracle, &mut world),
            Action::MkfsDies => world.orphan = None,
            Action::PowerCut(survivors) => {
                world.left.crashes -= 1;
                power_cut(&mut world, survivors);
            }
            Action::LoseState => {
                world.left.losses -= 1;
                world.host.journal.clear();
                world.host.used_approval = false;
            }
            Action::Reinstall => {
                world.left.losses -= 1;
                world.host.journal.clear();
                world.host.used_approval = false;
                world.host.directories.fill(Directory::Absent);
                world.host.is_new = true;
            }
            Action::Write(disk, theirs) => {
                world.left.foreign -= 1;
                write(&mut world, disk, theirs);
            }
            Action::Store(disk) => {
                world.left.stores -= 1;
                store(world.disk_mut(disk));
            }
            Action::Use(disk) => store(world.disk_mut(disk)),
            Action::Pull(disk, survivors) => {
                world.left.moves -= 1;
                pull(&mut world, disk, survivors);
            }
            Action::Plug(disk, slot) => {
                world.left.moves -= 1;
                world.host.slots[usize::from(slot)] = Some(disk);
                world.host.known[usize::from(slot)] = partitioned(&world.disk(disk).seen);
            }
            Action::Clone => {
                world.left.clones -= 1;
                let original = world.disk(0);
                let copy = Disk {
                    seen: original.stable,
                    ..*original
                };
                *world.disk_mut(1) = copy;
                if let Some(slot) = world.slot_of(1) {
                    world.host.known[slot] = partitioned(&world.disk(1).seen);
                }
            }
        }
        (world != *before).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        promises::all(&self.reached)
    }
}

impl Protocol {
    /// mkfs is in the middle of its work.
    fn makes(&self, world: &World, disk: u8) -> bool {
        world.jobs[usize::from(disk)].is_some_and(|job| {
            let steps = self.oracle.steps(&job);
            let at = usize::from(job.at);
            let is_mkfs = |step: Option<&Step>| matches!(step, Some(Step::Mkfs(_)));
            is_mkfs(steps.get(at)) && is_mkfs(at.checked_sub(1).and_then(|at| steps.get(at)))
        })
    }
}

fn mkfs_goes_on(oracle: &Oracle, world: &mut World) {
    let Some((disk, mut job)) = world.orphan.take() else {
        return;
    };
    if let (Step::Mkfs(step), Some(claim)) = (oracle.next(&job), job.claim) {
        make(world, disk, claim, step);
        job.at += 1;
        if matches!(oracle.next(&job), Step::Mkfs(_)) {
            world.orphan = Some((disk, job));
        }
    }
}

/// Stores files, durably.
fn store(disk: &mut Disk) {
    if let Some(claim) = disk.seen.at(Cell::Superblock).claim() {
        disk.write_through(Cell::Superblock, Value::Used(claim));
        disk.write_through(Cell::Body, Value::Files);
    }
}

/// All cells are named in [`CELLS`], in the order of their numbers.
#[test]
fn every_cell_is_at_its_number() {
    for (number, cell) in CELLS.into_iter().enumerate() {
        assert_eq!(cell as usize, number);
    }
}
