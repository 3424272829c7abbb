//! Disks that a person releases, or takes back: one step of the protocol for
//! each in every step of the registrar. What has been done stands in the ledger
//! and in the Node; nothing is remembered here but what was told.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    super::{
        audit::{Facts, PATHS},
        register::Change,
        release::{self, Replicas, Seen, Step},
    },
    connection::Connection,
};
use crate::{
    ledger::{Before, Ledger, LedgerError, ReleasePhase, Standing},
    observe::longhorn_disk::LonghornDisk,
    releases::Told,
    text::chain,
    units::DiskName,
};

/// Tells the loop how a release goes on, and that it should look again.
pub(super) type Tell = Box<dyn Fn(DiskName, Told) + Send + Sync>;

pub(super) struct Leaving {
    ledger: Ledger,
    tell: Tell,
    told: BTreeMap<DiskName, Told>,
    /// Disks by their UUIDs in Longhorn, whose replicas are to be counted.
    asked: BTreeMap<DiskName, String>,
    counted: BTreeMap<DiskName, Counted>,
    /// Since when a disk is seen to be switched off and evicted.
    evicted: BTreeMap<DiskName, Instant>,
    /// The ledger could not be written: nothing new is begun until then.
    pause: Option<Instant>,
    hurry: u32,
}

/// Replicas that were counted; none where they could not be.
struct Counted {
    replicas: Option<usize>,
    /// Of the Node that was looked at.
    version: String,
    at: Instant,
}

/// After the ledger could not be written, it is tried again.
const PAUSE: Duration = Duration::from_mins(1);
/// Replicas may go without a change of the Node: they are counted again.
const COUNT_AGAIN: Duration = Duration::from_secs(30);

/// What a release asks of a step.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Wanted {
    /// Fields of entries.
    pub disks: BTreeMap<String, Value>,
    /// Disks whose entries are removed.
    pub removed: BTreeSet<DiskName>,
    /// Disks whose entries are changed for the first time, and how they are now.
    pub begun: BTreeMap<Uuid, (DiskName, Before)>,
    /// Disks whose entries are put back as they were.
    pub returned: BTreeSet<Uuid>,
    /// What follows from the Node without a change of it.
    pub conclusions: Vec<(Uuid, DiskName, Conclusion)>,
    /// When to look again.
    pub again: Option<Instant>,
}

/// What follows from the Node as it is. A Node that was heard of some time ago
/// proves nothing: it is drawn only from one that was read for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Conclusion {
    /// Longhorn does not have the disk, and nothing of Longhorn's is on it.
    Left,
    /// The entry is as it was before.
    Returned,
    /// It does not leave.
    Refused(String),
}

/// Longhorn looks at its disks every half minute, and places replicas by what it
/// saw then: what a status says sooner after a change is from before it.
const NOTICED: Duration = Duration::from_secs(45);

/// What is known of the replicas of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Count {
    Unasked,
    /// They could not be counted a moment ago.
    Unknown,
    Known(usize),
}

impl Leaving {
    pub(super) fn new(ledger: Ledger, tell: Tell, hurry: u32) -> Self {
        Self {
            ledger,
            tell,
            told: BTreeMap::new(),
            asked: BTreeMap::new(),
            counted: BTreeMap::new(),
            evicted: BTreeMap::new(),
            pause: None,
            hurry,
        }
    }

    /// How releases stand at this moment: the round may be older.
    pub(super) fn standing(&self) -> Option<Standing> {
        self.ledger.standing().known().ok().cloned()
    }

