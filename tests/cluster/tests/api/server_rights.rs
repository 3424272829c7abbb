//! Who an API server thinks one is, and what one may do.

use std::time::Duration;

use cluster_fixtures::server::{Options, Server, longhorn_node_crd};
use kube::Client;
use serde_json::{Value, json};

use crate::ask::{
    PATIENCE, Place, delete, get, install, longhorn_node, longhorn_nodes, merge, post, text,
};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const WHO_AM_I: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
const MAY_I: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

impl Place {
    async fn make(&self, path: &str, object: &Value) -> Value {
        let (code, made) = post(&self.client, path, object).await;
        assert_eq!(code, 201, "{made}");
        made
    }

    /// A ServiceAccount with a pod on a node, and a token that is bound to that
    /// pod; without a node, a token that is not bound.
    async fn account(&self, name: &str, node: Option<&str>) -> Client {
        let account =
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
        self.make(&self.core("serviceaccounts"), &account).await;
        let mut asked = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"audiences": [], "expirationSeconds": 3600},
        });
        if let Some(node) = node {
            let pod = json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
                "spec": {
                    "serviceAccountName": name, "nodeName": node,
                    "automountServiceAccountToken": false,
                    "containers": [{"name": "agent", "image": "agent"}],
                },
            });
            let pod = self.make(&self.core("pods"), &pod).await;
            asked["spec"]["boundObjectRef"] = json!({
                "apiVersion": "v1", "kind": "Pod", "name": name, "uid": pod["metadata"]["uid"],
            });
        }
        let path = self.core(&format!("serviceaccounts/{name}/token"));
        let made = self.make(&path, &asked).await;
        assert_ne!(text(&made, "/status/expirationTimestamp"), "");
        self.endpoint
            .with_token(text(&made, "/status/token"))
            .client()
    }

    fn user(&self, account: &str) -> String {
        format!("system:serviceaccount:{}:{account}", self.namespace)
    }

    /// Lets an account do these things with Longhorn's Nodes.
    async fn allow(&self, account: &str, verbs: &[&str], names: &[&str]) {
        let role = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
            "metadata": {"name": account},
            "rules": [{
                "apiGroups": ["longhorn.io"], "resources": ["nodes"], "verbs": verbs,
                "resourceNames": names,
            }],
        });
        self.make(
            &format!("{RBAC}/namespaces/{}/roles", self.namespace),
            &role,
        )
        .await;
        self.bind(account).await;
    }

    async fn bind(&self, account: &str) {
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": account},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": account},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": self.namespace}],
        });
        let path = format!("{RBAC}/namespaces/{}/rolebindings", self.namespace);
        self.make(&path, &binding).await;
    }
}

