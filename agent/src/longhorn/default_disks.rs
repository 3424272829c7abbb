//! `node.longhorn.io/default-disks-config` on the Kubernetes Node: what Longhorn
//! registers by itself whenever its Node has no disk at all. Off by default.
//!
//! It is a standing order that Longhorn carries out without looking whether
//! anything is mounted, so it names only disks that are registered and mounted,
//! with every value said, and it is taken away before the last disk is. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{
    audit::{self, Facts, Registered, registered},
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

/// Entries for the disks of this agent.
///
/// The registered values are repeated, so that a disk that Longhorn registers
/// by it is as people had it. Where 0 is reserved there is none to repeat:
/// Longhorn takes 0 for 30 %, so such a disk is told with 1 byte.
pub fn ours(facts: &Facts<'_>) -> Vec<Value> {
    facts
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
        .collect()
}

/// The patch that makes the annotation name these disks of ours, and what others
/// have named there. None where it does. Ours are the places of disks that were
/// mounted on this host, or that the Longhorn Node says an agent manages: a
/// person may have a filesystem of their own below the mount root.
///
/// # Errors
/// When what is there is not understood: then it is somebody else's.
pub fn patch(
    ours: &[Value],
    facts: &Facts<'_>,
    annotations: Option<&Marks>,
    version: &str,
) -> Result<Option<Value>, String> {
    let there = annotations.and_then(|all| all.get(ANNOTATION));
    let named: Vec<Value> = match there {
        None => Vec::new(),
        Some(text) => serde_json::from_str(text)
            .map_err(|error| format!("{ANNOTATION} is not understood ({error})"))?,
    };
    let managed = audit::paths(facts.node).into_iter();
    let managed: BTreeSet<_> = managed.map(|path| audit::clean(&path)).collect();
    let is_ours = |entry: &Value| {
        let path = entry.get("path").and_then(Value::as_str);
        path.is_some_and(|path| {
            let name = audit::name_at(facts.mount_root, path);
            let by_path = || managed.contains(&audit::clean(path));
            name.is_some_and(|name| facts.known.contains(&name) || by_path())
        })
    };
    let theirs = named.iter().filter(|entry| !is_ours(entry)).cloned();
    let wanted: Vec<Value> = theirs.chain(ours.iter().cloned()).collect();
    if wanted == named {
        return Ok(None);
    }
    let value = (!wanted.is_empty()).then(|| Value::Array(wanted).to_string());
    Ok(Some(json!({"metadata": {
        "resourceVersion": version,
        "annotations": {ANNOTATION: value},
    }})))
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

    fn said(scene: &Scene, disks: Value) -> Value {
        let node = node(disks, json!({}), json!({}));
        Value::Array(ours(&scene.facts(&node)))
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
            json!([
                {"name": "sda1", "path": "/mnt/longhorn/sda1", "diskType": "filesystem",
                 "allowScheduling": true, "storageReserved": 1, "tags": []},
                {"name": "sdb1", "path": "/mnt/longhorn/sdb1", "diskType": "filesystem",
                 "allowScheduling": false, "storageReserved": 5_000, "tags": ["theirs"]},
            ])
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
        let named = said(&scene, disks);
        assert_eq!(named.as_array().expect("a list").len(), 1);
        assert_eq!(named[0]["name"], "sda1");
        assert_eq!(said(&scene, json!({})), json!([]));
    }

    /// On a host that knows `sda1`, `gone` by its ledger, and `lost` by the Node.
    fn patched(ours: &[Value], there: Option<&str>) -> Result<Option<Value>, String> {
        let there = there.map(|text| Marks::from([(ANNOTATION.to_owned(), text.to_owned())]));
        let mut scene = Scene::with([disk("sda1")]);
        scene.known.insert(name("gone"));
        let paths = json!({audit::PATHS: "/data, /mnt/longhorn/lost"});
        let node = node(json!({}), json!({}), paths);
        let patch = patch(ours, &scene.facts(&node), there.as_ref(), "7")?;
        Ok(patch.map(|patch| patch["metadata"]["annotations"][ANNOTATION].clone()))
    }

    #[test]
    fn it_is_written_only_when_it_differs_and_goes_with_the_last_disk() {
        let ours = [json!({"name": "sda1", "path": "/mnt/longhorn/sda1"})];
        let text = json!(ours).to_string();
        assert_eq!(patched(&ours, Some(&text)), Ok(None));
        assert_eq!(patched(&[], None), Ok(None));
        // Without any Longhorn would register it again.
        assert_eq!(patched(&[], Some(&text)), Ok(Some(Value::Null)));
    }

    #[test]
    fn what_others_have_named_there_stays() {
        let ours = json!({"name": "sda1", "path": "/mnt/longhorn/sda1"});
        let theirs = json!({"path": "/data", "allowScheduling": true});
        let gone = json!({"path": "/mnt/longhorn/gone"});
        let lost = json!({"path": "/mnt//longhorn/lost/"});
        let there = json!([theirs, gone, lost]).to_string();
        let both = json!([theirs, ours]).to_string();
        assert_eq!(patched(&[ours], Some(&there)), Ok(Some(json!(both))));
        let left = json!([theirs]).to_string();
        assert_eq!(patched(&[], Some(&there)), Ok(Some(json!(left))));
        assert!(patched(&[], Some("{")).is_err());
    }

    #[test]
    fn what_a_person_has_named_below_the_mount_root_stays() {
        let ours = json!({"name": "sda1", "path": "/mnt/longhorn/sda1"});
        // A filesystem of a person's own, mounted there by fstab.
        let theirs = json!({"name": "bulk", "path": "/mnt/longhorn/bulk", "tags": ["mine"]});
        let there = json!([theirs, ours]).to_string();
        assert_eq!(patched(std::slice::from_ref(&ours), Some(&there)), Ok(None));
        let left = json!([theirs]).to_string();
        assert_eq!(patched(&[], Some(&there)), Ok(Some(json!(left))));
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
