//! What the agent does in the world of the model: a round, and one step of a
//! job, as `reconcile` and `provision` do them.

use disk_discovery::{
    claim::{Stage, Table},
    decide::{self, Claimed, Left},
};

use crate::{
    bytes,
    host::{Decided, Oracle},
    steps::{Mistake, Mkfs, Step, steps},
    world::{BACKUP, Cell, Claim, Directory, Harm, Job, Journalled, PRIMARY, Plan, Value, World},
};

/// The value that a table of a claim has in a cell.
fn of_table(cell: Cell, claim: Claim, stage: Stage) -> Value {
    match (cell, stage) {
        (Cell::Boot, _) => Value::Boot,
        (Cell::PrimaryRest | Cell::BackupRest, _) => Value::Zero,
        (_, Stage::Pending) => Value::Pending(claim),
        (_, Stage::Committed) => Value::Committed(claim),
    }
}

/// A step that could not be done: the job ends, and a round will look again.
#[derive(Debug)]
pub struct Failed;

fn only_if(condition: bool) -> Result<(), Failed> {
    condition.then_some(()).ok_or(Failed)
}

impl Oracle {
    /// Looks at everything, begins the jobs that are asked for, and forgets
    /// entries of disks that are mounted.
    pub fn round(&self, world: &mut World, unread: bool) {
        let jobs = world.jobs;
        let idle = |disk: &u8| jobs[usize::from(*disk)].is_none();
        if !world.attached().any(|disk| idle(&disk)) {
            return;
        }
        let decided = self.decide(world, unread);
        for (slot, decided) in decided.iter().enumerate() {
            // Of a disk that is worked on, the verdict that began it stands.
            let Some(disk) = world.host.slots[slot].filter(idle) else {
                continue;
            };
            match decided {
                Some(Decided::Mounted(claim)) => forget(world, *claim),
                Some(Decided::Do(plan)) => {
                    world.jobs[usize::from(disk)] = Some(Job {
                        plan: *plan,
                        claim: match *plan {
                            Plan::Provision { begun, .. } => begun,
                            Plan::Resume(claim) | Plan::Mount(claim) => Some(claim),
                        },
                        slot: slot as u8,
                        stale: false,
                        whole: false,
                        finished: false,
                        at: 0,
                    });
                }
                Some(Decided::Refused(_)) | None => {}
            }
        }
    }

    /// The next step of a job.
    pub fn next(&self, job: &Job) -> Step {
        self.steps(job)[usize::from(job.at)]
    }

    pub fn steps(&self, job: &Job) -> Vec<Step> {
        steps(self.setup.filesystem, job, self.setup.mistake)
    }

    /// Does the next step of the job on a disk. Two disks are there for what they
    /// share: what a job does to its disk alone is then done in one go.
    pub fn step(&self, world: &mut World, disk: u8) {
        self.one_step(world, disk);
        let alone = |job: Job| !self.next(&job).is_shared();
        while world.disks.len() > 1 && world.jobs[usize::from(disk)].is_some_and(alone) {
            self.one_step(world, disk);
        }
    }

    fn one_step(&self, world: &mut World, disk: u8) {
        let Some(job) = world.jobs[usize::from(disk)].take() else {
            return;
        };
        let mut now = (disk, job);
        if self.try_step(world, &mut now).is_ok() {
            let (disk, mut job) = now;
            job.at += 1;
            let more = usize::from(job.at) < self.steps(&job).len();
            world.jobs[usize::from(disk)] = more.then_some(job);
        }
    }

