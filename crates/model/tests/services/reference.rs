//! The plan, written straight from the rules and without a thought for cost.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use weft_model::services::{
    AddressType, BackendKey, BackendState, Choice, Endpoint, EndpointSlice, Frontend, FrontendKind, Service,
    ServiceKey, ServicePort, ServicePortKey, ServicePortPlan, ServiceType, SliceKey, ThisNode, TrafficPolicy,
    WhenEmpty,
};

pub type Plan = BTreeMap<ServicePortKey, ServicePortPlan>;

/// All that the API has.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub services: BTreeMap<ServiceKey, Service>,
    pub slices: BTreeMap<SliceKey, EndpointSlice>,
}

impl World {
    pub fn plan(&self, node: &ThisNode) -> Plan {
        let mut plan = Plan::new();
        for (service, port, ipv6) in self.ports() {
            let key = key(service, port, ipv6);
            plan.insert(key, self.plan_port(service, port, ipv6, node));
        }
        plan
    }

    fn ports(&self) -> impl Iterator<Item = (&Service, &ServicePort, bool)> {
        let all = self.services.values().flat_map(|service| {
            service.ports.iter().flat_map(move |port| [(service, port, false), (service, port, true)])
        });
        all.filter(|(service, _, ipv6)| {
            !service.not_ours
                && service.kind != ServiceType::ExternalName
                && service.cluster_ips.iter().any(|address| address.is_ipv6() == *ipv6)
        })
    }

    fn plan_port(
        &self,
        service: &Service,
        port: &ServicePort,
        ipv6: bool,
        node: &ThisNode,
    ) -> ServicePortPlan {
        let endpoints = self.endpoints(service, port, ipv6);
        let ready: BTreeMap<_, _> = endpoints.iter().filter(|(_, one)| one.ready).collect();
        let draining: BTreeMap<_, _> =
            endpoints.iter().filter(|(_, one)| one.serving && one.terminating).collect();
        let is_here = |one: &Endpoint| one.node.as_deref() == Some(node.name.as_str());

        // Policy Cluster: of what can be reached, if there is any.
        let beyond = |key: &BackendKey, one: &Endpoint| !is_here(one) && node.unreachable.has(key.address);
        let within: BTreeMap<BackendKey, &Endpoint> = (endpoints.iter())
            .filter(|(key, one)| !beyond(key, one))
            .map(|(key, one)| (*key, *one))
            .collect();
        let mut cluster = chosen(&within, node);
        let others = !cluster.is_empty();
        if !others {
            cluster = chosen(&endpoints, node);
        }

        // Policy Local.
        let here = |all: &BTreeMap<&BackendKey, &&Endpoint>| -> BTreeSet<BackendKey> {
            all.iter().filter(|(_, one)| is_here(one)).map(|(key, _)| **key).collect()
        };
        let mut local = here(&ready);
        if local.is_empty() {
            local = here(&draining);
        }
        let usable_somewhere = !ready.is_empty() || !draining.is_empty();
        let choice = |policy| match policy {
            TrafficPolicy::Cluster => {
                Choice { backends: cluster.iter().copied().collect(), when_empty: WhenEmpty::Reject }
            }
            TrafficPolicy::Local if local.is_empty() && usable_somewhere => {
                Choice { backends: [].into(), when_empty: WhenEmpty::Drop }
            }
            TrafficPolicy::Local => {
                Choice { backends: local.iter().copied().collect(), when_empty: WhenEmpty::Reject }
            }
        };

        let ranges = service.source_ranges.clone().filter(|_| service.kind == ServiceType::LoadBalancer);
        let own_family: BTreeSet<_> = ranges
            .iter()
            .flat_map(|ranges| ranges.iter())
            .map(ipnet::IpNet::trunc)
            .filter(|range| range.network().is_ipv6() == ipv6)
            .collect();
        ServicePortPlan {
            frontends: self.frontends(service, port, ipv6, node),
            internal: choice(service.internal_policy),
            cluster: choice(TrafficPolicy::Cluster),
            external: choice(service.external_policy),
            known: endpoints
                .iter()
                .map(|(key, one)| {
                    let serving = one.serving && !(others && beyond(key, one));
                    BackendState { key: *key, serving }
                })
                .collect(),
            affinity_seconds: service.affinity_seconds,
            source_ranges: own_family.into_iter().collect(),
            nobody_else: ranges.is_some(),
        }
    }

