//! What a container runtime can rely on. Real kernel, throw-away namespaces; needs root.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "tests")]

mod support;

use std::path::Path;

use serde_json::json;
use support::{Machine, Scratch, addresses, call, config, node_port_service, with};
use weft_cni::{Call, Verb};
use weft_model::services::Event;
use weft_netns::Netlink;

const DUAL: &[&str] = &["10.244.1.0/24", "fd00:10:244:1::/64"];

#[test]
fn add_gives_a_pod_an_address_of_each_family_and_says_so() {
    let machine = Machine::new();
    let mut agent = machine.start_with(DUAL);
    let pod = Scratch::new("t-pod-");
    let result = agent.add("c1", &pod);
    assert_eq!(pod.addresses("eth0"), addresses(&result));
    assert_eq!(
        addresses(&result),
        ["10.244.1.2".parse::<std::net::IpAddr>().unwrap(), "fd00:10:244:1::3".parse().unwrap()]
    );
    assert_eq!(result["cniVersion"], "1.1.0");
    let [host, container] = result["interfaces"].as_array().unwrap().as_slice() else { panic!("{result}") };
    assert_eq!(host.get("sandbox"), None, "the node's side first");
    assert_eq!(machine.pod_interfaces(), [host["name"].as_str().unwrap()]);
    assert_eq!(container["name"], "eth0");
    assert_eq!(container["sandbox"], pod.path().to_str().unwrap());
    assert!(container["mtu"].as_u64().unwrap() >= 1280);
    let link = Netlink::open_in(&pod.0).unwrap().link("eth0").unwrap();
    let mac = link.mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":");
    assert_eq!(
        (container["mac"].as_str(), container["mtu"].as_u64()),
        (Some(mac.as_str()), Some(link.mtu.into()))
    );
    for ip in result["ips"].as_array().unwrap() {
        assert_eq!(ip["interface"], 1);
    }
    agent.succeeds(&call(Verb::Del, "c1", pod.path()));
    machine.has_pods(0);
    assert_eq!(machine.records(), 0);
}

#[test]
fn add_twice_is_the_same_result_and_never_two_addresses() {
    let machine = Machine::new();
    let mut agent = machine.start_with(DUAL);
    let (pod, other) = (Scratch::new("t-pod-"), Scratch::new("t-pod-"));
    let first = agent.add("c1", &pod);
    let free = agent.free();
    assert_eq!(agent.add("c1", &pod), first);
    agent.fails(&call(Verb::Add, "c1", other.path()), 103);
    assert_eq!(agent.free(), free);
    assert_eq!(machine.pod_interfaces().len(), 1);
}

#[test]
fn add_fails_when_the_interface_name_is_taken_and_leaves_nothing() {
    let machine = Machine::new();
    let mut agent = machine.start_with(DUAL);
    let pod = Scratch::new("t-pod-");
    Netlink::open_in(&pod.0).unwrap().add_bridge("eth0").unwrap();
    let free = agent.free();
    let error = agent.fails(&call(Verb::Add, "c1", pod.path()), 103);
    assert!(error.contains("eth0"), "{error}");
    assert_eq!((agent.free(), machine.records()), (free, 0));
    machine.has_pods(0);
    agent.succeeds(&call(Verb::Del, "c1", pod.path()));
}

#[test]
fn del_of_what_is_not_there_succeeds() {
    let machine = Machine::new();
    let mut agent = machine.start_with(DUAL);
    for netns in ["/run/netns/none", ""] {
        agent.succeeds(&call(Verb::Del, "nobody", Path::new(netns)));
    }
}

#[test]
fn del_without_a_netns_frees_the_address() {
    let machine = Machine::new();
    let mut agent = machine.start_with(DUAL);
    let free = agent.free();
    let (one, two) = (Scratch::new("t-pod-"), Scratch::new("t-pod-"));
    agent.add("c1", &one);
    agent.add("c2", &two);
    let gone = two.path().to_owned();
    drop(two);
    agent.succeeds(&call(Verb::Del, "c1", Path::new("")));
    agent.succeeds(&call(Verb::Del, "c2", &gone));
    assert_eq!((agent.free(), machine.records()), (free, 0));
    machine.has_pods(0);
}

