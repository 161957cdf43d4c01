//! What a Service is reached by.

use weft_model::{
    Protocol,
    services::{
        EndpointSlice, Event, Frontend, FrontendKind, Ingress, Planner, Protected, Service, ServicePort,
        ServiceType, SliceKey,
    },
};

use crate::build::*;

#[test]
fn every_kind_of_address() {
    let service =
        Service { external_ips: [ip("198.51.100.7"), ip("198.51.100.6")].into(), ..load_balancer("web") };
    let plan = plan_with(&service, &[]);
    assert_eq!(
        others(&plan),
        [
            "NodePort 192.168.1.2 30080",
            "ExternalIp 198.51.100.6 80",
            "ExternalIp 198.51.100.7 80",
            "LoadBalancer 203.0.113.1 80"
        ]
    );
    let own = Frontend { address: ip("10.96.0.1"), port: 80, kind: FrontendKind::ClusterIp };
    assert_eq!(plan.frontends[0], own);
}

#[test]
fn a_node_port_is_on_every_node_address_of_the_family() {
    let mut service = load_balancer("web");
    service.kind = ServiceType::NodePort;
    service.cluster_ips = [ip("10.96.0.1"), ip("fd00:96::1")].into();
    let mut planner = planner(&[service], &[]);
    planner.set_node(&[ip("192.168.1.2"), ip("10.9.9.9"), ip("fd00::2")], None);
    let plans = present(planner.take_changes());
    assert_eq!(others(&plans[0].1), ["NodePort 10.9.9.9 30080", "NodePort 192.168.1.2 30080"]);
    assert_eq!(others(&plans[1].1), ["NodePort fd00::2 30080"]);
}

#[test]
fn a_node_whose_address_changes_serves_its_node_ports_there() {
    let mut planner = planner(&[load_balancer("web")], &[]);
    planner.take_changes();
    planner.set_node(&[ip("192.168.1.3")], None);
    let plans = present(planner.take_changes());
    assert_eq!(others(&plans[0].1), ["NodePort 192.168.1.3 30080", "LoadBalancer 203.0.113.1 80"]);
}

#[test]
fn an_ingress_with_ip_mode_proxy_is_no_frontend() {
    let ingress = [ip("203.0.113.1"), ip("203.0.113.2")]
        .map(|address| Ingress { address, proxy: address == ip("203.0.113.1") });
    let service = Service { ingress: ingress.into(), ..load_balancer("web") };
    assert_eq!(
        others(&plan_with(&service, &[])),
        ["NodePort 192.168.1.2 30080", "LoadBalancer 203.0.113.2 80"]
    );
}

#[test]
fn a_load_balancer_without_node_ports() {
    let service = Service { ports: [port("", 80)].into(), ..load_balancer("web") };
    assert_eq!(others(&plan_with(&service, &[])), ["LoadBalancer 203.0.113.1 80"]);
}

#[test]
fn a_node_port_that_was_left_over_by_another_type_is_none() {
    let service = Service { kind: ServiceType::ClusterIp, ..load_balancer("web") };
    assert!(others(&plan_with(&service, &[])).is_empty());
}

#[test]
fn headless_external_name_and_somebody_elses_services_have_no_frontends() {
    let headless = Service { cluster_ips: [].into(), ..service("web") };
    let name = Service { kind: ServiceType::ExternalName, ..service("web") };
    let elsewhere = Service { not_ours: true, ..load_balancer("web") };
    for service in [headless, name, elsewhere] {
        assert!(plans(&[service], &[slice("s", "web", &[ready("10.0.0.1")])]).is_empty());
    }
}

#[test]
fn a_service_that_becomes_somebody_elses_is_gone() {
    let mut planner = planner(&[service("web")], &[]);
    planner.take_changes();
    planner.set_service(Service { not_ours: true, ..service("web") });
    let changes = planner.take_changes().ports;
    assert!(matches!(&changes[..], [(_, None)]), "{changes:?}");
}

#[test]
fn addresses_of_a_family_without_a_cluster_ip_are_left_out() {
    let service = Service { external_ips: [ip("fd00:99::1")].into(), ..service("web") };
    let plan = plan_with(&service, &[]);
    assert_eq!(plan.frontends.len(), 1);
}

