//! The status that longhorn-manager makes of what it found: pure, in the order
//! of `syncNode` and `syncDiskStatus`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::monitor::Collected;
use crate::longhorn::lenient::{entries, flag, number, text};

/// The filesystem is not the one that the disk had.
const CHANGED: &str = "DiskFilesystemChanged";
/// Free space is rounded down to this, so that the status is not written all
/// the time.
const GRAIN: i64 = 100 << 20;

/// When replicas may be placed on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scheduling {
    /// `storage-minimal-available-percentage`.
    pub minimal_available: i64,
    /// `storage-over-provisioning-percentage`.
    pub over_provisioning: i64,
}

impl Default for Scheduling {
    fn default() -> Self {
        Self {
            minimal_available: 25,
            over_provisioning: 100,
        }
    }
}

/// `status.conditions` of the Node, from the Kubernetes Node and from whether
/// the pod of the manager runs.
pub fn conditions_of_node(node: &mut Value, kubernetes: Option<&Value>, pod: bool, now: &str) {
    let name = text(node, "/metadata/name").to_owned();
    let ready = kubernetes.and_then(|kubernetes| condition(kubernetes, "Ready"));
    let (reason, message) = match (kubernetes, ready) {
        (None, _) => (
            "KubernetesNodeGone",
            format!("Kubernetes node missing: node {name} has been removed from the cluster"),
        ),
        (Some(_), _) if !pod => (
            "ManagerPodDown",
            format!("Manager pod on node {name} is not running"),
        ),
        (Some(_), Some(ready)) if text(ready, "/status") != "True" => (
            "KubernetesNodeNotReady",
            format!(
                "Kubernetes node {name} not ready: {}",
                text(ready, "/reason")
            ),
        ),
        (Some(_), _) => ("", format!("Node {name} is ready")),
    };
    set(node, "Ready", reason, &message, now);
    if kubernetes.is_some_and(|kubernetes| flag(kubernetes, "/spec/unschedulable")) {
        let message = format!("Node {name} is cordoned");
        set(node, "Schedulable", "KubernetesNodeCordoned", &message, now);
    } else if kubernetes.is_some() {
        set(node, "Schedulable", "", "", now);
    }
}

/// Where the node is not ready, none of its disks is; their figures stay
/// (`markAllDisksNotReadyWhenNodeNotReady`). Says whether that is so.
pub fn disks_of_a_node_that_is_not_ready(node: &mut Value, now: &str) -> bool {
    if is_true(node, "Ready") {
        return false;
    }
    let name = text(node, "/metadata/name").to_owned();
    let disks = node.pointer_mut("/status/diskStatus");
    for (disk, status) in disks.and_then(Value::as_object_mut).into_iter().flatten() {
        let path = text(status, "/diskPath").to_owned();
        for kind in ["Ready", "Schedulable"] {
            let state = kind.to_lowercase();
            let message = format!("Waiting for disk {disk} ({path}) on node {name} to be {state}");
            set_in(status, kind, "NodeNotReady", &message, now);
        }
    }
    true
}

/// `status.diskStatus`, from what was found and from the replicas.
pub fn disks(
    node: &mut Value,
    collected: &BTreeMap<String, Collected>,
    replicas: &[Value],
    scheduling: Scheduling,
    now: &str,
) {
    let name = text(node, "/metadata/name").to_owned();
    let spec: BTreeMap<String, Value> = entries(node, "/spec/disks")
        .into_iter()
        .map(|(disk, entry)| (disk.to_owned(), entry.clone()))
        .collect();
    let mut statuses = aligned(node, &spec);
    let failures = not_ready(&name, collected, &statuses);
    for (disk, status) in &mut statuses {
        let (Some(entry), Some(found)) = (spec.get(disk), collected.get(disk)) else {
            continue;
        };
        if let Some((reason, message)) = failures.get(disk) {
            set_in(status, "Ready", reason, message, now);
        } else if let Some(space) = &found.space {
            status["diskUUID"] = json!(found.uuid);
            status["diskName"] = json!(found.name);
            status["diskPath"] = json!(found.path);
            status["diskDriver"] = json!("");
            status["filesystemType"] = json!(space.filesystem);
            status["storageMaximum"] = json!(space.total);
            status["storageAvailable"] = json!(space.free / GRAIN * GRAIN);
            status["instanceManagerName"] = json!(format!("instance-manager-{name}"));
            let message = format!("Disk {disk}({}) on node {name} is ready", found.path);
            set_in(status, "Ready", "", &message, now);
        }
        schedulable(&name, disk, entry, status, replicas, scheduling, now);
    }
    node["status"]["diskStatus"] = Value::Object(statuses.into_iter().collect());
}

