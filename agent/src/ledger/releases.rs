//! Disks that a person wants to take away from the node, and how far that has
//! come. All that is known of a release stands here, so that a crash between
//! two steps loses none and repeats none that matters.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Account, Kept, Ledger, LedgerError, Standing, is_false};
use crate::units::DiskName;

/// A release that a person asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Release {
    /// The name of the disk on this host, which stays its own.
    pub name: DiskName,
    /// How far it has come.
    pub phase: ReleasePhase,
}

/// How far a release has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    rename_all = "camelCase",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
pub enum ReleasePhase {
    /// Longhorn may have data on it, and is asked to move that away. The disk is
    /// served as before.
    Leaving {
        /// Whether Longhorn could place replicas on it before anything was
        /// changed there; none as long as nothing was.
        schedulable_before: Option<bool>,
        /// Whether a person had asked for its eviction by then. Left out where
        /// nobody had: an older agent knows no such field.
        #[serde(default, skip_serializing_if = "is_false")]
        evicting_before: bool,
    },
    /// It was called off, and what was changed in Longhorn is to be put back.
    Returning {
        /// What to put back.
        schedulable_before: bool,
        /// As long as it leaves.
        #[serde(default, skip_serializing_if = "is_false")]
        evicting_before: bool,
    },
    /// Nobody has data on it that is in use: it is unmounted, and stays so.
    Left,
}

/// What people had Longhorn do with a disk before a release changed that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Before {
    /// Replicas could be placed on it.
    pub schedulable: bool,
    /// Its replicas were to be moved away.
    pub evicting: bool,
}

impl ReleasePhase {
    /// On its way, before anything was changed in Longhorn.
    pub const UNTOUCHED: Self = Self::Leaving {
        schedulable_before: None,
        evicting_before: false,
    };

    /// On its way, after Longhorn's entry was changed.
    pub fn leaving(before: Before) -> Self {
        Self::Leaving {
            schedulable_before: Some(before.schedulable),
            evicting_before: before.evicting,
        }
    }

    /// On its way back.
    pub fn returning(before: Before) -> Self {
        Self::Returning {
            schedulable_before: before.schedulable,
            evicting_before: before.evicting,
        }
    }

    /// What Longhorn's entry said before it was changed, where it is to be put
    /// back.
    pub fn before(&self) -> Option<Before> {
        let (schedulable, evicting) = match *self {
            Self::Leaving {
                schedulable_before,
                evicting_before,
            } => (schedulable_before?, evicting_before),
            Self::Returning {
                schedulable_before,
                evicting_before,
            } => (schedulable_before, evicting_before),
            Self::Left => return None,
        };
        Some(Before {
            schedulable,
            evicting,
        })
    }
}

impl Ledger {
    /// Takes down, durably, that a disk is to leave. What is under way already
    /// goes on; one that was called off a moment ago leaves after all.
    ///
    /// # Errors
    /// When the name is another disk's, or this cannot be kept.
    pub fn release(&self, filesystem: Uuid, name: &DiskName) -> Result<(), LedgerError> {
        self.begin_release(filesystem, name, ReleasePhase::UNTOUCHED)
    }

    /// Takes down, durably and in one change, that a disk has left: where
    /// Longhorn is not asked, nobody else has a say in it. What was begun where
    /// Longhorn is asked stays as it was.
    ///
    /// # Errors
    /// As [`Ledger::release`].
    pub fn release_at_once(&self, filesystem: Uuid, name: &DiskName) -> Result<(), LedgerError> {
        self.begin_release(filesystem, name, ReleasePhase::Left)
    }

