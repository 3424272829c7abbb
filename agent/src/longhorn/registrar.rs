//! The task that keeps the Longhorn Node in step with the disks of this node.
//!
//! Level-triggered like the loop before it: each step starts from the last
//! round and the Node as last seen, and writes what is missing, if anything. It
//! waits for nobody and nobody waits for it: a step may take as long as the API
//! server does, while disks are found, mounted and served.

mod confinement;
mod connection;
mod doubles;
mod judge;
mod leaving;
mod picture;
mod standing_order;
mod told;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use kube::Config;
use tokio::sync::watch;

use super::{
    LonghornSettings, Sight, View,
    api::Failure,
    disks::{ConfigReader, of_round},
    events::{Events, event},
    finding::{Finding, Kind},
    node::Node,
    owner::{AGENT, QUESTION},
    patience::{Symptoms, Writes},
    register::{Change, Terms},
    status::{State, Status},
};
use crate::{
    config::Mode, ledger::Ledger, observe::Host, releases::Told, report::Round, units::DiskName,
};
use confinement::Confinement;
use connection::Connection;
use doubles::Doubles;
use judge::Judgement;
use leaving::Leaving;
use picture::Picture;
use standing_order::StandingOrder;

/// Steps follow each other no faster: the Node may change a hundred times a
/// second.
const REST: Duration = Duration::from_millis(200);
/// A change that meets a newer version is made anew so often in one step.
const ATTEMPTS: u32 = 8;
/// Pause before the Node is read again that could not be.
const PAUSE: Duration = Duration::from_mins(1);

/// What the registrar is told.
#[derive(Debug, Clone)]
pub struct RegistrarSettings {
    /// Which object.
    pub longhorn: LonghornSettings,
    /// Whether anything is written.
    pub mode: Mode,
    /// What a person set for entries.
    pub terms: Terms,
    /// Directory below which disks are mounted.
    pub mount_root: String,
    /// Where the host's mounts are read.
    pub host: Host,
    /// Where the mounts are seen from here: `/`, but in tests.
    pub root: PathBuf,
    /// Has the disks that a person releases.
    pub ledger: Ledger,
    /// Whether disks are also named on the Kubernetes Node.
    pub default_disks: bool,
    /// Names this agent; the same after every start on the same host.
    pub agent: String,
    /// Divides every wait: 1, but in tests.
    pub hurry: u32,
}

/// The task and what it remembers from step to step.
struct Registrar {
    settings: RegistrarSettings,
    rounds: watch::Receiver<Option<Arc<Round>>>,
    sight: Sight,
    api: Connection,
    status: watch::Sender<Arc<Status>>,
    reader: ConfigReader,
    symptoms: Symptoms,
    writes: Writes,
    events: Events,
    /// What was written last, until the watch has seen it.
    own: Option<Arc<Node>>,
    /// When this agent asked whether the one on the Node lives, or when that
    /// was answered.
    question: Option<(Instant, bool)>,
    confinement: Confinement,
    doubles: Doubles,
    order: StandingOrder,
    leaving: Leaving,
    not_read_before: Option<Instant>,
    /// Number of the round that the last step started from.
    round: u64,
    /// The API could not be reached when it was last looked.
    unreachable: bool,
    next: Option<Instant>,
}

