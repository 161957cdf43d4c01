//! Cluster DNS from the API server to the answer.

use std::{fs, net::IpAddr};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use weft_agent::admin::{Request, Response};
use weft_dns::{
    server::Source,
    stub::{LookedUp, StubResolver},
};

use crate::node::Node;

const DNS: &str = "10.96.0.10";
/// The node's own, which other nodes ask.
const PATH_ADDRESS: &str = "10.244.1.0";

/// A node whose agent answers DNS; its resolv.conf names a server that nobody is.
fn node() -> Node {
    let node = Node::new(&["10.244.1.0/24"]);
    fs::write(node.path("resolv.conf"), "nameserver 127.0.0.2\nsearch node.example\n").unwrap();
    node.outside().apply(&[
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "shop" } }),
        service("web", json!({ "clusterIP": "10.96.7.7" })),
        service("db", json!({ "clusterIP": "None" })),
        slice(&[("db-0", "10.244.2.3"), ("db-1", "10.244.2.4")]),
    ]);
    node
}

fn start(node: &mut Node) {
    let file = node.path("resolv.conf");
    node.start_with(&["--cluster-dns", DNS, "--resolv-conf", file.to_str().unwrap()]);
}

fn service(name: &str, spec: Value) -> Value {
    let mut all = json!({ "ports": [{ "name": "http", "port": 80 }] });
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": "shop" }, "spec": all })
}

/// The slice of the headless Service, as the cluster's controller labels it.
fn slice(endpoints: &[(&str, &str)]) -> Value {
    let endpoints = endpoints.iter().map(|(hostname, address)| {
        json!({ "addresses": [address], "hostname": hostname, "conditions": { "ready": true } })
    });
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": "db-1", "namespace": "shop",
            "labels": { "kubernetes.io/service-name": "db", "service.kubernetes.io/headless": "" },
        },
        "ports": [{ "name": "http", "port": 80, "protocol": "TCP" }],
        "endpoints": endpoints.collect::<Vec<_>>(),
    })
}

/// What a process of the node is told.
fn ask(node: &Node, server: &str, name: &str) -> LookedUp {
    let servers: Vec<IpAddr> = vec![server.parse().unwrap()];
    let stub = StubResolver { servers, searches: Vec::new(), ndots: 1 };
    let look_up = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(stub.look_up(name, "A"))
    };
    node.machine.netns.0.run(look_up).unwrap()
}

fn addresses(answer: &LookedUp) -> Vec<&str> {
    let mut all: Vec<&str> = answer.answers.iter().map(|one| one.value.as_str()).collect();
    all.sort_unstable();
    all
}

/// Waits until the name has these addresses.
#[track_caller]
fn waits_for(node: &Node, name: &str, wanted: &[&str]) {
    node.wait_for(&format!("{name} {wanted:?}"), || {
        (addresses(&ask(node, DNS, name)) == wanted).then_some(())
    });
}

/// Waits until DNS is answered.
#[track_caller]
fn listens(node: &Node) {
    node.wait_for("DNS to be answered", || {
        node.status()?.dns.filter(|dns| dns.synced && !dns.addresses.is_empty())
    });
}

