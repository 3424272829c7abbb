//! What the API server answers when it does not do what it was asked: `Status`
//! objects, with the codes, reasons and texts of the real one. Clients match on
//! some of these texts, so they are kept to the letter.

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::resource::Resource;
use crate::admission::{Cause, Denied};

/// An answer that is no success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// HTTP code.
    pub code: u16,
    /// Machine-readable, such as `NotFound`.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// `details` of the `Status`; empty where there are none.
    pub details: Map<String, Value>,
}

/// A field that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flaw {
    /// Path with dots.
    pub field: String,
    /// `FieldValueInvalid` and the like.
    pub reason: &'static str,
    /// Without the path.
    pub message: String,
}

impl Flaw {
    pub fn invalid(field: &str, value: &Value, why: &str) -> Self {
        let message = format!("Invalid value: {value}: {why}");
        Self::new(field, "FieldValueInvalid", message)
    }

    pub fn wrong_type(field: &str, found: &str, why: &str) -> Self {
        let message = format!("Invalid value: {found:?}: {why}");
        Self::new(field, "FieldValueTypeInvalid", message)
    }

    pub fn required(field: &str, why: &str) -> Self {
        let message = if why.is_empty() {
            "Required value".to_owned()
        } else {
            format!("Required value: {why}")
        };
        Self::new(field, "FieldValueRequired", message)
    }

    pub fn unsupported(field: &str, value: &Value, supported: &[Value]) -> Self {
        let supported: Vec<String> = supported.iter().map(Value::to_string).collect();
        let message = format!(
            "Unsupported value: {value}: supported values: {}",
            supported.join(", ")
        );
        Self::new(field, "FieldValueNotSupported", message)
    }

    pub fn forbidden(field: &str, why: &str) -> Self {
        Self::new(field, "FieldValueForbidden", format!("Forbidden: {why}"))
    }

    fn new(field: &str, reason: &'static str, message: String) -> Self {
        Self {
            field: field.to_owned(),
            reason,
            message,
        }
    }
}

impl Failure {
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: Map::new(),
        }
    }

    /// With the object that it is about; `kind` is the resource for most
    /// failures and the kind for an invalid object, as in the real server.
    pub fn about(mut self, name: &str, group: &str, kind: &str) -> Self {
        for (key, value) in [("name", name), ("group", group), ("kind", kind)] {
            if !value.is_empty() {
                self.details.insert(key.to_owned(), value.into());
            }
        }
        self
    }

    fn of(self, resource: &Resource, name: &str) -> Self {
        self.about(name, &resource.group, &resource.plural)
    }

    pub fn not_found(resource: &Resource, name: &str) -> Self {
        let message = format!("{} {name:?} not found", resource.full_name());
        Self::new(404, "NotFound", message).of(resource, name)
    }

    /// No such resource, or no such path.
    pub fn no_resource() -> Self {
        let message = "the server could not find the requested resource";
        Self::new(404, "NotFound", message)
    }

    pub fn already_exists(resource: &Resource, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", resource.full_name());
        Self::new(409, "AlreadyExists", message).of(resource, name)
    }

    pub fn conflict(resource: &Resource, name: &str, why: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} {name:?}: {why}",
            resource.full_name()
        );
        Self::new(409, "Conflict", message).of(resource, name)
    }

    pub fn modified(resource: &Resource, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(resource, name, why)
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(405, "MethodNotAllowed", message)
    }

    pub fn media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::new(415, "UnsupportedMediaType", message)
    }

    pub fn expired(asked: u64, oldest: u64) -> Self {
        let message = format!("too old resource version: {asked} ({oldest})");
        Self::new(410, "Expired", message)
    }

    pub fn from_the_future(asked: u64, current: u64) -> Self {
        let message = format!("Too large resource version: {asked}, current: {current}");
        let mut failure = Self::new(504, "Timeout", message);
        let causes = json!([{
            "reason": "ResourceVersionTooLarge", "message": "Too large resource version",
        }]);
        failure.details.insert("causes".to_owned(), causes);
        failure
            .details
            .insert("retryAfterSeconds".to_owned(), 1.into());
        failure
    }

    /// A patch that cannot be applied. Why not, the real one does not tell.
    pub fn patch_does_not_apply() -> Self {
        let message = "the server rejected our request due to an error in our request";
        Self::new(422, "Invalid", message)
    }

    /// A patch that makes something of an object that is none.
    pub fn patched_is_no_object(patched: &Value, why: &str) -> Self {
        let flaw = Flaw::invalid("patch", &patched.to_string().into(), why);
        let message = format!(" \"\" is invalid: patch: {}", flaw.message);
        let causes = json!([{"reason": flaw.reason, "message": flaw.message, "field": flaw.field}]);
        let mut failure = Self::new(422, "Invalid", message);
        failure.details.insert("causes".to_owned(), causes);
        failure
    }

    pub fn invalid(resource: &Resource, name: &str, flaws: &[Flaw]) -> Self {
        Self::invalid_kind(&resource.kind, &resource.group, name, flaws)
    }

    pub fn invalid_kind(kind: &str, group: &str, name: &str, flaws: &[Flaw]) -> Self {
        let texts: Vec<String> = flaws
            .iter()
            .map(|flaw| format!("{}: {}", flaw.field, flaw.message))
            .collect();
        let texts = match texts.as_slice() {
            [one] => one.clone(),
            several => format!("[{}]", several.join(", ")),
        };
        let dotted = if group.is_empty() {
            kind.to_owned()
        } else {
            format!("{kind}.{group}")
        };
        let message = format!("{dotted} {name:?} is invalid: {texts}");
        let causes: Vec<Value> = flaws
            .iter()
            .map(
                |flaw| json!({"reason": flaw.reason, "message": flaw.message, "field": flaw.field}),
            )
            .collect();
        let mut failure = Self::new(422, "Invalid", message).about(name, group, kind);
        failure.details.insert("causes".to_owned(), causes.into());
        failure
    }

    /// What a webhook or a policy said. A policy's refusal names the object; a
    /// webhook's has what the webhook sent.
    pub fn denied(denied: &Denied, resource: &Resource, name: &str) -> Self {
        let mut failure = Self::new(denied.code, reason(&denied.reason), denied.message.clone());
        if !denied.message.starts_with("admission webhook ") {
            failure = failure.of(resource, name);
        }
        if !denied.causes.is_empty() {
            let causes = denied.causes.iter().map(cause).collect();
            failure
                .details
                .insert("causes".to_owned(), Value::Array(causes));
        }
        failure
    }

    pub fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The object of the answer, also of an ERROR event of a watch.
    pub fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if !self.details.is_empty() {
            status["details"] = Value::Object(self.details.clone());
        }
        status
    }
}

/// Only the reasons that webhooks give; others would be a mistake of a test.
fn reason(given: &str) -> &'static str {
    match given {
        "Invalid" => "Invalid",
        "Forbidden" => "Forbidden",
        "InternalError" => "InternalError",
        "BadRequest" => "BadRequest",
        "Unauthorized" => "Unauthorized",
        "Conflict" => "Conflict",
        "Timeout" => "Timeout",
        "RequestEntityTooLarge" => "RequestEntityTooLarge",
        "" => "",
        other => panic!("no reason of the API: {other:?}"),
    }
}

fn cause(cause: &Cause) -> Value {
    let mut object = Map::new();
    for (key, value) in [
        ("reason", &cause.reason),
        ("message", &cause.message),
        ("field", &cause.field),
    ] {
        if !value.is_empty() {
            object.insert(key.to_owned(), value.as_str().into());
        }
    }
    Value::Object(object)
}
