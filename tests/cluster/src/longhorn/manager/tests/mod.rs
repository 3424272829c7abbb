//! What the manager finds and what it makes of it, without an API server.

mod defaults;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    DiskFiles, LocalFiles, Scheduling, Space, monitor,
    monitor::{CONFIGURATION, Configuration, collect},
    status,
};

const NOW: &str = "2026-01-02T03:04:05Z";
const LATER: &str = "2026-02-03T04:05:06Z";

/// A node below a directory, with the directories of these disks.
struct Host {
    root: TempDir,
    files: LocalFiles,
}

impl Host {
    fn with(disks: &[&str]) -> Self {
        let root = tempfile::tempdir().unwrap();
        for disk in disks {
            fs::create_dir_all(root.path().join("mnt/longhorn").join(disk)).unwrap();
        }
        let files = LocalFiles::below(root.path());
        Self { root, files }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.path().join("mnt/longhorn").join(path)
    }

    fn cfg(&self, disk: &str) -> Configuration {
        serde_json::from_slice(&fs::read(self.at(disk).join(CONFIGURATION)).unwrap()).unwrap()
    }
}

fn node(disks: &[&str]) -> Value {
    let entry = |disk: &&str| {
        let entry = json!({
            "path": format!("/mnt/longhorn/{disk}"), "diskType": "filesystem",
            "allowScheduling": true,
        });
        ((*disk).to_owned(), entry)
    };
    let disks: serde_json::Map<String, Value> = disks.iter().map(entry).collect();
    json!({
        "metadata": {"name": "k3s1"}, "spec": {"name": "k3s1", "disks": disks},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    })
}

/// Looks, and writes down what it saw.
fn round(files: &dyn DiskFiles, node: &mut Value, replicas: &[Value]) {
    let collected = collect(files, node, &|_| false).unwrap();
    status::disks(node, &collected, replicas, Scheduling::default(), NOW);
}

fn condition<'a>(node: &'a Value, disk: &str, kind: &str) -> &'a Value {
    let conditions = node["status"]["diskStatus"][disk]["conditions"].as_array();
    let found = conditions.unwrap().iter().find(|one| one["type"] == kind);
    found.unwrap()
}

fn reason<'a>(node: &'a Value, disk: &str, kind: &str) -> &'a str {
    condition(node, disk, kind)["reason"].as_str().unwrap()
}

fn replica(name: &str, uuid: &str, size: i64) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"longhorndiskuuid": uuid}},
        "spec": {"volumeSize": size.to_string(), "nodeID": "k3s1"},
    })
}

#[test]
fn a_new_disk_gets_its_file_and_is_ready() {
    let host = Host::with(&["sdb1"]);
    let mut node = node(&["sdb1"]);
    round(&host.files, &mut node, &[]);
    let cfg = host.cfg("sdb1");
    assert_eq!(
        (cfg.disk_name.as_str(), cfg.state.as_str()),
        ("sdb1", "ready")
    );
    assert!(host.at("sdb1/replicas").is_dir());
    let status = &node["status"]["diskStatus"]["sdb1"];
    assert_eq!(status["diskUUID"], cfg.disk_uuid);
    assert_eq!(status["diskPath"], "/mnt/longhorn/sdb1");
    assert_eq!(status["filesystemType"], "ext2/ext3");
    assert_eq!(condition(&node, "sdb1", "Ready")["status"], "True");
    assert_eq!(condition(&node, "sdb1", "Schedulable")["status"], "True");
    assert_eq!(reason(&node, "sdb1", "Ready"), "");
}

