//! `longhorn-disk.cfg`: what a filesystem says of Longhorn decides whether a
//! disk is adopted, and under which name.

use disk_discovery::observe::longhorn_disk::{LonghornDisk, parse};
use serde_json::Value;

pub fn check(input: &[u8]) {
    let found = parse(input);
    let said = serde_json::from_slice::<Value>(input);
    match found {
        LonghornDisk::None => panic!("the file was there"),
        LonghornDisk::Nameless => {}
        LonghornDisk::Named { uuid, name } => {
            // Never out of nothing: a disk without a UUID takes replicas of others.
            let said = said.expect("it is JSON");
            assert!(!uuid.trim().is_empty());
            assert_eq!(said["diskUUID"], uuid.as_str());
            assert_eq!(said["diskName"].as_str(), name.as_deref());
        }
    }
}
