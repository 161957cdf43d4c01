//! What people see of it: `weft dns query`, `weft verify`, `weft status`, metrics.

use std::fs;

use serde_json::Value;
use weft_tests::{Lab, Output, Place, wait_for, weft};

use super::dig::{answers, until};

const MANIFEST: &str = "
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop}
spec: {containers: [{name: c, image: nginx}]}
---
apiVersion: v1
kind: Pod
metadata: {name: elsewhere, namespace: shop}
spec: {dnsPolicy: Default, containers: [{name: c, image: nginx}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: shop}
spec:
  serviceName: db
  replicas: 2
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: c, image: nginx, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIP: None, selector: {app: db}, ports: [{name: sql, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: api, namespace: shop}
spec: {selector: {app: db}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: partner, namespace: shop}
spec: {type: ExternalName, externalName: www.example.com}
";

fn lab() -> Lab {
    Lab::with_nodes(2).option("--ip-family", "dual").running(MANIFEST).up()
}

fn query(lab: &Lab, arguments: &[&str]) -> Output {
    weft(&[&["dns", "query", "--name", lab.name()], arguments].concat())
}

fn verify(lab: &Lab, code: i32) -> Value {
    let output = weft(&["verify", "--name", lab.name(), "-o", "json"]);
    assert_eq!(output.code, Some(code), "{}{}", output.stdout, output.stderr);
    serde_json::from_str(&output.stdout).unwrap()
}

#[test]
fn query_shows_the_answer_and_why() {
    let lab = lab();
    let client = lab.pod("shop/client");
    answers(&client, "db-0.db.shop.svc.cluster.local.", "A", &[&lab.pod("shop/db-0").address().to_string()]);
    let outside = lab.outside().address().to_string();
    let from = ["--from", "shop/client"];
    for (asked, parts) in [
        (vec!["api"], vec!["api.shop.svc.cluster.local. A: NOERROR", "Service shop/api, its cluster IP"]),
        (vec!["db"], vec!["headless Service shop/db, its 2 ready endpoints"]),
        (vec!["db-1.db"], vec!["an endpoint of Service shop/db"]),
        (vec!["_http._tcp.api", "SRV"], vec!["a named port of Service shop/api", "0 100 80 api.shop.svc"]),
        (vec!["partner"], vec!["of type ExternalName", "www.example.com.", &outside]),
        (vec!["api.example.org"], vec!["the first step of the Pod's search", &outside, "asked of "]),
        (vec!["api.example.org."], vec![&outside, "remembered for "]),
    ] {
        let shown = query(&lab, &[asked.as_slice(), &from].concat()).succeeds();
        assert!(parts.iter().all(|part| shown.contains(part)), "{asked:?}: {parts:?} in\n{shown}");
    }
    // Names of addresses, types by their number, and Pods as kubectl names them.
    let api = lab.get(&["service", "-n", "shop", "api"])["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let reverse = query(&lab, &[&api]).succeeds();
    assert!(reverse.contains("PTR api.shop.svc.cluster.local."), "{reverse}");
    let none = query(&lab, &["api", "type65", "--from", "pod/client", "-n", "shop"]);
    assert_eq!(none.code, Some(1), "{none:?}");
    assert!(none.stdout.contains("api.shop.svc.cluster.local. HTTPS: NOERROR\n    no records"), "{none:?}");
    for wrong in [&["api", "FOO"][..], &["a..b"]] {
        let said = query(&lab, wrong).fails_with(2);
        assert!(said.contains(wrong.last().unwrap()), "{said}");
    }
    // The whole walk, where nothing is found: the answer is no.
    let absent = query(&lab, &["absent", "--from", "client", "-n", "shop"]);
    assert_eq!(absent.code, Some(1), "{absent:?}");
    let steps = absent.stdout.matches(": NXDOMAIN").count();
    assert_eq!(steps, 4, "{}", absent.stdout);
    // As JSON, and as a node that has no such Pod.
    let json: Value = serde_json::from_str(
        &query(&lab, &["kubernetes.default.svc.cluster.local.", "-o", "json", "--node", "node-2"]).succeeds(),
    )
    .unwrap();
    assert_eq!(json["node"], "node-2");
    assert_eq!(json["questions"][0]["answers"][0], "kubernetes.default.svc.cluster.local. 5 A 10.96.0.1");
    assert!(query(&lab, &["api", "--from", "shop/nobody"]).fails_with(2).contains("shop/nobody"));
    assert!(query(&lab, &["api", "--node", "node-9"]).fails_with(2).contains("node-2"));
}

#[test]
fn verify_proves_every_name_and_names_those_that_fail() {
    let lab = lab();
    let report = verify(&lab, 0);
    let names = &report["names"];
    // kubernetes, kube-dns (2), api, db, partner: a type each.
    assert_eq!((&names["names"], &names["pods"]), (&6.into(), &3.into()), "{names:#}");
    assert_eq!(names["look_ups"], 18);
    let left_out = names["left_out"][0].as_str().unwrap();
    assert!(left_out.starts_with("shop/elsewhere: "), "{left_out}");

    // A Pod that asks where nobody answers.
    let uid = lab.get(&["pod", "-n", "shop", "client"])["metadata"]["uid"].as_str().unwrap().to_owned();
    let file = lab.folder().join("pods").join(uid).join("etc/resolv.conf");
    let good = fs::read_to_string(&file).unwrap();
    fs::write(&file, "search shop.svc.cluster.local\nnameserver 10.96.0.1\n").unwrap();
    let broken = verify(&lab, 1);
    let failed = broken["names"]["failed"].as_array().unwrap();
    assert!(!failed.is_empty() && failed.iter().all(|one| one["from"] == "shop/client"), "{failed:#?}");
    assert!(failed.iter().any(|one| one["name"] == "api" && one["type"] == "A"), "{failed:#?}");
    fs::write(&file, good).unwrap();
    assert_eq!(verify(&lab, 0)["holds"], true);
}

fn patch_settings(lab: &Lab, patch: &Value) {
    let patch = patch.to_string();
    lab.kubectl(&["patch", "configmap", "weft", "-n", "kube-system", "--type", "merge", "-p", &patch])
        .succeeds();
}

#[test]
fn status_shows_who_answers_and_what_is_wrong() {
    let lab = Lab::with_nodes(1).running(MANIFEST).up();
    wait_for("DNS in the picture", || {
        let shown = weft(&["status", "--name", lab.name()]).succeeds();
        let parts = ["DNS 10.244.0.0, 10.96.0.10; outside by 192.168.1.254:53", "all is fine"];
        if parts.iter().all(|part| shown.contains(part)) { Ok(()) } else { Err(shown) }
    });
    patch_settings(&lab, &serde_json::json!({ "data": { "dns": "tttl: 5\n" } }));
    wait_for("the wrong setting", || {
        let shown = weft(&["status", "--name", lab.name()]);
        let parts = ["problem: node-1 answers DNS as it was set before", "tttl"];
        if parts.iter().all(|part| shown.stdout.contains(part)) { Ok(()) } else { Err(shown) }
    });
    wait_for("an Event on the ConfigMap", || {
        let which = ["events", "-n", "kube-system", "--field-selector", "reason=DnsSettingsRefused"];
        let found = lab.get(&which);
        let about = &found["items"][0]["involvedObject"];
        if about["kind"] == "ConfigMap" && about["name"] == "weft" { Ok(()) } else { Err(found.to_string()) }
    });
    patch_settings(&lab, &serde_json::json!({ "data": { "dns": null } }));
    lab.cut_off("outside");
    let client = lab.pod("shop/client");
    wait_for("the server that is away", || {
        client.runs(&["dig", "+tries=1", "unknown.example.com."]);
        let shown = weft(&["status", "--name", lab.name()]);
        let said = "problem: node-1 does not ask 192.168.1.254:53 for .: ";
        if shown.stdout.contains(said) { Ok(()) } else { Err(shown) }
    });
    lab.join("outside");
    wait_for("the server to be back", || {
        let shown = weft(&["status", "--name", lab.name()]);
        if shown.stdout.contains("all is fine") { Ok(()) } else { Err(shown) }
    });
}

#[test]
fn metrics_have_the_names_that_dashboards_know() {
    let lab = Lab::with_nodes(1).running(MANIFEST).up();
    let (client, node) = (lab.pod("shop/client"), lab.node("node-1"));
    let kubernetes = "kubernetes.default.svc.cluster.local.";
    answers(&client, kubernetes, "A", &["10.96.0.1"]);
    let before = metrics(&node);
    client.runs(&["dig", "+tcp", kubernetes, "A"]).succeeds();
    client.runs(&["dig", "absent.shop.svc.cluster.local.", "AAAA"]).succeeds();
    client.runs(&["dig", "api.example.com."]).succeeds();
    client.runs(&["dig", "api.example.com."]).succeeds();
    for (name, labels) in [
        ("coredns_dns_requests_total", vec!["proto=\"tcp\"", "type=\"A\""]),
        ("coredns_dns_requests_total", vec!["proto=\"udp\"", "type=\"AAAA\""]),
        ("coredns_dns_responses_total", vec!["rcode=\"NXDOMAIN\""]),
        ("coredns_dns_request_duration_seconds_count", vec![]),
        ("weft_dns_request_duration_seconds_count", vec!["type=\"AAAA\""]),
        ("coredns_cache_hits_total", vec!["type=\"success\""]),
        ("coredns_cache_misses_total", vec![]),
        ("coredns_proxy_request_duration_seconds_count", vec!["to=\"192.168.1.254:53\""]),
    ] {
        wait_for(&format!("{name} {labels:?} to count"), || {
            let (was, is) = (sum(&before, name, &labels), sum(&metrics(&node), name, &labels));
            if is > was { Ok(()) } else { Err((was, is)) }
        });
    }
    // From the API's change to the answer.
    let name = "coredns_kubernetes_dns_programming_duration_seconds_count";
    let before = sum(&metrics(&node), name, &[]);
    lab.kubectl(&["create", "service", "clusterip", "late", "--tcp=80"]).succeeds();
    until(&client, "late.default.svc.cluster.local.", "A", |answer| answer.status == "NOERROR");
    assert!(sum(&metrics(&node), name, &[]) > before);
}

fn metrics(node: &Place) -> String {
    node.runs(&["curl", "-sf", "http://127.0.0.1:9464/metrics"]).succeeds()
}

fn sum(metrics: &str, name: &str, labels: &[&str]) -> f64 {
    let of = |line: &&str| {
        line.split(['{', ' ']).next() == Some(name) && labels.iter().all(|label| line.contains(label))
    };
    metrics.lines().filter(of).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[test]
fn the_example_of_names_holds() {
    let example = format!("{}/../examples/names", env!("CARGO_MANIFEST_DIR"));
    let lab = Lab::with_nodes(2).option("-f", &example).up();
    let report = verify(&lab, 0);
    assert_eq!(report["holds"], true);
    // Its Pods ask, in their own ways.
    let (client, own) = (lab.pod("front/client"), lab.pod("front/own"));
    let outside = lab.outside().address().to_string();
    let db = lab.pod("back/db-0").address().to_string();
    for (from, name, address) in [
        (&client, "db-0.db.back", &db),
        (&own, "db-0.db", &db),
        (&client, "partner", &outside),
        (&client, "api.example.com", &outside),
        (&own, "api", &outside),
        (&client, "printer.local", &"192.0.2.80".to_owned()),
        (&client, "printer.example.net", &"192.0.2.80".to_owned()),
    ] {
        wait_for(&format!("getent to find {name}"), || {
            let output = from.runs(&["getent", "ahostsv4", name]);
            if output.stdout.starts_with(address.as_str()) { Ok(()) } else { Err(output) }
        });
    }
    let web = lab.get(&["service", "-n", "front", "web"])["spec"]["clusterIP"].as_str().unwrap().to_owned();
    answers(&client, "shop.example.org.", "A", &[&web]);
    // The settings of others in the same ConfigMap stay.
    let config = lab.get(&["configmap", "-n", "kube-system", "weft"]);
    assert!(config["data"]["loadBalancerPools"].is_string(), "{config:#}");
}
