//! Disks that wait for their entries until it is known that no other disk in
//! use has their UUID, see [`elsewhere`](super::super::elsewhere). Asked when
//! such a disk is about to be registered, and again and again, ever more seldom,
//! while it is held back. A disk that Longhorn has never seen waits for nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::{
    super::{
        api::Failure,
        audit::Facts,
        elsewhere::{self, Elsewhere, Place},
        finding::{Finding, Kind},
        patience::jittered,
    },
    connection::Connection,
};
use crate::units::DiskName;

/// How long it is good for that no other disk was seen: a write may have to be
/// tried more than once.
const FRESH: Duration = Duration::from_mins(1);
/// Pause before it is asked again while a disk is held back; it doubles each
/// time,
const AGAIN: Duration = Duration::from_secs(30);
/// up to this.
const LONGEST: Duration = Duration::from_mins(5);

#[derive(Debug)]
pub(super) struct Doubles {
    /// Disks that would be registered now, by the UUIDs that they have.
    asked: BTreeMap<DiskName, String>,
    /// Those of them that another disk of this node is the double of.
    here: BTreeMap<DiskName, Place>,
    /// What was seen last, and when.
    seen: Option<(Instant, Elsewhere)>,
    /// By that a disk was registered: the next one is asked about anew.
    used: bool,
    /// Why nothing was seen the last time.
    failure: Option<Failure>,
    /// UUIDs that were held back by what was seen last.
    held: BTreeSet<String>,
    again: Option<Instant>,
    times: u32,
    hurry: u32,
}

