//! Each rule of Longhorn's webhook by itself.

use cluster_fixtures::{
    admission::Denied,
    longhorn::rules::{mutate, validate_create, validate_delete, validate_update},
};
use serde_json::{Value, json};

use super::{BLOCK, NO_BLOCK, disk, node, with, without};

fn update(pointer: &str, value: Value) -> Result<(), Denied> {
    validate_update(&node(), &with(node(), pointer, value), NO_BLOCK)
}

/// 422 with these words, and a cause that says them too.
fn is_invalid(judged: Result<(), Denied>, says: &str) {
    let denied = judged.expect_err(says);
    assert_eq!((denied.code, denied.reason.as_str()), (422, "Invalid"));
    assert!(denied.message.contains(says), "{denied}");
    assert_eq!(denied.causes.len(), 1, "{denied}");
    assert_eq!(denied.causes[0].message, denied.message);
    assert_eq!(denied.causes[0].reason, "FieldValueInvalid");
}

fn mutated(mut object: Value) -> Value {
    mutate(&mut object).expect("mutated");
    object
}

#[test]
fn what_is_complete_is_stored_as_it_is() {
    assert_eq!(mutated(node()), node());
    let more = with(node(), "/spec/disks/sdc1", disk("/mnt/longhorn/sdc1"));
    validate_update(&node(), &more, NO_BLOCK).expect("a disk is added");
    validate_create(&node(), NO_BLOCK).expect("created");
}

#[test]
fn a_bare_node_is_completed() {
    let bare = json!({"metadata": {"name": "k3s1"}, "spec": {"disks": null}});
    assert_eq!(
        mutated(bare),
        json!({
            "metadata": {"name": "k3s1", "finalizers": ["longhorn.io"]},
            "spec": {"disks": {}, "tags": []},
        })
    );
    let disks = json!({"a": {"path": "/a"}, "b": {"path": "/b", "diskType": "block"}});
    let completed = mutated(with(node(), "/spec/disks", disks));
    assert_eq!(
        completed["spec"]["disks"],
        json!({
            "a": {"path": "/a", "diskType": "filesystem", "tags": []},
            "b": {"path": "/b", "diskType": "block", "diskDriver": "auto", "tags": []},
        })
    );
}

#[test]
fn tags_are_sorted_and_kept_once() {
    let tags = json!(["ssd", "fast", "ssd"]);
    let node = with(node(), "/spec/tags", tags.clone());
    let sorted = mutated(with(node, "/spec/disks/sdb1/tags", tags));
    assert_eq!(sorted["spec"]["tags"], json!(["fast", "ssd"]));
    assert_eq!(
        sorted["spec"]["disks"]["sdb1"]["tags"],
        json!(["fast", "ssd"])
    );
}

#[test]
fn a_finalizer_comes_back_unless_the_node_is_being_deleted() {
    let bare = with(node(), "/metadata/finalizers", json!(["other"]));
    let kept = mutated(bare.clone());
    assert_eq!(
        kept["metadata"]["finalizers"],
        json!(["other", "longhorn.io"])
    );
    let going = with(bare, "/metadata/deletionTimestamp", json!("2026-01-01"));
    assert_eq!(mutated(going.clone()), going);
}

#[test]
fn a_name_that_is_no_part_of_a_pointer_is_an_internal_error() {
    for name in ["a/b", "a~b"] {
        let mut bare = node();
        bare["spec"]["disks"] = json!({name: {"path": "/a"}});
        let denied = mutate(&mut bare).expect_err(name);
        assert_eq!(
            (denied.code, denied.reason.as_str()),
            (500, "InternalError")
        );
    }
}

#[test]
fn a_negative_cpu_request_is_refused() {
    let says = "instanceManagerCPURequest should be greater";
    is_invalid(update("/spec/instanceManagerCPURequest", json!(-1)), says);
    let new = with(node(), "/spec/instanceManagerCPURequest", json!(-1));
    is_invalid(validate_create(&new, NO_BLOCK), says);
}

