//! Reads udevd's record of a device. libudev answers "no such property" both
//! for an absent record and for one that cannot be read; this reader keeps the
//! difference. Format: `I:` time of initialisation, `E:KEY=VALUE` properties,
//! `S:` links below `/dev`.

use std::{fs, io, path::Path};

use super::device::UdevRecord;
use crate::{fact::Fact, units::DevNo};

/// The record of a block device; `Known(None)` when there is none.
pub(super) fn read(database: &Path, devno: DevNo) -> Fact<Option<UdevRecord>> {
    let file = database.join(format!("b{devno}"));
    match fs::read(&file) {
        Ok(bytes) => Fact::Known(Some(parse(&String::from_utf8_lossy(&bytes)))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Fact::Known(None),
        Err(error) => Fact::unreadable(file.display(), error),
    }
}

/// Parses a record; lines of other kinds are passed over.
pub fn parse(text: &str) -> UdevRecord {
    let mut record = UdevRecord::default();
    for line in text.lines() {
        if let Some(time) = line.strip_prefix("I:") {
            record.initialized = !time.is_empty();
        } else if let Some(link) = line.strip_prefix("S:disk/") {
            if link.starts_with("by-id/") || link.starts_with("by-path/") {
                record.links.push(link.to_owned());
            }
        } else if let Some((key, value)) = line.strip_prefix("E:").and_then(|e| e.split_once('=')) {
            let value = || Some(value.to_owned());
            match key {
                "ID_FS_TYPE" => record.filesystem = value(),
                "ID_PART_TABLE_TYPE" => record.table = value(),
                "ID_PATH" => record.id_path = value(),
                "ID_BUS" => record.bus = value(),
                // multipathd says 2 while it waits for a second path, and whatever
                // it comes to say, only 0 means that it has no part in it.
                "DM_MULTIPATH_DEVICE_PATH" => {
                    record.multipath_member = value().as_deref() != Some("0")
                }
                _ => {}
            }
        }
    }
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_and_unknown_lines_are_passed_over() {
        let record = parse(
            "S:disk/by-id/x\nS:disk/by-uuid/y\nS:cdrom\nI:1234\nE:ID_FS_TYPE=ext4\nE:ID_BUS=scsi\nG:systemd\nV:1\nE:=\n",
        );
        assert!(record.initialized);
        assert_eq!(record.links, ["by-id/x"]);
        assert_eq!(record.filesystem.as_deref(), Some("ext4"));
        assert_eq!(record.bus.as_deref(), Some("scsi"));
        assert_eq!(record.table, None);
    }

    #[test]
    fn a_path_that_may_be_one_of_several_counts_as_one() {
        for (value, counts) in [("0", false), ("1", true), ("2", true), ("", true)] {
            let record = parse(&format!("E:DM_MULTIPATH_DEVICE_PATH={value}\n"));
            assert_eq!(record.multipath_member, counts, "{value:?}");
        }
        assert!(!parse("E:ID_BUS=scsi\n").multipath_member);
    }

    #[test]
    fn a_record_without_time_is_not_initialized() {
        assert!(!parse("E:ID_FS_TYPE=ext4\n").initialized);
    }

    #[test]
    fn an_unreadable_record_is_not_an_absent_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let devno = DevNo { major: 8, minor: 0 };
        assert_eq!(read(dir.path(), devno), Fact::Known(None));
        fs::create_dir(dir.path().join("b8:0")).expect("a directory in its place");
        assert!(read(dir.path(), devno).known().is_err());
    }
}
