//! Objects at an API server: what is stored, what is refused, and in which words.

use axum::http::Method;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::ask::{
    APPLY, JSON_PATCH, MERGE, Place, STRATEGIC, ask, delete, get, install, merge, patch, post, put,
    read, send, text, unique, version,
};

fn disk(path: &str) -> Value {
    json!({
        "path": path, "diskType": "filesystem", "diskDriver": "", "allowScheduling": true,
        "evictionRequested": false, "storageReserved": 0, "tags": [],
    })
}

#[tokio::test]
async fn a_patch_with_an_older_version_is_a_conflict_and_changes_nothing() {
    let at = Place::new().await;
    let made = at.make_node("k3s2").await;
    let with = |version: &str, path: &str| {
        json!({
            "metadata": {"resourceVersion": version, "annotations": {"by": path}},
            "spec": {"disks": {"b": disk(path)}},
        })
    };
    let (code, patched) = merge(&at.client, &at.node("k3s2"), &with(version(&made), "/b")).await;
    assert_eq!(code, 200, "{patched}");
    assert_eq!(patched["spec"]["disks"]["b"], disk("/b"));
    assert_eq!(patched["spec"]["disks"]["a"]["path"], "/mnt/longhorn/a");
    assert_ne!(version(&patched), version(&made));
    let (code, refused) = merge(&at.client, &at.node("k3s2"), &with(version(&made), "/c")).await;
    assert_eq!((code, text(&refused, "/reason")), (409, "Conflict"));
    assert_eq!(
        refused["message"],
        "Operation cannot be fulfilled on nodes.longhorn.io \"k3s2\": the object has been modified; please apply your changes to the latest version and try again"
    );
    assert_eq!(
        refused["details"],
        json!({"name": "k3s2", "group": "longhorn.io", "kind": "nodes"})
    );
    assert_eq!(get(&at.client, &at.node("k3s2")).await.1, patched);
}

#[tokio::test]
async fn patches_without_a_version_all_arrive() {
    let at = Place::new().await;
    at.make_node("k3s2").await;
    join_all((0..50).map(|number| {
        let (client, path) = (at.client.clone(), at.node("k3s2"));
        async move {
            let disks = json!({"spec": {"disks": {format!("d{number}"): disk("/d")}}});
            let (code, answer) = merge(&client, &path, &disks).await;
            assert_eq!(code, 200, "{answer}");
        }
    }))
    .await;
    let (_, node) = get(&at.client, &at.node("k3s2")).await;
    assert_eq!(node["spec"]["disks"].as_object().expect("disks").len(), 51);
    assert_eq!(node["metadata"]["generation"], 51);
}

#[tokio::test]
async fn a_patch_that_changes_nothing_keeps_the_version() {
    let at = Place::new().await;
    let made = at.make_node("k3s2").await;
    let same =
        json!({"spec": {"disks": {"a": {"path": "/mnt/longhorn/a"}}}, "status": {"zone": "z"}});
    let (code, patched) = merge(&at.client, &at.node("k3s2"), &same).await;
    assert_eq!(code, 200);
    // The other ones note when it was that somebody changed nothing.
    if at.is_of_today() {
        assert_eq!(version(&patched), version(&made));
    }
    let other = json!({"spec": {"disks": {"a": {"path": "/mnt/longhorn/b"}}}});
    let (_, patched) = merge(&at.client, &at.node("k3s2"), &other).await;
    assert_ne!(version(&patched), version(&made));
}

