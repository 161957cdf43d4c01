//! What a planner knows.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{
    super::{Conflict, EndpointState, Refusal, Service, ServiceKey, ServicePortKey, choose, claims::place},
    API, Counts, Planner,
};
use crate::Protocol;

impl Planner {
    /// What several Services claim, and who of them is not reached by it.
    pub fn conflicts(&self) -> Vec<Conflict> {
        self.claims.conflicts().map(Conflict::new).collect()
    }

    /// Addresses that Services name and are not given, sorted.
    pub fn refusals(&self) -> Vec<Refusal> {
        let external = self.external.iter().filter_map(|key| self.service(key)).flat_map(|service| {
            service.external_ips.iter().filter_map(|address| {
                let why = self.node.protected.why_not(*address)?;
                Some(Refusal { service: service.key.clone(), slice: None, address: *address, why })
            })
        });
        // A slice may outlive its Service; then nobody misses its endpoints.
        let slices =
            self.refused_endpoints.iter().filter(|(_, (service, _))| self.service(service).is_some());
        let endpoints = slices.flat_map(|(slice, (service, addresses))| {
            addresses.iter().map(|(address, why)| Refusal {
                service: service.clone(),
                slice: Some(slice.clone()),
                address: *address,
                why: *why,
            })
        });
        let mut all: Vec<Refusal> = external.chain(endpoints).collect();
        all.sort();
        all.dedup();
        all
    }

    /// The Service that has an address and port of this node.
    pub fn holder(&self, address: IpAddr, port: u16, protocol: Protocol) -> Option<&ServiceKey> {
        self.claims.holder(&place(address, port, protocol)).map(|claimant| &claimant.service)
    }

    /// Whether an API server listens at an address and port.
    pub fn is_api_server(&self, address: IpAddr, port: u16) -> bool {
        let api = self.services.get(&ServiceKey::new(API.0, API.1));
        api.into_iter().flat_map(|entry| &entry.slices).any(|slice| {
            slice.ports.iter().any(|one| one.port == port)
                && slice.endpoints.iter().any(|endpoint| endpoint.address() == address)
        })
    }

    /// The Services that a port of this node answers health checks for.
    pub fn health_check_ports(&self) -> impl Iterator<Item = (u16, &ServiceKey)> {
        self.services
            .iter()
            .filter_map(|(key, entry)| Some((entry.outside.as_ref()?.health_check.as_ref()?.port, key)))
    }

    /// Services of type LoadBalancer without an address.
    pub fn without_address(&self) -> impl Iterator<Item = &Service> {
        let services = self.services.values().filter_map(|entry| entry.service.as_deref());
        services.filter(|service| service.is_outside() && service.ingress.is_empty())
    }

    /// The Service as it was last heard of.
    pub fn service(&self, key: &ServiceKey) -> Option<&Service> {
        self.services.get(key)?.service.as_deref()
    }

    /// The endpoints of a Service port, chosen or not; sorted by key, none twice.
    pub fn endpoints(&self, key: &ServicePortKey) -> Vec<EndpointState> {
        let Some(entry) = self.services.get(&key.service) else { return Vec::new() };
        choose::endpoints(&key.port, key.protocol, key.ipv6, &entry.slices, &self.node.unreachable)
    }

    /// Who may come to the LoadBalancer addresses of a Service: `None` for everybody.
    pub fn source_ranges(&self, key: &ServiceKey) -> Option<&[IpNet]> {
        self.services.get(key)?.service.as_deref()?.let_in()
    }

    /// How much is known.
    pub fn counts(&self) -> Counts {
        let services = self.services.values().filter(|entry| entry.service.is_some()).count();
        Counts { services, slices: self.slices.len(), endpoints: self.endpoints }
    }

    /// Endpoints behind nodes that give no sign of life.
    pub fn unreachable_endpoints(&self) -> usize {
        if self.node.unreachable.is_empty() {
            return 0;
        }
        self.services.values().map(|entry| choose::beyond(&entry.slices, &self.node.unreachable)).sum()
    }
}
