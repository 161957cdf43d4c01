//! One watch: list, then watch from there. What ends a watch decides how it goes on: a connection that closed is opened again where
//! it ended; a version that expired (410) is listed anew; a server that says "too many" (429) is given the time that it
//! asks for; anything else is tried again, ever more slowly. Meanwhile readers keep what was last known.

use std::{
    fmt::Debug,
    hash::{BuildHasher, Hasher, RandomState},
    marker::PhantomData,
    time::Duration,
};

use futures::{TryStreamExt, pin_mut};
use kube::{
    Resource, ResourceExt,
    api::{ListParams, ObjectList, WatchEvent, WatchParams},
    core::{Request, Status},
};
use serde::de::DeserializeOwned;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::sink::Sink;
use crate::{ApiError, Client, client::WATCH_SECONDS};

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

/// An object of the API, as far as a watch looks at it.
pub(crate) trait Versioned {
    /// `metadata.resourceVersion`.
    fn version(&self) -> Option<String>;
}

/// Which objects are of interest.
#[derive(Clone, Debug, Default)]
pub(super) struct Selectors {
    pub(super) fields: Option<String>,
    pub(super) labels: Option<String>,
}

pub(super) struct Follower<O, S> {
    what: &'static str,
    kube: kube::Client,
    url: Request,
    selectors: Selectors,
    sink: S,
    health: watch::Sender<WatchHealth>,
    wait: Duration,
    objects: PhantomData<fn() -> O>,
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

impl<O, S> Follower<O, S>
where
    O: Versioned + Clone + DeserializeOwned + Debug + Send + 'static,
    S: Sink<O>,
{
    pub(super) fn new(
        what: &'static str,
        client: Client,
        url: Request,
        selectors: Selectors,
        sink: S,
        health: watch::Sender<WatchHealth>,
    ) -> Self {
        Self { what, kube: client.kube, url, selectors, sink, health, wait: FIRST_WAIT, objects: PhantomData }
    }

    pub(super) async fn run(mut self) {
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
            field_selector: self.selectors.fields.clone(),
            label_selector: self.selectors.labels.clone(),
            limit: Some(PAGE),
            ..ListParams::default()
        };
        self.sink.begin().await;
        loop {
            let request = self.url.list(&params).map_err(kube::Error::BuildRequest)?;
            let page: ObjectList<O> = self.kube.request(request).await?;
            for object in page.items {
                self.sink.set(object).await;
            }
            params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
            if params.continue_token.is_none() {
                self.follows();
                self.sink.end().await;
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
            field_selector: self.selectors.fields.clone(),
            label_selector: self.selectors.labels.clone(),
            timeout: Some(WATCH_SECONDS),
            ..WatchParams::default()
        };
        let begun = Instant::now();
        let request = self.url.watch(&params, version).map_err(kube::Error::BuildRequest);
        let request = request.map_err(Ended::from_request)?;
        let stream = self.kube.request_events::<O>(request).await.map_err(Ended::from_request)?;
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
                    object.version().into_iter().for_each(|new| *version = new);
                    self.sink.set(object).await;
                }
                WatchEvent::Deleted(object) => {
                    object.version().into_iter().for_each(|new| *version = new);
                    self.sink.remove(object).await;
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

// === impl Versioned ===

impl<T: Resource> Versioned for T {
    fn version(&self) -> Option<String> {
        self.resource_version()
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
