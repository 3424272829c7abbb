//! The protocol by which a disk is claimed, checked in every order of steps,
//! crashes, people and disks that come and go, within bounds.
//!
//! The disks and the host are abstract; what is made of them is not: each
//! decision, each proof on an open disk, is the agent's own function on the
//! bytes that an abstract disk stands for. `agent/docs/protocol.md` describes
//! the protocol, and what the model leaves out.
//!
//! - `world`: what a disk, the host and the agent can be; `steps`: what a job
//!   does, right and with mistakes; `model`: what can happen
//! - `bytes`, `host`: from there to the agent's own readers and decisions
//! - `execute`: a round and a step; `promises`: what must hold
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "everything in this program is a test"
)]

mod bytes;
mod document;
mod execute;
mod holds;
mod host;
mod mistakes;
mod model;
mod promises;
mod steps;
mod world;

use std::time::Instant;

use disk_discovery::units::Filesystem;
use host::{Oracle, Setup};
use model::Protocol;
use promises::Reached;
use stateright::{Checker, HasDiscoveries, Model};
use steps::Mistake;
use world::{Budget, Claim, Directory, Image, Journalled, World};

/// A world to begin with, and what may go wrong in it.
#[derive(Debug, Clone)]
struct Case {
    setup: Setup,
    disks: Vec<Image>,
    /// Which disk is `sdb`.
    first: Option<u8>,
    /// The claim of a first disk that was begun here.
    begun: Option<Claim>,
    left: Budget,
    reached: Vec<Reached>,
}

impl Case {
    /// One disk, `sdb`, with serial number, to be ext4; others are away at first.
    fn of(disks: &[Image], left: Budget) -> Self {
        Self {
            setup: Setup {
                filesystem: Filesystem::Ext4,
                identified: true,
                approved: None,
                considerate: true,
                mistake: None,
            },
            disks: disks.to_vec(),
            first: Some(0),
            begun: None,
            left,
            reached: Vec::new(),
        }
    }

    fn with(mut self, change: impl FnOnce(&mut Setup)) -> Self {
        change(&mut self.setup);
        self
    }

    /// The host was just installed, and no disk is there yet.
    fn on_a_new_host(mut self) -> Self {
        self.first = None;
        self
    }

    /// The first disk was begun on this host under a claim, and pulled out.
    fn begun_and_away(mut self, claim: Claim) -> Self {
        (self.first, self.begun) = (None, Some(claim));
        self
    }

    fn reaching(mut self, reached: &[Reached]) -> Self {
        self.reached.extend_from_slice(reached);
        self
    }

    fn protocol(&self) -> Protocol {
        let mut world = World::new(&self.disks, [self.first, None], self.left);
        world.host.is_new = self.first.is_none() && self.begun.is_none();
        if let Some(claim) = self.begun {
            world.host.journal.push(Journalled {
                claim,
                of: 0,
                approved: false,
            });
            world.host.directories[claim.name.index()] = Directory::Kept;
        }
        Protocol::new(Oracle::new(self.setup.clone()), world, &self.reached)
    }

    /// Searches all of it: no promise is broken, and the states that matter
    /// were among those searched.
    fn holds(&self, name: &str) {
        let began = Instant::now();
        let checker = self.protocol().checker().spawn_bfs().join();
        println!(
            "protocol states {} in {:.1} s: {name}",
            checker.unique_state_count(),
            began.elapsed().as_secs_f64()
        );
        for promise in [promises::HARMLESS, promises::SETTLES] {
            if let Some(path) = checker.discovery(promise) {
                panic!("not so: {promise}: {}", told(path));
            }
        }
        for reached in &self.reached {
            checker.assert_any_discovery(reached.name());
        }
    }

    /// Searches until a promise is broken, and says which.
    fn breaks(&self, name: &str) -> &'static str {
        let checker = self.protocol().checker();
        let checker = checker.finish_when(HasDiscoveries::AnyFailures);
        let checker = checker.spawn_bfs().join();
        let states = checker.unique_state_count();
        let mut broken = [promises::HARMLESS, promises::SETTLES].into_iter();
        let found = broken.find_map(|promise| Some((promise, checker.discovery(promise)?)));
        let Some((promise, path)) = found else {
            panic!("{name}: nothing is found in {states} states");
        };
        println!(
            "{name}: not so after {states} states: {promise}: {}",
            told(path)
        );
        promise
    }
}

/// What happened, and where it ended.
fn told(path: stateright::Path<World, model::Action>) -> String {
    let last = path.last_state().clone();
    let actions = path.into_actions();
    let actions: Vec<String> = actions.iter().map(|action| format!("{action:?}")).collect();
    format!("{}\n  {:?}\n  {last:?}", actions.join(", "), last.harm)
}
