//! One watch: list, then watch from there. What ends a watch decides how it goes on: a connection that closed is opened again where
//! it ended; a version that expired (410) is listed anew; a server that says "too many" (429) is given the time that it
//! asks for; anything else is tried again, ever more slowly. Meanwhile readers keep what was last known.

use std::{
    fmt::Debug,
    hash::{BuildHasher, Hasher, RandomState},
    io,
    marker::PhantomData,
    time::Duration,
};

use futures::{AsyncBufReadExt as _, TryStreamExt as _, pin_mut};
use kube::{
    Resource, ResourceExt,
    api::{ListParams, WatchParams},
    core::{Request, Status},
};
use serde::de::DeserializeOwned;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::{
    WatchHealth,
    read::{self, Happened, Unreadable},
    sink::Sink,
};
use crate::{ApiError, Client, client::WATCH_SECONDS};

/// Objects a request; a list of more takes several.
const PAGE: u32 = 500;
/// So many characters of an answer that is none are logged.
const SHOWN: usize = 200;
/// Waits between attempts grow from the first to the longest, each twice the one before.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// A watch that the server closes sooner than this was no use, and opening the next is to wait.
const SHORT_LIVED: Duration = Duration::from_millis(500);

/// An object of the API, as far as a watch looks at it.
pub(crate) trait Versioned {
    /// `metadata.resourceVersion`.
    fn version(&self) -> Option<String>;
    /// `namespace/name`.
    fn name(&self) -> String;
}

/// Which objects are of interest.
#[derive(Clone, Debug, Default)]
pub(super) struct Selectors {
    pub(super) fields: Option<String>,
    pub(super) labels: Option<String>,
}

