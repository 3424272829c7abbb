//! What the agent keeps account of on the host besides its journal:
//! `<state>/ledger.json` has the names that disks were given here, the disks
//! begun in the last hour, the approvals that were used, a freeze that the
//! cluster asked for, and the disks that were released. `<state>/frozen` is a
//! person's own file.

mod releases;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use crate::{
    approval::Token,
    durable::{self, WriteError},
    fact::{Fact, Unreadable},
    observe::Hardware,
    units::{DevNo, DiskName},
};
pub use releases::{Before, Release, ReleasePhase};

/// Format of the file.
const VERSION: u32 = 1;
/// The limit on formats counts this many seconds back.
const HOUR: u64 = 3600;

/// The account at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Account {
    version: u32,
    formats: Vec<Format>,
    used_approvals: BTreeSet<Token>,
    /// Why the cluster wants no disk to be formatted, as it said last.
    #[serde(default)]
    frozen_by_cluster: Option<String>,
    /// Disks that were mounted here, by the UUID of their filesystem.
    #[serde(default)]
    disks: BTreeMap<Uuid, Kept>,
    /// Disks that a person wants to take away, by the UUID of their filesystem.
    /// Left out when there are none: an older agent knows no such field.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    releases: BTreeMap<Uuid, Release>,
}

/// What is kept of a disk for life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Kept {
    /// The name that it was given on this host.
    pub name: DiskName,
    /// The mount that the agent made last; none when others mounted it.
    pub mounted: Option<Mounting>,
    /// The disk that it was mounted from last, as far as that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware: Option<Hardware>,
    /// Another disk was here that holds the same filesystem.
    #[serde(default, skip_serializing_if = "is_false")]
    pub copied: bool,
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn is_false(value: &bool) -> bool {
    !value
}

impl Kept {
    /// A name, and nothing else that is known.
    pub fn named(name: DiskName) -> Self {
        Self {
            name,
            mounted: None,
            hardware: None,
            copied: false,
        }
    }
}

/// A mount that the agent made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mounting {
    /// Number of the device.
    pub devno: DevNo,
    /// In which boot: device numbers mean nothing in the next one.
    pub boot: String,
}

/// A disk that was begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Format {
    /// Seconds since 1970.
    at: u64,
    /// Its name for life.
    name: DiskName,
}

impl Account {
    fn new() -> Self {
        Self {
            version: VERSION,
            ..Self::default()
        }
    }

    /// Disks begun within an hour of a moment. A clock that was set back or
    /// forward by more starts a new count.
    fn recent(&self, now: u64) -> impl Iterator<Item = &Format> {
        self.formats
            .iter()
            .filter(move |format| format.at.abs_diff(now) < HOUR)
    }

    /// Whether a name may be that of a disk.
    fn check_name(&self, filesystem: Uuid, name: &DiskName) -> Result<(), LedgerError> {
        let other = |(uuid, kept): &(&Uuid, &Kept)| **uuid != filesystem && kept.name == *name;
        if let Some((owner, _)) = self.disks.iter().find(other) {
            return Err(LedgerError::Owned {
                name: name.clone(),
                owner: *owner,
            });
        }
        let kept = self.disks.get(&filesystem);
        match kept.filter(|kept| kept.name != *name) {
            Some(kept) => Err(LedgerError::Named {
                filesystem,
                name: kept.name.clone(),
            }),
            None => Ok(()),
        }
    }
}

/// What decisions need to know of the account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Standing {
    /// Disks begun in the last hour.
    pub formats_last_hour: u32,
    /// Approvals that were used.
    pub used_approvals: BTreeSet<Token>,
    /// Why no disk may be formatted, if so.
    pub frozen: Option<String>,
    /// Disks that were mounted here, by the UUID of their filesystem.
    #[serde(default)]
    pub disks: BTreeMap<Uuid, Kept>,
    /// Disks that a person wants to take away, by the UUID of their filesystem.
    #[serde(default)]
    pub releases: BTreeMap<Uuid, Release>,
    /// This boot.
    #[serde(default)]
    pub boot: String,
}

