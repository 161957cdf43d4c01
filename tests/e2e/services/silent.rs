//! A8: a node that dies is given nothing new, though the API says of its Pods that they are ready.

use std::{collections::BTreeSet, net::UdpSocket, time::Duration};

use serde_json::Value;
use weft_tests::{Lab, Outcome, Place, wait_for, wait_until, weft};

use super::{lab, socket, until};

/// A Service with a Pod on each node, TCP and UDP, and one with a Pod on node-2 alone.
const SHOP: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{name: tcp, port: 80}, {name: udp, port: 53, protocol: UDP}]
---
apiVersion: v1
kind: Pod
metadata: {name: alone, labels: {app: alone}}
spec: {nodeName: node-2, containers: [{name: alone, image: nginx, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: alone}
spec: {selector: {app: alone}, ports: [{port: 80}]}
";

/// Backends of a Service on a node: the address, whether its node is silent, whether new connections to the cluster IP may go there.
fn backends(lab: &Lab, node: &str, service: &str) -> Vec<(String, bool, bool)> {
    let held = lab.services();
    let held = held.as_array().unwrap().iter().find(|held| held["node"] == node).unwrap();
    let ports = held["services"].as_array().unwrap().iter().filter(|one| one["name"] == service);
    let backends = ports.flat_map(|port| port["backends"].as_array().unwrap());
    let row = |one: &Value| {
        let address = one["key"]["address"].as_str().unwrap().to_owned();
        (address, one["unreachable"] == true, one["internal"] == true)
    };
    backends.map(row).collect()
}

/// Backends of a Service whose nodes are silent, as a node has it.
fn silent(lab: &Lab, node: &str, service: &str) -> BTreeSet<String> {
    backends(lab, node, service).into_iter().filter(|(_, silent, _)| *silent).map(|(at, ..)| at).collect()
}

/// Who answers new connections.
fn answerers(from: &Place, to: std::net::SocketAddr) -> BTreeSet<String> {
    (0..40).map(|_| from.connects_to(to).pod()).collect()
}

#[test]
fn a_node_that_dies_is_avoided_and_taken_back() {
    let lab = lab(3, SHOP).up();
    let (client, outside) = (lab.pod("client"), lab.outside());
    let cluster = socket(lab.cluster_ip("web"), 80);
    let datagrams = socket(lab.cluster_ip("web"), 53);
    let port = socket(lab.node("node-1").address(), lab.node_port("web"));
    until("an answer", || outside.asks(port), Outcome::is_answer);
    wait_until("backends on all nodes", || answerers(&client, cluster).len() == 3);
    let pods = lab.get(&["pods", "-l", "app=web"]);
    let pods = pods["items"].as_array().unwrap().iter();
    let lost = pods.clone().find(|pod| pod["spec"]["nodeName"] == "node-2").unwrap();
    let (lost_name, lost) = (&lost["metadata"]["name"], lost["status"]["podIP"].as_str().unwrap());

    // So many that some are with the Pod that is lost.
    let flows: Vec<UdpSocket> = (0..24).map(|_| flow(&client, datagrams)).collect();
    flows.iter().for_each(|flow| wait_until("an answer to a datagram", || is_answered(flow)));
    lab.cut_off("node-2");
    wait_until("node-1 to find node-2 silent", || silent(&lab, "node-1", "web").contains(lost));
    let ready = lab.get(&["pod", lost_name.as_str().unwrap()]);
    let conditions = ready["status"]["conditions"].as_array().unwrap();
    assert!(
        conditions.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"),
        "nobody has told the API: {conditions:?}"
    );
    for (from, to) in [(&client, cluster), (&outside, port), (&lab.node("node-3"), cluster)] {
        let answerers = answerers(from, to);
        assert!(answerers.len() == 2 && !answerers.contains(lost_name.as_str().unwrap()), "{answerers:?}");
    }
    flows.iter().for_each(|flow| wait_until("the flow to go on elsewhere", || is_answered(flow)));

    // What has no other backend keeps the one it has.
    let alone = backends(&lab, "node-1", "alone");
    assert!(!alone.is_empty() && alone.iter().all(|(_, silent, chosen)| *silent && *chosen), "{alone:?}");
    // The node that is cut off hears nobody, and says so of nobody.
    assert_eq!(silent(&lab, "node-2", "web"), BTreeSet::new());

    let shown = weft(&["service", "show", "web", "--name", lab.name()]).succeeds();
    assert!(shown.contains("its node gives no sign of life"), "{shown}");
    let status: Value = serde_json::from_str(&lab.status()).unwrap();
    let status = status["nodes"].as_array().unwrap().iter().find(|node| node["node"] == "node-1").unwrap();
    let silent_peers = status["peers"].as_array().unwrap().iter().filter(|peer| peer["silent"] == true);
    assert!(silent_peers.map(|peer| &peer["name"]).eq(["node-2"].iter()), "{status}");
    wait_for("an Event on node-2", || {
        let events = lab.get(&["events", "-A", "--field-selector", "reason=NodeSilent"]);
        let events = events["items"].as_array().unwrap().clone();
        let about = |one: &Value| one["involvedObject"]["name"] == "node-2";
        if events.iter().any(about) { Ok(()) } else { Err(events) }
    });

    lab.join("node-2");
    wait_until("node-2 to be taken back", || silent(&lab, "node-1", "web").is_empty());
    wait_until("backends on all nodes again", || answerers(&client, cluster).len() == 3);
}

/// A connected socket in a place: its packets pass the Pod's interface.
fn flow(from: &Place, to: std::net::SocketAddr) -> UdpSocket {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = from.netns().run(|| UdpSocket::bind(any).and_then(|one| one.connect(to).map(|()| one)));
    let socket = socket.unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    socket
}

fn is_answered(flow: &UdpSocket) -> bool {
    let mut buffer = [0; 512];
    flow.send(b"hello").is_ok() && flow.recv(&mut buffer).is_ok()
}
