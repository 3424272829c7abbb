//! The disks that longhorn-manager registers by itself (`syncDefaultDisks`).

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde_json::{Map, Value, json};

use super::{files::DiskFiles, monitor::REPLICAS};
use crate::longhorn::{
    lenient::{number, text, texts},
    names::why_not_qualified,
};

/// Label of the Kubernetes Node: `true`, or `config` for [`CONFIG`].
pub const LABEL: &str = "/metadata/labels/node.longhorn.io~1create-default-disk";
/// Its annotation with the disks, as a JSON list.
pub const CONFIG: &str = "/metadata/annotations/node.longhorn.io~1default-disks-config";

/// Settings of Longhorn about disks that it registers itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defaults {
    /// `create-default-disk-labeled-nodes`: only on nodes with the label, and
    /// whenever a node has no disk.
    pub labelled_only: bool,
    /// `default-data-path`.
    pub path: String,
    /// `storage-reserved-percentage-for-default-disk`.
    pub reserved_percentage: i64,
}

impl Default for Defaults {
    /// With the setting that the agent's manifests ask for.
    fn default() -> Self {
        Self {
            labelled_only: true,
            path: "/var/lib/longhorn/".to_owned(),
            reserved_percentage: 30,
        }
    }
}

/// What a Node without disks is to get; none where nothing is ordered.
///
/// # Errors
///
/// Why the whole order is ignored.
pub fn ordered(
    files: &dyn DiskFiles,
    kubernetes: &Value,
    defaults: &Defaults,
) -> Result<Option<Value>, String> {
    if !defaults.labelled_only {
        return Ok(None);
    }
    match text(kubernetes, LABEL).to_lowercase().as_str() {
        "" => Ok(None),
        "true" => default_disk(files, defaults).map(Some),
        "config" => {
            let config = text(kubernetes, CONFIG);
            if config.is_empty() {
                return Ok(None);
            }
            let disks = from_annotation(files, config, defaults.reserved_percentage)?;
            Ok((!disks.is_empty()).then_some(Value::Object(disks)))
        }
        other => Err(format!("got invalid label value: {other}")),
    }
}

/// `CreateDefaultDisk`, on whatever filesystem the path is.
///
/// # Errors
///
/// When there can be no such directory.
pub fn default_disk(files: &dyn DiskFiles, defaults: &Defaults) -> Result<Value, String> {
    let path = Path::new(&defaults.path);
    files
        .mkdir(&path.join(REPLICAS))
        .map_err(|error| format!("failed to create filesystem-type disk: {error}"))?;
    let space = files.statfs(path).map_err(|error| error.to_string())?;
    Ok(json!({
        format!("default-disk-{}", space.id): {
            "path": defaults.path, "diskType": "filesystem", "diskDriver": "",
            "allowScheduling": true, "evictionRequested": false,
            "storageReserved": share(space.total, defaults.reserved_percentage), "tags": [],
        }
    }))
}

/// `CreateDisksFromAnnotation`: all or nothing, and nobody asks whether
/// anything is mounted there.
fn from_annotation(
    files: &dyn DiskFiles,
    annotation: &str,
    reserved_percentage: i64,
) -> Result<Map<String, Value>, String> {
    let ordered: Vec<Value> = serde_json::from_str(annotation)
        .map_err(|error| format!("failed to unmarshal the default disks annotation: {error}"))?;
    let mut disks = Map::new();
    let mut filesystems = BTreeMap::new();
    let mut paths = BTreeSet::new();
    for mut disk in ordered {
        let path = text(&disk, "/path").to_owned();
        if path.is_empty() {
            return Err(format!("invalid disk {disk}"));
        }
        let space = files
            .statfs(Path::new(&path))
            .map_err(|error| format!("{path}: {error}"))?;
        if !paths.insert(path.clone()) {
            return Err(format!("duplicate disk path {path}"));
        }
        let name = match text(&disk, "/name") {
            "" => format!("default-disk-{}", space.id),
            name => name.to_owned(),
        };
        if let Some(other) = filesystems.insert(space.id.clone(), path.clone()) {
            return Err(format!(
                "the disk {path} is the same file system with {other}, diskID {}",
                space.id
            ));
        }
        let reserved = number(&disk, "/storageReserved");
        if reserved < 0 || reserved > space.total {
            return Err(format!(
                "the storageReserved setting of disk {path} is not valid, should be positive and \
                 no more than storageMaximum and storageAvailable"
            ));
        }
        if reserved == 0 {
            disk["storageReserved"] = json!(share(space.total, reserved_percentage));
        }
        let tags: BTreeSet<&str> = texts(&disk, "/tags").into_iter().flatten().collect();
        if let Some(why) = tags.iter().find_map(|tag| why_not_qualified(tag)) {
            return Err(format!(
                "at least one error encountered while validating tags: {why}"
            ));
        }
        let tags = json!(tags);
        disk["tags"] = tags;
        if let Some(disk) = disk.as_object_mut() {
            disk.remove("name");
        }
        if disks.insert(name.clone(), disk).is_some() {
            return Err(format!("the disk name {name} has duplicated"));
        }
    }
    Ok(disks)
}

fn share(of: i64, percentage: i64) -> i64 {
    let product = i128::from(of) * i128::from(percentage) / 100;
    i64::try_from(product).unwrap_or(i64::MAX)
}
