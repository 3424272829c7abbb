//! Longhorn's webhook: each rule by itself (`rules`), and how it is asked, by the
//! stand-in for an API server (`asked`) and by a real one (`served`).

mod asked;
mod rules;
mod served;

use cluster_fixtures::longhorn::rules::Settings;
use serde_json::{Value, json};

const NO_BLOCK: Settings = Settings {
    v2_data_engine: false,
};
const BLOCK: Settings = Settings {
    v2_data_engine: true,
};

/// A Node with one disk that the manager has seen, and that may go.
fn node() -> Value {
    json!({
        "metadata": {"name": "k3s1", "finalizers": ["longhorn.io"]},
        "spec": {
            "name": "k3s1", "allowScheduling": true, "evictionRequested": false, "tags": [],
            "disks": {"sdb1": disk("/mnt/longhorn/sdb1")},
        },
        "status": {"diskStatus": {"sdb1": {"diskUUID": "1", "storageScheduled": 0}}},
    })
}

fn disk(path: &str) -> Value {
    json!({
        "path": path, "diskType": "filesystem", "diskDriver": "", "allowScheduling": false,
        "evictionRequested": false, "storageReserved": 0, "tags": [],
    })
}

fn with(mut object: Value, pointer: &str, value: Value) -> Value {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = object.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    parent.insert(key.to_owned(), value);
    object
}

fn without(mut object: Value, pointer: &str) -> Value {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = object.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    assert!(parent.remove(key).is_some(), "{pointer}");
    object
}
