//! A cluster with Longhorn, and with what is applied to it to run the agent:
//! rights, admission policy, nothing else. It is what the tests of the agent and
//! the bench run against; with a real API server where there is one.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a fixture that cannot go on should say so and stop"
)]

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use disk_discovery::longhorn::finding::Kind;
use hyper::Method;
use kube::Config;
use serde_json::{Value, json};
use tokio::{runtime::Handle, sync::oneshot};

use crate::{
    admission::Admission,
    cluster::{Cluster, LonghornWebhook, POLICIES},
    host::{Agent, AgentOptions, SimulatedHost},
    longhorn::{Manager, manager, rules::Settings},
    objects,
    server::{Options, Seen, Server},
    wait::block_on,
};

pub use crate::cluster::NAMESPACE;

/// ServiceAccount of the agent.
pub const ACCOUNT: &str = "disk-discovery";
/// Long enough for any machine; only a failure waits for it.
pub const PATIENCE: Duration = Duration::from_mins(3);

/// See the module.
#[derive(Debug)]
pub struct LonghornCluster {
    /// The API server.
    pub cluster: Cluster,
    /// Longhorn's webhook.
    pub webhook: LonghornWebhook,
    /// Of the thread that the agents run in.
    runtime: Handle,
    _stop: oneshot::Sender<()>,
}

/// The way of an agent to the API server, which can be given another token.
#[derive(Debug, Clone)]
pub struct Way(Arc<Mutex<Config>>);

impl Way {
    /// How to connect from now on: as a mounted token that was replaced.
    pub fn set(&self, config: Config) {
        *self.0.lock().expect("a config") = config;
    }

    fn config(&self) -> Config {
        self.0.lock().expect("a config").clone()
    }
}

impl Default for LonghornCluster {
    fn default() -> Self {
        Self::new()
    }
}

impl LonghornCluster {
    /// With everything that comes with the agent.
    pub fn new() -> Self {
        Self::with(&manifests(), Options::default())
    }

    /// The same with the stand-in, for tests that need more of it than a real API
    /// server offers.
    pub fn stand_in() -> Self {
        Self::stand_in_for(Options::default())
    }

    /// The same, told how to be.
    pub fn stand_in_for(options: Options) -> Self {
        Self::stand_in_with(&manifests(), options)
    }

    /// As [`Self::stand_in`], with these objects applied.
    pub fn stand_in_with(objects: &[Value], options: Options) -> Self {
        Self::on(Cluster::stand_in_for(rbac(options)), objects)
    }

    /// With these objects applied.
    pub fn with(objects: &[Value], options: Options) -> Self {
        Self::on(Cluster::start(rbac(options)), objects)
    }

    fn on(cluster: Cluster, objects: &[Value]) -> Self {
        let webhook = cluster.longhorn(Settings::default());
        cluster.apply(objects);
        if cluster.real().is_some() && cluster.is_since(POLICIES) && confine(objects) {
            until_confined(&cluster);
        }
        let (stop, stopped) = oneshot::channel::<()>();
        Self {
            cluster,
            webhook,
            runtime: agents(stopped),
            _stop: stop,
        }
    }

    /// The stand-in, with its moods and its store.
    ///
    /// # Panics
    ///
    /// When the API server is a real one: see [`Self::stand_in`].
    pub fn server(&self) -> &Server {
        let server = self.cluster.stand_in();
        server.expect("a test of the stand-in begins with LonghornCluster::stand_in()")
    }

    /// Who is asked before anything is stored, besides the admission policies and
    /// Longhorn's webhook. Only the stand-in can do that.
    pub fn also_ask(&self, more: Vec<Arc<dyn Admission>>) {
        self.cluster.also_ask(&self.webhook, more);
    }

    /// Longhorn's manager on the nodes of these hosts, in a hurry.
    pub fn manager(&self, hosts: &[&SimulatedHost]) -> Manager {
        let mut options = manager::Options {
            monitor: Duration::from_millis(100),
            sync_delay: Duration::from_millis(100),
            ..manager::Options::default()
        };
        options.defaults.labelled_only = true;
        for host in hosts {
            options = options.node(host.node(), host.root());
        }
        Manager::start(self.cluster.admin().config(), options)
    }

