//! LoadBalancer addresses: given from pools, answered for by one node at a time, moved when that node goes.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use weft_netns::Netlink;
use weft_tests::{Lab, Outcome, Place, wait_for, who_has};

use super::{lab, reaches, socket, until};

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: balanced}
spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 80, targetPort: http}]}
";

fn v4(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(v4) => v4,
        IpAddr::V6(v6) => panic!("{v6} is no IPv4 address"),
    }
}

/// The node whose uplink has a hardware address.
fn node_of(lab: &Lab, mac: [u8; 6]) -> String {
    let record = lab.record();
    let names =
        record["nodes"].as_array().unwrap().iter().map(|node| node["name"].as_str().unwrap().to_owned());
    let has = |name: &String| {
        let mut netlink = Netlink::open_in(&lab.node(name).netns()).unwrap();
        netlink.link("eth0").unwrap().mac == mac
    };
    names.into_iter().find(has).unwrap_or_else(|| panic!("no node has {mac:?}"))
}

/// The node that answers for an address, once one does.
#[track_caller]
fn answers_for(lab: &Lab, outside: &Place, address: IpAddr) -> String {
    let mac = wait_for(&format!("one node to answer for {address}"), || {
        let found: Vec<[u8; 6]> =
            who_has(outside, v4(address), Duration::from_millis(100)).into_iter().collect();
        if let [mac] = found[..] { Ok(mac) } else { Err(found) }
    });
    node_of(lab, mac)
}

/// Asks who has an address again and again while `disturb` runs: never two nodes answer.
fn never_two<T>(outside: &Place, address: IpAddr, disturb: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut most = BTreeSet::new();
            while !over.load(Ordering::Relaxed) {
                let found = who_has(outside, v4(address), Duration::from_millis(50));
                if found.len() > most.len() {
                    most = found;
                }
            }
            most
        });
        let result = disturb();
        over.store(true, Ordering::Relaxed);
        let most = watcher.join().unwrap();
        assert!(most.len() <= 1, "several answered for {address} at once: {most:?}");
        result
    })
}

#[test]
fn the_addresses_of_a_node_that_vanishes_move_and_two_never_answer() {
    let lab = lab(3, SERVICE).up();
    let outside = lab.outside();
    let address = lab.load_balancer("balanced")[0];
    reaches(&outside, socket(address, 80));
    let first = answers_for(&lab, &outside, address);
    let second = never_two(&outside, address, || {
        lab.cut_off(&first);
        let second = wait_for("another node to answer", || {
            let second = answers_for(&lab, &outside, address);
            if second == first { Err(second) } else { Ok(second) }
        });
        // Backends of the node that is cut off are chosen as long as the API names them; the others answer.
        until("an answer", || outside.asks(socket(address, 80)), Outcome::is_answer);
        lab.join(&first);
        // When it is back it leaves the address where it is.
        reaches(&outside, socket(address, 80));
        second
    });
    assert_ne!(first, second);
    assert_eq!(answers_for(&lab, &outside, address), second);
}

#[test]
fn an_agent_that_is_stuck_falls_silent_and_stays_so_when_it_goes_on() {
    let lab = lab(2, SERVICE).up();
    let outside = lab.outside();
    let address = lab.load_balancer("balanced")[0];
    reaches(&outside, socket(address, 80));
    let first = answers_for(&lab, &outside, address);
    let agent = lab.agent(&first);
    never_two(&outside, address, || {
        kill(agent, Signal::SIGSTOP).unwrap();
        let second = wait_for("the other node to answer", || {
            let second = answers_for(&lab, &outside, address);
            if second == first { Err(second) } else { Ok(second) }
        });
        kill(agent, Signal::SIGCONT).unwrap();
        for _ in 0..10 {
            assert_eq!(answers_for(&lab, &outside, address), second);
            reaches(&outside, socket(address, 80));
        }
    });
}

#[test]
fn with_a_local_policy_the_address_follows_the_backend() {
    let pod = |name: &str, node: &str| {
        format!(
            "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: follow}}}}
spec: {{nodeName: {node}, containers: [{{name: a, image: nginx, ports: [{{containerPort: 80}}]}}]}}
"
        )
    };
    let lab = lab(
        2,
        "
apiVersion: v1
kind: Service
metadata: {name: follow}
spec: {type: LoadBalancer, externalTrafficPolicy: Local, selector: {app: follow}, ports: [{port: 80}]}
",
    )
    .up();
    let outside = lab.outside();
    let address = lab.load_balancer("follow")[0];
    for (name, node) in [("first", "node-2"), ("second", "node-1"), ("third", "node-2")] {
        lab.apply(&pod(name, node));
        until(
            "the new Pod to answer",
            || outside.asks(socket(address, 80)),
            |outcome| matches!(outcome, Outcome::Answered(answer) if answer.pod() == name),
        );
        assert_eq!(answers_for(&lab, &outside, address), node);
        lab.kubectl(&["delete", "pod", name]).succeeds();
    }
}

