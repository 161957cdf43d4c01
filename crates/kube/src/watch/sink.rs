//! Where watches put what they see.

use std::{collections::BTreeMap, future::Future, time::Instant};

use tokio::sync::{mpsc, watch};

use crate::Mirror;

/// Takes what a watch sees: a list is `begin`, every object, `end`.
pub(super) trait Sink<O>: Send {
    /// A list begins; one that had begun before counts no more.
    fn begin(&mut self) -> impl Future<Output = ()> + Send;
    /// The object is this now.
    fn set(&mut self, object: O) -> impl Future<Output = ()> + Send;
    /// There is no such object.
    fn remove(&mut self, object: O) -> impl Future<Output = ()> + Send;
    /// That was the list.
    fn end(&mut self) -> impl Future<Output = ()> + Send;
}

/// Keeps a mirror.
pub(super) struct Mirrored<O, K, V> {
    mirror: watch::Sender<Mirror<K, V>>,
    convert: fn(&O) -> (K, V),
    /// The list that is being read.
    list: Option<BTreeMap<K, V>>,
}

/// Passes everything on.
pub(super) struct Passed<O, E> {
    events: mpsc::Sender<(Instant, E)>,
    into: Into<O, E>,
}

/// Objects to events.
pub(super) struct Into<O, E> {
    pub(super) begin: fn() -> E,
    pub(super) set: fn(O) -> E,
    pub(super) remove: fn(O) -> E,
    pub(super) end: fn() -> E,
}

// === impl Mirrored ===

impl<O, K, V> Mirrored<O, K, V> {
    pub(super) fn new(mirror: watch::Sender<Mirror<K, V>>, convert: fn(&O) -> (K, V)) -> Self {
        Self { mirror, convert, list: None }
    }
}

impl<O, K, V> Sink<O> for Mirrored<O, K, V>
where
    O: Send,
    K: Ord + Send + Sync,
    V: PartialEq + Send + Sync,
{
    async fn begin(&mut self) {
        self.list = Some(BTreeMap::new());
    }

    async fn set(&mut self, object: O) {
        let (key, value) = (self.convert)(&object);
        match &mut self.list {
            Some(list) => drop(list.insert(key, value)),
            None => drop(self.mirror.send_if_modified(|mirror| mirror.set(key, value))),
        }
    }

    async fn remove(&mut self, object: O) {
        let (key, _) = (self.convert)(&object);
        self.mirror.send_if_modified(|mirror| mirror.remove(&key));
    }

    async fn end(&mut self) {
        let list = self.list.take().unwrap_or_default();
        self.mirror.send_if_modified(|mirror| mirror.replace(list));
    }
}

// === impl Passed ===

impl<O, E> Passed<O, E> {
    pub(super) fn new(events: mpsc::Sender<(Instant, E)>, into: Into<O, E>) -> Self {
        Self { events, into }
    }

    async fn pass(&self, event: E) {
        // Nobody listens any more when the process ends.
        let _ = self.events.send((Instant::now(), event)).await;
    }
}

impl<O: Send, E: Send> Sink<O> for Passed<O, E> {
    async fn begin(&mut self) {
        self.pass((self.into.begin)()).await;
    }

    async fn set(&mut self, object: O) {
        self.pass((self.into.set)(object)).await;
    }

    async fn remove(&mut self, object: O) {
        self.pass((self.into.remove)(object)).await;
    }

    async fn end(&mut self) {
        self.pass((self.into.end)()).await;
    }
}
