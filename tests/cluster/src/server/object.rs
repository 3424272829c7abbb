//! Small readings of objects, and what every object gets when it is stored.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::failure::Failure;

/// The text at a JSON pointer; empty where there is none.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

pub fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

pub fn namespace(object: &Value) -> &str {
    text(object, "/metadata/namespace")
}

pub fn has_finalizers(object: &Value) -> bool {
    let finalizers = object.pointer("/metadata/finalizers");
    finalizers
        .and_then(Value::as_array)
        .is_some_and(|finalizers| !finalizers.is_empty())
}

pub fn is_terminating(object: &Value) -> bool {
    !text(object, "/metadata/deletionTimestamp").is_empty()
}

/// Now, to the second, as `metadata` has times.
pub fn now() -> String {
    rfc3339(Timestamp::now())
}

pub fn rfc3339(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `metadata`, to be changed.
///
/// # Errors
///
/// When the object has none that is a map.
pub fn metadata(object: &mut Value) -> Result<&mut Map<String, Value>, Failure> {
    let wrong = || Failure::bad_request("the object provided has no metadata");
    let object = object.as_object_mut().ok_or_else(wrong)?;
    let metadata = object.entry("metadata").or_insert_with(|| json!({}));
    if metadata.is_null() {
        *metadata = json!({});
    }
    metadata.as_object_mut().ok_or_else(wrong)
}

/// A field of `metadata`, or its absence, taken over from another object.
pub fn keep(to: &mut Value, from: &Value, fields: &[&str]) -> Result<(), Failure> {
    let metadata = metadata(to)?;
    for field in fields {
        match from["metadata"].get(field) {
            Some(value) => metadata.insert((*field).to_owned(), value.clone()),
            None => metadata.remove(*field),
        };
    }
    Ok(())
}

/// Without some fields of its first level.
pub fn without(object: &Value, fields: &[&str]) -> Value {
    let mut object = object.clone();
    if let Some(map) = object.as_object_mut() {
        map.retain(|key, _| !fields.contains(&key.as_str()));
    }
    object
}

/// A new object as it is first stored.
pub fn born(object: &mut Value, generation: bool) -> Result<(), Failure> {
    let metadata = metadata(object)?;
    metadata.insert("uid".to_owned(), uuid::Uuid::new_v4().to_string().into());
    metadata.insert("creationTimestamp".to_owned(), now().into());
    for gone in [
        "resourceVersion",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "managedFields",
        "selfLink",
    ] {
        metadata.remove(gone);
    }
    if generation {
        metadata.insert("generation".to_owned(), 1.into());
    }
    Ok(())
}
