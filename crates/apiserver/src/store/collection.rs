//! The objects of one resource and their last changes.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::watch;

use super::{Key, Object, Refusal, Store};

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Change {
    Added,
    Modified,
    Deleted,
}

/// One change, as watches report it.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) change: Change,
    pub(crate) key: Key,
    /// The state after the change; of a deleted object its last.
    pub(crate) object: Arc<Object>,
    /// The state before the change.
    pub(crate) previous: Option<Arc<Object>>,
    at: Instant,
}

/// Changes older than this are forgotten once there are more than `KEPT`: histories hold whole objects.
const MEMORY: Duration = Duration::from_secs(600);
const KEPT: usize = 256;

/// The objects of one resource.
#[derive(Debug)]
pub(crate) struct Collection {
    pub(crate) storage: String,
    inner: Mutex<Inner>,
    /// The version of the last change: wakes watches.
    changed: watch::Sender<u64>,
}

#[derive(Debug)]
struct Inner {
    objects: BTreeMap<Key, Arc<Object>>,
    /// The last changes, by version.
    history: VecDeque<Arc<Event>>,
    limit: usize,
    /// Changes up to this version are forgotten.
    forgotten: u64,
}

impl Inner {
    fn forget(&mut self) {
        let old = |event: &Event| event.at.elapsed() > MEMORY;
        while self.history.len() > self.limit
            || (self.history.len() > KEPT && self.history.front().is_some_and(|event| old(event)))
        {
            if let Some(event) = self.history.pop_front() {
                self.forgotten = event.object.version;
            }
        }
    }
}

/// A part of a list.
pub(crate) struct Page {
    pub(crate) objects: Vec<Arc<Object>>,
    /// The version at which this was so.
    pub(crate) version: u64,
}

impl Collection {
    pub(super) fn new(storage: &str, limit: usize) -> Collection {
        Collection {
            storage: storage.to_owned(),
            inner: Mutex::new(Inner {
                objects: BTreeMap::new(),
                history: VecDeque::new(),
                limit: limit.max(1),
                forgotten: 0,
            }),
            changed: watch::Sender::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Arc<Object>> {
        self.lock().objects.get(key).cloned()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock().objects.is_empty()
    }

    /// Objects of a namespace, or of all; in order of their keys.
    pub(crate) fn list(&self, store: &Store, namespace: Option<&str>) -> Page {
        let inner = self.lock();
        let objects = match namespace {
            None => inner.objects.values().cloned().collect(),
            Some(namespace) => {
                let start = Key::new(namespace, "");
                inner
                    .objects
                    .range((Bound::Included(start), Bound::Unbounded))
                    .take_while(|(key, _)| key.namespace == namespace)
                    .map(|(_, object)| object.clone())
                    .collect()
            }
        };
        // Under the lock: every change to this collection up to here is in, every later one gets a higher version.
        Page { objects, version: store.version() }
    }

    /// Tells of every later change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Changes after `version`, at most `limit`, and the version up to which this is all that happened.
    ///
    /// # Errors
    /// The oldest version from which changes are known, when `version` is older.
    pub(crate) fn since(
        &self,
        store: &Store,
        version: u64,
        limit: usize,
    ) -> Result<(Vec<Arc<Event>>, u64), u64> {
        let inner = self.lock();
        if version < inner.forgotten {
            return Err(inner.forgotten);
        }
        let start = inner.history.partition_point(|event| event.object.version <= version);
        let events: Vec<_> = inner.history.range(start..).take(limit).cloned().collect();
        let reached = match events.last() {
            Some(last) if events.len() == limit => last.object.version,
            _ => store.version(),
        };
        Ok((events, reached))
    }

    /// Every change so far is forgotten: watches from before answer "too old".
    pub(crate) fn compact(&self, store: &Store) {
        let mut inner = self.lock();
        inner.history.clear();
        inner.forgotten = store.version();
    }

    /// `seen`: None to create, else the version that must be there; `value`: None to remove.
    pub(super) fn write(
        &self,
        store: &Store,
        key: Key,
        seen: Option<u64>,
        value: Option<Value>,
    ) -> Result<Arc<Object>, Refusal> {
        let mut inner = self.lock();
        let previous = inner.objects.get(&key).cloned();
        match (&previous, seen) {
            (Some(_), None) => return Err(Refusal::Exists),
            (None, Some(_)) => return Err(Refusal::Missing),
            (Some(object), Some(version)) if object.version != version => return Err(Refusal::Stale),
            _ => {}
        }
        let version = store.next_version();
        let change = match (&value, &previous) {
            (None, _) => Change::Deleted,
            (_, None) => Change::Added,
            _ => Change::Modified,
        };
        let mut value = match (value, &previous) {
            (Some(value), _) => value,
            (None, Some(previous)) => previous.value.clone(),
            (None, None) => return Err(Refusal::Missing),
        };
        if let Some(metadata) = value["metadata"].as_object_mut() {
            metadata.insert("resourceVersion".to_owned(), Value::String(version.to_string()));
        }
        let object = Object::new(value, version);
        if change == Change::Deleted {
            inner.objects.remove(&key);
        } else {
            inner.objects.insert(key.clone(), object.clone());
        }
        store.index().note(&self.storage, &key, change, &object, previous.as_deref());
        let event = Event { change, key, object: object.clone(), previous, at: Instant::now() };
        inner.history.push_back(Arc::new(event));
        inner.forget();
        self.changed.send_replace(version);
        Ok(object)
    }
}
