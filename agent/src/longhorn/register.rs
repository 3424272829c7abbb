//! What is to be written to the Longhorn Node, from what is there. Pure.
//!
//! An entry is made whole and once. From then on its scheduling, tags and
//! reservation belong to people: they are neither compared nor written again,
//! with one exception that says so on the Node ([`STOPPED`]). Keys of others do
//! not come up at all, because a merge patch names only what it changes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::{
    audit::{self, Facts, PATHS, Registered, registered},
    disks::{OurDisk, Said},
    finding::{Finding, Kind},
    owner::{AGENT, Owner, QUESTION},
};
use crate::{
    config::{OnMissing, Reserved},
    observe::{Transport, longhorn_disk::LonghornDisk},
    units::DiskName,
};

/// Annotation: disks that the agent has switched scheduling off for, because
/// they went missing. It switches it on again for no others.
pub const STOPPED: &str = "disk-discovery/stopped";
/// Annotation: the state of the node in a line.
pub const SUMMARY: &str = "disk-discovery/summary";

/// What a person set for new entries, and for disks that go missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// What becomes of the scheduling of a disk that is missing.
    pub on_missing: OnMissing,
    /// New entries get tags from what the disk is.
    pub tags: bool,
    /// What new entries leave free.
    pub reserved: Reserved,
}

/// What is to be written, apart from the version that it is meant for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Fields by the key of the disk; `null` removes the entry.
    pub disks: BTreeMap<String, Value>,
    /// Annotations; none removes it.
    pub annotations: BTreeMap<&'static str, Option<String>>,
    /// Disks that get an entry.
    pub added: BTreeSet<DiskName>,
    /// Disks that replicas may be placed on again, with their keys.
    pub switched_on: BTreeMap<DiskName, String>,
    /// What [`STOPPED`] lists as long as this is not written.
    pub listed: BTreeSet<String>,
}

impl Change {
    /// Nothing is to be written.
    pub fn is_empty(&self) -> bool {
        self.disks.is_empty() && self.annotations.is_empty()
    }

    /// Drops what must not be given to Longhorn of disks that are not mounted.
    /// Asked of no others than those: it is read anew each time.
    pub fn keep_mounted(&mut self, disks: &[OurDisk], is_mounted: impl Fn(&OurDisk) -> bool) {
        for disk in disks {
            let new = self.added.contains(&disk.name);
            let again = self.switched_on.contains_key(&disk.name);
            if !(new || again) || is_mounted(disk) {
                continue;
            }
            if self.added.remove(&disk.name) {
                self.disks.remove(disk.name.as_str());
                // The next step finds what is to be said of paths.
                self.annotations.remove(PATHS);
            }
            self.leave_stopped(&disk.name);
        }
    }

    /// Leaves a disk switched off that is not fit to be switched on after all.
    fn leave_stopped(&mut self, name: &DiskName) {
        let Some(key) = self.switched_on.remove(name) else {
            return;
        };
        self.disks.remove(&key);
        // Where it is not written, the disk is listed still.
        if let Some(stopped) = self.annotations.remove(STOPPED) {
            let mut stopped = names_in(stopped.as_deref());
            stopped.insert(name.to_string());
            self.list_stopped(stopped);
        }
    }

    fn list_stopped(&mut self, stopped: BTreeSet<String>) {
        if stopped != self.listed {
            let value = stopped.into_iter().collect::<Vec<_>>().join(",");
            let value = (!value.is_empty()).then_some(value);
            self.annotations.insert(STOPPED, value);
        }
    }

    /// As a JSON merge patch (RFC 7386) that holds for one version of the
    /// object only.
    pub fn patch(&self, resource_version: &str) -> Value {
        let annotations: Map<String, Value> = self
            .annotations
            .iter()
            .map(|(key, value)| ((*key).to_owned(), json!(value)))
            .collect();
        let mut patch = json!({"metadata": {"resourceVersion": resource_version}});
        if let Some(metadata) = patch.get_mut("metadata").and_then(Value::as_object_mut)
            && !annotations.is_empty()
        {
            metadata.insert("annotations".to_owned(), Value::Object(annotations));
        }
        if let Some(root) = patch.as_object_mut()
            && !self.disks.is_empty()
        {
            let disks: Map<String, Value> = self.disks.clone().into_iter().collect();
            root.insert("spec".to_owned(), json!({"disks": disks}));
        }
        patch
    }
}

