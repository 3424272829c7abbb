//! A second opinion on what is in use, by another library and other code.
//!
//! `blockdev` reads an unreadable directory as an empty one, so it can never
//! say that a disk is free. What it sees in use is in use: a veto.

use std::collections::BTreeMap;

use blockdev::BlockDevice;

use super::Host;
use crate::fact::Fact;

/// Disks that carry partitions, stacked devices, mounts or a filesystem as
/// blockdev sees it, by kernel name, with what it saw.
pub fn in_use(host: &Host) -> Fact<BTreeMap<String, String>> {
    match blockdev::get_devices_at(host.root()) {
        Ok(tree) => Fact::Known(
            tree.iter()
                .filter_map(|disk| Some((disk.name.clone(), use_of(disk)?)))
                .collect(),
        ),
        Err(error) => Fact::unreadable("blockdev", error),
    }
}

fn use_of(disk: &BlockDevice) -> Option<String> {
    let mounted = disk.descendants().find_map(|device| {
        device
            .mountpoints
            .first()
            .map(|at| format!("{} mounted at {at}", device.name))
    });
    let child = || {
        disk.children
            .first()
            .map(|child| format!("carries {} {}", child.device_type, child.name))
    };
    let filesystem = || disk.fstype.as_ref().map(|kind| format!("udev says {kind}"));
    mounted.or_else(child).or_else(filesystem)
}
