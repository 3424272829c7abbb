use serde_json::{Value, json};

use super::{
    super::example::{Scene, disk, entry, name, node},
    *,
};

fn kinds(scene: &Scene, node: &Node) -> Vec<(String, Kind)> {
    let found = audit(&scene.facts(node));
    let of = |finding: Finding| (finding.disk.expect("a disk").to_string(), finding.kind);
    found.into_iter().map(of).collect()
}

fn registered(statuses: Value) -> Node {
    node(json!({"sdb1": entry("sdb1")}), statuses, json!({}))
}

fn uuid(text: &str) -> LonghornDisk {
    LonghornDisk::Named {
        uuid: text.to_owned(),
        name: None,
    }
}

#[test]
fn a_disk_whose_file_and_status_agree_is_well() {
    let scene = Scene::with([disk("sdb1")]).saying("sdb1", uuid("u1"));
    let node = registered(json!({"sdb1": {"diskUUID": "u1"}}));
    assert_eq!(kinds(&scene, &node), []);
    // Longhorn has not looked yet.
    assert_eq!(kinds(&scene, &registered(json!({}))), []);
}

#[test]
fn each_disagreement_about_longhorns_file_is_a_finding_of_its_own() {
    let node = registered(json!({"sdb1": {"diskUUID": "u1"}}));
    for (config, kind) in [
        (LonghornDisk::None, Kind::ConfigMissing),
        (LonghornDisk::Nameless, Kind::ConfigWithoutUuid),
        (uuid("u2"), Kind::UuidMismatch),
    ] {
        let scene = Scene::with([disk("sdb1")]).saying("sdb1", config);
        assert_eq!(kinds(&scene, &node), [("sdb1".to_owned(), kind)]);
    }
    let mut unread = Scene::with([disk("sdb1")]).saying("sdb1", LonghornDisk::None);
    let said = unread.said.get_mut(&name("sdb1")).expect("said");
    said.config = crate::fact::Fact::unreadable("sdb1", "I/O error");
    let unreadable = ("sdb1".to_owned(), Kind::ConfigUnreadable);
    assert_eq!(kinds(&unread, &node), [unreadable]);
}

#[test]
fn a_file_is_missed_only_on_a_disk_that_is_registered() {
    let scene = Scene::with([disk("sdb1")]).saying("sdb1", LonghornDisk::None);
    assert_eq!(kinds(&scene, &node(json!({}), json!({}), json!({}))), []);
}

#[test]
fn a_file_without_a_uuid_is_told_before_the_disk_is_registered() {
    let scene = Scene::with([disk("sdb1")]).saying("sdb1", LonghornDisk::Nameless);
    let told = ("sdb1".to_owned(), Kind::ConfigWithoutUuid);
    assert_eq!(
        kinds(&scene, &node(json!({}), json!({}), json!({}))),
        [told]
    );
}

#[test]
fn a_registered_disk_is_missing_without_its_mount_and_without_its_device() {
    let missing = |disk: &str| (disk.to_owned(), Kind::DiskMissing);
    let unmounted = OurDisk {
        mounted: None,
        ..disk("sdb1")
    };
    let node = node(
        json!({"sdb1": entry("sdb1"), "sdc1": entry("sdc1"), "theirs": {"path": "/mnt/longhorn/sdx1"}}),
        json!({}),
        json!({}),
    );
    let mut scene = Scene::with([unmounted]);
    scene.known.insert(name("sdc1"));
    assert_eq!(kinds(&scene, &node), [missing("sdb1"), missing("sdc1")]);
    // Nothing is known of what cannot be read.
    scene.blind = true;
    assert_eq!(kinds(&scene, &node), []);
}

#[test]
fn a_disk_is_known_as_ours_by_the_paths_on_the_node_after_the_host_was_lost() {
    let node = node(
        json!({"sdb1": entry("sdb1")}),
        json!({}),
        json!({PATHS: "/mnt/longhorn/sdb1"}),
    );
    let missing = ("sdb1".to_owned(), Kind::DiskMissing);
    assert_eq!(kinds(&Scene::default(), &node), [missing]);
}

#[test]
fn a_disk_that_was_released_is_not_missed() {
    let node = registered(json!({}));
    let mut scene = Scene::default();
    scene.known.insert(name("sdb1"));
    scene.released.insert(name("sdb1"));
    assert_eq!(kinds(&scene, &node), []);
}

#[test]
fn a_disk_that_has_left_and_is_registered_again_is_told() {
    let mut scene = Scene::default();
    for set in [&mut scene.known, &mut scene.released, &mut scene.left] {
        set.insert(name("sdb1"));
    }
    assert_eq!(kinds(&scene, &node(json!({}), json!({}), json!({}))), []);
    let missing = ("sdb1".to_owned(), Kind::DiskMissing);
    assert_eq!(kinds(&scene, &registered(json!({}))), [missing]);
}

#[test]
fn a_name_or_path_that_is_used_otherwise_is_told() {
    let scene = Scene::with([disk("sdb1")]);
    for (disks, kind) in [
        (json!({"sdb1": {"path": "/data"}}), Kind::PathMismatch),
        (
            json!({"sdb1": {"path": "/mnt/longhorn/sdb1", "diskType": "block"}}),
            Kind::TypeMismatch,
        ),
        (
            json!({"x": {"path": "/mnt/longhorn/sdb1", "diskType": "block"}}),
            Kind::TypeMismatch,
        ),
    ] {
        let node = node(disks, json!({}), json!({}));
        assert_eq!(kinds(&scene, &node), [("sdb1".to_owned(), kind)]);
    }
}

#[test]
fn paths_are_compared_as_longhorn_does() {
    for same in [
        "/mnt/longhorn/sdb1",
        "/mnt/longhorn/sdb1/",
        "/mnt//x/../longhorn/./sdb1",
    ] {
        assert_eq!(clean(same), Path::new("/mnt/longhorn/sdb1"));
        assert_eq!(name_at("/mnt/longhorn", same), Some(name("sdb1")));
    }
    assert_eq!(name_at("/mnt/longhorn", "/mnt/longhorn"), None);
    assert_eq!(name_at("/mnt/longhorn", "/mnt/longhorn/a/b"), None);
}