/// Keeps the Longhorn Node in step from here on. `config` is asked before each
/// new connection: tokens are replaced all the time; `tell` hears how releases
/// of disks go on. Must be called inside a tokio runtime; the task ends when
/// nobody holds the receiver any more.
pub fn spawn<F, C>(
    settings: RegistrarSettings,
    rounds: watch::Receiver<Option<Arc<Round>>>,
    sight: Sight,
    tell: impl Fn(DiskName, Told) + Send + Sync + 'static,
    config: F,
) -> watch::Receiver<Arc<Status>>
where
    F: FnMut() -> C + Send + 'static,
    C: Future<Output = Result<Config, String>> + Send + 'static,
{
    let begin = match settings.mode {
        Mode::Observe => State::Observing,
        Mode::Enforce => State::NoNode,
    };
    let (status, shown) = watch::channel(Arc::new(Status::begin(begin)));
    let hurry = settings.hurry.max(1);
    let mut config = config;
    let leaving = Leaving::new(settings.ledger.clone(), Box::new(tell), hurry);
    let (default_disks, root) = (settings.default_disks, settings.root.clone());
    let registrar = Registrar {
        api: Connection::new(
            settings.longhorn.clone(),
            Box::new(move || Box::pin(config())),
        ),
        settings,
        rounds,
        sight,
        status,
        reader: ConfigReader::below(root),
        symptoms: Symptoms::new(hurry),
        writes: Writes::new(hurry),
        events: Events::new(Instant::now(), hurry),
        own: None,
        question: None,
        confinement: Confinement::unknown(hurry),
        doubles: Doubles::new(hurry),
        order: StandingOrder::new(default_disks, hurry),
        leaving,
        not_read_before: None,
        round: 0,
        unreachable: false,
        next: None,
    };
    drop(tokio::spawn(registrar.run()));
    shown
}

/// Nothing is registered, and that is as it should be.
pub fn off() -> watch::Receiver<Arc<Status>> {
    watch::channel(Arc::new(Status::begin(State::Off))).1
}

impl Registrar {
    async fn run(mut self) {
        loop {
            self.step().await;
            let next = self.next.take();
            // All branches are cancel safe: channels keep what they have.
            tokio::select! {
                changed = self.rounds.changed() => if changed.is_err() { return },
                Ok(()) = self.sight.node.changed() => {}
                Ok(()) = self.sight.view.changed() => {}
                () = sleep_until(next) => {}
                () = self.status.closed() => return,
            }
            tokio::time::sleep(REST / self.settings.hurry).await;
        }
    }

    fn wake(&mut self, at: Option<Instant>) {
        self.next = match (self.next, at) {
            (Some(next), Some(at)) => Some(next.min(at)),
            (next, at) => next.or(at),
        };
    }

