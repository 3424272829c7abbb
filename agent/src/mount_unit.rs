//! A systemd mount unit for each mounted disk of ours, where the operator names
//! a directory for them: then a host mounts its disks at boot by itself, before
//! those who use them are started and also without the agent.
//!
//! A unit belongs to a name and a filesystem. It stays while the disk is away, and is
//! written again when the name has another claim. systemd reads it at the next
//! boot or `daemon-reload`; nothing is asked of systemd.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use thiserror::Error;
use uuid::Uuid;

use crate::{
    decide::Verdict,
    durable::{self, WriteError},
    text::chain,
    units::{DiskName, Filesystem},
};

/// Every unit of ours begins with this.
const MARK: &str = "# Written by disk-discovery";
/// Not `local-fs.target`: it waits for whatever it wants, and all else for it.
const WANTS: &str = "multi-user.target.wants";
/// systemd takes no longer names.
const LONGEST_NAME: usize = 255;

/// A unit could not be written or removed.
#[derive(Debug, Error)]
pub enum UnitError {
    /// Somebody else's file or link has the name.
    #[error("{} is not from disk-discovery and is left alone", path.display())]
    NotOurs {
        /// The file or link.
        path: PathBuf,
    },
    /// No unit can have this path.
    #[error("no unit can be made for {}: its path is too long, or has control characters or spaces at its end", path.display())]
    NoUnit {
        /// Where the disk is mounted.
        path: PathBuf,
    },
    /// What is there cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file or link.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file system refuses.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// The directory of units, and what was seen to be right in it.
#[derive(Debug)]
pub struct MountUnits {
    directory: PathBuf,
    mount_root: PathBuf,
    right: BTreeMap<DiskName, (Uuid, Filesystem)>,
    problems: BTreeMap<DiskName, String>,
    /// Disks that have no unit any more.
    withdrawn: BTreeSet<DiskName>,
    /// Units that should be gone and are not, with why.
    kept: BTreeMap<DiskName, String>,
}

impl MountUnits {
    /// In a directory that systemd reads units from.
    pub fn in_directory(directory: PathBuf, mount_root: PathBuf) -> Self {
        Self {
            directory,
            mount_root,
            right: BTreeMap::new(),
            problems: BTreeMap::new(),
            withdrawn: BTreeSet::new(),
            kept: BTreeMap::new(),
        }
    }

    /// Makes sure that each mounted disk of ours has its unit, but for those that
    /// must not have one. Those that were right are looked at again when `anew`.
    pub fn keep(&mut self, verdicts: &BTreeMap<String, Verdict>, anew: bool) {
        if anew {
            self.right.clear();
        }
        let mut problems = BTreeMap::new();
        for verdict in verdicts.values() {
            let (name, uuid, filesystem) = match verdict {
                Verdict::Managed(managed) if managed.mounted => {
                    let claim = &managed.claim;
                    (&claim.name, claim.partition_guid, managed.filesystem)
                }
                Verdict::Adopt(adopt) if adopt.mounted => {
                    (&adopt.name, adopt.uuid, adopt.filesystem)
                }
                Verdict::Managed(_)
                | Verdict::Adopt(_)
                | Verdict::Provision(_)
                | Verdict::Resume(_)
                | Verdict::Refused(_) => continue,
            };
            if self.withdrawn.contains(name) || self.kept.contains_key(name) {
                continue;
            }
            if self.right.get(name) == Some(&(uuid, filesystem)) {
                continue;
            }
            match write(&self.directory, &self.mount_root, name, uuid, filesystem) {
                Ok(()) => {
                    self.right.insert(name.clone(), (uuid, filesystem));
                }
                Err(error) => {
                    problems.insert(name.clone(), chain(&error));
                }
            }
        }
        for (name, problem) in &problems {
            if self.problems.get(name) != Some(problem) {
                tracing::warn!(%name, problem, "no mount unit for this disk");
            }
        }
        self.problems = problems;
    }

