//! Services from the API server to the kernel, and what load balancers are told.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use weft_agent::admin::{EndpointStatus, ServiceStatus};
use weft_model::services::FrontendKind;

use crate::{node::Node, support::NODE};

const RANGES: &[&str] = &["10.244.1.0/24"];

fn started() -> Node {
    let mut node = Node::new(RANGES);
    node.start();
    node.ready();
    node
}

fn service(name: &str, spec: Value) -> Value {
    let mut all = json!({ "ports": [{ "port": 80 }] });
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": "default" }, "spec": all })
}

fn local_balancer(name: &str, health_port: u16) -> Value {
    service(
        name,
        json!({ "type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": health_port }),
    )
}

/// A slice of `service` with an endpoint an address: `(address, node, ready)`.
fn slice(service: &str, endpoints: &[(&str, &str, bool)]) -> Value {
    let endpoints = endpoints.iter().map(|(address, node, ready)| {
        json!({ "addresses": [address], "nodeName": node, "conditions": { "ready": ready } })
    });
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": format!("{service}-1"), "namespace": "default", "labels": { "kubernetes.io/service-name": service },
        },
        "ports": [{ "name": "", "port": 8080, "protocol": "TCP" }],
        "endpoints": endpoints.collect::<Vec<_>>(),
    })
}

fn apply(node: &Node, objects: &[Value]) {
    node.outside().apply(objects);
}

/// Names and the backends of the cluster IP, as the kernel has them.
fn installed(node: &Node) -> Option<BTreeMap<String, Vec<String>>> {
    let internal = |one: &ServiceStatus| {
        let chosen = one.backends.iter().filter(|backend| backend.internal);
        chosen.map(|backend| format!("{}:{}", backend.key.address, backend.key.port)).collect()
    };
    let all = weft_agent::admin::Client::connect(&node.path("agent.sock")).ok()?.services().ok()?;
    Some(
        all.iter()
            .filter(|one| one.name != "kubernetes")
            .map(|one| (one.name.clone(), internal(one)))
            .collect(),
    )
}

#[track_caller]
fn waits_for(node: &Node, wanted: &[(&str, &[&str])]) {
    let wanted: BTreeMap<String, Vec<String>> = wanted
        .iter()
        .map(|(name, backends)| ((*name).to_owned(), backends.iter().map(ToString::to_string).collect()))
        .collect();
    node.wait_for(&format!("{wanted:?}"), || (installed(node)? == wanted).then_some(()));
}

pub fn services_and_endpoints_reach_the_kernel() {
    let node = started();
    let endpoints =
        [("10.244.1.7", NODE, true), ("10.244.2.7", "node-2", true), ("10.244.2.8", "node-2", false)];
    apply(
        &node,
        &[slice("web", &endpoints), service("web", json!({ "type": "NodePort" })), service("api", json!({}))],
    );
    waits_for(&node, &[("api", &[]), ("web", &["10.244.1.7:8080", "10.244.2.7:8080"])]);
    let all = node.client().services().unwrap();
    let web = all.iter().find(|one| one.name == "web").unwrap();
    let kinds: Vec<String> = web.frontends.iter().map(|one| format!("{:?}", one.kind)).collect();
    assert!(kinds.contains(&"ClusterIp".to_owned()) && kinds.contains(&"NodePort".to_owned()), "{kinds:?}");
    let ready = |address: &str| {
        web.backends.iter().find(|one| one.key.address.to_string() == address).map(|one| one.state)
    };
    assert_eq!(ready("10.244.1.7"), Some(EndpointStatus::Ready));
    node.kubectl(&["delete", "service", "api"], "");
    apply(&node, &[slice("web", &[("10.244.2.8", "node-2", true)])]);
    waits_for(&node, &[("web", &["10.244.2.8:8080"])]);
    let status = node.status().unwrap().services;
    assert!(status.synced && status.refused.is_empty() && status.error.is_none(), "{status:?}");
    let metrics = node.get("/metrics");
    for line in [
        "weft_services_in_sync 1",
        "weft_endpoints 1",
        "weft_service_ports_refused 0",
        "weft_network_programming_duration_seconds_count",
        "weft_sync_proxy_rules_duration_seconds_count",
        "weft_sync_proxy_rules_last_timestamp_seconds",
        // B6: every watch is told of, those of Leases as well.
        "weft_watch_follows{watch=\"EndpointSlices\"} 1",
        "weft_watch_follows{watch=\"Leases weft.network/allocates\"} 1",
        "weft_watch_unreadable_objects{watch=\"Services\"} 0",
    ] {
        assert!(metrics.contains(line), "{line} is missing in {metrics}");
    }
}