#[test]
fn a_port_that_goes_is_gone_and_the_others_stay() {
    let two = Service { ports: [port("a", 80), port("b", 81)].into(), ..service("web") };
    let mut planner = planner(&[two], &[]);
    planner.take_changes();
    planner.set_service(Service { ports: [port("b", 81)].into(), ..service("web") });
    let changes = planner.take_changes().ports;
    let gone: Vec<_> =
        changes.iter().filter(|(_, plan)| plan.is_none()).map(|(key, _)| key.port.as_ref()).collect();
    assert_eq!((changes.len(), gone), (2, vec!["a"]));
}

#[test]
fn source_ranges_are_trimmed_and_those_of_the_family() {
    let mut service = load_balancer("web");
    service.cluster_ips = [ip("10.96.0.1"), ip("fd00:96::1")].into();
    service.source_ranges =
        Some(["10.1.2.3/8", "192.0.2.0/24", "10.0.0.0/8"].map(|range| range.parse().unwrap()).into());
    let plans = plans(&[service], &[]);
    let texts: Vec<_> = plans[0].1.source_ranges.iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["10.0.0.0/8", "192.0.2.0/24"]);
    assert!(plans[0].1.nobody_else);
    assert!(plans[1].1.source_ranges.is_empty() && plans[1].1.nobody_else, "nobody may come by IPv6");
}

#[test]
fn source_ranges_that_cannot_be_read_let_nobody_in_and_none_lets_everybody_in() {
    let service = Service { source_ranges: Some([].into()), ..load_balancer("web") };
    assert!(plan_with(&service, &[]).nobody_else);
    assert!(!plan_with(&load_balancer("web"), &[]).nobody_else);
}

#[test]
fn source_ranges_are_a_load_balancers() {
    let ranges = Some(["10.0.0.0/8".parse().unwrap()].into());
    let service =
        Service { source_ranges: ranges, external_ips: [ip("198.51.100.6")].into(), ..service("web") };
    assert!(!plan_with(&service, &[]).nobody_else);
}

#[test]
fn an_address_that_two_services_name_is_the_cluster_ips_else_the_first_names() {
    let external = |name: &str, own: &str, external: &str| Service {
        cluster_ips: [ip(own)].into(),
        external_ips: [ip(external)].into(),
        ..service(name)
    };
    let thief = external("a-thief", "10.96.0.2", "10.96.0.1");
    let (one, two) =
        (external("one", "10.96.0.3", "198.51.100.6"), external("two", "10.96.0.4", "198.51.100.6"));
    let mut planner = planner(&[two.clone(), thief.clone(), service("victim"), one.clone()], &[]);
    let all = present(planner.take_changes());
    let count: Vec<_> =
        all.iter().map(|(key, plan)| (key.service.name.as_ref(), plan.frontends.len())).collect();
    assert_eq!(count, [("a-thief", 1), ("one", 2), ("two", 1), ("victim", 1)]);
    let conflicts: Vec<_> =
        planner.conflicts().iter().map(|one| format!("{} {}", one.service.name, one.holder.name)).collect();
    assert_eq!(conflicts, ["a-thief victim", "two one"]);
    planner.remove_service(&one.key);
    let changes = planner.take_changes().ports;
    let heir = changes.iter().find(|(key, _)| key.service == two.key).unwrap();
    assert_eq!(heir.1.as_ref().unwrap().frontends.len(), 2, "the next has it now");
    planner.remove_service(&thief.key);
    planner.take_changes();
    assert!(planner.conflicts().is_empty());
}

#[test]
fn an_address_on_two_ports_or_protocols_is_no_conflict() {
    let mut one = Service { external_ips: [ip("198.51.100.6")].into(), ..service("one") };
    let mut two = Service { cluster_ips: [ip("10.96.0.2")].into(), ..one.clone() };
    two.key.name = "two".into();
    one.ports = [port("", 80)].into();
    two.ports = [ServicePort { protocol: Protocol::Udp, ..port("a", 80) }, port("b", 81)].into();
    let all = plans(&[one, two], &[]);
    assert!(all.iter().all(|(_, plan)| plan.frontends.len() == 2), "{all:?}");
}