    /// Makes sure that some disks have no unit until they are not named here any
    /// more: those that were released, which systemd would mount at the next boot,
    /// and those of which there is a copy, which it cannot tell from them. Those
    /// that had none are looked at again when `anew`.
    pub fn withdraw<'a>(&mut self, without: impl Iterator<Item = &'a DiskName>, anew: bool) {
        if anew {
            self.withdrawn.clear();
        }
        let (mut withdrawn, mut kept) = (BTreeSet::new(), BTreeMap::new());
        for name in without {
            self.right.remove(name);
            if self.withdrawn.contains(name) {
                withdrawn.insert(name.clone());
                continue;
            }
            match remove(&self.directory, &self.mount_root, name) {
                Ok(()) => {
                    withdrawn.insert(name.clone());
                }
                // Somebody else has one for it, as in fstab: that is theirs to remove.
                Err(error @ (UnitError::NotOurs { .. } | UnitError::NoUnit { .. })) => {
                    tracing::warn!(%name, error = chain(&error), "a unit that should be gone is not the agent's");
                    withdrawn.insert(name.clone());
                }
                Err(error @ (UnitError::Read { .. } | UnitError::Write(_))) => {
                    let error = chain(&error);
                    if self.kept.get(name) != Some(&error) {
                        tracing::warn!(%name, error, "a unit that should be gone stays");
                    }
                    kept.insert(name.clone(), error);
                }
            }
        }
        (self.withdrawn, self.kept) = (withdrawn, kept);
    }

    /// Why a unit that was withdrawn is still there, if it is.
    pub fn kept(&self, name: &DiskName) -> Option<String> {
        self.kept.get(name).cloned()
    }

    /// Whether a disk of that name has its unit.
    pub fn has(&self, name: &DiskName) -> bool {
        self.right.contains_key(name)
    }

    /// What keeps a disk from having its unit, or from losing it.
    pub fn problems(&self) -> Vec<String> {
        let problems = self.problems.values().chain(self.kept.values());
        problems.cloned().collect()
    }
}

/// Writes and enables the unit of a disk, unless it is right already.
///
/// # Errors
/// When the name is somebody else's, or a step fails; what was there stays.
pub fn write(
    directory: &Path,
    mount_root: &Path,
    disk: &DiskName,
    uuid: Uuid,
    filesystem: Filesystem,
) -> Result<(), UnitError> {
    let place = mount_root.join(disk.as_str());
    let name = unit_name(&place)?;
    let wanted = text(&place, disk, uuid, filesystem)?;
    let unit = directory.join(&name);
    let there = read(&unit)?;
    let link = directory.join(WANTS).join(&name);
    // Looked at before anything is written.
    let enabled = is_enabled(&link, &name)?;
    if there.as_deref() != Some(wanted.as_str()) {
        if there.is_some_and(|there| !there.starts_with(MARK)) {
            return Err(UnitError::NotOurs { path: unit });
        }
        durable::write(&unit, wanted.as_bytes())?;
    }
    if !enabled {
        durable::link(&link, &Path::new("..").join(&name))?;
    }
    Ok(())
}

/// Disables and removes the unit of a disk that is given back; one that is gone
/// is no error.
///
/// # Errors
/// When the name is somebody else's, or a step fails.
pub fn remove(directory: &Path, mount_root: &Path, disk: &DiskName) -> Result<(), UnitError> {
    let name = unit_name(&mount_root.join(disk.as_str()))?;
    let (unit, link) = (directory.join(&name), directory.join(WANTS).join(&name));
    let enabled = is_enabled(&link, &name)?;
    match read(&unit)? {
        Some(there) if !there.starts_with(MARK) => {
            return Err(UnitError::NotOurs { path: unit });
        }
        Some(_) | None => {}
    }
    if enabled {
        durable::remove(&link)?;
    }
    Ok(durable::remove(&unit)?)
}

