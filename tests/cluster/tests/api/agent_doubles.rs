//! Disks with the UUID of a disk that Longhorn has in use on another node, or on
//! this one: copies, and disks that were moved.

use std::{
    thread,
    time::{Duration, Instant},
};

use cluster_fixtures::{
    host::{Agent, AgentOptions, SimulatedHost},
    longhorn::Manager,
    longhorn_cluster::{LonghornCluster, NAMESPACE, manifests, until},
    server::{Mood, Options, Seen, Whom},
};
use disk_discovery::longhorn::{finding::Kind, status::State};
use serde_json::{Value, json};

const UUID: &str = "1fa0e2c8-7f1c-4f9d-bb3c-e2d0b4b8a1f3";

/// Longhorn's word on a disk of that UUID.
fn ready(cluster: &LonghornCluster, node: &str, disk: &str) -> Option<bool> {
    let status = &cluster.node(node)["status"]["diskStatus"][disk];
    let mut conditions = status["conditions"].as_array()?.iter();
    let ready = conditions.find(|condition| condition["type"] == "Ready")?;
    (status["diskUUID"] == UUID).then_some(ready["status"] == "True")
}

fn told(agent: &Agent) -> Vec<(String, String)> {
    let status = agent.status.borrow();
    let findings = status.findings.iter();
    let findings = findings.filter(|found| found.kind == Kind::UuidElsewhere);
    findings
        .map(|found| {
            let disk = found.disk.as_ref().expect("it is about a disk");
            (disk.to_string(), found.detail.clone())
        })
        .collect()
}

fn waiting(agent: &Agent) -> String {
    agent.status.borrow().waiting.clone().unwrap_or_default()
}

fn is_settled(cluster: &LonghornCluster, agent: &Agent) -> bool {
    // Looked at once at a time: a writer that waits between two looks stops both.
    let state = agent.status.borrow().state;
    state == State::Current && cluster.is_clean(agent)
}

/// Of all Longhorn Nodes: the watch lists its own alone.
fn looks(seen: &[Seen]) -> usize {
    let is_look = |seen: &&Seen| {
        (seen.verb.as_str(), seen.resource.as_str()) == ("list", "nodes")
            && !seen.query.contains("fieldSelector")
    };
    seen.iter().filter(is_look).count()
}

fn writes(seen: &[Seen]) -> Vec<&Seen> {
    let reads = ["get", "list", "watch"];
    let writes = seen.iter();
    writes
        .filter(|seen| !reads.contains(&seen.verb.as_str()))
        .collect()
}

/// k3s1, whose disk sdb1 Longhorn has in use, and k3s2.
struct Nodes {
    cluster: LonghornCluster,
    hosts: [SimulatedHost; 2],
    manager: Manager,
    original: Agent,
}

impl Nodes {
    fn new() -> Self {
        let cluster = LonghornCluster::stand_in();
        let hosts = ["k3s1", "k3s2"].map(SimulatedHost::new);
        hosts[0].adopt_as("sdb1", UUID);
        let manager = cluster.manager(&hosts.each_ref());
        let original = cluster.agent(&hosts[0], &AgentOptions::hurried());
        until("the original is in use", || {
            ready(&cluster, "k3s1", "sdb1") == Some(true) && is_settled(&cluster, &original)
        });
        until("the other node is there", || {
            let status = &cluster.node("k3s2")["status"];
            status["conditions"].is_array()
        });
        Self {
            cluster,
            hosts,
            manager,
            original,
        }
    }

    fn copied(&self) -> &SimulatedHost {
        &self.hosts[1]
    }

    /// The agent that meets the copy, which it calls sdh1.
    fn agent(&self, options: &AgentOptions) -> Agent {
        self.copied().adopt_as("sdh1", UUID);
        self.cluster.agent(self.copied(), options)
    }

    fn is_registered(&self) -> bool {
        self.cluster.has("k3s2", "sdh1")
    }

    fn until_told(&self, agent: &Agent) {
        until("it is told", || {
            !told(agent).is_empty() && self.cluster.told("DiskMismatch") == 1
        });
    }

    fn until_registered(&self, agent: &Agent) {
        until("it is registered", || {
            ready(&self.cluster, "k3s2", "sdh1") == Some(true)
        });
        until("nothing is wrong", || is_settled(&self.cluster, agent));
    }
}

