//! Longhorn's object for a node, as the API server sends it.

use disk_discovery::longhorn::node::Node;
use serde_json::Value;

pub fn check(input: &[u8]) {
    let Ok(node) = serde_json::from_slice::<Node>(input) else {
        return;
    };
    // Of two keys of one name both keep the last. What is skipped may hold a
    // number that no type of ours could.
    let Ok(value) = serde_json::from_slice::<Value>(input) else {
        return;
    };
    let keys = |pointer: &str| -> Vec<String> {
        let object = value.pointer(pointer).and_then(Value::as_object);
        let keys = object.map(|object| object.keys().cloned().collect());
        keys.unwrap_or_default()
    };
    let sorted = |mut names: Vec<String>| {
        names.sort();
        names
    };
    let disks = node.spec.disks.keys().cloned().collect();
    assert_eq!(sorted(disks), sorted(keys("/spec/disks")));
    let states = node.status.disk_status.keys().cloned().collect();
    assert_eq!(sorted(states), sorted(keys("/status/diskStatus")));
    for state in node.status.disk_status.values() {
        let judged = state.conditions.iter().any(|it| it.kind == "Ready");
        assert!(judged || state.ready().is_none(), "{state:?}");
    }
}