/// What is in a unit file; `None` when there is none. A link is somebody's who
/// masks or replaces the unit, wherever it leads.
fn read(unit: &Path) -> Result<Option<String>, UnitError> {
    let failed = |source| UnitError::Read {
        path: unit.to_owned(),
        source,
    };
    match fs::symlink_metadata(unit) {
        Ok(metadata) if metadata.is_file() => fs::read_to_string(unit).map(Some).map_err(failed),
        Ok(_) => Err(UnitError::NotOurs {
            path: unit.to_owned(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// Whether the link is there by which a target wants the unit.
fn is_enabled(link: &Path, unit: &str) -> Result<bool, UnitError> {
    match fs::read_link(link) {
        Ok(to) if to.file_name().is_some_and(|name| name == unit) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        // EINVAL: it is no link.
        Err(error) if error.kind() != io::ErrorKind::InvalidInput => Err(UnitError::Read {
            path: link.to_owned(),
            source: error,
        }),
        Ok(_) | Err(_) => Err(UnitError::NotOurs {
            path: link.to_owned(),
        }),
    }
}

/// The name that systemd gives the unit of a mountpoint (systemd.unit(5),
/// "String escaping for inclusion in unit names").
fn unit_name(place: &Path) -> Result<String, UnitError> {
    let impossible = || UnitError::NoUnit {
        path: place.to_owned(),
    };
    let path = place.to_str().ok_or_else(impossible)?.trim_matches('/');
    let mut name = String::new();
    for (at, byte) in path.bytes().enumerate() {
        match byte {
            b'/' => name.push('-'),
            b'.' if at == 0 => name.push_str("\\x2e"),
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b':' | b'_' | b'.' => {
                name.push(char::from(byte));
            }
            other => name.push_str(&format!("\\x{other:02x}")),
        }
    }
    name.push_str(".mount");
    if name.len() > LONGEST_NAME {
        return Err(impossible());
    }
    Ok(name)
}

/// The unit. With `nofail` systemd does not order it before `local-fs.target`,
/// so that a disk that is away holds up nothing but what is named here, and
/// that only for as long as the job may wait for the device.
fn text(
    place: &Path,
    name: &DiskName,
    uuid: Uuid,
    filesystem: Filesystem,
) -> Result<String, UnitError> {
    let path = place
        .to_str()
        .filter(|path| !path.contains(|c: char| c.is_control()) && !path.ends_with([' ', '\\']));
    let path = path.ok_or_else(|| UnitError::NoUnit {
        path: place.to_owned(),
    })?;
    // A percent sign begins a specifier.
    let path = path.replace('%', "%%");
    let more = filesystem
        .mount_options()
        .map_or_else(String::new, |options| format!(",{options}"));
    Ok(format!(
        "{MARK}, and again when the disk of this name is another one.\n\
         [Unit]\n\
         Description=Disk {name} of disk-discovery\n\
         Before=disk-discovery.service kubelet.service k3s.service k3s-agent.service\n\
         # A disk that is away holds up neither the boot nor these for longer.\n\
         JobTimeoutSec=45\n\
         \n\
         [Mount]\n\
         What=/dev/disk/by-uuid/{uuid}\n\
         Where={path}\n\
         Type={filesystem}\n\
         Options=noatime{more},nofail\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n"
    ))
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, process::Command};

    use super::*;
    use crate::claim::ClaimId;
    use crate::decide::Managed;

    const ROOT: &str = "/mnt/longhorn";

    fn claim(name: &str) -> ClaimId {
        ClaimId::fresh(name.parse().expect("a name"))
    }

    fn managed(claim: &ClaimId, mounted: bool) -> BTreeMap<String, Verdict> {
        let managed = Managed {
            claim: claim.clone(),
            ailment: None,
            filesystem: Filesystem::Ext4,
            mounted,
            growth: None,
        };
        BTreeMap::from([("vdz".to_owned(), Verdict::Managed(managed))])
    }

    fn directory() -> tempfile::TempDir {
        tempfile::tempdir().expect("a directory")
    }

    fn units(directory: &Path) -> MountUnits {
        MountUnits::in_directory(directory.to_owned(), PathBuf::from(ROOT))
    }

    const UNIT: &str = "mnt-longhorn-sdb1.mount";

    fn unit_in(directory: &Path) -> String {
        fs::read_to_string(directory.join(UNIT)).expect("the unit")
    }

    #[test]
    fn names_are_escaped_as_systemd_does_it() {
        for path in [
            "/mnt/longhorn/sdb1",
            "/mnt/longhorn/sdb1-2",
            "/srv/my disks/a.b_c:d/nvme0n1p1",
            "/.hidden/sda1",
            "/mnt/d\u{e4}sk/100%/sda1",
        ] {
            let escaped = Command::new("systemd-escape")
                .args(["--path", "--suffix=mount", path])
                .output()
                .expect("systemd-escape of the package systemd");
            let expected = String::from_utf8(escaped.stdout).expect("text");
            let name = unit_name(Path::new(path)).expect("a name");
            assert_eq!(name, expected.trim_end(), "{path}");
        }
        let long = format!("/{}", "x".repeat(250));
        assert!(unit_name(Path::new(&long)).is_err());
    }

    #[test]
    fn systemd_finds_nothing_wrong_with_a_unit() {
        for (filesystem, root) in [
            (Filesystem::Ext4, ROOT),
            (Filesystem::Xfs, "/srv/my disks/100%"),
        ] {
            let directory = directory();
            let (claim, root) = (claim("sdb1-2"), Path::new(root));
            write(
                directory.path(),
                root,
                &claim.name,
                claim.partition_guid,
                filesystem,
            )
            .expect("written");
            let name = unit_name(&root.join("sdb1-2")).expect("a name");
            let checked = Command::new("systemd-analyze")
                .args(["verify", "--man=no", "--recursive-errors=no"])
                .arg(directory.path().join(name))
                .output()
                .expect("systemd-analyze of the package systemd");
            let said = String::from_utf8_lossy(&checked.stderr).into_owned();
            assert!(checked.status.success() && said.is_empty(), "{said}");
        }
    }

    #[test]
    fn a_mounted_disk_gets_a_unit_that_names_it_by_its_filesystem() {
        let directory = directory();
        let claim = claim("sdb1");
        let mut units = units(directory.path());
        units.keep(&managed(&claim, false), true);
        assert!(!directory.path().join(UNIT).exists(), "it is not mounted");
        units.keep(&managed(&claim, true), true);
        let text = unit_in(directory.path());
        for line in [
            format!("What=/dev/disk/by-uuid/{}", claim.partition_guid),
            "Where=/mnt/longhorn/sdb1".to_owned(),
            "Options=noatime,errors=remount-ro,nofail".to_owned(),
        ] {
            assert!(text.lines().any(|there| there == line), "{line}: {text}");
        }
        let link = directory.path().join(WANTS).join(UNIT);
        let wanted = fs::canonicalize(link).expect("the link leads to the unit");
        assert_eq!(
            wanted,
            fs::canonicalize(directory.path().join(UNIT)).expect("it")
        );
        assert_eq!(units.problems(), [""; 0]);
    }

    #[test]
    fn a_unit_that_is_right_is_not_written_again_and_one_that_is_not_is() {
        let directory = directory();
        let first = claim("sdb1");
        let mut units = units(directory.path());
        units.keep(&managed(&first, true), true);
        let inode = || {
            use std::os::unix::fs::MetadataExt;
            let unit = fs::metadata(directory.path().join(UNIT)).expect("the unit");
            unit.ino()
        };
        let before = inode();
        units.keep(&managed(&first, true), true);
        assert_eq!(inode(), before);
        // Changed or removed by somebody: at the next full look.
        fs::write(directory.path().join(UNIT), format!("{MARK}\n# changed")).expect("written");
        fs::remove_file(directory.path().join(WANTS).join(UNIT)).expect("removed");
        units.keep(&managed(&first, true), false);
        assert!(unit_in(directory.path()).contains("# changed"));
        units.keep(&managed(&first, true), true);
        assert!(unit_in(directory.path()).contains(&first.partition_guid.to_string()));
        assert!(directory.path().join(WANTS).join(UNIT).exists());
        // Another disk has the name now: at once.
        let second = claim("sdb1");
        units.keep(&managed(&second, true), false);
        assert!(unit_in(directory.path()).contains(&second.partition_guid.to_string()));
    }

    #[test]
    fn a_unit_stays_while_its_disk_is_away() {
        let directory = directory();
        let mut units = units(directory.path());
        units.keep(&managed(&claim("sdb1"), true), true);
        units.keep(&BTreeMap::new(), true);
        assert!(directory.path().join(WANTS).join(UNIT).exists());
    }

    #[test]
    fn what_somebody_else_has_put_there_is_left_alone_and_told() {
        let claim = claim("sdb1");
        let theirs: [fn(&Path); 4] = [
            |d| fs::write(d.join(UNIT), "[Mount]\nWhat=/dev/sdq\n").expect("written"),
            // As `systemctl mask` does it.
            |d| symlink("/dev/null", d.join(UNIT)).expect("linked"),
            |d| {
                fs::create_dir(d.join(WANTS)).expect("made");
                symlink("/dev/null", d.join(WANTS).join(UNIT)).expect("linked");
            },
            |d| {
                fs::create_dir(d.join(WANTS)).expect("made");
                fs::write(d.join(WANTS).join(UNIT), "").expect("written");
            },
        ];
        for put in theirs {
            let directory = directory();
            put(directory.path());
            let list = || {
                let listed = Command::new("ls").arg("-lR").arg(directory.path()).output();
                listed.expect("ls").stdout
            };
            let before = list();
            let mut units = units(directory.path());
            units.keep(&managed(&claim, true), true);
            let problems = units.problems();
            let told = matches!(problems.as_slice(), [one] if one.contains("left alone"));
            assert!(told, "{problems:?}");
            let name = &claim.name;
            assert!(remove(directory.path(), Path::new(ROOT), name).is_err());
            assert_eq!(list(), before);
        }
    }

    #[test]
    fn a_removed_unit_is_gone_and_removing_it_again_is_no_error() {
        let directory = directory();
        let claim = claim("sdb1");
        write(
            directory.path(),
            Path::new(ROOT),
            &claim.name,
            claim.partition_guid,
            Filesystem::Xfs,
        )
        .expect("written");
        for _ in 0..2 {
            remove(directory.path(), Path::new(ROOT), &claim.name).expect("removed");
            assert!(!directory.path().join(UNIT).exists());
            assert!(fs::symlink_metadata(directory.path().join(WANTS).join(UNIT)).is_err());
        }
    }

    #[test]
    fn a_released_disk_loses_its_unit_and_gets_it_back_when_it_is_taken_back() {
        let directory = directory();
        let claim = claim("sdb1");
        let mut units = units(directory.path());
        units.keep(&managed(&claim, true), true);
        unit_in(directory.path());
        for anew in [false, false, true] {
            units.withdraw([&claim.name].into_iter(), anew);
            assert!(!directory.path().join(UNIT).exists());
            assert!(fs::symlink_metadata(directory.path().join(WANTS).join(UNIT)).is_err());
            assert_eq!(units.kept(&claim.name), None);
        }
        assert!(!units.has(&claim.name));
        units.withdraw(std::iter::empty(), false);
        units.keep(&managed(&claim, true), false);
        unit_in(directory.path());
        // Released once more, without a full pass in between.
        units.withdraw([&claim.name].into_iter(), false);
        assert!(!directory.path().join(UNIT).exists());
    }

    #[test]
    fn a_mounted_disk_has_no_unit_while_it_must_not_have_one() {
        let directory = directory();
        let claim = claim("sdb1");
        let mut units = units(directory.path());
        units.keep(&managed(&claim, true), true);
        unit_in(directory.path());
        for anew in [false, true, false] {
            units.withdraw([&claim.name].into_iter(), anew);
            units.keep(&managed(&claim, true), anew);
            assert!(!directory.path().join(UNIT).exists());
            assert!(!units.has(&claim.name));
        }
        units.withdraw(std::iter::empty(), false);
        units.keep(&managed(&claim, true), false);
        unit_in(directory.path());
    }

    #[test]
    fn the_unit_of_a_released_disk_that_cannot_be_removed_is_told_and_somebody_elses_is_left() {
        let directory = directory();
        let claim = claim("sdb1");
        let file = directory.path().join("file");
        fs::write(&file, "").expect("written");
        let mut unreadable = units(&file);
        unreadable.withdraw([&claim.name].into_iter(), false);
        let why = unreadable.kept(&claim.name).expect("it may be there");
        assert_eq!(unreadable.problems(), [why]);
        unreadable.withdraw(std::iter::empty(), false);
        assert_eq!(unreadable.problems(), [""; 0]);

        let theirs = "[Mount]\nWhat=/dev/sdq\n";
        fs::write(directory.path().join(UNIT), theirs).expect("written");
        let mut units = units(directory.path());
        units.withdraw([&claim.name].into_iter(), false);
        assert_eq!(unit_in(directory.path()), theirs);
        assert_eq!(units.kept(&claim.name), None, "it keeps nobody waiting");
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_told() {
        let directory = directory();
        let file = directory.path().join("file");
        fs::write(&file, "").expect("written");
        let mut units = units(&file);
        units.keep(&managed(&claim("sdb1"), true), true);
        assert_eq!(units.problems().len(), 1);
    }
}
