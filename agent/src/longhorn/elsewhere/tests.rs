use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    super::example::{self, Scene, disk, entry, name},
    *,
};

const UUID: &str = "1fa0e2c8-7f1c-4f9d-bb3c-e2d0b4b8a1f3";

fn read(node: Value) -> Neighbour {
    serde_json::from_value(node).expect("a node")
}

fn me() -> Neighbour {
    read(json!({"metadata": {"name": "k3s2"}}))
}

/// A Node with one disk of that UUID, sdb1.
fn with(node: &str, is_ready: &str, disk_is_ready: &str) -> Value {
    json!({
        "metadata": {"name": node},
        "status": {
            "conditions": [
                {"type": "Schedulable", "status": "True"}, {"type": "Ready", "status": is_ready},
            ],
            "diskStatus": {"sdb1": {
                "diskUUID": UUID,
                "conditions": [
                    {"type": "Schedulable", "status": "True"},
                    {"type": "Ready", "status": disk_is_ready},
                ],
            }},
        },
    })
}

/// Whether a disk may be registered here, beside that Node.
fn is_alone(other: &Value) -> bool {
    let elsewhere = Elsewhere::of(&[me(), read(other.clone())], "k3s2");
    elsewhere.place_of(UUID) == Ok(None)
}

fn place(node: &str) -> Place {
    Place {
        node: Some(node.to_owned()),
        disk: "sdb1".to_owned(),
    }
}

#[test]
fn a_disk_that_is_ready_on_another_node_is_in_use_there() {
    let nodes = [read(with("k3s1", "True", "True")), me()];
    let elsewhere = Elsewhere::of(&nodes, "k3s2");
    assert_eq!(elsewhere.place_of(UUID), Ok(Some(&place("k3s1"))));
    assert_eq!(place("k3s1").to_string(), "disk sdb1 of node k3s1");
    assert_eq!(elsewhere.place_of("another"), Ok(None));
    // On its own node it is no other.
    let own = Elsewhere::of(&[read(with("k3s2", "True", "True"))], "k3s2");
    assert_eq!(own.place_of(UUID), Ok(None));
}

#[test]
fn a_disk_that_is_not_ready_or_whose_node_is_not_is_in_use_no_more() {
    for no in ["False", "Unknown", ""] {
        assert!(is_alone(&with("k3s1", "True", no)), "{no:?}");
        // What its disks were when it went down is no news.
        assert!(is_alone(&with("k3s1", no, "True")), "{no:?}");
    }
    assert!(!is_alone(&with("k3s1", "True", "True")));
}

#[test]
fn null_and_missing_are_nothing_and_hide_nothing() {
    let status = |status: Value| json!({"metadata": {"name": "k3s1"}, "status": status});
    let ready = || json!([{"type": "Ready", "status": "True"}]);
    for empty in [
        json!({"metadata": {"name": "k3s1"}}),
        status(Value::Null),
        status(json!({})),
        status(json!({"conditions": null, "diskStatus": null})),
        status(json!({"conditions": ready(), "diskStatus": {}})),
        status(json!({"conditions": ready(), "diskStatus": {"sdb1": {}}})),
        status(json!({"conditions": ready(), "diskStatus": {
            "sdb1": {"diskUUID": UUID, "conditions": null},
        }})),
        status(json!({"conditions": ready(), "diskStatus": {
            "sdb1": {"diskUUID": null, "conditions": ready()},
        }})),
        status(json!({"conditions": [{}], "diskStatus": {
            "sdb1": {"diskUUID": UUID, "conditions": ready()},
        }})),
    ] {
        assert!(is_alone(&empty), "{empty}");
        let nodes = [
            me(),
            read(empty.clone()),
            read(with("k3s3", "True", "True")),
        ];
        let elsewhere = Elsewhere::of(&nodes, "k3s2");
        assert_eq!(elsewhere.place_of(UUID), Ok(Some(&place("k3s3"))));
    }
}

#[test]
fn a_node_that_is_not_understood_may_have_any_disk() {
    let mut changes = Vec::new();
    for odd in [json!(7), json!("text"), json!(true), json!({"a": 1})] {
        changes.push(("/status/conditions", odd.clone()));
        changes.push(("/status/conditions/1/status", odd.clone()));
        changes.push(("/status/diskStatus/sdb1/conditions", odd.clone()));
        changes.push(("/status/diskStatus/sdb1/diskUUID", odd));
    }
    changes.extend([json!(7), json!("text"), json!(true)].map(|odd| ("/status", odd)));
    changes.push(("/status/diskStatus", json!("text")));
    changes.push(("/status/diskStatus/sdb1", json!(7)));
    // Text where text belongs is no oddity.
    let is_text = |(place, odd): &(&str, Value)| {
        odd.is_string()
            && (place.ends_with("/status") && *place != "/status" || place.ends_with("UUID"))
    };
    changes.retain(|change| !is_text(change));
    for (place, odd) in changes {
        let mut node = with("k3s1", "True", "True");
        *node.pointer_mut(place).expect("a place") = odd.clone();
        let elsewhere = Elsewhere::of(&[me(), read(node)], "k3s2");
        let why = elsewhere.place_of(UUID).expect_err("it is not known");
        assert!(
            why.contains("k3s1 is not understood"),
            "{place} {odd}: {why}"
        );
        // What others say is understood all the same.
        let mut node = with("k3s1", "True", "True");
        *node.pointer_mut(place).expect("a place") = odd;
        let nodes = [me(), read(node), read(with("k3s3", "True", "True"))];
        let found = Elsewhere::of(&nodes, "k3s2");
        assert_eq!(found.place_of(UUID), Ok(Some(&self::place("k3s3"))));
    }
}

