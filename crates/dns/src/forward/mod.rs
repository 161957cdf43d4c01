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
pub(crate) mod fuzz;
mod local;
mod race;
mod resolv_conf;
mod routes;
mod shared;
mod upstream;

#[cfg(test)]
mod tests;

use std::{path::Path, sync::Arc, time::Duration};

use hickory_proto::{op::ResponseCode, rr::RecordType};
use tokio::{task::AbortHandle, time::sleep};

pub use cache::CacheSize;
pub use counts::{BUCKETS, Durations, ForwardCounts, UpstreamStatus, code_name, rcode_name};
pub use resolv_conf::{ResolvConfError, search_domains};
pub(crate) use upstream::ask_plainly;

use crate::{
    question::{Asked, Origin, Question, Reply, Resolver},
    settings::{Domain, Settings},
};
use shared::Shared;

/// How often the node's resolv.conf is looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Asks others, and remembers what they said.
pub struct Forwarder {
    shared: Arc<Shared>,
    /// Follows the node's resolv.conf.
    following: AbortHandle,
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
        let shared = Arc::new(Shared::new(settings, resolv_conf, own));
        shared.look_for_loops();
        let weak = Arc::downgrade(&shared);
        let following = tokio::spawn(async move {
            loop {
                let Some(shared) = weak.upgrade() else { return };
                shared.look_at_resolv_conf();
                drop(shared);
                sleep(LOOK_AGAIN).await;
            }
        });
        Self { shared, following: following.abort_handle() }
    }

    /// These are the settings from now on. What is remembered stays, except of domains whose servers have changed.
    pub fn replace_settings(&self, settings: &Settings) {
        self.shared.replace(Some(settings));
    }

    /// This node's DNS listens from now on, and would hear a question that an upstream sends back: they are looked at again.
    pub fn now_listening(&self) {
        self.shared.upstreams_again();
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
                    return Reply { code, answers: vec![alias], authorities, origin: Origin::Rewrite };
                }
                let target = Question { name: target, ..question.clone() };
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
