//! What the operator allows.

use std::collections::BTreeSet;

use clap::ValueEnum;
use serde::Deserialize;

use super::rule::{Field, Rule};
use crate::{
    approval::Token,
    fact::Fact,
    observe::Device,
    units::{Bytes, Filesystem},
};

/// The operator's wishes, as far as they bear on decisions. All but the
/// filesystem, the mount root and growing gate new disks only: a changed policy
/// never orphans a disk of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// A new disk must be strictly larger than this.
    pub min_size: Bytes,
    /// Loop devices count as disks; for tests.
    pub allow_loop: bool,
    /// Where there are any, a new disk must match one of them.
    pub allow: Vec<Rule>,
    /// A new disk must match none of them.
    pub deny: Vec<Rule>,
    /// Disks in a certain state that may be taken although they are not blank.
    pub approvals: BTreeSet<Token>,
    /// Disks of ours on this node; unlimited when there is no number.
    pub max_disks: Option<u32>,
    /// Disks begun within an hour; unlimited when there is no number.
    pub max_formats_per_hour: Option<u32>,
    /// What a new disk is given.
    pub filesystem: Filesystem,
    /// Disks of ours that were enlarged are grown.
    pub grow: bool,
    /// Directory below which disks are mounted, as the host sees it.
    pub mount_root: String,
    /// Which disks are mounted that this node's agent has not made.
    pub adopt: Adoption,
    /// Name of this node, by which its claims are known.
    pub node: String,
}

/// Which disks are mounted that this node's agent has not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Adoption {
    /// Longhorn's disks, and those that an agent made on another node.
    All,
    /// None; those that were mounted here before stay.
    None,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            min_size: Bytes(10_000_000_000),
            allow_loop: false,
            allow: Vec::new(),
            deny: Vec::new(),
            approvals: BTreeSet::new(),
            max_disks: None,
            max_formats_per_hour: None,
            filesystem: Filesystem::Ext4,
            grow: true,
            mount_root: "/mnt/longhorn".to_owned(),
            adopt: Adoption::All,
            node: "unknown".to_owned(),
        }
    }
}

impl Policy {
    /// Whether the operator allows a disk by a rule that speaks of a property:
    /// to lift a hazard, a rule must name what makes it one, or the very disk
    /// where its kind is not what makes it one.
    pub(super) fn names(&self, disk: &Device, field: Field) -> bool {
        let one_disk = field == Field::Model;
        let names = |rule: &&Rule| rule.speaks_of(&[field]) || (one_disk && rule.is_for_one_disk());
        let mut naming = self.allow.iter().filter(names);
        naming.any(|rule| rule.matches(disk) == Fact::Known(true))
    }

    /// Whether the operator allows this very disk, by its whole serial number or
    /// world-wide name.
    pub(super) fn names_one(&self, disk: &Device) -> bool {
        let mut naming = self.allow.iter().filter(|rule| rule.is_for_one_disk());
        naming.any(|rule| rule.matches(disk) == Fact::Known(true))
    }
}
