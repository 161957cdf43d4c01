//! The search walk, answered at its first step: `ndots:5` costs one question.

use std::{collections::BTreeMap, fs};

use weft_tests::{Lab, wait_for};

use super::{
    asked_outside,
    dig::{answers, dig, has_no_such_name},
    found,
};

const MANIFEST: &str = "
apiVersion: v1
kind: Pod
metadata: {name: client}
spec: {containers: [{name: c, image: nginx}]}
---
apiVersion: v1
kind: Pod
metadata: {name: own}
spec:
  dnsPolicy: None
  dnsConfig: {nameservers: [10.96.0.10], searches: [example.com], options: [{name: ndots, value: '1'}]}
  containers: [{name: c, image: nginx}]
---
apiVersion: v1
kind: Pod
metadata: {name: many}
spec:
  dnsConfig:
    searches: [s1.example, s2.example, s3.example, s4.example, s5.example, _s6.example, example.com]
  containers: [{name: c, image: nginx}]
---
apiVersion: v1
kind: Namespace
metadata: {name: com}
---
apiVersion: v1
kind: Service
metadata: {name: api, namespace: com}
spec: {clusterIP: 10.96.8.8, ports: [{port: 80}]}
";

fn lab() -> Lab {
    Lab::with_nodes(1).running(MANIFEST).up()
}

/// How often what was asked outside.
fn asked(lab: &Lab) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for line in asked_outside(lab) {
        let question = line.split_once(' ').and_then(|(_, rest)| rest.split_once(' ')).unwrap().1.to_owned();
        *counts.entry(question).or_default() += 1;
    }
    counts
}

#[test]
fn an_outside_name_costs_one_question_of_each_type() {
    let lab = lab();
    let (client, outside) = (lab.pod("client"), lab.outside().address().to_string());
    found(&client, "api.example.com", &outside);
    // glibc asked for A and AAAA, from the first step of the walk on, and that was all that went outside.
    assert_eq!(asked(&lab), BTreeMap::from([("api.example.com A".into(), 1)]), "getent ahostsv4");
    // The first step says so.
    let name = "www.example.org.default.svc.cluster.local.";
    let answer = answers(&client, name, "A", &[&outside]);
    let aliases: Vec<&str> =
        answer.answers.iter().filter(|one| one.kind == "CNAME").map(|one| one.value.as_str()).collect();
    assert_eq!(aliases, ["www.example.org.", "example.org."], "{answer:?}");
}

#[test]
fn what_the_walk_finds_in_the_cluster_is_what_is_answered() {
    let lab = lab();
    let client = lab.pod("client");
    // `api.com` is a Service of the cluster, found by the walk's second step; it is not what is outside.
    found(&client, "api.com", "10.96.8.8");
    answers(&client, "api.com.default.svc.cluster.local.", "A", &["10.96.8.8"]);
    // What is nowhere is nowhere.
    assert_eq!(client.runs(&["getent", "ahostsv4", "absent.example.com"]).code, Some(2));
    has_no_such_name(&client, "absent.default.svc.cluster.local.", "A");
}

#[test]
fn pods_with_a_search_list_of_their_own_are_answered_by_it() {
    let lab = lab();
    let (own, outside) = (lab.pod("own"), lab.outside().address().to_string());
    found(&own, "api", &outside);
    // No walk of this Pod comes by here.
    has_no_such_name(&own, "api.example.com.default.svc.cluster.local.", "A");
    // Nor is a node known by its namespace.
    let answer =
        dig(&lab.node("node-1"), &["@10.96.0.10", "api.example.com.default.svc.cluster.local."]).unwrap();
    assert_eq!(answer.status, "NXDOMAIN", "{answer:?}");
}

#[test]
fn more_than_six_domains_are_searched() {
    let lab = lab();
    let (many, outside) = (lab.pod("many"), lab.outside().address().to_string());
    found(&many, "api", &outside);
    // The cluster's come first.
    found(&many, "api.com", "10.96.8.8");
}

#[test]
fn it_is_off_where_the_administrator_says_so() {
    let lab = lab();
    let client = lab.pod("client");
    let name = "api.example.com.default.svc.cluster.local.";
    answers(&client, name, "A", &[&lab.outside().address().to_string()]);
    let patch = r#"{"data": {"dns": "searchWalk: false\n"}}"#;
    lab.kubectl(&["patch", "configmap", "weft", "-n", "kube-system", "--type", "merge", "-p", patch])
        .succeeds();
    has_no_such_name(&client, name, "A");
    found(&client, "api.example.com", &lab.outside().address().to_string());
}

#[test]
fn the_administrators_names_and_servers_are_in_force_at_once() {
    let lab = lab();
    let client = lab.pod("client");
    let outside = lab.outside().address();
    fs::write(
        lab.folder().join("outside/records"),
        "inner.corp.example 60 A 192.0.2.9\nnew.example.com 60 A 192.0.2.10\n",
    )
    .unwrap();
    let dns = format!(
        "hosts: {{db.example.net: [192.0.2.7]}}\nstubDomains: {{corp.example: [{outside}]}}\n\
         rewrites: [{{name: old.example.com, to: new.example.com}}, {{name: short.example, to: api.com.svc.cluster.local}}]\n\
         ttl: 7\n"
    );
    let patch = serde_json::json!({ "data": { "dns": dns } }).to_string();
    lab.kubectl(&["patch", "configmap", "weft", "-n", "kube-system", "--type", "merge", "-p", &patch])
        .succeeds();
    answers(&client, "db.example.net.", "A", &["192.0.2.7"]);
    answers(&client, "inner.corp.example.", "A", &["192.0.2.9"]);
    answers(&client, "old.example.com.", "A", &["192.0.2.10"]);
    answers(&client, "short.example.", "A", &["10.96.8.8"]);
    wait_for("the new TTL", || {
        let answer = dig(&client, &["api.com.svc.cluster.local.", "A"]).unwrap();
        if answer.answers[0].ttl == 7 { Ok(()) } else { Err(answer) }
    });
    // One that is wrong changes nothing, and is said to be.
    let wrong = r#"{"data": {"dns": "hosts: {db.example.net: []}\n"}}"#;
    lab.kubectl(&["patch", "configmap", "weft", "-n", "kube-system", "--type", "merge", "-p", wrong])
        .succeeds();
    wait_for("the agent to say what is wrong", || {
        let log = fs::read_to_string(lab.folder().join("nodes/node-1/agent.log")).unwrap();
        if log.contains("db.example.net") { Ok(()) } else { Err(log) }
    });
    answers(&client, "db.example.net.", "A", &["192.0.2.7"]);
}
