//! The claim: how the agent marks a disk as its own, as data.
//!
//! A claimed disk carries a GPT with exactly one partition. The partition's
//! name says how far the work has come (`lh-pending:sdb1`, `longhorn:sdb1`),
//! its GUID is also the UUID of the filesystem inside. The whole table is a
//! function of (geometry, identity, stage), so a table on a disk can be
//! compared sector by sector with the one we would write: that tells a torn
//! write of ours from somebody else's table.

mod ends;
mod inspect;
pub mod protocol;
mod resized;
mod table;

pub use ends::Ends;
pub use inspect::{Table, inspect, inspect_with};
pub use resized::{Resized, earlier_geometry, is_backup_of};
pub use table::{TableError, TableImage, TableWrite, partition_range};

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::units::{Bytes, DiskName};

/// How far the provisioning of a claimed disk has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The table is ours, the filesystem may not be there yet; never mounted.
    Pending,
    /// The filesystem was made and checked. Never formatted again.
    Committed,
}

impl Stage {
    fn prefix(self) -> &'static str {
        match self {
            Self::Pending => "lh-pending:",
            Self::Committed => "longhorn:",
        }
    }
}

/// What makes one claim different from every other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimId {
    /// GUID of the partition table.
    pub disk_guid: Uuid,
    /// GUID of the partition and UUID of its filesystem.
    pub partition_guid: Uuid,
    /// The name for life.
    pub name: DiskName,
}

/// A claim that the journal says was begun on a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    /// Whose it is.
    pub id: ClaimId,
    /// Sectors of both ends that were not zero before, by their byte offset.
    /// There are none on a blank disk; a person approved any other.
    pub before: BTreeMap<u64, Vec<u8>>,
    /// SHA-256 of what lies between the table and the partition, in front and
    /// behind, where a person approved the disk although it was not blank.
    pub gaps: Option<String>,
}

/// A claim as found on a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Whose it is.
    #[serde(flatten)]
    pub id: ClaimId,
    /// How far it has come.
    pub stage: Stage,
}

/// Size and logical sector size of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Geometry {
    /// Whole size in bytes, a multiple of the sector size.
    pub size: u64,
    /// Logical sector size in bytes: 512 or 4096.
    pub sector: u32,
}

impl Geometry {
    /// Sectors on the disk.
    pub fn sectors(self) -> u64 {
        self.size.checked_div(u64::from(self.sector)).unwrap_or(0)
    }

    /// For messages.
    pub fn bytes(self) -> Bytes {
        Bytes(self.size)
    }
}

impl Begun {
    /// On a disk that was blank.
    pub fn on_blank(id: ClaimId) -> Self {
        Self {
            id,
            before: BTreeMap::new(),
            gaps: None,
        }
    }
}

impl ClaimId {
    /// A claim that no other disk carries, of no node in particular.
    pub fn fresh(name: DiskName) -> Self {
        Self {
            disk_guid: Uuid::new_v4(),
            partition_guid: Uuid::new_v4(),
            name,
        }
    }

    /// The same, but it says on which node the disk was begun: the table's GUID
    /// is one of version 8 (RFC 9562, section 5.8) and begins with 48 bits of a
    /// digest of the node's name.
    #[must_use]
    pub fn made_on(self, node: &str) -> Self {
        let mut bytes = self.disk_guid.into_bytes();
        bytes
            .iter_mut()
            .zip(mark(node))
            .for_each(|(to, from)| *to = from);
        Self {
            disk_guid: Uuid::new_v8(bytes),
            ..self
        }
    }

    /// Where the disk was begun, as far as the claim tells.
    pub fn origin(&self, node: &str) -> Origin {
        if self.disk_guid.get_version_num() != 8 {
            return Origin::Untold;
        }
        let marked = self.disk_guid.as_bytes().iter();
        if marked.zip(mark(node)).all(|(there, ours)| *there == ours) {
            Origin::ThisNode
        } else {
            Origin::AnotherNode
        }
    }
}

/// Where a disk was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// On the node of that name.
    ThisNode,
    /// On a node of another name.
    AnotherNode,
    /// Its claim is from before claims told.
    Untold,
}

/// The first 48 bits of a GUID by which a node's claims are known.
fn mark(node: &str) -> [u8; 6] {
    let digest = Sha256::new()
        .chain_update(b"disk-discovery node\0")
        .chain_update(node)
        .finalize();
    let mut mark = [0; 6];
    mark.iter_mut()
        .zip(digest)
        .for_each(|(to, from)| *to = from);
    mark
}

/// GPT partition name of a claim.
pub fn partition_name(name: &DiskName, stage: Stage) -> String {
    format!("{}{name}", stage.prefix())
}

/// Reads a GPT partition name; `None` when it is not one of ours.
pub fn parse_partition_name(text: &str) -> Option<(DiskName, Stage)> {
    [Stage::Pending, Stage::Committed]
        .into_iter()
        .find_map(|stage| {
            let name = text.strip_prefix(stage.prefix())?.parse().ok()?;
            Some((name, stage))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK_OF_K3S1: [u8; 6] = [0x6f, 0x1b, 0xa3, 0x1a, 0x51, 0xa1];

    #[test]
    fn names_of_both_stages_round_trip_and_fit_into_a_gpt_name() {
        let longest: DiskName = "x".repeat(25).parse().expect("a name");
        for stage in [Stage::Pending, Stage::Committed] {
            let text = partition_name(&longest, stage);
            assert!(text.encode_utf16().count() <= 36, "{text}");
            assert_eq!(parse_partition_name(&text), Some((longest.clone(), stage)));
        }
    }

    #[test]
    fn a_claim_says_on_which_node_it_was_begun_and_is_still_like_no_other() {
        let name: DiskName = "sdb1".parse().expect("a name");
        let claim = || ClaimId::fresh(name.clone()).made_on("k3s1");
        assert_eq!(claim().origin("k3s1"), Origin::ThisNode);
        assert_eq!(claim().origin("k3s2"), Origin::AnotherNode);
        assert_eq!(ClaimId::fresh(name.clone()).origin("k3s1"), Origin::Untold);
        assert_ne!(claim().disk_guid, claim().disk_guid);
        // What is on disks must be recognised by every later release.
        assert_eq!(mark("k3s1"), MARK_OF_K3S1);
    }

    #[test]
    fn other_peoples_partition_names_are_not_ours() {
        for other in [
            "",
            "longhorn",
            "longhorn:",
            "longhorn:../etc",
            "Linux",
            "lh-pending:A",
        ] {
            assert_eq!(parse_partition_name(other), None, "{other}");
        }
    }
}
