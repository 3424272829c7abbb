//! The part of longhorn-manager that looks after disks, as a client of any API
//! server: it creates the Longhorn Nodes, registers default disks, looks at the
//! disks, writes `longhorn-disk.cfg`, keeps the status and moves replicas away.
//!
//! One task for each node does what that node's manager would do. It asks
//! instead of watching, which nobody can tell from outside. [`Manager::pause`]
//! is all managers being down, [`Manager::set_node_down`] one of them.

mod defaults;
mod files;
mod gate;
mod monitor;
mod node;
mod objects;
mod status;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    future::Future,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::Duration,
};

use kube::{Client, Config, Error};
use serde_json::{Value, json};
use tokio::{runtime::Handle, sync::oneshot};
use uuid::Uuid;

pub use defaults::Defaults;
pub use files::{DiskFiles, LocalFiles, Space};
pub use status::Scheduling;

use self::{gate::Gate, objects::Objects};
use super::lenient::text;

const LONGHORN: &str = "/apis/longhorn.io/v1beta2";
const CORE: &str = "/api/v1";
/// How many failures are remembered.
const TROUBLES: usize = 50;
/// How often a write of a person is tried again after a conflict.
const CONFLICTS: usize = 20;

/// What a [`Manager`] is told.
#[derive(Clone)]
pub struct Options {
    /// Of Longhorn.
    pub namespace: String,
    /// The nodes that it serves, and their files.
    pub nodes: BTreeMap<String, Arc<dyn DiskFiles>>,
    /// How often the disks are looked at; Longhorn does it every 30 s.
    pub monitor: Duration,
    /// From looking at the disks to the status that says so.
    pub sync_delay: Duration,
    /// Disks that Longhorn registers itself.
    pub defaults: Defaults,
    /// When a disk is `Schedulable`.
    pub scheduling: Scheduling,
    /// Kubernetes Nodes that are missing are created, as kubelets do it.
    pub kubelets: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            namespace: "longhorn-system".to_owned(),
            nodes: BTreeMap::new(),
            monitor: Duration::from_secs(30),
            sync_delay: Duration::ZERO,
            defaults: Defaults::default(),
            scheduling: Scheduling::default(),
            kubelets: true,
        }
    }
}

impl Options {
    /// Serves one more node, whose `/` is this directory.
    #[must_use]
    pub fn node(mut self, name: impl Into<String>, root: impl Into<PathBuf>) -> Self {
        let files: Arc<dyn DiskFiles> = Arc::new(LocalFiles::below(root));
        self.nodes.insert(name.into(), files);
        self
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("namespace", &self.namespace)
            .field("nodes", &self.nodes.keys())
            .field("monitor", &self.monitor)
            .finish_non_exhaustive()
    }
}

/// Runs in a thread of its own until it is dropped.
///
/// Its methods wait for the API server; the server must not run in the thread
/// that calls them.
pub struct Manager {
    shared: Arc<Shared>,
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl fmt::Debug for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Manager of {:?}", self.shared.options)
    }
}

/// What its tasks share.
struct Shared {
    options: Options,
    client: Client,
    gate: Gate,
    wishes: Mutex<Wishes>,
    troubles: Mutex<VecDeque<String>>,
}

/// What tests want to happen.
#[derive(Debug, Default)]
struct Wishes {
    evictions_hang: bool,
    nodes_down: BTreeSet<String>,
}

