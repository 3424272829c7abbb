//! Records, tries the states, counts.

use std::{
    path::PathBuf,
    time::{Instant, SystemTime},
};

use anyhow::{Context, Result, bail};
use vm_fixtures::{Lab, Request};

use crate::{
    attempt::attempt,
    judge::{Ending, Seen},
    plan,
    record::{self, Recorded},
    state::State,
    workers::share_out,
};

/// Disks for each filesystem, and with that twice as many states in a machine.
const EACH: usize = 20;
/// The same, and machines, for a sample.
const SAMPLE: (usize, usize) = (4, 2);

/// Names the states to be tried, instead of a plan.
const STATE: &str = "DISK_DISCOVERY_CRASH_STATE";

/// What was seen.
#[derive(Debug)]
pub struct Run {
    /// Every state.
    pub seen: Vec<Seen>,
    /// A state that no crash leaves: something is gone that was durable.
    pub control: Option<Seen>,
    /// Where the recording is, if it is to be kept.
    pub kept: Option<PathBuf>,
}

impl Run {
    /// What became of them.
    pub fn endings(&self, journal: bool) -> Vec<Ending> {
        let seen = self
            .seen
            .iter()
            .filter(|seen| seen.state.journal == journal);
        seen.map(Seen::ending).collect()
    }

    /// Whether something would be said if a durable file were gone.
    pub fn would_see_harm(&self) -> Result<(), String> {
        match self.control.as_ref().map(Seen::ending) {
            Some(Ending::Harmed(_)) => Ok(()),
            None if is_asked() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }

    /// Whether each state can be tried again by its name.
    pub fn names_repeat(&self) -> Result<(), String> {
        let lost =
            |state: &&State| state.to_string().parse::<State>().ok().as_ref() != Some(*state);
        let mut states = self.seen.iter().map(|seen| &seen.state);
        match states.find(lost) {
            Some(state) => Err(format!("{state:?} is not {state}")),
            None => Ok(()),
        }
    }

    /// The line that counts them.
    pub fn line(&self) -> String {
        let endings: Vec<Ending> = self.seen.iter().map(Seen::ending).collect();
        let count = |wanted: fn(&Ending) -> bool| endings.iter().filter(|end| wanted(end)).count();
        format!(
            "crash states {}, recovered {}, refused without journal {}, harmed {}{}",
            endings.len(),
            count(|end| *end == Ending::Recovered),
            count(|end| *end == Ending::Refused),
            count(|end| matches!(end, Ending::Harmed(_))),
            match count(|end| matches!(end, Ending::Stuck(_))) {
                0 => String::new(),
                stuck => format!(", NOT RECOVERED {stuck}"),
            }
        )
    }
}

/// The seed of a run: given, or by the clock.
pub fn seed() -> Result<u64> {
    match std::env::var("DISK_DISCOVERY_CRASH_SEED") {
        Ok(text) => text
            .parse()
            .context("DISK_DISCOVERY_CRASH_SEED is no number"),
        Err(_) => {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
            Ok(u64::from(now.subsec_nanos()))
        }
    }
}

/// Whether everything is to be tried and not a sample.
pub fn everything() -> bool {
    std::env::var("DISK_DISCOVERY_CRASH_ALL").is_ok_and(|value| value == "1")
}

/// Whether certain states were asked for.
pub fn is_asked() -> bool {
    std::env::var_os(STATE).is_some()
}

/// Tries the states, in as many machines at a time.
pub fn run(lab: &Lab, machines: usize, seed: u64) -> Result<Run> {
    let began = Instant::now();
    let tell = |what: &str| eprintln!("crash: {what} after {} s", began.elapsed().as_secs());
    let made = tempfile::Builder::new()
        .prefix("crash.")
        .tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let given = std::env::var_os("DISK_DISCOVERY_CRASH_RECORDING").map(PathBuf::from);
    let recording = match &given {
        Some(path) => path,
        None => {
            let each = if everything() { EACH } else { SAMPLE.0 };
            record::record(lab, each, made.path())?;
            tell("the disks are recorded");
            made.path()
        }
    };
    let recorded = record::read(recording)?;
    let (control, batches) = chosen(&recorded, seed)?;
    let count = batches.len();
    let seen = share_out(machines, batches, |at, batch| {
        let seen = attempt(lab, &recorded, &batch, made.path())?;
        let tried = seen
            .iter()
            .filter(|seen| control.as_ref() != Some(&seen.state));
        let endings: Vec<Ending> = tried.map(Seen::ending).collect();
        let bad: Vec<&Ending> = endings.iter().filter(|ending| !ending.is_good()).collect();
        tell(&format!(
            "machine {} of {count}: {} of {} states are as promised",
            at + 1,
            endings.len() - bad.len(),
            endings.len()
        ));
        for ending in bad {
            eprintln!("crash: {ending:?}");
        }
        Ok(seen)
    })?;
    let (of_control, seen) = seen
        .into_iter()
        .flatten()
        .partition::<Vec<Seen>, _>(|seen| control.as_ref() == Some(&seen.state));
    let mut run = Run {
        seen,
        control: of_control.into_iter().next(),
        kept: given.clone(),
    };
    if given.is_none() && !run.seen.iter().all(|seen| seen.ending().is_good()) {
        run.kept = Some(made.keep());
    }
    Ok(run)
}

/// The control and the states, by machines.
fn chosen(recorded: &[Recorded], seed: u64) -> Result<(Option<State>, Vec<Vec<State>>)> {
    if let Ok(text) = std::env::var(STATE) {
        let states = text.split_whitespace().map(str::parse);
        let states: Vec<State> = states.collect::<Result<_>>()?;
        return Ok((None, plan::batches(states)));
    }
    let plan = plan::all(recorded, seed)?;
    for ((kind, journal), states) in &plan {
        let with = if *journal { "with" } else { "without" };
        eprintln!("crash: {kind:?} {with} journal: {} states", states.len());
    }
    let control = control(recorded.first().context("nothing was recorded")?)?;
    let states = plan::mixed(plan, seed);
    let mut batches = plan::batches([control.clone()].into_iter().chain(states));
    if !everything() {
        batches.truncate(SAMPLE.1);
    }
    Ok((Some(control), batches))
}

/// The state in which the bytes of the user's file are lost, although they were
/// flushed.
fn control(disk: &Recorded) -> Result<State> {
    let line = format!("{}\n", disk.serial).repeat(100);
    for at in 0..disk.marks[0] {
        let logged = &disk.log.entries()[at];
        if logged.request == Request::Write && disk.log.bytes(at)?.starts_with(line.as_bytes()) {
            return Ok(State {
                lost: [at].into(),
                ..State::prefix(disk, disk.marks[0])
            });
        }
    }
    bail!("the user's file is not in the log")
}
