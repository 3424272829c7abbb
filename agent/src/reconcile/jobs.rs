//! Jobs: which are started, what they tell, and how they are shown.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::task::JoinHandle;

use super::{
    News, Reconciler, Work,
    logs::{log_overdue, told},
};
use crate::{
    decide::Verdict,
    observe::{Dirty, Inventory, device},
    provision::{self, Job, Phase, Target},
    report::Operation,
    text::chain,
    units::{DevNo, DiskName},
    workers::Outcome,
};

/// A job that is running at SIGTERM may take this long to end by itself.
pub const GRACE: Duration = Duration::from_millis(4_000);

impl Reconciler {
    pub(super) fn start_jobs(
        &mut self,
        inventory: &Inventory,
        verdicts: &BTreeMap<String, Verdict>,
        dead: &BTreeMap<DiskName, DevNo>,
        may_format: bool,
    ) {
        let now = Instant::now();
        // A disk may be there twice, by two paths or as a copy: what is worked
        // on under a name is not begun a second time.
        let of_work = |disk: &String| verdicts.get(disk)?.disk_name().cloned();
        let mut worked_on: BTreeSet<DiskName> = self.working.keys().filter_map(of_work).collect();
        for (disk, verdict) in verdicts {
            let Some(job) = Job::for_verdict(verdict) else {
                // Nothing is asked for any more: an old failure is history.
                self.backoff.forget(disk);
                continue;
            };
            if self.working.contains_key(disk) || !self.backoff.may_try(disk, now) {
                continue;
            }
            // The round that follows the unmount starts it.
            let name = verdict.disk_name();
            if name.is_some_and(|name| {
                dead.contains_key(name)
                    || self.clearing.contains(name)
                    || self.releasing.is_unmounting(name)
                    || worked_on.contains(name)
            }) {
                continue;
            }
            // Who mounts it and finds it unmounted again and again is at odds
            // with somebody who unmounts it.
            if job.mounts_only() && !self.mounted.may_try(disk, now) {
                continue;
            }
            // The round that the cluster's answer begins starts it.
            if job.formats() && !may_format {
                continue;
            }
            let Some(device) = inventory.devices.get(disk) else {
                continue;
            };
            match Target::of(device, &self.around.host) {
                Ok(target) => {
                    worked_on.extend(name.cloned());
                    self.start(disk.clone(), job, target);
                }
                Err(error) => self.backoff.failed(disk, chain(&error), now),
            }
        }
    }

    fn start(&mut self, disk: String, job: Job, target: Target) {
        let waiting = Work {
            phase: Phase::Waiting,
            overdue: None,
        };
        self.working.insert(disk.clone(), waiting);
        let (workers, around) = (self.workers.clone(), self.around.clone());
        let (progress, news) = (self.news.0.clone(), self.news.0.clone());
        let _detached: JoinHandle<()> = tokio::spawn(async move {
            // The loop is gone at shutdown; then nobody wants to know.
            let name = disk.clone();
            let job = move || {
                let result = provision::execute(&job, target, &around, &|phase| {
                    drop(progress.send(News::Progress(name.clone(), phase)));
                });
                told(&name, result)
            };
            let overdue = |overdue| drop(news.send(News::Overdue(disk.clone(), overdue)));
            let ended = match workers.work(job, overdue).await {
                Outcome::Ended(failure) => News::Ended(disk, failure),
                Outcome::Stale => News::Stale(disk),
                Outcome::Stopped => return,
            };
            drop(news.send(ended));
        });
    }