    async fn step(&mut self) {
        let Some(round) = self.rounds.borrow_and_update().clone() else {
            return;
        };
        self.round = round.cost.number;
        let view = self.sight.view.borrow_and_update().clone();
        let unreachable = matches!(view, View::Unreachable { .. });
        if std::mem::replace(&mut self.unreachable, unreachable) && !unreachable {
            // The API is back: what failed because of that need not wait.
            self.writes.reachable();
            self.confinement.reachable();
            self.doubles.reachable();
            self.events.reachable();
            self.not_read_before = None;
        }
        let Some(mut node) = self.newest() else {
            if self.settings.mode == Mode::Enforce {
                self.leaving.wait(&format!("Longhorn's Node: {view}"));
            }
            let mut findings = Vec::new();
            if let View::Forbidden { why } = &view {
                findings.push(Finding::of_node(Kind::NotPermitted, why.clone()));
            }
            self.publish(State::NoNode, findings, Vec::new());
            return;
        };
        let mut picture = self.look(round).await;
        let enforce = self.settings.mode == Mode::Enforce;
        if enforce {
            let node = self.settings.longhorn.node_name.clone();
            let now = Instant::now();
            self.confinement.find_out(&mut self.api, &node, now).await;
        }
        let mut attempts = 0;
        // Whether the Node is as the API server has it at this moment.
        let mut fresh = false;
        loop {
            // Each time anew, after whatever was waited for: a person may have asked
            // for a release, or called one off, meanwhile.
            picture.read_again(self.leaving.standing());
            let now = Instant::now();
            let Judgement {
                mut findings,
                mut change,
                owner,
                mut wanted,
                rejected,
            } = self.judge(&node, &picture, now);
            if !wanted.conclusions.is_empty() && !fresh {
                if attempts < ATTEMPTS
                    && let Some(read) = self.read_for_release(now).await
                {
                    attempts += 1;
                    (node, fresh) = (read, true);
                    continue;
                }
                wanted.conclusions.clear();
            }
            let conclusions = std::mem::take(&mut wanted.conclusions);
            if !self.leaving.conclude(conclusions) {
                self.not_read_before = Some(now + PAUSE / self.settings.hurry);
                self.wake(self.not_read_before);
            }
            if enforce && attempts < ATTEMPTS {
                let version = node.metadata.resource_version.as_deref();
                let version = version.unwrap_or_default();
                let again = self.leaving.count(&mut self.api, version).await;
                self.wake(again);
                if again.is_some() {
                    // Counting takes time, also in vain: what follows from it is
                    // read again.
                    (attempts, fresh) = (attempts + 1, false);
                    continue;
                }
            }
            let speaks = enforce && owner.is_me() && !self.confinement.is_elsewhere();
            let may_ask = speaks && !self.writes.is_paused(now);
            if may_ask && attempts < ATTEMPTS {
                let me = &self.settings.longhorn.node_name;
                if self.doubles.find_out(&mut self.api, me, now).await {
                    // That takes time as well.
                    (attempts, fresh) = (attempts + 1, false);
                    continue;
                }
            }
            let pending = !change.is_empty();
            let held = self.doubles.waiting(now);
            if !pending && !rejected {
                self.writes.settled(now);
            }
            findings.extend(self.writes.findings(now));
            findings.sort();
            findings.dedup();
            let state = match () {
                () if !enforce => State::Observing,
                () if !owner.is_me() || self.confinement.is_elsewhere() => State::AnotherAgent,
                () if pending || rejected || held.is_some() => State::Pending,
                () => State::Current,
            };
            let generation = node.metadata.generation;
            let write = enforce
                && pending
                && !self.confinement.is_elsewhere()
                && attempts < ATTEMPTS
                && self.writes.may(&change, generation, now);
            if !write {
                if enforce {
                    if speaks {
                        let facts = picture.facts(&node, &self.settings.mount_root);
                        if self.order.keep(&mut self.api, &facts, now).await {
                            self.wake(Some(now));
                        }
                        self.wake(self.order.due(now));
                    }
                    self.events.hold(told::holding(&picture.round, &findings));
                    self.tell(&node).await;
                }
                // What failed once matters as long as something is to be written.
                let failed = pending.then(|| self.writes.waiting()).flatten();
                self.publish(state, findings, held.into_iter().chain(failed).collect());
                self.wake(self.writes.due(now));
                self.wake(self.confinement.due());
                if may_ask {
                    self.wake(self.doubles.due(now));
                }
                return;
            }
            attempts += 1;
            self.leaving.begin(&wanted, &mut change);
            if change.is_empty() {
                continue;
            }
            let version = node.metadata.resource_version.clone();
            let patch = change.patch(&version.unwrap_or_default());
            match self.api.patch(&patch).await {
                Ok(written) => {
                    self.written(&change, &picture, Instant::now());
                    if let Some(standing) = &picture.standing {
                        self.leaving.written(&wanted, standing);
                    }
                    node = Arc::new(written);
                    fresh = true;
                    self.own = Some(Arc::clone(&node));
                }
                Err(failure) => {
                    let now = Instant::now();
                    if failure != Failure::Conflict {
                        tracing::warn!(?failure, "the Longhorn Node cannot be written");
                    }
                    let conflict = failure == Failure::Conflict;
                    // It may have been written all the same, unless that was answered.
                    fresh = false;
                    if failure.is_an_answer() {
                        self.leaving.not_begun(&wanted);
                    }
                    self.writes.failed(&change, failure, generation, now);
                    if conflict {
                        match self.api.node().await {
                            Ok(read) => {
                                (node, fresh) = (Arc::new(read), true);
                                self.own = Some(Arc::clone(&node));
                            }
                            Err(failure) => self.writes.unread(failure, now),
                        }
                    }
                }
            }
        }
    }

