//! The search walk, answered at its first step: `ndots:5` costs one question.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use weft_tests::{Lab, Place, wait_for};

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
kind: Pod
metadata: {name: mixed}
spec:
  dnsConfig: {searches: [broken.example, example.com]}
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

/// Prints what getaddrinfo(3) says of a name (`found`, or the name of the error) for IPv4 or IPv6.
const ASK: &str = r#"
#define _GNU_SOURCE
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
int main(int count, char **words) {
    struct addrinfo hints = {0}, *found;
    hints.ai_family = strcmp(words[2], "6") ? AF_INET : AF_INET6;
    hints.ai_socktype = SOCK_STREAM;
    int error = getaddrinfo(words[1], 0, &hints, &found);
    if (!error) puts("found");
    else if (error == EAI_NONAME) puts("EAI_NONAME");
    else if (error == EAI_NODATA) puts("EAI_NODATA");
    else if (error == EAI_AGAIN) puts("EAI_AGAIN");
    else printf("%d\n", error);
}
"#;

/// The program [`ASK`], built with each C library.
fn resolvers(folder: &Path) -> [(&'static str, PathBuf); 2] {
    let source = folder.join("ask.c");
    fs::write(&source, ASK).unwrap();
    [("glibc", "cc"), ("musl", "musl-gcc")].map(|(library, compiler)| {
        let program = folder.join(library);
        let built = Command::new(compiler).args([&source, Path::new("-o"), &program]).status();
        assert!(built.unwrap().success(), "{compiler}");
        (library, program)
    })
}

/// What the C library says once it is no time-out of a busy machine.
#[track_caller]
fn says(from: &Place, program: &Path, words: &[&str], expected: &str) {
    let command = [&[program.to_str().unwrap()], words].concat();
    wait_for(&format!("{command:?} to say {expected}"), || {
        let output = from.runs(&command);
        if output.stdout.trim() == expected { Ok(()) } else { Err(output) }
    });
}

/// C5, C6: each C library ends as its own walk would have, with the walk answered for it and without.
#[test]
fn a_walk_ends_for_each_c_library_as_its_own_would_have() {
    let lab = lab();
    let (client, mixed) = (lab.pod("client"), lab.pod("mixed"));
    let resolvers = resolvers(&lab.folder());
    let outside = lab.outside().address();
    fs::write(lab.folder().join("outside/records"), "four.example.com 60 A 192.0.2.9\n").unwrap();
    // `broken.example` fails: nobody answers for it.
    let broken = format!("stubDomains: {{broken.example: ['{outside}:1']}}\n");
    let musl_no_data = client.runs(&[resolvers[1].1.to_str().unwrap(), "four.example.com.", "6"]);
    let musl_no_data = musl_no_data.stdout.trim().to_owned();
    assert!(["EAI_NONAME", "EAI_NODATA"].contains(&musl_no_data.as_str()), "{musl_no_data}");
    for walk in ["searchWalk: true\n", "searchWalk: false\n"] {
        let patch = serde_json::json!({ "data": { "dns": format!("{broken}{walk}") } }).to_string();
        lab.kubectl(&["patch", "configmap", "weft", "-n", "kube-system", "--type", "merge", "-p", &patch])
            .succeeds();
        for (library, program) in &resolvers {
            let says = |words: &[&str], expected| {
                eprintln!("{library}, {}, {words:?}", walk.trim());
                says(&client, program, words, expected);
            };
            says(&["four.example.com", "4"], "found");
            // musl has that error of its own from 1.2.4 on.
            let no_data = if *library == "glibc" { "EAI_NODATA" } else { musl_no_data.as_str() };
            says(&["four.example.com", "6"], no_data);
            says(&["absent.example.com", "4"], "EAI_NONAME");
            says(&["absent.example.com", "6"], "EAI_NONAME");
            says(&["x.broken.example", "4"], "EAI_AGAIN");
            // The step before the last one fails: glibc goes on and finds the name, musl stops.
            let expected = if *library == "glibc" { "found" } else { "EAI_AGAIN" };
            self::says(&mixed, program, &["four", "4"], expected);
        }
    }
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