/// A disk may not be begun now.
#[derive(Debug, Error)]
pub enum LedgerError {
    /// The account cannot be read, so nothing is known of what was done.
    #[error("the ledger cannot be read: {0}")]
    Read(Unreadable),
    /// It cannot be kept.
    #[error("ledger")]
    Write(#[from] WriteError),
    /// As many as allowed were begun in the last hour.
    #[error("{done} disks were begun in the last hour, allowed are {allowed}")]
    Limit {
        /// Disks begun.
        done: u32,
        /// By the policy.
        allowed: u32,
    },
    /// Somebody stopped all formatting.
    #[error("frozen: {0}")]
    Frozen(String),
    /// Its approval was used before.
    #[error("the approval {0} was used before")]
    Used(Token),
    /// It has a name.
    #[error("the disk with filesystem {filesystem} is {name} on this host")]
    Named {
        /// Which disk.
        filesystem: Uuid,
        /// Its name for life.
        name: DiskName,
    },
    /// Its name belongs to another disk.
    #[error("{name} is the name of the disk with filesystem {owner}")]
    Owned {
        /// The name.
        name: DiskName,
        /// Whose it is.
        owner: Uuid,
    },
    /// It is not leaving, or a person has called that off.
    #[error("the disk with filesystem {0} is not being released")]
    NotLeaving(Uuid),
    /// It does not come back, or a person has asked for its release again.
    #[error("the disk with filesystem {0} is not on its way back")]
    NotReturning(Uuid),
}

/// The account on the host. Clones share a lock: two disks that begin at the
/// same time are counted one after the other.
#[derive(Debug, Clone)]
pub struct Ledger {
    path: PathBuf,
    frozen: PathBuf,
    lock: Arc<Mutex<()>>,
}

impl Ledger {
    /// Below the agent's state directory. Nothing is made yet.
    pub fn below(state: &Path) -> Self {
        Self {
            path: state.join("ledger.json"),
            frozen: state.join("frozen"),
            lock: Arc::default(),
        }
    }

    /// What stands in it, and whether a person's file stops all formatting.
    pub fn standing(&self) -> Fact<Standing> {
        let frozen = self.frozen_by_file();
        self.read().and_then(|account| {
            frozen.map(|file| Standing {
                formats_last_hour: count(&account, seconds()),
                used_approvals: account.used_approvals,
                frozen: file.or(account.frozen_by_cluster),
                disks: account.disks,
                releases: account.releases,
                boot: boot_id(),
            })
        })
    }

    /// Takes down that a disk is begun, durably, before anything is written to
    /// it. `again` when the journal has it already: it is not counted, and its
    /// approval not used, a second time.
    ///
    /// # Errors
    /// When the limit is reached, formatting is frozen, the approval was used,
    /// or this cannot be told or kept: then the disk must not be written to.
    pub fn begin(
        &self,
        name: &DiskName,
        approval: Option<Token>,
        again: bool,
        per_hour: Option<u32>,
    ) -> Result<(), LedgerError> {
        let _one_at_a_time = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let mut account = self.unfrozen()?;
        let now = seconds();
        account.formats = account.recent(now).cloned().collect();
        let counted = again && account.formats.iter().any(|format| format.name == *name);
        if !counted {
            let done = count(&account, now);
            if let Some(allowed) = per_hour.filter(|allowed| done >= *allowed) {
                return Err(LedgerError::Limit { done, allowed });
            }
            account.formats.push(Format {
                at: now,
                name: name.clone(),
            });
        }
        if let Some(token) = approval {
            let first = account.used_approvals.insert(token);
            if !first && !again {
                return Err(LedgerError::Used(token));
            }
        }
        Ok(durable::write_json(&self.path, &account)?)
    }

    /// Asked again right before anything is formatted: the decision may be old.
    ///
    /// # Errors
    /// When formatting is frozen, or it cannot be told.
    pub fn check_not_frozen(&self) -> Result<(), LedgerError> {
        self.unfrozen().map(drop)
    }

    fn unfrozen(&self) -> Result<Account, LedgerError> {
        let read = |why: &Unreadable| LedgerError::Read(why.clone());
        let (account, file) = (self.read(), self.frozen_by_file());
        let account = account.known().map_err(read)?.clone();
        let file = file.known().map_err(read)?.clone();
        match file.or_else(|| account.frozen_by_cluster.clone()) {
            Some(why) => Err(LedgerError::Frozen(why)),
            None => Ok(account),
        }
    }

    /// Remembers whether the cluster wants no disk to be formatted, so that a
    /// start without the cluster knows it too.
    ///
    /// # Errors
    /// When it cannot be read or kept.
    pub fn heard_frozen(&self, why: Option<&str>) -> Result<(), LedgerError> {
        self.change(|account| {
            account.frozen_by_cluster = why.map(str::to_owned);
            Ok(())
        })
    }

