//! When a symptom is a finding, and when to write again after a failure. Pure
//! but for the moments that it is given.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use rand::Rng;

use super::{
    api::Failure,
    finding::{Finding, Kind},
    register::{Change, SUMMARY},
};
use crate::units::DiskName;

/// A conflict is tried again at once so often in a row.
const CONFLICTS: u32 = 8;
/// Pauses while Longhorn has not taken notice of the last change of disks.
const SYNCING: [Duration; 4] = [
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(20),
    Duration::from_secs(30),
];
/// The longest pause after failures that may pass by themselves.
const LONGEST: Duration = Duration::from_mins(5);
/// What was rejected is tried again after this long, or when the Node changed.
const REJECTED: Duration = Duration::from_hours(1);
/// Others may change the Node all the time: not sooner than this.
const REJECTED_FOR: Duration = Duration::from_mins(1);
/// Longhorn that has not taken notice of a change after this long is told of.
const ALARM: Duration = Duration::from_mins(3);
/// The same is written no more than this often
const REPEATS: u32 = 6;
/// within this time before it is told, and then ever more seldom.
const REPEATS_WITHIN: Duration = Duration::from_mins(10);
/// A summary alone is written after it has stayed the same for so long.
const SETTLED: Duration = Duration::from_secs(10);
/// No summary alone is written sooner than this after another.
const SUMMARIES: Duration = Duration::from_mins(1);

/// Since when each symptom lasts. `hurry` divides every wait: 1, but in tests.
#[derive(Debug)]
pub struct Symptoms {
    since: BTreeMap<(Option<DiskName>, Kind), Instant>,
    hurry: u32,
}

impl Symptoms {
    /// None so far.
    pub fn new(hurry: u32) -> Self {
        Self {
            since: BTreeMap::new(),
            hurry,
        }
    }

    /// Symptoms that have lasted long enough, and when the next one will have.
    pub fn lasting(&mut self, seen: Vec<Finding>, now: Instant) -> (Vec<Finding>, Option<Instant>) {
        let keys: BTreeSet<_> = seen.iter().map(Finding::key).collect();
        self.since.retain(|key, _| keys.contains(key));
        let (mut lasting, mut next) = (Vec::new(), None::<Instant>);
        for finding in seen {
            let since = *self.since.entry(finding.key()).or_insert(now);
            let due = since + finding.kind.patience() / self.hurry;
            if due <= now {
                lasting.push(finding);
            } else {
                next = Some(next.map_or(due, |next| next.min(due)));
            }
        }
        (lasting, next)
    }
}

/// A change that was rejected.
#[derive(Debug)]
struct Rejection {
    why: String,
    /// Of the Node: it grows with each change of what is asked for.
    generation: Option<i64>,
    /// It stands until then, whatever changes.
    at_least: Instant,
    until: Instant,
}

impl Rejection {
    fn stands(&self, generation: Option<i64>, now: Instant) -> bool {
        now < self.at_least || (self.generation == generation && now < self.until)
    }
}

/// When to write.
#[derive(Debug)]
pub struct Writes {
    hurry: u32,
    failures: u32,
    conflicts: u32,
    not_before: Option<Instant>,
    failure: Option<Failure>,
    /// Since when Longhorn is waited for.
    syncing: Option<Instant>,
    /// Entries are tried one at a time, to find the one that is rejected.
    one_by_one: bool,
    rejected: BTreeMap<DiskName, Rejection>,
    rejected_change: Option<(Change, Rejection)>,
    /// What was written, when last, and how often in a row.
    recent: Vec<(Change, Instant, u32)>,
    summary: Option<(String, Instant)>,
    summary_written: Option<Instant>,
}

impl Writes {
    /// Nothing was written.
    pub fn new(hurry: u32) -> Self {
        Self {
            hurry,
            failures: 0,
            conflicts: 0,
            not_before: None,
            failure: None,
            syncing: None,
            one_by_one: false,
            rejected: BTreeMap::new(),
            rejected_change: None,
            recent: Vec::new(),
            summary: None,
            summary_written: None,
        }
    }

    /// Whether to write now.
    pub fn may(&self, change: &Change, generation: Option<i64>, now: Instant) -> bool {
        !self.is_paused(now) && !self.is_rejected(change, generation, now)
    }

    /// Whether entries were rejected, and need not be tried yet.
    pub fn is_rejected(&self, change: &Change, generation: Option<i64>, now: Instant) -> bool {
        let rejected = self.rejected_change.as_ref();
        rejected.is_some_and(|(rejected, rejection)| {
            rejected.disks == change.disks && rejection.stands(generation, now)
        })
    }

