//! Services: what is heard of them is planned, and the plan is brought into the kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant, SystemTime},
};

use ipnet::IpNet;
use tokio::sync::watch;
use weft_datapath::{InstalledBackend, InstalledServicePort, ServicesWritten};
use weft_kube::{ObjectRef, WarningEvent};
use weft_model::{
    NodeName, Peer,
    services::{
        BackendKey, Changes, ClusterDns, Conflict, EndpointState, Event, Planner, Protected, Refusal,
        ServiceKey, ServicePortKey, ThisNode, Unreachable,
    },
};

use super::{HealthCheckChanges, Node};
use crate::admin::{BackendStatus, EndpointStatus, ServiceStatus, ServicesStatus, WithoutAddress};
use crate::announce::Balancers;
use crate::memory;

/// What could not be written is tried again after this.
const AGAIN: Duration = Duration::from_secs(1);
/// What waits longer than this to be written is a failure that load balancers are to know of.
const PATIENCE: Duration = Duration::from_secs(15);
/// So many events' times are kept until they are written.
const MOST_WAITING: usize = 10_000;
/// So many Services are told of by Events; the log and the metrics have the rest.
const MOST_EVENTS: usize = 50;

/// Port of DNS, RFC 1035 section 4.2.
const DNS_PORT: u16 = 53;

/// A node's Services.
pub(super) struct Services {
    pub(super) planner: Planner,
    health_checks: HealthCheckChanges,
    /// Services with addresses from outside; `None` before all are known.
    balancers: watch::Sender<Option<Balancers>>,
    /// The data plane has not been given this plan as a whole.
    anew: bool,
    /// What is heard and not yet written: when it was.
    waiting: Vec<Instant>,
    last_written: Option<SystemTime>,
    failed: Option<Failed>,
    /// What there is no room for.
    refused: BTreeMap<ServicePortKey, String>,
    conflicts: BTreeSet<Conflict>,
    /// Addresses that Services name and are not given.
    refusals: BTreeSet<Refusal>,
    /// Nodes that give no sign of life.
    silent: BTreeSet<NodeName>,
    /// What has been counted since the start.
    counts: Counts,
}

struct Failed {
    why: String,
    at: Instant,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    service_events: u64,
    slice_events: u64,
    syncs: u64,
}

/// Whether the data plane serves what the API says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InSync {
    /// It does.
    pub holds: bool,
    /// The node's thread answers at all.
    pub answers: bool,
    /// When Services were last written to the kernel.
    pub last_written: Option<SystemTime>,
}

/// What a write of Services took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programmed {
    /// The planning and the writing.
    pub took: Duration,
    /// From when each event was heard.
    pub latencies: Vec<Duration>,
}

// === impl Services ===

impl Services {
    pub(super) fn new(name: &NodeName, service_ranges: &[IpNet], health_checks: HealthCheckChanges) -> Self {
        let node = ThisNode {
            name: name.clone(),
            addresses: Vec::new(),
            zone: None,
            dns: ClusterDns::default(),
            protected: Protected {
                service_ranges: service_ranges.iter().copied().collect(),
                ..Protected::default()
            },
            unreachable: Unreachable::default(),
        };
        Self {
            planner: Planner::new(node),
            health_checks,
            balancers: watch::Sender::new(None),
            anew: true,
            waiting: Vec::new(),
            last_written: None,
            failed: None,
            refused: BTreeMap::new(),
            conflicts: BTreeSet::new(),
            refusals: BTreeSet::new(),
            silent: BTreeSet::new(),
            counts: Counts::default(),
        }
    }

    /// There is a data plane that knows nothing of this plan.
    pub(super) fn begin_anew(&mut self) {
        self.anew = true;
        self.failed = None;
    }

    fn tell_others(&mut self, changes: &mut Changes) {
        let health_checks = std::mem::take(&mut changes.health_checks);
        if !health_checks.is_empty() {
            // Nobody serves them when the agent ends.
            let _ = self.health_checks.send(health_checks);
        }
        let load_balancers = std::mem::take(&mut changes.load_balancers);
        self.balancers.send_if_modified(|known| {
            let news = known.is_none() || !load_balancers.is_empty();
            let known = known.get_or_insert_default();
            for (key, balancer) in load_balancers {
                match balancer {
                    Some(balancer) => drop(known.insert(key, balancer)),
                    None => drop(known.remove(&key)),
                }
            }
            news
        });
    }

