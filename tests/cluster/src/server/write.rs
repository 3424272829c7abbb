//! Creation and replacement.
//!
//! The order of steps is the API server's, since it decides which of several
//! reasons a client is told: what mutates, the version, what the endpoint leaves
//! alone, the schema, what validates, and only then the store. A write that
//! changes nothing goes through all of it, and is then not stored.

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::{
    call::{Answer, Call, parsed},
    checks::check_texts,
    failure::{Failure, Flaw},
    object::{self, text},
    patch::Patch,
};
use crate::admission::Operation;

/// What the server decides about `metadata`, not who writes.
const SERVERS_OWN: &[&str] = &[
    "namespace",
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "selfLink",
];
/// With which a generated name ends.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

impl Call<'_> {
    pub fn create(&self) -> Result<Answer, Failure> {
        let object = parsed(&self.content_type, &self.body)?;
        self.create_from(object)
    }

    /// # Errors
    ///
    /// When the object is refused or already there.
    pub fn create_from(&self, mut object: Value) -> Result<Answer, Failure> {
        self.check_kind(&mut object)?;
        self.check_namespace(&mut object)?;
        let name = self.named(&mut object)?;
        self.check_namespace_is_open(&name)?;
        let mut warnings = self.shaped(&mut object)?;
        object::born(&mut object, self.resource.generation)?;
        self.mutate(Operation::Create, None, &mut object)?;
        // What was put in by a webhook is held to the schema as well.
        warnings.extend(self.shaped(&mut object)?);
        self.prepare_new(&mut object);
        self.check_fields(&object, None)?;
        self.validate(Operation::Create, None, Some(&object))?;
        let place = self.resource.place();
        if self.is_rehearsal() {
            if self
                .shared
                .store
                .read(&place, self.namespace(), &name)
                .is_some()
            {
                return Err(Failure::already_exists(&self.resource, &name));
            }
            return Ok(self.answer(StatusCode::CREATED, &self.stored(object), warnings));
        }
        let stored = self.stored(object);
        let store = &self.shared.store;
        match store.swap(&place, self.namespace(), &name, None, Some(stored)) {
            Ok(stored) => Ok(self.answer(StatusCode::CREATED, &stored, warnings)),
            Err(_raced) => Err(Failure::already_exists(&self.resource, &name)),
        }
    }

    /// The name, generated if need be.
    fn named(&self, object: &mut Value) -> Result<String, Failure> {
        let mut name = object::name(object).to_owned();
        let prefix = text(object, "/metadata/generateName").to_owned();
        if name.is_empty() && !prefix.is_empty() {
            let mut letter = || {
                let at = rand::random_range(0..LETTERS.len());
                char::from(LETTERS[at])
            };
            let ending: String = std::iter::repeat_with(&mut letter).take(5).collect();
            name = format!("{prefix}{ending}");
        }
        if name.is_empty() {
            let flaw = Flaw::required("metadata.name", "name or generateName is required");
            return Err(Failure::invalid(&self.resource, "", &[flaw]));
        }
        object::metadata(object)?.insert("name".to_owned(), name.clone().into());
        Ok(name)
    }

    /// What is not for the client to say.
    fn prepare_new(&self, object: &mut Value) {
        let resource = &self.resource;
        let map = object.as_object_mut().expect("an object, as checked");
        let status_is_elsewhere =
            resource.status && (resource.custom.is_some() || resource.group == "apps");
        if status_is_elsewhere {
            map.remove("status");
        }
        if resource.is("", "namespaces") {
            map.insert("status".to_owned(), json!({"phase": "Active"}));
            map.insert("spec".to_owned(), json!({"finalizers": ["kubernetes"]}));
        }
        if resource.plural == "customresourcedefinitions" {
            define(object);
        }
    }

    pub fn update(&self) -> Result<Answer, Failure> {
        let mut given = parsed(&self.content_type, &self.body)?;
        self.check_kind(&mut given)?;
        self.check_namespace(&mut given)?;
        if object::name(&given).is_empty() {
            let name = self.target.name.as_str();
            object::metadata(&mut given)?.insert("name".to_owned(), name.into());
        }
        let blind = text(&given, "/metadata/resourceVersion").is_empty();
        let place = self.resource.place();
        let there = (self.shared.store).read(&place, self.namespace(), &self.target.name);
        // What is not there is not found, whatever was said of it.
        if blind && !self.resource.blind_update && there.is_some() {
            let why = "must be specified for an update";
            let flaw = Flaw::invalid("metadata.resourceVersion", &json!(0), why);
            let flaw = Flaw {
                message: flaw.message.replacen('0', "0x0", 1),
                ..flaw
            };
            // Here, and nowhere else, the real one names the resource for the kind.
            let (resource, name) = (&self.resource, &self.target.name);
            return Err(Failure::invalid_kind(
                &resource.plural,
                &resource.group,
                name,
                &[flaw],
            ));
        }
        self.modify(|_| Ok(given.clone()))
    }

    pub fn patch(&self) -> Result<Answer, Failure> {
        let patch = Patch::of(self)?;
        let place = self.resource.place();
        let there = self
            .shared
            .store
            .read(&place, self.namespace(), &self.target.name);
        if there.is_none()
            && let Some(object) = patch.creates(&self.target.name)
        {
            return self.create_from(object);
        }
        self.modify(|before| {
            let mut after = patch.apply(before)?;
            check_texts(&after).map_err(|why| Failure::patched_is_no_object(&after, &why))?;
            self.check_kind(&mut after)?;
            self.check_namespace(&mut after)?;
            Ok(after)
        })
    }

    /// Makes something else of an object, again and again while others are
    /// faster.
    fn modify(&self, change: impl Fn(&Value) -> Result<Value, Failure>) -> Result<Answer, Failure> {
        let place = self.resource.place();
        let (namespace, name) = (self.namespace(), self.target.name.as_str());
        loop {
            let stored = self
                .shared
                .store
                .read(&place, namespace, name)
                .ok_or_else(|| Failure::not_found(&self.resource, name))?;
            let before = self.shown(&stored);
            let (after, warnings) = self.changed(&before, change(&before)?)?;
            if self.is_rehearsal() || after == before {
                return Ok(self.answer(StatusCode::OK, &self.stored(after), warnings));
            }
            let gone = object::is_terminating(&after) && !self.is_held(&after);
            let after = self.stored(after);
            // What went with its last finalizer is told of as it was then.
            let (last, after) = if gone {
                (Some(after), None)
            } else {
                (None, Some(after))
            };
            let swapped = self
                .shared
                .store
                .swap(&place, namespace, name, Some(&stored), after);
            if let Ok(stored) = swapped {
                let body = last.as_ref().unwrap_or(&stored);
                return Ok(self.answer(StatusCode::OK, body, warnings));
            }
        }
    }

    /// All steps between a change that was asked for and the store.
    fn changed(&self, before: &Value, mut after: Value) -> Result<(Value, Vec<String>), Failure> {
        let name = self.target.name.as_str();
        let given = object::name(&after);
        if given != name {
            return Err(Failure::bad_request(format!(
                "the name of the object ({given}) does not match the name on the URL ({name})"
            )));
        }
        let mut warnings = self.shaped(&mut after)?;
        self.check_identity(before, &after)?;
        self.mutate(Operation::Update, Some(before), &mut after)?;
        warnings.extend(self.shaped(&mut after)?);
        self.check_version(before, &after)?;
        object::keep(&mut after, before, &["resourceVersion"])?;
        object::keep(&mut after, before, SERVERS_OWN)?;
        let mut after = self.apart(before, after)?;
        if self.resource.generation && is_new_generation(self.resource.status, before, &after) {
            let generation = before["metadata"]["generation"].as_u64().unwrap_or(0) + 1;
            object::metadata(&mut after)?.insert("generation".to_owned(), generation.into());
        }
        self.check_fields(&after, Some(before))?;
        self.validate(Operation::Update, Some(before), Some(&after))?;
        Ok((after, warnings))
    }

    fn check_identity(&self, before: &Value, after: &Value) -> Result<(), Failure> {
        let (old, new) = (text(before, "/metadata/uid"), text(after, "/metadata/uid"));
        if new.is_empty() || old == new {
            return Ok(());
        }
        let why =
            format!("Precondition failed: UID in precondition: {new}, UID in object meta: {old}");
        Err(Failure::conflict(&self.resource, &self.target.name, &why))
    }

    /// A version that is given must be the stored one; none means any.
    fn check_version(&self, before: &Value, after: &Value) -> Result<(), Failure> {
        let given = text(after, "/metadata/resourceVersion");
        if given.is_empty() || given == text(before, "/metadata/resourceVersion") {
            return Ok(());
        }
        if given.parse::<u64>().is_err() {
            let flaw = Flaw::invalid(
                "metadata.resourceVersion",
                &json!(given),
                "must be a number",
            );
            return Err(Failure::invalid(&self.resource, &self.target.name, &[flaw]));
        }
        Err(Failure::modified(&self.resource, &self.target.name))
    }

    /// The object's endpoint leaves the status alone, and the other way round.
    fn apart(&self, before: &Value, mut after: Value) -> Result<Value, Failure> {
        if !self.resource.status {
            return Ok(after);
        }
        if self.target.subresource == "status" {
            let mut kept = before.clone();
            let map = kept.as_object_mut().expect("an object, as stored");
            match after.get("status") {
                Some(status) => map.insert("status".to_owned(), status.clone()),
                None => map.remove("status"),
            };
            return Ok(kept);
        }
        let map = after.as_object_mut().expect("an object, as checked");
        match before.get("status") {
            Some(status) => map.insert("status".to_owned(), status.clone()),
            None => map.remove("status"),
        };
        Ok(after)
    }
}

/// Anything but `metadata` and, where it is apart, `status`.
fn is_new_generation(status_apart: bool, before: &Value, after: &Value) -> bool {
    let aside: &[&str] = if status_apart {
        &["metadata", "status"]
    } else {
        &["metadata"]
    };
    object::without(before, aside) != object::without(after, aside)
}

/// What the server's controllers would say about a new definition a moment
/// later; here it is served at once.
fn define(definition: &mut Value) {
    let names = definition["spec"]["names"].clone();
    let versions = definition["spec"]["versions"]
        .as_array()
        .into_iter()
        .flatten();
    let stored: Vec<Value> = versions
        .filter(|version| version["storage"] == json!(true))
        .map(|version| version["name"].clone())
        .collect();
    let now = object::now();
    let condition = |kind: &str, reason: &str, message: &str| {
        json!({
            "type": kind, "status": "True", "lastTransitionTime": now,
            "reason": reason, "message": message,
        })
    };
    definition["status"] = json!({
        "acceptedNames": names,
        "conditions": [
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ],
        "storedVersions": stored,
    });
}
