//! What a user set stays, however often the agent looks and whatever happens
//! meanwhile.

use std::{
    thread,
    time::{Duration, Instant},
};

use cluster_fixtures::{
    host::{Agent, AgentOptions, SimulatedHost},
    longhorn_cluster::{LonghornCluster, PATIENCE, until},
};
use disk_discovery::{
    config::{OnMissing, Reserved},
    longhorn::{finding::Kind, status::State},
};
use serde_json::json;

/// In all, and how many of them an agent takes before the next is started.
const ROUNDS: u64 = 1_000;
const OF_ONE_AGENT: u64 = 125;

/// Waits until the agent has taken a step from the last round of its host. Asks
/// often: this is done a thousand times.
fn takes(agent: &Agent, host: &SimulatedHost) {
    let (round, end) = (host.last_round(), Instant::now() + PATIENCE);
    while agent.status.borrow().round != round {
        assert!(Instant::now() < end, "round {round} is not taken");
        thread::sleep(Duration::from_millis(1));
    }
}

fn missing(agent: &Agent) -> usize {
    let status = agent.status.borrow();
    let missing = |kind| kind == Kind::DiskMissing;
    status
        .findings
        .iter()
        .filter(|found| missing(found.kind))
        .count()
}

#[test]
fn what_a_user_sets_on_a_disk_survives_a_thousand_rounds_restarts_and_upgrades() {
    let cluster = LonghornCluster::new();
    let host = SimulatedHost::new("k3s2");
    host.provision("sdb1");
    host.provision("sdc1");
    let _manager = cluster.manager(&[&host]);
    let one = AgentOptions {
        hurry: 200,
        ..AgentOptions::default()
    };
    // A version of the agent that wants everything else for new disks, and that
    // changes the scheduling of those that are missing.
    let other = AgentOptions {
        tags: true,
        reserved: Reserved::Percent(10),
        on_missing: OnMissing::StopScheduling,
        ..one.clone()
    };
    let schedulable = |disk| cluster.entry("k3s2", disk)["allowScheduling"] == true;
    let mut agent = cluster.agent(&host, &one);
    until("both are registered", || {
        schedulable("sdb1") && schedulable("sdc1")
    });
    let theirs = json!({"allowScheduling": false, "tags": ["cold"], "storageReserved": 123_456});
    cluster.patch("k3s2", &json!({"spec": {"disks": {"sdb1": theirs}}}));
    let set = cluster.entry("k3s2", "sdb1");
    let mut taken = 0;
    for number in 0..ROUNDS / OF_ONE_AGENT {
        agent.end();
        let options = if number % 2 == 0 { &other } else { &one };
        agent = cluster.agent(&host, options);
        for step in 0..OF_ONE_AGENT {
            match step {
                40 => host.set_mounted("sdb1", false),
                50 => host.set_mounted("sdc1", false),
                100 => host.set_mounted("sdb1", true),
                110 => host.set_mounted("sdc1", true),
                _ => host.round(),
            }
            takes(&agent, &host);
            taken += 1;
            assert_eq!(cluster.entry("k3s2", "sdb1"), set, "after {taken} rounds");
            // Not before the agent has done what there is to do.
            let stops = options.on_missing == OnMissing::StopScheduling;
            match step {
                90 => until("both are missed", || {
                    missing(&agent) == 2 && schedulable("sdc1") != stops
                }),
                120 => until("both are back", || {
                    missing(&agent) == 0 && schedulable("sdc1")
                }),
                _ => {}
            }
        }
        until("all is written", || {
            agent.status.borrow().state == State::Current
        });
    }
    assert_eq!((taken, cluster.entry("k3s2", "sdb1")), (ROUNDS, set));
    // Four of the agents switched the other disk off and on.
    let requests = cluster.requests();
    let written = |verb| {
        requests
            .iter()
            .filter(|seen| (seen.verb.as_str(), seen.resource.as_str()) == (verb, "nodes"))
            .count()
    };
    assert!(written("patch") >= 8, "{requests:?}");
}