#[test]
fn a_node_is_not_evicted_while_it_is_scheduled_to() {
    is_invalid(
        update("/spec/evictionRequested", json!(true)),
        "need to disable scheduling on node k3s1",
    );
}

#[test]
fn a_change_waits_until_the_disks_are_synced() {
    let added = with(node(), "/spec/disks/sdc1", disk("/mnt/longhorn/sdc1"));
    let gone = without(node(), "/spec/disks/sdb1");
    let renamed = with(gone.clone(), "/spec/disks/sdc1", disk("/x"));
    let never = without(node(), "/status");
    for old in [added, gone, renamed, never] {
        let new = with(
            old.clone(),
            "/metadata/annotations",
            json!({"only": "this"}),
        );
        let denied = validate_update(&old, &new, NO_BLOCK).expect_err("syncing");
        assert_eq!((denied.code, denied.reason.as_str()), (403, "Forbidden"));
        assert_eq!(
            denied.message,
            "spec and status of disks on node k3s1 are being syncing and please retry later."
        );
        assert!(denied.causes.is_empty());
    }
}

#[test]
fn what_was_refused_before_the_wait_is_refused_in_it() {
    let old = without(node(), "/status");
    let evicted = with(old.clone(), "/spec/evictionRequested", json!(true));
    is_invalid(validate_update(&old, &evicted, NO_BLOCK), "on node k3s1");
    let tagged = with(old.clone(), "/spec/tags", json!(["not a tag"]));
    let denied = validate_update(&old, &tagged, NO_BLOCK).expect_err("syncing");
    assert_eq!(denied.code, 403);
}

#[test]
fn a_tag_is_a_qualified_name() {
    let says = "while validating tags: name part must consist of";
    is_invalid(update("/spec/tags", json!(["ssd", "not a tag"])), says);
    is_invalid(update("/spec/disks/sdb1/tags", json!(["-"])), says);
    update("/spec/tags", json!(["example.com/fast"])).expect("a tag");
}

#[test]
fn a_node_has_a_name_of_its_own() {
    is_invalid(
        update("/spec/name", json!("")),
        "node name is invalid. You can't have a Spec.Name empty",
    );
}

#[test]
fn a_disk_is_not_evicted_while_it_is_scheduled_to() {
    let both = json!({"path": "/a", "allowScheduling": true, "evictionRequested": true});
    is_invalid(
        update("/spec/disks/sdb1", both),
        "need to disable scheduling on disk sdb1",
    );
    let off = json!({
        "path": "/a", "diskType": "filesystem", "allowScheduling": false, "evictionRequested": true,
    });
    update("/spec/disks/sdb1", off).expect("eviction without scheduling");
}

#[test]
fn nothing_negative_is_reserved_and_any_amount_is() {
    is_invalid(
        update("/spec/disks/sdb1/storageReserved", json!(-1)),
        "storageReserved setting of disk sdb1(/mnt/longhorn/sdb1) is not valid",
    );
    update("/spec/disks/sdb1/storageReserved", json!(i64::MAX)).expect("no upper bound");
}

#[test]
fn a_block_disk_needs_the_second_data_engine() {
    let mut block = disk("/dev/sdx");
    block["diskType"] = json!("block");
    block["diskDriver"] = json!("aio");
    let new = with(node(), "/spec/disks/raw", block);
    let says = "is a block device, but the SPDK feature is not enabled";
    is_invalid(validate_update(&node(), &new, NO_BLOCK), says);
    validate_update(&node(), &new, BLOCK).expect("with the setting");
    let says = "disk raw type block is not supported since v2 data engine is disabled";
    is_invalid(validate_create(&new, NO_BLOCK), says);
    validate_create(&new, BLOCK).expect("with the setting");
}