    fn took_over(&mut self, written: ServicesWritten) {
        for (key, why) in &written.refused {
            let why = why.to_string();
            if self.refused.get(key) != Some(&why) {
                tracing::error!("Service port {key} is not served as it should be: {why}");
            }
        }
        self.refused = written.refused.into_iter().map(|(key, why)| (key, why.to_string())).collect();
        let conflicts: BTreeSet<Conflict> = self.planner.conflicts().into_iter().collect();
        for conflict in conflicts.difference(&self.conflicts) {
            tracing::error!("{}", said(conflict));
        }
        self.conflicts = conflicts;
        let refusals: BTreeSet<Refusal> = self.planner.refusals().into_iter().collect();
        for refusal in refusals.difference(&self.refusals) {
            tracing::warn!("{refusal}");
        }
        self.refusals = refusals;
        self.last_written = Some(SystemTime::now());
        self.failed = None;
        self.counts.syncs += 1;
    }

    /// What is not served as it should be, as Events.
    pub(super) fn warnings(&self, reporter: &NodeName) -> Vec<WarningEvent> {
        let about = |key: &ServiceKey| {
            let uid = self.planner.service(key).map_or("", |service| &service.uid);
            ObjectRef::service(key, uid)
        };
        let refused =
            self.refused.iter().filter(|(key, _)| !is_of_host(key)).map(|(key, why)| WarningEvent {
                about: about(&key.service),
                reporter: reporter.clone(),
                reason: "ServiceNotServed",
                message: format!("on node {reporter}, port {key} is not served as it should be: {why}"),
                key: format!("{reporter} {} {} {}", key.port, key.protocol, key.ipv6),
            });
        let conflicts = self.conflicts.iter().map(|conflict| WarningEvent {
            about: about(&conflict.service),
            reporter: reporter.clone(),
            reason: "AddressTaken",
            message: said(conflict),
            // Every node says the same: one of them is enough.
            key: format!("{} {}", conflict.frontend.address, conflict.frontend.port),
        });
        let refusals = self.refusals.iter().map(|refusal| WarningEvent {
            about: about(&refusal.service),
            reporter: reporter.clone(),
            reason: if refusal.slice.is_some() { "EndpointRefused" } else { "ExternalIPRefused" },
            message: refusal.to_string(),
            key: refusal.address.to_string(),
        });
        refused
            .take(MOST_EVENTS)
            .chain(conflicts.take(MOST_EVENTS))
            .chain(refusals.take(MOST_EVENTS))
            .collect()
    }

    /// Ports of the node that lead to no Pod any more, and why.
    pub(super) fn refused_host_ports(&self) -> impl Iterator<Item = (&ServicePortKey, &str)> {
        self.refused.iter().filter(|(key, _)| is_of_host(key)).map(|(key, why)| (key, why.as_str()))
    }

    fn status(&self, installed: InstalledServicePort, dns: &[IpAddr]) -> ServiceStatus {
        let InstalledServicePort { key, internal, cluster, external, draining, .. } = installed;
        let endpoints: BTreeMap<BackendKey, EndpointState> =
            self.planner.endpoints(&key).into_iter().map(|state| (state.key, state)).collect();
        let listed = |list: &[InstalledBackend], key| list.iter().any(|one| one.key == key);
        let lists = [&internal, &cluster, &external, &draining];
        let all: BTreeMap<BackendKey, &InstalledBackend> =
            lists.into_iter().flatten().map(|one| (one.key, one)).collect();
        let backends = all.into_values().map(|one| BackendStatus {
            key: one.key,
            state: said_of(endpoints.get(&one.key)),
            unreachable: endpoints.get(&one.key).is_some_and(|endpoint| endpoint.unreachable),
            serving: one.serving,
            internal: listed(&internal, one.key),
            cluster: listed(&cluster, one.key),
            external: listed(&external, one.key),
            connections: one.connections,
        });
        ServiceStatus {
            namespace: key.service.namespace.to_string(),
            name: key.service.name.to_string(),
            port: key.port.to_string(),
            protocol: key.protocol,
            ipv6: key.ipv6,
            host_port: installed.is_host_port,
            node_answers: installed
                .frontends
                .iter()
                .any(|one| one.port == DNS_PORT && dns.contains(&one.address)),
            source_ranges: self.planner.source_ranges(&key.service).map(<[_]>::to_vec),
            frontends: installed.frontends,
            backends: backends.collect(),
            connections: installed.connections,
            without_backend: installed.without_backend,
            affinity_seconds: installed.affinity_seconds,
            refused: self.refused.get(&key).cloned(),
        }
    }

    fn in_sync(&self) -> InSync {
        let late = self.waiting.first().is_some_and(|since| since.elapsed() >= PATIENCE);
        let holds = self.last_written.is_some() && !self.anew && !late;
        InSync { holds, answers: true, last_written: self.last_written }
    }
}

/// A port of the node that leads to a Pod has no Service.
fn is_of_host(key: &ServicePortKey) -> bool {
    key.service.namespace.is_empty()
}

