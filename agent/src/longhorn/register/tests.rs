use proptest::prelude::*;
use serde_json::json;

use super::{
    super::{
        example::{Scene, disk, entry, name, node},
        node::Node,
    },
    *,
};

fn terms() -> Terms {
    Terms {
        on_missing: OnMissing::Report,
        tags: true,
        reserved: Reserved::Bytes(0),
    }
}

fn stopping() -> Terms {
    Terms {
        on_missing: OnMissing::StopScheduling,
        ..terms()
    }
}

fn wanted(scene: &Scene, node: &Node, terms: &Terms) -> Change {
    let facts = scene.facts(node);
    let findings = audit::audit(&facts);
    change(&facts, &findings, terms, &BTreeSet::new())
}

/// As the API server applies a merge patch (RFC 7386), and reads it back.
fn applied(node: &Node, change: &Change) -> Node {
    let mut disks = serde_json::Map::new();
    for (key, disk) in &node.spec.disks {
        disks.insert(
            key.clone(),
            json!({
                "path": disk.path, "diskType": disk.disk_type,
                "allowScheduling": disk.allow_scheduling,
                "evictionRequested": disk.eviction_requested,
                "storageReserved": disk.storage_reserved, "tags": disk.tags,
            }),
        );
    }
    for (key, fields) in &change.disks {
        if fields.is_null() {
            disks.remove(key);
            continue;
        }
        let entry = disks.entry(key.clone()).or_insert_with(|| json!({}));
        for (field, value) in fields.as_object().expect("fields") {
            entry[field] = value.clone();
        }
    }
    let mut annotations = node.metadata.annotations.clone().unwrap_or_default();
    for (key, value) in &change.annotations {
        match value {
            Some(value) => annotations.insert((*key).to_owned(), value.clone()),
            None => annotations.remove(*key),
        };
    }
    super::super::example::node(json!(disks), json!({}), json!(annotations))
}

fn paths_of(change: &Change) -> Option<&str> {
    change.annotations.get(PATHS)?.as_deref()
}

#[test]
fn entries_and_their_paths_come_in_one_patch_for_one_version() {
    let scene = Scene::with([disk("sdb1"), disk("sda1")]);
    let node = node(json!({}), json!({}), json!({}));
    let patch = wanted(&scene, &node, &terms()).patch("7");
    assert_eq!(
        patch,
        json!({
            "metadata": {"resourceVersion": "7", "annotations": {
                "node.longhorn.io/paths": "/mnt/longhorn/sda1,/mnt/longhorn/sdb1",
            }},
            "spec": {"disks": {"sda1": entry("sda1"), "sdb1": entry("sdb1")}},
        })
    );
}

#[test]
fn a_patch_names_nothing_that_others_have() {
    let scene = Scene::with([disk("sdb1")]);
    let others = json!({"default-disk-1": {"path": "/var/lib/longhorn/", "allowScheduling": true}});
    let node = node(others, json!({}), json!({"theirs": "value"}));
    let change = wanted(&scene, &node, &terms());
    assert_eq!(change.disks.keys().collect::<Vec<_>>(), ["sdb1"]);
    assert_eq!(change.annotations.keys().collect::<Vec<_>>(), [&PATHS]);
}

#[test]
fn what_a_person_set_on_an_entry_is_theirs() {
    let scene = Scene::with([disk("sdb1")]);
    let theirs = json!({"sdb1": {
        "path": "/mnt/longhorn/sdb1", "diskType": "filesystem", "allowScheduling": false,
        "evictionRequested": true, "storageReserved": 5_000, "tags": ["theirs"],
    }});
    let paths = json!({PATHS: "/mnt/longhorn/sdb1"});
    let node = node(theirs, json!({}), paths);
    assert!(wanted(&scene, &node, &terms()).is_empty());
    assert!(wanted(&scene, &node, &stopping()).is_empty());
}

