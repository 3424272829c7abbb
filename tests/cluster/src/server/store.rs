//! The objects, one counter for all versions, and who is told of changes.
//!
//! Nobody holds the lock while anything is decided: a writer reads, decides, and
//! swaps what it read for what it made of it, or begins again when somebody was
//! faster. So admission may read the store too.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::{
    failure::Failure,
    object::{self, text},
    resource::{self, Place, Resource},
    table::{Change, Happened, Scope, Table, Told},
};

/// Direct access to the objects, past authorization, validation and admission.
#[derive(Debug, Clone)]
pub struct Store(Arc<Mutex<Inner>>);

/// Somebody else changed the object in between.
#[derive(Debug, Clone, Copy)]
pub struct Raced;

/// A watch that has begun.
#[derive(Debug)]
pub struct Watch {
    /// Changes since the version that was asked for.
    pub past: Vec<Arc<Change>>,
    /// What comes.
    pub told: UnboundedReceiver<Told>,
    /// The other end, to place a bookmark after what was told.
    bookmarks: UnboundedSender<Told>,
    store: Store,
}

impl Watch {
    /// Places a bookmark behind everything that has been told by now.
    pub fn bookmark(&self) {
        let inner = self.store.lock();
        let version = inner.version;
        // Fails only if the other end, which is here as well, were gone.
        drop(self.bookmarks.send(Told::Bookmark(version)));
    }
}

#[derive(Debug)]
struct Inner {
    version: u64,
    /// Watches from before this version have to begin again.
    compacted: u64,
    window: usize,
    tables: HashMap<Place, Table>,
    resources: BTreeMap<(String, String, String), Arc<Resource>>,
}

type Resources = Vec<Arc<Resource>>;

impl Store {
    /// With the namespaces and roles that every cluster has. `window` changes of
    /// each kind are remembered for watches.
    pub(super) fn new(window: usize) -> Self {
        let resources = resource::built_in().into_iter();
        let inner = Inner {
            version: 1,
            compacted: 0,
            window,
            tables: HashMap::new(),
            resources: resources.map(|one| (key(&one), Arc::new(one))).collect(),
        };
        let store = Self(Arc::new(Mutex::new(inner)));
        for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
            let namespace = json!({
                "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
            });
            store.put("", "namespaces", "", name, namespace);
        }
        let everything = json!({"rules": [
            {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
            {"nonResourceURLs": ["*"], "verbs": ["*"]},
        ]});
        let rbac = "rbac.authorization.k8s.io";
        store.put(rbac, "clusterroles", "", "cluster-admin", everything);
        store
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The version of the last change.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.lock().version
    }

