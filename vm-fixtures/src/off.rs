//! A machine without power: its system disk and its disks, to be looked at, moved and booted.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::attach::Attached;
use crate::digest::digest_file;
use crate::disk::{Bus, Disk};
use crate::machine::Chassis;
use crate::vm::Vm;

/// A machine that is off. Dropping it removes its files.
#[derive(Debug)]
pub struct Off {
    chassis: Chassis,
    disks: Vec<Disk>,
}

impl Off {
    pub(crate) fn new(chassis: Chassis, disks: Vec<Attached>) -> Self {
        Self {
            chassis,
            disks: disks.into_iter().map(Attached::detach).collect(),
        }
    }

    /// Attaches the disks in this order, which names each of them once.
    pub fn reorder(mut self, names: &[&str]) -> Result<Self> {
        let mut rest = std::mem::take(&mut self.disks);
        for name in names {
            match rest.iter().position(|disk| disk.name == *name) {
                Some(at) => self.disks.push(rest.remove(at)),
                None => bail!("no disk {name}, or named twice"),
            }
        }
        if let Some(disk) = rest.first() {
            bail!("disk {} has no place in the new order", disk.name);
        }
        Ok(self)
    }

    /// Attaches a disk to another bus. Properties of its old bus that the new one does not know
    /// make the boot fail.
    pub fn rebus(mut self, name: &str, bus: Bus) -> Result<Self> {
        match self.disks.iter_mut().find(|disk| disk.name == name) {
            Some(disk) => disk.bus = bus,
            None => bail!("no disk {name}"),
        }
        Ok(self)
    }

    /// Attaches another disk, behind the others.
    pub fn attach(mut self, disk: Disk) -> Self {
        self.disks.push(disk);
        self
    }

    /// Takes a disk out; the disk can go into another machine while this one exists.
    pub fn remove(&mut self, name: &str) -> Result<Disk> {
        match self.disks.iter().position(|disk| disk.name == name) {
            Some(at) => Ok(self.disks.remove(at)),
            None => bail!("no disk {name}"),
        }
    }

    /// A cold boot.
    pub fn boot(self) -> Result<Vm> {
        let Self { chassis, disks } = self;
        let name = chassis.name.clone();
        chassis
            .boot(disks)
            .with_context(|| format!("boot the machine {name} again"))
    }

    /// The file of a disk on the host.
    pub fn disk_path(&self, name: &str) -> Result<PathBuf> {
        match self.disks.iter().find(|disk| disk.name == name) {
            Some(Disk {
                file: Some(path), ..
            }) => Ok(path.clone()),
            Some(_) | None => bail!("no disk {name} with a file"),
        }
    }

    /// The digest of a disk's content. See [`digest_file`].
    pub fn digest(&self, name: &str) -> Result<String> {
        digest_file(&self.disk_path(name)?)
    }

    /// The digest of the system disk's content.
    pub fn root_digest(&self) -> Result<String> {
        root_digest(self.chassis.dir.path())
    }
}

/// The digest of what the guest sees of its system disk: the overlay in `dir` and all below it,
/// flattened into a sparse file. `--force-share`, since a stopped QEMU may hold the overlay.
pub(crate) fn root_digest(dir: &Path) -> Result<String> {
    let flat = tempfile::NamedTempFile::new_in(dir).context("make a file for the system disk")?;
    let out = Command::new("qemu-img")
        .args(["convert", "--force-share", "-O", "raw", "-f", "qcow2"])
        .args([dir.join("root.qcow2").as_path(), flat.path()])
        .output()
        .context("run qemu-img")?;
    if !out.status.success() {
        bail!(
            "qemu-img cannot read the system disk: {}",
            String::from_utf8_lossy(&out.stderr).trim()
        );
    }
    digest_file(flat.path())
}
