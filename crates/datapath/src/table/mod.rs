//! One mechanism for every kernel table: what is wanted, what is there, what is still to be written.

pub(crate) mod array;
mod bpf;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

pub(crate) use array::{ArrayTable, BpfArray};
pub(crate) use bpf::Raw;
pub use bpf::{BpfHash, BpfLpm, BpfTableError};

/// A kernel table as a table sees it.
pub trait Store<K, V> {
    /// What can go wrong.
    type Error;

    /// Makes or replaces one entry.
    fn upsert(&mut self, key: &K, value: &V) -> Result<(), Self::Error>;

    /// Removes one entry; one that is not there is not an error.
    fn remove(&mut self, key: &K) -> Result<(), Self::Error>;

    /// Every entry that the kernel holds and that belongs to this table.
    fn dump(&mut self) -> Result<Vec<(K, V)>, Self::Error>;
}

impl<K, V, E, S: Store<K, V, Error = E> + ?Sized> Store<K, V> for Box<S> {
    type Error = E;

    fn upsert(&mut self, key: &K, value: &V) -> Result<(), E> {
        (**self).upsert(key, value)
    }

    fn remove(&mut self, key: &K) -> Result<(), E> {
        (**self).remove(key)
    }

    fn dump(&mut self) -> Result<Vec<(K, V)>, E> {
        (**self).dump()
    }
}

/// How many entries a flush or resync wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Entries made or replaced.
    pub upserted: usize,
    /// Entries removed.
    pub removed: usize,
}

impl Written {
    /// Entries written in all.
    pub fn total(self) -> usize {
        self.upserted + self.removed
    }
}

impl std::ops::AddAssign for Written {
    fn add_assign(&mut self, other: Written) {
        self.upserted += other.upserted;
        self.removed += other.removed;
    }
}

/// A kernel table: the wanted entries, a mirror of the actual ones, and the keys where the two may differ.
///
/// New and changed entries are written before old ones are removed, so that no packet finds a gap.
#[derive(Debug)]
pub struct Table<K, V, S> {
    store: S,
    desired: BTreeMap<K, V>,
    actual: BTreeMap<K, V>,
    pending: BTreeSet<K>,
}

impl<K: Ord + Clone, V: PartialEq + Clone, S: Store<K, V>> Table<K, V, S> {
    /// Takes over what the kernel holds: it is both actual and, until somebody says otherwise, desired.
    pub fn adopt(mut store: S) -> Result<Self, S::Error> {
        let actual: BTreeMap<K, V> = store.dump()?.into_iter().collect();
        Ok(Table { store, desired: actual.clone(), actual, pending: BTreeSet::new() })
    }

    /// Wants an entry.
    pub fn set(&mut self, key: K, value: V) {
        self.pending.insert(key.clone());
        self.desired.insert(key, value);
    }

    /// Wants an entry gone.
    pub fn unset(&mut self, key: &K) {
        if self.desired.remove(key).is_some() || self.actual.contains_key(key) {
            self.pending.insert(key.clone());
        }
    }

    /// Wants exactly these among the entries that `scope` accepts; others stay as they are.
    pub fn replace(&mut self, scope: impl Fn(&K, &V) -> bool, entries: BTreeMap<K, V>) {
        let old: Vec<K> = (self.desired.iter())
            .filter(|(key, value)| scope(key, value) && !entries.contains_key(key))
            .map(|(key, _)| key.clone())
            .collect();
        old.iter().for_each(|key| self.unset(key));
        for (key, value) in entries {
            if self.desired.get(&key) != Some(&value) {
                self.set(key, value);
            }
        }
    }

    /// Where the entries are written to.
    pub fn store(&mut self) -> &mut S {
        &mut self.store
    }

    /// The wanted entries.
    pub fn desired(&self) -> &BTreeMap<K, V> {
        &self.desired
    }

    /// Writes what is pending. An entry that fails stays pending; the others are written all the same, and the first
    /// error is returned.
    pub fn flush(&mut self) -> Result<Written, S::Error> {
        let mut written = Written::default();
        let mut first_error = None;
        let pending = std::mem::take(&mut self.pending);
        let (upserts, removals): (Vec<K>, Vec<K>) =
            pending.into_iter().partition(|key| self.desired.contains_key(key));
        for key in upserts {
            let Some(value) = self.desired.get(&key) else { continue };
            if self.actual.get(&key) == Some(value) {
                continue;
            }
            match self.store.upsert(&key, value) {
                Ok(()) => {
                    self.actual.insert(key, value.clone());
                    written.upserted += 1;
                }
                Err(error) => {
                    self.pending.insert(key);
                    first_error.get_or_insert(error);
                }
            }
        }
        for key in removals {
            if !self.actual.contains_key(&key) {
                continue;
            }
            match self.store.remove(&key) {
                Ok(()) => {
                    self.actual.remove(&key);
                    written.removed += 1;
                }
                Err(error) => {
                    self.pending.insert(key);
                    first_error.get_or_insert(error);
                }
            }
        }
        first_error.map_or(Ok(written), Err)
    }

    /// Forgets the mirror, reads what the kernel holds, and writes the difference.
    pub fn resync(&mut self) -> Result<Written, S::Error> {
        self.actual = self.store.dump()?.into_iter().collect();
        let differs = |key: &&K| self.actual.get(*key) != self.desired.get(*key);
        self.pending = self.desired.keys().chain(self.actual.keys()).filter(differs).cloned().collect();
        self.flush()
    }
}
