//! Which states are tried. Disks of a filesystem were written to in nearly the
//! same way, so what is to be tried of one log is spread over all of them: then
//! many states fit into one machine, each on a disk of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use anyhow::{Context, Result};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};
use vm_fixtures::{Request, WriteLog};

use crate::{
    record::{Recorded, SIZE},
    state::{State, volatile},
};

/// ext4 clears its inode tables in pieces longer than this after the first
/// mount. That one more piece is zero is no other state.
const CLEARING: u64 = 2_000_000;
/// The longest write that is torn.
const LONGEST: u64 = 1 << 20;
/// Random sets of lost writes for each stretch between two flushes.
const SETS: usize = 8;
/// Bytes in a block of both filesystems.
const BLOCK: u64 = 4096;
/// Random writes that are torn, for each filesystem.
const TORN: usize = 20;

/// A way to choose states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// All writes up to one of them.
    Prefix,
    /// One write that was not flushed is lost.
    OneLost,
    /// Some writes that were not flushed are lost.
    SomeLost,
    /// What was not flushed reached the disk in reverse.
    Reversed,
    /// Some sectors of a partition table.
    TornTable,
    /// Some sectors of another write.
    Torn,
}

/// States by the way in which they were chosen.
pub type Plan = BTreeMap<(Kind, bool), Vec<State>>;

/// Every state that is tried.
pub fn all(recorded: &[Recorded], seed: u64) -> Result<Plan> {
    let mut plan = Plan::new();
    for filesystem in ["ext4", "xfs"] {
        let of_it = |disk: &&Recorded| disk.filesystem == filesystem;
        let disks: Vec<&Recorded> = recorded.iter().filter(of_it).collect();
        let mut turn = Turn {
            loads: vec![0; disks.len()],
            disks,
            chance: StdRng::seed_from_u64(seed),
        };
        for journal in [true, false] {
            let mut add = |kind: Kind, mut states: Vec<State>| {
                for state in &mut states {
                    state.journal = journal;
                }
                plan.entry((kind, journal)).or_default().extend(states);
            };
            // Without the entry most are refused as they are, whatever it is
            // that is lost: fewer of them show it.
            add(Kind::Prefix, turn.prefixes());
            add(Kind::OneLost, turn.one_lost(if journal { 1 } else { 3 }));
            add(
                Kind::SomeLost,
                turn.some_lost(if journal { SETS } else { 1 }),
            );
            add(Kind::Reversed, turn.reversed());
            if filesystem == "ext4" {
                // The tables of the others are no different.
                add(Kind::TornTable, turn.torn_tables()?);
            }
            add(Kind::Torn, turn.torn(if journal { TORN } else { TORN / 4 }));
        }
    }
    Ok(plan)
}

/// All of them in such an order that a beginning has some of every kind.
pub fn mixed(plan: Plan, seed: u64) -> Vec<State> {
    let mut chance = StdRng::seed_from_u64(seed);
    let mut kinds: Vec<Vec<State>> = plan.into_values().collect();
    for states in &mut kinds {
        states.shuffle(&mut chance);
    }
    let mut chosen = Vec::new();
    while kinds.iter().any(|states| !states.is_empty()) {
        chosen.extend(kinds.iter_mut().filter_map(Vec::pop));
    }
    chosen
}

/// States that fit into one machine: one of each disk.
pub fn batches(states: impl IntoIterator<Item = State>) -> Vec<Vec<State>> {
    let mut batches: Vec<Vec<State>> = Vec::new();
    let mut of_disk: BTreeMap<String, usize> = BTreeMap::new();
    for state in states {
        let turn = of_disk.entry(state.serial.clone()).or_default();
        if *turn == batches.len() {
            batches.push(Vec::new());
        }
        batches[*turn].push(state);
        *turn += 1;
    }
    batches
}

/// The disks of a filesystem, among which the states are shared out evenly.
struct Turn<'a> {
    disks: Vec<&'a Recorded>,
    /// States that each disk has got.
    loads: Vec<usize>,
    chance: StdRng,
}

