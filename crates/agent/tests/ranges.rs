//! Which ranges a node hands out of, and what it says when it cannot. Real kernel; needs root.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "tests")]

mod support;

use support::{Machine, NODE, Scratch, addresses, call, node};
use weft_cni::Verb;
use weft_datapath::{
    Path,
    probe::{Families, Health, MtuProof},
};

#[test]
fn a_node_without_a_range_says_what_to_do() {
    let machine = Machine::new();
    let mut agent = machine.start_with(&[]);
    let error = agent.fails(&call(Verb::Status, "", std::path::Path::new("")), 50);
    assert!(error.contains("spec.podCIDRs") && error.contains(NODE), "{error}");
    agent.fails(&call(Verb::Add, "c1", Scratch::new("t-pod-").path()), 11);
    agent.hear(&[node(NODE, 1, &["10.244.1.0/24"])]);
    agent.succeeds(&call(Verb::Status, "", std::path::Path::new("")));
}

#[test]
fn a_node_that_the_api_does_not_have() {
    let machine = Machine::new();
    let mut agent = machine.start();
    agent.hear(&[node("node-2", 1, &["10.244.2.0/24"])]);
    let error = agent.fails(&call(Verb::Status, "", std::path::Path::new("")), 50);
    assert!(error.contains("no Node node-1") && error.contains("--node-name"), "{error}");
}

#[test]
fn of_two_nodes_with_one_range_the_younger_attaches_nothing_and_both_are_told() {
    let machine = Machine::new();
    let mut agent = machine.start();
    let nodes = [node("node-0", 1, &["10.244.0.0/24"]), node(NODE, 2, &["10.244.0.0/24"])];
    agent.hear(&nodes);
    let pod = Scratch::new("t-pod-");
    let error = agent.fails(&call(Verb::Add, "c1", pod.path()), 11);
    assert!(error.contains("node-0") && error.contains(NODE) && error.contains("10.244.0.0/24"), "{error}");
    let report = agent.on(|node| node.report());
    let about: Vec<&str> = report.events.iter().map(|event| event.about.name.as_str()).collect();
    assert_eq!(about, [NODE, "node-0"]);
    assert!(report.events.iter().all(|e| e.message.contains("node-0") && e.message.contains(NODE)));
    let network = report.conditions.iter().find(|c| c.kind == "NetworkUnavailable").unwrap();
    assert!(network.status);
    assert_eq!(network.reason, "PodRangeConflict");
}

#[test]
fn of_two_nodes_with_one_range_the_older_keeps_working() {
    let machine = Machine::new();
    let mut agent = machine.start_with(&["10.244.1.0/24"]);
    let (one, two) = (Scratch::new("t-pod-"), Scratch::new("t-pod-"));
    let first = agent.add("c1", &one);
    agent.hear(&[node(NODE, 1, &["10.244.1.0/24"]), node("node-9", 9, &["10.244.1.0/24"])]);
    agent.add("c2", &two);
    assert_eq!(one.addresses("eth0"), addresses(&first));
    let report = agent.on(|node| node.report());
    assert_eq!(report.blocked, None);
    assert_eq!(report.events.len(), 2, "the older one tells of it too");
}

#[test]
fn a_path_that_loses_packets_of_full_size_is_a_condition() {
    let machine = Machine::new();
    let mut agent = machine.start_with(&["10.244.1.0/24"]);
    let mtu = |agent: &mut support::Agent<'_>| {
        let report = agent.on(|node| node.report());
        report.conditions.into_iter().find(|condition| condition.kind == "WeftMTUMismatch").unwrap()
    };
    assert!(!mtu(&mut agent).status);
    let health = Health {
        path: Path::Overlay,
        why: "--routing overlay",
        proved: true,
        reachable: Some(true),
        mtu: MtuProof::Mismatch(1450),
        silent: Families::default(),
    };
    agent.on(|node| node.set_health([("node-2".into(), health)].into()));
    let condition = mtu(&mut agent);
    assert!(condition.status);
    assert!(condition.message.contains("node-2 (1450 bytes)"), "{}", condition.message);
}

#[test]
fn a_range_in_the_service_range_is_refused() {
    let machine = Machine::new();
    let mut agent = machine.start_with(&["10.96.1.0/24"]);
    let error = agent.fails(&call(Verb::Status, "", std::path::Path::new("")), 50);
    assert!(error.contains("Service range"), "{error}");
}

#[test]
fn a_range_without_room_is_refused() {
    let machine = Machine::new();
    let mut agent = machine.start_with(&["10.244.1.0/31"]);
    let error = agent.fails(&call(Verb::Status, "", std::path::Path::new("")), 50);
    assert!(error.contains("10.244.1.0/31"), "{error}");
}

#[test]
fn a_node_that_gets_another_range_keeps_its_pods_and_hands_out_of_the_new_one() {
    let machine = Machine::new();
    let mut agent = machine.start_with(&["10.244.1.0/24"]);
    let (one, two) = (Scratch::new("t-pod-"), Scratch::new("t-pod-"));
    let first = agent.add("c1", &one);
    agent.hear(&[node(NODE, 1, &["10.244.7.0/24"])]);
    let second = agent.add("c2", &two);
    assert_eq!(addresses(&second), ["10.244.7.2".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(one.addresses("eth0"), addresses(&first));
    agent.succeeds(&call(Verb::Del, "c1", one.path()));
    machine.has_pods(1);
}

#[test]
fn pods_stay_when_the_node_object_vanishes() {
    let machine = Machine::new();
    let mut agent = machine.start_with(&["10.244.1.0/24"]);
    let pod = Scratch::new("t-pod-");
    let first = agent.add("c1", &pod);
    agent.hear(&[]);
    agent.fails(&call(Verb::Status, "", std::path::Path::new("")), 50);
    assert_eq!(pod.addresses("eth0"), addresses(&first));
    agent.on(|node| node.repair());
    assert_eq!(machine.pod_interfaces().len(), 1);
    agent.hear(&[node(NODE, 1, &["10.244.1.0/24"])]);
    assert_eq!(agent.add("c1", &pod), first);
}
