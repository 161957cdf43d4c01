//! The network model: every Pod and node reaches every other, and nobody's address is translated.

use std::net::SocketAddr;

use weft_tests::Lab;

/// A Pod on each of two nodes, two on the first, and one on the second node's own network.
const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: a}
spec: {nodeName: node-1, containers: [{name: web, image: nginx, ports: [{containerPort: 80}, {containerPort: 53, protocol: UDP}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: b}
spec: {nodeName: node-1, containers: [{name: web, image: nginx, ports: [{containerPort: 80}, {containerPort: 53, protocol: UDP}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: c}
spec: {nodeName: node-2, containers: [{name: web, image: nginx, ports: [{containerPort: 80}, {containerPort: 53, protocol: UDP}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: host}
spec:
  nodeName: node-2
  hostNetwork: true
  containers: [{name: web, image: nginx, ports: [{containerPort: 8080}, {containerPort: 5353, protocol: UDP}]}]
";

fn everybody_reaches_everybody(lab: &Lab) {
    let places = [lab.pod("a"), lab.pod("b"), lab.pod("c"), lab.node("node-1"), lab.node("node-2")];
    for (name, tcp, udp) in [("a", 80, 53), ("b", 80, 53), ("c", 80, 53), ("host", 8080, 5353)] {
        let target = lab.pod(name);
        for address in target.addresses() {
            for place in &places {
                // A node reaches a Pod from whichever of its own addresses is nearest; a Pod has only one.
                let answer = place.connects_to(SocketAddr::new(*address, tcp)).comes_from(name);
                let datagram =
                    place.exchanges_datagrams_with(SocketAddr::new(*address, udp)).comes_from(name);
                if place.addresses().len() == target.addresses().len() && !is_node(place, lab) {
                    let own = place.address_like(*address);
                    answer.saw_source(own);
                    datagram.saw_source(own);
                }
            }
        }
    }
}

fn is_node(place: &weft_tests::Place, lab: &Lab) -> bool {
    ["node-1", "node-2"].iter().any(|node| lab.node(node).address() == place.address())
}

#[test]
fn without_translation_over_ipv4() {
    let lab = Lab::with_nodes(2).running(PODS).up();
    everybody_reaches_everybody(&lab);
    assert_eq!(lab.pod("host").address(), lab.node("node-2").address());
}

#[test]
fn without_translation_over_ipv6() {
    let lab = Lab::with_nodes(2).option("--ip-family", "ipv6").running(PODS).up();
    assert!(lab.pod("a").address().is_ipv6());
    everybody_reaches_everybody(&lab);
}

#[test]
fn without_translation_over_both_families() {
    let lab = Lab::with_nodes(2).option("--ip-family", "dual").running(PODS).up();
    assert_eq!(lab.pod("a").addresses().len(), 2);
    everybody_reaches_everybody(&lab);
}

#[test]
fn without_translation_over_the_overlay() {
    let lab = Lab::with_nodes(2).option("--routing", "overlay").running(PODS).up();
    everybody_reaches_everybody(&lab);
}

#[test]
fn without_translation_over_native_routes() {
    let lab = Lab::with_nodes(2).option("--routing", "native").running(PODS).up();
    everybody_reaches_everybody(&lab);
}
