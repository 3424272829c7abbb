//! Disks that a person releases or takes back: what was asked is taken down in
//! the ledger, and what has left is unmounted. A step that a crash interrupts is
//! done again by the next start, from what the ledger says.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component, Path, PathBuf},
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, task::JoinHandle};

use super::{News, Reconciler, SETTLED};
use crate::{
    backoff::Backoff,
    decide::{Released, Verdict},
    ledger::{LedgerError, ReleasePhase},
    longhorn::View,
    observe::Inventory,
    provision::{self, ProvisionError},
    releases::{Known, ReleaseRow, Told, rows},
    requests::{Mailbox, Request, Wish},
    text::chain,
    units::{DevNo, DiskName},
};

/// Disks that are unmounted at the same time.
const AT_ONCE: usize = 4;
/// How long an answer is shown after which nothing else is to be told.
const SHOWN: Duration = Duration::from_mins(10);

/// What the loop remembers of releases besides what the ledger has.
#[derive(Debug)]
pub(super) struct Releasing {
    pub(super) mailbox: Mailbox,
    told: BTreeMap<DiskName, (Told, Instant)>,
    /// Disks that are being unmounted, or of which it is asked whether anybody
    /// has them mounted still.
    unmounting: BTreeSet<DiskName>,
    /// Disks that could not be unmounted, or are in use nevertheless.
    stuck: Backoff,
    /// Disks that must not be unmounted at this moment, with why.
    held: BTreeMap<DiskName, String>,
    /// Partitions of unmounted disks that nobody uses. Asked once for each time
    /// that a disk is unmounted or attached, and after each start: the question
    /// would be in the way of who mounts or erases the disk by hand.
    unused: BTreeMap<DiskName, Vec<String>>,
    /// Disks that were unmounted, with how long they must stay so before they are
    /// unmounted again without a pause: somebody may mount them each time.
    undone: Backoff,
    /// Requests that could not be taken down.
    unserved: Backoff,
    /// Why the requests could not be read the last time.
    unread: Option<String>,
}

/// Tells the loop how a release goes on in Longhorn.
#[derive(Debug, Clone)]
pub struct Teller(mpsc::UnboundedSender<News>);

impl Teller {
    /// Tells it; the loop looks again.
    pub fn tell(&self, name: DiskName, told: Told) {
        // The loop is gone at shutdown; then nobody wants to know.
        drop(self.0.send(News::Told(name, told)));
    }
}

/// What is done about a disk that has left.
enum Due {
    /// It is unmounted.
    Unmount(DevNo),
    /// It is unmounted as far as is seen here; whether it is in use in another
    /// mount namespace is asked of the kernel.
    Ask(Vec<String>),
}

/// What became of a request.
enum Answer {
    /// It is answered, with what is told of it besides the ledger.
    Answered(Option<Told>),
    /// It is looked at again when something changes.
    Waits(String),
    /// It could not be taken down, and is tried again.
    Failed(LedgerError),
}

impl From<Result<Option<Told>, LedgerError>> for Answer {
    fn from(result: Result<Option<Told>, LedgerError>) -> Self {
        match result {
            Ok(told) => Self::Answered(told),
            Err(error @ (LedgerError::Owned { .. } | LedgerError::Named { .. })) => {
                Self::Answered(Some(Told::Refused(error.to_string())))
            }
            Err(
                error @ (LedgerError::Read(_)
                | LedgerError::Write(_)
                | LedgerError::Limit { .. }
                | LedgerError::Frozen(_)
                | LedgerError::Used(_)
                | LedgerError::NotLeaving(_)),
            ) => Self::Failed(error),
        }
    }
}

impl Releasing {
    pub(super) fn new(mailbox: Mailbox) -> Self {
        Self {
            mailbox,
            told: BTreeMap::new(),
            unmounting: BTreeSet::new(),
            stuck: Backoff::default(),
            held: BTreeMap::new(),
            unused: BTreeMap::new(),
            undone: Backoff::default(),
            unserved: Backoff::default(),
            unread: None,
        }
    }

    /// Whether a disk is being unmounted, or asked for: it is not mounted meanwhile.
    pub(super) fn is_unmounting(&self, name: &DiskName) -> bool {
        self.unmounting.contains(name)
    }

