//! `weft verify` proves the network model, and says no by name when it does not hold.

use serde_json::Value;
use weft_netns::{Netlink, netlink::RouteSpec};
use weft_tests::{Lab, Stopped, wait_for, weft};

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

/// No other node stands in for its DNS, which has no backend then and is answered all the same. A backend on the node's own network
/// sees the Service's address where the node asks.
#[test]
fn it_proves_a_cluster_of_one_node() {
    // Nobody here is let in to the one, and an address is not resolved.
    let services = "
apiVersion: v1
kind: Service
metadata: {name: guarded}
spec: {type: LoadBalancer, loadBalancerSourceRanges: [203.0.113.0/24], selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: away}
spec: {type: ExternalName, externalName: 192.0.2.1}
---
apiVersion: v1
kind: Pod
metadata: {name: on-the-node, labels: {app: on-the-node}}
spec: {hostNetwork: true, containers: [{name: dns, image: dns, ports: [{containerPort: 9053, protocol: UDP}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: on-the-node}
spec: {selector: {app: on-the-node}, ports: [{port: 53, targetPort: 9053, protocol: UDP}]}
";
    let lab = Lab::with_nodes(1).running(PODS).running(services).up();
    let report = report(&lab, 0);
    assert_eq!(report["services"]["failed"], serde_json::json!([]));
    assert_eq!(report["holds"], true);
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
    follows(&table.stdout, "reachable without NAT", "default/alone");
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
    let table = weft(&["verify", "--name", lab.name()]);
    follows(&table.stdout, "Services reached", "default/lost");
    inside.set_route(&RouteSpec { ..default }).unwrap();
    assert_eq!(report(&lab, 0)["holds"], true);
}

/// The line with this verdict says NO, and the one below it tells of this.
#[track_caller]
fn follows(table: &str, verdict: &str, evidence: &str) {
    let mut lines = table.lines().skip_while(|line| !line.starts_with(verdict));
    let (said, shown) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    assert!(said.ends_with("NO") && shown.starts_with("  ") && shown.contains(evidence), "{table}");
}

const ENDING: &str = "
apiVersion: batch/v1
kind: Job
metadata: {name: short}
spec:
  completions: 500
  parallelism: 4
  template:
    spec:
      restartPolicy: Never
      containers: [{name: work, image: busybox, command: [sleep, '0.5']}]
";

#[test]
fn pods_that_end_meanwhile_are_left_out_and_named() {
    let lab = Lab::with_nodes(2).running(PODS).up();
    lab.apply(ENDING);
    wait_for("a Pod that ends while it is looked at", || {
        let report = report(&lab, 0);
        let ended = report["ended"].as_array().unwrap();
        let named = ended.iter().any(|pod| pod.as_str().unwrap().starts_with("default/short-"));
        if named { Ok(()) } else { Err(report["ended"].to_string()) }
    });
}

#[test]
fn one_stuck_agent_hides_nothing_of_the_others() {
    let lab = Lab::with_nodes(2).running(PODS).up();
    let stopped = Stopped::process(lab.agent("node-1"));
    let silent = "node-1 is not known: agent at ";
    let status = weft(&["status", "--name", lab.name()]);
    assert_eq!(status.code, Some(1), "{}", status.stderr);
    let problem = format!("problem: {silent}");
    assert!(status.stdout.contains("┌─ node-2") && status.stdout.contains(&problem), "{}", status.stdout);
    let services = weft(&["service", "list", "-A", "--name", lab.name()]);
    assert_eq!(services.code, Some(1), "{}", services.stdout);
    assert!(
        services.stdout.contains("kubernetes") && services.stderr.contains(silent),
        "{}",
        services.stderr
    );
    let other = weft(&["service", "list", "-A", "--node", "node-2", "--name", lab.name()]);
    other.succeeds();
    let verified = report(&lab, 1);
    assert_eq!(verified["silent"][0]["node"], "node-1");
    assert_eq!(verified["not_asked"], serde_json::json!([]));
    assert_eq!(
        (&verified["failed"], &verified["nodes"]),
        (&serde_json::json!([]), &serde_json::json!(["node-2"]))
    );
    drop(stopped);
    wait_for("all agents to answer", || {
        let status = weft(&["status", "--name", lab.name()]);
        if status.code == Some(0) { Ok(()) } else { Err(status.stdout) }
    });
}

/// A Pod on each node that answers on SCTP, and Services of every type in front of them; a Pod with ports of its node, of
/// which one is for the node alone.
const SCTP_AND_HOST_PORTS: &str = "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: signal}
spec:
  selector: {matchLabels: {app: signal}}
  template:
    metadata: {labels: {app: signal}}
    spec: {containers: [{name: s, image: signal, ports: [{name: s, containerPort: 3868, protocol: SCTP}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: inside}
spec: {ipFamilyPolicy: PreferDualStack, selector: {app: signal}, ports: [{port: 38, targetPort: s, protocol: SCTP}]}
---
apiVersion: v1
kind: Service
metadata: {name: balanced}
spec:
  type: LoadBalancer
  ipFamilyPolicy: PreferDualStack
  selector: {app: signal}
  externalIPs: [192.168.1.240]
  ports: [{port: 38, targetPort: s, protocol: SCTP}]
---
apiVersion: v1
kind: Service
metadata: {name: empty}
spec: {type: NodePort, selector: {app: nobody}, ports: [{port: 38, protocol: SCTP}]}
---
apiVersion: v1
kind: Pod
metadata: {name: ported}
spec:
  nodeName: node-2
  containers:
  - name: web
    image: nginx
    ports:
    - {containerPort: 80, hostPort: 8080}
    - {containerPort: 53, hostPort: 8080, protocol: UDP}
    - {containerPort: 3868, hostPort: 8080, protocol: SCTP}
    - {containerPort: 81, hostPort: 8081, hostIP: 127.0.0.1}
";

/// The lines of `weft verify`'s matrix whose names begin so: how many visits from nodes, Pods and outside. All were good.
fn visits(report: &Value, named: &str) -> Vec<[u64; 3]> {
    let rows = report["services"]["matrix"].as_array().unwrap();
    let rows = rows.iter().filter(|row| row["service"].as_str().unwrap().starts_with(named));
    let count = |count: &Value| {
        assert_eq!(count["good"], count["all"], "{report:#}");
        count["all"].as_u64().unwrap()
    };
    rows.map(|row| [count(&row["nodes"]), count(&row["pods"]), count(&row["outside"])]).collect()
}

#[test]
fn it_proves_sctp_services_and_host_ports_from_everywhere() {
    let lab =
        Lab::with_nodes(2).option("--ip-family", "dual").running(PODS).running(SCTP_AND_HOST_PORTS).up();
    lab.load_balancer("balanced");
    let report = wait_for("verify to hold", || {
        let output = weft(&["verify", "-o", "json", "--name", lab.name()]);
        if output.code == Some(0) { Ok(output.stdout) } else { Err(output.stdout) }
    });
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["services"]["unproved"].as_array().unwrap().len(), 0, "{report:#}");
    // From two nodes and two Pods on each, over both families.
    for family in ["default/inside SCTP", "default/inside SCTP IPv6"] {
        assert_eq!(visits(&report, family)[0], [2, 4, 0], "{family}: {report:#}");
    }
    for family in ["default/balanced SCTP", "default/balanced SCTP IPv6"] {
        let [nodes, pods, outside] = visits(&report, family)[0];
        assert!(nodes == 2 && pods >= 12 && outside == 3, "{family}: {report:#}");
    }
    let [nodes, pods, outside] = visits(&report, "default/empty SCTP")[0];
    assert!(nodes > 0 && pods > 0 && outside > 0, "what has no endpoint refuses: {report:#}");
    // From the Pod's own node, the other one, their Pods and outside.
    for protocol in ["TCP", "UDP", "SCTP"] {
        for family in ["", " IPv6"] {
            let name = format!("host port 8080 of default/ported on node-2 {protocol}{family}");
            let expected = if protocol == "SCTP" { 1 } else { 2 };
            let [nodes, pods, outside] = visits(&report, &name)[0];
            assert!(nodes >= expected && pods == 4 && outside == 1, "{name}: {report:#}");
        }
    }
    // On the node itself, and not from outside: that was looked at as well.
    assert_eq!(visits(&report, "host port 8081 of default/ported on node-2 TCP"), [[1, 0, 1]]);
    let table = weft(&["verify", "--name", lab.name()]).succeeds();
    assert!(table.contains("host ports reached, clients' addresses kept"), "{table}");
    // SAFETY: a call without pointers, whose descriptor nobody else has.
    let has_sctp = unsafe {
        let descriptor = libc::socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_SCTP);
        descriptor >= 0 && libc::close(descriptor) == 0
    };
    assert_eq!(table.contains("this machine's kernel has no SCTP"), !has_sctp, "{table}");
}

#[test]
fn it_names_the_sctp_services_and_host_ports_that_fail() {
    let broken_service = "
apiVersion: v1
kind: Service
metadata: {name: lost}
spec: {type: NodePort, selector: {app: lost}, ports: [{port: 38, targetPort: 3868, protocol: SCTP}]}
";
    let ported = SCTP_AND_HOST_PORTS
        .replace("metadata: {name: ported}", "metadata: {name: ported, labels: {app: lost}}");
    let lab = Lab::with_nodes(2).running(PODS).running(&ported).running(broken_service).up();
    let report_holds = || {
        let output = weft(&["verify", "-o", "json", "--name", lab.name()]);
        if output.code == Some(0) { Ok(()) } else { Err(output.stdout) }
    };
    wait_for("verify to hold", report_holds);
    let mut inside = Netlink::open_in(&lab.pod("ported").netns()).unwrap();
    let default = inside.routes().unwrap().into_iter().find(|route| route.prefix_len == 0).unwrap();
    inside.delete_route(&default).unwrap();
    let broken = report(&lab, 1);
    let failed = broken["services"]["failed"].as_array().unwrap();
    let host_port = |protocol| format!("host port 8080 of default/ported on node-2 {protocol}");
    for service in ["default/lost SCTP", &host_port("TCP"), &host_port("SCTP")] {
        for from in ["outside", "node-1", "default/alone"] {
            let named = failed.iter().any(|one| one["from"] == from && one["service"] == service);
            assert!(named, "{from} -> {service}: {failed:#?}");
        }
    }
    // Of a program that answers no datagram from anywhere, nothing is known.
    let unproved = broken["services"]["unproved"].as_array().unwrap();
    assert!(unproved.contains(&Value::from(host_port("UDP"))), "{unproved:#?}");
    let others = failed.iter().filter(|one| one["from"] != "default/ported");
    for one in others {
        let service = one["service"].as_str().unwrap();
        assert!(service.starts_with("host port") || service == "default/lost SCTP", "{failed:#?}");
    }
    let table = weft(&["verify", "--name", lab.name()]);
    assert_eq!(table.code, Some(1));
    let said = table.stdout.lines().find(|line| line.starts_with("host ports reached")).unwrap();
    assert!(said.ends_with("NO"), "{}", table.stdout);
    inside.set_route(&RouteSpec { ..default }).unwrap();
    wait_for("verify to hold", report_holds);
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
