//! How watches stand.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;

/// So many objects that cannot be read are named.
const NAMED: usize = 20;

/// Whether a watch follows the API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchHealth {
    /// Why it does not; `None` while it does.
    pub error: Option<String>,
    /// How often it has failed since the start.
    pub failures: u64,
    /// Objects that cannot be read, by name, and why; no more than twenty. All others are followed.
    pub unreadable: BTreeMap<String, String>,
}

/// The watches of a client. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Watches(Arc<Mutex<Vec<Named>>>);

type Named = (String, watch::Receiver<WatchHealth>);

// === impl WatchHealth ===

impl WatchHealth {
    /// An object cannot be read. True when that is news.
    pub(super) fn cannot_read(&mut self, name: &str, why: &str) -> bool {
        if self.unreadable.get(name).is_some_and(|known| known == why) {
            return false;
        }
        if self.unreadable.len() < NAMED || self.unreadable.contains_key(name) {
            self.unreadable.insert(name.to_owned(), why.to_owned());
        }
        true
    }
}

// === impl Watches ===

impl Watches {
    pub(super) fn add(&self, what: &str, health: watch::Receiver<WatchHealth>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(_, health)| health.has_changed().is_ok());
        all.push((what.to_owned(), health));
    }

    /// How each stands that goes on; those of one name are told apart by nothing else.
    pub fn health(&self) -> Vec<(String, WatchHealth)> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(_, health)| health.has_changed().is_ok());
        all.iter().map(|(what, health)| (what.clone(), health.borrow().clone())).collect()
    }
}
