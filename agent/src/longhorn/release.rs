//! How a disk leaves Longhorn: scheduling off and eviction on, then nothing of
//! anybody's on it, then its entry removed, then Longhorn's status of it gone.
//! Pure: one look at the Node in, the next step out.
//!
//! Longhorn says of a disk that is not ready that nothing is scheduled on it, and
//! would let anybody remove it, whatever it holds. So nothing is concluded from
//! the status of such a disk.

use std::fmt;

use super::{
    audit::clean,
    node::{DiskSpec, DiskStatus, NodeSpec, NodeStatus},
};
use crate::{
    ledger::Before,
    units::{Bytes, DiskName},
};

/// What is known of a disk that leaves.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// What the Node asks for.
    pub spec: &'a NodeSpec,
    /// What Longhorn found, in the same version of the object.
    pub status: &'a NodeStatus,
    /// The disk's name, by which the agent registered it.
    pub name: &'a DiskName,
    /// Where it is mounted.
    pub path: &'a str,
    /// Replicas that are assigned to it, where they were asked for.
    pub replicas: Replicas,
    /// What the ledger has of the entry before it was changed; none as long as
    /// it was not.
    pub before: Option<Before>,
}

/// Replicas that are assigned to a disk, by its UUID, whatever its status says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replicas {
    /// Not asked for.
    Unasked,
    /// So many.
    Assigned(usize),
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The disk does not leave; nothing was changed.
    Refuse(String),
    /// Scheduling is switched off and eviction on, in one patch, once the ledger
    /// has what both were before.
    Disable,
    /// Nothing, until the Node changes.
    Wait(Waiting),
    /// The replicas that are assigned to it are asked for.
    CheckReplicas,
    /// Its entry is removed, in the version of the object that was looked at.
    Remove,
    /// Longhorn knows nothing of it: it has left.
    Gone,
}

/// What a disk that leaves waits for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Waiting {
    /// What keeps it, besides what is counted; may be empty.
    pub why: String,
    /// Bytes that are scheduled on it.
    pub bytes: i64,
    /// Replicas that are on it.
    pub replicas: usize,
    /// Backing images that are on it.
    pub backing_images: usize,
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = |count: usize, one: &str, more: &str| match count {
            0 => None,
            1 => Some(format!("1 {one}")),
            many => Some(format!("{many} {more}")),
        };
        let bytes = u64::try_from(self.bytes).ok().filter(|bytes| *bytes > 0);
        let parts = [
            counted(self.replicas, "replica", "replicas"),
            counted(self.backing_images, "backing image", "backing images"),
            bytes.map(|bytes| Bytes(bytes).to_string()),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        match (self.why.as_str(), parts.as_slice()) {
            (why, []) => f.write_str(why),
            ("", parts) => write!(f, "{} left", parts.join(", ")),
            (why, parts) => write!(f, "{why}; {} left", parts.join(", ")),
        }
    }
}

/// The next step.
pub fn step(seen: &Seen<'_>) -> Step {
    let begun = seen.before.is_some();
    // Before anything was changed a person is told; afterwards a person may yet
    // set right what is in the way.
    let held_up = |why: String| {
        if begun {
            Step::Wait(Waiting {
                why,
                ..Waiting::default()
            })
        } else {
            Step::Refuse(why)
        }
    };
    if let Some(other) = registered_otherwise(seen) {
        return held_up(format!(
            "Longhorn has it as {other}, which is not the agent's entry: remove that in Longhorn first"
        ));
    }
    let status = seen.status.disk_status.get(seen.name.as_str());
    let Some(entry) = seen.spec.disks.get(seen.name.as_str()) else {
        return match status {
            None => Step::Gone,
            Some(_) => Step::Wait(Waiting {
                why: "its entry is removed, and Longhorn has not noticed yet".to_owned(),
                ..Waiting::default()
            }),
        };
    };
    if !is_at(&entry.path, seen.path) {
        return held_up(format!(
            "Longhorn's entry of that name is for {}, not for {}",
            entry.path, seen.path
        ));
    }
    let unready = status.map_or_else(
        || Some("Longhorn has not looked at it yet".to_owned()),
        not_ready,
    );
    if !begun {
        return match unready {
            Some(why) => Step::Refuse(format!("{why}; what it holds for Longhorn is not known")),
            None => Step::Disable,
        };
    }
    if entry.allow_scheduling || !entry.eviction_requested {
        return Step::Disable;
    }
    match (unready, status) {
        (Some(why), _) => held_up(format!("{why}; it stays until what it holds is known")),
        (None, Some(status)) => emptied(status, seen.replicas),
        (None, None) => held_up(String::new()),
    }
}