#[test]
fn once_the_endpoints_of_a_node_that_vanished_are_gone_clients_reach_only_live_ones() {
    let lab = lab(3, SERVICE).up();
    let (outside, alive) = (lab.outside(), lab.node("node-1"));
    let (cluster, balanced) =
        (socket(lab.cluster_ip("balanced"), 80), socket(lab.load_balancer("balanced")[0], 80));
    for (from, to) in [(&alive, cluster), (&outside, balanced)] {
        until("an answer", || from.asks(to), Outcome::is_answer);
    }
    lab.cut_off("node-3");
    let pods = lab.get(&["pods", "-l", "app=web"]);
    let dead =
        pods["items"].as_array().unwrap().iter().find(|pod| pod["spec"]["nodeName"] == "node-3").unwrap();
    let dead = dead["metadata"]["name"].as_str().unwrap();
    // What takes it out of the Service; a cluster's node controller does so after a while.
    lab.kubectl(&["label", "pod", dead, "app-"]).succeeds();
    wait_for("its endpoint to be gone from every kernel that can be told", || {
        let held = lab.services();
        let of = |node: &&Value| node["node"] != "node-3";
        let ports =
            held.as_array().unwrap().iter().filter(of).flat_map(|node| node["services"].as_array().unwrap());
        let all: Vec<usize> = ports
            .filter(|port| port["name"] == "balanced")
            .map(|port| port["backends"].as_array().unwrap().len())
            .collect();
        if all == [2, 2] { Ok(()) } else { Err(all) }
    });
    until("the address to be somewhere else", || outside.asks(balanced), Outcome::is_answer);
    for (from, to) in [(&alive, cluster), (&outside, balanced)] {
        let nodes: BTreeSet<String> = (0..30).map(|_| from.asks(to).answer().node()).collect();
        assert!(!nodes.contains("node-3"), "{nodes:?}");
    }
    lab.join("node-3");
}

#[test]
fn an_agent_that_is_killed_and_comes_back_keeps_its_addresses() {
    let lab = lab(2, SERVICE).up();
    let outside = lab.outside();
    let address = lab.load_balancer("balanced")[0];
    reaches(&outside, socket(address, 80));
    let holder = answers_for(&lab, &outside, address);
    never_two(&outside, address, || {
        kill(lab.agent(&holder), Signal::SIGKILL).unwrap();
        for _ in 0..20 {
            until("an answer", || outside.asks(socket(address, 80)), Outcome::is_answer);
        }
    });
    answers_for(&lab, &outside, address);
}

/// B7: an API server that is away silences no address, and while nothing moves nothing is written, however many there are.
#[test]
fn an_api_server_that_is_away_silences_no_address() {
    let lab = lab(3, SERVICE).up();
    let outside = lab.outside();
    let address = lab.load_balancer("balanced")[0];
    reaches(&outside, socket(address, 80));
    let holder = answers_for(&lab, &outside, address);
    let versions = || {
        let leases = lab.get(&["leases", "-n", "kube-system", "-l", "weft.network/announces"]);
        let leases = leases["items"].as_array().unwrap().clone();
        let one = |lease: &Value| {
            (lease["metadata"]["name"].to_string(), lease["metadata"]["resourceVersion"].to_string())
        };
        leases.iter().map(one).collect::<BTreeSet<_>>()
    };
    // Voters are chosen as nodes become ready; then all is quiet.
    let quiet = wait_for("no Lease to be written any more", || {
        let before = versions();
        for _ in 0..30 {
            who_has(&outside, v4(address), Duration::from_millis(100));
        }
        let after = versions();
        if before == after { Ok(after) } else { Err((before, after)) }
    });
    let process = Pid::from_raw(lab.pid());
    // The process holds the API server; the agents are processes of their own.
    kill(process, Signal::SIGSTOP).unwrap();
    let windows = 80;
    let answered = (0..windows)
        .map(|_| who_has(&outside, v4(address), Duration::from_millis(100)))
        .inspect(|found| assert!(found.len() <= 1, "two answer: {found:?}"))
        .filter(|found| !found.is_empty())
        .count();
    kill(process, Signal::SIGCONT).unwrap();
    // A node that fell silent would do so within a quarter of that time; single answers may be late.
    assert!(answered > windows / 2, "answered in {answered} of {windows} windows");
    assert_eq!(answers_for(&lab, &outside, address), holder);
    // What could not be written meanwhile is of no consequence.
    wait_for("the Leases to name the same holder", || {
        let names =
            |all: &BTreeSet<(String, String)>| all.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        let now = versions();
        if names(&now) == names(&quiet) { Ok(()) } else { Err(now) }
    });
}

