//! What longhorn-manager finds on the disks of its node (`collectDiskData`),
//! which is where it writes `longhorn-disk.cfg`.

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::files::{DiskFiles, Space};
use crate::longhorn::lenient::{entries, flag, text};

/// At the top of each disk of Longhorn's.
pub const CONFIGURATION: &str = "longhorn-disk.cfg";
/// Beside it, with what is stored.
pub const REPLICAS: &str = "replicas";
/// No cfg, none that can be read, or no filesystem.
pub const NO_DISK_INFO: &str = "NoDiskInfo";
/// How often a UUID is drawn whose beginning nobody has.
const DRAWS: usize = 20;

/// `longhorn-disk.cfg`, in the order in which Longhorn writes it. What is
/// missing is empty, which is how `{}` becomes a disk without a UUID.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Configuration {
    /// As it was called when the file was written.
    pub disk_name: String,
    /// What makes the disk this disk, wherever it is mounted.
    #[serde(rename = "diskUUID")]
    pub disk_uuid: String,
    /// Of block disks.
    pub disk_driver: String,
    /// Always `ready` for a filesystem.
    pub state: String,
}

/// What was found of one disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collected {
    /// From the cfg, or the key where there was none.
    pub name: String,
    /// From the cfg.
    pub uuid: String,
    /// Of the entry that was looked at.
    pub path: String,
    /// Whether it was being evicted then.
    pub evicted: bool,
    /// Its filesystem.
    pub space: Option<Space>,
    /// Why the disk is not ready: reason and message.
    pub failure: Option<(&'static str, String)>,
}

/// A disk was mounted after its file had been looked for and before one was
/// made. Since 1.7, `generateFilesystemTypeDiskConfig` then returns neither a
/// configuration nor an error, which `collectDiskData` does not survive: the
/// process ends and is started again, and nothing was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crashed {
    /// Where the disk is.
    pub path: String,
}

impl fmt::Display for Crashed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path } = self;
        write!(
            f,
            "crashed: a {CONFIGURATION} has come to {path} during the look"
        )
    }
}

/// Why a look at a disk came to nothing.
enum Failure {
    /// So says its status.
    NotReady(String),
    /// See [`Crashed`].
    Crash,
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        Self::NotReady(why)
    }
}

/// Looks at each disk in `spec.disks`, and makes a disk of what is none yet.
///
/// Whether anything is mounted is not asked for. `taken` says of the first
/// four characters of a UUID that another disk of the cluster has them.
///
/// # Errors
///
/// [`Crashed`]: nothing was found of any disk.
pub fn collect(
    files: &dyn DiskFiles,
    node: &Value,
    taken: &dyn Fn(&str) -> bool,
) -> Result<BTreeMap<String, Collected>, Crashed> {
    let all_evicted = flag(node, "/spec/evictionRequested");
    let look = |(name, disk): (&str, &Value)| {
        let path = text(disk, "/path");
        let evicted = all_evicted || flag(disk, "/evictionRequested");
        let mut collected = Collected {
            name: name.to_owned(),
            uuid: String::new(),
            path: path.to_owned(),
            evicted,
            space: None,
            failure: None,
        };
        match look_at(files, name, disk, taken) {
            Ok((configuration, space)) => {
                collected.name = configuration.disk_name;
                collected.uuid = configuration.disk_uuid;
                collected.space = Some(space);
            }
            Err(Failure::Crash) => {
                return Err(Crashed {
                    path: path.to_owned(),
                });
            }
            Err(Failure::NotReady(why)) => {
                let node = text(node, "/metadata/name");
                let message = format!("Disk {name}({path}) on node {node} is not ready: {why}");
                collected.failure = Some((NO_DISK_INFO, message));
            }
        }
        Ok((name.to_owned(), collected))
    };
    entries(node, "/spec/disks").into_iter().map(look).collect()
}

/// Whether what was found is about what is in `spec.disks` now
/// (`isDiskMatched`). Where it is not, the status stays as it was.
pub fn is_of(node: &Value, collected: &BTreeMap<String, Collected>) -> bool {
    let disks = entries(node, "/spec/disks");
    let all_evicted = flag(node, "/spec/evictionRequested");
    disks.len() == collected.len()
        && collected.iter().all(|(name, found)| {
            disks.get(name.as_str()).is_some_and(|disk| {
                text(disk, "/path") == found.path
                    && (all_evicted || flag(disk, "/evictionRequested")) == found.evicted
            })
        })
}

fn look_at(
    files: &dyn DiskFiles,
    name: &str,
    disk: &Value,
    taken: &dyn Fn(&str) -> bool,
) -> Result<(Configuration, Space), Failure> {
    if text(disk, "/diskType") == "block" {
        let why = "failed to get disk config: disk service client is nil";
        return Err(why.to_owned().into());
    }
    let path = PathBuf::from(text(disk, "/path"));
    let file = path.join(CONFIGURATION);
    // Any failure of this look counts as "there is no such file".
    let configuration = if files.stat(&file).is_ok() {
        read(files, &file).map_err(|why| format!("failed to get disk config: {why}"))?
    } else {
        generate(files, name, &path, taken)?
    };
    let space = files
        .statfs(&path)
        .map_err(|error| format!("failed to get disk stat: {error}"))?;
    Ok((configuration, space))
}

fn read(files: &dyn DiskFiles, file: &Path) -> Result<Configuration, String> {
    let bytes = files.read(file).map_err(|error| {
        format!("failed to read host disk config file {CONFIGURATION}: {error}")
    })?;
    serde_json::from_slice(&bytes).map_err(|error| {
        let content = String::from_utf8_lossy(&bytes);
        let file = file.display();
        format!("failed to unmarshal host {file} content: {content}: {error}")
    })
}

/// `generateFilesystemTypeDiskConfig`: directories above the file are not made.
///
/// Longhorn looks once more whether the file is there, and then writes; that it
/// comes between the two, within a moment, is left out.
fn generate(
    files: &dyn DiskFiles,
    name: &str,
    path: &Path,
    taken: &dyn Fn(&str) -> bool,
) -> Result<Configuration, Failure> {
    let failed = |why: String| format!("failed to generate disk config: {why}");
    let free = |uuid: &String| !uuid.get(..4).is_none_or(taken);
    let disk_uuid = std::iter::repeat_with(|| Uuid::new_v4().to_string())
        .take(DRAWS)
        .find(free)
        .ok_or_else(|| {
            let why = format!("failed to generate UUID with unique prefix after {DRAWS} attempts");
            failed(why)
        })?;
    let configuration = Configuration {
        disk_name: name.to_owned(),
        disk_uuid,
        disk_driver: String::new(),
        state: "ready".to_owned(),
    };
    let file = path.join(CONFIGURATION);
    let bytes = serde_json::to_vec(&configuration).map_err(|error| failed(error.to_string()))?;
    match files.create(&file, &bytes) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(Failure::Crash),
        created => created
            .and_then(|()| files.mkdir(&path.join(REPLICAS)))
            .and_then(|()| files.sync(&file))
            .map_err(|error| failed(error.to_string()))?,
    }
    Ok(configuration)
}
