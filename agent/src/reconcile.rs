//! The loop: look, start what the verdicts ask for, hand out what was seen,
//! wait for a reason to look again.
//!
//! Level-triggered: a round starts from what is. Events and results of jobs
//! only say that, and where, to look.

mod jobs;
mod logs;
mod mounts;
mod releases;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use rand::Rng;
use tokio::sync::{mpsc, watch};

use crate::{
    backoff::Backoff,
    config::{Mode, Settings},
    decide::{self, Reason, Verdict},
    fact::Fact,
    longhorn::View,
    look::{Look, Seen},
    mount_unit::MountUnits,
    observe::{
        Dirty, Observer, device,
        doorbell::{MountBell, RequestBell, UeventBell},
    },
    provision::{Job, Phase, Surroundings},
    releases::Told,
    report::{Round, RoundCost, now},
    requests::Mailbox,
    state::State,
    sys,
    text::chain,
    units::DiskName,
    workers::{Overdue, Workers},
};

pub use jobs::GRACE;
use releases::Releasing;
pub use releases::Teller;

/// Events that follow each other this closely are answered by one round.
const DEBOUNCE: Duration = Duration::from_millis(5);
/// Pause before looking again at a disk that udevd has not finished with,
/// where its own event does not reach us.
const UDEV_PAUSE: Duration = Duration::from_millis(250);
/// Pause before asking whether a disk has answered by now that did not.
const ANSWER_PAUSE: Duration = Duration::from_secs(5);
/// A disk that stays mounted for so long is mounted again at once the next time.
const SETTLED: Duration = Duration::from_mins(2);

/// What a job tells the loop.
#[derive(Debug)]
enum News {
    Progress(String, Phase),
    /// It takes longer than it should.
    Overdue(String, Overdue),
    /// With why it failed, if it did.
    Ended(String, Option<String>),
    /// It was not begun: the decision is too old.
    Stale(String),
    /// A dead mount is gone, or why it is not.
    Cleared(DiskName, Option<String>),
    /// A released disk is not mounted any more, or why it is.
    Unmounted(DiskName, Option<String>),
    /// Nobody uses these partitions of an unmounted disk, or why that is not so.
    Unused(DiskName, Vec<String>, Option<String>),
    /// What Longhorn has on a disk that is to be released, by the disk itself.
    Holds(DiskName, Fact<Option<String>>),
    /// How a release goes on in Longhorn.
    Told(DiskName, Told),
}

/// Work on a disk as far as it has come.
#[derive(Debug, Clone, Copy)]
struct Work {
    phase: Phase,
    overdue: Option<Overdue>,
}

/// When to look again if nothing rings.
#[derive(Debug, Clone, PartialEq, Eq)]
enum NextRound {
    /// A full pass, at the timer.
    AtTimer,
    /// These devices, this much later.
    After(Duration, Dirty),
}

impl NextRound {
    /// Not later than at a moment.
    fn or_at(self, moment: Instant) -> Self {
        let pause = moment.saturating_duration_since(Instant::now());
        match self {
            Self::AtTimer => Self::After(pause, Dirty::nothing()),
            Self::After(earlier, doubtful) if earlier <= pause => Self::After(earlier, doubtful),
            Self::After(_, _) => Self::After(pause, Dirty::nothing()),
        }
    }
}

/// The loop and what it remembers from round to round.
#[derive(Debug)]
pub struct Reconciler {
    settings: Settings,
    around: Surroundings,
    look: Option<Look>,
    backoff: Backoff,
    /// Disks that are worked on.
    working: BTreeMap<String, Work>,
    workers: Workers,
    news: (mpsc::UnboundedSender<News>, mpsc::UnboundedReceiver<News>),
    published: watch::Sender<Option<Arc<Round>>>,
    verdicts: BTreeMap<String, Verdict>,
    /// Dead mounts that are being taken away.
    clearing: BTreeSet<DiskName>,
    /// Dead mounts that could not be taken away.
    stuck: Backoff,
    /// Names that could not be kept.
    unkept: Backoff,
    /// Disks that were mounted, with how long they must stay so before they are
    /// mounted again without a pause.
    mounted: Backoff,
    /// Devices to look at again when the work on their disk is done.
    aside: BTreeSet<String>,
    /// Rounds in a row in which udevd was not done with some disk.
    udev_waits: u32,
    rounds: u64,
    /// What Longhorn has registered on this node, as last heard.
    longhorn: watch::Receiver<View>,
    /// Units by which systemd mounts the disks, where they are asked for.
    mount_units: Option<MountUnits>,
    /// Disks that a person releases.
    releasing: Releasing,
}