/// Replicas on this disk, whoever has it now (`ListReplicasByDiskUUID`).
pub fn replicas_on<'a>(replicas: &'a [Value], uuid: &'a str) -> impl Iterator<Item = &'a Value> {
    replicas
        .iter()
        .filter(move |replica| text(replica, "/metadata/labels/longhorndiskuuid") == uuid)
}

/// Bytes of a replica, which its field holds as text.
pub fn size(replica: &Value) -> i64 {
    let size = replica.pointer("/spec/volumeSize");
    let number = size.and_then(Value::as_i64);
    number.or_else(|| size?.as_str()?.parse().ok()).unwrap_or(0)
}

/// The state of a condition of a Node or a disk.
pub fn is_true(of: &Value, kind: &str) -> bool {
    condition(of, kind).is_some_and(|condition| text(condition, "/status") == "True")
}

/// `alignDiskSpecAndStatus`: an entry for each disk and for no other, without
/// the figures of its filesystem.
fn aligned(node: &Value, spec: &BTreeMap<String, Value>) -> BTreeMap<String, Value> {
    let had = entries(node, "/status/diskStatus");
    let align = |(disk, entry): (&String, &Value)| {
        let mut status = had
            .get(disk.as_str())
            .filter(|status| status.is_object())
            .map_or_else(fresh, |status| (*status).clone());
        status["storageMaximum"] = json!(0);
        status["storageAvailable"] = json!(0);
        status["diskType"] = json!(text(entry, "/diskType"));
        (disk.clone(), status)
    };
    spec.iter().map(align).collect()
}

fn fresh() -> Value {
    json!({
        "conditions": [], "storageAvailable": 0, "storageScheduled": 0, "storageMaximum": 0,
        "scheduledReplica": {}, "scheduledBackingImage": {}, "diskUUID": "", "diskName": "",
        "diskPath": "", "diskType": "", "diskDriver": "", "filesystemType": "",
        "instanceManagerName": "",
    })
}

/// Why disks are not ready (`findNotReadyAndReadyDiskMaps`).
fn not_ready(
    node: &str,
    collected: &BTreeMap<String, Collected>,
    statuses: &BTreeMap<String, Value>,
) -> BTreeMap<String, (&'static str, String)> {
    let mut failures = BTreeMap::new();
    let mut filesystems: BTreeMap<&str, Vec<&String>> = BTreeMap::new();
    for (disk, found) in collected {
        let known = statuses
            .get(disk)
            .map_or("", |status| text(status, "/diskUUID"));
        let why = if let Some(failure) = &found.failure {
            Some(failure.clone())
        } else if known.is_empty() || known == found.uuid {
            None
        } else if found.uuid.is_empty() {
            Some((
                CHANGED,
                format!(
                    "Disk {disk}({}) on node {node} is not ready: cannot find disk config file, \
                     maybe due to a mount error",
                    found.path
                ),
            ))
        } else {
            Some((
                CHANGED,
                format!(
                    "Disk {disk}({}) on node {node} is not ready: record diskUUID doesn't match \
                     the one on the disk ",
                    found.path
                ),
            ))
        };
        if let Some(why) = why {
            failures.insert(disk.clone(), why);
        } else if let Some(space) = &found.space {
            filesystems.entry(&space.id).or_default().push(disk);
        }
    }
    for (id, disks) in filesystems {
        let was_ready = |disk: &&&String| {
            statuses
                .get(**disk)
                .is_some_and(|status| is_true(status, "Ready"))
        };
        let kept = disks.iter().find(was_ready).or_else(|| disks.first());
        for disk in disks.iter().filter(|disk| Some(*disk) != kept) {
            let path = collected.get(*disk).map_or("", |found| &found.path);
            let message = format!(
                "Disk {disk}({path}) on node {node} is not ready: disk has same file system ID \
                 {id} as other disks {disks:?}"
            );
            failures.insert((*disk).clone(), (CHANGED, message));
        }
    }
    failures
}

