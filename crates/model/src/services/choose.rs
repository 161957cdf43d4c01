//! One port of a Service in one family: its frontends, and which endpoints its connections may go to.

use std::{
    cmp::Reverse,
    collections::BTreeSet,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::IpAddr,
    sync::Arc,
};

use super::{
    AddressType, BackendKey, BackendState, Choice, Endpoint, Frontend, FrontendKind, Protected, Service,
    ServicePort, ServicePortPlan, ServiceType, SlicePort, TrafficPolicy, Unreachable, WhenEmpty,
    intern::Interned,
};
use crate::{NodeName, Peer, PodRange, Protocol};

/// So many other nodes stand in for a node's DNS.
const STAND_INS: usize = 8;

/// The node that is planned for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThisNode {
    /// Its name.
    pub name: NodeName,
    /// Its addresses: node ports are served on each.
    pub addresses: Vec<IpAddr>,
    /// The label `topology.kubernetes.io/zone`.
    pub zone: Option<Arc<str>>,
    /// The cluster DNS, as far as nodes answer for it.
    pub dns: ClusterDns,
    /// What `externalIPs` may not name.
    pub protected: Protected,
    /// What is behind nodes that give no sign of life.
    pub unreachable: Unreachable,
}

/// The Service that nodes answer for themselves. What of its traffic is not answered where it begins goes to its endpoints, or,
/// where it has none, to other nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterDns {
    /// Its cluster IPs.
    pub addresses: Vec<IpAddr>,
    /// Where some of the other nodes answer, on the same port.
    pub stand_ins: Vec<IpAddr>,
}

/// An EndpointSlice as it is kept.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Slice {
    pub(super) name: Arc<str>,
    pub(super) address_type: AddressType,
    pub(super) ports: Arc<[SlicePort]>,
    pub(super) endpoints: Box<[KeptEndpoint]>,
}

/// An endpoint as it is kept: a cluster has very many.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct KeptEndpoint {
    /// `hints.forZones`; most endpoints share theirs.
    for_zones: Option<Arc<[Arc<str>]>>,
    address: IpAddr,
    flags: u8,
}

const READY: u8 = 1;
const SERVING: u8 = 2;
const TERMINATING: u8 = 4;
const LOCAL: u8 = 8;
const HAS_NODE_HINTS: u8 = 16;
const FOR_THIS_NODE: u8 = 32;

/// What the API says of an endpoint of a Service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointState {
    /// Address and port.
    pub key: BackendKey,
    /// It takes new connections.
    pub ready: bool,
    /// It answers.
    pub serving: bool,
    /// It is going away.
    pub terminating: bool,
    /// It is on this node.
    pub local: bool,
    /// It is behind a node that gives no sign of life.
    pub unreachable: bool,
}

/// Which of the ready endpoints are near enough.
enum Near<'a> {
    ThisNode,
    Zone(&'a str),
    Anywhere,
}

/// An endpoint with one of its ports.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    key: BackendKey,
    endpoint: &'a KeptEndpoint,
}

// === impl KeptEndpoint ===

impl KeptEndpoint {
    pub(super) fn new(
        endpoint: &Endpoint,
        node: &NodeName,
        strings: &mut Interned<str>,
        zone_lists: &mut Interned<[Arc<str>]>,
    ) -> Self {
        let here = |name: &Arc<str>| **name == *node.as_str();
        let flags = [
            (READY, endpoint.ready),
            (SERVING, endpoint.serving),
            (TERMINATING, endpoint.terminating),
            (LOCAL, endpoint.node.as_ref().is_some_and(here)),
            (HAS_NODE_HINTS, !endpoint.for_nodes.is_empty()),
            (FOR_THIS_NODE, endpoint.for_nodes.iter().any(here)),
        ];
        let for_zones = (!endpoint.for_zones.is_empty()).then(|| {
            let zones: Arc<[Arc<str>]> = endpoint.for_zones.iter().map(|zone| strings.one(zone)).collect();
            zone_lists.one(&zones)
        });
        Self {
            for_zones,
            address: endpoint.address,
            flags: flags.iter().filter(|(_, set)| *set).map(|(flag, _)| flag).sum(),
        }
    }

