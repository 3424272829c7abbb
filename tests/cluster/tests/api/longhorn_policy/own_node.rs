//! What the policy that a cluster is given lets the agent do.

use std::collections::BTreeMap;

use cluster_fixtures::{admission::Operation, longhorn::Policies};
use serde_json::{Value, json};

use super::{Call, changed, disk, edited, longhorn, update, user};

/// What a cluster is given.
const OWN_NODE: &str =
    include_str!("../../../../../deploy/infrastructure/storage/admission-policy.yaml");
const AGENT: &str = "system:serviceaccount:longhorn-system:disk-discovery";

fn kubernetes() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": "k3s1", "labels": {"x": "y"}, "annotations": {"theirs": "1"}},
        "spec": {"podCIDR": "10.42.0.0/24"},
    })
}

fn core(pointer: &str, value: Option<Value>) -> Call {
    Call {
        resource: ("", "nodes", ""),
        namespace: "",
        ..update(kubernetes(), edited(kubernetes(), pointer, value))
    }
}

fn event(regarding: &str) -> Call {
    Call {
        operation: Operation::Create,
        resource: ("events.k8s.io", "events", ""),
        namespace: "longhorn-system",
        name: "k3s1.1234",
        old: None,
        new: Some(json!({
            "kind": "Event", "metadata": {"name": "k3s1.1234"},
            "regarding": {"kind": "Node", "name": regarding},
        })),
    }
}
#[test]
fn the_agent_may_do_its_work_on_its_own_node() {
    let policies = Policies::from_yaml(OWN_NODE).expect("the manifest");
    let agent = user(AGENT, Some("k3s1"));
    let added = edited(
        longhorn(),
        "/spec/disks/sdc1",
        Some(disk("/mnt/longhorn/sdc1")),
    );
    let bare = edited(longhorn(), "/spec/disks/old", Some(json!({"path": "/old"})));
    let completed = edited(
        bare.clone(),
        "/spec/disks/old",
        Some(json!({"path": "/old", "diskType": "filesystem", "tags": []})),
    );
    let no_finalizer = edited(longhorn(), "/metadata/finalizers", None);
    let no_labels = edited(longhorn(), "/metadata/labels", None);
    let no_disks = edited(longhorn(), "/spec/disks", None);
    let first = edited(
        longhorn(),
        "/spec/disks",
        Some(json!({"sdb1": disk("/mnt/longhorn/sdb1")})),
    );
    for (what, call) in [
        ("nothing", update(longhorn(), longhorn())),
        ("adds a disk", update(longhorn(), added.clone())),
        ("removes a disk", update(added, longhorn())),
        ("adds the first disk", update(no_disks, first)),
        (
            "annotates",
            changed(
                "/metadata/annotations/node.longhorn.io~1paths",
                Some(json!("/mnt/longhorn/sdb1")),
            ),
        ),
        (
            "asks for an answer",
            changed(
                "/metadata/annotations/disk-discovery~1is-agent-alive",
                Some(json!("me")),
            ),
        ),
        (
            "stops scheduling",
            changed("/spec/disks/sdb1/allowScheduling", Some(json!(false))),
        ),
        (
            "evicts",
            changed("/spec/disks/sdb1/evictionRequested", Some(json!(true))),
        ),
        ("what the mutator completes", update(bare, completed)),
        ("the mutator's finalizer", update(no_finalizer, longhorn())),
        (
            "a node without labels",
            update(no_labels.clone(), no_labels),
        ),
        (
            "its annotation of the Kubernetes Node",
            core(
                "/metadata/annotations/node.longhorn.io~1default-disks-config",
                Some(json!("[]")),
            ),
        ),
        ("an event", event("k3s1")),
    ] {
        if let Err(denied) = call.by(&policies, &agent) {
            panic!("{what}: {denied}");
        }
    }
}

