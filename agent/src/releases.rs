//! How it stands with disks that a person releases, as it is shown. Pure.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

use crate::{
    decide::Released,
    ledger::{Release, ReleasePhase},
    observe::Inventory,
    units::DiskName,
};

/// How far a release has come, for people and machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReleaseState {
    /// The request was heard and cannot be dealt with yet.
    Waiting,
    /// Longhorn is asked to move away what it has on the disk.
    Leaving,
    /// It was called off, and Longhorn's entry is put back as it was.
    Returning,
    /// The disk is not needed any more, and still mounted.
    Unmounting,
    /// It is not mounted, and stays so.
    Unmounted,
    /// The request was not granted, and nothing was changed.
    Refused,
    /// The disk is in use as any other.
    InUse,
}

impl ReleaseState {
    /// Every state.
    pub const ALL: &[Self] = &[
        Self::Waiting,
        Self::Leaving,
        Self::Returning,
        Self::Unmounting,
        Self::Unmounted,
        Self::Refused,
        Self::InUse,
    ];

    /// As it is shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Leaving => "leaving",
            Self::Returning => "returning",
            Self::Unmounting => "unmounting",
            Self::Unmounted => "unmounted",
            Self::Refused => "refused",
            Self::InUse => "in-use",
        }
    }
}

impl fmt::Display for ReleaseState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One disk in `releases` of `/v1/disks`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseRow {
    /// The disk's name for life.
    pub name: DiskName,
    /// How far it has come.
    pub state: ReleaseState,
    /// What it waits for, or why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// What is told of a release beyond what the ledger has of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// The request waits, with what for.
    Waiting(String),
    /// What Longhorn does about it.
    Progress(String),
    /// It was not granted, with why.
    Refused(String),
    /// It was called off, and is as any other disk.
    InUse,
}

/// A row for each disk that is released, and for each request that was answered
/// a moment ago. `stuck` is what keeps a disk from being unmounted.
pub fn rows(
    inventory: &Inventory,
    released: &BTreeMap<DiskName, Released>,
    told: &BTreeMap<DiskName, Told>,
    stuck: impl Fn(&DiskName) -> Option<String>,
) -> Vec<ReleaseRow> {
    let mut rows: BTreeMap<DiskName, (ReleaseState, Option<String>)> = told
        .iter()
        .filter_map(|(name, told)| {
            let row = match told {
                Told::Waiting(why) => (ReleaseState::Waiting, Some(why.clone())),
                Told::Refused(why) => (ReleaseState::Refused, Some(why.clone())),
                Told::InUse => (ReleaseState::InUse, None),
                Told::Progress(_) => return None,
            };
            Some((name.clone(), row))
        })
        .collect();
    let standing = inventory.standing.known().ok();
    for release in standing
        .iter()
        .flat_map(|standing| standing.releases.values())
    {
        let name = &release.name;
        // What waits has not changed anything yet, and is what a person asks about.
        if !matches!(told.get(name), Some(Told::Waiting(_))) {
            let row = row(
                inventory,
                release,
                released.get(name),
                told.get(name),
                &stuck,
            );
            rows.insert(name.clone(), row);
        }
    }
    rows.into_iter()
        .map(|(name, (state, detail))| ReleaseRow {
            name,
            state,
            detail,
        })
        .collect()
}

