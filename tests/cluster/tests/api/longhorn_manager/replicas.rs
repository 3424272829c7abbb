//! What becomes of replicas.

use std::fs;

use serde_json::json;

use super::world::{World, condition, reason};

#[test]
fn replicas_are_counted_and_leave_an_evicted_disk() {
    let world = World::usual();
    world.mount("sdb1");
    world.register("sdb1");
    world.until_ready("sdb1");
    for _ in 0..3 {
        world
            .manager
            .place_replica("k3s1", "sdb1", 1 << 30)
            .expect("placed");
    }
    let node = world.until("three replicas", |node| {
        node["status"]["diskStatus"]["sdb1"]["storageScheduled"] == json!(3_i64 << 30)
    });
    let held = node["status"]["diskStatus"]["sdb1"]["scheduledReplica"].as_object();
    assert_eq!(held.map(serde_json::Map::len), Some(3));
    world.manager.evictions_hang(true);
    let evict = json!({"allowScheduling": false, "evictionRequested": true});
    world.patch_when_synced(&json!({"spec": {"disks": {"sdb1": evict}}}));
    world.wait("the eviction of all", || {
        let replicas = world.replicas();
        let mut evicted = replicas.iter().map(|one| &one["spec"]["evictionRequested"]);
        evicted.all(|evicted| evicted == true)
    });
    assert_eq!(world.manager.replicas("k3s1").expect("a list").len(), 3);
    world.manager.evictions_hang(false);
    world.until("an empty disk", |node| {
        node["status"]["diskStatus"]["sdb1"]["storageScheduled"] == 0
    });
    assert_eq!(world.manager.replicas("k3s1").expect("a list").len(), 0);
    assert_eq!(
        condition(&world.node()["status"]["diskStatus"]["sdb1"], "Ready"),
        "True"
    );
}

#[test]
fn an_eviction_that_is_cancelled_leaves_the_replicas() {
    let world = World::usual();
    world.mount("sdb1");
    world.register("sdb1");
    world.until_ready("sdb1");
    world
        .manager
        .place_replica("k3s1", "sdb1", 1)
        .expect("placed");
    world.manager.evictions_hang(true);
    for evict in [true, false] {
        let change = json!({"allowScheduling": !evict, "evictionRequested": evict});
        world.patch_when_synced(&json!({"spec": {"disks": {"sdb1": change}}}));
        world.wait("the replica knows", || {
            world.replicas()[0]["spec"]["evictionRequested"] == evict
        });
    }
    assert_eq!(world.manager.replicas("k3s1").expect("a list").len(), 1);
}

#[test]
fn the_webhook_lets_a_disk_go_that_holds_replicas_and_is_not_ready() {
    let world = World::usual();
    world.mount("sdb1");
    world.register("sdb1");
    world.until_ready("sdb1");
    world
        .manager
        .place_replica("k3s1", "sdb1", 7)
        .expect("placed");
    world.until("a replica", |node| {
        node["status"]["diskStatus"]["sdb1"]["storageScheduled"] == 7
    });
    world.patch_when_synced(&json!({"spec": {"disks": {"sdb1": {"allowScheduling": false}}}}));
    let remove = json!({"spec": {"disks": {"sdb1": null}}});
    assert_eq!(world.patch(&remove).expect_err("in use").code, 422);
    fs::rename(world.at("sdb1"), world.at("away")).expect("unmounted");
    let node = world.until("not ready", |node| {
        reason(node, "sdb1", "Ready") == "NoDiskInfo"
    });
    assert_eq!(node["status"]["diskStatus"]["sdb1"]["storageScheduled"], 0);
    world.patch_when_synced(&remove);
    assert_eq!(world.manager.replicas("k3s1").expect("a list").len(), 1);
}

#[test]
fn replicas_follow_their_disk_to_another_path() {
    let world = World::usual();
    world.mount("sdb1");
    world.register("sdb1");
    world.until_ready("sdb1");
    world
        .manager
        .place_replica("k3s1", "sdb1", 7)
        .expect("placed");
    fs::rename(world.at("sdb1"), world.at("sdc1")).expect("mounted elsewhere");
    let moved = json!({"spec": {"disks": {"sdb1": {"path": "/mnt/longhorn/sdc1"}}}});
    world.patch_when_synced(&moved);
    world.wait("the replica has moved", || {
        world.replicas()[0]["spec"]["diskPath"] == "/mnt/longhorn/sdc1"
    });
}
