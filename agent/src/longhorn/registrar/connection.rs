//! The way to the API server: made when it is needed, given up when it fails,
//! every request counted.

use std::{collections::BTreeMap, pin::Pin};

use k8s_openapi::api::{core::v1::Node as KubernetesNode, events::v1::Event};
use kube::{Config, core::PartialObjectMeta};
use serde_json::Value;

use super::super::{
    LonghornSettings,
    api::{Failure, Identity, Requests},
    elsewhere::Neighbour,
    node::Node,
};

/// Asked before each new connection: tokens are replaced all the time.
pub(super) type Configure =
    Box<dyn FnMut() -> Pin<Box<dyn Future<Output = Result<Config, String>> + Send>> + Send>;

/// Requests by kind and outcome.
pub(super) type Counts = BTreeMap<(&'static str, &'static str), u64>;

pub(super) struct Connection {
    settings: LonghornSettings,
    configure: Configure,
    requests: Option<Requests>,
    counts: Counts,
}

impl Connection {
    pub(super) fn new(settings: LonghornSettings, configure: Configure) -> Self {
        Self {
            settings,
            configure,
            requests: None,
            counts: Counts::new(),
        }
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The Node as it is now.
    pub(super) async fn node(&mut self) -> Result<Node, Failure> {
        let requests = self.connect().await?;
        let answer = requests.node().await;
        self.noted("get-node", answer)
    }

    /// All Longhorn Nodes as they are now.
    pub(super) async fn nodes(&mut self) -> Result<Vec<Neighbour>, Failure> {
        let requests = self.connect().await?;
        let answer = requests.nodes().await;
        self.noted("list-nodes", answer)
    }

    /// Changes the Node.
    pub(super) async fn patch(&mut self, patch: &Value) -> Result<Node, Failure> {
        let requests = self.connect().await?;
        let answer = requests.patch_node(patch, false).await;
        self.noted("patch-node", answer)
    }

    /// Asks for a change as a dry run.
    pub(super) async fn probe(&mut self, patch: &Value) -> Result<Node, Failure> {
        let requests = self.connect().await?;
        let answer = requests.patch_node(patch, true).await;
        self.noted("probe", answer)
    }

    /// Whom the API server takes this agent for.
    pub(super) async fn identity(&mut self) -> Result<Identity, Failure> {
        let requests = self.connect().await?;
        let answer = requests.identity().await;
        self.noted("review", answer)
    }

    /// Tells an Event.
    pub(super) async fn tell(&mut self, event: &Event) -> Result<(), Failure> {
        let requests = self.connect().await?;
        let answer = requests.tell(event).await;
        self.noted("tell", answer)
    }

    /// Metadata of the Kubernetes Node as it is now.
    pub(super) async fn kubernetes_node(
        &mut self,
    ) -> Result<PartialObjectMeta<KubernetesNode>, Failure> {
        let requests = self.connect().await?;
        let answer = requests.kubernetes_node().await;
        self.noted("get-kubernetes-node", answer)
    }

    /// Changes the Kubernetes Node.
    pub(super) async fn patch_kubernetes_node(&mut self, patch: &Value) -> Result<(), Failure> {
        let requests = self.connect().await?;
        let answer = requests.patch_kubernetes_node(patch).await;
        self.noted("patch-kubernetes-node", answer)
    }

    /// How many replicas Longhorn has on a disk.
    pub(super) async fn replicas_on(&mut self, disk_uuid: &str) -> Result<usize, Failure> {
        let requests = self.connect().await?;
        let answer = requests.replicas_on(disk_uuid).await;
        self.noted("list-replicas", answer)
    }

    async fn connect(&mut self) -> Result<Requests, Failure> {
        if let Some(requests) = &self.requests {
            return Ok(requests.clone());
        }
        let made = match (self.configure)().await {
            Ok(config) => Requests::new(config, &self.settings),
            Err(why) => Err(why),
        };
        let requests = made.map_err(Failure::Unreachable)?;
        self.requests = Some(requests.clone());
        Ok(requests)
    }

    /// Counts an answer. A connection that failed, or whose token did, is made
    /// anew for the next request.
    fn noted<T>(
        &mut self,
        request: &'static str,
        answer: Result<T, Failure>,
    ) -> Result<T, Failure> {
        let outcome = match &answer {
            Ok(_) => "ok",
            Err(Failure::Conflict) => "conflict",
            Err(Failure::Syncing) => "syncing",
            Err(Failure::Absent) => "absent",
            Err(Failure::Rejected(_)) => "rejected",
            Err(Failure::Forbidden(_)) => "forbidden",
            Err(Failure::Unauthorized(_)) => "unauthorized",
            Err(Failure::Unreachable(_)) => "unreachable",
        };
        *self.counts.entry((request, outcome)).or_insert(0) += 1;
        if matches!(
            answer,
            Err(Failure::Unauthorized(_) | Failure::Unreachable(_))
        ) {
            self.requests = None;
        }
        answer
    }
}
