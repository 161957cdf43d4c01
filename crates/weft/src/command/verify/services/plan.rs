//! Who visits what, and what is to come of it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use weft_agent::admin::{BackendStatus, ServiceStatus, Visit};
use weft_lab::OutsideRecord;
use weft_model::{
    Protocol,
    services::{Frontend, FrontendKind},
};

use super::{Expected, From, Kind, Planned, Visitor};
use crate::command::{agents::Agent, verify::pairs::Endpoint};

/// Visits up to which everything is tried; beyond, a sample of the Services from every place.
const MOST_VISITS: usize = 6000;
/// Pods of a node that visit; the node itself does as well.
const PODS_A_NODE: usize = 2;

/// Which choice of backends a visitor meets.
type Chosen = fn(&BackendStatus) -> bool;

/// What a port is called: by its Service, or by its Pod and node.
pub(super) fn name(service: &ServiceStatus, agent: &Agent) -> String {
    if !service.host_port {
        return service_name(service);
    }
    let family = if service.ipv6 { " IPv6" } else { "" };
    let pod = pod(service, agent).unwrap_or_else(|| "a Pod without a name".into());
    format!("host port {} of {pod} on {} {}{family}", service.port, agent.status.node, service.protocol)
}

/// `namespace/name:port protocol`, and the family where it is IPv6.
pub(super) fn service_name(service: &ServiceStatus) -> String {
    let family = if service.ipv6 { " IPv6" } else { "" };
    let port = if service.port.is_empty() { String::new() } else { format!(":{}", service.port) };
    format!("{}/{}{port} {}{family}", service.namespace, service.name, service.protocol)
}

/// The Pod that a port of its node leads to.
fn pod(service: &ServiceStatus, agent: &Agent) -> Option<String> {
    let address = service.backends.first()?.key.address;
    let pods = &agent.status.pods;
    Some(pods.iter().find(|pod| pod.addresses.contains(&address))?.pod.as_ref()?.to_string())
}

/// A visit, unless nothing can be learned from one.
fn planned(
    service: &ServiceStatus,
    agent: &Agent,
    frontend: &Frontend,
    visitor: &[IpAddr],
    chosen: Chosen,
    ask: bool,
) -> Option<Planned> {
    if frontend.kind == FrontendKind::LoadBalancer && !may_come(service, visitor) {
        return None;
    }
    // A connection is no proof where there are none.
    let provable = ask || service.protocol != Protocol::Udp;
    // Nodes answer for the cluster's DNS themselves, with backends or without.
    let node_answers = service.node_answers && frontend.kind == FrontendKind::ClusterIp;
    let expected = match () {
        () if node_answers => Expected::Answer,
        () if service.backends.iter().any(chosen) => Expected::Answer,
        () if service.backends.iter().any(|backend| backend.serving) => Expected::Nothing,
        () => Expected::Refusal,
    };
    let visit =
        Visit { protocol: service.protocol, address: frontend.address, port: frontend.port, ask, times: 1 };
    (provable && service.refused.is_none()).then(|| Planned {
        service: name(service, agent),
        visit,
        expected,
        host_port: if service.host_port { pod(service, agent) } else { None },
        backend: service
            .backends
            .iter()
            .find(|backend| chosen(backend))
            .map(|backend| SocketAddr::new(backend.key.address, backend.key.port)),
        itself: service
            .backends
            .iter()
            .any(|backend| chosen(backend) && visitor.contains(&backend.key.address)),
    })
}

/// Whether a visitor with these addresses is let in to the LoadBalancer addresses of a Service. Who is not gets no answer, whatever
/// stands behind them.
fn may_come(service: &ServiceStatus, visitor: &[IpAddr]) -> bool {
    let Some(ranges) = &service.source_ranges else { return true };
    let own = || visitor.iter().filter(|address| address.is_ipv6() == service.ipv6);
    ranges.iter().any(|range| own().any(|address| range.contains(address)))
}

/// What nodes and Pods visit: the Services that their own node holds, and everybody's host ports.
pub(super) fn inside(
    agents: &[Agent],
    endpoints: &[Endpoint],
    held: &[Vec<ServiceStatus>],
    ask: bool,
) -> Vec<Visitor> {
    let mut visitors = Vec::new();
    let mut pods: BTreeMap<usize, usize> = BTreeMap::new();
    for endpoint in endpoints {
        if !endpoint.host {
            let count = pods.entry(endpoint.agent).or_default();
            *count += 1;
            if *count > PODS_A_NODE {
                continue;
            }
        }
        let (Some(agent), Some(services)) = (agents.get(endpoint.agent), held.get(endpoint.agent)) else {
            continue;
        };
        let has = |frontend: &&Frontend| {
            like_one(&endpoint.addresses, frontend.address) && !frontend.address.is_loopback()
        };
        let plan = services.iter().filter(|service| !service.host_port).flat_map(|service| {
            let served = move |frontend: &&Frontend| {
                !(endpoint.host && needs_a_socket(service) && frontend.kind != FrontendKind::ClusterIp)
            };
            service.frontends.iter().filter(has).filter(served).filter_map(move |frontend| {
                let chosen: Chosen = match frontend.kind {
                    FrontendKind::ClusterIp => |backend| backend.internal,
                    _ => |backend| backend.cluster,
                };
                planned(service, agent, frontend, &endpoint.addresses, chosen, ask)
            })
        });
        let mut plan: Vec<Planned> = plan.collect();
        let from = Where { addresses: &endpoint.addresses, agent: Some(endpoint.agent), host: endpoint.host };
        plan.extend(host_ports(agents, held, &from, ask));
        visitors.push(Visitor {
            name: endpoint.name.clone(),
            kind: if endpoint.host { Kind::Node } else { Kind::Pod },
            addresses: endpoint.addresses.clone(),
            from: From::Agent(agent.socket.clone(), endpoint.place.clone()),
            plan,
        });
    }
    visitors
}