    /// Takes down what a job tells; what to look at again when it has ended.
    pub(super) fn take(&mut self, news: News) -> Option<Dirty> {
        match news {
            News::Progress(disk, phase) => {
                tracing::debug!(disk, ?phase, "progress");
                if let Some(work) = self.working.get_mut(&disk) {
                    work.phase = phase;
                }
                None
            }
            News::Overdue(disk, overdue) => {
                if let Some(work) = self.working.get_mut(&disk) {
                    work.overdue = Some(overdue);
                    log_overdue(&disk, work.phase, overdue);
                }
                None
            }
            News::Cleared(name, failure) => {
                self.clearing.remove(&name);
                match failure {
                    None => self.stuck.forget(name.as_str()),
                    Some(error) => self.stuck.failed(name.as_str(), error, Instant::now()),
                }
                Some(Dirty::nothing())
            }
            News::Unmounted(name, failure) => {
                self.releasing.unmounted(&name, failure);
                Some(Dirty::nothing())
            }
            News::Unused(name, partitions, failure) => {
                self.releasing.asked(name, partitions, failure);
                Some(Dirty::nothing())
            }
            News::Holds(name, holds) => {
                self.releasing.holdings.heard(name, holds);
                Some(Dirty::nothing())
            }
            News::Told(name, told) => {
                self.releasing.tell(name, told);
                Some(Dirty::nothing())
            }
            // Nothing was learnt of the disk.
            News::Stale(disk) => Some(self.ended(disk)),
            News::Ended(disk, failure) => {
                match failure {
                    None => {
                        self.backoff.forget(&disk);
                        let mounted = self.verdicts.get(&disk).is_some_and(|verdict| {
                            Job::for_verdict(verdict).is_some_and(|job| !job.grows())
                        });
                        if mounted {
                            self.mounted.failed(&disk, String::new(), Instant::now());
                        }
                    }
                    Some(error) => self.backoff.failed(&disk, error, Instant::now()),
                }
                Some(self.ended(disk))
            }
        }
    }

    /// Nobody works on a disk any more: what to look at again.
    fn ended(&mut self, disk: String) -> Dirty {
        self.working.remove(&disk);
        let (mut again, aside) = std::mem::take(&mut self.aside)
            .into_iter()
            .partition::<BTreeSet<String>, _>(|name| device::is_part_of(name, &disk));
        self.aside = aside;
        again.insert(disk);
        Dirty::Devices(again)
    }

    pub(super) fn operations(&self) -> BTreeMap<String, Operation> {
        let now = Instant::now();
        let mut operations: BTreeMap<String, Operation> = self
            .backoff
            .iter()
            .map(|(disk, failed)| {
                let operation = Operation {
                    phase: None,
                    failures: failed.times,
                    error: Some(failed.error.clone()),
                    retry_in_seconds: Some(failed.again.saturating_duration_since(now).as_secs()),
                    overdue: None,
                };
                (disk.clone(), operation)
            })
            .collect();
        for (disk, work) in &self.working {
            let operation = operations.entry(disk.clone()).or_insert(Operation {
                phase: None,
                failures: 0,
                error: None,
                retry_in_seconds: None,
                overdue: None,
            });
            operation.phase = Some(work.phase);
            operation.overdue = work.overdue;
            operation.retry_in_seconds = None;
        }
        operations
    }

    pub(super) fn publish_operations(&self) {
        let operations = self.operations();
        self.published.send_if_modified(|round| match round {
            Some(round) => {
                Arc::make_mut(round).operations = operations;
                true
            }
            None => false,
        });
    }

    pub(super) async fn drain(&mut self) {
        // Jobs that wait for a worker do not begin any more. How far the others have
        // come may not have been heard yet.
        self.workers.close();
        while let Ok(news) = self.news.1.try_recv() {
            self.take(news);
        }
        self.working.retain(|_, work| work.phase != Phase::Waiting);
        let end = tokio::time::Instant::now() + GRACE;
        while !self.working.is_empty() {
            let news = tokio::time::timeout_at(end, self.news.1.recv());
            match news.await {
                Ok(Some(news)) => {
                    self.take(news);
                }
                Ok(None) => break,
                Err(_elapsed) => {
                    let disks: Vec<&String> = self.working.keys().collect();
                    tracing::warn!(?disks, "left to be resumed by the next start");
                    break;
                }
            }
        }
    }
}
