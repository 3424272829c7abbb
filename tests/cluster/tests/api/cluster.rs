//! What tests get from a cluster, whichever API server is in it.

use std::{path::Path, time::Duration};

use axum::http::{Method, Request};
use cluster_fixtures::{
    cluster::{Cluster, NAMESPACE, POLICIES},
    longhorn::rules::Settings,
    server::{Options, longhorn_node_crd},
};
use kube::Client;
use serde_json::{Value, json};

use crate::ask::{MERGE, PATIENCE, ask, get, longhorn_node, longhorn_nodes, merge, post, text};

fn cluster() -> Cluster {
    Cluster::start(Options {
        rbac: true,
        ..Options::default()
    })
}

/// What the agent may do, as far as these tests need it.
fn rights(account: &str) -> [Value; 2] {
    let about = json!({"name": account, "namespace": NAMESPACE});
    [
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": about,
            "rules": [{"apiGroups": ["longhorn.io"], "resources": ["nodes"], "verbs": ["get", "patch"]}],
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": about,
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": account},
        }),
    ]
}

/// Until a request is answered with this code: a real API server hears of roles
/// a moment after they were stored.
async fn until(client: &Client, path: &str, wanted: u16) {
    let asked = async {
        while get(client, path).await.0 != wanted {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let outcome = tokio::time::timeout(PATIENCE, asked).await;
    assert!(outcome.is_ok(), "{path} is never answered with {wanted}");
}

#[tokio::test]
async fn a_service_account_may_do_what_its_roles_say_and_no_more() {
    let cluster = cluster();
    let _webhook = cluster.longhorn(Settings::default());
    cluster.apply(&rights("agent"));
    let token = cluster.service_account_token(NAMESPACE, "agent", Some("k3s2"));
    let client = cluster.endpoint(&token).client();
    let nodes = longhorn_nodes(NAMESPACE);
    until(&client, &format!("{nodes}/k3s2"), 404).await;
    let (code, made) = post(&cluster.client(), &nodes, &longhorn_node("k3s2")).await;
    assert_eq!(code, 201, "{made}");
    let tag = json!({"metadata": {"annotations": {"a": "b"}}});
    // The entry of its disk is not in the status yet: that is Longhorn's refusal.
    let (code, refused) = merge(&client, &format!("{nodes}/k3s2"), &tag).await;
    let message = text(&refused, "/message");
    assert!(
        code == 403 && message.contains("are being syncing"),
        "{refused}"
    );
    let (code, refused) = get(&client, &nodes).await;
    assert_eq!((code, text(&refused, "/reason")), (403, "Forbidden"));
    assert_eq!(
        text(&refused, "/message"),
        "nodes.longhorn.io is forbidden: User \"system:serviceaccount:longhorn-system:agent\" cannot list resource \"nodes\" in API group \"longhorn.io\" in the namespace \"longhorn-system\""
    );
    let (code, _) = get(&cluster.endpoint("nobody's").client(), &nodes).await;
    assert_eq!(code, 401);
}

#[tokio::test]
async fn longhorns_webhook_changes_refuses_and_can_be_away() {
    let cluster = cluster();
    let webhook = cluster.longhorn(Settings::default());
    let client = cluster.client();
    let nodes = longhorn_nodes(NAMESPACE);
    let mut node = longhorn_node("k3s2");
    node["spec"]["disks"] = json!({});
    let (code, made) = post(&client, &nodes, &node).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["metadata"]["finalizers"], json!(["longhorn.io"]));
    let path = format!("{nodes}/k3s2");
    let disk = |path: &str| json!({"path": path, "allowScheduling": true});
    let twice = json!({"spec": {"disks": {"a": disk("/a"), "b": disk("/a/")}}});
    let (code, refused) = merge(&client, &path, &twice).await;
    assert_eq!(
        (code, text(&refused, "/reason")),
        (422, "Invalid"),
        "{refused}"
    );
    let message = text(&refused, "/message");
    assert!(
        message.starts_with("admission webhook \"validator.longhorn.io\" denied the request: "),
        "{refused}"
    );
    let once = json!({"spec": {"disks": {"a": disk("/a")}}});
    let (code, taken) = merge(&client, &path, &once).await;
    assert_eq!(code, 200, "{taken}");
    assert_eq!(taken["spec"]["disks"]["a"]["diskType"], "filesystem");
    webhook.set_down(true);
    let (code, refused) = merge(&client, &path, &once).await;
    let message = text(&refused, "/message");
    assert!(
        code == 500 && message.contains("failed calling webhook"),
        "{refused}"
    );
    // The status is not its business.
    let status = json!({"status": {"diskStatus": {"a": {}}}});
    let (code, answer) = merge(&client, &format!("{path}/status"), &status).await;
    assert_eq!(code, 200, "{answer}");
    webhook.set_down(false);
    let (code, answer) = merge(&client, &path, &once).await;
    assert_eq!(code, 200, "{answer}");
}

#[tokio::test]
async fn a_token_names_the_node_of_its_pod() {
    let cluster = cluster();
    if !cluster.is_since(POLICIES) {
        // There it names none.
        return;
    }
    for node in [Some("k3s2"), None] {
        let token = cluster.service_account_token(NAMESPACE, "agent", node);
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
        let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
        let (code, told) = post(&cluster.endpoint(&token).client(), path, &review).await;
        assert_eq!(code, 201, "{told}");
        let user = &told["status"]["userInfo"];
        assert_eq!(
            user["username"],
            "system:serviceaccount:longhorn-system:agent"
        );
        let named = &user["extra"]["authentication.kubernetes.io/node-name"];
        assert_eq!(*named, json!(node.map(|node| [node])));
    }
}

#[tokio::test]
async fn what_is_applied_again_is_replaced() {
    let cluster = cluster();
    cluster.namespaces(&[NAMESPACE]);
    let [mut role, _] = rights("agent");
    cluster.apply(&[role.clone()]);
    role["rules"][0]["verbs"] = json!(["list"]);
    cluster.apply(&[role]);
    let path = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}/roles/agent");
    assert_eq!(cluster.get(&path)["rules"][0]["verbs"], json!(["list"]));
    assert_eq!(cluster.get(&format!("{path}s")), Value::Null);
    // One that takes no change without the version that is stored.
    cluster.define(&[longhorn_node_crd()]);
    let mut node = longhorn_node("k3s2");
    node["metadata"]["namespace"] = json!(NAMESPACE);
    cluster.apply(&[node.clone()]);
    node["spec"]["tags"] = json!(["t"]);
    cluster.apply(&[node]);
    let path = format!("{}/k3s2", longhorn_nodes(NAMESPACE));
    assert_eq!(cluster.get(&path)["spec"]["tags"], json!(["t"]));
}

