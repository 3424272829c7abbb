//! Events are the same objects in the core and in `events.k8s.io`, with other
//! names for some fields. They are stored as the core has them.

use serde_json::{Value, json};

use super::{
    failure::Flaw,
    object::{namespace, text},
    resource::Resource,
};

/// Names in `events.k8s.io` and in the core.
const NAMES: &[(&str, &str)] = &[
    ("note", "message"),
    ("regarding", "involvedObject"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

/// What does not change once an event is there, by its names in the core.
const FIXED: &[&str] = &[
    "involvedObject",
    "reason",
    "message",
    "source",
    "firstTimestamp",
    "lastTimestamp",
    "count",
    "type",
    "eventTime",
    "action",
    "related",
    "reportingComponent",
    "reportingInstance",
];

fn renamed(object: &mut Value, pairs: impl Iterator<Item = (&'static str, &'static str)>) {
    let Some(map) = object.as_object_mut() else {
        return;
    };
    for (from, to) in pairs {
        if let Some(value) = map.remove(from) {
            map.insert(to.to_owned(), value);
        }
    }
}

/// From the form of this group to that of the core.
pub fn to_core(resource: &Resource, object: &mut Value) {
    if !resource.group.is_empty() {
        renamed(object, NAMES.iter().copied());
    }
}

/// From the form of the core to that of this group.
pub fn from_core(resource: &Resource, object: &mut Value) {
    if !resource.group.is_empty() {
        renamed(object, NAMES.iter().map(|(new, core)| (*core, *new)));
    }
}

/// What is wrong with an event in the form of the core. What was written to
/// `events.k8s.io` is held to more.
pub fn check(resource: &Resource, event: &Value, before: Option<&Value>) -> Vec<Flaw> {
    let mut flaws = Vec::new();
    let about = text(event, "/involvedObject/namespace");
    let at = namespace(event);
    // Of events with a time of their own, only those about nothing are looked at.
    let fits = if text(event, "/eventTime").is_empty() {
        about == at || about.is_empty() && at == "default"
    } else {
        !about.is_empty() || matches!(at, "default" | "kube-system")
    };
    if !fits {
        let why = "does not match event.namespace";
        let field = "involvedObject.namespace";
        flaws.push(Flaw::invalid(field, &json!(about), why));
    }
    if resource.group.is_empty() && text(event, "/eventTime").is_empty() {
        return flaws;
    }
    if text(event, "/eventTime").is_empty() {
        flaws.push(Flaw::required("eventTime", ""));
    }
    let needed = [
        ("reportingController", "reportingComponent", 253),
        ("reportingInstance", "reportingInstance", 128),
        ("action", "action", 128),
        ("reason", "reason", 128),
    ];
    for (name, field, most) in needed {
        let value = text(event, &format!("/{field}"));
        if value.is_empty() {
            flaws.push(Flaw::required(name, ""));
        } else if value.len() > most {
            let why = format!("can have at most {most} characters");
            flaws.push(Flaw::invalid(name, &json!(""), &why));
        }
    }
    if text(event, "/message").len() > 1024 {
        let why = "can have at most 1024 characters";
        flaws.push(Flaw::invalid("message", &json!(""), why));
    }
    let kind = text(event, "/type");
    if !matches!(kind, "Normal" | "Warning") {
        flaws.push(Flaw::invalid("type", &json!(""), "has invalid value: "));
    }
    if let Some(before) = before {
        let changed = FIXED
            .iter()
            .filter(|field| event[**field] != before[**field]);
        flaws.extend(
            changed.map(|field| Flaw::invalid(field, &event[*field], "field is immutable")),
        );
    }
    flaws
}
