//! Why a device is left alone: one enum, from which the code, the sentence of
//! explanation and the sentence of advice are all derived.

use std::fmt;

use serde::{Serialize, Serializer};

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident, $code:literal, $explanation:literal, $advice:literal;)*) => {
        /// Why a device is left alone. The codes are stable.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason {
            $(#[doc = $explanation] $variant,)*
        }

        impl Reason {
            /// Every reason there is.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Stable name, kebab-case, the same everywhere.
            pub fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            /// What it means, in one sentence.
            pub fn explanation(self) -> &'static str {
                match self { $(Self::$variant => $explanation,)* }
            }

            /// What a person can do about it, in one sentence.
            pub fn advice(self) -> &'static str {
                match self { $(Self::$variant => $advice,)* }
            }
        }
    };
}

reasons! {
    Partition, "partition",
        "It is part of a disk and judged with that disk.",
        "Look at the disk that it belongs to.";
    UnsupportedKind, "unsupported-kind",
        "It is not a kind of device that is ever provisioned.",
        "Nothing needs to be done.";
    HiddenPath, "hidden-path",
        "The kernel hides this path behind another device.",
        "Look at the multipath device instead.";
    DuplicateIdentity, "duplicate-identity",
        "Another disk carries the same claim, world-wide name or serial number.",
        "Detach the copy, or the second path to the same disk.";
    Copy, "copy",
        "It is a copy of a disk of ours that was here together with it, and that one is away.",
        "Attach the original again. To use the copy in its place, name it by a rule of allow with its whole serial number or world-wide name.";
    SystemDisk, "system-disk",
        "The running system lives on it.",
        "Nothing needs to be done.";
    SystemDiskUnresolved, "system-disk-unresolved",
        "It cannot be told which disk the system runs on, so every disk is left alone.",
        "In a container, give the agent the host's /proc, /sys and /dev below --host-root; otherwise see the detail.";
    LonghornVolume, "longhorn-volume",
        "It is a volume that Longhorn itself attached to this node.",
        "Nothing needs to be done.";
    NetworkTransport, "network-transport",
        "It is attached through a network and may belong to another machine.",
        "If it is meant for this node alone, name it by a rule of allow with its transport.";
    UnknownTransport, "unknown-transport",
        "How it is attached to the machine is not known to the agent.",
        "Provision it by hand if it is meant for this node alone.";
    Removable, "removable",
        "It is attached by USB or its medium can be taken out.",
        "If it stays in the machine, name it by a rule of allow with transport=usb or removable=true.";
    CsiVolume, "csi-volume",
        "It is of a model that a cloud or a storage driver attaches as a volume.",
        "If it is a disk of this node for good, name it by a rule of allow with its model, or with its whole serial number or world-wide name.";
    Denied, "denied",
        "A rule of deny matches it.",
        "Change the rules of deny if the disk is meant to be used.";
    NotAllowed, "not-allowed",
        "There are rules of allow, and none matches it.",
        "Add a rule of allow if the disk is meant to be used.";
    TooSmall, "too-small",
        "It is not larger than the minimum size.",
        "Use a larger disk or lower --min-size.";
    ReadOnly, "read-only",
        "The kernel refuses to write to it.",
        "Lift the write protection if the disk is meant to be used.";
    Frozen, "frozen",
        "Formatting is frozen on this node.",
        "Remove the file frozen from the state directory, or the annotation disk-discovery/frozen from the Longhorn Node.";
    DiskLimit, "disk-limit",
        "The node has as many disks of ours as it may have.",
        "Raise --max-disks if the node is meant to have more.";
    FormatLimit, "format-limit",
        "As many disks were begun in the last hour as may be.",
        "Wait, or raise --max-formats-per-hour.";
    Mounted, "mounted",
        "It or a part of it is mounted.",
        "Unmount it if it is not needed; its contents still keep it from being used.";
    Swap, "swap",
        "It, a part of it or something built on it is used as swap.",
        "Switch the swap area off if it is not needed; its contents still keep it from being used.";
    Stacked, "stacked",
        "Another device is built on it, or it is built on others.",
        "Take the stacked device down if it is not needed.";
    MultipathMember, "multipath-member",
        "It is, or may be, one of several paths to a disk.",
        "Look at the multipath device instead.";
    Partitioned, "partitioned",
        "The kernel knows of partitions on it.",
        "Erase the partition table by hand if nothing on the disk is needed.";
    Busy, "busy",
        "Somebody holds it exclusively, perhaps in another mount namespace.",
        "Find the holder with fuser or lsof.";
    UdevPending, "udev-pending",
        "udevd has not finished with it yet.",
        "Wait; if it lasts, look at udevadm settle and the log of systemd-udevd.";
    Unreadable, "unreadable",
        "A fact that the decision needs could not be read.",
        "See the detail; run with the rights of root and, in a container, with the host's trees.";
    ProbeFailed, "probe-failed",
        "What it holds could not be read.",
        "See the detail: for permission denied run as root; otherwise see the kernel log, the disk may be failing.";
    NotAnswering, "not-answering",
        "It has not answered a read in time; the other disks are not kept waiting.",
        "See the kernel log; the disk or its connection may be failing.";
    Signature, "signature",
        "It holds a filesystem, a partition table or another known format, or copies of one.",
        "If nothing on it is needed, erase it with your own tools, as explain shows; the agent never does.";
    AmbivalentSignatures, "ambivalent-signatures",
        "It holds more than one known format.",
        "If nothing on it is needed, erase it with your own tools, as explain shows; the agent never does.";
    ResidualData, "residual-data",
        "It has no known format, but it is not empty.",
        "If nothing on it is needed, approve it with the token that explain prints where it can be approved, or erase it with your own tools.";
    SourcesDisagree, "sources-disagree",
        "Two sources say different things about what is on it.",
        "See the detail; udevadm trigger makes udevd look again.";
    ArrayMember, "array-member",
        "It looks like a member of an array, and what is on it is the array's.",
        "Assemble the array and use that; if it is no more, remove what is left of it with the tools that made it.";
    SectorSize, "sector-size",
        "It is ours, but its partition table is for sectors of another size than it has here, so nobody finds it.",
        "Attach it as before, through the same kind of adapter or controller; what is on it is whole.";
    ClaimDamaged, "claim-damaged",
        "It carries a claim of this agent together with something that is not from it.",
        "See the detail; look at what the disk holds before doing anything.";
    FilesystemDamaged, "filesystem-damaged",
        "It is ours, but the filesystem that belongs in it is not found; it is never formatted again.",
        "Check the filesystem by hand, with fsck from a copy if the data matters.";
    AnotherNode, "another-node",
        "The claim that it carries was made on another node.",
        "If it was moved here for good, set --adopt=all; while its provisioning is unfinished, attach it to that node again.";
    NotAdopted, "not-adopted",
        "It is a disk of Longhorn's that was never mounted by this agent, and such disks are not adopted here.",
        "Set --adopt=all if it is meant to be used on this node.";
    NamelessLonghornDisk, "nameless-longhorn-disk",
        "It has a longhorn-disk.cfg that names no disk, so it is not known whose it is.",
        "Look at what it holds; where it has no replicas, remove that file, and Longhorn writes its own when the disk is added.";
    DiskShrunk, "disk-shrunk",
        "It is ours, but smaller than its partition table says, so a part of it is missing.",
        "Give it its size back; what is on it is not touched meanwhile.";
    MountedElsewhere, "mounted-elsewhere",
        "It is ours, but mounted at another place.",
        "Unmount it there, and the agent mounts it where it belongs.";
    MountPathTaken, "mount-path-taken",
        "It is ours, but something else is mounted or stored at its place.",
        "Move away what is there, and the agent mounts the disk.";
    Released, "released",
        "It is ours, and a person has released it: it is not mounted until it is taken back.",
        "Detach it, or take it back with disk-discovery release --cancel and its name, which the detail has.";
    NoName, "no-name",
        "No name is free or usable for it.",
        "See the detail.";
}

