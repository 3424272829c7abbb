//! One look at the system: observe, read the shortlisted media, decide.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use crate::{
    claim::ClaimId,
    decide::{self, Policy, Verdict},
    fact::Fact,
    observe::{
        Device, Dirty, Host, Inventory, Medium, Observer,
        medium::{self, Depth},
        witness,
    },
};

/// Facts, verdicts, and what they cost.
#[derive(Debug)]
pub struct Seen {
    /// Facts.
    pub inventory: Inventory,
    /// Verdicts, by kernel name.
    pub verdicts: BTreeMap<String, Verdict>,
    /// Devices read from sysfs.
    pub devices_read: usize,
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
}

/// A medium that was read, and what it was read of.
#[derive(Debug)]
struct Remembered {
    diskseq: Option<u64>,
    size: u64,
    depth: Depth,
    journalled: Vec<ClaimId>,
    medium: Arc<Fact<Medium>>,
}

impl Look {
    /// Knows nothing yet.
    pub fn new(host: Host, policy: Policy, observer: Observer) -> Self {
        Self {
            host,
            policy,
            observer,
            media: BTreeMap::new(),
        }
    }

    /// Looks. Disks in `working` are being worked on by this process: their
    /// medium is left alone and their verdicts mean nothing.
    pub fn look(&mut self, dirty: &Dirty, working: &BTreeSet<String>) -> Seen {
        let started = Instant::now();
        let mut inventory = self.observer.observe(dirty);
        let shortlist = decide::shortlist(&inventory, &self.policy);
        self.forget(dirty, &inventory);
        inventory.media = self.read_media(&inventory, &shortlist, working);
        // Asked only when there is something to veto: it reads all of sysfs.
        let candidates = shortlist.iter().any(|(name, depth)| {
            let medium = inventory
                .media
                .get(name)
                .and_then(|medium| medium.known().ok());
            *depth == Depth::Blankness && medium.is_some_and(|medium| decide::blank(medium).is_ok())
        });
        if candidates {
            inventory.witness = witness::in_use(&self.host);
        }
        let verdicts = decide::decide(&inventory, &self.policy);
        Seen {
            inventory,
            verdicts,
            devices_read: self.observer.last_read().len(),
            micros: u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
        }
    }

    /// Forgets media that an event spoke of, that could not be read, or whose
    /// changes nobody would have announced.
    fn forget(&mut self, dirty: &Dirty, inventory: &Inventory) {
        let unannounced = *dirty == Dirty::Everything && inventory.udevd != Fact::Known(true);
        let read = self.observer.last_read();
        let named = match dirty {
            Dirty::Devices(_) => Some(read),
            Dirty::Everything => None,
        };
        self.media.retain(|name, remembered| {
            let spoken_of = named.is_some_and(|names| {
                names.contains(name)
                    || names.iter().any(|part| {
                        inventory
                            .devices
                            .get(part)
                            .is_some_and(|device| device.parent.as_ref() == Some(name))
                    })
            });
            let whole = remembered.medium.known().is_ok_and(Medium::is_settled);
            !spoken_of && !unannounced && whole && inventory.devices.contains_key(name)
        });
    }

    fn read_media(
        &mut self,
        inventory: &Inventory,
        shortlist: &BTreeMap<String, Depth>,
        working: &BTreeSet<String>,
    ) -> BTreeMap<String, Arc<Fact<Medium>>> {
        for (name, depth) in shortlist
            .iter()
            .filter(|(name, _)| !working.contains(*name))
        {
            let Some(device) = inventory.devices.get(name) else {
                continue;
            };
            let (Ok(diskseq), Ok(size)) = (device.diskseq.known(), device.size.known()) else {
                continue;
            };
            let journalled = decide::journalled(inventory, device);
            let fresh = self.media.get(name).is_some_and(|remembered| {
                remembered.diskseq == *diskseq
                    && remembered.size == *size
                    && remembered.depth == *depth
                    && remembered.journalled == journalled
            });
            if !fresh {
                let medium = Arc::new(read_medium(
                    &self.host,
                    inventory,
                    device,
                    &journalled,
                    *depth,
                ));
                let remembered = Remembered {
                    diskseq: *diskseq,
                    size: *size,
                    depth: *depth,
                    journalled,
                    medium,
                };
                self.media.insert(name.clone(), remembered);
            }
        }
        self.media
            .iter()
            .filter(|(name, _)| shortlist.contains_key(*name))
            .map(|(name, remembered)| (name.clone(), Arc::clone(&remembered.medium)))
            .collect()
    }
}

/// Reads one disk.
fn read_medium(
    host: &Host,
    inventory: &Inventory,
    disk: &Device,
    journalled: &[ClaimId],
    depth: Depth,
) -> Fact<Medium> {
    let (devname, devno) = match (disk.devname.known(), disk.devno.known()) {
        (Ok(devname), Ok(devno)) => (devname, *devno),
        (Err(why), _) | (_, Err(why)) => return Fact::Unreadable(why.clone()),
    };
    let node = host.node(devname);
    let opened = medium::open(&node, devno)
        .and_then(|file| medium::set_blocking(&file).map(|()| file))
        .and_then(|file| medium::geometry(&file).map(|geometry| (file, geometry)));
    let (file, geometry) = match opened {
        Ok(opened) => opened,
        Err(error) => return Fact::unreadable(node.display(), error),
    };
    let partition = inventory
        .devices
        .values()
        .filter(|device| device.parent.as_ref() == Some(&disk.name))
        .find(|device| {
            device
                .partition_number
                .is_known_and(|number| *number == Some(1))
        })
        .and_then(
            |partition| match (partition.devname.known(), partition.devno.known()) {
                (Ok(name), Ok(devno)) => Some((host.node(name), *devno)),
                (Err(_), _) | (_, Err(_)) => None,
            },
        );
    let partition = partition
        .as_ref()
        .map(|(node, devno)| (node.as_path(), *devno));
    Fact::Known(medium::examine(
        &file, &node, geometry, journalled, partition, depth,
    ))
}
