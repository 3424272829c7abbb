//! The part of `nodes.longhorn.io` that is read.
//!
//! Lenient, because the schema requires no field, maps are nullable and each
//! release adds fields: what is missing or `null` is empty, what is unknown is
//! skipped. Only a value of another type is an error.

use std::{borrow::Cow, collections::BTreeMap};

use kube::core::{NamespaceResourceScope, ObjectMeta, Resource};
use serde::{Deserialize, Deserializer};

/// `longhorn.io/v1beta2` Node, namespaced, named like the Kubernetes Node.
///
/// Not `kube::core::Object`: that one fails without `spec`, and holds the whole
/// object a second time while it reads it.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Node {
    /// Name and version of the object.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What is asked for.
    #[serde(default, deserialize_with = "nullable")]
    pub spec: NodeSpec,
    /// What Longhorn found.
    #[serde(default, deserialize_with = "nullable")]
    pub status: NodeStatus,
}

/// What people and agents ask of Longhorn.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct NodeSpec {
    /// By a name that is free to choose.
    #[serde(default, deserialize_with = "nullable")]
    pub disks: BTreeMap<String, DiskSpec>,
}

/// A disk that is registered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskSpec {
    /// Directory on the host, or a device for a disk of type `block`.
    #[serde(default, deserialize_with = "nullable")]
    pub path: String,
    /// `filesystem` or `block`; empty in objects of old releases.
    #[serde(default, deserialize_with = "nullable")]
    pub disk_type: String,
    /// New replicas may be placed on it.
    #[serde(default, deserialize_with = "nullable")]
    pub allow_scheduling: bool,
    /// Its replicas are to be moved away.
    #[serde(default, deserialize_with = "nullable")]
    pub eviction_requested: bool,
    /// Bytes that Longhorn leaves free.
    #[serde(default, deserialize_with = "nullable")]
    pub storage_reserved: i64,
    /// For the choice of disks by volumes.
    #[serde(default, deserialize_with = "nullable")]
    pub tags: Vec<String>,
}

/// What Longhorn found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// By the names of `spec.disks`, which it follows with a delay.
    #[serde(default, deserialize_with = "nullable")]
    pub disk_status: BTreeMap<String, DiskStatus>,
}

/// What Longhorn found on a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskStatus {
    /// From the configuration file on the disk; empty before it was read.
    #[serde(default, rename = "diskUUID", deserialize_with = "nullable")]
    pub disk_uuid: String,
    /// Where it was found.
    #[serde(default, deserialize_with = "nullable")]
    pub disk_path: String,
    /// `Ready`, `Schedulable` and later ones.
    #[serde(default, deserialize_with = "nullable")]
    pub conditions: Vec<Condition>,
    /// Bytes of its replicas. Longhorn says 0 of a disk that is not ready.
    #[serde(default, deserialize_with = "nullable")]
    pub storage_scheduled: i64,
    /// Bytes by the name of the replica; empty for a disk that is not ready.
    #[serde(default, deserialize_with = "nullable")]
    pub scheduled_replica: BTreeMap<String, i64>,
    /// Bytes by the name of the backing image.
    #[serde(default, deserialize_with = "nullable")]
    pub scheduled_backing_image: BTreeMap<String, i64>,
}

/// One judgement of Longhorn's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Condition {
    /// What is judged.
    #[serde(default, rename = "type", deserialize_with = "nullable")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    #[serde(default, deserialize_with = "nullable")]
    pub status: String,
    /// Why, in a word; empty where it is `True`.
    #[serde(default, deserialize_with = "nullable")]
    pub reason: String,
    /// Why, in words.
    #[serde(default, deserialize_with = "nullable")]
    pub message: String,
}

impl DiskStatus {
    /// The condition `Ready`, where it is there and decided.
    pub fn ready(&self) -> Option<bool> {
        match self.condition("Ready")?.status.as_str() {
            "True" => Some(true),
            "False" => Some(false),
            _ => None,
        }
    }

    /// A judgement by its name.
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions
            .iter()
            .find(|condition| condition.kind == kind)
    }
}

impl Resource for Node {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind(_: &()) -> Cow<'_, str> {
        "Node".into()
    }

    fn group(_: &()) -> Cow<'_, str> {
        "longhorn.io".into()
    }

    fn version(_: &()) -> Cow<'_, str> {
        "v1beta2".into()
    }

    fn plural(_: &()) -> Cow<'_, str> {
        "nodes".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// `longhorn.io/v1beta2` Replica, of which only the existence matters.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Replica {
    /// Name and labels.
    #[serde(default)]
    pub metadata: ObjectMeta,
}

