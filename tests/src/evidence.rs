//! What the agent read in a machine, to be decided on here.

use anyhow::{Context, Result};
use disk_discovery::{config::Options, decide::Policy, observe::Inventory};

use crate::Node;

/// Everything that the agent reads on a node at this moment, and the policy of
/// a configuration. Writes nothing. A look waits for no disk for long, so it
/// looks until all have answered.
///
/// # Errors
/// When the node does not answer, or a disk does not, or the configuration is
/// not one.
pub fn of(node: &mut Node, config: &str) -> Result<(Inventory, Policy)> {
    let mut found = None;
    node.wait_for("every disk answers", |node| {
        let text = node
            .vm
            .sh("disk-discovery plan -o evidence --config /etc/disk-discovery/config.yaml")?;
        found = Some(inventory(&text)?).filter(|found| found.not_answering.is_empty());
        Ok(found.is_some())
    })?;
    Ok((found.context("no evidence")?, policy(config)?))
}

/// Reads what `plan -o evidence` printed.
///
/// # Errors
/// When it is not that.
pub fn inventory(text: &str) -> Result<Inventory> {
    serde_json::from_str(text).context("the evidence is not understood")
}

/// The policy that a configuration leads to.
///
/// # Errors
/// When the configuration is not one.
pub fn policy(config: &str) -> Result<Policy> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), config)?;
    Ok(Options::from_file(file.path())?.into_settings()?.policy)
}