#[test]
fn check_notices_a_missing_link_address_or_route() {
    let machine = Machine::new();
    let mut agent = machine.start_with(DUAL);
    let break_it: [fn(&mut Netlink); 3] = [
        |inside| {
            let index = inside.link("eth0").unwrap().index;
            inside.delete_link(index).unwrap();
        },
        |inside| {
            let index = inside.link("eth0").unwrap().index;
            let found = inside.addresses(Some(index)).unwrap();
            let v4 = found.iter().find(|found| found.address.is_ipv4()).unwrap();
            inside.delete_address(index, v4.address, v4.prefix_len).unwrap();
        },
        |inside| {
            let index = inside.link("eth0").unwrap().index;
            let default = weft_netns::netlink::RouteSpec::default_via("169.254.1.1".parse().unwrap(), index);
            inside.delete_route(&default).unwrap();
        },
    ];
    for (i, break_it) in break_it.into_iter().enumerate() {
        let (pod, name) = (Scratch::new("t-pod-"), format!("c{i}"));
        let result = agent.add(&name, &pod);
        let check = with(call(Verb::Check, &name, pod.path()), json!({ "prevResult": result }));
        agent.succeeds(&check);
        break_it(&mut Netlink::open_in(&pod.0).unwrap());
        agent.fails(&check, 102);
    }
}

#[test]
fn check_accepts_what_later_plugins_of_the_chain_changed() {
    let machine = Machine::new();
    let mut agent = machine.start_with(DUAL);
    let pod = Scratch::new("t-pod-");
    let mut result = agent.add("c1", &pod);
    let mut inside = Netlink::open_in(&pod.0).unwrap();
    let index = inside.link("eth0").unwrap().index;
    inside.add_address(index, "10.99.0.1".parse().unwrap(), 32).unwrap();
    inside.set_mtu(index, 1400).unwrap();
    result["interfaces"].as_array_mut().unwrap().push(json!({ "name": "tun0", "sandbox": pod.path() }));
    agent.succeeds(&with(call(Verb::Check, "c1", pod.path()), json!({ "prevResult": result })));
}

#[test]
fn check_needs_a_previous_result_and_an_attachment() {
    let machine = Machine::new();
    let mut agent = machine.start_with(DUAL);
    let pod = Scratch::new("t-pod-");
    agent.fails(&call(Verb::Check, "c1", pod.path()), 7);
    agent.fails(&with(call(Verb::Check, "c1", pod.path()), json!({ "prevResult": {} })), 3);
}

#[test]
fn gc_removes_what_is_not_valid_and_nothing_else() {
    let machine = Machine::new();
    let mut agent = machine.start_with(DUAL);
    let pods: Vec<Scratch> = (0..3).map(|_| Scratch::new("t-pod-")).collect();
    agent.add("kept", &pods[0]);
    agent.add("stale", &pods[1]);
    let other_network = call(Verb::Add, "foreign", pods[2].path());
    let other_network = Call { config: config(json!({ "name": "other" })), ..other_network };
    assert!(agent.cni(&other_network).get("code").is_none());
    let gc = |keys| with(call(Verb::Gc, "", Path::new("")), keys);
    let valid = json!([{ "containerID": "kept", "ifname": "eth0" }]);
    agent.succeeds(&gc(json!({ "cni.dev/valid-attachments": valid, "disableGC": true })));
    assert_eq!(machine.records(), 3, "disableGC is honoured");
    agent.fails(&gc(json!({})), 7);
    assert_eq!(machine.records(), 3, "not said is not none");
    agent.succeeds(&gc(json!({ "cni.dev/valid-attachments": valid })));
    assert_eq!(machine.records(), 2);
    machine.has_pods(2);
    assert_eq!(pods[0].addresses("eth0").len(), 2);
}

#[test]
fn gc_goes_on_after_a_single_error_and_tells_it() {
    let machine = Machine::new();
    let mut agent = machine.start_with(DUAL);
    let pods: Vec<Scratch> = (0..3).map(|_| Scratch::new("t-pod-")).collect();
    for (i, pod) in pods.iter().enumerate() {
        agent.add(&format!("c{i}"), pod);
    }
    // A folder in the place of a record cannot be removed as one.
    let record = machine.state.path().join("attachments/c1@eth0");
    std::fs::remove_file(&record).unwrap();
    std::fs::create_dir(&record).unwrap();
    let gc = with(call(Verb::Gc, "", Path::new("")), json!({ "cni.dev/valid-attachments": [] }));
    let error = agent.fails(&gc, 101);
    assert!(error.contains("c1@eth0") && !error.contains("c0@eth0"), "{error}");
    machine.has_pods(0);
    std::fs::remove_dir(&record).unwrap();
    agent.succeeds(&gc);
    assert_eq!(agent.free()[0], 253);
}

