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

use std::{process::ExitCode, sync::Arc};

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};
use vm_fixtures::Lab;

use crate::{outcome::Run, row::Row};

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
        Err(error) => eprintln!("nothing was shown: {error:?}"),
    }
    tested.exit_code()
}

fn run(rows: &[Row]) -> Result<Run> {
    let lab = Lab::open()?;
    machine::run(&lab, rows)
}

fn trials(rows: &[Row], run: Option<&Arc<Result<Run>>>) -> Vec<Trial> {
    rows.iter()
        .map(|&row| {
            let run = run.cloned();
            Trial::test(row.name, move || {
                let run = run.ok_or("not run")?;
                let run = run
                    .as_ref()
                    .as_ref()
                    .map_err(|error| format!("{error:?}"))?;
                run.judge(&row).map_err(Failed::from)
            })
        })
        .collect()
}
