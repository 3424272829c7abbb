//! What Longhorn's webhook does to its Nodes, and what it refuses: pure, in
//! the order of `webhook/resources/node` of longhorn-manager.
//!
//! Left out is what hangs on things that the tests have none of: the share of
//! the node's processors, and the replicas and engines that forbid the deletion
//! of a Node.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{
    lenient::{entries, flag, map, number, text, texts},
    names::{clean, why_not_qualified},
};
use crate::admission::{Cause, Denied};

/// What keeps a Node from being gone before its controller has let it go.
const FINALIZER: &str = "longhorn.io";
/// Lets a Node be deleted whatever is on it.
const UNINSTALLING: &str = "/metadata/annotations/longhorn.io~1delete-node-from-longhorn";

/// Settings of Longhorn that the rules ask for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Settings {
    /// `v2-data-engine`: block disks are allowed.
    pub v2_data_engine: bool,
}

/// The mutator's patch, as JSON patch operations.
///
/// The pointers hold the names of disks as they are, unescaped, which is what
/// makes a name with `/` or `~` fail where it is applied.
#[must_use]
pub fn mutations(object: &Value) -> Vec<Value> {
    let mut patch = Vec::new();
    let mut replace = |path: String, value: Value| {
        patch.push(json!({"op": "replace", "path": path, "value": value}));
    };
    if let Some(tags) = tags(object, "/spec/tags") {
        replace("/spec/tags".to_owned(), tags);
    }
    if map(object, "/spec/disks").is_none() {
        replace("/spec/disks".to_owned(), json!({}));
    }
    for (name, disk) in entries(object, "/spec/disks") {
        if let Some(tags) = tags(disk, "/tags") {
            replace(format!("/spec/disks/{name}/tags"), tags);
        }
        match text(disk, "/diskType") {
            "" => replace(format!("/spec/disks/{name}/diskType"), json!("filesystem")),
            "block" if text(disk, "/diskDriver").is_empty() => {
                replace(format!("/spec/disks/{name}/diskDriver"), json!("auto"));
            }
            _ => {}
        }
    }
    if text(object, "/metadata/deletionTimestamp").is_empty() {
        let mut finalizers = texts(object, "/metadata/finalizers").unwrap_or_default();
        if !finalizers.contains(&FINALIZER) {
            finalizers.push(FINALIZER);
        }
        replace("/metadata/finalizers".to_owned(), json!(finalizers));
    }
    patch
}

/// What tags are replaced with: sorted and each once, and an empty list where
/// there is none.
fn tags(of: &Value, pointer: &str) -> Option<Value> {
    match texts(of, pointer) {
        None => Some(json!([])),
        Some(tags) if tags.is_empty() => None,
        Some(tags) => Some(json!(tags.into_iter().collect::<BTreeSet<_>>())),
    }
}

/// Applies [`mutations`] as the API server does.
///
/// # Errors
///
/// When the patch cannot be applied.
pub fn mutate(object: &mut Value) -> Result<(), Denied> {
    let mut patch = mutations(object);
    for operation in &mut patch {
        // The API server's `replace` also adds what is missing.
        operation["op"] = json!("add");
    }
    let failed = |why: &dyn std::fmt::Display| Denied {
        code: 500,
        reason: "InternalError".to_owned(),
        message: format!("Internal error occurred: {why}"),
        causes: Vec::new(),
    };
    let patch: json_patch::Patch =
        serde_json::from_value(Value::Array(patch)).map_err(|error| failed(&error))?;
    json_patch::patch(object, &patch).map_err(|error| failed(&error))
}

/// Whether a new Node may be.
///
/// # Errors
///
/// The first rule that it breaks.
pub fn validate_create(new: &Value, settings: Settings) -> Result<(), Denied> {
    cpu_request(new)?;
    for (name, disk) in entries(new, "/spec/disks") {
        if is_block(disk) && !settings.v2_data_engine {
            return Err(invalid(format!(
                "disk {name} type block is not supported since v2 data engine is disabled"
            )));
        }
        driver(name, disk)?;
    }
    paths(text(new, "/metadata/name"), new)
}