    fn begin_release(
        &self,
        filesystem: Uuid,
        name: &DiskName,
        first: ReleasePhase,
    ) -> Result<(), LedgerError> {
        self.change(|account| {
            account.check_name(filesystem, name)?;
            let phase = match account.releases.get(&filesystem).map(|there| &there.phase) {
                None => first,
                Some(returning @ ReleasePhase::Returning { .. }) => returning
                    .before()
                    .map_or(ReleasePhase::UNTOUCHED, ReleasePhase::leaving),
                Some(under_way @ (ReleasePhase::Leaving { .. } | ReleasePhase::Left)) => {
                    under_way.clone()
                }
            };
            let name = name.clone();
            // The name stays its own, also where the disk was never mounted here.
            account
                .disks
                .entry(filesystem)
                .or_insert_with(|| Kept::named(name.clone()));
            account.releases.insert(filesystem, Release { name, phase });
            Ok(())
        })
    }

    /// Takes down, durably, what people had Longhorn do with a disk that leaves,
    /// before that is changed. What was taken down first stays, until
    /// [`Ledger::unchanged`].
    ///
    /// # Errors
    /// When the disk is not leaving (any more): then nothing must be changed. Or
    /// when this cannot be kept.
    pub fn leaving(&self, filesystem: Uuid, before: Before) -> Result<(), LedgerError> {
        self.change(|account| match account.phase(filesystem)? {
            phase @ ReleasePhase::Leaving { .. } => {
                if phase.before().is_none() {
                    *phase = ReleasePhase::leaving(before);
                }
                Ok(())
            }
            ReleasePhase::Returning { .. } | ReleasePhase::Left => {
                Err(LedgerError::NotLeaving(filesystem))
            }
        })
    }

    /// Forgets, durably, what [`Ledger::leaving`] took down: Longhorn's entry was
    /// not changed. A release that was called off meanwhile is over.
    ///
    /// # Errors
    /// When this cannot be kept.
    pub fn unchanged(&self, filesystem: Uuid) -> Result<(), LedgerError> {
        self.change(|account| {
            match account.phase(filesystem) {
                Ok(phase @ ReleasePhase::Leaving { .. }) => *phase = ReleasePhase::UNTOUCHED,
                Ok(ReleasePhase::Returning { .. }) => {
                    account.releases.remove(&filesystem);
                }
                Ok(ReleasePhase::Left) | Err(_) => {}
            }
            Ok(())
        })
    }

    /// Takes down, durably, that nobody has a use for a disk any more: it may be
    /// unmounted from here on.
    ///
    /// # Errors
    /// When the disk is not leaving (any more), or this cannot be kept.
    pub fn left(&self, filesystem: Uuid) -> Result<(), LedgerError> {
        self.change(|account| match account.phase(filesystem)? {
            phase @ (ReleasePhase::Leaving { .. } | ReleasePhase::Left) => {
                *phase = ReleasePhase::Left;
                Ok(())
            }
            ReleasePhase::Returning { .. } => Err(LedgerError::NotLeaving(filesystem)),
        })
    }

    /// Takes down, durably, that a disk stays after all. Where Longhorn's entry
    /// was changed, that is put back first; otherwise the release is forgotten.
    ///
    /// # Errors
    /// When this cannot be kept.
    pub fn call_off(&self, filesystem: Uuid) -> Result<(), LedgerError> {
        self.change(|account| {
            let Ok(phase) = account.phase(filesystem) else {
                return Ok(());
            };
            match phase.before() {
                Some(before) => *phase = ReleasePhase::returning(before),
                None => {
                    account.releases.remove(&filesystem);
                }
            }
            Ok(())
        })
    }

    /// Forgets, durably, a release that was called off: Longhorn's entry is as it
    /// was before.
    ///
    /// # Errors
    /// When the disk is not on its way back (any more): who wants it to leave
    /// after all must not go unheard. Or when this cannot be kept.
    pub fn returned(&self, filesystem: Uuid) -> Result<(), LedgerError> {
        self.change(|account| match account.phase(filesystem)? {
            ReleasePhase::Returning { .. } => {
                account.releases.remove(&filesystem);
                Ok(())
            }
            ReleasePhase::Leaving { .. } | ReleasePhase::Left => {
                Err(LedgerError::NotReturning(filesystem))
            }
        })
    }

