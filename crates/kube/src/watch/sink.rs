//! Where watches put what they see.

use std::{collections::BTreeMap, future::Future, time::Instant};

use tokio::sync::watch;
use weft_model::services::Event;

use super::{Events, ServiceEvents};
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
    events: Events<E>,
    into: Into<O, E>,
}

/// Passes everything on to who hears of all, and what is ours to who hears of that.
pub(super) struct Sorted<O> {
    events: ServiceEvents,
    into: Into<O, Event>,
    is_ours: fn(&O) -> bool,
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
    pub(super) fn new(events: Events<E>, into: Into<O, E>) -> Self {
        Self { events, into }
    }
}

impl<O: Send, E: Send> Sink<O> for Passed<O, E> {
    async fn begin(&mut self) {
        pass(&self.events, (self.into.begin)()).await;
    }

    async fn set(&mut self, object: O) {
        pass(&self.events, (self.into.set)(object)).await;
    }

    async fn remove(&mut self, object: O) {
        pass(&self.events, (self.into.remove)(object)).await;
    }

    async fn end(&mut self) {
        pass(&self.events, (self.into.end)()).await;
    }
}

// === impl Sorted ===

impl<O> Sorted<O> {
    pub(super) fn new(events: ServiceEvents, into: Into<O, Event>, is_ours: fn(&O) -> bool) -> Self {
        Self { events, into, is_ours }
    }

    async fn pass(&self, event: Event) {
        if let Some(all) = &self.events.all {
            pass(all, event.clone()).await;
        }
        pass(&self.events.served, event).await;
    }
}

impl<O: Send> Sink<O> for Sorted<O> {
    async fn begin(&mut self) {
        self.pass((self.into.begin)()).await;
    }

    async fn set(&mut self, object: O) {
        let is_ours = (self.is_ours)(&object);
        let event = (self.into.set)(object);
        // It may have been ours before.
        let served = if is_ours { Some(event.clone()) } else { gone(&event) };
        if let Some(all) = &self.events.all {
            pass(all, event).await;
        }
        if let Some(event) = served {
            pass(&self.events.served, event).await;
        }
    }

    async fn remove(&mut self, object: O) {
        self.pass((self.into.remove)(object)).await;
    }

    async fn end(&mut self) {
        self.pass((self.into.end)()).await;
    }
}

/// That what the event tells of is not there.
fn gone(event: &Event) -> Option<Event> {
    match event {
        Event::Service(service) => Some(Event::ServiceGone(service.key.clone())),
        Event::Slice(slice) => Some(Event::SliceGone(slice.key.clone())),
        _ => None,
    }
}

async fn pass<E>(events: &Events<E>, event: E) {
    // Nobody listens any more when the process ends.
    let _ = events.send((Instant::now(), event)).await;
}
