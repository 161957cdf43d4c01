//! A kind of object, as the API last told it.

use std::collections::BTreeMap;

/// Objects by key: the last known ones while the API is away, none before the first list.
#[derive(Clone, Debug)]
pub struct Mirror<K, V> {
    objects: BTreeMap<K, V>,
    synced: bool,
}

// === impl Mirror ===

impl<K, V> Default for Mirror<K, V> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), synced: false }
    }
}

impl<K: Ord, V: PartialEq> Mirror<K, V> {
    /// This is all there is. True when readers see something else than before.
    pub fn replace(&mut self, objects: BTreeMap<K, V>) -> bool {
        let news = !self.synced || self.objects != objects;
        self.synced = true;
        self.objects = objects;
        news
    }

    /// The object is this now. True when readers see something else than before.
    pub fn set(&mut self, key: K, value: V) -> bool {
        if self.objects.get(&key) == Some(&value) {
            return false;
        }
        self.objects.insert(key, value);
        true
    }

    /// There is no such object. True when readers see something else than before.
    pub fn remove(&mut self, key: &K) -> bool {
        self.objects.remove(key).is_some()
    }

    /// All objects by key.
    pub fn objects(&self) -> &BTreeMap<K, V> {
        &self.objects
    }

    /// A whole list has been seen.
    pub fn is_synced(&self) -> bool {
        self.synced
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_first_list_is_news_and_the_second_is_not() {
        let mut mirror = Mirror::<&str, u8>::default();
        assert!(!mirror.is_synced());
        assert!(mirror.replace(BTreeMap::new()));
        assert!(mirror.is_synced());
        assert!(!mirror.replace(BTreeMap::new()));
    }

    #[test]
    fn what_vanished_while_the_watch_was_broken_is_gone_after_the_list() {
        let mut mirror = Mirror::default();
        mirror.replace(BTreeMap::from([("a", 1), ("b", 2)]));
        assert!(mirror.replace(BTreeMap::from([("b", 2)])));
        assert_eq!(mirror.objects(), &BTreeMap::from([("b", 2)]));
    }

    #[test]
    fn what_changes_nothing_is_no_news() {
        let mut mirror = Mirror::default();
        assert!(mirror.set("a", 1));
        assert!(!mirror.set("a", 1));
        assert!(mirror.set("a", 2));
        assert!(mirror.remove(&"a"));
        assert!(!mirror.remove(&"a"));
    }
}
