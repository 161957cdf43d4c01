//! Ports of the node that lead to Pods (`hostPort`, CNI `portMappings`): frontends like those of Services, which no Service has.

use std::{net::IpAddr, sync::Arc};

use weft_model::{
    PortMapping,
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

/// Whether it is a port of the node instead of a Service's.
pub(super) fn is_host_port(plan: &ServicePortPlan) -> bool {
    plan.frontends.iter().any(|frontend| frontend.kind == FrontendKind::HostPort)
}

/// What a mapping is known by: a port of one address, or of all of a family, on one protocol.
pub(crate) fn host_port_key(mapping: &PortMapping, ipv6: bool) -> ServicePortKey {
    let on = host_ip(mapping).map_or_else(|| "*".to_owned(), |address| address.to_string());
    ServicePortKey {
        service: ServiceKey::new(NAMESPACE, on),
        port: mapping.host_port.to_string().into(),
        protocol: mapping.protocol,
        ipv6,
    }
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
        host_port_key(mapping, pod.is_ipv6()),
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
