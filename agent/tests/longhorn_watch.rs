//! The view of this node's Longhorn Node, against a small API server on
//! 127.0.0.1 that can be made to fail in the ways real ones do.
//!
//! Every wait is for a state. Counts are upper bounds, which a slow machine
//! only makes easier to keep.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that cannot go on should say so and stop"
)]

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use disk_discovery::longhorn::{LonghornSettings, Registration, Sight, View, spawn_with};
use futures_util::future::join_all;
use kube::Config;
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::{oneshot, watch},
};

const LIST: &str = "/apis/longhorn.io/v1beta2/namespaces/longhorn-system/nodes";
/// Long enough for any machine; only a failure waits for it.
const PATIENCE: Duration = Duration::from_mins(1);
/// In which requests are counted. With pauses of one, two and four seconds,
/// give or take a quarter, at most three sessions begin in it.
const WINDOW: Duration = Duration::from_secs(4);

/// How the API server behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Well,
    /// As the API server says it, in plain text.
    NoSuchResource,
    /// 200 with something that is no list.
    Garbage,
    Failing(u16),
    /// Lists, but a watch is refused.
    NoWatch,
    /// Lists, but a watch is closed at once, without an error.
    WatchEndsAtOnce,
    /// Takes requests and never answers.
    Silent,
    /// Lists, but never answers a watch.
    SilentWatch,
}

#[derive(Debug)]
struct Server {
    mood: Mutex<Mood>,
    node: Mutex<Option<Value>>,
    /// Lines of the watch, with their versions.
    events: Mutex<Vec<(u64, String)>>,
    version: watch::Sender<u64>,
    requests: Mutex<Vec<(Method, String)>>,
}

/// Holds a port from before the first server until after the last, so that a
/// connection to it is refused in between and no other test gets it.
struct Port(TcpSocket, SocketAddr);

/// A server that is up; everything it has open is closed when it goes.
struct Up(Option<oneshot::Sender<()>>, Option<thread::JoinHandle<()>>);

impl Drop for Up {
    fn drop(&mut self) {
        drop(self.0.take());
        if let Some(thread) = self.1.take() {
            thread.join().expect("the server");
        }
    }
}

impl Port {
    fn reserve() -> Self {
        let socket = Self::socket(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let address = socket.local_addr().expect("an address");
        Self(socket, address)
    }

    fn socket(address: SocketAddr) -> TcpSocket {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseport(true).expect("set");
        socket.bind(address).expect("bound");
        socket
    }

    fn up(&self, server: &Arc<Server>) -> Up {
        let listener = Self::socket(self.1).listen(64).expect("listening");
        let listener = listener.into_std().expect("a listener");
        let (stop, stopped) = oneshot::channel::<()>();
        let router = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(server));
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("a listener");
                tokio::select! {
                    served = axum::serve(listener, router).into_future() => served.expect("served"),
                    _ = stopped => {}
                }
            });
        });
        Up(Some(stop), Some(thread))
    }

    fn config(&self) -> Config {
        assert_eq!(self.0.local_addr().expect("an address"), self.1);
        Config::new(format!("http://{}", self.1).parse().expect("a URL"))
    }

    fn follow(&self) -> watch::Receiver<View> {
        let config = self.config();
        spawn_with(settings(), move || {
            let config = config.clone();
            async { Ok(config) }
        })
        .view
    }
}

impl Server {
    fn new(mood: Mood, node: Option<Value>) -> Arc<Self> {
        Arc::new(Self {
            mood: Mutex::new(mood),
            node: Mutex::new(node),
            events: Mutex::default(),
            version: watch::Sender::new(10),
            requests: Mutex::default(),
        })
    }

    fn feel(&self, mood: Mood) {
        *self.mood.lock().expect("the mood") = mood;
    }

