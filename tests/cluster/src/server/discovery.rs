//! What `kubectl` asks before it asks for anything: versions, groups, resources,
//! and as much of the OpenAPI documents as tells it that fields are validated
//! here and not by itself.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
};
use serde_json::{Map, Value, json};

use super::{Shared, call::json_response, failure::Failure, resource::Resource, target::Target};

/// Of which this is the stand-in.
const MINOR: &str = "34";
/// Groups that hold reviews only, which are not stored.
const REVIEWS: &[(&str, &str, &str)] = &[
    (
        "authentication.k8s.io",
        "selfsubjectreviews",
        "SelfSubjectReview",
    ),
    (
        "authorization.k8s.io",
        "selfsubjectaccessreviews",
        "SelfSubjectAccessReview",
    ),
];
const VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];

/// # Errors
///
/// When nothing is at this path.
pub fn answer(shared: &Shared, target: &Target) -> Result<Response<Body>, Failure> {
    if target.verb != "get" && target.verb != "head" {
        return Err(Failure::no_resource());
    }
    let segments: Vec<&str> = target
        .path
        .split('/')
        .filter(|part| !part.is_empty())
        .collect();
    let resources = shared.store.resources();
    let body = match segments.as_slice() {
        ["healthz" | "livez" | "readyz", ..] => return Ok(plain("ok")),
        ["version"] => version(),
        ["api"] => json!({
            "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [],
        }),
        ["apis"] => {
            let groups = groups(&resources);
            let groups: Vec<Value> = groups
                .iter()
                .map(|(name, versions)| group(name, versions))
                .collect();
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        }
        ["apis", name] => {
            let groups = groups(&resources);
            let versions = groups.get(*name).ok_or_else(not_found)?;
            let mut group = group(name, versions);
            group["kind"] = json!("APIGroup");
            group["apiVersion"] = json!("v1");
            group
        }
        ["api", version] => list(&resources, "", version)?,
        ["apis", group, version] => list(&resources, group, version)?,
        ["openapi", "v3"] => documents(&resources),
        ["openapi", "v3", "api", version] => document(&resources, "", version),
        ["openapi", "v3", "apis", group, version] => document(&resources, group, version),
        _ => return Err(not_found()),
    };
    Ok(json_response(StatusCode::OK, &body))
}

fn not_found() -> Failure {
    Failure::no_resource()
}

fn plain(text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

fn version() -> Value {
    json!({
        "major": "1", "minor": MINOR, "gitVersion": format!("v1.{MINOR}.0"),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "", "compiler": "", "platform": "linux/amd64",
    })
}

/// Groups other than the core, with their versions.
fn groups(resources: &[Arc<Resource>]) -> BTreeMap<String, Vec<String>> {
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let reviews = REVIEWS.iter().map(|(group, ..)| (*group, "v1"));
    let resources = resources
        .iter()
        .map(|one| (one.group.as_str(), one.version.as_str()));
    for (group, version) in resources
        .chain(reviews)
        .filter(|(group, _)| !group.is_empty())
    {
        let versions = groups.entry(group.to_owned()).or_default();
        if !versions.iter().any(|one| one == version) {
            versions.push(version.to_owned());
        }
    }
    groups
}

fn group(name: &str, versions: &[String]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|version| json!({"groupVersion": format!("{name}/{version}"), "version": version}))
        .collect();
    json!({"name": name, "versions": versions, "preferredVersion": versions.first()})
}

fn list(resources: &[Arc<Resource>], group: &str, version: &str) -> Result<Value, Failure> {
    let mut listed = Vec::new();
    for one in resources
        .iter()
        .filter(|one| one.group == group && one.version == version)
    {
        listed.push(json!({
            "name": one.plural, "singularName": one.singular, "namespaced": one.namespaced,
            "kind": one.kind, "verbs": VERBS, "shortNames": one.short_names,
        }));
        let mut subresource = |name: &str, kind: &str, verbs: &[&str]| {
            listed.push(json!({
                "name": format!("{}/{name}", one.plural), "singularName": "",
                "namespaced": one.namespaced, "kind": kind, "verbs": verbs,
            }));
        };
        if one.status {
            subresource("status", &one.kind, &["get", "patch", "update"]);
        }
        if one.is("", "serviceaccounts") {
            subresource("token", "TokenRequest", &["create"]);
        }
    }
    let reviews = REVIEWS
        .iter()
        .filter(|(of, ..)| *of == group && version == "v1");
    listed.extend(reviews.map(|(_, plural, kind)| {
        json!({
            "name": plural, "singularName": kind.to_lowercase(), "namespaced": false,
            "kind": kind, "verbs": ["create"],
        })
    }));
    if listed.is_empty() {
        return Err(not_found());
    }
    Ok(json!({
        "kind": "APIResourceList", "apiVersion": "v1",
        "groupVersion": joined(group, version), "resources": listed,
    }))
}

fn joined(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

fn root(group: &str, version: &str) -> String {
    if group.is_empty() {
        format!("api/{version}")
    } else {
        format!("apis/{group}/{version}")
    }
}

fn documents(resources: &[Arc<Resource>]) -> Value {
    let paths: Map<String, Value> = resources
        .iter()
        .map(|one| {
            let root = root(&one.group, &one.version);
            let url = json!({"serverRelativeURL": format!("/openapi/v3/{root}")});
            (root, url)
        })
        .collect();
    json!({"paths": paths})
}

fn document(resources: &[Arc<Resource>], group: &str, version: &str) -> Value {
    let of = resources
        .iter()
        .filter(|one| one.group == group && one.version == version);
    let (mut paths, mut schemas) = (Map::new(), Map::new());
    for one in of {
        let kind = json!({"group": group, "version": version, "kind": one.kind});
        let inside = if one.namespaced {
            "namespaces/{namespace}/"
        } else {
            ""
        };
        let path = format!("/{}/{inside}{}/{{name}}", root(group, version), one.plural);
        let parameter =
            |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string"}});
        let operation = json!({
            "x-kubernetes-group-version-kind": kind,
            "parameters": [parameter("dryRun"), parameter("fieldManager"), parameter("fieldValidation")],
            "responses": {},
        });
        paths.insert(path, json!({"patch": operation}));
        let schema = one.custom.as_ref().map(|custom| custom.schema.clone());
        let mut schema = schema.unwrap_or_else(|| json!({"type": "object"}));
        schema["x-kubernetes-group-version-kind"] = json!([kind]);
        let name = format!("{}.{version}.{}", one.group, one.kind);
        schemas.insert(name.trim_start_matches('.').to_owned(), schema);
    }
    json!({
        "openapi": "3.0.0", "info": {"title": "Kubernetes", "version": format!("v1.{MINOR}.0")},
        "paths": paths, "components": {"schemas": schemas},
    })
}