impl Reconciler {
    /// A loop that has not looked yet, and where its rounds can be seen.
    /// `longhorn` is what the cluster says of this node.
    pub fn new(
        settings: Settings,
        longhorn: watch::Receiver<View>,
    ) -> (Self, watch::Receiver<Option<Arc<Round>>>) {
        let (published, rounds) = watch::channel(None);
        let state = State::below(&settings.state_dir);
        let host = settings.host();
        let observer = Observer::new(host.clone(), settings.mount_root.clone(), state.clone());
        let reconciler = Self {
            look: Some(Look::new(host.clone(), settings.policy.clone(), observer)),
            around: Surroundings {
                host,
                state,
                max_formats_per_hour: settings.policy.max_formats_per_hour,
                mkfs_timeout: settings.mkfs_timeout,
                mount_root: settings.mount_root.clone(),
                node: settings.node_name.clone(),
            },
            backoff: Backoff::default(),
            working: BTreeMap::new(),
            workers: Workers::new(settings.parallel),
            news: mpsc::unbounded_channel(),
            published,
            verdicts: BTreeMap::new(),
            clearing: BTreeSet::new(),
            stuck: Backoff::default(),
            unkept: Backoff::default(),
            mounted: Backoff::default(),
            aside: BTreeSet::new(),
            udev_waits: 0,
            rounds: 0,
            longhorn,
            releasing: Releasing::new(Mailbox::below(&settings.state_dir)),
            mount_units: settings
                .mount_units
                .clone()
                .map(|directory| MountUnits::in_directory(directory, settings.mount_root.clone())),
            settings,
        };
        (reconciler, rounds)
    }

    /// What the loop keeps on the host. Who else writes to it must use this one:
    /// its clones write in turns.
    pub fn state(&self) -> State {
        self.around.state.clone()
    }

