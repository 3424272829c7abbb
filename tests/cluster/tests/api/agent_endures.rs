//! What the agent goes through: an API server that is away, slow or out of its
//! mind, other writers, a second agent, tokens that end.

use std::{thread, time::Duration};

use cluster_fixtures::{
    cluster::POLICIES,
    host::{AgentOptions, SimulatedHost},
    longhorn_cluster::{ACCOUNT, LonghornCluster, NAMESPACE, manifests, until, until_within},
    server::{Mood, Options, Whom},
};
use disk_discovery::longhorn::{View, finding::Kind, status::State};
use serde_json::json;

/// A disk is added in that mood, and registered when it is over.
fn catches_up(mood: Mood) {
    let cluster = LonghornCluster::stand_in();
    let host = SimulatedHost::new("k3s2");
    host.provision("sdb1");
    let manager = cluster.manager(&[&host]);
    let agent = cluster.agent(&host, &AgentOptions::hurried());
    until("it is registered", || cluster.has("k3s2", "sdb1"));
    until("all is current", || agent.is_current());
    manager.pause();
    cluster.server().mood(mood);
    host.provision("sdc1");
    until("it has been tried", || {
        !matches!(*agent.view.borrow(), View::Present { .. })
            || agent.status.borrow().waiting.is_some()
    });
    cluster.server().mood(Mood::Well);
    manager.resume();
    until("it is registered", || cluster.has("k3s2", "sdc1"));
    until("all is current", || agent.is_current());
}

#[test]
fn an_api_server_that_goes_away_and_comes_back_is_caught_up_with() {
    catches_up(Mood::Refusing);
}

#[test]
fn an_api_server_that_answers_garbage_is_caught_up_with() {
    catches_up(Mood::Garbage(200));
}

#[test]
fn an_api_server_that_fails_is_caught_up_with() {
    catches_up(Mood::Failing(503));
}

#[test]
fn an_api_server_that_is_not_there_at_start_is_caught_up_with() {
    let cluster = LonghornCluster::stand_in();
    let host = SimulatedHost::new("k3s2");
    host.provision("sdb1");
    cluster.server().mood(Mood::Refusing);
    let agent = cluster.agent(&host, &AgentOptions::hurried());
    until("it is told", || {
        matches!(*agent.view.borrow(), View::Unreachable { .. })
    });
    cluster.server().mood(Mood::Well);
    let _manager = cluster.manager(&[&host]);
    until("it is registered", || cluster.has("k3s2", "sdb1"));
    until("all is current", || agent.is_current());
}

#[test]
fn an_api_server_that_takes_half_a_minute_for_each_answer_is_worked_with() {
    let cluster = LonghornCluster::stand_in();
    let host = SimulatedHost::new("k3s2");
    host.provision("sdb1");
    let _manager = cluster.manager(&[&host]);
    until("the node is there", || !cluster.node("k3s2").is_null());
    // As the agent meets it; Longhorn is not slowed down.
    let whom = Whom::account(NAMESPACE, ACCOUNT);
    let slow = Mood::Slow(Duration::from_secs(30));
    cluster.server().mood_for(whom, slow);
    let agent = cluster.agent(&host, &AgentOptions::default());
    // Five answers one after the other, and room for a busy machine.
    let patience = Duration::from_mins(6);
    until_within(patience, "it is registered", || cluster.has("k3s2", "sdb1"));
    until("nothing is wrong", || cluster.is_clean(&agent));
}

