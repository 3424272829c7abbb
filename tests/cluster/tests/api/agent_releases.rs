//! How a disk leaves Longhorn, and comes back when that is called off.

use std::{fs, sync::Arc, time::Duration};

use cluster_fixtures::{
    admission::{Admission, Denied, Review},
    host::{Agent, AgentOptions, SimulatedHost},
    longhorn::Manager,
    longhorn_cluster::{ACCOUNT, LonghornCluster, NAMESPACE, until},
    server::{Mood, Whom},
};
use disk_discovery::{
    config::OnMissing,
    ledger::{Before, Ledger, ReleasePhase},
    longhorn::{finding::Kind, status::State},
    releases::Told,
};
use serde_json::{Value, json};
use uuid::Uuid;

/// A host with two disks that are registered, and ready.
struct Scene {
    cluster: LonghornCluster,
    host: SimulatedHost,
    manager: Manager,
    agent: Agent,
    uuid: Uuid,
}

fn options() -> AgentOptions {
    AgentOptions {
        hurry: 50,
        ..AgentOptions::default()
    }
}

fn is_ready(node: &Value, disk: &str) -> bool {
    let conditions = node["status"]["diskStatus"][disk]["conditions"].as_array();
    conditions.is_some_and(|all| {
        all.iter()
            .any(|one| one["type"] == "Ready" && one["status"] == "True")
    })
}

fn replicas() -> Whom {
    Whom::Resource {
        group: "longhorn.io".to_owned(),
        plural: "replicas".to_owned(),
    }
}

impl Scene {
    fn new(options: &AgentOptions) -> Self {
        Self::on(LonghornCluster::new(), options)
    }

    fn on(cluster: LonghornCluster, options: &AgentOptions) -> Self {
        let host = SimulatedHost::new("k3s2");
        host.provision("sdb1");
        host.provision("sdc1");
        let manager = cluster.manager(&[&host]);
        let agent = cluster.agent(&host, options);
        until("both are ready", || {
            let node = cluster.node("k3s2");
            is_ready(&node, "sdb1") && is_ready(&node, "sdc1")
        });
        let uuid = host.uuid("sdb1");
        Self {
            cluster,
            host,
            manager,
            agent,
            uuid,
        }
    }

    /// A person asks for it, and the loop looks.
    fn release(&self) {
        let name = "sdb1".parse().expect("a name");
        self.host.ledger().release(self.uuid, &name).expect("kept");
        self.host.round();
    }

    fn phase(&self) -> Option<ReleasePhase> {
        let standing = self.host.ledger().standing();
        let releases = &standing.known().expect("readable").releases;
        releases
            .get(&self.uuid)
            .map(|release| release.phase.clone())
    }

    fn entry(&self) -> Value {
        self.cluster.entry("k3s2", "sdb1")
    }

    fn told(&self) -> Vec<Told> {
        let told = self.agent.told.lock().expect("told");
        told.iter().map(|(_, told)| told.clone()).collect()
    }

    /// Whether such a word of progress was told.
    fn is_told(&self, words: &str) -> bool {
        let progress = |told: &Told| matches!(told, Told::Progress(said) if said.contains(words));
        self.told().iter().any(progress)
    }

    /// Bytes that Longhorn says are on the disk.
    fn scheduled(&self) -> Option<i64> {
        let node = self.cluster.node("k3s2");
        node["status"]["diskStatus"]["sdb1"]["storageScheduled"].as_i64()
    }
}

