//! What an agent costs the API server, counted in requests, and which of its
//! rights it uses for that.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use cluster_fixtures::{
    admission::{Admission, Denied, Review},
    host::{Agent, AgentOptions, SimulatedHost},
    longhorn_cluster::{
        ACCOUNT, LonghornCluster, NAMESPACE, manifest, manifests, until, until_within,
    },
    server::{Options, Seen, Store},
};
use disk_discovery::{
    config::OnMissing,
    longhorn::{FROZEN, View, register::SUMMARY, status::State, summary::Summary},
};
use serde_json::{Value, json};

/// Requests from the start of an agent until its disks are registered.
const JOIN: usize = 6;
/// One more, where a disk was Longhorn's before: no other node may have it.
const JOIN_WITH_ADOPTED: usize = JOIN + 1;
/// Requests that change something, for one more disk.
const NEW_DISK: usize = 3;
/// Nodes of these tests.
const NODES: [&str; 3] = ["k3s1", "k3s2", "k3s3"];

/// Hosts with two disks each.
fn hosts() -> [SimulatedHost; 3] {
    NODES.map(|node| {
        let host = SimulatedHost::new(node);
        host.provision("sdb1");
        host.provision("sdc1");
        host
    })
}

/// Longhorn knows its nodes and has nothing to say of them.
fn is_at_rest(cluster: &LonghornCluster, node: &str) -> bool {
    let status = &cluster.node(node)["status"];
    let conditions = status["conditions"].as_array();
    conditions.is_some_and(|conditions| !conditions.is_empty())
}

/// As the agent has heard.
fn is_looked_at(agent: &Agent, disk: &str) -> bool {
    let View::Present { disks, .. } = &*agent.view.borrow() else {
        return false;
    };
    let disk = disks.get(disk);
    disk.is_some_and(|disk| disk.uuid.is_some() && disk.ready == Some(true))
}

/// Everything is registered, and so many Events were told.
fn is_done(agent: &Agent, told: u64) -> bool {
    let status = agent.status.borrow();
    status.state == State::Current
        && status.requests.get(&("tell", "ok")).copied().unwrap_or(0) >= told
}

/// The agents have heard everything that was written until now: a word that
/// comes after it has reached them.
fn have_heard(cluster: &LonghornCluster, agents: &[Agent], word: &str) {
    for node in NODES {
        let said = json!({"metadata": {"annotations": {FROZEN: word}}});
        cluster.patch(node, &said);
    }
    until("the agents hear it", || {
        agents.iter().all(|agent| {
            matches!(&*agent.view.borrow(), View::Present { frozen, .. } if frozen.as_deref() == Some(word))
        })
    });
}

/// Requests by the node of the agent.
fn by_node(seen: Vec<Seen>) -> BTreeMap<String, Vec<Seen>> {
    let mut nodes = BTreeMap::<String, Vec<Seen>>::new();
    for seen in seen {
        nodes.entry(seen.node.clone()).or_default().push(seen);
    }
    nodes
}

fn is_write(seen: &Seen) -> bool {
    !matches!(seen.verb.as_str(), "get" | "list" | "watch")
}

