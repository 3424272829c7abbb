//! The directory of one virtual machine: its sockets, console, overlay and disks.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cache::{Cache, Lock};

/// Held by the machine's process; a run directory whose file nobody holds is a leftover.
const ALIVE: &str = "alive";
/// Marks a directory that was asked to stay.
const KEPT: &str = "kept";

/// Removed when dropped, unless `DISK_DISCOVERY_VM_KEEP=1`.
#[derive(Debug)]
pub(crate) struct RunDir {
    path: PathBuf,
    keep: bool,
    _alive: Lock,
}

impl RunDir {
    pub(crate) fn create(cache: &Cache, name: &str) -> Result<Self> {
        let runs = cache.runs();
        // Keeps a sweep from taking the directory for a leftover before its lock is held.
        let _creating = Lock::shared(&runs.join(".lock"))?;
        let path = tempfile::Builder::new()
            .prefix(&format!("{name}."))
            .tempdir_in(&runs)
            .with_context(|| format!("make a run directory in {}", runs.display()))?
            .keep();
        let alive = Lock::exclusive(&path.join(ALIVE))?;
        let keep = std::env::var_os("DISK_DISCOVERY_VM_KEEP").is_some_and(|value| value == "1");
        if keep {
            File::create(path.join(KEPT)).context("mark the run directory as kept")?;
        }
        Ok(Self {
            path,
            keep,
            _alive: alive,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if self.keep {
            eprintln!("vm-fixtures: kept {}", self.path.display());
        } else if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!(
                "vm-fixtures: cannot remove {}: {error}",
                self.path.display()
            );
        }
    }
}

/// Removes what processes that are gone left behind.
pub(crate) fn sweep(cache: &Cache) -> Result<()> {
    let runs = cache.runs();
    let Some(_sweeping) = Lock::try_exclusive(&runs.join(".lock"))? else {
        return Ok(());
    };
    for entry in fs::read_dir(&runs).with_context(|| format!("list {}", runs.display()))? {
        let path = entry?.path();
        if !path.is_dir() || path.join(KEPT).exists() {
            continue;
        }
        if let Some(_abandoned) = Lock::try_exclusive(&path.join(ALIVE))? {
            fs::remove_dir_all(&path).with_context(|| format!("remove {}", path.display()))?;
        }
    }
    Ok(())
}
