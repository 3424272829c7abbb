//! `run`: the agent.

use std::{
    fs::{self, File, OpenOptions},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    unistd::geteuid,
};
use thiserror::Error;
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
    sync::{oneshot, watch},
};

use crate::{
    config::{Mode, Settings},
    longhorn,
    reconcile::{self, Reconciler},
    serve::{self, Shown},
    sys,
    text::chain,
    workers::ASIDE,
};

/// Open requests may end when the agent stops; one that hangs does not hold it up.
const OPEN_REQUESTS: Duration = Duration::from_millis(500);
/// What a person and systemd are promised of SIGTERM.
const STOPS_WITHIN: Duration = Duration::from_secs(5);
const _: () =
    assert!(reconcile::GRACE.saturating_add(OPEN_REQUESTS).as_millis() < STOPS_WITHIN.as_millis());

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
    #[error("another agent works with {directory}; stop it, or give this one another --state-dir", directory = directory.display())]
    AnotherAgent { directory: PathBuf },
    #[error("cannot lock {directory}", directory = directory.display())]
    Lock {
        directory: PathBuf,
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
    // Held until the process ends, however it ends.
    let _only_one = match settings.mode {
        Mode::Observe => None,
        Mode::Enforce => match lock(&settings.state_dir) {
            Ok(lock) => Some(lock),
            Err(error) => return super::fail(1, &error),
        },
    };
    let started = runtime::Builder::new_current_thread()
        .enable_all()
        // Room for every disk that is worked on, for those that hang, for
        // looking and for reports.
        .max_blocking_threads(usize::from(settings.parallel) + usize::from(ASIDE) + 4)
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

/// Two agents that enforce would not know of what the other has begun.
fn lock(directory: &Path) -> Result<Flock<File>, StartError> {
    let failed = |source| StartError::Lock {
        directory: directory.to_owned(),
        source,
    };
    fs::create_dir_all(directory).map_err(failed)?;
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(directory.join("lock"))
        .map_err(failed)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| {
        if error == Errno::EWOULDBLOCK {
            StartError::AnotherAgent {
                directory: directory.to_owned(),
            }
        } else {
            failed(error.into())
        }
    })
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
    let sight = longhorn::watch_for(&settings);
    let (reconciler, rounds) = Reconciler::new(settings, sight.view.clone());
    let teller = reconciler.teller();
    let tell = move |name, told| teller.tell(name, told);
    let state = reconciler.state();
    let registration = longhorn::register_for(&shared, state, rounds.clone(), sight, tell);
    let (stop_loop, stopped) = watch::channel(false);
    let (stop_server, server_stopped) = oneshot::channel();
    let server = tokio::spawn(serve::serve(
        listener,
        shared,
        Shown {
            rounds,
            registration,
        },
        server_stopped,
    ));
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
    let ended = tokio::time::timeout(OPEN_REQUESTS, server).await;
    if let Ok(Ok(Err(error))) = ended {
        tracing::warn!(error = chain(&error), "the health endpoint failed");
    }
    Ok(())
}
