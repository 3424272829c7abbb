//! What the agent is about to write to a disk, on the host's own disk, before
//! it writes: `<state>/journal/<partition GUID>.json`.
//!
//! An entry lets the next start recognise a partition table that was torn
//! before either copy was valid. It is removed when the disk is mounted.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    claim::{ClaimId, Ends, Geometry, Stage, TableImage},
    fact::Fact,
    units::Filesystem,
};

/// Format of the entries that this program writes.
const VERSION: u32 = 1;

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
#[error("journal {}: cannot {step}", path.display())]
pub struct JournalError {
    path: PathBuf,
    step: &'static str,
    #[source]
    source: io::Error,
}

impl Entry {
    /// An entry for a claim and the two tables that it will write.
    pub fn new(
        claim: ClaimId,
        geometry: Geometry,
        identity: (Option<String>, Option<String>),
        filesystem: Filesystem,
        tables: (&TableImage, &TableImage),
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
        }
    }

    /// Reads an entry as it is in its file.
    ///
    /// # Errors
    /// When it is damaged, or of a format that this program does not know.
    pub fn from_json(text: &[u8]) -> io::Result<Self> {
        let entry: Self = serde_json::from_slice(text).map_err(io::Error::other)?;
        if entry.version == VERSION {
            Ok(entry)
        } else {
            Err(io::Error::other(format!(
                "format {} is not {VERSION}, which this program knows",
                entry.version
            )))
        }
    }

    /// Whether the entry may belong to a disk. An identity that either side
    /// does not know proves nothing and does not separate them: the table's
    /// own GUIDs decide.
    pub fn fits(&self, geometry: Geometry, wwn: Option<&str>, serial: Option<&str>) -> bool {
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
    pub fn still_holds(&self) -> bool {
        let same = |stage, sectors_then: &[Sector]| {
            TableImage::build(self.geometry, &self.claim, stage)
                .is_ok_and(|image| sectors(image.ends()) == sectors_then)
        };
        same(Stage::Pending, &self.pending) && same(Stage::Committed, &self.committed)
    }
}

fn sectors(ends: &Ends) -> Vec<Sector> {
    let size = u64::from(ends.geometry().sector);
    let tail_start = ends
        .geometry()
        .size
        .saturating_sub(Ends::tail_len(ends.geometry()));
    let offsets = (0..Ends::head_len(ends.geometry()) / size)
        .map(|at| at * size)
        .chain((0..Ends::tail_len(ends.geometry()) / size).map(|at| tail_start + at * size));
    offsets
        .zip(ends.sectors())
        .filter(|(_, bytes)| bytes.iter().any(|byte| *byte != 0))
        .map(|(offset, bytes)| Sector {
            offset,
            hex: bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        })
        .collect()
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
    /// might be the one that explains a disk.
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
        let path = self.path(&entry.claim);
        let failed = |step| {
            let path = path.clone();
            move |source| JournalError { path, step, source }
        };
        fs::create_dir_all(&self.directory).map_err(failed("make its directory"))?;
        let temporary = path.with_extension("tmp");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&temporary)
            .map_err(failed("make the file"))?;
        let text = serde_json::to_vec_pretty(entry)
            .map_err(io::Error::other)
            .map_err(failed("encode the entry"))?;
        file.write_all(&text).map_err(failed("write"))?;
        file.sync_all().map_err(failed("sync"))?;
        fs::rename(&temporary, &path).map_err(failed("rename"))?;
        File::open(&self.directory)
            .and_then(|directory| directory.sync_all())
            .map_err(failed("sync its directory"))
    }

    /// Removes an entry; one that is gone already is no error.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn forget(&self, claim: &ClaimId) -> Result<(), JournalError> {
        let path = self.path(claim);
        match fs::remove_file(&path) {
            // An entry that comes back after a power cut would speak of a disk
            // that is in use by then.
            Ok(()) => File::open(&self.directory)
                .and_then(|directory| directory.sync_all())
                .map_err(|source| JournalError {
                    path,
                    step: "sync the directory of",
                    source,
                }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(JournalError {
                path,
                step: "remove",
                source,
            }),
        }
    }

    fn path(&self, claim: &ClaimId) -> PathBuf {
        self.directory
            .join(format!("{}.json", claim.partition_guid))
    }
}

fn read(path: &Path) -> io::Result<Entry> {
    Entry::from_json(&fs::read(path)?)
}

#[cfg(test)]
mod tests {
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
}
