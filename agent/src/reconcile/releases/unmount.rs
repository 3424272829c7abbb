//! Disks that have left: they are unmounted where this is seen, and told to be so
//! when the kernel says that nobody has them anywhere else.
use std::{collections::BTreeMap, path::Path, time::Instant};

use tokio::task::JoinHandle;

use super::{
    super::{News, Reconciler, SETTLED},
    Releasing,
};
use crate::{
    decide::Released,
    longhorn::{View, audit},
    provision::{self, ProvisionError},
    text::chain,
    units::{DevNo, DiskName},
};

/// Disks that are unmounted at the same time.
const AT_ONCE: usize = 4;

/// What is done about a disk that has left.
enum Due {
    /// It is unmounted.
    Unmount(DevNo),
    /// It is unmounted as far as is seen here; whether it is in use in another
    /// mount namespace is asked of the kernel.
    Ask(Vec<String>),
}

impl Releasing {
    pub(in crate::reconcile) fn unmounted(&mut self, name: &DiskName, failure: Option<String>) {
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
    pub(in crate::reconcile) fn asked(
        &mut self,
        name: DiskName,
        partitions: Vec<String>,
        failure: Option<String>,
    ) {
        self.unmounting.remove(&name);
        match failure {
            None => {
                self.busy.forget(name.as_str());
                self.unused.insert(name, partitions);
            }
            Some(error) => self.busy.failed(name.as_str(), error, Instant::now()),
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
    pub(super) fn may_unmount(&self, name: &DiskName, now: Instant) -> bool {
        self.stuck.may_try(name.as_str(), now) && self.undone.may_try(name.as_str(), now)
    }
}

impl Reconciler {
    /// Unmounts what has left, its unit of systemd first, and asks whether
    /// anybody has it mounted nevertheless. What is in use is tried again, ever
    /// more seldom, and never forced; so is what somebody mounts again each time.
    /// When that is, where there is such a disk.
    pub(in crate::reconcile) fn unmount_released(
        &mut self,
        released: &BTreeMap<DiskName, Released>,
    ) -> Option<Instant> {
        let now = Instant::now();
        let mut paused = false;
        let is_released = |name: &str| released.keys().any(|released| released.as_str() == name);
        let releasing = &mut self.releasing;
        releasing.undone.forget_quiet(SETTLED, now);
        releasing.stuck.retain(is_released);
        releasing.busy.retain(is_released);
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
            let due = self.releasing.due(name, found);
            if !matches!(due, Some(Due::Unmount(_))) {
                self.releasing.stuck.forget(name.as_str());
            }
            if !matches!(due, Some(Due::Ask(_))) {
                self.releasing.busy.forget(name.as_str());
            }
            let Some(due) = due else {
                continue;
            };
            if let Due::Unmount(_) = due {
                if let Err(why) = self.not_registered_at_place_of(name) {
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
            } else if !self.releasing.busy.may_try(name.as_str(), now) {
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
        let longhorn = self.longhorn.clone();
        let place = Path::new(&self.settings.policy.mount_root).join(name.as_str());
        let _detached: JoinHandle<()> = tokio::task::spawn_blocking(move || {
            let told = match due {
                Due::Unmount(devno) => {
                    let needed = || not_registered_at(&place, &longhorn.borrow()).err();
                    let unmounted = provision::unmount_released(&name, devno, &around, needed);
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

    fn not_registered_at_place_of(&self, name: &DiskName) -> Result<(), String> {
        let place = Path::new(&self.settings.policy.mount_root).join(name.as_str());
        not_registered_at(&place, &self.longhorn.borrow())
    }
}

/// Whether Longhorn has nothing at the place of a disk, as last heard: what has
/// left may be registered again by a person, and would be taken away below
/// Longhorn's replicas. Before Longhorn has been heard, after a start or while
/// the cluster is away, nobody knows.
fn not_registered_at(place: &Path, view: &View) -> Result<(), String> {
    match view {
        View::Present { disks, .. } => {
            let mut entries = disks.iter();
            match entries.find(|(_, disk)| audit::clean(&disk.path).starts_with(place)) {
                Some((entry, _)) => Err(format!(
                    "Longhorn has it again, as {entry}: remove that entry in Longhorn first"
                )),
                None => Ok(()),
            }
        }
        View::Connecting | View::Unreachable { .. } | View::Forbidden { .. } => Err(format!(
            "whether Longhorn has it again is not known: {view}"
        )),
        View::Off | View::NotInstalled | View::Absent => Ok(()),
    }
}

/// Why a released disk is not free yet.
fn failure(name: &DiskName, result: Result<(), ProvisionError>) -> Option<String> {
    let error = chain(&result.err()?);
    tracing::warn!(%name, error, "released, and still in use");
    Some(error)
}
