//! Where the host's views of itself are found.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::units::DevNo;

/// The host as seen from here: in a container its trees may be mounted below
/// some directory, in tests they are a fake.
#[derive(Debug, Clone)]
pub struct Host {
    root: PathBuf,
}

impl Host {
    /// `root` holds `sys`, `proc`, `dev` and `run/udev` of the host.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A directory with a link for each block device.
    pub fn class_block(&self) -> PathBuf {
        self.root.join("sys/class/block")
    }

    /// Where udevd keeps a file for each device.
    pub fn udev_database(&self) -> PathBuf {
        self.root.join("run/udev/data")
    }

    /// udevd's own directory: exists where udevd has run since boot.
    pub fn udev_runtime(&self) -> PathBuf {
        self.root.join("run/udev")
    }

    /// Mounts of the host's first process. `self` would resolve to the reader
    /// even below a host's procfs that is mounted elsewhere.
    pub fn init_mountinfo(&self) -> PathBuf {
        self.root.join("proc/1/mountinfo")
    }

    /// Mounts of the reader.
    pub fn own_mountinfo(&self) -> PathBuf {
        self.root.join("proc/self/mountinfo")
    }

    /// Swap areas.
    pub fn swaps(&self) -> PathBuf {
        self.root.join("proc/swaps")
    }

    /// A directory for each process of the host.
    pub fn processes(&self) -> PathBuf {
        self.root.join("proc")
    }

    /// Whether the kernel has a block device of that number at this moment.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn has_block_device(&self, devno: DevNo) -> io::Result<bool> {
        let path = self.root.join(format!("sys/dev/block/{devno}"));
        match fs::symlink_metadata(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // An empty directory is not a kernel without devices.
                fs::metadata(self.root.join("sys/dev/block"))?;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Directory of device nodes.
    pub fn nodes(&self) -> PathBuf {
        self.root.join("dev")
    }

    /// Where the kernel counts the errors of a mounted ext4, by the name of its
    /// device.
    pub fn ext4_errors(&self, device: &str) -> PathBuf {
        self.root
            .join("sys/fs/ext4")
            .join(device)
            .join("errors_count")
    }

    /// Device node of a block device by its name in devtmpfs.
    pub fn node(&self, devname: &str) -> PathBuf {
        self.root.join("dev").join(devname)
    }
}
