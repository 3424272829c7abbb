//! What the agent last saw and does, in the form that is shown.

use std::{collections::BTreeMap, fmt, path::PathBuf, time::SystemTime};

use serde::Serialize;

use crate::{
    config::Mode,
    decide::{Growth, Source, Verdict, VerdictKind},
    fact::Fact,
    longhorn::View,
    observe::{Device, Inventory, Transport},
    provision::Phase,
    releases::ReleaseRow,
    units::DevNo,
    workers::Overdue,
};

/// Version of the JSON form; raised when a field changes its meaning.
pub const API_VERSION: &str = "v1";

/// One round, as the loop hands it out.
#[derive(Debug, Clone)]
pub struct Round {
    /// Facts.
    pub inventory: Inventory,
    /// Verdicts, by kernel name.
    pub verdicts: BTreeMap<String, Verdict>,
    /// Work that is going on or failed last, by kernel name.
    pub operations: BTreeMap<String, Operation>,
    /// Mounts of devices that are gone.
    pub dead_mounts: Vec<DeadMount>,
    /// Disks that a person releases, and requests that were just answered.
    pub releases: Vec<ReleaseRow>,
    /// What the round cost.
    pub cost: RoundCost,
    /// What Longhorn has registered on this node.
    pub longhorn: View,
    /// Why a mounted disk has no unit of systemd; absent where none is wanted.
    pub mount_units: Option<Vec<String>>,
}

/// A mount that the agent made of a device that is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadMount {
    /// Where.
    pub path: PathBuf,
    /// Number that the device had.
    pub devno: DevNo,
    /// Why it is still there, once it was tried to take it away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What a round cost.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RoundCost {
    /// Rounds since start.
    pub number: u64,
    /// When it was finished, seconds since 1970.
    pub finished_at: u64,
    /// Devices read from sysfs.
    pub devices_read: usize,
    /// Every device was read.
    pub full: bool,
    /// Microseconds to read and decide.
    pub micros: u64,
}

/// Work on a disk.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Operation {
    /// How far it has come; absent between attempts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// Attempts that failed since the last success.
    pub failures: u32,
    /// Why the last one failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Seconds until the next attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_in_seconds: Option<u64>,
    /// It takes longer than it should: the disk may have stopped answering.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overdue: Option<Overdue>,
}

/// `/v1/disks` and `plan -o json`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// [`API_VERSION`].
    pub api_version: &'static str,
    /// Name of the node.
    pub node: String,
    /// Whether anything is written.
    pub mode: Mode,
    /// What keeps the agent from seeing all there is; empty when all is well.
    pub degraded: Vec<Degradation>,
    /// Every block device.
    pub disks: Vec<Row>,
    /// Mounts of devices that are gone; empty when all is well.
    pub dead_mounts: Vec<DeadMount>,
    /// Disks that a person releases, and requests that were just answered.
    pub releases: Vec<ReleaseRow>,
    /// What Longhorn has registered on this node.
    pub longhorn: View,
    /// The round that this is from; absent for `plan`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub round: Option<RoundCost>,
}

/// Something that could not be read and limits what the agent can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Degradation {
    /// Stable name.
    pub code: &'static str,
    /// What it means here.
    pub detail: String,
}

/// A device and what the agent thinks of it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Kernel name.
    pub device: String,
    /// `major:minor`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub devno: Option<String>,
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Bus.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<Transport>,
    /// As the device says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    /// As the device says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// As the device says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// As the device says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wwn: Option<String>,
    /// Spinning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotational: Option<bool>,
    /// The decision.
    pub verdict: VerdictKind,
    /// Code of the reason for a refusal, `signature:ext4`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Particulars of the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What the reason means.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explanation: Option<&'static str>,
    /// What a person can do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<&'static str>,
    /// The disk's name for life.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_name: Option<String>,
    /// Where it is or will be mounted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount_path: Option<String>,
    /// Whether it is mounted there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mounted: Option<bool>,
    /// What is wrong with its filesystem while it is mounted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ailment: Option<String>,
    /// Its filesystem.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filesystem: Option<&'static str>,
    /// What becomes of room that it has and does not use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub growth: Option<GrowthRow>,
    /// GUID of the partition and UUID of the filesystem.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition_guid: Option<String>,
    /// Work that is going on or failed last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<Operation>,
}

/// What becomes of unused room on a disk of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GrowthRow {
    /// `due` or `withheld`.
    pub state: &'static str,
    /// Code of what withholds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// Particulars of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What it means.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explanation: Option<&'static str>,
}

impl From<&Growth> for GrowthRow {
    fn from(growth: &Growth) -> Self {
        match growth {
            Growth::Due => Self {
                state: "due",
                reason: None,
                detail: None,
                explanation: None,
            },
            Growth::Withheld(withheld) => Self {
                state: "withheld",
                reason: Some(withheld.obstacle.code()),
                detail: (!withheld.detail.is_empty()).then(|| withheld.detail.clone()),
                explanation: Some(withheld.obstacle.explanation()),
            },
        }
    }
}

impl fmt::Display for GrowthRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason {
            None => f.write_str("to be grown"),
            Some(reason) => write!(f, "not grown ({reason})"),
        }
    }
}