fn said_of(endpoint: Option<&EndpointState>) -> EndpointStatus {
    match endpoint {
        None => EndpointStatus::Unknown,
        Some(endpoint) if endpoint.ready => EndpointStatus::Ready,
        Some(endpoint) if endpoint.serving && endpoint.terminating => EndpointStatus::Terminating,
        Some(endpoint) if endpoint.serving => EndpointStatus::Serving,
        Some(_) => EndpointStatus::NotReady,
    }
}

fn said(conflict: &Conflict) -> String {
    let Conflict { service, frontend, protocol, holder } = conflict;
    format!(
        "Service {service} is not reached by {} port {} ({protocol}): Service {holder} has it; remove it from one of \
         them",
        frontend.address, frontend.port
    )
}

// === impl Node ===

impl Node {
    /// This was heard of Services.
    pub fn hear(&mut self, events: Vec<(Instant, Event)>) {
        for (at, event) in events {
            match &event {
                Event::Service(_) | Event::ServiceGone(_) => self.services.counts.service_events += 1,
                Event::Slice(_) | Event::SliceGone(_) => self.services.counts.slice_events += 1,
                _ => {}
            }
            // What is heard before all is known is no change that anybody waits for.
            if self.services.planner.is_synced() && self.services.waiting.len() < MOST_WAITING {
                self.services.waiting.push(at);
            }
            self.services.planner.hear(event);
        }
    }

    /// The planner knows this node as the API has it.
    pub(super) fn place_services(&mut self) {
        if let Some(this) = self.nodes.iter().find(|node| node.name == self.config.name) {
            self.services.planner.set_node(&this.addresses, this.zone.as_deref());
        }
        let settings = &self.config.plan;
        self.services.planner.set_protected(Protected {
            all: !self.config.external_ips,
            pod_ranges: (self.nodes.iter().flat_map(|node| &node.pod_ranges))
                .chain(&settings.pod_ranges)
                .copied()
                .collect(),
            service_ranges: settings.service_ranges.iter().copied().collect(),
            nodes: self.nodes.iter().flat_map(|node| &node.addresses).copied().collect(),
            api_servers: self.config.api_servers.iter().copied().collect(),
        });
    }

    /// The planner knows where else DNS is answered: by the agents that answer probes, or, while none is known to, by any.
    pub(super) fn place_dns(&mut self) {
        let Some(plan) = &self.plan else { return };
        let answers =
            |peer: &&Peer| self.health.get(&peer.name).is_some_and(|health| health.reachable == Some(true));
        let mut peers: Vec<&Peer> = plan.peers.iter().filter(answers).collect();
        if peers.is_empty() {
            peers = plan.peers.iter().collect();
        }
        self.services.planner.set_dns(ClusterDns::new(&self.config.dns_addresses, &self.config.name, &peers));
    }

    /// The planner knows what is behind nodes that give no sign of life.
    pub(super) fn place_silent(&mut self) {
        let mut silent = BTreeSet::new();
        let mut ranges = Vec::new();
        for peer in self.plan.iter().flat_map(|plan| &plan.peers) {
            let Some(families) = self.health.get(&peer.name).map(|health| health.silent) else { continue };
            let is_silent = |ipv4: bool| if ipv4 { families.ipv4 } else { families.ipv6 };
            let before = ranges.len();
            ranges.extend(peer.pod_ranges.iter().filter(|range| is_silent(range.addr().is_ipv4())));
            let own = peer.node_addresses.iter().filter(|address| is_silent(address.is_ipv4()));
            ranges.extend(own.map(|address| IpNet::from(*address)));
            if ranges.len() > before {
                silent.insert(peer.name.clone());
            }
        }
        for node in silent.difference(&self.services.silent) {
            tracing::warn!(
                "node {node} gives no sign of life: connections to Services go to backends elsewhere while there are any"
            );
        }
        for node in self.services.silent.difference(&silent) {
            tracing::info!("node {node} is given connections to Services as before");
        }
        self.services.silent = silent;
        self.services.planner.set_unreachable(Unreachable::new(ranges));
    }

    /// From now on one Pod may ask the cluster's DNS so many questions a second.
    pub fn limit_dns(&mut self, questions_of_pod: u32) {
        self.dns_questions_of_pod = questions_of_pod;
        let Some(open) = &mut self.datapath else { return };
        if let Err(error) = open.plane.limit_dns(questions_of_pod) {
            // The next repair compares what the kernel has with what is set.
            tracing::warn!("how often a Pod may ask DNS is not in force yet: {error}; trying again");
        }
    }

