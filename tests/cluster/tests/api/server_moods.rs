//! The stand-in out of sorts, what it notes of requests, and who is asked before
//! it stores anything.

use std::{
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use cluster_fixtures::{
    admission::{Admission, Chain, Denied, Operation, Review},
    server::{Mood, Options, Seen, Server, Whom, longhorn_node_crd},
};
use kube::Client;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::ask::{
    PATIENCE, Watch, ask, delete, get, install, longhorn_node, longhorn_nodes, merge, post, text,
};

async fn start(options: Options) -> (Server, Client) {
    let server = Server::start(options);
    let client = server.endpoint(&server.admin_token()).client();
    install(&client, &longhorn_node_crd()).await;
    post(&client, &longhorn_nodes("default"), &longhorn_node("k3s2")).await;
    (server, client)
}

fn node() -> String {
    format!("{}/k3s2", longhorn_nodes("default"))
}

/// Whether a request comes to nothing at all, and with which words.
async fn fails(client: &Client, path: &str) -> String {
    let request = axum::http::Request::get(path).body(kube::client::Body::empty());
    let answered = timeout(PATIENCE, client.send(request.expect("a request"))).await;
    let error = answered.expect("no silence").expect_err("no answer");
    let mut words = Vec::new();
    let mut at: Option<&dyn std::error::Error> = Some(&error);
    while let Some(error) = at {
        words.push(error.to_string());
        at = error.source();
    }
    words.join(": ")
}

#[tokio::test]
async fn a_server_that_refuses_listens_to_nobody_and_comes_back_on_its_port() {
    let (server, client) = start(Options::default()).await;
    let list = longhorn_nodes("default");
    let mut watch = Watch::begin(&client, &format!("{list}?watch=true")).await;
    assert_eq!(watch.event().await.0, "ADDED");
    server.mood(Mood::Refusing);
    assert!(watch.breaks().await);
    // A child that another test has just started holds the port until it runs its
    // program: a connection to that is reset.
    let refused = async { while !fails(&client, &node()).await.contains("refused") {} };
    timeout(PATIENCE, refused).await.expect("nobody listens");
    server.mood(Mood::Well);
    assert_eq!(get(&client, &node()).await.0, 200);
}

#[tokio::test]
async fn a_mood_can_be_for_one_user_or_one_kind() {
    let (server, client) = start(Options::default()).await;
    let token = server.service_account_token("default", "agent", None, Duration::from_hours(1));
    let agent = server.endpoint(&token).client();
    server.mood_for(Whom::account("default", "agent"), Mood::Refusing);
    fails(&agent, &node()).await;
    assert_eq!(get(&client, &node()).await.0, 200);
    server.mood_for(Whom::account("default", "agent"), Mood::Well);
    server.mood_for(Whom::longhorn_nodes(), Mood::Failing(500));
    let (code, failed) = get(&agent, &node()).await;
    assert_eq!(
        (code, text(&failed, "/message")),
        (500, "made to fail with 500")
    );
    assert_eq!(get(&agent, "/api/v1/nodes").await.0, 200);
    server.mood(Mood::Well);
    assert_eq!(get(&agent, &node()).await.0, 200);
}

#[tokio::test]
async fn an_answer_can_be_garbage_or_a_failure() {
    let (server, client) = start(Options::default()).await;
    server.mood(Mood::Garbage(200));
    let (code, answer) = get(&client, &node()).await;
    assert!(code == 200 && answer.as_str().is_some_and(|text| text.contains("<html>")));
    // Not those that the client of `kube` tries again by itself.
    for code in [403, 409, 410, 500] {
        server.mood(Mood::Failing(code));
        let (answered, status) = get(&client, &node()).await;
        assert_eq!((answered, text(&status, "/kind")), (code, "Status"));
    }
}

#[tokio::test]
async fn who_waits_for_a_slow_answer_holds_up_nobody() {
    let (server, client) = start(Options::default()).await;
    let token = server.service_account_token("default", "agent", None, Duration::from_hours(1));
    let agent = server.endpoint(&token).client();
    server.mood_for(
        Whom::account("default", "agent"),
        Mood::Slow(Duration::from_secs(3_600)),
    );
    let waiting = tokio::spawn(async move { get(&agent, &node()).await });
    server
        .until_seen(|seen| seen.user.ends_with(":agent"))
        .await;
    assert_eq!(get(&client, &node()).await.0, 200);
    assert!(!waiting.is_finished());
    waiting.abort();
    server.mood_for(
        Whom::account("default", "agent"),
        Mood::Slow(Duration::from_millis(10)),
    );
    let agent = server.endpoint(&token).client();
    assert_eq!(get(&agent, &node()).await.0, 200);
}

#[tokio::test]
async fn only_watches_can_be_out_of_sorts() {
    let (server, client) = start(Options::default()).await;
    let watch = format!("{}?watch=true", longhorn_nodes("default"));
    server.mood(Mood::NoWatch);
    assert_eq!(get(&client, &watch).await.0, 403);
    server.mood(Mood::WatchEndsAtOnce);
    assert_eq!(Watch::begin(&client, &watch).await.next().await, None);
    for silent in [Mood::SilentWatch, Mood::Silent] {
        server.mood(silent);
        server.forget_requests();
        let waiting = tokio::spawn({
            let (client, watch) = (client.clone(), watch.clone());
            async move { get(&client, &watch).await }
        });
        server.until_seen(|seen| seen.verb == "watch").await;
        if silent == Mood::SilentWatch {
            assert_eq!(get(&client, &node()).await.0, 200);
        }
        assert!(!waiting.is_finished());
        waiting.abort();
    }
}

#[tokio::test]
async fn each_request_is_noted_with_the_verb_that_rights_know() {
    let (server, client) = start(Options::default()).await;
    server.forget_requests();
    let list = longhorn_nodes("default");
    let one = format!("{list}?fieldSelector=metadata.name%3Dk3s2");
    get(&client, &one).await;
    let mut watch = Watch::begin(&client, &format!("{one}&watch=true")).await;
    watch.event().await;
    get(&client, &node()).await;
    merge(
        &client,
        &format!("{}/status", node()),
        &json!({"status": {"zone": "z"}}),
    )
    .await;
    post(&client, &list, &longhorn_node("k3s2")).await;
    delete(&client, &node(), &Value::Null).await;
    get(&client, "/version").await;
    let noted: Vec<(String, String, String, String, u16)> = server
        .requests()
        .into_iter()
        .map(|seen| {
            assert_eq!(seen.user, "system:admin");
            (
                seen.verb,
                seen.resource,
                seen.subresource,
                seen.name,
                seen.status,
            )
        })
        .collect();
    let row = |verb: &str, resource: &str, sub: &str, name: &str, status: u16| {
        (
            verb.to_owned(),
            resource.to_owned(),
            sub.to_owned(),
            name.to_owned(),
            status,
        )
    };
    assert_eq!(
        noted,
        [
            row("list", "nodes", "", "k3s2", 200),
            row("watch", "nodes", "", "k3s2", 200),
            row("get", "nodes", "", "k3s2", 200),
            row("patch", "nodes", "status", "k3s2", 200),
            row("create", "nodes", "", "", 409),
            row("delete", "nodes", "", "k3s2", 200),
            row("get", "", "", "", 200),
        ]
    );
    let first = server.requests().swap_remove(0);
    assert_eq!(
        (first.group.as_str(), first.version.as_str()),
        ("longhorn.io", "v1beta2")
    );
    assert_eq!(first.namespace, "default");
    assert_eq!(first.query, "fieldSelector=metadata.name%3Dk3s2");
    server.forget_requests();
    assert_eq!(server.requests(), []);
}

#[tokio::test]
async fn over_tls_a_client_needs_the_authority_of_the_server() {
    let (server, client) = start(Options {
        tls: true,
        ..Options::default()
    })
    .await;
    assert!(server.url().starts_with("https://"));
    assert_eq!(get(&client, &node()).await.0, 200);
    let stranger = Server::start(Options {
        tls: true,
        ..Options::default()
    });
    let mut endpoint = server.endpoint(&server.admin_token());
    endpoint.ca_pem = stranger.ca_pem();
    let words = fails(&endpoint.client(), &node()).await;
    assert!(words.contains("certificate"), "{words}");
}

/// Marks what is stored, refuses some of it, and notes what it was asked.
#[derive(Default)]
struct Clerk {
    asked: Mutex<Vec<String>>,
}

impl Admission for Clerk {
    fn mutate(&self, review: &Review<'_>, object: &mut Value) -> Result<(), Denied> {
        if review.resource == "nodes" {
            object["spec"]["tags"] = json!(["marked"]);
            object["spec"]["nonsense"] = json!(1);
        }
        Ok(())
    }

    fn validate(&self, review: &Review<'_>) -> Result<(), Denied> {
        let marked = |object: Option<&Value>| {
            object.is_some_and(|object| object["spec"]["tags"] == json!(["marked"]))
        };
        self.asked.lock().expect("unpoisoned").push(format!(
            "{} {}.{}/{} {} {} {} by {}",
            review.operation,
            review.resource,
            review.group,
            review.subresource,
            review.name,
            marked(review.old),
            marked(review.object),
            review.user.username,
        ));
        if review.operation == Operation::Delete || review.name == "bad" {
            return Err(Denied {
                code: 403,
                reason: "Forbidden".to_owned(),
                message: "admission webhook \"clerk\" denied the request: no".to_owned(),
                causes: Vec::new(),
            });
        }
        Ok(())
    }
}

#[tokio::test]
async fn what_is_to_be_stored_or_deleted_passes_admission_first() {
    let (server, client) = start(Options::default()).await;
    let clerk = Arc::new(Clerk::default());
    server.set_admission(Arc::new(Chain(vec![clerk.clone()])));
    let list = longhorn_nodes("default");
    let (code, made) = post(&client, &list, &longhorn_node("k3s1")).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["spec"]["tags"], json!(["marked"]));
    assert_eq!(made["spec"].get("nonsense"), None);
    let (code, refused) = post(&client, &list, &longhorn_node("bad")).await;
    assert_eq!((code, text(&refused, "/reason")), (403, "Forbidden"));
    assert_eq!(
        refused["message"],
        "admission webhook \"clerk\" denied the request: no"
    );
    assert_eq!(get(&client, &format!("{list}/bad")).await.0, 404);
    // Asked even where nothing changes in the end.
    let k3s1 = format!("{list}/k3s1");
    assert_eq!(
        merge(&client, &k3s1, &json!({"spec": {"tags": []}}))
            .await
            .0,
        200
    );
    assert_eq!(delete(&client, &k3s1, &Value::Null).await.0, 403);
    assert_eq!(get(&client, &k3s1).await.0, 200);
    let asked = clerk.asked.lock().expect("unpoisoned").clone();
    assert_eq!(
        asked,
        [
            "CREATE nodes.longhorn.io/ k3s1 false true by system:admin",
            "CREATE nodes.longhorn.io/ bad false true by system:admin",
            "UPDATE nodes.longhorn.io/ k3s1 true true by system:admin",
            "DELETE nodes.longhorn.io/ k3s1 true false by system:admin",
        ]
    );
}