/// Whether a Node may become another.
///
/// # Errors
///
/// The first rule that is broken.
pub fn validate_update(old: &Value, new: &Value, settings: Settings) -> Result<(), Denied> {
    if lets_go(old, new) {
        return Ok(());
    }
    let node = text(old, "/metadata/name");
    cpu_request(new)?;
    if flag(new, "/spec/evictionRequested") && flag(new, "/spec/allowScheduling") {
        return Err(invalid(format!(
            "need to disable scheduling on node {node} for node eviction, or cancel eviction to \
             enable scheduling on this node"
        )));
    }
    if !is_synced(old) {
        return Err(Denied {
            code: 403,
            reason: "Forbidden".to_owned(),
            message: format!(
                "spec and status of disks on node {node} are being syncing and please retry later."
            ),
            causes: Vec::new(),
        });
    }
    valid_tags(new, "/spec/tags")?;
    if text(new, "/spec/name").is_empty() {
        return Err(invalid(
            "node name is invalid. You can't have a Spec.Name empty".to_owned(),
        ));
    }
    let disks = entries(new, "/spec/disks");
    for (name, disk) in &disks {
        if flag(disk, "/evictionRequested") && flag(disk, "/allowScheduling") {
            return Err(invalid(format!(
                "need to disable scheduling on disk {name} for disk eviction, or cancel eviction \
                 to enable scheduling on this disk"
            )));
        }
    }
    for (name, disk) in &disks {
        allowed_disk(node, name, disk, settings)?;
    }
    paths(node, new)?;
    for (name, disk) in entries(old, "/spec/disks") {
        kept_or_removable(old, name, disk, disks.get(name).copied())?;
    }
    for (name, disk) in entries(old, "/spec/disks") {
        let was = text(disk, "/diskType");
        if let Some(now) = disks.get(name)
            && !was.is_empty()
            && was != text(now, "/diskType")
        {
            return Err(invalid(format!(
                "update disk on node {node} error: The disk {name}({}) type is not allow to change",
                text(disk, "/path")
            )));
        }
    }
    Ok(())
}

/// Whether a Node may be deleted.
///
/// # Errors
///
/// When it is in use, or its node is there.
pub fn validate_delete(old: &Value) -> Result<(), Denied> {
    if old.pointer(UNINSTALLING).is_some() {
        return Ok(());
    }
    let conditions = old.pointer("/status/conditions").and_then(Value::as_array);
    let ready = conditions
        .into_iter()
        .flatten()
        .find(|condition| text(condition, "/type") == "Ready");
    let of = |pointer| ready.map_or("", |condition| text(condition, pointer));
    let (status, reason) = (of("/status"), of("/reason"));
    let scheduling = flag(old, "/spec/allowScheduling");
    let gone = matches!(reason, "KubernetesNodeGone" | "ManagerPodMissing");
    if status == "True" || !gone || scheduling {
        return Err(invalid(format!(
            "could not delete node {} with node ready condition is {status}, reason is {reason}, \
             node schedulable {scheduling}, and 0 replica, 0 engine running on it",
            text(old, "/metadata/name")
        )));
    }
    Ok(())
}

/// A deleted Node may always lose its finalizer, and only that.
fn lets_go(old: &Value, new: &Value) -> bool {
    let had = texts(old, "/metadata/finalizers").unwrap_or_default();
    let has = texts(new, "/metadata/finalizers").unwrap_or_default();
    !text(old, "/metadata/deletionTimestamp").is_empty()
        && has.len() + 1 == had.len()
        && had.contains(&FINALIZER)
        && !has.contains(&FINALIZER)
}

