//! Whether the cluster keeps this agent to its own node. Found out once, by
//! what the token is for and by trying, as a dry run, what the admission policy
//! forbids: rights alone cannot tell one node's agent from another's.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{
    super::{
        api::Failure,
        finding::{Finding, Kind},
    },
    connection::Connection,
};

/// Label that the admission policy lets no agent write.
const PROBE: &str = "disk-discovery/probe";
/// Name of the admission policy, which its refusals give.
const POLICY: &str = "disk-discovery-own-node";
/// Pause before the question is put again when there was no clear answer; it
/// doubles each time,
const AGAIN: Duration = Duration::from_mins(1);
/// up to this.
const LONGEST: Duration = Duration::from_hours(1);

/// What was found out.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Found {
    /// Not asked yet, or there was no clear answer.
    Nothing,
    /// What it must not do was refused.
    Kept,
    /// Why not.
    NotKept(String),
    /// The token is another node's.
    Elsewhere(String),
}

#[derive(Debug)]
pub(super) struct Confinement {
    found: Found,
    again: Option<Instant>,
    times: u32,
    hurry: u32,
}

impl Confinement {
    pub(super) fn unknown(hurry: u32) -> Self {
        Self {
            found: Found::Nothing,
            again: None,
            times: 0,
            hurry,
        }
    }

    /// When to ask again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.again.filter(|_| self.found == Found::Nothing)
    }

    /// The API answers again after it did not.
    pub(super) fn reachable(&mut self) {
        (self.again, self.times) = (None, 0);
    }

    /// The agent runs on another node than the one that it was told, or with
    /// another's token: it writes nothing.
    pub(super) fn is_elsewhere(&self) -> bool {
        matches!(self.found, Found::Elsewhere(_))
    }

    pub(super) fn finding(&self) -> Option<Finding> {
        match &self.found {
            Found::Nothing | Found::Kept => None,
            Found::NotKept(why) => Some(Finding::of_node(Kind::NotConfined, why.clone())),
            Found::Elsewhere(node) => {
                let detail = format!("the token of this agent is bound to node {node}");
                Some(Finding::of_node(Kind::AnotherAgent, detail))
            }
        }
    }

    /// Asks, unless the answer is known or it is too soon.
    pub(super) async fn find_out(&mut self, api: &mut Connection, node: &str, now: Instant) {
        if self.found != Found::Nothing || self.again.is_some_and(|again| now < again) {
            return;
        }
        let factor = 1_u32.checked_shl(self.times.min(16)).unwrap_or(u32::MAX);
        self.times = self.times.saturating_add(1);
        let pause = AGAIN.saturating_mul(factor).min(LONGEST);
        self.again = Some(now + pause / self.hurry);
        if let Ok(found) = ask(api, node).await {
            self.found = found;
        }
    }
}

async fn ask(api: &mut Connection, node: &str) -> Result<Found, Failure> {
    let bound = match api.identity().await {
        Ok(identity) => identity.node,
        // Before Kubernetes 1.28 nobody could ask, and no token named a node. Who is
        // not allowed everything is then told that this is forbidden: rights are
        // looked at before it turns out that there is no such thing.
        Err(Failure::Absent | Failure::Forbidden(_)) => None,
        Err(failure) => return Err(failure),
    };
    match bound {
        None => {
            return Ok(Found::NotKept(
                "its token is not bound to a node".to_owned(),
            ));
        }
        Some(bound) if bound != node => return Ok(Found::Elsewhere(bound)),
        Some(_) => {}
    }
    let forbidden = json!({"metadata": {"labels": {PROBE: "true"}}});
    match api.probe(&forbidden).await {
        Ok(_) => Ok(Found::NotKept(
            "no admission policy holds it back".to_owned(),
        )),
        Err(Failure::Forbidden(why)) if why.contains(POLICY) => Ok(Found::Kept),
        Err(failure) => Err(failure),
    }
}
