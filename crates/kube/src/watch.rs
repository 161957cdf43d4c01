//! Watches that keep a mirror equal to what the API says, for as long as the process lives.
//!
//! List, then watch from there. What ends a watch decides how it goes on: a connection that closed is opened again where
//! it ended; a version that expired (410) is listed anew; a server that says "too many" (429) is given the time that it
//! asks for; anything else is tried again, ever more slowly. Meanwhile readers keep what was last known.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

use futures::{TryStreamExt, pin_mut};
use k8s_openapi::api::core::v1 as core;
use kube::{
    Api, ResourceExt,
    api::{ListParams, WatchEvent, WatchParams},
    core::Status,
};
use serde::de::DeserializeOwned;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use weft_model::{Node, NodeName, Pod, PodKey};

use crate::{ApiError, Client, Mirror, client::WATCH_SECONDS, convert};

/// Whether a watch follows the API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchHealth {
    /// Why it does not; `None` while it does.
    pub error: Option<String>,
    /// How often it has failed since the start.
    pub failures: u64,
}

/// Objects a request; a list of more takes several.
const PAGE: u32 = 500;
/// Waits between attempts grow from the first to the longest, each twice the one before.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// A watch that the server closes sooner than this was no use, and opening the next is to wait.
const SHORT_LIVED: Duration = Duration::from_millis(500);

/// Keeps `mirror` equal to the cluster's Nodes. Does not return; drop it to end.
pub async fn watch_nodes(
    client: Client,
    mirror: watch::Sender<Mirror<NodeName, Node>>,
    health: watch::Sender<WatchHealth>,
) {
    let convert = |object: &core::Node| {
        let node = convert::node(object);
        (node.name.clone(), node)
    };
    Follower::new("Nodes", Api::all(client.kube), None, convert, mirror, health).run().await;
}

/// Keeps `mirror` equal to the Pods that are bound to `node`. Does not return; drop it to end.
pub async fn watch_pods(
    client: Client,
    node: NodeName,
    mirror: watch::Sender<Mirror<PodKey, Pod>>,
    health: watch::Sender<WatchHealth>,
) {
    let convert = |object: &core::Pod| {
        let pod = convert::pod(object);
        (pod.key.clone(), pod)
    };
    let own = Some(format!("spec.nodeName={node}"));
    Follower::new("Pods", Api::all(client.kube), own, convert, mirror, health).run().await;
}

struct Follower<O, K, V> {
    what: &'static str,
    api: Api<O>,
    field_selector: Option<String>,
    convert: fn(&O) -> (K, V),
    mirror: watch::Sender<Mirror<K, V>>,
    health: watch::Sender<WatchHealth>,
    wait: Duration,
}

/// Why a watch ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    /// The version to go on from is too old.
    #[error("version expired")]
    Expired,
    #[error("closed by the server at once")]
    ClosedAtOnce,
    #[error("no sign of life for {0:?}")]
    Silent(Duration),
    #[error(transparent)]
    Request(#[from] ApiError),
}

// === impl Follower ===