    /// Takes down, durably, that a disk is about to be mounted under a name: the
    /// name is its own from here on, and the mount one that the agent made.
    ///
    /// # Errors
    /// When the name is another disk's, or this cannot be kept.
    pub fn mounting(
        &self,
        filesystem: Uuid,
        name: &DiskName,
        devno: DevNo,
    ) -> Result<(), LedgerError> {
        let boot = boot_id();
        self.take_down(filesystem, name, Some(Mounting { devno, boot }))
    }

    /// Takes down, durably, the name of a disk that somebody else has mounted.
    ///
    /// # Errors
    /// As [`Ledger::mounting`].
    pub fn keep(&self, filesystem: Uuid, name: &DiskName) -> Result<(), LedgerError> {
        self.take_down(filesystem, name, None)
    }

    fn take_down(
        &self,
        filesystem: Uuid,
        name: &DiskName,
        mounted: Option<Mounting>,
    ) -> Result<(), LedgerError> {
        self.change(|account| {
            account.check_name(filesystem, name)?;
            let kept = account.disks.entry(filesystem);
            kept.or_insert_with(|| Kept::named(name.clone())).mounted = mounted;
            Ok(())
        })
    }

    /// Takes down, durably, which disk a filesystem of this host is mounted
    /// from. One that is not known here stays unknown.
    ///
    /// # Errors
    /// When this cannot be read or kept.
    pub fn mounted_from(&self, filesystem: Uuid, hardware: &Hardware) -> Result<(), LedgerError> {
        self.change(|account| {
            if let Some(kept) = account.disks.get_mut(&filesystem) {
                kept.hardware = Some(hardware.clone());
            }
            Ok(())
        })
    }

    /// Takes down, durably, that there is a copy of a filesystem of this host:
    /// from now on it is mounted from the disk that it was mounted from before,
    /// also while that is away.
    ///
    /// # Errors
    /// When this cannot be read or kept.
    pub fn copied(&self, filesystem: Uuid) -> Result<(), LedgerError> {
        self.change(|account| {
            if let Some(kept) = account.disks.get_mut(&filesystem) {
                kept.copied = true;
            }
            Ok(())
        })
    }

    /// Writes the account if it was changed.
    fn change(
        &self,
        change: impl FnOnce(&mut Account) -> Result<(), LedgerError>,
    ) -> Result<(), LedgerError> {
        let _one_at_a_time = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let read = self.read();
        let before = read.known().map_err(|why| LedgerError::Read(why.clone()))?;
        let mut account = before.clone();
        change(&mut account)?;
        if account == *before {
            return Ok(());
        }
        Ok(durable::write_json(&self.path, &account)?)
    }

    fn read(&self) -> Fact<Account> {
        match fs::read(&self.path) {
            Ok(bytes) => match parse(&bytes) {
                Ok(account) => Fact::Known(account),
                Err(error) => Fact::unreadable(self.path.display(), error),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Fact::Known(Account::new()),
            Err(error) => Fact::unreadable(self.path.display(), error),
        }
    }

    /// The first line of a person's file says why; an empty one will do.
    fn frozen_by_file(&self) -> Fact<Option<String>> {
        match fs::read(&self.frozen) {
            Ok(bytes) => {
                let text = String::from_utf8_lossy(&bytes);
                let line = text.lines().next().map_or("", str::trim);
                Fact::Known(Some(if line.is_empty() {
                    format!("{} is there", self.frozen.display())
                } else {
                    line.to_owned()
                }))
            }
            // A link that leads nowhere is there all the same.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match fs::symlink_metadata(&self.frozen) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Fact::Known(None),
                    Ok(_) | Err(_) => Fact::unreadable(self.frozen.display(), error),
                }
            }
            Err(error) => Fact::unreadable(self.frozen.display(), error),
        }
    }
}

impl Standing {
    /// The name that a disk was given here, by the UUID of its filesystem.
    pub fn name_of(&self, filesystem: Uuid) -> Option<&DiskName> {
        self.disks.get(&filesystem).map(|kept| &kept.name)
    }

    /// The disk that a filesystem was mounted from last.
    pub fn hardware_of(&self, filesystem: Uuid) -> Option<&Hardware> {
        self.disks.get(&filesystem)?.hardware.as_ref()
    }

    /// The disk that a name was given to here.
    pub fn owner_of(&self, name: &DiskName) -> Option<Uuid> {
        let mut owners = self.disks.iter().filter(|(_, kept)| kept.name == *name);
        owners.next().map(|(uuid, _)| *uuid)
    }

