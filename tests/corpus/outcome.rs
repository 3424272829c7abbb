//! What was seen of each state, and whether that is what its row promises.

use std::{collections::BTreeMap, fmt::Write};

use crate::row::Row;

/// The whole run.
#[derive(Debug)]
pub struct Run {
    /// From which all chance came.
    pub seed: u64,
    /// By the name of the row.
    pub seen: BTreeMap<&'static str, Seen>,
    /// What the commands printed that were run at the end, by the names they
    /// have in `machine`.
    pub captured: BTreeMap<&'static str, String>,
}

/// One state.
#[derive(Debug)]
pub struct Seen {
    /// Whether it could be made.
    pub made: Result<(), String>,
    /// What chance chose.
    pub notes: Vec<String>,
    /// Its disks.
    pub disks: Vec<SeenDisk>,
}

/// A disk of a state, before and after the agent.
#[derive(Debug)]
pub struct SeenDisk {
    /// Kernel name.
    pub device: String,
    /// Digest of a blank disk of that size.
    pub blank: String,
    /// Digest of all its bytes, before and after.
    pub digests: [String; 2],
    /// Writes that were sent to it, before and after.
    pub writes: [u64; 2],
    /// What the agent said of it, once for each time it was started.
    pub answers: Vec<Answer>,
}

/// What the agent says of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// `refused`, if all is well.
    pub verdict: String,
    /// Code of the reason.
    pub reason: String,
    /// Particulars.
    pub detail: String,
}

impl SeenDisk {
    fn is_changed(&self) -> bool {
        self.digests[0] != self.digests[1]
    }
}

impl Run {
    /// States whose disks were compared.
    pub fn states(&self) -> usize {
        self.made().count()
    }

    /// States with a disk that is not what it was.
    pub fn changed(&self) -> usize {
        let changed = |seen: &&Seen| seen.disks.iter().any(SeenDisk::is_changed);
        self.made().filter(changed).count()
    }

    fn made(&self) -> impl Iterator<Item = &Seen> {
        self.seen.values().filter(|seen| seen.made.is_ok())
    }

    /// Whether a row keeps its promise: not a byte changed, no write sent, and
    /// refused for the reason it names, each time.
    ///
    /// # Errors
    /// What was promised and what was seen instead.
    pub fn judge(&self, row: &Row) -> Result<(), String> {
        let seen = self.seen.get(row.name).ok_or("the run has no such state")?;
        if let Err(error) = &seen.made {
            return Err(format!("the state could not be made: {error}"));
        }
        let mut wrong = String::new();
        for (disk, reason) in seen.disks.iter().zip(row.reasons) {
            for line in disk_faults(disk, reason) {
                writeln!(wrong, "{}: {line}", disk.device).unwrap();
            }
        }
        if wrong.is_empty() {
            return Ok(());
        }
        let (seed, notes) = (self.seed, &seen.notes);
        write!(wrong, "seed {seed}, {notes:?}").unwrap();
        for disk in &seen.disks {
            let field = format!("disk=\"{}\"", disk.device);
            let lines = self.log().filter(|line| line.contains(&field));
            for line in lines.take(10) {
                write!(wrong, "\nlog: {line}").unwrap();
            }
        }
        Err(wrong)
    }

    fn log(&self) -> impl Iterator<Item = &str> {
        self.captured
            .get("log")
            .into_iter()
            .flat_map(|log| log.lines())
    }
}

fn disk_faults(disk: &SeenDisk, reason: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let [before, after] = &disk.digests;
    if disk.is_changed() {
        faults.push(format!("CHANGED from {before} to {after}"));
    }
    if *before == disk.blank {
        faults.push("it held nothing, so nothing was shown".to_owned());
    }
    let [before, after] = disk.writes;
    if before != after {
        faults.push(format!("{} writes were sent to it", after - before));
    }
    for (at, answer) in disk.answers.iter().enumerate() {
        if answer.verdict != "refused" || answer.reason != reason {
            faults.push(format!(
                "to be refused for {reason}; at start {}: {answer:?}",
                at + 1
            ));
        }
    }
    if disk.answers.is_empty() {
        faults.push("the agent said nothing of it".to_owned());
    }
    faults
}
