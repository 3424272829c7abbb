//! Crashes: every state in which one can leave a disk, rebuilt from a log of
//! all writes, and tried with a new start of the agent; and the agent killed and
//! the power cut at random moments.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing
)]

mod attempt;
mod host;
mod image;
mod judge;
mod kills;
mod plan;
mod record;
mod run;
mod state;
mod workers;

use std::{process::ExitCode, sync::Arc, thread};

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};
use vm_fixtures::Lab;

use crate::{judge::Ending, kills::Kills, run::Run};

type Check<T> = (&'static str, fn(&T) -> Result<(), String>);

/// What must hold of the states.
const STATES: [Check<Run>; 4] = [
    (
        "with_its_journal_entry_every_crash_state_ends_mounted_under_its_name",
        |run| all_well(run, true),
    ),
    (
        "without_it_every_crash_state_is_mounted_or_left_exactly_as_it_was",
        |run| all_well(run, false),
    ),
    (
        "a_durable_file_that_is_gone_from_a_crash_state_counts_as_harm",
        Run::would_see_harm,
    ),
    (
        "each_crash_state_can_be_tried_again_by_its_name",
        Run::names_repeat,
    ),
];

/// What must hold after kills and power cuts.
const KILLS: [Check<Kills>; 2] = [
    (
        "names_and_durable_files_outlast_kills_and_power_cuts",
        Kills::unharmed,
    ),
    (
        "a_durable_file_that_is_gone_after_kills_counts_as_harm",
        Kills::would_see_harm,
    ),
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    if arguments.list {
        return libtest_mimic::run(&arguments, trials(&None)).exit_code();
    }
    let done = Some(Arc::new(done(&arguments)));
    let tested = libtest_mimic::run(&arguments, trials(&done));
    match done.as_deref() {
        Some(Ok(done)) => {
            let lines = [
                done.states.as_ref().map(Run::line),
                done.kills.as_ref().map(Kills::line),
            ];
            for line in lines.into_iter().flatten() {
                println!("{line}");
            }
        }
        Some(Err(error)) => eprintln!("crash: nothing was shown: {error:?}"),
        None => {}
    }
    tested.exit_code()
}

/// What was done of it, by the names that are asked for.
struct Done {
    states: Option<Run>,
    kills: Option<Kills>,
}

fn done(arguments: &Arguments) -> Result<Done> {
    let machines = arguments.test_threads.unwrap_or(1);
    let filter = arguments.filter.as_deref().unwrap_or_default();
    let states = STATES.iter().any(|(name, _)| name.contains(filter));
    let kills = KILLS.iter().any(|(name, _)| name.contains(filter));
    let (lab, seed) = (Lab::open()?, run::seed()?);
    eprintln!("crash: seed {seed} (DISK_DISCOVERY_CRASH_SEED repeats it)");
    let states = |machines| states.then(|| run::run(&lab, machines, seed)).transpose();
    // States that are asked for are tried alone.
    let kills = kills && !run::is_asked();
    let kills = || kills.then(|| kills::run(&lab, 1, seed)).transpose();
    if machines == 1 {
        return Ok(Done {
            states: states(1)?,
            kills: kills()?,
        });
    }
    // Side by side, since neither keeps two processors busy all the time.
    thread::scope(|scope| {
        let kills = scope.spawn(kills);
        let states = states(machines - 1)?;
        let kills = kills.join().unwrap()?;
        Ok(Done { states, kills })
    })
}

type Shared = Arc<Result<Done>>;

fn trials(done: &Option<Shared>) -> Vec<Trial> {
    let states = STATES
        .iter()
        .map(|&check| trial(check, done, |done| done.states.as_ref()));
    let kills = KILLS
        .iter()
        .map(|&check| trial(check, done, |done| done.kills.as_ref()));
    states.chain(kills).collect()
}

fn trial<T: 'static>(
    (name, check): Check<T>,
    done: &Option<Shared>,
    part: fn(&Done) -> Option<&T>,
) -> Trial {
    let done = done.clone();
    Trial::test(name, move || match part(ran(&done)?) {
        Some(part) => check(part).map_err(Failed::from),
        None if run::is_asked() => Ok(()),
        None => Err("not tried".into()),
    })
}

fn all_well(run: &Run, journal: bool) -> Result<(), String> {
    let endings = run.endings(journal);
    let bad: Vec<String> = endings
        .iter()
        .filter_map(|ending| match ending {
            Ending::Harmed(text) => Some(format!("HARMED {text}")),
            Ending::Stuck(text) => Some(format!("NOT RECOVERED {text}")),
            Ending::Recovered | Ending::Refused => None,
        })
        .collect();
    if bad.is_empty() && (!endings.is_empty() || run::is_asked()) {
        return Ok(());
    }
    let again = run.kept.as_ref().map(|path| {
        format!(
            "\nThe recording is kept in {}; to try a state again:\n\
             DISK_DISCOVERY_CRASH_RECORDING=… DISK_DISCOVERY_CRASH_STATE='…' ./scripts/test crash",
            path.display()
        )
    });
    Err(format!(
        "{} of {} states:\n{}{}",
        bad.len(),
        endings.len(),
        bad.join("\n"),
        again.unwrap_or_default()
    ))
}

fn ran(done: &Option<Shared>) -> Result<&Done, String> {
    let done = done.as_ref().ok_or("not run")?;
    done.as_ref().as_ref().map_err(|error| {
        let text = format!("{error:#}");
        // The whole of it is told once, at the end.
        text.lines().next().unwrap_or_default().to_owned()
    })
}
