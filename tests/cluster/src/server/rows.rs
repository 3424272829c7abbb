//! The forms in which objects are asked for: whole, as rows of a table, as
//! `kubectl get` wants them, or only their metadata.

use axum::http::{HeaderMap, header};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::{jsonpath, object::text, resource::Resource, target::Target};

/// How objects are to look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    Whole,
    /// `PartialObjectMetadata`.
    Metadata,
    /// Rows, with `None`, `Metadata` or the whole `Object` beside the cells.
    Table(String),
}

impl Shape {
    /// The first of the accepted forms that is spoken here.
    pub fn of(headers: &HeaderMap, target: &Target) -> Self {
        let accept = headers.get(header::ACCEPT);
        let accept = accept.and_then(|value| value.to_str().ok());
        let kinds = accept.unwrap_or_default().split(',').map(|kind| {
            let mut parts = kind.split(';').map(str::trim);
            let json = parts.next() == Some("application/json");
            (json, parts.find_map(|part| part.strip_prefix("as=")))
        });
        for (json, form) in kinds {
            match (json, form) {
                (true, Some("Table")) => {
                    let include = target.parameter("includeObject").unwrap_or("Metadata");
                    return Self::Table(include.to_owned());
                }
                (true, Some("PartialObjectMetadata" | "PartialObjectMetadataList")) => {
                    return Self::Metadata;
                }
                (true, None) => return Self::Whole,
                _ => {}
            }
        }
        Self::Whole
    }
}

/// One object, in the form that is wanted.
pub fn one(resource: &Resource, shape: &Shape, object: Value) -> Value {
    match shape {
        Shape::Whole => object,
        Shape::Metadata => metadata_of(&object),
        Shape::Table(include) => {
            let version = object["metadata"]["resourceVersion"].clone();
            table(resource, include, &[object], &version)
        }
    }
}

/// A list of objects, in the form that is wanted.
pub fn list(resource: &Resource, shape: &Shape, objects: Vec<Value>, version: u64) -> Value {
    let version = json!(version.to_string());
    let (api_version, kind, items) = match shape {
        Shape::Whole => (resource.api_version(), resource.list_kind.clone(), objects),
        Shape::Metadata => (
            "meta.k8s.io/v1".to_owned(),
            "PartialObjectMetadataList".to_owned(),
            objects.iter().map(metadata_of).collect(),
        ),
        Shape::Table(include) => return table(resource, include, &objects, &version),
    };
    json!({
        "apiVersion": api_version, "kind": kind,
        "metadata": {"resourceVersion": version}, "items": items,
    })
}

fn metadata_of(object: &Value) -> Value {
    json!({
        "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
        "metadata": object["metadata"],
    })
}

/// A column: its title, its type, its priority, and where its cells come from.
struct Column {
    name: String,
    kind: String,
    description: String,
    priority: i64,
    path: String,
}

fn column(name: &str, kind: &str, path: &str) -> Column {
    Column {
        name: name.to_owned(),
        kind: kind.to_owned(),
        description: String::new(),
        priority: 0,
        path: path.to_owned(),
    }
}

fn columns(resource: &Resource) -> Vec<Column> {
    if resource.is_event() {
        let (about, message) = if resource.group.is_empty() {
            ("involvedObject", ".message")
        } else {
            ("regarding", ".note")
        };
        return vec![
            column("Last Seen", "date", ".metadata.creationTimestamp"),
            column("Type", "string", ".type"),
            column("Reason", "string", ".reason"),
            column("Object", "string", &format!(".{about}.name")),
            column("Message", "string", message),
        ];
    }
    let mut columns = vec![column("Name", "string", ".metadata.name")];
    let more = resource.custom.as_ref().map(|custom| &custom.columns);
    match more.filter(|more| !more.is_empty()) {
        Some(more) => columns.extend(more.iter().map(|one| Column {
            name: text(one, "/name").to_owned(),
            kind: text(one, "/type").to_owned(),
            description: text(one, "/description").to_owned(),
            priority: one["priority"].as_i64().unwrap_or(0),
            path: text(one, "/jsonPath").to_owned(),
        })),
        None => columns.push(column("Age", "date", ".metadata.creationTimestamp")),
    }
    columns
}

/// A table of objects, as `meta.k8s.io/v1` has it.
pub fn table(resource: &Resource, include: &str, objects: &[Value], version: &Value) -> Value {
    let columns = columns(resource);
    let definitions: Vec<Value> = columns
        .iter()
        .map(|column| {
            let format = if column.name == "Name" { "name" } else { "" };
            json!({
                "name": column.name, "type": column.kind, "format": format,
                "description": column.description, "priority": column.priority,
            })
        })
        .collect();
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let cells: Vec<Value> = columns.iter().map(|column| cell(column, object)).collect();
            let beside = match include {
                "None" => Value::Null,
                "Object" => object.clone(),
                _ => metadata_of(object),
            };
            json!({"cells": cells, "object": beside})
        })
        .collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": version},
        "columnDefinitions": definitions, "rows": rows,
    })
}

fn cell(column: &Column, object: &Value) -> Value {
    let found = jsonpath::find(&column.path, object);
    let Some(first) = found.first() else {
        return Value::Null;
    };
    match (column.kind.as_str(), first.as_str()) {
        ("date", Some(time)) => age(time).into(),
        ("date", None) => "<unknown>".into(),
        ("string", None) if !first.is_null() => first.to_string().into(),
        _ => Value::clone(first),
    }
}

/// As `kubectl` shows ages, in one unit or two.
fn age(time: &str) -> String {
    let Ok(then) = time.parse::<Timestamp>() else {
        return "<invalid>".to_owned();
    };
    let seconds = Timestamp::now().as_second() - then.as_second();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1..0 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 if seconds % 60 != 0 => format!("{minutes}m{}s", seconds % 60),
        120..10_800 => format!("{minutes}m"),
        10_800..28_800 if minutes % 60 != 0 => format!("{hours}h{}m", minutes % 60),
        10_800..172_800 => format!("{hours}h"),
        172_800..691_200 if hours % 24 != 0 => format!("{days}d{}h", hours % 24),
        _ => format!("{days}d"),
    }
}
