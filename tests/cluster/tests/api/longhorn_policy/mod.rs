//! Admission policies: what is understood of them (`language`), and what the
//! agent's own one lets through (`own_node`).

mod language;
mod own_node;

use cluster_fixtures::{
    admission::{Admission, Denied, Operation, Review, UserInfo},
    longhorn::Policies,
};
use serde_json::{Value, json};

const CLAIM: &str = "authentication.kubernetes.io/node-name";

fn user(name: &str, node: Option<&str>) -> UserInfo {
    let extra = node.map(|node| (CLAIM.to_owned(), vec![node.to_owned()]));
    UserInfo {
        username: name.to_owned(),
        groups: vec!["system:authenticated".to_owned()],
        extra: extra.into_iter().collect(),
        ..UserInfo::default()
    }
}

/// One request: what it is about, before and after.
#[derive(Clone)]
struct Call {
    operation: Operation,
    resource: (&'static str, &'static str, &'static str),
    namespace: &'static str,
    name: &'static str,
    old: Option<Value>,
    new: Option<Value>,
}

impl Call {
    fn by(&self, policies: &Policies, user: &UserInfo) -> Result<(), Denied> {
        let (group, resource, subresource) = self.resource;
        policies.validate(&Review {
            operation: self.operation,
            group,
            version: if group.is_empty() { "v1" } else { "v1beta2" },
            resource,
            subresource,
            namespace: self.namespace,
            name: self.name,
            old: self.old.as_ref(),
            object: self.new.as_ref(),
            user,
        })
    }
}

fn longhorn() -> Value {
    json!({
        "apiVersion": "longhorn.io/v1beta2", "kind": "Node",
        "metadata": {
            "name": "k3s1", "namespace": "longhorn-system", "finalizers": ["longhorn.io"],
            "labels": {"a": "b"},
            "annotations": {"theirs": "1", "disk-discovery/frozen": "moving"},
        },
        "spec": {
            "name": "k3s1", "allowScheduling": true, "evictionRequested": false,
            "tags": ["fast"], "instanceManagerCPURequest": 0,
            "disks": {
                "default": {
                    "path": "/var/lib/longhorn/", "diskType": "filesystem",
                    "allowScheduling": true, "evictionRequested": false,
                    "storageReserved": 5, "tags": [],
                },
                "sdb1": disk("/mnt/longhorn/sdb1"),
            },
        },
    })
}

fn disk(path: &str) -> Value {
    json!({
        "path": path, "diskType": "filesystem", "diskDriver": "", "allowScheduling": true,
        "evictionRequested": false, "storageReserved": 0, "tags": ["ssd"],
    })
}

fn update(old: Value, new: Value) -> Call {
    Call {
        operation: Operation::Update,
        resource: ("longhorn.io", "nodes", ""),
        namespace: "longhorn-system",
        name: "k3s1",
        old: Some(old),
        new: Some(new),
    }
}

/// The Longhorn Node with one value set, or removed where there is none.
fn changed(pointer: &str, value: Option<Value>) -> Call {
    update(longhorn(), edited(longhorn(), pointer, value))
}

fn edited(mut object: Value, pointer: &str, value: Option<Value>) -> Value {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let key = key.replace("~1", "/");
    let parent = object.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    match value {
        Some(value) => drop(parent.insert(key, value)),
        None => assert!(parent.remove(&key).is_some(), "{pointer}"),
    }
    object
}
