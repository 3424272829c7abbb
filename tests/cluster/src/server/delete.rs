//! Deletion, at once or as soon as nothing holds the object any more.

use std::sync::Arc;

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::{
    call::{Answer, Call, parsed},
    failure::Failure,
    object::{self, text},
    rows::Shape,
    target::Target,
};
use crate::admission::Operation;

impl Call<'_> {
    pub fn delete(&self) -> Result<Answer, Failure> {
        let options = if self.body.is_empty() {
            json!({})
        } else {
            parsed(&self.content_type, &self.body)?
        };
        let name = self.target.name.as_str();
        let place = self.resource.place();
        loop {
            let store = &self.shared.store;
            let stored = store
                .read(&place, self.namespace(), name)
                .ok_or_else(|| Failure::not_found(&self.resource, name))?;
            self.check_preconditions(&options, &stored)?;
            let before = self.shown(&stored);
            self.validate(Operation::Delete, Some(&before), None)?;
            let held = self.is_held(&before);
            if held && object::is_terminating(&before) {
                return Ok(self.answer(StatusCode::OK, &stored, Vec::new()));
            }
            let after = if held {
                Some(self.terminating(&stored)?)
            } else {
                None
            };
            let done = if self.is_rehearsal() || options["dryRun"] == json!(["All"]) {
                Ok(after.map_or_else(|| Arc::clone(&stored), Arc::new))
            } else {
                store.swap(&place, self.namespace(), name, Some(&stored), after)
            };
            if let Ok(last) = done {
                return Ok(self.deleted(&last, held));
            }
        }
    }

    /// Deletes one after the other all that are selected; one that goes by itself
    /// meanwhile is gone as well.
    pub fn delete_selected(&self) -> Result<Answer, Failure> {
        let list = self.list()?;
        for object in list.body["items"].as_array().into_iter().flatten() {
            let target = Target {
                name: object::name(object).to_owned(),
                ..self.target.clone()
            };
            let one = Call {
                target: &target,
                resource: Arc::clone(&self.resource),
                shape: Shape::Whole,
                content_type: self.content_type.clone(),
                body: self.body.clone(),
                ..*self
            };
            match one.delete() {
                Err(failure) if failure.code != 404 => return Err(failure),
                Ok(_) | Err(_) => {}
            }
        }
        Ok(list)
    }

    /// Whether something has to be done before the object may go. Nobody here
    /// looks after namespaces, as in a control plane without controllers: they
    /// stay, and take nothing new.
    pub fn is_held(&self, object: &Value) -> bool {
        object::has_finalizers(object)
            || self.resource.is("", "namespaces")
                && object["spec"]["finalizers"]
                    .as_array()
                    .is_some_and(|held| !held.is_empty())
    }

    fn terminating(&self, stored: &Value) -> Result<Value, Failure> {
        let mut after = stored.clone();
        let generation = stored["metadata"]["generation"].as_u64();
        let metadata = object::metadata(&mut after)?;
        metadata.insert("deletionTimestamp".to_owned(), object::now().into());
        metadata.insert("deletionGracePeriodSeconds".to_owned(), 0.into());
        if let Some(generation) = generation {
            metadata.insert("generation".to_owned(), (generation + 1).into());
        }
        if self.resource.is("", "namespaces") {
            after["status"] = json!({"phase": "Terminating"});
        }
        Ok(after)
    }

    fn deleted(&self, last: &Value, held: bool) -> Answer {
        if held || self.resource.is("", "pods") {
            return self.answer(StatusCode::OK, last, Vec::new());
        }
        let mut details = json!({
            "name": self.target.name, "kind": self.resource.plural,
            "uid": text(last, "/metadata/uid"),
        });
        if !self.resource.group.is_empty() {
            details["group"] = self.resource.group.clone().into();
        }
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
            "details": details,
        });
        Answer::new(StatusCode::OK, status)
    }

    fn check_preconditions(&self, options: &Value, stored: &Value) -> Result<(), Failure> {
        let wanted = &options["preconditions"];
        for (field, what) in [("uid", "UID"), ("resourceVersion", "ResourceVersion")] {
            let wanted = text(wanted, &format!("/{field}"));
            let is = text(stored, &format!("/metadata/{field}"));
            if !wanted.is_empty() && wanted != is {
                let since = if field == "uid" {
                    "deleted and then recreated"
                } else {
                    "modified"
                };
                let why = format!(
                    "the {what} in the precondition ({wanted}) does not match the {what} in record ({is}). The object might have been {since}"
                );
                return Err(Failure::conflict(&self.resource, &self.target.name, &why));
            }
        }
        Ok(())
    }
}
