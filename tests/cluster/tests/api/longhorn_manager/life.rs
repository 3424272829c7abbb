//! What the manager does of itself, and what it does when something is away.

use std::{fs, sync::Arc, thread, time::Duration};

use axum::http::Method;
use cluster_fixtures::longhorn::manager::{LocalFiles, Space};
use serde_json::{Value, json};

use super::world::{KUBERNETES, World, condition, entry, node, reason};

#[test]
fn a_node_is_created_without_disks_and_with_its_finalizer() {
    let world = World::usual();
    let node = world.node();
    assert_eq!(node["spec"]["name"], "k3s1");
    assert_eq!(node["spec"]["allowScheduling"], true);
    assert_eq!(node["spec"]["disks"], json!({}));
    assert_eq!(node["metadata"]["finalizers"], json!(["longhorn.io"]));
    assert_eq!(condition(&node, "Schedulable"), "True");
    assert_eq!(condition(&world.cluster.get(KUBERNETES), "Ready"), "True");
}

#[test]
fn a_paused_manager_writes_nothing() {
    let world = World::usual();
    world.manager.pause();
    world.cluster.forget_requests();
    world.mount("sdb1");
    world.register("sdb1");
    // Ten looks' time: too short only lets a mistake pass.
    thread::sleep(Duration::from_millis(300));
    let requests = world.cluster.requests();
    let by_us = |verb: &str| ["patch", "get"].contains(&verb);
    assert!(requests.iter().all(|one| by_us(&one.verb)), "{requests:?}");
    assert!(!world.at("sdb1/longhorn-disk.cfg").exists());
}

#[test]
fn at_rest_nothing_is_written() {
    let root = tempfile::tempdir().expect("a directory");
    let files = Arc::new(LocalFiles::below(root.path()));
    let world = World::start(|mut options| {
        options.nodes.insert("k3s1".to_owned(), files.clone());
        options
    });
    fs::create_dir_all(root.path().join("mnt/longhorn/sdb1")).expect("a directory");
    // The disk of this machine has more room at one moment than at another.
    files.tell(
        "/mnt/longhorn/sdb1",
        Space {
            id: "still".to_owned(),
            filesystem: "xfs".to_owned(),
            total: 1 << 40,
            free: 1 << 39,
        },
    );
    world.register("sdb1");
    world.until_ready("sdb1");
    let version = world.node()["metadata"]["resourceVersion"].clone();
    world.cluster.forget_requests();
    let looks = || {
        let requests = world.cluster.requests();
        requests.iter().filter(|one| one.verb == "list").count()
    };
    world.wait("ten looks", || looks() >= 10);
    assert_eq!(world.node()["metadata"]["resourceVersion"], version);
    let requests = world.cluster.requests();
    let writes = requests
        .iter()
        .filter(|one| !["get", "list"].contains(&one.verb.as_str()));
    assert_eq!(writes.count(), 0, "{requests:?}");
    assert_eq!(world.manager.troubles(), Vec::<String>::new());
}

#[test]
fn a_writer_that_never_rests_does_not_keep_the_status_away() {
    let world = World::usual();
    world.mount("sdb1");
    world.register("sdb1");
    let number = std::cell::Cell::new(0_u32);
    world.wait("the disk is ready", || {
        for _ in 0..5 {
            number.set(number.get() + 1);
            let zone = json!({"status": {"zone": number.get().to_string()}});
            let status = format!("{}/status", node());
            let written = world.send(Method::PATCH, &status, &zone);
            written.expect("the status is nobody's business");
        }
        condition(&world.node()["status"]["diskStatus"]["sdb1"], "Ready") == "True"
    });
    assert_eq!(world.node()["spec"]["disks"]["sdb1"], entry("sdb1"));
}

#[test]
fn without_the_setting_a_new_node_gets_a_disk_on_its_root_filesystem() {
    let world = World::start(|mut options| {
        options.defaults.labelled_only = false;
        options
    });
    let node = world.node();
    let disks = node["spec"]["disks"].as_object().expect("disks");
    let (name, disk) = disks.iter().next().expect("a disk");
    assert!(name.starts_with("default-disk-"), "{name}");
    assert_eq!(disk["path"], "/var/lib/longhorn/");
    assert_eq!(disk["allowScheduling"], true);
}

#[test]
fn no_disk_of_a_node_that_is_down_is_ready() {
    let world = World::usual();
    world.mount("sdb1");
    world.register("sdb1");
    world.until_ready("sdb1");
    world.manager.set_node_down("k3s1", true);
    let node = world.until("down", |node| condition(node, "Ready") == "False");
    assert_eq!(reason(&node, "sdb1", "Ready"), "NodeNotReady");
    assert_eq!(reason(&node, "sdb1", "Schedulable"), "NodeNotReady");
    world.mount("sdc1");
    world.register("sdc1");
    // Ten looks' time: too short only lets a mistake pass.
    thread::sleep(Duration::from_millis(300));
    assert!(!world.at("sdc1/longhorn-disk.cfg").exists());
    world.manager.set_node_down("k3s1", false);
    world.until_ready("sdb1");
    let not_ready = json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}});
    let status = format!("{KUBERNETES}/status");
    world
        .send(Method::PATCH, &status, &not_ready)
        .expect("written");
    world.until("without its kubelet", |node| {
        reason(node, "sdb1", "Ready") == "NodeNotReady"
    });
}

#[test]
fn a_node_that_is_deleted_goes_and_comes_back_with_the_next_manager() {
    let world = World::usual();
    let uninstalling = json!({"longhorn.io/delete-node-from-longhorn": ""});
    world.patch_when_synced(&json!({"metadata": {"annotations": uninstalling}}));
    let deleted = world.send(Method::DELETE, &node(), &json!({}));
    deleted.expect("uninstalled");
    world.until("gone", Value::is_null);
    world.manager.pause();
    world.manager.resume();
    world.until("a new Node", |node| node["spec"]["name"] == "k3s1");
}

#[test]
fn with_the_webhook_down_nothing_is_registered_and_the_status_goes_on() {
    let world = World::usual();
    world.mount("sdb1");
    world.webhook.set_down(true);
    let register = json!({"spec": {"disks": {"sdb1": entry("sdb1")}}});
    let error = world.patch(&register).expect_err("down");
    assert_eq!(error.code, 500);
    assert!(
        error.message.contains("failed calling webhook"),
        "{error:?}"
    );
    world.manager.set_node_down("k3s1", true);
    world.until("down", |node| condition(node, "Ready") == "False");
    world.webhook.set_down(false);
    world.manager.set_node_down("k3s1", false);
    world.register("sdb1");
    world.until_ready("sdb1");
}
