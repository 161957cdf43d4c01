//! Objects in few words, and a planner that is asked in few words.

use std::{net::IpAddr, sync::Arc};

use weft_model::{
    Protocol,
    services::{
        AddressType, Changes, Choice, ClusterDns, Endpoint, EndpointSlice, Event, Frontend, FrontendKind,
        Ingress, Planner, Protected, Service, ServiceKey, ServicePort, ServicePortKey, ServicePortPlan,
        ServiceType, SliceKey, SlicePort, ThisNode, TrafficPolicy, Unreachable,
    },
};

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn this_node() -> ThisNode {
    ThisNode {
        name: "here".into(),
        addresses: vec![ip("192.168.1.2"), ip("fd00::2")],
        zone: Some(Arc::from("zone-a")),
        dns: ClusterDns::default(),
        protected: Protected::default(),
        unreachable: Unreachable::default(),
    }
}

/// The Service shop/`name` at 10.96.0.1 with port 80/TCP, unnamed.
pub fn service(name: &str) -> Service {
    Service {
        key: ServiceKey::new("shop", name),
        uid: Arc::from(format!("uid-{name}")),
        kind: ServiceType::ClusterIp,
        not_ours: false,
        cluster_ips: [ip("10.96.0.1")].into(),
        headless: false,
        external_name: None,
        ports: [port("", 80)].into(),
        external_ips: [].into(),
        ingress: [].into(),
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        affinity_seconds: None,
        source_ranges: None,
        health_check_port: None,
    }
}

/// A Service of type LoadBalancer at 203.0.113.1 with node port 30080.
pub fn load_balancer(name: &str) -> Service {
    Service {
        kind: ServiceType::LoadBalancer,
        ports: [ServicePort { node_port: Some(30080), ..port("", 80) }].into(),
        ingress: [Ingress { address: ip("203.0.113.1"), proxy: false }].into(),
        ..service(name)
    }
}

pub fn port(name: &str, number: u16) -> ServicePort {
    ServicePort { name: Arc::from(name), protocol: Protocol::Tcp, port: number, node_port: None }
}

/// The IPv4 slice shop/`name` of `service`, with the unnamed TCP port 8080.
pub fn slice(name: &str, service: &str, endpoints: &[Endpoint]) -> EndpointSlice {
    EndpointSlice {
        key: SliceKey::new("shop", name),
        service: Arc::from(service),
        address_type: AddressType::Ipv4,
        ports: [target("", 8080)].into(),
        endpoints: endpoints.into(),
    }
}

pub fn target(name: &str, number: u16) -> SlicePort {
    SlicePort { name: Arc::from(name), protocol: Protocol::Tcp, port: number }
}

/// A ready endpoint on no node.
pub fn ready(address: &str) -> Endpoint {
    Endpoint {
        address: ip(address),
        ready: true,
        serving: true,
        terminating: false,
        node: None,
        hostname: None,
        for_nodes: [].into(),
        for_zones: [].into(),
    }
}

pub fn not_ready(address: &str) -> Endpoint {
    Endpoint { ready: false, serving: false, ..ready(address) }
}

/// It terminates and still answers.
pub fn draining(address: &str) -> Endpoint {
    Endpoint { ready: false, terminating: true, ..ready(address) }
}

/// It terminates and does not answer.
pub fn dying(address: &str) -> Endpoint {
    Endpoint { serving: false, ..draining(address) }
}

pub fn here(endpoint: Endpoint) -> Endpoint {
    on("here", endpoint)
}

pub fn on(node: &str, endpoint: Endpoint) -> Endpoint {
    Endpoint { node: Some(Arc::from(node)), ..endpoint }
}

pub fn for_zone(zone: &str, endpoint: Endpoint) -> Endpoint {
    Endpoint { for_zones: [Arc::from(zone)].into(), ..endpoint }
}

pub fn for_node(node: &str, endpoint: Endpoint) -> Endpoint {
    Endpoint { for_nodes: [Arc::from(node)].into(), ..endpoint }
}

pub fn planner(services: &[Service], slices: &[EndpointSlice]) -> Planner {
    let mut planner = Planner::new(this_node());
    services.iter().for_each(|service| planner.hear(Event::Service(service.clone())));
    slices.iter().for_each(|slice| planner.hear(Event::Slice(slice.clone())));
    planner
}

/// What is planned for these objects.
pub fn plans(services: &[Service], slices: &[EndpointSlice]) -> Vec<(ServicePortKey, ServicePortPlan)> {
    present(planner(services, slices).take_changes())
}

pub fn present(changes: Changes) -> Vec<(ServicePortKey, ServicePortPlan)> {
    changes.ports.into_iter().map(|(key, plan)| (key, plan.unwrap())).collect()
}

/// What is planned for a Service with one port in one family.
#[track_caller]
pub fn plan(service: &Service, slices: &[EndpointSlice]) -> ServicePortPlan {
    let mut all = plans(std::slice::from_ref(service), slices);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0).1
}

/// What a Service with these endpoints in one slice is planned as.
#[track_caller]
pub fn plan_with(service: &Service, endpoints: &[Endpoint]) -> ServicePortPlan {
    plan(service, &[slice("s", &service.key.name, endpoints)])
}

/// The choice as text, to be compared with ease: `10.0.0.1:80 10.0.0.2:80`, or `reject` or `drop`.
pub fn text(choice: &Choice) -> String {
    if choice.backends.is_empty() {
        return format!("{:?}", choice.when_empty).to_lowercase();
    }
    let all: Vec<String> =
        choice.backends.iter().map(|key| format!("{}:{}", key.address, key.port)).collect();
    all.join(" ")
}

/// The frontends as text, without those of kind ClusterIp.
pub fn others(plan: &ServicePortPlan) -> Vec<String> {
    let others = plan.frontends.iter().filter(|one| one.kind != FrontendKind::ClusterIp);
    others.map(|Frontend { address, port, kind }| format!("{kind:?} {address} {port}")).collect()
}
