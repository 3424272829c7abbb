//! A Kubernetes API server for tests: what clients see of the real one, for the
//! objects that are used here, and out of sorts on demand.
//!
//! ```text
//! serve  sockets, TLS, moods ─► target  verb and object ─► tokens, authorize
//!                                                              │
//!        discovery  reviews ◄──────────────────────────────────┤
//!                                                              ▼
//! call, checks ◄── read  get, list     watch     write  create, update, patch
//!    │                                           delete
//!    ├─ schema      of CustomResourceDefinitions: defaults, pruning, validation
//!    ├─ admission   what a test plugs in
//!    └─ store       objects, versions, history, watchers
//! ```
//!
//! Where the real server does more: there are no controllers (nothing collects
//! garbage, namespaces stay `Terminating`, pods go at once), no managed fields,
//! no quota, no defaulting of built-in kinds, and of their fields only those of
//! events are checked. `patch` says what server-side apply does not do. Lists
//! are never cut into chunks. Protobuf is read for a few kinds only.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a fixture that cannot go on should say so and stop"
)]

mod authorize;
mod call;
mod certificate;
mod checks;
mod crds;
mod delete;
mod discovery;
mod events;
mod failure;
mod jsonpath;
mod mood;
mod object;
mod patch;
mod protobuf;
mod read;
mod resource;
mod reviews;
mod rows;
mod schema;
mod seen;
mod selector;
mod serve;
mod store;
mod table;
mod target;
mod tokens;
mod watch;
mod write;

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use kube::Config;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::Value;
use tokio::{net::TcpSocket, sync::oneshot};

use crate::{admission::Admission, endpoint::Endpoint};

pub use crds::{longhorn_node_crd, longhorn_replica_crd};
pub use mood::{Mood, Whom};
pub use seen::{NODE_CLAIM, Seen};
pub use store::Store;

use self::{
    mood::Moods,
    object::text,
    seen::Log,
    tokens::{Account, Pod, Tokens},
};

/// How long the server's thread may take to open or close its port.
const PATIENCE: Duration = Duration::from_mins(1);

/// How a server is.
#[derive(Debug, Clone)]
pub struct Options {
    /// With a certificate of its own authority, or plain HTTP.
    pub tls: bool,
    /// Further names or addresses for the certificate.
    pub tls_names: Vec<String>,
    /// Port 0 takes any.
    pub listen: SocketAddr,
    /// Whether roles and bindings decide; if not, whoever has a token may do all.
    pub rbac: bool,
    /// Changes of each kind that are remembered; a watch from before gets 410.
    pub watch_window: usize,
    /// Time between the bookmarks of a watch that wants them.
    pub bookmarks: Duration,
    /// No watch lasts longer.
    pub watch_timeout_cap: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tls: false,
            tls_names: Vec::new(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            rbac: false,
            watch_window: 1_000,
            bookmarks: Duration::from_mins(1),
            watch_timeout_cap: Duration::from_hours(1),
        }
    }
}

/// A server in a thread of its own, with a runtime of its own; it ends when this
/// is dropped, and everything that it has open is closed.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    ca_pem: Option<String>,
    /// Holds the port while nobody listens there.
    _port: TcpSocket,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