impl<'a> Turn<'a> {
    /// What is made of it with the disk that has the fewest states, among those
    /// with which something can be made of it.
    fn take(&mut self, mut make: impl FnMut(&'a Recorded) -> Option<State>) -> Option<State> {
        let mut order: Vec<usize> = (0..self.disks.len()).collect();
        order.sort_by_key(|disk| self.loads[*disk]);
        let made = |disk: &usize| Some((*disk, make(self.disks[*disk])?));
        let (disk, made) = order.iter().find_map(made)?;
        self.loads[disk] += 1;
        Some(made)
    }

    /// As many as something is made of with some disk. From the end: few disks
    /// have the longest logs.
    fn take_all(&mut self, make: impl Fn(&'a Recorded, usize) -> Option<State>) -> Vec<State> {
        let longest = self.disks.iter().map(|disk| disk.log.entries().len());
        let all = (0..=longest.max().unwrap_or_default()).rev();
        all.filter_map(|at| self.take(|disk| make(disk, at)))
            .collect()
    }

    fn prefixes(&mut self) -> Vec<State> {
        self.take_all(|disk, at| {
            let all = 0..=end(disk);
            let mut telling = all.filter(|upto| !in_clearing(&disk.log, *upto));
            Some(State::prefix(disk, telling.nth(at)?))
        })
    }

    /// Stretches of all disks by their number, with more than one write.
    fn each_stretch(&mut self) -> Vec<usize> {
        let count = self.disks.iter().map(|disk| stretches(disk).len());
        (0..count.max().unwrap_or_default()).collect()
    }

    /// Of what the agent and mkfs write. What comes after the commit is the
    /// filesystem's own affair, and tried by the other kinds.
    fn one_lost(&mut self, every: usize) -> Vec<State> {
        let mut all = Vec::new();
        for number in self.each_stretch() {
            let of = |disk: &Recorded, at: usize| {
                let stretch = stretches(disk).get(number)?.clone();
                let ours = stretch.end <= *tables(disk).last()?;
                let volatile = volatile(&disk.log, stretch.end);
                let lost = *volatile.get(at * every).filter(|_| ours)?;
                Some(State {
                    lost: [lost].into(),
                    ..State::prefix(disk, stretch.end)
                })
            };
            all.extend(self.take_all(of));
        }
        all
    }

    fn some_lost(&mut self, sets: usize) -> Vec<State> {
        let mut all = Vec::new();
        for number in self.each_stretch() {
            for _ in 0..sets {
                let (share, mut chance) = (self.chance.random_range(0.1..0.9), self.chance.clone());
                all.extend(self.take(|disk| {
                    let stretch = stretches(disk).get(number)?.clone();
                    // Any moment within the stretch.
                    let upto = chance.random_range(stretch.start + 1..=stretch.end);
                    let mut lost = volatile(&disk.log, upto);
                    lost.retain(|_| chance.random_bool(share));
                    Some(State {
                        lost: lost.into_iter().collect(),
                        ..State::prefix(disk, upto)
                    })
                }));
            }
        }
        all
    }

    fn reversed(&mut self) -> Vec<State> {
        let mut all = Vec::new();
        for number in self.each_stretch() {
            all.extend(self.take(|disk| {
                let stretch = stretches(disk).get(number)?.clone();
                Some(State {
                    reversed: true,
                    ..State::prefix(disk, stretch.end)
                })
            }));
        }
        all
    }

    /// Every part of each write of a table, for both sizes of sectors.
    fn torn_tables(&mut self) -> Result<Vec<State>> {
        let mut all = Vec::new();
        for sector in [512, 4096] {
            for number in 0..4 {
                let mut with_it = self.disks.iter().filter(|disk| disk.sector == sector);
                let Some(disk) = with_it.next() else {
                    continue;
                };
                let at = tables(disk).get(number).copied();
                let changed = changed_sectors(disk, at.context("a table is missing")?)?;
                for set in 1..(1_u64 << changed.len()) - 1 {
                    let torn = changed.iter().enumerate();
                    let torn = torn.filter(|(at, _)| set >> at & 1 == 1);
                    let torn: BTreeSet<u64> = torn.map(|(_, sector)| *sector).collect();
                    all.extend(self.take(|disk| {
                        let at = *tables(disk).get(number)?;
                        (disk.sector == sector).then(|| State {
                            torn: torn.clone(),
                            ..State::prefix(disk, at)
                        })
                    }));
                }
            }
        }
        Ok(all)
    }

    /// Other writes, torn anywhere; once there is a mounted filesystem, between
    /// its blocks. One of its blocks that is torn inside, such as a superblock of
    /// ext4 on sectors of 512 bytes, is found by its checksum, and a person's
    /// `e2fsck` has to mend it: no start of the agent can.
    fn torn(&mut self, count: usize) -> Vec<State> {
        let mut all = Vec::new();
        for _ in 0..count {
            let mut chance = StdRng::seed_from_u64(self.chance.random());
            all.extend(self.take(|disk| {
                let sector = u64::from(disk.sector);
                let committed = *tables(disk).last()?;
                let unit = |entry: usize| if entry > committed { BLOCK } else { sector };
                let long = |entry: &usize| {
                    let logged = &disk.log.entries()[*entry];
                    logged.request == Request::Write
                        && (2 * unit(*entry)..LONGEST).contains(&logged.len)
                        && !tables(disk).contains(entry)
                };
                let writes: Vec<usize> = (0..disk.log.entries().len()).filter(long).collect();
                let at = writes[chance.random_range(0..writes.len())];
                let (unit, length) = (unit(at), disk.log.entries()[at].len);
                let units = (0..length / unit).filter(|_| chance.random_bool(0.5));
                let sectors = units.flat_map(|at| at * unit / sector..(at + 1) * unit / sector);
                let torn = sectors.collect();
                let mut lost = volatile(&disk.log, at);
                lost.retain(|_| chance.random_bool(0.2));
                Some(State {
                    torn,
                    lost: lost.into_iter().collect(),
                    ..State::prefix(disk, at)
                })
            }));
        }
        all
    }
}

/// Whether an entry and the one before are nothing but the clearing of inode
/// tables.
fn in_clearing(log: &WriteLog, upto: usize) -> bool {
    let clears = |entry: usize| {
        log.entries()
            .get(entry)
            .is_some_and(|logged| logged.request == Request::Write && logged.len > CLEARING)
    };
    upto > 0 && clears(upto - 1) && clears(upto)
}

/// Where the user has ended, and a little more was written.
fn end(disk: &Recorded) -> usize {
    (disk.marks[2] + 6).min(disk.log.entries().len())
}

/// Writes between two flushes, where there is more than one.
fn stretches(disk: &Recorded) -> Vec<Range<usize>> {
    let entries = disk.log.entries().iter().take(end(disk)).enumerate();
    let flushes = entries.filter(|(_, entry)| entry.request == Request::Flush);
    let stretches = flushes.map(|(at, _)| disk.log.durable_within(at)..at);
    stretches
        .filter(|stretch| stretch.len() > 1)
        .filter(|stretch| stretch.len() < 10 || !in_clearing(&disk.log, stretch.start + 5))
        .collect()
}

/// The writes of partition tables: backup and primary, pending and committed.
fn tables(disk: &Recorded) -> Vec<usize> {
    let entries = disk.log.entries().iter().enumerate();
    let at_an_end = entries.filter(|(_, entry)| {
        entry.request == Request::Write && (entry.at == 0 || entry.at + entry.len == SIZE)
    });
    at_an_end.map(|(at, _)| at).collect()
}

/// Sectors of a table that are not what was there before.
fn changed_sectors(disk: &Recorded, at: usize) -> Result<Vec<u64>> {
    let (log, sector) = (&disk.log, disk.sector as usize);
    let bytes = log.bytes(at)?;
    let place = log.entries()[at].at;
    let earlier = tables(disk)
        .into_iter()
        .rfind(|other| *other < at && log.entries()[*other].at == place);
    let before = match earlier {
        Some(earlier) => log.bytes(earlier)?,
        None => vec![0; bytes.len()],
    };
    let pairs = bytes.chunks(sector).zip(before.chunks(sector)).enumerate();
    let changed = pairs.filter(|(_, (now, then))| now != then);
    Ok(changed.map(|(at, _)| at as u64).collect())
}