#[tokio::test]
async fn a_thousand_watches_are_told_of_their_own_object_only() {
    let (server, client) = start(Options::default()).await;
    let list = longhorn_nodes("default");
    let mut watches = Vec::new();
    for number in 0..1_000 {
        let name = format!("n{number}");
        let spec = json!({"spec": {"name": name}});
        server
            .store()
            .put("longhorn.io", "nodes", "default", &name, spec);
        let path = format!("{list}?watch=true&fieldSelector=metadata.name%3D{name}");
        let mut watch = Watch::begin(&client, &path).await;
        assert_eq!(watch.event().await, ("ADDED".to_owned(), name));
        watches.push(watch);
    }
    for number in 0..1_000 {
        let patch = json!({"spec": {"tags": ["t"]}});
        let name = format!("n{number}");
        server
            .store()
            .patch("longhorn.io", "nodes", "default", &name, &patch);
    }
    for (number, watch) in watches.iter_mut().enumerate() {
        assert_eq!(
            watch.event().await,
            ("MODIFIED".to_owned(), format!("n{number}"))
        );
    }
    let watching = server.requests();
    let watching = watching.iter().filter(|seen| seen.verb == "watch");
    assert_eq!(watching.count(), 1_000);
    let (code, _) = ask(&client, axum::http::Method::GET, &node(), "", &Value::Null).await;
    assert_eq!(code, 200);
}

#[tokio::test]
async fn what_a_test_writes_past_the_server_and_what_clients_write_is_all_kept() {
    let (server, client) = start(Options::default()).await;
    let store = server.store();
    let disk = |name: String| json!({"spec": {"disks": {name: {"path": "/p"}}}});
    let writer = thread::spawn(move || {
        for number in 0..200 {
            let patch = disk(format!("past{number}"));
            store.patch("longhorn.io", "nodes", "default", "k3s2", &patch);
        }
    });
    for number in 0..80 {
        let (code, answer) = merge(&client, &node(), &disk(format!("by{number}"))).await;
        assert_eq!(code, 200, "{answer}");
    }
    writer.join().expect("written");
    let (_, node) = get(&client, &node()).await;
    let disks = node["spec"]["disks"].as_object().expect("disks");
    assert_eq!(disks.len(), 1 + 200 + 80);
}

trait UntilSeen {
    async fn until_seen(&self, wanted: impl Fn(&Seen) -> bool);
}

impl UntilSeen for Server {
    async fn until_seen(&self, wanted: impl Fn(&Seen) -> bool) {
        let seen = async {
            while !self.requests().iter().any(&wanted) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, seen).await.expect("the request comes");
    }
}
