//! What is wrong between this node's disks and what Longhorn has of them. One
//! vocabulary: the same codes in the JSON, the metrics, the summary and, in
//! another case, as reasons of Events.

use std::fmt;

use serde::Serialize;

use crate::units::DiskName;

/// Something that is not as it should be. It is told, and mended where that is
/// the agent's to do; a disk is never written to because of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// It is registered, and its filesystem is not mounted in its place.
    DiskMissing,
    /// Longhorn has not written `longhorn-disk.cfg`.
    ConfigMissing,
    /// `longhorn-disk.cfg` names no disk.
    ConfigWithoutUuid,
    /// `longhorn-disk.cfg` cannot be read.
    ConfigUnreadable,
    /// `longhorn-disk.cfg` names another disk than Longhorn has in its status.
    UuidMismatch,
    /// Another disk that is in use has its UUID.
    UuidElsewhere,
    /// Its name is registered with another path.
    PathMismatch,
    /// Its path is registered as something else than a filesystem.
    TypeMismatch,
    /// Longhorn's webhook will not have it.
    RegistrationRejected,
    /// Longhorn does not take notice of a change of disks.
    LonghornSilent,
    /// What the agent writes is taken back again and again.
    Overwritten,
    /// Another agent speaks for this node.
    AnotherAgent,
    /// The rights of the agent do not suffice.
    NotPermitted,
    /// The cluster does not keep the agent to its own node.
    NotConfined,
    /// What `node.longhorn.io/default-disks-config` asks for has no effect.
    DefaultDisksIgnored,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 15] = [
        Self::DiskMissing,
        Self::ConfigMissing,
        Self::ConfigWithoutUuid,
        Self::ConfigUnreadable,
        Self::UuidMismatch,
        Self::UuidElsewhere,
        Self::PathMismatch,
        Self::TypeMismatch,
        Self::RegistrationRejected,
        Self::LonghornSilent,
        Self::Overwritten,
        Self::AnotherAgent,
        Self::NotPermitted,
        Self::NotConfined,
        Self::DefaultDisksIgnored,
    ];

    /// Stable name.
    pub fn code(self) -> &'static str {
        match self {
            Self::DiskMissing => "disk-missing",
            Self::ConfigMissing => "config-missing",
            Self::ConfigWithoutUuid => "config-without-uuid",
            Self::ConfigUnreadable => "config-unreadable",
            Self::UuidMismatch => "uuid-mismatch",
            Self::UuidElsewhere => "uuid-elsewhere",
            Self::PathMismatch => "path-mismatch",
            Self::TypeMismatch => "type-mismatch",
            Self::RegistrationRejected => "registration-rejected",
            Self::LonghornSilent => "longhorn-silent",
            Self::Overwritten => "overwritten",
            Self::AnotherAgent => "another-agent",
            Self::NotPermitted => "not-permitted",
            Self::NotConfined => "not-confined",
            Self::DefaultDisksIgnored => "default-disks-ignored",
        }
    }

    /// Reason of the Event that tells of it.
    pub fn event(self) -> &'static str {
        match self {
            Self::DiskMissing => "DiskMissing",
            Self::ConfigMissing => "DiskConfigMissing",
            Self::ConfigWithoutUuid | Self::ConfigUnreadable => "DiskConfigInvalid",
            Self::UuidMismatch | Self::UuidElsewhere | Self::PathMismatch | Self::TypeMismatch => {
                "DiskMismatch"
            }
            Self::RegistrationRejected => "DiskRejected",
            Self::LonghornSilent => "LonghornSilent",
            Self::Overwritten => "RegistrationOverwritten",
            Self::AnotherAgent => "AnotherAgent",
            Self::NotPermitted => "NotPermitted",
            Self::NotConfined => "NotConfined",
            Self::DefaultDisksIgnored => "DefaultDisksIgnored",
        }
    }

    /// Reason of the Event that tells that it is over.
    pub fn event_when_over(self) -> &'static str {
        if self == Self::DiskMissing {
            "DiskReturned"
        } else {
            "Recovered"
        }
    }

    /// What it means.
    pub fn explanation(self) -> &'static str {
        match self {
            Self::DiskMissing => {
                "Longhorn has the disk registered, and it is not mounted in its place"
            }
            Self::ConfigMissing => {
                "Longhorn has not written its longhorn-disk.cfg to the disk, which it does within 30 s"
            }
            Self::ConfigWithoutUuid => {
                "the longhorn-disk.cfg on the disk names no disk, so that Longhorn may take it for any"
            }
            Self::ConfigUnreadable => "the longhorn-disk.cfg on the disk cannot be read",
            Self::UuidMismatch => {
                "the longhorn-disk.cfg on the disk names another disk than Longhorn expects under this name"
            }
            Self::UuidElsewhere => {
                "another disk that is in use has the UUID in the longhorn-disk.cfg of this one, which is not registered: Longhorn would take the one for the other"
            }
            Self::PathMismatch => "Longhorn has another path under the name of this disk",
            Self::TypeMismatch => "Longhorn has the path of this disk as a block device",
            Self::RegistrationRejected => "Longhorn's webhook rejects the registration",
            Self::LonghornSilent => {
                "Longhorn has not taken notice of the last change of disks for minutes, and takes no other"
            }
            Self::Overwritten => {
                "what the agent writes to the Longhorn Node is taken back each time"
            }
            Self::AnotherAgent => {
                "another agent speaks for this node, so this one registers nothing"
            }
            Self::NotPermitted => "the API server refuses the agent what it needs",
            Self::NotConfined => {
                "the cluster would let this agent change the disks of other nodes as well"
            }
            Self::DefaultDisksIgnored => {
                "the disks are named in node.longhorn.io/default-disks-config, and Longhorn does not read it"
            }
        }
    }

    /// What a person can do.
    pub fn advice(self) -> &'static str {
        match self {
            Self::DiskMissing => {
                "bring the disk back; or, when it is lost, remove its entry from the Longhorn Node"
            }
            Self::ConfigMissing => {
                "see whether longhorn-manager runs on this node, and what it says of the disk"
            }
            Self::ConfigWithoutUuid => {
                "if the directory replicas is empty or absent and the status of the disk has no UUID, remove the file: Longhorn writes a new one"
            }
            Self::ConfigUnreadable => "see the log of the agent, and whether the disk fails",
            Self::UuidMismatch => {
                "find out which disk belongs here: another filesystem is mounted, or the file was replaced"
            }
            Self::UuidElsewhere => {
                "detach it if it is a copy, or remove longhorn-disk.cfg and replicas from it to use it as a new disk; if it belongs here and the other one does not, remove the entry of that one from its Longhorn Node"
            }
            Self::PathMismatch => {
                "remove that entry from the Longhorn Node, or give it a name of its own"
            }
            Self::TypeMismatch => {
                "remove that entry from the Longhorn Node; the agent makes its own"
            }
            Self::RegistrationRejected => "mend what the message names; it is tried again then",
            Self::LonghornSilent => "see whether longhorn-manager runs on this node",
            Self::Overwritten => {
                "find out who writes the disks of this node, often a manifest in Git, and have it leave them alone"
            }
            Self::AnotherAgent => {
                "see that each agent has the name of its own node, and that one agent runs on each"
            }
            Self::NotPermitted => {
                "apply the Role and the admission policy that come with the agent"
            }
            Self::NotConfined => {
                "apply the admission policy that comes with the agent, on Kubernetes 1.30 or later"
            }
            Self::DefaultDisksIgnored => {
                "label the Kubernetes node node.longhorn.io/create-default-disk=config, or switch default-disks off"
            }
        }
    }

    /// Whether the node is not ready because of it. What concerns the cluster
    /// alone is told and does not make a node that works look broken.
    pub fn is_failure(self) -> bool {
        match self {
            Self::DiskMissing
            | Self::ConfigMissing
            | Self::ConfigWithoutUuid
            | Self::ConfigUnreadable
            | Self::UuidMismatch
            | Self::UuidElsewhere
            | Self::PathMismatch
            | Self::TypeMismatch
            | Self::RegistrationRejected
            | Self::Overwritten
            | Self::AnotherAgent
            | Self::NotPermitted => true,
            Self::LonghornSilent | Self::NotConfined | Self::DefaultDisksIgnored => false,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// A finding, about a disk or the whole node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// About which disk; absent for the node.
    pub disk: Option<DiskName>,
    /// What it is.
    pub kind: Kind,
    /// Particulars.
    pub detail: String,
}

impl Finding {
    /// About a disk.
    pub fn of(disk: &DiskName, kind: Kind, detail: impl Into<String>) -> Self {
        Self {
            disk: Some(disk.clone()),
            kind,
            detail: detail.into(),
        }
    }

    /// About the node.
    pub fn of_node(kind: Kind, detail: impl Into<String>) -> Self {
        Self {
            disk: None,
            kind,
            detail: detail.into(),
        }
    }

    /// What it is about and what it is: the same finding with other particulars
    /// is no new one.
    pub fn key(&self) -> (Option<DiskName>, Kind) {
        (self.disk.clone(), self.kind)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(disk) = &self.disk {
            write!(f, "{disk}: ")?;
        }
        write!(f, "{}", self.kind)?;
        if !self.detail.is_empty() {
            write!(f, " ({})", self.detail)?;
        }
        Ok(())
    }
}

/// As `/v1/disks` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FindingRow {
    /// Name of the disk; absent for the node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<String>,
    /// Code.
    pub code: &'static str,
    /// Particulars.
    pub detail: String,
    /// What it means.
    pub explanation: &'static str,
    /// What a person can do.
    pub advice: &'static str,
}

impl From<&Finding> for FindingRow {
    fn from(finding: &Finding) -> Self {
        Self {
            disk: finding.disk.as_ref().map(ToString::to_string),
            code: finding.kind.code(),
            detail: finding.detail.clone(),
            explanation: finding.kind.explanation(),
            advice: finding.kind.advice(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_kind_has_a_code_of_its_own_and_an_event_that_kubernetes_takes() {
        let codes: BTreeSet<&str> = Kind::ALL.iter().map(|kind| kind.code()).collect();
        assert_eq!(codes.len(), Kind::ALL.len());
        for kind in Kind::ALL {
            let event = kind.event();
            assert!(event.chars().all(|letter| letter.is_ascii_alphanumeric()));
            assert!(event.starts_with(|letter: char| letter.is_ascii_uppercase()));
        }
    }
}
