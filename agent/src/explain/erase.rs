//! How a person erases a disk, spelt out: where the agent found something, and
//! both ends. It only ever prints this.
//!
//! A disk that is half erased may be blank to the agent, which takes it at once
//! when it may. So all writes of one step are one command under the lock that
//! the agent and udevd wait for (<https://systemd.io/BLOCK_DEVICE_LOCKING>),
//! which begins by asking whether the disk was taken before it got the lock.

use std::collections::BTreeSet;

use crate::observe::{Device, Medium, scan::ZERO_END};

const BLOCK: u64 = 4096;

/// Commands for a shell on the node, each list in its order.
#[derive(Debug, Default)]
pub(super) struct Commands {
    /// What is enough for most disks.
    pub(super) places: Vec<String>,
    /// Where something is left of which nothing says where else it lies; it is
    /// for those whose disk is refused after the first.
    pub(super) all: Vec<String>,
}

pub(super) fn commands(device: &Device, medium: Option<&Medium>) -> Commands {
    let Ok(&size) = device.size.known() else {
        return Commands::default();
    };
    let node = quoted(&node(device));
    let head = size.min(ZERO_END).div_ceil(BLOCK) * BLOCK;
    let tail = size.saturating_sub(ZERO_END) / BLOCK * BLOCK;
    let mut writes = vec![zeroes(0, head.min(size))];
    let scan = medium
        .and_then(|medium| medium.content.as_ref())
        .and_then(|content| content.scan.as_ref())
        .and_then(|scan| scan.known().ok());
    let ends = |at: u64| at < head || at >= tail;
    if let Some(scan) = scan {
        let copies: BTreeSet<u64> = scan
            .traces
            .iter()
            .map(|trace| trace.at / BLOCK * BLOCK)
            .filter(|at| !ends(*at))
            .collect();
        writes.extend(copies.into_iter().map(|at| zeroes(at, 2 * BLOCK)));
    }
    writes.push(zeroes(tail, size - tail));
    let look = format!("lsblk -o NAME,SIZE,FSTYPE,LABEL,MOUNTPOINTS,MODEL,SERIAL {node}");
    // udevd does not look at what was written under the lock.
    let told = format!("udevadm trigger --settle {node}");
    let all = if scan.is_some_and(|scan| scan.residue.is_some()) {
        let every = format!(
            "dd if=/dev/zero of=\"$1\" bs=16M iflag=count_bytes count={size} conv=notrunc,fsync \
             status=progress"
        );
        vec![locked(&node, &[every]), told.clone()]
    } else {
        Vec::new()
    };
    Commands {
        places: vec![look, locked(&node, &writes), told],
        all,
    }
}

fn zeroes(start: u64, bytes: u64) -> String {
    format!(
        "dd if=/dev/zero of=\"$1\" bs={BLOCK} seek={} iflag=count_bytes count={bytes} \
         conv=notrunc,fsync",
        start / BLOCK
    )
}

/// One command that writes while it holds the lock of the disk, and writes
/// nothing to a disk that somebody uses by then. The kernel is told to forget
/// the partitions: udevd does that only for disks that are not locked.
fn locked(node: &str, writes: &[String]) -> String {
    let mut script = vec![
        "mounts=$(lsblk -nro MOUNTPOINT \"$1\")".to_owned(),
        "[ -z \"$mounts\" ] || { echo \"$1 is in use: $mounts\" >&2; exit 1; }".to_owned(),
    ];
    script.extend_from_slice(writes);
    script.push("blockdev --rereadpt \"$1\"".to_owned());
    format!(
        "flock {node} sh -ec {} sh {node}",
        quoted(&format!("\n  {}\n", script.join("\n  ")))
    )
}

/// As one word for a shell, whatever is in it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._:=@%+-".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
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

#[cfg(test)]
mod tests;
