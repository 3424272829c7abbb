//! The state of a node in a line of JSON on its Longhorn Node, so that one
//! `kubectl get` shows the fleet.
//!
//! It holds what changes seldom: no times, no figures that move, nothing about
//! work that is going on. As long as a node is at rest it is not written.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{disks::OurDisk, finding::Finding};
use crate::{config::Mode, decide::Verdict, report::Round};

/// Longer than this it never is, in bytes.
pub const LONGEST: usize = 4000;

/// The line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Of the agent.
    pub version: String,
    /// Whether it writes.
    pub mode: Mode,
    /// Nothing is wrong.
    pub ok: bool,
    /// Disks of ours that are there.
    pub disks: usize,
    /// Those that are mounted.
    pub mounted: usize,
    /// Disks that are left alone, by the code of the reason, as far as there is
    /// room for them.
    pub refused: BTreeMap<String, usize>,
    /// What is wrong, as far as there is room for it.
    pub problems: Vec<String>,
    /// How many more problems there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_problems: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl Summary {
    /// Of a round and what was found.
    pub fn of(round: &Round, disks: &[OurDisk], findings: &[Finding], mode: Mode) -> Self {
        let mut refused = BTreeMap::new();
        for (name, verdict) in &round.verdicts {
            let whole = round.inventory.devices.get(name);
            let whole = whole.is_some_and(|device| !device.is_partition());
            if let Verdict::Refused(refusal) = verdict
                && whole
                && refusal.reason.is_news()
            {
                *refused.entry(refusal.code()).or_insert(0) += 1;
            }
        }
        let mounted = disks.iter().filter(|disk| disk.mounted.is_some()).count();
        let problems: Vec<String> = findings
            .iter()
            .filter(|finding| finding.kind.is_failure())
            .map(|finding| match &finding.disk {
                Some(disk) => format!("{disk}: {}", finding.kind),
                None => finding.kind.to_string(),
            })
            .chain(disks.iter().filter_map(|disk| {
                let ailment = disk.ailment.as_ref()?;
                Some(format!("{}: {ailment}", disk.name))
            }))
            .collect();
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mode,
            ok: problems.is_empty(),
            disks: disks.len(),
            mounted,
            refused,
            problems,
            more_problems: 0,
        }
    }

    /// As a line. What there is no room for is counted.
    pub fn line(&self) -> String {
        let mut summary = self.clone();
        loop {
            let line = serde_json::to_string(&summary).unwrap_or_default();
            if line.len() <= LONGEST {
                return line;
            }
            if summary.problems.pop().is_some() {
                summary.more_problems += 1;
            } else if summary.refused.pop_last().is_none() {
                return String::new();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(problems: Vec<String>) -> Summary {
        Summary {
            version: "1".to_owned(),
            mode: Mode::Enforce,
            ok: problems.is_empty(),
            disks: 200,
            mounted: 200,
            refused: BTreeMap::new(),
            problems,
            more_problems: 0,
        }
    }

    #[test]
    fn two_hundred_disks_with_problems_fit_in_four_kilobytes() {
        let problems = (0..200).map(|n| format!("sd{n}: {}", "ä".repeat(n)));
        let mut summary = summary(problems.collect());
        summary.refused = (0..100)
            .map(|n| (format!("signature:type-{n}"), 1))
            .collect();
        let line = summary.line();
        assert!(line.len() <= LONGEST && !line.contains('\n'), "{line}");
        let back: Summary = serde_json::from_str(&line).expect("JSON");
        assert_eq!(back.problems.len() + back.more_problems, 200);
        assert!(!back.ok && !back.problems.is_empty());
    }

    #[test]
    fn a_node_without_problems_says_so_in_a_short_line() {
        let line = summary(Vec::new()).line();
        assert!(line.len() < 160 && line.contains(r#""ok":true"#), "{line}");
    }
}
