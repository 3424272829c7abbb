//! A disk that is open, locked and known to be the one that was decided on.

use std::{
    fs::{File, OpenOptions},
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg, PosixFadviseAdvice, posix_fadvise},
};

use super::ProvisionError;
use crate::{
    approval::Token,
    claim::{Begun, Geometry, Table},
    fact::{Fact, Unreadable},
    journal::Approved,
    observe::{
        Device, Host, Identity, Medium, Purpose, device, loops,
        medium::{self, Depth, Question},
        openers,
    },
    sys,
    units::DevNo,
};

/// udevd holds a shared lock while it probes a disk; it is done within this.
const LOCK_ATTEMPTS: u32 = 1500;
const LOCK_PAUSE: Duration = Duration::from_millis(2);

/// The disk that a decision was made on, as it was observed then.
#[derive(Debug, Clone)]
pub struct Target {
    name: String,
    node: PathBuf,
    devno: DevNo,
    geometry: Geometry,
    diskseq: Option<u64>,
    wwn: Option<String>,
    serial: Option<String>,
    identity: Identity,
}

impl Target {
    /// Takes down what identifies a disk.
    ///
    /// # Errors
    /// When a fact is not known: then nothing may be done to it.
    pub fn of(device: &Device, host: &Host) -> Result<Self, ProvisionError> {
        fn known<T: Clone>(fact: &Fact<T>) -> Result<T, ProvisionError> {
            fact.known()
                .cloned()
                .map_err(|why| ProvisionError::Unidentified(why.clone()))
        }
        let sector = known(&device.sector)?.ok_or_else(|| {
            ProvisionError::Unidentified(Unreadable {
                what: device.name.clone(),
                why: "no logical sector size".to_owned(),
            })
        })?;
        Ok(Self {
            name: device.name.clone(),
            node: host.node(&known(&device.devname)?),
            devno: known(&device.devno)?,
            geometry: Geometry {
                size: known(&device.size)?,
                sector,
            },
            diskseq: known(&device.diskseq)?,
            wwn: known(&device.wwn)?,
            serial: known(&device.serial)?,
            identity: Identity::of(device).map_err(ProvisionError::Unidentified)?,
        })
    }

    /// Kernel name when it was observed.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Size and sector size.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// World-wide name and serial number.
    pub fn wwn_and_serial(&self) -> (Option<String>, Option<String>) {
        (self.wwn.clone(), self.serial.clone())
    }

    fn another(&self, difference: impl Into<String>) -> ProvisionError {
        ProvisionError::AnotherDisk {
            node: self.node.clone(),
            difference: difference.into(),
        }
    }
}

/// A disk under the advisory lock that udevd, systemd-repart and others
/// respect (systemd.io/BLOCK_DEVICE_LOCKING), identity checked.
///
/// As long as this value lives the disk is open, and as long as it is open the
/// kernel gives neither its name nor its device number to another disk: sd,
/// nvme and virtio_blk release their index when the last reference is gone.
/// A name below `/dev` therefore means this disk until the value is dropped.
#[derive(Debug)]
pub struct LockedDisk {
    lock: Flock<File>,
    target: Target,
    host: Host,
}

