//! A fact that was read, or the reason why it could not be read.
//!
//! Every data-loss bug found in comparable agents has one shape: an error
//! became a default, and the default led to a destructive step. A [`Fact`]
//! therefore has no default and no method that turns an error into a value.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A value read from the system, or why it could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fact<T> {
    /// It was read and this is what it says.
    Known(T),
    /// It could not be read; nothing may be concluded from that.
    Unreadable(Unreadable),
}

/// What could not be read and why, in words for a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreadable {
    /// The file, attribute or call.
    pub what: String,
    /// The error as the system gave it.
    pub why: String,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}

impl<T> Fact<T> {
    /// An unreadable fact.
    pub fn unreadable(what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self::Unreadable(Unreadable {
            what: what.to_string(),
            why: why.to_string(),
        })
    }

    /// The value, or the reason why there is none.
    ///
    /// # Errors
    /// The [`Unreadable`] that stands in its place.
    pub fn known(&self) -> Result<&T, &Unreadable> {
        match self {
            Self::Known(value) => Ok(value),
            Self::Unreadable(why) => Err(why),
        }
    }

    /// True only when the value was read *and* the test holds: for evidence
    /// that speaks against a disk, where a missing fact proves nothing.
    pub fn is_known_and(&self, test: impl FnOnce(&T) -> bool) -> bool {
        match self {
            Self::Known(value) => test(value),
            Self::Unreadable(_) => false,
        }
    }

    /// Carries the error along while the value is changed.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Fact<U> {
        match self {
            Self::Known(value) => Fact::Known(change(value)),
            Self::Unreadable(why) => Fact::Unreadable(why),
        }
    }

    /// Carries the error along; the change itself may fail as well.
    pub fn and_then<U>(self, change: impl FnOnce(T) -> Fact<U>) -> Fact<U> {
        match self {
            Self::Known(value) => change(value),
            Self::Unreadable(why) => Fact::Unreadable(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreadable_fact_is_neither_true_nor_false() {
        let fact: Fact<bool> = Fact::unreadable("/sys/block/sda/ro", "permission denied");
        assert!(!fact.is_known_and(|ro| *ro));
        assert!(!fact.is_known_and(|ro| !*ro));
        assert!(fact.known().is_err());
    }
}
