//! The objects, in memory: one collection for each resource, one version counter for all.
//!
//! A collection keeps its objects and its last changes together under one lock, so that what a list shows and
//! what a watch from that list's version reports always fit. Objects are shared and serialised once.

mod collection;
mod index;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use bytes::Bytes;
use serde_json::Value;

pub(crate) use collection::{Change, Collection, Event};
pub(crate) use index::{Index, Reference};

/// Namespace (empty for cluster-wide objects) and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn new(namespace: impl Into<String>, name: impl Into<String>) -> Key {
        Key { namespace: namespace.into(), name: name.into() }
    }

    pub(crate) fn of(object: &Value) -> Key {
        let metadata = &object["metadata"];
        Key::new(
            metadata["namespace"].as_str().unwrap_or_default(),
            metadata["name"].as_str().unwrap_or_default(),
        )
    }
}

/// An object as it was at one version; never changed.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) value: Value,
    pub(crate) version: u64,
    json: OnceLock<Bytes>,
}

impl Object {
    fn new(value: Value, version: u64) -> Arc<Object> {
        Arc::new(Object { value, version, json: OnceLock::new() })
    }

    /// The same state, said to be of another version.
    pub(crate) fn at(&self, version: u64) -> Arc<Object> {
        let mut value = self.value.clone();
        if let Some(metadata) = value["metadata"].as_object_mut() {
            metadata.insert("resourceVersion".to_owned(), Value::String(version.to_string()));
        }
        Object::new(value, version)
    }

    /// What a request would have stored: for dry runs.
    pub(crate) fn unstored(value: Value) -> Arc<Object> {
        Object::new(value, 0)
    }

    /// The object as JSON.
    pub(crate) fn json(&self) -> &Bytes {
        self.json.get_or_init(|| Bytes::from(self.value.to_string()))
    }
}

/// Why a write did not happen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Refusal {
    /// There is such an object already.
    Exists,
    /// There is no such object.
    Missing,
    /// It is not at the version that the writer saw.
    Stale,
}

/// All collections.
#[derive(Debug)]
pub(crate) struct Store {
    version: AtomicU64,
    history: usize,
    collections: RwLock<HashMap<String, Arc<Collection>>>,
    index: Mutex<Index>,
}

impl Store {
    /// `history`: how many changes each collection remembers for watches.
    pub(crate) fn new(history: usize) -> Store {
        Store { version: AtomicU64::new(1), history, collections: RwLock::default(), index: Mutex::default() }
    }

    /// The version of the last write.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::SeqCst)
    }

    pub(crate) fn collection(&self, storage: &str) -> Arc<Collection> {
        let collections = self.collections.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(collection) = collections.get(storage) {
            return collection.clone();
        }
        drop(collections);
        let mut collections = self.collections.write().unwrap_or_else(PoisonError::into_inner);
        collections
            .entry(storage.to_owned())
            .or_insert_with(|| Arc::new(Collection::new(storage, self.history)))
            .clone()
    }

    /// The collection if anything was ever asked of it.
    pub(crate) fn collections(&self) -> Vec<Arc<Collection>> {
        self.collections.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub(crate) fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, storage: &str, key: &Key) -> Option<Arc<Object>> {
        self.collection(storage).get(key)
    }

    pub(crate) fn insert(&self, storage: &str, key: Key, value: Value) -> Result<Arc<Object>, Refusal> {
        self.collection(storage).write(self, key, None, Some(value))
    }

    /// Replaces the object if it is still at `version`.
    pub(crate) fn replace(
        &self,
        storage: &str,
        key: Key,
        version: u64,
        value: Value,
    ) -> Result<Arc<Object>, Refusal> {
        self.collection(storage).write(self, key, Some(version), Some(value))
    }

    /// Removes the object if it is still at `version`; answers with its last state.
    pub(crate) fn remove(&self, storage: &str, key: Key, version: u64) -> Result<Arc<Object>, Refusal> {
        self.collection(storage).write(self, key, Some(version), None)
    }

    fn next_version(&self) -> u64 {
        self.version.fetch_add(1, Ordering::SeqCst) + 1
    }
}
