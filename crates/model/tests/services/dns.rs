//! The Service that nodes answer for themselves: where its traffic goes from a node that does not.

use weft_model::{
    NodeName, Peer,
    services::{BackendKey, ClusterDns, Planner, Service, WhenEmpty},
};

use crate::build::{ip, port, ready, service, slice, this_node};

fn peer(number: u8) -> Peer {
    Peer {
        name: NodeName::new(format!("node-{number}")),
        node_addresses: vec![ip(&format!("192.168.1.{number}"))],
        pod_ranges: vec![
            format!("10.244.{number}.0/24").parse().unwrap(),
            format!("fd00:10:244:{number}::/64").parse().unwrap(),
        ],
    }
}

fn dns() -> Service {
    Service {
        cluster_ips: [ip("10.96.0.10"), ip("fd00:10:96::a")].into(),
        ports: [port("dns-tcp", 53)].into(),
        ..service("kube-dns")
    }
}

fn of(peers: &[Peer]) -> ClusterDns {
    ClusterDns::new(&[ip("10.96.0.10")], &this_node().name, &peers.iter().collect::<Vec<_>>())
}

/// Backends of the DNS Service, by family.
fn backends(planner: &mut Planner) -> Option<[Vec<BackendKey>; 2]> {
    let ports = planner.take_changes().ports;
    let of = |ipv6| {
        let (_, plan) = ports.iter().find(|(key, _)| key.ipv6 == ipv6 && &*key.service.name == "kube-dns")?;
        let plan = plan.as_ref().unwrap();
        assert!(plan.known.iter().map(|state| state.key).eq(plan.internal.backends.iter().copied()));
        Some(plan.internal.backends.to_vec())
    };
    Some([of(false)?, of(true)?])
}

fn at(addresses: &[&str]) -> Vec<BackendKey> {
    addresses.iter().map(|address| BackendKey { address: ip(address), port: 53 }).collect()
}

#[test]
fn without_endpoints_of_its_own_other_nodes_stand_in() {
    let mut planner = Planner::new(this_node());
    planner.set_service(dns());
    planner.set_service(service("web"));
    planner.set_dns(of(&[peer(3), peer(4)]));
    let all = [at(&["10.244.3.0", "10.244.4.0"]), at(&["fd00:10:244:3::1", "fd00:10:244:4::1"])];
    assert_eq!(backends(&mut planner), Some(all));
    // Nothing else is planned again when they change.
    planner.set_dns(of(&[peer(4)]));
    let changes = planner.take_changes().ports;
    assert!(changes.iter().all(|(key, _)| &*key.service.name == "kube-dns") && changes.len() == 2);
    planner.set_dns(of(&[peer(4)]));
    assert!(!planner.has_changes());
    planner.set_dns(ClusterDns::default());
    assert_eq!(backends(&mut planner), Some([vec![], vec![]]));
}

#[test]
fn on_the_only_node_questions_are_dropped_while_nobody_answers() {
    let mut planner = Planner::new(this_node());
    planner.set_service(dns());
    planner.set_service(service("web"));
    planner.set_dns(of(&[]));
    for (key, plan) in planner.take_changes().ports {
        let internal = plan.unwrap().internal;
        let expected = if &*key.service.name == "kube-dns" { WhenEmpty::Drop } else { WhenEmpty::Reject };
        assert_eq!((internal.backends.len(), internal.when_empty), (0, expected), "{key}");
    }
}

#[test]
fn endpoints_of_its_own_go_before_other_nodes() {
    let mut planner = Planner::new(this_node());
    planner.set_service(dns());
    planner.set_dns(of(&[peer(3)]));
    let mut coredns = slice("coredns", "kube-dns", &[ready("10.244.9.9")]);
    coredns.ports =
        [weft_model::services::SlicePort { port: 53, ..crate::build::target("dns-tcp", 53) }].into();
    planner.set_slice(coredns.clone());
    assert_eq!(backends(&mut planner), Some([at(&["10.244.9.9"]), at(&["fd00:10:244:3::1"])]));
    planner.remove_slice(&coredns.key);
    assert_eq!(planner.take_changes().ports.len(), 1);
}

#[test]
fn of_many_nodes_a_few_stand_in_and_not_everywhere_the_same() {
    let peers: Vec<Peer> = (2..102).map(peer).collect();
    let peers: Vec<&Peer> = peers.iter().collect();
    let of = |node: &str| ClusterDns::new(&[ip("10.96.0.10")], &NodeName::new(node), &peers).stand_ins;
    // Eight nodes, two families.
    assert_eq!(of("one").len(), 16);
    assert_ne!(of("one"), of("two"));
    assert_eq!(of("one"), of("one"));
    assert_eq!(ClusterDns::new(&[], &NodeName::new("one"), &peers), ClusterDns::default());
}
