//! One look at the system: observe, read the shortlisted media, decide.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    approval::Token,
    backoff::Backoff,
    claim::Begun,
    decide::{self, Policy, Verdict, Wanted},
    fact::Fact,
    observe::{
        Answer, Device, Dirty, Host, Identity, Inventory, Medium, Observer, Purpose, Readers,
        medium::{self, Depth, Question, Window},
        sample::Seed,
        tables::Mount,
        witness,
    },
    units::DevNo,
};

/// A disk that has not answered by then is dealt with later. A spinning disk
/// takes two seconds for all that is asked of it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Facts, verdicts, and what they cost.
#[derive(Debug)]
pub struct Seen {
    /// Facts.
    pub inventory: Inventory,
    /// Verdicts, by kernel name.
    pub verdicts: BTreeMap<String, Verdict>,
    /// Devices read from sysfs.
    pub devices_read: usize,
    /// When a disk that could not be read is to be read again.
    pub again: Option<Instant>,
    /// Microseconds.
    pub micros: u64,
}

/// Looks again and again, remembering what need not be read anew.
#[derive(Debug)]
pub struct Look {
    host: Host,
    policy: Policy,
    observer: Observer,
    media: BTreeMap<String, Remembered>,
    readers: Readers<Remembered>,
    /// Disks that could not be read: reading a failing disk takes long, wears
    /// it out, and whatever else changes is no reason to do so.
    unread: Backoff,
    /// For a person who wants to know more than a decision needs.
    thorough: bool,
    /// For a person who wants a proof repeated; otherwise it is the disk's own.
    seed: Option<Seed>,
}

/// A medium that was read, and what it was read of.
#[derive(Debug)]
struct Remembered {
    asked: Asked,
    medium: Arc<Fact<Medium>>,
}

impl Remembered {
    fn is_read(&self) -> bool {
        self.medium.known().is_ok_and(Medium::is_read)
    }
}

/// What the answer depends on besides what is on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Asked {
    diskseq: Option<u64>,
    size: u64,
    depth: Depth,
    window: Option<Window>,
    begun: Vec<Begun>,
    approvals: Vec<Token>,
    /// Where the first partition is mounted.
    mounted: Option<PathBuf>,
}

impl Look {
    /// Knows nothing yet.
    pub fn new(host: Host, policy: Policy, observer: Observer) -> Self {
        Self {
            host,
            policy,
            observer,
            media: BTreeMap::new(),
            readers: Readers::new(PATIENCE),
            unread: Backoff::default(),
            thorough: false,
            seed: None,
        }
    }

    /// Reads all there is to tell, samples where a seed says if there is one.
    #[must_use]
    pub fn thorough(self, seed: Option<Seed>) -> Self {
        Self {
            thorough: true,
            seed,
            ..self
        }
    }

    /// Looks. Disks in `working` are being worked on by this process: their
    /// medium is left alone and their verdicts mean nothing.
    pub fn look(&mut self, dirty: &Dirty, working: &BTreeSet<String>) -> Seen {
        // Also the moment that decides what may be tried again, and after which the
        // next such moment is looked for: none falls between the two.
        let started = Instant::now();
        let mut inventory = self.observer.observe(dirty);
        inventory.working.clone_from(working);
        let shortlist = decide::shortlist(&inventory, &self.policy);
        self.forget(dirty, &inventory, working, started);
        inventory.media = self.read_media(&inventory, &shortlist, working);
        inventory.not_answering = self.readers.not_answering();
        // Asked only when there is something to veto: it reads all of sysfs.
        let candidates = shortlist.iter().any(|(name, wanted)| {
            let medium = inventory
                .media
                .get(name)
                .and_then(|medium| medium.known().ok());
            wanted.depth == Depth::Blankness && medium.is_some_and(decide::may_be_taken)
        });
        if candidates {
            inventory.witness = witness::in_use(&self.host);
        }
        let verdicts = decide::decide(&inventory, &self.policy);
        Seen {
            inventory,
            verdicts,
            devices_read: self.observer.last_read().len(),
            again: self.unread.next(started),
            micros: u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
        }
    }

    /// Forgets media that an event spoke of, that could not be read and may be
    /// tried again, or whose changes nobody would have announced.
    fn forget(
        &mut self,
        dirty: &Dirty,
        inventory: &Inventory,
        working: &BTreeSet<String>,
        now: Instant,
    ) {
        let unannounced = dirty.is_full() && inventory.udevd != Fact::Known(true);
        let read = self.observer.last_read();
        let named = match dirty {
            Dirty::Devices(_) => Some(read),
            Dirty::Everything | Dirty::Lost => None,
        };
        let lost = *dirty == Dirty::Lost;
        let spoken_of = |name: &String| {
            named.is_some_and(|names| {
                names.contains(name)
                    || names.iter().any(|part| {
                        inventory
                            .devices
                            .get(part)
                            .is_some_and(|device| device.parent.as_ref() == Some(name))
                    })
            })
        };
        for name in self.readers.not_answering() {
            if lost || unannounced || spoken_of(&name) || !inventory.devices.contains_key(&name) {
                self.readers.changed(&name);
            }
        }
        self.media.retain(|name, remembered| {
            // It is not read again before the work on it has ended, and until
            // then tells who else must not be taken for it.
            if working.contains(name) {
                return true;
            }
            let lasts = if remembered.is_read() {
                remembered.medium.known().is_ok_and(Medium::is_settled)
            } else {
                !self.unread.may_try(name, now)
            };
            !lost
                && !spoken_of(name)
                && !unannounced
                && lasts
                && inventory.devices.contains_key(name)
        });
        self.unread
            .retain(|name| inventory.devices.contains_key(name));
    }

