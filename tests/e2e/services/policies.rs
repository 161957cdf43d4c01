//! Traffic policies, session affinity, source ranges, and what meets a client where there is no backend.

use std::{collections::BTreeSet, time::Instant};

use weft_tests::{Lab, Outcome, wait_for};

use super::{lab, socket, until};

#[test]
fn without_backends_a_client_is_refused_at_once() {
    let lab = lab(
        2,
        "
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec:
  type: LoadBalancer
  selector: {app: nobody}
  ports: [{name: http, port: 80}, {name: dns, port: 53, protocol: UDP}]
",
    )
    .up();
    let cluster = lab.cluster_ip("nobody");
    let balanced = lab.load_balancer("nobody")[0];
    let node = lab.node("node-2");
    let port = lab.node_port("nobody");
    let (pod, host, outside) = (lab.pod("client"), lab.node("node-1"), lab.outside());
    for (from, to) in [
        (&pod, socket(cluster, 80)),
        (&pod, socket(balanced, 80)),
        (&host, socket(cluster, 80)),
        (&host, socket(balanced, 80)),
        (&outside, socket(node.address(), port)),
        (&outside, socket(balanced, 80)),
    ] {
        until(&format!("a refusal by {to}"), || from.asks(to), Outcome::is_refusal);
        let begun = Instant::now();
        assert!(from.asks(to).is_refusal(), "{to}");
        // A time-out would have been silence; this only says that nobody waited for one.
        assert!(begun.elapsed().as_secs() < 2);
    }
    for from in [&pod, &host] {
        let to = socket(cluster, 53);
        until("a refusal by UDP", || from.sends(to), Outcome::is_refusal);
    }
    let health = socket(cluster, 9999);
    until("another port of a cluster IP to refuse", || pod.asks(health), Outcome::is_refusal);
    let nowhere = socket("10.96.77.77".parse().unwrap(), 80);
    until("an address that no Service has to be silent", || pod.asks(nowhere), Outcome::is_silence);
    // The first backend is found without the client doing anything.
    let datagrams = pod.sends(socket(cluster, 53));
    assert!(datagrams.is_refusal(), "{datagrams:?}");
    lab.apply(
        "
apiVersion: v1
kind: Pod
metadata: {name: somebody, labels: {app: nobody}}
spec: {containers: [{name: a, image: nginx, ports: [{containerPort: 80}, {containerPort: 53, protocol: UDP}]}]}
",
    );
    for (from, to) in [(&pod, socket(cluster, 80)), (&outside, socket(balanced, 80))] {
        until(&format!("an answer by {to}"), || from.asks(to), Outcome::is_answer);
    }
    until("an answer by UDP", || pod.sends(socket(cluster, 53)), Outcome::is_answer);
}

