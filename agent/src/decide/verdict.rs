//! The decision on a device, as data.

use serde::Serialize;
use uuid::Uuid;

use super::{Growth, Refusal};
use crate::{
    approval::Token,
    claim::ClaimId,
    units::{DiskName, Filesystem},
};

/// The decision on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It carries our committed claim.
    Managed(Managed),
    /// It looks blank and may be provisioned, after the proof on the open disk.
    Provision(Provision),
    /// We began and were interrupted.
    Resume(Resume),
    /// It was made elsewhere or by others, and is mounted as it is.
    Adopt(Adopt),
    /// It is left alone.
    Refused(Refusal),
}

/// A disk of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Managed {
    /// Its claim.
    pub claim: ClaimId,
    /// What its partition holds.
    pub filesystem: Filesystem,
    /// Mounted where it belongs.
    pub mounted: bool,
    /// What is wrong with its filesystem while it is mounted.
    pub ailment: Option<String>,
    /// What becomes of room that it has and does not use.
    pub growth: Option<Growth>,
}

/// A disk that is mounted although this node's agent has not made it. It is
/// never formatted, and its table is never written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adopt {
    /// UUID of its filesystem.
    pub uuid: Uuid,
    /// Its name on this node, for life.
    pub name: DiskName,
    /// What its partition holds.
    pub filesystem: Filesystem,
    /// Whose it was.
    pub from: Source,
    /// Mounted where it belongs.
    pub mounted: bool,
    /// What is wrong with its filesystem while it is mounted.
    pub ailment: Option<String>,
}

/// Where a disk comes from that is adopted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// From an agent, as its committed claim says: of another node, or of this
    /// one before another disk got its name.
    Claim(ClaimId),
    /// From Longhorn, as its `longhorn-disk.cfg` says.
    Longhorn,
}

/// A disk that may be provisioned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provision {
    /// Its name for life.
    pub name: DiskName,
    /// What it is given.
    pub filesystem: Filesystem,
    /// The claim that an earlier start journalled and never wrote: it is used
    /// now, so that its name is not lost.
    pub begun: Option<ClaimId>,
    /// The approval by which a disk is taken that is not blank.
    pub approval: Option<Token>,
}

/// A disk whose provisioning is finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resume {
    /// The claim that it carries already.
    pub claim: ClaimId,
    /// What it is given.
    pub filesystem: Filesystem,
}

/// What a verdict comes down to, for people and machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum VerdictKind {
    /// [`Verdict::Managed`].
    Managed,
    /// [`Verdict::Provision`].
    Provision,
    /// [`Verdict::Resume`].
    Resume,
    /// [`Verdict::Adopt`].
    Adopt,
    /// [`Verdict::Refused`].
    Refused,
}

impl VerdictKind {
    /// Every kind there is.
    pub const ALL: &[Self] = &[
        Self::Managed,
        Self::Provision,
        Self::Resume,
        Self::Adopt,
        Self::Refused,
    ];

    /// As it is shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Managed => "managed",
            Self::Provision => "provision",
            Self::Resume => "resume",
            Self::Adopt => "adopt",
            Self::Refused => "refused",
        }
    }
}

impl Verdict {
    /// Without its particulars.
    pub fn kind(&self) -> VerdictKind {
        match self {
            Self::Managed(_) => VerdictKind::Managed,
            Self::Provision(_) => VerdictKind::Provision,
            Self::Resume(_) => VerdictKind::Resume,
            Self::Adopt(_) => VerdictKind::Adopt,
            Self::Refused(_) => VerdictKind::Refused,
        }
    }

    /// The name for life, where there is one.
    pub fn disk_name(&self) -> Option<&DiskName> {
        match self {
            Self::Managed(managed) => Some(&managed.claim.name),
            Self::Provision(provision) => Some(&provision.name),
            Self::Resume(resume) => Some(&resume.claim.name),
            Self::Adopt(adopt) => Some(&adopt.name),
            Self::Refused(_) => None,
        }
    }
}
