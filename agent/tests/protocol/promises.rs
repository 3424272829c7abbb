//! What must hold in each state, and what must come about in some.

use stateright::Property;

use crate::{
    host::{Decided, remembered},
    model::{Protocol, stop},
    world::{Cell, Claim, Disk, Name, Value, World},
};

pub const HARMLESS: &str =
    "nothing that anybody else wrote, and nothing that was used, is written over";
pub const SETTLES: &str =
    "from here the agent gets by itself to a mount, or refuses and writes nothing";

/// A state that the search must come by, or it proves little.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    Mounted,
    TornPrimaryWithJournal,
    TornWithoutJournal,
    TornCommit,
    FreshUnderPending,
    FilesUnderPending,
    OrphanAlone,
    TwoMounted,
    TwoClones,
    TwoOfOneName,
    ForeignBeside,
    AwayWithoutJournal,
}

impl Reached {
    pub fn name(self) -> &'static str {
        self.property().name
    }

    fn property(self) -> Property<Protocol> {
        match self {
            Self::Mounted => {
                Property::sometimes("mounted, and nothing left to do", |_, world: &World| {
                    world.mounted(0).is_some() && world.host.journal.is_empty()
                })
            }
            Self::TornPrimaryWithJournal => Property::sometimes(
                "a torn primary table that the journal knows",
                |_, world: &World| is_torn(world) && !world.host.journal.is_empty(),
            ),
            Self::TornWithoutJournal => {
                Property::sometimes("a torn table that no journal knows", |_, world: &World| {
                    is_torn(world) && world.host.journal.is_empty()
                })
            }
            Self::TornCommit => Property::sometimes("a torn commit", |_, world: &World| {
                let image = world.disk(0).stable;
                let pending = |value: &Value| matches!(value, Value::Pending(_));
                !world.on && image.is_committed() && image.0.iter().any(pending)
            }),
            Self::FreshUnderPending => Property::sometimes(
                "a complete filesystem under a pending claim",
                |_, world: &World| {
                    !world.on && is_pending_with(world, |value| matches!(value, Value::Fresh(_)))
                },
            ),
            Self::FilesUnderPending => {
                Property::sometimes("files under a pending claim", |_, world: &World| {
                    is_pending_with(world, |value| matches!(value, Value::Used(_)))
                })
            }
            Self::OrphanAlone => Property::sometimes(
                "a mkfs at work when the next agent runs",
                |_, world: &World| world.orphan.is_some() && world.on,
            ),
            Self::TwoMounted => Property::sometimes("two disks mounted", |_, world: &World| {
                world.host.mounts.len() == 2
            }),
            Self::TwoClones => Property::sometimes("two disks of one claim", |_, world: &World| {
                both(world).is_some_and(|[one, two]| one.number == two.number)
            }),
            Self::TwoOfOneName => {
                Property::sometimes("two disks of one name", |_, world: &World| {
                    both(world)
                        .is_some_and(|[one, two]| one.number != two.number && one.name == two.name)
                })
            }
            Self::AwayWithoutJournal => Property::sometimes(
                "a pending claim that no journal knows is away, another disk in its place",
                |_, world: &World| {
                    let seen = world.disk(0).seen;
                    let pending = seen.claims().next().is_some() && !seen.is_committed();
                    let away = world.slot_of(0).is_none() && world.host.slots[0] == Some(1);
                    pending && away && world.host.journal.is_empty()
                },
            ),
            Self::ForeignBeside => {
                Property::sometimes("a foreign sector in a table of ours", |_, world: &World| {
                    let seen = world.disk(0).seen;
                    seen.claims().next().is_some() && seen.at(Cell::PrimaryRest) == Value::Foreign
                })
            }
        }
    }
}

fn is_torn(world: &World) -> bool {
    let seen = world.disk(0).seen;
    !world.on && seen.claims().next().is_some() && seen.primary().is_none()
}

fn is_pending_with(world: &World, superblock: fn(Value) -> bool) -> bool {
    let seen = world.disk(0).seen;
    seen.claims().next().is_some() && !seen.is_committed() && superblock(seen.at(Cell::Superblock))
}

