//! The documents say what the code says: options, reasons, degraded states,
//! the example configuration, and links that lead somewhere.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "everything in this file is a test"
)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use clap::Args;
use disk_discovery::{
    config::{Options, Settings},
    decide::{Obstacle, Reason},
    longhorn::{
        audit::PATHS,
        default_disks::{ANNOTATION, LABEL},
        finding::Kind,
        owner::{AGENT, ANSWER, QUESTION},
        register::{STOPPED, SUMMARY},
        status,
    },
    observe::{Dirty, Host, Observer},
    releases::ReleaseState,
    report::degraded,
    serve::Family,
    state::State,
    workers::{self, Overdue},
};

/// Documents whose links and scripts are checked, besides `docs/`.
const AT_THE_TOP: &[&str] = &["README.md", "CONTRIBUTING.md", "agent/docs/protocol.md"];

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn text_of(file: &str) -> String {
    read(&project().join(file))
}

/// Every document with its text.
fn documents() -> Vec<(PathBuf, String)> {
    let entries = fs::read_dir(project().join("docs")).expect("docs");
    let docs = entries.map(|entry| entry.expect("an entry").path());
    let docs = docs.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let top = AT_THE_TOP.iter().map(|name| project().join(name));
    top.chain(docs)
        .map(|path| {
            let text = read(&path);
            (path, text)
        })
        .collect()
}

/// What follows each occurrence of a mark, as long as it consists of `allowed`.
fn words_after<'a>(text: &'a str, mark: &str, allowed: fn(char) -> bool) -> Vec<&'a str> {
    text.split(mark)
        .skip(1)
        .map(|rest| {
            let end = rest.find(|c| !allowed(c)).unwrap_or(rest.len());
            rest.get(..end).unwrap_or_default()
        })
        .collect()
}

/// The lines of a chapter, from its heading to the next of the same level.
fn chapter<'a>(text: &'a str, heading: &str) -> Vec<&'a str> {
    let lines: Vec<&str> = text
        .lines()
        .skip_while(|line| *line != heading)
        .skip(1)
        .take_while(|line| !line.starts_with("## "))
        .collect();
    assert!(!lines.is_empty(), "no chapter {heading:?}");
    lines
}

/// First cells of the tables among some lines, without their backquotes.
fn first_cells(lines: &[&str]) -> BTreeSet<String> {
    let rows = lines.iter().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| row.split('`').next())
        .map(str::to_owned)
        .collect()
}

/// Long name and environment variable of each option. The key in the file is
/// the long name.
fn options() -> Vec<(String, String)> {
    let command = Options::augment_args(clap::Command::new("x"));
    let options: Vec<_> = command
        .get_arguments()
        .map(|argument| {
            let flag = argument.get_long().expect("a long name");
            let env = argument.get_env().expect("an environment variable");
            (flag.to_owned(), env.to_string_lossy().into_owned())
        })
        .collect();
    assert!(!options.is_empty());
    options
}

#[test]
fn every_reason_is_explained_word_for_word_and_no_other() {
    let text = text_of("docs/verdicts.md");
    let rows = chapter(&text, "## Reasons");
    for reason in Reason::ALL {
        let row = format!(
            "| `{}` | {} | {} |",
            reason.code(),
            reason.explanation(),
            reason.advice()
        );
        assert!(rows.contains(&row.as_str()), "not there: {row}");
    }
    let codes = Reason::ALL.iter().map(|reason| reason.code().to_owned());
    assert_eq!(first_cells(&rows), codes.collect::<BTreeSet<_>>());
}

#[test]
fn every_finding_about_longhorn_is_explained_word_for_word_and_no_other() {
    let text = text_of("docs/longhorn.md");
    let rows = chapter(&text, "## Findings");
    for kind in Kind::ALL {
        let row = format!(
            "| `{kind}` | `{}` | {} | {} | {} |",
            kind.event(),
            if kind.is_failure() { "yes" } else { "no" },
            kind.explanation(),
            kind.advice()
        );
        assert!(rows.contains(&row.as_str()), "not there: {row}");
    }
    let codes = Kind::ALL.iter().map(|kind| kind.code().to_owned());
    assert_eq!(first_cells(&rows), codes.collect::<BTreeSet<_>>());
    let states = first_cells(&chapter(&text, "## What it writes"));
    let known = status::State::ALL
        .iter()
        .map(|state| state.name().to_owned());
    assert_eq!(states, known.collect::<BTreeSet<_>>());
}