#[tokio::test]
async fn the_status_has_its_own_endpoint_and_leaves_the_rest_alone() {
    let at = Place::new().await;
    let mut new = crate::ask::longhorn_node("k3s2");
    new["status"] = json!({"zone": "at birth"});
    let (_, made) = post(&at.client, &at.nodes(), &new).await;
    assert_eq!(made.get("status"), None);
    let both = json!({"spec": {"allowScheduling": false}, "status": {"zone": "z"}});
    let status = format!("{}/status", at.node("k3s2"));
    let (code, patched) = merge(&at.client, &status, &both).await;
    assert_eq!(code, 200, "{patched}");
    assert_eq!(patched["spec"], made["spec"]);
    assert_eq!(patched["status"], json!({"zone": "z"}));
    assert_eq!(patched["metadata"]["generation"], 1);
    let (_, patched) = merge(
        &at.client,
        &at.node("k3s2"),
        &json!({
            "spec": {"allowScheduling": false}, "status": {"zone": "other"},
        }),
    )
    .await;
    assert_eq!(patched["spec"]["allowScheduling"], false);
    assert_eq!(patched["status"], json!({"zone": "z"}));
    assert_eq!(patched["metadata"]["generation"], 2);
    let annotated = json!({"metadata": {"annotations": {"a": "b"}}});
    let (_, patched) = merge(&at.client, &at.node("k3s2"), &annotated).await;
    assert_eq!(patched["metadata"]["generation"], 2);
    // By PUT as well, as Longhorn's manager does it.
    let mut whole = patched.clone();
    whole["status"] = json!({"zone": "y", "diskStatus": null});
    whole["spec"]["name"] = json!("forged");
    let (code, updated) = put(&at.client, &status, &whole).await;
    assert_eq!(code, 200, "{updated}");
    assert_eq!(updated["spec"]["name"], "k3s2");
    assert_eq!(updated["status"]["zone"], "y");
}

#[tokio::test]
async fn fields_that_the_schema_does_not_know_are_dropped() {
    let at = Place::new().await;
    let mut new = crate::ask::longhorn_node("k3s2");
    new["spec"]["nonsense"] = json!(1);
    new["spec"]["disks"]["a"]["nonsense"] = json!({"b": 2});
    new["nonsense"] = json!(3);
    let response = send(
        &at.client,
        Method::POST,
        &at.nodes(),
        "application/json",
        new.to_string().into_bytes(),
    )
    .await;
    let warnings: Vec<String> = response
        .headers()
        .get_all("warning")
        .iter()
        .map(|warning| warning.to_str().expect("text").to_owned())
        .collect();
    let (code, made) = read(response).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["spec"], crate::ask::longhorn_node("k3s2")["spec"]);
    assert_eq!(made.get("nonsense"), None);
    if !at.is_of_today() {
        return;
    }
    assert!(
        warnings.contains(&r#"299 - "unknown field \"spec.disks.a.nonsense\"""#.to_owned()),
        "{warnings:?}"
    );
    let strict = format!("{}?fieldValidation=Strict", at.node("k3s2"));
    let (code, refused) = merge(&at.client, &strict, &json!({"spec": {"nonsense": 1}})).await;
    assert_eq!((code, text(&refused, "/reason")), (400, "BadRequest"));
    let message = text(&refused, "/message");
    assert!(
        message.contains("unknown field \"spec.nonsense\""),
        "{message}"
    );
}

#[tokio::test]
async fn values_that_the_schema_does_not_allow_are_refused_with_their_paths() {
    let at = Place::new().await;
    at.make_node("k3s2").await;
    let wrong = json!({"spec": {
        "allowScheduling": "yes", "disks": {"a": {"diskType": "", "storageReserved": 1.5}},
    }});
    let (code, refused) = merge(&at.client, &at.node("k3s2"), &wrong).await;
    assert_eq!((code, text(&refused, "/reason")), (422, "Invalid"));
    assert_eq!(refused["details"]["kind"], "Node");
    let mut causes: Vec<(&str, &str, &str)> = refused["details"]["causes"]
        .as_array()
        .expect("causes")
        .iter()
        .map(|one| {
            (
                text(one, "/field"),
                text(one, "/reason"),
                text(one, "/message"),
            )
        })
        .collect();
    causes.sort_unstable();
    let wrong_type = if at.is_of_today() {
        "FieldValueTypeInvalid"
    } else {
        "FieldValueInvalid"
    };
    assert_eq!(
        causes,
        [
            (
                "spec.allowScheduling",
                wrong_type,
                "Invalid value: \"string\": spec.allowScheduling in body must be of type boolean: \"string\"",
            ),
            (
                "spec.disks.a.diskType",
                "FieldValueNotSupported",
                "Unsupported value: \"\": supported values: \"filesystem\", \"block\"",
            ),
            (
                "spec.disks.a.storageReserved",
                wrong_type,
                "Invalid value: \"number\": spec.disks.a.storageReserved in body must be of type integer: \"number\"",
            ),
        ]
    );
    let message = text(&refused, "/message");
    assert!(
        message.starts_with("Node.longhorn.io \"k3s2\" is invalid: [spec."),
        "{message}"
    );
    // A map that the schema calls nullable may be null; of another, null is nothing.
    let status = format!("{}/status", at.node("k3s2"));
    let (_, node) = get(&at.client, &at.node("k3s2")).await;
    let mut null = node.clone();
    null["status"] = json!({"diskStatus": null});
    assert_eq!(put(&at.client, &status, &null).await.0, 200);
    let (_, mut null) = get(&at.client, &at.node("k3s2")).await;
    null["spec"]["disks"] = Value::Null;
    let (code, updated) = put(&at.client, &at.node("k3s2"), &null).await;
    assert_eq!((code, updated["spec"].get("disks")), (200, None));
}