pub fn names_follow_the_api() {
    let mut node = node();
    start(&mut node);
    node.ready();
    listens(&node);
    waits_for(&node, "web.shop.svc.cluster.local.", &["10.96.7.7"]);
    waits_for(&node, "db.shop.svc.cluster.local.", &["10.244.2.3", "10.244.2.4"]);
    waits_for(&node, "db-1.db.shop.svc.cluster.local.", &["10.244.2.4"]);
    assert_eq!(addresses(&ask(&node, PATH_ADDRESS, "web.shop.svc.cluster.local.")), ["10.96.7.7"]);
    assert_eq!(ask(&node, DNS, "web.elsewhere.svc.cluster.local.").code, "NXDOMAIN");
    // One endpoint goes, a Service goes, another comes.
    node.outside()
        .apply(&[slice(&[("db-0", "10.244.2.3")]), service("api", json!({ "clusterIP": "10.96.7.8" }))]);
    waits_for(&node, "db.shop.svc.cluster.local.", &["10.244.2.3"]);
    waits_for(&node, "api.shop.svc.cluster.local.", &["10.96.7.8"]);
    node.kubectl(&["delete", "service", "-n", "shop", "web"], "");
    node.wait_for("web to be gone", || {
        (ask(&node, DNS, "web.shop.svc.cluster.local.").code == "NXDOMAIN").then_some(())
    });
    let dns = node.status().unwrap().dns.unwrap();
    assert!(dns.addresses.iter().any(|address| address.to_string() == format!("{DNS}:53")), "{dns:?}");
    assert_eq!(dns.upstreams[0].server, "127.0.0.2:53");
    let metrics = node.get("/metrics");
    for line in [
        "weft_dns_synced 1",
        "weft_dns_listening 1",
        "coredns_dns_requests_total{server=\"dns://:53\",zone=\".\",view=\"\",proto=\"udp\",family=\"1\",type=\"A\"}",
        "coredns_dns_responses_total{server=\"dns://:53\",zone=\".\",view=\"\",rcode=\"NXDOMAIN\",plugin=\"weft\"}",
        "coredns_dns_request_duration_seconds_bucket{le=\"0.00025\",server=\"dns://:53\",zone=\".\",view=\"\"}",
        "weft_dns_request_duration_seconds_count{type=\"A\"}",
        "coredns_cache_misses_total{server=\"dns://:53\",zones=\".\",view=\"\"} 0",
        "coredns_cache_entries{server=\"dns://:53\",zones=\".\",view=\"\",type=\"denial\"} 0",
        "coredns_kubernetes_dns_programming_duration_seconds_count{service_kind=\"cluster_ip\"}",
        "coredns_kubernetes_dns_programming_duration_seconds_bucket{le=\"+Inf\",service_kind=\"headless_with_selector\"}",
        "weft_dns_upstream_down{proxy_name=\"forward\",to=\"127.0.0.2:53\"}",
    ] {
        assert!(metrics.contains(line), "{line} is missing in {metrics}");
    }
    let mut admin = node.client();
    let request = Request::Dns { name: "web.shop.svc.cluster.local.".into(), kind: "a".into(), from: None };
    let Response::Dns { explanation } = admin.ask(&request).unwrap() else { panic!("another answer") };
    assert_eq!(explanation.questions[0].why[0].source, Source::Missing);
    // An agent that is killed leaves no address that nobody could listen on.
    node.signal(Signal::SIGKILL);
    start(&mut node);
    waits_for(&node, "db.shop.svc.cluster.local.", &["10.244.2.3"]);
    node.signal(Signal::SIGTERM);
}

pub fn settings_of_dns_take_effect_or_are_told() {
    let mut node = node();
    start(&mut node);
    listens(&node);
    let set = |text: &str| {
        node.outside().apply(&[json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "weft", "namespace": "kube-system" },
            "data": { "dns": text },
        })]);
    };
    set("ttl: 30\nhosts: {printer.example: [192.0.2.7]}");
    waits_for(&node, "printer.example.", &["192.0.2.7"]);
    node.wait_for("the TTL", || {
        ask(&node, DNS, "web.shop.svc.cluster.local.").answers.first().filter(|one| one.ttl == 30).map(drop)
    });
    set("ttl: 7\nhost: {printer.example: [192.0.2.8]}");
    let why = node.wait_for("the mistake to be told", || node.status()?.dns?.settings_error);
    assert!(why.contains("ConfigMap kube-system/weft, key dns") && why.contains("line 2"), "{why}");
    assert_eq!(addresses(&ask(&node, DNS, "printer.example.")), ["192.0.2.7"]);
    assert!(node.get("/metrics").contains("weft_dns_settings_refused 1"));
    // A server of two domains is one server.
    set("stubDomains: {a.example: [127.0.0.3], b.example: [127.0.0.3]}");
    let metrics = node.wait_for("both domains", || {
        let known = node.status()?.dns?.upstreams.len() == 3;
        known.then(|| node.get("/metrics"))
    });
    let told = metrics
        .lines()
        .filter(|line| line.starts_with("weft_dns_upstream_down{") && line.contains("127.0.0.3"));
    assert_eq!(told.count(), 1, "{metrics}");
    // Rewritten to a name of the cluster.
    set("rewrites: [{name: shop.example, to: web.shop.svc.cluster.local}]");
    node.wait_for("the alias", || {
        addresses(&ask(&node, DNS, "shop.example.")).contains(&"10.96.7.7").then_some(())
    });
    assert_eq!(node.status().unwrap().dns.unwrap().settings_error, None);
    node.kubectl(&["delete", "configmap", "-n", "kube-system", "weft"], "");
    node.wait_for("the defaults", || (ask(&node, DNS, "shop.example.").code == "SERVFAIL").then_some(()));
}

