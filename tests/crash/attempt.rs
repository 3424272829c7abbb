//! A machine with a state on each of its disks, and the agent started over all
//! of them.

use std::{
    collections::BTreeMap,
    fmt::Write,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use vm_fixtures::{Bus, Lab, digest_file};
use vm_tests::{Disks, Node};

use crate::{
    image,
    judge::{Before, Seen},
    record::{Recorded, SIZE, devices},
    state::State,
};

/// When nothing changes for so long, nothing will: by then a disk was tried
/// half a dozen times.
const NO_MORE_COMES: Duration = Duration::from_mins(3);
/// Disks that stay virtio; the others come back at a SCSI controller, where
/// many have room.
const VIRTIO: usize = 2;
const CONFIG: &str = "mode: enforce\ninterval: 1h\n";

/// Rebuilds each state, starts the agent, and looks at what it made of them.
/// No two states are of one disk: they would be each other's copies.
///
/// # Errors
/// When the machine or a tool fails.
pub fn attempt(
    lab: &Lab,
    recorded: &[Recorded],
    states: &[State],
    dir: &Path,
) -> Result<Vec<Seen>> {
    let files = tempfile::tempdir_in(dir)?;
    let of = |state: &State| {
        let disk = recorded.iter().find(|disk| disk.serial == state.serial);
        disk.with_context(|| format!("{state}: no such disk"))
    };
    let file = |state: &State| files.path().join(&state.serial);
    for state in states {
        state
            .rebuild(of(state)?, &file(state))
            .with_context(|| state.to_string())?;
    }
    let mut node = Node::boot(lab.machine("crash"))?;
    let mut virtio = 0;
    for state in states {
        let disk = of(state)?;
        let stays = disk.bus == Bus::Virtio && virtio < VIRTIO;
        let bus = if stays { Bus::Virtio } else { Bus::Scsi };
        node.vm.plug(disk.disk(bus, &file(state)))?;
        if stays {
            virtio += 1;
            node.vm.kernel_name(&state.serial)?;
        }
    }
    node.vm.settle()?;
    let devices = devices(&mut node)?;
    for state in states.iter().filter(|state| state.journal) {
        let disk = of(state)?;
        let path = format!("/var/lib/disk-discovery/journal/{}.json", disk.guid()?);
        node.vm.write_file(&path, &disk.entry, 0o600)?;
    }
    reserve(&mut node, recorded, states)?;
    let mut before = BTreeMap::new();
    for state in states {
        before.insert(&state.serial, look(&file(state))?);
    }
    let written = writes(&mut node)?;
    node.configure(CONFIG)?;
    node.start_agent()?;
    let disks = wait(&mut node, states, &devices)?;
    let contents = contents(&mut node, states, &devices, &disks)?;
    let log = node.log()?;
    let writes = writes(&mut node)?;
    node.vm.sh("systemctl stop disk-discovery
        for place in /mnt/longhorn/*; do ! mountpoint -q $place || umount $place; done
        sync")?;
    drop(node.vm.power_cut()?);

    let mut all = Vec::new();
    for state in states {
        let (disk, device) = (of(state)?, &devices[&state.serial]);
        let field = |name| disks.field(device, name).to_owned();
        let filesystem = image::filesystem(&file(state))?;
        let mounted = is_mounted(&disks, device);
        let words = format!("disk=\"{device}\"");
        let said = log.lines().filter(|line| line.contains(&words));
        all.push(Seen {
            state: state.clone(),
            wanted: disk.name()?,
            guid: disk.guid()?,
            needs: [0, 1].map(|at| state.holds(disk.marks[at])),
            name: field("diskName"),
            verdict: field("verdict"),
            reason: field("reason"),
            mounted,
            has: contents[&state.serial],
            writes: writes[&state.serial] - written[&state.serial],
            before: before.remove(&state.serial).context("not looked at")?,
            after: look(&file(state))?,
            uuid: image::uuid(&file(state), filesystem)?,
            check: if mounted {
                image::check_filesystem(&file(state), filesystem)?
            } else {
                Ok(())
            },
            log: said.map(str::to_owned).collect(),
        });
    }
    Ok(all)
}

fn look(file: &Path) -> Result<Before> {
    let filesystem = image::filesystem(file)?;
    let digest = digest_file(file)?;
    Ok(Before {
        blank: digest == image::blank_digest(SIZE)?,
        digest,
        committed: image::is_committed(file)?,
        birth: image::birth(file, filesystem)?,
    })
}

/// The mountpoints as the host would have them: some crashes come before they
/// are made, and some hosts lose them.
fn reserve(node: &mut Node, recorded: &[Recorded], states: &[State]) -> Result<()> {
    let mut script = "set -e; mkdir -p /mnt/longhorn\n".to_owned();
    for state in states.iter().filter(|state| state.upto % 3 != 0) {
        let disk = recorded.iter().find(|disk| disk.serial == state.serial);
        let name = disk.context("no such disk")?.name()?;
        writeln!(script, "mkdir -m 0000 /mnt/longhorn/{name}")?;
    }
    node.vm.sh(&script).map(drop)
}

/// Waits until every disk is mounted, or refused where that is allowed, or
/// nothing changes any more.
fn wait(node: &mut Node, states: &[State], devices: &BTreeMap<String, String>) -> Result<Disks> {
    let (mut last, mut since) = (None, Instant::now());
    loop {
        thread::sleep(Duration::from_millis(500));
        let over = since.elapsed() > NO_MORE_COMES;
        let disks = match node.disks() {
            Ok(disks) => disks,
            Err(error) if over => return Err(error.context(node.log()?)),
            Err(_) => continue,
        };
        let done = |state: &&State| {
            let device = &devices[&state.serial];
            is_mounted(&disks, device) || (!state.journal && is_refused(&disks, device))
        };
        let count = states.iter().filter(done).count();
        if count == states.len() || over {
            return Ok(disks);
        }
        if last != Some(count) {
            (last, since) = (Some(count), Instant::now());
        }
    }
}

/// Whether what the user wrote is there, for each disk.
fn contents(
    node: &mut Node,
    states: &[State],
    devices: &BTreeMap<String, String>,
    disks: &Disks,
) -> Result<BTreeMap<String, [bool; 2]>> {
    let mut script = "holds() {
        local durable=0 second=0
        cd $2
        yes \"$1\" | head -c 40000 >/run/durable
        yes \"second $1\" | head -c 20000 >/run/second
        for file in durable inner/renamed; do
            ! cmp -s /run/durable $file || durable=1
        done
        [ ! -e inner/second ] || ! cmp -s -n 20000 /run/second inner/second || second=1
        echo $1 $durable $second
    }\n"
    .to_owned();
    let mut all: BTreeMap<String, [bool; 2]> = BTreeMap::new();
    for state in states {
        all.insert(state.serial.clone(), [false; 2]);
        let device = &devices[&state.serial];
        if is_mounted(disks, device) {
            let path = disks.field(device, "mountPath");
            writeln!(script, "holds {} {path}", state.serial)?;
        }
    }
    for line in node.vm.sh(&script)?.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [serial, durable, second] = words[..] else {
            anyhow::bail!("not understood: {line:?}");
        };
        let known = all.insert(serial.to_owned(), [durable == "1", second == "1"]);
        ensure!(known.is_some(), "not asked about: {line:?}");
    }
    Ok(all)
}

/// Writes that QEMU has counted, by disk.
fn writes(node: &mut Node) -> Result<BTreeMap<String, u64>> {
    let all = node.vm.qmp("query-blockstats", json!({}))?;
    let of_disk = |entry: &Value| {
        let device = entry.get("qdev")?.as_str()?;
        let disk = device
            .split('/')
            .find_map(|part| part.strip_prefix("disk-"))?;
        let writes = entry.pointer("/stats/wr_operations")?.as_u64()?;
        Some((disk.to_owned(), writes))
    };
    let all = all.as_array().context("no list of devices")?;
    Ok(all.iter().filter_map(of_disk).collect())
}

pub fn is_mounted(disks: &Disks, device: &str) -> bool {
    let mounted = disks.row(device).and_then(|row| row.get("mounted"));
    mounted == Some(&Value::Bool(true))
}

fn is_refused(disks: &Disks, device: &str) -> bool {
    disks.field(device, "verdict") == "refused"
        && !["udev-pending", "not-answering"].contains(&disks.field(device, "reason"))
}