    /// Changes the node and tells whoever watches.
    fn change(&self, kind: &str, node: Value) {
        let kept = (kind != "DELETED").then(|| node.clone());
        if kind != "BOOKMARK" {
            *self.node.lock().expect("the node") = kept;
        }
        let version = *self.version.borrow() + 1;
        let mut node = node;
        node["metadata"]["resourceVersion"] = json!(version.to_string());
        self.say(&json!({"type": kind, "object": node}).to_string());
    }

    fn say(&self, line: &str) {
        let version = *self.version.borrow() + 1;
        let line = format!("{line}\n");
        self.events.lock().expect("events").push((version, line));
        self.version.send_replace(version);
    }

    fn requests(&self) -> usize {
        self.requests.lock().expect("requests").len()
    }

    /// Everything asked for was this one object, and nothing was written.
    fn only_read(&self) {
        let requests = self.requests.lock().expect("requests");
        assert!(!requests.is_empty());
        for (method, uri) in requests.iter() {
            assert_eq!(method, Method::GET, "{uri}");
            assert!(uri.starts_with(&format!("{LIST}?")), "{uri}");
            let one = ["metadata.name%3Dk3s2", "metadata.name=k3s2"];
            assert!(one.iter().any(|one| uri.contains(one)), "{uri}");
        }
    }
}

async fn answer(State(server): State<Arc<Server>>, request: Request) -> Response {
    let (method, uri) = (request.method().clone(), request.uri().to_string());
    let watched = uri.contains("watch=true");
    server
        .requests
        .lock()
        .expect("requests")
        .push((method, uri.clone()));
    let mood = *server.mood.lock().expect("the mood");
    match mood {
        Mood::NoSuchResource => (StatusCode::NOT_FOUND, "404 page not found\n").into_response(),
        Mood::Garbage => "<html>\nplease log in\n</html>\n".into_response(),
        Mood::Failing(code) => failed(code),
        Mood::NoWatch if watched => failed(403),
        Mood::WatchEndsAtOnce if watched => "".into_response(),
        Mood::SilentWatch if watched => std::future::pending().await,
        Mood::Silent => std::future::pending().await,
        Mood::Well if watched => Body::from_stream(events(server, since(&uri))).into_response(),
        Mood::Well | Mood::NoWatch | Mood::WatchEndsAtOnce | Mood::SilentWatch => {
            let version = server.version.borrow().to_string();
            let items: Vec<Value> = server
                .node
                .lock()
                .expect("the node")
                .iter()
                .cloned()
                .collect();
            axum::Json(json!({
                "apiVersion": "longhorn.io/v1beta2", "kind": "NodeList",
                "metadata": {"resourceVersion": version}, "items": items,
            }))
            .into_response()
        }
    }
}

fn failed(code: u16) -> Response {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": format!("made to fail with {code}"), "reason": "Test", "code": code,
    });
    let code = StatusCode::from_u16(code).expect("a status code");
    (code, axum::Json(status)).into_response()
}

fn since(uri: &str) -> u64 {
    let (_, version) = uri.split_once("resourceVersion=").expect("a version");
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().expect("a version")
}

/// Lines after this version, those that are there and those that will be.
fn events(
    server: Arc<Server>,
    after: u64,
) -> impl futures_util::Stream<Item = Result<String, std::io::Error>> {
    let versions = server.version.subscribe();
    futures_util::stream::unfold(
        (server, versions, after),
        |(server, mut versions, after)| async move {
            versions.wait_for(|version| *version > after).await.ok()?;
            let next = {
                let events = server.events.lock().expect("events");
                events.iter().find(|(version, _)| *version > after).cloned()
            };
            let (version, line) = next?;
            Some((Ok(line), (server, versions, version)))
        },
    )
}

fn settings() -> LonghornSettings {
    LonghornSettings {
        namespace: "longhorn-system".to_owned(),
        node_name: "k3s2".to_owned(),
    }
}

