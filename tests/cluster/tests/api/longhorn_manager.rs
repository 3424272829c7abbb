//! The stand-in of longhorn-manager, with the webhook, at an API server.

use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use cluster_fixtures::{
    longhorn::{
        Manager, Webhook,
        manager::{Options, Space},
    },
    server::{self, Server, longhorn_node_crd, longhorn_replica_crd},
};
use kube::{
    Api, Client, Error,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Long enough for any machine; only a failure waits for it.
const PATIENCE: Duration = Duration::from_mins(1);
const NAMESPACE: &str = "longhorn-system";

/// A cluster of one node.
struct World {
    /// Ends before its server.
    manager: Manager,
    webhook: Arc<Webhook>,
    server: Server,
    root: TempDir,
}

impl World {
    fn start(change: impl FnOnce(Options) -> Options) -> Self {
        let server = Server::start(server::Options::default());
        let store = server.store();
        for (name, crd) in [
            ("nodes.longhorn.io", longhorn_node_crd()),
            ("replicas.longhorn.io", longhorn_replica_crd()),
        ] {
            store.put(
                "apiextensions.k8s.io",
                "customresourcedefinitions",
                "",
                name,
                crd,
            );
        }
        let webhook = Arc::new(Webhook::default());
        server.set_admission(webhook.clone());
        let root = tempfile::tempdir().expect("a directory");
        let options = Options {
            monitor: Duration::from_millis(30),
            ..Options::default()
        };
        let options = change(options.node("k3s1", root.path()));
        let manager = Manager::start(server.config(&server.admin_token()), options);
        let world = Self {
            manager,
            webhook,
            server,
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
        let store = self.server.store();
        store
            .get("longhorn.io", "nodes", NAMESPACE, "k3s1")
            .unwrap_or_default()
    }

    /// The Node, as soon as it is so.
    fn until(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let node = self.node();
            if is_so(&node) {
                return node;
            }
            if begun.elapsed() > PATIENCE {
                panic!("{what} is not so: {node:#}\n{:?}", self.manager.troubles());
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn until_ready(&self, disk: &str) -> Value {
        self.until("the disk is ready", |node| {
            condition(&node["status"]["diskStatus"][disk], "Ready") == "True"
        })
    }

    /// A merge patch by a person, through webhook and all.
    fn patch(&self, patch: &Value) -> Result<(), Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let config = self.server.config(&self.server.admin_token());
            let client = Client::try_from(config).expect("a client");
            let kind = ApiResource {
                group: "longhorn.io".to_owned(),
                version: "v1beta2".to_owned(),
                api_version: "longhorn.io/v1beta2".to_owned(),
                kind: "Node".to_owned(),
                plural: "nodes".to_owned(),
            };
            let api: Api<DynamicObject> = Api::namespaced_with(client, NAMESPACE, &kind);
            let (parameters, patch) = (PatchParams::default(), Patch::Merge(patch));
            api.patch("k3s1", &parameters, &patch).await.map(drop)
        })
    }

    /// The same, in spite of the time in which disks are being synced.
    fn patch_when_synced(&self, patch: &Value) {
        let begun = Instant::now();
        while let Err(error) = self.patch(patch) {
            assert_eq!(code(&error), 403, "{error}");
            assert!(begun.elapsed() < PATIENCE, "{error}");
            thread::sleep(Duration::from_millis(10));
        }
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

fn code(error: &Error) -> u16 {
    let Error::Api(status) = error else {
        panic!("{error}");
    };
    status.code
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
    let kubernetes = world.server.store().get("", "nodes", "", "k3s1");
    assert_eq!(
        condition(&kubernetes.expect("a kubelet's Node"), "Ready"),
        "True"
    );
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
    assert_eq!(code(&error), 403);
    assert!(error.to_string().contains("are being syncing"), "{error}");
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
    world.server.forget_requests();
    world.mount("sdb1");
    world.register("sdb1");
    // Ten looks' time: too short only lets a mistake pass.
    thread::sleep(Duration::from_millis(300));
    let agents = world.server.requests();
    assert!(agents.iter().all(|one| one.verb == "patch"), "{agents:?}");
    assert!(!world.at("sdb1/longhorn-disk.cfg").exists());
}

#[test]
fn at_rest_nothing_is_written() {
    let world = World::usual();
    world.mount("sdb1");
    world.register("sdb1");
    world.until_ready("sdb1");
    let version = world.node()["metadata"]["resourceVersion"].clone();
    world.server.forget_requests();
    let looks = || {
        let requests = world.server.requests();
        requests.iter().filter(|one| one.verb == "list").count()
    };
    let begun = Instant::now();
    while looks() < 10 {
        assert!(begun.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(world.node()["metadata"]["resourceVersion"], version);
    let requests = world.server.requests();
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
    let store = world.server.store();
    let begun = Instant::now();
    let mut number = 0_u32;
    while condition(&world.node()["status"]["diskStatus"]["sdb1"], "Ready") != "True" {
        number += 1;
        let patch = json!({"metadata": {"annotations": {"n": number.to_string()}}});
        store.patch("longhorn.io", "nodes", NAMESPACE, "k3s1", &patch);
        assert!(begun.elapsed() < PATIENCE, "{:?}", world.manager.troubles());
        thread::sleep(Duration::from_millis(5));
    }
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
    assert_eq!(code(&error), 422);
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
    let begun = Instant::now();
    let replicas = || world.server.store().list("longhorn.io", "replicas");
    while !replicas()
        .iter()
        .all(|one| one["spec"]["evictionRequested"] == true)
    {
        assert!(begun.elapsed() < PATIENCE, "{:?}", world.manager.troubles());
        thread::sleep(Duration::from_millis(10));
    }
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
        let begun = Instant::now();
        let replicas = || world.server.store().list("longhorn.io", "replicas");
        while replicas()[0]["spec"]["evictionRequested"] != evict {
            assert!(begun.elapsed() < PATIENCE, "{:?}", world.manager.troubles());
            thread::sleep(Duration::from_millis(10));
        }
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
    assert_eq!(code(&world.patch(&remove).expect_err("in use")), 422);
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
    let begun = Instant::now();
    let replicas = || world.server.store().list("longhorn.io", "replicas");
    while replicas()[0]["spec"]["diskPath"] != "/mnt/longhorn/sdc1" {
        assert!(begun.elapsed() < PATIENCE, "{:?}", world.manager.troubles());
        thread::sleep(Duration::from_millis(10));
    }
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
    let store = world.server.store();
    store.patch("", "nodes", "", "k3s1", &order);
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
    world.manager.set_node_down("k3s1", false);
    world.until_ready("sdb1");
    let not_ready = json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}});
    world
        .server
        .store()
        .patch("", "nodes", "", "k3s1", &not_ready);
    world.until("without its kubelet", |node| {
        reason(node, "sdb1", "Ready") == "NodeNotReady"
    });
}

#[test]
fn a_node_that_is_deleted_goes_and_comes_back_with_the_next_manager() {
    let world = World::usual();
    let store = world.server.store();
    world.manager.pause();
    let gone = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
    store.patch("longhorn.io", "nodes", NAMESPACE, "k3s1", &gone);
    world.manager.resume();
    world.until("gone", Value::is_null);
    world.manager.pause();
    world.manager.resume();
    world.until("a new Node", |node| node["spec"]["name"] == "k3s1");
}

#[test]
fn pressure_is_what_statfs_says() {
    let root = tempfile::tempdir().expect("a directory");
    let files = Arc::new(cluster_fixtures::longhorn::manager::LocalFiles::below(
        root.path(),
    ));
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
    assert_eq!(code(&error), 500);
    assert!(
        error.to_string().contains("failed calling webhook"),
        "{error}"
    );
    world.manager.set_node_down("k3s1", true);
    world.until("down", |node| condition(node, "Ready") == "False");
    world.webhook.set_down(false);
    world.manager.set_node_down("k3s1", false);
    world.register("sdb1");
    world.until_ready("sdb1");
}