pub fn an_agent_that_knows_nothing_yet_removes_nothing() {
    let mut node = started();
    let _backend = node.machine.netns.0.run(|| TcpListener::bind("192.168.1.2:8080").unwrap()).unwrap();
    apply(&node, &[service("web", json!({})), slice("web", &[("192.168.1.2", NODE, true)])]);
    waits_for(&node, &[("web", &["192.168.1.2:8080"])]);
    let address = node.kubectl(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"], "");
    assert!(node.connects(&address, 80));
    node.signal(Signal::SIGKILL);
    assert!(node.connects(&address, 80), "without an agent");
    node.api.faults().set_refuse_connections(true);
    node.start();
    // It knows the nodes from before, opens its data plane, and asks for Services in vain.
    node.wait_for("the agent without an API server", || {
        let status = node.status()?;
        (status.uplink.is_some() && status.api?.error.is_some()).then_some(())
    });
    assert!(!node.status().unwrap().services.synced);
    assert!(node.connects(&address, 80), "with one that has not heard of it yet");
    node.api.faults().set_refuse_connections(false);
    waits_for(&node, &[("web", &["192.168.1.2:8080"])]);
    assert!(node.connects(&address, 80));
    node.kubectl(&["delete", "service", "web"], "");
    node.wait_for("the Service to go", || (!node.connects(&address, 80)).then_some(()));
}

pub fn killed_during_churn_the_kernel_comes_to_the_plan() {
    let mut node = started();
    let names: Vec<String> = (0..5).map(|i| format!("s{i}")).collect();
    let of = |round: usize| -> Vec<Value> {
        let all = names.iter().enumerate().flat_map(|(i, name)| {
            let addresses: Vec<String> =
                (0..(round + i) % 4).map(|n| format!("10.244.2.{}", 1 + (round + n) % 9)).collect();
            let endpoints: Vec<(&str, &str, bool)> =
                addresses.iter().map(|address| (address.as_str(), "node-2", true)).collect();
            [service(name, json!({})), slice(name, &endpoints)]
        });
        all.collect()
    };
    let stop = AtomicBool::new(false);
    let outside = node.outside();
    thread::scope(|scope| {
        let churn = scope.spawn(|| {
            for round in 0.. {
                outside.apply(&of(round));
                outside.kubectl_with(&["delete", "service", &names[round % names.len()]], "");
                if stop.load(Ordering::Relaxed) {
                    return round;
                }
            }
            0
        });
        for round in 0..6 {
            thread::sleep(Duration::from_millis(40 * round));
            node.signal(Signal::SIGKILL);
            node.start();
            node.wait_for("the agent", || node.status());
        }
        stop.store(true, Ordering::Relaxed);
        churn.join().unwrap();
    });
    apply(&node, &of(7));
    let wanted: BTreeMap<String, Vec<String>> = of(7)
        .iter()
        .filter(|object| object["kind"] == "EndpointSlice")
        .map(|object| {
            let endpoints = object["endpoints"].as_array().unwrap();
            let mut backends: Vec<(u8, String)> = endpoints
                .iter()
                .map(|one| one["addresses"][0].as_str().unwrap())
                .map(|address| {
                    (address.rsplit('.').next().unwrap().parse().unwrap(), format!("{address}:8080"))
                })
                .collect();
            backends.sort();
            let name = object["metadata"]["labels"]["kubernetes.io/service-name"].as_str().unwrap();
            (name.to_owned(), backends.into_iter().map(|(_, text)| text).collect())
        })
        .collect();
    node.wait_for(&format!("{wanted:?}"), || (installed(&node)? == wanted).then_some(()));
    // And a fresh start from the same API finds nothing to change.
    let before = node.client().services().unwrap();
    node.signal(Signal::SIGTERM);
    node.start();
    node.wait_for("the next agent", || node.status().filter(|status| status.services.synced));
    let after = node.client().services().unwrap();
    assert_eq!(before, after);
}

pub fn health_check_ports_open_count_and_close() {
    let node = started();
    apply(&node, &[local_balancer("web", 32_001)]);
    let ask = |address: &str| node.get_at(address, "/").ok();
    let counts = |address: &str, wanted: &str| {
        node.wait_for(wanted, || ask(address).filter(|answer| answer.contains(wanted)))
    };
    let answer = counts("192.168.1.2:32001", "\"localEndpoints\":0");
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    let endpoints = [
        ("10.244.1.7", NODE, true),
        ("10.244.1.8", NODE, true),
        ("10.244.1.9", NODE, false),
        ("10.244.2.7", "x", true),
    ];
    apply(&node, &[slice("web", &endpoints)]);
    let answer = counts("127.0.0.1:32001", "\"localEndpoints\":2");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.to_lowercase().contains("x-load-balancing-endpoint-weight: 2"), "{answer}");
    let body: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!(body["service"], json!({ "namespace": "default", "name": "web" }));
    assert_eq!(body["serviceProxyHealthy"], true);
    // A10: on every address of the node, though the Service has no IPv6 address.
    for address in ["[::1]:32001", "[fd00:192:168:1::2]:32001", "192.168.1.2:32001"] {
        assert!(counts(address, "\"localEndpoints\":2").starts_with("HTTP/1.1 200"), "{address}");
    }
    apply(&node, &[slice("web", &[("10.244.1.7", NODE, false)])]);
    assert!(counts("192.168.1.2:32001", "\"localEndpoints\":0").starts_with("HTTP/1.1 503"));
    node.kubectl(&["delete", "service", "web"], "");
    node.wait_for("the port to close", || ask("192.168.1.2:32001").is_none().then_some(()));
    // Another Service may have it at once.
    apply(&node, &[local_balancer("api", 32_001), slice("api", &[("10.244.1.7", NODE, true)])]);
    counts("192.168.1.2:32001", "\"name\":\"api\"");
}