#[test]
fn an_entry_that_a_person_made_under_another_name_will_do() {
    let scene = Scene::with([disk("sdh1")]);
    let theirs = json!({"my-disk": {"path": "/mnt/longhorn/sdh1/", "diskType": ""}});
    let node = node(theirs, json!({}), json!({}));
    let change = wanted(&scene, &node, &terms());
    assert!(change.disks.is_empty(), "{change:?}");
    assert_eq!(paths_of(&change), Some("/mnt/longhorn/sdh1"));
}

#[test]
fn a_name_that_is_used_for_something_else_is_left_alone() {
    let scene = Scene::with([disk("sdb1")]);
    for theirs in [
        json!({"sdb1": {"path": "/data", "diskType": "filesystem"}}),
        json!({"sdb1": {"path": "/mnt/longhorn/sdb1", "diskType": "block"}}),
        json!({"other": {"path": "/mnt/longhorn/sdb1", "diskType": "block"}}),
    ] {
        let node = node(theirs, json!({}), json!({}));
        let change = wanted(&scene, &node, &terms());
        assert!(change.disks.is_empty(), "{change:?}");
    }
}

#[test]
fn only_a_disk_that_is_mounted_and_well_is_registered() {
    let away = OurDisk {
        mounted: None,
        ..disk("sda1")
    };
    let ailing = OurDisk {
        ailment: Some("read-only".to_owned()),
        ..disk("sdb1")
    };
    let scene = Scene::with([away, ailing, disk("sdc1")]);
    let node = node(json!({}), json!({}), json!({}));
    let change = wanted(&scene, &node, &terms());
    assert_eq!(change.added, BTreeSet::from([name("sdc1")]));
    assert_eq!(paths_of(&change), Some("/mnt/longhorn/sdc1"));
}

#[test]
fn a_disk_whose_file_names_no_disk_or_cannot_be_read_is_not_given_to_longhorn() {
    let node = node(json!({}), json!({}), json!({}));
    let nameless = Scene::with([disk("sda1")]).saying("sda1", LonghornDisk::Nameless);
    assert!(wanted(&nameless, &node, &terms()).disks.is_empty());
    let mut unread = Scene::with([disk("sda1")]);
    let said = unread.said.get_mut(&name("sda1")).expect("said");
    said.config = crate::fact::Fact::unreadable("sda1", "the disk does not answer");
    assert!(wanted(&unread, &node, &terms()).disks.is_empty());
    let mut hanging = Scene::with([disk("sda1")]);
    hanging.said.clear();
    assert!(wanted(&hanging, &node, &terms()).disks.is_empty());
    let back = LonghornDisk::Named {
        uuid: "u".to_owned(),
        name: None,
    };
    let adopted = Scene::with([disk("sda1")]).saying("sda1", back);
    assert_eq!(wanted(&adopted, &node, &terms()).added.len(), 1);
}

#[test]
fn a_stopped_disk_that_is_asked_to_leave_and_stays_is_switched_on_when_it_is_back() {
    let registered = node(
        json!({"sdb1": entry("sdb1")}),
        json!({}),
        json!({PATHS: "/mnt/longhorn/sdb1", STOPPED: "sdb1"}),
    );
    let mut scene = Scene::default();
    scene.known.insert(name("sdb1"));
    scene.released.insert(name("sdb1"));
    let change = wanted(&scene, &registered, &stopping());
    assert!(!change.annotations.contains_key(STOPPED), "{change:?}");
}

