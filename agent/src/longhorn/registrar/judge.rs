//! What a step of the registrar finds wrong, and what it wants to write.

use std::{collections::BTreeSet, time::Instant};

use super::{
    super::{
        audit::audit,
        disks::is_mounted,
        finding::{Finding, Kind},
        node::Node,
        owner::{ANSWER, Asked, Owner, owner},
        register::{self, Change, SUMMARY},
        summary::Summary,
    },
    Registrar,
    leaving::Wanted,
    picture::Picture,
};
use crate::config::Mode;

/// What a step finds.
pub(super) struct Judgement {
    pub findings: Vec<Finding>,
    pub change: Change,
    pub owner: Owner,
    /// The part of the change that is for disks that leave or return.
    pub wanted: Wanted,
    /// That part was rejected a while ago, and is left out.
    pub rejected: bool,
}

impl Registrar {
    /// What is wrong, what is to be written, and for whom.
    pub(super) fn judge(&mut self, node: &Node, picture: &Picture, now: Instant) -> Judgement {
        let facts = picture.facts(node, &self.settings.mount_root);
        let terms = &self.settings.terms;
        let generation = node.metadata.generation;
        let mut new = register::change(&facts, &[], terms, &BTreeSet::new()).added;
        let all = new.clone();
        new.retain(|disk| !self.writes.has_rejected(disk, generation, now));
        let doubles = self.doubles.hold(&facts, &new, now);
        let mut seen = audit(&facts);
        seen.extend(self.doubles.findings(now));
        let (mut findings, due) = self.symptoms.lasting(seen, now);
        let asked = match self.question {
            None => Asked::No,
            Some((at, false)) => Asked::Since(now.duration_since(at) * self.settings.hurry),
            Some((at, true)) => Asked::Answered(now.duration_since(at) * self.settings.hurry),
        };
        let owner = owner(node, &self.settings.agent, asked);
        if let Owner::Other(other) = &owner {
            if let Some((at, answered)) = &mut self.question
                && !*answered
            {
                (*at, *answered) = (now, true);
            }
            let me = &self.settings.agent;
            let detail = format!("agent {other}, this one is {me}");
            findings.push(Finding::of_node(Kind::AnotherAgent, detail));
        }
        findings.extend(self.confinement.finding());
        findings.extend(self.order.finding());
        let held = self.writes.held_back(&all, &doubles, generation, now);
        let mut change = register::change(&facts, &findings, terms, &held);
        self.verify(&mut change, picture);
        let (mut wanted, mut rejected) = (Wanted::default(), false);
        let speaks = owner.is_me() && !self.confinement.is_elsewhere();
        if !speaks {
            self.leaving.wait("another agent speaks for this node");
        } else if self.settings.mode == Mode::Enforce
            && let Some(standing) = &picture.standing
        {
            let may_remove = self.order.is_current(&facts);
            wanted = self.leaving.step(&facts, standing, may_remove);
            let mut joined = change.clone();
            wanted.join(&mut joined);
            // What is rejected of a release keeps no disk from being registered.
            rejected = self.writes.is_rejected(&joined, generation, now);
            if rejected {
                wanted = wanted.unwritten();
            } else {
                change = joined;
            }
            self.wake(wanted.again);
        }
        if owner.is_me() {
            let summarised: Vec<Finding> = findings
                .iter()
                .cloned()
                .chain(self.writes.findings(now))
                .collect();
            self.summarise(node, picture, &summarised, &mut change, now);
        }
        if owner.is_me() || matches!(owner, Owner::Ask(_)) {
            register::claim(&owner, &self.settings.agent, &mut change);
        } else {
            change = Change::default();
        }
        self.wake(due);
        if matches!(owner, Owner::Waiting(_)) {
            let wait = ANSWER / self.settings.hurry;
            self.wake(self.question.map(|(at, _)| at + wait));
        }
        Judgement {
            findings,
            change,
            owner,
            wanted,
            rejected,
        }
    }

    /// Drops entries of disks that are not mounted at this very moment, and
    /// leaves those of them switched off that are, whatever the round saw.
    fn verify(&self, change: &mut Change, picture: &Picture) {
        change.keep_mounted(&picture.disks, |disk| {
            let there = |devno| is_mounted(&self.settings.host, &disk.path, devno);
            disk.mounted.is_some_and(there)
        });
    }

    fn summarise(
        &mut self,
        node: &Node,
        picture: &Picture,
        findings: &[Finding],
        change: &mut Change,
        now: Instant,
    ) {
        let summary = Summary::of(&picture.round, &picture.disks, findings, self.settings.mode);
        let line = summary.line();
        let annotations = node.metadata.annotations.as_ref();
        if annotations.and_then(|all| all.get(SUMMARY)) == Some(&line) {
            self.writes.summary_is_current();
        } else if !change.is_empty() || self.writes.summary_is_due(&line, now) {
            change.annotations.insert(SUMMARY, Some(line));
        }
    }
}