impl Manager {
    /// Starts, and does not wait for anything to be done.
    ///
    /// # Panics
    ///
    /// When there can be no thread, runtime or client.
    #[must_use]
    #[allow(
        clippy::expect_used,
        reason = "a fixture that cannot go on should say so and stop"
    )]
    pub fn start(mut config: Config, options: Options) -> Self {
        // It tries again in its next round, as it is told.
        config.default_retry = false;
        let (stop, stopped) = oneshot::channel::<()>();
        let (started, starting) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("longhorn-manager".to_owned())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime for the manager");
                runtime.block_on(async {
                    let client = Client::try_from(config).expect("a client for the manager");
                    let shared = Arc::new(Shared {
                        options,
                        client,
                        gate: Gate::default(),
                        wishes: Mutex::default(),
                        troubles: Mutex::default(),
                    });
                    for (name, files) in &shared.options.nodes {
                        let files = Arc::clone(files);
                        let serving = node::serve(Arc::clone(&shared), name.clone(), files);
                        drop(tokio::spawn(serving));
                    }
                    // Whoever starts it may have gone already.
                    drop(started.send((shared, Handle::current())));
                    // An error means that the sender is gone, which is the signal.
                    drop(stopped.await);
                });
                runtime.shutdown_background();
            })
            .expect("a thread for the manager");
        let (shared, handle) = starting.recv().expect("the manager starts");
        Self {
            shared,
            handle,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// All managers are down from now on: nothing is written any more when this
    /// returns. Where the webhook is to be down as well, as it is then, say so
    /// to [`super::Webhook`].
    pub fn pause(&self) {
        self.shared.gate.close();
    }

    /// They start again, and create Nodes that are missing.
    pub fn resume(&self) {
        self.shared.gate.open();
    }

    /// The manager of one node is down, and another one says so of it.
    pub fn set_node_down(&self, node: &str, down: bool) {
        let mut wishes = self.shared.wishes();
        if down {
            wishes.nodes_down.insert(node.to_owned());
        } else {
            wishes.nodes_down.remove(node);
        }
    }

    /// Evictions find no room, as on a cluster of one node.
    pub fn evictions_hang(&self, hang: bool) {
        self.shared.wishes().evictions_hang = hang;
    }

    /// What failed, but for conflicts; the oldest first.
    #[must_use]
    pub fn troubles(&self) -> Vec<String> {
        self.shared.lock_troubles().iter().cloned().collect()
    }

    /// Puts a replica of so many bytes on a disk, and returns its name.
    ///
    /// # Errors
    ///
    /// When the disk has no UUID yet, or as the API server answers.
    pub fn place_replica(&self, node: &str, disk: &str, bytes: u64) -> anyhow::Result<String> {
        let (shared, node, disk) = (Arc::clone(&self.shared), node.to_owned(), disk.to_owned());
        self.wait(async move { shared.place(&node, &disk, bytes).await })?
    }

    /// Names of the replicas of a node, wherever on it.
    ///
    /// # Errors
    ///
    /// As the API server answers.
    pub fn replicas(&self, node: &str) -> anyhow::Result<Vec<String>> {
        let (shared, node) = (Arc::clone(&self.shared), node.to_owned());
        self.wait(async move {
            let replicas = shared.replicas().list().await?;
            let here = |replica: &&Value| text(replica, "/spec/nodeID") == node;
            let here = replicas.iter().filter(here);
            Ok(here
                .map(|replica| text(replica, "/metadata/name").to_owned())
                .collect())
        })?
    }

    /// Longhorn's user interface saves the disks of a node: all of them are
    /// replaced by what the browser had, whatever has been added since.
    ///
    /// # Errors
    ///
    /// As the API server answers, but for conflicts, which are tried again.
    pub fn ui_replace_disks(&self, node: &str, disks: Value) -> anyhow::Result<()> {
        let (shared, node) = (Arc::clone(&self.shared), node.to_owned());
        self.wait(async move { shared.replace_disks(&node, &disks).await })?
    }

    /// The outcome of something that the manager's own runtime does.
    fn wait<T: Send + 'static>(
        &self,
        doing: impl Future<Output = T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let (done, outcome) = mpsc::channel();
        drop(self.handle.spawn(async move {
            // Nobody waits any more when the test is over.
            drop(done.send(doing.await));
        }));
        Ok(outcome.recv()?)
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("the stand-in of longhorn-manager has panicked");
        }
    }
}

impl Shared {
    fn nodes(&self) -> Objects {
        Objects::new(
            &self.client,
            LONGHORN,
            Some(&self.options.namespace),
            "nodes",
        )
    }

    fn replicas(&self) -> Objects {
        let namespace = Some(self.options.namespace.as_str());
        Objects::new(&self.client, LONGHORN, namespace, "replicas")
    }

    fn kubernetes_nodes(&self) -> Objects {
        Objects::new(&self.client, CORE, None, "nodes")
    }

    fn namespaces(&self) -> Objects {
        Objects::new(&self.client, CORE, None, "namespaces")
    }

    fn wishes(&self) -> MutexGuard<'_, Wishes> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_troubles(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A conflict is no trouble: the next look sees what the other has written.
    fn trouble(&self, node: &str, error: &Error) {
        match objects::code(error) {
            Some(409) => {}
            Some(code) => {
                let message = objects::message(error);
                self.say(format!("{node}: {code} {message}"));
            }
            None => self.say(format!("{node}: {error}")),
        }
    }

    fn say(&self, trouble: String) {
        let mut troubles = self.lock_troubles();
        if troubles.len() == TROUBLES {
            troubles.pop_front();
        }
        troubles.push_back(trouble);
    }

    async fn place(&self, node: &str, disk: &str, bytes: u64) -> anyhow::Result<String> {
        let found = self.nodes().get(node).await?.unwrap_or_default();
        let status = found
            .pointer("/status/diskStatus")
            .and_then(|all| all.get(disk));
        let uuid = status.map_or("", |status| text(status, "/diskUUID"));
        anyhow::ensure!(!uuid.is_empty(), "{disk} of {node} has no UUID yet");
        let volume = format!("pvc-{}", Uuid::new_v4());
        let name = format!(
            "{volume}-r-{}",
            &Uuid::new_v4().simple().to_string().split_at(8).0
        );
        let path = status.map_or("", |status| text(status, "/diskPath"));
        let replica = json!({
            "apiVersion": "longhorn.io/v1beta2", "kind": "Replica",
            "metadata": {
                "name": name, "namespace": self.options.namespace,
                "labels": {
                    "longhorndiskuuid": uuid, "longhornnode": node, "longhornvolume": volume,
                },
            },
            "spec": {
                "volumeName": volume, "volumeSize": bytes.to_string(), "nodeID": node,
                "diskID": uuid, "diskPath": path, "evictionRequested": false,
                "dataDirectoryName": name, "active": true,
            },
        });
        self.replicas().create(&replica).await?;
        Ok(name)
    }

    async fn replace_disks(&self, node: &str, disks: &Value) -> anyhow::Result<()> {
        let nodes = self.nodes();
        for _ in 0..CONFLICTS {
            let found = nodes.get(node).await?;
            let mut found = found.ok_or_else(|| anyhow::anyhow!("there is no Node {node}"))?;
            found["spec"]["disks"] = disks.clone();
            match nodes.replace(&found).await {
                Err(error) if objects::code(&error) == Some(409) => {}
                written => return Ok(written.map(drop)?),
            }
        }
        anyhow::bail!("{CONFLICTS} conflicts in a row")
    }
}
