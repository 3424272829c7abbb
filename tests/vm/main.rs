//! Tests in virtual machines, each named for what it proves. One machine for
//! each test; where QEMU cannot start, the tests fail.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing
)]

mod adopted;
mod cluster;
mod contested;
mod faulty;
mod gates;
mod growing;
mod grown;
mod hazards;
mod identity;
mod inputs;
mod interrupted;
mod lasting;
mod mount_units;
mod mounts;
mod opened;
mod permitted;
mod released;
mod swapped;
mod taken;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use vm_fixtures::Lab;

type Case = (&'static str, fn(&Lab) -> Result<()>);

fn main() {
    let arguments = Arguments::from_args();
    let cases = [
        taken::CASES,
        lasting::CASES,
        identity::CASES,
        adopted::CASES,
        mounts::CASES,
        interrupted::CASES,
        inputs::CASES,
        permitted::CASES,
        gates::CASES,
        hazards::CASES,
        contested::CASES,
        opened::CASES,
        swapped::CASES,
        faulty::CASES,
        grown::CASES,
        growing::CASES,
        mount_units::CASES,
        released::CASES,
        cluster::CASES,
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

/// Runs a program of the host on the file of a disk: to the guest the medium
/// changes without a word.
fn host(program: &str, arguments: &[&str], file: &Path) -> Result<()> {
    let mut command = Command::new(program);
    let ended = command.args(arguments).arg(file).output()?;
    ensure!(ended.status.success(), "{command:?}: {ended:?}");
    Ok(())
}

/// The same for a program that wants a word in front of the file.
fn host_to(program: &str, arguments: &[&str], before: &str, file: &Path) -> Result<()> {
    let last = format!("{before}{}", file.display());
    let mut command = Command::new(program);
    let ended = command.args(arguments).arg(last).output()?;
    ensure!(ended.status.success(), "{command:?}: {ended:?}");
    Ok(())
}

/// The file of a disk with an ext4 that was made on another machine.
fn foreign_image(directory: &Path) -> Result<PathBuf> {
    let file = directory.join("foreign.img");
    host("truncate", &["-s", "12G"], &file)?;
    host("mkfs.ext4", &["-q", "-F"], &file)?;
    Ok(file)
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
