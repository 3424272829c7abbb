//! What the agent writes to Longhorn, and what it leaves alone.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use cluster_fixtures::{
    admission::{Admission, Denied, Review},
    host::{AgentOptions, SimulatedHost},
    longhorn_cluster::{LonghornCluster, until},
};
use disk_discovery::{
    config::OnMissing,
    longhorn::{finding::Kind, status::State},
};
use serde_json::{Value, json};

fn ready(cluster: &LonghornCluster, node: &str, disk: &str) -> bool {
    let status = &cluster.node(node)["status"]["diskStatus"][disk];
    let conditions = status["conditions"].as_array();
    conditions.is_some_and(|conditions| {
        conditions
            .iter()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    })
}

fn annotation(cluster: &LonghornCluster, node: &str, key: &str) -> Value {
    cluster.node(node)["metadata"]["annotations"][key].clone()
}

#[test]
fn a_mounted_disk_becomes_storage_without_a_person() {
    let cluster = LonghornCluster::new();
    let host = SimulatedHost::new("k3s2");
    host.provision("sdb1");
    host.adopt("sdh1");
    let _manager = cluster.manager(&[&host]);
    let agent = cluster.agent(&host, &AgentOptions::hurried());
    until("both are ready", || {
        ready(&cluster, "k3s2", "sdb1") && ready(&cluster, "k3s2", "sdh1")
    });
    assert_eq!(
        cluster.entry("k3s2", "sdb1"),
        json!({
            "path": "/mnt/longhorn/sdb1", "diskType": "filesystem", "diskDriver": "",
            "allowScheduling": true, "evictionRequested": false, "storageReserved": 0, "tags": [],
        })
    );
    let paths = annotation(&cluster, "k3s2", "node.longhorn.io/paths");
    assert_eq!(paths, "/mnt/longhorn/sdb1,/mnt/longhorn/sdh1");
    until("all is current", || {
        agent.status.borrow().state == State::Current
    });
    // Longhorn's own file, and nobody else's.
    let file = std::fs::read_to_string(host.path("sdb1").join("longhorn-disk.cfg"));
    let written: Value = serde_json::from_str(&file.expect("a file")).expect("JSON");
    let status = &cluster.node("k3s2")["status"]["diskStatus"]["sdb1"];
    assert_eq!(written["diskUUID"], status["diskUUID"]);
    until("it is told", || {
        cluster.told("DiskProvisioned") == 1 && cluster.told("DiskAdopted") == 1
    });
    until("nothing is wrong", || cluster.is_clean(&agent));
    until("the summary says so", || {
        let summary = annotation(&cluster, "k3s2", "disk-discovery/summary");
        let summary: Value = serde_json::from_str(summary.as_str().expect("a line")).expect("JSON");
        ["ok", "disks", "mounted"].map(|part| summary[part].clone())
            == [json!(true), json!(2), json!(2)]
    });
}

#[test]
fn an_entry_that_another_writer_drops_is_back() {
    let cluster = LonghornCluster::new();
    let host = SimulatedHost::new("k3s2");
    host.provision("sdb1");
    let manager = cluster.manager(&[&host]);
    let _agent = cluster.agent(&host, &AgentOptions::hurried());
    until("it is ready", || ready(&cluster, "k3s2", "sdb1"));
    // A browser that had the page open before the disk was there: Longhorn lets
    // it drop a disk that is not scheduled on.
    cluster.patch(
        "k3s2",
        &json!({"spec": {"disks": {"sdb1": {"allowScheduling": false}}}}),
    );
    let theirs = json!({"theirs": {
        "path": "/data/theirs", "diskType": "filesystem", "allowScheduling": true, "tags": ["ui"],
    }});
    until("the page is saved", || {
        manager.ui_replace_disks("k3s2", theirs.clone()).is_ok()
    });
    until("the entry is back", || {
        cluster.entry("k3s2", "sdb1")["path"] == "/mnt/longhorn/sdb1"
    });
    assert_eq!(cluster.entry("k3s2", "theirs")["tags"], json!(["ui"]));
}