    fn try_step(&self, world: &mut World, now: &mut (u8, Job)) -> Result<(), Failed> {
        let step = self.next(&now.1);
        let disk = now.0;
        match step {
            Step::Open => self.open(world, now),
            Step::Prove => self.prove(world, now),
            Step::Record => {
                let Plan::Provision { approval, .. } = now.1.plan else {
                    return Err(Failed);
                };
                let claim = now.1.claim.ok_or(Failed)?;
                forget(world, claim);
                world.host.journal.push(Journalled {
                    claim,
                    of: disk,
                    approved: approval,
                });
                Ok(())
            }
            Step::Reserve => self.reserve(world, &now.1),
            Step::WriteBackup(stage) => write_table(world, disk, now.1.claim, stage, &BACKUP),
            Step::WritePrimary(stage) => write_table(world, disk, now.1.claim, stage, &PRIMARY),
            Step::FlushTable => {
                world.disk_mut(disk).flush(Cell::is_of_table);
                Ok(())
            }
            Step::ReadBack(stage) => {
                let claim = now.1.claim.ok_or(Failed)?;
                let seen = world.disk(disk).seen;
                let mut cells = PRIMARY.into_iter().chain(BACKUP);
                only_if(cells.all(|cell| seen.at(cell) == of_table(cell, claim, stage)))
            }
            Step::HandOver => {
                let slot = world.slot_of(disk).ok_or(Failed)?;
                world.host.known[slot] = true;
                Ok(())
            }
            Step::Mkfs(step) => {
                only_if(world.mounted(disk).is_none())?;
                make(world, disk, now.1.claim.ok_or(Failed)?, step);
                Ok(())
            }
            Step::FlushFilesystem => {
                let of_partition = |cell| matches!(cell, Cell::Body | Cell::Superblock);
                world.disk_mut(disk).flush(of_partition);
                Ok(())
            }
            Step::CheckFilesystem => only_if(is_of_claim(world, disk, &now.1)),
            Step::ReadClaim(stage) => {
                only_if(world.mounted(disk).is_none())?;
                let found = bytes::table(&world.disk(disk).seen, self.setup.filesystem);
                let claim = now.1.claim;
                let right = matches!(found, Table::Ours { claim: found, only_ours: true, .. }
                    if Some(bytes::claim_of(&found.id)) == claim && found.stage == stage);
                only_if(right)
            }
            Step::Mountpoint => {
                only_if(is_of_claim(world, disk, &now.1))?;
                let name = now.1.claim.ok_or(Failed)?.name;
                self.keep(world, name);
                Ok(())
            }
            Step::Mount => mount(world, disk, &now.1),
            Step::Forget => {
                forget(world, now.1.claim.ok_or(Failed)?);
                Ok(())
            }
        }
    }

    fn open(&self, world: &World, now: &mut (u8, Job)) -> Result<(), Failed> {
        if now.1.stale {
            // A sequence number, a serial number tell. Without either, this is
            // the disk from here on.
            only_if(!self.setup.identified)?;
            let there = world.host.slots[usize::from(now.1.slot)].ok_or(Failed)?;
            only_if(world.jobs[usize::from(there)].is_none())?;
            now.0 = there;
            now.1.stale = false;
        }
        let busy = world.mounted(now.0).is_some() && !matches!(now.1.plan, Plan::Mount(_));
        let orphan = world.orphan.is_some_and(|(disk, _)| disk == now.0);
        only_if(!busy && !orphan)
    }

    fn prove(&self, world: &World, now: &mut (u8, Job)) -> Result<(), Failed> {
        if let Plan::Provision { name, .. } = now.1.plan {
            let number = world.free_number();
            now.1.claim.get_or_insert(Claim { number, name });
        }
        if self.setup.mistake == Some(Mistake::NotProven) {
            return Ok(());
        }
        let (disk, job) = now;
        let medium = self.proof(world, *disk, job.plan);
        let slot = world.slot_of(*disk).ok_or(Failed)?;
        match job.plan {
            Plan::Provision { approval, .. } => {
                let proven = match self.token().filter(|_| approval) {
                    Some(token) => decide::approved(&medium, token),
                    None => decide::blank(&medium),
                };
                only_if(proven.is_ok() && !world.host.known[slot])
            }
            Plan::Resume(claim) => match decide::claimed(&medium) {
                Ok(Claimed::Pending { id, whole, left }) if bytes::claim_of(&id) == claim => {
                    job.whole = whole;
                    job.finished = matches!(left, Left::Finished(_));
                    Ok(())
                }
                Ok(Claimed::Pending { .. } | Claimed::Committed { .. }) | Err(_) => Err(Failed),
            },
            Plan::Mount(claim) => match decide::claimed(&medium) {
                Ok(Claimed::Committed {
                    id,
                    whole,
                    only_ours,
                    ..
                }) if bytes::claim_of(&id) == claim => {
                    // What may not be completed is left as it is.
                    job.whole = whole || !only_ours;
                    Ok(())
                }
                Ok(Claimed::Pending { .. } | Claimed::Committed { .. }) | Err(_) => Err(Failed),
            },
        }
    }