/// A4: Services' addresses come before ports of nodes, whoever's name is first.
#[test]
fn a_node_port_gives_way_to_an_address_of_a_service_as_in_kube_proxy() {
    let node_port = Service {
        kind: ServiceType::NodePort,
        ports: [ServicePort { node_port: Some(30080), ..port("", 80) }].into(),
        ..service("a-node-port")
    };
    // Some clusters give nodes' addresses to Services of type LoadBalancer.
    let balancer = Service {
        cluster_ips: [ip("10.96.0.2")].into(),
        ports: [port("", 30080)].into(),
        ingress: [Ingress { address: ip("192.168.1.2"), proxy: false }].into(),
        ..load_balancer("balancer")
    };
    let mut planner = planner(&[node_port.clone(), balancer.clone()], &[]);
    let all = present(planner.take_changes());
    let found: Vec<_> = all.iter().map(|(key, plan)| (key.service.name.as_ref(), others(plan))).collect();
    assert_eq!(
        found,
        [("a-node-port", vec![]), ("balancer", vec!["LoadBalancer 192.168.1.2 30080".to_owned()])]
    );
    assert_eq!(planner.holder(ip("192.168.1.2"), 30080, Protocol::Tcp), Some(&balancer.key));
    planner.remove_service(&balancer.key);
    assert_eq!(planner.holder(ip("192.168.1.2"), 30080, Protocol::Tcp), Some(&node_port.key));
}

fn protected() -> Protected {
    Protected {
        all: false,
        pod_ranges: ["10.244.0.0/16".parse().unwrap()].into(),
        service_ranges: ["10.96.0.0/16".parse().unwrap()].into(),
        nodes: [ip("192.168.1.2"), ip("192.168.1.3")].into(),
        api_servers: [ip("172.20.0.1")].into(),
    }
}

/// E2: an external address that is somebody's is refused, and told.
#[test]
fn external_addresses_of_pods_services_nodes_and_api_servers_are_refused() {
    let named = [
        "10.244.1.7",
        "10.96.0.10",
        "192.168.1.3",
        "172.20.0.1",
        "172.20.0.9",
        "127.0.0.1",
        "169.254.1.1",
        "224.0.0.1",
        "198.51.100.6",
    ];
    let web = Service { external_ips: named.map(ip).into(), ..service("web") };
    let api = EndpointSlice {
        key: SliceKey::new("default", "kubernetes"),
        ..slice("kubernetes", "kubernetes", &[ready("172.20.0.9")])
    };
    let mut planner = planner(std::slice::from_ref(&web), &[]);
    planner.set_protected(protected());
    planner.hear(Event::Slice(api.clone()));
    let of_web = |planner: &mut Planner| {
        let all = planner.take_changes().ports;
        others(all.iter().find(|(key, _)| key.service == web.key).unwrap().1.as_ref().unwrap())
    };
    assert_eq!(of_web(&mut planner), ["ExternalIp 198.51.100.6 80"]);
    let told: Vec<_> = planner.refusals().iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 8);
    assert_eq!(
        told.iter().find(|text| text.contains("10.244.1.7")).unwrap(),
        "Service shop/web is not reached by 10.244.1.7 (spec.externalIPs): it lies in the Pod range 10.244.0.0/16; \
         remove it there"
    );
    // What is free again is given.
    planner.hear(Event::SliceGone(api.key));
    planner.set_protected(Protected { nodes: [ip("192.168.1.2")].into(), ..protected() });
    assert_eq!(
        of_web(&mut planner),
        ["ExternalIp 172.20.0.9 80", "ExternalIp 192.168.1.3 80", "ExternalIp 198.51.100.6 80"]
    );
    planner.set_protected(Protected { all: true, ..protected() });
    assert!(of_web(&mut planner).is_empty(), "turned off");
    planner.remove_service(&web.key);
    assert!(planner.refusals().is_empty());
}
