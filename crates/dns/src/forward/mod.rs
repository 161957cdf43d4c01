//! Everything that is not the cluster's: asked of others, and remembered.
//!
//! ```text
//! question ──▶ local names ──▶ cache ──▶ flights ──▶ race ──▶ upstreams
//!                                ▲                     │
//!                                └──── believed ◀──────┘
//! ```
//!
//! A client never waits longer than [`Settings::timeout`], whatever upstreams do; what was known before is answered while nobody
//! can be asked.

mod cache;
mod counts;
mod flight;
mod local;
mod race;
mod resolv_conf;
mod routes;
mod upstream;

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use hickory_proto::{
    op::ResponseCode,
    rr::{Name, RecordType},
};
use tokio::{
    runtime::Handle,
    task::AbortHandle,
    time::{sleep, timeout, timeout_at},
};

pub use cache::CacheSize;
pub use counts::{BUCKETS, Durations, ForwardCounts, UpstreamStatus, code_name, rcode_name};
pub use resolv_conf::{ResolvConfError, search_domains};

use crate::{
    question::{Asked, Origin, Question, Reply, Resolver},
    settings::{Domain, ServerAddress, Settings},
};
use cache::{Cache, Found, Stored};
use counts::{Counts, count};
use flight::{Arrival, Boarded, Flight, Flights, Outcome};
use local::Local;
use routes::Routes;
pub(crate) use upstream::ask_plainly;
use upstream::{Upstream, check::Said};

/// An answer whose time is over is given after this, if none is fetched sooner (RFC 8767, section 5).
const STALE_AFTER: Duration = Duration::from_millis(500);
/// How often the node's resolv.conf is looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// An alias that leads to another server leads to yet another at most so often.
const MOST_ALIASES: u32 = 8;

/// Asks others, and remembers what they said.
pub struct Forwarder {
    shared: Arc<Shared>,
    /// Follows the node's resolv.conf.
    following: AbortHandle,
}

struct Shared {
    runtime: Handle,
    config: ArcSwap<Config>,
    cache: Mutex<Cache>,
    flights: Flights,
    /// Names that only a loop brings here.
    markers: Mutex<HashMap<Name, std::sync::Weak<Upstream>>>,
    counts: Counts,
    turn: AtomicU32,
    /// Ahead of the clock, in milliseconds: tests do not wait for time to pass.
    ahead: AtomicU64,
    resolv_conf: PathBuf,
    own: Vec<Domain>,
}

/// The settings, made ready.
struct Config {
    settings: Settings,
    local: Local,
    routes: Arc<Routes>,
    /// Why nobody is asked for what is nobody else's.
    no_upstreams: Option<String>,
}

/// Why a question was not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    code: ResponseCode,
    why: Arc<str>,
}

// === impl Failure ===

impl Failure {
    fn new(why: impl Into<Arc<str>>) -> Self {
        Self { code: ResponseCode::ServFail, why: why.into() }
    }

    fn reply(&self) -> Reply {
        Reply {
            code: self.code,
            answers: Vec::new(),
            authorities: Vec::new(),
            origin: Origin::Nobody(self.why.to_string()),
        }
    }
}

// === impl Forwarder ===

impl Forwarder {
    /// Forwards by these settings. Where they name no upstreams, those of the node's `resolv_conf` are asked, now and as it
    /// changes. Aliases into the `own` domains are left to the zone. Must be called within a tokio runtime.
    pub fn new(settings: &Settings, resolv_conf: &Path, own: Vec<Domain>) -> Self {
        let shared = Arc::new(Shared {
            runtime: Handle::current(),
            config: ArcSwap::from_pointee(Config::new(settings, resolv_conf, &own, &Routes::default())),
            cache: Mutex::new(Cache::new(settings.cache.clone())),
            flights: Flights::default(),
            markers: Mutex::default(),
            counts: Counts::default(),
            turn: AtomicU32::new(0),
            ahead: AtomicU64::new(0),
            resolv_conf: resolv_conf.to_owned(),
            own,
        });
        shared.look_for_loops();
        let weak = Arc::downgrade(&shared);
        let following = tokio::spawn(async move {
            loop {
                sleep(LOOK_AGAIN).await;
                let Some(shared) = weak.upgrade() else { return };
                shared.look_at_resolv_conf();
            }
        });
        Self { shared, following: following.abort_handle() }
    }

    /// These are the settings from now on. What is remembered stays, except of domains whose servers have changed.
    pub fn replace_settings(&self, settings: &Settings) {
        self.shared.replace(settings);
    }