/// What the host outside visits.
pub(super) fn from_outside(
    outside: &OutsideRecord,
    agents: &[Agent],
    held: &[Vec<ServiceStatus>],
) -> Visitor {
    let mut plan: BTreeMap<(IpAddr, u16, String), Planned> = BTreeMap::new();
    for (agent, services) in agents.iter().zip(held) {
        for service in services.iter().filter(|service| !service.host_port) {
            for frontend in &service.frontends {
                // Cluster IPs lead nowhere outside, and nobody announces external addresses.
                let reachable = matches!(frontend.kind, FrontendKind::NodePort | FrontendKind::LoadBalancer);
                let on_fabric =
                    like_one(&outside.addresses, frontend.address) && !frontend.address.is_loopback();
                if !reachable || !on_fabric {
                    continue;
                }
                let chosen: Chosen = |backend| backend.external;
                let Some(new) = planned(service, agent, frontend, &outside.addresses, chosen, true) else {
                    continue;
                };
                // Several nodes hold a LoadBalancer address: the one that has backends answers for it.
                let place = (frontend.address, frontend.port, new.service.clone());
                let held = plan.entry(place).or_insert_with(|| new.clone());
                if new.expected == Expected::Answer {
                    held.expected = Expected::Answer;
                }
            }
        }
    }
    let from = Where { addresses: &outside.addresses, agent: None, host: false };
    Visitor {
        name: "outside".into(),
        kind: Kind::Outside,
        addresses: outside.addresses.clone(),
        from: From::Netns(PathBuf::from("/run/netns").join(&outside.netns)),
        plan: plan.into_values().chain(host_ports(agents, held, &from, true)).collect(),
    }
}

/// Where visits of host ports come from.
struct Where<'a> {
    addresses: &'a [IpAddr],
    /// Index of the node.
    agent: Option<usize>,
    /// It is the node itself.
    host: bool,
}

fn host_ports(agents: &[Agent], held: &[Vec<ServiceStatus>], from: &Where<'_>, ask: bool) -> Vec<Planned> {
    let mut plan = Vec::new();
    for (index, (agent, services)) in agents.iter().zip(held).enumerate() {
        let own = &agent.status.node_addresses;
        for service in services.iter().filter(|service| service.host_port) {
            let chosen: Chosen =
                if from.agent.is_some() { |backend| backend.cluster } else { |backend| backend.external };
            let reached = service.frontends.iter().filter(|frontend| {
                let address = frontend.address;
                let here = from.agent == Some(index);
                like_one(from.addresses, address)
                    // Who has a route to another address that a `hostIP` names is not known.
                    && (here || own.contains(&address))
                    && (!address.is_loopback() || here && from.host)
                    && !(here && from.host && needs_a_socket(service))
            });
            plan.extend(
                reached.filter_map(|frontend| planned(service, agent, frontend, from.addresses, chosen, ask)),
            );
            let elsewhere = others(service, services, own)
                .filter(|frontend| from.agent.is_none() && like_one(from.addresses, frontend.address));
            plan.extend(elsewhere.filter_map(|frontend| {
                let planned = planned(service, agent, &frontend, from.addresses, chosen, ask)?;
                Some(Planned { expected: Expected::NotThatPod, ..planned })
            }));
        }
    }
    plan
}

/// Whether what a node itself sends to its own and to external addresses is not served, since no socket translates it and it
/// passes no program: it does not leave the loopback device, or leaves by the uplink.
fn needs_a_socket(service: &ServiceStatus) -> bool {
    service.protocol == Protocol::Sctp
}

/// The node's addresses that a port's `hostIP` excludes, and at which nothing else is.
fn others<'a>(
    service: &'a ServiceStatus,
    services: &'a [ServiceStatus],
    own: &'a [IpAddr],
) -> impl Iterator<Item = Frontend> + 'a {
    let family = own.iter().filter(|address| address.is_ipv6() == service.ipv6);
    let frontends =
        family.filter_map(|address| Some(Frontend { address: *address, ..*service.frontends.first()? }));
    frontends.filter(move |frontend| {
        let taken = |other: &Frontend| other.address == frontend.address && other.port == frontend.port;
        let on_protocol = services.iter().filter(|other| other.protocol == service.protocol);
        !on_protocol.flat_map(|other| &other.frontends).any(taken)
    })
}

/// Whether one of these addresses is of the same family.
fn like_one(addresses: &[IpAddr], other: IpAddr) -> bool {
    addresses.iter().any(|own| own.is_ipv4() == other.is_ipv4())
}

/// Thins the plans out until they are few enough. True when something was left out.
pub(super) fn sample(visitors: &mut [Visitor]) -> bool {
    let each = (MOST_VISITS / visitors.len().max(1)).max(1);
    let mut sampled = false;
    for (at, visitor) in visitors.iter_mut().enumerate() {
        let step = visitor.plan.len().div_ceil(each).max(1);
        sampled |= step > 1;
        // Each place begins elsewhere, so that together they see more.
        let mut index = at;
        visitor.plan.retain(|_| {
            index += 1;
            index.is_multiple_of(step)
        });
    }
    sampled
}