#[test]
fn tags_say_what_a_disk_is_where_that_is_known() {
    let of = |transport, rotational| {
        tags(&OurDisk {
            transport,
            rotational,
            ..disk("sda1")
        })
    };
    assert_eq!(of(Some(Transport::Nvme), Some(false)), ["nvme", "ssd"]);
    assert_eq!(of(Some(Transport::Scsi), Some(false)), ["ssd"]);
    assert_eq!(of(Some(Transport::Scsi), Some(true)), ["hdd"]);
    assert!(of(Some(Transport::Scsi), None).is_empty());
    assert!(of(Some(Transport::Virtio), Some(true)).is_empty());
    let off = Terms {
        tags: false,
        ..terms()
    };
    let nvme = OurDisk {
        transport: Some(Transport::Nvme),
        ..disk("sda1")
    };
    let node = node(json!({}), json!({}), json!({}));
    let change = wanted(&Scene::with([nvme]), &node, &off);
    assert_eq!(change.disks["sda1"]["tags"], json!([]));
}

#[test]
fn a_part_is_reserved_of_what_the_filesystem_has() {
    let part = Terms {
        reserved: Reserved::Percent(5),
        ..terms()
    };
    let node = node(json!({}), json!({}), json!({}));
    let mut unread = Scene::with([disk("sda1")]);
    let said = unread.said.get_mut(&name("sda1")).expect("said");
    said.capacity = crate::fact::Fact::unreadable("sda1", "I/O error");
    // Not read yet: it is registered when it is.
    assert!(wanted(&unread, &node, &part).disks.is_empty());
    let read = Scene::with([disk("sda1")]).saying("sda1", LonghornDisk::None);
    let change = wanted(&read, &node, &part);
    assert_eq!(change.disks["sda1"]["storageReserved"], json!(50_000));
}

#[test]
fn the_scheduling_of_a_missing_disk_is_touched_only_where_that_is_asked_for() {
    let away = OurDisk {
        mounted: None,
        ..disk("sdb1")
    };
    let registered = node(
        json!({"sdb1": entry("sdb1"), "sdc1": entry("sdc1")}),
        json!({}),
        json!({PATHS: "/mnt/longhorn/sdb1,/mnt/longhorn/sdc1"}),
    );
    // One is there and not mounted, the other is gone altogether.
    let mut scene = Scene::with([away]);
    scene.known.insert(name("sdc1"));
    assert!(wanted(&scene, &registered, &terms()).is_empty());
    let off = wanted(&scene, &registered, &stopping());
    let switched = json!({"allowScheduling": false});
    assert_eq!(off.disks["sdb1"], switched);
    assert_eq!(off.disks["sdc1"], switched);
    assert_eq!(off.annotations[STOPPED].as_deref(), Some("sdb1,sdc1"));
    let stopped = applied(&registered, &off);
    assert!(wanted(&scene, &stopped, &stopping()).is_empty());
    // Back, whatever the policy is by now.
    let back = Scene::with([disk("sdb1"), disk("sdc1")]);
    let on = wanted(&back, &stopped, &terms());
    assert_eq!(on.disks["sdb1"], json!({"allowScheduling": true}));
    assert_eq!(on.annotations[STOPPED], None);
    assert!(wanted(&back, &applied(&stopped, &on), &stopping()).is_empty());
}

#[test]
fn scheduling_is_switched_on_again_only_for_a_disk_that_is_back_and_well() {
    let mut off = entry("sdb1");
    off["allowScheduling"] = json!(false);
    let annotations = json!({PATHS: "/mnt/longhorn/sdb1", STOPPED: "sdb1"});
    let stopped = node(json!({"sdb1": off}), json!({}), annotations);
    let failing = OurDisk {
        ailment: Some("the kernel has stopped writing to it (ro)".to_owned()),
        ..disk("sdb1")
    };
    for terms in [terms(), stopping()] {
        let change = wanted(&Scene::with([failing.clone()]), &stopped, &terms);
        assert!(change.is_empty(), "{change:?}");
        let change = wanted(&Scene::with([disk("sdb1")]), &stopped, &terms);
        assert_eq!(change.disks["sdb1"], json!({"allowScheduling": true}));
    }
}