    /// The answer; a failure is one too. Takes no longer than [`Settings::timeout`].
    pub async fn ask(&self, question: &Question) -> Reply {
        let config = self.shared.config.load_full();
        match config.local.rewritten(&question.name) {
            None => self.shared.ask(&config, question).await,
            Some(target) => {
                let alias = config.local.alias(question.name.clone(), target.clone());
                // The zone's names are the zone's to answer: the server follows the alias.
                if question.kind == RecordType::CNAME || config.routes.is_own(&target) {
                    let (code, authorities) = (ResponseCode::NoError, Vec::new());
                    return Reply { code, answers: vec![alias], authorities, origin: Origin::Hosts };
                }
                let target = Question { name: target, kind: question.kind };
                let mut reply = self.shared.ask(&config, &target).await;
                reply.answers.insert(0, alias);
                reply
            }
        }
    }

    /// What it did since its start.
    pub fn counts(&self) -> ForwardCounts {
        let config = self.shared.config.load();
        let upstreams = config.routes.all().flat_map(|route| {
            let domain = route.domain.to_string();
            route.upstreams.iter().map(move |upstream| {
                let (answers, failures, health_check_failures) = upstream.counts.read();
                UpstreamStatus {
                    server: upstream.server().to_string(),
                    domain: domain.clone(),
                    down: upstream.why_down(),
                    trip: upstream.trip(),
                    answers,
                    failures,
                    health_check_failures,
                }
            })
        });
        ForwardCounts {
            hosts: config.local.len() as u64,
            cache: self.shared.cache().size(),
            upstreams: upstreams.collect(),
            no_upstreams: config.no_upstreams.clone(),
            ..self.shared.counts.read()
        }
    }
}

impl Resolver for Forwarder {
    fn ask<'a>(&'a self, question: &'a Question) -> Asked<'a> {
        Box::pin(self.ask(question))
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.following.abort();
    }
}

// === impl Config ===

impl Config {
    fn new(settings: &Settings, resolv_conf: &Path, own: &[Domain], before: &Routes) -> Self {
        let (rest, no_upstreams) = if settings.upstreams.is_empty() {
            match resolv_conf::read(resolv_conf) {
                Ok(servers) => (servers, None),
                Err(error) => (Vec::new(), Some(error.to_string())),
            }
        } else {
            (settings.upstreams.clone(), None)
        };
        let routes = Arc::new(Routes::new(settings, &rest, own, before));
        Self { settings: settings.clone(), local: Local::new(settings), routes, no_upstreams }
    }

    fn rest(&self) -> Vec<ServerAddress> {
        self.routes.of(&Name::root()).upstreams.iter().map(|upstream| upstream.server()).collect()
    }
}

// === impl Shared ===

impl Shared {
    async fn ask(self: &Arc<Self>, config: &Arc<Config>, question: &Question) -> Reply {
        if is_meta(question.kind) {
            return Failure { code: ResponseCode::NotImp, why: "a type that is not forwarded".into() }
                .reply();
        }
        if let Some(reply) = config.local.answer(question) {
            return reply;
        }
        if question.kind == RecordType::HINFO && self.is_marker(&question.name) {
            return Failure::new("a question of this node came back to it").reply();
        }
        let now = self.now();
        let found = self.cache().find(question, now);
        match found {
            Found::Fresh(stored, prefetch) => {
                let hits = if stored.is_negative() {
                    &self.counts.negative_hits
                } else {
                    &self.counts.positive_hits
                };
                count(hits);
                if prefetch && let Boarded::First(flight, _) = self.flights.board(question) {
                    count(&self.counts.prefetches);
                    self.depart(Arc::clone(config), question.clone(), flight);
                }
                let age = now.saturating_duration_since(stored.at);
                stored.reply(now, Origin::Cache(age), self.turn())
            }
            Found::Stale(stored, Some(_)) => self.stale(&stored, now),
            Found::Stale(stored, None) => self.fetch(config, question, Some(&stored)).await,
            Found::Failed(failure) => failure.reply(),
            Found::Nothing => self.fetch(config, question, None).await,
        }
    }

