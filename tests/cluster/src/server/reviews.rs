//! What a client may ask about itself, and tokens for ServiceAccounts.

use std::time::Duration;

use axum::http::StatusCode;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    Shared, authorize,
    call::{Answer, Call, parsed},
    failure::{Failure, Flaw},
    object::{rfc3339, text},
    resource::Place,
    target::Target,
    tokens::{Account, Pod},
};
use crate::admission::UserInfo;

/// Seconds that a token lives at least, and where nobody says.
const SHORTEST: u64 = 600;
const USUAL: u64 = 3_600;

/// The answer to a review; none when the target is none.
pub fn answer(
    shared: &Shared,
    target: &Target,
    user: &UserInfo,
    content_type: &str,
    body: &[u8],
) -> Option<Result<Answer, Failure>> {
    let group = (target.group.as_str(), target.version.as_str());
    let asked = || parsed(content_type, body);
    let answer = match (group, target.resource.as_str()) {
        (("authentication.k8s.io", "v1"), "selfsubjectreviews") => who_am_i(user),
        (("authorization.k8s.io", "v1"), "selfsubjectaccessreviews") => {
            asked().map(|asked| may_i(shared, user, asked))
        }
        _ => return None,
    };
    if target.verb == "create" {
        Some(answer.map(|body| Answer::new(StatusCode::CREATED, body)))
    } else {
        Some(Err(Failure::method_not_allowed()))
    }
}

fn who_am_i(user: &UserInfo) -> Result<Value, Failure> {
    let mut info = json!({"username": user.username, "groups": user.groups});
    if !user.uid.is_empty() {
        info["uid"] = user.uid.clone().into();
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    Ok(json!({
        "kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1",
        "metadata": {"creationTimestamp": super::object::now()},
        "status": {"userInfo": info},
    }))
}

fn may_i(shared: &Shared, user: &UserInfo, mut asked: Value) -> Value {
    let resource = &asked["spec"]["resourceAttributes"];
    let path = &asked["spec"]["nonResourceAttributes"];
    let of = |from: &Value, field: &str| text(from, &format!("/{field}")).to_owned();
    let target = if resource.is_object() {
        Target {
            verb: of(resource, "verb"),
            group: of(resource, "group"),
            version: of(resource, "version"),
            resource: of(resource, "resource"),
            subresource: of(resource, "subresource"),
            namespace: of(resource, "namespace"),
            name: of(resource, "name"),
            ..Target::default()
        }
    } else {
        Target {
            verb: of(path, "verb"),
            path: of(path, "path"),
            ..Target::default()
        }
    };
    let decision = authorize::decide(&shared.store, shared.options.rbac, user, &target);
    let mut status = json!({"allowed": decision.allowed});
    if !decision.reason.is_empty() {
        status["reason"] = decision.reason.into();
    }
    asked["status"] = status;
    asked
}

impl Call<'_> {
    /// A token for a ServiceAccount, bound to a pod if asked for.
    pub fn issue_token(&self) -> Result<Answer, Failure> {
        let mut asked = parsed(&self.content_type, &self.body)?;
        let store = &self.shared.store;
        let name = self.target.name.as_str();
        let account = store
            .read(&self.resource.place(), self.namespace(), name)
            .ok_or_else(|| Failure::not_found(&self.resource, name))?;
        let seconds = asked["spec"]["expirationSeconds"].as_u64().unwrap_or(USUAL);
        if seconds < SHORTEST {
            let why = "may not specify a duration less than 10 minutes";
            let flaw = Flaw::invalid("spec.expirationSeconds", &json!(seconds), why);
            let group = "authentication.k8s.io";
            return Err(Failure::invalid_kind("TokenRequest", group, "", &[flaw]));
        }
        let pod = self.bound_pod(&asked["spec"]["boundObjectRef"])?;
        let account = Account {
            namespace: self.namespace().to_owned(),
            name: name.to_owned(),
            uid: text(&account, "/metadata/uid").to_owned(),
        };
        let lives = Duration::from_secs(seconds);
        let token = self.shared.tokens.issue(&account, pod.as_ref(), lives);
        let expires = Timestamp::now()
            .checked_add(lives)
            .map_err(|e| Failure::bad_request(e.to_string()))?;
        asked["status"] = json!({"token": token, "expirationTimestamp": rfc3339(expires)});
        asked["kind"] = json!("TokenRequest");
        asked["apiVersion"] = json!("authentication.k8s.io/v1");
        Ok(Answer::new(StatusCode::CREATED, asked))
    }

    fn bound_pod(&self, bound: &Value) -> Result<Option<Pod>, Failure> {
        if bound.is_null() {
            return Ok(None);
        }
        let (kind, name) = (text(bound, "/kind"), text(bound, "/name"));
        if kind != "Pod" {
            let message =
                format!("cannot bind token for serviceaccount to object of kind {kind:?}");
            return Err(Failure::bad_request(message));
        }
        let pods = Place::new("", "pods");
        let store = &self.shared.store;
        let pod = store.read(&pods, self.namespace(), name).ok_or_else(|| {
            let message = format!("pods {name:?} not found");
            Failure::new(404, "NotFound", message).about(name, "", "pods")
        })?;
        let (uid, wanted) = (text(&pod, "/metadata/uid"), text(bound, "/uid"));
        if !wanted.is_empty() && wanted != uid {
            let why = format!(
                "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might have been deleted and then recreated"
            );
            return Err(Failure::conflict(&self.resource, &self.target.name, &why));
        }
        let account = text(&pod, "/spec/serviceAccountName");
        if account != self.target.name {
            return Err(Failure::bad_request(format!(
                "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                self.target.name
            )));
        }
        let node = text(&pod, "/spec/nodeName").to_owned();
        let there = store.read(&Place::new("", "nodes"), "", &node);
        let node_uid = there.map(|node| text(&node, "/metadata/uid").to_owned());
        Ok(Some(Pod {
            name: name.to_owned(),
            uid: uid.to_owned(),
            node,
            node_uid: node_uid.unwrap_or_default(),
        }))
    }
}
