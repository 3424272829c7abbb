//! Tests in virtual machines, each named for what it proves. One machine for
//! each test; where QEMU cannot start, the tests fail.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing
)]

mod gates;
mod inputs;
mod interrupted;
mod lasting;
mod permitted;
mod taken;

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};
use vm_fixtures::Lab;

type Case = (&'static str, fn(&Lab) -> Result<()>);

fn main() {
    let arguments = Arguments::from_args();
    let cases = [
        taken::CASES,
        lasting::CASES,
        interrupted::CASES,
        inputs::CASES,
        permitted::CASES,
        gates::CASES,
    ]
    .concat();
    if arguments.list {
        libtest_mimic::run(&arguments, trials(&cases, None)).exit();
    }
    match Lab::open() {
        Ok(lab) => libtest_mimic::run(&arguments, trials(&cases, Some(&lab))).exit(),
        Err(error) => {
            eprintln!("no virtual machines, so nothing can be shown: {error:?}");
            std::process::exit(1);
        }
    }
}

fn trials(cases: &[Case], lab: Option<&Lab>) -> Vec<Trial> {
    cases
        .iter()
        .map(|&(name, case)| {
            let lab = lab.cloned();
            Trial::test(name, move || {
                let lab = lab.ok_or("not opened")?;
                case(&lab).map_err(|error| Failed::from(format!("{error:?}")))
            })
        })
        .collect()
}
