//! How registering stands, in the form that is shown.

use std::collections::BTreeMap;

use serde::Serialize;

use super::finding::{Finding, FindingRow};

/// How registering stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// In a word.
    pub state: State,
    /// Why nothing can be written, where that is so.
    pub waiting: Option<String>,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// Requests that were made to write, by kind and outcome.
    pub requests: BTreeMap<(&'static str, &'static str), u64>,
    /// Events that were given up because too many waited.
    pub dropped_events: u64,
    /// Number of the last round that all of this takes account of.
    pub round: u64,
}

/// How registering stands, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Longhorn is not asked for.
    Off,
    /// Mode observe: nothing is written.
    Observing,
    /// Longhorn's Node of this name is not seen.
    NoNode,
    /// Another agent speaks for this node.
    AnotherAgent,
    /// Something is to be written, and cannot be yet.
    Pending,
    /// The Node has all that it should have.
    Current,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 6] = [
        Self::Off,
        Self::Observing,
        Self::NoNode,
        Self::AnotherAgent,
        Self::Pending,
        Self::Current,
    ];

    /// As it is shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Observing => "observing",
            Self::NoNode => "no-node",
            Self::AnotherAgent => "another-agent",
            Self::Pending => "pending",
            Self::Current => "current",
        }
    }
}

impl Status {
    /// Nothing is known yet.
    pub fn begin(state: State) -> Self {
        Self {
            state,
            waiting: None,
            findings: Vec::new(),
            requests: BTreeMap::new(),
            dropped_events: 0,
            round: 0,
        }
    }

    /// As `/v1/disks` shows it.
    pub fn row(&self) -> StatusRow {
        StatusRow {
            state: self.state,
            waiting: self.waiting.clone(),
            findings: self.findings.iter().map(FindingRow::from).collect(),
        }
    }
}

/// As `/v1/disks` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusRow {
    /// In a word.
    pub state: State,
    /// Why nothing can be written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<String>,
    /// What is wrong; empty when all is well.
    pub findings: Vec<FindingRow>,
}
