//! Disks that the agent must leave alone, and how a test knows that it did.

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::Node;

/// What disks held and what had been written to them when this was noted.
#[derive(Debug)]
pub struct Untouched(Vec<State>);

/// A disk as its host sees it.
#[derive(Debug, PartialEq, Eq)]
struct State {
    name: String,
    content: String,
    /// The same content written again is a write too, and so is a discard.
    commands: Vec<(&'static str, Value)>,
}

impl State {
    fn of(node: &mut Node, name: &str) -> Result<Self> {
        let stats = node.vm.block_stats(name)?;
        let count = |key| (key, stats.get(key).cloned().unwrap_or_default());
        let commands = ["wr_operations", "wr_bytes", "unmap_operations"].map(count);
        ensure!(
            commands.iter().all(|(_, number)| number.is_u64()),
            "QEMU does not count what is written to {name}: {stats}"
        );
        Ok(Self {
            name: name.to_owned(),
            content: node.vm.digest(name)?,
            commands: commands.into(),
        })
    }
}

impl Untouched {
    /// Notes how these disks are, by their names in the test.
    ///
    /// # Errors
    /// When a disk cannot be read or QEMU counts nothing for it.
    pub fn note(node: &mut Node, names: &[&str]) -> Result<Self> {
        let states = names.iter().map(|name| State::of(node, name));
        states.collect::<Result<_>>().map(Self)
    }

    /// Checks that nothing was written since, not even what was there before.
    ///
    /// # Errors
    /// When something was; with what the agent logged.
    pub fn check(&self, node: &mut Node) -> Result<()> {
        for before in &self.0 {
            let after = State::of(node, &before.name)?;
            ensure!(
                *before == after,
                "{} was written to: {before:?} {after:?}\nlog:\n{}",
                before.name,
                node.log()?
            );
        }
        Ok(())
    }
}
