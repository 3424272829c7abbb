//! From the host of the model to an inventory, and the agent's own decision on
//! it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use disk_discovery::{
    approval::Token,
    claim::{Begun, Stage, Table, TableImage},
    decide::{self, Policy, Reason, Verdict},
    fact::Fact,
    journal::{Approved, Entry},
    ledger::Standing,
    observe::{
        Device, Identity, Inventory, Medium, Mountpoint, Transport, UdevRecord, medium::Depth,
        tables::Mount,
    },
    provision::Job,
    units::{Bytes, DevNo, Filesystem},
};

use crate::{
    bytes::{self, Asked},
    steps::Mistake,
    world::{Claim, Directory, Image, Journalled, NAMES, Name, Plan, World},
};

const SLOTS: [&str; 2] = ["sdb", "sdc"];

/// What does not change while a model runs.
#[derive(Debug, Clone)]
pub struct Setup {
    pub filesystem: Filesystem,
    /// Disks have serial numbers, and the kernel has sequence numbers for them.
    pub identified: bool,
    /// What the first disk held when a person approved it.
    pub approved: Option<Image>,
    /// Nobody writes data of no known format into the partition of a pending
    /// claim, nor mounts it in the moment between our proof and our mkfs.
    pub considerate: bool,
    pub mistake: Option<Mistake>,
}

/// A verdict in the words of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decided {
    Refused(Reason),
    Mounted(Claim),
    Do(Plan),
}

/// What a decision depends on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Situation {
    disks: Vec<(usize, u8, Option<Image>, bool)>,
    journal: Vec<Journalled>,
    kept: [bool; NAMES.len()],
    mounts: Vec<(u8, Name)>,
    used_approval: bool,
}

/// What a proof depends on: the disk, which one it is, what for, the journal.
type Proof = (Image, u8, Plan, Vec<Journalled>);

/// Entries that are about a disk, and what they say was begun on it.
type TheirOwn = (Vec<Journalled>, Vec<Begun>);

/// Decides, and remembers.
#[derive(Debug)]
pub struct Oracle {
    pub setup: Setup,
    token: Option<(Token, disk_discovery::claim::Ends, String)>,
    decisions: Mutex<HashMap<Situation, Arc<[Option<Decided>; 2]>>>,
    proofs: Mutex<HashMap<Proof, Arc<Medium>>>,
    entries: Mutex<HashMap<Journalled, Entry>>,
    begun: Mutex<HashMap<(Vec<Journalled>, u8), TheirOwn>>,
}

/// What a disk says of itself.
pub fn identity(disk: u8, identified: bool) -> Identity {
    Identity::of(&device("sdb", 16, disk, identified)).expect("readable")
}

fn devno(minor: u32) -> Fact<DevNo> {
    Fact::Known(DevNo { major: 8, minor })
}

fn device(name: &str, minor: u32, disk: u8, identified: bool) -> Device {
    let own = |text: String| Fact::Known(identified.then_some(text));
    Device {
        name: name.to_owned(),
        path: Fact::Known(format!("/devices/pci0000:00/ata2/block/{name}")),
        parent: None,
        devno: devno(minor),
        devname: Fact::Known(name.to_owned()),
        partition_number: Fact::Known(None),
        diskseq: Fact::Known(identified.then_some(u64::from(minor))),
        size: Fact::Known(0),
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
        model: Fact::Known(Some("SSD".to_owned())),
        serial: own(format!("S{disk}")),
        wwn: own(format!("naa.5{disk:015x}")),
        transport: Fact::Known(Transport::Scsi),
        udev: Fact::Known(Some(UdevRecord {
            initialized: true,
            ..UdevRecord::default()
        })),
    }
}

fn partition(disk: &Device, minor: u32) -> Device {
    Device {
        parent: Some(disk.name.clone()),
        partition_number: Fact::Known(Some(1)),
        start: Fact::Known(Some(1 << 20)),
        sector: Fact::Known(None),
        serial: Fact::Known(None),
        wwn: Fact::Known(None),
        ..device(&format!("{}1", disk.name), minor, 0, false)
    }
}

