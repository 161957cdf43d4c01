//! An agent that ends anywhere, and what the next one makes of it. Real kernel; needs root.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "tests")]

mod support;

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::{Value, json};
use support::{DNS, Machine, NODE, Scratch, addresses, call, node, node_port_service, with};
use weft_cni::{Verb, plugin::queue};
use weft_model::{
    Protocol,
    services::{Event, Service, ServiceKey, ServicePort, ServiceType},
};

const DUAL: &[&str] = &["10.244.1.0/24", "fd00:10:244:1::/64"];

fn record_files(machine: &Machine) -> Vec<std::path::PathBuf> {
    let files = fs::read_dir(machine.state.path().join("attachments")).unwrap();
    files.map(|file| file.unwrap().path()).collect()
}

fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut record: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut record);
    fs::write(path, record.to_string()).unwrap();
}

#[test]
fn what_was_handed_out_stays_handed_out() {
    let machine = Machine::new();
    let mut agent = machine.start_with(DUAL);
    let (one, two) = (Scratch::new("t-pod-"), Scratch::new("t-pod-"));
    let first = agent.add("c1", &one);
    drop(agent);
    let mut agent = machine.start_with(DUAL);
    assert_eq!(agent.add("c1", &one), first, "the same attachment");
    let second = agent.add("c2", &two);
    assert!(addresses(&second).iter().all(|address| !addresses(&first).contains(address)));
    let check = with(call(Verb::Check, "c1", one.path()), json!({ "prevResult": first }));
    agent.succeeds(&check);
}

#[test]
fn an_address_rests_over_a_restart() {
    let machine = Machine::new();
    let mut agent = machine.start_with(DUAL);
    let pod = Scratch::new("t-pod-");
    let first = agent.add("c1", &pod);
    agent.succeeds(&call(Verb::Del, "c1", pod.path()));
    drop(agent);
    let mut agent = machine.start_with(DUAL);
    assert_ne!(addresses(&agent.add("c2", &pod)), addresses(&first));
}

#[test]
fn killed_after_the_record_and_before_the_link() {
    let machine = Machine::new();
    let mut agent = machine.start_with(DUAL);
    let free = agent.free();
    let pod = Scratch::new("t-pod-");
    agent.add("c1", &pod);
    let path = record_files(&machine).remove(0);
    let record = fs::read(&path).unwrap();
    agent.succeeds(&call(Verb::Del, "c1", pod.path()));
    drop(agent);
    fs::write(&path, record).unwrap();
    edit(&path, |record| record["made"] = Value::Null);
    let mut agent = machine.start_with(DUAL);
    assert_eq!((agent.free(), machine.records()), (free, 0));
    agent.add("c1", &pod);
}

#[test]
fn killed_after_the_link_and_before_the_record_is_finished() {
    let machine = Machine::new();
    let mut agent = machine.start_with(DUAL);
    let free = agent.free();
    let pod = Scratch::new("t-pod-");
    agent.add("c1", &pod);
    drop(agent);
    edit(&record_files(&machine)[0], |record| record["made"] = Value::Null);
    let mut agent = machine.start_with(DUAL);
    assert_eq!((agent.free(), machine.records()), (free, 0));
    machine.has_pods(0);
    agent.add("c1", &pod);
}

#[test]
fn killed_in_del_after_the_link_and_before_the_record() {
    let machine = Machine::new();
    let mut agent = machine.start_with(DUAL);
    let free = agent.free();
    let pod = Scratch::new("t-pod-");
    agent.add("c1", &pod);
    let path = record_files(&machine).remove(0);
    let record = fs::read(&path).unwrap();
    agent.succeeds(&call(Verb::Del, "c1", pod.path()));
    drop(agent);
    fs::write(&path, record).unwrap();
    let mut agent = machine.start_with(DUAL);
    assert_eq!(machine.records(), 1, "the runtime has not heard of success: it calls again");
    agent.succeeds(&call(Verb::Del, "c1", pod.path()));
    assert_eq!((agent.free(), machine.records()), (free, 0));
}

#[test]
fn a_record_that_was_being_written_is_as_if_it_were_not() {
    let machine = Machine::new();
    drop(machine.start_with(DUAL));
    let half = machine.state.path().join("attachments/.unfinished-c1@eth0");
    fs::write(&half, "{\"contai").unwrap();
    let mut agent = machine.start_with(DUAL);
    assert!(!half.exists());
    agent.add("c1", &Scratch::new("t-pod-"));
}

#[test]
fn a_reboot_forgets_everything() {
    let machine = Machine::new();
    let mut agent = machine.start_with(DUAL);
    let free = agent.free();
    let pod = Scratch::new("t-pod-");
    agent.add("c1", &pod);
    drop(agent);
    let path = record_files(&machine).remove(0);
    edit(&path, |record| {
        record["netns"] = "/run/netns/before-the-reboot".into();
        record["host_interface"] = "weft0123456789a".into();
    });
    drop(pod);
    machine.has_pods(0);
    let mut agent = machine.start_with(DUAL);
    assert_eq!((agent.free(), machine.records()), (free, 0));
}

