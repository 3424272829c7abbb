//! A cluster of one node, with the webhook and the manager of Longhorn.

use std::{
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use axum::http::Method;
use cluster_fixtures::{
    cluster::{Cluster, LonghornWebhook, NAMESPACE},
    longhorn::{Manager, manager::Options, rules::Settings},
    server,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::ask::{MERGE, PATIENCE, ask, longhorn_nodes};

/// How often a state is looked at that is waited for.
const PAUSE: Duration = Duration::from_millis(20);
const JSON: &str = "application/json";
pub const KUBERNETES: &str = "/api/v1/nodes/k3s1";

/// A cluster of one node.
pub struct World {
    /// Ends before its server, as the webhook does.
    pub manager: Manager,
    pub webhook: LonghornWebhook,
    pub cluster: Cluster,
    root: TempDir,
}

impl World {
    pub fn start(change: impl FnOnce(Options) -> Options) -> Self {
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

    pub fn usual() -> Self {
        Self::start(|options| options)
    }

    /// As of a disk that is mounted on the node.
    pub fn mount(&self, disk: &str) {
        fs::create_dir_all(self.at(disk)).expect("a directory");
    }

    pub fn at(&self, disk: &str) -> PathBuf {
        self.root.path().join("mnt/longhorn").join(disk)
    }

    pub fn node(&self) -> Value {
        self.cluster.get(&node())
    }

    pub fn replicas(&self) -> Vec<Value> {
        let path = format!("/apis/longhorn.io/v1beta2/namespaces/{NAMESPACE}/replicas");
        let mut list = self.cluster.get(&path);
        let Value::Array(items) = list["items"].take() else {
            panic!("no list: {list}");
        };
        items
    }

    /// Waits for a state.
    pub fn wait(&self, what: &str, is_so: impl Fn() -> bool) {
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
    pub fn until(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let seen = std::cell::RefCell::new(Value::Null);
        self.wait(what, || {
            let node = self.node();
            let so = is_so(&node);
            seen.replace(node);
            so
        });
        seen.into_inner()
    }

    pub fn until_ready(&self, disk: &str) -> Value {
        self.until("the disk is ready", |node| {
            condition(&node["status"]["diskStatus"][disk], "Ready") == "True"
        })
    }

    /// What a person does, through webhook and all.
    pub fn send(&self, method: Method, path: &str, body: &Value) -> Result<(), Refused> {
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

    pub fn patch(&self, patch: &Value) -> Result<(), Refused> {
        self.send(Method::PATCH, &node(), patch)
    }

    /// The same, in spite of the time in which disks are being synced.
    pub fn patch_when_synced(&self, patch: &Value) {
        self.wait("the patch is taken", || match self.patch(patch) {
            Ok(()) => true,
            Err(refused) => {
                assert_eq!(refused.code, 403, "{refused:?}");
                false
            }
        });
    }

    pub fn register(&self, disk: &str) {
        self.patch_when_synced(&json!({"spec": {"disks": {disk: entry(disk)}}}));
    }

    pub fn uuid_on(&self, disk: &str) -> String {
        let file = fs::read(self.at(disk).join("longhorn-disk.cfg")).expect("the file");
        let cfg: Value = serde_json::from_slice(&file).expect("JSON");
        cfg["diskUUID"].as_str().expect("a UUID").to_owned()
    }
}

#[derive(Debug)]
pub struct Refused {
    pub code: u16,
    pub message: String,
}

pub fn node() -> String {
    format!("{}/k3s1", longhorn_nodes(NAMESPACE))
}

pub fn entry(disk: &str) -> Value {
    json!({
        "path": format!("/mnt/longhorn/{disk}"), "diskType": "filesystem", "diskDriver": "",
        "allowScheduling": true, "evictionRequested": false, "storageReserved": 0, "tags": [],
    })
}

pub fn condition<'a>(of: &'a Value, kind: &str) -> &'a str {
    let conditions = of.pointer("/status/conditions").or(of.get("conditions"));
    let mut conditions = conditions.and_then(Value::as_array).into_iter().flatten();
    let found = conditions.find(|one| one["type"] == kind);
    found.map_or("", |one| one["status"].as_str().unwrap_or(""))
}

pub fn reason<'a>(node: &'a Value, disk: &str, kind: &str) -> &'a str {
    let conditions = node["status"]["diskStatus"][disk]["conditions"].as_array();
    let found = conditions
        .into_iter()
        .flatten()
        .find(|one| one["type"] == kind);
    found.map_or("", |one| one["reason"].as_str().unwrap_or(""))
}
