//! What the loop logs.

use std::collections::BTreeMap;

use super::Reconciler;
use crate::{
    decide::{Reason, Verdict},
    provision::{Done, Phase, ProvisionError},
    text::chain,
    workers::Overdue,
};

impl Reconciler {
    /// One line for each decision that changed.
    pub(super) fn log_changes(&self, verdicts: &BTreeMap<String, Verdict>) {
        for (disk, verdict) in verdicts {
            if self.verdicts.get(disk) == Some(verdict) {
                continue;
            }
            match verdict {
                Verdict::Refused(refusal) if refusal.reason == Reason::Partition => {}
                Verdict::Refused(refusal) => {
                    tracing::info!(
                        disk,
                        verdict = "refused",
                        reason = refusal.code(),
                        detail = refusal.detail,
                        "decided"
                    );
                }
                Verdict::Managed(managed) => {
                    tracing::info!(disk, verdict = "managed", name = %managed.claim.name, mounted = managed.mounted, ailment = managed.ailment, growth = managed.growth.as_ref().map(ToString::to_string), "decided");
                }
                Verdict::Adopt(adopt) => {
                    tracing::info!(disk, verdict = "adopt", name = %adopt.name, mounted = adopt.mounted, ailment = adopt.ailment, "decided");
                }
                Verdict::Provision(provision) => {
                    tracing::info!(disk, verdict = "provision", name = %provision.name, "decided");
                }
                Verdict::Resume(resume) => {
                    tracing::info!(disk, verdict = "resume", name = %resume.claim.name, "decided");
                }
            }
        }
        for disk in self
            .verdicts
            .keys()
            .filter(|disk| !verdicts.contains_key(*disk))
        {
            tracing::info!(disk, "gone");
        }
    }
}

pub(super) fn log_overdue(disk: &str, phase: Phase, overdue: Overdue) {
    match overdue {
        Overdue::Aside => {
            tracing::warn!(disk, ?phase, "takes long, the others are not kept waiting");
        }
        Overdue::InTheWay => {
            tracing::warn!(
                disk,
                ?phase,
                "takes long, and too many do: others wait for it"
            );
        }
    }
}

/// Logs how a job ended; why it failed, if it did.
pub(super) fn told(disk: &str, result: Result<Done, ProvisionError>) -> Option<String> {
    match result {
        Ok(Done::Mounted(mounted)) => {
            tracing::info!(disk, name = %mounted.name, path = %mounted.path.display(), "mounted");
            None
        }
        Ok(Done::Grown(grown)) => {
            tracing::info!(disk, name = %grown.claim.name, path = %grown.path.display(), bytes = grown.bytes, "grown");
            None
        }
        Err(error) => {
            let error = chain(&error);
            tracing::warn!(disk, error, "not finished, tried again later");
            Some(error)
        }
    }
}