fn node(disks: &[&str], uuid: &str) -> Value {
    let spec: BTreeMap<&str, Value> = disks
        .iter()
        .map(|disk| {
            let spec = json!({"path": format!("/mnt/longhorn/{disk}"), "allowScheduling": true});
            (*disk, spec)
        })
        .collect();
    let status: BTreeMap<&str, Value> = disks
        .iter()
        .filter(|_| !uuid.is_empty())
        .map(|disk| {
            let ready = json!([{"type": "Ready", "status": "True"}]);
            (*disk, json!({"diskUUID": uuid, "conditions": ready}))
        })
        .collect();
    json!({
        "apiVersion": "longhorn.io/v1beta2", "kind": "Node",
        "metadata": {"name": "k3s2", "namespace": "longhorn-system", "resourceVersion": "10"},
        "spec": {"disks": spec}, "status": {"diskStatus": status},
    })
}

fn present(disks: &[&str], uuid: &str) -> View {
    let registration = |disk: &&str| {
        let registration = Registration {
            path: format!("/mnt/longhorn/{disk}"),
            allow_scheduling: true,
            uuid: (!uuid.is_empty()).then(|| uuid.to_owned()),
            ready: (!uuid.is_empty()).then_some(true),
        };
        ((*disk).to_owned(), registration)
    };
    let disks = disks.iter().map(registration).collect();
    View::Present {
        disks,
        frozen: None,
    }
}

async fn until(views: &mut watch::Receiver<View>, wanted: impl FnMut(&View) -> bool) -> View {
    let seen = match tokio::time::timeout(PATIENCE, views.wait_for(wanted)).await {
        Ok(view) => Ok(view.expect("the task never ends").clone()),
        Err(elapsed) => Err(elapsed),
    };
    seen.unwrap_or_else(|_| panic!("still {:?}", *views.borrow()))
}

async fn until_is(views: &mut watch::Receiver<View>, wanted: View) {
    until(views, |view| *view == wanted).await;
}

async fn until_unreachable(views: &mut watch::Receiver<View>, words: &str) {
    let silent = |view: &View| matches!(view, View::Unreachable { .. } | View::Forbidden { .. });
    let view = until(views, silent).await;
    let (View::Unreachable { why } | View::Forbidden { why }) = view else {
        panic!("{view:?}");
    };
    assert!(why.contains(words), "{why}");
    assert_eq!(why.lines().count(), 1, "{why}");
}

#[tokio::test]
async fn the_view_follows_the_node() {
    let server = Server::new(Mood::Well, None);
    let port = Port::reserve();
    let _up = port.up(&server);
    let mut views = port.follow();
    assert_eq!(*views.borrow(), View::Connecting);
    until_is(&mut views, View::Absent).await;
    server.change("ADDED", node(&[], ""));
    until_is(&mut views, present(&[], "")).await;
    server.change("MODIFIED", node(&["a"], ""));
    until_is(&mut views, present(&["a"], "")).await;
    server.change(
        "BOOKMARK",
        json!({"apiVersion": "longhorn.io/v1beta2", "kind": "Node", "metadata": {}}),
    );
    server.change("MODIFIED", node(&["a", "b"], "u"));
    until_is(&mut views, present(&["a", "b"], "u")).await;
    server.change("DELETED", node(&["a", "b"], "u"));
    until_is(&mut views, View::Absent).await;
    let requests = server.requests.lock().expect("requests").clone();
    assert_eq!(requests.len(), 2, "one list and one watch: {requests:?}");
    server.only_read();
}

#[tokio::test]
async fn a_change_that_is_of_no_interest_wakes_nobody() {
    let server = Server::new(Mood::Well, Some(node(&["a"], "u")));
    let port = Port::reserve();
    let _up = port.up(&server);
    let mut views = port.follow();
    until_is(&mut views, present(&["a"], "u")).await;
    let mut busy = node(&["a"], "u");
    busy["status"]["diskStatus"]["a"]["storageScheduled"] = json!(7);
    server.change("MODIFIED", busy);
    server.change("MODIFIED", node(&["a"], "v"));
    let woken = tokio::time::timeout(PATIENCE, views.changed()).await;
    woken.expect("a change").expect("the task never ends");
    assert_eq!(*views.borrow(), present(&["a"], "v"));
}

