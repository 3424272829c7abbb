//! Requests as tests make them, to an API server of which they know nothing but
//! the address: what it answers is looked at as it comes over the wire.

use std::{
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use axum::{
    body::BodyDataStream,
    http::{Method, Request, Response, header},
};
use cluster_fixtures::{
    cluster::{Cluster, POLICIES},
    endpoint::Endpoint,
    server::{Options, longhorn_node_crd},
};
use futures_util::StreamExt;
use kube::{Client, client::Body};
use serde_json::{Value, json};

/// Long enough for any machine; only a failure waits for it.
pub const PATIENCE: Duration = Duration::from_mins(3);

pub const MERGE: &str = "application/merge-patch+json";
pub const JSON_PATCH: &str = "application/json-patch+json";
pub const STRATEGIC: &str = "application/strategic-merge-patch+json";
pub const APPLY: &str = "application/apply-patch+yaml";

/// An API server with Longhorn's Node, and a namespace for one test alone.
pub struct Place {
    pub client: Client,
    pub endpoint: Endpoint,
    pub namespace: String,
    cluster: Arc<Cluster>,
}

impl Place {
    pub async fn new() -> Self {
        let cluster = Cluster::shared(Options {
            // `kubectl` sends no token over plain HTTP.
            tls: true,
            rbac: true,
            ..Options::default()
        });
        let endpoint = cluster.admin().clone();
        let client = endpoint.client();
        install(&client, &longhorn_node_crd()).await;
        discovered(&client).await;
        let new = json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"generateName": "test-"},
        });
        let (_, made) = post(&client, "/api/v1/namespaces", &new).await;
        let namespace = made["metadata"]["name"].as_str().expect("a name");
        Self {
            namespace: namespace.to_owned(),
            client,
            endpoint,
            cluster,
        }
    }

    /// Whether the API server is one that the agent is made for. Older ones differ
    /// in small things that no client of ours needs, and are not held to them.
    pub fn is_of_today(&self) -> bool {
        self.cluster.is_since(POLICIES)
    }

    /// The path of Longhorn's Nodes in the namespace of the test.
    pub fn nodes(&self) -> String {
        longhorn_nodes(&self.namespace)
    }

    pub fn node(&self, name: &str) -> String {
        format!("{}/{name}", self.nodes())
    }

    /// A path in the core group, in the namespace of the test.
    pub fn core(&self, rest: &str) -> String {
        format!("/api/v1/namespaces/{}/{rest}", self.namespace)
    }

    /// Creates a Longhorn Node with one disk.
    pub async fn make_node(&self, name: &str) -> Value {
        let (code, made) = post(&self.client, &self.nodes(), &longhorn_node(name)).await;
        assert_eq!(code, 201, "{made}");
        made
    }
}

pub fn longhorn_nodes(namespace: &str) -> String {
    format!("/apis/longhorn.io/v1beta2/namespaces/{namespace}/nodes")
}

pub fn longhorn_node(name: &str) -> Value {
    json!({
        "apiVersion": "longhorn.io/v1beta2", "kind": "Node", "metadata": {"name": name},
        "spec": {"name": name, "allowScheduling": true, "disks": {"a": {"path": "/mnt/longhorn/a"}}},
    })
}

/// Creates a definition and waits until what it defines is there.
pub async fn install(client: &Client, definition: &Value) {
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let (code, answer) = post(client, path, definition).await;
    assert!(matches!(code, 201 | 409), "{answer}");
    let spec = &definition["spec"];
    let part = |value: &Value| value.as_str().expect("a text").to_owned();
    let (group, plural) = (part(&spec["group"]), part(&spec["names"]["plural"]));
    let version = part(&spec["versions"][0]["name"]);
    let path = format!("/apis/{group}/{version}/{plural}");
    let served = async {
        while get(client, &path).await.0 != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let served = tokio::time::timeout(PATIENCE, served).await;
    served.expect("the definition is served");
}

/// Until Longhorn's Nodes are in the list by which `kubectl` finds what there is. A
/// real API server serves a kind some time before.
async fn discovered(client: &Client) {
    const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
        application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
    let there = async {
        loop {
            let request = Request::get("/apis").header(header::ACCEPT, AGGREGATED);
            let answer = client.send(request.body(Body::empty()).expect("a request"));
            let (_, found) = read(answer.await.expect("an answer")).await;
            let is = |value: &Value| *value == json!("longhorn.io");
            let mut items = found["items"].as_array().into_iter().flatten();
            let group = items.find(|group| is(&group["metadata"]["name"]));
            let kinds = group.map(|group| group["versions"][0]["resources"].clone());
            // One that knows no such list has a list of groups.
            let mut groups = found["groups"].as_array().into_iter().flatten();
            if kinds.is_some_and(|kinds| kinds.to_string().contains("\"nodes\""))
                || groups.any(|group| is(&group["name"]))
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let there = tokio::time::timeout(PATIENCE, there).await;
    there.expect("Longhorn's Nodes are listed");
}

/// A number that no other test of this process has.
pub fn unique() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::SeqCst)
}

pub async fn send(
    client: &Client,
    method: Method,
    path: &str,
    kind: &str,
    body: Vec<u8>,
) -> Response<Body> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::CONTENT_TYPE, kind)
        .header(header::ACCEPT, "application/json")
        .body(Body::from(body))
        .expect("a request");
    let answered = tokio::time::timeout(PATIENCE, client.send(request)).await;
    answered.expect("no silence").expect("an answer")
}

