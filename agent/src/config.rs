//! Options: each is a flag, an environment variable and a key of a YAML file,
//! in that order of precedence, described once.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use clap::{Args, ValueEnum};
use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

use crate::{
    approval::Token,
    decide::{Adoption, Policy, Rule},
    observe::Host,
    text::in_a_line,
    units::{Bytes, Filesystem, Limit},
};

/// Whether anything is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Look and report; write to no disk and mount nothing.
    Observe,
    /// Provision blank disks and mount those that are ours.
    Enforce,
}

/// Form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Whether Longhorn's view of this node is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Longhorn {
    /// In a pod, or where KUBECONFIG names a cluster.
    Auto,
    /// Never: a plain host.
    Off,
}

/// What becomes of the scheduling of a registered disk that is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnMissing {
    /// It is told, and nothing is changed.
    Report,
    /// It is switched off until the disk is back.
    StopScheduling,
}

/// What Longhorn leaves free on a new disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reserved {
    /// So many bytes.
    Bytes(u64),
    /// So much of its filesystem in a hundred.
    Percent(u8),
}

impl Reserved {
    /// In bytes, for a filesystem of that capacity; none where it is not known
    /// and would be needed.
    pub fn of(self, capacity: Option<u64>) -> Option<u64> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Percent(percent) => Some(capacity? / 100 * u64::from(percent)),
        }
    }
}

impl FromStr for Reserved {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || {
            format!("{text:?} is not possible; write a size such as 0, 10GB or 50GiB, or 0% to 90%")
        };
        match text.trim().strip_suffix('%') {
            Some(percent) => percent
                .trim()
                .parse()
                .ok()
                .filter(|percent| *percent <= 90)
                .map(Self::Percent)
                .ok_or_else(bad),
            None => match text.trim() {
                "0" => Ok(Self::Bytes(0)),
                size => size
                    .parse::<Bytes>()
                    .ok()
                    // Longhorn counts in signed numbers.
                    .filter(|bytes| i64::try_from(bytes.0).is_ok())
                    .map(|bytes| Self::Bytes(bytes.0))
                    .ok_or_else(bad),
            },
        }
    }
}

