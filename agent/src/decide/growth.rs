//! Whether a disk of ours is grown to the size that it was enlarged to.

use std::fmt;

use super::view::View;
use crate::{
    claim::{ClaimId, Geometry, Resized, Table, partition_range},
    fact::Unreadable,
    observe::{Device, Medium, tables::Mount},
};

/// What becomes of room on a disk of ours that its filesystem does not use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Growth {
    /// Partition and filesystem are grown, once it is mounted.
    Due,
    /// It is left unused; the disk is served as it is.
    Withheld(Withheld),
}

/// Why room is left unused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Withheld {
    /// Why.
    pub obstacle: Obstacle,
    /// Particulars: a place, an error; may be empty.
    pub detail: String,
}

macro_rules! obstacles {
    ($($variant:ident, $code:literal, $explanation:literal;)*) => {
        /// What keeps a disk from being grown. The codes are stable.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Obstacle {
            $(#[doc = $explanation] $variant,)*
        }

        impl Obstacle {
            /// Every obstacle there is.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Stable name, kebab-case, the same everywhere.
            pub fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            /// What it means, in one sentence.
            pub fn explanation(self) -> &'static str {
                match self { $(Self::$variant => $explanation,)* }
            }
        }
    };
}

obstacles! {
    Off, "off",
        "Growing is switched off by --grow.";
    Frozen, "frozen",
        "Formatting is frozen on this node, and growing with it.";
    NotBlank, "not-blank",
        "Something lies in the space behind the partition.";
    TableChanged, "table-changed",
        "The partition table is not the agent's any more: another program has changed it.";
    ReadOnly, "read-only",
        "The disk or its filesystem cannot be written to.";
    OtherUsers, "other-users",
        "Another partition or another device lies on the disk.";
    Unreadable, "unreadable",
        "A fact that growing needs could not be read.";
}

impl Withheld {
    /// With particulars.
    pub fn new(obstacle: Obstacle, detail: impl fmt::Display) -> Self {
        Self {
            obstacle,
            detail: detail.to_string(),
        }
    }
}

impl From<&Unreadable> for Withheld {
    fn from(why: &Unreadable) -> Self {
        Self::new(Obstacle::Unreadable, why)
    }
}

impl fmt::Display for Withheld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.detail.is_empty() {
            f.write_str(self.obstacle.code())
        } else {
            write!(f, "{}: {}", self.obstacle.code(), self.detail)
        }
    }
}

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Due => f.write_str("due"),
            Self::Withheld(withheld) => write!(f, "withheld, {withheld}"),
        }
    }
}

/// Whether the table of a committed claim may be completed for the present size
/// of its disk, as far as the medium says: nothing lies where it is written,
/// nor in the space that the partition gains. Asked for the decision, and again
/// where the answer is used.
///
/// # Errors
/// What speaks against it.
pub fn room(medium: &Medium) -> Result<(), Withheld> {
    let changed = |detail| Err(Withheld::new(Obstacle::TableChanged, detail));
    let (whole, only_ours, resized) = match medium.table.known()? {
        Table::Ours {
            whole,
            only_ours,
            resized,
            ..
        } => (*whole, *only_ours, *resized),
        Table::Absent | Table::Foreign => return changed("the claim is gone"),
    };
    match resized {
        Some(Resized::Grown { .. }) => {
            let beyond = medium
                .partition
                .as_ref()
                .and_then(|inside| inside.beyond.as_ref())
                .ok_or_else(|| Withheld::new(Obstacle::Unreadable, "not read"))?;
            if let Some(at) = beyond.known()? {
                let detail = format_args!("byte {at} is not zero");
                return Err(Withheld::new(Obstacle::NotBlank, detail));
            }
        }
        Some(Resized::Shrunk { .. }) => return changed("the disk is smaller than its table says"),
        None => {}
    }
    if whole || only_ours {
        Ok(())
    } else {
        changed("other data beside the claim")
    }
}

/// What becomes of unused room on a disk with our committed claim; `None` when
/// there is none.
pub(super) fn growth(
    view: &View<'_>,
    disk: &Device,
    medium: &Medium,
    claim: &ClaimId,
    mounted: bool,
) -> Option<Growth> {
    if !has_room(view, disk, medium, mounted) {
        return None;
    }
    let place = format!("{}/{}", view.policy.mount_root, claim.name);
    let allowed = allowed(view, disk, &place).and_then(|()| room(medium));
    Some(match allowed {
        Ok(()) => Growth::Due,
        Err(withheld) => Growth::Withheld(withheld),
    })
}

/// Table, partition as the kernel knows it, and filesystem: whichever is behind
/// the others was left by an interruption, or the disk was enlarged.
fn has_room(view: &View<'_>, disk: &Device, medium: &Medium, mounted: bool) -> bool {
    let Ok(Table::Ours {
        whole,
        only_ours,
        resized,
        ..
    }) = medium.table.known()
    else {
        return false;
    };
    if !whole {
        // One that is not mounted is completed by the mount, unless it gains
        // space by it.
        let grown = matches!(resized, Some(Resized::Grown { .. }));
        return grown || (*only_ours && mounted);
    }
    let (Ok(size), Ok(Some(sector))) = (disk.size.known(), disk.sector.known()) else {
        return false;
    };
    let geometry = Geometry {
        size: *size,
        sector: *sector,
    };
    let Some(range) = partition_range(geometry) else {
        return false;
    };
    let length = range.end - range.start;
    let known_shorter = view.partitions(disk).iter().any(|partition| {
        partition
            .start
            .is_known_and(|start| *start == Some(range.start))
            && partition.size.is_known_and(|size| *size < length)
    });
    let extent = medium
        .partition
        .as_ref()
        .and_then(|inside| inside.extent.as_ref()?.known().ok());
    let unused =
        extent.is_some_and(|extent| length.saturating_sub(extent.bytes) >= extent.slack.max(1));
    mounted && (known_shorter || unused)
}

/// What has nothing to do with what is on the disk.
fn allowed(view: &View<'_>, disk: &Device, place: &str) -> Result<(), Withheld> {
    if !view.policy.grow {
        return Err(Withheld::new(Obstacle::Off, ""));
    }
    if let Some(why) = &view.inventory.standing.known()?.frozen {
        return Err(Withheld::new(Obstacle::Frozen, why));
    }
    if *disk.read_only.known()? {
        return Err(Withheld::new(Obstacle::ReadOnly, "write-protected"));
    }
    let others = view.partitions(disk).len() > 1 || !disk.holders.known()?.is_empty();
    if others {
        return Err(Withheld::new(Obstacle::OtherUsers, ""));
    }
    let read_only = |mount: &Mount| {
        mount.read_only || mount.super_options.split(',').any(|option| option == "ro")
    };
    if view.mounted_at(place).is_some_and(read_only) {
        return Err(Withheld::new(Obstacle::ReadOnly, "mounted read-only"));
    }
    Ok(())
}
