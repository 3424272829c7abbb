//! One API server for tests: a real one where `KUBEBUILDER_ASSETS` names its
//! programs, the stand-in otherwise. A test that uses nothing else runs on both.

#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a fixture that cannot go on should say so and stop"
)]

mod longhorn;

pub use longhorn::{LonghornWebhook, NAMESPACE};

use std::{
    fmt::{Debug, Display},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use anyhow::Result;
use kube::{Client, Config};
use serde_json::Value;

use crate::{
    endpoint::Endpoint,
    longhorn::Policies,
    objects,
    real::{self, RealServer, Version},
    server::{Options, Seen, Server},
    wait::block_on,
};

/// The first version with admission policies, and with tokens that name their
/// node: `1.30`.
pub const POLICIES: u32 = 30;

/// An API server; it ends when this is dropped.
#[derive(Debug)]
pub struct Cluster {
    admin: Endpoint,
    side: Side,
}

#[derive(Debug)]
enum Side {
    StandIn {
        server: Box<Server>,
        /// Those that are applied count, as in the real one.
        policies: Arc<Policies>,
    },
    Real(Box<RealServer>),
}

/// The one that tests share, while any of them has it.
static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());

impl Cluster {
    /// For tests that leave alone what is not in a namespace of their own. A real
    /// API server takes seconds to start, so those that run at the same time have
    /// one together; of the stand-in each has its own.
    ///
    /// # Panics
    ///
    /// As [`Self::start`].
    #[must_use]
    pub fn shared(options: Options) -> Arc<Self> {
        if real::assets().is_none() {
            return Arc::new(Self::start(options));
        }
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cluster) = shared.upgrade() {
            return cluster;
        }
        let cluster = Arc::new(Self::start(options));
        *shared = Arc::downgrade(&cluster);
        cluster
    }

    /// Starts one. A real one heeds none of the options: it has TLS and RBAC.
    ///
    /// # Panics
    ///
    /// When it does not start.
    #[must_use]
    pub fn start(options: Options) -> Self {
        match real::assets() {
            Some(assets) => {
                let server = done("start an API server", RealServer::start(&assets));
                Self {
                    admin: Endpoint {
                        url: server.url(),
                        ca_pem: Some(server.ca_pem().to_owned()),
                        token: server.admin_token().to_owned(),
                    },
                    side: Side::Real(Box::new(server)),
                }
            }
            None => Self::stand_in_for(options),
        }
    }

    /// The stand-in, whatever the environment says.
    #[must_use]
    pub fn stand_in_for(options: Options) -> Self {
        let server = Server::start(options);
        let policies = Arc::new(Policies::default());
        server.set_admission(Arc::clone(&policies) as _);
        Self {
            admin: server.endpoint(&server.admin_token()),
            side: Side::StandIn {
                server: Box::new(server),
                policies,
            },
        }
    }

    /// Of the administrator, who may do everything.
    #[must_use]
    pub fn admin(&self) -> &Endpoint {
        &self.admin
    }

    /// Of somebody with a token.
    #[must_use]
    pub fn endpoint(&self, token: &str) -> Endpoint {
        self.admin.with_token(token)
    }

    /// Of the administrator; needs a runtime around it.
    #[must_use]
    pub fn client(&self) -> Client {
        self.admin.client()
    }

    /// For somebody with a token.
    #[must_use]
    pub fn config(&self, token: &str) -> Config {
        self.endpoint(token).config()
    }

    /// The text of a kubeconfig, as JSON, which is YAML as well.
    #[must_use]
    pub fn kubeconfig(&self, token: &str) -> Value {
        self.endpoint(token).kubeconfig()
    }

    /// The stand-in, which has moods and lets tests reach into its store.
    #[must_use]
    pub fn stand_in(&self) -> Option<&Server> {
        match &self.side {
            Side::StandIn { server, .. } => Some(server),
            Side::Real(_) => None,
        }
    }

    /// The real one.
    #[must_use]
    pub fn real(&self) -> Option<&RealServer> {
        match &self.side {
            Side::StandIn { .. } => None,
            Side::Real(server) => Some(server),
        }
    }

    /// Requests since they were last forgotten: of the stand-in in the order in
    /// which they came, of a real one in that of their answers.
    ///
    /// # Panics
    ///
    /// When the log cannot be read.
    #[must_use]
    pub fn requests(&self) -> Vec<Seen> {
        match &self.side {
            Side::StandIn { server, .. } => server.requests(),
            Side::Real(server) => done("read the audit log", server.requests()),
        }
    }

    /// The log of requests begins anew.
    ///
    /// # Panics
    ///
    /// When the log cannot be read.
    pub fn forget_requests(&self) {
        match &self.side {
            Side::StandIn { server, .. } => server.forget_requests(),
            Side::Real(server) => done("read the audit log", server.forget_requests()),
        }
    }

    /// A token of a ServiceAccount, asked for as a kubelet does; see
    /// [`objects::service_account_token`].
    ///
    /// # Panics
    ///
    /// When there is none.
    #[must_use]
    pub fn service_account_token(
        &self,
        namespace: &str,
        account: &str,
        node: Option<&str>,
    ) -> String {
        self.ask("a token", async |client| {
            objects::service_account_token(client, namespace, account, node).await
        })
    }

    /// Makes namespaces.
    ///
    /// # Panics
    ///
    /// When they cannot be made.
    pub fn namespaces(&self, names: &[&str]) {
        self.ask("namespaces", async |client| {
            for name in names {
                objects::ensure_namespace(client, name).await?;
            }
            Ok(())
        });
    }

    /// Defines resources and waits until they are served.
    ///
    /// # Panics
    ///
    /// When they are not.
    pub fn define(&self, definitions: &[Value]) {
        self.ask("resources", async |client| {
            for definition in definitions {
                objects::define(client, definition).await?;
            }
            Ok(())
        });
    }

    /// Makes objects what they are here, as the administrator. A real API server
    /// that is too old for a `ValidatingAdmissionPolicy` does without, and says so.
    ///
    /// # Panics
    ///
    /// When one is refused.
    pub fn apply(&self, objects: &[Value]) {
        self.ask("objects", async |client| {
            for object in objects {
                if self.is_since(POLICIES) || !is_policy(object) {
                    objects::apply(client, object).await?;
                } else {
                    eprintln!("this API server is too old for {}", object["kind"]);
                }
            }
            Ok(())
        });
    }

    /// What is at a path; null where nothing is.
    ///
    /// # Panics
    ///
    /// When that cannot be told.
    #[must_use]
    pub fn get(&self, path: &str) -> Value {
        self.ask(path, async |client| objects::get(client, path).await)
    }

    /// Whether the API server is at least of Kubernetes `1.<minor>`. The stand-in
    /// is as new as any.
    #[must_use]
    pub fn is_since(&self, minor: u32) -> bool {
        match &self.side {
            Side::StandIn { .. } => true,
            Side::Real(server) => server.version() >= Version { major: 1, minor },
        }
    }

    /// Requests of the administrator, from plain code.
    fn ask<T: Send>(
        &self,
        what: &str,
        requests: impl AsyncFnOnce(&Client) -> Result<T> + Send,
    ) -> T {
        let admin = self.admin.clone();
        let outcome = block_on(|| async move {
            let client = admin.client();
            requests(&client).await
        });
        done(what, outcome.and_then(|outcome| outcome))
    }
}

fn is_policy(object: &Value) -> bool {
    object["kind"]
        .as_str()
        .is_some_and(|kind| kind.starts_with("ValidatingAdmissionPolicy"))
}

fn done<T>(what: &str, outcome: Result<T, impl Display + Debug>) -> T {
    match outcome {
        Ok(value) => value,
        Err(error) => panic!("{what}: {error:#}"),
    }
}