    /// How an agent on a node gets to the API server.
    pub fn way(&self, node: &str) -> Way {
        let lives = Duration::from_hours(1);
        let token = match self.cluster.stand_in() {
            // Without a pod and its node, which not every test has.
            Some(server) => server.service_account_token(NAMESPACE, ACCOUNT, Some(node), lives),
            None => self
                .cluster
                .service_account_token(NAMESPACE, ACCOUNT, Some(node)),
        };
        Way(Arc::new(Mutex::new(self.cluster.config(&token))))
    }

    /// Starts an agent on a host.
    pub fn agent(&self, host: &SimulatedHost, options: &AgentOptions) -> Agent {
        self.agent_by(host, options, &self.way(host.node()))
    }

    /// Starts an agent that gets there in a way of its own.
    pub fn agent_by(&self, host: &SimulatedHost, options: &AgentOptions, way: &Way) -> Agent {
        let _inside = self.runtime.enter();
        let way = way.clone();
        host.agent(options, move || way.config())
    }

    /// Whether the agent finds nothing wrong. A real API server that is too old to
    /// keep it to its node is no fault of anybody here.
    pub fn is_clean(&self, agent: &Agent) -> bool {
        let confines = self.cluster.is_since(POLICIES);
        let status = agent.status.borrow();
        status
            .findings
            .iter()
            .all(|found| found.kind == Kind::NotConfined && !confines)
    }

    /// A Longhorn Node as it is stored; null where there is none.
    pub fn node(&self, name: &str) -> Value {
        let Some(server) = self.cluster.stand_in() else {
            return self.get(&longhorn_node(name));
        };
        // In any mood.
        let node = server.store().get("longhorn.io", "nodes", NAMESPACE, name);
        node.unwrap_or(Value::Null)
    }

    /// An entry of a Longhorn Node; null where there is none.
    pub fn entry(&self, node: &str, disk: &str) -> Value {
        self.node(node)["spec"]["disks"][disk].clone()
    }

    /// Whether a disk has an entry.
    pub fn has(&self, node: &str, disk: &str) -> bool {
        !self.entry(node, disk).is_null()
    }

    /// Merges a patch into a Longhorn Node as the administrator, through the API
    /// and its webhooks. Waits while Longhorn is syncing.
    pub fn patch(&self, node: &str, patch: &Value) {
        until("a patch is taken", || self.try_patch(node, patch).is_ok());
    }

    /// As [`Self::patch`], once.
    ///
    /// # Errors
    ///
    /// What the API server answers.
    pub fn try_patch(&self, node: &str, patch: &Value) -> Result<(), kube::Error> {
        self.merge(&longhorn_node(node), patch)
    }

    /// A node of Kubernetes; null where there is none.
    pub fn kubernetes_node(&self, name: &str) -> Value {
        self.get(&format!("/api/v1/nodes/{name}"))
    }

    /// Merges a patch into a node of Kubernetes, as the administrator.
    ///
    /// # Panics
    ///
    /// When it is refused.
    pub fn patch_kubernetes_node(&self, name: &str, patch: &Value) {
        let patched = self.merge(&format!("/api/v1/nodes/{name}"), patch);
        patched.expect("a patch of a node of Kubernetes");
    }

    fn merge(&self, path: &str, patch: &Value) -> Result<(), kube::Error> {
        let endpoint = self.cluster.admin();
        self.runtime.block_on(async {
            let request = axum::http::Request::patch(path)
                .header("content-type", "application/merge-patch+json")
                .body(patch.to_string().into_bytes())
                .expect("a request");
            let answer: Result<Value, _> = endpoint.client().request(request).await;
            answer.map(drop)
        })
    }

