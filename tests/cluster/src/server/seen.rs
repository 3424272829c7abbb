//! The log of requests.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a token says of the node that it is bound to, in the user's `extra`.
pub const NODE_CLAIM: &str = "authentication.kubernetes.io/node-name";

/// A request, as a test looks at it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    /// Empty for a token that is not good.
    pub user: String,
    /// Node that the token is bound to; empty for any other token.
    pub node: String,
    /// As rights name it: `get`, `list`, `watch`, `create`, `update`, `patch`,
    /// `delete`, `deletecollection`; for what is no resource, the method.
    pub verb: String,
    /// Empty for the core, and for what is no resource.
    pub group: String,
    /// Of the API.
    pub version: String,
    /// Plural name; empty for a path that is no resource.
    pub resource: String,
    /// `status` and the like.
    pub subresource: String,
    /// Empty for all, and for what has none.
    pub namespace: String,
    /// Also of a list or watch that selects one name.
    pub name: String,
    /// Without the query.
    pub path: String,
    /// As it was sent.
    pub query: String,
    /// As the client calls itself.
    pub user_agent: String,
    /// Of the answer; 0 while there is none, and for ever where the connection
    /// was closed. A watch has it when it begins.
    pub status: u16,
}

/// Requests since they were last forgotten.
#[derive(Debug, Default)]
pub struct Log(Mutex<Requests>);

#[derive(Debug, Default)]
struct Requests {
    /// How many have been forgotten.
    before: usize,
    seen: Vec<Seen>,
}

impl Log {
    /// Returns the number under which the answer is noted.
    pub fn came(&self, seen: Seen) -> usize {
        let mut requests = self.lock();
        requests.seen.push(seen);
        requests.before + requests.seen.len() - 1
    }

    pub fn answered(&self, number: usize, status: u16) {
        let mut requests = self.lock();
        let at = number.checked_sub(requests.before);
        if let Some(seen) = at.and_then(|at| requests.seen.get_mut(at)) {
            seen.status = status;
        }
    }

    pub fn all(&self) -> Vec<Seen> {
        self.lock().seen.clone()
    }

    /// How many came, those that were forgotten as well.
    pub fn count(&self) -> usize {
        let requests = self.lock();
        requests.before + requests.seen.len()
    }

    pub fn forget(&self) {
        let mut requests = self.lock();
        requests.before += requests.seen.len();
        requests.seen.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Requests> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
