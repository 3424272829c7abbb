//! One node's manager.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::jiff::Timestamp;
use kube::Error;
use serde_json::{Value, json};

use super::{
    Shared, defaults,
    files::DiskFiles,
    monitor::{self, Collected},
    objects::code,
    status,
};
use crate::longhorn::lenient::{entries, flag, map, text};

/// Looks at one node again and again, for ever.
pub async fn serve(shared: Arc<Shared>, name: String, files: Arc<dyn DiskFiles>) {
    let mut node = Node {
        shared: Arc::clone(&shared),
        name,
        files,
        started: None,
    };
    loop {
        if let Err(error) = node.round().await {
            shared.trouble(&node.name, &error);
        }
        tokio::time::sleep(shared.options.monitor).await;
    }
}

struct Node {
    shared: Arc<Shared>,
    name: String,
    files: Arc<dyn DiskFiles>,
    /// The opening of the gate in which the Node was there or was created. A
    /// manager creates it when it starts, and not again.
    started: Option<u64>,
}

impl Node {
    async fn round(&mut self) -> Result<(), Error> {
        let shared = Arc::clone(&self.shared);
        let Some(collected) = ({
            let Some(pass) = shared.gate.enter() else {
                return Ok(());
            };
            if self.started != Some(pass.opening) {
                self.start().await?;
                self.started = Some(pass.opening);
            }
            self.look().await?
        }) else {
            return Ok(());
        };
        tokio::time::sleep(shared.options.sync_delay).await;
        let Some(_pass) = shared.gate.enter() else {
            return Ok(());
        };
        self.sync(&collected).await
    }