    /// Counts the replicas of disks that seem to be empty. When to count again, if
    /// any were to be counted.
    pub(super) async fn count(&mut self, api: &mut Connection, version: &str) -> Option<Instant> {
        let mut again = None;
        for (name, uuid) in std::mem::take(&mut self.asked) {
            let now = Instant::now();
            let replicas = match api.replicas_on(&uuid).await {
                Ok(replicas) => Some(replicas),
                Err(failure) => {
                    let why = format!("its replicas cannot be counted: {failure:?}");
                    self.tell(&name, Told::Progress(why));
                    None
                }
            };
            // What was counted is as old as the question. A failure is not: one that
            // took longer than that would be asked again at once.
            let at = replicas.map_or_else(Instant::now, |_| now);
            let version = version.to_owned();
            let counted = Counted {
                replicas,
                version,
                at,
            };
            self.counted.insert(name, counted);
            again = Some(at + COUNT_AGAIN / self.hurry);
        }
        again
    }

    /// The next step of every release. `may_remove`: nothing else still names
    /// the disks that leave.
    pub(super) fn step(
        &mut self,
        facts: &Facts<'_>,
        standing: &Standing,
        may_remove: bool,
    ) -> Wanted {
        let mut wanted = Wanted::default();
        self.asked.clear();
        let names: BTreeSet<&DiskName> = standing
            .releases
            .values()
            .map(|release| &release.name)
            .collect();
        self.told.retain(|name, _| names.contains(name));
        self.evicted.retain(|name, _| names.contains(name));
        for (uuid, release) in &standing.releases {
            let name = &release.name;
            let before = release.phase.before();
            match release.phase {
                ReleasePhase::Left => {}
                ReleasePhase::Leaving { .. } => {
                    self.leave(facts, *uuid, name, before, may_remove, &mut wanted);
                }
                ReleasePhase::Returning { .. } => {
                    let entry = facts.node.spec.disks.get(name.as_str());
                    match before.and_then(|before| release::restore(entry, before)) {
                        Some(restored) => {
                            let fields = json!({
                                "evictionRequested": false,
                                "allowScheduling": restored.allow_scheduling,
                            });
                            wanted.disks.insert(name.to_string(), fields);
                            wanted.returned.insert(*uuid);
                        }
                        None => {
                            let conclusion = Conclusion::Returned;
                            wanted.conclusions.push((*uuid, name.clone(), conclusion));
                        }
                    }
                }
            }
        }
        wanted
    }

    fn leave(
        &mut self,
        facts: &Facts<'_>,
        uuid: Uuid,
        name: &DiskName,
        before: Option<Before>,
        may_remove: bool,
        wanted: &mut Wanted,
    ) {
        let node = facts.node;
        let version = node
            .metadata
            .resource_version
            .as_deref()
            .unwrap_or_default();
        let counted = self.counted(name, version);
        let replicas = match counted {
            Count::Known(replicas) => Replicas::Assigned(replicas),
            Count::Unknown | Count::Unasked => Replicas::Unasked,
        };
        let path = format!("{}/{name}", facts.mount_root);
        let seen = Seen {
            spec: &node.spec,
            status: &node.status,
            name,
            path: &path,
            replicas,
            before,
        };
        let step = release::step(&seen);
        if let Step::CheckReplicas | Step::Remove | Step::Wait(_) = &step {
            let now = Instant::now();
            let since = *self.evicted.entry(name.clone()).or_insert(now);
            let noticed = since + NOTICED / self.hurry;
            if now < noticed && !matches!(step, Step::Wait(_)) {
                wanted.again = Some(wanted.again.map_or(noticed, |again| again.min(noticed)));
                let why = "nothing seems to be left; Longhorn is given time to notice";
                self.tell(name, Told::Progress(why.to_owned()));
                return;
            }
        } else {
            self.evicted.remove(name);
        }
        match step {
            Step::Refuse(why) => {
                let conclusion = Conclusion::Refused(why);
                wanted.conclusions.push((uuid, name.clone(), conclusion));
            }
            Step::Disable => {
                let entry = node.spec.disks.get(name.as_str());
                let now = Before {
                    schedulable: entry.is_some_and(|entry| entry.allow_scheduling),
                    evicting: entry.is_some_and(|entry| entry.eviction_requested),
                };
                if before.is_none() {
                    let pause = self.pause.filter(|until| *until > Instant::now());
                    if let Some(until) = pause {
                        wanted.again = Some(wanted.again.map_or(until, |again| again.min(until)));
                        return;
                    }
                    wanted.begun.insert(uuid, (name.clone(), now));
                }
                let fields = json!({"allowScheduling": false, "evictionRequested": true});
                wanted.disks.insert(name.to_string(), fields);
            }
            Step::Wait(waiting) => self.tell(name, Told::Progress(waiting.to_string())),
            Step::CheckReplicas => {
                let status = node.status.disk_status.get(name.as_str());
                let known = status.map(|status| status.disk_uuid.clone());
                match known.filter(|uuid| !uuid.is_empty()) {
                    // Once in a while, whatever came of it.
                    Some(_) if counted == Count::Unknown => {}
                    Some(uuid) => {
                        self.asked.insert(name.clone(), uuid);
                    }
                    None => {
                        let why = "Longhorn has no UUID for it, so its replicas cannot be counted";
                        self.tell(name, Told::Progress(why.to_owned()));
                    }
                }
            }
            Step::Remove if may_remove => {
                wanted.disks.insert(name.to_string(), Value::Null);
                wanted.removed.insert(name.clone());
            }
            Step::Remove => {
                let why = "it is still named in node.longhorn.io/default-disks-config";
                self.tell(name, Told::Progress(why.to_owned()));
            }
            Step::Gone => self.gone(facts, uuid, name, counted, wanted),
        }
    }