#[test]
fn longhorn_that_is_installed_later_is_waited_for_quietly() {
    let cluster = LonghornCluster::stand_in();
    let store = cluster.server().store();
    for crd in ["nodes.longhorn.io", "replicas.longhorn.io"] {
        let group = "apiextensions.k8s.io";
        store.delete(group, "customresourcedefinitions", "", crd);
    }
    let host = SimulatedHost::new("k3s2");
    host.provision("sdb1");
    let agent = cluster.agent(&host, &AgentOptions::hurried());
    until("it is told", || *agent.view.borrow() == View::NotInstalled);
    assert!(cluster.is_clean(&agent));
    let crd = cluster_fixtures::server::longhorn_node_crd();
    store.put(
        "apiextensions.k8s.io",
        "customresourcedefinitions",
        "",
        "nodes.longhorn.io",
        crd,
    );
    let crd = cluster_fixtures::server::longhorn_replica_crd();
    store.put(
        "apiextensions.k8s.io",
        "customresourcedefinitions",
        "",
        "replicas.longhorn.io",
        crd,
    );
    let _manager = cluster.manager(&[&host]);
    until("it is registered", || cluster.has("k3s2", "sdb1"));
}

#[test]
fn a_manager_that_is_down_costs_time_and_nothing_else() {
    let cluster = LonghornCluster::new();
    let host = SimulatedHost::new("k3s2");
    host.provision("sdb1");
    let manager = cluster.manager(&[&host]);
    let agent = cluster.agent(&host, &AgentOptions::hurried());
    until("Longhorn has taken notice", || {
        agent.is_current() && !cluster.node("k3s2")["status"]["diskStatus"]["sdb1"].is_null()
    });
    // Its webhook stays for a moment: the status follows no more.
    manager.pause();
    host.provision("sdc1");
    until("the next is registered", || cluster.has("k3s2", "sdc1"));
    host.provision("sdd1");
    until("the one after it waits", || {
        let waiting = agent.status.borrow().waiting.clone();
        waiting.is_some_and(|why| why.contains("taken notice"))
    });
    assert!(!agent.is_told(Kind::NotPermitted));
    // Then the webhook is gone as well.
    cluster.webhook.set_down(true);
    until("that is told", || {
        let waiting = agent.status.borrow().waiting.clone();
        waiting.is_some_and(|why| why.contains("webhook"))
    });
    cluster.webhook.set_down(false);
    manager.resume();
    until("it is registered", || cluster.has("k3s2", "sdd1"));
    until("nothing is wrong", || cluster.is_clean(&agent));
}

#[test]
fn a_watch_that_is_too_old_begins_anew() {
    let cluster = LonghornCluster::stand_in();
    let host = SimulatedHost::new("k3s2");
    host.provision("sdb1");
    let _manager = cluster.manager(&[&host]);
    let agent = cluster.agent(&host, &AgentOptions::hurried());
    until("all is current", || {
        agent.is_current() && cluster.has("k3s2", "sdb1")
    });
    cluster.server().compact();
    cluster.patch(
        "k3s2",
        &json!({"metadata": {"annotations": {"disk-discovery/frozen": "moving"}}}),
    );
    until(
        "it is heard",
        || matches!(&*agent.view.borrow(), View::Present { frozen: Some(why), .. } if why == "moving"),
    );
}

#[test]
fn who_takes_back_each_write_is_named_and_not_fought_with() {
    let cluster = LonghornCluster::new();
    let host = SimulatedHost::new("k3s2");
    host.provision("sdb1");
    let _manager = cluster.manager(&[&host]);
    let agent = cluster.agent(&host, &AgentOptions::hurried());
    until("it is registered", || cluster.has("k3s2", "sdb1"));
    until("it is told", || {
        let gone = json!({"metadata": {"annotations": {"node.longhorn.io/paths": null}}});
        drop(cluster.try_patch("k3s2", &gone));
        agent.is_told(Kind::Overwritten)
    });
}