#[test]
fn a_disk_that_is_gone_again_at_that_moment_stays_switched_off_and_listed() {
    let mut off = entry("sdb1");
    off["allowScheduling"] = json!(false);
    let mut disks = json!({"sdb1": off, "by-hand": off, "sdd1": entry("sdd1")});
    disks["by-hand"]["path"] = json!("/mnt/longhorn/sdc1");
    let paths = "/mnt/longhorn/sdb1,/mnt/longhorn/sdc1,/mnt/longhorn/sdd1";
    let annotations = json!({PATHS: paths, STOPPED: "sdb1,sdc1"});
    let stopped = node(disks, json!({}), annotations);
    let away = OurDisk {
        mounted: None,
        ..disk("sdd1")
    };
    let scene = Scene::with([disk("sdb1"), disk("sdc1"), away]);
    let mut change = wanted(&scene, &stopped, &stopping());
    change.keep_mounted(&scene.disks, |disk| disk.name != name("sdc1"));
    let keys: Vec<&String> = change.disks.keys().collect();
    assert_eq!(keys, ["sdb1", "sdd1"]);
    assert_eq!(change.annotations[STOPPED].as_deref(), Some("sdc1,sdd1"));
    // Neither of the two is there, and nothing else is to be done.
    let mut change = wanted(&scene, &stopped, &terms());
    change.keep_mounted(&scene.disks, |_| false);
    assert!(change.is_empty(), "{change:?}");
}

#[test]
fn only_disks_that_something_is_given_to_are_asked_whether_they_are_mounted() {
    let scene = Scene::with([disk("sdb1"), disk("sdc1")]);
    let registered = node(json!({"sdb1": entry("sdb1")}), json!({}), json!({}));
    let mut change = wanted(&scene, &registered, &terms());
    change.keep_mounted(&scene.disks, |disk| {
        assert_eq!(disk.name, name("sdc1"));
        false
    });
    assert!(change.disks.is_empty() && change.added.is_empty());
    assert_eq!(change.annotations.get(PATHS), None);
}

#[test]
fn scheduling_that_a_person_switched_off_is_not_switched_on() {
    let mut theirs = entry("sdb1");
    theirs["allowScheduling"] = json!(false);
    let registered = node(
        json!({"sdb1": theirs}),
        json!({}),
        json!({PATHS: "/mnt/longhorn/sdb1"}),
    );
    let away = OurDisk {
        mounted: None,
        ..disk("sdb1")
    };
    assert!(wanted(&Scene::with([away]), &registered, &stopping()).is_empty());
    assert!(wanted(&Scene::with([disk("sdb1")]), &registered, &stopping()).is_empty());
}

#[test]
fn scheduling_that_a_person_switched_on_meanwhile_is_not_switched_off_again() {
    let registered = node(
        json!({"sdb1": entry("sdb1")}),
        json!({}),
        json!({PATHS: "/mnt/longhorn/sdb1", STOPPED: "sdb1"}),
    );
    let away = OurDisk {
        mounted: None,
        ..disk("sdb1")
    };
    assert!(wanted(&Scene::with([away]), &registered, &stopping()).is_empty());
}

#[test]
fn paths_that_others_have_listed_stay() {
    let scene = Scene::with([disk("sdb1")]);
    let theirs = json!({
        "sdb1": entry("sdb1"),
        "by-hand": {"path": "/mnt/longhorn/sdx1"},
    });
    let listed = "/data/a, /mnt/longhorn/sdx1,/mnt/longhorn/gone";
    let node = node(theirs, json!({}), json!({PATHS: listed}));
    let change = wanted(&scene, &node, &terms());
    // Of the last there is neither a disk nor an entry.
    let left = "/data/a,/mnt/longhorn/sdb1,/mnt/longhorn/sdx1";
    assert_eq!(paths_of(&change), Some(left));
}