fn row(
    inventory: &Inventory,
    release: &Release,
    released: Option<&Released>,
    told: Option<&Told>,
    stuck: impl Fn(&DiskName) -> Option<String>,
) -> (ReleaseState, Option<String>) {
    let progress = match told {
        Some(Told::Progress(text)) => Some(text.clone()),
        Some(Told::Waiting(_) | Told::Refused(_) | Told::InUse) | None => None,
    };
    match release.phase {
        ReleasePhase::Leaving { .. } => (ReleaseState::Leaving, progress),
        ReleasePhase::Returning { .. } => (ReleaseState::Returning, progress),
        ReleasePhase::Left => {
            let mounts = inventory.host_mounts.known().err();
            let unknown = mounts.map(|why| format!("the host's mounts are not known: {why}"));
            let found = released.cloned().unwrap_or_default();
            if unknown.is_some() || found.mounted.is_some() {
                let why = unknown.or_else(|| stuck(&release.name));
                (ReleaseState::Unmounting, why)
            } else if !found.elsewhere.is_empty() {
                let places = found.elsewhere.join(", ");
                let why = format!(
                    "it is mounted at {places} by others, and stays so until they unmount it"
                );
                (ReleaseState::Unmounting, Some(why))
            } else {
                let away = found
                    .disk
                    .is_none()
                    .then(|| "it is not attached".to_owned());
                (ReleaseState::Unmounted, away)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{decide::example_host, fact::Fact, observe::Inventory};

    fn name() -> DiskName {
        "sdb1".parse().expect("a name")
    }

    fn with(phase: Option<ReleasePhase>) -> Inventory {
        let mut inventory = example_host();
        if let (Fact::Known(standing), Some(phase)) = (&mut inventory.standing, phase) {
            let name = name();
            let release = Release { name, phase };
            standing.releases.insert(Uuid::from_u128(1), release);
        }
        inventory
    }

    fn shown(
        phase: Option<ReleasePhase>,
        released: Released,
        told: Option<Told>,
    ) -> Vec<(ReleaseState, String)> {
        let inventory = with(phase);
        let released = BTreeMap::from([(name(), released)]);
        let told = told.into_iter().map(|told| (name(), told)).collect();
        let stuck = |_: &DiskName| Some("in use".to_owned());
        rows(&inventory, &released, &told, stuck)
            .into_iter()
            .map(|row| (row.state, row.detail.unwrap_or_default()))
            .collect()
    }

    fn row(state: ReleaseState, detail: &str) -> Vec<(ReleaseState, String)> {
        vec![(state, detail.to_owned())]
    }

    const LEAVING: Option<ReleasePhase> = Some(ReleasePhase::Leaving {
        schedulable_before: None,
    });
    const LEFT: Option<ReleasePhase> = Some(ReleasePhase::Left);

    #[test]
    fn what_has_left_is_unmounted_only_when_nobody_has_it_mounted() {
        let disk = Some("sdb".to_owned());
        let gone = Released {
            disk: disk.clone(),
            ..Released::default()
        };
        let there = Released {
            mounted: Some("8:17".parse().expect("a number")),
            ..gone.clone()
        };
        let elsewhere = Released {
            elsewhere: vec!["/a".to_owned(), "/b".to_owned()],
            ..gone.clone()
        };
        assert_eq!(
            shown(LEFT, gone.clone(), None),
            row(ReleaseState::Unmounted, "")
        );
        assert_eq!(
            shown(LEFT, Released::default(), None),
            row(ReleaseState::Unmounted, "it is not attached")
        );
        assert_eq!(
            shown(LEFT, there, None),
            row(ReleaseState::Unmounting, "in use")
        );
        let (state, why) = shown(LEFT, elsewhere, None).remove(0);
        assert_eq!(state, ReleaseState::Unmounting);
        assert!(why.contains("/a, /b by others"), "{why}");
        // What cannot be seen is not claimed.
        let mut blind = with(LEFT);
        blind.host_mounts = Fact::unreadable("mountinfo", "no");
        let released = BTreeMap::from([(name(), gone)]);
        let shown = rows(&blind, &released, &BTreeMap::new(), |_| None);
        assert_eq!(
            shown.first().map(|row| row.state),
            Some(ReleaseState::Unmounting)
        );
    }

    #[test]
    fn what_longhorn_does_is_told_with_a_disk_that_leaves_and_with_no_other() {
        let told = || Some(Told::Progress("3 replicas left".to_owned()));
        let released = Released::default;
        assert_eq!(
            shown(LEAVING, released(), told()),
            row(ReleaseState::Leaving, "3 replicas left")
        );
        assert_eq!(
            shown(LEAVING, released(), None),
            row(ReleaseState::Leaving, "")
        );
        assert_eq!(
            shown(LEFT, released(), told()),
            row(ReleaseState::Unmounted, "it is not attached")
        );
        assert_eq!(shown(None, released(), told()), []);
    }

    #[test]
    fn an_answer_is_shown_until_the_ledger_says_more() {
        let refused = || Some(Told::Refused("why".to_owned()));
        let waiting = || Some(Told::Waiting("for the work on it".to_owned()));
        let released = Released::default;
        assert_eq!(
            shown(None, released(), refused()),
            row(ReleaseState::Refused, "why")
        );
        assert_eq!(
            shown(LEAVING, released(), refused()),
            row(ReleaseState::Leaving, "")
        );
        assert_eq!(
            shown(None, released(), Some(Told::InUse)),
            row(ReleaseState::InUse, "")
        );
        for phase in [None, LEAVING] {
            assert_eq!(
                shown(phase, released(), waiting()),
                row(ReleaseState::Waiting, "for the work on it")
            );
        }
    }
}