    /// An object; `namespace` is empty for what has none.
    #[must_use]
    pub fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let found = self.read(&place(group, plural), namespace, name)?;
        Some(Value::clone(&found))
    }

    /// All objects of a kind, in all namespaces.
    #[must_use]
    pub fn list(&self, group: &str, plural: &str) -> Vec<Value> {
        let (objects, _) = self.select(&place(group, plural), &Scope::default());
        objects.iter().map(|object| Value::clone(object)).collect()
    }

    /// Creates or replaces an object, with a new version; the rest of what the
    /// server fills in is kept, or made up where it is missing. Returns what is
    /// stored.
    ///
    /// # Panics
    ///
    /// When there is no such kind.
    pub fn put(
        &self,
        group: &str,
        plural: &str,
        namespace: &str,
        name: &str,
        object: Value,
    ) -> Value {
        loop {
            let before = self.read(&place(group, plural), namespace, name);
            let mut object = object.clone();
            self.complete(group, plural, namespace, name, &mut object);
            if let Some(before) = &before {
                object::keep(&mut object, before, &["uid", "creationTimestamp"])
                    .expect("an object with metadata");
            }
            if let Ok(stored) = self.swap(
                &place(group, plural),
                namespace,
                name,
                before.as_ref(),
                Some(object),
            ) {
                return Value::clone(&stored);
            }
        }
    }

    /// Merges a patch into an object, with a new version even where it changes
    /// nothing. Returns what is stored.
    ///
    /// # Panics
    ///
    /// When there is no such object.
    pub fn patch(
        &self,
        group: &str,
        plural: &str,
        namespace: &str,
        name: &str,
        patch: &Value,
    ) -> Value {
        loop {
            let before = self
                .read(&place(group, plural), namespace, name)
                .unwrap_or_else(|| panic!("no {plural}.{group} {namespace}/{name}"));
            let mut object = Value::clone(&before);
            json_patch::merge(&mut object, patch);
            let place = place(group, plural);
            if let Ok(stored) = self.swap(&place, namespace, name, Some(&before), Some(object)) {
                return Value::clone(&stored);
            }
        }
    }

    /// Takes an object away, whatever finalizers it has. Returns what it was.
    pub fn delete(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        loop {
            let place = place(group, plural);
            let before = self.read(&place, namespace, name)?;
            if let Ok(last) = self.swap(&place, namespace, name, Some(&before), None) {
                return Some(Value::clone(&last));
            }
        }
    }

    /// What every stored object has, where it is missing.
    fn complete(&self, group: &str, plural: &str, namespace: &str, name: &str, object: &mut Value) {
        let resources = self.resources();
        let resource = resources
            .iter()
            .find(|one| one.is(group, plural))
            .unwrap_or_else(|| panic!("no kind {plural}.{group}"));
        let map = object.as_object_mut().expect("an object");
        map.entry("apiVersion")
            .or_insert_with(|| resource.api_version().into());
        map.entry("kind")
            .or_insert_with(|| resource.kind.clone().into());
        let metadata = object::metadata(object).expect("an object with metadata");
        metadata.insert("name".to_owned(), name.into());
        if !namespace.is_empty() {
            metadata.insert("namespace".to_owned(), namespace.into());
        }
        metadata
            .entry("uid")
            .or_insert_with(|| uuid::Uuid::new_v4().to_string().into());
        metadata
            .entry("creationTimestamp")
            .or_insert_with(|| object::now().into());
        if resource.generation {
            metadata.entry("generation").or_insert_with(|| 1.into());
        }
    }

    /// The kind at this version, if there is one now.
    pub(super) fn resource(
        &self,
        group: &str,
        version: &str,
        plural: &str,
    ) -> Option<Arc<Resource>> {
        let key = (group.to_owned(), version.to_owned(), plural.to_owned());
        self.lock().resources.get(&key).cloned()
    }

    /// All kinds, sorted by group, version and plural.
    pub(super) fn resources(&self) -> Resources {
        self.lock().resources.values().cloned().collect()
    }

    pub(super) fn read(&self, place: &Place, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let inner = self.lock();
        let table = inner.tables.get(place)?;
        let key = (namespace.to_owned(), name.to_owned());
        table.objects.get(&key).cloned()
    }

    /// Objects, and the version that they are of.
    pub(super) fn select(&self, place: &Place, scope: &Scope) -> (Vec<Arc<Value>>, u64) {
        let inner = self.lock();
        let Some(table) = inner.tables.get(place) else {
            return (Vec::new(), inner.version);
        };
        (table.select(scope), inner.version)
    }

    /// Replaces what was read by what is to be there; nothing is not there.
    /// Returns what is stored, or what was there last.
    pub(super) fn swap(
        &self,
        place: &Place,
        namespace: &str,
        name: &str,
        before: Option<&Arc<Value>>,
        after: Option<Value>,
    ) -> Result<Arc<Value>, Raced> {
        let mut inner = self.lock();
        let key = (namespace.to_owned(), name.to_owned());
        let table = inner.tables.entry(place.clone()).or_default();
        let same = match (table.objects.get(&key), before) {
            (Some(there), Some(before)) => Arc::ptr_eq(there, before),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if !same {
            return Err(Raced);
        }
        let stored = inner.commit(place, key, before, after);
        if *place == Place::new("apiextensions.k8s.io", "customresourcedefinitions") {
            inner.define(name, before.map(|before| &**before));
        }
        Ok(stored)
    }

    /// Begins to watch, after a version or from now on.
    ///
    /// # Errors
    ///
    /// When changes since that version have been forgotten.
    pub(super) fn watch(
        &self,
        place: &Place,
        scope: &Scope,
        after: Option<u64>,
    ) -> Result<Watch, Failure> {
        let mut inner = self.lock();
        let compacted = inner.compacted;
        let table = inner.tables.entry(place.clone()).or_default();
        let past = match after {
            Some(after) if after < compacted => return Err(Failure::expired(after, compacted)),
            Some(after) => table.since(after, scope)?,
            None => Vec::new(),
        };
        let (sender, told) = unbounded_channel();
        let bookmarks = sender.clone();
        table.add(scope.clone(), sender);
        Ok(Watch {
            past,
            told,
            bookmarks,
            store: self.clone(),
        })
    }

    /// Lists and begins to watch at the same moment.
    pub(super) fn list_and_watch(
        &self,
        place: &Place,
        scope: &Scope,
    ) -> (Vec<Arc<Value>>, u64, Watch) {
        let mut inner = self.lock();
        let version = inner.version;
        let table = inner.tables.entry(place.clone()).or_default();
        let (sender, told) = unbounded_channel();
        let bookmarks = sender.clone();
        let objects = table.select(scope);
        table.add(scope.clone(), sender);
        let watch = Watch {
            past: Vec::new(),
            told,
            bookmarks,
            store: self.clone(),
        };
        (objects, version, watch)
    }

    /// Forgets all history: each watch from before now has to begin again.
    pub(super) fn compact(&self) {
        let mut inner = self.lock();
        // So that a version given out before is older than this.
        inner.version += 1;
        let version = inner.version;
        inner.compacted = version;
        for table in inner.tables.values_mut() {
            table.history.clear();
            table.end(|| Told::Expired(version));
        }
    }
}