    /// What is created once. The namespace is there in a real cluster; and an
    /// API server that knows none is fine.
    async fn start(&self) -> Result<(), Error> {
        let shared = &self.shared;
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": shared.options.namespace},
        });
        for (missing, objects, object) in [
            (true, shared.namespaces(), namespace),
            (
                shared.options.kubelets,
                shared.kubernetes_nodes(),
                self.kubernetes(),
            ),
        ] {
            if missing
                && objects
                    .get(text(&object, "/metadata/name"))
                    .await?
                    .is_none()
            {
                let created = objects.create(&object).await;
                created.map(drop).or_else(|error| match code(&error) {
                    Some(404 | 409) => Ok(()),
                    Some(_) | None => Err(error),
                })?;
            }
        }
        if shared.nodes().get(&self.name).await?.is_some() {
            return Ok(());
        }
        let mut disks = json!({});
        if !shared.options.defaults.labelled_only {
            match self.blocking(default_disk).await {
                Ok(disk) => disks = disk,
                Err(why) => shared.say(format!("{}: {why}", self.name)),
            }
        }
        let node = json!({
            "apiVersion": "longhorn.io/v1beta2", "kind": "Node",
            "metadata": {"name": self.name, "namespace": shared.options.namespace},
            "spec": {
                "name": self.name, "allowScheduling": true, "evictionRequested": false,
                "tags": [], "instanceManagerCPURequest": 0, "disks": disks,
            },
        });
        shared.nodes().create(&node).await.map(drop)
    }

    fn kubernetes(&self) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {
                "name": self.name, "labels": {"kubernetes.io/hostname": self.name},
            },
            "spec": {},
            "status": {"conditions": [
                {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": ""},
            ]},
        })
    }

    /// Default disks, then what is on the disks; nothing where this manager is
    /// down or has no Node.
    async fn look(&self) -> Result<Option<BTreeMap<String, Collected>>, Error> {
        let shared = &self.shared;
        let nodes = shared.nodes();
        let Some(mut node) = nodes.get(&self.name).await? else {
            return Ok(None);
        };
        if !text(&node, "/metadata/deletionTimestamp").is_empty() {
            self.let_go(node).await?;
            return Ok(None);
        }
        if shared.wishes().nodes_down.contains(&self.name) {
            return Ok(Some(BTreeMap::new()));
        }
        if map(&node, "/spec/disks").is_none_or(serde_json::Map::is_empty)
            && let Some(disks) = self.ordered_disks().await?
        {
            let mut ordered = node.clone();
            ordered["spec"]["disks"] = disks;
            // Another controller than the one of disks, which goes on: after the
            // last disk is removed this is refused until the status says so too.
            match nodes.replace(&ordered).await {
                Ok(registered) => node = registered,
                Err(error) => shared.trouble(&self.name, &error),
            }
        }
        let others = status::beginnings(&nodes.list().await?);
        let files = Arc::clone(&self.files);
        let looking = tokio::task::spawn_blocking(move || {
            monitor::collect(&*files, &node, &|beginning| others.contains(beginning))
        });
        match looking.await {
            Ok(Ok(collected)) => Ok(Some(collected)),
            Ok(Err(crashed)) => {
                shared.say(format!("{}: {crashed}", self.name));
                Ok(None)
            }
            Err(error) => {
                shared.say(format!("{}: looking at the disks: {error}", self.name));
                Ok(None)
            }
        }
    }

    async fn ordered_disks(&self) -> Result<Option<Value>, Error> {
        let shared = &self.shared;
        let Some(kubernetes) = shared.kubernetes_nodes().get(&self.name).await? else {
            return Ok(None);
        };
        let order = move |files: &dyn DiskFiles, defaults: &defaults::Defaults| {
            defaults::ordered(files, &kubernetes, defaults)
        };
        Ok(self.blocking(order).await.unwrap_or_else(|why| {
            shared.say(format!("{}: default disks: {why}", self.name));
            None
        }))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn DiskFiles, &defaults::Defaults) -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        let (files, defaults) = (
            Arc::clone(&self.files),
            self.shared.options.defaults.clone(),
        );
        tokio::task::spawn_blocking(move || work(&*files, &defaults))
            .await
            .map_err(|error| error.to_string())?
    }

    /// A deleted Node goes when its controller has let it go.
    async fn let_go(&self, mut node: Value) -> Result<(), Error> {
        let finalizers = node["metadata"]["finalizers"].as_array_mut();
        if let Some(finalizers) = finalizers {
            finalizers.retain(|finalizer| finalizer != "longhorn.io");
        }
        self.shared.nodes().replace(&node).await.map(drop)
    }

    /// The status, then the replicas.
    async fn sync(&self, collected: &BTreeMap<String, Collected>) -> Result<(), Error> {
        let shared = &self.shared;
        let nodes = shared.nodes();
        let Some(mut node) = nodes.get(&self.name).await? else {
            return Ok(());
        };
        let before = node.clone();
        let now = now();
        let kubernetes = shared.kubernetes_nodes().get(&self.name).await?;
        let up = !shared.wishes().nodes_down.contains(&self.name);
        status::conditions_of_node(&mut node, kubernetes.as_ref(), up, &now);
        let mut replicas = Vec::new();
        let mut is_ready = false;
        if kubernetes.is_some() && !status::disks_of_a_node_that_is_not_ready(&mut node, &now) {
            is_ready = true;
            replicas = shared.replicas().list().await?;
            if monitor::is_of(&node, collected) {
                let scheduling = shared.options.scheduling;
                status::disks(&mut node, collected, &replicas, scheduling, &now);
            }
        }
        if node["status"] != before["status"] {
            nodes.replace_status(&node).await?;
        }
        if is_ready {
            self.move_replicas(&node, &replicas).await?;
        }
        Ok(())
    }

    /// Replicas go where their disk is now, and leave a disk that is evicted,
    /// one in each round.
    async fn move_replicas(&self, node: &Value, replicas: &[Value]) -> Result<(), Error> {
        let shared = &self.shared;
        let all_evicted = flag(node, "/spec/evictionRequested");
        let hang = shared.wishes().evictions_hang;
        let statuses = entries(node, "/status/diskStatus");
        for (disk, entry) in entries(node, "/spec/disks") {
            let Some(status) = statuses.get(disk) else {
                continue;
            };
            if !status::is_true(status, "Ready") {
                continue;
            }
            let evicted = all_evicted || flag(entry, "/evictionRequested");
            let mut rebuilt = hang || !evicted;
            for replica in status::replicas_on(replicas, text(status, "/diskUUID")) {
                if !rebuilt {
                    rebuilt = true;
                    let name = text(replica, "/metadata/name");
                    shared.replicas().delete(name).await?;
                    continue;
                }
                let mut moved = replica.clone();
                moved["spec"]["nodeID"] = json!(self.name);
                moved["spec"]["diskPath"] = json!(text(entry, "/path"));
                moved["spec"]["evictionRequested"] = json!(evicted);
                if moved != *replica {
                    shared.replicas().replace(&moved).await?;
                }
            }
        }
        Ok(())
    }
}

fn default_disk(files: &dyn DiskFiles, defaults: &defaults::Defaults) -> Result<Value, String> {
    defaults::default_disk(files, defaults)
}

/// As Longhorn writes times, in seconds.
fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
