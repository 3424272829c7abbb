//! What tests ask of an API server before they begin, in requests that a real
//! one and the stand-in answer alike.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hyper::{Method, Request, header};
use kube::{
    Client,
    core::{DynamicObject, GroupVersionKind, Resource as _, Status},
    discovery::pinned_kind,
};
use serde_json::{Value, json};

/// Until a resource that was defined is served.
const PATIENCE: Duration = Duration::from_mins(1);
/// How often it is asked for meanwhile.
const PAUSE: Duration = Duration::from_millis(50);
/// Seconds that a token is good for.
const LIVES: u32 = 3600;

/// The answer to a request with a JSON body.
///
/// # Errors
///
/// When there is no answer, or it is a failure.
pub async fn send(client: &Client, method: Method, path: &str, body: &Value) -> Result<Value> {
    let body = if method == Method::GET {
        Vec::new()
    } else {
        serde_json::to_vec(body).context("a body")?
    };
    let request = Request::builder()
        .method(method.clone())
        .uri(path)
        .header(header::CONTENT_TYPE, "application/json")
        .body(body)
        .context("a request")?;
    client
        .request(request)
        .await
        .with_context(|| format!("{method} {path}"))
}

/// What is at a path; null where nothing is.
///
/// # Errors
///
/// As [`send`].
pub async fn get(client: &Client, path: &str) -> Result<Value> {
    match send(client, Method::GET, path, &Value::Null).await {
        Ok(object) => Ok(object),
        Err(error) => match refusal(&error) {
            Some(status) if status.code == 404 => Ok(Value::Null),
            _ => Err(error),
        },
    }
}

/// Creates an object, or puts it in the place of the one that is there.
///
/// # Errors
///
/// As [`send`], and when the API server does not know its kind.
pub async fn apply(client: &Client, object: &Value) -> Result<()> {
    let of = |pointer| object.pointer(pointer).and_then(Value::as_str);
    let (Some(api), Some(kind), Some(name)) =
        (of("/apiVersion"), of("/kind"), of("/metadata/name"))
    else {
        bail!("no object: {object}");
    };
    let (group, version) = api.split_once('/').unwrap_or(("", api));
    let kind = GroupVersionKind::gvk(group, version, kind);
    let (resource, _) = pinned_kind(client, &kind)
        .await
        .with_context(|| format!("what a {api} {} is", kind.kind))?;
    let collection = DynamicObject::url_path(&resource, of("/metadata/namespace"));
    if create(client, &collection, object).await? {
        return Ok(());
    }
    let path = format!("{collection}/{name}");
    let there = send(client, Method::GET, &path, &Value::Null).await?;
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        let version = there.pointer("/metadata/resourceVersion").cloned();
        metadata.insert("resourceVersion".into(), version.unwrap_or_default());
    }
    send(client, Method::PUT, &path, &object).await.map(drop)
}

/// Creates an object, unless one of that name is there.
///
/// # Errors
///
/// As [`send`].
pub async fn ensure(client: &Client, collection: &str, object: &Value) -> Result<()> {
    create(client, collection, object).await.map(drop)
}

/// Whether it was created; not where one of that name is there.
async fn create(client: &Client, collection: &str, object: &Value) -> Result<bool> {
    match send(client, Method::POST, collection, object).await {
        Ok(_) => Ok(true),
        Err(error) => match refusal(&error) {
            Some(status) if status.is_already_exists() => Ok(false),
            _ => Err(error),
        },
    }
}

/// What the API server says in an error.
fn refusal(error: &anyhow::Error) -> Option<&Status> {
    match error.downcast_ref::<kube::Error>() {
        Some(kube::Error::Api(status)) => Some(status),
        _ => None,
    }
}

/// Creates it, where it is not there.
///
/// # Errors
///
/// As [`send`].
pub async fn ensure_namespace(client: &Client, name: &str) -> Result<()> {
    let namespace = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": { "name": name },
    });
    ensure(client, "/api/v1/namespaces", &namespace).await
}

/// A token of a ServiceAccount; with a node, one bound to a pod that runs on
/// it, as the pods of a DaemonSet have it. Namespace, account, node and pod are
/// made where they are missing.
///
/// # Errors
///
/// As [`send`].
pub async fn service_account_token(
    client: &Client,
    namespace: &str,
    account: &str,
    node: Option<&str>,
) -> Result<String> {
    ensure_namespace(client, namespace).await?;
    let accounts = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
    let object = json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": { "name": account, "namespace": namespace },
    });
    ensure(client, &accounts, &object).await?;

    let bound = match node {
        Some(node) => pod_on(client, namespace, account, node).await?,
        None => Value::Null,
    };
    let request = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": { "expirationSeconds": LIVES, "boundObjectRef": bound },
    });
    let answer = send(
        client,
        Method::POST,
        &format!("{accounts}/{account}/token"),
        &request,
    )
    .await?;
    answer
        .pointer("/status/token")
        .and_then(Value::as_str)
        .map(str::to_owned)
        .context("a TokenRequest without a token")
}

/// A reference to the account's pod on the node.
async fn pod_on(client: &Client, namespace: &str, account: &str, node: &str) -> Result<Value> {
    let object = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": node } });
    ensure(client, "/api/v1/nodes", &object).await?;
    let name = format!("{account}-{node}");
    let pods = format!("/api/v1/namespaces/{namespace}/pods");
    let object = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "namespace": namespace },
        "spec": {
            "nodeName": node,
            "serviceAccountName": account,
            "containers": [{ "name": "agent", "image": "agent" }],
        },
    });
    ensure(client, &pods, &object).await?;
    let pod = send(client, Method::GET, &format!("{pods}/{name}"), &Value::Null).await?;
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "name": name,
        "uid": pod.pointer("/metadata/uid"),
    }))
}

/// Defines a resource, and waits until it is served.
///
/// # Errors
///
/// As [`send`], and when it does not appear.
pub async fn define(client: &Client, definition: &Value) -> Result<()> {
    ensure(
        client,
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
        definition,
    )
    .await?;
    let text = |pointer| {
        definition
            .pointer(pointer)
            .and_then(Value::as_str)
            .with_context(|| format!("a definition without {pointer}"))
    };
    let path = format!(
        "/apis/{}/{}/{}",
        text("/spec/group")?,
        text("/spec/versions/0/name")?,
        text("/spec/names/plural")?
    );
    let deadline = Instant::now() + PATIENCE;
    loop {
        match send(client, Method::GET, &path, &Value::Null).await {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                bail!("{path} was defined and is not served: {error:#}")
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}
