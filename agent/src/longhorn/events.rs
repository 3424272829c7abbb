//! Events on the Longhorn Node, each told once.
//!
//! What holds at this moment is compared with what was told: news is queued,
//! what is over is told as over. The name of an Event is made of what it says
//! and of the hour, so that an agent that is started again tells nothing a second
//! time as long as the cluster keeps the first (an hour, usually). A limit keeps a fault that
//! comes and goes from filling the cluster with Events.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant, SystemTime},
};

use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::Resource;
use sha2::{Digest, Sha256};

use uuid::Uuid;

use super::node::Node;
use crate::text::hex;

/// As many Events may be told in a row,
const BURST: u32 = 12;
/// and one more for each time that this long has passed.
const REFILL: Duration = Duration::from_mins(2);
/// After a failure there is a pause, from this one
const PAUSE: Duration = Duration::from_mins(1);
/// to this one.
const LONGEST: Duration = Duration::from_mins(30);
/// What waits while the API does not answer; the oldest is dropped.
const WAITING: usize = 64;
/// Kubernetes takes no longer note, in bytes.
const NOTE: usize = 1024;
/// Who tells.
const CONTROLLER: &str = "disk-discovery";

/// Something to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Reason in CamelCase.
    pub reason: &'static str,
    /// Something is wrong.
    pub warning: bool,
    /// What the agent did or looked at, in a word.
    pub action: &'static str,
    /// In words.
    pub note: String,
}

impl Notice {
    /// All is well, or better than before.
    pub fn normal(reason: &'static str, action: &'static str, note: impl Into<String>) -> Self {
        Self {
            reason,
            warning: false,
            action,
            note: note.into(),
        }
    }

    /// Something is wrong.
    pub fn warning(reason: &'static str, action: &'static str, note: impl Into<String>) -> Self {
        Self {
            warning: true,
            ..Self::normal(reason, action, note)
        }
    }
}

/// What was told and what is still to be told.
#[derive(Debug)]
pub struct Events {
    /// What holds and was queued or told, with how to say that it is over.
    told: BTreeMap<String, Option<Notice>>,
    queue: VecDeque<(Notice, String)>,
    /// How often each was told, so that a return has another name.
    times: BTreeMap<(String, &'static str), u32>,
    /// Of this start of the agent, and the hour since 1970.
    start: (String, fn() -> u64),
    left: u32,
    refilled: Instant,
    dropped: u64,
    /// Not before then, after so many failures in a row.
    pause: Option<(Instant, u32)>,
    hurry: u32,
}

impl Events {
    /// Nothing was told. `hurry` divides pauses: 1, but in tests.
    pub fn new(now: Instant, hurry: u32) -> Self {
        Self {
            told: BTreeMap::new(),
            queue: VecDeque::new(),
            times: BTreeMap::new(),
            start: (Uuid::new_v4().to_string(), hour),
            left: BURST,
            refilled: now,
            dropped: 0,
            pause: None,
            hurry,
        }
    }

    /// Queues something that happened.
    pub fn happened(&mut self, about: &str, notice: Notice) {
        let times = self
            .times
            .entry((about.to_owned(), notice.reason))
            .and_modify(|times| *times = times.saturating_add(1))
            .or_insert(0);
        // Told by an agent before this one within the hour, it has the same
        // name; the cluster keeps it no longer.
        let (start, clock) = &self.start;
        let salt = match *times {
            0 => (clock)().to_string(),
            times => format!("{start} {times}"),
        };
        if self.queue.len() >= WAITING {
            self.queue.pop_front();
            self.dropped += 1;
        }
        self.queue.push_back((notice, salt));
    }

    /// Compares what holds, by what it is about, with what was told. The second
    /// of each pair is told when it does not hold any more.
    pub fn hold(&mut self, holding: BTreeMap<String, (Notice, Option<Notice>)>) {
        let over: Vec<(String, Option<Notice>)> = self
            .told
            .extract_if(.., |about, _| !holding.contains_key(about))
            .collect();
        for (about, notice) in over {
            if let Some(notice) = notice {
                self.happened(&about, notice);
            }
        }
        for (about, (notice, over)) in holding {
            if self.told.insert(about.clone(), over).is_none() {
                self.happened(&about, notice);
            }
        }
    }

    /// The next one to tell, if one may be told now.
    pub fn next(&mut self, now: Instant) -> Option<(Notice, String)> {
        while self.left < BURST && now.duration_since(self.refilled) >= REFILL {
            self.left += 1;
            self.refilled += REFILL;
        }
        if self.left == BURST {
            self.refilled = now;
        }
        let paused = self.pause.is_some_and(|(until, _)| now < until);
        (self.left > 0 && !paused)
            .then(|| self.queue.front().cloned())
            .flatten()
    }

    /// When the next one may be told, if any waits.
    pub fn due(&self) -> Option<Instant> {
        let waits = !self.queue.is_empty();
        let due = waits.then(|| match self.left {
            0 => self.refilled + REFILL,
            _ => self.refilled,
        });
        due.map(|due| self.pause.map_or(due, |(until, _)| due.max(until)))
    }

    /// The next one could not be told: there is a pause, longer each time.
    pub fn failed(&mut self, now: Instant) {
        let times = self.pause.map_or(0, |(_, times)| times);
        let factor = 1_u32.checked_shl(times.min(16)).unwrap_or(u32::MAX);
        let pause = PAUSE.saturating_mul(factor).min(LONGEST) / self.hurry;
        self.pause = Some((now + pause, times.saturating_add(1)));
    }

    /// The API answers again after it did not.
    pub fn reachable(&mut self) {
        self.pause = None;
    }