#[test]
fn a_full_range_is_a_clear_error_and_what_del_frees_is_given_again() {
    let machine = Machine::new();
    // Room for five.
    let mut agent = machine.start_with(&["10.244.1.0/29", "fd00:10:244:1::/64"]);
    let pods: Vec<Scratch> = (0..6).map(|_| Scratch::new("t-pod-")).collect();
    for (i, pod) in pods.iter().take(5).enumerate() {
        agent.add(&format!("c{i}"), pod);
    }
    let free = agent.free();
    assert_eq!(free[0], 0);
    let error = agent.fails(&call(Verb::Add, "c5", pods[5].path()), 100);
    assert!(error.contains("10.244.1.0/29") && error.contains('5'), "{error}");
    assert_eq!(agent.free(), free, "nothing is taken of the other family");
    agent.succeeds(&call(Verb::Del, "c2", pods[2].path()));
    agent.add("c5", &pods[5]);
}

#[test]
fn a_full_range_is_searched_for_pods_that_died_without_a_del() {
    let machine = Machine::new();
    let mut agent = machine.start_with(&["10.244.1.0/30"]);
    let (dead, pod) = (Scratch::new("t-pod-"), Scratch::new("t-pod-"));
    agent.add("c1", &dead);
    drop(dead);
    machine.has_pods(0);
    agent.add("c2", &pod);
    assert_eq!(machine.records(), 1);
}

/// B3: a sandbox that another plugin refused gets no DEL; its address is free again as soon as its namespace is gone.
#[test]
fn a_namespace_that_is_gone_frees_its_address_without_a_del() {
    let machine = Machine::new();
    let mut agent = machine.start_with(DUAL);
    let free = agent.free();
    let (dead, lives) = (Scratch::new("t-pod-"), Scratch::new("t-pod-"));
    agent.add("c1", &dead);
    agent.add("c2", &lives);
    agent.on(|node| node.repair());
    assert_eq!(machine.records(), 2, "what is there stays");
    let path = dead.path().to_owned();
    drop(dead);
    machine.has_pods(1);
    // Its file's name may be another's by now.
    std::fs::write(&path, "").unwrap();
    agent.on(|node| node.repair());
    std::fs::remove_file(&path).unwrap();
    assert_eq!(machine.records(), 1);
    assert_eq!(agent.free(), free.iter().map(|free| free - 1).collect::<Vec<_>>());
    assert_eq!(lives.addresses("eth0").len(), 2);
    // And the runtime's DEL, should it come after all, succeeds.
    agent.succeeds(&call(Verb::Del, "c1", &path));
}

/// E1: a Pod has ports of the node's own addresses, and none that is somebody's.
#[test]
fn host_ports_are_of_own_addresses_and_not_taken_from_the_agent_or_services() {
    let machine = Machine::new();
    let mut agent = machine.start_with(DUAL);
    agent.on(|node| {
        for event in [
            Event::ServicesBegin,
            Event::Service(node_port_service()),
            Event::ServicesEnd,
            Event::SlicesBegin,
            Event::SlicesEnd,
        ] {
            node.hear(vec![(std::time::Instant::now(), event)]);
        }
        node.write_services().unwrap();
    });
    let pod = Scratch::new("t-pod-");
    let ask = |ip: &str, port: u16, protocol: &str| {
        let mapping = json!({ "hostPort": port, "containerPort": 80, "protocol": protocol, "hostIP": ip });
        let runtime = json!({ "runtimeConfig": { "portMappings": [mapping] } });
        with(call(Verb::Add, "c1", pod.path()), runtime)
    };
    for address in ["10.96.0.10", "203.0.113.1", "10.244.1.9", "192.168.1.3", "fd00:10:244:1::9", "224.0.0.1"]
    {
        let error = agent.fails(&ask(address, 8080, "tcp"), 7);
        assert!(error.contains(address) && error.contains("192.168.1.2"), "{error}");
    }
    let told = |agent: &mut support::Agent<'_>| agent.on(|node| node.report().events);
    let events = told(&mut agent);
    let event = events.iter().find(|event| event.reason == "PodNotAttached").unwrap();
    assert_eq!((event.about.kind, event.about.name.as_str()), ("Pod", "pod-c1"));
    assert_eq!(agent.on(|node| node.status().failed_adds[0].times), 6);
    for (port, protocol, whose) in
        [(10256, "tcp", "health checks"), (30080, "tcp", "shop/web"), (32000, "tcp", "health check port")]
    {
        let error = agent.fails(&ask("", port, protocol), 103);
        assert!(error.contains(whose), "{error}");
    }
    agent.fails(&ask("192.168.1.2", 30080, "tcp"), 103);
    agent.fails(&ask("127.0.0.1", 30080, "tcp"), 103);
    assert_eq!(machine.records(), 0);
    // What is nobody's is given.
    for (address, protocol) in
        [("", "udp"), ("127.0.0.1", "udp"), ("192.168.1.2", "udp"), ("fd00:192:168:1::2", "tcp")]
    {
        let port = if protocol == "udp" { 30080 } else { 8080 };
        assert!(agent.cni(&ask(address, port, protocol)).get("code").is_none(), "{address}");
        agent.succeeds(&call(Verb::Del, "c1", pod.path()));
    }
    assert!(agent.on(|node| node.status().failed_adds.is_empty()));
    assert!(!told(&mut agent).iter().any(|event| event.reason == "PodNotAttached"));
}

