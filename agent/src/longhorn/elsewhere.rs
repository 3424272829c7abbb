//! Whether another disk that is in use has the disk UUID of one that is to be
//! registered. Pure.
//!
//! Longhorn knows a disk by the UUID in its `longhorn-disk.cfg` alone, and moves
//! the replicas of a UUID to wherever a disk with it is ready. So a copy that is
//! registered while the original is in use takes the place of it, with what it
//! held when it was made. A disk that was moved is no copy: where it was it is
//! not ready any more.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use kube::core::{NamespaceResourceScope, ObjectMeta, Resource};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::{
    audit::{Facts, clean, name_at},
    disks::OurDisk,
    node::{Condition, DiskStatus, Node, nullable},
};
use crate::{observe::longhorn_disk::LonghornDisk, units::DiskName};

/// A Longhorn Node, of which only the disks in use matter.
#[derive(Debug, Clone, Deserialize)]
pub struct Neighbour {
    /// Its name.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// Why it is not understood, where that is so: that says nothing of the
    /// Nodes that come with it.
    #[serde(default = "nothing", deserialize_with = "understood")]
    pub status: Result<NeighbourStatus, String>,
}

/// What Longhorn found there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NeighbourStatus {
    #[serde(default, deserialize_with = "nullable")]
    conditions: Vec<Condition>,
    #[serde(default, deserialize_with = "nullable")]
    disk_status: BTreeMap<String, NeighbourDisk>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
struct NeighbourDisk {
    #[serde(default, rename = "diskUUID", deserialize_with = "nullable")]
    disk_uuid: String,
    #[serde(default, deserialize_with = "nullable")]
    conditions: Vec<Condition>,
}

fn nothing() -> Result<NeighbourStatus, String> {
    Ok(NeighbourStatus::default())
}

fn understood<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Result<NeighbourStatus, String>, D::Error> {
    let status = Value::deserialize(deserializer)?;
    let status = Option::<NeighbourStatus>::deserialize(status);
    Ok(status
        .map(Option::unwrap_or_default)
        .map_err(|error| error.to_string()))
}

impl Resource for Neighbour {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind(_: &()) -> Cow<'_, str> {
        Node::kind(&())
    }

    fn group(_: &()) -> Cow<'_, str> {
        Node::group(&())
    }

    fn version(_: &()) -> Cow<'_, str> {
        Node::version(&())
    }

    fn plural(_: &()) -> Cow<'_, str> {
        Node::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// A disk that is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Name of the node; absent for this one.
    pub node: Option<String>,
    /// Its name there.
    pub disk: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let disk = &self.disk;
        match &self.node {
            Some(node) => write!(f, "disk {disk} of node {node}"),
            None => write!(f, "disk {disk} of this node"),
        }
    }
}

/// What the Longhorn Nodes say of disks on other nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Elsewhere {
    in_use: BTreeMap<String, Place>,
    /// Why there may be more of them.
    unread: Option<String>,
}

impl Elsewhere {
    /// Of all Longhorn Nodes. `me` is the name of this one.
    pub fn of(nodes: &[Neighbour], me: &str) -> Self {
        let mut elsewhere = Self::default();
        let name = |node: &Neighbour| node.metadata.name.clone().unwrap_or_default();
        if !nodes.iter().any(|node| name(node) == me) {
            // It is there, so these are not all that there are.
            let why = format!("the list of Longhorn's Nodes has no {me}");
            elsewhere.unread = Some(why);
        }
        for node in nodes.iter().filter(|node| name(node) != me) {
            match &node.status {
                Ok(status) => elsewhere.add(&name(node), status),
                Err(why) => {
                    let why = format!("Longhorn's Node {} is not understood: {why}", name(node));
                    elsewhere.unread.get_or_insert(why);
                }
            }
        }
        elsewhere
    }

    fn add(&mut self, node: &str, status: &NeighbourStatus) {
        // Of a node that is down, what its disks were is all that is known.
        if !is_ready(&status.conditions) {
            return;
        }
        let disks = status.disk_status.iter();
        for (disk, found) in disks.filter(|(_, found)| is_ready(&found.conditions)) {
            let place = Place {
                node: Some(node.to_owned()),
                disk: disk.clone(),
            };
            self.in_use.entry(found.disk_uuid.clone()).or_insert(place);
        }
    }

    /// Where a disk with that UUID is in use, if anywhere.
    ///
    /// # Errors
    /// In words, when that is not known.
    pub fn place_of(&self, uuid: &str) -> Result<Option<&Place>, &str> {
        match (self.in_use.get(uuid), &self.unread) {
            (Some(place), _) => Ok(Some(place)),
            (None, Some(why)) => Err(why),
            (None, None) => Ok(None),
        }
    }
}

fn is_ready(conditions: &[Condition]) -> bool {
    let ready = |condition: &Condition| condition.kind == "Ready" && condition.status == "True";
    conditions.iter().any(ready)
}

/// The UUIDs that these disks bring with them. A new disk has none.
pub fn named(facts: &Facts<'_>, disks: &BTreeSet<DiskName>) -> BTreeMap<DiskName, String> {
    let named = disks.iter().filter_map(|name| {
        let uuid = uuid_of(facts, name)?;
        Some((name.clone(), uuid.to_owned()))
    });
    named.collect()
}

fn uuid_of<'a>(facts: &Facts<'a>, name: &DiskName) -> Option<&'a str> {
    match facts.said.get(name)?.config.known() {
        Ok(LonghornDisk::Named { uuid, .. }) => Some(uuid),
        Ok(LonghornDisk::None | LonghornDisk::Nameless) | Err(_) => None,
    }
}

/// The other disk of this node that has the UUID of a disk, be it that it is
/// mounted and says so or that Longhorn has it registered.
pub fn here(facts: &Facts<'_>, name: &DiskName, uuid: &str) -> Option<Place> {
    let place = |disk: &str| Place {
        node: None,
        disk: disk.to_owned(),
    };
    let is_other = |disk: &&OurDisk| disk.name != *name;
    let mut others = facts.disks.iter().filter(is_other);
    if let Some(other) = others.find(|disk| uuid_of(facts, &disk.name) == Some(uuid)) {
        return Some(place(other.name.as_str()));
    }
    let own = clean(&format!("{}/{name}", facts.mount_root));
    let statuses = &facts.node.status.disk_status;
    let mut entries = facts.node.spec.disks.iter();
    let registered = entries.find(|(key, entry)| {
        let is_other = key.as_str() != name.as_str() && clean(&entry.path) != own;
        let status = statuses.get(*key).filter(|status| status.disk_uuid == uuid);
        // What was mounted here under another name is another filesystem,
        // whether it is here at this moment or not.
        let was_mounted = || {
            let name = name_at(facts.mount_root, &entry.path);
            name.is_some_and(|name| facts.known.contains(&name))
        };
        is_other
            && status.is_some_and(|status| DiskStatus::ready(status) == Some(true) || was_mounted())
    });
    registered.map(|(key, _)| place(key))
}

#[cfg(test)]
mod tests;