/// The claims of two disks that are there.
fn both(world: &World) -> Option<[Claim; 2]> {
    let claim = |disk| {
        world.slot_of(disk)?;
        world.disk(disk).seen.claims().next()
    };
    (world.disks.len() > 1).then_some(())?;
    Some([claim(0)?, claim(1)?])
}

pub fn all(reached: &[Reached]) -> Vec<Property<Protocol>> {
    let harmless = Property::always(HARMLESS, |_: &Protocol, world: &World| world.harm.is_none());
    let reached = reached.iter().map(|reached| reached.property());
    [harmless, Property::always(SETTLES, settles)]
        .into_iter()
        .chain(reached)
        .collect()
}

/// How a run without further faults ends.
#[derive(Debug)]
pub struct End {
    pub world: World,
    /// A job fails again and again.
    pub stuck: bool,
}

/// The agent starts and runs until nothing changes any more.
pub fn run_on(protocol: &Protocol, world: &World) -> End {
    let mut world = world.clone();
    world.on = true;
    // A job on a disk is at most 40 steps long, a round may be needed between.
    for _ in 0..400 {
        let before = world.clone();
        protocol.oracle.round(&mut world, false);
        let begun = world.jobs;
        while let Some(disk) = (0..2).find(|disk| world.jobs[usize::from(*disk)].is_some()) {
            protocol.oracle.step(&mut world, disk);
        }
        if world == before {
            let stuck = begun.iter().any(Option::is_some);
            return End { world, stuck };
        }
    }
    End { world, stuck: true }
}

fn settles(protocol: &Protocol, world: &World) -> bool {
    if world.harm.is_some() {
        return true;
    }
    // Whatever it was about to do, the agent is started anew, and what
    // is left to go wrong does not matter to a run in which nothing does.
    let mut key = world.clone();
    (key.left.crashes, key.left.stores, key.left.moves) = (0, 0, 0);
    stop(&mut key);
    key.orphan = None;
    remembered(&protocol.settled, key.clone(), || {
        let End { world: end, stuck } = run_on(protocol, &key);
        let (start, left) = (protocol.start.left, key.left);
        let written_to = left.foreign < start.foreign;
        // Another disk may have come by the name.
        let shared = key.host.is_new && key.disks.len() > 1;
        let alone = !written_to && !shared && left.clones == start.clones;
        let undisturbed = alone && left.losses == start.losses;
        let decided = protocol.oracle.decide(&end, false);
        let well = key.attached().all(|disk| {
            let (then, now) = (key.disk(disk), end.disk(disk));
            let start = protocol.start.disk(disk).seen;
            let foreign = start.0.contains(&Value::Foreign);
            // Nothing of a claim can be told from what was there but its zeroes.
            let erased = start.0.contains(&Value::Before) && then.seen.claims().next().is_none();
            let slot = end.slot_of(disk).expect("attached");
            if end
                .mounted(disk)
                .is_some_and(|name| is_right(then, now, name))
            {
                return true;
            }
            // What somebody damaged may be tried again and again in vain.
            let given_up = matches!(decided[slot], Some(Decided::Refused(_))) || written_to;
            // Its own commit is completed all the same.
            let unchanged = then.seen == now.seen || (written_to && then.seen.is_committed());
            // What was stored does not need the journal to be found.
            let stored = then.seen.at(Cell::Body) == Value::Files;
            let may_stay = foreign || erased || !(undisturbed || alone && stored);
            given_up && unchanged && may_stay
        });
        // What goes wrong on the way is found where it does.
        end.harm.is_some() || (well && (!stuck || written_to))
    })
}

/// What was stored is still there, and in the place that it had.
fn is_right(then: &Disk, now: &Disk, name: Name) -> bool {
    let files = |disk: &Disk| disk.seen.at(Cell::Body) == Value::Files;
    (files(now) || !files(then)) && then.committed_as.is_none_or(|first| first == name)
}