    /// The next one was told, or never can be.
    pub fn done(&mut self) {
        self.pause = None;
        self.queue.pop_front();
        self.left = self.left.saturating_sub(1);
    }

    /// How many were given up because too many waited.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

fn hour() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs() / 3600)
}

/// The Event for a notice about a node. `salt` tells a return from what an agent
/// that was started again would say once more.
pub fn event(node: &Node, notice: &Notice, salt: &str) -> Event {
    let name = node.metadata.name.clone().unwrap_or_default();
    let namespace = node.metadata.namespace.clone();
    let uid = node.metadata.uid.clone();
    let mut said = Sha256::new();
    let parts = [
        uid.as_deref().unwrap_or_default(),
        notice.reason,
        &notice.note,
        salt,
    ];
    for part in parts {
        said.update(part.as_bytes());
        said.update([0]);
    }
    let digest: Vec<u8> = said.finalize().iter().take(8).copied().collect();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{}", hex(&digest))),
            namespace: namespace.clone(),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(Timestamp::now())),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(name.chars().take(128).collect()),
        action: Some(notice.action.to_owned()),
        reason: Some(notice.reason.to_owned()),
        type_: Some(if notice.warning { "Warning" } else { "Normal" }.to_owned()),
        note: Some(cut(&notice.note)),
        regarding: Some(ObjectReference {
            api_version: Some(Node::api_version(&()).into_owned()),
            kind: Some(Node::kind(&()).into_owned()),
            name: Some(name),
            namespace,
            uid,
            ..ObjectReference::default()
        }),
        ..Event::default()
    }
}

/// No longer than Kubernetes takes, at the end of a letter.
fn cut(note: &str) -> String {
    let end = note
        .char_indices()
        .map(|(at, letter)| at + letter.len_utf8())
        .take_while(|end| *end <= NOTE)
        .last();
    note.get(..end.unwrap_or(0)).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn missing(disk: &str) -> (String, (Notice, Option<Notice>)) {
        let notice = Notice::warning("DiskMissing", "Audit", format!("{disk} is missing"));
        let over = Notice::normal("DiskReturned", "Audit", format!("{disk} is back"));
        (disk.to_owned(), (notice, Some(over)))
    }

    /// Reasons, and whether each has a name that no other start would give it.
    fn told(events: &mut Events, now: Instant) -> Vec<(&'static str, bool)> {
        std::iter::from_fn(|| {
            let (notice, salt) = events.next(now)?;
            events.done();
            Some((notice.reason, salt.contains(' ')))
        })
        .collect()
    }

    #[test]
    fn what_lasts_is_told_once_and_what_is_over_as_well() {
        let now = Instant::now();
        let mut events = Events::new(now, 1);
        for _ in 0..1000 {
            events.hold(BTreeMap::from([missing("sdb1")]));
        }
        assert_eq!(told(&mut events, now), [("DiskMissing", false)]);
        events.hold(BTreeMap::new());
        events.hold(BTreeMap::from([missing("sdb1")]));
        // Another name than the first time: the cluster would take it for the
        // same otherwise. So it would after another start.
        assert_eq!(
            told(&mut events, now),
            [("DiskReturned", false), ("DiskMissing", true)]
        );
    }

    #[test]
    fn what_comes_and_goes_does_not_flood_the_cluster() {
        let mut now = Instant::now();
        let mut events = Events::new(now, 1);
        let mut count = 0;
        // An hour of a disk that comes and goes each second.
        for second in 0..3600 {
            now += Duration::from_secs(1);
            let holding = [missing("sdb1")].into_iter().filter(|_| second % 2 == 0);
            events.hold(holding.collect());
            count += told(&mut events, now).len();
        }
        assert!((12..=12 + 31).contains(&count), "{count}");
        assert!(events.dropped() > 0);
        assert!(events.due().is_some_and(|due| due > now));
    }

    #[test]
    fn what_cannot_be_told_is_tried_ever_more_seldom() {
        let mut now = Instant::now();
        let mut events = Events::new(now, 1);
        events.hold(BTreeMap::from([missing("sdb1")]));
        let mut tried = 0;
        for _ in 0..4 * 3600 {
            now += Duration::from_secs(1);
            if events.next(now).is_some() {
                events.failed(now);
                tried += 1;
            }
        }
        assert!((8..20).contains(&tried), "{tried}");
        events.reachable();
        assert_eq!(told(&mut events, now), [("DiskMissing", false)]);
    }

    #[test]
    fn what_another_start_told_in_this_hour_is_not_told_again_and_later_it_is() {
        let now = Instant::now();
        let salt_at = |clock| {
            let mut events = Events::new(now, 1);
            events.start.1 = clock;
            events.hold(BTreeMap::from([missing("sdb1")]));
            events.next(now).expect("a notice").1
        };
        assert_eq!(salt_at(|| 7), salt_at(|| 7));
        assert_ne!(salt_at(|| 7), salt_at(|| 8));
    }

    #[test]
    fn an_event_has_a_name_by_what_it_says() {
        let node: Node = serde_json::from_value(json!({"metadata": {
            "name": "k3s2", "namespace": "longhorn-system", "uid": "0b",
        }}))
        .expect("a node");
        let (_, (notice, over)) = missing("sdb1");
        let over = over.expect("a notice");
        let name = |notice, salt| event(&node, notice, salt).metadata.name;
        assert_eq!(name(&notice, ""), name(&notice, ""));
        assert_ne!(name(&notice, ""), name(&notice, "1"));
        assert_ne!(name(&notice, ""), name(&over, ""));
        let long = Notice::normal("A", "B", "ä".repeat(10_000));
        let note = event(&node, &long, "").note.expect("a note");
        assert_eq!(note.len(), NOTE);
    }
}
