//! Longhorn's webhook on a cluster: inside the stand-in, behind HTTPS for a real
//! API server.

use std::{
    fmt::Debug,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use hyper::Method;
use kube::Client;
use serde_json::json;

use super::{Cluster, Side};
use crate::{
    admission::{Admission, Chain},
    longhorn::{Webhook, rules::Settings, webhook, webhook_server::WebhookServer},
    objects,
    server::{longhorn_node_crd, longhorn_replica_crd},
};

/// Where Longhorn is.
pub const NAMESPACE: &str = "longhorn-system";
/// Until a real API server asks a webhook that it was told of.
const PATIENCE: Duration = Duration::from_mins(1);
/// How often that is tried meanwhile.
const PAUSE: Duration = Duration::from_millis(50);

/// Longhorn's webhook. A real API server refuses every change of a Longhorn Node
/// once this is dropped.
#[derive(Debug)]
pub struct LonghornWebhook(Place);

#[derive(Debug)]
enum Place {
    Inside(Arc<Webhook>),
    Outside(WebhookServer),
}

impl LonghornWebhook {
    /// Changes Longhorn's settings from now on.
    pub fn set(&self, settings: Settings) {
        match &self.0 {
            Place::Inside(webhook) => webhook.set(settings),
            Place::Outside(server) => server.set(settings),
        }
    }

    /// Whether nobody answers.
    pub fn set_down(&self, down: bool) {
        match &self.0 {
            Place::Inside(webhook) => webhook.set_down(down),
            Place::Outside(server) => server.set_down(down),
        }
    }
}

impl Cluster {
    /// Longhorn's namespace, its Nodes and Replicas, and its webhook, which is
    /// asked when this returns.
    ///
    /// # Panics
    ///
    /// When something of it cannot be made.
    #[must_use]
    pub fn longhorn(&self, settings: Settings) -> LonghornWebhook {
        self.namespaces(&[NAMESPACE]);
        self.define(&[longhorn_node_crd(), longhorn_replica_crd()]);
        match &self.side {
            Side::StandIn { .. } => {
                let webhook = LonghornWebhook(Place::Inside(Arc::new(Webhook::new(settings))));
                self.also_ask(&webhook, Vec::new());
                webhook
            }
            Side::Real(_) => {
                let server = WebhookServer::start(settings);
                let (validating, mutating) = server.configurations();
                self.apply(&[validating, mutating]);
                self.ask("Longhorn's webhook", asked);
                LonghornWebhook(Place::Outside(server))
            }
        }
    }
}

impl Cluster {
    /// Who is asked besides before anything is stored. Only the stand-in can do
    /// that.
    ///
    /// # Panics
    ///
    /// When the API server is a real one.
    pub fn also_ask(&self, webhook: &LonghornWebhook, more: Vec<Arc<dyn Admission>>) {
        let (Side::StandIn { server, policies }, Place::Inside(webhook)) = (&self.side, &webhook.0)
        else {
            panic!("a real API server asks nobody but Longhorn");
        };
        // As in the real one: webhooks change first, and of those that may refuse,
        // policies come before webhooks.
        let mut all: Vec<Arc<dyn Admission>> = vec![Arc::clone(policies) as _];
        all.extend(more);
        all.push(Arc::clone(webhook) as _);
        server.set_admission(Arc::new(Chain(all)));
    }
}

/// Until a change that the validator refuses is refused by it. The mutator was
/// told of in the same moment, and is asked before.
async fn asked(client: &Client) -> Result<()> {
    let path = format!("/apis/longhorn.io/v1beta2/namespaces/{NAMESPACE}/nodes?dryRun=All");
    let wrong = json!({
        "apiVersion": "longhorn.io/v1beta2", "kind": "Node",
        "metadata": { "name": "never-made" },
        "spec": { "name": "never-made", "instanceManagerCPURequest": -1 },
    });
    let deadline = Instant::now() + PATIENCE;
    loop {
        let said = match objects::send(client, Method::POST, &path, &wrong).await {
            Ok(object) => format!("{object} is taken"),
            Err(error) => format!("{error:#}"),
        };
        if said.contains(webhook::VALIDATOR) {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("{} is not asked: {said}", webhook::VALIDATOR);
        }
        tokio::time::sleep(PAUSE).await;
    }
}