#[test]
fn both_families_move() {
    let dual =
        SERVICE.replace("type: LoadBalancer,", "type: LoadBalancer, ipFamilyPolicy: RequireDualStack,");
    let lab = lab(2, &dual).option("--ip-family", "dual").up();
    let outside = lab.outside();
    let addresses = wait_for("both addresses", || {
        let addresses = lab.load_balancer("balanced");
        if addresses.len() == 2 { Ok(addresses) } else { Err(addresses) }
    });
    for address in &addresses {
        reaches(&outside, socket(*address, 80));
    }
    // Each node is cut off in turn: whichever held an address, the other one takes it over.
    for node in ["node-1", "node-2"] {
        lab.cut_off(node);
        for address in &addresses {
            until(
                &format!("an answer by {address}"),
                || outside.asks(socket(*address, 80)),
                Outcome::is_answer,
            );
        }
        lab.join(node);
    }
}

fn status(lab: &Lab, name: &str) -> Vec<String> {
    let service = lab.get(&["service", name]);
    let ingress = service["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
    ingress.iter().map(|one| one["ip"].as_str().unwrap().to_owned()).collect()
}

#[track_caller]
fn event(lab: &Lab, service: &str, reason: &str) -> String {
    wait_for(&format!("the Event {reason} about {service}"), || {
        let events = lab.get(&["events"]);
        let about = |event: &&Value| {
            event["reason"] == reason
                && event["involvedObject"]["kind"] == "Service"
                && event["involvedObject"]["name"] == service
        };
        let found = events["items"].as_array().unwrap().iter().find(about);
        found.map(|event| event["message"].as_str().unwrap().to_owned()).ok_or(())
    })
}

#[test]
fn addresses_come_from_pools_as_services_ask() {
    let service = |name: &str, more: &str| {
        format!(
            "
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{type: LoadBalancer, {more}ports: [{{port: 80}}]}}
---
"
        )
    };
    let lab = Lab::with_nodes(1)
        .running(
            "
apiVersion: v1
kind: ConfigMap
metadata: {name: weft, namespace: kube-system}
data:
  loadBalancerPools: |
    - {name: tiny, cidrs: [192.168.1.128/31]}
    - {name: asked, ranges: [192.168.1.140-192.168.1.149], autoAssign: false}
",
        )
        .up();
    lab.apply(&service("asks", "loadBalancerIP: 192.168.1.145, "));
    assert_eq!(lab.load_balancer("asks")[0].to_string(), "192.168.1.145");
    lab.apply(&(service("one", "") + &service("two", "")));
    let given = BTreeSet::from([lab.load_balancer("one")[0], lab.load_balancer("two")[0]]);
    assert_eq!(given.iter().map(ToString::to_string).collect::<Vec<_>>(), ["192.168.1.128", "192.168.1.129"]);
    lab.apply(&service("three", ""));
    assert!(event(&lab, "three", "LoadBalancerPoolExhausted").contains("pool tiny is full"));
    lab.apply(&service("same", "loadBalancerIP: 192.168.1.145, "));
    assert!(event(&lab, "same", "LoadBalancerAddressConflict").contains("default/asks"));
    lab.apply(&service("far", "loadBalancerIP: 203.0.113.1, "));
    assert!(event(&lab, "far", "LoadBalancerAddressRefused").contains("is in no pool"));
    lab.apply(&service("other", "loadBalancerClass: example.com/other, "));
    // What is freed goes to who waits: by deletion, and by another type.
    lab.kubectl(&["delete", "service", "one"]).succeeds();
    let freed = lab.load_balancer("three")[0];
    assert!(given.contains(&freed));
    lab.kubectl(&[
        "patch",
        "service",
        "asks",
        "-p",
        r#"{"spec": {"type": "ClusterIP", "loadBalancerIP": null}}"#,
    ])
    .succeeds();
    assert_eq!(lab.load_balancer("same")[0].to_string(), "192.168.1.145");
    wait_for("the old address to be taken out", || {
        let held = status(&lab, "asks");
        if held.is_empty() { Ok(()) } else { Err(held) }
    });
    assert!(status(&lab, "other").is_empty(), "another class is somebody else's");
    // What is in the status stays when the agent is another one.
    let agent = lab.agent("node-1");
    kill(agent, Signal::SIGKILL).unwrap();
    wait_for("the agent to be started again", || if lab.agent("node-1") == agent { Err(()) } else { Ok(()) });
    lab.apply(&service("late", "loadBalancerIP: 192.168.1.146, "));
    lab.load_balancer("late");
    assert_eq!(lab.load_balancer("three")[0], freed);
}

