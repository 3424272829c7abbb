//! Definitions of Longhorn's objects.

use std::{env, fs, path::PathBuf};

use serde_json::Value;

/// Names the file with the published definition of Longhorn's Node.
const VARIABLE: &str = "DISK_DISCOVERY_LONGHORN_CRD";
/// Where it lies beside the repository.
const BESIDE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../../shared/longhorn/nodes.longhorn.io-v1.12.1.yaml"
);

/// Longhorn's Node as Longhorn publishes it, from the file that
/// `DISK_DISCOVERY_LONGHORN_CRD` names or the one beside the repository; where
/// there is neither, with the same fields in words of our own.
///
/// # Panics
///
/// When the file that is named cannot be read.
#[must_use]
pub fn longhorn_node_crd() -> Value {
    let named = env::var_os(VARIABLE).map(PathBuf::from);
    let beside = || Some(PathBuf::from(BESIDE)).filter(|path| path.exists());
    match named.or_else(beside) {
        Some(path) => {
            let text = fs::read_to_string(&path);
            parsed(&text.unwrap_or_else(|e| panic!("{}: {e}", path.display())))
        }
        None => own_node_crd(),
    }
}

/// Longhorn's Node with the fields of version 1.12, where the published
/// definition is not at hand.
#[must_use]
pub fn own_node_crd() -> Value {
    parsed(include_str!("../../crds/nodes.longhorn.io.yaml"))
}

/// Longhorn's Replica, with what an agent may look at.
#[must_use]
pub fn longhorn_replica_crd() -> Value {
    parsed(include_str!("../../crds/replicas.longhorn.io.yaml"))
}

fn parsed(text: &str) -> Value {
    serde_saphyr::from_str(text).expect("a definition")
}
