//! Health and state over HTTP. Read only: no request changes anything.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::{Deserialize, Serialize};
use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System};
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
};

use crate::{
    config::{Mode, Settings},
    decide::Verdict,
    report::{Report, Round, degraded, now},
};

/// What the handlers see.
#[derive(Debug, Clone)]
pub struct Shared {
    settings: Arc<Settings>,
    rounds: watch::Receiver<Option<Arc<Round>>>,
}

/// A named condition of `/readyz`.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
    detail: String,
}

/// `/v1/disks`: the report and what the agent and the host use.
#[derive(Debug, Serialize)]
struct Disks {
    #[serde(flatten)]
    report: Report,
    usage: Vec<Usage>,
    agent: Agent,
    host: HostFigures,
}

/// Space on one of our mounts, in bytes.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Usage {
    path: String,
    total: u64,
    available: u64,
}

/// This process.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Agent {
    version: &'static str,
    resident_bytes: Option<u64>,
}

/// The host.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct HostFigures {
    kernel: Option<String>,
    uptime_seconds: Option<u64>,
    memory_total_bytes: Option<u64>,
    memory_available_bytes: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct ReadyQuery {
    verbose: Option<String>,
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
    rounds: watch::Receiver<Option<Arc<Round>>>,
    stop: oneshot::Receiver<()>,
) -> std::io::Result<()> {
    let app = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/v1/disks", get(disks))
        .fallback(nothing_here)
        .with_state(Shared { settings, rounds });
    axum::serve(listener, app)
        .with_graceful_shutdown(async move {
            // A dropped sender means the same as a message.
            drop(stop.await);
        })
        .await
}

/// The loop is alive: it finished a round not too long ago.
async fn healthz(State(shared): State<Shared>) -> Response {
    let (ok, detail) = loop_alive(&shared);
    text(ok, detail)
}

fn loop_alive(shared: &Shared) -> (bool, String) {
    let interval = shared.settings.interval;
    // A first round that takes long, or a disk that answers slowly, is no
    // reason to be killed.
    let allowed = interval * 3 + Duration::from_mins(2);
    let age = match shared.rounds.borrow().as_ref() {
        Some(round) => Duration::from_secs(now().saturating_sub(round.cost.finished_at)),
        None => return (true, "ok: the first round is under way".to_owned()),
    };
    if age <= allowed {
        (true, format!("ok: last round {} s ago", age.as_secs()))
    } else {
        (
            false,
            format!(
                "the last round was {} s ago, allowed are {} s",
                age.as_secs(),
                allowed.as_secs()
            ),
        )
    }
}

/// All is well: each check by name with `?verbose`.
async fn readyz(State(shared): State<Shared>, Query(query): Query<ReadyQuery>) -> Response {
    let checks = checks(&shared);
    let ok = checks.iter().all(|check| check.ok);
    let failed = || checks.iter().filter(|check| !check.ok);
    let body = if query.verbose.is_some() {
        checks
            .iter()
            .map(|check| {
                format!(
                    "[{}] {}: {}\n",
                    if check.ok { "+" } else { "-" },
                    check.name,
                    check.detail
                )
            })
            .collect()
    } else if ok {
        "ok".to_owned()
    } else {
        failed()
            .map(|check| format!("{}: {}\n", check.name, check.detail))
            .collect()
    };
    text(ok, body)
}

