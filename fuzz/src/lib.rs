//! A fuzz target for each parser of bytes or text that come from outside.
//!
//! A target is a function that takes any bytes and panics when the parser
//! breaks a promise: not only that it does not crash, but what it may accept,
//! what must be in the text that it says it read, and what it never concludes.
//! Where it can be said in a few lines, the promise is checked against a second
//! reader that shares no code with the first.
//!
//! `corpus/<target>/` keeps inputs that lead to different places in the code,
//! and each input that ever broke a promise. The tests of this crate run all of
//! them without the fuzzer; `scripts/fuzz` searches for more with it.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a promise that is broken must end the program"
)]

mod claim;
mod config;
mod gpt;
mod journal;
mod ledger;
mod longhorn;
mod longhorn_disk;
mod mountinfo;
mod names;
mod recipe;
mod rule;
mod superblock;
mod swaps;
mod sysfs;
mod text;
mod traces;
mod udev;

/// What a target does with an input.
pub type Check = fn(&[u8]);

/// Every target by its name.
pub const TARGETS: &[(&str, Check)] = &[
    ("claim", claim::check),
    ("config", config::check),
    ("journal", journal::check),
    ("ledger", ledger::check),
    ("longhorn", longhorn::check),
    ("longhorn_disk", longhorn_disk::check),
    ("mountinfo", mountinfo::check),
    ("names", names::check),
    ("rule", rule::check),
    ("superblock", superblock::check),
    ("swaps", swaps::check),
    ("sysfs", sysfs::check),
    ("traces", traces::check),
    ("udev", udev::check),
];

/// Fails on what the agent rightly accepts, so that finding it shows that the
/// fuzzer sees into the agent. No target like the others.
const PLANTED: (&str, Check) = ("planted", |input| {
    let text = String::from_utf8_lossy(input);
    if let Ok(areas) = disk_discovery::observe::tables::parse_swaps(&text) {
        assert!(areas.is_empty(), "a planted mistake");
    }
});

/// The target of that name.
pub fn target(name: &str) -> Option<Check> {
    let mut known = TARGETS.iter().chain([&PLANTED]);
    let found = known.find(|(known, _)| *known == name);
    found.map(|(_, check)| *check)
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        fs,
        panic::catch_unwind,
        path::{Path, PathBuf},
    };

    use super::*;

    fn entries(directory: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(directory).expect("a directory");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        paths.collect()
    }

    fn corpus() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
    }

    #[test]
    fn no_input_that_is_kept_breaks_a_promise() {
        for (name, check) in TARGETS {
            let inputs = entries(&corpus().join(name));
            assert!(!inputs.is_empty(), "{name} keeps no input");
            for input in inputs {
                let bytes = fs::read(&input).expect("an input");
                let kept = catch_unwind(|| check(&bytes));
                assert!(kept.is_ok(), "{name}: {}", input.display());
            }
        }
    }

    #[test]
    fn every_target_has_a_corpus_and_every_corpus_a_target() {
        let directories = entries(&corpus());
        let kept: BTreeSet<_> = directories
            .iter()
            .filter_map(|path| path.file_name()?.to_str())
            .collect();
        let targets: BTreeSet<_> = TARGETS.iter().map(|(name, _)| *name).collect();
        assert_eq!(kept, targets);
    }

    #[test]
    fn a_broken_promise_is_noticed() {
        let swaps = b"Filename\n/dev/sda2 partition 1 0 -2\n";
        let (_, planted) = PLANTED;
        assert!(catch_unwind(|| planted(swaps)).is_err());
    }
}
