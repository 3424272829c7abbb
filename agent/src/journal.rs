//! What the agent is about to write to a disk, on the host's own disk, before
//! it writes: `<state>/journal/<partition GUID>.json`.
//!
//! An entry lets the next start recognise a partition table that was torn
//! before either copy was valid. It is removed when the disk is mounted.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    approval::Token,
    claim::{Begun, ClaimId, Ends, Geometry, Stage, TableImage},
    durable::{self, WriteError},
    fact::Fact,
    text::hex,
    units::Filesystem,
};

/// Format of the entries that this program writes. Format 1 knew no approvals.
const VERSION: u32 = 2;
/// Formats that it reads.
const READABLE: [u32; 2] = [1, VERSION];

/// One provisioning that was begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Entry {
    version: u32,
    /// The claim to be written.
    pub claim: ClaimId,
    /// Size and sector size of the disk.
    pub geometry: Geometry,
    /// World-wide name of the disk, if it has one.
    pub wwn: Option<String>,
    /// Serial number of the disk, if it has one.
    pub serial: Option<String>,
    /// The filesystem to be made.
    pub filesystem: Filesystem,
    /// Non-zero sectors of the table at both stages.
    pub pending: Vec<Sector>,
    /// Non-zero sectors of the table at both stages.
    pub committed: Vec<Sector>,
    /// The approval by which a disk is written to that is not blank.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approved>,
}

/// What a person approved to be written over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Approved {
    /// By which token.
    pub token: Token,
    /// Non-zero sectors where the table will be, as they were before.
    pub before: Vec<Sector>,
    /// SHA-256 of what lies between the table and the partition, in front and
    /// behind: nothing of ours is ever written there.
    pub gaps: String,
}

impl Approved {
    /// By a token, of a disk whose ends and gaps are like this.
    pub fn new(token: Token, ends: &Ends, gaps: String) -> Self {
        Self {
            token,
            before: sectors(ends),
            gaps,
        }
    }
}

/// A sector to be written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Sector {
    /// Byte offset on the disk.
    pub offset: u64,
    /// Contents, two hexadecimal digits a byte.
    pub hex: String,
}

