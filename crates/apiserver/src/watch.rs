//! Watches: the changes of a collection as a stream of JSON lines.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::{self, BoxStream, StreamExt};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::api::Api;
use crate::error::{ApiError, Result};
use crate::http::Call;
use crate::selector::Selector;
use crate::store::{Change, Collection, Event};
use crate::view::View;

const BOOKMARK_EVERY: Duration = Duration::from_secs(30);
/// How many changes one wake-up hands over at most.
const BATCH: usize = 256;

/// Starts a watch as the call's query asks for it.
pub(crate) fn start(api: &Arc<Api>, call: &Call, view: View) -> Result<BoxStream<'static, Bytes>> {
    let query = &call.query;
    let selector = Selector::parse(&call.resource, query.get("labelSelector"), &field_selector(call))?;
    let collection = api.store.collection(&call.resource.storage);
    let bookmarks = query.flag("allowWatchBookmarks");
    let initial = query.find("sendInitialEvents").map(|_| query.flag("sendInitialEvents"));
    if initial.is_some() && query.get("resourceVersionMatch") != "NotOlderThan" {
        return Err(ApiError::bad_request(
            "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ));
    }
    if initial.is_none() && query.find("resourceVersionMatch").is_some_and(|text| !text.is_empty()) {
        return Err(ApiError::bad_request(
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        ));
    }
    let from = version(query.get("resourceVersion"))?;
    // 30 to 60 minutes, as Kubernetes does, unless the client says otherwise.
    let limit = query.number("timeoutSeconds")?.and_then(|seconds| u64::try_from(seconds).ok());
    let limit = limit.filter(|seconds| *seconds > 0).unwrap_or(2700).min(86_400);
    let mut watcher = Watcher {
        changed: collection.subscribe(),
        closed: api.faults.watches(),
        drain: call.drain.clone(),
        api: api.clone(),
        collection,
        selector,
        namespace: (!call.namespace.is_empty()).then(|| call.namespace.clone()),
        view,
        cursor: 0,
        ready: VecDeque::new(),
        bookmarks,
        next_bookmark: Instant::now() + BOOKMARK_EVERY,
        deadline: Instant::now() + Duration::from_secs(limit),
        over: false,
    };
    let current = api.store.version();
    match (from, initial) {
        (Some(from), _) if from > current => return Err(ApiError::too_old(from, current)),
        (_, Some(true)) | (None, None) => watcher.begin_with_state(initial.is_some()),
        (None, _) => watcher.cursor = current,
        (Some(from), _) => watcher.cursor = from,
    }
    Ok(stream::unfold(watcher, |mut watcher| async move {
        let chunk = watcher.next().await?;
        Some((chunk, watcher))
    })
    .boxed())
}

/// A watch of one object by its path is a watch with a field selector.
fn field_selector(call: &Call) -> String {
    match (call.name.as_str(), call.query.get("fieldSelector")) {
        ("", fields) => fields.to_owned(),
        (name, "") => format!("metadata.name={name}"),
        (name, fields) => format!("{fields},metadata.name={name}"),
    }
}

/// `None` for "" and "0": from the state as it is.
fn version(text: &str) -> Result<Option<u64>> {
    match text {
        "" | "0" => Ok(None),
        text => text
            .parse()
            .map(Some)
            .map_err(|_| ApiError::bad_request(format!("resourceVersion: Invalid value: {text:?}"))),
    }
}

struct Watcher {
    api: Arc<Api>,
    collection: Arc<Collection>,
    selector: Selector,
    namespace: Option<String>,
    view: View,
    changed: watch::Receiver<u64>,
    closed: watch::Receiver<u64>,
    drain: watch::Receiver<bool>,
    /// Changes up to this version are sent.
    cursor: u64,
    ready: VecDeque<Bytes>,
    bookmarks: bool,
    next_bookmark: Instant,
    deadline: Instant,
    over: bool,
}

impl Watcher {
    fn begin_with_state(&mut self, mark_end: bool) {
        let page = self.collection.list(&self.api.store, self.namespace.as_deref());
        self.cursor = page.version;
        let mut chunk = BytesMut::new();
        for object in page.objects.iter().filter(|object| self.selector.matches(&object.value)) {
            line(&mut chunk, "ADDED", &self.view.one(object));
        }
        if mark_end && self.bookmarks {
            chunk.put(self.bookmark(true));
        }
        if !chunk.is_empty() {
            self.ready.push_back(chunk.freeze());
        }
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                return Some(chunk);
            }
            if self.over {
                return None;
            }
            self.changed.borrow_and_update();
            match self.collection.since(&self.api.store, self.cursor, BATCH) {
                Err(oldest) => {
                    self.over = true;
                    let mut chunk = BytesMut::new();
                    let status = ApiError::too_old(self.cursor, oldest).status().to_string();
                    line(&mut chunk, "ERROR", status.as_bytes());
                    return Some(chunk.freeze());
                }
                Ok((events, version)) => {
                    self.cursor = version;
                    self.render(&events);
                    if !events.is_empty() {
                        continue;
                    }
                }
            }
            self.wait().await;
        }
    }

    /// Until something changes, a bookmark is due, or the watch must end.
    async fn wait(&mut self) {
        let wake = if self.bookmarks { self.next_bookmark.min(self.deadline) } else { self.deadline };
        let due = tokio::select! {
            changed = self.changed.changed() => {
                self.over = changed.is_err();
                false
            }
            _ = self.closed.changed() => {
                self.over = true;
                false
            }
            _ = self.drain.wait_for(|drain| *drain) => {
                self.over = true;
                false
            }
            () = tokio::time::sleep_until(wake) => true,
        };
        if due {
            self.over = Instant::now() >= self.deadline;
            if self.bookmarks {
                let bookmark = self.bookmark(false);
                self.ready.push_back(bookmark);
                self.next_bookmark = Instant::now() + BOOKMARK_EVERY;
            }
        }
    }

    fn render(&mut self, events: &[Arc<Event>]) {
        let mut chunk = BytesMut::new();
        for event in events {
            if self.namespace.as_ref().is_some_and(|namespace| *namespace != event.key.namespace) {
                continue;
            }
            let now = event.change != Change::Deleted && self.selector.matches(&event.object.value);
            let before = event.previous.as_ref().filter(|object| self.selector.matches(&object.value));
            match (before, now) {
                (None, false) => {}
                (None, true) => line(&mut chunk, "ADDED", &self.view.one(&event.object)),
                (Some(_), true) => line(&mut chunk, "MODIFIED", &self.view.one(&event.object)),
                (Some(_), false) if event.change == Change::Deleted => {
                    line(&mut chunk, "DELETED", &self.view.one(&event.object));
                }
                // It left what is selected: its last selected state, at the version of this change.
                (Some(before), false) => {
                    let left = before.at(event.object.version);
                    line(&mut chunk, "DELETED", &self.view.one(&left));
                }
            }
        }
        if !chunk.is_empty() {
            self.ready.push_back(chunk.freeze());
        }
    }

    fn bookmark(&self, initial_end: bool) -> Bytes {
        let resource = &self.view.resource;
        let mut metadata = json!({"resourceVersion": self.cursor.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = self.view.bookmark(&resource.api_version(), &resource.kind, metadata);
        let mut chunk = BytesMut::new();
        line(&mut chunk, "BOOKMARK", Value::to_string(&object).as_bytes());
        chunk.freeze()
    }
}

fn line(chunk: &mut BytesMut, kind: &str, object: &[u8]) {
    chunk.reserve(object.len() + kind.len() + 24);
    chunk.put_slice(b"{\"type\":\"");
    chunk.put_slice(kind.as_bytes());
    chunk.put_slice(b"\",\"object\":");
    chunk.put_slice(object);
    chunk.put_slice(b"}\n");
}