#[test]
fn a_filesystem_has_no_driver() {
    let says = "disk sdb1 type filesystem is not supported to specify disk driver";
    is_invalid(update("/spec/disks/sdb1/diskDriver", json!("aio")), says);
    let new = with(node(), "/spec/disks/sdb1/diskDriver", json!("aio"));
    is_invalid(validate_create(&new, BLOCK), says);
}

#[test]
fn a_path_is_registered_once_however_it_is_written() {
    for path in [
        "/mnt/longhorn/sdb1",
        "/mnt/longhorn/sdb1/",
        "/mnt//longhorn/./sdb1",
    ] {
        let new = with(node(), "/spec/disks/sdc1", disk(path));
        let says = "duplicate disk paths on node k3s1: [/mnt/longhorn/sdb1 (disks sdb1 and sdc1)]";
        is_invalid(validate_update(&node(), &new, NO_BLOCK), says);
        is_invalid(validate_create(&new, NO_BLOCK), says);
    }
}

#[test]
fn a_disk_that_is_scheduled_to_or_holds_replicas_stays() {
    let gone = |old: &Value| without(old.clone(), "/spec/disks/sdb1");
    let says = "Please disable the disk /mnt/longhorn/sdb1 and remove all replicas";
    let scheduling = with(node(), "/spec/disks/sdb1/allowScheduling", json!(true));
    is_invalid(
        validate_update(&scheduling, &gone(&scheduling), NO_BLOCK),
        says,
    );
    let used = with(node(), "/status/diskStatus/sdb1/storageScheduled", json!(1));
    is_invalid(validate_update(&used, &gone(&used), NO_BLOCK), says);
    validate_update(&node(), &gone(&node()), NO_BLOCK).expect("disabled and empty");
}

#[test]
fn to_disable_and_remove_a_disk_takes_two_updates() {
    let scheduling = with(node(), "/spec/disks/sdb1/allowScheduling", json!(true));
    let disabled = with(
        scheduling.clone(),
        "/spec/disks/sdb1/allowScheduling",
        json!(false),
    );
    validate_update(&scheduling, &disabled, NO_BLOCK).expect("disabled");
    let gone = without(disabled.clone(), "/spec/disks/sdb1");
    validate_update(&scheduling, &gone, NO_BLOCK).expect_err("in one");
    validate_update(&disabled, &gone, NO_BLOCK).expect("in two");
}

#[test]
fn the_type_of_a_disk_stays_and_its_path_need_not() {
    let new = with(node(), "/spec/disks/sdb1/diskType", json!("block"));
    is_invalid(
        validate_update(&node(), &new, BLOCK),
        "The disk sdb1(/mnt/longhorn/sdb1) type is not allow to change",
    );
    update("/spec/disks/sdb1/path", json!("relative")).expect("any path");
}

#[test]
fn a_deleted_node_may_lose_its_finalizer_in_any_state() {
    let old = with(
        without(node(), "/status"),
        "/metadata/deletionTimestamp",
        json!("2026"),
    );
    let new = with(old.clone(), "/metadata/finalizers", json!([]));
    validate_update(&old, &new, NO_BLOCK).expect("let go");
    let alive = without(old, "/metadata/deletionTimestamp");
    validate_update(&alive, &new, NO_BLOCK).expect_err("not deleted");
}

#[test]
fn only_a_node_that_is_gone_is_deleted() {
    is_invalid(validate_delete(&node()), "could not delete node k3s1");
    let gone = json!([{"type": "Ready", "status": "False", "reason": "KubernetesNodeGone"}]);
    let gone = with(node(), "/status/conditions", gone);
    is_invalid(validate_delete(&gone), "node schedulable true");
    let off = with(gone, "/spec/allowScheduling", json!(false));
    validate_delete(&off).expect("gone and not scheduled to");
    let uninstalling = json!({"longhorn.io/delete-node-from-longhorn": ""});
    let uninstalling = with(node(), "/metadata/annotations", uninstalling);
    validate_delete(&uninstalling).expect("uninstalling");
}
