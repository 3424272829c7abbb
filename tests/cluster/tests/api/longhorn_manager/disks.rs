//! What becomes of disks.

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::http::Method;
use cluster_fixtures::longhorn::manager::{LocalFiles, Options, Space};
use serde_json::json;

use super::world::{KUBERNETES, World, condition, entry, reason};

#[test]
fn a_registered_disk_gets_a_file_and_becomes_ready_with_its_uuid() {
    let world = World::usual();
    world.mount("sdb1");
    world.register("sdb1");
    let node = world.until_ready("sdb1");
    let status = &node["status"]["diskStatus"]["sdb1"];
    assert_eq!(status["diskUUID"], world.uuid_on("sdb1"));
    assert_eq!(condition(status, "Schedulable"), "True");
    assert!(world.at("sdb1").join("replicas").is_dir());
}

#[test]
fn nothing_may_be_changed_until_the_manager_has_seen_the_disks() {
    let world = World::usual();
    world.mount("sdb1");
    world.manager.pause();
    world.register("sdb1");
    let annotate = json!({"metadata": {"annotations": {"node.longhorn.io/paths": "x"}}});
    let error = world.patch(&annotate).expect_err("being synced");
    assert_eq!(error.code, 403);
    assert!(error.message.contains("are being syncing"), "{error:?}");
    world.manager.resume();
    world.until_ready("sdb1");
    world.patch(&annotate).expect("synced");
}

#[test]
fn the_window_is_as_long_as_the_sync_is_late() {
    let late = Duration::from_millis(300);
    let world = World::start(|options| Options {
        sync_delay: late,
        ..options
    });
    world.mount("sdb1");
    let begun = Instant::now();
    world.register("sdb1");
    world.until_ready("sdb1");
    // A slow machine only makes this easier to keep.
    assert!(begun.elapsed() >= late);
}

#[test]
fn a_disk_that_is_gone_has_no_status_and_keeps_its_file() {
    let world = World::usual();
    world.mount("sdb1");
    world.register("sdb1");
    world.until_ready("sdb1");
    let error = world
        .patch(&json!({"spec": {"disks": {"sdb1": null}}}))
        .expect_err("scheduled to");
    assert_eq!(error.code, 422);
    world.patch_when_synced(&json!({"spec": {"disks": {"sdb1": {"allowScheduling": false}}}}));
    world.patch_when_synced(&json!({"spec": {"disks": {"sdb1": null}}}));
    world.until("the status is gone", |node| {
        node["status"]["diskStatus"]
            .as_object()
            .is_some_and(serde_json::Map::is_empty)
    });
    assert!(world.at("sdb1/longhorn-disk.cfg").exists());
}

#[test]
fn an_unmounted_directory_is_written_to_and_the_disk_recovers_by_itself() {
    let world = World::usual();
    world.mount("sdb1");
    world.register("sdb1");
    let uuid = world.until_ready("sdb1")["status"]["diskStatus"]["sdb1"]["diskUUID"].clone();
    fs::rename(world.at("sdb1"), world.at("away")).expect("unmounted");
    world.mount("sdb1");
    world.until("another filesystem", |node| {
        reason(node, "sdb1", "Ready") == "DiskFilesystemChanged"
    });
    assert_ne!(json!(world.uuid_on("sdb1")), uuid);
    fs::rename(world.at("sdb1"), world.at("stray")).expect("moved away");
    fs::rename(world.at("away"), world.at("sdb1")).expect("mounted again");
    let node = world.until_ready("sdb1");
    assert_eq!(node["status"]["diskStatus"]["sdb1"]["diskUUID"], uuid);
}

#[test]
fn the_annotation_is_carried_out_whenever_there_is_no_disk() {
    let world = World::usual();
    world.mount("sdb1");
    let config = json!([{
        "name": "sdb1", "path": "/mnt/longhorn/sdb1", "diskType": "filesystem",
        "allowScheduling": false, "storageReserved": 5,
    }]);
    let order = json!({"metadata": {
        "labels": {"node.longhorn.io/create-default-disk": "config"},
        "annotations": {"node.longhorn.io/default-disks-config": config.to_string()},
    }});
    world
        .send(Method::PATCH, KUBERNETES, &order)
        .expect("ordered");
    let node = world.until_ready("sdb1");
    assert_eq!(node["spec"]["disks"]["sdb1"]["storageReserved"], 5);
    let (disks, changes) = (&node["spec"]["disks"], &node["metadata"]["generation"]);
    let changes = changes.as_u64().expect("a generation");
    world.patch_when_synced(&json!({"spec": {"disks": {"sdb1": null}}}));
    world.until("removed by us and registered again", |node| {
        node["metadata"]["generation"] == changes + 2 && node["spec"]["disks"] == *disks
    });
}

#[test]
fn the_user_interface_drops_what_it_has_not_seen_and_may_not_drop_what_is_scheduled_to() {
    let world = World::usual();
    world.mount("sdb1");
    world.mount("sdc1");
    world.register("sdb1");
    let tab = world.until_ready("sdb1")["spec"]["disks"].clone();
    let mut added = entry("sdc1");
    added["allowScheduling"] = json!(false);
    world.patch_when_synced(&json!({"spec": {"disks": {"sdc1": added}}}));
    world.until_ready("sdc1");
    world
        .manager
        .ui_replace_disks("k3s1", tab.clone())
        .expect("saved");
    assert_eq!(world.node()["spec"]["disks"], tab);
    world.until("synced", |node| {
        node["status"]["diskStatus"].get("sdc1").is_none()
    });
    let error = world
        .manager
        .ui_replace_disks("k3s1", json!({}))
        .expect_err("scheduled to");
    assert!(
        error.to_string().contains("Please disable the disk"),
        "{error}"
    );
}

#[test]
fn pressure_is_what_statfs_says() {
    let root = tempfile::tempdir().expect("a directory");
    let files = Arc::new(LocalFiles::below(root.path()));
    let world = World::start(|mut options| {
        options.nodes.insert("k3s1".to_owned(), files.clone());
        options
    });
    fs::create_dir_all(root.path().join("mnt/longhorn/sdb1")).expect("a directory");
    world.register("sdb1");
    world.until_ready("sdb1");
    files.tell(
        "/mnt/longhorn/sdb1",
        Space {
            id: "full".to_owned(),
            filesystem: "xfs".to_owned(),
            total: 1 << 40,
            free: 1 << 30,
        },
    );
    world.until("pressure", |node| {
        reason(node, "sdb1", "Schedulable") == "DiskPressure"
    });
}
