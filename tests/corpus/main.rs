//! The never-destroy corpus: disks that hold something, each as its own tool
//! or a hand makes it, whole and damaged. One machine holds them all beside
//! blank disks, the agent runs there in mode `enforce`, and afterwards every
//! byte of every one of them must be what it was. Each row is a test.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing
)]

mod canvas;
mod machine;
mod making;
mod outcome;
mod row;
mod rows;
mod weakened;

use std::{process::ExitCode, sync::Arc};

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};
use vm_fixtures::Lab;

use crate::{
    outcome::Run,
    row::Row,
    weakened::{GUARDS, Weakened},
};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let rows = rows::all();
    if arguments.list {
        return libtest_mimic::run(&arguments, trials(&rows, None)).exit_code();
    }
    let run = Arc::new(run(&rows));
    let tested = libtest_mimic::run(&arguments, trials(&rows, Some(&run)));
    match run.as_ref() {
        Ok(run) => println!("corpus states {}, changed {}", run.states(), run.changed()),
        Err(error) => eprintln!("corpus: nothing was shown of any state: {error:?}"),
    }
    tested.exit_code()
}

fn run(rows: &[Row]) -> Result<Run> {
    let lab = Lab::open()?;
    machine::run(&lab, rows)
}

/// The whole of it is told once, at the end.
fn first_line(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    text.lines().next().unwrap_or_default().to_owned()
}

type Shared = Arc<Result<Run>>;

fn trials(rows: &[Row], run: Option<&Shared>) -> Vec<Trial> {
    let states = rows.iter().map(|&row| {
        let run = run.cloned();
        Trial::test(row.name, move || {
            ran(&run)?.judge(&row).map_err(Failed::from)
        })
    });
    states.chain(weakened(rows, run)).collect()
}

/// The corpus sees what it guards against.
fn weakened(rows: &[Row], run: Option<&Shared>) -> Vec<Trial> {
    let trial = |name: String, check: fn(&Weakened, usize) -> Result<(), String>, at: usize| {
        let (run, rows) = (run.cloned(), rows.to_vec());
        Trial::test(name, move || {
            let weakened = Weakened::of(ran(&run)?, &rows)?;
            check(&weakened, at).map_err(Failed::from)
        })
    };
    let name = "the evidence that the agent shows leads to the verdicts that it gave";
    let mut trials = vec![trial(name.to_owned(), |weakened, _| weakened.honest(), 0)];
    for (at, guard) in GUARDS.iter().enumerate() {
        let name = format!("the corpus fails without {}", guard.name);
        let check = |weakened: &Weakened, at: usize| weakened.without(&GUARDS[at]);
        trials.push(trial(name, check, at));
    }
    let name = "without any guard the disks of the corpus would be formatted";
    trials.push(trial(
        name.to_owned(),
        |weakened, _| weakened.without_all(),
        0,
    ));
    trials
}

fn ran(run: &Option<Shared>) -> Result<&Run, String> {
    let run = run.as_ref().ok_or("not run")?;
    run.as_ref().as_ref().map_err(first_line)
}