/// What to put back into an entry when a release is called off: scheduling as it
/// was. None when it is there no more, or somebody has seen to it already. Nor
/// where a person had asked for the eviction before: that goes on, and Longhorn
/// lets nobody place replicas meanwhile.
pub fn restore(entry: Option<&DiskSpec>, before: Before) -> Option<Restored> {
    entry
        .filter(|entry| entry.eviction_requested && !before.evicting)
        .map(|_| Restored {
            allow_scheduling: before.schedulable,
        })
}

/// An entry without eviction, and with scheduling as it was; one patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// Whether replicas may be placed on it.
    pub allow_scheduling: bool,
}

/// How far a ready disk has been emptied that replicas may not be placed on.
fn emptied(status: &DiskStatus, replicas: Replicas) -> Step {
    let waiting = Waiting {
        why: String::new(),
        bytes: status.storage_scheduled,
        replicas: status.scheduled_replica.len(),
        backing_images: status.scheduled_backing_image.len(),
    };
    if waiting != Waiting::default() {
        let why = if waiting.bytes < 0 || (waiting.replicas, waiting.backing_images) == (0, 0) {
            "Longhorn has something scheduled on it"
        } else {
            ""
        };
        return Step::Wait(Waiting {
            why: why.to_owned(),
            ..waiting
        });
    }
    match replicas {
        Replicas::Unasked => Step::CheckReplicas,
        Replicas::Assigned(0) => Step::Remove,
        Replicas::Assigned(replicas) => Step::Wait(Waiting {
            replicas,
            ..Waiting::default()
        }),
    }
}

/// Another name by which Longhorn has the disk, or had it a moment ago.
fn registered_otherwise<'a>(seen: &Seen<'a>) -> Option<&'a str> {
    let specs = seen.spec.disks.iter();
    let specs = specs.map(|(name, entry)| (name, &entry.path));
    let statuses = seen.status.disk_status.iter();
    let statuses = statuses.map(|(name, status)| (name, &status.disk_path));
    specs
        .chain(statuses)
        .find(|(name, path)| name.as_str() != seen.name.as_str() && is_in(path, seen.path))
        .map(|(name, _)| name.as_str())
}

/// Why nothing can be concluded from what Longhorn says of a disk.
fn not_ready(status: &DiskStatus) -> Option<String> {
    if status.ready() == Some(true) {
        return None;
    }
    let said = status.condition("Ready");
    let words = said.map(|said| [said.reason.as_str(), said.message.as_str()]);
    let words: Vec<&str> = words
        .into_iter()
        .flatten()
        .filter(|words| !words.is_empty())
        .collect();
    Some(if words.is_empty() {
        "in Longhorn it is not ready".to_owned()
    } else {
        format!("in Longhorn it is not ready ({})", words.join(": "))
    })
}

fn is_at(path: &str, place: &str) -> bool {
    clean(path) == clean(place)
}