impl<O, K, V> Follower<O, K, V>
where
    O: kube::Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    K: Ord,
    V: PartialEq,
{
    fn new(
        what: &'static str,
        api: Api<O>,
        field_selector: Option<String>,
        convert: fn(&O) -> (K, V),
        mirror: watch::Sender<Mirror<K, V>>,
        health: watch::Sender<WatchHealth>,
    ) -> Self {
        Self { what, api, field_selector, convert, mirror, health, wait: FIRST_WAIT }
    }

    async fn run(mut self) {
        loop {
            match self.list().await {
                Ok(version) => self.watch_from(version).await,
                Err(error) => self.failed(ApiError::from(error).into()).await,
            }
        }
    }

    /// Takes over all there is; returns the version that the list stands for.
    async fn list(&mut self) -> kube::Result<String> {
        let mut params = ListParams {
            field_selector: self.field_selector.clone(),
            limit: Some(PAGE),
            ..ListParams::default()
        };
        let mut objects = BTreeMap::new();
        loop {
            let page = self.api.list(&params).await?;
            objects.extend(page.items.iter().map(self.convert));
            params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
            if params.continue_token.is_none() {
                self.follows();
                self.mirror.send_if_modified(|mirror| mirror.replace(objects));
                return Ok(page.metadata.resource_version.unwrap_or_default());
            }
        }
    }

    /// Follows every change after `version`; returns when a new list is needed.
    async fn watch_from(&mut self, mut version: String) {
        loop {
            match self.watch(&mut version).await {
                Ok(()) => {}
                Err(Ended::Expired) => return,
                // What cannot be read is not skipped: the list tells what it came to.
                Err(ended) if ended.is_unreadable() => return self.failed(ended).await,
                Err(ended) => self.failed(ended).await,
            }
        }
    }

    /// One request; `version` follows what has been taken over.
    async fn watch(&mut self, version: &mut String) -> Result<(), Ended> {
        let params = WatchParams {
            field_selector: self.field_selector.clone(),
            timeout: Some(WATCH_SECONDS),
            ..WatchParams::default()
        };
        let begun = Instant::now();
        let stream = self.api.watch(&params, version).await.map_err(Ended::from_request)?;
        pin_mut!(stream);
        let patience = Duration::from_secs(u64::from(WATCH_SECONDS) + 10);
        let mut events = 0_u64;
        loop {
            let next = match timeout(SHORT_LIVED, stream.try_next()).await {
                Ok(next) => next,
                Err(_) => {
                    // Whatever was wrong would have been said by now.
                    self.follows();
                    timeout(patience, stream.try_next()).await.map_err(|_| Ended::Silent(patience))?
                }
            };
            let Some(event) = next.map_err(Ended::from_request)? else { break };
            events += 1;
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    object.resource_version().into_iter().for_each(|new| *version = new);
                    let (key, value) = (self.convert)(&object);
                    self.mirror.send_if_modified(|mirror| mirror.set(key, value));
                }
                WatchEvent::Deleted(object) => {
                    object.resource_version().into_iter().for_each(|new| *version = new);
                    let (key, _) = (self.convert)(&object);
                    self.mirror.send_if_modified(|mirror| mirror.remove(&key));
                }
                WatchEvent::Bookmark(mark) => *version = mark.metadata.resource_version,
                WatchEvent::Error(status) => return Err(Ended::from_status(status)),
            }
            self.follows();
        }
        if events == 0 && begun.elapsed() < SHORT_LIVED { Err(Ended::ClosedAtOnce) } else { Ok(()) }
    }

    fn follows(&mut self) {
        self.wait = FIRST_WAIT;
        let what = self.what;
        self.health.send_if_modified(|health| {
            let recovered = health.error.take().is_some();
            if recovered {
                tracing::info!("watch of {what} follows again");
            }
            recovered
        });
    }

    /// Notes why, and waits: from half the wait to all of it, so that nodes do not come in step.
    async fn failed(&mut self, why: Ended) {
        let (what, error) = (self.what, why.to_string());
        self.health.send_modify(|health| {
            if health.error.as_ref() != Some(&error) {
                tracing::warn!("watch of {what}: {error}; what is known stays in force, trying again");
            }
            health.failures += 1;
            health.error = Some(error);
        });
        let part = RandomState::new().build_hasher().finish() as u32;
        let wait = self.wait / 2 + self.wait / 2 * (part >> 16) / (u32::from(u16::MAX) + 1);
        sleep(wait.max(why.asked_to_wait())).await;
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
    }
}

// === impl Ended ===

impl Ended {
    fn from_request(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::from_status(status),
            other => Self::Request(other.into()),
        }
    }

    fn from_status(status: Box<Status>) -> Self {
        if status.code == 410 || status.reason == "Expired" {
            Self::Expired
        } else {
            Self::Request(kube::Error::Api(status).into())
        }
    }

    fn is_unreadable(&self) -> bool {
        matches!(self, Self::Request(error) if matches!(error.kube(), kube::Error::SerdeError(_)))
    }

    /// How long the server wants to be left alone.
    fn asked_to_wait(&self) -> Duration {
        let Self::Request(error) = self else { return Duration::ZERO };
        let kube::Error::Api(status) = error.kube() else { return Duration::ZERO };
        let seconds = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
        // Whatever it says, this node wants to know within a minute.
        Duration::from_secs(seconds.into()).min(Duration::from_secs(60))
    }
}