    pub(super) fn address(&self) -> IpAddr {
        self.address
    }

    fn is(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// It takes new connections while no endpoint is ready.
    fn is_draining(&self) -> bool {
        self.is(SERVING) && self.is(TERMINATING)
    }

    /// It cannot be reached now, whatever the API says of it.
    fn is_beyond(&self, unreachable: &Unreachable) -> bool {
        !unreachable.is_empty() && !self.is(LOCAL) && unreachable.has(self.address)
    }

    fn is_for_zone(&self, zone: &str) -> bool {
        self.for_zones.iter().flat_map(|zones| zones.iter()).any(|one| **one == *zone)
    }
}

// === impl ClusterDns ===

impl ClusterDns {
    /// The DNS Service of these addresses, on this node; nothing without addresses. Which of the other nodes stand in differs from
    /// node to node, so that no few of them have everybody's load.
    pub fn new(addresses: &[IpAddr], node: &NodeName, peers: &[&Peer]) -> Self {
        if addresses.is_empty() {
            return Self::default();
        }
        let mut order: Vec<(u64, &&Peer)> = (peers.iter())
            .map(|peer| {
                let mut hasher = DefaultHasher::new();
                (node.as_str(), peer.name.as_str()).hash(&mut hasher);
                (hasher.finish(), peer)
            })
            .collect();
        order.sort_by_key(|(number, peer)| (*number, peer.name.as_str()));
        let stand_ins = (order.iter().take(STAND_INS))
            .flat_map(|(_, peer)| &peer.pod_ranges)
            .filter_map(|range| PodRange::new(*range).ok())
            .map(|range| range.path_address());
        Self { addresses: addresses.to_vec(), stand_ins: stand_ins.collect() }
    }

    /// Whether the Service is the cluster DNS.
    pub(super) fn is_of(&self, service: &Service) -> bool {
        service.cluster_ips.iter().any(|address| self.addresses.contains(address))
    }

