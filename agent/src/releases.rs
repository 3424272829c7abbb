//! How it stands with disks that a person releases, as it is shown. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

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

/// What is known of releases besides what a round sees.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// What was told of them.
    pub told: BTreeMap<DiskName, Told>,
    /// What keeps those that have left.
    pub kept: BTreeMap<DiskName, String>,
    /// Those of which the kernel has said that nobody has them mounted any more.
    pub unused: BTreeSet<DiskName>,
    /// Longhorn is not asked.
    pub longhorn_off: bool,
}

/// A row for each disk that is released, and for each request that was answered
/// a moment ago.
pub fn rows(
    inventory: &Inventory,
    released: &BTreeMap<DiskName, Released>,
    known: &Known,
) -> Vec<ReleaseRow> {
    let told = &known.told;
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
            let row = row(inventory, release, released.get(name), known);
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
    known: &Known,
) -> (ReleaseState, Option<String>) {
    let name = &release.name;
    let progress = match known.told.get(name) {
        _ if known.longhorn_off => without_longhorn(&release.phase).map(str::to_owned),
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
            let kept = || known.kept.get(name).cloned();
            if unknown.is_some() || found.mounted.is_some() {
                (ReleaseState::Unmounting, unknown.or_else(kept))
            } else if !found.elsewhere.is_empty() {
                let places = found.elsewhere.join(", ");
                let why = format!(
                    "it is mounted at {places} by others, and stays so until they unmount it"
                );
                (ReleaseState::Unmounting, Some(why))
            } else if !found.partitions.is_empty() && !known.unused.contains(name) {
                let unasked = "whether another container still has it mounted is not known";
                let why = kept().unwrap_or_else(|| unasked.to_owned());
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

/// What a release waits for that was begun where Longhorn is asked, in an agent
/// that does not ask it: Longhorn may have replicas on the disk.
fn without_longhorn(phase: &ReleasePhase) -> Option<&'static str> {
    match phase {
        ReleasePhase::Leaving {
            schedulable_before: None,
            ..
        } => Some(
            "it was asked while Longhorn was on: start the agent with Longhorn, or call it off",
        ),
        ReleasePhase::Leaving {
            schedulable_before: Some(_),
            ..
        } => {
            Some("Longhorn was asked to move away what it has on it: start the agent with Longhorn")
        }
        ReleasePhase::Returning { .. } => {
            Some("Longhorn's entry is to be put back first: start the agent with Longhorn")
        }
        ReleasePhase::Left => None,
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{decide::example_host, fact::Fact, ledger::Before, observe::Inventory};

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

    fn known(told: Option<Told>) -> Known {
        Known {
            told: told.into_iter().map(|told| (name(), told)).collect(),
            kept: BTreeMap::from([(name(), "in use".to_owned())]),
            unused: BTreeSet::from([name()]),
            longhorn_off: false,
        }
    }

    fn shown_of(
        phase: Option<ReleasePhase>,
        released: Released,
        known: &Known,
    ) -> Vec<(ReleaseState, String)> {
        let released = BTreeMap::from([(name(), released)]);
        rows(&with(phase), &released, known)
            .into_iter()
            .map(|row| (row.state, row.detail.unwrap_or_default()))
            .collect()
    }

    fn shown(
        phase: Option<ReleasePhase>,
        released: Released,
        told: Option<Told>,
    ) -> Vec<(ReleaseState, String)> {
        shown_of(phase, released, &known(told))
    }

    fn row(state: ReleaseState, detail: &str) -> Vec<(ReleaseState, String)> {
        vec![(state, detail.to_owned())]
    }

    const LEAVING: Option<ReleasePhase> = Some(ReleasePhase::UNTOUCHED);
    const LEFT: Option<ReleasePhase> = Some(ReleasePhase::Left);

    #[test]
    fn what_has_left_is_unmounted_only_when_nobody_has_it_mounted() {
        let disk = Some("sdb".to_owned());
        let gone = Released {
            disk: disk.clone(),
            partitions: vec!["sdb1".to_owned()],
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
        let shown = rows(&blind, &released, &known(None));
        assert_eq!(
            shown.first().map(|row| row.state),
            Some(ReleaseState::Unmounting)
        );
    }

    #[test]
    fn what_no_table_shows_as_mounted_is_unmounted_when_the_kernel_says_that_it_is_unused() {
        let attached = Released {
            disk: Some("sdb".to_owned()),
            partitions: vec!["sdb1".to_owned()],
            ..Released::default()
        };
        let mut known = known(None);
        known.unused.clear();
        assert_eq!(
            shown_of(LEFT, attached.clone(), &known),
            row(ReleaseState::Unmounting, "in use")
        );
        known.kept.clear();
        let (state, why) = shown_of(LEFT, attached, &known).remove(0);
        assert_eq!(state, ReleaseState::Unmounting);
        assert!(why.contains("is not known"), "{why}");
        // Nobody can have what is not attached.
        assert_eq!(
            shown_of(LEFT, Released::default(), &known),
            row(ReleaseState::Unmounted, "it is not attached")
        );
    }

    #[test]
    fn what_was_asked_of_longhorn_waits_for_an_agent_that_asks_it_and_says_so() {
        let off = Known {
            longhorn_off: true,
            ..known(Some(Told::Progress("3 replicas left".to_owned())))
        };
        let before = Before {
            schedulable: true,
            evicting: false,
        };
        let changed = Some(ReleasePhase::leaving(before));
        let returning = Some(ReleasePhase::returning(before));
        for (phase, state, words) in [
            (LEAVING, ReleaseState::Leaving, "or call it off"),
            (changed, ReleaseState::Leaving, "was asked to move away"),
            (returning, ReleaseState::Returning, "put back first"),
        ] {
            let (shown, why) = shown_of(phase, Released::default(), &off).remove(0);
            assert_eq!(shown, state);
            assert!(
                why.contains(words) && why.contains("start the agent with Longhorn"),
                "{why}"
            );
        }
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