    /// The next moment at which something is tried again.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        let next = [self.stuck.next(now), self.unserved.next(now)];
        next.into_iter().flatten().min()
    }

    pub(super) fn tell(&mut self, name: DiskName, told: Told) {
        self.told.insert(name, (told, Instant::now()));
    }

    pub(super) fn unmounted(&mut self, name: &DiskName, failure: Option<String>) {
        self.unmounting.remove(name);
        match failure {
            None => {
                self.stuck.forget(name.as_str());
                self.undone
                    .failed(name.as_str(), String::new(), Instant::now());
            }
            Some(error) => self.stuck.failed(name.as_str(), error, Instant::now()),
        }
    }

    /// What the kernel says of the partitions of an unmounted disk: why somebody
    /// has them still, if so.
    pub(super) fn asked(
        &mut self,
        name: DiskName,
        partitions: Vec<String>,
        failure: Option<String>,
    ) {
        self.unmounting.remove(&name);
        match failure {
            None => {
                self.stuck.forget(name.as_str());
                self.unused.insert(name, partitions);
            }
            Some(error) => self.stuck.failed(name.as_str(), error, Instant::now()),
        }
    }

    /// What is to be done about a disk that has left, where there is anything.
    fn due(&mut self, name: &DiskName, found: &Released) -> Option<Due> {
        let visible = found.mounted.is_some() || !found.elsewhere.is_empty();
        if visible || self.unused.get(name) != Some(&found.partitions) {
            self.unused.remove(name);
        }
        match found.mounted {
            Some(devno) => Some(Due::Unmount(devno)),
            None if visible || found.partitions.is_empty() || self.unused.contains_key(name) => {
                None
            }
            None => Some(Due::Ask(found.partitions.clone())),
        }
    }

    /// Whether a released disk may be unmounted now.
    fn may_unmount(&self, name: &DiskName, now: Instant) -> bool {
        self.stuck.may_try(name.as_str(), now) && self.undone.may_try(name.as_str(), now)
    }

    /// The requests, by the disk that they are about.
    fn open(&mut self) -> BTreeMap<DiskName, Vec<Request>> {
        let (open, unread) = match self.mailbox.open() {
            Ok(open) => (open, None),
            Err(error) => (Vec::new(), Some(chain(&error))),
        };
        if unread != self.unread
            && let Some(error) = &unread
        {
            tracing::warn!(error, "nothing that a person asks for is heard");
        }
        self.unread = unread;
        let mut by_name: BTreeMap<DiskName, Vec<Request>> = BTreeMap::new();
        for request in open {
            by_name
                .entry(request.name.clone())
                .or_default()
                .push(request);
        }
        by_name
    }

    pub(super) fn rows(
        &self,
        inventory: &Inventory,
        released: &BTreeMap<DiskName, Released>,
        longhorn: &View,
    ) -> Vec<ReleaseRow> {
        let told = self.told.iter();
        let kept = released.keys().filter_map(|name| {
            let held = self.held.get(name).cloned();
            let why = held.or_else(|| self.stuck.error_of(name.as_str()))?;
            Some((name.clone(), why))
        });
        let known = Known {
            told: told
                .map(|(name, (told, _))| (name.clone(), told.clone()))
                .collect(),
            kept: kept.collect(),
            unused: self.unused.keys().cloned().collect(),
            longhorn_off: *longhorn == View::Off,
        };
        rows(inventory, released, &known)
    }
}

impl Reconciler {
    /// By which others tell how a release goes on.
    pub fn teller(&self) -> Teller {
        Teller(self.news.0.clone())
    }

