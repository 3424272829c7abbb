//! `plan`: one pass that writes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::ExitCode,
};

use clap::ValueEnum;
use comfy_table::{Table, presets::NOTHING};

use crate::{
    config::Settings,
    decide,
    longhorn::View,
    look::Look,
    observe::{Dirty, Observer},
    provision,
    releases::{self, Known},
    report::{DeadMount, Report, Round, RoundCost, Row},
    state::State,
    text::chain,
    units::Bytes,
};

/// Form of the output.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Output {
    /// For people.
    Table,
    /// For machines; the form of `/v1/disks`.
    Json,
    /// Everything that was read, as JSON, errors included; for a report of a
    /// problem. Its form is not stable.
    Evidence,
}

pub(super) fn plan(settings: Settings, output: Output) -> ExitCode {
    super::log_to_stderr(&settings);
    let state = State::below(&settings.state_dir);
    let observer = Observer::new(settings.host(), settings.mount_root.clone(), state);
    let mut look = Look::new(settings.host(), settings.policy.clone(), observer);
    let seen = look.look(&Dirty::Everything, &BTreeSet::new());
    let cost = RoundCost {
        number: 0,
        finished_at: 0,
        devices_read: seen.devices_read,
        full: true,
        micros: seen.micros,
    };
    // As seen: taken away they are only by the agent.
    let dead_mounts = decide::dead_mounts(&seen.inventory, &settings.policy)
        .into_iter()
        .map(|(name, devno)| DeadMount {
            path: settings.mount_root.join(name.as_str()),
            devno,
            error: None,
        })
        .collect();
    let released = decide::released(&seen.inventory, &settings.policy);
    let mut known = Known::default();
    for (name, found) in &released {
        match provision::check_unused(&found.partitions, &settings.host()) {
            Ok(()) => drop(known.unused.insert(name.clone())),
            Err(_) if found.mounted.is_some() => {}
            Err(error) => drop(known.kept.insert(name.clone(), chain(&error))),
        }
    }
    let round = Round {
        dead_mounts,
        releases: releases::rows(&seen.inventory, &released, &known),
        inventory: seen.inventory,
        verdicts: seen.verdicts,
        operations: BTreeMap::new(),
        cost,
        longhorn: View::Off,
        mount_units: None,
    };
    let report = || {
        round.report(
            &settings.node_name,
            settings.mode,
            &settings.policy.mount_root,
        )
    };
    let text = match output {
        Output::Table => Ok(table(&report())),
        Output::Json => serde_json::to_string_pretty(&report()),
        Output::Evidence => serde_json::to_string_pretty(&round.inventory),
    };
    match text {
        Ok(text) => super::print(&text),
        Err(error) => super::fail(1, &error),
    }
}

fn table(report: &Report) -> String {
    let mut table = Table::new();
    table
        .load_style(NOTHING)
        .set_header(["DEVICE", "SIZE", "MODEL", "VERDICT", "REASON", "DETAIL"]);
    // An unused loop device or an empty card reader is nothing to plan with.
    for row in report.disks.iter().filter(|row| row.size != Some(0)) {
        let size = row
            .size
            .map_or_else(|| "?".to_owned(), |size| Bytes(size).to_string());
        table.add_row([
            row.device.clone(),
            size,
            row.model.clone().unwrap_or_default(),
            row.verdict.name().to_owned(),
            row.reason.clone().unwrap_or_default(),
            detail(row),
        ]);
    }
    let mut text: String = table
        .lines()
        .map(|line| format!("{}\n", line.trim()))
        .collect();
    for dead in &report.dead_mounts {
        text.push_str(&format!(
            "! {}: still mounted, its device is gone\n",
            dead.path.display()
        ));
    }
    for state in &report.degraded {
        text.push_str(&format!("! {}: {}\n", state.code, state.detail));
    }
    text.trim_end().to_owned()
}

fn detail(row: &Row) -> String {
    match (&row.mount_path, row.mounted) {
        (Some(path), Some(true)) => match &row.growth {
            Some(growth) => format!("mounted at {path}, {growth}"),
            None => format!("mounted at {path}"),
        },
        (Some(path), _) => format!("{} at {path}", row.filesystem.unwrap_or_default()),
        (None, _) => row.detail.clone().unwrap_or_default(),
    }
}
