//! How a person erases a disk, spelt out: where the agent found something, and
//! both ends. It only ever prints this.

use std::collections::BTreeSet;

use crate::observe::{Device, Medium, scan::ZERO_END};

const BLOCK: u64 = 4096;

/// Commands for a shell, in order.
pub(super) fn commands(device: &Device, medium: Option<&Medium>) -> Vec<String> {
    let Ok(size) = device.size.known() else {
        return Vec::new();
    };
    let node = node(device);
    let zeroes = |start: u64, blocks: u64| {
        format!(
            "dd if=/dev/zero of={node} bs={BLOCK} seek={} count={blocks} conv=notrunc,fsync",
            start / BLOCK
        )
    };
    let head = size.min(&ZERO_END).div_ceil(BLOCK);
    let tail = size.saturating_sub(ZERO_END) / BLOCK * BLOCK;
    let mut commands = vec![
        format!("lsblk -o NAME,SIZE,FSTYPE,LABEL,MOUNTPOINTS,MODEL,SERIAL {node}"),
        zeroes(0, head),
    ];
    let scan = medium
        .and_then(|medium| medium.content.as_ref())
        .and_then(|content| content.scan.as_ref())
        .and_then(|scan| scan.known().ok());
    let ends = |at: u64| at < head * BLOCK || at >= tail;
    if let Some(scan) = scan {
        let copies: BTreeSet<u64> = scan
            .traces
            .iter()
            .map(|trace| trace.at / BLOCK * BLOCK)
            .filter(|at| !ends(*at))
            .collect();
        commands.extend(copies.into_iter().map(|at| zeroes(at, 2)));
    }
    commands.push(zeroes(tail, (size - tail).div_ceil(BLOCK)));
    if scan.is_some_and(|scan| scan.residue.is_some()) {
        commands.push(
            "# if it is then refused as residual-data: approve it where explain prints a token, or\n  \
             # overwrite all of it; dd then ends with \"No space left on device\", which is right here"
                .to_owned(),
        );
        commands.push(format!(
            "dd if=/dev/zero of={node} bs=16M conv=fsync status=progress"
        ));
    }
    commands.push(format!("udevadm trigger --settle {node}"));
    commands
}

/// A name that stays with the disk, where udevd gave it one.
fn node(device: &Device) -> String {
    let links = device.udev.known().ok().and_then(Option::as_ref);
    let by_id = links.and_then(|record| {
        let mut links = record.links.iter();
        links.find(|link| link.starts_with("by-id/"))
    });
    match by_id {
        Some(link) => format!("/dev/disk/{link}"),
        None => device.devname.known().map_or_else(
            |_unreadable| format!("/dev/{}", device.name),
            |name| format!("/dev/{name}"),
        ),
    }
}