pub fn before_all_names_are_known_none_is_denied() {
    let mut node = node();
    node.api.faults().set_answer(Some(503));
    start(&mut node);
    node.wait_for("the agent to try", || node.status()?.api.filter(|api| api.failures > 3));
    let dns =
        node.wait_for("what is missing to be told", || node.status()?.dns.filter(|dns| dns.error.is_some()));
    assert!(!dns.synced && dns.addresses.is_empty() && dns.error.unwrap().contains("Namespaces"));
    let answer = ask(&node, PATH_ADDRESS, "web.shop.svc.cluster.local.");
    assert!(answer.code != "NXDOMAIN" && answer.code != "NOERROR", "{answer:?}");
    node.api.faults().set_answer(None);
    listens(&node);
    waits_for(&node, "web.shop.svc.cluster.local.", &["10.96.7.7"]);
    // And while the API server is away again, what is known is answered.
    node.api.faults().set_answer(Some(503));
    node.api.faults().close_watches();
    node.wait_for("the watches to fail", || node.status()?.api.filter(|api| api.error.is_some()));
    waits_for(&node, "db.shop.svc.cluster.local.", &["10.244.2.3", "10.244.2.4"]);
}

/// Waits until everything that was made so far is kept.
fn is_kept(node: &Node, name: &str) {
    let file = node.path("state/names");
    node.wait_for("the names to be kept", || {
        let kept = fs::read(&file).ok()?;
        kept.windows(name.len()).any(|octets| octets == name.as_bytes()).then_some(())
    });
}

/// The API server answers nobody any more, and the agent starts again.
fn start_without_api(node: &mut Node) {
    node.api.faults().set_answer(Some(503));
    node.api.faults().close_watches();
    node.signal(Signal::SIGKILL);
    start(node);
}

pub fn without_the_api_an_agent_that_starts_answers_what_was_known() {
    let mut node = node();
    start(&mut node);
    listens(&node);
    node.outside().apply(&[json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "weft", "namespace": "kube-system" },
        "data": { "dns": "ttl: 30\nhosts: {printer.example: [192.0.2.7]}" },
    })]);
    waits_for(&node, "printer.example.", &["192.0.2.7"]);
    is_kept(&node, "printer.example");
    assert_eq!(node.status().unwrap().dns.unwrap().snapshot_age, None);
    start_without_api(&mut node);
    waits_for(&node, "web.shop.svc.cluster.local.", &["10.96.7.7"]);
    let web = ask(&node, DNS, "web.shop.svc.cluster.local.");
    assert_eq!(web.answers[0].ttl, 30, "the settings are those of before");
    assert_eq!(addresses(&ask(&node, DNS, "printer.example.")), ["192.0.2.7"]);
    assert_eq!(addresses(&ask(&node, DNS, "db.shop.svc.cluster.local.")), ["10.244.2.3", "10.244.2.4"]);
    // What is not known may be there all the same.
    for name in ["new.shop", "web.elsewhere", "db-7.db.shop"] {
        assert_eq!(ask(&node, DNS, &format!("{name}.svc.cluster.local.")).code, "SERVFAIL", "{name}");
    }
    let dns = node.status().unwrap().dns.unwrap();
    assert!(!dns.synced && dns.snapshot_age.is_some() && dns.error.is_none(), "{dns:?}");
    let metrics = node.get("/metrics");
    let age = metrics.lines().find(|line| line.starts_with("weft_dns_snapshot_age_seconds ")).unwrap();
    assert!(!age.ends_with(" 0"), "{age}");
    // The API is back, and with it what is new.
    node.api.faults().set_answer(None);
    node.outside().apply(&[service("new", json!({ "clusterIP": "10.96.7.9" }))]);
    node.kubectl(&["delete", "service", "-n", "shop", "db"], "");
    let new = "new.shop.svc.cluster.local.";
    node.wait_for("the new name", || {
        assert_eq!(addresses(&ask(&node, DNS, "web.shop.svc.cluster.local.")), ["10.96.7.7"], "all along");
        (addresses(&ask(&node, DNS, new)) == ["10.96.7.9"]).then_some(())
    });
    node.wait_for("what is gone to be gone", || {
        (ask(&node, DNS, "db.shop.svc.cluster.local.").code == "NXDOMAIN").then_some(())
    });
    assert_eq!(ask(&node, DNS, "web.elsewhere.svc.cluster.local.").code, "NXDOMAIN");
    assert_eq!(node.status().unwrap().dns.unwrap().snapshot_age, None);
    assert!(node.get("/metrics").contains("weft_dns_snapshot_age_seconds 0"));
    // An agent that is asked to end keeps what it knows before it does.
    node.outside().apply(&[service("last", json!({ "clusterIP": "10.96.7.10" }))]);
    waits_for(&node, "last.shop.svc.cluster.local.", &["10.96.7.10"]);
    node.signal(Signal::SIGTERM);
    is_kept(&node, "last");
}

