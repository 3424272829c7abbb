//! Keeps the annotation of the Kubernetes Node as it should be: looked at when
//! what it should say changes, and now and then.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::{
    super::{
        api::Failure,
        audit::Facts,
        default_disks,
        finding::{Finding, Kind},
    },
    connection::Connection,
};

/// Others may change it, and it is not watched.
const AGAIN: Duration = Duration::from_mins(30);
/// Pause after a failure.
const PAUSE: Duration = Duration::from_mins(1);

#[derive(Debug)]
pub(super) struct StandingOrder {
    on: bool,
    hurry: u32,
    /// What it says of our disks, as last written or found.
    says: Option<Vec<Value>>,
    again: Option<Instant>,
    finding: Option<Finding>,
}

impl StandingOrder {
    pub(super) fn new(on: bool, hurry: u32) -> Self {
        Self {
            on,
            hurry,
            says: None,
            again: None,
            finding: None,
        }
    }

    /// What keeps it from having an effect.
    pub(super) fn finding(&self) -> Option<Finding> {
        self.finding.clone()
    }

    /// When to look again.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        self.again.filter(|again| self.on && *again > now)
    }

    /// Whether it says what it should, or is not asked for: a disk that it
    /// still names must not be removed.
    pub(super) fn is_current(&self, facts: &Facts<'_>) -> bool {
        !self.on || self.says.as_ref() == Some(&default_disks::ours(facts))
    }

    /// Makes it so. Whether that was news: a disk may be removed then.
    pub(super) async fn keep(
        &mut self,
        api: &mut Connection,
        facts: &Facts<'_>,
        now: Instant,
    ) -> bool {
        if !self.on || !facts.complete {
            return false;
        }
        let wanted = default_disks::ours(facts);
        let soon = self.again.is_some_and(|again| now < again);
        if soon && (self.says.is_none() || self.says.as_ref() == Some(&wanted)) {
            return false;
        }
        match make(api, &wanted, facts).await {
            Ok(finding) => {
                self.finding = finding;
                let news = self.says.as_ref() != Some(&wanted);
                self.says = Some(wanted);
                self.again = Some(now + AGAIN / self.hurry);
                news
            }
            Err(failure) => {
                tracing::warn!(?failure, "the Kubernetes Node is not kept");
                self.says = None;
                self.again = Some(now + PAUSE / self.hurry);
                false
            }
        }
    }
}

async fn make(
    api: &mut Connection,
    ours: &[Value],
    facts: &Facts<'_>,
) -> Result<Option<Finding>, Failure> {
    let node = api.kubernetes_node().await?.metadata;
    let version = node.resource_version.unwrap_or_default();
    let annotations = node.annotations.as_ref();
    let patch = match default_disks::patch(ours, facts, annotations, &version) {
        Ok(patch) => patch,
        // Whatever it is, Longhorn does not follow it either.
        Err(why) => return Ok(Some(Finding::of_node(Kind::DefaultDisksIgnored, why))),
    };
    if let Some(patch) = patch {
        api.patch_kubernetes_node(&patch).await?;
    }
    Ok((!ours.is_empty())
        .then(|| default_disks::ignored(node.labels.as_ref()))
        .flatten())
}
