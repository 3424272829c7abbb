//! What the agent keeps on the host's own disk: see [`Journal`] and
//! [`Ledger`].

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use uuid::Uuid;

use crate::{durable, journal::Journal, ledger::Ledger, text::chain};

/// Both, below one directory.
#[derive(Debug, Clone)]
pub struct State {
    /// What is about to be written.
    pub journal: Journal,
    /// What was done.
    pub ledger: Ledger,
    /// Who the agent of this host is.
    agent: PathBuf,
}

impl State {
    /// Below the agent's state directory. Nothing is made yet.
    pub fn below(directory: &Path) -> Self {
        Self {
            journal: Journal::below(directory),
            ledger: Ledger::below(directory),
            agent: directory.join("agent-id"),
        }
    }

    /// Names the agent of this host, the same after every start. Where that
    /// cannot be kept, this start has a name of its own: another agent of this
    /// host is asked whether it still lives, and is found not to.
    pub fn agent(&self) -> String {
        match fs::read_to_string(&self.agent) {
            Ok(text) => match text.trim().parse::<Uuid>() {
                Ok(known) => return known.to_string(),
                Err(error) => {
                    tracing::warn!(file = %self.agent.display(), %error, "replaced");
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(file = %self.agent.display(), %error, "cannot be read");
            }
        }
        let new = Uuid::new_v4().to_string();
        if let Err(error) = durable::write(&self.agent, format!("{new}\n").as_bytes()) {
            tracing::warn!(
                error = chain(&error),
                "the name of this agent cannot be kept"
            );
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_has_the_same_name_after_every_start_on_a_host() {
        let directory = tempfile::tempdir().expect("a directory");
        let state = State::below(directory.path());
        let name = state.agent();
        assert_eq!(state.agent(), name);
        fs::write(directory.path().join("agent-id"), "half a na").expect("written");
        let other = state.agent();
        assert_ne!(other, name);
        assert_eq!(state.agent(), other);
    }
}