#[test]
fn the_file_is_written_in_longhorns_words() {
    let host = Host::with(&["sdb1"]);
    collect(&host.files, &node(&["sdb1"]), &|_| false).unwrap();
    let uuid = host.cfg("sdb1").disk_uuid;
    assert_eq!(
        fs::read_to_string(host.at("sdb1").join(CONFIGURATION)).unwrap(),
        format!(r#"{{"diskName":"sdb1","diskUUID":"{uuid}","diskDriver":"","state":"ready"}}"#)
    );
}

#[test]
fn a_file_that_is_there_is_kept_and_its_uuid_adopted() {
    let host = Host::with(&["sdb1"]);
    let text = r#"{"diskUUID":"abc","diskName":"elsewhere"}"#;
    fs::write(host.at("sdb1").join(CONFIGURATION), text).unwrap();
    let mut node = node(&["sdb1"]);
    round(&host.files, &mut node, &[]);
    let status = &node["status"]["diskStatus"]["sdb1"];
    assert_eq!(status["diskUUID"], "abc");
    assert_eq!(status["diskName"], "elsewhere");
    assert_eq!(
        fs::read_to_string(host.at("sdb1").join(CONFIGURATION)).unwrap(),
        text
    );
}

#[test]
fn no_two_disks_get_uuids_that_begin_alike() {
    let host = Host::with(&["sdb1"]);
    let mut node = node(&["sdb1"]);
    let collected = collect(&host.files, &node, &|_| true).unwrap();
    status::disks(&mut node, &collected, &[], Scheduling::default(), NOW);
    assert_eq!(reason(&node, "sdb1", "Ready"), "NoDiskInfo");
    assert!(!host.at("sdb1").join(CONFIGURATION).exists());
    round(&host.files, &mut node, &[]);
    let uuid = host.cfg("sdb1").disk_uuid;
    let beginnings = status::beginnings(&[node]);
    assert!(beginnings.contains(&uuid[..4]), "{beginnings:?}");
}

#[test]
fn an_empty_object_is_a_ready_disk_without_a_uuid() {
    let host = Host::with(&["sdb1"]);
    fs::write(host.at("sdb1").join(CONFIGURATION), "{}").unwrap();
    let mut node = node(&["sdb1"]);
    let stray = replica("unscheduled", "", 1 << 30);
    round(&host.files, &mut node, &[stray]);
    let status = &node["status"]["diskStatus"]["sdb1"];
    assert_eq!(status["diskUUID"], "");
    assert_eq!(condition(&node, "sdb1", "Ready")["status"], "True");
    assert_eq!(status["scheduledReplica"], json!({"unscheduled": 1 << 30}));
}

#[test]
fn an_empty_object_on_a_known_disk_is_a_missing_file() {
    let host = Host::with(&["sdb1"]);
    let mut node = node(&["sdb1"]);
    round(&host.files, &mut node, &[]);
    fs::write(host.at("sdb1").join(CONFIGURATION), "{}").unwrap();
    round(&host.files, &mut node, &[]);
    assert_eq!(reason(&node, "sdb1", "Ready"), "DiskFilesystemChanged");
    let message = condition(&node, "sdb1", "Ready")["message"]
        .as_str()
        .unwrap();
    assert!(
        message.contains("cannot find disk config file"),
        "{message}"
    );
}

#[test]
fn a_broken_file_stays_broken() {
    let host = Host::with(&["sdb1"]);
    fs::write(host.at("sdb1").join(CONFIGURATION), "{\"diskUUID\":").unwrap();
    let mut node = node(&["sdb1"]);
    for _ in 0..2 {
        round(&host.files, &mut node, &[]);
        assert_eq!(reason(&node, "sdb1", "Ready"), "NoDiskInfo");
    }
}

#[test]
fn a_missing_directory_is_not_made() {
    let host = Host::with(&[]);
    let mut node = node(&["sdb1"]);
    round(&host.files, &mut node, &[]);
    assert_eq!(reason(&node, "sdb1", "Ready"), "NoDiskInfo");
    assert_eq!(reason(&node, "sdb1", "Schedulable"), "DiskNotReady");
    assert!(!host.at("sdb1").exists());
    assert_eq!(node["status"]["diskStatus"]["sdb1"]["diskUUID"], "");
}

#[test]
fn another_filesystem_at_the_path_is_not_the_disk() {
    let host = Host::with(&["sdb1"]);
    let mut node = node(&["sdb1"]);
    round(&host.files, &mut node, &[]);
    let uuid = host.cfg("sdb1").disk_uuid;
    fs::rename(host.at("sdb1"), host.at("away")).unwrap();
    fs::create_dir(host.at("sdb1")).unwrap();
    round(&host.files, &mut node, &[]);
    assert_ne!(host.cfg("sdb1").disk_uuid, uuid);
    assert_eq!(reason(&node, "sdb1", "Ready"), "DiskFilesystemChanged");
    let status = &node["status"]["diskStatus"]["sdb1"];
    assert_eq!(
        (&status["diskUUID"], &status["storageMaximum"]),
        (&json!(uuid), &json!(0))
    );
    fs::remove_dir_all(host.at("sdb1")).unwrap();
    fs::rename(host.at("away"), host.at("sdb1")).unwrap();
    round(&host.files, &mut node, &[]);
    assert_eq!(condition(&node, "sdb1", "Ready")["status"], "True");
}

/// A host where nothing can be written, and where every look but one fails.
struct Sealed {
    look: io::ErrorKind,
}

impl DiskFiles for Sealed {
    fn stat(&self, _: &Path) -> io::Result<()> {
        Err(self.look.into())
    }

    fn read(&self, _: &Path) -> io::Result<Vec<u8>> {
        Ok(br#"{"diskUUID":"there all the time"}"#.to_vec())
    }

    fn create(&self, _: &Path, _: &[u8]) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(nix::libc::EPERM))
    }

    fn sync(&self, _: &Path) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(nix::libc::EPERM))
    }

    fn mkdir(&self, _: &Path) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(nix::libc::EPERM))
    }

    fn statfs(&self, _: &Path) -> io::Result<Space> {
        Ok(Space {
            id: "1".to_owned(),
            filesystem: "ext2/ext3".to_owned(),
            total: 1,
            free: 1,
        })
    }
}