/// A4: a Service that comes to want a Pod's host port has it, as with kube-proxy, and the Pod is told.
#[test]
fn a_service_takes_a_host_port_that_a_pod_had_before() {
    let machine = Machine::new();
    let mut agent = machine.start_with(DUAL);
    let pod = Scratch::new("t-pod-");
    let runtime =
        json!({ "runtimeConfig": { "portMappings": [{ "hostPort": 30080, "containerPort": 80 }] } });
    assert!(agent.cni(&with(call(Verb::Add, "c1", pod.path()), runtime)).get("code").is_none());
    agent.on(|node| {
        for event in [Event::ServicesBegin, Event::SlicesBegin, Event::SlicesEnd] {
            node.hear(vec![(std::time::Instant::now(), event)]);
        }
        node.hear(vec![(std::time::Instant::now(), Event::Service(node_port_service()))]);
        node.hear(vec![(std::time::Instant::now(), Event::ServicesEnd)]);
        node.write_services().unwrap();
    });
    let events = agent.on(|node| node.report().events);
    let event = events.iter().find(|event| event.reason == "HostPortTaken").unwrap();
    assert!(event.about.kind == "Pod" && event.message.contains("30080"), "{event:?}");
    let at_node: Vec<bool> = agent.on(|node| {
        let all = node.service_status().unwrap();
        all.iter()
            .filter(|one| one.frontends.iter().any(|one| one.port == 30080))
            .map(|one| one.host_port)
            .collect()
    });
    assert!(at_node.contains(&false), "{at_node:?}");
    assert!(agent.on(|node| !node.status().services.refused.is_empty()));
}

#[test]
fn a_host_port_is_listed_by_its_pod() {
    let machine = Machine::new();
    let mut agent = machine.start_with(DUAL);
    let (named, nameless) = (Scratch::new("t-pod-"), Scratch::new("t-pod-"));
    let runtime = |port: u16| json!({ "runtimeConfig": { "portMappings": [{ "hostPort": port, "containerPort": 80 }] } });
    let pod = call(Verb::Add, "c1", named.path());
    assert!(agent.cni(&with(pod, runtime(8080))).get("code").is_none());
    let other = Call { args: String::new(), ..call(Verb::Add, "c2", nameless.path()) };
    assert!(agent.cni(&with(other, runtime(8081))).get("code").is_none());
    let mut listed: Vec<[String; 3]> = agent.on(|node| {
        let all = node.service_status().unwrap().into_iter().filter(|one| one.host_port);
        all.map(|one| [one.namespace, one.name, one.port]).collect()
    });
    listed.sort();
    listed.dedup();
    assert_eq!(listed, [["", "c2", "8081"], ["shop", "pod-c1", "8080"]]);
}

/// E14: work grows with what is asked for, not with its square, and what is asked for is bounded.
#[test]
fn many_host_ports_are_given_and_too_many_refused() {
    let machine = Machine::new();
    let mut agent = machine.start_with(DUAL);
    let pod = Scratch::new("t-pod-");
    let ask = |count: u16| {
        let mappings: Vec<_> =
            (1..=count).map(|port| json!({ "hostPort": 20_000 + port, "containerPort": port })).collect();
        with(call(Verb::Add, "c1", pod.path()), json!({ "runtimeConfig": { "portMappings": mappings } }))
    };
    agent.fails(&ask(1025), 7);
    assert!(agent.cni(&ask(1024)).get("code").is_none());
    agent.succeeds(&call(Verb::Del, "c1", pod.path()));
}

