//! Ports of the node that lead to Pods (`hostPort`, CNI `portMappings`): frontends like those of Services, which no Service has.

use std::{net::IpAddr, sync::Arc};

use weft_model::{
    PortMapping, Protocol,
    services::{
        BackendKey, BackendState, Choice, Frontend, FrontendKind, ServiceKey, ServicePortKey,
        ServicePortPlan, WhenEmpty,
    },
};

impl super::Services {
    /// The ports of the node that lead to these Pods.
    pub(crate) fn host_ports_to(&self, pods: &[IpAddr]) -> Vec<ServicePortKey> {
        let served = self.installed.iter().map(|(key, installed)| (key, &installed.plan));
        let waiting = self.refused.iter().map(|(key, (plan, _))| (key, plan));
        served
            .chain(waiting)
            .filter(|(_, plan)| is_host_port(plan))
            .filter(|(_, plan)| plan.known.iter().any(|backend| pods.contains(&backend.key.address)))
            .map(|(key, _)| key.clone())
            .collect()
    }
}

/// In the place of a Service's namespace, where no Service is.
const NAMESPACE: &str = "";

/// In the place of a Service's name: on every address of the node, and on loopback.
const EVERYWHERE: &str = "*";

/// Whether a Service port is a port of the node instead.
pub(super) fn is_of_host(key: &ServicePortKey) -> bool {
    &*key.service.namespace == NAMESPACE
}

/// Whether processes of the node reach it on loopback as well.
pub(super) fn is_on_loopback(key: &ServicePortKey) -> bool {
    is_of_host(key) && &*key.service.name == EVERYWHERE
}

/// What a port of the node is known by: on one address, or on all of a family.
pub(super) fn key(on: Option<IpAddr>, port: u16, protocol: Protocol, ipv6: bool) -> ServicePortKey {
    let on = on.map_or_else(|| EVERYWHERE.to_owned(), |address| address.to_string());
    ServicePortKey { service: ServiceKey::new(NAMESPACE, on), port: port.to_string().into(), protocol, ipv6 }
}

/// Whether it is a port of the node instead of a Service's.
pub(super) fn is_host_port(plan: &ServicePortPlan) -> bool {
    plan.frontends.iter().any(|frontend| frontend.kind == FrontendKind::HostPort)
}

/// How a mapping to a Pod's address is served; nothing for the other family.
pub(crate) fn host_port_plan(
    mapping: &PortMapping,
    pod: IpAddr,
    node_addresses: &[IpAddr],
) -> Option<(ServicePortKey, ServicePortPlan)> {
    let addresses: Vec<IpAddr> = match host_ip(mapping) {
        Some(address) if address.is_ipv6() == pod.is_ipv6() => vec![address],
        // An unspecified address stands for its family.
        None if mapping.host_ip.is_none_or(|address| address.is_ipv6() == pod.is_ipv6()) => {
            node_addresses.iter().copied().filter(|address| address.is_ipv6() == pod.is_ipv6()).collect()
        }
        _ => return None,
    };
    Some((
        key(host_ip(mapping), mapping.host_port, mapping.protocol, pod.is_ipv6()),
        plan(addresses, mapping.host_port, pod, mapping.container_port),
    ))
}

/// A plan with one backend.
pub(super) fn plan(addresses: Vec<IpAddr>, port: u16, pod: IpAddr, pod_port: u16) -> ServicePortPlan {
    let key = BackendKey { address: pod, port: pod_port };
    let choice = Choice { backends: Arc::from([key]), when_empty: WhenEmpty::Reject };
    let mut frontends: Vec<Frontend> = addresses
        .into_iter()
        .map(|address| Frontend { address, port, kind: FrontendKind::HostPort })
        .collect();
    frontends.sort();
    frontends.dedup();
    ServicePortPlan {
        frontends,
        internal: choice.clone(),
        cluster: choice.clone(),
        external: choice,
        known: Arc::from([BackendState { key, serving: true }]),
        affinity_seconds: None,
        source_ranges: Vec::new(),
        nobody_else: false,
    }
}

/// An unspecified address is every address.
fn host_ip(mapping: &PortMapping) -> Option<IpAddr> {
    mapping.host_ip.filter(|address| !address.is_unspecified())
}