    fn endpoints(
        &self,
        service: &Service,
        port: &ServicePort,
        ipv6: bool,
    ) -> BTreeMap<BackendKey, &Endpoint> {
        let family = if ipv6 { AddressType::Ipv6 } else { AddressType::Ipv4 };
        let mut all = BTreeMap::<BackendKey, &Endpoint>::new();
        for (key, slice) in &self.slices {
            if key.namespace != service.key.namespace || slice.service != service.key.name {
                continue;
            }
            if slice.address_type != family {
                continue;
            }
            for target in &slice.ports {
                if target.name != port.name || target.protocol != port.protocol {
                    continue;
                }
                for endpoint in &slice.endpoints {
                    let key = BackendKey { address: endpoint.address, port: target.port };
                    let worth = |one: &Endpoint| (!one.terminating, one.ready, one.serving);
                    match all.get(&key) {
                        Some(known) if worth(known) >= worth(endpoint) => {}
                        _ => drop(all.insert(key, endpoint)),
                    }
                }
            }
        }
        all
    }

    fn frontends(&self, service: &Service, port: &ServicePort, ipv6: bool, node: &ThisNode) -> Vec<Frontend> {
        let mut own = wanted(service, port, ipv6, node);
        own.retain(|&(address, number), &mut kind| {
            let rivals = self.ports().filter(|(_, rival, _)| rival.protocol == port.protocol);
            let first = rivals
                .filter_map(|(rival, rivals_port, family)| {
                    let kind = *wanted(rival, rivals_port, family, node).get(&(address, number))?;
                    Some((kind, rival.key.clone(), rivals_port.name.clone()))
                })
                .min();
            first == Some((kind, service.key.clone(), port.name.clone()))
        });
        own.into_iter().map(|((address, port), kind)| Frontend { address, port, kind }).collect()
    }
}

fn key(service: &Service, port: &ServicePort, ipv6: bool) -> ServicePortKey {
    ServicePortKey { service: service.key.clone(), port: port.name.clone(), protocol: port.protocol, ipv6 }
}

/// Address and port to the first kind that names it.
fn wanted(
    service: &Service,
    port: &ServicePort,
    ipv6: bool,
    node: &ThisNode,
) -> BTreeMap<(IpAddr, u16), FrontendKind> {
    let outside = matches!(service.kind, ServiceType::NodePort | ServiceType::LoadBalancer);
    let mut all = BTreeMap::new();
    let mut want = |address: IpAddr, number, kind| {
        if address.is_ipv6() == ipv6 {
            all.entry((address, number)).or_insert(kind);
        }
    };
    service.cluster_ips.iter().for_each(|one| want(*one, port.port, FrontendKind::ClusterIp));
    for ingress in &service.ingress {
        if service.kind == ServiceType::LoadBalancer && !ingress.proxy {
            want(ingress.address, port.port, FrontendKind::LoadBalancer);
        }
    }
    let protected = &node.protected;
    for one in service.external_ips.iter().filter(|one| !protected.all && !protected.nodes.contains(one)) {
        want(*one, port.port, FrontendKind::ExternalIp);
    }
    if let Some(number) = port.node_port.filter(|_| outside) {
        node.addresses.iter().for_each(|one| want(*one, number, FrontendKind::NodePort));
    }
    all
}

/// Policy Cluster: what is ready and near enough, or what drains.
fn chosen(endpoints: &BTreeMap<BackendKey, &Endpoint>, node: &ThisNode) -> BTreeSet<BackendKey> {
    let ready: BTreeMap<_, _> = endpoints.iter().filter(|(_, one)| one.ready).collect();
    let for_node = |one: &Endpoint| one.for_nodes.iter().any(|name| **name == *node.name.as_str());
    let for_zone = |one: &Endpoint| {
        node.zone.is_some() && one.for_zones.iter().any(|zone| Some(zone) == node.zone.as_ref())
    };
    let node_hints = ready.values().all(|one| !one.for_nodes.is_empty());
    let zone_hints = ready.values().all(|one| !one.for_zones.is_empty());
    if ready.is_empty() {
        let draining = endpoints.iter().filter(|(_, one)| one.serving && one.terminating);
        draining.map(|(key, _)| *key).collect()
    } else if node_hints && ready.values().any(|one| for_node(one)) {
        ready.iter().filter(|(_, one)| for_node(one)).map(|(key, _)| **key).collect()
    } else if zone_hints && ready.values().any(|one| for_zone(one)) {
        ready.iter().filter(|(_, one)| for_zone(one)).map(|(key, _)| **key).collect()
    } else {
        ready.keys().map(|key| **key).collect()
    }
}