/// What all requests share.
struct Shared {
    options: Options,
    store: Store,
    tokens: Tokens,
    log: Log,
    moods: Mutex<Moods>,
    admission: Mutex<Option<Arc<dyn Admission>>>,
    /// Whether the port is to be open, and whether it is.
    open: tokio::sync::watch::Sender<bool>,
    listening: (Mutex<bool>, Condvar),
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn moods(&self) -> MutexGuard<'_, Moods> {
        self.moods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admission(&self) -> Option<Arc<dyn Admission>> {
        let admission = self.admission.lock();
        admission.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn listens(&self, now: bool) {
        let (listening, changed) = &self.listening;
        *listening.lock().unwrap_or_else(PoisonError::into_inner) = now;
        changed.notify_all();
    }

    fn wait_until_it_listens(&self, wanted: bool) {
        let (listening, changed) = &self.listening;
        let listening = listening.lock().unwrap_or_else(PoisonError::into_inner);
        let (listening, _) = changed
            .wait_timeout_while(listening, PATIENCE, |now| *now != wanted)
            .unwrap_or_else(PoisonError::into_inner);
        assert_eq!(
            *listening, wanted,
            "the thread of the server does not answer"
        );
    }
}

impl Server {
    /// Serves when it returns.
    ///
    /// # Panics
    ///
    /// When it cannot listen.
    #[must_use]
    pub fn start(options: Options) -> Self {
        allow_many_connections();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let inside = runtime.enter();
        let port = serve::bound(options.listen);
        drop(inside);
        let address = port.local_addr().expect("an address");
        let certificate = options
            .tls
            .then(|| certificate::Certificate::new(&options.tls_names));
        let ca_pem = certificate.as_ref().map(|one| one.ca_pem.clone());
        let acceptor = certificate.map(|one| one.acceptor);
        let shared = Arc::new(Shared {
            store: Store::new(options.watch_window),
            options,
            tokens: Tokens::new(),
            log: Log::default(),
            moods: Mutex::default(),
            admission: Mutex::default(),
            open: tokio::sync::watch::Sender::new(true),
            listening: (Mutex::new(false), Condvar::new()),
        });
        let (stop, stopped) = oneshot::channel::<()>();
        let running = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("api-server".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = serve::run(running, address, acceptor) => {}
                        // Dropped, whichever way.
                        _ = stopped => {}
                    }
                });
            })
            .expect("a thread");
        shared.wait_until_it_listens(true);
        Self {
            shared,
            address,
            ca_pem,
            _port: port,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://127.0.0.1:port`, with `https` for TLS.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.ca_pem.is_some() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://{}", self.address)
    }

    /// The authority that signed its certificate.
    #[must_use]
    pub fn ca_pem(&self) -> Option<String> {
        self.ca_pem.clone()
    }

    /// Of `system:admin` in `system:masters`, who may do everything.
    #[must_use]
    pub fn admin_token(&self) -> String {
        self.shared.tokens.admin()
    }

    /// A token of a ServiceAccount. With a node, it is bound to a pod there, and
    /// says so. It is good whether the objects exist or not.
    #[must_use]
    pub fn service_account_token(
        &self,
        namespace: &str,
        account: &str,
        node: Option<&str>,
        lives: Duration,
    ) -> String {
        let store = self.store();
        let uid_of = |plural: &str, namespace: &str, name: &str| {
            let there = store.get("", plural, namespace, name);
            let uid = there.map(|one| text(&one, "/metadata/uid").to_owned());
            uid.unwrap_or_else(|| uuid::Uuid::new_v4().to_string())
        };
        let pod = node.map(|node| {
            let name = format!("{account}-{node}");
            Pod {
                uid: uid_of("pods", namespace, &name),
                name,
                node: node.to_owned(),
                node_uid: uid_of("nodes", "", node),
            }
        });
        let account = Account {
            namespace: namespace.to_owned(),
            name: account.to_owned(),
            uid: uid_of("serviceaccounts", namespace, account),
        };
        self.shared.tokens.issue(&account, pod.as_ref(), lives)
    }

    /// From now on, whoever shows this token gets 401.
    pub fn revoke(&self, token: &str) {
        self.shared.tokens.revoke(token);
    }

    /// For a client with a token.
    #[must_use]
    pub fn endpoint(&self, token: &str) -> Endpoint {
        Endpoint {
            url: self.url(),
            ca_pem: self.ca_pem(),
            token: token.to_owned(),
        }
    }

    /// For `kube`.
    #[must_use]
    pub fn config(&self, token: &str) -> Config {
        self.endpoint(token).config()
    }

    /// The text of a kubeconfig, as JSON, which is YAML as well.
    #[must_use]
    pub fn kubeconfig(&self, token: &str) -> Value {
        self.endpoint(token).kubeconfig()
    }

    /// All requests since they were last forgotten, in the order in which they
    /// came.
    #[must_use]
    pub fn requests(&self) -> Vec<Seen> {
        self.shared.log.all()
    }

    /// How many requests have come since it was started.
    #[must_use]
    pub fn count(&self) -> usize {
        self.shared.log.count()
    }

    /// The log of requests begins anew.
    pub fn forget_requests(&self) {
        self.shared.log.forget();
    }

    /// How everybody is answered from now on; `Well` clears all moods.
    pub fn mood(&self, mood: Mood) {
        if mood == Mood::Well {
            self.shared.moods().clear();
        }
        self.mood_for(Whom::Everybody, mood);
    }

    /// How some are answered from now on. Where several fit, the last counts.
    pub fn mood_for(&self, whom: Whom, mood: Mood) {
        let open = {
            let mut moods = self.shared.moods();
            moods.set(whom, mood);
            !moods.is_closed()
        };
        self.shared.open.send_replace(open);
        self.shared.wait_until_it_listens(open);
    }

    /// Forgets all history: each watch from before now gets 410.
    pub fn compact(&self) {
        self.shared.store.compact();
    }

    /// The objects themselves.
    #[must_use]
    pub fn store(&self) -> Store {
        self.shared.store.clone()
    }

    /// Who is asked before anything is stored or deleted.
    pub fn set_admission(&self, admission: Arc<dyn Admission>) {
        let mut place = self
            .shared
            .admission
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *place = Some(admission);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !thread::panicking()
        {
            panic!("the thread of the API server panicked");
        }
    }
}

/// A thousand clients need more open files than a process usually gets.
fn allow_many_connections() {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("a higher limit");
    }
}
