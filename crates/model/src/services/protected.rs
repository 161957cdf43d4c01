//! Addresses that a Service may not take: whose they are, and who tried.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use ipnet::IpNet;

use super::{ServiceKey, SliceKey};

/// What `externalIPs` may not name, since it is somebody's already. What the planner learns itself (the endpoints of
/// `default/kubernetes`) is not part of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Protected {
    /// No Service may have external addresses at all.
    pub all: bool,
    /// Ranges of Pods.
    pub pod_ranges: BTreeSet<IpNet>,
    /// Ranges of Services.
    pub service_ranges: BTreeSet<IpNet>,
    /// Addresses of nodes.
    pub nodes: BTreeSet<IpAddr>,
    /// Addresses of API servers.
    pub api_servers: BTreeSet<IpAddr>,
}

/// Why an address is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// `externalIPs` are turned off.
    Off,
    /// It lies in a range of Pods.
    Pods(IpNet),
    /// It lies in a range of Services.
    Services(IpNet),
    /// A node has it.
    Node,
    /// An API server has it.
    ApiServer,
    /// It means something else on every host: unspecified, loopback, link-local, multicast or broadcast.
    Special,
}

/// An address that a Service names and is not given.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// Whose object names it.
    pub service: ServiceKey,
    /// The EndpointSlice that has it as an endpoint; `None`: it is one of `spec.externalIPs`.
    pub slice: Option<SliceKey>,
    /// The address.
    pub address: IpAddr,
    /// Why it is not taken.
    pub why: Why,
}

/// Whether an address means something else on every host, so that nobody may have it as his own: unspecified, loopback,
/// link-local, multicast or broadcast, also as an IPv4-mapped one.
pub fn is_special(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            v4.octets()[0] == 0
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_broadcast()
        }
        IpAddr::V6(v6) => {
            v6.is_unspecified() || v6.is_loopback() || v6.is_unicast_link_local() || v6.is_multicast()
        }
    }
}

// === impl Protected ===

impl Protected {
    /// Why an endpoint may not have the address, if so: it means something else on every host, or leads to another Service and perhaps
    /// back. Ranges of Services hold for what is heard after them.
    pub fn why_no_endpoint(&self, address: IpAddr) -> Option<Why> {
        if is_special(address) {
            return Some(Why::Special);
        }
        self.service_ranges.iter().find(|range| range.contains(&address)).copied().map(Why::Services)
    }

    /// Why `externalIPs` may not name the address, if so.
    pub fn why_not(&self, address: IpAddr) -> Option<Why> {
        let within = |ranges: &BTreeSet<IpNet>| ranges.iter().find(|range| range.contains(&address)).copied();
        if self.all {
            Some(Why::Off)
        } else if is_special(address) {
            Some(Why::Special)
        } else if self.api_servers.contains(&address) {
            Some(Why::ApiServer)
        } else if self.nodes.contains(&address) {
            Some(Why::Node)
        } else {
            within(&self.service_ranges)
                .map(Why::Services)
                .or_else(|| within(&self.pod_ranges).map(Why::Pods))
        }
    }
}

// === impl Why ===

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("external addresses are turned off (--external-ips)"),
            Self::Pods(range) => write!(f, "it lies in the Pod range {range}"),
            Self::Services(range) => write!(f, "it lies in the Service range {range}"),
            Self::Node => f.write_str("a node has it"),
            Self::ApiServer => f.write_str("an API server has it"),
            Self::Special => f.write_str(
                "it is unspecified, loopback, link-local or multicast: something else on every host",
            ),
        }
    }
}

// === impl Refusal ===

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, slice, address, why } = self;
        match slice {
            None => write!(
                f,
                "Service {service} is not reached by {address} (spec.externalIPs): {why}; remove it there"
            ),
            Some(slice) => write!(
                f,
                "Service {service} does not use the endpoint {address} of EndpointSlice {slice}: {why}; remove it there"
            ),
        }
    }
}
