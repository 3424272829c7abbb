//! What is refused before anything is stored, whoever asks.

use serde_json::{Value, json};

use super::{
    call::Call,
    events,
    failure::{Failure, Flaw},
    object::{self, text},
    schema,
    store::open_namespace,
};

/// Maps of texts in `metadata`.
const TEXTS: [&str; 2] = ["labels", "annotations"];
/// Of all annotations of an object together.
const ANNOTATIONS_MOST: usize = 256 * 1024;

impl Call<'_> {
    /// The kind and version in the body are those of the path.
    pub fn check_kind(&self, object: &mut Value) -> Result<(), Failure> {
        let (kind, version) = (&self.resource.kind, self.resource.api_version());
        let map = object
            .as_object_mut()
            .ok_or_else(|| Failure::bad_request("the body is no object"))?;
        for (key, expected) in [("kind", kind), ("apiVersion", &version)] {
            match map.get(key).and_then(Value::as_str) {
                Some(given) if given == expected => {}
                None | Some("") if self.resource.custom.is_none() => {
                    map.insert(key.to_owned(), expected.clone().into());
                }
                None | Some("") => {
                    let name = if key == "kind" { "Kind" } else { key };
                    let message = format!("Object '{name}' is missing in the body");
                    return Err(Failure::bad_request(message));
                }
                Some(given) if key == "kind" && self.resource.custom.is_some() => {
                    let why = format!("must be {}", expected.as_str());
                    let flaw = Flaw::invalid("kind", &given.into(), &why);
                    let (given, name) = (given.to_owned(), object::name(object));
                    let group = &self.resource.group;
                    return Err(Failure::invalid_kind(&given, group, name, &[flaw]));
                }
                Some(given) => {
                    let what = if key == "kind" { "kind" } else { "API version" };
                    return Err(Failure::bad_request(format!(
                        "the {what} in the data ({given}) does not match the expected {what} ({expected})"
                    )));
                }
            }
        }
        check_metadata(object)
    }

    /// The namespace in the body is that of the path, or becomes it.
    pub fn check_namespace(&self, object: &mut Value) -> Result<(), Failure> {
        let given = object::namespace(object).to_owned();
        let metadata = object::metadata(object)?;
        if !self.resource.namespaced {
            metadata.remove("namespace");
            return Ok(());
        }
        if !given.is_empty() && given != self.target.namespace {
            return Err(Failure::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        let namespace = self.target.namespace.as_str();
        metadata.insert("namespace".to_owned(), namespace.into());
        Ok(())
    }

    /// The namespace takes new objects.
    pub fn check_namespace_is_open(&self, name: &str) -> Result<(), Failure> {
        if !self.resource.namespaced {
            return Ok(());
        }
        let namespace = &self.target.namespace;
        match open_namespace(&self.shared.store, namespace) {
            Some(true) => Ok(()),
            Some(false) => {
                let message = format!(
                    "{} {name:?} is forbidden: unable to create new content in namespace {namespace} because it is being terminated",
                    self.resource.full_name()
                );
                let failure = Failure::new(403, "Forbidden", message);
                Err(failure.about(name, &self.resource.group, &self.resource.plural))
            }
            None => {
                let message = format!("namespaces {namespace:?} not found");
                let failure = Failure::new(404, "NotFound", message);
                Err(failure.about(namespace, "", "namespaces"))
            }
        }
    }

    /// By the schema of a custom resource, or the rules for what is built in.
    pub fn check_fields(&self, object: &Value, before: Option<&Value>) -> Result<(), Failure> {
        let mut flaws: Vec<Flaw> = check_annotations(object).into_iter().collect();
        if let Some(custom) = &self.resource.custom {
            flaws.extend(check_name(object));
            flaws.extend(schema::check(&custom.schema, object));
        } else if self.resource.is_event() {
            let before = before.map(|before| self.stored(before.clone()));
            let event = self.stored(object.clone());
            flaws.extend(events::check(&self.resource, &event, before.as_ref()));
        } else if self.resource.plural == "customresourcedefinitions" {
            flaws.extend(check_definition(object));
        }
        if flaws.is_empty() {
            return Ok(());
        }
        let name = object::name(object);
        Err(Failure::invalid(&self.resource, name, &flaws))
    }
}

/// The name of a custom resource is one that DNS allows.
fn check_name(object: &Value) -> Option<Flaw> {
    let name = object::name(object);
    let fits = name.len() <= 253
        && name.split('.').all(|label| {
            let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
            label.starts_with(allowed)
                && label.ends_with(allowed)
                && label.chars().all(|c| c == '-' || allowed(c))
        });
    let why = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
    (!fits).then(|| Flaw::invalid("metadata.name", &name.into(), why))
}

/// Labels and annotations are texts; anything else cannot even be read.
fn check_metadata(object: &mut Value) -> Result<(), Failure> {
    check_texts(object).map_err(Failure::bad_request)?;
    let metadata = object::metadata(object)?;
    for field in TEXTS {
        if metadata.get(field).is_some_and(Value::is_null) {
            metadata.remove(field);
        }
    }
    Ok(())
}

/// Why labels or annotations cannot be read.
pub fn check_texts(object: &Value) -> Result<(), String> {
    for field in TEXTS {
        let given = &object["metadata"][field];
        let texts = given
            .as_object()
            .is_some_and(|map| map.values().all(Value::is_string));
        if !given.is_null() && !texts {
            return Err(format!(
                "json: cannot unmarshal into Go struct field ObjectMeta.metadata.{field} of type string"
            ));
        }
    }
    Ok(())
}

fn check_annotations(object: &Value) -> Option<Flaw> {
    let annotations = object["metadata"]["annotations"].as_object()?;
    let sizes = annotations
        .iter()
        .map(|(key, value)| key.len() + value.as_str().map_or(0, str::len));
    (sizes.sum::<usize>() > ANNOTATIONS_MOST).then(|| Flaw {
        field: "metadata.annotations".to_owned(),
        reason: "FieldValueTooLong",
        message: format!("Too long: may not be more than {ANNOTATIONS_MOST} bytes"),
    })
}

fn check_definition(definition: &Value) -> Vec<Flaw> {
    let mut flaws = Vec::new();
    let spec = &definition["spec"];
    let (plural, group) = (text(spec, "/names/plural"), text(spec, "/group"));
    let name = format!("{plural}.{group}");
    if object::name(definition) != name {
        let why = "must be spec.names.plural+\".\"+spec.group";
        flaws.push(Flaw::invalid(
            "metadata.name",
            &json!(object::name(definition)),
            why,
        ));
    }
    for field in ["group", "scope", "names"] {
        if spec[field].is_null() {
            flaws.push(Flaw::required(&format!("spec.{field}"), ""));
        }
    }
    let versions = spec["versions"].as_array().map(Vec::as_slice);
    for (at, version) in versions.unwrap_or_default().iter().enumerate() {
        let schema = version.pointer("/schema/openAPIV3Schema");
        if schema.and_then(Value::as_object).is_none() {
            let field = format!("spec.versions[{at}].schema.openAPIV3Schema");
            flaws.push(Flaw::required(&field, "schemas are required"));
        }
    }
    flaws
}
