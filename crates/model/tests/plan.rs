//! The plan of a node: who keeps a contested range, and that the order of events does not matter.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use ipnet::IpNet;
use proptest::prelude::*;
use weft_model::{
    Node, NodeName,
    plan::{Claim, Settings, node_plan},
};

fn node(name: &str, created: i64, addresses: &[&str], ranges: &[&str]) -> Node {
    Node {
        name: name.into(),
        uid: format!("uid-{name}"),
        created,
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        pod_ranges: ranges.iter().map(|r| r.parse().unwrap()).collect(),
        ready: true,
        zone: None,
        leaving: false,
        excluded: false,
    }
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn settings() -> Settings {
    Settings {
        pod_ranges: vec![net("10.244.0.0/16")],
        service_ranges: vec![net("10.96.0.0/16")],
        non_masquerade: vec![net("172.16.0.0/12")],
    }
}

#[test]
fn peers_are_the_other_nodes_by_name() {
    let nodes = [
        node("c", 3, &["192.168.1.4"], &["10.244.2.0/24"]),
        node("a", 1, &["192.168.1.2"], &["10.244.0.0/24"]),
        node("b", 2, &["192.168.1.3"], &["10.244.1.0/24"]),
    ];
    let plan = node_plan(&"b".into(), &nodes, &settings());
    assert_eq!(plan.peers.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["a", "c"]);
    assert_eq!(plan.pod_ranges, [net("10.244.1.0/24")]);
    assert!(plan.refused.is_empty());
}

#[test]
fn of_two_nodes_with_one_range_the_older_keeps_it_and_both_are_named() {
    let nodes = [
        node("young", 20, &["192.168.1.3"], &["10.244.0.0/24"]),
        node("old", 10, &["192.168.1.2"], &["10.244.0.0/24"]),
    ];
    let plan = node_plan(&"young".into(), &nodes, &settings());
    assert!(plan.pod_ranges.is_empty(), "nothing to hand out");
    assert_eq!(plan.peers[0].pod_ranges, [net("10.244.0.0/24")]);
    let text = plan.refused[0].to_string();
    assert!(text.contains("young") && text.contains("old") && text.contains("10.244.0.0/24"), "{text}");
    assert_eq!(plan.refused[0].other(), Some(&NodeName::from("old")));
    let plan = node_plan(&"old".into(), &nodes, &settings());
    assert_eq!(plan.pod_ranges, [net("10.244.0.0/24")], "the first keeps working");
    assert!(plan.peers[0].pod_ranges.is_empty());
}

#[test]
fn of_two_nodes_of_one_age_the_first_name_keeps_the_range() {
    let nodes = [node("b", 1, &[], &["10.244.0.0/24"]), node("a", 1, &[], &["10.244.0.128/25"])];
    let plan = node_plan(&"b".into(), &nodes, &settings());
    assert_eq!(plan.refused[0].node, NodeName::from("b"));
    assert_eq!(plan.peers[0].pod_ranges, [net("10.244.0.128/25")]);
}

#[test]
fn an_overlap_is_seen_from_within_and_from_without() {
    for (first, second) in [("10.244.0.0/16", "10.244.7.0/24"), ("10.244.7.0/24", "10.244.0.0/16")] {
        let nodes = [node("a", 1, &[], &[first]), node("b", 2, &[], &[second])];
        let plan = node_plan(&"a".into(), &nodes, &settings());
        assert_eq!(plan.refused.len(), 1, "{first} {second}");
        assert_eq!(plan.refused[0].range, net(second));
    }
}

#[test]
fn a_range_in_the_service_range_is_refused() {
    let nodes = [node("a", 1, &[], &["10.96.3.0/24", "fd00::/64"])];
    let plan = node_plan(&"a".into(), &nodes, &settings());
    assert_eq!(plan.pod_ranges, [net("fd00::/64")]);
    assert_eq!(plan.refused[0].with, Claim::Services(net("10.96.0.0/16")));
}

#[test]
fn a_range_with_a_nodes_address_in_it_is_refused() {
    let nodes = [node("a", 1, &["10.244.1.9"], &["10.244.0.0/24"]), node("b", 2, &[], &["10.244.1.0/24"])];
    let plan = node_plan(&"a".into(), &nodes, &settings());
    assert_eq!(
        plan.refused[0].with,
        Claim::NodeAddress { node: "a".into(), address: "10.244.1.9".parse().unwrap() }
    );
    assert!(plan.refused[0].to_string().contains("10.244.1.9"));
}

#[test]
fn a_node_that_joins_with_an_address_in_an_older_nodes_range_disturbs_nobody() {
    let nodes = [
        node("a", 1, &["192.168.1.2"], &["10.244.0.0/24"]),
        node("b", 2, &["10.244.0.7", "192.168.1.3"], &[]),
    ];
    let plan = node_plan(&"a".into(), &nodes, &settings());
    assert_eq!(plan.pod_ranges, [net("10.244.0.0/24")]);
    assert_eq!(plan.peers[0].node_addresses, ["192.168.1.3".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(plan.refused[0].node, NodeName::from("b"));
}

#[test]
fn masquerade_spares_the_cluster_and_what_the_administrator_excepts() {
    let nodes = [
        node("a", 1, &["192.168.1.2"], &["10.244.0.0/24"]),
        node("b", 2, &["192.168.1.3"], &["10.245.1.0/24"]),
    ];
    let masquerade = node_plan(&"a".into(), &nodes, &settings()).masquerade;
    assert_eq!(masquerade.sources, [net("10.244.0.0/24")]);
    for spared in [
        "10.244.200.1/32",
        "10.245.1.7/32",
        "10.96.0.1/32",
        "192.168.1.3/32",
        "192.168.1.2/32",
        "172.16.5.5/32",
    ] {
        assert!(masquerade.exempt.iter().any(|e| e.contains(&net(spared))), "{spared}");
    }
    assert!(!masquerade.exempt.iter().any(|e| e.contains(&net("1.1.1.1/32"))));
    assert!(!masquerade.exempt.iter().any(|e| e.contains(&net("192.168.1.1/32"))));
}

#[test]
fn a_node_that_is_not_there_has_a_plan_without_ranges() {
    let plan = node_plan(&"gone".into(), &[node("a", 1, &[], &["10.244.0.0/24"])], &settings());
    assert!(plan.pod_ranges.is_empty());
    assert_eq!(plan.peers.len(), 1);
}

fn nets(count: u8) -> impl Strategy<Value = Vec<IpNet>> {
    // A small space, so that overlaps are common; both families.
    let v4 =
        (0u8..16, 20u8..28).prop_map(|(third, length)| net(&format!("10.96.{third}.0/{length}")).trunc());
    let v6 = (0u8..8, 60u8..66).prop_map(|(n, length)| net(&format!("fd00:0:0:{n}::/{length}")).trunc());
    proptest::collection::vec(prop_oneof![3 => v4, 1 => v6], 0..usize::from(count))
}

fn clusters() -> impl Strategy<Value = Vec<Node>> {
    let one = (0i64..4, nets(4), proptest::collection::vec((0u8..16, 1u8..4), 0..3));
    proptest::collection::vec(one, 1..8).prop_map(|nodes| {
        nodes
            .into_iter()
            .enumerate()
            .map(|(i, (created, pod_ranges, addresses))| Node {
                name: format!("n{i}").into(),
                uid: String::new(),
                created,
                addresses: addresses.iter().map(|(c, d)| format!("10.96.{c}.{d}").parse().unwrap()).collect(),
                pod_ranges,
                ready: true,
                zone: None,
                leaving: false,
                excluded: false,
            })
            .collect()
    })
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

type Claimed = Vec<(NodeName, IpNet)>;

/// The naive way: every claim against every claim that was accepted before it.
fn reference(nodes: &[Node], services: &[IpNet]) -> (Claimed, Claimed) {
    let mut nodes = nodes.to_vec();
    nodes.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
    let (mut ranges, mut addresses, mut refused) =
        (Vec::<(NodeName, IpNet)>::new(), Vec::<IpNet>::new(), Vec::new());
    for node in nodes {
        for address in node.addresses {
            let net = IpNet::from(address);
            if ranges.iter().map(|r| &r.1).chain(services).any(|r| overlap(r, &net)) {
                refused.push((node.name.clone(), net));
            } else {
                addresses.push(net);
            }
        }
        for range in node.pod_ranges {
            if ranges.contains(&(node.name.clone(), range)) {
                continue;
            }
            if ranges.iter().map(|r| &r.1).chain(services).chain(&addresses).any(|r| overlap(r, &range)) {
                refused.push((node.name.clone(), range));
            } else {
                ranges.push((node.name.clone(), range));
            }
        }
    }
    ranges.sort();
    refused.sort();
    refused.dedup();
    (ranges, refused)
}

proptest! {
    #[test]
    fn agrees_with_the_naive_reference(nodes in clusters(), services in nets(2)) {
        let settings = Settings { service_ranges: services.clone(), ..Settings::default() };
        let plan = node_plan(&"n0".into(), &nodes, &settings);
        let (ranges, refused) = reference(&nodes, &services);
        let mut planned: Vec<_> = plan.pod_ranges.iter().map(|&r| (plan.node.clone(), r)).collect();
        for peer in &plan.peers {
            planned.extend(peer.pod_ranges.iter().map(|&r| (peer.name.clone(), r)));
        }
        planned.sort();
        prop_assert_eq!(planned, ranges);
        let named: Vec<_> = plan.refused.iter().map(|c| (c.node.clone(), c.range)).collect();
        prop_assert_eq!(named, refused);
    }

    #[test]
    fn order_and_repetition_do_not_matter(
        nodes in clusters(),
        seed in any::<u64>(),
    ) {
        let plan = node_plan(&"n0".into(), &nodes, &settings());
        let mut reversed = nodes.clone();
        reversed.reverse();
        prop_assert_eq!(&node_plan(&"n0".into(), &reversed, &settings()), &plan);
        let mut doubled = [nodes.clone(), reversed].concat();
        // A cheap shuffle that the seed decides.
        for i in (1..doubled.len()).rev() {
            doubled.swap(i, (seed.rotate_left(i as u32) % (i as u64 + 1)) as usize);
        }
        prop_assert_eq!(&node_plan(&"n0".into(), &doubled, &settings()), &plan);
    }

    /// What one node hands out, no other node's plan calls its own: whoever looks, the verdict is the same.
    #[test]
    fn every_node_comes_to_the_same_verdict(nodes in clusters()) {
        let plans: Vec<_> = nodes.iter().map(|n| node_plan(&n.name, &nodes, &settings())).collect();
        for plan in &plans {
            prop_assert_eq!(&plan.refused, &plans[0].refused);
            for other in plans.iter().filter(|p| p.node != plan.node) {
                let seen = plan.peers.iter().find(|p| p.name == other.node).unwrap();
                prop_assert_eq!(&seen.pod_ranges, &other.pod_ranges);
                for own in &plan.pod_ranges {
                    prop_assert!(!other.pod_ranges.iter().any(|r| overlap(own, r)));
                }
            }
        }
    }
}