#[test]
fn the_agent_may_do_nothing_else() {
    let policies = Policies::from_yaml(OWN_NODE).expect("the manifest");
    let agent = user(AGENT, Some("k3s1"));
    let outside = |path| Some(disk(path));
    let create = Call {
        operation: Operation::Create,
        old: None,
        ..update(longhorn(), longhorn())
    };
    let delete = Call {
        operation: Operation::Delete,
        new: None,
        ..update(longhorn(), longhorn())
    };
    let status = Call {
        resource: ("longhorn.io", "nodes", "status"),
        ..update(longhorn(), longhorn())
    };
    let core_status = Call {
        resource: ("", "nodes", "status"),
        namespace: "",
        ..update(kubernetes(), kubernetes())
    };
    let pod_event = Call {
        new: Some(json!({"kind": "Event", "regarding": {"kind": "Pod", "name": "k3s1"}})),
        ..event("k3s1")
    };
    let no_subject = Call {
        new: Some(json!({"kind": "Event"})),
        ..event("k3s1")
    };
    for (what, call) in [
        ("creates", create),
        ("deletes", delete),
        ("writes the status", status),
        ("writes the status of the Kubernetes Node", core_status),
        ("renames", changed("/spec/name", Some(json!("k3s2")))),
        ("forgets the name", changed("/spec/name", None)),
        (
            "stops the node",
            changed("/spec/allowScheduling", Some(json!(false))),
        ),
        (
            "evicts the node",
            changed("/spec/evictionRequested", Some(json!(true))),
        ),
        (
            "tags the node",
            changed("/spec/tags", Some(json!(["fast", "mine"]))),
        ),
        ("untags the node", changed("/spec/tags", Some(json!([])))),
        (
            "takes CPUs",
            changed("/spec/instanceManagerCPURequest", Some(json!(1))),
        ),
        ("labels", changed("/metadata/labels/c", Some(json!("d")))),
        ("unlabels", changed("/metadata/labels", None)),
        ("lets go", changed("/metadata/finalizers", Some(json!([])))),
        (
            "holds",
            changed("/metadata/finalizers", Some(json!(["longhorn.io", "mine"]))),
        ),
        (
            "owns",
            changed("/metadata/ownerReferences", Some(json!([{"name": "x"}]))),
        ),
        (
            "adds a disk elsewhere",
            changed("/spec/disks/x", outside("/var/lib/x")),
        ),
        (
            "adds the root",
            changed("/spec/disks/x", outside("/mnt/longhorn/")),
        ),
        (
            "adds what looks alike",
            changed("/spec/disks/x", outside("/mnt/longhornx/a")),
        ),
        (
            "climbs",
            changed("/spec/disks/x", outside("/mnt/longhorn/../x")),
        ),
        (
            "adds the root twice",
            changed("/spec/disks/x", outside("/mnt/longhorn//")),
        ),
        ("adds nothing", changed("/spec/disks/x", Some(json!({})))),
        (
            "removes a disk elsewhere",
            changed("/spec/disks/default", None),
        ),
        (
            "moves a disk",
            changed("/spec/disks/sdb1/path", Some(json!("/mnt/longhorn/sdc1"))),
        ),
        (
            "takes a disk from elsewhere",
            changed(
                "/spec/disks/default/path",
                Some(json!("/mnt/longhorn/sdc1")),
            ),
        ),
        (
            "changes the type",
            changed("/spec/disks/sdb1/diskType", Some(json!("block"))),
        ),
        (
            "changes the driver",
            changed("/spec/disks/default/diskDriver", Some(json!("nvme"))),
        ),
        (
            "lifts a freeze",
            changed(
                "/metadata/annotations/disk-discovery~1frozen",
                Some(json!("false")),
            ),
        ),
        (
            "drops an annotation of others",
            changed("/metadata/annotations", None),
        ),
        (
            "an event with the name of another node's",
            Call {
                new: Some(json!({
                    "kind": "Event", "metadata": {"name": "k3s2.1234"},
                    "regarding": {"kind": "Node", "name": "k3s1"},
                })),
                ..event("k3s1")
            },
        ),
        (
            "stops a disk elsewhere",
            changed("/spec/disks/default/allowScheduling", Some(json!(false))),
        ),
        (
            "evicts a disk elsewhere",
            changed("/spec/disks/default/evictionRequested", Some(json!(true))),
        ),
        (
            "reserves elsewhere",
            changed("/spec/disks/default/storageReserved", Some(json!(6))),
        ),
        (
            "tags a disk elsewhere",
            changed("/spec/disks/default/tags", Some(json!(["x"]))),
        ),
        (
            "annotates the Kubernetes Node otherwise",
            core("/metadata/annotations/mine", Some(json!("1"))),
        ),
        (
            "drops an annotation of the Kubernetes Node",
            core("/metadata/annotations/theirs", None),
        ),
        (
            "labels the Kubernetes Node",
            core("/metadata/labels/storage", Some(json!("longhorn"))),
        ),
        (
            "taints the Kubernetes Node",
            core(
                "/spec/taints",
                Some(json!([{"key": "x", "effect": "NoExecute"}])),
            ),
        ),
        ("an event on a pod", pod_event),
        ("an event on nothing", no_subject),
    ] {
        let denied = call.by(&policies, &agent).expect_err(what);
        assert!(
            !denied.message.contains("resulted in error"),
            "{what}: {denied}"
        );
        assert_eq!(
            (denied.code, denied.reason.as_str()),
            (403, "Forbidden"),
            "{what}: {denied}"
        );
    }
}

#[test]
fn the_agent_of_another_node_may_do_nothing_and_says_which() {
    let policies = Policies::from_yaml(OWN_NODE).expect("the manifest");
    let annotation = core(
        "/metadata/annotations/node.longhorn.io~1default-disks-config",
        Some(json!("[]")),
    );
    for call in [update(longhorn(), longhorn()), annotation, event("k3s1")] {
        let other = user(AGENT, Some("k3s2"));
        let denied = call.by(&policies, &other).expect_err("another node");
        assert_eq!((denied.code, denied.reason.as_str()), (403, "Forbidden"));
        assert!(denied.message.contains("k3s2"), "{denied}");
        let unbound = user(AGENT, None);
        let denied = call.by(&policies, &unbound).expect_err("no node");
        assert_eq!((denied.code, denied.reason.as_str()), (403, "Forbidden"));
        assert!(denied.message.contains("names no node"), "{denied}");
    }
}

#[test]
fn nobody_else_is_held_by_it() {
    let policies = Policies::from_yaml(OWN_NODE).expect("the manifest");
    let call = changed("/spec/disks", Some(json!({})));
    for name in [
        "system:admin",
        "system:serviceaccount:longhorn-system:longhorn-service-account",
    ] {
        call.by(&policies, &user(name, None)).expect(name);
    }
}

#[test]
fn only_what_the_claim_holds_counts() {
    let policies = Policies::from_yaml(OWN_NODE).expect("the manifest");
    let mut agent = user(AGENT, None);
    agent.extra = BTreeMap::from([(
        "authentication.kubernetes.io/pod-name".to_owned(),
        vec!["k3s1".to_owned()],
    )]);
    let denied = update(longhorn(), longhorn()).by(&policies, &agent);
    denied.expect_err("another claim");
}
