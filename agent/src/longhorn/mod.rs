//! What Longhorn knows of this node: its `nodes.longhorn.io` object, and how
//! the disks of this node come into it.
//!
//! ```text
//!  API server ─► watch ──► Sight (the View for people and decisions, the Node)
//!                            │
//!  the loop ──► rounds ──────┼─► registrar ─► API server (one patch, Events)
//!                            │     │
//!  longhorn-disk.cfg ────────┘     └─► Status ─► /readyz, /v1/disks, /metrics
//! ```
//!
//! Two tasks. [`watch`] reads; it is the only one that the loop listens to, and
//! nothing waits for it: disks are found and mounted without a cluster.
//! [`registrar`] compares and writes, with steps that are pure:
//! [`audit`] says what does not agree, [`elsewhere`] whether a disk is in use
//! on another node, [`patience`] how long that must last and
//! when to write again after a failure, [`register`] what is to be written.
//! [`owner`] is the rule of one agent for a node, [`finding`] the vocabulary,
//! [`events`] and [`summary`] what is told on the Node, [`disks`] what a round
//! and the files on the disks say, [`holding`] what is on a disk where nobody
//! asks Longhorn, [`api`] every request that is made.

pub mod api;
pub mod audit;
pub mod default_disks;
pub mod disks;
pub mod elsewhere;
pub mod events;
pub mod finding;
pub mod holding;
pub mod node;
pub mod owner;
pub mod patience;
pub mod register;
pub mod registrar;
pub mod release;
pub mod status;
pub mod summary;
pub mod watch;

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::Serialize;
use tokio::sync::watch::Receiver;

use node::Node;
pub use watch::{Sight, off, spawn, spawn_with};

use crate::{
    config::{Longhorn, Mode, Settings},
    releases::Told,
    report::Round,
    state::State,
    units::DiskName,
};
use register::Terms;
use registrar::RegistrarSettings;
use status::Status;

/// Watches as the settings say: in a pod, or where the environment names a
/// cluster. Must be called inside a tokio runtime.
pub fn watch_for(settings: &Settings) -> Sight {
    let cluster = ["KUBERNETES_SERVICE_HOST", "KUBECONFIG"]
        .iter()
        .any(|name| std::env::var_os(name).is_some());
    match settings.longhorn {
        Longhorn::Auto if cluster => spawn(object_of(settings)),
        Longhorn::Auto | Longhorn::Off => off(),
    }
}

/// Registers what the rounds see with Longhorn, as the settings say. `state` is
/// the loop's own, so that both write to one ledger in turns; `tell` hears how releases of disks go on. Must be called inside a tokio runtime.
pub fn register_for(
    settings: &Settings,
    state: State,
    rounds: Receiver<Option<Arc<Round>>>,
    sight: Sight,
    tell: impl Fn(DiskName, Told) + Send + Sync + 'static,
) -> Receiver<Arc<Status>> {
    if *sight.view.borrow() == View::Off {
        return registrar::off();
    }
    // One that only looks never says who it is.
    let agent = match settings.mode {
        Mode::Observe => String::new(),
        Mode::Enforce => state.agent(),
    };
    let settings = RegistrarSettings {
        longhorn: object_of(settings),
        mode: settings.mode,
        terms: Terms {
            on_missing: settings.on_missing,
            tags: settings.longhorn_tags,
            reserved: settings.longhorn_reserved,
        },
        mount_root: settings.policy.mount_root.clone(),
        host: settings.host(),
        root: "/".into(),
        ledger: state.ledger,
        default_disks: settings.default_disks,
        agent,
        hurry: 1,
    };
    registrar::spawn(settings, rounds, sight, tell, api::configured)
}

fn object_of(settings: &Settings) -> LonghornSettings {
    LonghornSettings {
        namespace: settings.longhorn_namespace.clone(),
        node_name: settings.node_name.clone(),
    }
}

/// Annotation of the Longhorn Node that stops all formatting on this node,
/// unless its value is `false`.
pub const FROZEN: &str = "disk-discovery/frozen";

/// Which object to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LonghornSettings {
    /// Namespace that Longhorn runs in, usually `longhorn-system`.
    pub namespace: String,
    /// Name of the Longhorn Node, which is that of the Kubernetes Node.
    pub node_name: String,
}