#[test]
fn whatever_a_look_at_the_file_fails_for_it_counts_as_missing() {
    for look in [io::ErrorKind::NotFound, io::ErrorKind::Other] {
        let mut node = node(&["sdb1"]);
        round(&Sealed { look }, &mut node, &[]);
        assert_eq!(reason(&node, "sdb1", "Ready"), "NoDiskInfo");
        let message = condition(&node, "sdb1", "Ready")["message"]
            .as_str()
            .unwrap();
        assert!(
            message.contains("failed to generate disk config"),
            "{message}"
        );
        assert!(message.contains("Operation not permitted"), "{message}");
    }
}

/// A host whose disk is mounted after the first look at it.
struct Mounting(LocalFiles);

impl DiskFiles for Mounting {
    fn stat(&self, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.0.read(path)
    }

    fn create(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.0.create(path, bytes)
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        self.0.sync(path)
    }

    fn mkdir(&self, path: &Path) -> io::Result<()> {
        self.0.mkdir(path)
    }

    fn statfs(&self, path: &Path) -> io::Result<Space> {
        self.0.statfs(path)
    }
}

#[test]
fn a_disk_that_is_mounted_during_a_look_keeps_its_file() {
    let host = Host::with(&["sdb1"]);
    let mut node = node(&["sdb1"]);
    round(&host.files, &mut node, &[]);
    let before = host.cfg("sdb1");
    let mounting = Mounting(LocalFiles::below(host.root.path()));
    let path = "/mnt/longhorn/sdb1".to_owned();
    let crashed = collect(&mounting, &node, &|_| false);
    assert_eq!(crashed, Err(monitor::Crashed { path }));
    assert_eq!(host.cfg("sdb1"), before);
}

#[test]
fn one_filesystem_is_one_disk_and_the_first_keeps_it() {
    let host = Host::with(&["sdb1", "sdc1"]);
    let mut node = node(&["sdc1"]);
    round(&host.files, &mut node, &[]);
    let one = Space {
        id: "one".to_owned(),
        filesystem: "xfs".to_owned(),
        total: 1 << 40,
        free: 1 << 40,
    };
    host.files.tell("/mnt/longhorn/sdb1", one.clone());
    host.files.tell("/mnt/longhorn/sdc1", one);
    node["spec"]["disks"]["sdb1"] = json!({"path": "/mnt/longhorn/sdb1", "diskType": "filesystem"});
    round(&host.files, &mut node, &[]);
    assert_eq!(condition(&node, "sdc1", "Ready")["status"], "True");
    assert_eq!(reason(&node, "sdb1", "Ready"), "DiskFilesystemChanged");
    let message = condition(&node, "sdb1", "Ready")["message"]
        .as_str()
        .unwrap();
    assert!(message.contains("same file system ID one"), "{message}");
}

#[test]
fn free_space_is_rounded_down_and_too_little_of_it_is_pressure() {
    let host = Host::with(&["sdb1"]);
    let mut node = node(&["sdb1"]);
    let mib = 1 << 20;
    let space = |free| Space {
        id: "one".to_owned(),
        filesystem: "xfs".to_owned(),
        total: 1000 * mib,
        free,
    };
    host.files.tell("/mnt/longhorn/sdb1", space(399 * mib));
    round(&host.files, &mut node, &[]);
    let status = &node["status"]["diskStatus"]["sdb1"];
    assert_eq!(status["storageAvailable"], json!(300 * mib));
    assert_eq!(status["storageMaximum"], json!(1000 * mib));
    assert_eq!(condition(&node, "sdb1", "Schedulable")["status"], "True");
    host.files.tell("/mnt/longhorn/sdb1", space(299 * mib));
    round(&host.files, &mut node, &[]);
    assert_eq!(reason(&node, "sdb1", "Schedulable"), "DiskPressure");
}

#[test]
fn a_reservation_above_the_size_leaves_no_room() {
    let host = Host::with(&["sdb1"]);
    let mut node = node(&["sdb1"]);
    node["spec"]["disks"]["sdb1"]["storageReserved"] = json!(1_i64 << 50);
    round(&host.files, &mut node, &[]);
    assert_eq!(reason(&node, "sdb1", "Schedulable"), "DiskPressure");
}