    /// Longhorn has no entry of the disk. What is on it may still be Longhorn's:
    /// people can remove an entry while the disk is not ready.
    fn gone(
        &mut self,
        facts: &Facts<'_>,
        uuid: Uuid,
        name: &DiskName,
        counted: Count,
        wanted: &mut Wanted,
    ) {
        let here = facts.disks.iter().any(|disk| disk.name == *name);
        if facts.complete && !here {
            if facts.occupied.contains(name) {
                // A disk that fails, and says nothing of itself any more: what
                // Longhorn has on it may be the last of its kind.
                let why = "Longhorn has no entry of it, and what is mounted at its place cannot be read: detach the disk, or unmount it";
                self.tell(name, Told::Progress(why.to_owned()));
                return;
            }
            // There is nothing to be unmounted, and nothing to be read.
            wanted
                .conclusions
                .push((uuid, name.clone(), Conclusion::Left));
            return;
        }
        let said = facts.said.get(name).map(|said| said.config.known());
        match (said, counted) {
            // Longhorn has never used it, or has nothing on it.
            (Some(Ok(LonghornDisk::None)), _)
            | (Some(Ok(LonghornDisk::Named { .. })), Count::Known(0)) => {
                wanted
                    .conclusions
                    .push((uuid, name.clone(), Conclusion::Left));
            }
            (Some(Ok(LonghornDisk::Named { .. })), Count::Known(replicas)) => {
                let why = format!(
                    "Longhorn has no entry of it, and still {replicas} replicas on it: register it again, or delete them"
                );
                self.tell(name, Told::Progress(why));
            }
            (Some(Ok(LonghornDisk::Named { .. })), Count::Unknown) => {}
            (Some(Ok(LonghornDisk::Named { uuid, .. })), Count::Unasked) => {
                self.asked.insert(name.clone(), uuid.clone());
            }
            (Some(Ok(LonghornDisk::Nameless) | Err(_)) | None, _) => {
                let why = "the longhorn-disk.cfg on it does not say which disk it is to Longhorn";
                self.tell(name, Told::Progress(why.to_owned()));
            }
        }
    }

    /// What is known of the replicas of a disk, for that version of the Node. A
    /// disk that is not empty is not asked about all the time.
    fn counted(&self, name: &DiskName, version: &str) -> Count {
        match self.counted.get(name) {
            Some(counted) if counted.at.elapsed() >= COUNT_AGAIN / self.hurry => Count::Unasked,
            Some(counted) => match counted.replicas {
                None => Count::Unknown,
                Some(0) if counted.version != version => Count::Unasked,
                Some(replicas) => Count::Known(replicas),
            },
            None => Count::Unasked,
        }
    }

