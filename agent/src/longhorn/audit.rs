//! Compares this node's disks with what Longhorn has of them. Pure.
//!
//! What comes out is how things look at this moment. Much of it passes by
//! itself: Longhorn writes its file half a minute after a disk was registered,
//! and a link that flaps brings its disk back. [`Kind::patience`] is how long it
//! must last before it is a finding.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component, Path, PathBuf},
    time::Duration,
};

use super::{
    disks::{OurDisk, Said},
    finding::{Finding, Kind},
    node::{DiskSpec, DiskStatus, Node},
};
use crate::{observe::longhorn_disk::LonghornDisk, units::DiskName};

/// Annotation of the Longhorn Node: paths of the disks that an agent manages.
pub const PATHS: &str = "node.longhorn.io/paths";

/// What the audit compares.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The Longhorn Node.
    pub node: &'a Node,
    /// Disks of ours that are there.
    pub disks: &'a [OurDisk],
    /// What is read on each that is mounted.
    pub said: &'a BTreeMap<DiskName, Said>,
    /// Names of disks that were mounted on this host, there or not.
    pub known: &'a BTreeSet<DiskName>,
    /// Disks that a person releases or has released.
    pub released: &'a BTreeSet<DiskName>,
    /// Those of them that have left Longhorn.
    pub left: &'a BTreeSet<DiskName>,
    /// Where something is mounted on the host, whatever is known of it.
    pub occupied: &'a BTreeSet<DiskName>,
    /// Directory below which disks are mounted.
    pub mount_root: &'a str,
    /// The mounts and disks of the host could be read: otherwise nothing is
    /// known to be missing.
    pub complete: bool,
}

/// How a disk is registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registered<'a> {
    /// It is not.
    Not,
    /// As it should be, under its own name or, by a person's hand, another.
    As(&'a str, &'a DiskSpec),
    /// Its name or its path is used for something else.
    Wrongly(Kind, &'a str, &'a DiskSpec),
}

impl Kind {
    /// How long a symptom must last before it is told.
    pub fn patience(self) -> Duration {
        match self {
            Self::DiskMissing => Duration::from_secs(30),
            Self::ConfigMissing => Duration::from_mins(2),
            // Longhorn writes the file in place, and its status half a minute
            // later.
            Self::ConfigWithoutUuid | Self::ConfigUnreadable => Duration::from_secs(15),
            Self::UuidMismatch => Duration::from_mins(1),
            // Longhorn notices within half a minute that a disk was taken away,
            // and is asked again after that.
            Self::UuidElsewhere => Duration::from_mins(2),
            Self::PathMismatch
            | Self::TypeMismatch
            | Self::RegistrationRejected
            | Self::LonghornSilent
            | Self::Overwritten
            | Self::AnotherAgent
            | Self::NotPermitted
            | Self::NotConfined
            | Self::DefaultDisksIgnored => Duration::ZERO,
        }
    }
}

/// How a disk is registered.
pub fn registered<'a>(node: &'a Node, disk: &OurDisk) -> Registered<'a> {
    let place = clean(&disk.path);
    let disks = &node.spec.disks;
    let right = |entry: &DiskSpec| clean(&entry.path) == place;
    let found = match disks.get_key_value(disk.name.as_str()) {
        Some((key, entry)) if !right(entry) => {
            return Registered::Wrongly(Kind::PathMismatch, key, entry);
        }
        Some(own) => Some(own),
        None => disks.iter().find(|(_, entry)| right(entry)),
    };
    match found {
        None => Registered::Not,
        // Old releases leave the type out.
        Some((key, entry)) if ["", "filesystem"].contains(&entry.disk_type.as_str()) => {
            Registered::As(key, entry)
        }
        Some((key, entry)) => Registered::Wrongly(Kind::TypeMismatch, key, entry),
    }
}

/// As Longhorn's webhook compares paths: `/a/`, `/a` and `/b/../a` are one.
pub fn clean(path: &str) -> PathBuf {
    let mut cleaned = PathBuf::new();
    for part in Path::new(path).components() {
        match part {
            Component::ParentDir => {
                cleaned.pop();
            }
            Component::CurDir => {}
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => cleaned.push(part),
        }
    }
    cleaned
}

/// The name of the disk that belongs at a path, if it is a place for one.
pub fn name_at(mount_root: &str, path: &str) -> Option<DiskName> {
    let path = clean(path);
    if path.parent() != Some(clean(mount_root).as_path()) {
        return None;
    }
    path.file_name()?.to_str()?.parse().ok()
}