fn mount(minor: u32, at: String) -> Mount {
    Mount {
        devno: DevNo { major: 8, minor },
        root: "/".to_owned(),
        mountpoint: at,
        read_only: false,
        filesystem: "ext4".to_owned(),
        source: "/dev/a-disk".to_owned(),
        super_options: "rw".to_owned(),
    }
}

fn minor(slot: usize) -> u32 {
    16 * (slot as u32 + 1)
}

impl Oracle {
    pub fn new(setup: Setup) -> Self {
        let mut oracle = Self {
            setup,
            token: None,
            decisions: Mutex::default(),
            proofs: Mutex::default(),
            entries: Mutex::default(),
            begun: Mutex::default(),
        };
        oracle.token = oracle.setup.approved.map(|image| oracle.approve(&image));
        oracle
    }

    /// As `explain` would print the token.
    fn approve(&self, image: &Image) -> (Token, disk_discovery::claim::Ends, String) {
        let asked = self.asked(&[], true, false, 0);
        let medium = self.medium(image, &asked, &[]);
        let content = medium.content.as_ref().expect("no claim");
        let scan = content.scan.as_ref().expect("no owner").known();
        let scan = scan.expect("readable");
        let geometry = bytes::geometry(self.setup.filesystem);
        let token = Token::of(&identity(0, self.setup.identified), geometry, scan);
        let (ends, gaps) = bytes::before(image, self.setup.filesystem);
        (token, ends, gaps)
    }

    fn policy(&self) -> Policy {
        Policy {
            min_size: Bytes(1 << 20),
            filesystem: self.setup.filesystem,
            // No disk of this world is enlarged.
            grow: false,
            approvals: self.token.iter().map(|(token, ..)| *token).collect(),
            ..Policy::default()
        }
    }

    fn asked(&self, journal: &[Journalled], blankness: bool, approval: bool, disk: u8) -> Asked {
        Asked {
            begun: journal
                .iter()
                .map(|entry| (entry.claim, entry.approved))
                .collect(),
            blankness,
            approval,
            identity: disk,
        }
    }

    fn entry(&self, journalled: &Journalled) -> Entry {
        remembered(&self.entries, *journalled, || self.make_entry(journalled))
    }

    fn make_entry(&self, journalled: &Journalled) -> Entry {
        let geometry = bytes::geometry(self.setup.filesystem);
        let id = bytes::claim_id(journalled.claim);
        let table = |stage| TableImage::build(geometry, &id, stage).expect("a table");
        let tables = (&table(Stage::Pending), &table(Stage::Committed));
        let device = device("sdb", 16, journalled.of, self.setup.identified);
        let text = |fact: &Fact<Option<String>>| fact.known().expect("readable").clone();
        let identity = (text(&device.wwn), text(&device.serial));
        let approved = journalled.approved.then(|| {
            let (token, ends, gaps) = self.token.as_ref().expect("an approved disk");
            Approved::new(*token, ends, gaps.clone())
        });
        Entry::new(
            id,
            geometry,
            identity,
            self.setup.filesystem,
            tables,
            approved,
        )
    }

    /// Claims of the journal that were begun on a disk, by the agent's rules.
    fn begun(&self, journal: &[Journalled], disk: u8) -> TheirOwn {
        remembered(&self.begun, (journal.to_vec(), disk), || {
            self.find_begun(journal, disk)
        })
    }

    fn find_begun(&self, journal: &[Journalled], disk: u8) -> TheirOwn {
        let geometry = bytes::geometry(self.setup.filesystem);
        let device = device("sdb", 16, disk, self.setup.identified);
        let text = |fact: &Fact<Option<String>>| fact.known().expect("readable").clone();
        let (wwn, serial) = (text(&device.wwn), text(&device.serial));
        journal
            .iter()
            .filter_map(|journalled| {
                let entry = self.entry(journalled);
                let may = entry.may_be_of(geometry, wwn.as_deref(), serial.as_deref());
                may.then(|| (*journalled, entry.begun().expect("sound")))
            })
            .unzip()
    }

