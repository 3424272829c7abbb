//! What a request is about, as authorization and the request log have it: the
//! verb and the object that method and path stand for.

use axum::http::{Method, Uri};

/// A path of the API, taken apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    /// As authorization names it: `get`, `list`, `watch`, `create`, `update`,
    /// `patch`, `delete`, `deletecollection`.
    pub verb: String,
    /// Empty for the core, and for what is no resource.
    pub group: String,
    pub version: String,
    /// Plural name; empty for a path that is no resource.
    pub resource: String,
    /// `status` and the like; empty for the object itself.
    pub subresource: String,
    /// Empty for all, and for what has none.
    pub namespace: String,
    /// Also of a list or watch whose field selector asks for one name.
    pub name: String,
    /// As it was sent, without the query.
    pub path: String,
    /// Decoded, in their order.
    pub query: Vec<(String, String)>,
}

impl Target {
    pub fn of(method: &Method, uri: &Uri) -> Self {
        let mut target = Self {
            path: uri.path().to_owned(),
            query: pairs(uri.query().unwrap_or_default()),
            ..Self::default()
        };
        let segments: Vec<String> = uri
            .path()
            .split('/')
            .filter(|segment| !segment.is_empty())
            .map(|segment| decoded(segment, false))
            .collect();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        match segments.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => {
                target.resource_of("", version, rest)
            }
            ["apis", group, version, rest @ ..] if !rest.is_empty() => {
                target.resource_of(group, version, rest);
            }
            _ => {}
        }
        target.verb = target.verb(method);
        if matches!(target.verb.as_str(), "list" | "watch")
            && let Some(name) = target.selected_name()
        {
            target.name = name;
        }
        target
    }

    fn resource_of(&mut self, group: &str, version: &str, rest: &[&str]) {
        let rest = match rest {
            ["namespaces", namespace, rest @ ..] if is_inside(rest) => {
                (*namespace).clone_into(&mut self.namespace);
                rest
            }
            rest => rest,
        };
        group.clone_into(&mut self.group);
        version.clone_into(&mut self.version);
        let part = |at: usize| rest.get(at).copied().unwrap_or_default().to_owned();
        (self.resource, self.name) = (part(0), part(1));
        self.subresource = rest.get(2..).unwrap_or_default().join("/");
        // A namespace is its own, for rights and admission.
        if self.group.is_empty() && self.resource == "namespaces" {
            self.namespace.clone_from(&self.name);
        }
    }

    fn verb(&self, method: &Method) -> String {
        if self.resource.is_empty() {
            return method.as_str().to_lowercase();
        }
        let verb = match (method.as_str(), self.name.is_empty()) {
            ("GET" | "HEAD", _) if self.flag("watch") => "watch",
            ("GET" | "HEAD", true) => "list",
            ("GET" | "HEAD", false) => "get",
            ("POST", _) => "create",
            ("PUT", _) => "update",
            ("PATCH", _) => "patch",
            ("DELETE", true) => "deletecollection",
            ("DELETE", false) => "delete",
            (other, _) => return other.to_lowercase(),
        };
        verb.to_owned()
    }

    /// A parameter of the query, the first of this name.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.query.iter().find(|(key, _)| key == name);
        found
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    pub fn flag(&self, name: &str) -> bool {
        let given = self.parameter(name);
        given.is_some_and(|value| matches!(value, "true" | "1" | "True" | "t"))
    }

    fn selected_name(&self) -> Option<String> {
        let selector = self.parameter("fieldSelector")?;
        let terms = selector.split(',');
        terms
            .filter_map(|term| term.strip_prefix("metadata.name="))
            .map(|name| name.trim_start_matches('=').to_owned())
            .next()
    }
}

/// Whether what follows `namespaces/<name>/` is a resource in that namespace,
/// and not a subresource of the namespace.
fn is_inside(rest: &[&str]) -> bool {
    match rest {
        [] => false,
        [only] => !matches!(*only, "status" | "finalize"),
        _ => true,
    }
}

fn pairs(query: &str) -> Vec<(String, String)> {
    let parts = query.split('&').filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            (decoded(key, true), decoded(value, true))
        })
        .collect()
}

/// Percent-decoded; what is no escape stays as it is.
fn decoded(text: &str, form: bool) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let digits = bytes.get(at + 1..at + 3);
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        let value = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (byte, value) {
            (b'%', Some(value)) => {
                out.push(value);
                at += 2;
            }
            (b'+', _) if form => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}
