//! Whether what became of a state is what is promised.

use crate::state::State;

/// A disk's file, before the agent was started and after it ended.
#[derive(Debug)]
pub struct Before {
    /// Of all its bytes.
    pub digest: String,
    /// Nothing but zeroes.
    pub blank: bool,
    /// Some sector of a committed table is there.
    pub committed: bool,
    /// What tells one mkfs from another.
    pub birth: Vec<u8>,
}

/// A state and what became of it.
#[derive(Debug)]
pub struct Seen {
    /// The state.
    pub state: State,
    /// Name of the claim.
    pub wanted: String,
    /// GUID of its partition.
    pub guid: String,
    /// Whether the user's files are durable in it.
    pub needs: [bool; 2],
    /// Name that the agent gives it.
    pub name: String,
    /// The agent's verdict.
    pub verdict: String,
    /// Its reason, if there is one.
    pub reason: String,
    /// Whether the agent has mounted it.
    pub mounted: bool,
    /// Whether the user's files are there, as they were.
    pub has: [bool; 2],
    /// Writes that were sent to it.
    pub writes: u64,
    /// Before.
    pub before: Before,
    /// After.
    pub after: Before,
    /// UUID of the filesystem on it.
    pub uuid: String,
    /// What the filesystem's own checker says.
    pub check: Result<(), String>,
    /// What the agent logged of it.
    pub log: Vec<String>,
}

/// What became of a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// Mounted, as it should be.
    Recovered,
    /// Without its journal entry it is left alone, as it was.
    Refused,
    /// Nothing is lost, but it is not mounted.
    Stuck(String),
    /// Something is lost, or was changed that must not be.
    Harmed(String),
}

impl Ending {
    /// Whether it is one that is promised.
    pub fn is_good(&self) -> bool {
        match self {
            Self::Recovered | Self::Refused => true,
            Self::Stuck(_) | Self::Harmed(_) => false,
        }
    }
}

impl Seen {
    /// Judges it.
    pub fn ending(&self) -> Ending {
        let harm = self.harm();
        if !harm.is_empty() {
            return Ending::Harmed(self.told(&harm.join("; ")));
        }
        if self.mounted {
            return Ending::Recovered;
        }
        if self.verdict == "refused" && !self.state.journal {
            return Ending::Refused;
        }
        Ending::Stuck(self.told("not mounted"))
    }

    fn harm(&self) -> Vec<String> {
        let mut harm = Vec::new();
        if !self.mounted {
            if self.verdict == "refused" && !self.state.journal {
                if self.before.digest != self.after.digest {
                    harm.push("refused, and yet another content".to_owned());
                }
                if self.writes != 0 {
                    harm.push(format!("refused, and yet {} writes", self.writes));
                }
            }
            return harm;
        }
        for (at, file) in ["durable", "second"].iter().enumerate() {
            if self.needs[at] && !self.has[at] {
                harm.push(format!("the file {file} is gone or another"));
            }
        }
        // A blank disk without an entry is a new one.
        let anew = self.before.blank && !self.state.journal;
        if self.name != self.wanted && !anew {
            harm.push(format!("its name is {}, not {}", self.name, self.wanted));
        }
        if self.uuid != self.guid && !anew {
            harm.push(format!("its UUID is {}, not {}", self.uuid, self.guid));
        }
        if self.before.committed && self.before.birth != self.after.birth {
            harm.push("formatted again after the commit".to_owned());
        }
        if let Err(text) = &self.check {
            harm.push(text.clone());
        }
        harm
    }

    fn told(&self, what: &str) -> String {
        format!(
            "{}: {what} ({} {})\n  {}",
            self.state,
            self.verdict,
            self.reason,
            self.log.join("\n  ")
        )
    }
}