#[test]
fn a_state_directory_that_was_lost_hands_nothing_out_twice() {
    let machine = Machine::new();
    let mut agent = machine.start_with(&["10.244.1.0/29"]);
    let pods: Vec<Scratch> = (0..5).map(|_| Scratch::new("t-pod-")).collect();
    let mut given = BTreeSet::new();
    for (i, pod) in pods.iter().enumerate().take(3) {
        given.extend(addresses(&agent.add(&format!("c{i}"), pod)));
    }
    drop(agent);
    for entry in fs::read_dir(machine.state.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
    }
    let mut agent = machine.start_with(&["10.244.1.0/29"]);
    for (i, pod) in pods.iter().enumerate().skip(3) {
        assert!(
            addresses(&agent.add(&format!("c{i}"), pod)).into_iter().all(|address| given.insert(address))
        );
    }
    agent.fails(&call(Verb::Add, "c9", pods[0].path()), 100);
    // DEL and GC find what has no record.
    agent.succeeds(&call(Verb::Del, "c0", pods[0].path()));
    let valid = json!(["c1", "c3", "c4"].map(|id| json!({ "containerID": id, "ifname": "eth0" })));
    agent.succeeds(&with(call(Verb::Gc, "", Path::new("")), json!({ "cni.dev/valid-attachments": valid })));
    machine.has_pods(3);
    assert_eq!(agent.free(), [2]);
}

#[test]
fn without_the_api_server_del_is_served_and_add_is_to_try_again() {
    let machine = Machine::new();
    let mut agent = machine.start_with(DUAL);
    let (one, two) = (Scratch::new("t-pod-"), Scratch::new("t-pod-"));
    agent.add("c1", &one);
    drop(agent);
    let mut agent = machine.start();
    agent.fails(&call(Verb::Add, "c2", two.path()), 11);
    agent.fails(&call(Verb::Status, "", Path::new("")), 50);
    agent.succeeds(&call(Verb::Del, "c1", one.path()));
    machine.has_pods(0);
    agent.hear(&[node(NODE, 1, DUAL)]);
    agent.add("c2", &two);
}

#[test]
fn without_a_data_plane_del_waits_in_the_queue() {
    let machine = Machine::new();
    let mut agent = machine.start_with(DUAL);
    let pod = Scratch::new("t-pod-");
    agent.add("c1", &pod);
    drop(agent);
    // The nodes are forgotten, and the API server is away.
    fs::remove_file(machine.state.path().join("nodes.json")).unwrap();
    let mut agent = machine.start();
    agent.succeeds(&call(Verb::Del, "c1", pod.path()));
    assert_eq!(queue::list(&machine.config().queue_dir).unwrap().len(), 1);
    agent.hear(&[node(NODE, 1, DUAL)]);
    agent.on(|node| node.take_queue());
    machine.has_pods(0);
    assert!(queue::list(&machine.config().queue_dir).unwrap().is_empty());
}

#[test]
fn a_del_that_was_queued_does_not_end_a_later_add() {
    let machine = Machine::new();
    let mut agent = machine.start_with(DUAL);
    let pod = Scratch::new("t-pod-");
    agent.add("c1", &pod);
    let queue_dir = machine.config().queue_dir;
    queue::push(&queue_dir, &call(Verb::Del, "c1", pod.path())).unwrap();
    let again = agent.add("c1", &pod);
    assert!(queue::list(&queue_dir).unwrap().is_empty());
    agent.on(|node| node.take_queue());
    assert_eq!(pod.addresses("eth0"), addresses(&again));
}

#[test]
fn nonsense_in_the_queue_is_removed() {
    let machine = Machine::new();
    let mut agent = machine.start_with(DUAL);
    let queue_dir = machine.config().queue_dir;
    fs::create_dir_all(&queue_dir).unwrap();
    fs::write(queue_dir.join("nonsense"), "{").unwrap();
    queue::push(&queue_dir, &call(Verb::Add, "c1", Path::new("/x"))).unwrap();
    agent.on(|node| node.take_queue());
    assert!(queue::list(&queue_dir).unwrap().is_empty());
    assert_eq!(machine.records(), 0);
}

/// Which of the API server's lists comes first is chance. Without the nodes a plan of Services has no node ports, and nobody who stands
/// in for this node's DNS: what asks it would be refused.
#[test]
fn services_stay_as_they_are_when_they_are_heard_of_before_the_nodes() {
    let machine = Machine::new();
    let nodes = [node(NODE, 1, DUAL), node("node-2", 2, &["10.244.2.0/24"])];
    let mut agent = machine.start_with(DUAL);
    agent.hear(&nodes);
    let all = services_written(&mut agent);
    drop(agent);
    let mut agent = machine.start();
    assert_eq!(services_written(&mut agent), all);
    agent.hear(&nodes);
    agent.on(|node| assert!(node.write_services().is_none(), "there is nothing to change"));
}

/// Hears of a Service with a port of the node, and of the cluster's DNS, and says what the kernel has then.
fn services_written(agent: &mut support::Agent<'_>) -> Value {
    let dns = Service {
        key: ServiceKey::new("kube-system", "kube-dns"),
        kind: ServiceType::ClusterIp,
        cluster_ips: [DNS.parse().unwrap()].into(),
        ports: [ServicePort { name: "dns".into(), protocol: Protocol::Udp, port: 53, node_port: None }]
            .into(),
        ..node_port_service()
    };
    let events = [
        Event::ServicesBegin,
        Event::Service(node_port_service()),
        Event::Service(dns),
        Event::ServicesEnd,
        Event::SlicesBegin,
        Event::SlicesEnd,
    ];
    agent.on(|node| {
        node.hear(events.map(|event| (std::time::Instant::now(), event)).into());
        node.write_services().unwrap();
        json!(node.service_status().unwrap())
    })
}

#[test]
fn two_agents_do_not_share_a_state_directory() {
    let machine = Machine::new();
    let _first = machine.start_with(DUAL);
    let error = weft_agent::store::Store::open(machine.state.path()).unwrap_err().to_string();
    assert!(error.contains("another agent") && error.contains("--state-dir"), "{error}");
}
