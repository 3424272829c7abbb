//! Our disks as registering needs to know them: facts of a round, and what
//! Longhorn's own file on each says.

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::mpsc;

use crate::{
    decide::Verdict,
    fact::Fact,
    observe::{
        Host, Inventory, Transport,
        longhorn_disk::{self, LonghornDisk},
        tables::read_mounts,
    },
    report::Round,
    units::{DevNo, DiskName},
};

/// A disk that does not answer for so long is passed over.
const PATIENCE: Duration = Duration::from_secs(5);

/// A disk of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OurDisk {
    /// For life; the key in `spec.disks`.
    pub name: DiskName,
    /// Where it belongs.
    pub path: String,
    /// The device that is mounted there, where it is.
    pub mounted: Option<DevNo>,
    /// What is wrong with its filesystem.
    pub ailment: Option<String>,
    /// Made elsewhere or by others.
    pub adopted: bool,
    /// Its filesystem.
    pub filesystem: &'static str,
    /// Bytes of the disk.
    pub size: Option<u64>,
    /// Spinning; none where it is not known.
    pub rotational: Option<bool>,
    /// Bus.
    pub transport: Option<Transport>,
}

/// Disks of ours that are there, by their names.
pub fn of_round(round: &Round, mount_root: &str) -> Vec<OurDisk> {
    let ours = round.verdicts.iter().filter_map(|(device, verdict)| {
        let (name, filesystem, mounted, ailment, adopted) = match verdict {
            Verdict::Managed(managed) => (
                &managed.claim.name,
                managed.filesystem,
                managed.mounted,
                &managed.ailment,
                false,
            ),
            Verdict::Adopt(adopt) => (
                &adopt.name,
                adopt.filesystem,
                adopt.mounted,
                &adopt.ailment,
                true,
            ),
            Verdict::Provision(_) | Verdict::Resume(_) | Verdict::Refused(_) => return None,
        };
        let path = format!("{mount_root}/{name}");
        let device = round.inventory.devices.get(device)?;
        Some(OurDisk {
            mounted: mounted
                .then(|| mounted_at(&round.inventory, &path))
                .flatten(),
            name: name.clone(),
            path,
            ailment: ailment.clone(),
            adopted,
            filesystem: filesystem.name(),
            size: device.size.known().ok().copied(),
            rotational: device.rotational.known().map_or(None, |known| *known),
            transport: device.transport.known().ok().copied(),
        })
    });
    let mut ours: Vec<OurDisk> = ours.collect();
    ours.sort_by(|a, b| a.name.cmp(&b.name));
    ours
}

fn mounted_at(inventory: &Inventory, path: &str) -> Option<DevNo> {
    let mounts = inventory.host_mounts.known().ok()?;
    let there = mounts.iter().rev().find(|mount| mount.mountpoint == path);
    there.map(|mount| mount.devno)
}

/// Whether a device is what the host, and this process, have mounted at a path
/// at this moment: topmost there, and the whole of its filesystem. What cannot
/// be read is not mounted.
pub fn is_mounted(host: &Host, path: &str, devno: DevNo) -> bool {
    [host.init_mountinfo(), host.own_mountinfo()]
        .iter()
        .all(|table| {
            read_mounts(table).is_known_and(|mounts| {
                let there = mounts.iter().rev().find(|mount| mount.mountpoint == path);
                there.is_some_and(|mount| mount.devno == devno && mount.root == "/")
            })
        })
}

/// What a mounted filesystem says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// By the file by which Longhorn knows the disk.
    pub config: Fact<LonghornDisk>,
    /// Bytes that it has, used or not: what Longhorn takes for the size of the
    /// disk.
    pub capacity: Fact<u64>,
}

impl Said {
    fn nothing(name: &DiskName, why: &str) -> Self {
        Self {
            config: Fact::unreadable(name, why),
            capacity: Fact::unreadable(name, why),
        }
    }
}

fn capacity(path: &Path) -> Fact<u64> {
    match nix::sys::statvfs::statvfs(path) {
        Ok(figures) => Fact::Known(figures.blocks().saturating_mul(figures.fragment_size())),
        Err(error) => Fact::unreadable(path.display(), error),
    }
}

/// Reads the file by which Longhorn knows the disk that is mounted at a path.
pub fn config_of(path: &Path, devno: DevNo) -> Fact<LonghornDisk> {
    let file = path.join(longhorn_disk::FILE);
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_CLOEXEC | libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(&file);
    let opened = match opened {
        Ok(opened) => opened,
        // Without the mount there is no such file either: that is not the
        // disk's word.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return match std::fs::metadata(path) {
                Ok(place) if DevNo::from_raw(place.dev()) == devno => {
                    Fact::Known(LonghornDisk::None)
                }
                Ok(_) => Fact::unreadable(path.display(), "another filesystem is there"),
                Err(error) => Fact::unreadable(path.display(), error),
            };
        }
        Err(error) => return Fact::unreadable(file.display(), error),
    };
    match opened.metadata() {
        Ok(found) if DevNo::from_raw(found.dev()) != devno => {
            Fact::unreadable(file.display(), "it is on another filesystem")
        }
        Ok(found) if !found.is_file() => Fact::unreadable(file.display(), "it is no file"),
        Ok(_) => match longhorn_disk::read(opened) {
            Ok(said) => Fact::Known(said),
            Err(error) => Fact::unreadable(file.display(), error),
        },
        Err(error) => Fact::unreadable(file.display(), error),
    }
}

/// Reads what Longhorn says on each disk. A disk that hangs costs a thread
/// until it answers, and no other disk anything.
#[derive(Debug)]
pub struct ConfigReader {
    root: PathBuf,
    hanging: BTreeMap<DiskName, Arc<AtomicBool>>,
}