/// The journal could not be written.
#[derive(Debug, Error)]
#[error("journal")]
pub struct JournalError(#[from] WriteError);

impl Entry {
    /// An entry for a claim and the two tables that it will write.
    pub fn new(
        claim: ClaimId,
        geometry: Geometry,
        identity: (Option<String>, Option<String>),
        filesystem: Filesystem,
        tables: (&TableImage, &TableImage),
        approval: Option<Approved>,
    ) -> Self {
        let (wwn, serial) = identity;
        Self {
            version: VERSION,
            claim,
            geometry,
            wwn,
            serial,
            filesystem,
            pending: sectors(tables.0.ends()),
            committed: sectors(tables.1.ends()),
            approval,
        }
    }

    /// What a disk needs to be recognised that was begun by this entry.
    /// `None` when the entry is damaged.
    pub fn begun(&self) -> Option<Begun> {
        let before = match &self.approval {
            None => BTreeMap::new(),
            Some(approved) => approved
                .before
                .iter()
                .map(|sector| Some((sector.offset, unhex(&sector.hex)?)))
                .collect::<Option<_>>()?,
        };
        Some(Begun {
            id: self.claim.clone(),
            before,
            gaps: self.approval.as_ref().map(|approved| approved.gaps.clone()),
        })
    }

    /// Whether the entry may be about a disk, and means the tables that this
    /// program writes.
    pub fn may_be_of(&self, geometry: Geometry, wwn: Option<&str>, serial: Option<&str>) -> bool {
        // The second builds and compares two tables, so it comes second: asked of
        // 200 disks for each of five entries, it took most of a round.
        self.fits(geometry, wwn, serial) && self.still_holds()
    }

    /// Whether the entry may belong to a disk. An identity that either side
    /// does not know proves nothing and does not separate them: the table's
    /// own GUIDs decide.
    fn fits(&self, geometry: Geometry, wwn: Option<&str>, serial: Option<&str>) -> bool {
        let contradicts =
            |a: Option<&str>, b: Option<&str>| matches!((a, b), (Some(a), Some(b)) if a != b);
        self.geometry == geometry
            && !contradicts(self.wwn.as_deref(), wwn)
            && !contradicts(self.serial.as_deref(), serial)
    }

    /// Whether the entry was made for this very disk: at least one identity is
    /// known on both sides and the same.
    pub fn names(&self, wwn: Option<&str>, serial: Option<&str>) -> bool {
        let same = |a: Option<&str>, b: Option<&str>| a.is_some() && a == b;
        same(self.wwn.as_deref(), wwn) || same(self.serial.as_deref(), serial)
    }

    /// Whether this program would still write the very same tables.
    fn still_holds(&self) -> bool {
        let same = |stage, sectors_then: &[Sector]| {
            TableImage::build(self.geometry, &self.claim, stage)
                .is_ok_and(|image| sectors(image.ends()) == sectors_then)
        };
        same(Stage::Pending, &self.pending) && same(Stage::Committed, &self.committed)
    }
}

fn sectors(ends: &Ends) -> Vec<Sector> {
    ends.sectors_at()
        .filter(|(_, bytes)| bytes.iter().any(|byte| *byte != 0))
        .map(|(offset, bytes)| Sector {
            offset,
            hex: hex(bytes),
        })
        .collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .map(|digit| {
            digit
                .to_digit(16)
                .and_then(|digit| u8::try_from(digit).ok())
        })
        .collect();
    let (pairs, rest) = digits.as_deref()?.as_chunks::<2>();
    rest.is_empty()
        .then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

/// The directory of entries.
#[derive(Debug, Clone)]
pub struct Journal {
    directory: PathBuf,
}

impl Journal {
    /// Below the agent's state directory. Nothing is made yet.
    pub fn below(state: &Path) -> Self {
        Self {
            directory: state.join("journal"),
        }
    }

    /// All entries. One that cannot be read makes the list unreadable: it
    /// might be the one that explains a disk. One that is forgotten meanwhile,
    /// since its disk was finished, is none.
    pub fn list(&self) -> Fact<Vec<Entry>> {
        let names = match fs::read_dir(&self.directory) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Fact::Known(Vec::new()),
            Err(error) => return Fact::unreadable(self.directory.display(), error),
        };
        let mut entries = Vec::new();
        for name in names {
            let path = match name {
                Ok(name) => name.path(),
                Err(error) => return Fact::unreadable(self.directory.display(), error),
            };
            // A temporary file was never renamed: its disk was never written.
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match read(&path) {
                Ok(entry) => entries.push(entry),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Fact::unreadable(path.display(), error),
            }
        }
        Fact::Known(entries)
    }

    /// Writes an entry and makes it durable: file, name and directory.
    ///
    /// # Errors
    /// The step that failed; then nothing may be written to the disk.
    pub fn record(&self, entry: &Entry) -> Result<(), JournalError> {
        Ok(durable::write_json(&self.path(&entry.claim), entry)?)
    }

    /// Removes an entry; one that is gone already is no error. An entry that
    /// came back after a power cut would speak of a disk that is in use by
    /// then.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn forget(&self, claim: &ClaimId) -> Result<(), JournalError> {
        Ok(durable::remove(&self.path(claim))?)
    }

    fn path(&self, claim: &ClaimId) -> PathBuf {
        self.directory
            .join(format!("{}.json", claim.partition_guid))
    }
}

fn read(path: &Path) -> io::Result<Entry> {
    parse(&fs::read(path)?)
}

