//! Requests of each agent, and what the process takes for them.

use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use cluster_fixtures::server::Seen;
use serde_json::{Value, json};

/// A part of the life of the fleet.
pub struct Phase {
    name: &'static str,
    /// By what is asked for; a figure for each agent.
    requests: BTreeMap<String, Vec<f64>>,
    agents: usize,
    /// The most requests of all agents within a second.
    pub peak: usize,
}

/// Smallest, middle and largest.
struct Spread {
    min: f64,
    median: f64,
    max: f64,
}

impl Phase {
    /// `times` is how often each request stands for itself. Requests of nobody in
    /// the fleet are not counted.
    pub fn new(
        name: &'static str,
        nodes: Vec<String>,
        seen: &[Seen],
        times: f64,
        peak: usize,
    ) -> Self {
        let agents = nodes.len();
        let places: BTreeMap<String, usize> = nodes.into_iter().zip(0..).collect();
        let mut requests = BTreeMap::<String, Vec<f64>>::new();
        for seen in seen {
            let figures = requests.entry(what(seen)).or_default();
            figures.resize(agents, 0.0);
            let place = places.get(&seen.node);
            if let Some(figure) = place.and_then(|place| figures.get_mut(*place)) {
                *figure += times;
            }
        }
        Self {
            name,
            requests,
            agents,
            peak,
        }
    }

    /// Of all requests of a kind, for each agent.
    fn sum(&self, counts: impl Fn(&str) -> bool) -> Vec<f64> {
        let mut sums = vec![0.0; self.agents];
        for (_, figures) in self.requests.iter().filter(|(what, _)| counts(what)) {
            for (sum, figure) in sums.iter_mut().zip(figures) {
                *sum += figure;
            }
        }
        sums
    }

    /// A line for each kind of request.
    pub fn print(&self) {
        println!(
            "{:12} {:36} {:>7} {:>7} {:>7}",
            self.name, "requests of an agent", "min", "median", "max"
        );
        let all = self.sum(|_| true);
        let lines = self
            .requests
            .iter()
            .map(|(what, figures)| (what.as_str(), figures));
        for (what, figures) in lines.chain([("all", &all)]) {
            let Spread { min, median, max } = spread(figures);
            println!("{:12} {what:36} {min:7.1} {median:7.1} {max:7.1}", "");
        }
    }

    /// Whether no agent made more requests of a kind than it may; says so.
    pub fn holds(&self, kind: &str, counts: impl Fn(&str) -> bool, may: f64) -> bool {
        let most = spread(&self.sum(counts)).max;
        let holds = most <= may;
        let outcome = if holds { "kept" } else { "EXCEEDED" };
        println!(
            "budget {outcome}: {}, {kind} {most:.0} of {may:.0}",
            self.name
        );
        holds
    }

    /// The figures for a program.
    pub fn record(&self) -> Value {
        let all = self.sum(|_| true);
        let writes = self.sum(is_write);
        let told = |figures: &[f64]| {
            let Spread { min, median, max } = spread(figures);
            json!({"min": min, "median": median, "max": max})
        };
        let requests: BTreeMap<&String, Value> = self
            .requests
            .iter()
            .map(|(what, figures)| (what, told(figures)))
            .collect();
        json!({
            "name": self.name, "requests": requests, "all": told(&all), "writes": told(&writes),
        })
    }
}

fn spread(figures: &[f64]) -> Spread {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |place: usize| sorted.get(place).copied().unwrap_or_default();
    Spread {
        min: at(0),
        median: at(sorted.len() / 2),
        max: at(sorted.len().saturating_sub(1)),
    }
}

fn what(seen: &Seen) -> String {
    let (verb, resource) = (&seen.verb, &seen.resource);
    let trial = if seen.query.contains("dryRun=All") {
        " (dry run)"
    } else {
        ""
    };
    let refused = match seen.status {
        409 => " (conflict)",
        _ => "",
    };
    format!("{verb} {resource}{trial}{refused}")
}

/// Whether such a request changes something, or would.
pub fn is_write(what: &str) -> bool {
    let reads = ["get ", "list ", "watch "];
    !reads.iter().any(|verb| what.starts_with(verb))
}

/// The most requests within a second.
#[derive(Debug, Default)]
pub struct Peak {
    counts: VecDeque<(Instant, usize)>,
    /// As many.
    pub most: usize,
}

impl Peak {
    /// How many have come in all by now.
    pub fn note(&mut self, count: usize) {
        let now = Instant::now();
        self.counts.push_back((now, count));
        while let Some((at, _)) = self.counts.front()
            && now.duration_since(*at) > Duration::from_secs(1)
        {
            self.counts.pop_front();
        }
        if let Some((_, before)) = self.counts.front() {
            self.most = self.most.max(count - before);
        }
    }
}

/// Seconds of processor time of the threads of this process that have a name.
pub fn thread_time(name: &str) -> Result<f64> {
    let mut nanoseconds: u64 = 0;
    for task in fs::read_dir("/proc/self/task")? {
        let task = task?.path();
        // A thread that has ended since.
        let Ok(known) = fs::read_to_string(task.join("comm")) else {
            continue;
        };
        if known.trim_end() == name {
            let times = fs::read_to_string(task.join("schedstat"))?;
            let running = times.split_whitespace().next().context("no times")?;
            nanoseconds += running.parse::<u64>()?;
        }
    }
    Ok(Duration::from_nanos(nanoseconds).as_secs_f64())
}

/// MiB of memory of this process, by a line of its status.
pub fn resident(line: &str) -> Result<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let value = status.lines().find_map(|text| text.strip_prefix(line));
    let value = value
        .and_then(|text| text.strip_prefix(':'))
        .context("no such line")?;
    let kilobytes = value.split_whitespace().next().context("no figure")?;
    Ok(kilobytes.parse::<f64>()? / 1024.0)
}
