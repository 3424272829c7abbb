//! A host to decide on, with the root on `sda1` and a blank disk `sdb` that is
//! provisioned: each test changes the one thing that it is about.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use uuid::{Uuid, uuid};

use crate::{
    claim::{Claim, ClaimId, Geometry, Resized, Stage, Table, TableImage},
    decide::{Policy, Provision, Reason, Refusal, Rule, Verdict, decide},
    fact::Fact,
    journal::Entry,
    ledger::Standing,
    observe::{
        Device, Inventory, Medium, Transport, UdevRecord,
        loops::Backing,
        medium::{Content, Inside},
        sample::Seed,
        scan::Scan,
        signature::{Found, Signature},
        superblock::{Extent, Progress},
        tables::{Mount, Swap},
    },
    units::{DevNo, DiskName, Filesystem},
};

pub(super) const GB: u64 = 1_000_000_000;
pub(super) const SIZE: u64 = 12 * GB;
pub(super) const GUID: Uuid = uuid!("6b1a2d6c-0b0e-4f0c-9d9b-5e1f0a7c2b11");

/// What is decided on, and by which policy.
#[derive(Debug, Clone)]
pub(super) struct Bench {
    pub(super) inventory: Inventory,
    pub(super) policy: Policy,
}

impl Bench {
    /// The root on `sda1`, and `sdb`, which is provisioned.
    pub(super) fn new() -> Self {
        let inventory = Inventory {
            devices: BTreeMap::new(),
            host_mounts: Fact::Known(vec![mount(devno(8, 1), "/")]),
            own_mounts: Fact::Known(vec![mount(devno(0, 44), "/")]),
            swaps: Fact::Known(Vec::new()),
            udevd: Fact::Known(true),
            media: BTreeMap::new(),
            mountpoints: Fact::Known(BTreeMap::new()),
            journal: Fact::Known(Vec::new()),
            not_answering: BTreeSet::new(),
            working: BTreeSet::new(),
            standing: Fact::Known(Standing {
                formats_last_hour: 0,
                used_approvals: BTreeSet::new(),
                frozen: None,
                disks: BTreeMap::new(),
                releases: BTreeMap::new(),
                boot: "this boot".to_owned(),
            }),
            ailments: BTreeMap::new(),
            witness: Fact::Known(BTreeMap::new()),
        };
        let policy = Policy::default();
        let mut bench = Self { inventory, policy };
        bench.add(disk("sda", 0));
        bench.add(partition("sda", 1, devno(8, 1)));
        bench.add(disk("sdb", 16));
        bench.inventory.media.insert("sdb".to_owned(), blank());
        bench
    }

    /// The usual host with one thing changed.
    pub(super) fn with(change: impl FnOnce(&mut Self)) -> Self {
        let mut bench = Self::new();
        change(&mut bench);
        bench
    }

    pub(super) fn add(&mut self, device: Device) {
        self.inventory
            .devices
            .insert(device.name.clone(), Arc::new(device));
    }

    /// A second blank disk.
    pub(super) fn add_blank(&mut self, name: &str, minor: u32) {
        self.add(disk(name, minor));
        self.inventory.media.insert(name.to_owned(), blank());
    }

    pub(super) fn dev(&mut self, name: &str) -> &mut Device {
        Arc::make_mut(self.inventory.devices.get_mut(name).expect("the device"))
    }

    pub(super) fn udev(&mut self, name: &str) -> &mut UdevRecord {
        let Fact::Known(Some(record)) = &mut self.dev(name).udev else {
            panic!("{name} has no record");
        };
        record
    }

    pub(super) fn medium(&mut self, name: &str) -> &mut Medium {
        let medium = self.inventory.media.get_mut(name).expect("the medium");
        let Fact::Known(medium) = Arc::make_mut(medium) else {
            panic!("the medium of {name} is unreadable");
        };
        medium
    }

    pub(super) fn content(&mut self, name: &str) -> &mut Content {
        self.medium(name).content.as_mut().expect("the content")
    }

    pub(super) fn scan(&mut self, name: &str) -> &mut Scan {
        known(self.content(name).scan.as_mut().expect("a scan"))
    }

    pub(super) fn standing(&mut self) -> &mut Standing {
        known(&mut self.inventory.standing)
    }

    pub(super) fn mounts(&mut self) -> &mut Vec<Mount> {
        known(&mut self.inventory.host_mounts)
    }

