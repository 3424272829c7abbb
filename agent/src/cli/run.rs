//! `run`: the agent.

use std::{process::ExitCode, sync::Arc};

use nix::unistd::geteuid;
use thiserror::Error;
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
    sync::{oneshot, watch},
};

use crate::{
    config::{Mode, Settings},
    reconcile::Reconciler,
    serve, sys,
    text::chain,
};

/// The agent cannot start.
#[derive(Debug, Error)]
enum StartError {
    #[error("mode enforce needs root: run as root, or use --mode observe to look only")]
    NotRoot,
    #[error("cannot listen on {address}; choose another with --listen")]
    Listen {
        address: std::net::SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot start")]
    Runtime(#[source] std::io::Error),
}

pub(super) fn run(settings: Settings) -> ExitCode {
    sys::prefer_small_heap();
    super::log_to_stderr(&settings);
    if settings.mode == Mode::Enforce && !geteuid().is_root() {
        return super::fail(1, &StartError::NotRoot);
    }
    let started = runtime::Builder::new_current_thread()
        .enable_all()
        // Room for every disk that is worked on, for looking and for reports.
        .max_blocking_threads(usize::from(settings.parallel) + 4)
        .build()
        .map_err(StartError::Runtime);
    let outcome = started.and_then(|runtime| {
        let outcome = runtime.block_on(agent(settings));
        // A job that is left over must not keep the process: it is resumed.
        runtime.shutdown_background();
        outcome
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => super::fail(1, &error),
    }
}

async fn agent(settings: Settings) -> Result<(), StartError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(StartError::Runtime)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(StartError::Runtime)?;
    let address = settings.listen;
    let listener = serve::bind(address)
        .await
        .map_err(|source| StartError::Listen { address, source })?;
    // With port 0 the kernel chose one.
    let address = listener.local_addr().map_err(StartError::Runtime)?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        mode = ?settings.mode,
        listen = %address,
        mount_root = %settings.policy.mount_root,
        min_size = %settings.policy.min_size,
        "started"
    );
    let shared = Arc::new(settings.clone());
    let (reconciler, rounds) = Reconciler::new(settings);
    let (stop_loop, stopped) = watch::channel(false);
    let (stop_server, server_stopped) = oneshot::channel();
    let server = tokio::spawn(serve::serve(listener, shared, rounds, server_stopped));
    // Sends the stop, then is done; the loop below ends because of it.
    let signals = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        stop_loop.send_replace(true);
    };
    tokio::join!(signals, reconciler.run(stopped));
    if stop_server.send(()).is_err() {
        tracing::warn!("the health endpoint had ended before");
    }
    // Open requests may end; one that hangs does not hold up the stop.
    let ended = tokio::time::timeout(std::time::Duration::from_millis(500), server).await;
    if let Ok(Ok(Err(error))) = ended {
        tracing::warn!(error = chain(&error), "the health endpoint failed");
    }
    Ok(())
}