    /// Whether the agent mounted that device under that name in this boot.
    pub fn mounted_by_us(&self, name: &DiskName, devno: DevNo) -> bool {
        let made = |mounting: &Mounting| mounting.devno == devno && mounting.boot == self.boot;
        let mine = |kept: &Kept| kept.name == *name && kept.mounted.as_ref().is_some_and(made);
        !self.boot.is_empty() && self.disks.values().any(mine)
    }
}

/// Names this boot; the same in every container. Empty where the kernel does
/// not tell: then no mount counts as one that the agent made.
fn boot_id() -> String {
    match fs::read_to_string("/proc/sys/kernel/random/boot_id") {
        Ok(id) => id.trim().to_owned(),
        Err(error) => {
            tracing::debug!(%error, "the kernel does not name this boot");
            String::new()
        }
    }
}

/// Reads an account.
///
/// # Errors
/// When it is none, or of a format that this program does not know.
pub fn parse(bytes: &[u8]) -> io::Result<Account> {
    let account: Account = serde_json::from_slice(bytes).map_err(io::Error::other)?;
    if account.version == VERSION {
        Ok(account)
    } else {
        Err(io::Error::other(format!(
            "format {} is not {VERSION}, which this program knows",
            account.version
        )))
    }
}

fn count(account: &Account, now: u64) -> u32 {
    u32::try_from(account.recent(now).count()).unwrap_or(u32::MAX)
}