/// A file to read: where its disk is mounted, and from which device.
type Place = (DiskName, PathBuf, DevNo);

impl ConfigReader {
    /// `root` is where the mounts are seen from here: `/`, but in tests.
    pub fn below(root: PathBuf) -> Self {
        Self {
            root,
            hanging: BTreeMap::new(),
        }
    }

    /// What each mounted disk says.
    pub async fn read(&mut self, disks: &[OurDisk]) -> BTreeMap<DiskName, Said> {
        self.hanging
            .retain(|_, answered| !answered.load(Ordering::Acquire));
        let mut read: BTreeMap<DiskName, Said> = self
            .hanging
            .keys()
            .map(|name| (name.clone(), silent(name)))
            .collect();
        let places = disks.iter().filter_map(|disk| {
            let there = disk.mounted.filter(|_| !read.contains_key(&disk.name))?;
            let path = disk.path.trim_start_matches('/');
            Some((disk.name.clone(), self.root.join(path), there))
        });
        let mut left: Vec<Place> = places.collect();
        left.reverse();
        while !left.is_empty() {
            let answered = Arc::new(AtomicBool::new(false));
            let mut answers = begin(left.clone(), Arc::clone(&answered));
            loop {
                match tokio::time::timeout(PATIENCE, answers.recv()).await {
                    Ok(Some((name, said))) => {
                        left.pop();
                        read.insert(name, said);
                    }
                    Ok(None) => {
                        // All are read, or there was no thread for them.
                        for (name, _, _) in left.drain(..) {
                            let nothing = Said::nothing(&name, "no thread to read it");
                            read.insert(name, nothing);
                        }
                        break;
                    }
                    Err(_elapsed) => {
                        if let Some((name, _, _)) = left.pop() {
                            read.insert(name.clone(), silent(&name));
                            self.hanging.insert(name, answered);
                        }
                        break;
                    }
                }
            }
        }
        read
    }
}

fn silent(name: &DiskName) -> Said {
    Said::nothing(name, "the disk does not answer")
}

/// Reads files one after the other, the last one first, in a thread that ends
/// when nobody waits for it any more.
fn begin(
    mut places: Vec<Place>,
    answered: Arc<AtomicBool>,
) -> mpsc::UnboundedReceiver<(DiskName, Said)> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let spawned = std::thread::Builder::new()
        .name("longhorn-disk".to_owned())
        .spawn(move || {
            while let Some((name, path, devno)) = places.pop() {
                let said = Said {
                    config: config_of(&path, devno),
                    capacity: capacity(&path),
                };
                if sender.send((name, said)).is_err() {
                    break;
                }
            }
            answered.store(true, Ordering::Release);
        });
    if let Err(error) = spawned {
        tracing::warn!(%error, "no thread to read what Longhorn says on the disks");
    }
    receiver
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn disk(name: &str, root: &Path) -> OurDisk {
        let path = root.join(name);
        fs::create_dir(&path).expect("a directory");
        let devno = DevNo::from_raw(fs::metadata(&path).expect("metadata").dev());
        OurDisk {
            name: name.parse().expect("a name"),
            path: path.to_str().expect("UTF-8").to_owned(),
            mounted: Some(devno),
            ailment: None,
            adopted: false,
            filesystem: "ext4",
            size: None,
            rotational: None,
            transport: None,
        }
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime")
    }

    #[test]
    fn each_disk_says_for_itself_what_longhorn_wrote_on_it() {
        let root = tempfile::tempdir().expect("a directory");
        let [named, empty, nameless, elsewhere] =
            ["sda1", "sdb1", "sdc1", "sdd1"].map(|name| disk(name, root.path()));
        let elsewhere = OurDisk {
            mounted: Some("8:1".parse().expect("a number")),
            ..elsewhere
        };
        fs::write(
            Path::new(&named.path).join(longhorn_disk::FILE),
            r#"{"diskUUID":"u"}"#,
        )
        .expect("written");
        fs::write(Path::new(&nameless.path).join(longhorn_disk::FILE), "{}").expect("written");
        let disks = [named, empty, nameless, elsewhere];
        let read = runtime().block_on(ConfigReader::below("/".into()).read(&disks));
        let of = |name: &str| &read[&name.parse::<DiskName>().expect("a name")].config;
        let uuid = LonghornDisk::Named {
            uuid: "u".to_owned(),
            name: None,
        };
        assert_eq!(of("sda1"), &Fact::Known(uuid));
        assert_eq!(of("sdb1"), &Fact::Known(LonghornDisk::None));
        assert_eq!(of("sdc1"), &Fact::Known(LonghornDisk::Nameless));
        // The directory is there, and the disk is not mounted on it.
        assert!(of("sdd1").known().is_err());
    }

    #[test]
    fn neither_a_link_nor_a_pipe_is_taken_for_longhorns_file() {
        let root = tempfile::tempdir().expect("a directory");
        let (link, pipe) = (disk("sda1", root.path()), disk("sdb1", root.path()));
        std::os::unix::fs::symlink(
            "/etc/hostname",
            Path::new(&link.path).join(longhorn_disk::FILE),
        )
        .expect("a link");
        nix::unistd::mkfifo(
            &Path::new(&pipe.path).join(longhorn_disk::FILE),
            nix::sys::stat::Mode::S_IRUSR,
        )
        .expect("a pipe");
        let read = runtime().block_on(ConfigReader::below("/".into()).read(&[link, pipe]));
        let unread = |said: &Said| said.config.known().is_err();
        assert!(read.values().all(unread), "{read:?}");
    }
}
