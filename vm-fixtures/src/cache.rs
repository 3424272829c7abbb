//! Where images and run directories live, and the locks that guard them.
//!
//! Every lock is a `flock` on a file of its own, so it falls with the process that holds it
//! however that process ends.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The cache directory: `$DISK_DISCOVERY_VM_CACHE`, else `disk-discovery/vm` below
/// `$XDG_CACHE_HOME`, else below `~/.cache`.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    root: PathBuf,
}

impl Cache {
    pub(crate) fn open() -> Result<Self> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let root = if let Some(path) = set("DISK_DISCOVERY_VM_CACHE") {
            PathBuf::from(path)
        } else if let Some(path) = set("XDG_CACHE_HOME") {
            PathBuf::from(path).join("disk-discovery/vm")
        } else if let Some(home) = set("HOME") {
            PathBuf::from(home).join(".cache/disk-discovery/vm")
        } else {
            bail!("no place for images: set DISK_DISCOVERY_VM_CACHE or HOME");
        };
        let cache = Self {
            root: std::path::absolute(&root).context("resolve the cache directory")?,
        };
        for dir in [cache.images(), cache.runs()] {
            fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        }
        Ok(cache)
    }

    /// One directory per image key, each with its lock file `<key>.lock` beside it.
    pub(crate) fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// One directory per running virtual machine. On the same file system as the images: they
    /// hold overlays and sparse disks, and `/tmp` may be small or in memory.
    pub(crate) fn runs(&self) -> PathBuf {
        self.root.join("run")
    }
}

/// A held `flock`, released when dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Waits until nobody holds the lock alone, then holds it together with others.
    pub(crate) fn shared(path: &Path) -> Result<Self> {
        Self::take(path, File::lock_shared)
    }

    /// Waits until nobody else holds the lock.
    pub(crate) fn exclusive(path: &Path) -> Result<Self> {
        Self::take(path, File::lock)
    }

    /// The lock, alone, or `None` when somebody holds it.
    pub(crate) fn try_exclusive(path: &Path) -> Result<Option<Self>> {
        let file = open(path)?;
        match file.try_lock() {
            Ok(()) if same_file(&file, path)? => Ok(Some(Self { _file: file })),
            Ok(()) | Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("lock {}", path.display()))
            }
        }
    }

    fn take(path: &Path, lock: fn(&File) -> std::io::Result<()>) -> Result<Self> {
        loop {
            let file = open(path)?;
            lock(&file).with_context(|| format!("lock {}", path.display()))?;
            // The holder before us may have removed the file: a lock on it guards nothing.
            if same_file(&file, path)? {
                return Ok(Self { _file: file });
            }
        }
    }
}

fn open(path: &Path) -> Result<File> {
    File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .with_context(|| format!("open the lock file {}", path.display()))
}

fn same_file(file: &File, path: &Path) -> Result<bool> {
    let ours = file
        .metadata()
        .with_context(|| format!("look at the lock file {}", path.display()))?;
    match fs::metadata(path) {
        Ok(theirs) => Ok((ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("look at {}", path.display())),
    }
}