    /// What is at a path; null where nothing is.
    fn get(&self, path: &str) -> Value {
        let answer = self
            .runtime
            .block_on(async { objects::get(&self.cluster.client(), path).await });
        answer.unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Requests of agents since they were last forgotten.
    pub fn requests(&self) -> Vec<Seen> {
        let agent = format!("system:serviceaccount:{NAMESPACE}:{ACCOUNT}");
        let mut seen = self.cluster.requests();
        seen.retain(|seen| seen.user == agent);
        seen
    }

    /// Reasons and notes of all Events, in the order in which they came.
    pub fn events(&self) -> Vec<(String, String)> {
        let of = |event: &Value, key: &str| event[key].as_str().unwrap_or_default().to_owned();
        let mut events = match self.cluster.stand_in() {
            Some(server) => server.store().list("events.k8s.io", "events"),
            None => {
                let list = self.get("/apis/events.k8s.io/v1/events");
                list["items"].as_array().expect("a list of events").clone()
            }
        };
        events.sort_by_key(|event| of(event, "eventTime"));
        events
            .iter()
            // The stand-in keeps them as the core has them.
            .map(|event| {
                let note = of(event, "note") + &of(event, "message");
                (of(event, "reason"), note)
            })
            .collect()
    }

    /// How many Events have a reason.
    pub fn told(&self, reason: &str) -> usize {
        let events = self.events();
        events.iter().filter(|(told, _)| told == reason).count()
    }
}

/// Whether there is a policy among them that keeps agents to their nodes.
fn confine(objects: &[Value]) -> bool {
    let is_binding = |object: &Value| object["kind"] == "ValidatingAdmissionPolicyBinding";
    objects.iter().any(is_binding)
}

/// Waits until a real API server, which hears of roles and of policies a moment
/// after they were stored, refuses the agent what the policy forbids: an agent
/// that asked sooner would take its cluster for one that does not.
fn until_confined(cluster: &Cluster) {
    let token = cluster.service_account_token(NAMESPACE, ACCOUNT, None);
    let path = format!("/apis/events.k8s.io/v1/namespaces/{NAMESPACE}/events?dryRun=All");
    let event = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "never-made"},
    });
    until("the admission policy is in force", || {
        let endpoint = cluster.endpoint(&token);
        let refused = block_on(|| async {
            objects::send(&endpoint.client(), Method::POST, &path, &event).await
        });
        let refused = refused.expect("a runtime").err();
        refused.is_some_and(|refused| format!("{refused:#}").contains("names no node"))
    });
}

fn rbac(options: Options) -> Options {
    Options {
        rbac: true,
        ..options
    }
}

fn longhorn_node(name: &str) -> String {
    format!("/apis/longhorn.io/v1beta2/namespaces/{NAMESPACE}/nodes/{name}")
}

/// A thread for agents, which ends with whatever runs in it.
fn agents(stopped: oneshot::Receiver<()>) -> Handle {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let handle = runtime.handle().clone();
    let thread = std::thread::Builder::new().name("agents".to_owned());
    let running = thread.spawn(move || {
        // A sender that was dropped means the same as a message.
        drop(runtime.block_on(stopped));
    });
    drop(running.expect("a thread"));
    handle
}

/// Everything that is applied to a cluster to run the agent, but the agent.
///
/// # Panics
///
/// When a manifest cannot be read.
pub fn manifests() -> Vec<Value> {
    let names = ["serviceaccount", "role", "rolebinding", "admission-policy"];
    names
        .iter()
        .flat_map(|name| manifest(&format!("{name}.yaml")))
        .collect()
}

/// The objects of one manifest below `deploy/infrastructure/storage`.
///
/// # Panics
///
/// When it cannot be read.
pub fn manifest(name: &str) -> Vec<Value> {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let path: PathBuf = project.join("deploy/infrastructure/storage").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
    serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Waits for a state.
///
/// # Panics
///
/// When it does not come.
pub fn until(what: &str, holds: impl FnMut() -> bool) {
    until_within(PATIENCE, what, holds);
}

/// Waits for a state that takes longer.
///
/// # Panics
///
/// When it does not come.
pub fn until_within(patience: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + patience;
    while !holds() {
        assert!(Instant::now() < end, "it did not come to be that {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
