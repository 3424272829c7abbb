//! Failing disks and storms of events. For each fault: it has a name that is
//! shown, the agent backs off, no other disk waits for it, nothing is lost, and
//! when the fault goes the disk is mounted without a restart of the agent.
//!
//! A sample runs unless `DISK_DISCOVERY_FAULTS=all`. The last line counts.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing
)]

mod bad;
mod hang;
mod io;
mod mkfs;
mod state;
mod storm;
mod tally;
mod vanish;
mod ward;

use std::{process::ExitCode, sync::Arc};

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};
use vm_fixtures::Lab;

use crate::tally::Tally;

/// What a case gets to work with.
#[derive(Debug)]
struct Ground {
    lab: Lab,
    /// Everything, not a sample.
    all: bool,
    tally: Tally,
}

/// Whether a case runs in a sample, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Always,
    InAll,
}

type Case = (&'static str, When, fn(&Ground) -> Result<()>);

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let cases = [
        io::CASES,
        bad::CASES,
        hang::CASES,
        mkfs::CASES,
        state::CASES,
        vanish::CASES,
        storm::CASES,
    ]
    .concat();
    let all = std::env::var_os("DISK_DISCOVERY_FAULTS").is_some_and(|extent| extent == "all");
    let cases: Vec<Case> = cases
        .into_iter()
        .filter(|(_, when, _)| all || *when == When::Always)
        .collect();
    if arguments.list {
        return libtest_mimic::run(&arguments, trials(&cases, None)).exit_code();
    }
    let lab = match Lab::open() {
        Ok(lab) => lab,
        Err(error) => {
            eprintln!("no virtual machines, so nothing can be shown: {error:?}");
            return ExitCode::FAILURE;
        }
    };
    let ground = Arc::new(Ground {
        lab,
        all,
        tally: Tally::default(),
    });
    let tested = libtest_mimic::run(&arguments, trials(&cases, Some(&ground)));
    println!("{}", ground.tally);
    if ground.tally.is_clean() {
        tested.exit_code()
    } else {
        ExitCode::FAILURE
    }
}

fn trials(cases: &[Case], ground: Option<&Arc<Ground>>) -> Vec<Trial> {
    cases
        .iter()
        .map(|&(name, _, case)| {
            let ground = ground.cloned();
            Trial::test(name, move || {
                let ground = ground.ok_or("no ground")?;
                case(&ground).map_err(|error| Failed::from(format!("{error:?}")))
            })
        })
        .collect()
}