impl Round {
    /// As it is shown.
    pub fn report(&self, node: &str, mode: Mode, mount_root: &str) -> Report {
        Report {
            api_version: API_VERSION,
            node: node.to_owned(),
            mode,
            degraded: degraded(&self.inventory),
            disks: self
                .inventory
                .devices
                .values()
                .filter_map(|device| {
                    let verdict = self.verdicts.get(&device.name)?;
                    Some(row(
                        device,
                        verdict,
                        self.operations.get(&device.name),
                        mount_root,
                    ))
                })
                .collect(),
            dead_mounts: self.dead_mounts.clone(),
            releases: self.releases.clone(),
            longhorn: self.longhorn.clone(),
            round: (self.cost.number > 0).then_some(self.cost),
        }
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// What keeps the agent from seeing all there is.
pub fn degraded(inventory: &Inventory) -> Vec<Degradation> {
    let mut found = Vec::new();
    let mut note = |code, what: &str, why: String| {
        found.push(Degradation {
            code,
            detail: format!("{what} ({why})"),
        });
    };
    match inventory.udevd.known() {
        Ok(true) => {}
        Ok(false) => note(
            "udev-missing",
            "udevd does not serve this host; the medium alone decides",
            "no control socket in run/udev".to_owned(),
        ),
        Err(why) => note(
            "udev-unreadable",
            "it cannot be told whether udevd runs, so no new disk is taken",
            why.to_string(),
        ),
    }
    if let Err(why) = inventory.host_mounts.known() {
        note(
            "mounts-unreadable",
            "the host's mounts are not known, so every disk is left alone",
            why.to_string(),
        );
    }
    if let Err(why) = inventory.swaps.known() {
        note(
            "swaps-unreadable",
            "swap areas are not known, so no new disk is taken",
            why.to_string(),
        );
    }
    if let Err(why) = inventory.journal.known() {
        note(
            "journal-unreadable",
            "the journal cannot be read, so no new disk is taken",
            why.to_string(),
        );
    }
    if let Err(why) = inventory.mountpoints.known() {
        note(
            "mount-root-unreadable",
            "names in use are not known, so no new disk is taken",
            why.to_string(),
        );
    }
    match inventory.standing.known() {
        Ok(standing) => {
            if let Some(why) = &standing.frozen {
                note("frozen", "no disk is formatted on this node", why.clone());
            }
        }
        Err(why) => note(
            "ledger-unreadable",
            "what was begun on this host is not known, so no new disk is taken",
            why.to_string(),
        ),
    }
    if inventory.devices.is_empty() {
        note(
            "no-devices",
            "no block device is seen",
            "is /sys of the host below --host-root?".to_owned(),
        );
    }
    found
}

/// A device as it is shown.
pub fn row(
    device: &Device,
    verdict: &Verdict,
    operation: Option<&Operation>,
    mount_root: &str,
) -> Row {
    let text = |fact: &Fact<Option<String>>| fact.known().map_or(None, Clone::clone);
    let refusal = match verdict {
        Verdict::Refused(refusal) => Some(refusal),
        Verdict::Managed(_) | Verdict::Provision(_) | Verdict::Resume(_) | Verdict::Adopt(_) => {
            None
        }
    };
    let ailment = match verdict {
        Verdict::Managed(managed) => managed.ailment.clone(),
        Verdict::Adopt(adopt) => adopt.ailment.clone(),
        Verdict::Provision(_) | Verdict::Resume(_) | Verdict::Refused(_) => None,
    };
    let growth = match verdict {
        Verdict::Managed(managed) => managed.growth.as_ref().map(GrowthRow::from),
        Verdict::Adopt(_) | Verdict::Provision(_) | Verdict::Resume(_) | Verdict::Refused(_) => {
            None
        }
    };
    let (filesystem, guid, mounted) = match verdict {
        Verdict::Adopt(adopt) => (
            Some(adopt.filesystem),
            // Others give partition and filesystem numbers of their own.
            match &adopt.from {
                Source::Claim(id) => Some(id.partition_guid),
                Source::Longhorn => None,
            },
            Some(adopt.mounted),
        ),
        Verdict::Managed(managed) => (
            Some(managed.filesystem),
            Some(managed.claim.partition_guid),
            Some(managed.mounted),
        ),
        Verdict::Resume(resume) => (
            Some(resume.filesystem),
            Some(resume.claim.partition_guid),
            Some(false),
        ),
        Verdict::Provision(provision) => (Some(provision.filesystem), None, Some(false)),
        Verdict::Refused(_) => (None, None, None),
    };
    Row {
        device: device.name.clone(),
        devno: device.devno.known().ok().map(ToString::to_string),
        size: device.size.known().ok().copied(),
        transport: if device.is_partition() {
            None
        } else {
            device.transport.known().ok().copied()
        },
        vendor: text(&device.vendor),
        model: text(&device.model),
        serial: text(&device.serial),
        wwn: text(&device.wwn),
        rotational: device
            .rotational
            .known()
            .map_or(None, |rotational| *rotational),
        verdict: verdict.kind(),
        reason: refusal.map(|refusal| refusal.code()),
        detail: refusal
            .map(|refusal| refusal.detail.clone())
            .filter(|detail| !detail.is_empty()),
        explanation: refusal.map(|refusal| refusal.reason.explanation()),
        advice: refusal.map(|refusal| refusal.reason.advice()),
        disk_name: verdict.disk_name().map(ToString::to_string),
        mount_path: verdict
            .disk_name()
            .map(|name| format!("{mount_root}/{name}")),
        mounted,
        ailment,
        filesystem: filesystem.map(crate::units::Filesystem::name),
        growth,
        partition_guid: guid.map(|guid| guid.to_string()),
        operation: operation.cloned(),
    }
}