#[tokio::test]
async fn what_is_not_there_and_what_is_there_already_is_said_by_name() {
    let at = Place::new().await;
    let (code, refused) = get(&at.client, &at.node("k3s2")).await;
    assert_eq!((code, text(&refused, "/reason")), (404, "NotFound"));
    assert_eq!(refused["message"], "nodes.longhorn.io \"k3s2\" not found");
    let (code, refused) = merge(&at.client, &at.node("k3s2"), &json!({"spec": {}})).await;
    assert_eq!((code, text(&refused, "/reason")), (404, "NotFound"));
    at.make_node("k3s2").await;
    let (code, refused) = post(&at.client, &at.nodes(), &crate::ask::longhorn_node("k3s2")).await;
    assert_eq!((code, text(&refused, "/reason")), (409, "AlreadyExists"));
    assert_eq!(
        refused["message"],
        "nodes.longhorn.io \"k3s2\" already exists"
    );
    let nowhere = crate::ask::longhorn_nodes("no-such-namespace");
    let (code, refused) = post(&at.client, &nowhere, &crate::ask::longhorn_node("k3s2")).await;
    assert_eq!(code, 404, "{refused}");
    assert_eq!(
        refused["message"],
        "namespaces \"no-such-namespace\" not found"
    );
}

#[tokio::test]
async fn a_put_needs_the_version_that_is_stored() {
    let at = Place::new().await;
    let mut made = at.make_node("k3s2").await;
    let old = made.clone();
    made["spec"]["tags"] = json!(["t"]);
    let (code, updated) = put(&at.client, &at.node("k3s2"), &made).await;
    assert_eq!(code, 200, "{updated}");
    let (code, refused) = put(&at.client, &at.node("k3s2"), &old).await;
    assert_eq!((code, text(&refused, "/reason")), (409, "Conflict"));
    made["metadata"]
        .as_object_mut()
        .expect("a map")
        .remove("resourceVersion");
    let (code, refused) = put(&at.client, &at.node("k3s2"), &made).await;
    assert_eq!(code, 422, "{refused}");
    assert_eq!(
        refused["message"],
        "nodes.longhorn.io \"k3s2\" is invalid: metadata.resourceVersion: Invalid value: 0x0: must be specified for an update"
    );
}

#[tokio::test]
async fn a_put_of_what_is_not_there_is_not_found() {
    let at = Place::new().await;
    for version in ["", "5"] {
        let mut node = crate::ask::longhorn_node("k3s2");
        node["metadata"]["resourceVersion"] = json!(version);
        let (code, refused) = put(&at.client, &at.node("k3s2"), &node).await;
        assert_eq!(
            (code, text(&refused, "/reason")),
            (404, "NotFound"),
            "{version}"
        );
    }
}

#[tokio::test]
async fn a_json_patch_is_applied_whole_or_not_at_all() {
    let at = Place::new().await;
    let made = at.make_node("k3s2").await;
    let steps = |name: &str| {
        json!([
            {"op": "replace", "path": "/spec/allowScheduling", "value": false},
            {"op": "test", "path": "/spec/name", "value": name},
        ])
    };
    let (code, refused) = patch(&at.client, &at.node("k3s2"), JSON_PATCH, &steps("other")).await;
    assert_eq!((code, text(&refused, "/reason")), (422, "Invalid"));
    assert_eq!(get(&at.client, &at.node("k3s2")).await.1, made);
    let (code, patched) = patch(&at.client, &at.node("k3s2"), JSON_PATCH, &steps("k3s2")).await;
    assert_eq!(code, 200, "{patched}");
    assert_eq!(patched["spec"]["allowScheduling"], false);
}