impl<'de> Deserialize<'de> for Reserved {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // A bare 0 is a number in YAML.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Given {
            Number(u64),
            Text(String),
        }
        let text = match Given::deserialize(deserializer)? {
            Given::Number(number) => number.to_string(),
            Given::Text(text) => text,
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A duration as `90s`, `5m`, `1h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let span = humantime::parse_duration(text).map_err(|error| {
            format!("{text:?} is not a duration ({error}); write one such as 90s, 5m or 1h")
        })?;
        Ok(Self(span))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The options as given, in one place or another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Options {
    /// Whether disks are provisioned and mounted [default: observe]
    #[arg(long, env = "DISK_DISCOVERY_MODE", value_enum)]
    #[serde(deserialize_with = "present")]
    pub mode: Option<Mode>,
    /// A new disk must be strictly larger than this [default: 10GB]
    #[arg(long, env = "DISK_DISCOVERY_MIN_SIZE", value_name = "SIZE")]
    #[serde(deserialize_with = "present")]
    pub min_size: Option<Bytes>,
    /// Take only new disks that match one of these rules: property=pattern, joined by commas; may be repeated [default: any disk]
    #[arg(
        long,
        env = "DISK_DISCOVERY_ALLOW",
        value_name = "RULE",
        value_delimiter = ';'
    )]
    #[serde(deserialize_with = "present")]
    pub allow: Option<Vec<Rule>>,
    /// Take no new disk that matches one of these rules; may be repeated [default: none]
    #[arg(
        long,
        env = "DISK_DISCOVERY_DENY",
        value_name = "RULE",
        value_delimiter = ';'
    )]
    #[serde(deserialize_with = "present")]
    pub deny: Option<Vec<Rule>>,
    /// Take a disk with residual data, once, in the state that explain printed this token for; may be repeated [default: none]
    #[arg(
        long,
        env = "DISK_DISCOVERY_APPROVE",
        value_name = "TOKEN",
        value_delimiter = ';'
    )]
    #[serde(deserialize_with = "present")]
    pub approve: Option<Vec<Token>>,
    /// Have no more disks than this on the node; those that are there stay [default: unlimited]
    #[arg(long, env = "DISK_DISCOVERY_MAX_DISKS", value_name = "N")]
    #[serde(deserialize_with = "present")]
    pub max_disks: Option<Limit>,
    /// Begin no more disks than this within an hour [default: unlimited]
    #[arg(long, env = "DISK_DISCOVERY_MAX_FORMATS_PER_HOUR", value_name = "N")]
    #[serde(deserialize_with = "present")]
    pub max_formats_per_hour: Option<Limit>,
    /// Filesystem that a new disk is given [default: ext4]
    #[arg(long, env = "DISK_DISCOVERY_FILESYSTEM", value_enum)]
    #[serde(deserialize_with = "present")]
    pub filesystem: Option<Filesystem>,
    /// Whether disks of ours that were enlarged are grown, with partition and filesystem [default: true]
    #[arg(long, env = "DISK_DISCOVERY_GROW", value_name = "BOOL")]
    #[serde(deserialize_with = "present")]
    pub grow: Option<bool>,
    /// Directory below which disks are mounted [default: /mnt/longhorn]
    #[arg(long, env = "DISK_DISCOVERY_MOUNT_ROOT", value_name = "DIR")]
    #[serde(deserialize_with = "present")]
    pub mount_root: Option<PathBuf>,
    /// Directory of systemd units, usually /etc/systemd/system: each mounted disk gets a mount unit there [default: none]
    #[arg(long, env = "DISK_DISCOVERY_MOUNT_UNITS", value_name = "DIR")]
    #[serde(deserialize_with = "present")]
    pub mount_units: Option<PathBuf>,
    /// Directory for the journal, on a disk that survives a reboot [default: /var/lib/disk-discovery]
    #[arg(long, env = "DISK_DISCOVERY_STATE_DIR", value_name = "DIR")]
    #[serde(deserialize_with = "present")]
    pub state_dir: Option<PathBuf>,
    /// Directory that holds the host's sys, proc, dev and run/udev [default: /]
    #[arg(long, env = "DISK_DISCOVERY_HOST_ROOT", value_name = "DIR")]
    #[serde(deserialize_with = "present")]
    pub host_root: Option<PathBuf>,
    /// Whether disks are mounted that Longhorn or another node's agent made; those mounted here before stay [default: all]
    #[arg(long, env = "DISK_DISCOVERY_ADOPT", value_enum)]
    #[serde(deserialize_with = "present")]
    pub adopt: Option<Adoption>,
    /// Look at everything again at least this often, give or take a tenth [default: 60s]
    #[arg(long, env = "DISK_DISCOVERY_INTERVAL", value_name = "DURATION")]
    #[serde(deserialize_with = "present")]
    pub interval: Option<Span>,
    /// Address of the health endpoint [default: 0.0.0.0:9807]
    #[arg(long, env = "DISK_DISCOVERY_LISTEN", value_name = "ADDRESS:PORT")]
    #[serde(deserialize_with = "present")]
    pub listen: Option<SocketAddr>,
    /// Disks that are worked on at the same time [default: 4]
    #[arg(long, env = "DISK_DISCOVERY_PARALLEL", value_name = "N")]
    #[serde(deserialize_with = "present")]
    pub parallel: Option<u16>,
    /// Kill a mkfs that takes longer, and try again later [default: 30m]
    #[arg(long, env = "DISK_DISCOVERY_MKFS_TIMEOUT", value_name = "DURATION")]
    #[serde(deserialize_with = "present")]
    pub mkfs_timeout: Option<Span>,
    /// Count loop devices as disks, for tests [default: false]
    #[arg(long, env = "DISK_DISCOVERY_ALLOW_LOOP", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    #[serde(deserialize_with = "present")]
    pub allow_loop: Option<bool>,
    /// Form of log lines [default: text]
    #[arg(long, env = "DISK_DISCOVERY_LOG_FORMAT", value_enum)]
    #[serde(deserialize_with = "present")]
    pub log_format: Option<LogFormat>,
    /// What is logged: off, error, warn, info, debug, trace, or target=level pairs [default: info]
    #[arg(long, env = "DISK_DISCOVERY_LOG", value_name = "FILTER")]
    #[serde(deserialize_with = "present")]
    pub log: Option<String>,
    /// Name of this node in the cluster and in reports [default: the host name]
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    #[serde(deserialize_with = "present")]
    pub node_name: Option<String>,
    /// Whether disks are registered with Longhorn on this node, in mode enforce; otherwise what it has is shown [default: auto]
    #[arg(long, env = "DISK_DISCOVERY_LONGHORN", value_enum)]
    #[serde(deserialize_with = "present")]
    pub longhorn: Option<Longhorn>,
    /// Namespace that Longhorn runs in [default: longhorn-system]
    #[arg(long, env = "DISK_DISCOVERY_LONGHORN_NAMESPACE", value_name = "NAME")]
    #[serde(deserialize_with = "present")]
    pub longhorn_namespace: Option<String>,
    /// What becomes of the scheduling of a registered disk that is missing [default: report]
    #[arg(long, env = "DISK_DISCOVERY_ON_MISSING", value_enum)]
    #[serde(deserialize_with = "present")]
    pub on_missing: Option<OnMissing>,
    /// Whether new disks get the tags ssd, hdd and nvme in Longhorn, by what they are [default: true]
    #[arg(long, env = "DISK_DISCOVERY_LONGHORN_TAGS", value_name = "BOOL")]
    #[serde(deserialize_with = "present")]
    pub longhorn_tags: Option<bool>,
    /// What Longhorn leaves free on a new disk: a size, or a part of it as 5% [default: 0]
    #[arg(
        long,
        env = "DISK_DISCOVERY_LONGHORN_RESERVED",
        value_name = "SIZE|PERCENT"
    )]
    #[serde(deserialize_with = "present")]
    pub longhorn_reserved: Option<Reserved>,
    /// Whether disks are also named in node.longhorn.io/default-disks-config on the Kubernetes Node [default: false]
    #[arg(long, env = "DISK_DISCOVERY_DEFAULT_DISKS", value_name = "BOOL")]
    #[serde(deserialize_with = "present")]
    pub default_disks: Option<bool>,
}

/// The options with defaults filled in and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Whether anything is written.
    pub mode: Mode,
    /// What decisions depend on.
    pub policy: Policy,
    /// Where disks are mounted.
    pub mount_root: PathBuf,
    /// Where systemd's units are, if it is to have one for each disk.
    pub mount_units: Option<PathBuf>,
    /// Where the journal is.
    pub state_dir: PathBuf,
    /// Where the host's trees are.
    pub host_root: PathBuf,
    /// Time between full passes.
    pub interval: Duration,
    /// Where health is served.
    pub listen: SocketAddr,
    /// Disks worked on at the same time.
    pub parallel: u16,
    /// How long a mkfs may take.
    pub mkfs_timeout: Duration,
    /// Form of log lines.
    pub log_format: LogFormat,
    /// What is logged.
    pub log: String,
    /// Name of this node.
    pub node_name: String,
    /// Whether Longhorn's view is watched.
    pub longhorn: Longhorn,
    /// Where Longhorn's objects are.
    pub longhorn_namespace: String,
    /// What becomes of the scheduling of a registered disk that is missing.
    pub on_missing: OnMissing,
    /// New disks get tags in Longhorn.
    pub longhorn_tags: bool,
    /// What Longhorn leaves free on a new disk.
    pub longhorn_reserved: Reserved,
    /// Disks are also named on the Kubernetes Node.
    pub default_disks: bool,
}

/// An option cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("config file {} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not understood.
    #[error("config file {}: {message}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Key, place and what is allowed.
        message: String,
    },
    /// A value is impossible.
    #[error("{key}: {value} is not possible; {allowed}")]
    Impossible {
        /// The option.
        key: &'static str,
        /// Its value.
        value: String,
        /// What may be given.
        allowed: &'static str,
    },
}

impl Options {
    /// Reads a YAML file.
    ///
    /// # Errors
    /// When it cannot be read, has an unknown key or a value of a wrong form.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::from_text(&text).map_err(|message| ConfigError::Parse {
            path: path.to_owned(),
            message,
        })
    }

    /// Reads YAML.
    ///
    /// # Errors
    /// The key, its place and what is allowed, in one line.
    pub fn from_text(text: &str) -> Result<Self, String> {
        if text
            .lines()
            .all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
        {
            return Ok(Self::default());
        }
        // One line: the rendering with a snippet of the file is for editors.
        serde_saphyr::from_str(text).map_err(|error| {
            let mut line = first_line(&error.to_string());
            // YAML gives `*`, `>` and `[` a meaning of its own.
            if ["alias", "unexpected character", "block scalar"]
                .iter()
                .any(|words| line.contains(words))
            {
                line.push_str("; put patterns and sizes in quotes");
            }
            line
        })
    }

    /// Fills in what is missing from another source of lower precedence.
    #[must_use]
    pub fn or(self, lower: Self) -> Self {
        Self {
            mode: self.mode.or(lower.mode),
            min_size: self.min_size.or(lower.min_size),
            allow: self.allow.or(lower.allow),
            // What is denied in one place is denied, whatever another says.
            deny: together(self.deny, lower.deny),
            approve: self.approve.or(lower.approve),
            max_disks: self.max_disks.or(lower.max_disks),
            max_formats_per_hour: self.max_formats_per_hour.or(lower.max_formats_per_hour),
            filesystem: self.filesystem.or(lower.filesystem),
            grow: self.grow.or(lower.grow),
            mount_root: self.mount_root.or(lower.mount_root),
            mount_units: self.mount_units.or(lower.mount_units),
            state_dir: self.state_dir.or(lower.state_dir),
            host_root: self.host_root.or(lower.host_root),
            adopt: self.adopt.or(lower.adopt),
            interval: self.interval.or(lower.interval),
            listen: self.listen.or(lower.listen),
            parallel: self.parallel.or(lower.parallel),
            mkfs_timeout: self.mkfs_timeout.or(lower.mkfs_timeout),
            allow_loop: self.allow_loop.or(lower.allow_loop),
            log_format: self.log_format.or(lower.log_format),
            log: self.log.or(lower.log),
            node_name: self.node_name.or(lower.node_name),
            longhorn: self.longhorn.or(lower.longhorn),
            longhorn_namespace: self.longhorn_namespace.or(lower.longhorn_namespace),
            on_missing: self.on_missing.or(lower.on_missing),
            longhorn_tags: self.longhorn_tags.or(lower.longhorn_tags),
            longhorn_reserved: self.longhorn_reserved.or(lower.longhorn_reserved),
            default_disks: self.default_disks.or(lower.default_disks),
        }
    }

    /// Fills in defaults and checks what no type can.
    ///
    /// # Errors
    /// The first option whose value is impossible, and what is allowed.
    pub fn into_settings(self) -> Result<Settings, ConfigError> {
        let mount_root = absolute("mount-root", self.mount_root, "/mnt/longhorn")?;
        if mount_root == Path::new("/") {
            return Err(impossible(
                "mount-root",
                mount_root.display(),
                "name a directory of its own",
            ));
        }
        let mount_root_text = mount_root
            .to_str()
            .ok_or_else(|| impossible("mount-root", mount_root.display(), "it must be UTF-8"))?
            .to_owned();
        if self.allow.as_ref().is_some_and(Vec::is_empty) {
            return Err(impossible(
                "allow",
                "[]",
                "no disk would be taken; leave the key out to take any",
            ));
        }
        let defaults = Policy::default();
        let min_size = self.min_size.unwrap_or(defaults.min_size);
        let interval = self.interval.map_or(Duration::from_mins(1), |span| span.0);
        if !(Duration::from_secs(1)..=Duration::from_hours(24)).contains(&interval) {
            let value = humantime::format_duration(interval);
            return Err(impossible("interval", value, "allowed are 1s to 24h"));
        }
        let parallel = self.parallel.unwrap_or(4);
        if !(1..=64).contains(&parallel) {
            return Err(impossible("parallel", parallel, "allowed are 1 to 64"));
        }
        let mkfs_timeout = self
            .mkfs_timeout
            .map_or(Duration::from_mins(30), |span| span.0);
        if !(Duration::from_secs(1)..=Duration::from_hours(24)).contains(&mkfs_timeout) {
            let value = humantime::format_duration(mkfs_timeout);
            return Err(impossible("mkfs-timeout", value, "allowed are 1s to 24h"));
        }
        let log = self.log.unwrap_or_else(|| "info".to_owned());
        // A word alone would be taken for the name of a target.
        let level = |part: &str| {
            part.contains('=') || ["off", "error", "warn", "info", "debug", "trace"].contains(&part)
        };
        if log.parse::<tracing_subscriber::filter::Targets>().is_err()
            || !log.split(',').map(str::trim).all(level)
        {
            let allowed = "allowed are off, error, warn, info, debug, trace and target=level pairs";
            return Err(impossible("log", log, allowed));
        }
        // Kubernetes names a node after its host in lower case.
        let host_name = || {
            sysinfo::System::host_name()
                .ok()
                .map(|name| name.to_lowercase())
        };
        let node_name = self
            .node_name
            .or_else(host_name)
            .unwrap_or_else(|| "unknown".to_owned());
        let namespace = self
            .longhorn_namespace
            .unwrap_or_else(|| "longhorn-system".to_owned());
        // Both become part of a URL.
        for (key, value) in [
            ("node-name", &node_name),
            ("longhorn-namespace", &namespace),
        ] {
            if !is_kubernetes_name(value) {
                return Err(impossible(
                    key,
                    value,
                    "allowed are 1 to 253 of a-z, 0-9, ., - and _",
                ));
            }
        }
        Ok(Settings {
            node_name: node_name.clone(),
            longhorn: self.longhorn.unwrap_or(Longhorn::Auto),
            longhorn_namespace: namespace,
            on_missing: self.on_missing.unwrap_or(OnMissing::Report),
            longhorn_tags: self.longhorn_tags.unwrap_or(true),
            longhorn_reserved: self.longhorn_reserved.unwrap_or(Reserved::Bytes(0)),
            default_disks: self.default_disks.unwrap_or(false),
            mode: self.mode.unwrap_or(Mode::Observe),
            policy: Policy {
                min_size,
                allow_loop: self.allow_loop.unwrap_or(false),
                allow: self.allow.unwrap_or_default(),
                deny: self.deny.unwrap_or_default(),
                approvals: self.approve.unwrap_or_default().into_iter().collect(),
                max_disks: self.max_disks.and_then(|limit| limit.0),
                max_formats_per_hour: self.max_formats_per_hour.and_then(|limit| limit.0),
                filesystem: self.filesystem.unwrap_or(defaults.filesystem),
                grow: self.grow.unwrap_or(defaults.grow),
                mount_root: mount_root_text,
                adopt: self.adopt.unwrap_or(defaults.adopt),
                node: node_name,
            },
            mount_root,
            mount_units: match self.mount_units {
                Some(directory) => Some(absolute("mount-units", Some(directory), "")?),
                None => None,
            },
            state_dir: absolute("state-dir", self.state_dir, "/var/lib/disk-discovery")?,
            host_root: absolute("host-root", self.host_root, "/")?,
            interval,
            listen: self
                .listen
                .unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 9807))),
            parallel,
            mkfs_timeout,
            log_format: self.log_format.unwrap_or(LogFormat::Text),
            log,
        })
    }
}

impl Settings {
    /// The host as these settings find it.
    pub fn host(&self) -> Host {
        Host::at(&self.host_root)
    }
}

fn together<T>(one: Option<Vec<T>>, other: Option<Vec<T>>) -> Option<Vec<T>> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.into_iter().chain(other).collect()),
        (one, other) => one.or(other),
    }
}

/// A key that is there has a value: one that a template left empty must not be
/// taken for one that nobody wrote.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    match Option::<T>::deserialize(deserializer)? {
        Some(value) => Ok(Some(value)),
        None => Err(serde::de::Error::custom(
            "a key without a value; give it one, or leave the key out for the default",
        )),
    }
}

fn impossible(key: &'static str, value: impl ToString, allowed: &'static str) -> ConfigError {
    ConfigError::Impossible {
        key,
        value: in_a_line(&value.to_string()),
        allowed,
    }
}

/// An absolute path without `.`, `..` or a trailing slash, because it is
/// compared with what the mount table says.
fn absolute(
    key: &'static str,
    given: Option<PathBuf>,
    default: &str,
) -> Result<PathBuf, ConfigError> {
    use std::path::Component;
    let path = given.unwrap_or_else(|| PathBuf::from(default));
    let plain = path
        .components()
        .all(|component| matches!(component, Component::RootDir | Component::Normal(_)));
    if path.is_absolute() && plain {
        Ok(path.components().collect())
    } else {
        Err(impossible(
            key,
            path.display(),
            "an absolute path without . and .. is needed",
        ))
    }
}

fn is_kubernetes_name(name: &str) -> bool {
    // Host names outside a cluster may have more than Kubernetes allows.
    let allowed =
        |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_');
    (1..=253).contains(&name.len()) && name.chars().all(allowed)
}

fn first_line(text: &str) -> String {
    let text = text.trim().trim_start_matches("error:").trim();
    text.lines().next().unwrap_or(text).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_yaml(text: &str) -> Result<Settings, String> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), text).expect("written");
        Options::from_file(file.path())
            .and_then(Options::into_settings)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn without_any_option_nothing_is_written() {
        let settings = Options::default().into_settings().expect("the defaults");
        assert_eq!(settings.mode, Mode::Observe);
        assert_eq!(settings.policy.min_size, Bytes(10_000_000_000));
        assert_eq!(from_yaml("# nothing but a comment\n"), Ok(settings));
    }

    #[test]
    fn every_key_of_the_file_is_read() {
        let settings = from_yaml(
            "mode: enforce\nmin-size: 20GiB\nallow:\n  - transport: usb\n    serial: 0042\n  - size: '>1TB'\ndeny:\n  - removable: true\n\
             approve:\n  - approve-0123456789abcdef-0123456789abcdef0123456789abcdef\n\
             max-disks: 12\nmax-formats-per-hour: 4\nfilesystem: xfs\ngrow: false\nmount-root: /srv/disks/\nmount-units: /etc/systemd/system/\nstate-dir: /var/lib/x\n\
             host-root: /host\ninterval: 5m\nlisten: 127.0.0.1:1\nparallel: 2\nallow-loop: true\n\
             log-format: json\nlog: debug\nnode-name: k3s2\n\
             longhorn: off\nlonghorn-namespace: storage\n",
        )
        .expect("a good file");
        assert_eq!(settings.mode, Mode::Enforce);
        assert_eq!(settings.policy.mount_root, "/srv/disks");
        assert_eq!(settings.policy.min_size, Bytes(20 << 30));
        let rules = |rules: &[Rule]| rules.iter().map(Rule::to_string).collect::<Vec<_>>();
        assert_eq!(
            rules(&settings.policy.allow),
            ["transport=usb,serial=0042", "size=>1TB"]
        );
        assert_eq!(rules(&settings.policy.deny), ["removable=true"]);
        assert_eq!(settings.policy.approvals.len(), 1);
        assert_eq!(settings.policy.max_disks, Some(12));
        assert_eq!(settings.policy.max_formats_per_hour, Some(4));
        assert!(!settings.policy.grow);
        let units = Some(PathBuf::from("/etc/systemd/system"));
        assert_eq!(settings.mount_units, units);
        assert_eq!(settings.interval, Duration::from_mins(5));
        assert_eq!(settings.node_name, "k3s2");
        assert_eq!(settings.longhorn, Longhorn::Off);
        assert_eq!(settings.longhorn_namespace, "storage");
    }

    #[test]
    fn a_flag_wins_over_the_file() {
        let flag = Options {
            parallel: Some(7),
            ..Options::default()
        };
        let file = Options {
            parallel: Some(2),
            min_size: Some(Bytes(1)),
            ..Options::default()
        };
        let settings = flag.or(file).into_settings().expect("good options");
        assert_eq!((settings.parallel, settings.policy.min_size), (7, Bytes(1)));
    }

    #[test]
    fn what_is_denied_in_one_place_is_not_allowed_by_another() {
        let deny = |rule: &str| Options {
            deny: Some(vec![rule.parse().expect("a rule")]),
            ..Options::default()
        };
        let settings = deny("name=sdz").or(deny("serial=PRECIOUS*"));
        let settings = settings.into_settings().expect("good options");
        assert_eq!(settings.policy.deny.len(), 2);
    }

    #[test]
    fn bad_files_name_the_key_and_what_is_allowed() {
        for (text, key, allowed) in [
            ("min-sizes: 10GB\n", "min-sizes", "min-size"),
            ("mode: destroy\n", "destroy", "enforce"),
            ("min-size: lots\n", "lots", "10GiB"),
            ("allow:\n  - colour: red\n", "colour", "by-path"),
            ("allow:\n  - {}\n", "empty rule", "name=sd*"),
            ("allow: []\n", "allow", "leave the key out"),
            ("allow:\n", "without a value", "leave the key out"),
            ("deny:\n", "without a value", "leave the key out"),
            ("deny: ~\n", "without a value", "leave the key out"),
            ("max-disks: null\n", "without a value", "leave the key out"),
            ("mode:\n", "without a value", "leave the key out"),
            ("deny:\n  - transport: floppy\n", "floppy", "nvme-fabrics"),
            ("allow:\n  - name:\n", "property", "no value"),
            ("allow:\n  - size: >1GB\n", "quotes", "quotes"),
            ("deny:\n  - name: *sd\n", "quotes", "quotes"),
            ("approve: [please]\n", "please", "explain"),
            ("max-disks: -1\n", "-1", "whole number"),
            ("interval: 0s\n", "interval", "1s to 24h"),
            ("interval: soon\n", "soon", "90s"),
            ("parallel: 0\n", "parallel", "1 to 64"),
            ("mkfs-timeout: 25h\n", "mkfs-timeout", "1s to 24h"),
            ("mount-root: mnt\n", "mount-root", "absolute"),
            ("mount-root: /\n", "mount-root", "of its own"),
            ("state-dir: /a/../b\n", "state-dir", "absolute"),
            ("mount-units: units\n", "mount-units", "absolute"),
            ("longhorn-namespace: a/b\n", "longhorn-namespace", "a-z"),
            ("log: loudly=very\n", "log", "debug"),
            ("log: loud\n", "log", "debug"),
            ("node-name: \"a\\nb\"\n", "a\\nb", "a-z"),
        ] {
            let error = from_yaml(text).expect_err(text);
            assert!(
                error.contains(key) && error.contains(allowed),
                "{text:?}: {error}"
            );
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = Options::from_file(Path::new("/no/such/file")).expect_err("no file");
        assert!(error.to_string().contains("/no/such/file"));
    }
}
