//! The machine with all the disks, and what happens in it.

use std::{
    collections::BTreeMap,
    path::Path,
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use vm_fixtures::{Disk, Lab, digest_file};
use vm_tests::{Disks, Node};

use crate::{
    canvas::Canvas,
    making::{Order, as_after_a_boot, make, unwatch},
    outcome::{Answer, Run, Seen, SeenDisk},
    row::{CLAIMED_MIB, Made, Row},
};

/// The agent's configuration: everything allowed that a policy can allow,
/// short of a person's approval.
pub const POLICY: &str = r#"mode: enforce
interval: 1h
min-size: 1MB
max-disks: unlimited
max-formats-per-hour: unlimited
allow-loop: true
parallel: 16
allow:
  - name: "*"
  - transport: usb
  - transport: iscsi
  - transport: fibre-channel
  - transport: nvme-fabrics
  - transport: srp
  - transport: target-loop
  - removable: true
  - model: "Vol*"
"#;
/// The same for the first run, in which only the disks of [`Made::Claimed`]
/// are large enough.
const CLAIM_POLICY: &str = "mode: enforce\ninterval: 1h\nmin-size: 1900MiB\nparallel: 16\n";
/// How often the agent is started over the finished disks.
const STARTS: usize = 2;
/// Disks that are attached before udevd is waited for.
const AT_ONCE: usize = 32;
/// Until it has judged all of them.
const JUDGED_WITHIN: Duration = Duration::from_mins(15);
/// After that, a disk on which everything is decided stays as it is.
const NO_MORE_COMES: Duration = Duration::from_secs(20);
/// Run in the guest after the agent was stopped; their output is kept.
const AT_THE_END: &[(&str, &str)] = &[
    (
        "log",
        "journalctl --quiet --no-pager -o cat -u disk-discovery",
    ),
    (
        "evidence",
        "disk-discovery plan -o evidence --config /etc/disk-discovery/config.yaml",
    ),
];

/// How a disk of that name is attached.
type Attach = fn(&str) -> Disk;

/// Blank disks, which must be taken: proof that the agent was enforcing, and
/// that the policy lifts what it can lift.
const CONTROLS: &[(&str, Attach)] = &[
    ("control-small", |name| Disk::scsi(name).mib(64)),
    ("control-4k", |name| {
        Disk::scsi(name).mib(256).logical_block_size(4096)
    }),
    ("control-virtio", |name| Disk::virtio(name).mib(1024)),
    ("control-usb", |name| Disk::usb(name).mib(64)),
    ("control-volume", |name| {
        Disk::scsi(name).mib(64).vendor("HC").product("Volume")
    }),
];

/// A row with the names of its disks.
struct State {
    row: Row,
    id: String,
    disks: Vec<String>,
    notes: Vec<String>,
}

/// Makes every state, runs the agent, and compares.
///
/// # Errors
/// When the machine fails, or the blank disks are not taken: then nothing was
/// shown of any row.
pub fn run(lab: &Lab, rows: &[Row]) -> Result<Run> {
    let began = Instant::now();
    let tell = |what: &str| eprintln!("corpus: {what} after {} s", began.elapsed().as_secs());
    let seed = seed()?;
    eprintln!("corpus: seed {seed} (DISK_DISCOVERY_CORPUS_SEED repeats it)");
    let files = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let mut states = Vec::new();
    let mut disks = Vec::new();
    for (at, row) in rows.iter().enumerate() {
        let (state, of_state) = prepare(row, at, files.path(), seed)
            .with_context(|| format!("prepare {}", row.name))?;
        for note in &state.notes {
            eprintln!("corpus: {}: {note}", row.name);
        }
        states.push(state);
        disks.extend(of_state);
    }
    let machine = lab.machine("corpus");
    let mut node = Node::boot(CONTROLS.iter().fold(machine, |machine, (name, attach)| {
        machine.disk(attach(name))
    }))?;
    unwatch(&mut node.vm)?;
    for disks in disks.chunks(AT_ONCE) {
        for disk in disks {
            node.vm.plug(disk.clone())?;
        }
        node.vm.settle()?;
    }
    tell("every disk is attached");
    let devices = device_names(&mut node)?;
    claim(&mut node, &states, &devices)?;
    tell("the agent's own disks are taken");
    let made = make(&mut node.vm, &orders(&states, &devices))?;
    as_after_a_boot(&mut node.vm)?;
    tell("every state is made");

    let before = look(&mut node, &states)?;
    tell("digests");
    let mut answers = Vec::new();
    node.configure(POLICY)?;
    for _ in 0..STARTS {
        node.vm.sh("systemctl restart disk-discovery")?;
        answers.push(wait_judged(&mut node, &devices)?);
        tell("every disk is judged");
    }
    node.vm.sh("systemctl stop disk-discovery")?;
    let mut captured = BTreeMap::new();
    for (name, command) in AT_THE_END {
        captured.insert(*name, node.vm.sh(command)?);
    }
    node.vm.sh("sync")?;
    let after = look(&mut node, &states)?;
    drop(node.vm.power_cut()?);
    tell("the end");

    let seen = states.into_iter().map(|state| {
        let disks = state.disks.iter().map(|disk| {
            let device = devices[disk].clone();
            SeenDisk {
                answers: answers.iter().map(|disks| answer(disks, &device)).collect(),
                blank: before[disk].blank.clone(),
                digests: [&before, &after].map(|look| look[disk].digest.clone()),
                writes: [&before, &after].map(|look| look[disk].writes),
                device,
            }
        });
        let seen = Seen {
            made: made.get(&state.id).cloned().unwrap_or(Ok(())),
            disks: disks.collect(),
            notes: state.notes,
        };
        (state.row.name, seen)
    });
    Ok(Run {
        seed,
        seen: seen.collect(),
        captured,
    })
}

fn seed() -> Result<u64> {
    match std::env::var("DISK_DISCOVERY_CORPUS_SEED") {
        Ok(text) => text
            .parse()
            .context("DISK_DISCOVERY_CORPUS_SEED is no number"),
        Err(_) => {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
            Ok(u64::from(now.subsec_nanos()))
        }
    }
}

/// The disks of a row, with their bytes if it is made by hand.
fn prepare(row: &Row, at: usize, files: &Path, seed: u64) -> Result<(State, Vec<Disk>)> {
    let id = format!("r{at}");
    let names: Vec<String> = ["", "b"]
        .iter()
        .take(row.reasons.len())
        .map(|suffix| format!("{id}{suffix}"))
        .collect();
    ensure!(
        names.len() == row.reasons.len(),
        "a row has up to two disks"
    );
    let mut notes = Vec::new();
    let mut disks = Vec::new();
    for name in &names {
        let mut disk = Disk::on(row.bus, name).mib(row.mib);
        if row.sector != 512 {
            disk = disk.logical_block_size(row.sector);
        }
        if let Made::ByHand(draw) = row.made {
            let path = files.join(name);
            let mut canvas = Canvas::create(&path, row.mib << 20, seed.wrapping_add(at as u64))?;
            draw(&mut canvas)?;
            notes.extend(canvas.into_notes());
            disk = disk.file(path);
        }
        disks.push(disk);
    }
    let state = State {
        row: *row,
        id,
        disks: names,
        notes,
    };
    Ok((state, disks))
}

/// Kernel names by the names of the disks, which are their serial numbers.
fn device_names(node: &mut Node) -> Result<BTreeMap<String, String>> {
    let listed = node.vm.sh("lsblk -dnro SERIAL,NAME")?;
    let pairs = listed
        .lines()
        .filter_map(|line| line.trim().split_once(' '));
    Ok(pairs
        .map(|(serial, name)| (serial.to_owned(), name.to_owned()))
        .collect())
}

/// Lets the agent take the disks that are to be its own, and unmounts them.
fn claim(node: &mut Node, states: &[State], devices: &BTreeMap<String, String>) -> Result<()> {
    let own = states
        .iter()
        .filter(|state| matches!(state.row.made, Made::Claimed(_)));
    let mut paths: Vec<String> = own
        .flat_map(|state| &state.disks)
        .map(|disk| format!("/mnt/longhorn/{}1", devices[disk]))
        .collect();
    paths.sort();
    ensure!(
        states
            .iter()
            .all(|state| state.row.mib < CLAIMED_MIB || matches!(state.row.made, Made::Claimed(_))),
        "a foreign disk is so large that the agent would take it before it is made"
    );
    node.configure(CLAIM_POLICY)?;
    node.start_agent()?;
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    node.wait_mounted(&paths)?;
    node.vm.sh("systemctl stop disk-discovery && sync")?;
    node.vm.sh(&format!("umount {}", paths.join(" ")))?;
    Ok(())
}

fn orders(states: &[State], devices: &BTreeMap<String, String>) -> Vec<Order> {
    let order = |state: &State| {
        let script = match state.row.made {
            Made::ByTool(script) | Made::Claimed(script) => script,
            Made::ByHand(_) => return None,
        };
        Some(Order {
            id: state.id.clone(),
            devices: state
                .disks
                .iter()
                .map(|disk| devices[disk].clone())
                .collect(),
            script,
        })
    };
    states.iter().filter_map(order).collect()
}

/// A disk as the host sees it.
struct Look {
    blank: String,
    digest: String,
    writes: u64,
}

fn look(node: &mut Node, states: &[State]) -> Result<BTreeMap<String, Look>> {
    let mut blanks: BTreeMap<u64, String> = BTreeMap::new();
    let mut looks = BTreeMap::new();
    let writes = writes(node)?;
    for state in states {
        let blank = match blanks.get(&state.row.mib) {
            Some(digest) => digest.clone(),
            None => {
                let file = tempfile::NamedTempFile::new()?;
                file.as_file().set_len(state.row.mib << 20)?;
                digest_file(file.path())?
            }
        };
        blanks.insert(state.row.mib, blank.clone());
        for disk in &state.disks {
            let look = Look {
                blank: blank.clone(),
                digest: node.vm.digest(disk)?,
                writes: *writes.get(disk).context("QEMU counts no writes")?,
            };
            looks.insert(disk.clone(), look);
        }
    }
    Ok(looks)
}

/// Writes that QEMU has counted, by disk. One question for all of them:
/// QEMU's answer is about every disk, whichever is asked for.
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

/// Waits until the agent has taken the blank disks and has nothing left to do
/// or to find out about any other.
fn wait_judged(node: &mut Node, devices: &BTreeMap<String, String>) -> Result<Disks> {
    let end = Instant::now() + JUDGED_WITHIN;
    let mut final_since = None;
    loop {
        thread::sleep(Duration::from_millis(500));
        let late = Instant::now() > end;
        let disks = match node.disks() {
            Ok(disks) => disks,
            Err(error) if late => return Err(error.context(node.log()?)),
            Err(_) => continue,
        };
        let unfinished: Vec<&String> = devices
            .values()
            .filter(|device| !is_final(&disks, device))
            .collect();
        let since = unfinished
            .is_empty()
            .then(|| final_since.unwrap_or_else(Instant::now));
        final_since = since;
        let taken = CONTROLS.iter().all(|(control, _)| {
            devices
                .get(*control)
                .is_some_and(|device| is_mounted(&disks, device))
        });
        let over = late || since.is_some_and(|since| since.elapsed() > NO_MORE_COMES);
        if taken && (since.is_some() || late) {
            return Ok(disks);
        }
        if over {
            let answers = CONTROLS.iter().map(|(control, _)| {
                let device = devices.get(*control)?;
                Some((*control, answer(&disks, device)))
            });
            bail!(
                "the blank disks were not all taken: {:?}; unfinished: {unfinished:?}\nlog:\n{}",
                answers.collect::<Vec<_>>(),
                node.log()?
            );
        }
    }
}

fn is_mounted(disks: &Disks, device: &str) -> bool {
    let mounted = disks.row(device).and_then(|row| row.get("mounted"));
    mounted == Some(&Value::Bool(true))
}

fn is_final(disks: &Disks, device: &str) -> bool {
    match disks.field(device, "verdict") {
        "refused" => !["udev-pending", "not-answering"].contains(&disks.field(device, "reason")),
        "managed" => is_mounted(disks, device),
        _ => false,
    }
}

fn answer(disks: &Disks, device: &str) -> Answer {
    let field = |name| disks.field(device, name).to_owned();
    Answer {
        verdict: field("verdict"),
        reason: field("reason"),
        detail: field("detail"),
    }
}
