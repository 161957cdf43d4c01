//! Cluster DNS on this node: the zone is kept in line with the API, and served at the address of the cluster's DNS Service and
//! at the node's path addresses, where other nodes' Pods ask while their own agent is away.
//!
//! Nothing listens before the zone is whole: until then another node's agent answers, which knows more. Only when nothing at all
//! is heard is answered what was known before ([`kept`]).

mod access;
mod clients;
mod feed;
mod kept;
mod listen;
mod metrics;
mod settings;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use anyhow::Context as _;
use arc_swap::ArcSwapOption;
use ipnet::IpNet;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use weft_dns::{
    forward::{ForwardCounts, Forwarder, UpstreamStatus},
    question::record_type,
    server::{Explanation, Server},
};
use weft_kube::{Client, Mirror, WatchHealth, watch_namespaces, watch_settings};
use weft_model::{
    Node, NodeName, Pod, PodKey,
    dns::{self, Zone},
};

use crate::{
    Options,
    admin::{DnsServerStatus, DnsStatus},
    cluster::Heard,
    drain::Drain,
    node::thread::Handle,
};
use clients::DnsClients;
use feed::Programming;
use kept::Kept;

/// So many Namespaces are on their way to the zone; then the watch waits.
const ON_THE_WAY: usize = 64;

/// This node's DNS. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Dns(Arc<Shared>);

struct Shared {
    place: Place,
    zone: Arc<RwLock<Zone>>,
    forwarder: Arc<Forwarder>,
    clients: Arc<DnsClients>,
    programming: Programming,
    kept: Kept,
    standing: Mutex<Standing>,
    /// What answers, while it does.
    server: ArcSwapOption<Server>,
    /// Whether Namespaces and the settings are followed.
    follows: [watch::Sender<WatchHealth>; 2],
}

/// Where DNS is, as the agent was told.
struct Place {
    node: NodeName,
    options: Options,
    domain: dns::Name,
}

/// How DNS stands.
#[derive(Clone, Debug, Default)]
struct Standing {
    /// Where it listens.
    addresses: Vec<SocketAddr>,
    /// Why it does not.
    error: Option<String>,
    /// Why the settings are not in force.
    settings_error: Option<String>,
}

/// What DNS follows.
pub(crate) struct Sources {
    pub(crate) heard: Heard,
    pub(crate) nodes: watch::Receiver<Mirror<NodeName, Node>>,
    pub(crate) pods: watch::Receiver<Mirror<PodKey, Pod>>,
    /// Whose kernel programs are told how often a Pod may ask.
    pub(crate) node: Handle,
}

// === impl Dns ===

impl Dns {
    /// DNS as the agent is told to serve it, if it is.
    ///
    /// # Errors
    /// When the cluster's domain is none.
    pub(crate) fn new(options: &Options, node: &NodeName) -> anyhow::Result<Option<Self>> {
        if options.cluster_dns.is_empty() {
            return Ok(None);
        }
        let named = || format!("--cluster-domain {:?}", options.cluster_domain);
        let domain: dns::Name = options.cluster_domain.parse().with_context(named)?;
        let own = options.cluster_domain.parse().map_err(anyhow::Error::msg).with_context(named)?;
        let place = Place { node: node.clone(), options: options.clone(), domain };
        let began = kept::read(&options.state_dir);
        let mut kept = Kept::new(&options.state_dir, began.as_ref());
        let settings = kept.settings();
        let zone = began.map_or_else(Vec::new, |began| began.zone);
        let names = place.zone_settings(&settings, &kept.known().ranges);
        let zone = kept.zone(&zone, names);
        Ok(Some(Self(Arc::new(Shared {
            kept,
            zone: Arc::new(RwLock::new(zone)),
            forwarder: Arc::new(Forwarder::new(&settings, &options.resolv_conf, vec![own])),
            clients: Arc::default(),
            programming: Programming::default(),
            standing: Mutex::default(),
            server: ArcSwapOption::empty(),
            follows: Default::default(),
            place,
        }))))
    }