#[test]
fn a_list_without_this_node_is_not_taken_for_all_there_is() {
    for nodes in [Vec::new(), vec![read(with("k3s1", "False", "False"))]] {
        let elsewhere = Elsewhere::of(&nodes, "k3s2");
        assert!(elsewhere.place_of(UUID).is_err());
    }
}

proptest! {
    /// Of any number of nodes with any disks in any state.
    #[test]
    fn a_uuid_is_in_use_exactly_where_node_and_disk_are_ready(
        nodes in prop::collection::vec(
            (prop::sample::select(vec!["True", "False", "Unknown"]),
             prop::collection::vec((0..4_u8, prop::sample::select(vec!["True", "False"])), 0..4)),
            0..5,
        ),
        asked in 0..4_u8,
    ) {
        let mut expected = false;
        let mut listed = vec![me()];
        for (number, (is_ready, disks)) in nodes.iter().enumerate() {
            let mut statuses = serde_json::Map::new();
            for (at, (uuid, disk_is_ready)) in disks.iter().enumerate() {
                expected |= *is_ready == "True" && *disk_is_ready == "True" && *uuid == asked;
                statuses.insert(format!("sd{at}"), json!({
                    "diskUUID": uuid.to_string(),
                    "conditions": [{"type": "Ready", "status": disk_is_ready}],
                }));
            }
            listed.push(read(json!({
                "metadata": {"name": format!("k3s9{number}")},
                "status": {
                    "conditions": [{"type": "Ready", "status": is_ready}],
                    "diskStatus": statuses,
                },
            })));
        }
        let elsewhere = Elsewhere::of(&listed, "k3s2");
        let found = elsewhere.place_of(&asked.to_string());
        prop_assert_eq!(found.expect("all are understood").is_some(), expected);
    }
}

fn says(uuid: &str) -> LonghornDisk {
    LonghornDisk::Named {
        uuid: uuid.to_owned(),
        name: None,
    }
}

fn ready(uuid: &str, ready: &str) -> Value {
    json!({"diskUUID": uuid, "conditions": [{"type": "Ready", "status": ready}]})
}

fn found_here(scene: &Scene, disks: Value, statuses: Value) -> Option<String> {
    let node = example::node(disks, statuses, json!({}));
    let found = here(&scene.facts(&node), &name("sdc1"), UUID)?;
    Some(found.disk)
}

#[test]
fn of_two_disks_of_a_node_that_say_the_same_each_is_the_others_double() {
    let scene = Scene::with([disk("sdb1"), disk("sdc1")]);
    let scene = scene.saying("sdb1", says(UUID)).saying("sdc1", says(UUID));
    let found = found_here(&scene, json!({}), json!({}));
    assert_eq!(found.as_deref(), Some("sdb1"));
    let scene = scene.saying("sdb1", says("another"));
    assert_eq!(found_here(&scene, json!({}), json!({})), None);
}

#[test]
fn a_disk_that_is_registered_here_has_its_uuid_while_it_is_ready_or_known_to_be_another() {
    let mut scene = Scene::with([disk("sdc1")]).saying("sdc1", says(UUID));
    let found = |scene: &Scene, is_ready| {
        let disks = json!({"sdb1": entry("sdb1")});
        found_here(scene, disks, json!({"sdb1": ready(UUID, is_ready)}))
    };
    assert_eq!(found(&scene, "True").as_deref(), Some("sdb1"));
    // It may be this very disk, as it was called by an agent before this one.
    assert_eq!(found(&scene, "False"), None);
    // It was mounted here beside this one: it has only been pulled out.
    scene.known.insert(name("sdb1"));
    assert_eq!(found(&scene, "False").as_deref(), Some("sdb1"));
}

#[test]
fn what_longhorn_still_says_of_this_very_disk_keeps_it_from_nothing() {
    let scene = Scene::with([disk("sdc1")]).saying("sdc1", says(UUID));
    // Its entry was removed a moment ago.
    let statuses = json!({"sdc1": ready(UUID, "True"), "theirs": ready(UUID, "True")});
    assert_eq!(found_here(&scene, json!({}), statuses.clone()), None);
    // A person has made one for it under another name.
    let disks = json!({"theirs": {"path": "/mnt/longhorn/sdc1/"}});
    assert_eq!(found_here(&scene, disks, statuses), None);
}

#[test]
fn a_new_disk_brings_no_uuid_that_could_be_looked_for() {
    let disks = ["sda1", "sdb1", "sdc1"].map(disk);
    let scene = Scene::with(disks).saying("sdb1", LonghornDisk::Nameless);
    let scene = scene.saying("sdc1", says(UUID));
    let node = example::node(json!({}), json!({}), json!({}));
    let all = ["sda1", "sdb1", "sdc1"].map(name).into();
    let expected = BTreeMap::from([(name("sdc1"), UUID.to_owned())]);
    assert_eq!(named(&scene.facts(&node), &all), expected);
}
