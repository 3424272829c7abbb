//! The four kinds of patch.
//!
//! Merge patches and JSON patches are as their RFCs say. A strategic merge patch
//! knows which lists of the built-in kinds are merged by which key, from the
//! table below, and its directives `$patch`, `$setElementOrder`, `$retainKeys`
//! and `$deleteFromPrimitiveList`. Server-side apply is less than the real one:
//! it creates or merges; nobody owns fields, so nothing conflicts, and what is
//! no longer applied stays.

use serde_json::{Map, Value, json};

use super::{
    call::{Call, parsed},
    failure::{Failure, Flaw},
};

/// A patch as it was sent.
#[derive(Debug)]
pub enum Patch {
    Merge(Value),
    Json(json_patch::Patch),
    Strategic(Value),
    Apply { object: Value, strategic: bool },
}

/// Keys by which the lists of built-in kinds are merged; other lists are
/// replaced.
const KEYS: &[(&str, &str)] = &[
    ("containers", "name"),
    ("initContainers", "name"),
    ("ephemeralContainers", "name"),
    ("volumes", "name"),
    ("env", "name"),
    ("imagePullSecrets", "name"),
    ("secrets", "name"),
    ("volumeMounts", "mountPath"),
    ("volumeDevices", "devicePath"),
    ("hostAliases", "ip"),
    ("conditions", "type"),
    ("addresses", "type"),
    ("ownerReferences", "uid"),
    ("topologySpreadConstraints", "topologyKey"),
];
/// Lists of plain values to which a patch adds.
const SETS: &[&str] = &["finalizers"];

impl Patch {
    /// # Errors
    ///
    /// When the body is no patch of the kind that its type says, or the resource
    /// takes no such patch.
    pub fn of(call: &Call<'_>) -> Result<Self, Failure> {
        let custom = call.resource.custom.is_some();
        let body = &call.body;
        match call.content_type.as_str() {
            "application/merge-patch+json" => Ok(Self::Merge(read(body)?)),
            "application/json-patch+json" => {
                let patch = serde_json::from_slice(body);
                patch.map(Self::Json).map_err(|e| unreadable(&e))
            }
            "application/strategic-merge-patch+json" if !custom => Ok(Self::Strategic(read(body)?)),
            "application/apply-patch+yaml" => {
                if call.target.parameter("fieldManager").is_none() {
                    let flaw = Flaw::required("fieldManager", "is required for apply patch");
                    let (kind, group) = ("PatchOptions", "meta.k8s.io");
                    return Err(Failure::invalid_kind(kind, group, "", &[flaw]));
                }
                Ok(Self::Apply {
                    object: parsed("application/yaml", body)?,
                    strategic: !custom,
                })
            }
            _ if custom => Err(Failure::media_type(&[
                "application/json-patch+json",
                "application/merge-patch+json",
                "application/apply-patch+yaml",
            ])),
            _ => Err(Failure::media_type(&[
                "application/json-patch+json",
                "application/merge-patch+json",
                "application/strategic-merge-patch+json",
                "application/apply-patch+yaml",
            ])),
        }
    }

    /// What is to be created when there is nothing to patch.
    pub fn creates(&self, name: &str) -> Option<Value> {
        let Self::Apply { object, .. } = self else {
            return None;
        };
        let mut object = object.clone();
        object["metadata"]["name"] = name.into();
        Some(object)
    }

    /// # Errors
    ///
    /// When it does not fit to this object.
    pub fn apply(&self, before: &Value) -> Result<Value, Failure> {
        let mut after = before.clone();
        match self {
            Self::Merge(patch) => json_patch::merge(&mut after, patch),
            Self::Json(patch) => json_patch::patch(&mut after, patch)
                .map_err(|_why| Failure::patch_does_not_apply())?,
            Self::Strategic(patch)
            | Self::Apply {
                object: patch,
                strategic: true,
            } => merge(&mut after, patch),
            Self::Apply {
                object,
                strategic: false,
            } => json_patch::merge(&mut after, object),
        }
        Ok(after)
    }
}

fn read(body: &[u8]) -> Result<Value, Failure> {
    let patch: Value = serde_json::from_slice(body).map_err(|e| unreadable(&e))?;
    if patch.is_object() {
        return Ok(patch);
    }
    let message = "error decoding patch: json: cannot unmarshal into a map";
    Err(Failure::bad_request(message))
}

fn unreadable(error: &serde_json::Error) -> Failure {
    Failure::bad_request(format!("error decoding patch: {error}"))
}

/// A strategic merge of a map.
fn merge(into: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *into = patch.clone();
        return;
    };
    if patch.get("$patch") == Some(&json!("replace")) {
        *into = Value::Object(fields(patch));
        return;
    }
    if !into.is_object() {
        *into = json!({});
    }
    let Some(map) = into.as_object_mut() else {
        return;
    };
    if let Some(kept) = patch.get("$retainKeys").and_then(Value::as_array) {
        map.retain(|key, _| kept.iter().any(|one| one == key));
    }
    for (key, gone) in patch {
        if let Some(list) = key.strip_prefix("$deleteFromPrimitiveList/")
            && let Some(there) = map.get_mut(list).and_then(Value::as_array_mut)
        {
            let gone = gone.as_array().map(Vec::as_slice).unwrap_or_default();
            there.retain(|one| !gone.contains(one));
        }
    }
    for (key, value) in fields(patch) {
        if value.is_null() || value["$patch"] == json!("delete") {
            map.remove(&key);
            continue;
        }
        let there = map.entry(key.clone()).or_insert(Value::Null);
        match (value.as_array(), key_of(&key, &value)) {
            (Some(items), Some(name)) => merge_list(there, items, name),
            (Some(items), None) if SETS.contains(&key.as_str()) => add(there, items),
            _ => merge(there, &value),
        }
    }
}

/// Without directives, which begin with `$`.
fn fields(patch: &Map<String, Value>) -> Map<String, Value> {
    let fields = patch.iter().filter(|(key, _)| !key.starts_with('$'));
    fields
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// Ports have no key of their own everywhere: a Service's are not a container's.
fn key_of(list: &str, items: &Value) -> Option<&'static str> {
    if list == "ports" {
        let of_container = items[0].get("containerPort").is_some();
        return Some(if of_container {
            "containerPort"
        } else {
            "port"
        });
    }
    KEYS.iter()
        .find(|(name, _)| *name == list)
        .map(|(_, key)| *key)
}

fn merge_list(there: &mut Value, items: &[Value], key: &str) {
    if !there.is_array() {
        *there = json!([]);
    }
    let Some(list) = there.as_array_mut() else {
        return;
    };
    if items.iter().any(|item| item["$patch"] == json!("replace")) {
        list.clear();
    }
    for item in items {
        let same = |one: &Value| one[key] == item[key];
        match item["$patch"].as_str() {
            Some("delete") => list.retain(|one| !same(one)),
            Some("replace") => {}
            _ => match list.iter_mut().find(|one| same(one)) {
                Some(one) => merge(one, item),
                None => {
                    let mut new = Value::Null;
                    merge(&mut new, item);
                    list.push(new);
                }
            },
        }
    }
}

fn add(there: &mut Value, items: &[Value]) {
    let mut all = there.as_array().cloned().unwrap_or_default();
    for item in items {
        if !all.contains(item) {
            all.push(item.clone());
        }
    }
    *there = all.into();
}