/// Until the answer is as it must be: a real API server hears of roles and
/// bindings a moment after they were stored.
async fn heard(client: &Client, path: &str, holds: impl Fn(u16, &Value) -> bool) {
    let mut last = Value::Null;
    let asked = async {
        loop {
            let (code, answer) = get(client, path).await;
            if holds(code, &answer) {
                return;
            }
            last = answer;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let outcome = tokio::time::timeout(PATIENCE, asked).await;
    assert!(outcome.is_ok(), "{last}");
}

#[tokio::test]
async fn a_token_that_nobody_gave_out_is_unauthorized() {
    let at = Place::new().await;
    let stranger = at.endpoint.with_token("made up").client();
    let (code, refused) = get(&stranger, &at.nodes()).await;
    assert_eq!((code, text(&refused, "/reason")), (401, "Unauthorized"));
    assert_eq!(refused["message"], "Unauthorized");
}

#[tokio::test]
async fn what_no_role_allows_is_forbidden_in_so_many_words() {
    let at = Place::new().await;
    at.make_node("k3s2").await;
    let agent = at.account("agent", None).await;
    let user = at.user("agent");
    let (code, refused) = merge(&agent, &at.node("k3s2"), &json!({"spec": {}})).await;
    assert_eq!((code, text(&refused, "/reason")), (403, "Forbidden"));
    assert_eq!(
        text(&refused, "/message"),
        format!(
            "nodes.longhorn.io \"k3s2\" is forbidden: User \"{user}\" cannot patch resource \"nodes\" in API group \"longhorn.io\" in the namespace \"{}\"",
            at.namespace
        )
    );
    assert_eq!(
        refused["details"],
        json!({"name": "k3s2", "group": "longhorn.io", "kind": "nodes"})
    );
    let (code, refused) = get(&agent, "/api/v1/nodes").await;
    assert_eq!(code, 403);
    assert_eq!(
        text(&refused, "/message"),
        format!(
            "nodes is forbidden: User \"{user}\" cannot list resource \"nodes\" in API group \"\" at the cluster scope"
        )
    );
    // A binding to a role that is not there is said so.
    at.bind("agent").await;
    heard(&agent, &at.node("k3s2"), |_, refused| {
        text(refused, "/message")
            .ends_with(": RBAC: role.rbac.authorization.k8s.io \"agent\" not found")
    })
    .await;
}

#[tokio::test]
async fn a_role_allows_its_verbs_in_its_namespace_and_nothing_else() {
    let at = Place::new().await;
    at.make_node("k3s2").await;
    let agent = at.account("agent", None).await;
    at.allow("agent", &["get", "list", "patch"], &[]).await;
    heard(&agent, &at.node("k3s2"), |code, _| code == 200).await;
    assert_eq!(get(&agent, &at.nodes()).await.0, 200);
    let patch = json!({"spec": {"tags": ["t"]}});
    assert_eq!(merge(&agent, &at.node("k3s2"), &patch).await.0, 200);
    let status = format!("{}/status", at.node("k3s2"));
    for (path, why) in [
        (format!("{}?watch=true", at.nodes()), "watch"),
        (longhorn_nodes("default"), "another namespace"),
        (at.core("secrets"), "another kind"),
        (status.clone(), "a subresource"),
    ] {
        assert_eq!(get(&agent, &path).await.0, 403, "{why}");
    }
    assert_eq!(merge(&agent, &status, &patch).await.0, 403);
    let node = at.node("k3s2");
    assert_eq!(delete(&agent, &node, &Value::Null).await.0, 403);
    assert_eq!(post(&agent, &at.nodes(), &longhorn_node("x")).await.0, 403);
}

#[tokio::test]
async fn a_role_for_one_name_allows_a_list_that_selects_it() {
    let at = Place::new().await;
    let agent = at.account("agent", None).await;
    at.allow("agent", &["get", "list"], &["k3s2"]).await;
    let one = |name: &str| format!("{}?fieldSelector=metadata.name%3D{name}", at.nodes());
    heard(&agent, &one("k3s2"), |code, _| code == 200).await;
    assert_eq!(get(&agent, &at.node("k3s2")).await.0, 404);
    assert_eq!(get(&agent, &one("k3s1")).await.0, 403);
    assert_eq!(get(&agent, &at.node("k3s1")).await.0, 403);
    assert_eq!(get(&agent, &at.nodes()).await.0, 403);
}

#[tokio::test]
async fn a_token_of_a_pod_says_on_which_node_it_is() {
    let at = Place::new().await;
    if !at.is_of_today() {
        // Older tokens say nothing, and nobody can ask.
        return;
    }
    let node = format!("node-of-{}", at.namespace);
    let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}});
    let node_uid = at.make("/api/v1/nodes", &object).await["metadata"]["uid"].clone();
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let bound = at.account("bound", Some(&node)).await;
    let (code, answer) = post(&bound, WHO_AM_I, &review).await;
    assert_eq!(code, 201, "{answer}");
    let user = &answer["status"]["userInfo"];
    assert_eq!(user["username"], at.user("bound"));
    assert_eq!(
        user["extra"]["authentication.kubernetes.io/node-name"],
        json!([node])
    );
    assert_eq!(
        user["extra"]["authentication.kubernetes.io/node-uid"],
        json!([node_uid])
    );
    assert_eq!(
        user["extra"]["authentication.kubernetes.io/pod-name"],
        json!(["bound"])
    );
    let groups = user["groups"].as_array().expect("groups");
    assert!(groups.contains(&json!("system:authenticated")), "{user}");
    assert!(groups.contains(&json!(format!("system:serviceaccounts:{}", at.namespace))));
    let unbound = at.account("unbound", None).await;
    let (_, answer) = post(&unbound, WHO_AM_I, &review).await;
    let extra = &answer["status"]["userInfo"]["extra"];
    assert_eq!(extra.get("authentication.kubernetes.io/node-name"), None);
}

