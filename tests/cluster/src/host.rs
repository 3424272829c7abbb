//! A host whose disks are made up, with the agent's own registrar on it. What
//! Longhorn keeps on the disks is in directories, so that Longhorn's manager can
//! write there; what is mounted stands in tables of mounts as the kernel writes
//! them; what was released stands in the agent's own ledger.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a fixture that cannot go on should say so and stop"
)]

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, Weak},
};

use disk_discovery::{
    claim::ClaimId,
    config::{Mode, OnMissing, Reserved},
    decide::{Adopt, Managed, Reason, Refusal, Source, Verdict},
    fact::Fact,
    ledger::Ledger,
    longhorn::{
        LonghornSettings, Sight, View, finding,
        register::Terms,
        registrar::{self, RegistrarSettings},
        spawn_with,
        status::{State, Status},
    },
    observe::{Device, Host, Inventory, Transport, longhorn_disk::FILE, tables::Mount},
    releases::Told,
    report::{Round, RoundCost},
    units::{DevNo, DiskName, Filesystem},
};
use kube::Config;
use serde_json::json;
use tokio::sync::watch;
use uuid::Uuid;

use crate::longhorn_cluster::until;

/// Where disks are mounted, as every agent has it.
pub const MOUNT_ROOT: &str = "/mnt/longhorn";

/// A disk that is made up.
#[derive(Debug, Clone)]
struct Disk {
    uuid: Uuid,
    kind: Kind,
    mounted: bool,
    transport: Transport,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Provisioned,
    Adopted,
    Refused,
}

/// A host that is made up.
#[derive(Debug)]
pub struct SimulatedHost {
    node: String,
    directory: tempfile::TempDir,
    disks: Mutex<BTreeMap<String, Disk>>,
    ledger: Ledger,
    rounds: watch::Sender<Option<Arc<Round>>>,
    number: Mutex<u64>,
}

/// What an agent is told that is not the same for each.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// Namespace of Longhorn.
    pub namespace: String,
    /// Name that it was given for its node; its own where none is said.
    pub node_name: Option<String>,
    /// Whether it writes.
    pub mode: Mode,
    /// See the agent's option.
    pub on_missing: OnMissing,
    /// See the agent's option.
    pub reserved: Reserved,
    /// See the agent's option.
    pub tags: bool,
    /// See the agent's option.
    pub default_disks: bool,
    /// Divides every wait of the agent.
    pub hurry: u32,
}

impl Default for AgentOptions {
    fn default() -> Self {
        Self {
            namespace: "longhorn-system".to_owned(),
            node_name: None,
            mode: Mode::Enforce,
            on_missing: OnMissing::Report,
            reserved: Reserved::Bytes(0),
            tags: false,
            default_disks: false,
            hurry: 1,
        }
    }
}

impl AgentOptions {
    /// Every wait of the agent is a fiftieth.
    pub fn hurried() -> Self {
        Self {
            hurry: 50,
            ..Self::default()
        }
    }
}

/// The part of an agent that speaks with the cluster, running. It ends when
/// this is dropped.
#[derive(Debug)]
pub struct Agent {
    /// What it sees of its Longhorn Node.
    pub view: watch::Receiver<View>,
    /// How registering stands.
    pub status: watch::Receiver<Arc<Status>>,
    /// What it told of releases.
    pub told: Arc<Mutex<Vec<(DiskName, Told)>>>,
    /// Held by its task.
    runs: Weak<()>,
}

impl Agent {
    /// Ends it, and waits until nothing of it runs: it may be in the middle of
    /// something, and look once more, when nobody holds it any more.
    pub fn end(self) {
        let runs = self.runs.clone();
        drop(self);
        until("the agent ends", || runs.strong_count() == 0);
    }

    /// Whether there is nothing that it has yet to do.
    pub fn is_current(&self) -> bool {
        self.status.borrow().state == State::Current
    }

    /// Whether it finds that wrong.
    pub fn is_told(&self, kind: finding::Kind) -> bool {
        self.detail(kind).is_some()
    }

    /// Particulars of what it finds wrong; none where it does not find that.
    pub fn detail(&self, kind: finding::Kind) -> Option<String> {
        let status = self.status.borrow();
        let mut found = status.findings.iter().filter(|found| found.kind == kind);
        found.next().map(|found| found.detail.clone())
    }
}

impl SimulatedHost {
    /// Without a disk. A first round was made.
    pub fn new(node: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        for path in ["proc/1", "proc/self", "mnt/longhorn", "state"] {
            fs::create_dir_all(directory.path().join(path)).expect("a directory");
        }
        let host = Self {
            node: node.to_owned(),
            ledger: Ledger::below(&directory.path().join("state")),
            directory,
            disks: Mutex::default(),
            rounds: watch::channel(None).0,
            number: Mutex::default(),
        };
        host.round();
        host
    }

    /// Its name.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The directory that stands for `/`.
    pub fn root(&self) -> &Path {
        self.directory.path()
    }

