//! Watches of an API server.

use std::time::Duration;

use cluster_fixtures::server::{Options, Server, longhorn_node_crd};
use kube::Client;
use serde_json::{Value, json};

use crate::ask::{
    Place, Watch, delete, get, install, longhorn_node, longhorn_nodes, merge, post, text, version,
};

fn seen(kind: &str, name: &str) -> (String, String) {
    (kind.to_owned(), name.to_owned())
}

async fn listed(client: &Client, path: &str) -> String {
    let (code, list) = get(client, path).await;
    assert_eq!(code, 200, "{list}");
    version(&list).to_owned()
}

#[tokio::test]
async fn a_watch_of_one_name_tells_of_that_object_only() {
    let at = Place::new().await;
    at.make_node("k3s1").await;
    let selected = format!("{}?fieldSelector=metadata.name%3Dk3s2", at.nodes());
    let (_, list) = get(&at.client, &selected).await;
    assert_eq!(list["items"], json!([]));
    assert_eq!(text(&list, "/kind"), "NodeList");
    let from = format!("{selected}&watch=true&resourceVersion={}", version(&list));
    let mut watch = Watch::begin(&at.client, &from).await;
    at.make_node("k3s2").await;
    merge(
        &at.client,
        &at.node("k3s1"),
        &json!({"spec": {"tags": ["t"]}}),
    )
    .await;
    merge(
        &at.client,
        &at.node("k3s2"),
        &json!({"spec": {"tags": ["t"]}}),
    )
    .await;
    delete(&at.client, &at.node("k3s2"), &Value::Null).await;
    assert_eq!(watch.event().await, seen("ADDED", "k3s2"));
    let modified = watch.next().await.expect("an event");
    assert_eq!(text(&modified, "/type"), "MODIFIED");
    assert_eq!(modified["object"]["spec"]["tags"], json!(["t"]));
    assert_eq!(modified["object"]["apiVersion"], "longhorn.io/v1beta2");
    assert_eq!(watch.event().await, seen("DELETED", "k3s2"));
}

#[tokio::test]
async fn what_changed_between_a_list_and_its_watch_is_told_in_order() {
    let at = Place::new().await;
    let from = listed(&at.client, &at.nodes()).await;
    at.make_node("a").await;
    at.make_node("b").await;
    delete(&at.client, &at.node("a"), &Value::Null).await;
    // A change of nothing is no event.
    merge(&at.client, &at.node("b"), &json!({"spec": {"name": "b"}})).await;
    let path = format!("{}?watch=1&resourceVersion={from}", at.nodes());
    let mut watch = Watch::begin(&at.client, &path).await;
    let mut last = 0;
    for (kind, name) in [("ADDED", "a"), ("ADDED", "b"), ("DELETED", "a")] {
        let event = watch.next().await.expect("an event");
        assert_eq!(text(&event, "/type"), kind);
        assert_eq!(text(&event, "/object/metadata/name"), name);
        let version: u64 = version(&event["object"]).parse().expect("a number");
        assert!(version > last, "{event}");
        last = version;
    }
    at.make_node("c").await;
    assert_eq!(watch.event().await, seen("ADDED", "c"));
}

#[tokio::test]
async fn a_watch_from_no_version_begins_with_what_is_there() {
    let at = Place::new().await;
    at.make_node("a").await;
    at.make_node("b").await;
    for path in ["?watch=true", "?watch=true&resourceVersion=0"] {
        let mut watch = Watch::begin(&at.client, &format!("{}{path}", at.nodes())).await;
        let mut begun = [watch.event().await, watch.event().await];
        // Nothing is promised of their order.
        begun.sort_unstable();
        assert_eq!(begun, [seen("ADDED", "a"), seen("ADDED", "b")]);
    }
}

#[tokio::test]
async fn a_streamed_list_ends_with_a_bookmark_that_says_so() {
    let at = Place::new().await;
    if !at.is_of_today() {
        // There are none.
        return;
    }
    at.make_node("a").await;
    let path = format!(
        "{}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true",
        at.nodes()
    );
    let mut watch = Watch::begin(&at.client, &path).await;
    assert_eq!(watch.event().await, seen("ADDED", "a"));
    let bookmark = watch.next().await.expect("a bookmark");
    assert_eq!(text(&bookmark, "/type"), "BOOKMARK");
    let marks = &bookmark["object"]["metadata"]["annotations"];
    assert_eq!(marks["k8s.io/initial-events-end"], "true");
    at.make_node("b").await;
    assert_eq!(watch.event().await, seen("ADDED", "b"));
    // Both or neither.
    let without = format!("{}?watch=true&sendInitialEvents=true", at.nodes());
    assert_eq!(get(&at.client, &without).await.0, 422);
}

#[tokio::test]
async fn a_watch_ends_without_an_error_when_its_time_is_over() {
    let at = Place::new().await;
    let from = listed(&at.client, &at.nodes()).await;
    let path = format!(
        "{}?watch=true&resourceVersion={from}&timeoutSeconds=1",
        at.nodes()
    );
    let mut watch = Watch::begin(&at.client, &path).await;
    assert_eq!(watch.next().await, None);
}