/// Whether the manager has seen the disks that are there.
fn is_synced(node: &Value) -> bool {
    let spec = entries(node, "/spec/disks");
    let status = entries(node, "/status/diskStatus");
    spec.len() == status.len() && spec.keys().all(|name| status.contains_key(name))
}

fn cpu_request(node: &Value) -> Result<(), Denied> {
    if number(node, "/spec/instanceManagerCPURequest") < 0 {
        return Err(invalid(
            "instanceManagerCPURequest should be greater than or equal to 0".to_owned(),
        ));
    }
    Ok(())
}

fn allowed_disk(node: &str, name: &str, disk: &Value, settings: Settings) -> Result<(), Denied> {
    let path = text(disk, "/path");
    if number(disk, "/storageReserved") < 0 {
        return Err(invalid(format!(
            "update disk on node {node} error: The storageReserved setting of disk {name}({path}) \
             is not valid, should be positive and no more than storageMaximum and storageAvailable"
        )));
    }
    valid_tags(disk, "/tags")?;
    if is_block(disk) && !settings.v2_data_engine {
        return Err(invalid(format!(
            "update disk on node {node} error: The disk {name}({path}) is a block device, but the \
             SPDK feature is not enabled"
        )));
    }
    driver(name, disk)
}

fn is_block(disk: &Value) -> bool {
    text(disk, "/diskType") == "block"
}

fn driver(name: &str, disk: &Value) -> Result<(), Denied> {
    if !is_block(disk) && !text(disk, "/diskDriver").is_empty() {
        return Err(invalid(format!(
            "disk {name} type {} is not supported to specify disk driver",
            text(disk, "/diskType")
        )));
    }
    Ok(())
}

fn valid_tags(of: &Value, pointer: &str) -> Result<(), Denied> {
    let tags = texts(of, pointer).unwrap_or_default();
    match tags.into_iter().find_map(why_not_qualified) {
        None => Ok(()),
        Some(why) => Err(invalid(format!(
            "at least one error encountered while validating tags: {why}"
        ))),
    }
}

/// No path twice. Links are not followed: the webhook is not on the node.
fn paths(node: &str, of: &Value) -> Result<(), Denied> {
    let mut first: BTreeMap<String, &str> = BTreeMap::new();
    let mut twice = Vec::new();
    for (name, disk) in entries(of, "/spec/disks") {
        let path = clean(text(disk, "/path"));
        if let Some(other) = first.get(&path) {
            twice.push(format!("{path} (disks {other} and {name})"));
        } else {
            first.insert(path, name);
        }
    }
    if twice.is_empty() {
        return Ok(());
    }
    let twice = twice.join(" ");
    Err(invalid(format!(
        "duplicate disk paths on node {node}: [{twice}]"
    )))
}

/// Only a disk without scheduling and replicas may go. What the old Node says of
/// its replicas counts, also where that is a zero because the disk is not ready.
fn kept_or_removable(
    old: &Value,
    name: &str,
    disk: &Value,
    now: Option<&Value>,
) -> Result<(), Denied> {
    let status = entries(old, "/status/diskStatus");
    let status = status.get(name);
    let scheduled = status.map_or(0, |status| number(status, "/storageScheduled"));
    if now.is_none() && (flag(disk, "/allowScheduling") || scheduled != 0) {
        // The message really has the name of the disk where it says node.
        return Err(invalid(format!(
            "Delete Disk on node {name} error: Please disable the disk {} and remove all replicas \
             and backing images first ",
            text(disk, "/path")
        )));
    }
    Ok(())
}

/// `NewInvalidError` of longhorn-manager: one cause, with the same words.
fn invalid(message: String) -> Denied {
    Denied {
        code: 422,
        reason: "Invalid".to_owned(),
        causes: vec![Cause {
            reason: "FieldValueInvalid".to_owned(),
            message: message.clone(),
            field: String::new(),
        }],
        message,
    }
}