#[tokio::test]
async fn every_request_is_told_with_who_what_and_how_it_ended() {
    let cluster = cluster();
    cluster.namespaces(&["default"]);
    let token = cluster.service_account_token("default", "agent", Some("k3s2"));
    let client = cluster.endpoint(&token).client();
    cluster.forget_requests();
    let path = "/api/v1/namespaces/default/configmaps/a";
    let patch = json!({"data": {}});
    let (code, _) = ask(
        &client,
        Method::PATCH,
        &format!("{path}?fieldManager=x"),
        MERGE,
        &patch,
    )
    .await;
    assert_eq!(code, 403);
    let (code, _) = get(&cluster.client(), path).await;
    assert_eq!(code, 404);
    let told = async {
        loop {
            let requests = cluster.requests();
            if requests.len() >= 2 {
                return requests;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let requests = tokio::time::timeout(PATIENCE, told).await.expect("both");
    let [patched, got] = requests.as_slice() else {
        panic!("{requests:?}");
    };
    assert_eq!(patched.user, "system:serviceaccount:default:agent");
    assert_eq!(
        (
            patched.verb.as_str(),
            patched.group.as_str(),
            patched.version.as_str()
        ),
        ("patch", "", "v1")
    );
    assert_eq!(
        (
            patched.resource.as_str(),
            patched.namespace.as_str(),
            patched.name.as_str()
        ),
        ("configmaps", "default", "a")
    );
    assert_eq!(
        (patched.path.as_str(), patched.query.as_str()),
        (path, "fieldManager=x")
    );
    assert_eq!(patched.status, 403);
    assert_eq!(
        (got.user.as_str(), got.verb.as_str(), got.status),
        ("system:admin", "get", 404)
    );
    cluster.forget_requests();
    assert_eq!(cluster.requests(), []);
}

#[tokio::test]
async fn a_cluster_leaves_nothing_behind() {
    let cluster = cluster();
    let admin = cluster.admin().clone();
    let processes = cluster.real().map(|real| real.pids());
    // Of this cluster alone: another test may get its port.
    let is_served = async || {
        let request = Request::get("/api/v1/namespaces").body(Vec::new());
        let client = admin.client();
        let answer = client.request::<Value>(request.expect("a request"));
        // Who has the port now may well be silent.
        tokio::time::timeout(PATIENCE, answer)
            .await
            .is_ok_and(|answer| answer.is_ok())
    };
    assert!(is_served().await);
    drop(cluster);
    assert!(!is_served().await, "{} is still served", admin.url);
    for process in processes.into_iter().flatten() {
        let path = Path::new("/proc").join(process.to_string());
        assert!(!path.exists(), "{process} is still there");
    }
}