/// What the API last said about this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum View {
    /// Longhorn is not asked for.
    Off,
    /// No answer yet, and no failure either.
    Connecting,
    /// There is no answer; what Longhorn has registered is not known.
    Unreachable {
        /// In words for a person.
        why: String,
    },
    /// The agent has no right to see it.
    Forbidden {
        /// In the words of the API server.
        why: String,
    },
    /// The API server knows no `nodes.longhorn.io`.
    ///
    /// Where only the namespace is missing, the API server lists nothing
    /// instead of failing, which is [`View::Absent`].
    NotInstalled,
    /// Longhorn is there, but has no Node of this name.
    Absent,
    /// The Node and what is registered on it.
    Present {
        /// By the name of the disk in `spec.disks`.
        disks: BTreeMap<String, Registration>,
        /// Why no disk of this node may be formatted, if somebody said so by
        /// the annotation [`FROZEN`].
        #[serde(skip_serializing_if = "Option::is_none")]
        frozen: Option<String>,
    },
}

/// A disk as Longhorn has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Registration {
    /// Directory on the host.
    pub path: String,
    /// New replicas may be placed on it.
    pub allow_scheduling: bool,
    /// What Longhorn wrote into the disk's configuration file; absent until
    /// Longhorn has looked at the disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Longhorn's own judgement; absent while it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => write!(f, "off"),
            Self::Connecting => write!(f, "connecting"),
            Self::Unreachable { why } => write!(f, "unreachable: {why}"),
            Self::Forbidden { why } => write!(f, "forbidden: {why}"),
            Self::NotInstalled => write!(f, "not installed"),
            Self::Absent => write!(f, "no such node"),
            Self::Present { disks, .. } => write!(f, "present, disks: {}", disks.len()),
        }
    }
}

impl View {
    fn of(node: Option<&Node>) -> Self {
        let Some(node) = node else {
            return Self::Absent;
        };
        let annotations = node.metadata.annotations.as_ref();
        let frozen = annotations.and_then(|all| all.get(FROZEN));
        let frozen = frozen.and_then(|value| freeze(value));
        let disks = node.spec.disks.iter().map(|(name, disk)| {
            let status = node.status.disk_status.get(name);
            let registration = Registration {
                path: disk.path.clone(),
                allow_scheduling: disk.allow_scheduling,
                ready: status.and_then(node::DiskStatus::ready),
                uuid: status
                    .map(|status| status.disk_uuid.clone())
                    .filter(|uuid| !uuid.is_empty()),
            };
            (name.clone(), registration)
        });
        Self::Present {
            disks: disks.collect(),
            frozen,
        }
    }
}

/// What an annotation says; its value tells people why.
fn freeze(value: &str) -> Option<String> {
    match value.trim() {
        "false" => None,
        "" | "true" => Some(format!("the annotation {FROZEN} is set")),
        why => Some(why.to_owned()),
    }
}

#[cfg(test)]
mod example;
#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn view_of(node: serde_json::Value) -> View {
        View::of(Some(&serde_json::from_value(node).expect("a node")))
    }

    #[test]
    fn a_disk_that_longhorn_has_not_looked_at_is_neither_ready_nor_broken() {
        let view = view_of(json!({
            "metadata": {"name": "k3s2"},
            "spec": {"disks": {"d1": {"path": "/mnt/longhorn/d1", "allowScheduling": true}}},
            "status": {"diskStatus": {
                "d1": {"diskUUID": "", "conditions": [{"type": "Ready", "status": "Unknown"}]},
                "removed": {"diskUUID": "of a disk that is no longer registered"},
            }},
        }));
        let registration = Registration {
            path: "/mnt/longhorn/d1".to_owned(),
            allow_scheduling: true,
            uuid: None,
            ready: None,
        };
        let disks = BTreeMap::from([("d1".to_owned(), registration)]);
        assert_eq!(
            view,
            View::Present {
                disks,
                frozen: None
            }
        );
    }

    #[test]
    fn every_view_is_an_object_that_names_its_state() {
        let shown = |view: &View| serde_json::to_value(view).expect("JSON");
        assert_eq!(
            shown(&View::NotInstalled),
            json!({"state": "not-installed"})
        );
        let why = "no route".to_owned();
        assert_eq!(
            shown(&View::Unreachable { why }),
            json!({"state": "unreachable", "why": "no route"})
        );
        let view = view_of(json!({
            "metadata": {"name": "k3s2"},
            "spec": {"disks": {"d1": {"path": "/mnt/longhorn/d1"}}},
            "status": {"diskStatus": {
                "d1": {"diskUUID": "u", "conditions": [{"type": "Ready", "status": "True"}]},
            }},
        }));
        let disk = json!({"path": "/mnt/longhorn/d1", "allowScheduling": false, "uuid": "u", "ready": true});
        assert_eq!(
            shown(&view),
            json!({"state": "present", "disks": {"d1": disk}})
        );
    }
}