    /// Asks others, or joins who asks them already; in time, and with what was known before when they do not answer.
    async fn fetch(
        self: &Arc<Self>,
        config: &Arc<Config>,
        question: &Question,
        before: Option<&Arc<Stored>>,
    ) -> Reply {
        count(&self.counts.misses);
        let arrival = match self.flights.board(question) {
            Boarded::With(arrival) => {
                count(&self.counts.joined);
                arrival
            }
            Boarded::First(flight, arrival) => {
                self.depart(Arc::clone(config), question.clone(), flight);
                arrival
            }
            Boarded::Full => {
                count(&self.counts.refused);
                let failure = Failure::new("too many questions are on their way to other servers");
                return before.map_or_else(|| failure.reply(), |stored| self.stale(stored, self.now()));
            }
        };
        let patience = match before {
            Some(_) if config.routes.of(&question.name).is_down() => Duration::ZERO,
            Some(_) => STALE_AFTER.min(config.settings.timeout),
            None => config.settings.timeout,
        };
        match (arrived(arrival, patience).await, before) {
            (Some(Ok(stored)), _) => stored.first_reply(self.now(), self.turn()),
            (_, Some(stored)) => self.stale(stored, self.now()),
            (Some(Err(failure)), None) => failure.reply(),
            (None, None) => Failure::new(format!("nobody answered within {patience:?}")).reply(),
        }
    }

    fn stale(&self, stored: &Stored, now: Instant) -> Reply {
        count(&self.counts.stale);
        let age = now.saturating_duration_since(stored.at);
        stored.reply(now, Origin::Stale(age), self.turn())
    }

    /// Fetches the answer in a task of its own: who asked for it may be gone when it comes.
    fn depart(self: &Arc<Self>, config: Arc<Config>, question: Question, flight: Flight) {
        let shared = Arc::clone(self);
        self.runtime.spawn(async move {
            let outcome = shared.resolve(&config, &question).await;
            // What other servers said meanwhile is not of interest any more.
            if shared.is_current(&config) {
                let mut cache = shared.cache();
                match &outcome {
                    Ok(stored) => cache.store(&question, Arc::clone(stored)),
                    Err(failure) => cache.fail(&question, failure.clone(), shared.now()),
                }
            }
            flight.land(outcome);
        });
    }

    /// Asks whoever is to be asked, and then those to whom aliases lead.
    async fn resolve(&self, config: &Config, question: &Question) -> Outcome {
        let deadline = tokio::time::Instant::now() + config.settings.timeout;
        let mut chain: Option<Stored> = None;
        let mut next = question.clone();
        for _ in 0..MOST_ALIASES {
            // Only of a target: the question itself may be known, and on its way to be known better.
            if chain.is_some()
                && let Some(stored) = self.known(config, &next)
            {
                return Ok(Arc::new(self.dated(joined(chain, stored))));
            }
            match self.race(config, &next, deadline).await? {
                Said::Answer(stored) => {
                    if chain.is_some() && self.is_current(config) {
                        self.cache().store(&next, Arc::new(self.dated(stored.clone())));
                    }
                    return Ok(Arc::new(self.dated(joined(chain, stored))));
                }
                Said::Alias(stored, target) => {
                    let stored = joined(chain, stored);
                    if config.routes.is_own(&target) {
                        return Ok(Arc::new(self.dated(stored)));
                    }
                    chain = Some(stored);
                    next.name = target;
                }
                Said::Refusal(_) | Said::Referral => return Err(Failure::new("nobody answered")),
            }
        }
        Err(Failure::new(format!(
            "{} leads through more than {MOST_ALIASES} servers' aliases",
            question.name
        )))
    }

    async fn race(
        &self,
        config: &Config,
        question: &Question,
        deadline: tokio::time::Instant,
    ) -> Result<Said, Failure> {
        let route = config.routes.of(&question.name);
        if route.upstreams.is_empty() {
            return Err(Failure::new(config.no_upstreams.clone().unwrap_or_default()));
        }
        if route.is_down() {
            count(&self.counts.all_down);
        }
        let racing = race::race(&config.routes, route, question, deadline);
        timeout_at(deadline, racing).await.unwrap_or_else(|_| Err(Failure::new("nobody answered in time")))
    }

    /// What is known of the target of an alias.
    fn known(&self, config: &Config, question: &Question) -> Option<Stored> {
        let now = self.now();
        if let Some(reply) = config.local.answer(question) {
            let least = reply.answers.iter().map(|record| record.ttl).min().unwrap_or_default();
            return Some(Stored {
                code: reply.code,
                answers: reply.answers,
                authorities: reply.authorities,
                from: (std::net::Ipv4Addr::UNSPECIFIED, 0).into(),
                at: now,
                ttl: Duration::from_secs(least.into()),
            });
        }
        match self.cache().find(question, now) {
            Found::Fresh(stored, _) => {
                let left = (stored.at + stored.ttl).saturating_duration_since(now);
                let aged = stored.reply(now, Origin::Cache(Duration::ZERO), 0);
                let (answers, authorities) = (aged.answers, aged.authorities);
                Some(Stored { answers, authorities, at: now, ttl: left, ..(*stored).clone() })
            }
            _ => None,
        }
    }

