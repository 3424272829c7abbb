//! Keeps the annotation of the Kubernetes Node as it should be: looked at when
//! what it should say changes, and now and then.

use std::time::{Duration, Instant};

use super::{
    super::{api::Failure, audit::Facts, default_disks, finding::Finding},
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
    /// What it says, as last written or found.
    says: Option<Option<String>>,
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
    pub(super) fn due(&self) -> Option<Instant> {
        self.again.filter(|_| self.on)
    }

    /// Whether it says what it should, or is not asked for: a disk that it
    /// still names must not be removed.
    pub(super) fn is_current(&self, facts: &Facts<'_>) -> bool {
        !self.on || self.says.as_ref() == Some(&default_disks::wanted(facts))
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
        let wanted = default_disks::wanted(facts);
        let soon = self.again.is_some_and(|again| now < again);
        if soon && (self.says.is_none() || self.says.as_ref() == Some(&wanted)) {
            return false;
        }
        match make(api, wanted.as_deref()).await {
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

async fn make(api: &mut Connection, wanted: Option<&str>) -> Result<Option<Finding>, Failure> {
    let node = api.kubernetes_node().await?.metadata;
    let version = node.resource_version.unwrap_or_default();
    let patch = default_disks::patch(wanted, node.annotations.as_ref(), &version);
    if let Some(patch) = patch {
        api.patch_kubernetes_node(&patch).await?;
    }
    Ok(match wanted {
        Some(_) => default_disks::ignored(node.labels.as_ref()),
        None => None,
    })
}
