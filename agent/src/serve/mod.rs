//! Health and state over HTTP. Read only: no request changes anything.

mod disks;
mod health;
mod metrics;

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
};

pub use metrics::Family;

use crate::{config::Settings, longhorn::status::Status, report::Round};

/// What the handlers see.
#[derive(Debug, Clone)]
pub struct Shared {
    settings: Arc<Settings>,
    shown: Shown,
}

/// What there is to show.
#[derive(Debug, Clone)]
pub struct Shown {
    /// The last round.
    pub rounds: watch::Receiver<Option<Arc<Round>>>,
    /// How registering with Longhorn stands.
    pub registration: watch::Receiver<Arc<Status>>,
}

/// Opens the port.
///
/// # Errors
/// When the address cannot be bound.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves until `stop` is told, then finishes open requests.
///
/// # Errors
/// When accepting connections fails for good.
pub async fn serve(
    listener: TcpListener,
    settings: Arc<Settings>,
    shown: Shown,
    stop: oneshot::Receiver<()>,
) -> std::io::Result<()> {
    let app = Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(metrics::metrics))
        .route("/v1/disks", get(disks::disks))
        .fallback(nothing_here)
        .with_state(Shared { settings, shown });
    axum::serve(listener, app)
        .with_graceful_shutdown(async move {
            // A dropped sender means the same as a message.
            drop(stop.await);
        })
        .await
}

async fn nothing_here() -> Response {
    (
        StatusCode::NOT_FOUND,
        "there are /healthz, /readyz, /metrics and /v1/disks\n",
    )
        .into_response()
}

fn text(ok: bool, body: String) -> Response {
    let status = if ok {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = if body.ends_with('\n') {
        body
    } else {
        format!("{body}\n")
    };
    (
        status,
        [(header::CONTENT_TYPE, "text/plain; charset=utf-8")],
        body,
    )
        .into_response()
}
