//! What a forwarder's tasks share, and the way of a question through it.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
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
    time::{timeout, timeout_at},
};

use super::{
    Failure,
    cache::{Cache, Found, Stored},
    counts::{Counts, count},
    flight::{Arrival, Boarded, Flight, Flights, Outcome},
    local::Local,
    race, resolv_conf,
    routes::Routes,
    upstream::{self, Upstream, check::Said},
};
use crate::{
    question::{Origin, Question, Reply},
    settings::{Domain, ServerAddress, Settings},
};

/// An answer whose time is over is given after this, if none is fetched sooner (RFC 8767, section 5).
const STALE_AFTER: Duration = Duration::from_millis(500);
/// An alias that leads to another server leads to yet another at most so often.
const MOST_ALIASES: u32 = 8;

/// What a forwarder's tasks share.
pub(super) struct Shared {
    runtime: Handle,
    pub(super) config: ArcSwap<Config>,
    cache: Mutex<Cache>,
    flights: Flights,
    /// Names that only a loop brings here.
    markers: Mutex<HashMap<Name, Weak<Upstream>>>,
    pub(super) counts: Counts,
    turn: AtomicU32,
    /// Ahead of the clock, in milliseconds: tests do not wait for time to pass.
    pub(super) ahead: AtomicU64,
    resolv_conf: PathBuf,
    own: Vec<Domain>,
    /// Held while settings are replaced.
    changing: Mutex<()>,
    /// What was last said of the node's resolv.conf.
    complaint: Mutex<Option<String>>,
}

/// The settings, made ready.
pub(super) struct Config {
    pub(super) settings: Settings,
    pub(super) local: Local,
    pub(super) routes: Arc<Routes>,
    /// Why nobody is asked for what is nobody else's.
    pub(super) no_upstreams: Option<String>,
}

// === impl Config ===

impl Config {
    pub(super) fn new(settings: &Settings, resolv_conf: &Path, own: &[Domain], before: &Routes) -> Self {
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
    pub(super) fn new(settings: &Settings, resolv_conf: &Path, own: Vec<Domain>) -> Self {
        Self {
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
            changing: Mutex::new(()),
            complaint: Mutex::new(None),
        }
    }

    pub(super) async fn ask(self: &Arc<Self>, config: &Arc<Config>, question: &Question) -> Reply {
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
                if prefetch && let Boarded::First(flight, _) = self.board(config, question) {
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
        let arrival = match self.board(config, question) {
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

    fn board(&self, config: &Config, question: &Question) -> Boarded {
        self.flights.board(question, &config.routes.of(&question.name).on_the_way)
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
            // Clients are given no longer TTLs with the first answer than with those from memory.
            let outcome = outcome.map(|stored| shared.cache().bounded(stored));
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

    /// These are the settings now; without any, those of before, with what the node's resolv.conf says.
    pub(super) fn replace(&self, settings: Option<&Settings>) {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.config.load_full();
        let settings = settings.unwrap_or(&before.settings);
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

    pub(super) fn look_at_resolv_conf(&self) {
        let config = self.config.load_full();
        if !config.settings.upstreams.is_empty() {
            return;
        }
        let (rest, why) = match resolv_conf::read(&self.resolv_conf) {
            Ok(servers) => (servers, None),
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        let news = {
            let mut complaint = self.complaint.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *complaint, why.clone()) != why
        };
        match why {
            None if rest == config.rest() => {}
            None => {
                tracing::info!("{} names other DNS servers now", self.resolv_conf.display());
                self.replace(None);
            }
            Some(why) => {
                if news {
                    tracing::error!("{why}");
                }
                // Written anew, it may be empty for a moment: those of before are asked until there are others.
                if config.rest().is_empty() && config.no_upstreams.as_ref() != Some(&why) {
                    self.replace(None);
                }
            }
        }
    }

    pub(super) fn upstreams_again(&self) {
        self.config.load().routes.upstreams().for_each(|upstream| upstream.look_again());
    }

    pub(super) fn look_for_loops(&self) {
        let config = self.config.load();
        let mut markers = self.markers.lock().unwrap_or_else(PoisonError::into_inner);
        markers.retain(|_, upstream| upstream.strong_count() > 0);
        let marked: Vec<_> = markers.values().filter_map(Weak::upgrade).collect();
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
        let upstream = markers.get(name).and_then(Weak::upgrade);
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

    pub(super) fn cache(&self) -> MutexGuard<'_, Cache> {
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
