//! Who may do what, by the roles and bindings in the store.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    failure::Failure, object::text, resource::Place, store::Store, table::Scope, target::Target,
    tokens::ANONYMOUS,
};
use crate::admission::UserInfo;

/// What everybody may read, even without a token.
const PUBLIC: &[&str] = &["/healthz", "/livez", "/readyz", "/version"];
/// What whoever has a token may read besides.
const DISCOVERY: &[&str] = &["/api", "/apis", "/openapi"];
/// What whoever has a token may ask about itself.
const ABOUT_ONESELF: &[&str] = &[
    "selfsubjectreviews",
    "selfsubjectaccessreviews",
    "selfsubjectrulesreviews",
];

/// The answer, with what a refusal has to add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub allowed: bool,
    /// Roles that are bound and do not exist.
    pub reason: String,
}

impl Decision {
    fn yes() -> Self {
        Self {
            allowed: true,
            reason: String::new(),
        }
    }
}

/// Whether this user may do this; `rbac` off lets all do all who have a token.
pub fn decide(store: &Store, rbac: bool, user: &UserInfo, target: &Target) -> Decision {
    if has_group(user, "system:masters") || is_for_all(user, target) {
        return Decision::yes();
    }
    let authenticated = user.username != ANONYMOUS;
    if !rbac {
        return Decision {
            allowed: authenticated,
            reason: String::new(),
        };
    }
    let mut missing = Vec::new();
    let mut kinds = vec![("clusterrolebindings", "")];
    if !target.namespace.is_empty() {
        kinds.push(("rolebindings", target.namespace.as_str()));
    }
    for (plural, namespace) in kinds {
        for binding in bindings(store, plural, namespace) {
            if !is_bound(&binding, user) {
                continue;
            }
            match role(store, &binding, namespace) {
                Ok(role) if permits(&role, target) => return Decision::yes(),
                Ok(_) => {}
                Err(why) => missing.push(why),
            }
        }
    }
    let reason = match missing.as_slice() {
        [] => String::new(),
        [one] => format!("RBAC: {one}"),
        several => format!("RBAC: [{}]", several.join(", ")),
    };
    Decision {
        allowed: false,
        reason,
    }
}

/// The refusal in the API server's words.
pub fn forbidden(user: &UserInfo, target: &Target, decision: &Decision) -> Failure {
    let mut message = if target.resource.is_empty() {
        let (user, verb, path) = (&user.username, &target.verb, &target.path);
        format!("forbidden: User {user:?} cannot {verb} path {path:?}")
    } else {
        of_resource(user, target)
    };
    if !decision.reason.is_empty() {
        message.push_str(": ");
        message.push_str(&decision.reason);
    }
    Failure::new(403, "Forbidden", message).about(&target.name, &target.group, &target.resource)
}

fn of_resource(user: &UserInfo, target: &Target) -> String {
    let Target {
        verb,
        group,
        namespace,
        name,
        ..
    } = target;
    let full = if group.is_empty() {
        target.resource.clone()
    } else {
        format!("{}.{group}", target.resource)
    };
    let which = if name.is_empty() {
        full
    } else {
        format!("{full} {name:?}")
    };
    let place = if namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {namespace:?}")
    };
    format!(
        "{which} is forbidden: User {:?} cannot {verb} resource {:?} in API group {group:?} {place}",
        user.username,
        with_subresource(target),
    )
}

fn with_subresource(target: &Target) -> String {
    match target.subresource.as_str() {
        "" => target.resource.clone(),
        subresource => format!("{}/{subresource}", target.resource),
    }
}

fn has_group(user: &UserInfo, group: &str) -> bool {
    user.groups.iter().any(|one| one == group)
}

fn is_for_all(user: &UserInfo, target: &Target) -> bool {
    let below = |prefixes: &[&str]| {
        prefixes.iter().any(|prefix| {
            let rest = target.path.strip_prefix(prefix);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    };
    if target.resource.is_empty() {
        let authenticated = has_group(user, "system:authenticated");
        return target.verb == "get" && (below(PUBLIC) || authenticated && below(DISCOVERY));
    }
    target.verb == "create"
        && ABOUT_ONESELF.contains(&target.resource.as_str())
        && has_group(user, "system:authenticated")
}

fn bindings(store: &Store, plural: &str, namespace: &str) -> Vec<Arc<Value>> {
    let scope = Scope {
        namespace: namespace.to_owned(),
        name: None,
    };
    let place = Place::new("rbac.authorization.k8s.io", plural);
    store.select(&place, &scope).0
}

fn is_bound(binding: &Value, user: &UserInfo) -> bool {
    let subjects = binding["subjects"].as_array().into_iter().flatten();
    let mut subjects = subjects.map(|subject| {
        let name = text(subject, "/name");
        match text(subject, "/kind") {
            "User" => user.username == name,
            "Group" => has_group(user, name),
            "ServiceAccount" => {
                let namespace = text(subject, "/namespace");
                user.username == format!("system:serviceaccount:{namespace}:{name}")
            }
            _ => false,
        }
    });
    subjects.any(|bound| bound)
}

fn role(store: &Store, binding: &Value, namespace: &str) -> Result<Arc<Value>, String> {
    let name = text(binding, "/roleRef/name");
    let (plural, namespace) = match text(binding, "/roleRef/kind") {
        "Role" => ("roles", namespace),
        _ => ("clusterroles", ""),
    };
    let singular = plural.trim_end_matches('s');
    let place = Place::new("rbac.authorization.k8s.io", plural);
    store
        .read(&place, namespace, name)
        .ok_or_else(|| format!("{singular}.rbac.authorization.k8s.io {name:?} not found"))
}

fn permits(role: &Value, target: &Target) -> bool {
    let rules = role["rules"].as_array().into_iter().flatten();
    let mut rules = rules.map(|rule| {
        let names = |field: &str, wanted: &str| {
            let list = rule[field].as_array().into_iter().flatten();
            let mut list = list.filter_map(Value::as_str);
            list.any(|one| one == "*" || one == wanted)
        };
        if !names("verbs", &target.verb) {
            return false;
        }
        if target.resource.is_empty() {
            return of_path(rule, &target.path);
        }
        let of_any_resource = format!("*/{}", target.subresource);
        let resource = names("resources", &with_subresource(target))
            || !target.subresource.is_empty() && names("resources", &of_any_resource);
        // Here a star is a name like any other.
        let only = rule["resourceNames"].as_array().map(Vec::as_slice);
        let named = only.is_none_or(|only| {
            only.is_empty() || !target.name.is_empty() && only.contains(&json!(target.name))
        });
        names("apiGroups", &target.group) && resource && named
    });
    rules.any(|permitted| permitted)
}

fn of_path(rule: &Value, path: &str) -> bool {
    let urls = rule["nonResourceURLs"].as_array().into_iter().flatten();
    let mut urls = urls.filter_map(Value::as_str);
    urls.any(|url| {
        let prefix = url.strip_suffix('*');
        url == path || prefix.is_some_and(|prefix| path.starts_with(prefix))
    })
}