#[test]
fn a_missing_disk_is_told_and_its_scheduling_goes_off_and_on_where_that_is_asked_for() {
    let cluster = LonghornCluster::new();
    let host = SimulatedHost::new("k3s2");
    for disk in ["sdb1", "sdc1", "sdd1"] {
        host.provision(disk);
    }
    let _manager = cluster.manager(&[&host]);
    let options = AgentOptions {
        on_missing: OnMissing::StopScheduling,
        ..AgentOptions::hurried()
    };
    let agent = cluster.agent(&host, &options);
    until("all are ready", || {
        ["sdb1", "sdc1", "sdd1"]
            .iter()
            .all(|disk| ready(&cluster, "k3s2", disk))
    });
    // What a person switched off stays off.
    cluster.patch(
        "k3s2",
        &json!({"spec": {"disks": {"sdd1": {"allowScheduling": false}}}}),
    );
    let schedulable = |disk| cluster.entry("k3s2", disk)["allowScheduling"] == true;
    host.set_mounted("sdb1", false);
    host.set_mounted("sdd1", false);
    host.pull("sdc1");
    until("both are switched off", || {
        !schedulable("sdb1") && !schedulable("sdc1")
    });
    until("all three are missed", || cluster.told("DiskMissing") == 3);
    let listed = annotation(&cluster, "k3s2", "disk-discovery/stopped");
    assert_eq!(listed, "sdb1,sdc1");
    // An agent that is started in between finds the list on the Node.
    agent.end();
    let agent = cluster.agent(&host, &options);
    until("it misses all three as well", || {
        let status = agent.status.borrow();
        let missing = status.findings.iter();
        let missing = missing.filter(|found| found.kind == Kind::DiskMissing);
        missing.count() == 3
    });
    host.set_mounted("sdb1", true);
    host.set_mounted("sdd1", true);
    until("the one that is back is switched on", || {
        schedulable("sdb1")
    });
    until("both are told to be back", || {
        cluster.told("DiskReturned") == 2
    });
    assert!(!schedulable("sdd1") && !schedulable("sdc1"));
    let listed = annotation(&cluster, "k3s2", "disk-discovery/stopped");
    assert_eq!(listed, "sdc1");
}

#[test]
fn by_default_the_scheduling_of_a_missing_disk_is_nobodys_business() {
    let cluster = LonghornCluster::new();
    let host = SimulatedHost::new("k3s2");
    host.provision("sdb1");
    let _manager = cluster.manager(&[&host]);
    let agent = cluster.agent(&host, &AgentOptions::hurried());
    until("it is ready", || ready(&cluster, "k3s2", "sdb1"));
    host.set_mounted("sdb1", false);
    until("it is missed", || agent.is_told(Kind::DiskMissing));
    until("it is told", || cluster.told("DiskMissing") == 1);
    assert_eq!(cluster.entry("k3s2", "sdb1")["allowScheduling"], true);
    host.set_mounted("sdb1", true);
    until("it is back", || !agent.is_told(Kind::DiskMissing));
    until("that is told as well", || cluster.told("DiskReturned") == 1);
}

