//! What Longhorn does for a fleet, past the API so that it costs the server
//! little: as each of its managers it looks at its node every 30 s, writes
//! `longhorn-disk.cfg` to new disks, and puts figures that move into the status.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use cluster_fixtures::{longhorn_cluster::NAMESPACE, server::Store};
use serde_json::{Value, json};
use uuid::Uuid;

/// Between two looks at a node, as Longhorn has it.
const MONITOR: Duration = Duration::from_secs(30);
/// In each a share of the nodes is looked at.
const TURN: Duration = Duration::from_millis(100);

/// Runs in a thread until it is dropped.
#[derive(Debug)]
pub struct Longhorn {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Longhorn {
    /// Makes the Longhorn Nodes of these nodes, and looks after them from then on.
    /// With each comes the directory that stands for its `/`.
    pub fn start(store: Store, nodes: Vec<(String, PathBuf)>) -> Self {
        for (name, _) in &nodes {
            create(&store, name);
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new().name("longhorn".to_owned());
        let running = thread.spawn(move || look_after(&store, &nodes, &stopped));
        Self {
            stop,
            thread: Some(running.expect("a thread")),
        }
    }
}

impl Drop for Longhorn {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("Longhorn's part of the bench has panicked");
        }
    }
}

fn create(store: &Store, name: &str) {
    let condition =
        |kind: &str| json!({"type": kind, "status": "True", "reason": "", "message": ""});
    let node = json!({
        "metadata": {"finalizers": ["longhorn.io"]},
        "spec": {
            "name": name, "allowScheduling": true, "evictionRequested": false,
            "tags": [], "instanceManagerCPURequest": 0, "disks": {},
        },
        "status": {
            "conditions": [condition("Ready"), condition("Schedulable")], "diskStatus": {},
        },
    });
    store.put("longhorn.io", "nodes", NAMESPACE, name, node);
}

fn look_after(store: &Store, nodes: &[(String, PathBuf)], stopped: &AtomicBool) {
    let turns = MONITOR.as_millis() / TURN.as_millis();
    let turns = usize::try_from(turns).unwrap_or(1);
    for turn in 0_usize.. {
        let these = nodes.iter().enumerate();
        for (_, (name, root)) in these.filter(|(at, _)| at % turns == turn % turns) {
            if stopped.load(Ordering::SeqCst) {
                return;
            }
            look(store, name, root, turn);
        }
        thread::sleep(TURN);
        if stopped.load(Ordering::SeqCst) {
            return;
        }
    }
}

/// Nothing is written where there is no disk: nothing would have changed.
fn look(store: &Store, name: &str, root: &Path, turn: usize) {
    let Some(node) = store.get("longhorn.io", "nodes", NAMESPACE, name) else {
        return;
    };
    let disks = node.pointer("/spec/disks").and_then(Value::as_object);
    let statuses: BTreeMap<&String, Value> = disks
        .into_iter()
        .flatten()
        .map(|(disk, entry)| (disk, status(disk, entry, root, turn)))
        .collect();
    if !statuses.is_empty() {
        let patch = json!({"status": {"diskStatus": statuses}});
        store.patch("longhorn.io", "nodes", NAMESPACE, name, &patch);
    }
}

fn status(disk: &str, entry: &Value, root: &Path, turn: usize) -> Value {
    let path = entry
        .get("path")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let condition =
        |kind: &str| json!({"type": kind, "status": "True", "reason": "", "message": ""});
    json!({
        "diskName": disk, "diskPath": path, "diskType": "filesystem", "diskDriver": "",
        "diskUUID": uuid_on(disk, &root.join(path.trim_start_matches('/'))),
        "conditions": [condition("Ready"), condition("Schedulable")],
        "storageAvailable": 11_000_000_000_usize.saturating_sub(turn),
        "storageMaximum": 11_500_000_000_u64, "storageScheduled": 0,
        "scheduledReplica": {}, "scheduledBackingImage": {}, "filesystemType": "ext2/ext3",
    })
}

/// From Longhorn's own file on the disk, which is made where there is none.
fn uuid_on(disk: &str, directory: &Path) -> String {
    let file = directory.join("longhorn-disk.cfg");
    let known = fs::read(&file).ok();
    let known: Option<Value> = known.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    if let Some(uuid) = known
        .as_ref()
        .and_then(|known| known.get("diskUUID")?.as_str())
    {
        return uuid.to_owned();
    }
    let uuid = Uuid::new_v4().to_string();
    let made = json!({"diskName": disk, "diskUUID": uuid, "diskDriver": ""});
    fs::write(&file, made.to_string()).expect("Longhorn's file");
    uuid
}