/// Paths that the Node says an agent manages.
pub fn paths(node: &Node) -> BTreeSet<String> {
    let annotations = node.metadata.annotations.as_ref();
    let value = annotations.and_then(|annotations| annotations.get(PATHS));
    let paths = value.map_or("", String::as_str).split(',');
    let paths = paths.map(str::trim).filter(|path| !path.is_empty());
    paths.map(str::to_owned).collect()
}

/// Entries that are ours and have no disk at all any more, by their names.
pub fn absent<'a>(facts: &Facts<'a>) -> BTreeMap<DiskName, (&'a str, &'a DiskSpec)> {
    let listed = paths(facts.node);
    let there: BTreeSet<&DiskName> = facts.disks.iter().map(|disk| &disk.name).collect();
    let entries = facts.node.spec.disks.iter().filter_map(|(key, entry)| {
        let name = name_at(facts.mount_root, &entry.path)?;
        let ours = facts.known.contains(&name) || listed.contains(&entry.path);
        let gone = ours && !there.contains(&name) && !facts.released.contains(&name);
        (gone && entry.disk_type != "block").then_some((name, (key.as_str(), entry)))
    });
    entries.collect()
}

/// What does not agree at this moment.
pub fn audit(facts: &Facts<'_>) -> Vec<Finding> {
    let mut seen = Vec::new();
    for disk in facts.disks {
        if facts.released.contains(&disk.name) {
            continue;
        }
        match registered(facts.node, disk) {
            // What keeps it from being registered is told as well.
            Registered::Not => seen.extend(config(facts, disk, None).filter(|found| {
                matches!(found.kind, Kind::ConfigWithoutUuid | Kind::ConfigUnreadable)
            })),
            Registered::Wrongly(kind, key, entry) => {
                let detail = format!("spec.disks.{key} has path {}", entry.path);
                seen.push(Finding::of(&disk.name, kind, detail));
            }
            Registered::As(..) if disk.mounted.is_none() => {
                if facts.complete {
                    let detail = format!("not mounted at {}", disk.path);
                    seen.push(Finding::of(&disk.name, Kind::DiskMissing, detail));
                }
            }
            Registered::As(key, _) => {
                let status = facts.node.status.disk_status.get(key);
                seen.extend(config(facts, disk, status));
            }
        }
    }
    if facts.complete {
        for (name, (_, entry)) in absent(facts) {
            let detail = format!("no disk for {}", entry.path);
            seen.push(Finding::of(&name, Kind::DiskMissing, detail));
        }
    }
    seen.extend(again(facts));
    seen
}

/// Disks that have left and that somebody has registered again: nothing is
/// mounted there.
fn again(facts: &Facts<'_>) -> Vec<Finding> {
    let entries = facts.node.spec.disks.values();
    let names = entries.filter_map(|entry| name_at(facts.mount_root, &entry.path));
    let left = names.filter(|name| facts.left.contains(name));
    left.map(|name| {
        let detail = "it was released, and Longhorn has an entry of it again";
        Finding::of(&name, Kind::DiskMissing, detail)
    })
    .collect()
}

/// What Longhorn's file on a mounted disk says, against Longhorn's own word.
fn config(facts: &Facts<'_>, disk: &OurDisk, status: Option<&DiskStatus>) -> Option<Finding> {
    let of = |kind, detail: String| Some(Finding::of(&disk.name, kind, detail));
    match facts.said.get(&disk.name)?.config.known() {
        Err(why) => of(Kind::ConfigUnreadable, why.to_string()),
        Ok(LonghornDisk::None) => of(
            Kind::ConfigMissing,
            status
                .and_then(|status| status.condition("Ready"))
                .filter(|ready| ready.status == "False")
                .map_or_else(String::new, |ready| {
                    format!("Longhorn says {}: {}", ready.reason, ready.message)
                }),
        ),
        Ok(LonghornDisk::Nameless) => of(Kind::ConfigWithoutUuid, disk.path.clone()),
        Ok(LonghornDisk::Named { uuid, .. }) => {
            let expected = &status?.disk_uuid;
            let differs = !expected.is_empty() && expected != uuid;
            let detail = format!("the disk says {uuid}, Longhorn {expected}");
            differs.then(|| of(Kind::UuidMismatch, detail)).flatten()
        }
    }
}

#[cfg(test)]
mod tests;
