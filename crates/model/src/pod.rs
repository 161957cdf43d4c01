//! Pods as the network sees them.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::NodeName;

/// Namespace and name of a Pod; unique in the cluster at one time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PodKey {
    /// The Pod's namespace.
    pub namespace: String,
    /// The Pod's name.
    pub name: String,
}

/// What of a Pod the network uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Namespace and name.
    pub key: PodKey,
    /// The object's UID: tells a Pod from its successor of the same name.
    pub uid: String,
    /// The node that it is bound to.
    pub node: Option<NodeName>,
    /// `status.podIPs`: at most one a family.
    pub ips: Vec<IpAddr>,
    /// The Pod shares its node's network namespace.
    pub host_network: bool,
    /// Where in its life the Pod is.
    pub phase: Phase,
    /// How it looks for names.
    #[serde(default)]
    pub dns: PodDns,
}

/// How a Pod's resolv.conf is written: `spec.dnsPolicy` and `spec.dnsConfig`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodDns {
    /// `spec.dnsPolicy`.
    pub policy: DnsPolicy,
    /// `spec.dnsConfig.searches`, after those of the policy.
    pub searches: Vec<String>,
    /// The option `ndots` of `spec.dnsConfig`, in place of the policy's.
    pub ndots: Option<usize>,
}

/// `spec.dnsPolicy` of a Pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DnsPolicy {
    /// The cluster's DNS; the node's for Pods of the host network.
    #[default]
    ClusterFirst,
    /// The cluster's DNS, of the host network or not.
    ClusterFirstWithHostNet,
    /// As the node.
    Default,
    /// As `spec.dnsConfig` says, and nothing else.
    None,
}

/// `status.phase` of a Pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// Accepted, not all containers started.
    Pending,
    /// Bound and started.
    Running,
    /// All containers ended well; its address may be reused.
    Succeeded,
    /// All containers ended, one at least badly; its address may be reused.
    Failed,
    /// The node has not been heard of.
    #[default]
    Unknown,
}

/// A transport protocol that ports belong to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP, the default of the API.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A port of the node that leads to a port of the Pod (`hostPort`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortMapping {
    /// The node's address that it listens on; `None` is all of them.
    pub host_ip: Option<IpAddr>,
    /// The node's port, host byte order.
    pub host_port: u16,
    /// The Pod's port, host byte order.
    pub container_port: u16,
    /// TCP, UDP or SCTP: the same number on two protocols is two mappings.
    pub protocol: Protocol,
}

/// Limits on a Pod's traffic, seen from the Pod. Rates in bits per second, bursts in bits; 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Bandwidth {
    /// Rate towards the Pod, bits per second.
    pub ingress_rate: u64,
    /// Burst towards the Pod, bits.
    pub ingress_burst: u64,
    /// Rate from the Pod, bits per second.
    pub egress_rate: u64,
    /// Burst from the Pod, bits.
    pub egress_burst: u64,
}

// === impl PodKey ===

impl PodKey {
    /// The Pod `namespace/name`.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

// === impl Phase ===

impl Phase {
    /// The Pod is over: it counts no longer, and its address may be another's.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

// === impl Protocol ===

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}
