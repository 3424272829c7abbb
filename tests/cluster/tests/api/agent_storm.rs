//! Other writers of the same Longhorn Node, a hundred changes each second.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use cluster_fixtures::{
    host::{AgentOptions, SimulatedHost},
    longhorn_cluster::{LonghornCluster, NAMESPACE, until, until_within},
};
use disk_discovery::longhorn::status::State;
use futures_util::future::join_all;
use kube::Client;
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};

use crate::ask::{JSON_PATCH, longhorn_nodes, patch};

const NODE: &str = "k3s2";
const DISKS: [&str; 3] = ["sdb1", "sdc1", "sdd1"];
/// Each adds an annotation and a tag of a disk of its own with every change: one
/// that is lost is not put right by the next. They write
const WRITERS: usize = 4;
/// this often: together they make a hundred changes each second.
const EVERY: Duration = Duration::from_millis(25);
/// So many changes are made at least,
const CHANGES: usize = 300;
/// as long as the agent needs, but no longer than this: on a machine where every
/// attempt of the agent meets a newer version it gets through when the storm is over.
const LONGEST: Duration = Duration::from_secs(20);
/// Of that many changes on any machine.
const PATIENCE: Duration = Duration::from_mins(5);

fn disk(writer: usize) -> String {
    format!("theirs-{writer}")
}

/// The entry of a writer's disk.
fn entry(writer: usize, tags: &[String]) -> Value {
    json!({
        "path": format!("/data/{}", disk(writer)), "diskType": "filesystem", "diskDriver": "",
        "allowScheduling": false, "evictionRequested": false, "storageReserved": 7, "tags": tags,
    })
}

fn word(writer: usize, number: usize) -> String {
    format!("w{writer}-{number:05}")
}

/// Writes by the clock until it is told to stop; what is late is caught up with.
/// Returns how many changes the API server has taken.
async fn write(client: &Client, writer: usize, stop: &AtomicBool, made: &AtomicUsize) -> usize {
    let path = format!("{}/{NODE}", longhorn_nodes(NAMESPACE));
    let mut clock = interval(EVERY);
    clock.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for number in 0.. {
        let word = word(writer, number);
        let added = json!([
            {"op": "add", "path": format!("/metadata/annotations/theirs~1{word}"), "value": ""},
            {"op": "add", "path": format!("/spec/disks/{}/tags/-", disk(writer)), "value": word},
        ]);
        // While Longhorn is syncing, nobody's change is taken.
        loop {
            clock.tick().await;
            match patch(client, &path, JSON_PATCH, &added).await {
                (200, _) => break,
                (403 | 409, _) => {}
                (code, answer) => panic!("{code}: {answer}"),
            }
        }
        made.fetch_add(1, Ordering::SeqCst);
        if stop.load(Ordering::SeqCst) {
            return number + 1;
        }
    }
    unreachable!("numbers do not end");
}

#[test]
fn a_storm_of_other_writers_loses_neither_sides_fields() {
    let cluster = LonghornCluster::new();
    let host = SimulatedHost::new(NODE);
    let _manager = cluster.manager(&[&host]);
    let options = AgentOptions {
        hurry: 50,
        ..AgentOptions::default()
    };
    let agent = cluster.agent(&host, &options);
    let is_current = || agent.status.borrow().state == State::Current;
    until("the node is there", || {
        is_current() && !cluster.node(NODE).is_null()
    });
    let theirs: serde_json::Map<_, _> = (0..WRITERS)
        .map(|writer| (disk(writer), entry(writer, &["first".to_owned()])))
        .collect();
    let begin = json!({
        "metadata": {"annotations": {"theirs/begin": ""}}, "spec": {"disks": theirs},
    });
    cluster.patch(NODE, &begin);
    let (stop, made) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let storm = {
        let (stop, made) = (Arc::clone(&stop), Arc::clone(&made));
        let admin = cluster.cluster.admin().clone();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let client = admin.client();
                join_all((0..WRITERS).map(|writer| write(&client, writer, &stop, &made))).await
            })
        })
    };
    let begun = Instant::now();
    // One after the other: each is a change of its own.
    for name in DISKS {
        host.provision(name);
        until_within(PATIENCE, "it is registered, or long past", || {
            assert!(!storm.is_finished(), "a writer has failed");
            !cluster.entry(NODE, name).is_null() || begun.elapsed() > LONGEST
        });
    }
    let registered = || {
        DISKS
            .iter()
            .all(|name| !cluster.entry(NODE, name).is_null())
    };
    until_within(PATIENCE, "there was a storm", || {
        assert!(!storm.is_finished(), "a writer has failed");
        made.load(Ordering::SeqCst) >= CHANGES
    });
    let in_time = registered();
    let (changes, lasted) = (made.load(Ordering::SeqCst), begun.elapsed());
    stop.store(true, Ordering::SeqCst);
    let taken = storm.join().expect("the writers");
    until("all is registered", registered);
    until("all is current", is_current);

    println!(
        "{changes} changes of others in {:.1} s, in which the disks were {}; the agent asked {:?}",
        lasted.as_secs_f64(),
        if in_time {
            "registered"
        } else {
            "not yet registered"
        },
        agent.status.borrow().requests,
    );
    assert!(changes >= CHANGES);
    let node = cluster.node(NODE);
    let annotations = &node["metadata"]["annotations"];
    for (writer, taken) in taken.into_iter().enumerate() {
        // As Longhorn sorts them.
        let mut words = vec!["first".to_owned()];
        words.extend((0..taken).map(|number| word(writer, number)));
        let lost = words.iter().skip(1);
        let lost = lost.filter(|word| annotations[format!("theirs/{word}")] != "");
        assert_eq!(lost.collect::<Vec<_>>(), Vec::<&String>::new());
        assert_eq!(node["spec"]["disks"][disk(writer)], entry(writer, &words));
    }
    for name in DISKS {
        let ours = json!({
            "path": format!("/mnt/longhorn/{name}"), "diskType": "filesystem", "diskDriver": "",
            "allowScheduling": true, "evictionRequested": false, "storageReserved": 0, "tags": [],
        });
        assert_eq!(node["spec"]["disks"][name], ours);
    }
    assert_eq!(
        annotations["node.longhorn.io/paths"],
        "/mnt/longhorn/sdb1,/mnt/longhorn/sdc1,/mnt/longhorn/sdd1"
    );
}
