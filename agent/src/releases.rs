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