#[test]
fn each_fault_of_longhorns_file_is_told_and_none_is_mended() {
    let cluster = LonghornCluster::new();
    let host = SimulatedHost::new("k3s2");
    for disk in ["sdb1", "sdc1", "sdd1"] {
        host.provision(disk);
    }
    // As some write it by hand.
    let nameless = host.path("sdc1").join("longhorn-disk.cfg");
    std::fs::write(&nameless, "{}").expect("written");
    let manager = cluster.manager(&[&host]);
    let agent = cluster.agent(&host, &AgentOptions::hurried());
    until("they are ready", || {
        ready(&cluster, "k3s2", "sdb1") && ready(&cluster, "k3s2", "sdd1")
    });
    until("the nameless one is told", || {
        agent.is_told(Kind::ConfigWithoutUuid)
    });
    manager.pause();
    let replaced = host.path("sdb1").join("longhorn-disk.cfg");
    std::fs::write(&replaced, r#"{"diskUUID":"of-another-disk"}"#).expect("written");
    let removed = host.path("sdd1").join("longhorn-disk.cfg");
    std::fs::remove_file(&removed).expect("removed");
    host.round();
    until("the other disk is told", || {
        host.round();
        agent.is_told(Kind::UuidMismatch) && agent.is_told(Kind::ConfigMissing)
    });
    assert_eq!(std::fs::read_to_string(&nameless).expect("there"), "{}");
    assert!(!removed.exists());
    assert!(
        std::fs::read_to_string(&replaced)
            .expect("there")
            .contains("of-another-disk")
    );
}

/// Will not have a disk of one name.
struct Rejects(&'static str);

impl Admission for Rejects {
    fn mutate(&self, _: &Review<'_>, _: &mut Value) -> Result<(), Denied> {
        Ok(())
    }

    fn validate(&self, review: &Review<'_>) -> Result<(), Denied> {
        let rejected = review
            .object
            .is_some_and(|object| !object["spec"]["disks"][self.0].is_null());
        if !rejected {
            return Ok(());
        }
        Err(Denied {
            code: 422,
            reason: "Invalid".to_owned(),
            message: format!("admission webhook denied the request: not {}", self.0),
            causes: Vec::new(),
        })
    }
}

#[test]
fn a_disk_that_the_webhook_rejects_is_shown_and_holds_up_no_other() {
    let cluster = LonghornCluster::stand_in();
    cluster.also_ask(vec![Arc::new(Rejects("sdb1"))]);
    let host = SimulatedHost::new("k3s2");
    for disk in ["sda1", "sdb1", "sdc1"] {
        host.provision(disk);
    }
    let _manager = cluster.manager(&[&host]);
    let agent = cluster.agent(&host, &AgentOptions::hurried());
    until("the others are registered", || {
        ready(&cluster, "k3s2", "sda1") && ready(&cluster, "k3s2", "sdc1")
    });
    until("the fault is told", || cluster.told("DiskRejected") == 1);
    assert!(agent.is_told(Kind::RegistrationRejected));
    // It is not tried again and again.
    until("it has settled", || {
        agent.status.borrow().state == State::Current
    });
    cluster.cluster.forget_requests();
    for _ in 0..50 {
        host.round();
        std::thread::sleep(Duration::from_millis(10));
    }
    let patches = cluster.requests();
    let patches = patches.iter().filter(|seen| seen.verb == "patch").count();
    assert!(patches <= 1, "{patches}");
    // A person mends it, and touches the Node.
    cluster.also_ask(Vec::new());
    cluster.patch("k3s2", &json!({"spec": {"tags": ["mended"]}}));
    until("it is registered", || ready(&cluster, "k3s2", "sdb1"));
    until("the fault is over", || {
        !agent.is_told(Kind::RegistrationRejected)
    });
}

#[test]
fn a_node_whose_manifest_has_no_name_is_told_and_goes_on_when_it_is_mended() {
    let cluster = LonghornCluster::stand_in();
    let host = SimulatedHost::new("k3s2");
    host.provision("sdb1");
    // As a manifest in Git has it: Longhorn then takes no change at all.
    let node = json!({
        "apiVersion": "longhorn.io/v1beta2", "kind": "Node",
        "metadata": {"name": "k3s2", "namespace": "longhorn-system"},
        "spec": {"disks": {}},
    });
    let store = cluster.server().store();
    store.put("longhorn.io", "nodes", "longhorn-system", "k3s2", node);
    let agent = cluster.agent(&host, &AgentOptions::hurried());
    until("it is told why", || {
        let why = agent.detail(Kind::RegistrationRejected);
        why.is_some_and(|why| why.contains("Spec.Name"))
    });
    let _manager = cluster.manager(&[&host]);
    cluster.patch(
        "k3s2",
        &json!({"spec": {"name": "k3s2", "allowScheduling": true}}),
    );
    until("it is registered", || ready(&cluster, "k3s2", "sdb1"));
    until("nothing is wrong", || cluster.is_clean(&agent));
}

/// Since 1970. The names of Events hold it.
fn hour() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.expect("a clock").as_secs() / 3600
}

#[test]
fn refused_disks_are_told_once_and_not_again_by_the_next_agent() {
    let cluster = LonghornCluster::new();
    let host = SimulatedHost::new("k3s2");
    host.refuse("sdb1");
    let _manager = cluster.manager(&[&host]);
    let begun = hour();
    for _ in 0..3 {
        let agent = cluster.agent(&host, &AgentOptions::hurried());
        until("it has looked", || {
            host.round();
            // Looked at once: a writer that waits between two looks stops both.
            let status = agent.status.borrow();
            status.state == State::Current && status.requests.contains_key(&("tell", "ok"))
        });
    }
    // In another hour it is told once more.
    let hours = 1 + hour().abs_diff(begun);
    let told = u64::try_from(cluster.told("DiskRefused")).expect("a handful");
    assert!((1..=hours).contains(&told), "{told} in {hours} hours");
}