fn seconds() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> DiskName {
        text.parse().expect("a name")
    }

    fn token(digit: &str) -> Token {
        let text = format!("approve-{}-{}", digit.repeat(16), digit.repeat(32));
        text.parse().expect("a token")
    }

    fn standing(ledger: &Ledger) -> Standing {
        ledger.standing().known().expect("readable").clone()
    }

    #[test]
    fn an_hour_takes_no_more_than_the_limit_also_after_a_restart() {
        let state = tempfile::tempdir().expect("a directory");
        let begin =
            |disk: &str| Ledger::below(state.path()).begin(&name(disk), None, false, Some(2));
        begin("sdb1").expect("the first");
        begin("sdc1").expect("the second");
        let error = begin("sdd1").expect_err("one too many").to_string();
        assert!(error.contains("allowed are 2"), "{error}");
        let ledger = Ledger::below(state.path());
        assert_eq!(standing(&ledger).formats_last_hour, 2);
        ledger
            .begin(&name("sdd1"), None, false, None)
            .expect("without a limit");
    }

    #[test]
    fn a_disk_that_is_tried_again_and_again_is_counted_once() {
        let state = tempfile::tempdir().expect("a directory");
        let ledger = Ledger::below(state.path());
        for again in [false, true, true, true] {
            ledger
                .begin(&name("sdb1"), None, again, Some(2))
                .expect("the same disk");
        }
        assert_eq!(standing(&ledger).formats_last_hour, 1);
        ledger
            .begin(&name("sdc1"), None, false, Some(2))
            .expect("another disk");
    }

    #[test]
    fn what_was_begun_more_than_an_hour_ago_does_not_count() {
        let account = Account {
            formats: [0, 1, 3599, 7000]
                .map(|at| Format {
                    at,
                    name: name("sdb1"),
                })
                .to_vec(),
            ..Account::new()
        };
        assert_eq!(count(&account, 3600), 3);
        assert_eq!(count(&account, 20_000), 0);
        assert_eq!(count(&account, 0), 3, "the clock was set back");
    }

    #[test]
    fn a_name_is_one_disks_for_life_and_a_disk_has_one_name() {
        let state = tempfile::tempdir().expect("a directory");
        let ledger = Ledger::below(state.path());
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let devno = DevNo {
            major: 8,
            minor: 17,
        };
        ledger.mounting(one, &name("sdb1"), devno).expect("kept");
        let error = ledger.keep(other, &name("sdb1")).expect_err("taken");
        assert!(error.to_string().contains(&one.to_string()), "{error}");
        ledger.keep(other, &name("sdb1-2")).expect("another name");
        let error = ledger.keep(one, &name("sdb1-3")).expect_err("it has one");
        assert!(
            error.to_string().ends_with("is sdb1 on this host"),
            "{error}"
        );
        let restarted = standing(&Ledger::below(state.path()));
        assert_eq!(restarted.name_of(one), Some(&name("sdb1")));
        assert_eq!(restarted.owner_of(&name("sdb1-2")), Some(other));
        assert!(restarted.mounted_by_us(&name("sdb1"), devno));
        assert!(!restarted.mounted_by_us(&name("sdb1-2"), devno));
        let later = Standing {
            boot: "another".to_owned(),
            ..restarted
        };
        assert!(!later.mounted_by_us(&name("sdb1"), devno));
    }

    #[test]
    fn a_copy_and_the_disk_that_is_no_copy_are_known_after_a_restart() {
        let state = tempfile::tempdir().expect("a directory");
        let ledger = Ledger::below(state.path());
        let filesystem = Uuid::from_u128(1);
        let hardware = Hardware {
            wwn: None,
            serial: Some("S1".to_owned()),
        };
        // What was never mounted here has no original.
        ledger.copied(filesystem).expect("nothing to keep");
        ledger
            .mounted_from(filesystem, &hardware)
            .expect("nothing to keep");
        assert!(standing(&ledger).disks.is_empty());
        ledger.keep(filesystem, &name("sdb1")).expect("kept");
        ledger.mounted_from(filesystem, &hardware).expect("kept");
        let before = fs::read_to_string(state.path().join("ledger.json")).expect("written");
        assert!(!before.contains("copied"), "{before}");
        ledger.copied(filesystem).expect("kept");
        // The next mount forgets neither.
        let devno = DevNo {
            major: 8,
            minor: 17,
        };
        ledger
            .mounting(filesystem, &name("sdb1"), devno)
            .expect("kept");
        let restarted = standing(&Ledger::below(state.path()));
        assert_eq!(restarted.hardware_of(filesystem), Some(&hardware));
        assert!(restarted.disks[&filesystem].copied);
    }

    #[test]
    fn a_ledger_from_before_it_kept_names_is_read() {
        let text = br#"{"version":1,"formats":[],"usedApprovals":[]}"#;
        assert_eq!(parse(text).expect("an account"), Account::new());
    }

    #[test]
    fn an_approval_is_used_once_unless_the_same_disk_is_begun_again() {
        let state = tempfile::tempdir().expect("a directory");
        let ledger = Ledger::below(state.path());
        let begin = |token, again| ledger.begin(&name("sdb1"), Some(token), again, None);
        begin(token("1"), false).expect("used");
        assert!(standing(&ledger).used_approvals.contains(&token("1")));
        assert!(matches!(
            begin(token("1"), false),
            Err(LedgerError::Used(_))
        ));
        begin(token("1"), true).expect("begun again");
        begin(token("2"), false).expect("another");
    }

    #[test]
    fn a_freeze_by_file_or_cluster_lets_no_disk_begin_and_is_lifted_with_it() {
        let state = tempfile::tempdir().expect("a directory");
        let ledger = Ledger::below(state.path());
        let begin = || ledger.begin(&name("sdb1"), None, false, None);
        fs::write(state.path().join("frozen"), "moving house\nmore\n").expect("a file");
        assert_eq!(standing(&ledger).frozen.as_deref(), Some("moving house"));
        assert!(matches!(begin(), Err(LedgerError::Frozen(why)) if why == "moving house"));
        assert!(ledger.check_not_frozen().is_err());
        fs::remove_file(state.path().join("frozen")).expect("removed");
        ledger.heard_frozen(Some("the cluster")).expect("kept");
        let restarted = Ledger::below(state.path());
        assert_eq!(standing(&restarted).frozen.as_deref(), Some("the cluster"));
        assert!(matches!(begin(), Err(LedgerError::Frozen(_))));
        ledger.heard_frozen(None).expect("kept");
        begin().expect("lifted");
    }

    #[test]
    fn an_account_that_cannot_be_read_lets_no_disk_begin() {
        for text in [
            "{",
            "{}",
            r#"{"version":2,"formats":[],"usedApprovals":[]}"#,
        ] {
            let state = tempfile::tempdir().expect("a directory");
            fs::write(state.path().join("ledger.json"), text).expect("a file");
            let ledger = Ledger::below(state.path());
            assert!(ledger.standing().known().is_err(), "{text}");
            let begun = ledger.begin(&name("sdb1"), None, false, None);
            assert!(matches!(begun, Err(LedgerError::Read(_))), "{text}");
        }
        let state = tempfile::tempdir().expect("a directory");
        let frozen = state.path().join("frozen");
        fs::create_dir(&frozen).expect("a directory in its place");
        assert!(Ledger::below(state.path()).standing().known().is_err());
        fs::remove_dir(&frozen).expect("removed");
        std::os::unix::fs::symlink("nowhere", &frozen).expect("a link");
        assert!(Ledger::below(state.path()).standing().known().is_err());
        assert!(Ledger::below(state.path()).check_not_frozen().is_err());
    }
}
