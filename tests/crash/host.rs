//! A host whose agent is killed and whose power is cut at random moments, again
//! and again, with a user who writes to the disks meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rand::{Rng, SeedableRng, rngs::StdRng};
use vm_fixtures::{Disk, Lab, WriteLog, log_writes_to};
use vm_tests::Node;

use crate::{
    image,
    record::{SIZE, devices},
    state::{State, volatile},
};

const USER: &str = include_str!("user.pl");
/// Blank disks that come with each boot.
const NEW: usize = 3;
/// Boots that a disk lives through, and with it the moments at which it can be
/// hit: before anything is written, while it is made, when it is in use.
const LIFE: usize = 3;
/// Where the host keeps what the agent knows: a disk of its own, on which the
/// mountpoints are as well.
const STATE: &str = "state";
/// When nothing changes for so long, nothing will.
const NO_MORE_COMES: Duration = Duration::from_mins(3);

/// A file that a user made durable: on which disk, in which boot.
type File = (String, usize);

/// A host and its disks through many boots.
#[derive(Debug)]
pub struct Host {
    dir: PathBuf,
    chance: StdRng,
    /// Serial numbers, in the order in which they came.
    pub disks: Vec<String>,
    /// Names of disks when they were first seen mounted.
    names: BTreeMap<String, String>,
    /// What was made durable.
    pub durable: BTreeSet<File>,
    /// How often the agent was killed.
    pub kills: usize,
    /// How often the power was cut.
    pub cuts: usize,
}

/// What was found at the end.
#[derive(Debug, Default, Clone)]
pub struct Found {
    /// Names of the mounted disks.
    pub names: BTreeMap<String, String>,
    /// Files that are there as they were written.
    pub kept: BTreeSet<File>,
    /// What the checkers of the filesystems say against them.
    pub unclean: Vec<String>,
    /// What was wrong before.
    pub earlier: Vec<String>,
}

impl Host {
    /// A new host without disks. Its state disk is made here.
    pub fn new(dir: &Path, seed: u64) -> Result<Self> {
        let state = dir.join(STATE);
        fs::File::create_new(&state)?.set_len(64 << 20)?;
        let made = Command::new("mkfs.ext4")
            .args(["-q", "-F"])
            .arg(&state)
            .output()?;
        ensure!(made.status.success(), "{made:?}");
        Ok(Self {
            dir: dir.to_owned(),
            chance: StdRng::seed_from_u64(seed),
            disks: Vec::new(),
            names: BTreeMap::new(),
            durable: BTreeSet::new(),
            kills: 0,
            cuts: 0,
        })
    }

    /// Boots it so many times, kills the agent some times in each and cuts the
    /// power in the end; then looks what is left.
    pub fn live(&mut self, lab: &Lab, boots: usize) -> Result<Found> {
        let mut earlier = Vec::new();
        for boot in 0..boots {
            let said = self.boot_and_cut(lab, boot)?;
            self.hear(&said, &mut earlier);
        }
        self.inspect(lab, earlier)
    }

    fn path(&self, disk: &str) -> PathBuf {
        self.dir.join(disk)
    }

    /// One life of the machine; what the user said on its console.
    fn boot_and_cut(&mut self, lab: &Lab, boot: usize) -> Result<String> {
        for _ in 0..NEW {
            let serial = format!("disk-{:02}", self.disks.len());
            fs::File::create_new(self.path(&serial))?.set_len(SIZE)?;
            self.disks.push(serial);
        }
        let first = self.disks.len().saturating_sub(NEW * LIFE);
        let mut attached = self.disks[first..].to_vec();
        attached.push(STATE.to_owned());
        for disk in &attached {
            image::copy(&self.path(disk), &self.path(&format!("{disk}.before")))?;
        }
        let mut node = start(lab, &self.dir, &attached, true)?;
        // Cloned machines are alike: the user comes with the boot. The kernel is
        // silent, so that it says nothing in the middle of a line of the user.
        node.vm.sh(&format!(
            "dmesg --console-off
            perl /run/user.pl {boot} </dev/null >/dev/null 2>&1 &"
        ))?;
        node.start_agent()?;
        for _ in 0..self.chance.random_range(4..=5) {
            let whom = ["main", "all"][self.chance.random_range(0..2)];
            let moment = self.moment();
            node.vm.sh(&format!(
                "{moment}
                systemctl kill --kill-whom={whom} --signal=SIGKILL disk-discovery
                systemctl reset-failed disk-discovery
                systemctl restart disk-discovery"
            ))?;
            self.kills += 1;
        }
        if boot > 0 && self.durable.is_empty() {
            // On a slow machine every cut might come too early.
            node.vm.sh_within(
                Duration::from_mins(10),
                "until [ -e /run/user.durable ]; do sleep 0.2; done",
            )?;
        }
        let moment = self.moment();
        node.vm.sh(&moment)?;
        let console = node.vm.run_dir().join("console");
        let off = node.vm.power_cut()?;
        self.cuts += 1;
        let said = fs::read(console).context("read the console")?;
        drop(off);
        for disk in &attached {
            self.lose(disk)
                .with_context(|| format!("the cut at {disk}"))?;
        }
        Ok(String::from_utf8_lossy(&said).into_owned())
    }

