//! Disks that a person releases or takes back: what was asked is taken down in
//! the ledger, and what has left is unmounted. A step that a crash interrupts is
//! done again by the next start, from what the ledger says.

mod holdings;
mod unmount;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::{News, Reconciler};
use crate::{
    backoff::Backoff,
    decide::{Released, Verdict},
    ledger::LedgerError,
    longhorn::View,
    observe::Inventory,
    releases::{Known, ReleaseRow, Told, rows},
    requests::{Mailbox, Request, Wish},
    text::chain,
    units::DiskName,
};
use holdings::Holdings;

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
    /// Disks that could not be unmounted.
    stuck: Backoff,
    /// Disks that are unmounted here, and in use nevertheless.
    busy: Backoff,
    /// Disks that must not be unmounted at this moment, with why.
    held: BTreeMap<DiskName, String>,
    /// Partitions of unmounted disks that nobody uses. Asked once for each time
    /// that a disk is unmounted or attached, and after each start: the question
    /// would be in the way of who mounts or erases the disk by hand.
    unused: BTreeMap<DiskName, Vec<String>>,
    /// Disks that were unmounted, with how long they must stay so before they are
    /// unmounted again without a pause: somebody may mount them each time.
    undone: Backoff,
    /// What Longhorn has on disks that are to be released, where it is not asked.
    pub(super) holdings: Holdings,
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
                | LedgerError::NotLeaving(_)
                | LedgerError::NotReturning(_)),
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
            busy: Backoff::default(),
            held: BTreeMap::new(),
            unused: BTreeMap::new(),
            undone: Backoff::default(),
            holdings: Holdings::default(),
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
        let next = [
            self.stuck.next(now),
            self.busy.next(now),
            self.unserved.next(now),
            self.holdings.next(now),
        ];
        next.into_iter().flatten().min()
    }

    pub(super) fn tell(&mut self, name: DiskName, told: Told) {
        self.told.insert(name, (told, Instant::now()));
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
            let stuck = || self.stuck.error_of(name.as_str());
            let busy = || self.busy.error_of(name.as_str());
            let why = held.or_else(stuck).or_else(busy)?;
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
        self.releasing
            .holdings
            .retain(|name| open.contains_key(name));
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
                let regardless = requests.iter().any(|request| request.even_with_replicas);
                self.release(&name, regardless)
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

    /// `regardless` of what Longhorn has on it, where Longhorn is not asked.
    fn release(&mut self, name: &DiskName, regardless: bool) -> Answer {
        let ledger = self.around.state.ledger.clone();
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
        if !self.longhorn_is_off() {
            return ledger.release(uuid, name).map(|()| None).into();
        }
        // One that is under way was asked about before.
        if !regardless && !standing.releases.contains_key(&uuid) {
            match self.may_leave(name) {
                None => return Answer::Waits("what Longhorn has on it is being read".to_owned()),
                Some(Ok(())) => {}
                Some(Err(why)) => return Answer::Answered(Some(Told::Refused(why))),
            }
        }
        ledger.release_at_once(uuid, name).map(|()| None).into()
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
        let in_use = match release.phase.before() {
            // Longhorn's entry is put back first.
            Some(_) => None,
            None => Some(Told::InUse),
        };
        ledger.call_off(uuid).map(|()| in_use).into()
    }

    fn longhorn_is_off(&self) -> bool {
        *self.longhorn.borrow() == View::Off
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

#[cfg(test)]
mod tests;
