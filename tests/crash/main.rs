//! Crashes: every state in which one can leave a disk, rebuilt from a log of
//! all writes, and tried with a new start of the agent.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing
)]

mod attempt;
mod image;
mod judge;
mod plan;
mod record;
mod run;
mod state;

use std::{process::ExitCode, sync::Arc};

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};
use vm_fixtures::Lab;

use crate::{judge::Ending, run::Run};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    if arguments.list {
        return libtest_mimic::run(&arguments, trials(None)).exit_code();
    }
    let machines = arguments.test_threads.unwrap_or(1);
    let run = Arc::new(Lab::open().and_then(|lab| run::run(&lab, machines)));
    let tested = libtest_mimic::run(&arguments, trials(Some(&run)));
    match run.as_ref() {
        Ok(run) => println!("{}", run.line()),
        Err(error) => eprintln!("crash: nothing was shown of any state: {error:?}"),
    }
    tested.exit_code()
}

type Shared = Arc<Result<Run>>;

fn trials(run: Option<&Shared>) -> Vec<Trial> {
    let trial = |name: &str, check: fn(&Run) -> Result<(), String>| {
        let run = run.cloned();
        Trial::test(name, move || check(ran(&run)?).map_err(Failed::from))
    };
    vec![
        trial(
            "with_its_journal_entry_every_crash_state_ends_mounted_under_its_name",
            |run| all_well(run, true),
        ),
        trial(
            "without_it_every_crash_state_is_mounted_or_left_exactly_as_it_was",
            |run| all_well(run, false),
        ),
        trial("a_durable_file_that_is_gone_counts_as_harm", |run| {
            match run.control.as_ref().map(judge::Seen::ending) {
                Some(Ending::Harmed(_)) => Ok(()),
                // States that are asked for are tried alone.
                None if run::is_asked() => Ok(()),
                other => Err(format!("{other:?}")),
            }
        }),
    ]
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

fn ran(run: &Option<Shared>) -> Result<&Run, String> {
    let run = run.as_ref().ok_or("not run")?;
    run.as_ref().as_ref().map_err(|error| {
        let text = format!("{error:#}");
        // The whole of it is told once, at the end.
        text.lines().next().unwrap_or_default().to_owned()
    })
}