    fn reserve(&self, world: &mut World, job: &Job) -> Result<(), Failed> {
        let claim = job.claim.ok_or(Failed)?;
        let Plan::Provision {
            begun, approval, ..
        } = job.plan
        else {
            return Err(Failed);
        };
        let taken = world.host.directories[claim.name.index()] != Directory::Absent;
        if taken && begun.is_none() {
            forget(world, claim);
            return Err(Failed);
        }
        self.keep(world, claim.name);
        world.host.used_approval |= approval;
        Ok(())
    }

    fn keep(&self, world: &mut World, name: crate::world::Name) {
        let directory = &mut world.host.directories[name.index()];
        if self.setup.mistake != Some(Mistake::NameNotDurable) {
            *directory = Directory::Kept;
        } else if *directory == Directory::Absent {
            *directory = Directory::Made;
        }
    }
}

pub fn forget(world: &mut World, claim: Claim) {
    world.host.journal.retain(|entry| entry.claim != claim);
}

fn is_of_claim(world: &World, disk: u8, job: &Job) -> bool {
    match world.disk(disk).seen.at(Cell::Superblock) {
        Value::Begun(claim) | Value::Fresh(claim) | Value::Used(claim) => job.claim == Some(claim),
        _ => false,
    }
}

/// Writes to a cell, and takes down what is lost by it.
fn write(world: &mut World, disk: u8, cell: Cell, value: Value) {
    let there = world.disk(disk).seen.at(cell);
    if there == Value::Foreign {
        world.harmed(Harm::Foreign);
    }
    world.disk_mut(disk).seen.put(cell, value);
}

fn write_table(
    world: &mut World,
    disk: u8,
    claim: Option<Claim>,
    stage: Stage,
    cells: &[Cell],
) -> Result<(), Failed> {
    let claim = claim.ok_or(Failed)?;
    let others = (0..).zip(&world.disks).filter(|(other, _)| *other != disk);
    let shared = others
        .flat_map(|(_, other)| other.seen.claims())
        .any(|other| other.name == claim.name && other.number != claim.number);
    // Nothing tells of a disk that is away once the host has forgotten it.
    if shared && !world.host.is_new {
        world.harmed(Harm::SharedName);
    }
    if stage == Stage::Pending && world.disk(disk).seen.is_committed() {
        world.harmed(Harm::Committed);
    }
    if stage == Stage::Committed {
        let name = *world.disk_mut(disk).committed_as.get_or_insert(claim.name);
        if name != claim.name {
            world.harmed(Harm::SecondName);
        }
    }
    for cell in cells {
        write(world, disk, *cell, of_table(*cell, claim, stage));
    }
    Ok(())
}

/// A step of mkfs.
pub fn make(world: &mut World, disk: u8, claim: Claim, step: Mkfs) {
    let seen = world.disk(disk).seen;
    let used = matches!(seen.at(Cell::Superblock), Value::Used(_));
    let (cell, value) = match step {
        Mkfs::Clear => (Cell::Superblock, Value::Zero),
        Mkfs::Begin => (Cell::Superblock, Value::Begun(claim)),
        Mkfs::Body => (Cell::Body, Value::Made),
        Mkfs::Superblock => (Cell::Superblock, Value::Fresh(claim)),
        Mkfs::Flush | Mkfs::End => {
            let of_partition = |cell| matches!(cell, Cell::Body | Cell::Superblock);
            world.disk_mut(disk).flush(of_partition);
            return;
        }
    };
    if used || seen.at(Cell::Body) == Value::Files {
        world.harmed(Harm::Files);
    }
    if seen.is_committed() {
        world.harmed(Harm::Committed);
    }
    write(world, disk, cell, value);
}

/// A filesystem that is not all there is not mounted.
fn mount(world: &mut World, disk: u8, job: &Job) -> Result<(), Failed> {
    let claim = job.claim.ok_or(Failed)?;
    let seen = world.disk(disk).seen;
    let complete = matches!(seen.at(Cell::Superblock), Value::Fresh(there) | Value::Used(there) if there == claim)
        && matches!(seen.at(Cell::Body), Value::Made | Value::Files);
    only_if(complete)?;
    let mounts = &mut world.host.mounts;
    if mounts.contains(&(disk, claim.name)) {
        return Ok(());
    }
    only_if(mounts.iter().all(|(_, name)| *name != claim.name))?;
    mounts.push((disk, claim.name));
    mounts.sort_unstable_by_key(|(disk, _)| *disk);
    let superblock = Value::Used(claim);
    world.disk_mut(disk).seen.put(Cell::Superblock, superblock);
    Ok(())
}
