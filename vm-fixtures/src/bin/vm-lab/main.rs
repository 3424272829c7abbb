//! Builds the images and templates, runs a script in a fresh machine, tests the harness itself.

mod selftest;

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use vm_fixtures::{Disk, Lab, image_key};

const USAGE: &str = "usage: vm-lab build | shell | key | selftest
  build     build the image and the default template, print sizes and times
  shell     run the bash script on stdin in a fresh machine with one empty 12 GiB disk
  key       print the key of the image this binary builds
  selftest  start machines and check what the harness promises";

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .as_slice()
    {
        ["build"] => build()?,
        ["shell"] => return shell(),
        ["key"] => println!("{}", image_key()),
        ["selftest"] => selftest::run()?,
        _ => bail!("{USAGE}"),
    }
    Ok(ExitCode::SUCCESS)
}

fn build() -> Result<()> {
    let started = Instant::now();
    let lab = Lab::open()?;
    println!(
        "image in {} after {:.1?}",
        lab.image_dir().display(),
        started.elapsed()
    );
    drop(lab.machine("build").start()?);
    println!("template and first clone after {:.1?}", started.elapsed());
    print_sizes(&lab.image_dir())?;
    let cloned = Instant::now();
    drop(lab.machine("clone").start()?);
    println!(
        "a clone, started and gone again: {:.2?} under {}",
        cloned.elapsed(),
        lab.accel().name()
    );
    Ok(())
}

fn print_sizes(dir: &Path) -> Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            print_sizes(&entry.path())?;
        } else {
            println!(
                "{:6} MiB {}",
                (metadata.blocks() * 512) >> 20,
                entry.path().display()
            );
        }
    }
    Ok(())
}

fn shell() -> Result<ExitCode> {
    let mut script = String::new();
    std::io::stdin()
        .read_to_string(&mut script)
        .context("read the script on stdin")?;
    let lab = Lab::open()?;
    let mut vm = lab
        .machine("shell")
        .disk(Disk::virtio("disk").gib(12))
        .start()?;
    let output = vm.run_within(Duration::from_secs(3600), &script)?;
    print!("{}", output.stdout);
    eprint!("{}", output.stderr);
    Ok(ExitCode::from(u8::try_from(output.code).unwrap_or(u8::MAX)))
}