/// The code and the body; a body that is no JSON comes as a text.
pub async fn read(response: Response<Body>) -> (u16, Value) {
    let code = response.status().as_u16();
    let body = tokio::time::timeout(PATIENCE, response.into_body().collect_bytes()).await;
    let body = body.expect("an end of the body").expect("a body");
    let body = serde_json::from_slice(&body)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&body).into_owned()));
    (code, body)
}

pub async fn ask(
    client: &Client,
    method: Method,
    path: &str,
    kind: &str,
    body: &Value,
) -> (u16, Value) {
    let body = if body.is_null() {
        Vec::new()
    } else {
        body.to_string().into_bytes()
    };
    read(send(client, method, path, kind, body).await).await
}

pub async fn get(client: &Client, path: &str) -> (u16, Value) {
    ask(client, Method::GET, path, "application/json", &Value::Null).await
}

pub async fn post(client: &Client, path: &str, body: &Value) -> (u16, Value) {
    ask(client, Method::POST, path, "application/json", body).await
}

pub async fn put(client: &Client, path: &str, body: &Value) -> (u16, Value) {
    ask(client, Method::PUT, path, "application/json", body).await
}

pub async fn delete(client: &Client, path: &str, options: &Value) -> (u16, Value) {
    ask(client, Method::DELETE, path, "application/json", options).await
}

pub async fn patch(client: &Client, path: &str, kind: &str, body: &Value) -> (u16, Value) {
    ask(client, Method::PATCH, path, kind, body).await
}

pub async fn merge(client: &Client, path: &str, body: &Value) -> (u16, Value) {
    patch(client, path, MERGE, body).await
}

/// A watch that was granted.
pub struct Watch {
    chunks: BodyDataStream,
    begun: String,
}

impl Watch {
    pub async fn begin(client: &Client, path: &str) -> Self {
        let response = send(client, Method::GET, path, "", Vec::new()).await;
        assert_eq!(response.status(), 200, "{path}");
        Self {
            chunks: axum::body::Body::new(response.into_body()).into_data_stream(),
            begun: String::new(),
        }
    }

    /// The next event; none when the watch has ended, which it may only do
    /// between two lines.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some((line, rest)) = self.begun.split_once('\n') {
                let event = serde_json::from_str(line).expect("a line of JSON");
                self.begun = rest.to_owned();
                return Some(event);
            }
            let chunk = tokio::time::timeout(PATIENCE, self.chunks.next()).await;
            match chunk.expect("something from the watch") {
                Some(chunk) => {
                    let chunk = chunk.expect("no broken connection");
                    self.begun
                        .push_str(std::str::from_utf8(&chunk).expect("text"));
                }
                None => {
                    assert_eq!(self.begun, "");
                    return None;
                }
            }
        }
    }

    /// Whether the connection breaks, and the watch does not just end.
    pub async fn breaks(&mut self) -> bool {
        let chunk = tokio::time::timeout(PATIENCE, self.chunks.next()).await;
        chunk.expect("an end").is_some_and(|chunk| chunk.is_err())
    }

    /// The next event that is no bookmark, as its type and the object's name.
    pub async fn event(&mut self) -> (String, String) {
        loop {
            let event = self.next().await.expect("an event");
            let kind = text(&event, "/type");
            if kind != "BOOKMARK" {
                let name = text(&event, "/object/metadata/name");
                return (kind.to_owned(), name.to_owned());
            }
        }
    }
}

pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

pub fn version(object: &Value) -> &str {
    text(object, "/metadata/resourceVersion")
}