impl Reason {
    /// It concerns a disk that is or may be ours, so that a person is needed.
    pub fn is_about_ours(self) -> bool {
        [
            Self::DuplicateIdentity,
            Self::Copy,
            Self::ArrayMember,
            Self::SectorSize,
            Self::ClaimDamaged,
            Self::FilesystemDamaged,
            Self::DiskShrunk,
            Self::MountedElsewhere,
            Self::MountPathTaken,
        ]
        .contains(&self)
    }

    /// It is worth telling people who did not ask: a disk that was perhaps meant
    /// to be used is not. The rest is as anybody would expect, or passes.
    pub fn is_news(self) -> bool {
        match self {
            Self::DuplicateIdentity
            | Self::Copy
            | Self::ArrayMember
            | Self::SectorSize
            | Self::SystemDiskUnresolved
            | Self::ReadOnly
            | Self::Busy
            | Self::Unreadable
            | Self::ProbeFailed
            | Self::NotAnswering
            | Self::Signature
            | Self::AmbivalentSignatures
            | Self::ResidualData
            | Self::SourcesDisagree
            | Self::ClaimDamaged
            | Self::FilesystemDamaged
            | Self::AnotherNode
            | Self::NotAdopted
            | Self::NamelessLonghornDisk
            | Self::DiskShrunk
            | Self::MountedElsewhere
            | Self::MountPathTaken
            | Self::Partitioned
            | Self::NoName => true,
            Self::Partition
            | Self::UnsupportedKind
            | Self::HiddenPath
            | Self::SystemDisk
            | Self::LonghornVolume
            | Self::NetworkTransport
            | Self::UnknownTransport
            | Self::Removable
            | Self::CsiVolume
            | Self::Denied
            | Self::NotAllowed
            | Self::TooSmall
            | Self::Frozen
            | Self::DiskLimit
            | Self::FormatLimit
            | Self::Mounted
            | Self::Swap
            | Self::Stacked
            | Self::MultipathMember
            | Self::UdevPending
            | Self::Released => false,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

/// A reason and what it was seen by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// What was found, for a signature: `ext4`.
    pub kind: Option<String>,
    /// Particulars: a path, a type, an error; may be empty.
    pub detail: String,
}

impl Refusal {
    /// With particulars.
    pub fn new(reason: Reason, detail: impl fmt::Display) -> Self {
        Self {
            reason,
            kind: None,
            detail: detail.to_string(),
        }
    }

    /// For a known format, with where it was found.
    pub fn signature(kind: &str, detail: impl fmt::Display) -> Self {
        Self {
            kind: Some(kind.to_owned()),
            ..Self::new(Reason::Signature, detail)
        }
    }

    /// The code; for a signature with its type, as in `signature:ext4`.
    pub fn code(&self) -> String {
        match &self.kind {
            Some(kind) => format!("{}:{kind}", self.reason),
            None => self.reason.to_string(),
        }
    }
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self {
            reason,
            kind: None,
            detail: String::new(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.detail.is_empty() {
            f.write_str(&self.code())
        } else {
            write!(f, "{}: {}", self.code(), self.detail)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_are_unique_and_kebab_case_and_each_has_a_sentence_of_both_kinds() {
        let codes: BTreeSet<&str> = Reason::ALL.iter().map(|reason| reason.code()).collect();
        assert_eq!(codes.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert!(
                reason
                    .code()
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c == '-'),
                "{reason}"
            );
            for sentence in [reason.explanation(), reason.advice()] {
                assert!(
                    sentence.ends_with('.') && sentence.len() > 12,
                    "{reason}: {sentence}"
                );
            }
        }
    }

    #[test]
    fn a_signature_names_its_type_in_the_code() {
        assert_eq!(Refusal::signature("ext4", "").to_string(), "signature:ext4");
        assert_eq!(
            Refusal::signature("ext4", "a copy at byte 1").code(),
            "signature:ext4"
        );
        assert_eq!(Refusal::new(Reason::Mounted, "/data").code(), "mounted");
    }
}
