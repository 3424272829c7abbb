//! The files of a node as longhorn-manager sees them, in the mount namespace of
//! the host.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use nix::sys::{
    statfs::{self, EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC},
    statvfs::statvfs,
};

/// What a disk that is a mere directory seems to be.
const DIRECTORY: i64 = 100 << 30;

/// A filesystem, as `statfs` on the host knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Space {
    /// Two paths with one of these are one disk to Longhorn.
    pub id: String,
    /// As Longhorn names it, which is `ext2/ext3` for ext4.
    pub filesystem: String,
    /// All of it, in bytes.
    pub total: i64,
    /// `f_bfree`, with the blocks that are reserved for root, in bytes.
    pub free: i64,
}

/// What longhorn-manager does with the files of a node. Paths are absolute, as
/// on the node. Calls may block.
pub trait DiskFiles: Send + Sync {
    /// Whether something is there.
    ///
    /// # Errors
    ///
    /// Where nothing is, or cannot be looked at.
    fn stat(&self, path: &Path) -> io::Result<()>;
    /// A file as a whole.
    ///
    /// # Errors
    ///
    /// As the node says.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Writes a file that is not there, and no directory above it.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::AlreadyExists`] where it is there, or as the node says.
    fn create(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Waits until what was written to a file is on the medium.
    ///
    /// # Errors
    ///
    /// As the node says.
    fn sync(&self, path: &Path) -> io::Result<()>;
    /// Creates a directory and those above it, where they are missing.
    ///
    /// # Errors
    ///
    /// As the node says.
    fn mkdir(&self, path: &Path) -> io::Result<()>;
    /// The filesystem that a path is on.
    ///
    /// # Errors
    ///
    /// As the node says.
    fn statfs(&self, path: &Path) -> io::Result<Space>;
}

/// A node below a directory of this machine.
///
/// A directory of it that is not mounted counts as a filesystem of its own, of
/// 100 GiB, and nearly empty, so that tests need no devices.
pub struct LocalFiles {
    root: PathBuf,
    told: Mutex<BTreeMap<PathBuf, Space>>,
}

impl fmt::Debug for LocalFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalFiles below {}", self.root.display())
    }
}

impl LocalFiles {
    /// The node whose `/` is this directory.
    pub fn below(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            told: Mutex::default(),
        }
    }

    /// From now on, what `statfs` says of a path that is there.
    pub fn tell(&self, path: impl Into<PathBuf>, space: Space) {
        self.told
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(path.into(), space);
    }

    fn on_disk(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }
}

impl DiskFiles for LocalFiles {
    fn stat(&self, path: &Path) -> io::Result<()> {
        fs::metadata(self.on_disk(path)).map(drop)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(self.on_disk(path))
    }

    fn create(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        File::create_new(self.on_disk(path))?.write_all(bytes)
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        File::open(self.on_disk(path))?.sync_all()
    }

    fn mkdir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(self.on_disk(path))
    }

    fn statfs(&self, path: &Path) -> io::Result<Space> {
        let there = self.on_disk(path);
        let directory = fs::metadata(&there)?;
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(space) = told.get(path) {
            return Ok(space.clone());
        }
        if directory.dev() != fs::metadata(there.join(".."))?.dev() {
            return mounted(&there);
        }
        Ok(Space {
            id: format!("{:012x}", directory.ino()),
            filesystem: "ext2/ext3".to_owned(),
            total: DIRECTORY,
            free: DIRECTORY - DIRECTORY / 20,
        })
    }
}

fn mounted(path: &Path) -> io::Result<Space> {
    let kind = statfs::statfs(path)?.filesystem_type();
    let filesystem = match kind {
        EXT4_SUPER_MAGIC => "ext2/ext3".to_owned(),
        XFS_SUPER_MAGIC => "xfs".to_owned(),
        other => format!("{other:?}"),
    };
    let space = statvfs(path)?;
    let bytes = |blocks: u64| {
        i64::try_from(blocks.saturating_mul(space.fragment_size())).unwrap_or(i64::MAX)
    };
    Ok(Space {
        id: format!("{:012x}", space.filesystem_id()),
        filesystem,
        total: bytes(space.blocks()),
        free: bytes(space.blocks_free()),
    })
}
