//! `weft verify` proves the network model, and says no by name when it does not hold.

use serde_json::Value;
use weft_netns::{Netlink, netlink::RouteSpec};
use weft_tests::{Lab, wait_for, weft};

const PODS: &str = "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: everywhere}
spec:
  selector: {matchLabels: {app: everywhere}}
  template:
    metadata: {labels: {app: everywhere}}
    spec: {containers: [{name: web, image: nginx, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: alone}
spec: {nodeName: node-1, containers: [{name: web, image: nginx, ports: [{containerPort: 80}]}]}
";

fn report(lab: &Lab, code: i32) -> Value {
    let output = weft(&["verify", "--name", lab.name(), "-o", "json"]);
    assert_eq!(output.code, Some(code), "{}{}", output.stdout, output.stderr);
    serde_json::from_str(&output.stdout).unwrap()
}

#[test]
fn it_proves_every_pair_over_both_families() {
    let lab = Lab::with_nodes(2).option("--ip-family", "dual").running(PODS).up();
    let report = report(&lab, 0);
    assert_eq!(report["holds"], true);
    assert_eq!(report["sampled"], false);
    // Three Pods and two nodes, each to each other, over two families.
    assert_eq!(report["endpoints"].as_array().unwrap().len(), 5);
    assert_eq!(report["pairs"], 5 * 4 * 2);
    let table = weft(&["verify", "--name", lab.name()]).succeeds();
    assert!(table.contains("default/alone") && table.contains("the network model holds"), "{table}");
}

#[test]
fn it_names_the_pairs_that_fail() {
    let lab = Lab::with_nodes(2).running(PODS).up();
    let alone = lab.pod("alone");
    let mut inside = Netlink::open_in(&alone.netns()).unwrap();
    let default = inside.routes().unwrap().into_iter().find(|route| route.prefix_len == 0).unwrap();
    inside.delete_route(&default).unwrap();
    let broken = report(&lab, 1);
    let failed = broken["failed"].as_array().unwrap();
    assert!(!failed.is_empty());
    let is_alone = |pair: &Value| pair["from"] == "default/alone" || pair["to"] == "default/alone";
    assert!(failed.iter().all(is_alone), "{failed:#?}");
    let table = weft(&["verify", "--name", lab.name()]);
    assert_eq!(table.code, Some(1));
    assert!(table.stdout.contains("default/alone -> ") && table.stdout.contains('✗'), "{}", table.stdout);
    inside.set_route(&RouteSpec { ..default }).unwrap();
    assert_eq!(report(&lab, 0)["holds"], true);
}

#[test]
fn it_names_the_services_that_fail() {
    let lab = Lab::with_nodes(2)
        .running(PODS)
        .running(
            "
apiVersion: v1
kind: Pod
metadata: {name: lost, labels: {app: lost}}
spec: {nodeName: node-2, containers: [{name: web, image: nginx, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: lost}
spec: {type: NodePort, selector: {app: lost}, ports: [{port: 80}]}
",
        )
        .up();
    assert_eq!(report(&lab, 0)["services"]["failed"].as_array().unwrap().len(), 0);
    let mut inside = Netlink::open_in(&lab.pod("lost").netns()).unwrap();
    let default = inside.routes().unwrap().into_iter().find(|route| route.prefix_len == 0).unwrap();
    inside.delete_route(&default).unwrap();
    let broken = report(&lab, 1);
    let failed = broken["services"]["failed"].as_array().unwrap();
    let of =
        |from: &str| failed.iter().any(|one| one["from"] == from && one["service"] == "default/lost TCP");
    assert!(of("outside") && of("node-1") && of("default/alone"), "{failed:#?}");
    assert!(
        failed.iter().all(|one| one["service"] == "default/lost TCP" || one["from"] == "default/lost"),
        "{failed:#?}"
    );
    inside.set_route(&RouteSpec { ..default }).unwrap();
    assert_eq!(report(&lab, 0)["holds"], true);
}

#[test]
fn status_draws_the_nodes_their_pods_and_the_paths_between_them() {
    let lab = Lab::with_nodes(2).option("--routing", "overlay").running(PODS).up();
    let parts =
        ["┌─ node-1", "┌─ node-2", "default/alone", "to node-2: overlay (--routing overlay)", "all is fine"];
    // A node says how it reaches another once it has probed it for the first time.
    wait_for("the picture of the cluster", || {
        let picture = weft(&["status", "--name", lab.name()]).succeeds();
        if parts.iter().all(|part| picture.contains(part)) { Ok(()) } else { Err(picture) }
    });
}

#[test]
fn doctor_finds_everything_on_this_machine() {
    let found = weft(&["doctor", "-o", "json"]).succeeds();
    let found: Value = serde_json::from_str(&found).unwrap();
    assert!(found.as_array().unwrap().iter().all(|requirement| requirement["ok"] == true), "{found:#}");
}
