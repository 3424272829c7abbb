//! What a fleet of agents costs one API server: requests of each agent, counted
//! by the server, while they join, at rest, and for one more disk on each node,
//! held against the budget. Fails when the budget is exceeded.
//!
//! The API server, Longhorn and all agents are in this process: the server in
//! a thread, all agents in another. There are roles, the admission policy and
//! Longhorn's webhook, and the connections are encrypted.

#![allow(
    clippy::expect_used,
    reason = "a bench that cannot go on should say so and stop"
)]

mod figures;
mod longhorn;

use std::{
    fs,
    path::PathBuf,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use cluster_fixtures::{
    host::{Agent, AgentOptions, SimulatedHost},
    longhorn_cluster::{LonghornCluster, manifests},
    server::Options,
};
use disk_discovery::longhorn::{View, status::State};
use figures::{Peak, Phase, is_write, resident, thread_time};
use longhorn::Longhorn;
use serde_json::{Value, json};

/// Requests of an agent from its start until it has nothing more to do.
const JOIN: f64 = 6.0;
/// Requests of an agent in an hour in which nothing happens.
const HOUR: f64 = 60.0;
/// Requests of an agent that change something, for one more disk.
const NEW_DISK: f64 = 3.0;
/// So long after the last thing that is waited for, whatever was put off is
/// waited for as well: a summary comes after ten seconds.
const SETTLED: Duration = Duration::from_secs(15);
/// Only a failure waits for it.
const PATIENCE: Duration = Duration::from_mins(15);
/// Between two looks at all agents.
const LOOK: Duration = Duration::from_millis(100);

/// Counts the requests of a fleet of agents against one API server.
#[derive(Debug, Parser)]
#[command(name = "fleet")]
struct Arguments {
    /// How many agents, each on a node of its own with two disks
    #[arg(long, default_value_t = 1000)]
    agents: usize,
    /// Seconds at rest that are measured, and extrapolated to an hour; a watch
    /// is renewed every 290 s
    #[arg(long, default_value_t = 300)]
    steady: u64,
}

/// All of it.
struct Fleet {
    // They end in this order: nobody writes where nothing is any more.
    agents: Vec<Agent>,
    _longhorn: Longhorn,
    cluster: LonghornCluster,
    hosts: Vec<SimulatedHost>,
    peak: Peak,
}

fn main() -> Result<ExitCode> {
    let Arguments { agents, steady } = Arguments::parse();
    ensure!(agents > 0, "no agents");
    ensure!(steady >= 60, "a minute is the least that tells anything");
    println!(
        "fleet: {agents} agents with 2 disks each, one API server with TLS, roles, admission policy and Longhorn's webhook"
    );
    let cluster = LonghornCluster::stand_in_with(
        &manifests(),
        Options {
            tls: true,
            // Some minutes of a fleet whose status changes all the time, as the
            // real one remembers.
            watch_window: 10_000,
            ..Options::default()
        },
    );
    let hosts: Vec<SimulatedHost> = (0..agents)
        .map(|number| {
            let host = SimulatedHost::new(&format!("node{number:04}"));
            host.provision("sdb1");
            host.provision("sdc1");
            host
        })
        .collect();
    let nodes = hosts.iter();
    let nodes = nodes.map(|host| (host.node().to_owned(), host.root().to_owned()));
    let longhorn = Longhorn::start(cluster.server().store(), nodes.collect());
    let mut fleet = Fleet {
        agents: Vec::new(),
        _longhorn: longhorn,
        cluster,
        hosts,
        peak: Peak::default(),
    };

    let (began, server) = (Instant::now(), thread_time("api-server")?);
    let options = AgentOptions::default();
    for host in &fleet.hosts {
        fleet.agents.push(fleet.cluster.agent(host, &options));
    }
    fleet.wait("all agents are current", |agent| {
        agent.status.borrow().state == State::Current
    })?;
    let joined = began.elapsed().as_secs_f64();
    let join_time = thread_time("api-server")? - server;
    fleet.wait_until_looked_at(&["sdb1", "sdc1"])?;
    let join = fleet.phase("join", 1.0);

    let server = thread_time("api-server")?;
    fleet.pass(Duration::from_secs(steady));
    #[allow(clippy::cast_precision_loss, reason = "seconds")]
    let hour = fleet.phase("steady hour", 3600.0 / steady as f64);
    let rest_time = thread_time("api-server")? - server;
    let at_rest = resident("VmRSS")?;

    for host in &fleet.hosts {
        host.provision("sdd1");
    }
    fleet.wait_until_looked_at(&["sdd1"])?;
    let new_disk = fleet.phase("new disk", 1.0);

    for phase in [&join, &hour, &new_disk] {
        phase.print();
    }
    println!("steady hour is {steady} s, extrapolated");
    println!(
        "all were current after {joined:.1} s; most requests of all in a second: {} then, {} at rest, {} for the new disks",
        join.peak, hour.peak, new_disk.peak
    );
    println!(
        "processor time of the API server: {join_time:.1} s for joining, {rest_time:.1} s in {steady} s at rest; of the agents, in all: {:.1} s",
        thread_time("agents")?
    );
    println!(
        "memory of the process, with the server and all agents: {at_rest:.0} MiB at rest, {:.0} MiB at most",
        resident("VmHWM")?
    );
    let kept = [
        join.holds("requests", |_| true, JOIN),
        hour.holds("requests", |_| true, HOUR),
        hour.holds("writes", is_write, 0.0),
        new_disk.holds("writes", is_write, NEW_DISK),
    ];
    let record = json!({
        "name": "fleet", "agents": agents, "steady_seconds": steady,
        "joined_seconds": joined, "join_peak_requests_per_second": join.peak,
        "api_server_seconds": {"join": join_time, "rest": rest_time},
        "resident_mib": at_rest, "kept": kept.iter().all(|kept| *kept),
        "phases": [join.record(), hour.record(), new_disk.record()],
    });
    keep(&record)?;
    Ok(if kept.iter().all(|kept| *kept) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl Fleet {
    fn wait(&mut self, what: &str, holds: impl Fn(&Agent) -> bool) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let missing = self.agents.iter().filter(|agent| !holds(agent)).count();
            if missing == 0 {
                return Ok(());
            }
            ensure!(
                Instant::now() < end,
                "it did not come to be that {what}: {missing} agents are missing"
            );
            self.pass(LOOK);
        }
    }

    /// Until Longhorn has looked at these disks of each node, the agent has heard
    /// that, and whatever it put off is done.
    fn wait_until_looked_at(&mut self, names: &[&str]) -> Result<()> {
        self.wait("Longhorn has looked at all disks", |agent| {
            let View::Present { disks, .. } = &*agent.view.borrow() else {
                return false;
            };
            agent.status.borrow().state == State::Current
                && names
                    .iter()
                    .all(|name| disks.get(*name).is_some_and(|disk| disk.uuid.is_some()))
        })?;
        self.pass(SETTLED);
        Ok(())
    }

    fn pass(&mut self, time: Duration) {
        let end = Instant::now() + time;
        loop {
            self.peak.note(self.cluster.server().count());
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::sleep(left.min(LOOK));
        }
    }

    /// Requests since the last phase, each as many times.
    fn phase(&mut self, name: &'static str, times: f64) -> Phase {
        let seen = self.cluster.requests();
        self.cluster.server().forget_requests();
        let nodes = self.hosts.iter().map(|host| host.node().to_owned());
        let peak = std::mem::take(&mut self.peak.most);
        Phase::new(name, nodes.collect(), &seen, times, peak)
    }
}

fn keep(record: &Value) -> Result<()> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target")),
        PathBuf::from,
    );
    let directory = target.join("bench");
    fs::create_dir_all(&directory)?;
    let path = directory.join("fleet.json");
    fs::write(&path, format!("{record:#}\n")).with_context(|| path.display().to_string())
}
