//! One request for a resource, and what all verbs have in common.

use std::sync::Arc;

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderValue, Response, StatusCode, header},
};
use serde_json::{Value, json};

use super::{
    Shared, events,
    failure::Failure,
    object, protobuf,
    resource::Resource,
    rows::{self, Shape},
    schema,
    target::Target,
};
use crate::admission::{Denied, Operation, Review, UserInfo};

/// A request that may be done, with the kind that it is about.
#[derive(Debug)]
pub struct Call<'a> {
    pub shared: &'a Shared,
    pub target: &'a Target,
    pub resource: Arc<Resource>,
    pub user: &'a UserInfo,
    pub shape: Shape,
    pub content_type: String,
    pub body: Bytes,
}

/// What a call brings: an object, and what the client should be warned of.
#[derive(Debug)]
pub struct Answer {
    pub code: StatusCode,
    pub body: Value,
    pub warnings: Vec<String>,
}

impl Answer {
    pub fn new(code: StatusCode, body: Value) -> Self {
        Self {
            code,
            body,
            warnings: Vec::new(),
        }
    }

    pub fn into_response(self) -> Response<Body> {
        let mut response = json_response(self.code, &self.body);
        for warning in self.warnings {
            let text = format!("299 - {warning:?}");
            let value = HeaderValue::try_from(text).expect("a header of plain text");
            response.headers_mut().append(header::WARNING, value);
        }
        response
    }
}

pub fn json_response(code: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = code;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// JSON, YAML or protobuf, as the content type says.
pub fn parsed(content_type: &str, body: &[u8]) -> Result<Value, Failure> {
    let wrong = |why: String| Failure::bad_request(format!("error decoding the body: {why}"));
    match content_type {
        "" | "application/json" => serde_json::from_slice(body).map_err(|e| wrong(e.to_string())),
        "application/yaml" | "application/apply-patch+yaml" => {
            let text = std::str::from_utf8(body).map_err(|e| wrong(e.to_string()))?;
            serde_saphyr::from_str(text).map_err(|e| wrong(e.to_string()))
        }
        "application/vnd.kubernetes.protobuf" => protobuf::read(body),
        _ => Err(Failure::media_type(&[
            "application/json",
            "application/yaml",
            "application/vnd.kubernetes.protobuf",
        ])),
    }
}

/// The content type without its parameters.
pub fn content_type(headers: &HeaderMap) -> String {
    let given = headers.get(header::CONTENT_TYPE);
    let given = given.and_then(|value| value.to_str().ok());
    let kind = given.and_then(|value| value.split(';').next());
    kind.unwrap_or_default().trim().to_owned()
}

impl Call<'_> {
    /// Whether nothing is to be stored.
    pub fn is_rehearsal(&self) -> bool {
        self.target.parameter("dryRun") == Some("All")
    }

    pub fn namespace(&self) -> &str {
        if self.resource.namespaced {
            &self.target.namespace
        } else {
            ""
        }
    }

    /// A stored object as this version of this group has it.
    pub fn shown(&self, stored: &Value) -> Value {
        shown(&self.resource, stored)
    }

    /// An object of this version as it is stored.
    pub fn stored(&self, mut object: Value) -> Value {
        if self.resource.is_event() {
            events::to_core(&self.resource, &mut object);
            object["apiVersion"] = json!("v1");
        }
        object
    }

    /// The answer with an object that is stored.
    pub fn answer(&self, code: StatusCode, stored: &Value, warnings: Vec<String>) -> Answer {
        let body = rows::one(&self.resource, &self.shape, self.shown(stored));
        Answer {
            code,
            body,
            warnings,
        }
    }

    pub fn mutate(
        &self,
        operation: Operation,
        old: Option<&Value>,
        object: &mut Value,
    ) -> Result<(), Failure> {
        let Some(admission) = self.shared.admission() else {
            return Ok(());
        };
        let asked = object.clone();
        let name = object::name(&asked).to_owned();
        let review = self.review(operation, &name, old, Some(&asked));
        let done = admission.mutate(&review, object);
        done.map_err(|denied| self.denied(&denied, &name))
    }

    pub fn validate(
        &self,
        operation: Operation,
        old: Option<&Value>,
        object: Option<&Value>,
    ) -> Result<(), Failure> {
        let Some(admission) = self.shared.admission() else {
            return Ok(());
        };
        let name = object.or(old).map(object::name).unwrap_or_default();
        let review = self.review(operation, name, old, object);
        let done = admission.validate(&review);
        done.map_err(|denied| self.denied(&denied, name))
    }

    fn review<'b>(
        &'b self,
        operation: Operation,
        name: &'b str,
        old: Option<&'b Value>,
        object: Option<&'b Value>,
    ) -> Review<'b> {
        Review {
            operation,
            group: &self.resource.group,
            version: &self.resource.version,
            resource: &self.resource.plural,
            subresource: &self.target.subresource,
            namespace: &self.target.namespace,
            name,
            old,
            object,
            user: self.user,
        }
    }

    fn denied(&self, denied: &Denied, name: &str) -> Failure {
        Failure::denied(denied, &self.resource, name)
    }

    /// Defaults, and what the schema does not know dropped; the client may want
    /// that to be an error.
    pub fn shaped(&self, object: &mut Value) -> Result<Vec<String>, Failure> {
        let Some(custom) = &self.resource.custom else {
            return Ok(Vec::new());
        };
        let dropped = schema::shape(&custom.schema, object);
        let unknown: Vec<String> = dropped
            .iter()
            .map(|path| format!("unknown field {path:?}"))
            .collect();
        match self.target.parameter("fieldValidation") {
            Some("Strict") if !unknown.is_empty() => {
                let Resource { kind, version, .. } = &*self.resource;
                let unknown = unknown.join(", ");
                Err(Failure::bad_request(format!(
                    "{kind} in version {version:?} cannot be handled as a {kind}: strict decoding error: {unknown}"
                )))
            }
            Some("Ignore") => Ok(Vec::new()),
            _ => Ok(unknown),
        }
    }
}

/// A stored object as a version of a group has it.
pub fn shown(resource: &Resource, stored: &Value) -> Value {
    let mut object = stored.clone();
    events::from_core(resource, &mut object);
    object["apiVersion"] = resource.api_version().into();
    object
}
