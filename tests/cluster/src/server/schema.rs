//! What a CustomResourceDefinition's structural schema does to an object:
//! defaults are filled in, fields it does not name are dropped, and the rest is
//! checked.
//!
//! Formats, patterns and rules in CEL are not looked at.

use serde_json::{Map, Value};

use super::failure::Flaw;

/// Fields of the first level that every object has, whatever its schema says.
const ALWAYS: &[&str] = &["apiVersion", "kind", "metadata"];

/// Fills in defaults, drops what the schema does not name, and drops nulls that
/// it does not allow. Returns the paths of what it does not name.
pub fn shape(schema: &Value, object: &mut Value) -> Vec<String> {
    let mut dropped = Vec::new();
    fields(schema, object, "", ALWAYS, &mut dropped);
    dropped
}

/// What is wrong with an object.
pub fn check(schema: &Value, object: &Value) -> Vec<Flaw> {
    let mut flaws = Vec::new();
    let known = schema["properties"].as_object();
    for (name, value) in object.as_object().into_iter().flatten() {
        // `metadata` is checked by what all objects have in common.
        if let Some(schema) = known.and_then(|known| known.get(name))
            && !ALWAYS.contains(&name.as_str())
        {
            value_at(schema, value, name, &mut flaws);
        }
    }
    required(schema, object, "", &mut flaws);
    flaws
}

fn is_set(schema: &Value, key: &str) -> bool {
    schema[key] == Value::Bool(true)
}

fn joined(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

fn fields(
    schema: &Value,
    object: &mut Value,
    path: &str,
    always: &[&str],
    dropped: &mut Vec<String>,
) {
    if let Some(list) = object.as_array_mut() {
        for (at, item) in list.iter_mut().enumerate() {
            let schema = &schema["items"];
            fields(
                schema,
                item,
                &format!("{path}[{at}]"),
                embedded(schema),
                dropped,
            );
        }
        return;
    }
    let Some(map) = object.as_object_mut() else {
        return;
    };
    let none = Map::new();
    let known = schema["properties"].as_object().unwrap_or(&none);
    let others = schema.get("additionalProperties");
    let keeps = is_set(schema, "x-kubernetes-preserve-unknown-fields");
    for (name, schema) in known {
        let default = schema.get("default");
        let nothing = match map.get(name) {
            None => true,
            Some(value) => value.is_null() && !is_set(schema, "nullable"),
        };
        if let Some(default) = default
            && nothing
        {
            map.insert(name.clone(), default.clone());
        }
    }
    map.retain(|name, value| {
        let path = joined(path, name);
        if always.contains(&name.as_str()) {
            return true;
        }
        let described = known
            .get(name)
            .or(others.filter(|others| others.is_object()));
        if value.is_null() && described.is_some_and(|schema| !is_set(schema, "nullable")) {
            return false;
        }
        match (known.get(name), others) {
            (Some(schema), _) => fields(schema, value, &path, embedded(schema), dropped),
            (None, Some(schema)) if schema.is_object() => {
                fields(schema, value, &path, embedded(schema), dropped);
            }
            (None, Some(Value::Bool(true))) => {}
            (None, _) if keeps => {}
            (None, _) => {
                dropped.push(path);
                return false;
            }
        }
        true
    });
}

/// An object inside of an object keeps what makes it one.
fn embedded(schema: &Value) -> &'static [&'static str] {
    if is_set(schema, "x-kubernetes-embedded-resource") {
        ALWAYS
    } else {
        &[]
    }
}

fn value_at(schema: &Value, value: &Value, path: &str, flaws: &mut Vec<Flaw>) {
    if value.is_null() && is_set(schema, "nullable") {
        return;
    }
    let found = type_of(value);
    if is_set(schema, "x-kubernetes-int-or-string") {
        if !matches!(found, "integer" | "string") {
            let why = format!("{path} in body must be of type integer,string: {found:?}");
            flaws.push(Flaw::wrong_type(path, found, &why));
        }
        return;
    }
    let wanted = schema["type"].as_str().unwrap_or_default();
    let fits = wanted.is_empty() || wanted == found || wanted == "number" && found == "integer";
    if !fits {
        let why = format!("{path} in body must be of type {wanted}: {found:?}");
        flaws.push(Flaw::wrong_type(path, found, &why));
        return;
    }
    if let Some(choices) = schema["enum"].as_array()
        && !choices.contains(value)
    {
        flaws.push(Flaw::unsupported(path, value, choices));
    }
    bounds(schema, value, path, flaws);
    for (at, item) in value.as_array().into_iter().flatten().enumerate() {
        value_at(&schema["items"], item, &format!("{path}[{at}]"), flaws);
    }
    for (name, inner) in value.as_object().into_iter().flatten() {
        let known = schema["properties"].get(name);
        if let Some(schema) = known.or_else(|| schema.get("additionalProperties")) {
            value_at(schema, inner, &joined(path, name), flaws);
        }
    }
    required(schema, value, path, flaws);
}

fn bounds(schema: &Value, value: &Value, path: &str, flaws: &mut Vec<Flaw>) {
    let Some(number) = value.as_f64() else {
        return;
    };
    let least = schema["minimum"].as_f64();
    if least.is_some_and(|least| number < least) {
        let why = format!(
            "{path} in body should be greater than or equal to {}",
            schema["minimum"]
        );
        flaws.push(Flaw::invalid(path, value, &why));
    }
    let most = schema["maximum"].as_f64();
    if most.is_some_and(|most| number > most) {
        let why = format!(
            "{path} in body should be less than or equal to {}",
            schema["maximum"]
        );
        flaws.push(Flaw::invalid(path, value, &why));
    }
}

fn required(schema: &Value, value: &Value, path: &str, flaws: &mut Vec<Flaw>) {
    let Some(map) = value.as_object() else {
        return;
    };
    let names = schema["required"].as_array().into_iter().flatten();
    for name in names.filter_map(Value::as_str) {
        if !map.contains_key(name) {
            flaws.push(Flaw::required(&joined(path, name), ""));
        }
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