    /// Forgets, durably, a release that cannot be: the disk stays.
    ///
    /// # Errors
    /// When the disk is not leaving (any more), or this cannot be kept.
    pub fn stays(&self, filesystem: Uuid) -> Result<(), LedgerError> {
        self.change(|account| match account.phase(filesystem)? {
            ReleasePhase::Leaving { .. } => {
                account.releases.remove(&filesystem);
                Ok(())
            }
            ReleasePhase::Returning { .. } | ReleasePhase::Left => {
                Err(LedgerError::NotLeaving(filesystem))
            }
        })
    }
}

impl Account {
    fn phase(&mut self, filesystem: Uuid) -> Result<&mut ReleasePhase, LedgerError> {
        let release = self.releases.get_mut(&filesystem);
        release
            .map(|release| &mut release.phase)
            .ok_or(LedgerError::NotLeaving(filesystem))
    }
}

impl Standing {
    /// Whether a disk was released for good: it is not mounted any more.
    pub fn has_left(&self, filesystem: Uuid) -> bool {
        let release = self.releases.get(&filesystem);
        release.is_some_and(|release| release.phase == ReleasePhase::Left)
    }

    /// The release of a disk by its name.
    pub fn release_of(&self, name: &DiskName) -> Option<(Uuid, &Release)> {
        let mut releases = self.releases.iter();
        releases
            .find(|(_, release)| release.name == *name)
            .map(|(uuid, release)| (*uuid, release))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::ledger::parse;

    const DISK: Uuid = Uuid::from_u128(1);
    const OTHER: Uuid = Uuid::from_u128(2);

    fn name(text: &str) -> DiskName {
        text.parse().expect("a name")
    }

    /// A ledger with one disk, and what a start reads of it later.
    struct Host(tempfile::TempDir);

    impl Host {
        fn new() -> Self {
            let host = Self(tempfile::tempdir().expect("a directory"));
            host.ledger().keep(DISK, &name("sdb1")).expect("kept");
            host
        }

        fn ledger(&self) -> Ledger {
            Ledger::below(self.0.path())
        }

        fn standing(&self) -> Standing {
            self.ledger().standing().known().expect("readable").clone()
        }

        fn phase(&self) -> Option<ReleasePhase> {
            let (uuid, release) = self
                .standing()
                .release_of(&name("sdb1"))
                .map(|(u, r)| (u, r.clone()))?;
            assert_eq!(uuid, DISK);
            Some(release.phase)
        }

        fn text(&self) -> String {
            fs::read_to_string(self.0.path().join("ledger.json")).expect("the ledger")
        }
    }

    const SCHEDULABLE: Before = Before {
        schedulable: true,
        evicting: false,
    };
    const DISABLED: Before = Before {
        schedulable: false,
        evicting: false,
    };
    /// As a person has it who gives the disk up.
    const EVICTED: Before = Before {
        schedulable: false,
        evicting: true,
    };

    fn leaving(before: Before) -> Option<ReleasePhase> {
        Some(ReleasePhase::leaving(before))
    }

    const UNTOUCHED: Option<ReleasePhase> = Some(ReleasePhase::UNTOUCHED);

    fn released() -> Host {
        let host = Host::new();
        host.ledger()
            .release(DISK, &name("sdb1"))
            .expect("released");
        host
    }

    #[test]
    fn a_release_outlives_the_agent_at_each_of_its_steps() {
        let host = released();
        assert_eq!(host.phase(), UNTOUCHED);
        assert!(!host.standing().has_left(DISK));
        host.ledger().leaving(DISK, SCHEDULABLE).expect("kept");
        assert_eq!(host.phase(), leaving(SCHEDULABLE));
        host.ledger().left(DISK).expect("kept");
        assert!(host.standing().has_left(DISK));
        host.ledger().call_off(DISK).expect("kept");
        assert_eq!(host.phase(), None);
    }

    #[test]
    fn what_is_done_twice_is_as_done_once() {
        let host = released();
        host.ledger().leaving(DISK, SCHEDULABLE).expect("kept");
        // Longhorn's entry is changed by now: what it says is not what it said.
        host.ledger().leaving(DISK, DISABLED).expect("kept");
        host.ledger().release(DISK, &name("sdb1")).expect("again");
        assert_eq!(host.phase(), leaving(SCHEDULABLE));
        host.ledger().left(DISK).expect("kept");
        host.ledger().left(DISK).expect("again");
        host.ledger().release(DISK, &name("sdb1")).expect("again");
        assert_eq!(host.phase(), Some(ReleasePhase::Left));
        host.ledger().call_off(DISK).expect("called off");
        host.ledger().call_off(DISK).expect("again");
        assert_eq!(host.phase(), None);
    }

    #[test]
    fn what_an_entry_was_like_is_forgotten_with_the_change_that_was_not_made() {
        let host = released();
        let ledger = host.ledger();
        ledger.leaving(DISK, SCHEDULABLE).expect("kept");
        ledger.unchanged(DISK).expect("kept");
        assert_eq!(host.phase(), UNTOUCHED);
        ledger.leaving(DISK, DISABLED).expect("kept");
        assert_eq!(host.phase(), leaving(DISABLED));
        // Called off meanwhile, there is nothing to put back.
        ledger.call_off(DISK).expect("called off");
        ledger.unchanged(DISK).expect("kept");
        assert_eq!(host.phase(), None);
        ledger.unchanged(DISK).expect("nothing");
        ledger.release(DISK, &name("sdb1")).expect("released");
        ledger.left(DISK).expect("kept");
        ledger.unchanged(DISK).expect("nothing");
        assert_eq!(host.phase(), Some(ReleasePhase::Left));
    }

    #[test]
    fn a_release_that_was_called_off_ends_only_when_longhorns_entry_is_as_before() {
        let host = released();
        host.ledger().leaving(DISK, SCHEDULABLE).expect("kept");
        host.ledger().call_off(DISK).expect("called off");
        assert_eq!(host.phase(), Some(ReleasePhase::returning(SCHEDULABLE)));
        // Who has not heard of it yet neither unmounts nor changes anything.
        let ledger = host.ledger();
        assert!(matches!(ledger.left(DISK), Err(LedgerError::NotLeaving(_))));
        assert!(ledger.leaving(DISK, DISABLED).is_err());
        ledger.release(DISK, &name("sdb1")).expect("after all");
        assert_eq!(host.phase(), leaving(SCHEDULABLE));
    }

    #[test]
    fn what_a_person_asked_for_meanwhile_is_not_forgotten_with_what_went_before() {
        let host = released();
        let ledger = host.ledger();
        ledger.leaving(DISK, SCHEDULABLE).expect("kept");
        let early = ledger.returned(DISK);
        assert!(matches!(early, Err(LedgerError::NotReturning(_))));
        assert_eq!(host.phase(), leaving(SCHEDULABLE));
        ledger.call_off(DISK).expect("called off");
        // Who has not heard of that takes the release for one that cannot be.
        let late = ledger.stays(DISK);
        assert!(matches!(late, Err(LedgerError::NotLeaving(_))));
        assert_eq!(host.phase(), Some(ReleasePhase::returning(SCHEDULABLE)));
        ledger.returned(DISK).expect("as it was");
        assert_eq!(host.phase(), None);
        assert!(ledger.returned(DISK).is_err());
        assert!(ledger.stays(DISK).is_err());
        ledger.release(DISK, &name("sdb1")).expect("released");
        ledger.stays(DISK).expect("it stays");
        assert_eq!(host.phase(), None);
    }

    #[test]
    fn an_eviction_that_a_person_asked_for_before_is_known_after_a_restart() {
        let host = released();
        let before = || host.phase().and_then(|phase| phase.before());
        host.ledger().leaving(DISK, EVICTED).expect("kept");
        assert_eq!(before(), Some(EVICTED));
        host.ledger().call_off(DISK).expect("called off");
        assert_eq!(host.phase(), Some(ReleasePhase::returning(EVICTED)));
        assert_eq!(before(), Some(EVICTED));
        host.ledger().release(DISK, &name("sdb1")).expect("anew");
        assert_eq!(before(), Some(EVICTED));
        // Where nobody had asked for one, an older agent can read it.
        let other = released();
        other.ledger().leaving(DISK, SCHEDULABLE).expect("kept");
        let text = other.text();
        assert!(!text.contains("evicting"), "{text}");
        let older = br#"{"version":1,"formats":[],"usedApprovals":[],"releases":{
            "00000000-0000-0000-0000-000000000001":{"name":"sdb1","phase":{"returning":{"schedulableBefore":true}}}}}"#;
        let older = parse(older).expect("an account");
        let phase = older.releases.get(&DISK).map(|release| &release.phase);
        assert_eq!(phase, Some(&ReleasePhase::returning(SCHEDULABLE)));
    }

    #[test]
    fn a_disk_that_leaves_at_once_has_left_in_one_change_and_no_other_does() {
        let host = Host::new();
        let at_once = || host.ledger().release_at_once(DISK, &name("sdb1"));
        at_once().expect("released");
        assert_eq!(host.phase(), Some(ReleasePhase::Left));
        at_once().expect("again");
        assert_eq!(host.phase(), Some(ReleasePhase::Left));
        let taken = host.ledger().release_at_once(OTHER, &name("sdb1"));
        assert!(matches!(taken, Err(LedgerError::Owned { .. })));
        // What was asked of Longhorn is for Longhorn to answer.
        host.ledger().call_off(DISK).expect("kept");
        host.ledger().release(DISK, &name("sdb1")).expect("asked");
        at_once().expect("heard");
        assert_eq!(host.phase(), UNTOUCHED);
        host.ledger().leaving(DISK, DISABLED).expect("kept");
        host.ledger().call_off(DISK).expect("called off");
        at_once().expect("heard");
        assert_eq!(host.phase(), leaving(DISABLED));
    }

    #[test]
    fn a_disk_that_nobody_asked_for_does_not_leave() {
        let host = Host::new();
        assert!(host.ledger().left(DISK).is_err());
        assert!(host.ledger().leaving(DISK, SCHEDULABLE).is_err());
        host.ledger().call_off(DISK).expect("nothing to call off");
        assert_eq!(host.phase(), None);
    }

    #[test]
    fn the_name_of_a_released_disk_stays_its_own() {
        let host = Host::new();
        let taken = host.ledger().release(OTHER, &name("sdb1"));
        assert!(matches!(taken, Err(LedgerError::Owned { .. })));
        let another = host.ledger().release(DISK, &name("sdc1"));
        assert!(matches!(another, Err(LedgerError::Named { .. })));
        host.ledger()
            .release(OTHER, &name("sdc1"))
            .expect("released");
        assert_eq!(host.standing().owner_of(&name("sdc1")), Some(OTHER));
    }

    #[test]
    fn an_older_agent_reads_the_ledger_of_a_host_where_nothing_is_released() {
        let host = released();
        assert!(host.text().contains("releases"));
        host.ledger().call_off(DISK).expect("kept");
        assert!(!host.text().contains("releases"), "{}", host.text());
        let unknown = br#"{"version":1,"formats":[],"usedApprovals":[],
            "releases":{"00000000-0000-0000-0000-000000000001":{"name":"sdb1","phase":"gone"}}}"#;
        assert!(parse(unknown).is_err(), "a phase that nobody knows");
    }
}