#[test]
fn a_disk_that_is_not_ready_claims_to_hold_nothing() {
    let host = Host::with(&["sdb1"]);
    let mut node = node(&["sdb1"]);
    round(&host.files, &mut node, &[]);
    let replicas = [replica("r", &host.cfg("sdb1").disk_uuid, 5)];
    round(&host.files, &mut node, &replicas);
    let status = &node["status"]["diskStatus"]["sdb1"];
    assert_eq!(status["storageScheduled"], 5);
    assert_eq!(status["scheduledReplica"], json!({"r": 5}));
    fs::remove_dir_all(host.at("sdb1")).unwrap();
    round(&host.files, &mut node, &replicas);
    let status = &node["status"]["diskStatus"]["sdb1"];
    assert_eq!(status["storageScheduled"], 0);
    assert_eq!(status["scheduledReplica"], json!({}));
}

#[test]
fn what_is_no_disk_any_more_has_no_status() {
    let host = Host::with(&["sdb1", "sdc1"]);
    let mut node = node(&["sdb1", "sdc1"]);
    round(&host.files, &mut node, &[]);
    node["spec"]["disks"]
        .as_object_mut()
        .unwrap()
        .remove("sdb1");
    round(&host.files, &mut node, &[]);
    let disks = node["status"]["diskStatus"].as_object().unwrap();
    assert_eq!(disks.keys().collect::<Vec<_>>(), ["sdc1"]);
    assert!(host.at("sdb1").join(CONFIGURATION).exists());
}

#[test]
fn what_was_found_of_other_disks_says_nothing() {
    let host = Host::with(&["sdb1"]);
    let old = node(&["sdb1"]);
    let collected = collect(&host.files, &old, &|_| false).unwrap();
    assert!(monitor::is_of(&old, &collected));
    assert!(!monitor::is_of(&node(&[]), &collected));
    assert!(!monitor::is_of(&node(&["sdc1"]), &collected));
    assert!(!monitor::is_of(&node(&["sdb1", "sdc1"]), &collected));
    for (key, value) in [("path", json!("/x")), ("evictionRequested", json!(true))] {
        let mut new = old.clone();
        new["spec"]["disks"]["sdb1"][key] = value;
        assert!(!monitor::is_of(&new, &collected), "{key}");
    }
}

#[test]
fn a_condition_keeps_the_time_since_when_it_holds() {
    let host = Host::with(&["sdb1"]);
    let mut node = node(&["sdb1"]);
    round(&host.files, &mut node, &[]);
    let collected = collect(&host.files, &node, &|_| false).unwrap();
    let before = node["status"].clone();
    status::disks(&mut node, &collected, &[], Scheduling::default(), LATER);
    assert_eq!(node["status"], before);
    fs::remove_dir_all(host.at("sdb1")).unwrap();
    let collected = collect(&host.files, &node, &|_| false).unwrap();
    status::disks(&mut node, &collected, &[], Scheduling::default(), LATER);
    assert_eq!(
        condition(&node, "sdb1", "Ready")["lastTransitionTime"],
        LATER
    );
}

#[test]
fn a_node_is_as_ready_as_its_kubelet_and_its_manager() {
    let kubernetes = |ready: &str, cordoned: bool| {
        json!({
            "spec": {"unschedulable": cordoned},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        })
    };
    for (kubernetes, pod, ready, schedulable) in [
        (Some(kubernetes("True", false)), true, "", Some("")),
        (
            Some(kubernetes("True", true)),
            true,
            "",
            Some("KubernetesNodeCordoned"),
        ),
        (
            Some(kubernetes("Unknown", false)),
            true,
            "KubernetesNodeNotReady",
            Some(""),
        ),
        (
            Some(kubernetes("True", false)),
            false,
            "ManagerPodDown",
            Some(""),
        ),
        (None, true, "KubernetesNodeGone", None),
    ] {
        let mut node = node(&[]);
        status::conditions_of_node(&mut node, kubernetes.as_ref(), pod, NOW);
        let conditions = node["status"]["conditions"].as_array().unwrap();
        let reasons: BTreeMap<_, _> = conditions
            .iter()
            .map(|one| {
                (
                    one["type"].as_str().unwrap(),
                    one["reason"].as_str().unwrap(),
                )
            })
            .collect();
        assert_eq!(reasons["Ready"], ready);
        assert_eq!(reasons.get("Schedulable").copied(), schedulable);
    }
}

#[test]
fn no_disk_of_a_node_that_is_not_ready_is_ready() {
    let host = Host::with(&["sdb1"]);
    let mut node = node(&["sdb1"]);
    round(&host.files, &mut node, &[]);
    assert!(!status::disks_of_a_node_that_is_not_ready(&mut node, NOW));
    let size = node["status"]["diskStatus"]["sdb1"]["storageMaximum"].clone();
    node["status"]["conditions"][0]["status"] = json!("False");
    assert!(status::disks_of_a_node_that_is_not_ready(&mut node, NOW));
    for kind in ["Ready", "Schedulable"] {
        assert_eq!(reason(&node, "sdb1", kind), "NodeNotReady");
    }
    assert_eq!(node["status"]["diskStatus"]["sdb1"]["storageMaximum"], size);
}