#[test]
fn every_annotation_and_wait_that_is_named_is_the_codes_own() {
    let text = text_of("docs/longhorn.md");
    for name in [PATHS, SUMMARY, STOPPED, AGENT, QUESTION, ANNOTATION, LABEL] {
        assert!(text.contains(name), "not there: {name}");
    }
    let said = |words: String| assert!(text.contains(&words), "not there: {words}");
    said(format!("within {} seconds", ANSWER.as_secs()));
    said(format!(
        "missing after {} seconds",
        Kind::DiskMissing.patience().as_secs()
    ));
    said(format!(
        "after {} minutes",
        Kind::ConfigMissing.patience().as_secs() / 60
    ));
}

#[test]
fn every_obstacle_to_growing_is_explained_word_for_word() {
    let text = text_of("docs/operating.md");
    let rows = chapter(&text, "## HTTP endpoints");
    for obstacle in Obstacle::ALL {
        let row = format!("| `{}` | {} | ", obstacle.code(), obstacle.explanation());
        let there = rows.iter().any(|line| line.starts_with(&row));
        assert!(there, "not there: {row}");
    }
}

#[test]
fn every_option_is_in_the_table_with_flag_variable_and_key_and_no_other() {
    let text = text_of("docs/operating.md");
    let rows = chapter(&text, "## Options");
    for (name, env) in options() {
        let row = format!("| `--{name}` | `{env}` | `{name}` | ");
        assert!(
            rows.iter().any(|line| line.starts_with(&row)),
            "not there: {row}"
        );
    }
    let mut flags: BTreeSet<String> = options()
        .iter()
        .map(|(name, _)| format!("--{name}"))
        .collect();
    // Names the file, so it is no key of it.
    flags.insert("--config".to_owned());
    assert_eq!(first_cells(&rows), flags);
}

#[test]
fn every_degraded_state_is_described_and_no_other() {
    // A host where nothing is, and one where a file is in place of each
    // directory, so that nothing can be read.
    let host = tempfile::tempdir().expect("a directory");
    let file = host.path().join("file");
    fs::write(&file, "").expect("a file where a directory belongs");
    let states = [host.path(), &file].into_iter().flat_map(|root| {
        let mut observer = Observer::new(Host::at(root), file.clone(), State::below(&file));
        degraded(&observer.observe(&Dirty::Everything))
    });
    let frozen = tempfile::tempdir().expect("a directory");
    fs::write(frozen.path().join("frozen"), "why").expect("a file");
    let mut observer = Observer::new(
        Host::at(host.path()),
        file.clone(),
        State::below(frozen.path()),
    );
    let frozen = degraded(&observer.observe(&Dirty::Everything));
    let states = states.chain(frozen);
    let codes: BTreeSet<String> = states.map(|state| state.code.to_owned()).collect();
    assert!(codes.len() >= 9, "only {codes:?}");
    let text = text_of("docs/operating.md");
    let described = first_cells(&chapter(&text, "## Degraded states"));
    assert_eq!(described, codes);
}

#[test]
fn every_state_of_a_release_is_described_and_no_other() {
    let text = text_of("docs/operating.md");
    let described = first_cells(&chapter(&text, "## Releasing a disk"));
    let states = ReleaseState::ALL.iter().map(|state| {
        let shown = serde_json::to_value(state).expect("a value");
        assert_eq!(shown, state.name(), "two names for one state");
        state.name().to_owned()
    });
    assert_eq!(described, states.collect::<BTreeSet<_>>());
}

#[test]
fn what_a_failing_disk_looks_like_is_told_as_it_is() {
    let text = text_of("docs/operating.md");
    let lines = chapter(&text, "## A failing disk");
    let (patience, aside) = (workers::PATIENCE.as_secs(), workers::ASIDE);
    for words in [
        format!("`operation.overdue`, after {patience} s"),
        format!("{aside} disks may be set aside"),
        format!("reason `{}`", Reason::ProbeFailed.code()),
        format!("reason `{}`", Reason::NotAnswering.code()),
    ] {
        assert!(
            lines.iter().any(|line| line.contains(&words)),
            "not there: {words}"
        );
    }
    let values = Overdue::ALL.iter().map(|overdue| {
        let value = serde_json::to_value(overdue).expect("a value");
        value.as_str().expect("a word").to_owned()
    });
    assert_eq!(first_cells(&lines), values.collect::<BTreeSet<_>>());
}