#[tokio::test]
async fn an_object_that_comes_under_a_selector_is_added_and_one_that_leaves_it_deleted() {
    let at = Place::new().await;
    at.make_node("a").await;
    let from = listed(&at.client, &at.nodes()).await;
    let path = format!(
        "{}?watch=true&resourceVersion={from}&labelSelector=tier%20in%20(fast,faster),!old",
        at.nodes()
    );
    let mut watch = Watch::begin(&at.client, &path).await;
    let label = |labels: Value| json!({"metadata": {"labels": labels}});
    for labels in [
        json!({"tier": "slow"}),
        json!({"tier": "fast"}),
        json!({"tier": "faster"}),
        json!({"old": "yes"}),
        json!({"old": null}),
    ] {
        merge(&at.client, &at.node("a"), &label(labels)).await;
    }
    delete(&at.client, &at.node("a"), &Value::Null).await;
    for kind in ["ADDED", "MODIFIED", "DELETED", "ADDED", "DELETED"] {
        assert_eq!(watch.event().await, seen(kind, "a"));
    }
    at.make_node("b").await;
    merge(&at.client, &at.node("b"), &label(json!({"tier": "fast"}))).await;
    let path = format!("{}?labelSelector=tier%3Dfast", at.nodes());
    let (_, list) = get(&at.client, &path).await;
    assert_eq!(list["items"].as_array().expect("items").len(), 1);
    let (code, refused) = get(
        &at.client,
        &format!("{}?fieldSelector=spec.x%3D1", at.nodes()),
    )
    .await;
    assert_eq!(code, 400, "{refused}");
    let message = text(&refused, "/message");
    assert!(
        message.contains("field label not supported: spec.x"),
        "{message}"
    );
}

/// A stand-in with little memory and a fast clock.
async fn forgetful() -> (Server, Client) {
    let server = Server::start(Options {
        watch_window: 3,
        bookmarks: Duration::from_millis(50),
        ..Options::default()
    });
    let client = server.endpoint(&server.admin_token()).client();
    install(&client, &longhorn_node_crd()).await;
    (server, client)
}

#[tokio::test]
async fn a_version_that_is_forgotten_is_expired() {
    let (server, client) = forgetful().await;
    let nodes = longhorn_nodes("default");
    let old = listed(&client, &nodes).await;
    for name in ["a", "b", "c", "d"] {
        post(&client, &nodes, &longhorn_node(name)).await;
    }
    let path = |from: &str| format!("{nodes}?watch=true&resourceVersion={from}");
    let expired = |event: Value| {
        assert_eq!(text(&event, "/type"), "ERROR");
        assert_eq!(event["object"]["code"], 410);
        assert_eq!(text(&event, "/object/reason"), "Expired");
        let message = text(&event, "/object/message");
        assert!(
            message.starts_with("too old resource version: "),
            "{message}"
        );
    };
    let mut watch = Watch::begin(&client, &path(&old)).await;
    expired(watch.next().await.expect("an error"));
    assert_eq!(watch.next().await, None);
    // One that is being served is ended in the same words.
    let now = listed(&client, &nodes).await;
    let mut watch = Watch::begin(&client, &path(&now)).await;
    server.compact();
    expired(watch.next().await.expect("an error"));
    assert_eq!(watch.next().await, None);
    let mut watch = Watch::begin(&client, &path(&now)).await;
    expired(watch.next().await.expect("an error"));
    // A new list is a new beginning.
    let now = listed(&client, &nodes).await;
    let mut watch = Watch::begin(&client, &path(&now)).await;
    post(&client, &nodes, &longhorn_node("e")).await;
    assert_eq!(watch.event().await, seen("ADDED", "e"));
}

#[tokio::test]
async fn bookmarks_come_to_those_who_want_them_and_a_watch_can_go_on_from_one() {
    let (server, client) = forgetful().await;
    let nodes = longhorn_nodes("default");
    let from = listed(&client, &nodes).await;
    let path = format!("{nodes}?watch=true&allowWatchBookmarks=true&resourceVersion={from}");
    let mut watch = Watch::begin(&client, &path).await;
    // More changes of other kinds than this server remembers of any.
    for _ in 0..5 {
        server
            .store()
            .put("", "configmaps", "default", "other", json!({}));
    }
    let wanted = server.store().version().to_string();
    loop {
        let event = watch.next().await.expect("a bookmark");
        assert_eq!(text(&event, "/type"), "BOOKMARK", "{event}");
        assert_eq!(text(&event, "/object/kind"), "Node");
        if version(&event["object"]) == wanted {
            break;
        }
    }
    let path = format!("{nodes}?watch=true&resourceVersion={wanted}");
    let mut watch = Watch::begin(&client, &path).await;
    post(&client, &nodes, &longhorn_node("a")).await;
    assert_eq!(watch.event().await, seen("ADDED", "a"));
}