    /// Follows the API and answers, until the drain begins.
    pub(crate) async fn run(self, client: Client, sources: Sources, mut drain: Drain) -> anyhow::Result<()> {
        let (namespaces, namespaces_heard) = mpsc::channel(ON_THE_WAY);
        let (config_map, configured) = watch::channel(Mirror::default());
        let [of_namespaces, of_settings] = self.0.follows.clone();
        let begun_with = self.0.kept.settings();
        // The node's thread has ended: so will this.
        let _ = sources.node.limit_dns(begun_with.limits.queries_per_client);
        let (wanted, settings) = watch::channel(begun_with);
        let (ready, is_ready) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(watch_namespaces(client.clone(), namespaces, of_namespaces));
        tasks.spawn(watch_settings(client, config_map, of_settings));
        tasks.spawn(settings::follow(self.clone(), configured, wanted, sources.node));
        tasks.spawn(feed::feed(self.clone(), sources.heard, namespaces_heard, ready));
        tasks.spawn(clients::follow(self.clone(), sources.pods));
        tasks.spawn(listen::serve(self.clone(), settings, sources.nodes, is_ready));
        tasks.spawn(kept::keep(self.clone()));
        let ended = tokio::select! {
            // First: what its parts hear from ends with the drain as well, and so may they.
            biased;
            () = drain.begun() => Ok(()),
            Some(_) = tasks.join_next() => Err(anyhow::anyhow!("a part of the cluster's DNS ended by itself")),
        };
        tasks.shutdown().await;
        // From here on other nodes are asked.
        self.0.server.store(None);
        self.keep_names().await;
        ended
    }

    /// What a client would be answered, and why: the one at `client` as its search list says, or one that asks for just this
    /// name.
    ///
    /// # Errors
    /// When nothing is answered yet, or that is no name or no type.
    pub(crate) async fn explain(
        &self,
        name: &str,
        kind: &str,
        client: Option<IpAddr>,
    ) -> Result<Explanation, String> {
        let server = self.0.server.load_full().ok_or_else(|| {
            let why = self.standing().error.clone();
            why.unwrap_or_else(|| "this node answers no DNS yet: not all names are known".to_owned())
        })?;
        let kind = record_type(kind).ok_or_else(|| format!("{kind:?} is no type of records"))?;
        server.explain(name, kind, client).await.map_err(|error| format!("{name:?}: {error}"))
    }

    /// How it stands.
    pub(crate) fn status(&self) -> DnsStatus {
        self.status_with(&self.0.forwarder.counts())
    }

    fn status_with(&self, forward: &ForwardCounts) -> DnsStatus {
        let standing = self.standing().clone();
        let (synced, size) = {
            let zone = self.0.zone.read().unwrap_or_else(PoisonError::into_inner);
            (zone.is_synced(), zone.size())
        };
        let upstream = |upstream: &UpstreamStatus| DnsServerStatus {
            server: upstream.server.clone(),
            domain: upstream.domain.clone(),
            down: upstream.down.clone(),
            round_trip_us: upstream.trip.and_then(|trip| u64::try_from(trip.as_micros()).ok()),
        };
        let [namespaces, config_map] = self.0.follows.each_ref().map(|health| health.borrow().error.clone());
        let snapshot_age = self.age_of_names(synced);
        let unheard = namespaces
            .filter(|_| !synced && snapshot_age.is_none())
            .map(|why| format!("Namespaces cannot be watched: {why}"));
        let unset = config_map.map(|why| format!("the ConfigMap kube-system/weft cannot be watched: {why}"));
        DnsStatus {
            addresses: standing.addresses,
            error: standing.error.or(unheard),
            synced,
            snapshot_age: snapshot_age.map(|age| age.as_secs()),
            namespaces: size.namespaces as u64,
            services: size.services as u64,
            endpoints: size.endpoints as u64,
            settings_error: standing.settings_error.or(unset),
            no_upstreams: forward.no_upstreams.clone(),
            upstreams: forward.upstreams.iter().map(upstream).collect(),
        }
    }

    /// Why the settings are not in force, if they are not.
    pub(crate) fn settings_error(&self) -> Option<String> {
        self.standing().settings_error.clone()
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.0.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Place ===

impl Place {
    /// What the zone is like. Addresses of Pods are in the ranges that nodes have, where the agent is not told of others.
    fn zone_settings(&self, settings: &weft_dns::settings::Settings, nodes: &[IpNet]) -> dns::Settings {
        let pods = if self.options.pod_cidrs.is_empty() { nodes } else { &self.options.pod_cidrs };
        dns::Settings {
            domain: self.domain.clone(),
            pod_records: settings.pod_records,
            name_servers: self.options.cluster_dns.clone(),
            ranges: self.options.service_cidrs.iter().chain(pods).copied().collect(),
        }
    }

    fn resolv_conf(&self) -> &PathBuf {
        &self.options.resolv_conf
    }
}
