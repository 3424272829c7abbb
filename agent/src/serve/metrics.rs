//! `/metrics`: the last round and the checks of `/readyz`, as Prometheus reads
//! them.
//!
//! All of it is told anew at each scrape from what the loop handed out; nothing
//! is counted or kept here. [`Family`] is the vocabulary, which the document for
//! operators repeats. Another part of the agent adds its families there and its
//! samples in [`Scrape::of`].

use std::{collections::BTreeMap, fmt};

use axum::{
    extract,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text::encode},
    metrics::MetricType,
    registry::Registry,
};

use super::{
    Shared,
    health::{checks, trouble},
    text,
};
use crate::{
    config::Mode,
    decide::{Verdict, VerdictKind},
    longhorn::{
        finding::Kind,
        status::{State, Status},
    },
    report::{Round, degraded},
};

const PREFIX: &str = "disk_discovery";
/// What the crate writes; Prometheus asks for it first.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

macro_rules! families {
    ($($variant:ident, $kind:ident, $name:literal, $labels:expr, $help:literal;)*) => {
        /// Samples of one name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Family {
            $(#[doc = $help] $variant,)*
        }

        impl Family {
            /// Every family there is, in the order in which they are shown.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Without prefix and ending.
            fn stem(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            fn kind(self) -> Type {
                match self { $(Self::$variant => Type::$kind,)* }
            }

            /// What its samples differ in.
            pub fn labels(self) -> &'static [&'static str] {
                match self { $(Self::$variant => &$labels,)* }
            }

            /// What it means, in one sentence.
            pub fn help(self) -> &'static str {
                match self { $(Self::$variant => $help,)* }
            }
        }
    };
}

families! {
    BuildInfo, Gauge, "build_info", ["version"], "Always 1; the label is the version of the agent.";
    Enforcing, Gauge, "enforcing", [], "Whether the agent provisions and mounts disks, or only looks.";
    Ready, Gauge, "ready", [], "Whether all is well, as /readyz says.";
    Check, Gauge, "check", ["check"], "Whether one check of /readyz is passed.";
    Degraded, Gauge, "degraded", ["state"], "1 for each degraded state that there is.";
    Rounds, Counter, "rounds", [], "Rounds finished since the agent was started.";
    LastRound, Gauge, "last_round_timestamp_seconds", [], "When the last round was finished.";
    LastRoundDuration, Gauge, "last_round_duration_seconds", [], "How long it took to look and to decide.";
    Disks, Gauge, "disks", ["verdict"], "Whole disks by verdict.";
    RefusedDisks, Gauge, "refused_disks", ["reason"], "Whole disks that are left alone, by reason.";
    DiskMounted, Gauge, "disk_mounted", ["disk"], "Whether a disk of ours, or an adopted one, is mounted in its place.";
    DiskAiling, Gauge, "disk_ailing", ["disk"], "Whether something is wrong with the filesystem of such a disk.";
    DeadMounts, Gauge, "dead_mounts", [], "Mounts that are left of disks that are gone.";
    OperationsFailing, Gauge, "operations_failing", [], "Disks on which the last attempt failed, or takes too long.";
    Registration, Gauge, "longhorn_registration", ["state"], "1 for how registering with Longhorn stands, 0 for all other states.";
    Findings, Gauge, "longhorn_findings", ["kind"], "What does not agree between the disks and what Longhorn has of them, by kind.";
    Requests, Counter, "longhorn_requests", ["request", "outcome"], "Requests to the API server by their outcome, besides those of the watch.";
    DroppedEvents, Counter, "longhorn_dropped_events", [], "Events that were given up because too many waited.";
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Gauge,
    Counter,
}

impl Family {
    /// The name of its samples.
    pub fn name(self) -> String {
        let ending = match self.kind() {
            Type::Gauge => "",
            Type::Counter => "_total",
        };
        format!("{PREFIX}_{}{ending}", self.stem())
    }
}

/// Everything that is told at one scrape. A map for each family: a sample that
/// came twice would make Prometheus refuse all of them.
#[derive(Debug, Default)]
struct Scrape {
    samples: BTreeMap<Family, BTreeMap<Vec<String>, f64>>,
}

impl Scrape {
    fn of(shared: &Shared) -> Self {
        let mut scrape = Self::default();
        scrape.agent(shared);
        scrape.longhorn(&shared.shown.registration.borrow());
        let round = shared.shown.rounds.borrow().clone();
        let number = round.as_ref().map_or(0, |round| round.cost.number);
        scrape.set(Family::Rounds, &[], whole(number));
        if let Some(round) = round {
            scrape.round(&round);
        }
        scrape
    }

    /// `values` are those of the family's labels.
    fn set(&mut self, family: Family, values: &[&str], number: f64) {
        *self.sample(family, values) = number;
    }

    fn add(&mut self, family: Family, values: &[&str]) {
        *self.sample(family, values) += 1.0;
    }

    fn sample(&mut self, family: Family, values: &[&str]) -> &mut f64 {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        let samples = self.samples.entry(family).or_default();
        samples.entry(values).or_default()
    }