fn checks(shared: &Shared) -> Vec<Check> {
    let (alive, detail) = loop_alive(shared);
    let mut checks = vec![Check {
        name: "loop",
        ok: alive,
        detail,
    }];
    let Some(round) = shared.rounds.borrow().clone() else {
        checks.push(Check {
            name: "first-round",
            ok: false,
            detail: "not finished yet".to_owned(),
        });
        return checks;
    };
    checks.push(Check {
        name: "first-round",
        ok: true,
        detail: "finished".to_owned(),
    });
    let degraded = degraded(&round.inventory);
    let detail = degraded
        .iter()
        .map(|state| format!("{}: {}", state.code, state.detail))
        .collect::<Vec<_>>();
    // Without udevd the agent does all it promises, by the medium alone.
    let blind = degraded.iter().any(|state| state.code != "udev-missing");
    checks.push(Check {
        name: "facts",
        ok: !blind,
        detail: if detail.is_empty() {
            "all readable".to_owned()
        } else {
            detail.join("; ")
        },
    });
    // Observing, the agent mounts nothing and is ready to observe.
    let enforce = shared.settings.mode == Mode::Enforce;
    let unmounted: Vec<String> = round
        .verdicts
        .iter()
        .filter_map(|(disk, verdict)| match verdict {
            Verdict::Managed(managed) if !managed.mounted && enforce => {
                Some(format!("{} ({disk})", managed.claim.name))
            }
            Verdict::Managed(_)
            | Verdict::Provision(_)
            | Verdict::Resume(_)
            | Verdict::Refused(_) => None,
        })
        .collect();
    checks.push(Check {
        name: "mounts",
        ok: unmounted.is_empty(),
        detail: if unmounted.is_empty() {
            "every disk of ours is mounted".to_owned()
        } else {
            format!("not mounted: {}", unmounted.join(", "))
        },
    });
    let broken: Vec<String> = round
        .verdicts
        .iter()
        .filter_map(|(disk, verdict)| match verdict {
            Verdict::Refused(refusal) if refusal.reason.is_about_ours() => {
                Some(format!("{disk}: {refusal}"))
            }
            Verdict::Refused(_)
            | Verdict::Managed(_)
            | Verdict::Provision(_)
            | Verdict::Resume(_) => None,
        })
        .collect();
    checks.push(Check {
        name: "claims",
        ok: broken.is_empty(),
        detail: if broken.is_empty() {
            "none in doubt".to_owned()
        } else {
            broken.join("; ")
        },
    });
    let failing: Vec<String> = round
        .operations
        .iter()
        .filter_map(|(disk, operation)| Some(format!("{disk}: {}", operation.error.as_ref()?)))
        .collect();
    checks.push(Check {
        name: "operations",
        ok: failing.is_empty(),
        detail: if failing.is_empty() {
            "none failing".to_owned()
        } else {
            failing.join("; ")
        },
    });
    // Disks are mounted and served with or without it, so it is told, not asked.
    checks.push(Check {
        name: "longhorn",
        ok: true,
        detail: round.longhorn.to_string(),
    });
    checks
}

/// Every device and what the agent thinks of it.
async fn disks(State(shared): State<Shared>) -> Response {
    let Some(round) = shared.rounds.borrow().clone() else {
        return text(false, "the first round is under way".to_owned());
    };
    let settings = Arc::clone(&shared.settings);
    // statvfs and /proc may be slow on a sick host: not on the loop's thread.
    let body = tokio::task::spawn_blocking(move || {
        let report = round.report(
            &settings.node_name,
            settings.mode,
            &settings.policy.mount_root,
        );
        let usage = usage(&report);
        Disks {
            report,
            usage,
            agent: agent(),
            host: host(),
        }
    });
    match body.await {
        Ok(body) => Json(body).into_response(),
        Err(error) => text(false, error.to_string()),
    }
}

fn usage(report: &Report) -> Vec<Usage> {
    let mounted = report.disks.iter().filter(|row| row.mounted == Some(true));
    let paths = mounted.filter_map(|row| row.mount_path.clone());
    paths
        .filter_map(|path| {
            let figures = nix::sys::statvfs::statvfs(Path::new(&path)).ok()?;
            let unit = figures.fragment_size();
            Some(Usage {
                path,
                total: figures.blocks() * unit,
                available: figures.blocks_available() * unit,
            })
        })
        .collect()
}

fn agent() -> Agent {
    let resident = || -> Option<u64> {
        let (pid, mut system) = (sysinfo::get_current_pid().ok()?, System::new().ok()?);
        let only_memory = ProcessRefreshKind::nothing().with_memory().without_tasks();
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, only_memory);
        system.process(pid).map(sysinfo::Process::memory)
    };
    Agent {
        version: env!("CARGO_PKG_VERSION"),
        resident_bytes: resident(),
    }
}

fn host() -> HostFigures {
    let system = System::new().ok().map(|mut system| {
        system.refresh_memory();
        system
    });
    HostFigures {
        kernel: System::kernel_version().ok(),
        uptime_seconds: System::uptime().ok(),
        memory_total_bytes: system.as_ref().map(System::total_memory),
        memory_available_bytes: system.as_ref().map(System::available_memory),
    }
}

async fn nothing_here() -> Response {
    (
        StatusCode::NOT_FOUND,
        "there are /healthz, /readyz and /v1/disks\n",
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
