//! What loop devices lie on. The kernel lists them among a disk's holders as
//! little as it asks for the disk exclusively, and a filesystem that is mounted
//! on one has the number of the loop device in the mount tables.

use std::{ffi::CString, fs::File, os::fd::AsFd, path::Path};

use serde::{Deserialize, Serialize};

use super::{Device, Host, sysfs};
use crate::{fact::Fact, sys, units::DevNo};

/// The file or device under a loop device that is in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Backing {
    /// As the kernel says it: a path, of the mount namespace that it was opened
    /// in.
    pub path: String,
    /// Number of the device that the host has at that path, where it is a node
    /// below `/dev`. What lies elsewhere is not asked: most loop devices are on
    /// ordinary files, and their filesystem may not answer.
    pub devno: Option<DevNo>,
}

impl Backing {
    /// What lies at a path, `nodes` being the host's `/dev`.
    pub(super) fn at(path: String, nodes: &Path) -> Self {
        let devno = path
            .strip_prefix("/dev/")
            .and_then(|name| number_of(nodes, name));
        Self { path, devno }
    }

    /// Whether it is this device, by its number, or by its name in a `/dev` that
    /// the host does not see, such as that of a container.
    pub fn is(&self, device: &Device) -> bool {
        let numbered = self
            .devno
            .is_some_and(|own| device.devno.is_known_and(|devno| *devno == own));
        numbered || device.devname.is_known_and(|name| self.names(name))
    }

    fn names(&self, devname: &str) -> bool {
        // While a loop device has it open, no other disk gets its name.
        let path = self.path.strip_suffix(" (deleted)").unwrap_or(&self.path);
        // The root of a devtmpfs that is mounted where it cannot be seen, or a
        // directory that is called as one.
        let directory = path
            .strip_suffix(devname)
            .and_then(|directory| directory.strip_suffix('/'));
        directory.is_some_and(|directory| directory.is_empty() || directory.ends_with("/dev"))
    }
}

/// The number of a node, and nothing where there is none or it is no device:
/// then its name counts.
fn number_of(nodes: &Path, name: &str) -> Option<DevNo> {
    let directory = File::open(nodes).ok()?;
    let name = CString::new(name).ok()?;
    sys::block_device_behind(directory.as_fd(), &name).ok()?
}

/// Whether a name is that of a whole loop device.
pub(super) fn is_loop(name: &str) -> bool {
    name.strip_prefix("loop")
        .is_some_and(|number| !number.is_empty() && number.chars().all(|c| c.is_ascii_digit()))
}

/// A loop device that lies on one of these devices, as sysfs has it now.
pub fn above(host: &Host, devices: &[Device]) -> Fact<Option<String>> {
    sysfs::list(&host.class_block()).and_then(|names| {
        for name in names.into_iter().filter(|name| is_loop(name)) {
            match sysfs::read_backing(host, &name) {
                Fact::Known(Some(backing)) if devices.iter().any(|device| backing.is(device)) => {
                    return Fact::Known(Some(name));
                }
                Fact::Known(Some(_) | None) => {}
                Fact::Unreadable(why) => return Fact::Unreadable(why),
            }
        }
        Fact::Known(None)
    })
}

#[cfg(test)]
pub(crate) mod tests;