#[test]
fn a_copy_is_held_back_and_told_once_and_the_other_disks_are_registered_at_once() {
    let nodes = Nodes::new();
    let (cluster, host) = (&nodes.cluster, nodes.copied());
    host.provision("sdc1");
    let agent = nodes.agent(&AgentOptions::hurried());
    until("the other is registered", || cluster.has("k3s2", "sdc1"));
    until("it is said why this one is not", || {
        waiting(&agent) == "sdh1 has the UUID of disk sdb1 of node k3s1"
    });
    nodes.until_told(&agent);
    let detail = format!("{UUID} is disk sdb1 of node k3s1 as well");
    assert_eq!(told(&agent), [("sdh1".to_owned(), detail.clone())]);
    let events = cluster.events();
    assert!(
        events.iter().any(|(_, note)| note.contains(&detail)),
        "{events:?}"
    );
    let summary = || {
        let annotations = &cluster.node("k3s2")["metadata"]["annotations"];
        annotations["disk-discovery/summary"].to_string()
    };
    until("it is in the summary", || {
        summary().contains("sdh1: uuid-elsewhere")
    });
    // Nor does a disk that comes later wait.
    host.provision("sdd1");
    until("the next is registered", || cluster.has("k3s2", "sdd1"));
    until("all is quiet", || {
        host.round();
        cluster.cluster.forget_requests();
        thread::sleep(Duration::from_secs(2));
        writes(&cluster.requests()).is_empty()
    });
    for _ in 0..100 {
        host.round();
        thread::sleep(Duration::from_millis(10));
    }
    let requests = cluster.requests();
    assert!(writes(&requests).is_empty(), "{:?}", writes(&requests));
    assert_eq!(cluster.told("DiskMismatch"), 1);
    assert!(!nodes.is_registered());
    assert_eq!(agent.status.borrow().state, State::Pending);
    // The one that has it in use is not bothered.
    until("the original is in use as before", || {
        is_settled(cluster, &nodes.original)
    });
}

#[test]
fn a_disk_that_was_moved_is_registered_when_longhorn_misses_it_where_it_was() {
    let nodes = Nodes::new();
    let agent = nodes.agent(&AgentOptions::hurried());
    nodes.until_told(&agent);
    assert!(!nodes.is_registered());
    nodes.hosts[0].take_away("sdb1");
    until("it is missed", || {
        ready(&nodes.cluster, "k3s1", "sdb1") == Some(false)
    });
    nodes.until_registered(&agent);
    until("that it is over is told", || {
        nodes.cluster.told("Recovered") == 1
    });
}

#[test]
fn a_disk_of_a_node_that_is_down_is_registered_where_it_is_now() {
    let nodes = Nodes::new();
    // Nobody is left to say of its disks that they are not ready any more.
    nodes.manager.pause();
    let down = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    let store = nodes.cluster.server().store();
    store.patch("longhorn.io", "nodes", NAMESPACE, "k3s1", &down);
    assert_eq!(ready(&nodes.cluster, "k3s1", "sdb1"), Some(true));
    let agent = nodes.agent(&AgentOptions::hurried());
    until("it is registered", || nodes.is_registered());
    assert!(told(&agent).is_empty());
}

/// A copy comes while the other Nodes cannot be looked at, and what is said
/// then has this in it.
fn waits_while(mood: Mood, why: &str) -> (Nodes, Agent) {
    let nodes = Nodes::new();
    let cluster = &nodes.cluster;
    let agent = cluster.agent(nodes.copied(), &AgentOptions::hurried());
    until("it has joined", || is_settled(cluster, &agent));
    nodes.manager.pause();
    cluster.server().mood_for(Whom::longhorn_nodes(), mood);
    cluster.cluster.forget_requests();
    nodes.copied().adopt_as("sdh1", UUID);
    until("what failed is said", || {
        let waiting = waiting(&agent);
        waiting.contains("whether sdh1 is in use on another node is not known")
            && waiting.contains(why)
    });
    until("it is asked again", || looks(&cluster.requests()) >= 3);
    assert!(!nodes.is_registered());
    (nodes, agent)
}

fn is_well_again(nodes: &Nodes, agent: &Agent) {
    nodes.cluster.server().mood(Mood::Well);
    nodes.manager.resume();
    until("it is found elsewhere", || !told(agent).is_empty());
    assert!(!nodes.is_registered());
    nodes.hosts[0].take_away("sdb1");
    nodes.until_registered(agent);
}

#[test]
fn who_may_not_look_at_other_nodes_registers_no_disk_unchecked() {
    let (nodes, agent) = waits_while(Mood::Failing(403), "fail with 403");
    until("a person is told", || {
        let status = agent.status.borrow();
        let findings = &status.findings;
        findings
            .iter()
            .any(|found| found.kind == Kind::NotPermitted)
    });
    is_well_again(&nodes, &agent);
}

#[test]
fn a_role_for_one_node_by_its_name_keeps_adopted_disks_out_and_says_so() {
    let mut objects = manifests();
    let is_role = |object: &&mut Value| object["kind"] == "Role";
    let role = objects.iter_mut().find(is_role).expect("a Role");
    let rules = role["rules"].clone();
    role["rules"][0]["resourceNames"] = json!(["k3s2"]);
    let cluster = LonghornCluster::stand_in_with(&objects, Options::default());
    let host = SimulatedHost::new("k3s2");
    host.provision("sdc1");
    host.adopt_as("sdh1", UUID);
    let _manager = cluster.manager(&[&host]);
    let agent = cluster.agent(&host, &AgentOptions::hurried());
    until("the new disk is registered", || cluster.has("k3s2", "sdc1"));
    until("the right that is missing is named", || {
        let status = agent.status.borrow();
        status.findings.iter().any(|found| {
            found.kind == Kind::NotPermitted && found.detail.contains("cannot list resource")
        })
    });
    assert!(!cluster.has("k3s2", "sdh1"));
    let store = cluster.server().store();
    let group = "rbac.authorization.k8s.io";
    let rules = json!({"rules": rules});
    store.patch(group, "roles", NAMESPACE, "disk-discovery", &rules);
    until("it is registered", || cluster.has("k3s2", "sdh1"));
    until("nothing is wrong", || is_settled(&cluster, &agent));
}