#[tokio::test]
async fn a_strategic_patch_is_for_what_is_built_in() {
    let at = Place::new().await;
    at.make_node("k3s2").await;
    let path = at.node("k3s2");
    let (code, refused) = patch(&at.client, &path, STRATEGIC, &json!({"spec": {}})).await;
    assert_eq!(
        (code, text(&refused, "/reason")),
        (415, "UnsupportedMediaType")
    );
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "a", "image": "a:1"}, {"name": "b", "image": "b:1"}]},
    });
    let (code, answer) = post(&at.client, &at.core("pods"), &pod).await;
    assert_eq!(code, 201, "{answer}");
    let newer = json!({"spec": {"containers": [{"name": "b", "image": "b:2"}]}});
    let (code, patched) = patch(&at.client, &at.core("pods/p"), STRATEGIC, &newer).await;
    assert_eq!(code, 200, "{patched}");
    let images: Vec<&Value> = patched["spec"]["containers"]
        .as_array()
        .expect("containers")
        .iter()
        .map(|one| &one["image"])
        .collect();
    assert_eq!(images, ["a:1", "b:2"]);
}

#[tokio::test]
async fn what_is_applied_is_created_and_then_merged() {
    let at = Place::new().await;
    let path = format!("{}?fieldManager=test&force=true", at.node("k3s2"));
    let object = crate::ask::longhorn_node("k3s2");
    let (code, made) = patch(&at.client, &path, APPLY, &object).await;
    assert_eq!(code, 201, "{made}");
    let others = json!({"spec": {"disks": {"theirs": disk("/theirs")}}});
    merge(&at.client, &at.node("k3s2"), &others).await;
    let mut changed = object.clone();
    changed["spec"]["disks"]["a"]["path"] = json!("/mnt/longhorn/b");
    let (code, applied) = patch(&at.client, &path, APPLY, &changed).await;
    assert_eq!(code, 200, "{applied}");
    assert_eq!(applied["spec"]["disks"]["a"]["path"], "/mnt/longhorn/b");
    assert_eq!(applied["spec"]["disks"]["theirs"], disk("/theirs"));
    let nameless = at.node("k3s2");
    let (code, refused) = patch(&at.client, &nameless, APPLY, &object).await;
    assert_eq!(code, 422, "{refused}");
}

#[tokio::test]
async fn an_object_with_a_finalizer_stays_until_it_is_taken_off() {
    let at = Place::new().await;
    at.make_node("k3s2").await;
    let path = at.node("k3s2");
    let held = json!({"metadata": {"finalizers": ["longhorn.io"]}});
    merge(&at.client, &path, &held).await;
    let (code, answer) = delete(&at.client, &path, &Value::Null).await;
    assert_eq!((code, text(&answer, "/kind")), (200, "Node"));
    let (code, leaving) = get(&at.client, &path).await;
    assert_eq!(code, 200);
    assert_ne!(text(&leaving, "/metadata/deletionTimestamp"), "");
    assert_eq!(leaving["metadata"]["generation"], 2);
    let (code, _) = merge(
        &at.client,
        &path,
        &json!({"metadata": {"finalizers": null}}),
    )
    .await;
    assert_eq!(code, 200);
    assert_eq!(get(&at.client, &path).await.0, 404);
}

#[tokio::test]
async fn a_deletion_can_be_for_one_object_only() {
    let at = Place::new().await;
    let made = at.make_node("k3s2").await;
    let path = at.node("k3s2");
    let only = |uid: &str| json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}});
    let (code, refused) = delete(&at.client, &path, &only("another")).await;
    assert_eq!((code, text(&refused, "/reason")), (409, "Conflict"));
    let uid = text(&made, "/metadata/uid");
    let (code, answer) = delete(&at.client, &path, &only(uid)).await;
    assert_eq!((code, text(&answer, "/status")), (200, "Success"));
    assert_eq!(
        answer["details"],
        json!({
            "name": "k3s2", "group": "longhorn.io", "kind": "nodes", "uid": uid,
        })
    );
    assert_eq!(get(&at.client, &path).await.0, 404);
}