/// Replicas and pressure (`updateDiskStatusSchedulableCondition`). Of a disk
/// that is not ready the status says that it holds nothing, whatever it holds.
fn schedulable(
    node: &str,
    disk: &str,
    entry: &Value,
    status: &mut Value,
    replicas: &[Value],
    scheduling: Scheduling,
    now: &str,
) {
    let path = text(entry, "/path");
    if !is_true(status, "Ready") {
        status["storageScheduled"] = json!(0);
        status["scheduledReplica"] = json!({});
        let message = format!("Disk {disk} ({path}) on the node {node} is not ready");
        set_in(status, "Schedulable", "DiskNotReady", &message, now);
        return;
    }
    let uuid = text(status, "/diskUUID").to_owned();
    let held: BTreeMap<&str, i64> = replicas_on(replicas, &uuid)
        .map(|replica| (text(replica, "/metadata/name"), size(replica)))
        .collect();
    let scheduled: i64 = held.values().sum();
    status["storageScheduled"] = json!(scheduled);
    status["scheduledReplica"] = json!(held);
    status["scheduledBackingImage"] = json!({});
    match pressure(entry, status, scheduled, scheduling) {
        None => {
            let message = format!("Disk {disk}({path}) on node {node} is schedulable");
            set_in(status, "Schedulable", "", &message, now);
        }
        Some(why) => {
            let message = format!(
                "Disk {disk} ({path}) on the node {node} is not schedulable for more replica; {why}"
            );
            set_in(status, "Schedulable", "DiskPressure", &message, now);
        }
    }
}

/// `IsSchedulableToDisk` for a replica of no size.
fn pressure(
    entry: &Value,
    status: &Value,
    scheduled: i64,
    scheduling: Scheduling,
) -> Option<String> {
    let (maximum, available) = (
        number(status, "/storageMaximum"),
        number(status, "/storageAvailable"),
    );
    if maximum <= 0 {
        return Some("Storage Max must be greater than 0".to_owned());
    }
    if available <= 0 {
        return Some("Storage Available must be greater than 0".to_owned());
    }
    let minimal = percent(maximum, scheduling.minimal_available);
    if available <= minimal {
        return Some(format!(
            "Actual space usage condition failed: CurrentAvailable = {available} \
             (StorageAvailable - Required) is less than or equal to MinimalAvailable = {minimal} \
             ({}% of Storage Max).",
            scheduling.minimal_available
        ));
    }
    let usable = maximum.saturating_sub(number(entry, "/storageReserved"));
    let limit = percent(usable, scheduling.over_provisioning);
    (scheduled > limit).then(|| {
        format!(
            "Scheduling space condition failed: ScheduledTotal = {scheduled} (Size + \
             StorageScheduled) is greater than ProvisionedLimit = {limit} ({}% of StorageMax - \
             StorageReserved). ",
            scheduling.over_provisioning
        )
    })
}

fn percent(of: i64, percentage: i64) -> i64 {
    let product = i128::from(of) * i128::from(percentage) / 100;
    i64::try_from(product).unwrap_or(i64::MAX)
}

fn condition<'a>(of: &'a Value, kind: &str) -> Option<&'a Value> {
    let conditions = of.pointer("/status/conditions");
    let conditions = conditions.or_else(|| of.pointer("/conditions"))?;
    let mut conditions = conditions.as_array()?.iter();
    conditions.find(|condition| text(condition, "/type") == kind)
}

fn set(node: &mut Value, kind: &str, reason: &str, message: &str, now: &str) {
    set_in(&mut node["status"], kind, reason, message, now);
}

/// A condition without a reason is true.
fn set_in(status: &mut Value, kind: &str, reason: &str, message: &str, now: &str) {
    let state = if reason.is_empty() { "True" } else { "False" };
    let had = condition(status, kind).cloned();
    let since = had
        .as_ref()
        .filter(|had| text(had, "/status") == state)
        .map_or(now, |had| text(had, "/lastTransitionTime"));
    let new = json!({
        "type": kind, "status": state, "reason": reason, "message": message,
        "lastProbeTime": "", "lastTransitionTime": since,
    });
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    if let Some(conditions) = status["conditions"].as_array_mut() {
        let place = conditions
            .iter_mut()
            .find(|condition| text(condition, "/type") == kind);
        match place {
            Some(place) => *place = new,
            None => conditions.push(new),
        }
    }
}

/// The first four characters of every UUID that a disk of these Nodes has.
pub fn beginnings(nodes: &[Value]) -> BTreeSet<String> {
    nodes
        .iter()
        .flat_map(|node| entries(node, "/status/diskStatus").into_values())
        .filter_map(|status| text(status, "/diskUUID").get(..4))
        .map(str::to_owned)
        .collect()
}