    fn stand_ins(&self, port: u16, ipv6: bool) -> Arc<[BackendKey]> {
        let mut keys: Vec<BackendKey> = (self.stand_ins.iter())
            .filter(|address| address.is_ipv6() == ipv6)
            .map(|address| BackendKey { address: *address, port })
            .collect();
        keys.sort();
        keys.dedup();
        keys.into()
    }
}

/// How many endpoints are beyond reach.
pub(super) fn beyond(slices: &[Slice], unreachable: &Unreachable) -> usize {
    let endpoints = slices.iter().flat_map(|slice| &slice.endpoints);
    endpoints.filter(|endpoint| endpoint.is_beyond(unreachable)).count()
}

/// Whether reach is not the same for all endpoints of a slice.
pub(super) fn differs(slice: &Slice, one: &Unreachable, other: &Unreachable) -> bool {
    slice.endpoints.iter().any(|endpoint| endpoint.is_beyond(one) != endpoint.is_beyond(other))
}

/// Addresses of ready endpoints on this node.
pub(super) fn local_ready(slices: &[Slice]) -> BTreeSet<IpAddr> {
    let endpoints = slices
        .iter()
        .filter(|slice| slice.address_type != AddressType::Fqdn)
        .flat_map(|slice| &slice.endpoints);
    endpoints
        .filter(|endpoint| endpoint.is(READY) && endpoint.is(LOCAL))
        .map(|endpoint| endpoint.address)
        .collect()
}

/// What this port of the Service is reached by in this family; sorted, no address and port twice.
pub(super) fn frontends(service: &Service, port: &ServicePort, ipv6: bool, node: &ThisNode) -> Vec<Frontend> {
    if !service.is_served() || !service.has_family(ipv6) {
        return Vec::new();
    }
    let at = |kind, port| move |address: &IpAddr| Frontend { address: *address, port, kind };
    let mut all: Vec<Frontend> =
        service.cluster_ips.iter().map(at(FrontendKind::ClusterIp, port.port)).collect();
    let free = |address: &&IpAddr| node.protected.why_not(**address).is_none();
    all.extend(service.external_ips.iter().filter(free).map(at(FrontendKind::ExternalIp, port.port)));
    if service.kind == ServiceType::LoadBalancer {
        let answered =
            service.ingress.iter().filter(|ingress| !ingress.proxy).map(|ingress| &ingress.address);
        all.extend(answered.map(at(FrontendKind::LoadBalancer, port.port)));
    }
    if let ServiceType::NodePort | ServiceType::LoadBalancer = service.kind
        && let Some(node_port) = port.node_port
    {
        all.extend(node.addresses.iter().map(at(FrontendKind::NodePort, node_port)));
    }
    all.retain(|frontend| frontend.address.is_ipv6() == ipv6);
    all.sort();
    all.dedup_by_key(|frontend| (frontend.address, frontend.port));
    all
}

/// How the port is served, given the frontends that are its own.
pub(super) fn plan(
    service: &Service,
    port: &ServicePort,
    ipv6: bool,
    frontends: Vec<Frontend>,
    slices: &[Slice],
    node: &ThisNode,
) -> ServicePortPlan {
    let candidates = candidates(&port.name, port.protocol, ipv6, slices);
    let beyond = |one: &Candidate| one.endpoint.is_beyond(&node.unreachable);
    let within: Vec<Candidate> = candidates.iter().filter(|one| !beyond(one)).copied().collect();
    let mut cluster: Arc<[BackendKey]> = near_enough(&within, node);
    let local = local(&candidates, &cluster);
    let mut stand_ins = Arc::default();
    if cluster.is_empty() && node.dns.is_of(service) {
        stand_ins = node.dns.stand_ins(port.port, ipv6);
        cluster = Arc::clone(&stand_ins);
    }
    // What is beyond reach is avoided for others, never for nothing.
    let others = !cluster.is_empty();
    if !others {
        cluster = near_enough(&candidates, node);
    }
    let anywhere = candidates.iter().any(|one| one.endpoint.is(READY) || one.endpoint.is_draining());
    let serving = |one: &Candidate| one.endpoint.is(SERVING) && !(others && beyond(one));
    let mut known: Vec<BackendState> = (candidates.iter())
        .map(|one| BackendState { key: one.key, serving: serving(one) })
        .chain(stand_ins.iter().map(|key| BackendState { key: *key, serving: true }))
        .collect();
    known.sort_by_key(|state| state.key);
    known.dedup_by_key(|state| state.key);
    // The only agent that could answer is away: who hears nothing asks again, who is refused gives up.
    let nobody = if node.dns.is_of(service) { WhenEmpty::Drop } else { WhenEmpty::Reject };
    let by_policy = |policy| match policy {
        TrafficPolicy::Cluster => Choice { backends: Arc::clone(&cluster), when_empty: nobody },
        TrafficPolicy::Local => Choice {
            backends: Arc::clone(&local),
            // Other nodes do serve it: it is only not to be had here.
            when_empty: if local.is_empty() && anywhere { WhenEmpty::Drop } else { WhenEmpty::Reject },
        },
    };
    let ranges = service.let_in();
    let mut source_ranges: Vec<_> = ranges
        .unwrap_or_default()
        .iter()
        .filter(|range| range.addr().is_ipv6() == ipv6)
        .map(ipnet::IpNet::trunc)
        .collect();
    source_ranges.sort();
    source_ranges.dedup();
    ServicePortPlan {
        frontends,
        internal: by_policy(service.internal_policy),
        cluster: by_policy(TrafficPolicy::Cluster),
        external: by_policy(service.external_policy),
        known: known.into(),
        affinity_seconds: service.affinity_seconds,
        source_ranges,
        nobody_else: ranges.is_some(),
    }
}

/// The endpoints of a Service port.
pub(super) fn endpoints(
    port: &str,
    protocol: Protocol,
    ipv6: bool,
    slices: &[Slice],
    unreachable: &Unreachable,
) -> Vec<EndpointState> {
    let state = |one: &Candidate| EndpointState {
        key: one.key,
        ready: one.endpoint.is(READY),
        serving: one.endpoint.is(SERVING),
        terminating: one.endpoint.is(TERMINATING),
        local: one.endpoint.is(LOCAL),
        unreachable: one.endpoint.is_beyond(unreachable),
    };
    candidates(port, protocol, ipv6, slices).iter().map(state).collect()
}

/// All endpoints of the port, by key; of one that stands in several slices the one that counts.
fn candidates<'a>(port: &str, protocol: Protocol, ipv6: bool, slices: &'a [Slice]) -> Vec<Candidate<'a>> {
    let family = if ipv6 { AddressType::Ipv6 } else { AddressType::Ipv4 };
    let mut all = Vec::new();
    for slice in slices.iter().filter(|slice| slice.address_type == family) {
        let same = |one: &&SlicePort| *one.name == *port && one.protocol == protocol;
        for target in slice.ports.iter().filter(same) {
            all.extend(slice.endpoints.iter().map(|endpoint| Candidate {
                key: BackendKey { address: endpoint.address, port: target.port },
                endpoint,
            }));
        }
    }
    // Stable: of equal ones that of the first slice by name.
    all.sort_by_key(|one| {
        let Candidate { key, endpoint } = one;
        (*key, endpoint.is(TERMINATING), Reverse(endpoint.is(READY)), Reverse(endpoint.is(SERVING)))
    });
    all.dedup_by_key(|one| one.key);
    all
}