#[test]
fn of_two_agents_for_one_node_the_first_goes_on_and_the_second_says_so() {
    let cluster = LonghornCluster::new();
    let (host, other) = (SimulatedHost::new("k3s2"), SimulatedHost::new("k3s9"));
    host.provision("sdb1");
    other.provision("sdz1");
    let _manager = cluster.manager(&[&host]);
    let agent = cluster.agent(&host, &AgentOptions::hurried());
    until("it is registered", || {
        cluster.has("k3s2", "sdb1") && agent.is_current()
    });
    let before = cluster.node("k3s2")["spec"].clone();
    // On another host, with a token for this node, by a mistake of a person. It is
    // in no hurry: the first has as long for its answer as it has in earnest.
    let mistaken = AgentOptions {
        node_name: Some("k3s2".to_owned()),
        ..AgentOptions::default()
    };
    let second = cluster.agent_by(&other, &mistaken, &cluster.way("k3s2"));
    until("it says so", || second.is_told(Kind::AnotherAgent));
    until("the first goes on", || {
        agent.is_current() && cluster.is_clean(&agent)
    });
    assert_eq!(cluster.node("k3s2")["spec"], before);
    cluster.cluster.forget_requests();
    for _ in 0..50 {
        host.round();
        other.round();
        thread::sleep(Duration::from_millis(10));
    }
    let writes = cluster.requests();
    let writes = writes.iter().filter(|seen| seen.verb == "patch").count();
    assert!(writes <= 2, "{writes} writes");
    assert_eq!(cluster.node("k3s2")["spec"], before);
}

#[test]
fn a_host_that_was_installed_anew_takes_its_node_over() {
    let cluster = LonghornCluster::new();
    let (host, again) = (SimulatedHost::new("k3s2"), SimulatedHost::new("k3s2"));
    host.provision("sdb1");
    let _manager = cluster.manager(&[&host]);
    let agent = cluster.agent(&host, &AgentOptions::hurried());
    until("it is registered", || {
        cluster.has("k3s2", "sdb1") && agent.is_current()
    });
    agent.end();
    again.adopt("sdb1");
    again.provision("sdc1");
    let agent = cluster.agent(&again, &AgentOptions::hurried());
    until("its disk is registered", || cluster.has("k3s2", "sdc1"));
    until("all is current", || agent.is_current());
    assert_eq!(cluster.told("AnotherAgent"), 0);
}

#[test]
fn an_agent_with_the_token_of_another_node_writes_nothing() {
    let cluster = LonghornCluster::new();
    if !cluster.cluster.is_since(POLICIES) {
        // Older tokens name no node.
        return;
    }
    let host = SimulatedHost::new("k3s2");
    host.provision("sdb1");
    let _manager = cluster.manager(&[&host]);
    until("the node is there", || !cluster.node("k3s2").is_null());
    let agent = cluster.agent_by(&host, &AgentOptions::hurried(), &cluster.way("k3s1"));
    until("it says so", || {
        let other = agent.detail(Kind::AnotherAgent);
        other.is_some_and(|other| other.contains("k3s1"))
    });
    assert!(!cluster.has("k3s2", "sdb1"));
}

#[test]
fn tokens_are_replaced_and_end_without_harm() {
    let cluster = LonghornCluster::stand_in();
    let host = SimulatedHost::new("k3s2");
    host.provision("sdb1");
    let _manager = cluster.manager(&[&host]);
    let way = cluster.way("k3s2");
    let lives = Duration::from_hours(1);
    let token = || {
        cluster
            .server()
            .service_account_token(NAMESPACE, ACCOUNT, Some("k3s2"), lives)
    };
    let first = token();
    way.set(cluster.server().config(&first));
    let agent = cluster.agent_by(&host, &AgentOptions::hurried(), &way);
    until("it is registered", || {
        cluster.has("k3s2", "sdb1") && agent.is_current()
    });
    cluster.server().revoke(&first);
    host.provision("sdc1");
    until("it is told", || {
        let waiting = agent.status.borrow().waiting.clone();
        waiting.is_some_and(|why| why.contains("Unauthorized"))
    });
    assert!(!cluster.has("k3s2", "sdc1"));
    way.set(cluster.server().config(&token()));
    until("it is registered", || cluster.has("k3s2", "sdc1"));
    until("nothing is wrong", || {
        agent.is_current() && cluster.is_clean(&agent)
    });
}