    /// A script that ends at a random moment: some time from now, or soon after
    /// one more disk was mounted, however fast the machine is.
    fn moment(&mut self) -> String {
        let pause = self.chance.random_range(0.0..1.5);
        if self.chance.random_bool(0.5) {
            return format!("sleep {pause:.2}");
        }
        format!(
            "mounted() {{ grep -c ' /mnt/longhorn/' /proc/mounts; }}
            before=$(mounted)
            for _ in $(seq 50); do
                [ $(mounted) -eq $before ] || break
                sleep 0.2
            done
            sleep {:.2}",
            pause / 3.0
        )
    }

    /// What the cut took of a disk: nothing, everything since the last flush,
    /// or any part of it.
    fn lose(&mut self, disk: &str) -> Result<()> {
        let [file, before, log] =
            ["", ".before", ".log"].map(|suffix| self.path(&format!("{disk}{suffix}")));
        let share = [0.0, 1.0, self.chance.random_range(0.0..1.0)][self.chance.random_range(0..3)];
        if share > 0.0 {
            let read = WriteLog::read(&log)?;
            let upto = read.entries().len();
            let mut lost = volatile(&read, upto);
            lost.retain(|_| self.chance.random_bool(share));
            let state = State {
                serial: disk.to_owned(),
                journal: true,
                upto,
                lost: lost.into_iter().collect(),
                reversed: false,
                torn: BTreeSet::new(),
            };
            let rebuilt = fs::File::options().read(true).write(true).open(&before)?;
            state.replay(&read, 512, &rebuilt)?;
            fs::rename(&before, &file)?;
        } else {
            fs::remove_file(&before)?;
        }
        fs::remove_file(&log)?;
        Ok(())
    }

    /// Takes down what the user said. A disk that is mounted must have what was
    /// durable before, under the name it had.
    fn hear(&mut self, said: &str, wrong: &mut Vec<String>) {
        let (mut kept, mut mounted) = (BTreeSet::new(), BTreeMap::new());
        let mut durable = BTreeSet::new();
        for words in user_lines(said) {
            match words[..] {
                ["kept", serial, _, boot] => {
                    kept.extend(boot.parse().map(|boot| (serial.to_owned(), boot)));
                }
                ["mounted", serial, name] => {
                    mounted.insert(serial.to_owned(), name.to_owned());
                }
                ["durable", serial, _, boot] => {
                    durable.extend(boot.parse().map(|boot| (serial.to_owned(), boot)));
                }
                _ => {}
            }
        }
        let there = |(serial, _): &&File| mounted.contains_key(serial);
        for file in self.durable.iter().filter(there) {
            if !kept.contains(file) {
                wrong.push(format!("{file:?} is gone or another"));
            }
        }
        for (serial, name) in mounted {
            let first = self
                .names
                .entry(serial.clone())
                .or_insert_with(|| name.clone());
            if *first != name {
                wrong.push(format!("{serial} was {first} and is {name}"));
            }
        }
        self.durable.extend(durable);
    }

