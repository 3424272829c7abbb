//! The stand-in of longhorn-manager, with the webhook, at an API server.

use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use axum::http::Method;
use cluster_fixtures::{
    cluster::{Cluster, LonghornWebhook, NAMESPACE},
    longhorn::{
        Manager,
        manager::{LocalFiles, Options, Space},
        rules::Settings,
    },
    server,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::ask::{MERGE, PATIENCE, ask, longhorn_nodes};

/// How often a state is looked at that is waited for.
const PAUSE: Duration = Duration::from_millis(20);
const JSON: &str = "application/json";
const KUBERNETES: &str = "/api/v1/nodes/k3s1";

/// A cluster of one node.
struct World {
    /// Ends before its server, as the webhook does.
    manager: Manager,
    webhook: LonghornWebhook,
    cluster: Cluster,
    root: TempDir,
}

impl World {
    fn start(change: impl FnOnce(Options) -> Options) -> Self {
        let cluster = Cluster::start(server::Options::default());
        let webhook = cluster.longhorn(Settings::default());
        let root = tempfile::tempdir().expect("a directory");
        let options = Options {
            monitor: Duration::from_millis(30),
            ..Options::default()
        };
        let options = change(options.node("k3s1", root.path()));
        let manager = Manager::start(cluster.admin().config(), options);
        let world = Self {
            manager,
            webhook,
            cluster,
            root,
        };
        world.until("the Node is ready", |node| {
            condition(node, "Ready") == "True"
        });
        world
    }

    fn usual() -> Self {
        Self::start(|options| options)
    }

    /// As of a disk that is mounted on the node.
    fn mount(&self, disk: &str) {
        fs::create_dir_all(self.at(disk)).expect("a directory");
    }

    fn at(&self, disk: &str) -> PathBuf {
        self.root.path().join("mnt/longhorn").join(disk)
    }

    fn node(&self) -> Value {
        self.cluster.get(&node())
    }

    fn replicas(&self) -> Vec<Value> {
        let path = format!("/apis/longhorn.io/v1beta2/namespaces/{NAMESPACE}/replicas");
        let mut list = self.cluster.get(&path);
        let Value::Array(items) = list["items"].take() else {
            panic!("no list: {list}");
        };
        items
    }

    /// Waits for a state.
    fn wait(&self, what: &str, is_so: impl Fn() -> bool) {
        let begun = Instant::now();
        while !is_so() {
            assert!(
                begun.elapsed() < PATIENCE,
                "{what} is not so: {:#}\n{:#?}",
                self.node(),
                self.manager.troubles()
            );
            thread::sleep(PAUSE);
        }
    }

    /// The Node, as soon as it is so.
    fn until(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let seen = std::cell::RefCell::new(Value::Null);
        self.wait(what, || {
            let node = self.node();
            let so = is_so(&node);
            seen.replace(node);
            so
        });
        seen.into_inner()
    }

    fn until_ready(&self, disk: &str) -> Value {
        self.until("the disk is ready", |node| {
            condition(&node["status"]["diskStatus"][disk], "Ready") == "True"
        })
    }

    /// What a person does, through webhook and all.
    fn send(&self, method: Method, path: &str, body: &Value) -> Result<(), Refused> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let (code, answer) = runtime.block_on(async {
            let kind = if method == Method::PATCH { MERGE } else { JSON };
            ask(&self.cluster.client(), method, path, kind, body).await
        });
        if code < 300 {
            return Ok(());
        }
        let message = answer["message"].as_str().unwrap_or_default().to_owned();
        Err(Refused { code, message })
    }

    fn patch(&self, patch: &Value) -> Result<(), Refused> {
        self.send(Method::PATCH, &node(), patch)
    }

    /// The same, in spite of the time in which disks are being synced.
    fn patch_when_synced(&self, patch: &Value) {
        self.wait("the patch is taken", || match self.patch(patch) {
            Ok(()) => true,
            Err(refused) => {
                assert_eq!(refused.code, 403, "{refused:?}");
                false
            }
        });
    }

    fn register(&self, disk: &str) {
        self.patch_when_synced(&json!({"spec": {"disks": {disk: entry(disk)}}}));
    }

    fn uuid_on(&self, disk: &str) -> String {
        let file = fs::read(self.at(disk).join("longhorn-disk.cfg")).expect("the file");
        let cfg: Value = serde_json::from_slice(&file).expect("JSON");
        cfg["diskUUID"].as_str().expect("a UUID").to_owned()
    }
}

#[derive(Debug)]
struct Refused {
    code: u16,
    message: String,
}

fn node() -> String {
    format!("{}/k3s1", longhorn_nodes(NAMESPACE))
}

fn entry(disk: &str) -> Value {
    json!({
        "path": format!("/mnt/longhorn/{disk}"), "diskType": "filesystem", "diskDriver": "",
        "allowScheduling": true, "evictionRequested": false, "storageReserved": 0, "tags": [],
    })
}

fn condition<'a>(of: &'a Value, kind: &str) -> &'a str {
    let conditions = of.pointer("/status/conditions").or(of.get("conditions"));
    let mut conditions = conditions.and_then(Value::as_array).into_iter().flatten();
    let found = conditions.find(|one| one["type"] == kind);
    found.map_or("", |one| one["status"].as_str().unwrap_or(""))
}

fn reason<'a>(node: &'a Value, disk: &str, kind: &str) -> &'a str {
    let conditions = node["status"]["diskStatus"][disk]["conditions"].as_array();
    let found = conditions
        .into_iter()
        .flatten()
        .find(|one| one["type"] == kind);
    found.map_or("", |one| one["reason"].as_str().unwrap_or(""))
}

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
    let world = World::usual();
    world.mount("sdb1");
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