#[tokio::test]
async fn longhorn_can_be_installed_later() {
    let server = Server::new(Mood::NoSuchResource, Some(node(&["a"], "u")));
    let port = Port::reserve();
    let _up = port.up(&server);
    let mut views = port.follow();
    until_is(&mut views, View::NotInstalled).await;
    tokio::time::sleep(WINDOW).await;
    assert!(server.requests() <= 4, "{} requests", server.requests());
    assert_eq!(*views.borrow(), View::NotInstalled);
    server.feel(Mood::Well);
    until_is(&mut views, present(&["a"], "u")).await;
    server.only_read();
}

#[tokio::test]
async fn answers_that_are_no_answer_are_told_and_not_hammered() {
    let moods = [
        (Mood::Garbage, "not understood"),
        (Mood::Failing(403), "answered 403: made to fail"),
        (Mood::Failing(500), "answered 500: made to fail"),
        // kube would retry this one itself.
        (Mood::Failing(503), "answered 503: made to fail"),
    ];
    join_all(moods.map(|(mood, words)| async move {
        let server = Server::new(mood, Some(node(&["a"], "u")));
        let port = Port::reserve();
        let _up = port.up(&server);
        let mut views = port.follow();
        until_unreachable(&mut views, words).await;
        tokio::time::sleep(WINDOW).await;
        assert!(
            server.requests() <= 4,
            "{mood:?}: {} requests",
            server.requests()
        );
        server.feel(Mood::Well);
        until_is(&mut views, present(&["a"], "u")).await;
        server.only_read();
    }))
    .await;
}

#[tokio::test]
async fn an_api_that_goes_away_is_unreachable_until_it_is_back() {
    let server = Server::new(Mood::Well, Some(node(&["a"], "u")));
    let port = Port::reserve();
    let mut views = port.follow();
    until_unreachable(&mut views, "refused").await;
    let up = port.up(&server);
    until_is(&mut views, present(&["a"], "u")).await;
    drop(up);
    until_unreachable(&mut views, "refused").await;
    // The node has not changed: only a new list can tell that it is there.
    let _up = port.up(&server);
    until_is(&mut views, present(&["a"], "u")).await;
    server.change("MODIFIED", node(&["b"], "u"));
    until_is(&mut views, present(&["b"], "u")).await;
    assert!(server.requests() <= 8, "{} requests", server.requests());
    server.only_read();
}

#[tokio::test]
async fn a_watch_that_expires_or_talks_nonsense_is_begun_again() {
    let expired = json!({"type": "ERROR", "object": {
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "too old resource version", "reason": "Expired", "code": 410,
    }});
    let lines = [expired.to_string(), "<html>".to_owned(), "{}".to_owned()];
    join_all(lines.map(|line| async move {
        let server = Server::new(Mood::Well, Some(node(&["a"], "u")));
        let port = Port::reserve();
        let _up = port.up(&server);
        let mut views = port.follow();
        until_is(&mut views, present(&["a"], "u")).await;
        // What was last listed stays in view meanwhile.
        let mut seen = views.clone();
        server.say(&line);
        *server.node.lock().expect("the node") = Some(node(&["b"], "u"));
        seen.mark_unchanged();
        let woken = tokio::time::timeout(PATIENCE, seen.changed()).await;
        woken.expect("a change").expect("the task never ends");
        assert_eq!(*seen.borrow(), present(&["b"], "u"), "after {line}");
        tokio::time::sleep(WINDOW).await;
        assert!(server.requests() <= 8, "{} requests", server.requests());
        server.only_read();
    }))
    .await;
}