#[test]
fn an_api_server_that_fails_lets_no_disk_be_registered_unchecked() {
    let (nodes, agent) = waits_while(Mood::Failing(503), "fail with 503");
    is_well_again(&nodes, &agent);
}

#[test]
fn an_answer_that_makes_no_sense_lets_no_disk_be_registered_unchecked() {
    let (nodes, agent) = waits_while(Mood::Garbage(200), "not understood");
    is_well_again(&nodes, &agent);
}

#[test]
fn an_entry_that_was_lost_is_made_again_only_where_no_other_node_has_the_disk() {
    let nodes = Nodes::new();
    let cluster = &nodes.cluster;
    // While its entry is there, no disk is asked about.
    cluster.cluster.forget_requests();
    for _ in 0..20 {
        nodes.hosts[0].round();
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(looks(&cluster.requests()), 0);
    // Somebody registers the copy by hand, and removes the original's entry.
    let copied = nodes.copied();
    copied.adopt_as("sdh1", UUID);
    let entry = json!({
        "path": "/mnt/longhorn/sdh1", "diskType": "filesystem", "allowScheduling": true,
    });
    cluster.patch("k3s2", &json!({"spec": {"disks": {"sdh1": entry}}}));
    until("the copy is in use", || {
        ready(cluster, "k3s2", "sdh1") == Some(true)
    });
    let off = json!({"spec": {"disks": {"sdb1": {"allowScheduling": false}}}});
    cluster.patch("k3s1", &off);
    until("the entry is gone", || {
        nodes.manager.ui_replace_disks("k3s1", json!({})).is_ok()
    });
    until("it is held back", || {
        waiting(&nodes.original).contains("node k3s2")
    });
    until("it is told", || !told(&nodes.original).is_empty());
    assert!(!cluster.has("k3s1", "sdb1"));
    copied.take_away("sdh1");
    until("the entry is back", || cluster.has("k3s1", "sdb1"));
}

#[test]
fn of_two_disks_of_a_node_with_one_uuid_the_registered_one_stays_the_only_one() {
    let cluster = LonghornCluster::stand_in();
    let host = SimulatedHost::new("k3s2");
    host.adopt_as("sdb1", UUID);
    let _manager = cluster.manager(&[&host]);
    let agent = cluster.agent(&host, &AgentOptions::hurried());
    until("it is in use", || {
        ready(&cluster, "k3s2", "sdb1") == Some(true)
    });
    // Its files were copied to a filesystem of its own.
    host.adopt_as("sdc1", UUID);
    host.provision("sdd1");
    until("the new disk is registered", || cluster.has("k3s2", "sdd1"));
    until("the copy is told", || !told(&agent).is_empty());
    let detail = format!("{UUID} is disk sdb1 of this node as well");
    assert_eq!(told(&agent), [("sdc1".to_owned(), detail)]);
    // Where the first one is, the copy is not needed; where it is not, it is not
    // known what it has missed.
    host.take_away("sdb1");
    until("it is missed", || {
        ready(&cluster, "k3s2", "sdb1") == Some(false)
    });
    until("that is told", || cluster.told("DiskMissing") == 1);
    assert!(!cluster.has("k3s2", "sdc1"));
    // A person says that it is lost.
    let off = json!({"spec": {"disks": {"sdb1": {"allowScheduling": false}}}});
    cluster.patch("k3s2", &off);
    cluster.patch("k3s2", &json!({"spec": {"disks": {"sdb1": null}}}));
    until("the other takes its place", || {
        ready(&cluster, "k3s2", "sdc1") == Some(true)
    });
    until("nothing is wrong", || is_settled(&cluster, &agent));
}

#[test]
fn while_a_copy_is_held_back_its_node_asks_no_more_than_it_may_at_rest() {
    let nodes = Nodes::new();
    let cluster = &nodes.cluster;
    cluster.cluster.forget_requests();
    let since = Instant::now();
    // Every wait is as long as it is.
    let agent = nodes.agent(&AgentOptions::default());
    until("it is held back", || waiting(&agent).contains("node k3s1"));
    for _ in 0..100 {
        nodes.copied().round();
        thread::sleep(Duration::from_millis(10));
    }
    // Ever more seldom, from half a minute on: see the tests of the agent.
    let seen: Vec<Seen> = cluster.requests();
    let pauses = since.elapsed().as_secs() / 20;
    let seen: Vec<Seen> = seen
        .into_iter()
        .filter(|seen| seen.node == "k3s2")
        .collect();
    let looks = u64::try_from(looks(&seen)).expect("a few");
    assert!((1..=1 + pauses).contains(&looks), "{looks}");
    assert!(!nodes.is_registered());
}
