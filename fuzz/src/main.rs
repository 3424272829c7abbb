//! libFuzzer around the target that `FUZZ_TARGET` names. One program for all
//! of them, because linking is most of what building it costs.
#![no_main]

use std::{env, process::exit, sync::OnceLock};

use fuzz::{Check, TARGETS};
use libfuzzer_sys::fuzz_target;

static CHECK: OnceLock<Check> = OnceLock::new();

/// The target, or the end of the program where no target is named.
fn chosen() -> Check {
    let name = env::var("FUZZ_TARGET").unwrap_or_default();
    fuzz::target(&name).unwrap_or_else(|| {
        let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
        eprintln!("FUZZ_TARGET={name:?}: the targets are {}", names.join(" "));
        exit(2)
    })
}

fuzz_target!(|input: &[u8]| CHECK.get_or_init(chosen)(input));