impl Inner {
    fn commit(
        &mut self,
        place: &Place,
        key: (String, String),
        before: Option<&Arc<Value>>,
        after: Option<Value>,
    ) -> Arc<Value> {
        self.version += 1;
        let (version, window) = (self.version, self.window);
        let happened = match (before, &after) {
            (None, _) => Happened::Added,
            (Some(_), Some(_)) => Happened::Modified,
            (Some(_), None) => Happened::Deleted,
        };
        let table = self.tables.entry(place.clone()).or_default();
        let gone = after.is_none();
        let mut object = after
            .or_else(|| before.map(|before| Value::clone(before)))
            .unwrap_or_default();
        object["metadata"]["resourceVersion"] = version.to_string().into();
        let object = Arc::new(object);
        if gone {
            table.objects.remove(&key);
        } else {
            table.objects.insert(key.clone(), Arc::clone(&object));
        }
        let change = Arc::new(Change {
            version,
            happened,
            object: Arc::clone(&object),
            before: before.cloned(),
            line: OnceLock::new(),
        });
        table.tell(&key, &change);
        table.history.push_back(change);
        while table.history.len() > window {
            if let Some(change) = table.history.pop_front() {
                table.forgotten = change.version;
            }
        }
        object
    }

    /// Serves what a definition defines now, and no longer what it did before.
    fn define(&mut self, name: &str, before: Option<&Value>) {
        let definitions = Place::new("apiextensions.k8s.io", "customresourcedefinitions");
        let now = self
            .tables
            .get(&definitions)
            .and_then(|table| table.objects.get(&(String::new(), name.to_owned())))
            .cloned();
        for gone in before.into_iter().flat_map(Resource::defined_by) {
            self.resources.remove(&key(&gone));
            if now.is_none() {
                self.clear(&gone.place());
            }
        }
        for one in now.iter().flat_map(|now| Resource::defined_by(now)) {
            self.resources.insert(key(&one), Arc::new(one));
        }
    }

    /// Objects of a kind that is no more; its watches end.
    fn clear(&mut self, place: &Place) {
        let objects = match self.tables.get(place) {
            Some(table) => table.objects.clone(),
            None => BTreeMap::new(),
        };
        for (key, object) in objects {
            self.commit(place, key, Some(&object), None);
        }
        if let Some(table) = self.tables.get_mut(place) {
            table.end(|| Told::Ended);
        }
    }
}

fn place(group: &str, plural: &str) -> Place {
    match (group, plural) {
        ("events.k8s.io", "events") => Place::new("", "events"),
        (group, plural) => Place::new(group, plural),
    }
}

fn key(resource: &Resource) -> (String, String, String) {
    (
        resource.group.clone(),
        resource.version.clone(),
        resource.plural.clone(),
    )
}

/// Whether a namespace takes new objects.
pub fn open_namespace(store: &Store, namespace: &str) -> Option<bool> {
    let found = store.read(&Place::new("", "namespaces"), "", namespace)?;
    Some(text(&found, "/metadata/deletionTimestamp").is_empty())
}