    /// The Node as it is now, for what a release concludes from it. After a
    /// failure there is a pause.
    async fn read_for_release(&mut self, now: Instant) -> Option<Arc<Node>> {
        if self.not_read_before.is_some_and(|moment| now < moment) {
            self.wake(self.not_read_before);
            return None;
        }
        match self.api.node().await {
            Ok(node) => {
                self.not_read_before = None;
                let node = Arc::new(node);
                self.own = Some(Arc::clone(&node));
                Some(node)
            }
            Err(failure) => {
                let why = format!("Longhorn's Node cannot be read: {failure:?}");
                self.leaving.wait(&why);
                self.not_read_before = Some(now + PAUSE / self.settings.hurry);
                self.wake(self.not_read_before);
                None
            }
        }
    }

    /// The Node as last heard or, where that is newer, as last written.
    fn newest(&mut self) -> Option<Arc<Node>> {
        let heard = self.sight.node.borrow_and_update().clone()?;
        if let Some(own) = &self.own {
            let of = |node: &Node| -> Option<u64> {
                node.metadata.resource_version.as_ref()?.parse().ok()
            };
            let same = own.metadata.uid == heard.metadata.uid;
            if same
                && of(own)
                    .zip(of(&heard))
                    .is_some_and(|(own, heard)| own > heard)
            {
                return Some(Arc::clone(own));
            }
            self.own = None;
        }
        Some(heard)
    }

    async fn look(&mut self, round: Arc<Round>) -> Picture {
        let disks = of_round(&round, &self.settings.mount_root);
        let said = self.reader.read(&disks).await;
        Picture::of(round, disks, said, &self.settings.mount_root)
    }

    fn written(&mut self, change: &Change, picture: &Picture, now: Instant) {
        self.writes.succeeded(change, now);
        if !change.added.is_empty() {
            self.doubles.registered();
        }
        let asked = change.annotations.get(QUESTION);
        if asked.is_some_and(Option::is_some) {
            self.question = Some((now, false));
        } else if change.annotations.contains_key(AGENT) {
            self.question = None;
        }
        let added = picture.disks.iter();
        let added = added.filter(|disk| change.added.contains(&disk.name));
        for disk in added.clone() {
            tracing::info!(name = %disk.name, path = disk.path, "registered with Longhorn");
        }
        for (about, notice) in told::registered(added) {
            self.events.happened(&about, notice);
        }
        let others = change.disks.iter().filter(|(key, _)| {
            !change
                .added
                .iter()
                .any(|name| name.as_str() == key.as_str())
        });
        for (key, fields) in others {
            tracing::info!(disk = key, %fields, "changed in Longhorn");
        }
    }

    async fn tell(&mut self, node: &Node) {
        while let Some((notice, salt)) = self.events.next(Instant::now()) {
            match self.api.tell(&event(node, &notice, &salt)).await {
                // Nor will one be taken later that is not now.
                Ok(()) | Err(Failure::Rejected(_) | Failure::Conflict) => self.events.done(),
                Err(_) => {
                    self.events.failed(Instant::now());
                    break;
                }
            }
        }
        self.wake(self.events.due());
    }

    fn publish(&mut self, state: State, findings: Vec<Finding>, waiting: Vec<String>) {
        let waits = state == State::Pending && !waiting.is_empty();
        let status = Status {
            state,
            waiting: waits.then(|| waiting.join("; ")),
            findings,
            requests: self.api.counts().clone(),
            dropped_events: self.events.dropped(),
            round: self.round,
        };
        self.status.send_if_modified(|shown| {
            for finding in &status.findings {
                if !shown.findings.contains(finding) {
                    tracing::warn!(%finding, advice = finding.kind.advice(), "Longhorn");
                }
            }
            let changed = **shown != status;
            if changed {
                *shown = Arc::new(status);
            }
            changed
        });
    }
}

/// For ever, where there is no such moment.
async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}