    fn medium(&self, image: &Image, asked: &Asked, begun: &[Begun]) -> Arc<Medium> {
        let tokens: Vec<Token> = self.token.iter().map(|(token, ..)| *token).collect();
        let identity = identity(asked.identity, self.setup.identified);
        let filesystem = self.setup.filesystem;
        let medium = bytes::examine(image, filesystem, asked, begun, &identity, &tokens);
        match self.setup.mistake {
            Some(mistake) => Arc::new(mistaken(image, (*medium).clone(), mistake)),
            None => medium,
        }
    }

    /// What a job reads on its open disk.
    pub fn proof(&self, world: &World, disk: u8, plan: Plan) -> Arc<Medium> {
        let image = world.disk(disk).seen;
        let (blankness, approval, journal) = match plan {
            Plan::Provision { approval, .. } => (true, approval, &world.host.journal[..]),
            Plan::Resume(_) => (false, false, &world.host.journal[..]),
            Plan::Mount(_) => (false, false, &[][..]),
        };
        remembered(&self.proofs, (image, disk, plan, journal.to_vec()), || {
            let (journal, begun) = self.begun(journal, disk);
            let asked = self.asked(&journal, blankness, approval, disk);
            self.medium(&image, &asked, &begun)
        })
    }

    pub fn token(&self) -> Option<Token> {
        self.token.as_ref().map(|(token, ..)| *token)
    }

    /// A verdict for each slot. `unread`: disks that are worked on are not read.
    pub fn decide(&self, world: &World, unread: bool) -> Arc<[Option<Decided>; 2]> {
        let host = &world.host;
        let disks = host.slots.iter().enumerate().filter_map(|(slot, disk)| {
            let disk = (*disk)?;
            let working = unread && world.jobs[usize::from(disk)].is_some();
            let image = (!working).then_some(world.disk(disk).seen);
            Some((slot, disk, image, host.known[slot]))
        });
        let situation = Situation {
            disks: disks.collect(),
            journal: host.journal.clone(),
            kept: host.directories.map(|there| there != Directory::Absent),
            mounts: host.mounts.clone(),
            used_approval: host.used_approval,
        };
        let look = || Arc::new(self.look(&situation));
        remembered(&self.decisions, situation.clone(), look)
    }

    /// As `Look` does: what is there, which media are needed, the verdicts.
    fn look(&self, situation: &Situation) -> [Option<Decided>; 2] {
        let policy = self.policy();
        let size = bytes::geometry(self.setup.filesystem).size;
        let system = device("sda", 0, 99, self.setup.identified);
        let mut inventory = Inventory {
            devices: BTreeMap::new(),
            host_mounts: Fact::Known(Vec::new()),
            own_mounts: Fact::Known(Vec::new()),
            swaps: Fact::Known(Vec::new()),
            udevd: Fact::Known(true),
            media: BTreeMap::new(),
            mountpoints: Fact::Known(BTreeMap::new()),
            journal: Fact::Known(situation.journal.iter().map(|e| self.entry(e)).collect()),
            not_answering: BTreeSet::new(),
            working: BTreeSet::new(),
            standing: Fact::Known(Standing {
                formats_last_hour: 0,
                used_approvals: self
                    .token()
                    .into_iter()
                    .filter(|_| situation.used_approval)
                    .collect(),
                frozen: None,
                // As if the ledger were lost each time: the disks themselves and
                // the directories say what is whose.
                disks: BTreeMap::new(),
                releases: BTreeMap::new(),
                boot: String::new(),
            }),
            ailments: BTreeMap::new(),
            witness: Fact::Known(BTreeMap::new()),
        };
        let mut devices = vec![partition(&system, 1), system];
        let mut mounts = vec![mount(1, "/".to_owned())];
        let mut directories: BTreeMap<_, _> = NAMES
            .into_iter()
            .zip(situation.kept)
            .filter(|(_, kept)| *kept)
            .map(|(name, _)| (name.parse().expect("a name"), Mountpoint::Reserved))
            .collect();
        for (slot, disk, _, known) in &situation.disks {
            let mut device = device(SLOTS[*slot], minor(*slot), *disk, self.setup.identified);
            device.size = Fact::Known(size);
            if *known {
                devices.push(partition(&device, minor(*slot) + 1));
            }
            for (_, name) in situation.mounts.iter().filter(|(there, _)| there == disk) {
                let at = format!("{}/{}", policy.mount_root, name.text());
                mounts.push(mount(minor(*slot) + 1, at));
                directories.insert(name.text().parse().expect("a name"), Mountpoint::Occupied);
            }
            devices.push(device);
        }
        inventory.devices = devices
            .into_iter()
            .map(|device| (device.name.clone(), Arc::new(device)))
            .collect();
        inventory.host_mounts = Fact::Known(mounts);
        inventory.mountpoints = Fact::Known(directories);
        let shortlist = decide::shortlist(&inventory, &policy);
        for (slot, disk, image, _) in &situation.disks {
            let (Some(wanted), Some(image)) = (shortlist.get(SLOTS[*slot]), image) else {
                continue;
            };
            let device = &inventory.devices[SLOTS[*slot]];
            let begun = decide::begun(&inventory, device);
            let approval = !decide::open_approvals(&inventory, &policy, device).is_empty();
            let (journal, ours) = self.begun(&situation.journal, *disk);
            assert_eq!(begun, ours, "the model asks what the agent asks");
            let asked = self.asked(&journal, wanted.depth == Depth::Blankness, approval, *disk);
            let medium = self.medium(image, &asked, &begun);
            let read = Arc::new(Fact::Known((*medium).clone()));
            inventory.media.insert(SLOTS[*slot].to_owned(), read);
        }
        let verdicts = decide::decide(&inventory, &policy);
        let mut decided = [None; 2];
        for (slot, ..) in &situation.disks {
            decided[*slot] = Some(in_words(&verdicts[SLOTS[*slot]]));
        }
        decided
    }
}

