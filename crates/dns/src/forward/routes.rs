//! Who is asked for a name.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicUsize},
};

use hickory_proto::rr::Name;

use super::upstream::Upstream;
use crate::settings::{Domain, ServerAddress, Settings};

/// The servers for each domain.
#[derive(Default)]
pub(super) struct Routes {
    /// The longest domain first.
    stubs: Vec<Route>,
    /// For what is nobody else's.
    rest: Route,
    /// What is answered by the zone, and never asked for.
    own: Vec<Domain>,
}

/// The servers for a domain, in the order in which they are named.
#[derive(Clone)]
pub(super) struct Route {
    pub(super) domain: Name,
    pub(super) upstreams: Vec<Arc<Upstream>>,
    /// Questions that are on their way to them.
    pub(super) on_the_way: Arc<AtomicUsize>,
}

// === impl Routes ===

impl Routes {
    /// Routes by the settings; servers that were asked before keep what is known of them.
    pub(super) fn new(settings: &Settings, rest: &[ServerAddress], own: &[Domain], before: &Self) -> Self {
        let mut known: HashMap<ServerAddress, Arc<Upstream>> =
            before.upstreams().map(|upstream| (upstream.server(), Arc::clone(upstream))).collect();
        let mut route = |domain: Name, servers: &[ServerAddress]| {
            let of = |server: &ServerAddress| {
                Arc::clone(known.entry(*server).or_insert_with(|| Arc::new(Upstream::new(*server))))
            };
            Route { domain, upstreams: servers.iter().map(of).collect(), on_the_way: Arc::default() }
        };
        let stubs = settings.stub_domains.iter();
        let mut stubs: Vec<Route> =
            stubs.map(|(domain, servers)| route(domain.name().clone(), servers)).collect();
        stubs.sort_by_key(|stub| std::cmp::Reverse(stub.domain.num_labels()));
        Self { stubs, rest: route(Name::root(), rest), own: own.to_vec() }
    }

    /// Who is asked for `name`.
    pub(super) fn of(&self, name: &Name) -> &Route {
        self.stubs.iter().find(|stub| stub.domain.zone_of(name)).unwrap_or(&self.rest)
    }

    /// The zone answers it.
    pub(super) fn is_own(&self, name: &Name) -> bool {
        self.own.iter().any(|own| own.contains(name))
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Route> {
        self.stubs.iter().chain([&self.rest])
    }

    /// A server that is named for several domains comes several times.
    pub(super) fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.all().flat_map(|route| &route.upstreams)
    }
}

// === impl Route ===

impl Default for Route {
    fn default() -> Self {
        Self { domain: Name::root(), upstreams: Vec::new(), on_the_way: Arc::default() }
    }
}

impl Route {
    /// The best first.
    pub(super) fn by_rank(&self) -> Vec<Arc<Upstream>> {
        let mut ranked: Vec<_> = self
            .upstreams
            .iter()
            .filter(|one| !one.is_looping())
            .map(|one| (one.rank(), Arc::clone(one)))
            .collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        ranked.into_iter().map(|(_, upstream)| upstream).collect()
    }

    /// Nobody is expected to answer.
    pub(super) fn is_down(&self) -> bool {
        self.upstreams.iter().all(|upstream| upstream.is_down())
    }

    /// Why nobody is expected to answer.
    pub(super) fn why_down(&self) -> String {
        let each = self
            .upstreams
            .iter()
            .filter_map(|upstream| Some(format!("{} {}", upstream.server(), upstream.why_down()?)));
        each.collect::<Vec<_>>().join("; ")
    }
}