fn is_in(path: &str, place: &str) -> bool {
    clean(path).starts_with(clean(place))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// A Node with one disk, as Longhorn shows it.
    fn node(entry: Option<Value>, status: Option<Value>) -> (NodeSpec, NodeStatus) {
        let disks = |of: Option<Value>| match of {
            Some(of) => json!({ "sdb1": of }),
            None => json!({}),
        };
        let spec = json!({ "disks": disks(entry) });
        let status = json!({ "diskStatus": disks(status) });
        (
            serde_json::from_value(spec).expect("a spec"),
            serde_json::from_value(status).expect("a status"),
        )
    }

    fn entry(schedulable: bool, evicting: bool) -> Option<Value> {
        Some(json!({
            "path": "/mnt/longhorn/sdb1/", "diskType": "filesystem",
            "allowScheduling": schedulable, "evictionRequested": evicting,
        }))
    }

    fn status(ready: &str, scheduled: i64, replicas: Value, images: Value) -> Option<Value> {
        Some(json!({
            "diskPath": "/mnt/longhorn/sdb1", "storageScheduled": scheduled,
            "scheduledReplica": replicas, "scheduledBackingImage": images,
            "conditions": [{"type": "Ready", "status": ready, "reason": "NoDiskInfo", "message": "no file"}],
        }))
    }

    fn empty(ready: &str) -> Option<Value> {
        status(ready, 0, Value::Null, json!({}))
    }

    type Node = (NodeSpec, NodeStatus);

    fn before(schedulable: bool, evicting: bool) -> Before {
        Before {
            schedulable,
            evicting,
        }
    }

    fn after(node: &Node, schedulable: Option<bool>, replicas: Replicas) -> Step {
        let name: DiskName = "sdb1".parse().expect("a name");
        step(&Seen {
            spec: &node.0,
            status: &node.1,
            name: &name,
            path: "/mnt/longhorn/sdb1",
            replicas,
            before: schedulable.map(|schedulable| before(schedulable, false)),
        })
    }

    fn begin(node: &Node) -> Step {
        after(node, None, Replicas::Unasked)
    }

    fn go_on(node: &Node) -> Step {
        after(node, Some(true), Replicas::Unasked)
    }

    fn refusal(step: Step) -> String {
        match step {
            Step::Refuse(why) => why,
            other @ (Step::Disable
            | Step::Wait(_)
            | Step::CheckReplicas
            | Step::Remove
            | Step::Gone) => panic!("not refused: {other:?}"),
        }
    }

    fn waiting(step: Step) -> Waiting {
        match step {
            Step::Wait(waiting) => waiting,
            other @ (Step::Disable
            | Step::Refuse(_)
            | Step::CheckReplicas
            | Step::Remove
            | Step::Gone) => panic!("does not wait: {other:?}"),
        }
    }

    #[test]
    fn a_disk_leaves_step_by_step() {
        let used = status("True", 5 << 30, json!({"r1": 1, "r2": 1}), json!({"b": 1}));
        assert_eq!(
            begin(&node(entry(true, false), used.clone())),
            Step::Disable
        );
        let moving = waiting(go_on(&node(entry(false, true), used)));
        assert_eq!(
            moving.to_string(),
            "2 replicas, 1 backing image, 5.4 GB left"
        );
        let emptied = node(entry(false, true), empty("True"));
        assert_eq!(go_on(&emptied), Step::CheckReplicas);
        let assigned = |count| after(&emptied, Some(true), Replicas::Assigned(count));
        assert_eq!(waiting(assigned(1)).to_string(), "1 replica left");
        assert_eq!(assigned(0), Step::Remove);
        let unnoticed = waiting(go_on(&node(None, empty("True"))));
        assert!(unnoticed.why.contains("not noticed"), "{unnoticed}");
        assert_eq!(go_on(&node(None, None)), Step::Gone);
    }

    #[test]
    fn a_disk_that_longhorn_does_not_know_has_left_at_once() {
        assert_eq!(begin(&node(None, None)), Step::Gone);
    }

    #[test]
    fn a_disk_that_is_not_ready_is_refused_before_anything_is_changed() {
        for ready in ["False", "Unknown", ""] {
            let why = refusal(begin(&node(entry(true, false), empty(ready))));
            assert!(why.contains("not ready (NoDiskInfo: no file)"), "{why}");
        }
        let why = refusal(begin(&node(entry(true, false), None)));
        assert!(why.contains("not looked at it yet"), "{why}");
    }

    #[test]
    fn a_disk_that_looks_empty_because_it_is_not_ready_is_not_removed() {
        for replicas in [Replicas::Unasked, Replicas::Assigned(0)] {
            let trap = node(entry(false, true), empty("False"));
            let held = waiting(after(&trap, Some(true), replicas));
            assert!(held.why.contains("not ready"), "{held}");
        }
    }

    #[test]
    fn what_a_crash_or_somebody_undid_is_done_again() {
        let full = status("False", 0, Value::Null, Value::Null);
        for (schedulable, evicting) in [(true, false), (false, false), (true, true)] {
            let node = node(entry(schedulable, evicting), full.clone());
            assert_eq!(go_on(&node), Step::Disable);
        }
    }

    #[test]
    fn a_disk_that_longhorn_has_by_another_name_or_path_does_not_leave() {
        for path in [
            "/mnt/longhorn//sdb1",
            "/mnt/longhorn/sdb1/inside",
            "/mnt/x/../longhorn/sdb1",
        ] {
            let (mut spec, status) = node(None, None);
            let theirs = DiskSpec {
                path: path.to_owned(),
                ..DiskSpec::default()
            };
            spec.disks.insert("theirs".to_owned(), theirs);
            let node = (spec, status);
            assert!(refusal(begin(&node)).contains("as theirs"));
            assert!(waiting(go_on(&node)).why.contains("as theirs"));
        }
        let (spec, mut found) = node(None, None);
        let theirs = DiskStatus {
            disk_path: "/mnt/longhorn/sdb1".to_owned(),
            ..DiskStatus::default()
        };
        found.disk_status.insert("theirs".to_owned(), theirs);
        assert!(refusal(begin(&(spec, found))).contains("as theirs"));
        let mut elsewhere = node(entry(true, false), empty("True"));
        for disk in elsewhere.0.disks.values_mut() {
            disk.path = "/mnt/longhorn/sdb12".to_owned();
        }
        assert!(refusal(begin(&elsewhere)).contains("sdb12"));
        assert!(waiting(go_on(&elsewhere)).why.contains("sdb12"));
    }

    #[test]
    fn a_release_that_is_called_off_leaves_the_entry_as_it_was() {
        let spec = |schedulable, evicting| node(entry(schedulable, evicting), None).0;
        for allow_scheduling in [true, false] {
            let disabled = spec(false, true);
            let restored = restore(disabled.disks.get("sdb1"), before(allow_scheduling, false));
            assert_eq!(restored, Some(Restored { allow_scheduling }));
        }
        // Never changed, or by a person since: theirs stands.
        for (schedulable, evicting) in [(true, false), (false, false)] {
            let entry = spec(schedulable, evicting);
            assert_eq!(restore(entry.disks.get("sdb1"), before(true, false)), None);
        }
        assert_eq!(restore(None, before(true, false)), None);
    }

    #[test]
    fn an_eviction_that_a_person_asked_for_before_outlives_a_release_that_is_called_off() {
        let entry = node(entry(false, true), None).0;
        let restored = restore(entry.disks.get("sdb1"), before(false, true));
        assert_eq!(restored, None);
    }

    proptest! {
        /// Whatever Longhorn shows: an entry is removed only when the disk is
        /// ready, disabled and empty by each count, and the first change is made
        /// only to a disk that is ready.
        #[test]
        fn no_entry_is_removed_of_which_anything_speaks_for_data(
            there in any::<bool>(),
            known in any::<bool>(),
            flags in any::<(bool, bool)>(),
            ready in proptest::sample::select(vec!["True", "False", "Unknown", ""]),
            scheduled in prop_oneof![3 => Just(0_i64), 1 => any::<i64>()],
            on_it in proptest::sample::select(vec![(0, 0), (0, 0), (1, 0), (0, 1), (3, 2)]),
            assigned in prop_oneof![Just(None), Just(Some(0)), (1..4_usize).prop_map(Some)],
            before in any::<Option<bool>>(),
        ) {
            let map = |count: i32| {
                let names = (0..count).map(|number| (format!("r{number}"), json!(0)));
                Value::Object(names.collect())
            };
            let entry = entry(flags.0, flags.1).filter(|_| there);
            let status = status(ready, scheduled, map(on_it.0), map(on_it.1)).filter(|_| known);
            let replicas = assigned.map_or(Replicas::Unasked, Replicas::Assigned);
            let step = after(&node(entry, status), before, replicas);
            let disabled = there && flags == (false, true);
            let emptied = known && ready == "True" && scheduled == 0 && on_it == (0, 0);
            let removable = disabled && emptied && assigned == Some(0) && before.is_some();
            prop_assert_eq!(step == Step::Remove, removable, "{:?}", step);
            prop_assert_eq!(step == Step::Gone, !there && !known, "{:?}", step);
            if step == Step::Disable && before.is_none() {
                prop_assert!(known && ready == "True");
            }
            if let Step::Refuse(_) = step {
                prop_assert!(before.is_none());
            }
        }
    }
}