    fn replace(self: &Arc<Self>, settings: &Settings) {
        let before = self.config.load_full();
        let after = Arc::new(Config::new(settings, &self.resolv_conf, &self.own, &before.routes));
        let stubs = [&before.settings.stub_domains, &after.settings.stub_domains];
        let changed: Vec<&Domain> = stubs[0]
            .keys()
            .chain(stubs[1].keys())
            .filter(|domain| stubs[0].get(domain) != stubs[1].get(domain))
            .collect();
        self.config.store(Arc::clone(&after));
        let mut cache = self.cache();
        cache.set(settings.cache.clone());
        if !changed.is_empty() {
            cache.forget(|name| changed.iter().any(|domain| domain.contains(name)));
        }
        drop(cache);
        self.look_for_loops();
    }

    fn look_at_resolv_conf(self: &Arc<Self>) {
        let config = self.config.load_full();
        if !config.settings.upstreams.is_empty() {
            return;
        }
        let (rest, why) = match resolv_conf::read(&self.resolv_conf) {
            Ok(servers) => (servers, None),
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        if rest == config.rest() && why == config.no_upstreams {
            return;
        }
        match &why {
            // Written anew, it may be empty for a moment: those of before are asked until there are others.
            Some(why) if !config.rest().is_empty() => return tracing::warn!("{why}; asking those of before"),
            Some(why) => tracing::error!("{why}"),
            None => tracing::info!("{} names other DNS servers now", self.resolv_conf.display()),
        }
        self.replace(&config.settings);
    }

    fn look_for_loops(&self) {
        let config = self.config.load();
        let mut markers = self.markers.lock().unwrap_or_else(PoisonError::into_inner);
        markers.retain(|_, upstream| upstream.strong_count() > 0);
        let marked: Vec<_> = markers.values().filter_map(std::sync::Weak::upgrade).collect();
        for upstream in config.routes.upstreams() {
            if marked.iter().any(|one| Arc::ptr_eq(one, upstream)) {
                continue;
            }
            // Below the domain that it is asked for, or servers on the way would not pass it on.
            let domain = config
                .routes
                .all()
                .find(|route| route.upstreams.iter().any(|one| Arc::ptr_eq(one, upstream)));
            let domain = domain.map_or_else(Name::root, |route| route.domain.clone());
            let labels = [format!("{:x}", upstream::random()), format!("{:x}", upstream::random())];
            let name = Name::from_labels(labels.iter().map(String::as_bytes))
                .and_then(|name| name.append_domain(&domain));
            if let Ok(name) = name {
                markers.insert(name.clone(), Arc::downgrade(upstream));
                upstream.look_for_loop(name);
            }
        }
    }

    fn is_marker(&self, name: &Name) -> bool {
        let markers = self.markers.lock().unwrap_or_else(PoisonError::into_inner);
        let upstream = markers.get(name).and_then(std::sync::Weak::upgrade);
        upstream.is_some_and(|upstream| {
            upstream.loops();
            true
        })
    }

    /// Nobody has set other servers since.
    fn is_current(&self, config: &Config) -> bool {
        Arc::ptr_eq(&config.routes, &self.config.load().routes)
    }

    /// Answers are dated by this forwarder's clock.
    fn dated(&self, stored: Stored) -> Stored {
        Stored { at: self.now(), ..stored }
    }

    fn now(&self) -> Instant {
        Instant::now() + Duration::from_millis(self.ahead.load(Ordering::Relaxed))
    }

    fn turn(&self) -> u32 {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An alias and what its target has.
fn joined(chain: Option<Stored>, mut stored: Stored) -> Stored {
    if let Some(mut chain) = chain {
        chain.answers.append(&mut stored.answers);
        stored.answers = chain.answers;
        stored.ttl = stored.ttl.min(chain.ttl);
    }
    stored
}

/// What comes of a flight, if it comes within `patience`.
async fn arrived(mut arrival: Arrival, patience: Duration) -> Option<Outcome> {
    timeout(patience, arrival.wait_for(Option::is_some)).await.ok()?.ok()?.clone()
}

/// Types that are no data: they are not forwarded.
fn is_meta(kind: RecordType) -> bool {
    matches!(
        kind,
        RecordType::OPT
            | RecordType::AXFR
            | RecordType::IXFR
            | RecordType::TSIG
            | RecordType::SIG
            | RecordType::ZERO
    )
}