    /// Brings what has changed of Services into the kernel. Before all of them are known nothing is: what an earlier agent
    /// left goes on working.
    pub fn write_services(&mut self) -> Option<Programmed> {
        let services = &mut self.services;
        let open = self.datapath.as_mut().filter(|_| services.planner.is_synced())?;
        if services.failed.as_ref().is_some_and(|failed| failed.at.elapsed() < AGAIN) {
            return None;
        }
        if !services.anew && !services.planner.has_changes() {
            services.waiting.clear();
            return None;
        }
        let begun = Instant::now();
        let (mut changes, written) = if services.anew {
            let mut all = services.planner.take_all();
            let ports = std::mem::take(&mut all.ports);
            let plans = ports.into_iter().filter_map(|(key, plan)| Some((key, plan?))).collect();
            (all, open.plane.replace_services(plans))
        } else {
            let mut changes = services.planner.take_changes();
            let ports = std::mem::take(&mut changes.ports);
            (changes, open.plane.change_services(ports))
        };
        services.tell_others(&mut changes);
        match written {
            Ok(written) => {
                if services.anew {
                    let counts = services.planner.counts();
                    tracing::info!(?counts, written = ?written.written, "Services in force");
                    memory::give_back();
                }
                services.anew = false;
                services.took_over(written);
            }
            Err(error) => {
                let why = format!("Services cannot be written: {error}");
                if services.failed.as_ref().is_none_or(|failed| failed.why != why) {
                    tracing::error!("{why}; trying again");
                }
                // What was written and what was not is not known any more.
                services.anew = true;
                services.failed = Some(Failed { why, at: Instant::now() });
                return None;
            }
        }
        let latencies = services.waiting.drain(..).map(|heard| heard.elapsed()).collect();
        Some(Programmed { took: begun.elapsed(), latencies })
    }

    /// Services with addresses from outside; `None` before all are known.
    pub(super) fn balancers(&self) -> watch::Receiver<Option<Balancers>> {
        self.services.balancers.subscribe()
    }

    /// Answers for these addresses, each until its time, and for no others.
    ///
    /// # Errors
    /// When it cannot be told to the kernel: what it was told before lapses by itself.
    pub fn announce(&mut self, held: &[(IpAddr, Instant)]) -> Result<(), String> {
        let Some(open) = &mut self.datapath else { return Err("the data plane is not up".to_owned()) };
        open.plane.announce(held).map_err(|error| error.to_string())
    }

    /// Index and hardware address of the interface that addresses are announced on.
    pub fn uplink(&self) -> Option<(u32, [u8; 6])> {
        let uplink = self.datapath.as_ref()?.plane.uplink();
        Some((uplink.index, uplink.mac))
    }

    /// Whether the data plane serves what the API says.
    pub fn in_sync(&self) -> InSync {
        self.services.in_sync()
    }

    /// Lets go of what the kernel programs remember of connections that have ended.
    pub(super) fn sweep(&mut self) {
        let Some(open) = &mut self.datapath else { return };
        match open.plane.sweep() {
            Ok(swept) => self.swept = swept,
            Err(error) => tracing::warn!("flows that have ended are not let go of: {error}"),
        }
    }

    pub(super) fn services_status(&self) -> ServicesStatus {
        let services = &self.services;
        let known = services.planner.counts();
        ServicesStatus {
            synced: services.in_sync().holds,
            error: services.failed.as_ref().map(|failed| failed.why.clone()),
            services: known.services as u64,
            slices: known.slices as u64,
            endpoints: known.endpoints as u64,
            refused: services.refused.iter().map(|(key, why)| format!("{key}: {why}")).collect(),
            conflicts: (services.conflicts.iter().map(said))
                .chain(services.refusals.iter().map(ToString::to_string))
                .collect(),
            without_address: (services.planner.without_address().take(MOST_EVENTS))
                .map(|service| WithoutAddress {
                    namespace: service.key.namespace.to_string(),
                    name: service.key.name.to_string(),
                    uid: service.uid.to_string(),
                })
                .collect(),
            unreachable_endpoints: services.planner.unreachable_endpoints() as u64,
            flows: self.swept.flows.used as u64,
            flows_room: self.swept.flows.room as u64,
            affinities: self.swept.affinities.used as u64,
            affinities_room: self.swept.affinities.room as u64,
            syncs: services.counts.syncs,
            service_events: services.counts.service_events,
            slice_events: services.counts.slice_events,
            last_written: services
                .last_written
                .and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok().map(|since| since.as_secs())),
        }
    }

    /// What the kernel holds of Services.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn service_status(&mut self) -> Result<Vec<ServiceStatus>, String> {
        let Some(open) = &mut self.datapath else { return Ok(Vec::new()) };
        let installed = open.plane.services().map_err(|error| format!("Services cannot be read: {error}"))?;
        let dns = &self.config.dns_addresses;
        let mut all = installed.into_iter().map(|one| self.services.status(one, dns)).collect::<Vec<_>>();
        self.name_host_ports(&mut all);
        Ok(all)
    }
}
