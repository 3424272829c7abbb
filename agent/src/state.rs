//! What the agent keeps on the host's own disk: see [`Journal`] and
//! [`Ledger`].

use std::path::Path;

use crate::{journal::Journal, ledger::Ledger};

/// Both, below one directory.
#[derive(Debug, Clone)]
pub struct State {
    /// What is about to be written.
    pub journal: Journal,
    /// What was done.
    pub ledger: Ledger,
}

impl State {
    /// Below the agent's state directory. Nothing is made yet.
    pub fn below(directory: &Path) -> Self {
        Self {
            journal: Journal::below(directory),
            ledger: Ledger::below(directory),
        }
    }
}