pub(super) struct Follower<O, S> {
    what: String,
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
    #[error("an answer that is none: {0}")]
    NoEvent(#[from] serde_json::Error),
    #[error("{0}")]
    Broken(#[from] io::Error),
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
        what: impl Into<String>,
        client: Client,
        url: Request,
        selectors: Selectors,
        sink: S,
        health: watch::Sender<WatchHealth>,
    ) -> Self {
        let what = what.into();
        client.watches.add(&what, health.subscribe());
        Self { what, kube: client.kube, url, selectors, sink, health, wait: FIRST_WAIT, objects: PhantomData }
    }

    pub(super) async fn run(mut self) {
        loop {
            match self.list().await {
                Ok(version) => self.watch_from(version).await,
                Err(ended) => self.failed(ended).await,
            }
        }
    }

    /// Takes over all there is; returns the version that the list stands for.
    async fn list(&mut self) -> Result<String, Ended> {
        let mut params = ListParams {
            field_selector: self.selectors.fields.clone(),
            label_selector: self.selectors.labels.clone(),
            limit: Some(PAGE),
            ..ListParams::default()
        };
        self.sink.begin().await;
        loop {
            let request = self.url.list(&params).map_err(kube::Error::BuildRequest);
            let request = request.map_err(Ended::from_request)?;
            let text = self.kube.request_text(request).await.map_err(Ended::from_request)?;
            let page = read::page::<O>(&text).inspect_err(|_| {
                // A list of a cluster has megabytes: its beginning says enough.
                let begins: String = text.chars().take(SHOWN).collect();
                tracing::warn!("watch of {}: no list: {begins:?} … ({} bytes)", self.what, text.len());
            })?;
            if params.continue_token.is_none() {
                self.health.send_if_modified(|health| !std::mem::take(&mut health.unreadable).is_empty());
            }
            for object in page.objects {
                match object {
                    Ok(object) => self.sink.set(object).await,
                    Err(bad) => self.cannot_read(&bad),
                }
            }
            params.continue_token = page.next;
            if params.continue_token.is_none() {
                self.follows();
                self.sink.end().await;
                return Ok(page.version);
            }
        }
    }

    /// Follows every change after `version`; returns when a new list is needed.
    async fn watch_from(&mut self, mut version: String) {
        loop {
            match self.watch(&mut version).await {
                Ok(()) => {}
                Err(Ended::Expired) => return,
                // What is no event is not skipped: the list tells what it came to.
                Err(ended @ Ended::NoEvent(_)) => return self.failed(ended).await,
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
        let lines = self.kube.request_stream(request).await.map_err(Ended::from_request)?.lines();
        pin_mut!(lines);
        let patience = Duration::from_secs(u64::from(WATCH_SECONDS) + 10);
        let mut events = 0_u64;
        loop {
            let next = match timeout(SHORT_LIVED, lines.try_next()).await {
                Ok(next) => next,
                Err(_) => {
                    // Whatever was wrong would have been said by now.
                    self.follows();
                    timeout(patience, lines.try_next()).await.map_err(|_| Ended::Silent(patience))?
                }
            };
            let line = match next {
                Ok(Some(line)) => line,
                Ok(None) => break,
                // The server went without a word; it is asked again from here.
                Err(error) if error.to_string().contains("unexpected EOF") => break,
                Err(error) => return Err(error.into()),
            };
            let happened = match read::event::<O>(&line) {
                Ok(happened) => happened,
                // The end of the connection cut it short.
                Err(error) if error.is_eof() => break,
                Err(error) => return Err(error.into()),
            };
            events += 1;
            match happened {
                Happened::Set(object) => {
                    object.version().into_iter().for_each(|new| *version = new);
                    self.readable_again(&object);
                    self.sink.set(object).await;
                }
                Happened::Removed(object) => {
                    object.version().into_iter().for_each(|new| *version = new);
                    self.readable_again(&object);
                    self.sink.remove(object).await;
                }
                Happened::Bookmark(mark) => *version = mark,
                // As it was last known it stays.
                Happened::Unreadable(bad) => {
                    bad.version.iter().for_each(|new| version.clone_from(new));
                    self.cannot_read(&bad);
                }
                Happened::Error(status) => return Err(Ended::from_status(status)),
            }
            self.follows();
        }
        if events == 0 && begun.elapsed() < SHORT_LIVED { Err(Ended::ClosedAtOnce) } else { Ok(()) }
    }

    fn cannot_read(&self, bad: &Unreadable) {
        let Unreadable { name, why, .. } = bad;
        self.health.send_if_modified(|health| {
            let news = health.cannot_read(name, why);
            if news {
                tracing::warn!("watch of {}: {name} cannot be read and is left out: {why}", self.what);
            }
            news
        });
    }

    fn readable_again(&self, object: &O) {
        if !self.health.borrow().unreadable.is_empty() {
            let name = object.name();
            self.health.send_if_modified(|health| health.unreadable.remove(&name).is_some());
        }
    }

    fn follows(&mut self) {
        self.wait = FIRST_WAIT;
        let what = &self.what;
        self.health.send_if_modified(|health| {
            let recovered = health.error.take().is_some();
            if recovered {
                tracing::debug!("watch of {what} follows again");
            }
            recovered
        });
    }

    /// Notes why, and waits: from half the wait to all of it, so that nodes do not come in step.
    async fn failed(&mut self, why: Ended) {
        let (what, error) = (&self.what, why.to_string());
        let away = why.is_away();
        self.health.send_modify(|health| {
            // A server that is away is told of once, by the client, and not by every watch.
            if away {
                tracing::debug!("watch of {what}: {error}");
            } else if health.error.as_ref() != Some(&error) {
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

    fn name(&self) -> String {
        let name = self.name_any();
        self.namespace().map_or_else(|| name.clone(), |namespace| format!("{namespace}/{name}"))
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

    /// There is no API server, or the connection to it broke.
    fn is_away(&self) -> bool {
        match self {
            Self::Broken(_) | Self::Silent(_) => true,
            Self::Request(error) => error.is_away(),
            Self::Expired | Self::ClosedAtOnce | Self::NoEvent(_) => false,
        }
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
