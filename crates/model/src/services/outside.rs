//! What of Services others than the data plane want to know.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use super::{Service, TrafficPolicy};

/// Ready endpoints on this node: different addresses, terminating ones not among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalEndpoints {
    /// IPv4 ones.
    pub ipv4: usize,
    /// IPv6 ones.
    pub ipv6: usize,
}

/// What load balancers ask a node: does this Service have endpoints here?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The Service's UID.
    pub uid: Arc<str>,
    /// `spec.healthCheckNodePort`.
    pub port: u16,
    /// The Service has an IPv4 address: it is asked there.
    pub on_ipv4: bool,
    /// The same for IPv6.
    pub on_ipv6: bool,
    /// The answer.
    pub local: LocalEndpoints,
}

/// A Service with addresses from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadBalancer {
    /// The Service's UID.
    pub uid: Arc<str>,
    /// Its addresses that nodes answer for (`ipMode` is not Proxy); sorted.
    pub addresses: Box<[IpAddr]>,
    /// Only nodes with endpoints can serve it (`externalTrafficPolicy: Local`).
    pub local_only: bool,
    /// Those of this node.
    pub local: LocalEndpoints,
}

// === impl LocalEndpoints ===

impl LocalEndpoints {
    pub(super) fn count(addresses: &BTreeSet<IpAddr>) -> Self {
        let ipv6 = addresses.iter().filter(|address| address.is_ipv6()).count();
        Self { ipv4: addresses.len() - ipv6, ipv6 }
    }

    /// Those of one family.
    pub fn of(self, ipv6: bool) -> usize {
        if ipv6 { self.ipv6 } else { self.ipv4 }
    }
}

// === impl HealthCheck ===

impl HealthCheck {
    pub(super) fn of(service: &Service, local: LocalEndpoints) -> Option<Self> {
        let asked = service.is_outside() && service.external_policy == TrafficPolicy::Local;
        let port = service.health_check_port.filter(|_| asked)?;
        Some(Self {
            uid: Arc::clone(&service.uid),
            port,
            on_ipv4: service.has_family(false),
            on_ipv6: service.has_family(true),
            local,
        })
    }
}

// === impl LoadBalancer ===

impl LoadBalancer {
    pub(super) fn of(service: &Service, local: LocalEndpoints) -> Option<Self> {
        if !service.is_outside() {
            return None;
        }
        let answered = service.ingress.iter().filter(|ingress| !ingress.proxy);
        let addresses: BTreeSet<IpAddr> = answered.map(|ingress| ingress.address).collect();
        if addresses.is_empty() {
            return None;
        }
        Some(Self {
            uid: Arc::clone(&service.uid),
            addresses: addresses.into_iter().collect(),
            local_only: service.external_policy == TrafficPolicy::Local,
            local,
        })
    }
}