/// What is to be written now. `findings` are those that lasted; `held_back` are
/// disks that the webhook would not have, or that wait for something.
pub fn change(
    facts: &Facts<'_>,
    findings: &[Finding],
    terms: &Terms,
    held_back: &BTreeSet<DiskName>,
) -> Change {
    let mut change = Change::default();
    let mut ours = BTreeSet::new();
    for disk in facts.disks {
        if facts.released.contains(&disk.name) {
            continue;
        }
        match registered(facts.node, disk) {
            Registered::As(..) => {
                ours.insert(disk.path.clone());
            }
            // Who was released is not known while the ledger cannot be read.
            Registered::Not if facts.complete && !held_back.contains(&disk.name) => {
                let Some(said) = facts.said.get(&disk.name) else {
                    continue;
                };
                if !may_be_added(disk, said) {
                    continue;
                }
                let capacity = said.capacity.known().ok().copied();
                let Some(reserved) = terms.reserved.of(capacity) else {
                    continue;
                };
                change
                    .disks
                    .insert(disk.name.to_string(), entry(disk, terms.tags, reserved));
                ours.insert(disk.path.clone());
                change.added.insert(disk.name.clone());
            }
            Registered::Not | Registered::Wrongly(..) => {}
        }
    }
    // Their entries are ours still.
    for name in audit::absent(facts).into_keys() {
        ours.insert(format!("{}/{name}", facts.mount_root));
    }
    scheduling(facts, findings, terms.on_missing, &mut change);
    annotate_paths(facts, ours, &mut change);
    change
}

/// What is not mounted, or fails, is not given to Longhorn. Nor is a disk whose
/// `longhorn-disk.cfg` names no disk: Longhorn would take it for any, and give
/// it what belongs to others.
fn may_be_added(disk: &OurDisk, said: &Said) -> bool {
    let safe = said.config.is_known_and(|config| match config {
        LonghornDisk::None | LonghornDisk::Named { .. } => true,
        LonghornDisk::Nameless => false,
    });
    safe && disk.mounted.is_some() && disk.ailment.is_none()
}

fn entry(disk: &OurDisk, tags: bool, reserved: u64) -> Value {
    json!({
        "path": disk.path,
        "diskType": "filesystem",
        "diskDriver": "",
        "allowScheduling": true,
        "evictionRequested": false,
        "storageReserved": reserved,
        "tags": if tags { self::tags(disk) } else { Vec::new() },
    })
}

/// What the disk is, as far as it is known: what a virtual disk says of
/// spinning is nobody's knowledge.
fn tags(disk: &OurDisk) -> Vec<&'static str> {
    match (disk.transport, disk.rotational) {
        (Some(Transport::Nvme), _) => vec!["nvme", "ssd"],
        (Some(Transport::Virtio | Transport::Virtual) | None, _) | (_, None) => Vec::new(),
        (Some(_), Some(true)) => vec!["hdd"],
        (Some(_), Some(false)) => vec!["ssd"],
    }
}