    fn agent(&mut self, shared: &Shared) {
        self.set(Family::BuildInfo, &[env!("CARGO_PKG_VERSION")], 1.0);
        let enforcing = shared.settings.mode == Mode::Enforce;
        self.set(Family::Enforcing, &[], truth(enforcing));
        let checks = checks(shared);
        let ready = checks.iter().all(|check| check.ok);
        self.set(Family::Ready, &[], truth(ready));
        for check in checks {
            self.set(Family::Check, &[check.name], truth(check.ok));
        }
    }

    fn longhorn(&mut self, status: &Status) {
        for state in State::ALL {
            let is = truth(state == status.state);
            self.set(Family::Registration, &[state.name()], is);
        }
        for kind in Kind::ALL {
            self.set(Family::Findings, &[kind.code()], 0.0);
        }
        for finding in &status.findings {
            self.add(Family::Findings, &[finding.kind.code()]);
        }
        for ((request, outcome), number) in &status.requests {
            self.set(Family::Requests, &[request, outcome], whole(*number));
        }
        let dropped = whole(status.dropped_events);
        self.set(Family::DroppedEvents, &[], dropped);
    }

    fn round(&mut self, round: &Round) {
        for state in degraded(&round.inventory) {
            self.set(Family::Degraded, &[state.code], 1.0);
        }
        self.set(Family::LastRound, &[], whole(round.cost.finished_at));
        let seconds = whole(round.cost.micros) / 1e6;
        self.set(Family::LastRoundDuration, &[], seconds);
        self.disks(round);
        let dead = round.dead_mounts.len();
        self.set(Family::DeadMounts, &[], count(dead));
        let failing = round.operations.values().filter_map(trouble).count();
        self.set(Family::OperationsFailing, &[], count(failing));
    }

    fn disks(&mut self, round: &Round) {
        // A verdict that there is no disk for is told as well.
        for kind in VerdictKind::ALL {
            self.set(Family::Disks, &[kind.name()], 0.0);
        }
        let devices = &round.inventory.devices;
        let whole_disks = round.verdicts.iter().filter(|(name, _)| {
            let device = devices.get(*name);
            !device.is_some_and(|device| device.is_partition())
        });
        for (_, verdict) in whole_disks {
            self.add(Family::Disks, &[verdict.kind().name()]);
            let (name, mounted, ailment) = match verdict {
                Verdict::Managed(managed) => {
                    (&managed.claim.name, managed.mounted, &managed.ailment)
                }
                Verdict::Adopt(adopt) => (&adopt.name, adopt.mounted, &adopt.ailment),
                Verdict::Refused(refusal) => {
                    self.add(Family::RefusedDisks, &[refusal.reason.code()]);
                    continue;
                }
                Verdict::Provision(_) | Verdict::Resume(_) => continue,
            };
            self.set(Family::DiskMounted, &[name.as_str()], truth(mounted));
            let ailing = truth(ailment.is_some());
            self.set(Family::DiskAiling, &[name.as_str()], ailing);
        }
    }
}

fn truth(is: bool) -> f64 {
    if is { 1.0 } else { 0.0 }
}

/// Exact up to 2⁵³, which neither seconds nor rounds reach.
#[allow(clippy::cast_precision_loss, reason = "see above")]
fn whole(number: u64) -> f64 {
    number as f64
}

#[allow(clippy::cast_precision_loss, reason = "disks of one host")]
fn count(number: usize) -> f64 {
    number as f64
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (family, samples) in &self.samples {
            let kind = match family.kind() {
                Type::Gauge => MetricType::Gauge,
                Type::Counter => MetricType::Counter,
            };
            let mut metrics =
                encoder.encode_descriptor(family.stem(), family.help(), None, kind)?;
            for (values, number) in samples {
                if values.is_empty() {
                    write(&mut metrics, family.kind(), *number)?;
                } else {
                    let values = values.iter().map(String::as_str);
                    let labels: Vec<_> = family.labels().iter().copied().zip(values).collect();
                    let mut metric = metrics.encode_family(&labels)?;
                    write(&mut metric, family.kind(), *number)?;
                }
            }
        }
        Ok(())
    }
}

fn write(metric: &mut MetricEncoder<'_>, kind: Type, value: f64) -> fmt::Result {
    match kind {
        Type::Gauge => metric.encode_gauge(&value),
        Type::Counter => metric.encode_counter::<NoLabelSet, _, f64>(&value, None),
    }
}

/// What the last round saw, for Prometheus. Before the first one it tells of
/// the agent alone.
pub(super) async fn metrics(extract::State(shared): extract::State<Shared>) -> Response {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(Scrape::of(&shared)));
    let mut body = String::new();
    match encode(&mut body, &registry) {
        Ok(()) => (StatusCode::OK, [(header::CONTENT_TYPE, OPEN_METRICS)], body).into_response(),
        Err(error) => text(false, error.to_string()),
    }
}