impl LockedDisk {
    /// Opens, locks, and compares with what was observed.
    ///
    /// # Errors
    /// When it is another disk by now, or somebody holds the lock.
    pub fn open(target: Target, host: &Host) -> Result<Self, ProvisionError> {
        let file = medium::open(&target.node, target.devno)
            .map_err(|error| target.another(error.to_string()))?;
        let mut file = file;
        let mut attempt = 0;
        let lock = loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => break lock,
                Err((again, Errno::EWOULDBLOCK)) if attempt < LOCK_ATTEMPTS => {
                    file = again;
                    attempt += 1;
                    thread::sleep(LOCK_PAUSE);
                }
                Err((_, Errno::EWOULDBLOCK)) => {
                    return Err(ProvisionError::Held {
                        node: target.node,
                        how: "flock".to_owned(),
                    });
                }
                Err((_, error)) => return Err(ProvisionError::io("lock the disk")(error.into())),
            }
        };
        medium::set_blocking(&lock).map_err(ProvisionError::io("set the disk to blocking"))?;
        let disk = Self {
            lock,
            target,
            host: host.clone(),
        };
        disk.check_identity(&disk.lock)?;
        disk.check_names()?;
        Ok(disk)
    }

    /// The disk as it was observed.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Where the host's trees are.
    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    /// Compares an open file with what was observed.
    fn check_identity(&self, file: &File) -> Result<(), ProvisionError> {
        let target = &self.target;
        let geometry = medium::geometry(file).map_err(ProvisionError::io("ask for the size"))?;
        if geometry != target.geometry {
            return Err(target.another(format!("{geometry:?} instead of {:?}", target.geometry)));
        }
        if let Some(expected) = target.diskseq {
            let there = sys::disk_sequence(file)
                .map_err(ProvisionError::io("ask for the disk sequence number"))?;
            if there != expected {
                return Err(target.another(format!(
                    "disk sequence number {there} instead of {expected}"
                )));
            }
        }
        Ok(())
    }

    /// Compares what sysfs says now with what was observed. The disk is open,
    /// so the name means it from here on.
    fn check_names(&self) -> Result<(), ProvisionError> {
        let target = &self.target;
        let now = device::read(&self.host, &target.name);
        for (what, now, then) in [
            ("WWN", &now.wwn, &target.wwn),
            ("serial", &now.serial, &target.serial),
        ] {
            let now = now
                .known()
                .map_err(|why| ProvisionError::Unidentified(why.clone()))?;
            if now != then {
                return Err(target.another(format!("{what} {now:?} instead of {then:?}")));
            }
        }
        Ok(())
    }

    /// Reads the medium through the locked descriptor, past what the kernel
    /// has cached of it.
    ///
    /// # Errors
    /// When it cannot be told whether the kernel knows a partition.
    pub(super) fn examine(
        &self,
        begun: &[Begun],
        depth: Depth,
        approval: Option<Token>,
        through: &File,
    ) -> Result<Medium, ProvisionError> {
        forget_cached(through)?;
        let partition = self.partition()?;
        let question = Question {
            begun,
            partition: partition
                .as_ref()
                .map(|(node, devno)| (node.as_path(), *devno)),
            window: None,
            nodes: &self.host.nodes(),
            // How large a mounted filesystem is, whoever grows it asks itself.
            mounted: None,
            depth,
            // At other places than for the decision, but each time the same.
            seed: self
                .target
                .identity
                .seed(self.target.geometry.size, Purpose::Proof),
            identity: &Fact::Known(self.target.identity.clone()),
            approvals: approval.as_slice(),
        };
        let (node, geometry) = (&self.target.node, self.target.geometry);
        Ok(medium::examine(through, node, geometry, &question))
    }

    /// What a table will be written over, and what lies beside it, on a disk
    /// that a person approved.
    pub(super) fn approved(
        &self,
        token: Token,
        through: &File,
    ) -> Result<Approved, ProvisionError> {
        forget_cached(through)?;
        let step = "read both ends of the disk";
        let geometry = self.target.geometry;
        let ends = medium::read_ends(through, geometry)
            .map_err(ProvisionError::io(step))?
            .ok_or_else(|| ProvisionError::TableNotRead("no room for a table".to_owned()))?;
        let gaps = medium::digest_gaps(through, geometry).map_err(ProvisionError::io(step))?;
        Ok(Approved::new(token, &ends, gaps))
    }

    /// Reads the claim's table alone, past what the kernel has cached of it.
    pub(super) fn read_table(
        &self,
        through: &File,
        begun: &[Begun],
    ) -> Result<Fact<Table>, ProvisionError> {
        forget_cached(through)?;
        Ok(medium::read_table(
            through,
            &self.target.node,
            self.target.geometry,
            begun,
        ))
    }

    /// Reads the claim without the exclusive right.
    ///
    /// # Errors
    /// As [`LockedDisk::examine`].
    pub(super) fn examine_claim(&self, begun: &[Begun]) -> Result<Medium, ProvisionError> {
        self.examine(begun, Depth::Claim, None, &self.lock)
    }

    /// Kernel names of the disk's partitions, as sysfs lists them now.
    ///
    /// # Errors
    /// When they cannot be listed: an unknown partition is not an absent one.
    pub(super) fn partitions(&self) -> Result<Vec<String>, ProvisionError> {
        let directory = self.host.class_block().join(&self.target.name);
        let listed = std::fs::read_dir(&directory).and_then(|entries| {
            entries
                .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
                .collect::<Result<Vec<_>, _>>()
        });
        let names = listed.map_err(ProvisionError::io(format!("list {}", directory.display())))?;
        let disk = &self.target.name;
        Ok(names
            .into_iter()
            .filter(|name| name != disk && device::is_part_of(name, disk))
            .collect())
    }

    /// Node and number of the first partition; `None` when the kernel does not
    /// know it.
    ///
    /// # Errors
    /// When that cannot be told.
    pub(super) fn partition(&self) -> Result<Option<(PathBuf, DevNo)>, ProvisionError> {
        let name = partition_name(&self.target.name);
        if !self.partitions()?.contains(&name) {
            return Ok(None);
        }
        let partition = device::read(&self.host, &name);
        let unknown = |why: &Unreadable| ProvisionError::Unidentified(why.clone());
        let devname = partition.devname.known().map_err(unknown)?;
        let devno = partition.devno.known().map_err(unknown)?;
        Ok(Some((self.host.node(devname), *devno)))
    }

    /// Asks for the exclusive right to write.
    pub(super) fn open_exclusively(&self) -> Result<File, ProvisionError> {
        let node: &Path = &self.target.node;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_CLOEXEC | libc::O_EXCL)
            .open(node)
            .map_err(|error| match error.raw_os_error() {
                Some(libc::EBUSY) => ProvisionError::Held {
                    node: node.to_owned(),
                    how: "O_EXCL".to_owned(),
                },
                _ => ProvisionError::io("open the disk exclusively")(error),
            })?;
        medium::check_identity(&file, node, self.target.devno)
            .map_err(|error| self.target.another(error.to_string()))?;
        self.check_identity(&file)?;
        Ok(file)
    }

    /// Makes sure that nobody uses the disk who has not asked for it exclusively:
    /// that no other process has it or a partition of it open for writing, and
    /// that no loop device lies on it. Whoever opens it later can only be seen by
    /// asking again.
    ///
    /// # Errors
    /// [`ProvisionError::Held`] with who does, or when that cannot be told.
    pub(super) fn check_nobody_writes(&self) -> Result<(), ProvisionError> {
        let held = |how| ProvisionError::Held {
            node: self.target.node.clone(),
            how,
        };
        let unknown = |why: &Unreadable| ProvisionError::OpenersUnknown {
            node: self.target.node.clone(),
            why: why.clone(),
        };
        let mut parts = vec![device::read(&self.host, &self.target.name)];
        for name in self.partitions()? {
            parts.push(device::read(&self.host, &name));
        }
        let mut devices = vec![self.target.devno];
        for part in &parts {
            devices.push(*part.devno.known().map_err(unknown)?);
        }
        if let Some(name) = loops::above(&self.host, &parts).known().map_err(unknown)? {
            return Err(held(format!("{name} lies on it")));
        }
        match openers::writer(&self.host, &devices).known() {
            Ok(None) => Ok(()),
            Ok(Some(opener)) => Err(held(format!("open for writing: {opener}"))),
            Err(why) => Err(unknown(why)),
        }
    }

    /// Opens the disk to write to it while its own filesystem holds it. By way of
    /// the locked descriptor, so that it cannot be another device.
    pub(super) fn open_shared(&self) -> Result<File, ProvisionError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_CLOEXEC)
            .open(format!("/proc/self/fd/{}", self.lock.as_raw_fd()))
            .map_err(ProvisionError::io("open the disk"))?;
        medium::check_identity(&file, &self.target.node, self.target.devno)
            .map_err(|error| self.target.another(error.to_string()))?;
        self.check_identity(&file)?;
        Ok(file)
    }

    pub(super) fn locked_file(&self) -> &File {
        &self.lock
    }
}