#[tokio::test]
async fn a_deletion_can_be_for_all_that_a_selector_finds() {
    let at = Place::new().await;
    for name in ["a", "b", "c"] {
        at.make_node(name).await;
    }
    for name in ["a", "b"] {
        let labelled = json!({"metadata": {"labels": {"tier": "fast"}}});
        merge(&at.client, &at.node(name), &labelled).await;
    }
    let selected = format!("{}?labelSelector=tier%3Dfast", at.nodes());
    assert_eq!(delete(&at.client, &selected, &Value::Null).await.0, 200);
    let (_, left) = get(&at.client, &at.nodes()).await;
    let left = left["items"].as_array().expect("items");
    let left: Vec<&str> = left.iter().map(|one| text(one, "/metadata/name")).collect();
    assert_eq!(left, ["c"]);
}

#[tokio::test]
async fn a_rehearsal_stores_nothing() {
    let at = Place::new().await;
    let new = crate::ask::longhorn_node("k3s2");
    let dry = format!("{}?dryRun=All", at.nodes());
    let (code, made) = post(&at.client, &dry, &new).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(get(&at.client, &at.node("k3s2")).await.0, 404);
    let made = at.make_node("k3s2").await;
    let dry = format!("{}?dryRun=All", at.node("k3s2"));
    let (code, patched) = merge(&at.client, &dry, &json!({"spec": {"tags": ["t"]}})).await;
    assert_eq!((code, &patched["spec"]["tags"]), (200, &json!(["t"])));
    assert_eq!(delete(&at.client, &dry, &Value::Null).await.0, 200);
    assert_eq!(get(&at.client, &at.node("k3s2")).await.1, made);
}

#[tokio::test]
async fn a_kind_is_there_as_soon_as_it_is_defined_and_no_sooner() {
    let at = Place::new().await;
    let group = format!("test{}.example.com", unique());
    let path = format!("/apis/{group}/v1/things");
    let (code, answer) = get(&at.client, &path).await;
    assert_eq!((code, answer), (404, json!("404 page not found\n")));
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("things.{group}")},
        "spec": {
            "group": group, "scope": "Cluster",
            "names": {"kind": "Thing", "plural": "things", "singular": "thing", "listKind": "ThingList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {
                "openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "required": ["size"], "properties": {
                        "size": {"type": "integer", "minimum": 1},
                        "colour": {"type": "string", "default": "grey"},
                        "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                    }},
                }},
            }}],
        },
    });
    install(&at.client, &definition).await;
    let thing = |spec: Value| {
        json!({
            "apiVersion": format!("{group}/v1"), "kind": "Thing",
            "metadata": {"generateName": "thing-"}, "spec": spec,
        })
    };
    let (code, made) = post(
        &at.client,
        &path,
        &thing(json!({"size": 2, "any": {"x": [1]}})),
    )
    .await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(
        made["spec"],
        json!({"size": 2, "any": {"x": [1]}, "colour": "grey"})
    );
    let name = text(&made, "/metadata/name");
    assert_eq!(name.len(), "thing-".len() + 5, "{name}");
    for (spec, why) in [
        (json!({}), "spec.size: Required value"),
        (json!({"size": 0}), "should be greater than or equal to 1"),
    ] {
        let (code, refused) = post(&at.client, &path, &thing(spec)).await;
        let message = text(&refused, "/message");
        assert!(code == 422 && message.contains(why), "{refused}");
    }
    let (_, list) = get(&at.client, &path).await;
    assert_eq!(text(&list, "/kind"), "ThingList");
    assert_eq!(list["items"].as_array().expect("items").len(), 1);
}