/// Reads an entry.
///
/// # Errors
/// When it is none, or of a format that this program does not know.
pub fn parse(bytes: &[u8]) -> io::Result<Entry> {
    let entry: Entry = serde_json::from_slice(bytes).map_err(io::Error::other)?;
    if !READABLE.contains(&entry.version) {
        return Err(io::Error::other(format!(
            "format {} is none of {READABLE:?}, which this program knows",
            entry.version
        )));
    }
    if entry.begun().is_none() {
        return Err(io::Error::other("a sector of it is not hexadecimal"));
    }
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn entry(name: &str) -> Entry {
        let geometry = Geometry {
            size: 12 << 30,
            sector: 512,
        };
        let claim = ClaimId::fresh(name.parse().expect("a name"));
        let table = |stage| TableImage::build(geometry, &claim, stage).expect("a table");
        let tables = (&table(Stage::Pending), &table(Stage::Committed));
        Entry::new(
            claim.clone(),
            geometry,
            (Some("w1".to_owned()), None),
            Filesystem::Ext4,
            tables,
            None,
        )
    }

    #[test]
    fn an_entry_is_read_back_as_written_until_it_is_forgotten() {
        let state = tempfile::tempdir().expect("a directory");
        let journal = Journal::below(state.path());
        assert_eq!(journal.list(), Fact::Known(vec![]));
        let entry = entry("sdb1");
        journal.record(&entry).expect("recorded");
        assert_eq!(journal.list(), Fact::Known(vec![entry.clone()]));
        assert!(entry.still_holds());
        journal.forget(&entry.claim).expect("forgotten");
        journal.forget(&entry.claim).expect("forgotten twice");
        assert_eq!(journal.list(), Fact::Known(vec![]));
    }

    #[test]
    fn an_entry_that_another_disk_forgets_meanwhile_does_not_hide_the_others() {
        let state = tempfile::tempdir().expect("a directory");
        let journal = Journal::below(state.path());
        let own = entry("sdb1");
        journal.record(&own).expect("recorded");
        let other = serde_json::to_vec(&entry("sdc1")).expect("JSON");
        let others: Vec<PathBuf> = (0..64)
            .map(|_| journal.path(&entry("sdc1").claim))
            .collect();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // As `durable` does it, but without waiting for the disk.
                while !done.load(Ordering::Relaxed) {
                    for path in &others {
                        let new = path.with_extension("new");
                        fs::write(&new, &other).expect("written");
                        fs::rename(new, path).expect("recorded");
                    }
                    for path in &others {
                        fs::remove_file(path).expect("forgotten");
                    }
                }
            });
            let listed: Vec<_> = (0..200).map(|_| journal.list()).collect();
            done.store(true, Ordering::Relaxed);
            for list in listed {
                let entries = list.known().expect("a list");
                assert!(entries.contains(&own), "{entries:?}");
            }
        });
    }

    #[test]
    fn a_half_written_entry_is_no_entry_and_a_damaged_one_is_an_error() {
        let state = tempfile::tempdir().expect("a directory");
        let journal = Journal::below(state.path());
        journal.record(&entry("sdb1")).expect("recorded");
        let directory = state.path().join("journal");
        fs::write(directory.join("x.tmp"), "{").expect("a torn file");
        assert!(journal.list().is_known_and(|entries| entries.len() == 1));
        fs::write(directory.join("x.json"), "{").expect("a damaged file");
        assert!(journal.list().known().is_err());
    }

    #[test]
    fn an_entry_fits_only_a_disk_that_does_not_contradict_it() {
        let entry = entry("sdb1");
        assert!(entry.fits(entry.geometry, Some("w1"), Some("any")));
        assert!(entry.fits(entry.geometry, None, None));
        assert!(!entry.fits(entry.geometry, Some("w2"), None));
        let other = Geometry {
            size: 13 << 30,
            sector: 512,
        };
        assert!(!entry.fits(other, Some("w1"), None));
    }

    #[test]
    fn what_a_person_approved_to_be_written_over_is_kept_sector_by_sector() {
        let token = format!("approve-{}-{}", "1".repeat(16), "2".repeat(32));
        let mut tail = vec![0; 16_896];
        tail[16_895] = 0xfe;
        let blank = entry("sdb1");
        let ends = Ends::new(blank.geometry, vec![0; 17_408], tail).expect("ends");
        let approved = Approved::new(token.parse().expect("a token"), &ends, "ab".repeat(32));
        let entry = Entry {
            approval: Some(approved),
            ..blank.clone()
        };
        let state = tempfile::tempdir().expect("a directory");
        let journal = Journal::below(state.path());
        journal.record(&entry).expect("recorded");
        assert_eq!(journal.list(), Fact::Known(vec![entry.clone()]));
        let begun = entry.begun().expect("sound");
        let last = blank.geometry.size - 512;
        assert_eq!(begun.gaps, Some("ab".repeat(32)));
        assert_eq!(begun.before.len(), 1);
        assert_eq!(begun.before[&last][511], 0xfe);
        assert_eq!(blank.begun().expect("sound").gaps, None);
    }

    #[test]
    fn an_entry_of_the_first_format_is_read_and_one_of_a_later_format_is_not() {
        let mut value = serde_json::to_value(entry("sdb1")).expect("JSON");
        value["version"] = 1.into();
        assert!(parse(value.to_string().as_bytes()).is_ok());
        value["version"] = 3.into();
        let error = parse(value.to_string().as_bytes()).expect_err("too new");
        assert!(error.to_string().contains("format 3"), "{error}");
    }

    #[test]
    fn hexadecimal_text_is_read_back_or_refused() {
        assert_eq!(unhex("00ff1a"), Some(vec![0, 255, 26]));
        for bad in ["0", "0g", "é"] {
            assert_eq!(unhex(bad), None, "{bad}");
        }
    }
}
