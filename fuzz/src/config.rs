//! The configuration: whatever is accepted keeps to what is documented, and
//! nothing is switched on that the text does not name.

use std::{path::Path, time::Duration};

use disk_discovery::config::{Mode, Options, Settings};

pub fn check(input: &[u8]) {
    // A file that is not UTF-8 is refused before it is parsed.
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let options = match Options::from_text(text) {
        Ok(options) => options,
        Err(error) => return explained(&error),
    };
    assert_eq!(Options::from_text(text).as_ref(), Ok(&options));
    // Filling up with nothing, or nothing with it, changes nothing.
    assert_eq!(options.clone().or(Options::default()), options);
    assert_eq!(Options::default().or(options.clone()), options);
    match options.into_settings() {
        Ok(settings) => {
            possible(&settings);
            asked_for(&settings, text);
        }
        Err(error) => explained(&error.to_string()),
    }
}

fn explained(error: &str) {
    assert!(!error.is_empty());
    assert_eq!(error.lines().count(), 1, "{error}");
}

fn possible(settings: &Settings) {
    let interval = Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60);
    assert!(interval.contains(&settings.interval));
    assert!((1..=64).contains(&settings.parallel));
    assert!(settings.policy.min_size.0 <= 1_000_000_000_000_000_000);
    for path in [
        &settings.mount_root,
        &settings.state_dir,
        &settings.host_root,
    ] {
        let text = path.to_str().expect("YAML is UTF-8");
        let plain = |part: &str| !matches!(part, "" | "." | "..");
        let rest = text.strip_prefix('/').expect("an absolute path");
        assert!(rest.is_empty() || rest.split('/').all(plain), "{text:?}");
    }
    assert_ne!(settings.mount_root, Path::new("/"));
    assert_eq!(
        settings.mount_root,
        Path::new(&settings.policy.mount_root),
        "decided for one place and mounted at another"
    );
    for name in [&settings.node_name, &settings.longhorn_namespace] {
        let allowed = |c| matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_');
        assert!((1..=253).contains(&name.len()), "{name:?}");
        assert!(name.chars().all(allowed), "{name:?}");
    }
}

/// What permits more than the defaults is written out.
fn asked_for(settings: &Settings, text: &str) {
    // An escape may spell any word in another way.
    if text.contains('\\') {
        return;
    }
    let names = |word: &str| text.contains(word);
    assert!(settings.mode == Mode::Observe || names("enforce"));
    assert!(!settings.policy.allow_loop || names("allow-loop"));
    let policy = &settings.policy;
    assert!(policy.allow.is_empty() || names("allow"));
    assert!(policy.approvals.is_empty() || names("approve"));
    let lowered = settings.policy.min_size.0 < 10_000_000_000;
    assert!(!lowered || names("min-size"));
}