#[test]
fn missing_rights_are_told_by_name() {
    let mut objects = manifests();
    for object in &mut objects {
        if object["kind"] == "Role" {
            object["rules"][0]["verbs"] = json!(["get", "list", "watch"]);
        }
    }
    let cluster = LonghornCluster::with(&objects, Options::default());
    let host = SimulatedHost::new("k3s2");
    host.provision("sdb1");
    let _manager = cluster.manager(&[&host]);
    let agent = cluster.agent(&host, &AgentOptions::hurried());
    until("it is told which", || {
        let right = agent.detail(Kind::NotPermitted);
        right.is_some_and(|right| right.contains("cannot patch resource \"nodes\""))
    });
}

#[test]
fn a_cluster_that_cannot_keep_agents_to_their_nodes_is_told() {
    let objects: Vec<_> = manifests()
        .into_iter()
        .filter(|object| {
            !object["kind"]
                .as_str()
                .is_some_and(|kind| kind.starts_with("Validating"))
        })
        .collect();
    let cluster = LonghornCluster::with(&objects, Options::default());
    let host = SimulatedHost::new("k3s2");
    host.provision("sdb1");
    let _manager = cluster.manager(&[&host]);
    let agent = cluster.agent(&host, &AgentOptions::hurried());
    until("it is told", || agent.is_told(Kind::NotConfined));
    until("it is registered all the same", || {
        cluster.has("k3s2", "sdb1")
    });
    // The trial was a dry run.
    assert!(cluster.node("k3s2")["metadata"]["labels"]["disk-discovery/probe"].is_null());
}

#[test]
fn a_cluster_that_cannot_be_asked_who_one_is_keeps_nobody_to_its_node() {
    let cluster = LonghornCluster::stand_in();
    let reviews = Whom::Resource {
        group: "authentication.k8s.io".to_owned(),
        plural: "selfsubjectreviews".to_owned(),
    };
    cluster.server().mood_for(reviews, Mood::Failing(403));
    let host = SimulatedHost::new("k3s2");
    host.provision("sdb1");
    let _manager = cluster.manager(&[&host]);
    let agent = cluster.agent(&host, &AgentOptions::hurried());
    until("it is told", || agent.is_told(Kind::NotConfined));
    until("it is registered all the same", || {
        cluster.has("k3s2", "sdb1")
    });
}

#[test]
fn a_cluster_that_keeps_agents_to_their_nodes_is_found_out() {
    let cluster = LonghornCluster::new();
    if !cluster.cluster.is_since(POLICIES) {
        // Older ones do not: the test before this one.
        return;
    }
    let host = SimulatedHost::new("k3s2");
    host.provision("sdb1");
    let _manager = cluster.manager(&[&host]);
    let agent = cluster.agent(&host, &AgentOptions::hurried());
    until("it was tried", || {
        let requests = agent.status.borrow().requests.clone();
        requests.get(&("probe", "forbidden")) == Some(&1)
    });
    assert!(!agent.is_told(Kind::NotConfined));
}

#[test]
fn in_mode_observe_nothing_is_written() {
    let cluster = LonghornCluster::new();
    let host = SimulatedHost::new("k3s2");
    host.provision("sdb1");
    host.refuse("sdc1");
    let _manager = cluster.manager(&[&host]);
    let options = AgentOptions {
        mode: disk_discovery::config::Mode::Observe,
        ..AgentOptions::hurried()
    };
    let agent = cluster.agent(&host, &options);
    // It says so from the beginning, and then what it has heard of the Node.
    until("the node is seen", || {
        matches!(*agent.view.borrow(), View::Present { .. })
    });
    for _ in 0..20 {
        host.round();
        thread::sleep(Duration::from_millis(20));
    }
    until("it only looks", || {
        agent.status.borrow().state == State::Observing
    });
    let verbs: Vec<String> = cluster
        .requests()
        .into_iter()
        .map(|seen| seen.verb)
        .collect();
    assert!(
        verbs
            .iter()
            .all(|verb| ["list", "watch", "get"].contains(&verb.as_str())),
        "{verbs:?}"
    );
}