    /// Makes a disk ours: a claim, its partition and what is inside.
    pub(super) fn claim(&mut self, disk: &str, id: ClaimId, stage: Stage, inside: Signature) {
        let medium = Medium {
            table: Fact::Known(Table::Ours {
                claim: Claim { id, stage },
                whole: true,
                only_ours: true,
                resized: None,
            }),
            partition: Some(inside_of(Fact::Known(inside))),
            content: None,
            lodger: None,
            resectored: None,
        };
        self.inventory
            .media
            .insert(disk.to_owned(), Arc::new(Fact::Known(medium)));
        let DevNo { major, minor } = *self.dev(disk).devno.known().expect("a device number");
        self.add(partition(disk, 1, devno(major, minor + 1)));
    }

    /// Makes the table of a claimed disk one for another size.
    pub(super) fn resized(&mut self, disk: &str, only: bool, to: Resized) {
        let Fact::Known(Table::Ours {
            whole,
            only_ours,
            resized,
            ..
        }) = &mut self.medium(disk).table
        else {
            panic!("{disk} has no claim");
        };
        (*whole, *only_ours, *resized) = (false, only, Some(to));
    }

    /// `sdb` as a disk that was provisioned, and not mounted yet.
    pub(super) fn managed() -> Self {
        Self::with(|bench| bench.claim("sdb", claim_id(), Stage::Committed, ext4(GUID)))
    }

    /// `sdb` as a disk whose provisioning was interrupted.
    pub(super) fn pending() -> Self {
        Self::with(|bench| bench.claim("sdb", claim_id(), Stage::Pending, Signature::Nothing))
    }

    pub(super) fn verdicts(&self) -> BTreeMap<String, Verdict> {
        decide(&self.inventory, &self.policy)
    }

    pub(super) fn verdict(&self, name: &str) -> Verdict {
        self.verdicts().remove(name).expect("a verdict")
    }

    pub(super) fn refusal(&self, name: &str) -> Refusal {
        match self.verdict(name) {
            Verdict::Refused(refusal) => refusal,
            taken @ (Verdict::Managed(_)
            | Verdict::Adopt(_)
            | Verdict::Provision(_)
            | Verdict::Resume(_)) => {
                panic!("{name} is not refused: {taken:?}")
            }
        }
    }

    pub(super) fn reason(&self, name: &str) -> Reason {
        self.refusal(name).reason
    }

    pub(super) fn provision(&self, name: &str) -> Provision {
        match self.verdict(name) {
            Verdict::Provision(provision) => provision,
            other @ (Verdict::Managed(_)
            | Verdict::Adopt(_)
            | Verdict::Resume(_)
            | Verdict::Refused(_)) => {
                panic!("{name} is not provisioned: {other:?}")
            }
        }
    }

    pub(super) fn is_provisioned(&self, name: &str) -> bool {
        matches!(self.verdict(name), Verdict::Provision(_))
    }
}

pub(super) fn known<T>(fact: &mut Fact<T>) -> &mut T {
    match fact {
        Fact::Known(value) => value,
        Fact::Unreadable(why) => panic!("{why}"),
    }
}

pub(super) fn lost<T>() -> Fact<T> {
    Fact::unreadable("a fact", "Input/output error")
}

pub(super) fn devno(major: u32, minor: u32) -> DevNo {
    DevNo { major, minor }
}

pub(super) fn name(text: &str) -> DiskName {
    text.parse().expect("a disk name")
}

pub(super) fn mount(devno: DevNo, at: &str) -> Mount {
    Mount {
        devno,
        root: "/".to_owned(),
        mountpoint: at.to_owned(),
        read_only: false,
        filesystem: "ext4".to_owned(),
        source: "/dev/of-no-importance".to_owned(),
        super_options: "rw".to_owned(),
    }
}

pub(super) fn swap(path: &str) -> Swap {
    Swap {
        path: path.to_owned(),
    }
}

/// A disk inside the machine of which everything is known.
pub(super) fn disk(name: &str, minor: u32) -> Device {
    let record = UdevRecord {
        initialized: true,
        id_path: Some("pci-0000:00:1f.2-ata-2".to_owned()),
        bus: Some("ata".to_owned()),
        ..UdevRecord::default()
    };
    Device {
        name: name.to_owned(),
        path: Fact::Known(format!(
            "/devices/pci0000:00/0000:00:1f.2/ata2/host1/target1:0:0/1:0:0:0/block/{name}"
        )),
        parent: None,
        devno: Fact::Known(devno(8, minor)),
        devname: Fact::Known(name.to_owned()),
        partition_number: Fact::Known(None),
        diskseq: Fact::Known(Some(u64::from(minor) + 1)),
        size: Fact::Known(SIZE),
        start: Fact::Known(None),
        sector: Fact::Known(Some(512)),
        read_only: Fact::Known(false),
        removable: Fact::Known(false),
        hidden: Fact::Known(false),
        rotational: Fact::Known(Some(false)),
        holders: Fact::Known(Vec::new()),
        slaves: Fact::Known(Vec::new()),
        backing: Fact::Known(None),
        vendor: Fact::Known(Some("ATA".to_owned())),
        model: Fact::Known(Some("SSD 12".to_owned())),
        serial: Fact::Known(Some(format!("S{minor}"))),
        wwn: Fact::Known(Some(format!("naa.50000000{minor:08x}"))),
        transport: Fact::Known(Transport::Scsi),
        udev: Fact::Known(Some(record)),
    }
}

