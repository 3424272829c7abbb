//! The API server's own record of its requests: its audit log.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::Path,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::server::{NODE_CLAIM, Seen};

/// Names of the files.
pub(super) const POLICY: &str = "audit-policy.json";
pub(super) const LOG: &str = "audit.log";

/// Each request once it is answered, a watch when it begins; no bodies.
const RULES: &str = r#"{
  "apiVersion": "audit.k8s.io/v1",
  "kind": "Policy",
  "omitStages": ["RequestReceived"],
  "rules": [{ "level": "Metadata" }]
}
"#;
/// The API server asks itself as this user, also with no client around.
const ITSELF: &str = "system:apiserver";

/// How much of the log has been forgotten.
#[derive(Debug, Default)]
pub(super) struct Audit(Mutex<usize>);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    #[serde(rename = "auditID")]
    id: String,
    #[serde(rename = "requestURI")]
    uri: String,
    verb: String,
    user: User,
    #[serde(default)]
    user_agent: String,
    #[serde(default)]
    object_ref: Object,
    response_status: Option<Status>,
}

#[derive(Deserialize)]
struct User {
    #[serde(default)]
    username: String,
    #[serde(default)]
    extra: BTreeMap<String, Vec<String>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Object {
    resource: String,
    namespace: String,
    name: String,
    api_group: String,
    api_version: String,
    subresource: String,
}

#[derive(Deserialize)]
struct Status {
    code: u16,
}

/// Writes what is to be recorded.
pub(super) fn write_policy(directory: &Path) -> Result<()> {
    let path = directory.join(POLICY);
    fs::write(&path, RULES).with_context(|| format!("write {}", path.display()))
}

impl Audit {
    /// Requests since they were last forgotten, in the order of their answers.
    pub(super) fn requests(&self, directory: &Path) -> Result<Vec<Seen>> {
        let text = read(directory)?;
        let forgotten = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = HashSet::new();
        let mut requests = Vec::new();
        let mut at = 0;
        for line in whole(&text).split_inclusive('\n') {
            let event: Event = serde_json::from_str(line)
                .with_context(|| format!("a line of the audit log: {line}"))?;
            // A watch is recorded when it begins and again when it ends.
            let is_first = known.insert(event.id.clone());
            if is_first && at >= forgotten && event.user.username != ITSELF {
                requests.push(seen(event));
            }
            at += line.len();
        }
        Ok(requests)
    }

    pub(super) fn forget(&self, directory: &Path) -> Result<()> {
        let length = whole(&read(directory)?).len();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = length;
        Ok(())
    }
}

fn read(directory: &Path) -> Result<String> {
    let path = directory.join(LOG);
    fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

/// Without a line that is still being written.
fn whole(text: &str) -> &str {
    let end = text.rfind('\n').map_or(0, |at| at + 1);
    text.get(..end).unwrap_or_default()
}

fn seen(event: Event) -> Seen {
    let node = event.user.extra.get(NODE_CLAIM);
    let node = node.and_then(|nodes| nodes.first().cloned());
    let (path, query) = event.uri.split_once('?').unwrap_or((&event.uri, ""));
    Seen {
        user: event.user.username,
        node: node.unwrap_or_default(),
        verb: event.verb,
        group: event.object_ref.api_group,
        version: event.object_ref.api_version,
        resource: event.object_ref.resource,
        subresource: event.object_ref.subresource,
        namespace: event.object_ref.namespace,
        name: event.object_ref.name,
        path: path.to_owned(),
        query: query.to_owned(),
        user_agent: event.user_agent,
        status: event.response_status.map_or(0, |status| status.code),
    }
}