/// For a failure.
fn shown(requests: &[Seen]) -> String {
    let lines = requests.iter().map(|seen| {
        let (verb, path, query, status) = (&seen.verb, &seen.path, &seen.query, seen.status);
        format!("{verb} {path}?{query} -> {status}")
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn joining_and_a_new_disk_cost_no_more_than_they_may() {
    let cluster = LonghornCluster::stand_in();
    let hosts = hosts();
    let manager = cluster.manager(&hosts.each_ref());
    until("the nodes are there", || {
        NODES.iter().all(|node| is_at_rest(&cluster, node))
    });
    // So that nobody writes in between, which would cost more.
    manager.pause();
    let agents = hosts
        .each_ref()
        .map(|host| cluster.agent(host, &AgentOptions::default()));
    until("all have joined", || {
        agents.iter().all(|agent| is_done(agent, 1))
    });
    let requests = by_node(cluster.requests());
    for node in NODES {
        assert!(!cluster.entry(node, "sdb1").is_null() && !cluster.entry(node, "sdc1").is_null());
        let joined = &requests[node];
        assert!(joined.len() <= JOIN, "{}", shown(joined));
    }

    manager.resume();
    until("Longhorn has looked", || {
        agents
            .iter()
            .all(|agent| is_looked_at(agent, "sdb1") && is_looked_at(agent, "sdc1"))
    });
    manager.pause();
    have_heard(&cluster, &agents, "not now");
    cluster.server().forget_requests();
    for host in &hosts {
        host.provision("sdd1");
    }
    until("all are registered", || {
        agents.iter().all(|agent| is_done(agent, 2))
    });
    let requests = by_node(cluster.requests());
    for node in NODES {
        assert!(!cluster.entry(node, "sdd1").is_null());
        let writes = requests[node].iter().filter(|seen| is_write(seen));
        assert!(writes.count() <= NEW_DISK, "{}", shown(&requests[node]));
    }
}

/// Nothing is found and nothing is put off: the summary on the Node is the one
/// that the agent would write.
fn is_quiet(cluster: &LonghornCluster, node: &str, agent: &Agent) -> bool {
    let annotation = &cluster.node(node)["metadata"]["annotations"][SUMMARY];
    let summary = annotation.as_str().map(serde_json::from_str::<Summary>);
    is_done(agent, 1)
        && agent.status.borrow().findings.is_empty()
        && summary.is_some_and(|read| read.is_ok_and(|read| read.ok && read.mounted == 2))
}

/// Of all Longhorn Nodes: the watch lists its own alone.
fn is_look_around(seen: &Seen) -> bool {
    (seen.verb.as_str(), seen.resource.as_str()) == ("list", "nodes")
        && !seen.query.contains("fieldSelector")
}

#[test]
fn only_a_disk_that_longhorn_knows_by_a_uuid_costs_a_look_at_other_nodes_and_all_of_them_one() {
    let cluster = LonghornCluster::stand_in();
    let hosts = NODES.map(SimulatedHost::new);
    let [made, mixed, adopted] = &hosts;
    made.provision("sdb1");
    made.adopt("sdc1");
    mixed.provision("sdb1");
    mixed.adopt_as("sdc1", "c-2");
    for disk in ["sdb1", "sdc1", "sdd1", "sde1"] {
        adopted.adopt_as(disk, &format!("{disk}-3"));
    }
    let manager = cluster.manager(&hosts.each_ref());
    until("the nodes are there", || {
        NODES.iter().all(|node| is_at_rest(&cluster, node))
    });
    manager.pause();
    let agents = hosts
        .each_ref()
        .map(|host| cluster.agent(host, &AgentOptions::default()));
    // Made and adopted disks are told of apart.
    until("all have joined", || {
        let told = agents.iter().zip([2, 2, 1]);
        told.into_iter().all(|(agent, told)| is_done(agent, told))
    });
    let requests = by_node(cluster.requests());
    for (node, looks, most) in [
        ("k3s1", 0, JOIN + 1),
        ("k3s2", 1, JOIN_WITH_ADOPTED + 1),
        ("k3s3", 1, JOIN_WITH_ADOPTED),
    ] {
        let joined = &requests[node];
        let looked = joined.iter().filter(|seen| is_look_around(seen)).count();
        assert_eq!(looked, looks, "{}", shown(joined));
        assert!(joined.len() <= most, "{}", shown(joined));
        assert!(!cluster.entry(node, "sdb1").is_null() && !cluster.entry(node, "sdc1").is_null());
    }
    // The entries came with the first write.
    let written = requests["k3s2"].iter().filter(|seen| is_write(seen));
    let patched = written.filter(|seen| seen.verb == "patch").count();
    assert!(patched <= 2, "{}", shown(&requests["k3s2"]));
}

#[test]
fn at_rest_nothing_is_written_and_no_more_than_one_request_a_minute_is_made() {
    const ENDS: Duration = Duration::from_secs(8);
    // The agent makes three requests of a watch in a minute, no more: on a slow
    // machine they may be used up when the count begins.
    const PATIENCE: Duration = Duration::from_mins(4);
    let options = Options {
        watch_timeout_cap: ENDS,
        ..Options::default()
    };
    let cluster = LonghornCluster::stand_in_with(&manifests(), options);
    let hosts = hosts();
    let _manager = cluster.manager(&hosts.each_ref());
    // Whatever an agent puts off, comes soon.
    let options = AgentOptions {
        hurry: 20,
        ..AgentOptions::default()
    };
    let agents = hosts.each_ref().map(|host| cluster.agent(host, &options));
    until("Longhorn has looked", || {
        agents
            .iter()
            .all(|agent| is_looked_at(agent, "sdb1") && is_looked_at(agent, "sdc1"))
    });
    have_heard(&cluster, &agents, "not now");
    until("all is said", || {
        NODES
            .iter()
            .zip(&agents)
            .all(|(node, agent)| is_quiet(&cluster, node, agent))
    });
    let all = || by_node(cluster.requests());
    // The time that is measured has all of what is counted in it.
    let (since, before) = (Instant::now(), all());
    let made =
        |node: &str, all: &BTreeMap<String, Vec<Seen>>| all[node][before[node].len()..].to_vec();
    let store = cluster.server().store();
    let mut rounds: i64 = 0;
    until_within(PATIENCE, "every watch is renewed meanwhile", || {
        rounds += 1;
        for host in &hosts {
            host.round();
            // Longhorn keeps its figures, too.
            let figure = json!({"status": {"diskStatus": {"sdb1": {"storageAvailable": rounds}}}});
            store.patch("longhorn.io", "nodes", NAMESPACE, host.node(), &figure);
        }
        let all = all();
        rounds >= 100 && NODES.iter().all(|node| !made(node, &all).is_empty())
    });
    let all = all();
    let ended = 1 + since.elapsed().as_millis() / ENDS.as_millis();
    for node in NODES {
        let made = made(node, &all);
        for seen in &made {
            assert_eq!(seen.verb, "watch", "{}", shown(&made));
            let asked = seen.query.split('&').find_map(|parameter| {
                let seconds = parameter.strip_prefix("timeoutSeconds=")?;
                seconds.parse::<u64>().ok()
            });
            // One that ends sooner is ended by the server.
            assert!(asked.is_some_and(|seconds| seconds >= 60), "{asked:?}");
        }
        let count = made.len();
        assert!(
            u128::try_from(count).expect("a handful") <= ended,
            "{count} in a time in which {ended} may end: {}",
            shown(&made)
        );
    }
}

/// A right: namespace, empty for all of the cluster; group; resource; verb.
type Right = [String; 4];

/// What the manifests permit.
fn granted(objects: &[Value]) -> BTreeSet<Right> {
    let texts = |values: &Value| -> Vec<String> {
        let values = values.as_array().expect("a list").iter();
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        values.map(text).collect()
    };
    let mut rights = BTreeSet::new();
    for object in objects {
        let namespace = match object["kind"].as_str() {
            Some("Role") => object["metadata"]["namespace"].as_str().expect("one"),
            Some("ClusterRole") => "",
            Some(_) | None => continue,
        };
        for rule in object["rules"].as_array().expect("rules") {
            for group in texts(&rule["apiGroups"]) {
                for resource in texts(&rule["resources"]) {
                    for verb in texts(&rule["verbs"]) {
                        let right = [namespace, &group, &resource, &verb];
                        rights.insert(right.map(str::to_owned));
                    }
                }
            }
        }
    }
    rights
}

/// What a request needs.
fn needed(seen: &Seen) -> Right {
    let resource = match seen.subresource.as_str() {
        "" => seen.resource.clone(),
        subresource => format!("{}/{subresource}", seen.resource),
    };
    [
        seen.namespace.clone(),
        seen.group.clone(),
        resource,
        seen.verb.clone(),
    ]
}

/// Who one is, everybody may ask.
fn is_everybodys(right: &Right) -> bool {
    *right == ["", "authentication.k8s.io", "selfsubjectreviews", "create"]
}

/// Is faster than the agent once.
struct Faster {
    store: Store,
    was: AtomicBool,
}

impl Admission for Faster {
    fn mutate(&self, _: &Review<'_>, _: &mut Value) -> Result<(), Denied> {
        Ok(())
    }

    fn validate(&self, review: &Review<'_>) -> Result<(), Denied> {
        let agent = format!("system:serviceaccount:{NAMESPACE}:{ACCOUNT}");
        let is_registration = (review.group, review.resource) == ("longhorn.io", "nodes")
            && review.user.username == agent;
        if is_registration && !self.was.swap(true, Ordering::SeqCst) {
            let change = json!({"metadata": {"annotations": {"somebody": "was here"}}});
            self.store
                .patch("longhorn.io", "nodes", NAMESPACE, review.name, &change);
        }
        Ok(())
    }
}

#[test]
fn every_right_is_used_and_none_is_missing() {
    let mut objects = manifests();
    for file in ["clusterrole", "clusterrolebinding"] {
        objects.extend(manifest(&format!("default-disks/{file}.yaml")));
    }
    let cluster = LonghornCluster::stand_in_with(&objects, Options::default());
    cluster.also_ask(vec![Arc::new(Faster {
        store: cluster.server().store(),
        was: AtomicBool::new(false),
    })]);
    let host = SimulatedHost::new("k3s2");
    host.provision("sdb1");
    host.adopt("sdc1");
    let manager = cluster.manager(&[&host]);
    until("the node is there", || is_at_rest(&cluster, "k3s2"));
    let options = AgentOptions {
        hurry: 50,
        default_disks: true,
        on_missing: OnMissing::StopScheduling,
        ..AgentOptions::default()
    };
    let agent = cluster.agent(&host, &options);
    until("both are registered", || {
        is_looked_at(&agent, "sdb1") && is_looked_at(&agent, "sdc1")
    });
    let requests = cluster.requests();
    assert!(
        requests.iter().any(|seen| seen.status == 409),
        "{}",
        shown(&requests)
    );
    let store = cluster.server().store();
    let ordered = |disk: &str| {
        let node = store.get("", "nodes", "", "k3s2").expect("a node");
        let order = &node["metadata"]["annotations"]["node.longhorn.io/default-disks-config"];
        order.as_str().is_some_and(|order| order.contains(disk))
    };
    until("they are default disks", || {
        ordered("sdb1") && ordered("sdc1")
    });
    host.provision("sdd1");
    host.refuse("sde1");
    until("the new one is registered", || is_looked_at(&agent, "sdd1"));
    until("the refused one is told", || {
        cluster.told("DiskRefused") == 1
    });
    host.set_mounted("sdc1", false);
    until("it is missed", || {
        cluster.told("DiskMissing") == 1
            && cluster.entry("k3s2", "sdc1")["allowScheduling"] == false
    });
    host.set_mounted("sdc1", true);
    until("it is back", || {
        cluster.entry("k3s2", "sdc1")["allowScheduling"] == true && is_looked_at(&agent, "sdc1")
    });
    manager
        .place_replica("k3s2", "sdb1", 1 << 30)
        .expect("a replica");
    let name = "sdb1".parse().expect("a name");
    let asked = host.ledger().release(host.uuid("sdb1"), &name);
    asked.expect("asked");
    until("the released one has left", || {
        host.round();
        thread::sleep(Duration::from_millis(50));
        cluster.entry("k3s2", "sdb1").is_null() && !ordered("sdb1")
    });
    cluster.server().compact();
    let again = |seen: &Seen| seen.verb == "list" && seen.resource == "nodes";
    until("the watch begins anew", || {
        cluster.requests().iter().filter(|seen| again(seen)).count() >= 2
    });

    let granted = granted(&objects);
    let requests = cluster.requests();
    let made: BTreeSet<Right> = requests
        .iter()
        .map(needed)
        .filter(|right| !is_everybodys(right))
        .collect();
    let missing: Vec<&Right> = made.difference(&granted).collect();
    assert!(missing.is_empty(), "no manifest permits {missing:?}");
    let done: BTreeSet<Right> = requests
        .iter()
        .filter(|seen| seen.status == 200 || seen.status == 201)
        .map(needed)
        .collect();
    let unused: Vec<&Right> = granted.difference(&done).collect();
    assert!(unused.is_empty(), "nobody uses {unused:?}");
}
