//! What a node serves: frontends and the backends behind them.

use std::{fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::Protocol;

/// Namespace and name of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// The Service's namespace.
    pub namespace: Arc<str>,
    /// The Service's name.
    pub name: Arc<str>,
}

/// One port of a Service in one family: the unit that is planned and programmed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServicePortKey {
    /// The Service.
    pub service: ServiceKey,
    /// The port's name; empty for the only, unnamed one.
    pub port: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// Of the frontends and the backends: IPv6 or IPv4.
    pub ipv6: bool,
}

/// How a port of a Service is served on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePortPlan {
    /// What it is reached by; sorted, none twice.
    pub frontends: Vec<Frontend>,
    /// For connections to the cluster IP, wherever they come from (`internalTrafficPolicy`).
    pub internal: Choice,
    /// For connections to all other frontends from Pods and from this node itself.
    pub cluster: Choice,
    /// For connections to all other frontends from outside (`externalTrafficPolicy`).
    pub external: Choice,
    /// Every endpoint that there is, chosen or not: connections to these may go on. Sorted by key, none twice.
    pub known: Arc<[BackendState]>,
    /// How long a client comes back to the same backend, in seconds; `None` is not at all.
    pub affinity_seconds: Option<u32>,
    /// Who may come to the frontends of kind [`FrontendKind::LoadBalancer`]: of this family; empty is everybody unless
    /// `nobody_else`.
    pub source_ranges: Vec<IpNet>,
    /// There are source ranges (perhaps only of the other family): who is not in them may not come.
    pub nobody_else: bool,
}

/// An address and port that a Service is reached by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Frontend {
    /// The address.
    pub address: IpAddr,
    /// The port, host byte order.
    pub port: u16,
    /// What kind of address it is.
    pub kind: FrontendKind,
}

/// Kinds of frontends. Their order is kube-proxy's: of several who name one address and port the first kind has it. Addresses of
/// Services come before ports of nodes (there, the rule of node ports is the last one), and those before ports of Pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum FrontendKind {
    /// The Service's own address.
    ClusterIp,
    /// An address in `status.loadBalancer`.
    LoadBalancer,
    /// One of `spec.externalIPs`.
    ExternalIp,
    /// An address of this node and the Service's node port.
    NodePort,
    /// An address of this node and a Pod's `hostPort`.
    HostPort,
}

/// The backends that new connections are spread over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The backends; sorted, none twice. Choices that are equal share one list.
    pub backends: Arc<[BackendKey]>,
    /// What a connection meets when there is none.
    pub when_empty: WhenEmpty,
}

/// What a connection meets where there is no backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum WhenEmpty {
    /// It is refused at once.
    #[default]
    Reject,
    /// Its packets are dropped.
    Drop,
}

/// Address and port of an endpoint; the protocol is its Service port's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BackendKey {
    /// Its address.
    pub address: IpAddr,
    /// Its port, host byte order.
    pub port: u16,
}

/// An endpoint of a Service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BackendState {
    /// Which one.
    pub key: BackendKey,
    /// It answers, be it terminating or not.
    pub serving: bool,
}

// === impl ServiceKey ===

impl ServiceKey {
    /// The Service `namespace/name`.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

// === impl ServicePortKey ===

impl fmt::Display for ServicePortKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.ipv6 { "IPv6" } else { "IPv4" };
        write!(f, "{}", self.service)?;
        if !self.port.is_empty() {
            write!(f, ":{}", self.port)?;
        }
        write!(f, " ({}, {family})", self.protocol)
    }
}
