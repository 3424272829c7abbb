//! Default disks.

use serde_json::{Value, json};

use super::{
    super::{Defaults, Space, defaults},
    Host,
};

fn labelled(label: &str, config: &Value) -> Value {
    json!({"metadata": {
        "labels": {"node.longhorn.io/create-default-disk": label},
        "annotations": {"node.longhorn.io/default-disks-config": config.to_string()},
    }})
}

fn ordered(host: &Host, config: &Value) -> Result<Option<Value>, String> {
    defaults::ordered(
        &host.files,
        &labelled("config", config),
        &Defaults::default(),
    )
}

#[test]
fn the_annotation_is_an_order_where_the_label_says_so() {
    let host = Host::with(&["sdb1"]);
    let config = json!([{
        "name": "sdb1", "path": "/mnt/longhorn/sdb1", "allowScheduling": true,
        "diskType": "filesystem", "storageReserved": 5, "tags": ["ssd", "a", "ssd"],
    }]);
    let disks = ordered(&host, &config).unwrap().unwrap();
    assert_eq!(
        disks,
        json!({"sdb1": {
            "path": "/mnt/longhorn/sdb1", "allowScheduling": true, "diskType": "filesystem",
            "storageReserved": 5, "tags": ["a", "ssd"],
        }})
    );
    let defaults = Defaults::default();
    let unlabelled = json!({"metadata": {"annotations": {
        "node.longhorn.io/default-disks-config": config.to_string(),
    }}});
    assert_eq!(
        defaults::ordered(&host.files, &unlabelled, &defaults),
        Ok(None)
    );
    let off = Defaults {
        labelled_only: false,
        ..defaults.clone()
    };
    let labelled = labelled("config", &config);
    assert_eq!(defaults::ordered(&host.files, &labelled, &off), Ok(None));
}

#[test]
fn no_reservation_in_the_annotation_is_thirty_percent_and_no_name_the_filesystem() {
    let host = Host::with(&["sdb1"]);
    host.files.tell(
        "/mnt/longhorn/sdb1",
        Space {
            id: "0000000000ff".to_owned(),
            filesystem: "xfs".to_owned(),
            total: 1000,
            free: 1000,
        },
    );
    let config = json!([{"path": "/mnt/longhorn/sdb1", "storageReserved": 0}]);
    let disks = ordered(&host, &config).unwrap().unwrap();
    assert_eq!(disks["default-disk-0000000000ff"]["storageReserved"], 300);
}

#[test]
fn one_mistake_in_the_annotation_and_all_of_it_is_ignored() {
    let host = Host::with(&["sdb1", "sdc1"]);
    let good = json!({"name": "sdb1", "path": "/mnt/longhorn/sdb1"});
    assert!(ordered(&host, &json!([good])).unwrap().is_some());
    for (bad, says) in [
        (json!({"name": "x"}), "invalid disk"),
        (
            json!({"path": "/mnt/longhorn/none"}),
            "/mnt/longhorn/none: ",
        ),
        (json!({"path": "/mnt/longhorn/sdb1"}), "duplicate disk path"),
        (json!({"path": "/mnt/longhorn/./sdb1"}), "same file system"),
        (
            json!({"path": "/mnt/longhorn/sdc1", "name": "sdb1"}),
            "name sdb1 has duplicated",
        ),
        (
            json!({"path": "/mnt/longhorn/sdc1", "storageReserved": -1}),
            "storageReserved",
        ),
        (
            json!({"path": "/mnt/longhorn/sdc1", "storageReserved": 1_i64 << 50}),
            "storageReserved",
        ),
        (
            json!({"path": "/mnt/longhorn/sdc1", "tags": ["a b"]}),
            "validating tags",
        ),
    ] {
        let why = ordered(&host, &json!([good, bad])).unwrap_err();
        assert!(why.contains(says), "{bad}: {why}");
    }
    let kubernetes = labelled("perhaps", &json!([good]));
    let why = defaults::ordered(&host.files, &kubernetes, &Defaults::default()).unwrap_err();
    assert!(why.contains("invalid label value: perhaps"), "{why}");
}

#[test]
fn a_label_that_is_true_is_one_disk_at_the_default_path() {
    let host = Host::with(&[]);
    let kubernetes = labelled("True", &json!([]));
    let defaults = Defaults::default();
    let disks = defaults::ordered(&host.files, &kubernetes, &defaults);
    let disks = disks.unwrap().unwrap();
    let disk = disks.as_object().unwrap().values().next().unwrap();
    assert_eq!(disk["path"], "/var/lib/longhorn/");
    assert_eq!(disk["storageReserved"], json!((100_i64 << 30) * 30 / 100));
    assert!(host.root.path().join("var/lib/longhorn/replicas").is_dir());
}
