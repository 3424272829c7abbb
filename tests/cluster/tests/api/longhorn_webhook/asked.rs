//! The webhook as the stand-in for an API server asks it.

use cluster_fixtures::{
    admission::{Admission, Operation, Review, UserInfo},
    longhorn::Webhook,
};
use serde_json::{Value, json};

use super::{BLOCK, disk, node, with, without};

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