#[test]
fn a_host_that_cannot_be_read_takes_nothing_back() {
    let registered = node(
        json!({"sdb1": entry("sdb1"), "sdc1": entry("sdc1")}),
        json!({}),
        json!({PATHS: "/mnt/longhorn/sdb1,/mnt/longhorn/sdc1", STOPPED: "sdc1"}),
    );
    let blind = Scene {
        blind: true,
        ..Scene::default()
    };
    assert!(wanted(&blind, &registered, &stopping()).is_empty());
    let unknown = Scene {
        blind: true,
        ..Scene::with([disk("sdd1")])
    };
    assert!(wanted(&unknown, &registered, &stopping()).disks.is_empty());
}

fn arbitrary_scene() -> impl Strategy<Value = (Scene, Node)> {
    let disk = (any::<bool>(), any::<bool>(), any::<bool>());
    let entry = (0..5_u8, any::<bool>(), any::<bool>());
    (
        prop::collection::vec(disk, 4),
        prop::collection::vec(entry, 4),
        prop::sample::subsequence(vec!["sda1", "sdb1", "sdc1", "sdd1"], 0..=4),
    )
        .prop_map(|(disks, entries, stopped)| {
            let names = ["sda1", "sdb1", "sdc1", "sdd1"];
            let mut scene = Scene::default();
            for (text, (there, mounted, ails)) in names.iter().zip(disks) {
                scene.known.insert(name(text));
                if there {
                    let here = super::super::example::disk(text);
                    scene.disks.push(OurDisk {
                        mounted: here.mounted.filter(|_| mounted),
                        ailment: ails.then(|| "errors".to_owned()),
                        ..here
                    });
                }
            }
            let mut map = serde_json::Map::new();
            for (text, (kind, schedulable, evicted)) in names.iter().zip(entries) {
                let (key, path, disk_type) = match kind {
                    0 => continue,
                    1 => (*text, format!("/mnt/longhorn/{text}"), "filesystem"),
                    2 => (*text, "/elsewhere".to_owned() + text, "filesystem"),
                    3 => (*text, format!("/mnt/longhorn/{text}"), "block"),
                    _ => ("another", format!("/mnt/longhorn/{text}/"), ""),
                };
                let entry = json!({
                    "path": path, "diskType": disk_type, "allowScheduling": schedulable,
                    "evictionRequested": evicted && !schedulable, "storageReserved": 7, "tags": ["t"],
                });
                map.insert(key.to_owned(), entry);
            }
            let annotations = json!({STOPPED: stopped.join(",")});
            (scene, node(json!(map), json!({}), annotations))
        })
}

proptest! {
    /// What was written is right: nothing more is to be written, so that a
    /// node at rest costs nothing.
    #[test]
    fn one_patch_is_enough((scene, node) in arbitrary_scene(), stop in any::<bool>()) {
        let terms = if stop { stopping() } else { terms() };
        let first = wanted(&scene, &node, &terms);
        let second = wanted(&scene, &applied(&node, &first), &terms);
        prop_assert!(second.is_empty(), "{first:?} then {second:?}");
    }

    /// No entry is removed, and of one that is there nothing but its
    /// scheduling is written, and that only where it is listed.
    #[test]
    fn nobodys_settings_are_overwritten((scene, node) in arbitrary_scene(), stop in any::<bool>()) {
        let terms = if stop { stopping() } else { terms() };
        let change = wanted(&scene, &node, &terms);
        for (key, fields) in &change.disks {
            prop_assert!(!fields.is_null());
            if let Some(before) = node.spec.disks.get(key) {
                let keys: Vec<&String> = fields.as_object().expect("fields").keys().collect();
                prop_assert_eq!(keys, ["allowScheduling"]);
                prop_assert!(!before.eviction_requested || fields["allowScheduling"] == json!(false));
            } else {
                let disk = scene.disks.iter().find(|disk| disk.name.as_str() == key);
                prop_assert!(disk.is_some_and(|disk| disk.mounted.is_some() && disk.ailment.is_none()));
            }
        }
    }
}
