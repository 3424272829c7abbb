//! `/v1/disks`.

use std::{path::Path, sync::Arc};

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System};

use super::{Shared, text};
use crate::{longhorn::status::StatusRow, report::Report};

/// `/v1/disks`: the report and what the agent and the host use.
#[derive(Debug, Serialize)]
struct Disks {
    #[serde(flatten)]
    report: Report,
    registration: StatusRow,
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

/// Every device and what the agent thinks of it.
pub(super) async fn disks(State(shared): State<Shared>) -> Response {
    let Some(round) = shared.shown.rounds.borrow().clone() else {
        return text(false, "the first round is under way".to_owned());
    };
    let settings = Arc::clone(&shared.settings);
    let registration = shared.shown.registration.borrow().row();
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
            registration,
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