pub fn names_that_were_kept_and_do_not_read_are_left_out() {
    let mut node = node();
    start(&mut node);
    listens(&node);
    is_kept(&node, "web");
    node.signal(Signal::SIGKILL);
    let file = node.path("state/names");
    let mut kept = fs::read(&file).unwrap();
    let last = kept.last_mut().unwrap();
    *last = last.wrapping_add(1);
    fs::write(&file, kept).unwrap();
    node.api.faults().set_answer(Some(503));
    start(&mut node);
    node.wait_for("the agent to try", || node.status()?.api.filter(|api| api.failures > 3));
    let dns =
        node.wait_for("what is missing to be told", || node.status()?.dns.filter(|dns| dns.error.is_some()));
    assert!(!dns.synced && dns.addresses.is_empty() && dns.snapshot_age.is_none(), "{dns:?}");
    node.api.faults().set_answer(None);
    waits_for(&node, "web.shop.svc.cluster.local.", &["10.96.7.7"]);
}

pub fn without_a_dns_address_nobody_listens() {
    let mut node = node();
    node.start();
    node.ready();
    assert_eq!(node.status().unwrap().dns, None);
    assert!(!node.get("/metrics").contains("coredns_"));
}

/// B5, B15: what the cluster says of itself need not be told, and the DNS Service is made where it is missing.
pub fn ranges_and_the_dns_service_are_found_and_made() {
    let mut node = Node::new(&["10.244.1.0/24"]);
    // As an API server before 1.33.
    node.kubectl(&["delete", "servicecidr", "kubernetes"], "");
    node.start_without_ranges(&["--cluster-dns", "auto"]);
    let missing = node.wait_for("what is missing", || {
        let problems = node.status()?.problems;
        problems.into_iter().find(|problem| problem.contains("kube-system/kube-dns"))
    });
    assert!(missing.contains("missing"), "{missing}");
    node.wait_for("an Event on the Node", || {
        let all = node.kubectl(&["get", "events", "-n", "default", "-o", "json"], "");
        all.contains("ClusterNotKnown").then_some(())
    });
    // The kubelet of this node has another address than the usual one.
    fs::write(node.path("kubelet.yaml"), "clusterDNS: [10.96.0.53]\n").unwrap();
    let range = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": { "name": "kubernetes" },
        "spec": { "cidrs": ["10.96.0.0/16"] },
    });
    node.outside().apply(&[range]);
    let addresses = node.wait_for("the DNS Service", || {
        let addresses = node.status()?.dns?.addresses;
        (!addresses.is_empty()).then_some(addresses)
    });
    assert!(addresses.iter().any(|one| one.to_string() == "10.96.0.53:53"), "{addresses:?}");
    let made = node.kubectl(
        &["get", "service", "-n", "kube-system", "kube-dns", "-o", "jsonpath={.spec.clusterIP}"],
        "",
    );
    assert_eq!(made, "10.96.0.53");
    node.wait_for("nothing to be missing", || node.status()?.problems.is_empty().then_some(()));
    // The next agent knows it from before, without the API server.
    let kept = fs::read_to_string(node.path("state/cluster.json")).unwrap();
    assert!(kept.contains("10.96.0.53") && kept.contains("10.96.0.0/16"), "{kept}");
}