    /// Takes down what a person asks for. Which requests are answered by that:
    /// they are taken away when the answer is shown, so that who waits for that
    /// finds it. After a crash in between they are answered again, to the same
    /// end.
    ///
    /// Before the first round it is not known which disk a name belongs to.
    pub(super) fn serve_requests(&mut self) -> Vec<Request> {
        if self.rounds == 0 {
            return Vec::new();
        }
        let now = Instant::now();
        let open = self.releasing.open();
        self.releasing.told.retain(|name, (told, at)| match told {
            Told::Waiting(_) => open.contains_key(name),
            Told::Progress(_) => true,
            Told::Refused(_) | Told::InUse => at.elapsed() < SHOWN,
        });
        self.releasing
            .unserved
            .retain(|name| open.keys().any(|open| open.as_str() == name));
        let mut answered = Vec::new();
        for (name, requests) in open {
            if !self.releasing.unserved.may_try(name.as_str(), now) {
                continue;
            }
            // Of two that contradict each other, the one that leaves all as it is.
            let cancel = requests.iter().any(|request| request.wish == Wish::Cancel);
            let answer = if cancel {
                self.take_back(&name)
            } else {
                self.release(&name)
            };
            match answer {
                Answer::Answered(told) => {
                    tracing::info!(%name, cancel, ?told, "a request to release was answered");
                    self.releasing.told.remove(&name);
                    if let Some(told) = told {
                        self.releasing.tell(name, told);
                    }
                    answered.extend(requests);
                }
                Answer::Waits(why) => self.releasing.tell(name, Told::Waiting(why)),
                Answer::Failed(error) => {
                    let error = chain(&error);
                    tracing::warn!(%name, error, "a request to release cannot be taken down");
                    let key = name.as_str().to_owned();
                    self.releasing.tell(name, Told::Waiting(error.clone()));
                    self.releasing.unserved.failed(&key, error, now);
                }
            }
        }
        answered
    }

    /// Takes answered requests away. One that stays is answered again.
    pub(super) fn dismiss(&self, answered: &[Request]) {
        for request in answered {
            if let Err(error) = self.releasing.mailbox.answered(request) {
                tracing::warn!(error = chain(&error), "an answered request stays");
            }
        }
    }

    fn release(&self, name: &DiskName) -> Answer {
        let ledger = &self.around.state.ledger;
        let found = self
            .verdicts
            .iter()
            .find(|(_, verdict)| verdict.disk_name() == Some(name));
        let by_verdict = match found {
            Some((disk, _)) if self.working.contains_key(disk) => {
                return Answer::Waits(format!("{disk} is being worked on"));
            }
            Some((_, Verdict::Managed(managed))) => Some(managed.claim.partition_guid),
            Some((_, Verdict::Adopt(adopt))) => Some(adopt.uuid),
            Some((disk, Verdict::Provision(_) | Verdict::Resume(_))) => {
                let why = format!("{disk} is not finished, so there is nothing to release");
                return Answer::Answered(Some(Told::Refused(why)));
            }
            Some((_, Verdict::Refused(_))) | None => None,
        };
        let standing = ledger.standing();
        let standing = match standing.known() {
            Ok(standing) => standing,
            Err(why) => return Answer::Failed(LedgerError::Read(why.clone())),
        };
        // A disk that is away, that fails and cannot be read any more, or that has
        // left already, is known by the ledger.
        let Some(uuid) = by_verdict.or_else(|| standing.owner_of(name)) else {
            let why = format!("there is no disk {name} on this node");
            return Answer::Answered(Some(Told::Refused(why)));
        };
        let taken_down = if self.longhorn_is_off() {
            ledger.release_at_once(uuid, name)
        } else {
            ledger.release(uuid, name)
        };
        taken_down.map(|()| None).into()
    }

    fn take_back(&self, name: &DiskName) -> Answer {
        let ledger = &self.around.state.ledger;
        let standing = ledger.standing();
        let standing = match standing.known() {
            Ok(standing) => standing,
            Err(why) => return Answer::Failed(LedgerError::Read(why.clone())),
        };
        let Some((uuid, release)) = standing.release_of(name) else {
            let ours = self
                .verdicts
                .values()
                .any(|verdict| verdict.disk_name() == Some(name));
            return Answer::Answered(Some(if ours || standing.owner_of(name).is_some() {
                Told::InUse
            } else {
                Told::Refused(format!("there is no disk {name} on this node"))
            }));
        };
        let in_use = match release.phase {
            // Longhorn's entry is put back first.
            ReleasePhase::Leaving {
                schedulable_before: Some(_),
            }
            | ReleasePhase::Returning { .. } => None,
            ReleasePhase::Leaving {
                schedulable_before: None,
            }
            | ReleasePhase::Left => Some(Told::InUse),
        };
        ledger.call_off(uuid).map(|()| in_use).into()
    }

    fn longhorn_is_off(&self) -> bool {
        *self.longhorn.borrow() == View::Off
    }