#[test]
fn a_disk_that_is_released_leaves_when_its_replicas_have_and_stays_away() {
    let scene = Scene::new(&options());
    // There is no room elsewhere yet.
    scene.manager.evictions_hang(true);
    for _ in 0..3 {
        scene
            .manager
            .place_replica("k3s2", "sdb1", 1 << 30)
            .expect("placed");
    }
    scene.release();
    until("it says what is left", || scene.is_told("3 replicas"));
    assert!(!scene.entry().is_null());
    scene.manager.evictions_hang(false);
    until("it has left", || scene.phase() == Some(ReleasePhase::Left));
    assert!(scene.entry().is_null());
    assert_eq!(
        scene.manager.replicas("k3s2").expect("listed"),
        Vec::<String>::new()
    );
    let paths =
        scene.cluster.node("k3s2")["metadata"]["annotations"]["node.longhorn.io/paths"].clone();
    assert_eq!(paths, "/mnt/longhorn/sdc1");
    // Another round, another agent: it is not registered again.
    scene.agent.end();
    let agent = scene.cluster.agent(&scene.host, &options());
    for _ in 0..50 {
        scene.host.round();
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    until("all is current", || {
        agent.status.borrow().state == State::Current
    });
    assert!(scene.cluster.entry("k3s2", "sdb1").is_null());
    // What is on the disk is still there.
    assert!(scene.host.path("sdb1").join("longhorn-disk.cfg").exists());
}

#[test]
fn a_disk_that_is_not_ready_is_not_released_and_nothing_is_changed() {
    let scene = Scene::new(&options());
    scene
        .manager
        .place_replica("k3s2", "sdb1", 1 << 30)
        .expect("placed");
    scene.manager.set_node_down("k3s2", true);
    until("it is not ready", || {
        !is_ready(&scene.cluster.node("k3s2"), "sdb1")
    });
    let before = scene.entry();
    scene.release();
    until("it is refused", || {
        scene
            .told()
            .iter()
            .any(|told| matches!(told, Told::Refused(_)))
    });
    assert_eq!(scene.phase(), None);
    assert_eq!(scene.entry(), before);
}

#[test]
fn a_disk_that_stops_being_ready_on_its_way_is_not_removed() {
    let scene = Scene::new(&options());
    scene.manager.evictions_hang(true);
    scene
        .manager
        .place_replica("k3s2", "sdb1", 1 << 30)
        .expect("placed");
    scene.release();
    until("it is evicted", || {
        scene.entry()["evictionRequested"] == true
    });
    until("Longhorn counts what is there", || {
        scene.scheduled() == Some(1 << 30)
    });
    // It says 0 of what is scheduled there now, and would let it go.
    let file = scene.host.path("sdb1").join("longhorn-disk.cfg");
    let whole = std::fs::read(&file).expect("a file");
    std::fs::write(&file, "{").expect("written");
    until("Longhorn says that nothing is there", || {
        scene.scheduled() == Some(0)
    });
    for _ in 0..50 {
        scene.host.round();
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert!(!scene.entry().is_null());
    std::fs::write(&file, whole).expect("written");
    scene.manager.evictions_hang(false);
    until("it has left", || scene.phase() == Some(ReleasePhase::Left));
    assert_eq!(
        scene.manager.replicas("k3s2").expect("listed"),
        Vec::<String>::new()
    );
}

#[test]
fn replicas_that_the_status_does_not_show_keep_a_disk() {
    let scene = Scene::on(LonghornCluster::stand_in(), &options());
    let uuid = scene.cluster.node("k3s2")["status"]["diskStatus"]["sdb1"]["diskUUID"].clone();
    // A replica of another node's manager's doing, which the status does not
    // count: only its label says where it is.
    let replica = json!({
        "apiVersion": "longhorn.io/v1beta2", "kind": "Replica",
        "metadata": {"name": "hidden-r-1", "labels": {"longhorndiskuuid": uuid}},
        "spec": {},
    });
    scene.manager.pause();
    scene.cluster.server().store().put(
        "longhorn.io",
        "replicas",
        "longhorn-system",
        "hidden-r-1",
        replica,
    );
    scene.release();
    until("its replicas were counted", || {
        scene.host.round();
        scene.is_told("1 replica")
    });
    assert!(!scene.entry().is_null());
    scene.cluster.server().store().delete(
        "longhorn.io",
        "replicas",
        "longhorn-system",
        "hidden-r-1",
    );
    scene.manager.resume();
    until("it has left", || {
        scene.host.round();
        scene.phase() == Some(ReleasePhase::Left)
    });
}

#[test]
fn a_failing_disk_that_people_took_from_longhorn_has_not_left_before_it_is_detached() {
    let scene = Scene::new(&options());
    scene.host.fail("sdb1");
    let off = json!({"spec": {"disks": {"sdb1": {"allowScheduling": false}}}});
    scene.cluster.patch("k3s2", &off);
    scene
        .cluster
        .patch("k3s2", &json!({"spec": {"disks": {"sdb1": null}}}));
    scene.release();
    until("it is said", || {
        scene.host.round();
        scene.is_told("cannot be read")
    });
    for _ in 0..20 {
        scene.host.round();
        assert!(matches!(scene.phase(), Some(ReleasePhase::Leaving { .. })));
    }
    scene.host.pull("sdb1");
    until("it has left", || {
        scene.host.round();
        scene.phase() == Some(ReleasePhase::Left)
    });
}

#[test]
fn a_release_that_is_called_off_leaves_the_disk_as_people_had_it() {
    for (schedulable, evicting) in [(true, false), (false, false), (false, true)] {
        let scene = Scene::new(&options());
        scene.manager.evictions_hang(true);
        let theirs = json!({
            "allowScheduling": schedulable, "evictionRequested": evicting, "tags": ["theirs"],
        });
        scene
            .cluster
            .patch("k3s2", &json!({"spec": {"disks": {"sdb1": theirs}}}));
        let before = scene.entry();
        scene
            .manager
            .place_replica("k3s2", "sdb1", 1 << 30)
            .expect("placed");
        scene.release();
        let known = Some(ReleasePhase::leaving(Before {
            schedulable,
            evicting,
        }));
        until("it is known how it was", || scene.phase() == known);
        until("it is evicted", || {
            scene.entry()["evictionRequested"] == true
        });
        scene.host.ledger().call_off(scene.uuid).expect("kept");
        scene.host.round();
        until("it is forgotten", || scene.phase().is_none());
        assert_eq!(scene.entry(), before);
        until("it is told", || scene.told().contains(&Told::InUse));
    }
}

/// What the agent has heard of the Node is older than what a person has done to
/// it: with that it is not written, nor may it be what is put back.
#[test]
fn what_a_person_changes_just_before_a_release_is_put_back_when_it_is_called_off() {
    let scene = Scene::on(LonghornCluster::stand_in(), &options());
    scene.manager.evictions_hang(true);
    let placed = scene.manager.place_replica("k3s2", "sdb1", 1 << 30);
    placed.expect("placed");
    until("the agent is done", || scene.cluster.is_clean(&scene.agent));
    let (schedulable, evicting) = (true, false);
    let old = Some(ReleasePhase::leaving(Before {
        schedulable,
        evicting,
    }));
    let server = scene.cluster.server();
    let slow = Mood::Slow(Duration::from_secs(6));
    server.mood_for(Whom::account(NAMESPACE, ACCOUNT), slow);
    scene.release();
    // Its request is under way.
    until("the entry is to be changed", || scene.phase() == old);
    let theirs = json!({"allowScheduling": false, "tags": ["theirs"]});
    let patch = json!({"spec": {"disks": {"sdb1": theirs}}});
    scene.cluster.patch("k3s2", &patch);
    let before = scene.entry();
    server.mood_for(Whom::account(NAMESPACE, ACCOUNT), Mood::Well);
    let now = Some(ReleasePhase::leaving(Before {
        schedulable: false,
        evicting,
    }));
    until("it is known how it was", || scene.phase() == now);
    until("it is evicted", || {
        scene.entry()["evictionRequested"] == true
    });
    scene.host.ledger().call_off(scene.uuid).expect("kept");
    scene.host.round();
    until("it is forgotten", || scene.phase().is_none());
    assert_eq!(scene.entry(), before);
}

/// Will not have the eviction from sdb1 ended.
struct GoesOn;

impl Admission for GoesOn {
    fn mutate(&self, _: &Review<'_>, _: &mut Value) -> Result<(), Denied> {
        Ok(())
    }

    fn validate(&self, review: &Review<'_>) -> Result<(), Denied> {
        let evicted = |object: &Value| object["spec"]["disks"]["sdb1"]["evictionRequested"] == true;
        if review.object.is_none_or(evicted) {
            return Ok(());
        }
        Err(Denied {
            code: 422,
            reason: "Invalid".to_owned(),
            message: "admission webhook denied the request: the eviction goes on".to_owned(),
            causes: Vec::new(),
        })
    }
}

#[test]
fn what_longhorn_will_not_have_put_back_is_not_taken_for_put_back_when_other_disks_are_registered()
{
    let scene = Scene::on(LonghornCluster::stand_in(), &options());
    scene.manager.evictions_hang(true);
    let placed = scene.manager.place_replica("k3s2", "sdb1", 1 << 30);
    placed.expect("placed");
    let before = scene.entry();
    scene.release();
    until("it is evicted", || {
        scene.entry()["evictionRequested"] == true
    });
    scene.cluster.also_ask(vec![Arc::new(GoesOn)]);
    scene.host.ledger().call_off(scene.uuid).expect("kept");
    scene.host.round();
    until("it is rejected", || {
        scene.agent.is_told(Kind::RegistrationRejected)
    });
    scene.host.provision("sdd1");
    until("another disk is registered", || {
        !scene.cluster.entry("k3s2", "sdd1").is_null()
    });
    scene.cluster.also_ask(Vec::new());
    let touched = json!({"spec": {"tags": ["mended"]}});
    scene.cluster.patch("k3s2", &touched);
    until("it is forgotten", || scene.phase().is_none());
    assert_eq!(scene.entry(), before);
}

/// A full disk of the system, say.
#[test]
fn a_release_that_cannot_be_taken_down_keeps_no_other_disk_from_being_registered() {
    let scene = Scene::new(&options());
    until("the agent is done", || scene.cluster.is_clean(&scene.agent));
    // It is released in a copy, and there is no room for another when it comes.
    let state = scene.host.root().join("state");
    let (file, copy) = (state.join("ledger.json"), state.join("copy/ledger.json"));
    fs::create_dir(state.join("copy")).expect("a directory");
    fs::copy(&file, &copy).expect("copied");
    let name = "sdb1".parse().expect("a name");
    let other = Ledger::below(&state.join("copy"));
    other.release(scene.uuid, &name).expect("kept");
    fs::create_dir(state.join("ledger.tmp")).expect("in the way");
    fs::rename(copy, file).expect("exchanged");
    scene.host.round();
    until("it is told", || scene.is_told("ledger.json"));
    for sdc1 in [json!({"allowScheduling": false}), Value::Null] {
        let removed = json!({"spec": {"disks": {"sdc1": sdc1}}});
        scene.cluster.patch("k3s2", &removed);
    }
    until("another disk is registered again", || {
        !scene.cluster.entry("k3s2", "sdc1").is_null()
    });
    assert_eq!(scene.entry()["evictionRequested"], false);
    fs::remove_dir(state.join("ledger.tmp")).expect("out of the way");
    until("the release goes on", || scene.entry().is_null());
}

/// The decisive step waits for the API server: what a person takes back in that
/// time must not be removed, or it comes back as new.
#[test]
fn a_release_that_is_called_off_while_the_replicas_are_counted_removes_nothing() {
    // What was counted is good for six seconds then, and the answer takes four of
    // them.
    let options = AgentOptions {
        hurry: 5,
        ..options()
    };
    let scene = Scene::on(LonghornCluster::stand_in(), &options);
    let theirs = json!({"allowScheduling": false, "tags": ["theirs"], "storageReserved": 7});
    let patch = json!({"spec": {"disks": {"sdb1": theirs}}});
    scene.cluster.patch("k3s2", &patch);
    let before = scene.entry();
    let server = scene.cluster.server();
    server.mood_for(replicas(), Mood::Slow(Duration::from_secs(4)));
    scene.release();
    until("its replicas are asked for", || {
        let requests = scene.cluster.requests();
        requests.iter().any(|seen| seen.path.ends_with("/replicas"))
    });
    scene.host.ledger().call_off(scene.uuid).expect("kept");
    scene.host.round();
    until("it is forgotten", || scene.phase().is_none());
    until("it is told", || scene.told().contains(&Told::InUse));
    assert_eq!(scene.entry(), before);
}

/// Longer than a failed count is taken for: it must not be made again and again
/// in front of all else.
#[test]
fn replicas_that_take_long_not_to_be_counted_keep_no_disk_from_being_registered() {
    let scene = Scene::on(LonghornCluster::stand_in(), &options());
    let long = Mood::GivingUp(Duration::from_secs(1));
    scene.cluster.server().mood_for(replicas(), long);
    scene.release();
    until("it is told", || scene.is_told("cannot be counted"));
    scene.host.provision("sdd1");
    until("the other is registered", || {
        scene.cluster.has("k3s2", "sdd1")
    });
    assert!(scene.cluster.has("k3s2", "sdb1"));
}

#[test]
fn a_release_goes_on_after_a_restart_of_the_agent_and_an_outage() {
    let scene = Scene::on(LonghornCluster::stand_in(), &options());
    scene.manager.evictions_hang(true);
    scene
        .manager
        .place_replica("k3s2", "sdb1", 1 << 30)
        .expect("placed");
    scene.release();
    until("it is evicted", || {
        scene.entry()["evictionRequested"] == true
    });
    let Scene {
        cluster,
        host,
        manager,
        agent,
        uuid,
    } = scene;
    agent.end();
    cluster
        .server()
        .mood(cluster_fixtures::server::Mood::Refusing);
    let _agent = cluster.agent(&host, &options());
    std::thread::sleep(std::time::Duration::from_millis(200));
    cluster.server().mood(cluster_fixtures::server::Mood::Well);
    manager.evictions_hang(false);
    until("it has left", || {
        let standing = host.ledger().standing();
        standing.is_known_and(|standing| standing.has_left(uuid))
    });
    assert!(cluster.entry("k3s2", "sdb1").is_null());
}

#[test]
fn a_disk_that_leaves_is_neither_missed_nor_rescheduled() {
    let stopping = AgentOptions {
        on_missing: OnMissing::StopScheduling,
        ..options()
    };
    let scene = Scene::new(&stopping);
    scene.release();
    until("it has left", || scene.phase() == Some(ReleasePhase::Left));
    scene.host.pull("sdb1");
    for _ in 0..100 {
        scene.host.round();
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(scene.cluster.told("DiskMissing"), 0);
    until("nothing is wrong", || scene.cluster.is_clean(&scene.agent));
}
