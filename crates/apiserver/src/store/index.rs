//! What must be found without looking at every object: by uid, by owner, by namespace.

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;

use super::{Change, Key, Object};

/// Where an object lives.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Reference {
    pub(crate) storage: String,
    pub(crate) key: Key,
}

/// Kept in step with the collections by every write.
#[derive(Debug, Default)]
pub(crate) struct Index {
    uids: HashMap<String, Reference>,
    dependents: HashMap<String, BTreeSet<Reference>>,
    namespaces: HashMap<String, BTreeSet<Reference>>,
}

impl Index {
    /// The object with this uid, if it is there.
    pub(crate) fn by_uid(&self, uid: &str) -> Option<Reference> {
        self.uids.get(uid).cloned()
    }

    /// Objects that name this uid among their owners.
    pub(crate) fn dependents(&self, uid: &str) -> Vec<Reference> {
        self.dependents.get(uid).into_iter().flatten().cloned().collect()
    }

    pub(crate) fn has_dependents(&self, uid: &str) -> bool {
        self.dependents.contains_key(uid)
    }

    /// Everything in a namespace.
    pub(crate) fn in_namespace(&self, namespace: &str) -> Vec<Reference> {
        self.namespaces.get(namespace).into_iter().flatten().cloned().collect()
    }

    pub(crate) fn is_empty(&self, namespace: &str) -> bool {
        !self.namespaces.contains_key(namespace)
    }

    pub(super) fn note(
        &mut self,
        storage: &str,
        key: &Key,
        change: Change,
        object: &Object,
        previous: Option<&Object>,
    ) {
        let reference = Reference { storage: storage.to_owned(), key: key.clone() };
        let before = previous.map(|object| owners(&object.value)).unwrap_or_default();
        let after = if change == Change::Deleted { Vec::new() } else { owners(&object.value) };
        for uid in before.iter().filter(|uid| !after.contains(uid)) {
            drop_from(&mut self.dependents, uid, &reference);
        }
        for uid in after.iter().filter(|uid| !before.contains(uid)) {
            self.dependents.entry((*uid).to_owned()).or_default().insert(reference.clone());
        }
        let uid = object.value["metadata"]["uid"].as_str().unwrap_or_default();
        match change {
            Change::Modified => {}
            Change::Added => {
                self.uids.insert(uid.to_owned(), reference.clone());
                if !key.namespace.is_empty() {
                    self.namespaces.entry(key.namespace.clone()).or_default().insert(reference);
                }
            }
            Change::Deleted => {
                self.uids.remove(uid);
                if !key.namespace.is_empty() {
                    drop_from(&mut self.namespaces, &key.namespace, &reference);
                }
            }
        }
    }
}

fn drop_from(map: &mut HashMap<String, BTreeSet<Reference>>, name: &str, reference: &Reference) {
    if let Some(set) = map.get_mut(name) {
        set.remove(reference);
        if set.is_empty() {
            map.remove(name);
        }
    }
}

fn owners(object: &Value) -> Vec<&str> {
    object["metadata"]["ownerReferences"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|owner| owner["uid"].as_str())
        .collect()
}