    /// Runs until `stop` is cancelled, then waits for running jobs, at most
    /// four seconds: what is not done by then is resumed by the next start.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let uevents = match UeventBell::listen() {
            Ok(bell) => Some(bell),
            Err(error) => {
                tracing::warn!(
                    error = chain(&error),
                    "no uevents: new disks are noticed at the timer only"
                );
                None
            }
        };
        let mounts = match MountBell::watch(&self.around.host) {
            Ok(bell) => Some(bell),
            Err(error) => {
                tracing::warn!(
                    error = chain(&error),
                    "mount changes are noticed at the timer only"
                );
                None
            }
        };
        let requests = self.watch_requests();
        let mut dirty = Dirty::Everything;
        let mut timer = Instant::now() + self.jittered();
        loop {
            if dirty.is_full() {
                timer = Instant::now() + self.jittered();
            }
            // A look takes as long as disks do that do not answer. Stopping comes first:
            // whatever else happened as well, no disk is begun after that.
            let next = tokio::select! {
                biased;
                _ = stop.changed() => {
                    self.drain().await;
                    return;
                }
                next = self.round(&dirty) => next,
            };
            dirty = Dirty::nothing();
            let (deadline, doubtful) = match next {
                NextRound::AtTimer => (timer, Dirty::nothing()),
                NextRound::After(pause, doubtful) => (timer.min(Instant::now() + pause), doubtful),
            };
            // Every branch is cancel safe: sockets, channels and timers keep
            // what they have until it is taken.
            loop {
                tokio::select! {
                    rung = ring(uevents.as_ref()) => {
                        if let Some(rung) = self.set_aside(rung) {
                            dirty = dirty.and(rung);
                            break;
                        }
                    }
                    () = mounts_changed(mounts.as_ref()) => break,
                    () = asked(requests.as_ref()) => break,
                    // Without Longhorn the sender is gone and the branch off.
                    Ok(()) = self.longhorn.changed() => break,
                    Some(news) = self.news.1.recv() => {
                        if let Some(again) = self.take(news) {
                            dirty = dirty.and(again);
                            break;
                        }
                        self.publish_operations();
                    }
                    () = tokio::time::sleep_until(deadline.into()) => {
                        dirty = if Instant::now() < timer {
                            dirty.and(doubtful)
                        } else if uevents.is_some() {
                            Dirty::Everything
                        } else {
                            // Nobody would have told what changed meanwhile.
                            Dirty::Lost
                        };
                        break;
                    }
                    _ = stop.changed() => {
                        self.drain().await;
                        return;
                    }
                }
            }
            dirty = self.gather(dirty, uevents.as_ref()).await;
        }
    }

    /// Only who enforces does what is asked.
    fn watch_requests(&self) -> Option<RequestBell> {
        if self.settings.mode != Mode::Enforce {
            return None;
        }
        match RequestBell::watch(self.releasing.mailbox.directory()) {
            Ok(bell) => Some(bell),
            Err(error) => {
                tracing::warn!(
                    error = chain(&error),
                    "what a person asks for is noticed at the timer only"
                );
                None
            }
        }
    }

    /// Takes what rings within a short while, so that a burst is one round, and
    /// what is told meanwhile, so that the round shows it.
    async fn gather(&mut self, mut dirty: Dirty, uevents: Option<&UeventBell>) -> Dirty {
        let end = tokio::time::Instant::now() + DEBOUNCE;
        loop {
            tokio::select! {
                rung = ring(uevents) => {
                    if let Some(rung) = self.set_aside(rung) {
                        dirty = dirty.and(rung);
                    }
                }
                Some(news) = self.news.1.recv() => {
                    if let Some(again) = self.take(news) {
                        dirty = dirty.and(again);
                    }
                }
                () = tokio::time::sleep_until(end) => return dirty,
            }
        }
    }

    /// Keeps events of disks that are worked on until the work is done: our
    /// own partitioning and formatting causes a dozen. What is left of the
    /// ring, if anything.
    fn set_aside(&mut self, rung: Dirty) -> Option<Dirty> {
        match rung {
            Dirty::Everything | Dirty::Lost => Some(rung),
            Dirty::Devices(names) => {
                let (ours, others): (BTreeSet<_>, BTreeSet<_>) =
                    names.into_iter().partition(|name| {
                        self.working
                            .keys()
                            .any(|disk| device::is_part_of(name, disk))
                    });
                self.aside.extend(ours);
                (!others.is_empty()).then_some(Dirty::Devices(others))
            }
        }
    }

    /// One round: look, remember, report, start what is asked for.
    async fn round(&mut self, dirty: &Dirty) -> NextRound {
        let Some(mut look) = self.look.take() else {
            return NextRound::AtTimer;
        };
        // What may be tried again by now, is; what becomes due from here on, while
        // disks are looked at, is a reason for another round.
        let since = Instant::now();
        // In front of the look, which sees what was taken down.
        let answered = if self.settings.mode == Mode::Enforce {
            self.serve_requests()
        } else {
            Vec::new()
        };
        // Before anything depends on it: what is heard from here on begins
        // another round.
        let longhorn = self.longhorn.borrow_and_update().clone();
        let may_format = self.settings.mode == Mode::Enforce && self.may_format(&longhorn);
        let working: BTreeSet<String> = self.working.keys().cloned().collect();
        let (asked, busy) = (dirty.clone(), working.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let seen = look.look(&asked, &busy);
            (look, seen)
        });
        let Ok((look, seen)) = looked.await else {
            return NextRound::AtTimer;
        };
        self.look = Some(look);
        self.rounds += 1;
        let Seen {
            inventory,
            mut verdicts,
            devices_read,
            again,
            micros,
        } = seen;
        // Half-done work must not be judged: the verdict that began it stands.
        for disk in &working {
            if let Some(verdict) = self.verdicts.get(disk) {
                verdicts.insert(disk.clone(), verdict.clone());
            }
        }
        self.log_changes(&verdicts);
        self.backoff
            .retain(|disk| inventory.devices.contains_key(disk));
        // One that was pulled out was unmounted by nobody's will.
        self.mounted
            .retain(|disk| inventory.devices.contains_key(disk));
        self.mounted.forget_quiet(SETTLED, Instant::now());
        self.unkept.forget_quiet(SETTLED, Instant::now());
        let full = dirty.is_full();
        let mut unmounts = None;
        let mut unseen = false;
        let dead = decide::dead_mounts(&inventory, &self.settings.policy);
        self.stuck
            .retain(|name| dead.keys().any(|dead| dead.as_str() == name));
        let released = decide::released(&inventory, &self.settings.policy);
        if self.settings.mode == Mode::Enforce {
            self.forget_finished(&inventory, &verdicts);
            let copied = self.keep_copied(&inventory, &verdicts);
            self.keep_names(&inventory, &verdicts);
            self.clear(&dead);
            if let Some(units) = &mut self.mount_units {
                units.withdraw(released.keys().chain(&copied), full);
            }
            unmounts = self.unmount_released(&released);
            unseen = self.has_unseen_requests();
            self.start_jobs(&inventory, &verdicts, &dead, may_format);
            // Which disks must not have one, the ledger knows.
            if let (Some(units), Ok(_)) = (&mut self.mount_units, inventory.standing.known()) {
                units.keep(&verdicts, full);
            }
        }
        // After all that may have failed just now.
        let mut next = self.next_round(&verdicts, again, since);
        if let Some(again) = unmounts {
            next = next.or_at(again);
        }
        if unseen {
            next = NextRound::After(Duration::ZERO, Dirty::nothing());
        }
        self.verdicts.clone_from(&verdicts);
        let cost = RoundCost {
            number: self.rounds,
            finished_at: now(),
            devices_read,
            full,
            micros,
        };
        tracing::debug!(full, devices_read, micros, "round");
        let operations = self.operations();
        let dead_mounts = self.dead_mounts(&dead);
        let releases = self.releasing.rows(&inventory, &released, &longhorn);
        self.published.send_replace(Some(Arc::new(Round {
            inventory,
            verdicts,
            operations,
            dead_mounts,
            releases,
            cost,
            longhorn,
            mount_units: self.mount_units.as_ref().map(MountUnits::problems),
        })));
        self.dismiss(&answered);
        if full {
            sys::return_free_memory();
        }
        next
    }

    /// Keeps what the cluster last said of freezing; where it says nothing, what
    /// it said before still holds. Whether disks may be formatted: not before
    /// the cluster was asked, nor while what it said cannot be kept.
    fn may_format(&self, longhorn: &View) -> bool {
        let heard = match longhorn {
            View::Present { frozen, .. } => frozen.clone(),
            View::Connecting => return false,
            View::Absent
            | View::Off
            | View::Unreachable { .. }
            | View::Forbidden { .. }
            | View::NotInstalled => {
                return true;
            }
        };
        match self.around.state.ledger.heard_frozen(heard.as_deref()) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(
                    error = chain(&error),
                    "what the cluster says of freezing cannot be kept, so nothing is formatted"
                );
                false
            }
        }
    }

    /// `again` is when a disk that could not be read is to be read again. All else
    /// that was due `since` a moment has been tried.
    fn next_round(
        &mut self,
        verdicts: &BTreeMap<String, Verdict>,
        again: Option<Instant>,
        since: Instant,
    ) -> NextRound {
        // Where udevd's own events do not reach us, its record is read again,
        // ever more seldom for a disk that it does not get done with.
        let pending: BTreeSet<String> = verdicts
            .iter()
            .filter(|(_, verdict)| {
                matches!(verdict, Verdict::Refused(refusal) if refusal.reason == Reason::UdevPending)
            })
            .map(|(disk, _)| disk.clone())
            .collect();
        self.udev_waits = if pending.is_empty() {
            0
        } else {
            self.udev_waits.saturating_add(1)
        };
        let factor = 1_u32
            .checked_shl(self.udev_waits.saturating_sub(4))
            .unwrap_or(u32::MAX);
        let udev = (!pending.is_empty()).then(|| UDEV_PAUSE.saturating_mul(factor));
        let silent = verdicts.values().any(|verdict| {
            matches!(verdict, Verdict::Refused(refusal) if refusal.reason == Reason::NotAnswering)
        });
        let answer = silent.then_some(ANSWER_PAUSE);
        let held = verdicts.iter().any(|(disk, verdict)| {
            Job::for_verdict(verdict).is_some_and(|job| job.mounts_only())
                && !self.mounted.may_try(disk, since)
        });
        let held = held.then(|| self.mounted.next(since)).flatten();
        let retries = [
            self.backoff.next(since),
            self.stuck.next(since),
            self.unkept.next(since),
            self.releasing.next(since),
            held,
            again,
        ];
        let retry = retries.into_iter().flatten().min();
        let retry = retry.map(|again| again.saturating_duration_since(Instant::now()));
        match [retry, udev, answer].into_iter().flatten().min() {
            Some(pause) => NextRound::After(pause, Dirty::Devices(pending)),
            None => NextRound::AtTimer,
        }
    }

    /// Between a tenth less and a tenth more, so that a fleet does not move in step.
    fn jittered(&self) -> Duration {
        self.settings
            .interval
            .mul_f64(rand::rng().random_range(0.9..1.1))
    }
}

/// Waits for uevents, for ever where there is no socket.
async fn ring(bell: Option<&UeventBell>) -> Dirty {
    match bell {
        Some(bell) => match bell.rung().await {
            Ok(dirty) => dirty,
            Err(error) => {
                tracing::warn!(error = chain(&error), "uevents cannot be read");
                tokio::time::sleep(Duration::from_secs(1)).await;
                Dirty::Lost
            }
        },
        None => std::future::pending().await,
    }
}

/// Waits for a change of the mount table, for ever where it cannot be watched.
async fn mounts_changed(bell: Option<&MountBell>) {
    match bell {
        Some(bell) => {
            if let Err(error) = bell.rung().await {
                tracing::warn!(error = chain(&error), "mount changes cannot be read");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        None => std::future::pending().await,
    }
}

/// Waits for a request of a person, for ever where they cannot be watched.
async fn asked(bell: Option<&RequestBell>) {
    match bell {
        Some(bell) => {
            if let Err(error) = bell.rung().await {
                tracing::warn!(error = chain(&error), "requests cannot be watched");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        None => std::future::pending().await,
    }
}