#[tokio::test]
async fn an_event_is_the_same_in_both_of_its_groups() {
    let at = Place::new().await;
    let mut event = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"},
        "regarding": {
            "apiVersion": "longhorn.io/v1beta2", "kind": "Node", "name": "k3s2",
            "namespace": at.namespace,
        },
        "type": "Normal", "reason": "DiskProvisioned", "action": "Provision", "note": "a disk",
        "eventTime": "2030-01-01T00:00:00.000000Z", "reportingController": "disk-discovery",
        "reportingInstance": "k3s2",
    });
    let path = format!("/apis/events.k8s.io/v1/namespaces/{}/events", at.namespace);
    let (code, made) = post(&at.client, &path, &event).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["note"], "a disk");
    let selector = "fieldSelector=involvedObject.name%3Dk3s2,involvedObject.kind%3DNode";
    let (_, list) = get(&at.client, &format!("{}?{selector}", at.core("events"))).await;
    let seen = &list["items"][0];
    assert_eq!(seen["message"], "a disk");
    assert_eq!(seen["involvedObject"]["name"], "k3s2");
    assert_eq!(seen["reportingComponent"], "disk-discovery");
    let other = "fieldSelector=involvedObject.name%3Dk3s1";
    let (_, list) = get(&at.client, &format!("{}?{other}", at.core("events"))).await;
    assert_eq!(list["items"], json!([]));
    // A series is counted; what was said stays as it was.
    let again = json!({"series": {"count": 2, "lastObservedTime": "2030-01-01T00:01:00.000000Z"}});
    let (code, patched) = merge(&at.client, &format!("{path}/e"), &again).await;
    assert_eq!((code, &patched["series"]["count"]), (200, &json!(2)));
    if at.is_of_today() {
        let other = json!({"note": "other"});
        let (code, refused) = merge(&at.client, &format!("{path}/e"), &other).await;
        assert_eq!(code, 422, "{refused}");
    }
    event["metadata"] = json!({"name": "e2"});
    event["action"] = json!("");
    let (code, refused) = post(&at.client, &path, &event).await;
    let message = text(&refused, "/message");
    assert!(
        code == 422 && message.contains("action: Required value"),
        "{refused}"
    );
    event["action"] = json!("Provision");
    event["regarding"]["namespace"] = json!("");
    let (code, refused) = post(&at.client, &path, &event).await;
    let message = text(&refused, "/message");
    assert!(
        code == 422 && message.contains("does not match event.namespace"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_body_that_is_no_object_of_this_kind_is_refused() {
    let at = Place::new().await;
    let mut other = crate::ask::longhorn_node("k3s2");
    other["kind"] = json!("Replica");
    let (code, refused) = post(&at.client, &at.nodes(), &other).await;
    assert_eq!(
        (code, text(&refused, "/message")),
        (
            422,
            "Replica.longhorn.io \"k3s2\" is invalid: kind: Invalid value: \"Replica\": must be Node"
        )
    );
    let (code, refused) = post(&at.client, &at.nodes(), &crate::ask::longhorn_node("K3S2")).await;
    let message = text(&refused, "/message");
    assert!(
        code == 422 && message.contains("metadata.name: Invalid value: \"K3S2\": a lowercase RFC"),
        "{refused}"
    );
    let mut elsewhere = crate::ask::longhorn_node("k3s2");
    elsewhere["metadata"]["namespace"] = json!("default");
    assert_eq!(post(&at.client, &at.nodes(), &elsewhere).await.0, 400);
    at.make_node("k3s2").await;
    let rename = json!({"metadata": {"name": "other"}});
    assert_eq!(merge(&at.client, &at.node("k3s2"), &rename).await.0, 400);
    let number = json!({"metadata": {"annotations": {"a": 1}}});
    let (code, refused) = merge(&at.client, &at.node("k3s2"), &number).await;
    let message = text(&refused, "/message");
    assert!(
        code == 422 && message.starts_with(" \"\" is invalid: patch: Invalid value: "),
        "{refused}"
    );
    let (code, _) = ask(
        &at.client,
        Method::PATCH,
        &at.node("k3s2"),
        MERGE,
        &json!([1]),
    )
    .await;
    // A list is no patch.
    assert_eq!(code, if at.is_of_today() { 400 } else { 422 });
    let huge = json!({"metadata": {"annotations": {"a": "x".repeat(262_145)}}});
    assert_eq!(merge(&at.client, &at.node("k3s2"), &huge).await.0, 422);
}
