//! A state that a crash can leave a disk in, by the log of what was written.

use std::{
    collections::BTreeSet,
    fmt::{self, Write as _},
    fs::File,
    path::Path,
    str::FromStr,
};

use anyhow::{Context, Result, bail, ensure};
use vm_fixtures::{Request, WriteLog};

use crate::record::{Recorded, SIZE};

/// What of the log is on the disk. Its text repeats it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Serial number of the disk.
    pub serial: String,
    /// Whether the host still has the journal entry.
    pub journal: bool,
    /// Entries of the log before the crash.
    pub upto: usize,
    /// Those of them that never reached the disk.
    pub lost: BTreeSet<usize>,
    /// Whether what was not flushed reached it in reverse.
    pub reversed: bool,
    /// Sectors of the next entry that reached it as well.
    pub torn: BTreeSet<u64>,
}

impl State {
    /// Everything up to an entry.
    pub fn prefix(disk: &Recorded, upto: usize) -> Self {
        Self {
            serial: disk.serial.clone(),
            journal: true,
            upto,
            lost: BTreeSet::new(),
            reversed: false,
            torn: BTreeSet::new(),
        }
    }

    /// Whether everything that the user did before a mark is on the disk: it
    /// was flushed, and what was flushed cannot be lost.
    pub fn holds(&self, mark: usize) -> bool {
        self.upto >= mark
    }

    /// Makes the disk's file.
    pub fn rebuild(&self, disk: &Recorded, path: &Path) -> Result<()> {
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .with_context(|| format!("create {}", path.display()))?;
        file.set_len(SIZE)?;
        self.replay(&disk.log, u64::from(disk.sector), &file)
    }

    /// Does to a disk's file what reached the disk.
    pub fn replay(&self, log: &WriteLog, sector: u64, file: &File) -> Result<()> {
        ensure!(self.upto <= log.entries().len(), "{self}: no such entry");
        let durable = log.durable_within(self.upto);
        let mut volatile: Vec<usize> = (durable..self.upto).collect();
        if self.reversed {
            volatile.reverse();
        }
        for entry in (0..durable).chain(volatile) {
            if !self.lost.contains(&entry) {
                log.apply(entry, file)?;
            }
        }
        for at in &self.torn {
            log.apply_part(self.upto, at * sector, (at + 1) * sector, file)?;
        }
        Ok(())
    }
}

/// Writes before a crash that a disk may have lost.
pub fn volatile(log: &WriteLog, upto: usize) -> Vec<usize> {
    let may_go = |entry: &usize| {
        let logged = &log.entries()[*entry];
        logged.request != Request::Flush && !logged.forced
    };
    (log.durable_within(upto)..upto).filter(may_go).collect()
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = if self.journal {
            "journal"
        } else {
            "no-journal"
        };
        write!(f, "{},{kept},{}", self.serial, self.upto)?;
        if !self.lost.is_empty() {
            write!(f, ",lost={}", ranges(self.lost.iter().map(|at| *at as u64)))?;
        }
        if self.reversed {
            f.write_str(",reversed")?;
        }
        if !self.torn.is_empty() {
            write!(f, ",torn={}", ranges(self.torn.iter().copied()))?;
        }
        Ok(())
    }
}

impl FromStr for State {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut words = text.split(',');
        let mut word = || words.next().with_context(|| format!("{text:?} ends early"));
        let mut state = Self {
            serial: word()?.to_owned(),
            journal: word()? == "journal",
            upto: word()?.parse()?,
            lost: BTreeSet::new(),
            reversed: false,
            torn: BTreeSet::new(),
        };
        for word in words {
            match word.split_once('=') {
                Some(("lost", list)) => {
                    let lost = numbers(list)?.into_iter().map(usize::try_from);
                    state.lost = lost.collect::<Result<_, _>>()?;
                }
                Some(("torn", list)) => state.torn = numbers(list)?,
                None if word == "reversed" => state.reversed = true,
                Some(_) | None => bail!("{word:?} in {text:?}"),
            }
        }
        Ok(state)
    }
}

/// As `0-3+7`.
fn ranges(numbers: impl Iterator<Item = u64>) -> String {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            Some(_) | None => runs.push((number, number)),
        }
    }
    let mut text = String::new();
    for (first, last) in runs {
        let plus = if text.is_empty() { "" } else { "+" };
        if first == last {
            write!(text, "{plus}{first}").unwrap();
        } else {
            write!(text, "{plus}{first}-{last}").unwrap();
        }
    }
    text
}

fn numbers(text: &str) -> Result<BTreeSet<u64>> {
    let mut all = BTreeSet::new();
    for run in text.split('+') {
        let (first, last) = run.split_once('-').unwrap_or((run, run));
        all.extend(first.parse::<u64>()?..=last.parse()?);
    }
    Ok(all)
}