/// What others wrote, or we, is on the medium: that is what is read next.
fn forget_cached(device: &File) -> Result<(), ProvisionError> {
    posix_fadvise(device, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)
        .map_err(|error| ProvisionError::io("drop cached blocks")(error.into()))
}

/// Kernel name of a disk's first partition.
pub(super) fn partition_name(disk: &str) -> String {
    let separator = if disk.ends_with(|c: char| c.is_ascii_digit()) {
        "p"
    } else {
        ""
    };
    format!("{disk}{separator}1")
}

/// A locked disk that nobody else can open exclusively, mount or stack on, and
/// that nobody else had open for writing.
/// There is no way to get one but the checks of [`ExclusiveDisk::open`]:
///
/// ```compile_fail
/// use disk_discovery::provision::ExclusiveDisk;
/// fn forge(disk: disk_discovery::provision::LockedDisk, file: std::fs::File) -> ExclusiveDisk {
///     ExclusiveDisk { disk, file }
/// }
/// ```
#[derive(Debug)]
pub struct ExclusiveDisk {
    disk: LockedDisk,
    file: File,
}

impl ExclusiveDisk {
    /// Opens, locks, checks the identity, claims.
    ///
    /// # Errors
    /// When it is another disk by now, or somebody holds it.
    pub fn open(target: Target, host: &Host) -> Result<Self, ProvisionError> {
        let disk = LockedDisk::open(target, host)?;
        let file = disk.open_exclusively()?;
        disk.check_nobody_writes()?;
        Ok(Self { disk, file })
    }

    /// The lock and what it protects.
    pub fn disk(&self) -> &LockedDisk {
        &self.disk
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Gives up the exclusive right and keeps the lock.
    pub(super) fn into_locked(self) -> LockedDisk {
        sys::close_for_others(self.file);
        self.disk
    }
}