#[test]
fn host_ports_collide_by_address_protocol_and_port() {
    let machine = Machine::new();
    let mut agent = machine.start_with(DUAL);
    let pods: Vec<Scratch> = (0..5).map(|_| Scratch::new("t-pod-")).collect();
    let ask = |i: usize, mappings| {
        let runtime = json!({ "runtimeConfig": { "portMappings": mappings } });
        with(call(Verb::Add, &format!("c{i}"), pods[i].path()), runtime)
    };
    let port = |ip: &str, protocol: &str| json!({ "hostPort": 8080, "containerPort": 80, "protocol": protocol, "hostIP": ip });
    assert!(agent.cni(&ask(0, json!([port("192.168.1.2", "tcp")]))).get("code").is_none());
    assert!(
        agent.cni(&ask(1, json!([port("192.168.1.2", "udp")]))).get("code").is_none(),
        "another protocol"
    );
    assert!(agent.cni(&ask(2, json!([port("127.0.0.1", "tcp")]))).get("code").is_none(), "another address");
    let error = agent.fails(&ask(3, json!([port("192.168.1.2", "tcp")])), 103);
    assert!(error.contains("shop/pod-c0") && error.contains("8080"), "{error}");
    agent.fails(&ask(3, json!([port("", "tcp")])), 103);
    agent.fails(&ask(3, json!([port("192.168.1.2", "sctp"), port("", "sctp")])), 103);
    agent.succeeds(&call(Verb::Del, "c0", pods[0].path()));
    assert!(agent.cni(&ask(4, json!([port("192.168.1.2", "tcp")]))).get("code").is_none(), "free again");
}

#[test]
fn a_wrong_namespace_is_code_4_and_named() {
    let machine = Machine::new();
    let mut agent = machine.start_with(DUAL);
    for netns in ["/run/netns/there-is-none", "/proc/thread-self/ns/net", "/etc/hostname"] {
        let error = agent.fails(&call(Verb::Add, "c1", Path::new(netns)), 4);
        assert!(error.contains("CNI_NETNS"), "{error}");
    }
    assert_eq!(machine.records(), 0);
}

#[test]
fn every_version_is_answered_in_its_own() {
    let machine = Machine::new();
    let mut agent = machine.start_with(DUAL);
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let pod = Scratch::new("t-pod-");
        let add = with(call(Verb::Add, version, pod.path()), json!({ "cniVersion": version }));
        let result = agent.cni(&add);
        assert_eq!(result["cniVersion"], version, "{result}");
        assert_eq!(result["ips"][0].get("version").is_some(), version < "1");
    }
    let pod = Scratch::new("t-pod-");
    let error = agent.fails(&with(call(Verb::Add, "c", pod.path()), json!({ "cniVersion": "2.0.0" })), 1);
    assert!(error.contains("0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"), "{error}");
}

#[test]
fn a_previous_result_of_a_chain_is_kept() {
    let machine = Machine::new();
    let mut agent = machine.start_with(DUAL);
    let pod = Scratch::new("t-pod-");
    let previous = json!({
        "cniVersion": "1.1.0", "interfaces": [{ "name": "other0" }], "ips": [{ "address": "10.1.2.3/24", "interface": 0 }],
    });
    let result = agent.cni(&with(call(Verb::Add, "c1", pod.path()), json!({ "prevResult": previous })));
    assert_eq!(result["interfaces"][0]["name"], "other0");
    assert_eq!(result["interfaces"].as_array().unwrap().len(), 3);
    assert_eq!(result["ips"][0], previous["ips"][0]);
    assert_eq!(result["ips"][1]["interface"], 2);
}

#[test]
fn a_bad_configuration_changes_nothing() {
    let machine = Machine::new();
    let mut agent = machine.start_with(DUAL);
    let pod = Scratch::new("t-pod-");
    let ask = |config: &str| Call { config: config.to_owned(), ..call(Verb::Add, "c1", pod.path()) };
    agent.fails(&ask("{"), 6);
    agent.fails(&ask(r#"{"cniVersion":"1.0.0"}"#), 7);
    agent.fails(&ask(r#"{"cniVersion":"1.0.0","name":"x","runtimeConfig":{"portMappings":7}}"#), 7);
    agent.fails(&Call { args: "nonsense".to_owned(), ..call(Verb::Add, "c1", pod.path()) }, 4);
    agent.fails(&Call { container_id: "../../etc".to_owned(), ..call(Verb::Add, "c1", pod.path()) }, 4);
    agent.fails(&Call { ifname: "a/b".to_owned(), ..call(Verb::Del, "c1", pod.path()) }, 4);
    assert_eq!(machine.records(), 0);
}
