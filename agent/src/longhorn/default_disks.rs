//! `node.longhorn.io/default-disks-config` on the Kubernetes Node: what Longhorn
//! registers by itself whenever its Node has no disk at all. Off by default.
//!
//! It is a standing order that Longhorn carries out without looking whether
//! anything is mounted, so it names only disks that are registered and mounted,
//! with every value said, and it is taken away before the last disk is. Pure.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    audit::{Facts, Registered, registered},
    finding::{Finding, Kind},
};

/// Annotation of the Kubernetes Node.
pub const ANNOTATION: &str = "node.longhorn.io/default-disks-config";
/// Label of the Kubernetes Node by which Longhorn reads it. It is the
/// administrator's, and read only.
pub const LABEL: &str = "node.longhorn.io/create-default-disk";
/// Value of the label by which Longhorn reads the annotation.
const CONFIG: &str = "config";

/// Annotations or labels of the Kubernetes Node.
type Marks = BTreeMap<String, String>;

/// What the annotation should say: none where it should not be there.
///
/// The registered values are repeated, so that a disk that Longhorn registers
/// by it is as people had it. Where 0 is reserved there is none to repeat:
/// Longhorn takes 0 for 30 %, so such a disk is told with 1 byte.
pub fn wanted(facts: &Facts<'_>) -> Option<String> {
    let disks: Vec<Value> = facts
        .disks
        .iter()
        .filter(|disk| disk.mounted.is_some() && !facts.released.contains(&disk.name))
        .filter_map(|disk| {
            let Registered::As(key, entry) = registered(facts.node, disk) else {
                return None;
            };
            Some(json!({
                "name": key,
                "path": disk.path,
                "diskType": "filesystem",
                "allowScheduling": entry.allow_scheduling,
                "storageReserved": entry.storage_reserved.max(1),
                "tags": entry.tags,
            }))
        })
        .collect();
    (!disks.is_empty()).then(|| Value::Array(disks).to_string())
}

/// The patch that makes the annotation so, if it is not.
pub fn patch(wanted: Option<&str>, annotations: Option<&Marks>, version: &str) -> Option<Value> {
    let there = annotations.and_then(|all| all.get(ANNOTATION));
    if there.map(String::as_str) == wanted {
        return None;
    }
    Some(json!({"metadata": {
        "resourceVersion": version,
        "annotations": {ANNOTATION: wanted},
    }}))
}

/// What keeps Longhorn from reading the annotation.
pub fn ignored(labels: Option<&Marks>) -> Option<Finding> {
    let label = labels.and_then(|all| all.get(LABEL)).map(String::as_str);
    let why = match label {
        Some(value) if value.eq_ignore_ascii_case(CONFIG) => return None,
        Some(value) => format!("the label {LABEL} is {value}"),
        None => format!("there is no label {LABEL}"),
    };
    Some(Finding::of_node(Kind::DefaultDisksIgnored, why))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            disks::OurDisk,
            example::{Scene, disk, entry, name, node},
        },
        *,
    };

    fn said(scene: &Scene, disks: Value) -> Option<Value> {
        let node = node(disks, json!({}), json!({}));
        wanted(&scene.facts(&node)).map(|text| serde_json::from_str(&text).expect("JSON"))
    }

    #[test]
    fn every_value_is_said_as_longhorn_has_it_registered() {
        let mut theirs = entry("sdb1");
        theirs["allowScheduling"] = json!(false);
        theirs["tags"] = json!(["theirs"]);
        theirs["storageReserved"] = json!(5_000);
        let scene = Scene::with([disk("sda1"), disk("sdb1")]);
        let disks = json!({"sda1": entry("sda1"), "sdb1": theirs});
        assert_eq!(
            said(&scene, disks),
            Some(json!([
                {"name": "sda1", "path": "/mnt/longhorn/sda1", "diskType": "filesystem",
                 "allowScheduling": true, "storageReserved": 1, "tags": []},
                {"name": "sdb1", "path": "/mnt/longhorn/sdb1", "diskType": "filesystem",
                 "allowScheduling": false, "storageReserved": 5_000, "tags": ["theirs"]},
            ]))
        );
    }

    #[test]
    fn only_disks_that_are_mounted_and_registered_are_named() {
        let away = OurDisk {
            mounted: None,
            ..disk("sdb1")
        };
        let mut scene = Scene::with([disk("sda1"), away, disk("sdc1"), disk("sdd1")]);
        scene.released.insert(name("sdd1"));
        let disks = json!({"sda1": entry("sda1"), "sdb1": entry("sdb1"), "sdd1": entry("sdd1")});
        let named = said(&scene, disks).expect("an annotation");
        assert_eq!(named.as_array().expect("a list").len(), 1);
        assert_eq!(named[0]["name"], "sda1");
        // Without any the annotation goes, or Longhorn would register them again.
        assert_eq!(said(&scene, json!({})), None);
    }

    #[test]
    fn it_is_written_only_when_it_differs() {
        let there = Marks::from([(ANNOTATION.to_owned(), "[1]".to_owned())]);
        assert_eq!(patch(Some("[1]"), Some(&there), "7"), None);
        assert_eq!(patch(None, None, "7"), None);
        let removed =
            json!({"metadata": {"resourceVersion": "7", "annotations": {ANNOTATION: null}}});
        assert_eq!(patch(None, Some(&there), "7"), Some(removed));
    }

    #[test]
    fn it_is_told_when_longhorn_does_not_read_it() {
        let label = |value: &str| Marks::from([(LABEL.to_owned(), value.to_owned())]);
        assert_eq!(ignored(Some(&label("config"))), None);
        assert_eq!(ignored(Some(&label("Config"))), None);
        assert!(ignored(Some(&label("true"))).is_some());
        assert!(ignored(None).is_some());
    }
}