    /// A last boot with every disk, in which nothing is killed.
    fn inspect(&mut self, lab: &Lab, earlier: Vec<String>) -> Result<Found> {
        let mut attached = self.disks.clone();
        attached.push(STATE.to_owned());
        let mut node = start(lab, &self.dir, &attached, false)?;
        node.start_agent()?;
        wait_mounted(&mut node, self.disks.len())?;
        let said = node.vm.sh("perl /run/user.pl 0 check")?;
        let devices = devices(&mut node)?;
        let disks = node.disks()?;
        let mut found = Found {
            earlier,
            ..Found::default()
        };
        for words in user_lines(&said) {
            match words[..] {
                ["kept", serial, _, boot] => {
                    found.kept.insert((serial.to_owned(), boot.parse()?));
                }
                ["mounted", serial, name] => {
                    let told = disks.field(&devices[serial], "diskName");
                    if told != name {
                        let wrong = format!("{serial} is at {name}, the agent says {told:?}");
                        found.earlier.push(wrong);
                    }
                    found.names.insert(serial.to_owned(), name.to_owned());
                }
                _ => {}
            }
        }
        if found.names.len() < self.disks.len() {
            found
                .earlier
                .push(format!("not all mounted:\n{}", node.log()?));
        }
        node.vm.sh("systemctl stop disk-discovery
            for place in /mnt/longhorn/*; do ! mountpoint -q $place || umount $place; done
            sync")?;
        drop(node.vm.power_cut()?);
        for disk in &self.disks {
            let path = self.path(disk);
            if let Err(text) = image::check_filesystem(&path, image::filesystem(&path)?)? {
                found.unclean.push(format!("{disk}: {text}"));
            }
        }
        Ok(found)
    }

    /// Everything that is not as it must be.
    pub fn harm(&self, found: &Found) -> Vec<String> {
        let mut harm = found.earlier.clone();
        harm.extend(found.unclean.iter().cloned());
        if self.durable.is_empty() {
            harm.push("nothing was shown: no file was made durable".to_owned());
        }
        for file in self.durable.difference(&found.kept) {
            harm.push(format!("{file:?} is gone or another in the end"));
        }
        for disk in &self.disks {
            match (self.names.get(disk), found.names.get(disk)) {
                (_, None) => harm.push(format!("{disk} is not mounted in the end")),
                (Some(first), Some(last)) if first != last => {
                    harm.push(format!("{disk} was {first} and is {last} in the end"));
                }
                (Some(_) | None, Some(_)) => {}
            }
        }
        harm
    }
}

/// A machine with these disks, at each of which every write is logged if so
/// wanted; the agent is installed and not started.
fn start(lab: &Lab, dir: &Path, disks: &[String], logged: bool) -> Result<Node> {
    let mut node = Node::boot(lab.machine("kills"))?;
    for disk in disks {
        let mut attached = Disk::scsi(disk).file(dir.join(disk));
        if logged {
            attached = attached.filter(log_writes_to(&dir.join(format!("{disk}.log")))?);
        }
        node.vm.plug(attached)?;
    }
    node.vm.settle()?;
    let state = node.vm.kernel_name(STATE)?;
    node.vm.write_file("/run/user.pl", USER, 0o644)?;
    node.vm.sh(&format!(
        "set -e
        mkdir -p /var/lib/disk-discovery /mnt/longhorn
        mount /dev/{state} /var/lib/disk-discovery
        mkdir -p /var/lib/disk-discovery/places
        mount --bind /var/lib/disk-discovery/places /mnt/longhorn"
    ))?;
    Ok(node)
}

fn wait_mounted(node: &mut Node, wanted: usize) -> Result<()> {
    let (mut last, mut since) = (0, Instant::now());
    while last < wanted && since.elapsed() < NO_MORE_COMES {
        thread::sleep(Duration::from_millis(500));
        // It may not listen yet.
        let mounted = node.disks().map_or(last, |disks| disks.mounted().len());
        if mounted != last {
            (last, since) = (mounted, Instant::now());
        }
    }
    Ok(())
}

/// Whole lines of the user, among what else is on a console.
fn user_lines(text: &str) -> Vec<Vec<&str>> {
    let lines = text.lines().map(str::trim);
    let whole = lines.filter_map(|line| line.strip_prefix("user: ")?.strip_suffix('.'));
    whole.map(|line| line.split(' ').collect()).collect()
}