/// What is found out once. Two may find it out at the same time.
pub fn remembered<K: Eq + Hash, V: Clone>(
    known: &Mutex<HashMap<K, V>>,
    key: K,
    find: impl FnOnce() -> V,
) -> V {
    let known = || known.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(value) = known().get(&key) {
        return value.clone();
    }
    let value = find();
    known().insert(key, value.clone());
    value
}

fn in_words(verdict: &Verdict) -> Decided {
    match (Job::for_verdict(verdict), verdict) {
        (Some(Job::Provision(provision)), _) => Decided::Do(Plan::Provision {
            name: Name::of(provision.name.as_str()),
            begun: provision.begun.as_ref().map(bytes::claim_of),
            approval: provision.approval.is_some(),
        }),
        (Some(Job::Resume(resume)), _) => Decided::Do(Plan::Resume(bytes::claim_of(&resume.claim))),
        (Some(Job::Mount(managed)), _) => Decided::Do(Plan::Mount(bytes::claim_of(&managed.claim))),
        (None, Verdict::Managed(managed)) => Decided::Mounted(bytes::claim_of(&managed.claim)),
        (None, Verdict::Refused(refusal)) => Decided::Refused(refusal.reason),
        (Some(Job::Adopt(_) | Job::Grow(_)), _)
        | (None, Verdict::Provision(_) | Verdict::Resume(_) | Verdict::Adopt(_)) => {
            panic!("{verdict:?} in a world of one size and one node")
        }
    }
}

/// What the agent would read if it made a mistake.
fn mistaken(image: &Image, mut medium: Medium, mistake: Mistake) -> Medium {
    match mistake {
        Mistake::ResidueIgnored => {
            if let Some(inside) = &mut medium.partition {
                inside.journalled = true;
            }
        }
        Mistake::PrimaryBelieved => {
            let pending = image.primary().is_some_and(|claim| {
                image.at(crate::world::Cell::PrimaryEntry) == crate::world::Value::Pending(claim)
            });
            if pending && let Fact::Known(Table::Ours { claim, .. }) = &mut medium.table {
                claim.stage = Stage::Pending;
                if let Some(inside) = &mut medium.partition {
                    use disk_discovery::observe::{signature::Signature, superblock::Progress};
                    inside.progress = Some(Fact::Known(Progress::Unused));
                    inside.residue = Some(Fact::Known(None));
                    inside.around = Some(Fact::Known(None));
                    inside.beside = Some(Fact::Known(Signature::Nothing));
                }
            }
        }
        _ => {}
    }
    medium
}
