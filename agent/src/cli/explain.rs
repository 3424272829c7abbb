//! `explain`: one device, with everything that speaks for and against it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::ExitCode,
};

use clap::ValueEnum;
use thiserror::Error;

use crate::{
    config::Settings,
    explain::Explanation,
    look::Look,
    observe::{Dirty, Host, Inventory, Observer, sample::Seed},
    report::row,
    state::State,
};

/// Form of the output.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Output {
    /// For people.
    Text,
    /// For machines.
    Json,
}

#[derive(Debug, Error)]
#[error("there is no block device {device:?}; there are {present}")]
struct NoDevice {
    device: String,
    present: String,
}

pub(super) fn explain(
    settings: Settings,
    device: &Path,
    output: Output,
    seed: Option<Seed>,
) -> ExitCode {
    super::log_to_stderr(&settings);
    let state = State::below(&settings.state_dir);
    let host = settings.host();
    let observer = Observer::new(host.clone(), settings.mount_root.clone(), state);
    let mut look = Look::new(host.clone(), settings.policy.clone(), observer).thorough(seed);
    let seen = look.look(&Dirty::Everything, &BTreeSet::new());
    let found = named(&host, &seen.inventory, device).and_then(|name| {
        Some((
            seen.inventory.devices.get(&name)?,
            seen.verdicts.get(&name)?,
        ))
    });
    let Some((device, verdict)) = found else {
        let names: BTreeMap<_, _> = seen.inventory.devices.iter().collect();
        let names: Vec<&str> = names.keys().map(|name| name.as_str()).collect();
        let error = NoDevice {
            device: device.display().to_string(),
            present: if names.is_empty() {
                "none at all".to_owned()
            } else {
                names.join(", ")
            },
        };
        return super::fail(1, &error);
    };
    let row = row(device, verdict, None, &settings.policy.mount_root);
    let explanation = Explanation::of(&seen.inventory, device, verdict, row);
    match output {
        Output::Text => super::print(&explanation.text()),
        Output::Json => match serde_json::to_string_pretty(&explanation) {
            Ok(text) => super::print(&text),
            Err(error) => super::fail(1, &error),
        },
    }
}

/// The kernel's name of a device that a person names by any of its names.
fn named(host: &Host, inventory: &Inventory, device: &Path) -> Option<String> {
    let text = device.to_str()?;
    let inside = text.strip_prefix("/dev/").unwrap_or(text);
    let by_name = |name: &str| {
        let mut devices = inventory.devices.values();
        devices
            .find(|device| {
                device.name == name || device.devname.is_known_and(|there| there == name)
            })
            .map(|device| device.name.clone())
    };
    by_name(inside).or_else(|| {
        // A link below /dev, which leads to a node of the same directory.
        let node = fs::canonicalize(host.node(inside)).ok()?;
        let dev = fs::canonicalize(host.node("")).ok()?;
        by_name(node.strip_prefix(dev).ok()?.to_str()?)
    })
}
