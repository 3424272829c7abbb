//! `/healthz` and `/readyz`.

use std::{path::Path, time::Duration};

use axum::{
    extract::{Query, State},
    response::Response,
};
use serde::Deserialize;

use super::{Shared, text};
use crate::{
    config::Mode,
    decide::{Reason, Verdict},
    longhorn::status::Status,
    observe::tables::Mount,
    report::{Operation, Round, degraded, now},
    units::DiskName,
    workers::Overdue,
};

/// A named condition of `/readyz`.
#[derive(Debug)]
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) ok: bool,
    detail: String,
}

impl Check {
    /// Fails when there is anything on the list.
    fn none_of(name: &'static str, problems: &[String], all_well: &str) -> Self {
        let ok = problems.is_empty();
        let detail = if ok {
            all_well.to_owned()
        } else {
            problems.join("; ")
        };
        Self { name, ok, detail }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct ReadyQuery {
    verbose: Option<String>,
}

/// The loop is alive: it finished a round not too long ago.
pub(super) async fn healthz(State(shared): State<Shared>) -> Response {
    let (ok, detail) = loop_alive(&shared);
    text(ok, detail)
}

fn loop_alive(shared: &Shared) -> (bool, String) {
    let interval = shared.settings.interval;
    // A first round that takes long, or a disk that answers slowly, is no
    // reason to be killed.
    let allowed = interval * 3 + Duration::from_mins(2);
    let age = match shared.shown.rounds.borrow().as_ref() {
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
pub(super) async fn readyz(
    State(shared): State<Shared>,
    Query(query): Query<ReadyQuery>,
) -> Response {
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

/// Disks that the ledger has a name for, and that are refused although they are
/// mounted in their place: one that fails cannot be read any more.
fn unrecognised(round: &Round) -> Vec<String> {
    let (Ok(standing), Ok(mounts)) = (
        round.inventory.standing.known(),
        round.inventory.host_mounts.known(),
    ) else {
        return Vec::new();
    };
    let place = |mount: &Mount| {
        Path::new(&mount.mountpoint)
            .file_name()?
            .to_str()?
            .parse()
            .ok()
    };
    let kept = mounts.iter().filter_map(|mount| {
        let name: DiskName = place(mount)?;
        standing.owner_of(&name)?;
        let mut devices = round.inventory.devices.values();
        let device =
            devices.find(|device| device.devno.is_known_and(|devno| *devno == mount.devno))?;
        let disk = device.parent.as_ref()?;
        match round.verdicts.get(disk)? {
            // What a person asked for is no failure.
            Verdict::Refused(refusal) if refusal.reason == Reason::Released => None,
            Verdict::Refused(refusal) => Some(format!("{name} ({disk}): {refusal}")),
            Verdict::Managed(_)
            | Verdict::Adopt(_)
            | Verdict::Provision(_)
            | Verdict::Resume(_) => None,
        }
    });
    kept.collect()
}

pub(super) fn checks(shared: &Shared) -> Vec<Check> {
    let (alive, detail) = loop_alive(shared);
    let mut checks = vec![Check {
        name: "loop",
        ok: alive,
        detail,
    }];
    let Some(round) = shared.shown.rounds.borrow().clone() else {
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
    // What a person asked for is no failure either.
    let blind = degraded
        .iter()
        .any(|state| !["udev-missing", "frozen"].contains(&state.code));
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
    let wrong = |disk: &String, name: &DiskName, mounted: bool, ailment: &Option<String>| {
        if !mounted && enforce {
            Some(format!("{name} ({disk}) is not mounted"))
        } else {
            let ailment = ailment.as_ref()?;
            Some(format!("{name} ({disk}): {ailment}"))
        }
    };
    let ours = round
        .verdicts
        .iter()
        .filter_map(|(disk, verdict)| match verdict {
            Verdict::Managed(managed) => {
                let name = &managed.claim.name;
                wrong(disk, name, managed.mounted, &managed.ailment)
            }
            Verdict::Adopt(adopt) => wrong(disk, &adopt.name, adopt.mounted, &adopt.ailment),
            Verdict::Provision(_) | Verdict::Resume(_) | Verdict::Refused(_) => None,
        });
    let dead = round.dead_mounts.iter().map(|dead| {
        let why = dead.error.as_deref().unwrap_or("its device is gone");
        format!("{}: {why}", dead.path.display())
    });
    let wrong: Vec<String> = ours.chain(dead).chain(unrecognised(&round)).collect();
    checks.push(Check::none_of(
        "mounts",
        &wrong,
        "every disk of ours is mounted",
    ));
    let broken: Vec<String> = round
        .verdicts
        .iter()
        .filter_map(|(disk, verdict)| match verdict {
            Verdict::Refused(refusal) if refusal.reason.is_about_ours() => {
                Some(format!("{disk}: {refusal}"))
            }
            Verdict::Refused(_)
            | Verdict::Managed(_)
            | Verdict::Adopt(_)
            | Verdict::Provision(_)
            | Verdict::Resume(_) => None,
        })
        .collect();
    checks.push(Check::none_of("claims", &broken, "none in doubt"));
    let failing: Vec<String> = round
        .operations
        .iter()
        .filter_map(|(disk, operation)| Some(format!("{disk}: {}", trouble(operation)?)))
        .collect();
    checks.push(Check::none_of("operations", &failing, "none failing"));
    checks.push(match &round.mount_units {
        Some(problems) => Check::none_of("mount-units", problems, "each mounted disk has one"),
        None => Check::none_of("mount-units", &[], "off"),
    });
    checks.push(longhorn(&round, &shared.shown.registration.borrow()));
    checks
}

/// Disks are mounted and served with or without the cluster, so whether it
/// answers is told and not asked. What does not agree is another thing.
fn longhorn(round: &Round, registration: &Status) -> Check {
    let failures: Vec<String> = registration
        .findings
        .iter()
        .filter(|finding| finding.kind.is_failure())
        .map(ToString::to_string)
        .collect();
    let state = registration.state.name();
    let waiting = registration.waiting.as_deref();
    let waiting = waiting.map_or_else(String::new, |why| format!(", waiting: {why}"));
    let well = format!("{}, registration: {state}{waiting}", round.longhorn);
    Check::none_of("longhorn", &failures, &well)
}

/// What is wrong with work on a disk, if anything.
pub(super) fn trouble(operation: &Operation) -> Option<String> {
    let overdue = operation.overdue.map(|overdue| match overdue {
        Overdue::Aside => "takes long",
        Overdue::InTheWay => "takes long, and others wait for it",
    });
    match (overdue, &operation.error) {
        (Some(overdue), Some(error)) => Some(format!("{overdue}; before: {error}")),
        (Some(overdue), None) => Some(overdue.to_owned()),
        (None, error) => error.clone(),
    }
}
