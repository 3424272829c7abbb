//! The rules behind HTTPS, for a real API server: `AdmissionReview` in and out,
//! at the paths where longhorn-manager has them.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use axum::{Json, Router, extract::State, routing::post};
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use k8s_openapi::ByteString;
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::oneshot};
use tokio_rustls::TlsAcceptor;

use super::{
    lenient::text,
    rules::{self, Settings},
    webhook::{MUTATOR, VALIDATOR, judge},
};
use crate::admission::{Denied, Operation};

const VALIDATION: &str = "/v1/webhook/validation";
const MUTATION: &str = "/v1/webhook/mutation";

/// Longhorn's webhook as a server, on a port of 127.0.0.1, until it is dropped.
#[derive(Debug)]
pub struct WebhookServer {
    address: SocketAddr,
    ca: String,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    settings: Mutex<Settings>,
    down: AtomicBool,
}

impl WebhookServer {
    /// Serves before it returns.
    ///
    /// # Panics
    ///
    /// When there can be no certificate, port or thread.
    #[must_use]
    #[allow(
        clippy::expect_used,
        reason = "a fixture that cannot go on should say so and stop"
    )]
    pub fn start(settings: Settings) -> Self {
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let own = rcgen::generate_simple_self_signed(names).expect("a certificate");
        let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions of TLS")
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)
            .expect("a certificate and its key");
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        listener.set_nonblocking(true).expect("a listener");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            settings: Mutex::new(settings),
            down: AtomicBool::new(false),
        });
        let (stop, stopped) = oneshot::channel();
        let serving = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("longhorn-webhook".to_owned())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime for the webhook");
                runtime.block_on(async {
                    let listener = TcpListener::from_std(listener).expect("a listener");
                    tokio::select! {
                        // Loses no more than connections, which go with it.
                        () = serve(listener, TlsAcceptor::from(Arc::new(tls)), serving) => {}
                        // An error means that the sender is gone, which is the signal.
                        _ = stopped => {}
                    }
                });
            })
            .expect("a thread for the webhook");
        Self {
            address,
            ca: own.cert.pem(),
            shared,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// `https://127.0.0.1:<port>`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// What clients are to trust.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca
    }

    /// Changes the settings from now on.
    pub fn set(&self, settings: Settings) {
        *self
            .shared
            .settings
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = settings;
    }

    /// Whether every connection is closed at once. One that is open already ends
    /// with the next request on it.
    pub fn set_down(&self, down: bool) {
        self.shared.down.store(down, Ordering::SeqCst);
    }

    /// What makes an API server ask it.
    #[must_use]
    pub fn configurations(&self) -> (Value, Value) {
        configurations(&self.url(), &self.ca)
    }
}

impl Drop for WebhookServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("the stand-in of Longhorn's webhook has panicked");
        }
    }
}

/// `ValidatingWebhookConfiguration` and `MutatingWebhookConfiguration`, as
/// longhorn-manager registers them, for a webhook at this address.
#[must_use]
pub fn configurations(url: &str, ca: &str) -> (Value, Value) {
    let ca = json!(ByteString(ca.as_bytes().to_vec()));
    let one = |kind: &str, name: &str, path: &str, operations: Value| {
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
            "metadata": {"name": format!("longhorn-webhook-{}", name.trim_end_matches(".longhorn.io"))},
            "webhooks": [{
                "name": name,
                "clientConfig": {"url": format!("{url}{path}"), "caBundle": ca},
                "rules": [{
                    "apiGroups": ["longhorn.io"], "apiVersions": ["v1beta2"],
                    "operations": operations, "resources": ["nodes"], "scope": "Namespaced",
                }],
                "failurePolicy": "Fail", "matchPolicy": "Exact", "sideEffects": "None",
                "timeoutSeconds": 10, "admissionReviewVersions": ["v1"],
            }],
        })
    };
    (
        one(
            "ValidatingWebhookConfiguration",
            VALIDATOR,
            VALIDATION,
            json!(["CREATE", "UPDATE", "DELETE"]),
        ),
        one(
            "MutatingWebhookConfiguration",
            MUTATOR,
            MUTATION,
            json!(["CREATE", "UPDATE"]),
        ),
    )
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, shared: Arc<Shared>) {
    let router = Router::new()
        .route(VALIDATION, post(validation))
        .route(MUTATION, post(mutation))
        .with_state(Arc::clone(&shared));
    loop {
        let connection = match listener.accept().await {
            Ok((connection, _)) => connection,
            Err(error) => {
                eprintln!("the stand-in of Longhorn's webhook: {error}");
                continue;
            }
        };
        if shared.down.load(Ordering::SeqCst) {
            continue;
        }
        let (tls, router) = (tls.clone(), router.clone());
        drop(tokio::spawn(async move {
            // Whoever does not trust us, or hangs up, is not our concern.
            if let Ok(stream) = tls.accept(connection).await {
                let service = TowerToHyperService::new(router);
                let io = TokioIo::new(stream);
                drop(http1::Builder::new().serve_connection(io, service).await);
            }
        }));
    }
}

async fn validation(
    State(shared): State<Arc<Shared>>,
    Json(review): Json<Value>,
) -> Result<Json<Value>, Gone> {
    shared.reach()?;
    let request = &review["request"];
    let settings = *shared
        .settings
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let operation = match text(request, "/operation") {
        "CREATE" => Operation::Create,
        "DELETE" => Operation::Delete,
        _ => Operation::Update,
    };
    let given = |key| {
        request
            .get(key)
            .filter(|object: &&Value| object.is_object())
    };
    let judged = judge(operation, given("oldObject"), given("object"), settings);
    let response = match judged {
        Ok(()) => json!({"uid": request["uid"], "allowed": true}),
        Err(denied) => json!({
            "uid": request["uid"], "allowed": false, "status": status(&denied),
        }),
    };
    Ok(answer(&response))
}

async fn mutation(
    State(shared): State<Arc<Shared>>,
    Json(review): Json<Value>,
) -> Result<Json<Value>, Gone> {
    shared.reach()?;
    let request = &review["request"];
    let patch = json!(rules::mutations(&request["object"])).to_string();
    Ok(answer(&json!({
        "uid": request["uid"], "allowed": true, "patchType": "JSONPatch",
        "patch": ByteString(patch.into_bytes()),
    })))
}

/// Said on a connection that was open before the webhook went down.
struct Gone;

impl axum::response::IntoResponse for Gone {
    fn into_response(self) -> axum::response::Response {
        let headers = [("connection", "close")];
        (axum::http::StatusCode::SERVICE_UNAVAILABLE, headers).into_response()
    }
}

impl Shared {
    fn reach(&self) -> Result<(), Gone> {
        if self.down.load(Ordering::SeqCst) {
            return Err(Gone);
        }
        Ok(())
    }
}

fn answer(response: &Value) -> Json<Value> {
    Json(json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response,
    }))
}

fn status(denied: &Denied) -> Value {
    let causes: Vec<Value> = denied
        .causes
        .iter()
        .map(
            |cause| json!({"reason": cause.reason, "message": cause.message, "field": cause.field}),
        )
        .collect();
    let mut status = json!({
        "status": "Failure", "code": denied.code, "reason": denied.reason,
        "message": denied.message,
    });
    if !causes.is_empty() {
        status["details"] = json!({"causes": causes});
    }
    status
}
