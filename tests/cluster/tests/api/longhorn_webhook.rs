//! Each rule of Longhorn's webhook by itself.

use cluster_fixtures::{
    admission::{Admission, Denied, Operation, Review, UserInfo},
    longhorn::{
        Webhook, WebhookServer,
        rules::{Settings, mutate, mutations, validate_create, validate_delete, validate_update},
        webhook_server::configurations,
    },
};
use k8s_openapi::{
    ByteString,
    api::admissionregistration::v1::{
        MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
    },
};
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};

const NO_BLOCK: Settings = Settings {
    v2_data_engine: false,
};
const BLOCK: Settings = Settings {
    v2_data_engine: true,
};

/// A Node with one disk that the manager has seen, and that may go.
fn node() -> Value {
    json!({
        "metadata": {"name": "k3s1", "finalizers": ["longhorn.io"]},
        "spec": {
            "name": "k3s1", "allowScheduling": true, "evictionRequested": false, "tags": [],
            "disks": {"sdb1": disk("/mnt/longhorn/sdb1")},
        },
        "status": {"diskStatus": {"sdb1": {"diskUUID": "1", "storageScheduled": 0}}},
    })
}

fn disk(path: &str) -> Value {
    json!({
        "path": path, "diskType": "filesystem", "diskDriver": "", "allowScheduling": false,
        "evictionRequested": false, "storageReserved": 0, "tags": [],
    })
}

fn with(mut object: Value, pointer: &str, value: Value) -> Value {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = object.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    parent.insert(key.to_owned(), value);
    object
}

fn without(mut object: Value, pointer: &str) -> Value {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = object.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    assert!(parent.remove(key).is_some(), "{pointer}");
    object
}

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

/// The webhook as the server asks it.
fn review<'a>(old: &'a Value, new: &'a Value, user: &'a UserInfo) -> Review<'a> {
    Review {
        operation: Operation::Update,
        group: "longhorn.io",
        version: "v1beta2",
        resource: "nodes",
        subresource: "",
        namespace: "longhorn-system",
        name: "k3s1",
        old: Some(old),
        object: Some(new),
        user,
    }
}

#[test]
fn a_denial_names_the_webhook() {
    let (webhook, user) = (Webhook::default(), UserInfo::default());
    let old = without(node(), "/status");
    let denied = webhook
        .validate(&review(&old, &old, &user))
        .expect_err("syncing");
    assert_eq!(
        denied.message,
        "admission webhook \"validator.longhorn.io\" denied the request: spec and status of disks \
         on node k3s1 are being syncing and please retry later."
    );
    assert_eq!(denied.code, 403);
}

#[test]
fn neither_the_status_nor_another_resource_is_judged() {
    let (webhook, user) = (Webhook::default(), UserInfo::default());
    webhook.set_down(true);
    let old = without(node(), "/status");
    let nodes = review(&old, &old, &user);
    for other in [
        Review {
            subresource: "status",
            ..nodes
        },
        Review { group: "", ..nodes },
        Review {
            resource: "replicas",
            ..nodes
        },
    ] {
        webhook.validate(&other).expect("not asked");
        let mut object = old.clone();
        webhook.mutate(&other, &mut object).expect("not asked");
        assert_eq!(object, old);
    }
}

#[test]
fn a_webhook_that_is_down_blocks_every_write() {
    let (webhook, user) = (Webhook::default(), UserInfo::default());
    let old = node();
    let asked = review(&old, &old, &user);
    webhook.validate(&asked).expect("up");
    webhook.set_down(true);
    let denied = webhook.mutate(&asked, &mut old.clone()).expect_err("down");
    assert_eq!(
        (denied.code, denied.reason.as_str()),
        (500, "InternalError")
    );
    let says = "Internal error occurred: failed calling webhook \"mutator.longhorn.io\": ";
    assert!(denied.message.starts_with(says), "{denied}");
    let denied = webhook.validate(&asked).expect_err("down");
    let says = "Internal error occurred: failed calling webhook \"validator.longhorn.io\": ";
    assert!(denied.message.starts_with(says), "{denied}");
    webhook.set_down(false);
    webhook.validate(&asked).expect("up again");
}

#[test]
fn settings_change_while_it_runs() {
    let (webhook, user) = (Webhook::default(), UserInfo::default());
    let old = node();
    let mut block = disk("/dev/sdx");
    block["diskType"] = json!("block");
    let new = with(node(), "/spec/disks/raw", block);
    webhook
        .validate(&review(&old, &new, &user))
        .expect_err("V2 is off");
    webhook.set(BLOCK);
    webhook
        .validate(&review(&old, &new, &user))
        .expect("V2 is on");
}