pub(super) fn partition(parent: &str, number: u32, at: DevNo) -> Device {
    let separator = if parent.ends_with(|c: char| c.is_ascii_digit()) {
        "p"
    } else {
        ""
    };
    let name = format!("{parent}{separator}{number}");
    Device {
        parent: Some(parent.to_owned()),
        devno: Fact::Known(at),
        partition_number: Fact::Known(Some(number)),
        start: Fact::Known(Some(1 << 20)),
        sector: Fact::Known(None),
        vendor: Fact::Known(None),
        model: Fact::Known(None),
        serial: Fact::Known(None),
        wwn: Fact::Known(None),
        ..disk(&name, 0)
    }
}

/// A device of device mapper or md on top of others.
pub(super) fn stacked(name: &str, at: DevNo, on: &[&str]) -> Device {
    Device {
        devno: Fact::Known(at),
        slaves: Fact::Known(on.iter().map(|&name| name.to_owned()).collect()),
        vendor: Fact::Known(None),
        model: Fact::Known(None),
        serial: Fact::Known(None),
        wwn: Fact::Known(None),
        transport: Fact::Known(Transport::Virtual),
        ..disk(name, 0)
    }
}

/// A loop device.
pub(super) fn loop_device(backing: Fact<Option<Backing>>) -> Device {
    Device {
        backing,
        ..stacked("loop7", devno(7, 7), &[])
    }
}

/// On what lies at a path, and where that is a node, its number.
pub(super) fn on(path: &str, devno: Option<DevNo>) -> Fact<Option<Backing>> {
    let path = path.to_owned();
    Fact::Known(Some(Backing { path, devno }))
}

pub(super) fn blank() -> Arc<Fact<Medium>> {
    Arc::new(Fact::Known(Medium {
        table: Fact::Known(Table::Absent),
        partition: None,
        content: Some(Content {
            signature: Fact::Known(Signature::Nothing),
            scan: Some(Fact::Known(zeroes())),
            approvals: Vec::new(),
            busy: Fact::Known(false),
        }),
        lodger: None,
        resectored: None,
    }))
}

/// A scan that found nothing.
pub(super) fn zeroes() -> Scan {
    Scan {
        seed: Seed(1),
        residue: None,
        traces: Vec::new(),
        digest: "0".repeat(64),
        bytes: 1,
        reads: 1,
    }
}

pub(super) fn rules(texts: &[&str]) -> Vec<Rule> {
    let rules = texts.iter().map(|text| text.parse());
    rules.collect::<Result<_, _>>().expect("rules")
}

pub(super) fn found(kind: &str, uuid: Option<Uuid>) -> Signature {
    Signature::Found(Found {
        kind: kind.to_owned(),
        uuid: uuid.map(|uuid| uuid.to_string()),
    })
}

pub(super) fn ext4(uuid: Uuid) -> Signature {
    found("ext4", Some(uuid))
}

pub(super) fn claim_id() -> ClaimId {
    ClaimId {
        disk_guid: uuid!("11111111-2222-4333-8444-555555555555"),
        partition_guid: GUID,
        name: name("sdb1"),
    }
}

pub(super) fn entry(claim: ClaimId, filesystem: Filesystem) -> Entry {
    let geometry = Geometry {
        size: SIZE / 512 * 512,
        sector: 512,
    };
    let image = |stage| TableImage::build(geometry, &claim, stage).expect("a table");
    let tables = (&image(Stage::Pending), &image(Stage::Committed));
    Entry::new(
        claim.clone(),
        geometry,
        (None, None),
        filesystem,
        tables,
        None,
    )
}

/// The inside of a claimed partition where nothing else speaks against it.
pub(super) fn inside_of(signature: Fact<Signature>) -> Inside {
    Inside {
        signature,
        progress: Some(Fact::Known(Progress::Unused)),
        residue: Some(Fact::Known(None)),
        around: Some(Fact::Known(None)),
        beside: Some(Fact::Known(Signature::Nothing)),
        beyond: None,
        extent: None,
        journalled: false,
    }
}

/// How much of its partition a filesystem uses, in groups of 128 MiB.
pub(super) fn extent(bytes: u64) -> Extent {
    Extent {
        bytes,
        block: 4096,
        slack: 128 << 20,
    }
}
