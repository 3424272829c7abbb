//! `node.longhorn.io/default-disks-config`: only where it is asked for, only
//! disks that are mounted, and gone before the last disk is.

use cluster_fixtures::{
    host::{AgentOptions, SimulatedHost},
    longhorn_cluster::{LonghornCluster, manifest, manifests, until},
    server::Options,
};
use disk_discovery::longhorn::{finding::Kind, status::State};
use serde_json::{Value, json};

const ANNOTATION: &str = "node.longhorn.io/default-disks-config";
const LABEL: &str = "node.longhorn.io/create-default-disk";

fn options() -> AgentOptions {
    AgentOptions {
        hurry: 50,
        default_disks: true,
        ..AgentOptions::default()
    }
}

/// With the rights of the component that goes with it.
fn cluster() -> LonghornCluster {
    let mut objects = manifests();
    objects.extend(manifest("default-disks/clusterrole.yaml"));
    objects.extend(manifest("default-disks/clusterrolebinding.yaml"));
    LonghornCluster::with(&objects, Options::default())
}

fn order(cluster: &LonghornCluster) -> Option<Value> {
    let node = cluster.kubernetes_node("k3s2");
    let text = node["metadata"]["annotations"][ANNOTATION].as_str()?;
    Some(serde_json::from_str(text).expect("JSON"))
}

fn label(cluster: &LonghornCluster, value: &str) {
    let patch = json!({"metadata": {"labels": {LABEL: value}}});
    cluster.patch_kubernetes_node("k3s2", &patch);
}

#[test]
fn mounted_disks_are_named_and_the_order_goes_before_the_last_disk() {
    let cluster = cluster();
    let host = SimulatedHost::new("k3s2");
    host.provision("sdb1");
    let _manager = cluster.manager(&[&host]);
    until("the node is there", || {
        !cluster.kubernetes_node("k3s2").is_null()
    });
    label(&cluster, "config");
    let agent = cluster.agent(&host, &options());
    until("it is named", || order(&cluster).is_some());
    assert_eq!(
        order(&cluster),
        Some(json!([{
            "name": "sdb1", "path": "/mnt/longhorn/sdb1", "diskType": "filesystem",
            "allowScheduling": true, "storageReserved": 1, "tags": [],
        }]))
    );
    until("nothing is wrong", || cluster.is_clean(&agent));
    until("Longhorn has looked at it", || {
        let status = &cluster.node("k3s2")["status"]["diskStatus"]["sdb1"];
        let conditions = status["conditions"].as_array();
        conditions.is_some_and(|all| {
            all.iter()
                .any(|one| one["type"] == "Ready" && one["status"] == "True")
        })
    });
    // With the order in place Longhorn would register the last disk again at
    // once.
    let name = "sdb1".parse().expect("a name");
    host.ledger()
        .release(host.uuid("sdb1"), &name)
        .expect("kept");
    until("it has left", || {
        host.round();
        host.ledger()
            .standing()
            .is_known_and(|standing| standing.has_left(host.uuid("sdb1")))
    });
    assert_eq!(order(&cluster), None);
    assert!(cluster.entry("k3s2", "sdb1").is_null());
    // The label is the administrator's.
    let node = cluster.kubernetes_node("k3s2");
    assert_eq!(node["metadata"]["labels"][LABEL], "config");
}

#[test]
fn an_order_that_longhorn_does_not_read_is_told() {
    let cluster = cluster();
    let host = SimulatedHost::new("k3s2");
    host.provision("sdb1");
    let _manager = cluster.manager(&[&host]);
    let agent = cluster.agent(&host, &options());
    until("it is told", || {
        let status = agent.status.borrow();
        status
            .findings
            .iter()
            .any(|found| found.kind == Kind::DefaultDisksIgnored)
    });
    let node = cluster.kubernetes_node("k3s2");
    assert!(node["metadata"]["labels"][LABEL].is_null());
}

#[test]
fn by_default_the_kubernetes_node_is_not_even_read() {
    let cluster = LonghornCluster::new();
    let host = SimulatedHost::new("k3s2");
    host.provision("sdb1");
    let _manager = cluster.manager(&[&host]);
    let off = AgentOptions {
        default_disks: false,
        ..options()
    };
    let agent = cluster.agent(&host, &off);
    until("it is registered, and told", || {
        let status = agent.status.borrow();
        status.state == State::Current && status.requests.contains_key(&("tell", "ok"))
    });
    assert!(!cluster.entry("k3s2", "sdb1").is_null());
    let requests = cluster.requests();
    let core = requests
        .iter()
        .filter(|seen| seen.resource == "nodes" && seen.group.is_empty());
    assert_eq!(core.count(), 0);
}
