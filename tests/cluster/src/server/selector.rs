//! Label and field selectors.

use serde_json::Value;

use super::{failure::Failure, object::text, resource::Resource, table::Scope, target::Target};

/// What a list or watch asks for.
#[derive(Debug, Clone, Default)]
pub struct Selector {
    labels: Vec<Label>,
    /// JSON pointer, value, and whether it is to be this value or not.
    fields: Vec<(String, String, bool)>,
    /// A field selector for one name narrows what is looked at.
    pub scope: Scope,
}

#[derive(Debug, Clone)]
enum Label {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
}

impl Selector {
    /// # Errors
    ///
    /// When a selector cannot be parsed or the kind has no such field.
    pub fn of(target: &Target, resource: &Resource) -> Result<Self, Failure> {
        let mut selector = Self {
            scope: Scope {
                namespace: if resource.namespaced {
                    target.namespace.clone()
                } else {
                    String::new()
                },
                // As in `nodes/k3s2?watch=true`.
                name: Some(target.name.clone()).filter(|name| !name.is_empty()),
            },
            ..Self::default()
        };
        for term in split(target.parameter("labelSelector").unwrap_or_default()) {
            selector.labels.push(label(term)?);
        }
        for term in split(target.parameter("fieldSelector").unwrap_or_default()) {
            let (field, value, equal) = comparison(term).ok_or_else(|| {
                Failure::bad_request(format!(
                    "invalid selector: '{term}'; can't understand '{term}'"
                ))
            })?;
            if !has_field(resource, field) {
                let message = format!("field label not supported: {field}");
                return Err(Failure::bad_request(message));
            }
            match (field, equal) {
                ("metadata.name", true) => selector.scope.name = Some(value.to_owned()),
                _ => {
                    let pointer = pointer(resource, field);
                    selector.fields.push((pointer, value.to_owned(), equal));
                }
            }
        }
        Ok(selector)
    }

    /// Whether its scope alone says all.
    pub fn is_scope(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether an object of the scope is meant.
    pub fn selects(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        let label = |key: &str| labels.get(key).and_then(Value::as_str);
        let labelled = self.labels.iter().all(|one| match one {
            Label::In(key, values) => {
                label(key).is_some_and(|is| values.iter().any(|one| one == is))
            }
            Label::NotIn(key, values) => {
                label(key).is_none_or(|is| values.iter().all(|one| one != is))
            }
            Label::Exists(key) => label(key).is_some(),
            Label::Absent(key) => label(key).is_none(),
        });
        let mut fields = self.fields.iter();
        labelled && fields.all(|(pointer, value, equal)| (text(object, pointer) == value) == *equal)
    }
}

/// Objects are selected as they are stored, which for events is the form of the
/// core.
fn pointer(resource: &Resource, field: &str) -> String {
    let field = match (resource.is_event(), field) {
        (true, "reportingController" | "reportingComponent") => "reportingComponent",
        (true, "source") => "source.component",
        (_, field) => field,
    };
    let field = match field.strip_prefix("regarding.") {
        Some(rest) if resource.is_event() => format!("involvedObject.{rest}"),
        _ => field.to_owned(),
    };
    format!("/{}", field.replace('.', "/"))
}

fn has_field(resource: &Resource, field: &str) -> bool {
    if field == "metadata.name" || field == "metadata.namespace" && resource.namespaced {
        return true;
    }
    if resource.is_event() {
        let of = field.split_once('.');
        return match of {
            Some(("involvedObject", _)) => resource.group.is_empty(),
            Some(("regarding", _)) => !resource.group.is_empty(),
            _ => matches!(
                field,
                "reason" | "type" | "source" | "reportingComponent" | "reportingController"
            ),
        };
    }
    let more: &[&str] = match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => &["spec.nodeName", "status.phase", "spec.serviceAccountName"],
        ("", "secrets") => &["type"],
        ("", "namespaces") => &["status.phase"],
        _ => &[],
    };
    more.contains(&field)
}

fn comparison(term: &str) -> Option<(&str, &str, bool)> {
    if let Some((field, value)) = term.split_once("!=") {
        return Some((field.trim(), value.trim(), false));
    }
    let (field, value) = term.split_once("==").or_else(|| term.split_once('='))?;
    Some((field.trim(), value.trim(), true))
}

fn label(term: &str) -> Result<Label, Failure> {
    let owned = str::to_owned;
    if let Some((key, value, equal)) = comparison(term) {
        let values = vec![owned(value)];
        return Ok(if equal {
            Label::In(owned(key), values)
        } else {
            Label::NotIn(owned(key), values)
        });
    }
    if let Some(rest) = term.strip_suffix(')')
        && let Some((head, values)) = rest.split_once('(')
        && let Some((key, operator)) = head.trim().rsplit_once(' ')
    {
        let values: Vec<String> = values.split(',').map(|one| owned(one.trim())).collect();
        match operator {
            "in" => return Ok(Label::In(owned(key.trim()), values)),
            "notin" => return Ok(Label::NotIn(owned(key.trim()), values)),
            _ => {}
        }
    }
    if term.contains([' ', '(', ')']) {
        let message = format!("unable to parse requirement: {term:?}");
        return Err(Failure::bad_request(message));
    }
    Ok(match term.strip_prefix('!') {
        Some(key) => Label::Absent(owned(key)),
        None => Label::Exists(owned(term)),
    })
}

/// At commas that are not in parentheses.
fn split(selector: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    let terms = selector.split(move |letter| {
        match letter {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        letter == ',' && depth == 0
    });
    terms
        .map(str::trim)
        .filter(|term| !term.is_empty())
        .collect()
}