impl Resource for Replica {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind(_: &()) -> Cow<'_, str> {
        "Replica".into()
    }

    fn group(_: &()) -> Cow<'_, str> {
        "longhorn.io".into()
    }

    fn version(_: &()) -> Cow<'_, str> {
        "v1beta2".into()
    }

    fn plural(_: &()) -> Cow<'_, str> {
        "replicas".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

pub(super) fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(node: serde_json::Value) -> Node {
        serde_json::from_value(node).expect("a node")
    }

    #[test]
    fn a_complete_node_is_read_and_unknown_fields_are_skipped() {
        let node = read(json!({
            "apiVersion": "longhorn.io/v1beta2",
            "kind": "Node",
            "metadata": {"name": "k3s2", "namespace": "longhorn-system", "resourceVersion": "7", "finalizers": ["longhorn.io"]},
            "spec": {
                "name": "k3s2", "allowScheduling": true, "evictionRequested": false,
                "instanceManagerCPURequest": 0, "tags": [], "laterField": {"a": 1},
                "disks": {"sdb1": {
                    "path": "/mnt/longhorn/sdb1", "diskType": "filesystem", "diskDriver": "",
                    "allowScheduling": true, "evictionRequested": false,
                    "storageReserved": 9_000_000_000_000_i64, "tags": ["hdd", "slow"], "laterField": null,
                }},
            },
            "status": {
                "autoEvicting": false, "region": "", "zone": "", "cpuPolicy": "none",
                "conditions": [{"type": "Ready", "status": "True"}],
                "snapshotCheckStatus": {"lastPeriodicCheckedAt": null},
                "diskStatus": {"sdb1": {
                    "diskUUID": "0f2c0b7a", "diskName": "sdb1", "diskPath": "/mnt/longhorn/sdb1",
                    "storageAvailable": 1, "storageMaximum": 2, "storageScheduled": 0,
                    "scheduledReplica": {"pvc-1-r-1": 5}, "scheduledBackingImage": null, "healthData": {},
                    "conditions": [
                        {"type": "Schedulable", "status": "False", "reason": "DiskPressure", "message": "", "lastProbeTime": "", "lastTransitionTime": "2026-01-01T00:00:00Z"},
                        {"type": "Ready", "status": "True"},
                    ],
                }},
            },
        }));
        assert_eq!(node.meta().resource_version.as_deref(), Some("7"));
        let spec = DiskSpec {
            path: "/mnt/longhorn/sdb1".to_owned(),
            disk_type: "filesystem".to_owned(),
            allow_scheduling: true,
            eviction_requested: false,
            storage_reserved: 9_000_000_000_000,
            tags: vec!["hdd".to_owned(), "slow".to_owned()],
        };
        assert_eq!(node.spec.disks, BTreeMap::from([("sdb1".to_owned(), spec)]));
        let status = &node.status.disk_status["sdb1"];
        assert_eq!(
            (status.disk_uuid.as_str(), status.disk_path.as_str()),
            ("0f2c0b7a", "/mnt/longhorn/sdb1")
        );
        assert_eq!(status.ready(), Some(true));
    }

    #[test]
    fn null_and_missing_are_empty() {
        for node in [
            json!({"metadata": {"name": "k3s2"}}),
            json!({"metadata": {"name": "k3s2"}, "spec": null, "status": null}),
            json!({"metadata": {"name": "k3s2"}, "spec": {}, "status": {}}),
            json!({"metadata": {"name": "k3s2"}, "spec": {"disks": null}, "status": {"diskStatus": null}}),
        ] {
            let node = read(node);
            assert_eq!(node.spec, NodeSpec::default());
            assert_eq!(node.status, NodeStatus::default());
        }
        let node = read(json!({
            "metadata": {"name": "k3s2"},
            "spec": {"disks": {"d1": {"path": "/d1", "tags": null, "storageReserved": null}}},
            "status": {"diskStatus": {"d1": {"conditions": null}}},
        }));
        assert_eq!(node.spec.disks["d1"].tags, Vec::<String>::new());
        assert_eq!(node.status.disk_status["d1"].ready(), None);
    }

    #[test]
    fn a_value_of_another_type_is_an_error_and_not_a_default() {
        let node = json!({"metadata": {"name": "k3s2"}, "spec": {"disks": ["d1"]}});
        assert!(serde_json::from_value::<Node>(node).is_err());
    }

    #[test]
    fn only_true_and_false_are_a_judgement() {
        for (status, ready) in [
            ("True", Some(true)),
            ("False", Some(false)),
            ("Unknown", None),
            ("", None),
        ] {
            let disk: DiskStatus = serde_json::from_value(
                json!({"conditions": [{"type": "Ready", "status": status}]}),
            )
            .expect("a status");
            assert_eq!(disk.ready(), ready, "{status:?}");
        }
    }
}