#[tokio::test]
async fn a_watch_that_is_refused_is_replaced_by_lists() {
    let server = Server::new(Mood::NoWatch, Some(node(&["a"], "u")));
    let port = Port::reserve();
    let _up = port.up(&server);
    let mut views = port.follow();
    until_is(&mut views, present(&["a"], "u")).await;
    *server.node.lock().expect("the node") = Some(node(&["b"], "u"));
    until_is(&mut views, present(&["b"], "u")).await;
    tokio::time::sleep(WINDOW).await;
    assert!(server.requests() <= 8, "{} requests", server.requests());
    server.only_read();
}

#[tokio::test]
async fn a_watch_that_ends_at_once_is_not_begun_again_at_once() {
    let server = Server::new(Mood::WatchEndsAtOnce, Some(node(&["a"], "u")));
    let port = Port::reserve();
    let _up = port.up(&server);
    let mut views = port.follow();
    until_is(&mut views, present(&["a"], "u")).await;
    tokio::time::sleep(WINDOW).await;
    assert!(server.requests() <= 3, "{} requests", server.requests());
    server.only_read();
}

#[tokio::test]
async fn silence_is_given_up() {
    let server = Server::new(Mood::Silent, Some(node(&["a"], "u")));
    let port = Port::reserve();
    let _up = port.up(&server);
    let mut config = port.config();
    config.read_timeout = Some(Duration::from_millis(500));
    let Sight {
        view: mut views, ..
    } = spawn_with(settings(), move || {
        let config = config.clone();
        async { Ok(config) }
    });
    until_unreachable(&mut views, "timed out").await;
    server.feel(Mood::SilentWatch);
    until_is(&mut views, present(&["a"], "u")).await;
    *server.node.lock().expect("the node") = Some(node(&["b"], "u"));
    until_is(&mut views, present(&["b"], "u")).await;
    server.only_read();
}

#[tokio::test]
async fn without_a_way_to_the_api_the_reason_is_shown_and_the_way_is_looked_for() {
    let server = Server::new(Mood::Well, Some(node(&["a"], "u")));
    let port = Port::reserve();
    let _up = port.up(&server);
    let asked = Arc::new(AtomicUsize::new(0));
    let there = Arc::new(Mutex::new(None));
    let (count, way) = (Arc::clone(&asked), Arc::clone(&there));
    let Sight {
        view: mut views, ..
    } = spawn_with(settings(), move || {
        count.fetch_add(1, Ordering::SeqCst);
        let config = way.lock().expect("a way").clone();
        async { config.ok_or_else(|| "no kubeconfig".to_owned()) }
    });
    until_unreachable(&mut views, "no kubeconfig").await;
    tokio::time::sleep(WINDOW).await;
    let times = asked.load(Ordering::SeqCst);
    assert!(times <= 4, "asked {times} times");
    *there.lock().expect("a way") = Some(port.config());
    until_is(&mut views, present(&["a"], "u")).await;
}

#[tokio::test]
async fn tls_to_a_port_where_nobody_is_fails_in_words() {
    let port = Port::reserve();
    let config = Config::new(format!("https://{}", port.1).parse().expect("a URL"));
    let Sight {
        view: mut views, ..
    } = spawn_with(settings(), move || {
        let config = config.clone();
        async { Ok(config) }
    });
    until_unreachable(&mut views, "").await;
}

#[tokio::test]
async fn the_task_ends_when_nobody_looks_any_more() {
    let port = Port::reserve();
    let held = Arc::new(());
    let witness = Arc::downgrade(&held);
    let config = port.config();
    let Sight {
        view: mut views, ..
    } = spawn_with(settings(), move || {
        let (config, _held) = (config.clone(), &held);
        async { Ok(config) }
    });
    until_unreachable(&mut views, "refused").await;
    drop(views);
    let gone = async {
        while witness.strong_count() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let gone = tokio::time::timeout(PATIENCE, gone).await;
    gone.expect("the task is gone");
}
