//! The partition table that a claim writes, built in memory.

use std::ops::Range;

use gptman::{GPT, GPTPartitionEntry};
use thiserror::Error;
use uuid::{Uuid, uuid};

use super::{ClaimId, Ends, Geometry, Stage, partition_name};

/// GPT type of a Linux filesystem (UAPI discoverable partitions specification).
pub(super) const LINUX_FILESYSTEM: Uuid = uuid!("0fc63daf-8483-4772-8e79-3d69d8477de4");

/// Partitions start and end on multiples of this many bytes.
const ALIGNMENT: u64 = 1024 * 1024;

/// A table cannot be made for a disk.
#[derive(Debug, Error)]
pub enum TableError {
    /// Too small, or an unknown sector size.
    #[error("no table fits on a disk of {size} bytes with sectors of {sector} bytes")]
    Geometry {
        /// Size of the disk in bytes.
        size: u64,
        /// Logical sector size in bytes.
        sector: u32,
    },
    /// The table library refused.
    #[error("building the partition table")]
    Build(#[from] gptman::Error),
}

/// The exact bytes of a claim's table, both copies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableImage(Ends);

impl TableImage {
    /// The table of a claim at a stage, for a disk of that geometry.
    ///
    /// # Errors
    /// When the geometry has no room for a table.
    pub fn build(geometry: Geometry, id: &ClaimId, stage: Stage) -> Result<Self, TableError> {
        let impossible = || TableError::Geometry {
            size: geometry.size,
            sector: geometry.sector,
        };
        let mut ends = Ends::zeroed(geometry).ok_or_else(impossible)?;
        let range = partition_range(geometry).ok_or_else(impossible)?;
        let sector = u64::from(geometry.sector);
        GPT::write_protective_mbr_into(&mut ends, sector)?;
        let mut table = GPT::new_from(&mut ends, sector, id.disk_guid.to_bytes_le())?;
        let entry = GPTPartitionEntry {
            partition_type_guid: LINUX_FILESYSTEM.to_bytes_le(),
            unique_partition_guid: id.partition_guid.to_bytes_le(),
            starting_lba: range.start / sector,
            ending_lba: range.end / sector - 1,
            attribute_bits: 0,
            partition_name: partition_name(&id.name, stage).as_str().into(),
        };
        // GPT numbers partitions from 1; a fresh table has 128 entries.
        table[1] = entry;
        table.write_into(&mut ends)?;
        Ok(Self(ends))
    }

    /// Both ends of the disk as they should be.
    pub fn ends(&self) -> &Ends {
        &self.0
    }

    /// How the table is put on a disk: the backup copy first, the primary one
    /// last, each durable before the next begins. So one copy is whole at any
    /// moment once there was one, and what the primary copy says, which others
    /// read, the backup copy has said before.
    pub fn writes(&self) -> [TableWrite<'_>; 2] {
        let ends = &self.0;
        let tail_start = ends
            .geometry()
            .size
            .saturating_sub(ends.tail().len() as u64);
        [
            TableWrite {
                step: "write the backup partition table",
                at: tail_start,
                bytes: ends.tail(),
            },
            TableWrite {
                step: "write the partition table",
                at: 0,
                bytes: ends.head(),
            },
        ]
    }
}

/// Bytes that are written in one piece and made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableWrite<'a> {
    /// For messages.
    pub step: &'static str,
    /// Byte offset on the disk.
    pub at: u64,
    /// What is written there.
    pub bytes: &'a [u8],
}

/// Bytes that the one partition occupies: from the first mebibyte to the last
/// whole mebibyte in front of the backup table.
pub fn partition_range(geometry: Geometry) -> Option<Range<u64>> {
    let end = Ends::tail_start(geometry)? / ALIGNMENT * ALIGNMENT;
    (end > ALIGNMENT).then_some(ALIGNMENT..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> ClaimId {
        ClaimId {
            disk_guid: uuid!("11111111-2222-3333-4444-555555555555"),
            partition_guid: uuid!("66666666-7777-8888-9999-aaaaaaaaaaaa"),
            name: "sdb1".parse().expect("a name"),
        }
    }

    #[test]
    fn the_table_is_the_same_every_time_and_differs_by_stage() {
        let geometry = Geometry {
            size: 12 << 30,
            sector: 512,
        };
        let build = |stage| TableImage::build(geometry, &id(), stage).expect("a table");
        assert_eq!(build(Stage::Pending), build(Stage::Pending));
        assert_ne!(build(Stage::Pending), build(Stage::Committed));
    }

    #[test]
    fn the_backup_copy_is_written_before_the_primary_one_and_nothing_else_is() {
        let geometry = Geometry {
            size: 12 << 30,
            sector: 512,
        };
        let image = TableImage::build(geometry, &id(), Stage::Pending).expect("a table");
        let [first, last] = image.writes();
        let tail = Ends::tail_start(geometry).expect("room");
        assert_eq!((first.at, first.bytes), (tail, image.ends().tail()));
        assert_eq!((last.at, last.bytes), (0, image.ends().head()));
    }

    #[test]
    fn the_partition_is_aligned_and_leaves_room_for_the_backup_table() {
        for sector in [512, 4096] {
            let geometry = Geometry {
                size: 10_000_007_168 / 4096 * 4096,
                sector,
            };
            let range = partition_range(geometry).expect("a range");
            assert_eq!(range.start % ALIGNMENT, 0);
            assert_eq!(range.end % ALIGNMENT, 0);
            assert!(range.end <= geometry.size - Ends::tail_len(geometry));
        }
    }

    #[test]
    fn a_disk_without_room_or_with_odd_sectors_gets_an_error() {
        for geometry in [
            Geometry {
                size: 0,
                sector: 512,
            },
            Geometry {
                size: 1 << 20,
                sector: 512,
            },
            Geometry {
                size: 12 << 30,
                sector: 520,
            },
            Geometry {
                size: (12 << 30) + 1,
                sector: 512,
            },
        ] {
            assert!(
                TableImage::build(geometry, &id(), Stage::Pending).is_err(),
                "{geometry:?}"
            );
        }
    }

    /// `sfdisk` did not write this table: it is an independent reader.
    #[test]
    fn sfdisk_reads_the_table_as_we_mean_it() {
        use std::os::unix::fs::FileExt;
        let geometry = Geometry {
            size: 64 << 20,
            sector: 512,
        };
        let image = TableImage::build(geometry, &id(), Stage::Committed).expect("a table");
        let file = tempfile::NamedTempFile::new().expect("a file");
        file.as_file().set_len(geometry.size).expect("its size");
        file.as_file()
            .write_all_at(image.ends().head(), 0)
            .expect("head");
        let tail = geometry.size - Ends::tail_len(geometry);
        file.as_file()
            .write_all_at(image.ends().tail(), tail)
            .expect("tail");
        let out = std::process::Command::new("sfdisk")
            .args(["--json"])
            .arg(file.path())
            .output()
            .expect("sfdisk of the package fdisk");
        assert!(out.status.success() && out.stderr.is_empty(), "{out:?}");
        let table: serde_json::Value = serde_json::from_slice(&out.stdout).expect("json");
        let partition = table
            .pointer("/partitiontable/partitions/0")
            .expect("a partition");
        assert_eq!(
            partition.get("name").and_then(|v| v.as_str()),
            Some("longhorn:sdb1")
        );
        assert_eq!(
            partition.get("start").and_then(serde_json::Value::as_u64),
            Some(2048)
        );
        assert_eq!(
            partition.get("uuid").and_then(|v| v.as_str()),
            Some("66666666-7777-8888-9999-AAAAAAAAAAAA")
        );
    }
}