    fn read_media(
        &mut self,
        inventory: &Inventory,
        shortlist: &BTreeMap<String, Wanted>,
        working: &BTreeSet<String>,
    ) -> BTreeMap<String, Arc<Fact<Medium>>> {
        let mut wanted: BTreeMap<&String, Asked> = BTreeMap::new();
        for (name, Wanted { depth, window }) in shortlist
            .iter()
            .filter(|(name, _)| !working.contains(*name))
        {
            let Some(device) = inventory.devices.get(name) else {
                continue;
            };
            let (Ok(diskseq), Ok(size)) = (device.diskseq.known(), device.size.known()) else {
                continue;
            };
            let asked = Asked {
                diskseq: *diskseq,
                size: *size,
                depth: match depth {
                    Depth::Blankness if self.thorough => Depth::Everything,
                    Depth::Claim | Depth::Blankness | Depth::Everything => *depth,
                },
                window: window.clone(),
                begun: decide::begun(inventory, device),
                approvals: decide::open_approvals(inventory, &self.policy, device),
                mounted: first_partition(inventory, device)
                    .and_then(|partition| own_mount(inventory, partition)),
            };
            wanted.insert(name, asked);
        }
        let late = self.readers.late();
        self.remember(late, &wanted);
        let mut reads: Vec<Answer<Remembered>> = Vec::new();
        for (&name, asked) in &wanted {
            let fresh = self
                .media
                .get(name)
                .is_some_and(|remembered| remembered.asked == *asked);
            if !fresh {
                self.media.remove(name);
                if let Some(device) = inventory.devices.get(name) {
                    let read = self.reading(inventory, device, asked.clone());
                    reads.push((name.clone(), Box::new(read)));
                }
            }
        }
        let answers = self.readers.read(reads);
        self.remember(answers, &wanted);
        self.media
            .iter()
            .filter(|(name, _)| shortlist.contains_key(*name))
            .map(|(name, remembered)| (name.clone(), Arc::clone(&remembered.medium)))
            .collect()
    }

    /// Keeps answers to what is asked. A late one may be of a disk that is no
    /// longer asked for so.
    fn remember(
        &mut self,
        answers: BTreeMap<String, Remembered>,
        wanted: &BTreeMap<&String, Asked>,
    ) {
        for (name, answer) in answers {
            if wanted
                .get(&name)
                .is_some_and(|asked| *asked == answer.asked)
            {
                if answer.is_read() {
                    self.unread.forget(&name);
                } else {
                    let why = "its medium could not be read".to_owned();
                    self.unread.failed(&name, why, Instant::now());
                }
                self.media.insert(name, answer);
            }
        }
    }

    /// Everything that reading one disk takes, for a thread of its own.
    fn reading(
        &self,
        inventory: &Inventory,
        disk: &Device,
        asked: Asked,
    ) -> impl FnOnce() -> Remembered + Send + 'static {
        let node = |device: &Device| match (device.devname.known(), device.devno.known()) {
            (Ok(devname), Ok(devno)) => Ok((self.host.node(devname), *devno)),
            (Err(why), _) | (_, Err(why)) => Err(why.clone()),
        };
        let place = node(disk);
        // Where it is not known, it is read through the disk.
        let first_partition =
            first_partition(inventory, disk).and_then(|partition| node(partition).ok());
        let identity = match Identity::of(disk) {
            Ok(identity) => Fact::Known(identity),
            Err(why) => Fact::Unreadable(why),
        };
        // A disk that cannot be identified is refused, wherever it is looked at.
        let own = identity.known().map_or(Seed(0), |identity| {
            identity.seed(asked.size, Purpose::Decision)
        });
        let seed = self.seed.unwrap_or(own);
        let nodes = self.host.nodes();
        move || {
            let question = Question {
                begun: &asked.begun,
                partition: first_partition
                    .as_ref()
                    .map(|(node, devno)| (node.as_path(), *devno)),
                window: asked.window.as_ref(),
                nodes: &nodes,
                mounted: asked.mounted.as_deref(),
                depth: asked.depth,
                seed,
                identity: &identity,
                approvals: &asked.approvals,
            };
            let medium = match &place {
                Ok((node, devno)) => read_medium(node, *devno, &question),
                Err(why) => Fact::Unreadable(why.clone()),
            };
            Remembered {
                medium: Arc::new(medium),
                asked,
            }
        }
    }
}

/// The first partition of a disk, where the kernel knows it.
fn first_partition<'a>(inventory: &'a Inventory, disk: &Device) -> Option<&'a Device> {
    let is_first = |device: &&Device| {
        device.parent.as_ref() == Some(&disk.name)
            && device
                .partition_number
                .is_known_and(|number| *number == Some(1))
    };
    inventory
        .devices
        .values()
        .map(|device| &**device)
        .find(is_first)
}

/// Where a device is mounted whole, as this process sees it.
fn own_mount(inventory: &Inventory, device: &Device) -> Option<PathBuf> {
    let (devno, mounts) = (
        device.devno.known().ok()?,
        inventory.own_mounts.known().ok()?,
    );
    let whole = |mount: &&Mount| mount.devno == *devno && mount.root == "/";
    let mount = mounts.iter().rfind(whole)?;
    Some(PathBuf::from(&mount.mountpoint))
}

/// Reads one disk.
fn read_medium(node: &Path, devno: DevNo, question: &Question<'_>) -> Fact<Medium> {
    let opened = medium::open(node, devno)
        .and_then(|file| medium::set_blocking(&file).map(|()| file))
        .and_then(|file| medium::geometry(&file).map(|geometry| (file, geometry)));
    match opened {
        Ok((file, geometry)) => Fact::Known(medium::examine(&file, node, geometry, question)),
        Err(error) => Fact::unreadable(node.display(), error),
    }
}