pub fn a_health_check_port_in_use_is_told_and_waited_for() {
    let node = started();
    let taken = node.machine.netns.0.run(|| TcpListener::bind("192.168.1.2:32002").unwrap()).unwrap();
    apply(&node, &[local_balancer("web", 32_002), slice("web", &[("10.244.1.7", NODE, true)])]);
    let events = || node.kubectl(&["get", "events", "-n", "default", "-o", "json"], "");
    let event = node.wait_for("an Event", || {
        let all: Value = serde_json::from_str(&events()).unwrap();
        all["items"].as_array()?.iter().find(|one| one["reason"] == "HealthCheckPortUnavailable").cloned()
    });
    assert_eq!(event["involvedObject"]["kind"], "Service");
    assert!(event["message"].as_str().unwrap().contains("192.168.1.2:32002"), "{event}");
    assert!(
        node.get_at("127.0.0.1:32002", "/").unwrap().starts_with("HTTP/1.1 200"),
        "elsewhere it is served"
    );
    drop(taken);
    node.wait_for("the port", || node.get_at("192.168.1.2:32002", "/").ok());
}

pub fn healthz_is_for_load_balancers_and_livez_for_restarts() {
    let node = started();
    let at = |path: &str, wanted: &str| {
        node.wait_for(&format!("{path} {wanted}"), || {
            let answer = node.get_at("192.168.1.2:10256", path).ok()?;
            answer.starts_with(&format!("HTTP/1.1 {wanted}")).then_some(answer)
        })
    };
    let answer = at("/healthz", "200");
    assert!(answer.contains("\"nodeEligible\":true") && answer.contains("\"lastUpdated\":\"20"), "{answer}");
    at("/livez", "200");
    at("/other", "404");
    // What comes after is asked by IPv6.
    assert!(node.get_at("[fd00:192:168:1::2]:10256", "/livez").unwrap().starts_with("HTTP/1.1 200"));
    let taint = json!({ "spec": { "taints": [{ "key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule", "value": "1" }] } });
    node.kubectl(&["patch", "node", NODE, "-p", &taint.to_string()], "");
    assert!(at("/healthz", "503").contains("\"nodeEligible\":false"));
    at("/livez", "200");
    node.kubectl(&["patch", "node", NODE, "-p", r#"{"spec":{"taints":null}}"#], "");
    at("/healthz", "200");
    let finalizer = r#"{"metadata":{"finalizers":["example.com/hold"]}}"#;
    node.kubectl(&["patch", "node", NODE, "-p", finalizer], "");
    node.kubectl(&["delete", "node", NODE, "--wait=false"], "");
    at("/healthz", "503");
    at("/livez", "200");
}

/// E8: who holds connections open, and however many, is in nobody's way.
pub fn slow_clients_of_the_health_port_lock_nobody_out() {
    let node = started();
    node.wait_for("/healthz", || node.get_at("192.168.1.2:10256", "/healthz").ok());
    let slow = |count: usize, from: &str| -> Vec<TcpStream> {
        let hold = || (0..count).map(|_| connect_from(from, "192.168.1.2:10256")).collect();
        node.machine.netns.0.run(hold).unwrap()
    };
    // One client, from an address of its own.
    let held = slow(100, "127.0.0.7");
    assert!(node.get_at("192.168.1.2:10256", "/livez").unwrap().starts_with("HTTP/1.1 200"));
    // And many.
    let many: Vec<Vec<TcpStream>> = (1..60).map(|n| slow(8, &format!("127.0.1.{n}"))).collect();
    assert!(node.get_at("192.168.1.2:10256", "/livez").unwrap().starts_with("HTTP/1.1 200"));
    drop((held, many));
}

/// A connection that comes from an address of the node's loopback.
fn connect_from(from: &str, to: &str) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(from.parse().unwrap(), 0).into()).unwrap();
    socket.connect(&to.parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.into()
}

pub fn an_address_of_two_services_is_told() {
    let node = started();
    let external = json!({ "externalIPs": ["198.51.100.1"] });
    apply(&node, &[service("one", external.clone()), service("two", external)]);
    let events = || node.kubectl(&["get", "events", "-n", "default", "-o", "json"], "");
    let event = node.wait_for("an Event", || {
        let all: Value = serde_json::from_str(&events()).unwrap();
        all["items"].as_array()?.iter().find(|one| one["reason"] == "AddressTaken").cloned()
    });
    assert_eq!(event["involvedObject"]["name"], "two");
    node.kubectl(&["delete", "service", "one"], "");
    node.wait_for("the heir", || {
        let all = node.client().services().ok()?;
        all.iter()
            .find(|one| one.name == "two")?
            .frontends
            .iter()
            .any(|one| one.address.to_string() == "198.51.100.1")
            .then_some(())
    });
    assert!(node.status().unwrap().services.conflicts.is_empty());
}

/// E2: addresses that are somebody's are no external ones, and each Service is told.
pub fn external_addresses_that_are_somebodys_are_told() {
    let node = started();
    let named = ["192.168.1.2", "10.244.1.9", "10.96.0.1", "198.51.100.1"];
    apply(&node, &[service("web", json!({ "externalIPs": named }))]);
    let events = node.wait_for("Events", || {
        let all = node.kubectl(&["get", "events", "-n", "default", "-o", "json"], "");
        let all: Value = serde_json::from_str(&all).unwrap();
        let of_web = all["items"].as_array()?.iter().filter(|one| one["reason"] == "ExternalIPRefused");
        let messages: Vec<String> = of_web.map(|one| one["message"].as_str().unwrap().to_owned()).collect();
        (messages.len() == 3).then_some(messages)
    });
    assert!(
        events.iter().any(|message| message.contains("192.168.1.2") && message.contains("node")),
        "{events:?}"
    );
    let all = node.client().services().unwrap();
    let web = all.iter().find(|one| one.name == "web").unwrap();
    let external: Vec<String> = (web.frontends.iter())
        .filter(|one| one.kind == FrontendKind::ExternalIp)
        .map(|one| one.address.to_string())
        .collect();
    assert_eq!(external, ["198.51.100.1"]);
    assert_eq!(node.status().unwrap().services.conflicts.len(), 3);
}