#[tokio::test]
async fn a_token_is_bound_only_to_a_pod_of_its_account() {
    let at = Place::new().await;
    at.account("one", Some("k3s2")).await;
    at.account("other", None).await;
    let asked = |name: &str, uid: &str| {
        json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"audiences": [], "boundObjectRef": {
                "apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid,
            }},
        })
    };
    for (account, pod, uid, code) in [
        ("one", "one", "", 201),
        ("one", "one", "another", 409),
        ("one", "none", "", 404),
        ("other", "one", "", 400),
    ] {
        let path = at.core(&format!("serviceaccounts/{account}/token"));
        let (answered, answer) = post(&at.client, &path, &asked(pod, uid)).await;
        assert_eq!(answered, code, "{account} {pod} {uid}: {answer}");
    }
}

#[tokio::test]
async fn one_can_ask_what_one_may_do() {
    let at = Place::new().await;
    let agent = at.account("agent", None).await;
    at.allow("agent", &["get", "patch"], &["k3s2"]).await;
    heard(&agent, &at.node("k3s2"), |code, _| code == 404).await;
    for (verb, name, allowed) in [
        ("patch", "k3s2", true),
        ("patch", "k3s1", false),
        ("delete", "k3s2", false),
    ] {
        let asked = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {
                "namespace": at.namespace, "verb": verb, "group": "longhorn.io",
                "resource": "nodes", "name": name,
            }},
        });
        let (code, answer) = post(&agent, MAY_I, &asked).await;
        assert_eq!(
            (code, &answer["status"]["allowed"]),
            (201, &json!(allowed)),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn whoever_has_a_token_may_look_around() {
    let at = Place::new().await;
    let agent = at.account("agent", None).await;
    for path in [
        "/version",
        "/healthz",
        "/readyz",
        "/api",
        "/apis",
        "/api/v1",
        "/apis/longhorn.io/v1beta2",
    ] {
        assert_eq!(get(&agent, path).await.0, 200, "{path}");
    }
    let (_, groups) = get(&agent, "/apis/longhorn.io").await;
    assert_eq!(
        groups["preferredVersion"]["groupVersion"],
        "longhorn.io/v1beta2"
    );
    assert_eq!(get(&agent, "/metrics").await.0, 403);
}

#[tokio::test]
async fn a_token_can_expire_and_be_revoked() {
    let server = Server::start(Options::default());
    let admin = server.endpoint(&server.admin_token());
    install(&admin.client(), &longhorn_node_crd()).await;
    let nodes = longhorn_nodes("default");
    let long = Duration::from_hours(1);
    let good = server.service_account_token("default", "agent", Some("k3s2"), long);
    let over = server.service_account_token("default", "agent", None, Duration::ZERO);
    let as_with = |token: &str| admin.with_token(token).client();
    assert_eq!(get(&as_with(&good), &nodes).await.0, 200);
    assert_eq!(get(&as_with(&over), &nodes).await.0, 401);
    server.revoke(&good);
    assert_eq!(get(&as_with(&good), &nodes).await.0, 401);
    // Nobody is let in without a token, though there are no roles here.
    let nameless = Client::try_from(kube::Config::new(server.url().parse().expect("a URL")));
    assert_eq!(get(&nameless.expect("a client"), &nodes).await.0, 401);
}