/// What the webhook answers to a review, over HTTPS.
async fn ask(server: &WebhookServer, path: &str, request: Value) -> Result<Value, kube::Error> {
    let mut config = kube::Config::new(server.url().parse().expect("an address"));
    let pem = server.ca_pem().as_bytes();
    let certificates = rustls::pki_types::CertificateDer::pem_slice_iter(pem);
    let certificates = certificates.map(|der| der.expect("a certificate").to_vec());
    config.root_cert = Some(certificates.collect());
    config.default_retry = false;
    let client = kube::Client::try_from(config).expect("a client");
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request,
    });
    let body = serde_json::to_vec(&review).expect("JSON");
    let request = axum::http::Request::post(path)
        .header("content-type", "application/json")
        .body(body);
    let mut answer: Value = client.request(request.expect("a request")).await?;
    assert_eq!(answer["kind"], "AdmissionReview");
    assert_eq!(answer["response"]["uid"], "1");
    Ok(answer["response"].take())
}

#[tokio::test]
async fn a_real_server_is_answered_with_a_patch_and_with_a_status() {
    let server = WebhookServer::start(NO_BLOCK);
    let bare = json!({"metadata": {"name": "k3s1"}, "spec": {"disks": {"a": {"path": "/a"}}}});
    let request = json!({"uid": "1", "operation": "CREATE", "object": bare, "oldObject": null});
    let answer = ask(&server, "/v1/webhook/mutation", request).await.unwrap();
    assert_eq!(
        (&answer["allowed"], &answer["patchType"]),
        (&json!(true), &json!("JSONPatch"))
    );
    let patch: ByteString = serde_json::from_value(answer["patch"].clone()).unwrap();
    let patch: Value = serde_json::from_slice(&patch.0).unwrap();
    assert_eq!(patch, json!(mutations(&bare)));

    let request = json!({"uid": "1", "operation": "UPDATE", "object": node(), "oldObject": node()});
    let answer = ask(&server, "/v1/webhook/validation", request)
        .await
        .unwrap();
    assert_eq!(answer["allowed"], true);

    let unsynced = without(node(), "/status");
    let request =
        json!({"uid": "1", "operation": "UPDATE", "object": node(), "oldObject": unsynced});
    let answer = ask(&server, "/v1/webhook/validation", request)
        .await
        .unwrap();
    assert_eq!(answer["allowed"], false);
    assert_eq!(
        (&answer["status"]["code"], &answer["status"]["reason"]),
        (&json!(403), &json!("Forbidden"))
    );

    let request = json!({"uid": "1", "operation": "DELETE", "object": null, "oldObject": node()});
    let answer = ask(&server, "/v1/webhook/validation", request)
        .await
        .unwrap();
    assert_eq!(answer["status"]["code"], 422);
    let cause = &answer["status"]["details"]["causes"][0];
    assert_eq!(cause["reason"], "FieldValueInvalid");

    server.set_down(true);
    let request = json!({"uid": "1", "operation": "UPDATE", "object": node(), "oldObject": node()});
    let gone = ask(&server, "/v1/webhook/validation", request).await;
    let error = gone.expect_err("down");
    assert!(!matches!(error, kube::Error::Api(_)), "an answer: {error}");
}

#[test]
fn a_real_server_is_told_to_ask_about_nodes_and_to_refuse_without_an_answer() {
    let (validating, mutating) = configurations("https://127.0.0.1:1", "a certificate");
    let typed: ValidatingWebhookConfiguration = serde_json::from_value(validating).unwrap();
    let [webhook] = &typed.webhooks.expect("webhooks")[..] else {
        panic!("one webhook");
    };
    assert_eq!(webhook.name, "validator.longhorn.io");
    assert_eq!(webhook.failure_policy.as_deref(), Some("Fail"));
    assert_eq!(
        webhook.client_config.url.as_deref(),
        Some("https://127.0.0.1:1/v1/webhook/validation")
    );
    let ca = webhook.client_config.ca_bundle.as_ref().expect("a CA");
    assert_eq!(ca.0, b"a certificate");
    let rule = &webhook.rules.as_ref().expect("rules")[0];
    assert_eq!(rule.resources.as_deref(), Some(&["nodes".to_owned()][..]));
    let typed: MutatingWebhookConfiguration = serde_json::from_value(mutating).unwrap();
    let webhook = &typed.webhooks.expect("webhooks")[0];
    assert_eq!(webhook.name, "mutator.longhorn.io");
    let rule = &webhook.rules.as_ref().expect("rules")[0];
    let operations = rule.operations.as_ref().expect("operations");
    assert_eq!(operations[..], ["CREATE", "UPDATE"]);
}