const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

#[test]
fn a_node_that_is_excluded_hands_its_addresses_over_without_an_outage_and_takes_part_again() {
    let lab = lab(2, SERVICE).up();
    let outside = lab.outside();
    let address = lab.load_balancer("balanced")[0];
    reaches(&outside, socket(address, 80));
    let first = answers_for(&lab, &outside, address);
    let second = if first == "node-1" { "node-2" } else { "node-1" };
    let label =
        |node: &str, how: &str| lab.kubectl(&["label", "node", node, &format!("{EXCLUDED}{how}")]).succeeds();
    let moves_to = |node: &str| {
        wait_for(&format!("{node} to answer"), || {
            let now = answers_for(&lab, &outside, address);
            if now == node { Ok(()) } else { Err(now) }
        });
    };
    let load = outside.begins_requests(socket(address, 80), 50);
    label(&first, "=");
    moves_to(second);
    // Without the label it takes part again: it is the only one left.
    label(&first, "-");
    label(second, "=true");
    moves_to(&first);
    let requests = load.end();
    assert!(requests.done > 0 && requests.failed == 0, "{requests:?}");
    label(&first, "=");
    wait_for("nobody to answer", || {
        let found = who_has(&outside, v4(address), Duration::from_millis(200));
        if found.is_empty() { Ok(()) } else { Err(found) }
    });
    assert!(event(&lab, "balanced", "LoadBalancerNotAnnounced").contains(EXCLUDED));
    label(second, "-");
    moves_to(second);
    reaches(&outside, socket(address, 80));
}

#[test]
fn pools_that_have_addresses_of_pods_services_or_nodes_are_refused_and_those_in_force_stay() {
    let lab = lab(1, SERVICE).up();
    let first = lab.load_balancer("balanced")[0];
    let refused = |range: &str, taken: &str| {
        lab.apply(&format!(
            "
apiVersion: v1
kind: ConfigMap
metadata: {{name: weft, namespace: kube-system}}
data:
  loadBalancerPools: |
    - {{name: mine, cidrs: [{range}]}}
"
        ));
        wait_for("the Event about the pools", || {
            let events = lab.get(&["events", "-n", "kube-system"]);
            let said: Vec<String> = events["items"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|event| event["reason"] == "LoadBalancerPoolsRefused")
                .map(|event| event["message"].as_str().unwrap().to_owned())
                .collect();
            let names = |said: &String| said.contains("\"mine\"") && said.contains(taken);
            if said.iter().any(names) { Ok(()) } else { Err(said) }
        });
    };
    refused("10.96.200.0/24", "10.96.0.0/16 (the Services' range)");
    refused("10.244.0.128/25", "10.244.0.0/");
    refused("192.168.1.0/29", "192.168.1.2/32 (node node-1)");
    // The pools of before are in force: a new Service gets an address of theirs.
    lab.apply(&SERVICE.replace("name: balanced", "name: late"));
    let late = lab.load_balancer("late")[0];
    assert_eq!(
        (v4(late).octets()[..3].to_vec(), v4(late).octets()[3] >= 128),
        (vec![192, 168, 1], true),
        "{late}"
    );
    assert_eq!(lab.load_balancer("balanced")[0], first);
    lab.apply(
        "
apiVersion: v1
kind: ConfigMap
metadata: {name: weft, namespace: kube-system}
data:
  loadBalancerPools: |
    - {name: mine, cidrs: [192.168.1.128/26, 192.168.1.200/30]}
",
    );
    lab.apply(
        &SERVICE
            .replace("name: balanced", "name: asks")
            .replace("{type", "{loadBalancerIP: 192.168.1.201, type"),
    );
    assert_eq!(lab.load_balancer("asks")[0].to_string(), "192.168.1.201");
}
