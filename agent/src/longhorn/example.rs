//! A node with disks, for tests.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{
    audit::Facts,
    disks::{OurDisk, Said},
    node::Node,
};
use crate::{fact::Fact, observe::longhorn_disk::LonghornDisk, units::DiskName};

pub fn name(text: &str) -> DiskName {
    text.parse().expect("a name")
}

/// A disk that is mounted.
pub fn disk(text: &str) -> OurDisk {
    OurDisk {
        name: name(text),
        path: format!("/mnt/longhorn/{text}"),
        mounted: Some("8:17".parse().expect("a number")),
        ailment: None,
        adopted: false,
        filesystem: "ext4",
        size: Some(12 << 30),
        rotational: None,
        transport: None,
    }
}

/// The entry that the agent makes for a disk.
pub fn entry(text: &str) -> Value {
    json!({
        "path": format!("/mnt/longhorn/{text}"), "diskType": "filesystem", "diskDriver": "",
        "allowScheduling": true, "evictionRequested": false, "storageReserved": 0, "tags": [],
    })
}

/// A Longhorn Node.
pub fn node(disks: Value, statuses: Value, annotations: Value) -> Node {
    serde_json::from_value(json!({
        "metadata": {"name": "k3s2", "resourceVersion": "7", "annotations": annotations},
        "spec": {"name": "k3s2", "allowScheduling": true, "disks": disks},
        "status": {"diskStatus": statuses},
    }))
    .expect("a node")
}

/// What is known of a host.
#[derive(Debug, Default)]
pub struct Scene {
    pub disks: Vec<OurDisk>,
    pub said: BTreeMap<DiskName, Said>,
    pub known: BTreeSet<DiskName>,
    pub released: BTreeSet<DiskName>,
    pub left: BTreeSet<DiskName>,
    pub occupied: BTreeSet<DiskName>,
    pub blind: bool,
}

impl Scene {
    pub fn with(disks: impl IntoIterator<Item = OurDisk>) -> Self {
        let disks: Vec<OurDisk> = disks.into_iter().collect();
        let known = disks.iter().map(|disk| disk.name.clone()).collect();
        let new = Said {
            config: Fact::Known(LonghornDisk::None),
            capacity: Fact::Known(1_000_000),
        };
        let said = disks.iter().map(|disk| (disk.name.clone(), new.clone()));
        Self {
            said: said.collect(),
            disks,
            known,
            ..Self::default()
        }
    }

    /// What Longhorn's file on a disk says.
    pub fn saying(mut self, text: &str, config: LonghornDisk) -> Self {
        let said = Said {
            config: Fact::Known(config),
            capacity: Fact::Known(1_000_000),
        };
        self.said.insert(name(text), said);
        self
    }

    pub fn facts<'a>(&'a self, node: &'a Node) -> Facts<'a> {
        Facts {
            node,
            disks: &self.disks,
            said: &self.said,
            known: &self.known,
            released: &self.released,
            left: &self.left,
            occupied: &self.occupied,
            mount_root: "/mnt/longhorn",
            complete: !self.blind,
        }
    }
}