const ONE: &str = "
apiVersion: v1
kind: Pod
metadata: {name: only, labels: {app: only}}
spec: {nodeName: node-2, containers: [{name: a, image: nginx, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: local}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  internalTrafficPolicy: Local
  selector: {app: only}
  ports: [{port: 80}]
";

#[test]
fn local_policies_use_the_nodes_own_backends_and_else_drop() {
    let lab = lab(2, ONE).up();
    let outside = lab.outside();
    let (one, two) = (lab.node("node-1"), lab.node("node-2"));
    let port = lab.node_port("local");
    let there =
        until("the node with the backend", || outside.asks(socket(two.address(), port)), Outcome::is_answer);
    there.answer().comes_from("only").saw_source(outside.address());
    let here = socket(one.address(), port);
    until("the node without it to drop", || outside.asks(here), Outcome::is_silence);
    let cluster = socket(lab.cluster_ip("local"), 80);
    until("the Pod of its node", || two.asks(cluster), Outcome::is_answer);
    until("a Pod of another node to be dropped", || lab.pod("client").asks(cluster), Outcome::is_silence);
    // To a LoadBalancer address traffic from Pods goes as if the policy were Cluster; only the node with the backend
    // answers for it outside.
    let balanced = socket(lab.load_balancer("local")[0], 80);
    until("a Pod to reach it", || lab.pod("client").asks(balanced), Outcome::is_answer);
    let answer = until("the host outside to reach it", || outside.asks(balanced), Outcome::is_answer);
    answer.answer().comes_from("only").saw_source(outside.address());
    let health = lab.get(&["service", "local"])["spec"]["healthCheckNodePort"].as_u64().unwrap();
    for (node, code) in [("node-1", "503"), ("node-2", "200")] {
        let url = format!("http://{}:{health}/", lab.node(node).address());
        wait_for("the health check", || {
            let curl = ["outside", "--", "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", &url];
            let output = lab.weft_lab("exec", &curl);
            if output.stdout == code {
                Ok(())
            } else {
                Err(format!("{node}: {}{}", output.stdout, output.stderr))
            }
        });
    }
}

#[test]
fn a_client_with_affinity_comes_back_to_its_backend() {
    let lab = lab(
        3,
        "
apiVersion: v1
kind: Service
metadata: {name: sticky}
spec: {type: NodePort, sessionAffinity: ClientIP, selector: {app: web}, ports: [{port: 80, targetPort: http}]}
",
    )
    .up();
    let cluster = socket(lab.cluster_ip("sticky"), 80);
    let port = lab.node_port("sticky");
    for (from, to) in [
        (lab.pod("client"), cluster),
        (lab.node("node-1"), cluster),
        (lab.outside(), socket(lab.node("node-1").address(), port)),
    ] {
        let first = until("an answer", || from.asks(to), Outcome::is_answer).answer().pod();
        for _ in 0..20 {
            assert_eq!(from.asks(to).answer().pod(), first);
        }
        // Its backend goes: another one takes over, and keeps the client.
        lab.kubectl(&["delete", "pod", &first, "--wait=true"]).succeeds();
        let next = until(
            "another backend",
            || from.asks(to),
            |outcome| matches!(outcome, Outcome::Answered(answer) if answer.pod() != first),
        );
        let next = next.answer().pod();
        for _ in 0..10 {
            assert_eq!(from.asks(to).answer().pod(), next);
        }
    }
}

#[test]
fn source_ranges_let_in_who_is_named() {
    let service = |range: &str| {
        format!(
            "
apiVersion: v1
kind: Service
metadata: {{name: fenced}}
spec:
  type: LoadBalancer
  loadBalancerSourceRanges: [\"{range}\"]
  selector: {{app: web}}
  ports: [{{port: 80, targetPort: http}}]
"
        )
    };
    let lab = lab(2, &service("192.168.1.254/32")).up();
    let outside = lab.outside();
    let to = socket(lab.load_balancer("fenced")[0], 80);
    until("the host outside to be let in", || outside.asks(to), Outcome::is_answer);
    lab.apply(&service("203.0.113.0/24"));
    until("the host outside to be kept out", || outside.asks(to), Outcome::is_silence);
    // The ranges are the LoadBalancer address's alone.
    let port = socket(lab.node("node-1").address(), lab.node_port("fenced"));
    until("the node port to be open", || outside.asks(port), Outcome::is_answer);
}

#[test]
fn what_is_near_is_preferred() {
    let service = |wish: &str| {
        format!(
            "
apiVersion: v1
kind: Service
metadata: {{name: near}}
spec: {{trafficDistribution: {wish}, selector: {{app: web}}, ports: [{{port: 80, targetPort: http}}]}}
"
        )
    };
    // Zones: node-1 and node-3, node-2 and node-4.
    let lab = lab(4, &service("PreferSameNode")).option("--zones", "2").up();
    let to = socket(lab.cluster_ip("near"), 80);
    let nodes = |lab: &Lab| -> BTreeSet<String> {
        (0..20).map(|_| lab.pod("client").asks(to).answer().node()).collect()
    };
    until("an answer", || lab.pod("client").asks(to), Outcome::is_answer);
    wait_for("its own node", || {
        let seen = nodes(&lab);
        if seen == BTreeSet::from(["node-1".to_owned()]) { Ok(()) } else { Err(seen) }
    });
    lab.apply(&service("PreferSameZone"));
    wait_for("its own zone", || {
        let seen = nodes(&lab);
        if seen == BTreeSet::from(["node-1", "node-3"].map(str::to_owned)) { Ok(()) } else { Err(seen) }
    });
}
