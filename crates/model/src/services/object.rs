//! Services and EndpointSlices as the network sees them.

use std::{fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use super::ServiceKey;
use crate::Protocol;

/// What is heard of Services and EndpointSlices. A list is `…Begin`, every object, `…End`: what was not in it is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A list of all Services begins; one that had begun before counts no more.
    ServicesBegin,
    /// The Service is this now.
    Service(Service),
    /// There is no such Service.
    ServiceGone(ServiceKey),
    /// That were all Services.
    ServicesEnd,
    /// A list of all EndpointSlices begins; one that had begun before counts no more.
    SlicesBegin,
    /// The EndpointSlice is this now.
    Slice(EndpointSlice),
    /// There is no such EndpointSlice.
    SliceGone(SliceKey),
    /// That were all EndpointSlices.
    SlicesEnd,
}

/// What of a Service the network uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub key: ServiceKey,
    /// The object's UID; Events need it.
    pub uid: Arc<str>,
    /// `spec.type`.
    pub kind: ServiceType,
    /// The label `service.kubernetes.io/service-proxy-name` or `service.kubernetes.io/headless` is set: somebody else's.
    pub not_ours: bool,
    /// `spec.clusterIPs`, the primary one first; empty for a headless Service, and before they are allocated.
    pub cluster_ips: Box<[IpAddr]>,
    /// `spec.clusterIP` is None: its name stands for its endpoints.
    pub headless: bool,
    /// `spec.externalName`; names the target only where the type is ExternalName.
    pub external_name: Option<Arc<str>>,
    /// `spec.ports`.
    pub ports: Box<[ServicePort]>,
    /// `spec.externalIPs`.
    pub external_ips: Box<[IpAddr]>,
    /// `status.loadBalancer.ingress`, as far as they are addresses.
    pub ingress: Box<[Ingress]>,
    /// `spec.internalTrafficPolicy`.
    pub internal_policy: TrafficPolicy,
    /// `spec.externalTrafficPolicy`.
    pub external_policy: TrafficPolicy,
    /// `spec.sessionAffinity` is ClientIP: for so many seconds.
    pub affinity_seconds: Option<u32>,
    /// `spec.loadBalancerSourceRanges`; `None` when there is no such list, and an empty one lets nobody in.
    pub source_ranges: Option<Box<[IpNet]>>,
    /// `spec.healthCheckNodePort`.
    pub health_check_port: Option<u16>,
}

/// `spec.type` of a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ServiceType {
    /// Reached by its own address.
    #[default]
    ClusterIp,
    /// And by a port of every node.
    NodePort,
    /// And by addresses from outside.
    LoadBalancer,
    /// A name in DNS, nothing else.
    ExternalName,
}

/// Which endpoints traffic may go to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TrafficPolicy {
    /// All of them.
    #[default]
    Cluster,
    /// Those of the node that the traffic is on.
    Local,
}

/// A port of a Service. Its `targetPort` is not of interest: EndpointSlices have it resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; empty for the only, unnamed one. Ports of EndpointSlices have the same.
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port, host byte order.
    pub port: u16,
    /// The port of every node; `None` where none is allocated.
    pub node_port: Option<u16>,
}

/// An address in `status.loadBalancer.ingress`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ingress {
    /// The address.
    pub address: IpAddr,
    /// `ipMode` is Proxy: packets come from there to a node port or a Pod, never to this address.
    pub proxy: bool,
}

/// Namespace and name of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SliceKey {
    /// The slice's namespace.
    pub namespace: Arc<str>,
    /// The slice's name.
    pub name: Arc<str>,
}

/// What of an EndpointSlice the network uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Namespace and name.
    pub key: SliceKey,
    /// The Service of the same namespace that it belongs to: the label `kubernetes.io/service-name`.
    pub service: Arc<str>,
    /// `addressType`.
    pub address_type: AddressType,
    /// `ports`; those without a number are left out.
    pub ports: Box<[SlicePort]>,
    /// `endpoints`; those without an address are left out.
    pub endpoints: Box<[Endpoint]>,
}

/// `addressType` of an EndpointSlice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddressType {
    /// IPv4 addresses.
    Ipv4,
    /// IPv6 addresses.
    Ipv6,
    /// Names: not for the data plane.
    Fqdn,
}

/// A port of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlicePort {
    /// The Service port's name.
    pub name: Arc<str>,
    /// The Service port's protocol.
    pub protocol: Protocol,
    /// The endpoints' port, host byte order.
    pub port: u16,
}

/// An endpoint of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `addresses[0]`.
    pub address: IpAddr,
    /// `conditions.ready`; absent is true.
    pub ready: bool,
    /// `conditions.serving`; absent is as `ready`.
    pub serving: bool,
    /// `conditions.terminating`; absent is false.
    pub terminating: bool,
    /// `nodeName`.
    pub node: Option<Arc<str>>,
    /// `hostname`: its name within a Service's.
    pub hostname: Option<Arc<str>>,
    /// `hints.forNodes`.
    pub for_nodes: Box<[Arc<str>]>,
    /// `hints.forZones`.
    pub for_zones: Box<[Arc<str>]>,
}

// === impl Service ===

impl Service {
    /// The node serves it: it has an address, and nobody else answers for it.
    pub fn is_served(&self) -> bool {
        !self.not_ours && self.kind != ServiceType::ExternalName && !self.cluster_ips.is_empty()
    }

    /// It may have addresses that are reached from outside.
    pub(super) fn is_outside(&self) -> bool {
        self.is_served() && self.kind == ServiceType::LoadBalancer
    }

    /// Who may come to its LoadBalancer addresses: `None` for everybody.
    pub(super) fn let_in(&self) -> Option<&[IpNet]> {
        self.source_ranges.as_deref().filter(|_| self.kind == ServiceType::LoadBalancer)
    }

    /// It is reached in this family.
    pub fn has_family(&self, ipv6: bool) -> bool {
        self.cluster_ips.iter().any(|address| address.is_ipv6() == ipv6)
    }
}

// === impl SliceKey ===

impl SliceKey {
    /// The EndpointSlice `namespace/name`.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for SliceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
