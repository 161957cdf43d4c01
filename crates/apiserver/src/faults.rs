//! Faults on demand, for tests of clients: slow answers, refused requests, broken connections and watches.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use crate::store::Store;

/// What the server does wrong, settable while it runs.
#[derive(Debug)]
pub struct Faults {
    store: Arc<Store>,
    delay: AtomicU64,
    answer: AtomicU16,
    refuse: AtomicBool,
    watches: watch::Sender<u64>,
    connections: watch::Sender<u64>,
}

impl Faults {
    pub(crate) fn new(store: Arc<Store>) -> Faults {
        Faults {
            store,
            delay: AtomicU64::new(0),
            answer: AtomicU16::new(0),
            refuse: AtomicBool::new(false),
            watches: watch::Sender::new(0),
            connections: watch::Sender::new(0),
        }
    }

    /// Every request waits this long before it is looked at; zero ends it.
    pub fn set_delay(&self, delay: Duration) {
        self.delay.store(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Every request is answered with this HTTP status (410, 429, 503, ...) until set to `None`.
    pub fn set_answer(&self, status: Option<u16>) {
        self.answer.store(status.unwrap_or(0), Ordering::Relaxed);
    }

    /// New connections are closed as soon as they are accepted; those that exist are cut.
    pub fn set_refuse_connections(&self, refuse: bool) {
        self.refuse.store(refuse, Ordering::Relaxed);
        if refuse {
            self.close_connections();
        }
    }

    /// Cuts every connection.
    pub fn close_connections(&self) {
        self.connections.send_modify(|epoch| *epoch += 1);
    }

    /// Ends every running watch, as a server does when a watch has lasted long enough.
    pub fn close_watches(&self) {
        self.watches.send_modify(|epoch| *epoch += 1);
    }

    /// Forgets all history: watches from an earlier version get 410 Gone, running ones are ended.
    pub fn forget_history(&self) {
        for collection in self.store.collections() {
            collection.compact(&self.store);
        }
        self.close_watches();
    }

    pub(crate) fn delay(&self) -> Duration {
        Duration::from_millis(self.delay.load(Ordering::Relaxed))
    }

    pub(crate) fn answer(&self) -> Option<u16> {
        Some(self.answer.load(Ordering::Relaxed)).filter(|status| *status != 0)
    }

    pub(crate) fn refuses(&self) -> bool {
        self.refuse.load(Ordering::Relaxed)
    }

    pub(crate) fn watches(&self) -> watch::Receiver<u64> {
        self.watches.subscribe()
    }

    pub(crate) fn connections(&self) -> watch::Receiver<u64> {
        self.connections.subscribe()
    }
}
