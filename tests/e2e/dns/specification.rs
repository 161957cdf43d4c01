//! The Kubernetes DNS-Based Service Discovery specification 1.1.0, an example a test, with its own names and, where they are
//! not the cluster's to give, its own addresses.

use std::collections::BTreeSet;

use weft_tests::{Lab, Place};

use super::dig::{Answer, Record, answers, dig, has_no_such_name, has_no_such_record, until};

/// A Pod that asks, and what the examples name.
const EXAMPLES: &str = "
apiVersion: v1
kind: Pod
metadata: {name: client}
spec: {containers: [{name: c, image: nginx}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, ports: [{name: https, port: 443}, {name: dns, port: 53, protocol: UDP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: headless-1, labels: {kubernetes.io/service-name: headless}}
addressType: IPv4
ports: [{name: https, port: 443, protocol: TCP}, {name: dns, port: 53, protocol: UDP}]
endpoints:
- {addresses: [10.3.0.100], hostname: my-pet}
- {addresses: [10.3.0.101], hostname: my-pet-2}
- {addresses: [10.3.0.1]}
- {addresses: [10.3.0.9], hostname: not-ready, conditions: {ready: false}}
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {clusterIP: None, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: all}
spec: {clusterIP: None, publishNotReadyAddresses: true, selector: {app: late}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: late, labels: {app: late}}
spec:
  hostname: late
  subdomain: all
  containers: [{name: c, image: nginx, command: [sleep, '3600'], readinessProbe: {exec: {command: [test, -e, /tmp/ready]}}}]
---
apiVersion: v1
kind: Service
metadata: {name: foo}
spec: {type: ExternalName, externalName: www.example.com}
---
apiVersion: v1
kind: Service
metadata: {name: unnamed}
spec: {clusterIP: 10.96.0.77, ports: [{port: 80}]}
";

/// The lab stays as long as the first is held. One Pod never becomes ready, so that the lab is not waited for.
fn examples() -> (Lab, Place) {
    let lab = Lab::with_nodes(1).running("{apiVersion: v1, kind: Namespace, metadata: {name: empty}}").up();
    lab.apply(EXAMPLES);
    let client = lab.pod("client");
    (lab, client)
}

fn values(records: &[Record], name: &str, kind: &str) -> BTreeSet<String> {
    let of = records.iter().filter(|one| one.name == name && one.kind == kind);
    of.map(|one| one.value.clone()).collect()
}

fn set(values: &[&str]) -> BTreeSet<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

/// Cluster names are good for five seconds.
#[track_caller]
fn is_authoritative(answer: &Answer) {
    assert!(answer.flags.contains("aa"), "{answer:?}");
    assert!(answer.answers.iter().all(|one| one.ttl == 5), "{answer:?}");
}

/// Section 2.2.
#[test]
fn the_schema_version() {
    let (_lab, client) = examples();
    is_authoritative(&answers(&client, "dns-version.cluster.local.", "TXT", &["\"1.1.0\""]));
    has_no_such_record(&client, "dns-version.cluster.local.", "A");
}

/// Section 2.3.1.
#[test]
fn a_cluster_ip_by_name() {
    let (_lab, client) = examples();
    is_authoritative(&answers(&client, "kubernetes.default.svc.cluster.local.", "A", &["10.96.0.1"]));
    // It has no endpoint, and keeps its address.
    answers(&client, "unnamed.default.svc.cluster.local.", "A", &["10.96.0.77"]);
    has_no_such_record(&client, "kubernetes.default.svc.cluster.local.", "AAAA");
    has_no_such_record(&client, "kubernetes.default.svc.cluster.local.", "MX");
    has_no_such_name(&client, "absent.default.svc.cluster.local.", "A");
    has_no_such_name(&client, "kubernetes.absent.svc.cluster.local.", "A");
    has_no_such_name(&client, "deeper.kubernetes.default.svc.cluster.local.", "A");
    // What only has names below it.
    for name in
        ["cluster.local.", "svc.cluster.local.", "default.svc.cluster.local.", "empty.svc.cluster.local."]
    {
        has_no_such_record(&client, name, "A");
    }
}

/// Section 2.3.1, IPv6.
#[test]
fn a_cluster_ip_of_each_family_by_name() {
    let dual = "
apiVersion: v1
kind: Service
metadata: {name: dual}
spec:
  clusterIPs: [10.96.0.78, 'fd00:10:96::78']
  clusterIP: 10.96.0.78
  ipFamilies: [IPv4, IPv6]
  ipFamilyPolicy: RequireDualStack
  ports: [{name: http, port: 80}]
";
    let lab = Lab::with_nodes(1).option("--ip-family", "dual").running(EXAMPLES_CLIENT).running(dual).up();
    let client = lab.pod("client");
    answers(&client, "dual.default.svc.cluster.local.", "A", &["10.96.0.78"]);
    answers(&client, "dual.default.svc.cluster.local.", "AAAA", &["fd00:10:96::78"]);
    let answer = answers(
        &client,
        "_http._tcp.dual.default.svc.cluster.local.",
        "SRV",
        &["0 100 80 dual.default.svc.cluster.local."],
    );
    let kinds: BTreeSet<&str> = answer.additional.iter().map(|one| one.kind.as_str()).collect();
    assert_eq!(kinds, BTreeSet::from(["A", "AAAA"]), "{answer:?}");
    // By the server's address of the other family as well, and back from an address to its name.
    for server in ["@10.96.0.10", "@fd00:10:96::a"] {
        let answer = dig(&client, &[server, "-x", "fd00:10:96::78"]).unwrap();
        assert_eq!(answer.answers[0].value, "dual.default.svc.cluster.local.", "{answer:?}");
    }
}

const EXAMPLES_CLIENT: &str = "
apiVersion: v1
kind: Pod
metadata: {name: client}
spec: {containers: [{name: c, image: nginx}]}
";

/// Section 2.3.2.
#[test]
fn a_port_of_a_cluster_ip_by_name() {
    let (_lab, client) = examples();
    let name = "_https._tcp.kubernetes.default.svc.cluster.local.";
    let target = "kubernetes.default.svc.cluster.local.";
    let answer = answers(&client, name, "SRV", &[&format!("0 100 443 {target}")]);
    is_authoritative(&answer);
    assert_eq!(values(&answer.additional, target, "A"), set(&["10.96.0.1"]));
    has_no_such_name(&client, "_http._tcp.kubernetes.default.svc.cluster.local.", "SRV");
    has_no_such_name(&client, "_https._udp.kubernetes.default.svc.cluster.local.", "SRV");
    // A port without a name has none.
    has_no_such_name(&client, "_._tcp.unnamed.default.svc.cluster.local.", "SRV");
}

/// Section 2.3.3.
#[test]
fn a_cluster_ip_back_to_its_name() {
    let (_lab, client) = examples();
    let name = "kubernetes.default.svc.cluster.local.";
    is_authoritative(&answers(&client, "1.0.96.10.in-addr.arpa.", "PTR", &[name]));
    has_no_such_name(&client, "200.200.96.10.in-addr.arpa.", "PTR");
}

/// Section 2.4.1.
#[test]
fn the_endpoints_of_a_headless_service_by_name() {
    let (lab, client) = examples();
    let name = "headless.default.svc.cluster.local.";
    is_authoritative(&answers(&client, name, "A", &["10.3.0.1", "10.3.0.100", "10.3.0.101"]));
    answers(&client, &format!("my-pet.{name}"), "A", &["10.3.0.100"]);
    has_no_such_name(&client, &format!("not-ready.{name}"), "A");
    has_no_such_name(&client, "nobody.default.svc.cluster.local.", "A");
    // Not ready, and published all the same.
    let late = lab.pod("late").address().to_string();
    answers(&client, "all.default.svc.cluster.local.", "A", &[&late]);
    answers(&client, "late.all.default.svc.cluster.local.", "A", &[&late]);
}

/// Section 2.4.2.
#[test]
fn the_ports_of_a_headless_service_by_name() {
    let (_lab, client) = examples();
    let name = "_https._tcp.headless.default.svc.cluster.local.";
    let answer = until(&client, name, "SRV", |answer| answer.answers.len() == 3);
    is_authoritative(&answer);
    let targets: BTreeSet<String> = answer
        .answers
        .iter()
        .map(|one| {
            let words: Vec<&str> = one.value.split(' ').collect();
            assert_eq!(words[2], "443", "{answer:?}");
            words[3].to_owned()
        })
        .collect();
    for (pet, address) in [("my-pet", "10.3.0.100"), ("my-pet-2", "10.3.0.101")] {
        let target = format!("{pet}.headless.default.svc.cluster.local.");
        assert!(targets.contains(&target), "{answer:?}");
        assert_eq!(values(&answer.additional, &target, "A"), set(&[address]), "{answer:?}");
    }
    // The one without a host name has a name all the same, which leads to its address.
    let other = targets.iter().find(|target| !target.starts_with("my-pet")).unwrap();
    answers(&client, other, "A", &["10.3.0.1"]);
}

/// Section 2.4.3.
#[test]
fn an_endpoint_with_a_host_name_back_to_its_name() {
    let (_lab, client) = examples();
    answers(&client, "100.0.3.10.in-addr.arpa.", "PTR", &["my-pet.headless.default.svc.cluster.local."]);
}

/// Section 2.5.1.
#[test]
fn an_external_name_leads_outside() {
    let (lab, client) = examples();
    let name = "foo.default.svc.cluster.local.";
    answers(&client, name, "CNAME", &["www.example.com."]);
    // Who asks for an address gets it with the same answer.
    let outside = lab.outside().address().to_string();
    let answer = answers(&client, name, "A", &[&outside]);
    let aliases: Vec<(&str, &str)> = (answer.answers.iter())
        .filter(|one| one.kind == "CNAME")
        .map(|one| (one.name.as_str(), one.value.as_str()))
        .collect();
    assert_eq!(aliases, [(name, "www.example.com."), ("www.example.com.", "example.com.")]);
}

/// Names made of Pods' addresses, where the namespace is one.
#[test]
fn pods_by_their_addresses() {
    let (_lab, client) = examples();
    let dashed = client.address().to_string().replace('.', "-");
    answers(&client, &format!("{dashed}.default.pod.cluster.local."), "A", &[&client.address().to_string()]);
    has_no_such_name(&client, &format!("{dashed}.absent.pod.cluster.local."), "A");
    has_no_such_name(&client, "not-an-address.default.pod.cluster.local.", "A");
}

/// A StatefulSet's Pods have names that stay.
#[test]
fn pods_of_a_stateful_set_by_name() {
    let lab = Lab::with_nodes(2)
        .running(EXAMPLES_CLIENT)
        .running(
            "
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, selector: {app: db}, ports: [{name: sql, port: 5432}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 2
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: c, image: nginx, ports: [{containerPort: 5432}]}]}
",
        )
        .up();
    let client = lab.pod("client");
    let name = "db-0.db.default.svc.cluster.local.";
    let before = lab.pod("db-0").address();
    answers(&client, name, "A", &[&before.to_string()]);
    // Made again it has another address and the same name.
    lab.kubectl(&["delete", "pod", "db-0"]).succeeds();
    lab.kubectl(&["wait", "pod/db-0", "--for=condition=Ready", "--timeout=60s"]).succeeds();
    let after = lab.pod("db-0").address();
    assert_ne!(before, after);
    answers(&client, name, "A", &[&after.to_string()]);
    // It finds its own name as others do.
    let seen = lab.pod("db-0").runs(&["getent", "hosts", "db-1.db"]).succeeds();
    assert!(seen.starts_with(&lab.pod("db-1").address().to_string()), "{seen}");
}