    /// Draws conclusions from a Node that was read for it. Whether all could be
    /// kept.
    pub(super) fn conclude(&mut self, conclusions: Vec<(Uuid, DiskName, Conclusion)>) -> bool {
        let mut all = true;
        for (uuid, name, conclusion) in conclusions {
            let (kept, told) = match conclusion {
                Conclusion::Left => {
                    let why = "Longhorn does not have it any more";
                    (self.ledger.left(uuid), Told::Progress(why.to_owned()))
                }
                Conclusion::Returned => (self.ledger.returned(uuid), Told::InUse),
                Conclusion::Refused(why) => (self.ledger.stays(uuid), Told::Refused(why)),
            };
            if self.kept(&name, kept) {
                self.tell(&name, told);
            } else {
                all = false;
            }
        }
        all
    }

    /// Takes down how entries are before they are changed: who calls a release off
    /// finds what to put back. What cannot be taken down is not changed.
    pub(super) fn begin(&mut self, wanted: &Wanted, change: &mut Change) {
        for (uuid, (name, before)) in &wanted.begun {
            if self.kept(name, self.ledger.leaving(*uuid, *before)) {
                let why = "Longhorn is asked to move its replicas away";
                self.tell(name, Told::Progress(why.to_owned()));
            } else {
                change.disks.remove(name.as_str());
                self.pause = Some(Instant::now() + PAUSE / self.hurry);
            }
        }
    }

    /// Nothing was changed: the Node may be another by now, and what was taken
    /// down of it is not what is to be put back.
    pub(super) fn not_begun(&mut self, wanted: &Wanted) {
        for (uuid, (name, _)) in &wanted.begun {
            let kept = self.kept(name, self.ledger.unchanged(*uuid));
            let over = |standing: Standing| !standing.releases.contains_key(uuid);
            if kept && self.standing().is_some_and(over) {
                self.tell(name, Told::InUse);
            }
        }
    }

    /// Entries were put back as they were.
    pub(super) fn written(&mut self, wanted: &Wanted, standing: &Standing) {
        for uuid in &wanted.returned {
            if let Some(release) = standing.releases.get(uuid) {
                self.returned(*uuid, &release.name);
            }
        }
    }

    fn returned(&mut self, uuid: Uuid, name: &DiskName) {
        if self.kept(name, self.ledger.returned(uuid)) {
            self.tell(name, Told::InUse);
        }
    }

    /// Nothing can be done about the Node: what leaves stays until it can.
    pub(super) fn wait(&mut self, why: &str) {
        let Some(standing) = self.standing() else {
            return;
        };
        for release in standing.releases.values() {
            if release.phase != ReleasePhase::Left {
                self.tell(&release.name, Told::Progress(why.to_owned()));
            }
        }
    }

    fn kept(&mut self, name: &DiskName, written: Result<(), LedgerError>) -> bool {
        match written {
            Ok(()) => true,
            Err(error) => {
                self.tell(name, Told::Progress(chain(&error)));
                false
            }
        }
    }

    /// Tells news only.
    fn tell(&mut self, name: &DiskName, told: Told) {
        if self.told.get(name) != Some(&told) {
            self.told.insert(name.clone(), told.clone());
            (self.tell)(name.clone(), told);
        }
    }
}

impl Wanted {
    /// What it comes to when nothing of it is written.
    pub(super) fn unwritten(self) -> Self {
        Self {
            conclusions: self.conclusions,
            again: self.again,
            ..Self::default()
        }
    }

    /// Adds it to what else is to be written. New entries wait: what is
    /// rejected then is known.
    pub(super) fn join(&self, change: &mut Change) {
        if self.disks.is_empty() {
            return;
        }
        for name in std::mem::take(&mut change.added) {
            change.disks.remove(name.as_str());
            change.annotations.remove(PATHS);
        }
        for (key, fields) in &self.disks {
            change.disks.insert(key.clone(), fields.clone());
        }
    }
}