const EXAMPLE: &str = "deploy/systemd/config.yaml";

/// The example with every key that is commented out made effective.
fn uncommented() -> String {
    let is_key = |line: &str| {
        line.split_once(':').is_some_and(|(key, _)| {
            !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c == '-')
        })
    };
    text_of(EXAMPLE)
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if is_key(rest) => format!("{rest}\n"),
            Some(_) | None => format!("{line}\n"),
        })
        .collect()
}

fn settings(file: &Path) -> Settings {
    let options = Options::from_file(file).unwrap_or_else(|error| panic!("{error}"));
    options
        .into_settings()
        .unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn the_example_configuration_is_read_and_shows_the_defaults() {
    let mut options = Options::from_file(&project().join(EXAMPLE)).expect("the example as it is");
    options.node_name = Some("k3s2".to_owned());
    let as_it_is = options.into_settings().expect("possible values");
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), uncommented()).expect("written");
    let mut shown = settings(file.path());
    // The default is to have no rule, which takes what this one takes.
    assert_eq!(shown.policy.allow.len(), 1);
    shown.policy.allow.clear();
    // Nor is there a unit by default.
    assert!(shown.mount_units.take().is_some());
    assert_eq!(shown, as_it_is);
}

#[test]
fn the_example_configuration_names_every_key() {
    let text = uncommented();
    let keys: BTreeSet<&str> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once(':'))
        .map(|(key, _)| key)
        .collect();
    let options = options();
    let wanted: BTreeSet<&str> = options.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(keys, wanted);
}

#[test]
fn every_relative_link_leads_to_a_file() {
    for (path, text) in documents() {
        let directory = path.parent().expect("a directory");
        let links = words_after(&text, "](", |c| !matches!(c, ')' | ' ' | '\n'));
        let relative = links
            .iter()
            .filter(|link| !link.contains("://"))
            .filter_map(|link| link.split('#').next())
            .filter(|file| !file.is_empty());
        for file in relative {
            assert!(
                directory.join(file).exists(),
                "{} links to {file}",
                path.display()
            );
        }
    }
}

#[test]
fn every_script_that_is_named_is_there() {
    let named = |text: &str| -> BTreeSet<String> {
        let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let names = words_after(text, "scripts/", part);
        let names = names.into_iter().filter(|name| !name.is_empty());
        names.map(str::to_owned).collect()
    };
    assert!(named(&text_of("README.md")).contains("demo"));
    for (path, text) in documents() {
        for script in named(&text) {
            assert!(
                project().join("scripts").join(&script).is_file(),
                "{} names scripts/{script}",
                path.display()
            );
        }
    }
}

#[test]
fn every_metric_is_in_the_table_with_its_labels_and_meaning_and_no_other() {
    let text = text_of("docs/kubernetes.md");
    let lines = chapter(&text, "## Metrics");
    let mut names = BTreeSet::new();
    for family in Family::ALL {
        let name = family.name();
        let labels: Vec<String> = family
            .labels()
            .iter()
            .map(|label| format!("`{label}`"))
            .collect();
        let row = format!("| `{name}` | {} | {} |", labels.join(", "), family.help());
        let row = row.replace("|  |", "| |");
        assert!(lines.contains(&row.as_str()), "not there: {row}");
        names.insert(name);
    }
    assert_eq!(first_cells(&lines), names);
    // What the examples ask for exists.
    let reasons = words_after(&text, "reason=~\"", |c| c != '"');
    let codes: BTreeSet<&str> = Reason::ALL.iter().map(|reason| reason.code()).collect();
    assert!(!reasons.is_empty());
    for reason in reasons.iter().flat_map(|reasons| reasons.split('|')) {
        assert!(codes.contains(reason), "no reason {reason}");
    }
    let part = |c: char| c.is_ascii_lowercase() || c == '_';
    for (path, text) in documents() {
        for word in words_after(&text, "disk_discovery_", part) {
            let name = format!("disk_discovery_{word}");
            assert!(names.contains(&name), "{} names {name}", path.display());
        }
    }
}
