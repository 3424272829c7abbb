//! What the operator allows.

use crate::units::{Bytes, Filesystem};

/// The operator's wishes, as far as they bear on decisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// A new disk must be strictly larger than this.
    pub min_size: Bytes,
    /// Loop devices count as disks; for tests.
    pub allow_loop: bool,
    /// What a new disk is given.
    pub filesystem: Filesystem,
    /// Directory below which disks are mounted, as the host sees it.
    pub mount_root: String,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            min_size: Bytes(10_000_000_000),
            allow_loop: false,
            filesystem: Filesystem::Ext4,
            mount_root: "/mnt/longhorn".to_owned(),
        }
    }
}