/// What is known of a disk.
#[derive(Debug, PartialEq, Eq)]
enum Answer<'a> {
    /// Nothing, or nothing any more.
    Unasked,
    /// No other disk in use has its UUID.
    Alone,
    /// This one has.
    InUse(&'a Place),
    /// What was seen does not tell.
    Untold(&'a str),
}

impl Doubles {
    pub(super) fn new(hurry: u32) -> Self {
        Self {
            asked: BTreeMap::new(),
            here: BTreeMap::new(),
            seen: None,
            used: false,
            failure: None,
            held: BTreeSet::new(),
            again: None,
            times: 0,
            hurry,
        }
    }

    /// The API answers again after it did not.
    pub(super) fn reachable(&mut self) {
        if matches!(self.failure, Some(Failure::Unreachable(_))) {
            (self.failure, self.again, self.times) = (None, None, 0);
        }
    }

    /// Disks have got their entries. One that loses it again is asked about anew.
    pub(super) fn registered(&mut self) {
        self.used = true;
    }

    /// Those of the disks that have to wait. All of them are to be registered,
    /// as far as everybody else is concerned.
    pub(super) fn hold(
        &mut self,
        facts: &Facts<'_>,
        disks: &BTreeSet<DiskName>,
        now: Instant,
    ) -> BTreeSet<DiskName> {
        self.asked = elsewhere::named(facts, disks);
        let here = self.asked.iter();
        let here = here.filter_map(|(name, uuid)| {
            let place = elsewhere::here(facts, name, uuid)?;
            Some((name.clone(), place))
        });
        self.here = here.collect();
        self.begin_anew_with_others(now);
        let is_stale = |(at, _): &(Instant, Elsewhere)| now >= *at + FRESH / self.hurry;
        if self.asked.is_empty() && self.seen.as_ref().is_some_and(is_stale) {
            (self.seen, self.failure) = (None, None);
        }
        let waiting = self.asked.iter().filter(|(name, uuid)| {
            self.here.contains_key(*name) || self.answer(uuid, now) != Answer::Alone
        });
        waiting.map(|(name, _)| name.clone()).collect()
    }

    /// A disk that is held back for the first time does not wait for as long as
    /// the others have come to.
    fn begin_anew_with_others(&mut self, now: Instant) {
        let held = self.held_back(now);
        if held.is_subset(&self.held) {
            return;
        }
        self.held.extend(held);
        let before = self.again;
        self.times = 0;
        self.pause(now);
        self.again = before.into_iter().chain(self.again).min();
    }

    /// UUIDs of disks that are held back by what was seen.
    fn held_back(&self, now: Instant) -> BTreeSet<String> {
        let answers = self.answers(now);
        let held = answers.filter(|(_, _, answer)| match answer {
            Answer::InUse(_) | Answer::Untold(_) => true,
            Answer::Alone | Answer::Unasked => false,
        });
        held.map(|(_, uuid, _)| uuid.clone()).collect()
    }

    fn pause(&mut self, now: Instant) {
        let factor = 1_u32.checked_shl(self.times.min(16)).unwrap_or(u32::MAX);
        let pause = AGAIN.saturating_mul(factor).min(LONGEST);
        self.again = Some(now + jittered(pause) / self.hurry);
        self.times = self.times.saturating_add(1);
    }

    fn answer(&self, uuid: &str, now: Instant) -> Answer<'_> {
        let Some((at, seen)) = &self.seen else {
            return Answer::Unasked;
        };
        match seen.place_of(uuid) {
            Ok(None) if !self.used && now < *at + FRESH / self.hurry => Answer::Alone,
            Ok(None) => Answer::Unasked,
            Ok(Some(place)) => Answer::InUse(place),
            Err(why) => Answer::Untold(why),
        }
    }

    /// The answers that other nodes have to give.
    fn answers(&self, now: Instant) -> impl Iterator<Item = (&DiskName, &String, Answer<'_>)> {
        let asked = self.asked.iter();
        let asked = asked.filter(|(name, _)| !self.here.contains_key(*name));
        asked.map(move |(name, uuid)| (name, uuid, self.answer(uuid, now)))
    }

    /// When to ask, if there is anything to be asked.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let mut due = None;
        for (_, _, answer) in self.answers(now) {
            match answer {
                Answer::Alone => {}
                Answer::Unasked if self.failure.is_none() => return Some(now),
                Answer::Unasked | Answer::InUse(_) | Answer::Untold(_) => {
                    due = Some(self.again.unwrap_or(now));
                }
            }
        }
        due
    }

    /// Asks, if it is time. Whether it has, and judging begins anew.
    pub(super) async fn find_out(&mut self, api: &mut Connection, me: &str, now: Instant) -> bool {
        if self.due(now).is_none_or(|due| now < due) {
            return false;
        }
        let answer = api.nodes().await;
        let answer = answer.map(|nodes| Elsewhere::of(&nodes, me));
        self.told(answer, Instant::now());
        true
    }

    fn told(&mut self, answer: Result<Elsewhere, Failure>, now: Instant) {
        match answer {
            Ok(elsewhere) => {
                (self.failure, self.used) = (None, false);
                self.seen = Some((now, elsewhere));
            }
            Err(failure) => {
                tracing::warn!(?failure, "Longhorn's other Nodes cannot be looked at");
                self.failure = Some(failure);
            }
        }
        let held = self.held_back(now);
        if !held.is_subset(&self.held) {
            self.times = 0;
        }
        self.held = held;
        self.pause(now);
    }

    /// What keeps disks from being registered at this moment.
    pub(super) fn findings(&self, now: Instant) -> Vec<Finding> {
        let of = |name: &DiskName, place: &Place| {
            let uuid = self.asked.get(name).map_or("", String::as_str);
            let detail = format!("{uuid} is {place} as well");
            Finding::of(name, Kind::UuidElsewhere, detail)
        };
        let here = self.here.iter().map(|(name, place)| of(name, place));
        let mut findings: Vec<Finding> = here.collect();
        let mut not_known = false;
        for (name, _, answer) in self.answers(now) {
            match answer {
                Answer::InUse(place) => findings.push(of(name, place)),
                Answer::Unasked | Answer::Untold(_) => not_known = true,
                Answer::Alone => {}
            }
        }
        if let Some(Failure::Forbidden(why)) = &self.failure
            && not_known
        {
            findings.push(Finding::of_node(Kind::NotPermitted, why.clone()));
        }
        findings
    }

    /// What is waited for, in words; none where no disk waits.
    pub(super) fn waiting(&self, now: Instant) -> Option<String> {
        if let Some((name, place)) = self.here.first_key_value() {
            return Some(format!("{name} has the UUID of {place}"));
        }
        let mut answers = self.answers(now);
        answers.find_map(|(name, _, answer)| {
            let not_known =
                |why: &str| format!("whether {name} is in use on another node is not known: {why}");
            match answer {
                Answer::Alone => None,
                Answer::InUse(place) => Some(format!("{name} has the UUID of {place}")),
                Answer::Untold(why) => Some(not_known(why)),
                Answer::Unasked => Some(not_known(match &self.failure {
                    None => "it is being asked",
                    Some(Failure::Absent) => "Longhorn is not there",
                    Some(Failure::Conflict | Failure::Syncing) => "the answer makes no sense",
                    Some(
                        Failure::Rejected(why)
                        | Failure::Forbidden(why)
                        | Failure::Unauthorized(why)
                        | Failure::Unreachable(why),
                    ) => why,
                })),
            }
        })
    }
}

#[cfg(test)]
mod tests;