/// Switches scheduling off for disks that are missing, where a person wants
/// that, and on again for those that are back, and well, and that it was switched
/// off for: Longhorn does not notice that nothing can be written to one.
fn scheduling(facts: &Facts<'_>, findings: &[Finding], policy: OnMissing, change: &mut Change) {
    let listed = list(facts, STOPPED);
    let mut stopped = BTreeSet::new();
    let missing = |name: &DiskName| {
        let same = |finding: &&Finding| finding.disk.as_ref() == Some(name);
        let mut of_disk = findings.iter().filter(same);
        of_disk.any(|finding| finding.kind == Kind::DiskMissing)
    };
    let here = facts.disks.iter().filter_map(|disk| {
        let Registered::As(key, entry) = registered(facts.node, disk) else {
            return None;
        };
        let mounted = disk.mounted.is_some();
        let fit = mounted && disk.ailment.is_none();
        Some((disk.name.clone(), key, entry, mounted, fit))
    });
    let away = audit::absent(facts).into_iter();
    let away = away.map(|(name, (key, entry))| (name, key, entry, false, false));
    for (name, key, entry, mounted, fit) in here.chain(away) {
        if facts.released.contains(&name) {
            continue;
        }
        let was_stopped = listed.contains(name.as_str());
        if fit {
            if was_stopped && !entry.allow_scheduling && !entry.eviction_requested {
                set(change, key, json!({"allowScheduling": true}));
                change.switched_on.insert(name, key.to_owned());
            }
        } else if was_stopped {
            // Whatever a person has set since then is theirs.
            stopped.insert(name.to_string());
        } else if !mounted
            && policy == OnMissing::StopScheduling
            && missing(&name)
            && entry.allow_scheduling
        {
            set(change, key, json!({"allowScheduling": false}));
            stopped.insert(name.to_string());
        }
    }
    // Who is asked to leave may yet stay.
    let leaving = listed
        .iter()
        .filter(|name| facts.released.iter().any(|gone| gone.as_str() == *name));
    stopped.extend(leaving.cloned());
    if !facts.complete {
        // Which disks are there is not known: what is listed stays so.
        stopped.extend(listed.iter().cloned());
    }
    change.listed = listed;
    change.list_stopped(stopped);
}

fn set(change: &mut Change, key: &str, fields: Value) {
    change.disks.insert(key.to_owned(), fields);
}

fn list(facts: &Facts<'_>, key: &str) -> BTreeSet<String> {
    let annotations = facts.node.metadata.annotations.as_ref();
    let value = annotations.and_then(|annotations| annotations.get(key));
    names_in(value.map(String::as_str))
}

fn names_in(list: Option<&str>) -> BTreeSet<String> {
    let names = list.unwrap_or_default().split(',').map(str::trim);
    let names = names.filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

/// The paths that an agent manages: ours, and those that others have written
/// there for entries of their own or for places that are not ours to judge.
fn annotate_paths(facts: &Facts<'_>, mut ours: BTreeSet<String>, change: &mut Change) {
    let listed = audit::paths(facts.node);
    let entries: BTreeSet<_> = facts
        .node
        .spec
        .disks
        .values()
        .map(|entry| audit::clean(&entry.path))
        .collect();
    let theirs = listed
        .iter()
        .filter(|path| match audit::name_at(facts.mount_root, path) {
            None => true,
            Some(name) => entries.contains(&audit::clean(path)) && !facts.released.contains(&name),
        });
    ours.extend(theirs.cloned());
    if ours == listed || (!facts.complete && ours.is_subset(&listed)) {
        return;
    }
    let value = ours.into_iter().collect::<Vec<_>>().join(",");
    let value = (!value.is_empty()).then_some(value);
    change.annotations.insert(PATHS, value);
}

/// Adds what the rule of one agent for a node asks to be written.
pub fn claim(owner: &Owner, me: &str, change: &mut Change) {
    let annotations = &mut change.annotations;
    match owner {
        Owner::Me | Owner::Waiting(_) | Owner::Other(_) => {}
        // Not worth a write of its own.
        Owner::Nobody => {
            if !change.disks.is_empty() || !annotations.is_empty() {
                annotations.insert(AGENT, Some(me.to_owned()));
            }
        }
        Owner::MeAsked => {
            annotations.insert(QUESTION, None);
        }
        Owner::Ask(_) => {
            *change = Change::default();
            let question = (QUESTION, Some(me.to_owned()));
            change.annotations = BTreeMap::from([question]);
        }
        Owner::TakeOver(_) => {
            annotations.insert(AGENT, Some(me.to_owned()));
            annotations.insert(QUESTION, None);
        }
    }
}

#[cfg(test)]
mod tests;
