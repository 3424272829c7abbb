//! Reading objects as Go reads them: what is absent, null or of another type
//! is the zero value of the field.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

pub fn text<'a>(of: &'a Value, pointer: &str) -> &'a str {
    of.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

pub fn flag(of: &Value, pointer: &str) -> bool {
    of.pointer(pointer).and_then(Value::as_bool) == Some(true)
}

pub fn number(of: &Value, pointer: &str) -> i64 {
    of.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

/// The strings of a list; none where there is no list, which Go tells from an
/// empty one.
pub fn texts<'a>(of: &'a Value, pointer: &str) -> Option<Vec<&'a str>> {
    let list = of.pointer(pointer)?.as_array()?;
    Some(list.iter().filter_map(Value::as_str).collect())
}

pub fn map<'a>(of: &'a Value, pointer: &str) -> Option<&'a Map<String, Value>> {
    of.pointer(pointer)?.as_object()
}

/// A map in the order of its keys. Go takes any order, so nothing may depend on
/// it; one order makes tests repeat themselves.
pub fn entries<'a>(of: &'a Value, pointer: &str) -> BTreeMap<&'a str, &'a Value> {
    let entries = map(of, pointer).into_iter().flatten();
    entries.map(|(key, value)| (key.as_str(), value)).collect()
}