    /// When a pause ends, if there is one.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        let summary = self.summary.as_ref().map(|(_, since)| {
            let settled = *since + SETTLED / self.hurry;
            let written = self.summary_written;
            written.map_or(settled, |at| settled.max(at + SUMMARIES / self.hurry))
        });
        let rejections = self.rejected.values();
        let last = self.rejected_change.as_ref().map(|(_, last)| last);
        let rejections = rejections.chain(last).flat_map(|rejection| {
            // When something has changed since, it is tried then.
            [rejection.at_least, rejection.until]
        });
        let moments = [self.not_before, summary].into_iter().flatten();
        moments.chain(rejections).filter(|at| *at > now).min()
    }

    /// Whether a summary that differs from the one on the Node is to be written
    /// although nothing else is.
    pub fn summary_is_due(&mut self, line: &str, now: Instant) -> bool {
        let since = match &self.summary {
            Some((known, since)) if known == line => *since,
            Some(_) | None => {
                self.summary = Some((line.to_owned(), now));
                now
            }
        };
        let quiet = self
            .summary_written
            .is_none_or(|at| now.duration_since(at) >= SUMMARIES / self.hurry);
        quiet && now.duration_since(since) >= SETTLED / self.hurry
    }

    /// The summary on the Node is as it should be.
    pub fn summary_is_current(&mut self) {
        self.summary = None;
    }

    /// Whether the entry of a disk was rejected, and need not be tried yet.
    pub fn has_rejected(&self, disk: &DiskName, generation: Option<i64>, now: Instant) -> bool {
        let rejection = self.rejected.get(disk);
        rejection.is_some_and(|rejection| rejection.stands(generation, now))
    }

    /// Whether there is a pause after a failure.
    pub fn is_paused(&self, now: Instant) -> bool {
        self.not_before.is_some_and(|moment| now < moment)
    }

    /// Disks that are left out of the next change: those that wait for something
    /// else, those that were rejected and, while it is not known which is, all
    /// others but the first.
    pub fn held_back(
        &mut self,
        wanted: &BTreeSet<DiskName>,
        waiting: &BTreeSet<DiskName>,
        generation: Option<i64>,
        now: Instant,
    ) -> BTreeSet<DiskName> {
        self.rejected
            .retain(|name, rejection| wanted.contains(name) && rejection.stands(generation, now));
        let mut held: BTreeSet<DiskName> = self.rejected.keys().cloned().collect();
        held.extend(waiting.iter().cloned());
        if self.one_by_one {
            let mut open = wanted.iter().filter(|name| !held.contains(*name));
            open.next();
            let rest: Vec<DiskName> = open.cloned().collect();
            if rest.is_empty() {
                self.one_by_one = false;
            }
            held.extend(rest);
        }
        held
    }

    /// It is written. Whether the same was written again and again.
    pub fn succeeded(&mut self, change: &Change, now: Instant) {
        self.failures = 0;
        self.conflicts = 0;
        self.not_before = None;
        self.failure = None;
        self.syncing = None;
        let other = |(rejected, _): &(Change, Rejection)| rejected.disks != change.disks;
        self.rejected_change = self.rejected_change.take().filter(other);
        if change.annotations.contains_key(SUMMARY) {
            self.summary_written = Some(now);
            self.summary = None;
        }
        let mut change = change.clone();
        change.annotations.remove(SUMMARY);
        if change.is_empty() {
            return;
        }
        self.forget_old(now);
        let before = self.recent.iter_mut().find(|(known, ..)| *known == change);
        let times = match before {
            Some((_, at, times)) => {
                *at = now;
                *times = times.saturating_add(1);
                *times
            }
            None => {
                self.recent.push((change, now, 1));
                1
            }
        };
        if let Some(times) = times.checked_sub(REPEATS) {
            self.pause(Duration::from_secs(15), times, now);
        }
    }

    fn forget_old(&mut self, now: Instant) {
        self.recent
            .retain(|(_, at, _)| now.duration_since(*at) < REPEATS_WITHIN);
    }

    /// It could not be written.
    pub fn failed(
        &mut self,
        change: &Change,
        failure: Failure,
        generation: Option<i64>,
        now: Instant,
    ) {
        let times = self.failures;
        match &failure {
            Failure::Conflict => {
                self.conflicts = self.conflicts.saturating_add(1);
                if let Some(times) = self.conflicts.checked_sub(CONFLICTS) {
                    self.pause(Duration::from_millis(200), times, now);
                }
                return;
            }
            Failure::Syncing => {
                self.syncing.get_or_insert(now);
                let at = usize::try_from(times).unwrap_or(usize::MAX);
                let pause = SYNCING.get(at).or(SYNCING.last()).copied();
                self.not_before = Some(now + jittered(pause.unwrap_or(LONGEST)) / self.hurry);
            }
            Failure::Absent => self.pause(Duration::from_secs(30), 0, now),
            Failure::Forbidden(_) => self.pause(Duration::from_mins(1), times, now),
            Failure::Unauthorized(_) | Failure::Unreachable(_) => {
                self.pause(Duration::from_secs(1), times, now);
            }
            Failure::Rejected(why) => {
                let rejection = Rejection {
                    why: why.clone(),
                    generation,
                    at_least: now + REJECTED_FOR / self.hurry,
                    until: now + REJECTED,
                };
                let mut added = change.added.iter();
                match (added.next(), added.next()) {
                    (Some(_), Some(_)) => self.one_by_one = true,
                    (Some(only), None) => {
                        self.rejected.insert(only.clone(), rejection);
                    }
                    (None, _) => self.rejected_change = Some((change.clone(), rejection)),
                }
                self.failure = None;
                return;
            }
        }
        self.failures = times.saturating_add(1);
        self.failure = Some(failure);
    }

    /// Reading the object again is no failure of a write, but as good a reason
    /// to wait.
    pub fn unread(&mut self, failure: Failure, now: Instant) {
        self.failed(&Change::default(), failure, None, now);
    }

    fn pause(&mut self, first: Duration, times: u32, now: Instant) {
        let factor = 1_u32.checked_shl(times.min(16)).unwrap_or(u32::MAX);
        let pause = first.saturating_mul(factor).min(LONGEST);
        self.not_before = Some(now + jittered(pause) / self.hurry);
    }

    /// The API answers again after it did not.
    pub fn reachable(&mut self) {
        if matches!(self.failure, Some(Failure::Unreachable(_))) {
            self.failures = 0;
            self.not_before = None;
        }
    }

    /// Why nothing is written at the moment, in words.
    pub fn waiting(&self) -> Option<String> {
        Some(match self.failure.as_ref()? {
            Failure::Conflict => "others write to the Longhorn Node all the time".to_owned(),
            Failure::Syncing => {
                "Longhorn has not taken notice of the last change of disks yet".to_owned()
            }
            Failure::Absent => "the Longhorn Node is gone".to_owned(),
            Failure::Rejected(why)
            | Failure::Forbidden(why)
            | Failure::Unauthorized(why)
            | Failure::Unreachable(why) => why.clone(),
        })
    }

    /// What people are needed for.
    pub fn findings(&self, now: Instant) -> Vec<Finding> {
        let mut findings: Vec<Finding> = self
            .rejected
            .iter()
            .map(|(name, rejection)| {
                Finding::of(name, Kind::RegistrationRejected, rejection.why.clone())
            })
            .collect();
        if let Some((_, rejection)) = &self.rejected_change {
            let why = rejection.why.clone();
            findings.push(Finding::of_node(Kind::RegistrationRejected, why));
        }
        if let Some(Failure::Forbidden(why)) = &self.failure {
            findings.push(Finding::of_node(Kind::NotPermitted, why.clone()));
        }
        if let Some(since) = self.syncing
            && self.failure == Some(Failure::Syncing)
            && now.duration_since(since) >= ALARM / self.hurry
        {
            let detail = "it takes no change of this node until its manager here has looked";
            findings.push(Finding::of_node(Kind::LonghornSilent, detail));
        }
        let most = self.recent.iter().map(|(.., times)| *times).max();
        if let Some(times) = most.filter(|times| *times >= REPEATS) {
            let detail = format!("written {times} times, each within minutes");
            findings.push(Finding::of_node(Kind::Overwritten, detail));
        }
        findings
    }

    /// Nothing is to be written: what was rejected or written again and again
    /// has settled.
    pub fn settled(&mut self, now: Instant) {
        self.rejected_change = None;
        if self.failure == Some(Failure::Syncing) {
            (self.failure, self.syncing) = (None, None);
        }
        self.forget_old(now);
    }
}

/// Between three and five quarters, so that a fleet does not move in step.
pub(super) fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.75..1.25))
}

#[cfg(test)]
mod tests;