    /// The agent's own account.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// What is on a disk, mounted or not.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root().join("mnt/longhorn").join(name)
    }

    /// UUID of the filesystem of a disk.
    pub fn uuid(&self, name: &str) -> Uuid {
        self.disks.lock().expect("disks")[name].uuid
    }

    /// A disk was provisioned and mounted.
    pub fn provision(&self, name: &str) {
        self.add(name, Kind::Provisioned);
    }

    /// A disk with Longhorn's data was found and mounted.
    pub fn adopt(&self, name: &str) {
        self.add(name, Kind::Adopted);
    }

    /// The same with Longhorn's file on it, which gives it this UUID.
    pub fn adopt_as(&self, name: &str, disk_uuid: &str) {
        let file = json!({
            "diskName": name, "diskUUID": disk_uuid, "diskDriver": "", "state": "ready",
        });
        fs::create_dir_all(self.path(name)).expect("a directory");
        fs::write(self.path(name).join(FILE), file.to_string()).expect("written");
        self.adopt(name);
    }

    /// A disk was found that is left alone, because of a signature.
    pub fn refuse(&self, name: &str) {
        self.add(name, Kind::Refused);
    }

    fn add(&self, name: &str, kind: Kind) {
        let disk = Disk {
            uuid: Uuid::new_v4(),
            kind,
            mounted: kind != Kind::Refused,
            transport: Transport::Scsi,
        };
        if disk.mounted {
            fs::create_dir_all(self.path(name)).expect("a directory");
            let kept = self
                .ledger()
                .keep(disk.uuid, &name.parse().expect("a name"));
            kept.expect("kept");
        }
        self.change(|disks| {
            disks.insert(name.to_owned(), disk);
        });
    }

    /// The mount of a disk is lost, or is back.
    pub fn set_mounted(&self, name: &str, mounted: bool) {
        self.change(|disks| disks.get_mut(name).expect("a disk").mounted = mounted);
    }

    /// A disk fails: it stays where it is mounted, and cannot be read.
    pub fn fail(&self, name: &str) {
        self.change(|disks| disks.get_mut(name).expect("a disk").kind = Kind::Refused);
    }

    /// A disk is pulled out, and what is on it is gone from here.
    pub fn take_away(&self, name: &str) {
        self.pull(name);
        // In one step: Longhorn makes a file that is missing where a directory is.
        let away = self.root().join(format!("{name}-{}", Uuid::new_v4()));
        fs::rename(self.path(name), &away).expect("moved away");
        fs::remove_dir_all(away).expect("removed");
    }

    /// A disk is pulled out.
    pub fn pull(&self, name: &str) {
        self.change(|disks| {
            disks.remove(name);
        });
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, Disk>)) {
        change(&mut self.disks.lock().expect("disks"));
        self.round();
    }

    /// Number of the last round.
    pub fn last_round(&self) -> u64 {
        *self.number.lock().expect("a number")
    }

    /// Makes a round: looks at what there is.
    pub fn round(&self) {
        // One after the other, whoever makes them.
        let mut number = self.number.lock().expect("a number");
        *number += 1;
        let disks = self.disks.lock().expect("disks").clone();
        let place = fs::metadata(self.path("")).expect("the mount root");
        let devno = DevNo::from_raw(place.dev());
        let mut table = "1 0 254:1 / / rw - ext4 /dev/vda1 rw\n".to_owned();
        for name in disks
            .iter()
            .filter(|(_, disk)| disk.mounted)
            .map(|(name, _)| name)
        {
            writeln!(
                table,
                "2 1 {devno} / {MOUNT_ROOT}/{name} rw,noatime - ext4 /dev/{name} rw"
            )
            .expect("text");
        }
        for process in ["1", "self"] {
            let directory = self.root().join("proc").join(process);
            // As the kernel's, it is never seen in part.
            let new = directory.join("mountinfo.new");
            fs::write(&new, &table).expect("written");
            fs::rename(new, directory.join("mountinfo")).expect("renamed");
        }
        let mounts = disk_discovery::observe::tables::parse_mountinfo(&table).expect("a table");
        let round = self.made(&disks, mounts, *number);
        self.rounds.send_replace(Some(Arc::new(round)));
    }

    fn made(&self, disks: &BTreeMap<String, Disk>, mounts: Vec<Mount>, number: u64) -> Round {
        let standing = self.ledger().standing();
        let left = |uuid| standing.is_known_and(|standing| standing.has_left(uuid));
        let mut devices = BTreeMap::new();
        let mut verdicts = BTreeMap::new();
        for (name, disk) in disks {
            let kernel = name.trim_end_matches('1');
            devices.insert(kernel.to_owned(), Arc::new(device(kernel, disk)));
            let verdict = match disk.kind {
                _ if left(disk.uuid) => Verdict::Refused(Refusal::new(Reason::Released, name)),
                Kind::Refused => Verdict::Refused(Refusal::signature("ext4", "")),
                Kind::Provisioned => Verdict::Managed(Managed {
                    claim: ClaimId {
                        disk_guid: Uuid::new_v4(),
                        partition_guid: disk.uuid,
                        name: name.parse().expect("a name"),
                    },
                    filesystem: Filesystem::Ext4,
                    mounted: disk.mounted,
                    ailment: None,
                    growth: None,
                }),
                Kind::Adopted => Verdict::Adopt(Adopt {
                    uuid: disk.uuid,
                    name: name.parse().expect("a name"),
                    filesystem: Filesystem::Ext4,
                    from: Source::Longhorn,
                    mounted: disk.mounted,
                    ailment: None,
                }),
            };
            verdicts.insert(kernel.to_owned(), verdict);
        }
        let root = Disk {
            uuid: Uuid::nil(),
            kind: Kind::Refused,
            mounted: true,
            transport: Transport::Virtio,
        };
        devices.insert("vda".to_owned(), Arc::new(device("vda", &root)));
        verdicts.insert(
            "vda".to_owned(),
            Verdict::Refused(Reason::SystemDisk.into()),
        );
        Round {
            inventory: Inventory {
                devices,
                host_mounts: Fact::Known(mounts.clone()),
                own_mounts: Fact::Known(mounts),
                swaps: Fact::Known(Vec::new()),
                udevd: Fact::Known(true),
                media: BTreeMap::new(),
                mountpoints: Fact::Known(BTreeMap::new()),
                journal: Fact::Known(Vec::new()),
                not_answering: Default::default(),
                working: Default::default(),
                standing,
                ailments: BTreeMap::new(),
                witness: Fact::Known(BTreeMap::new()),
            },
            verdicts,
            operations: BTreeMap::new(),
            dead_mounts: Vec::new(),
            releases: Vec::new(),
            cost: RoundCost {
                number,
                finished_at: 0,
                devices_read: 0,
                full: true,
                micros: 0,
            },
            longhorn: View::Off,
            mount_units: None,
        }
    }

    /// Starts the part of an agent that speaks with the cluster. `config` says
    /// how it gets there, each time that it connects. Must be called inside a
    /// tokio runtime.
    pub fn agent(
        &self,
        options: &AgentOptions,
        config: impl Fn() -> Config + Clone + Send + Sync + 'static,
    ) -> Agent {
        let longhorn = LonghornSettings {
            namespace: options.namespace.clone(),
            node_name: options
                .node_name
                .clone()
                .unwrap_or_else(|| self.node.clone()),
        };
        let watched = config.clone();
        let sight: Sight = spawn_with(longhorn.clone(), move || {
            let config = watched();
            async move { Ok(config) }
        });
        let view = sight.view.clone();
        let settings = RegistrarSettings {
            longhorn,
            mode: options.mode,
            terms: Terms {
                on_missing: options.on_missing,
                tags: options.tags,
                reserved: options.reserved,
            },
            mount_root: MOUNT_ROOT.to_owned(),
            host: Host::at(self.root()),
            root: self.root().to_owned(),
            ledger: self.ledger.clone(),
            default_disks: options.default_disks,
            agent: disk_discovery::state::State::below(&self.root().join("state")).agent(),
            hurry: options.hurry,
        };
        let told: Arc<Mutex<Vec<(DiskName, Told)>>> = Arc::default();
        let heard = Arc::clone(&told);
        let held = Arc::new(());
        let runs = Arc::downgrade(&held);
        let tell = move |name, what| {
            let _held = &held;
            heard.lock().expect("told").push((name, what));
        };
        let status = registrar::spawn(settings, self.rounds.subscribe(), sight, tell, move || {
            let config = config();
            async move { Ok(config) }
        });
        Agent {
            view,
            status,
            told,
            runs,
        }
    }
}

fn device(name: &str, disk: &Disk) -> Device {
    Device {
        name: name.to_owned(),
        path: Fact::Known(format!("/devices/{name}")),
        parent: None,
        devno: Fact::Known("8:16".parse().expect("a number")),
        devname: Fact::Known(name.to_owned()),
        partition_number: Fact::Known(None),
        diskseq: Fact::Known(None),
        size: Fact::Known(12_000_000_000),
        start: Fact::Known(None),
        sector: Fact::Known(Some(512)),
        read_only: Fact::Known(false),
        removable: Fact::Known(false),
        hidden: Fact::Known(false),
        rotational: Fact::Known(Some(false)),
        holders: Fact::Known(Vec::new()),
        slaves: Fact::Known(Vec::new()),
        backing: Fact::Known(None),
        vendor: Fact::Known(None),
        model: Fact::Known(None),
        serial: Fact::Known(Some(disk.uuid.simple().to_string())),
        wwn: Fact::Known(None),
        transport: Fact::Known(disk.transport),
        udev: Fact::Known(None),
    }
}