/// Policy Cluster: the ready endpoints that are near enough; when there is none, those that drain.
fn near_enough(candidates: &[Candidate], node: &ThisNode) -> Arc<[BackendKey]> {
    let near = near(candidates, node);
    let chosen = |one: &&Candidate| {
        one.endpoint.is(READY)
            && match near {
                Near::ThisNode => one.endpoint.is(FOR_THIS_NODE),
                Near::Zone(zone) => one.endpoint.is_for_zone(zone),
                Near::Anywhere => true,
            }
    };
    let ready: Arc<[BackendKey]> = candidates.iter().filter(chosen).map(|one| one.key).collect();
    if !ready.is_empty() {
        return ready;
    }
    candidates.iter().filter(|one| one.endpoint.is_draining()).map(|one| one.key).collect()
}

/// Policy Local: the ready endpoints of this node; when there is none, those of it that drain.
fn local(candidates: &[Candidate], cluster: &Arc<[BackendKey]>) -> Arc<[BackendKey]> {
    let here = || candidates.iter().filter(|one| one.endpoint.is(LOCAL));
    let mut keys: Vec<BackendKey> = here().filter(|one| one.endpoint.is(READY)).map(|one| one.key).collect();
    if keys.is_empty() {
        keys = here().filter(|one| one.endpoint.is_draining()).map(|one| one.key).collect();
    }
    if keys == **cluster { Arc::clone(cluster) } else { keys.into() }
}

/// Hints count when every ready endpoint carries them and one at least is for here; those for nodes before those for zones.
fn near<'a>(candidates: &[Candidate], node: &'a ThisNode) -> Near<'a> {
    let ready = || candidates.iter().map(|one| one.endpoint).filter(|endpoint| endpoint.is(READY));
    let all = |hinted: fn(&KeptEndpoint) -> bool| ready().all(hinted);
    if all(|endpoint| endpoint.is(HAS_NODE_HINTS)) && ready().any(|endpoint| endpoint.is(FOR_THIS_NODE)) {
        return Near::ThisNode;
    }
    let Some(zone) = node.zone.as_deref() else { return Near::Anywhere };
    if all(|endpoint| endpoint.for_zones.is_some()) && ready().any(|endpoint| endpoint.is_for_zone(zone)) {
        return Near::Zone(zone);
    }
    Near::Anywhere
}
