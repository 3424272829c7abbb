//! The objects of one kind: what is there, what happened of late, and who is
//! told of it.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, OnceLock},
};

use axum::body::Bytes;
use serde_json::Value;
use tokio::sync::mpsc::UnboundedSender;

use super::{failure::Failure, object};

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    Added,
    Modified,
    Deleted,
}

impl Happened {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// A change of one object.
#[derive(Debug)]
pub struct Change {
    pub version: u64,
    pub happened: Happened,
    /// As it is now; as it was last, when it is gone.
    pub object: Arc<Value>,
    pub before: Option<Arc<Value>>,
    /// The line of a watch, the same for most watchers.
    pub line: OnceLock<Bytes>,
}

/// What a watcher is told.
#[derive(Debug)]
pub enum Told {
    Change(Arc<Change>),
    /// Everything up to this version has been told.
    Bookmark(u64),
    /// It must list again; with the oldest version that is still known.
    Expired(u64),
    /// The kind is gone.
    Ended,
}

/// Which objects of a kind.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    /// Of any, when it is empty.
    pub namespace: String,
    /// `metadata.name` that a field selector asks for.
    pub name: Option<String>,
}

impl Scope {
    fn has(&self, namespace: &str, name: &str) -> bool {
        let here = self.namespace.is_empty() || self.namespace == namespace;
        here && self.name.as_deref().is_none_or(|wanted| wanted == name)
    }
}

#[derive(Debug, Default)]
pub struct Table {
    /// By namespace and name.
    pub objects: BTreeMap<(String, String), Arc<Value>>,
    pub history: VecDeque<Arc<Change>>,
    /// Changes up to this version are not in the history.
    pub forgotten: u64,
    /// Watchers of one name, by that name: most clients watch one object.
    of_one: HashMap<String, Vec<Watcher>>,
    of_all: Vec<Watcher>,
}

#[derive(Debug)]
struct Watcher {
    scope: Scope,
    told: UnboundedSender<Told>,
}

impl Table {
    pub fn select(&self, scope: &Scope) -> Vec<Arc<Value>> {
        if let Some(name) = &scope.name
            && !scope.namespace.is_empty()
        {
            let key = (scope.namespace.clone(), name.clone());
            return self.objects.get(&key).cloned().into_iter().collect();
        }
        let objects = self.objects.iter();
        objects
            .filter(|((namespace, name), _)| scope.has(namespace, name))
            .map(|(_, object)| Arc::clone(object))
            .collect()
    }

    pub fn since(&self, after: u64, scope: &Scope) -> Result<Vec<Arc<Change>>, Failure> {
        if after < self.forgotten {
            return Err(Failure::expired(after, self.forgotten));
        }
        let first = self
            .history
            .partition_point(|change| change.version <= after);
        let changes = self.history.range(first..);
        Ok(changes
            .filter(|change| {
                let object = &change.object;
                scope.has(object::namespace(object), object::name(object))
            })
            .cloned()
            .collect())
    }

    /// A last word to all who watch.
    pub fn end(&mut self, word: impl Fn() -> Told) {
        let of_one = self.of_one.drain().flat_map(|(_, watchers)| watchers);
        for watcher in of_one.chain(self.of_all.drain(..)) {
            // One that nobody listens to any more needs no word.
            drop(watcher.told.send(word()));
        }
    }

    /// Those that went away since are forgotten on the way.
    pub fn add(&mut self, scope: Scope, told: UnboundedSender<Told>) {
        let watchers = match &scope.name {
            Some(name) => self.of_one.entry(name.clone()).or_default(),
            None => &mut self.of_all,
        };
        watchers.retain(|watcher| !watcher.told.is_closed());
        watchers.push(Watcher { scope, told });
    }

    pub fn tell(&mut self, (namespace, name): &(String, String), change: &Arc<Change>) {
        let of_one = self.of_one.get_mut(name).into_iter();
        for watchers in of_one.chain([&mut self.of_all]) {
            watchers.retain(|watcher| {
                if watcher.scope.has(namespace, name) {
                    watcher.told.send(Told::Change(Arc::clone(change))).is_ok()
                } else {
                    !watcher.told.is_closed()
                }
            });
        }
    }
}