    /// Unmounts what has left, its unit of systemd first, and asks whether
    /// anybody has it mounted nevertheless. What is in use is tried again, ever
    /// more seldom, and never forced; so is what somebody mounts again each time.
    /// When that is, where there is such a disk.
    pub(super) fn unmount_released(
        &mut self,
        released: &BTreeMap<DiskName, Released>,
    ) -> Option<Instant> {
        let now = Instant::now();
        let mut paused = false;
        let is_released = |name: &str| released.keys().any(|released| released.as_str() == name);
        let releasing = &mut self.releasing;
        releasing.undone.forget_quiet(SETTLED, now);
        releasing.stuck.retain(is_released);
        releasing.undone.retain(is_released);
        releasing
            .unused
            .retain(|name, _| released.contains_key(name));
        releasing.held.clear();
        for (name, found) in released {
            let working = |disk: &String| self.working.contains_key(disk);
            if self.releasing.unmounting.contains(name) || found.disk.as_ref().is_some_and(working)
            {
                continue;
            }
            let Some(due) = self.releasing.due(name, found) else {
                self.releasing.stuck.forget(name.as_str());
                continue;
            };
            if let Due::Unmount(_) = due {
                if let Some(entry) = self.registered_at_place_of(name) {
                    let why = format!(
                        "Longhorn has it again, as {entry}: remove that entry in Longhorn first"
                    );
                    self.releasing.held.insert(name.clone(), why);
                    continue;
                }
                if !self.releasing.may_unmount(name, now) {
                    paused = true;
                    continue;
                }
                if let Some(units) = &self.mount_units
                    && let Some(problem) = units.kept(name)
                {
                    self.releasing.stuck.failed(name.as_str(), problem, now);
                    continue;
                }
            } else if !self.releasing.stuck.may_try(name.as_str(), now) {
                continue;
            }
            // Each takes a thread for as long as it hangs.
            if self.releasing.unmounting.len() >= AT_ONCE {
                break;
            }
            self.releasing.unmounting.insert(name.clone());
            self.begin(name.clone(), due);
        }
        paused.then(|| self.releasing.undone.next(now)).flatten()
    }

    fn begin(&self, name: DiskName, due: Due) {
        let (around, news) = (self.around.clone(), self.news.0.clone());
        let _detached: JoinHandle<()> = tokio::task::spawn_blocking(move || {
            let told = match due {
                Due::Unmount(devno) => {
                    let unmounted = provision::unmount_released(&name, devno, &around);
                    if unmounted.is_ok() {
                        tracing::info!(%name, "unmounted: it was released");
                    }
                    let failure = failure(&name, unmounted);
                    News::Unmounted(name, failure)
                }
                Due::Ask(partitions) => {
                    let unused = provision::check_unused(&partitions, &around.host);
                    let failure = failure(&name, unused);
                    News::Unused(name, partitions, failure)
                }
            };
            // The loop is gone at shutdown.
            drop(news.send(told));
        });
    }

    /// The entry by which Longhorn has what is at the place of a disk, as last
    /// heard: what has left may be registered again by a person, and would be
    /// taken away below Longhorn's replicas.
    fn registered_at_place_of(&self, name: &DiskName) -> Option<String> {
        let place = Path::new(&self.settings.policy.mount_root).join(name.as_str());
        match &*self.longhorn.borrow() {
            View::Present { disks, .. } => disks
                .iter()
                .find(|(_, disk)| cleaned(&disk.path).starts_with(&place))
                .map(|(entry, _)| entry.clone()),
            View::Off
            | View::Connecting
            | View::Unreachable { .. }
            | View::NotInstalled
            | View::Absent => None,
        }
    }

    /// Whether requests wait that no round has seen.
    pub(super) fn has_unseen_requests(&self) -> bool {
        self.rounds == 1
            && self
                .releasing
                .mailbox
                .open()
                .is_ok_and(|open| !open.is_empty())
    }
}

/// Why a released disk is not free yet.
fn failure(name: &DiskName, result: Result<(), ProvisionError>) -> Option<String> {
    let error = chain(&result.err()?);
    tracing::warn!(%name, error, "released, and still in use");
    Some(error)
}

/// A path as Longhorn compares them (Go's `filepath.Clean`).
fn cleaned(path: &str) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in Path::new(path).components() {
        match part {
            Component::ParentDir => drop(clean.pop()),
            Component::CurDir => {}
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => clean.push(part),
        }
    }
    clean
}

#[cfg(test)]
mod tests;
