//! Services: the stable address that spreads traffic over the Pods that are ready.

mod announced;
mod changes;
mod kinds;
mod policies;
mod silent;

use std::net::{IpAddr, SocketAddr};

use weft_tests::{Lab, LabBuilder, Outcome, Place, wait_for};

/// A DaemonSet `web` that answers on TCP and UDP, and a Pod `client` on node-1.
const WEB: &str = "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: nginx, ports: [{name: http, containerPort: 80}, {name: dns, containerPort: 53, protocol: UDP}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec: {nodeName: node-1, containers: [{name: client, image: nginx, ports: [{containerPort: 81}]}]}
";

/// A lab with these Services, in front of [`WEB`].
fn lab(nodes: u8, services: &str) -> LabBuilder {
    Lab::with_nodes(nodes).running(WEB).running(services)
}

fn socket(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}

/// Repeats an attempt until it comes out like this: what was just made takes a moment to reach every node.
#[track_caller]
fn until(what: &str, attempt: impl Fn() -> Outcome, good: impl Fn(&Outcome) -> bool) -> Outcome {
    wait_for(what, || {
        let outcome = attempt();
        if good(&outcome) { Ok(outcome) } else { Err(outcome) }
    })
}

/// A place reaches a Service over TCP, and the backend sees the place's own address.
#[track_caller]
fn reaches(from: &Place, to: SocketAddr) {
    let answer = until(&format!("an answer from {to}"), || from.asks(to), Outcome::is_answer).answer();
    answer.saw_source(from.address_like(to.ip()));
}

/// A place reaches a Service over UDP, over connected sockets and over others.
#[track_caller]
fn reaches_by_datagram(from: &Place, to: SocketAddr) {
    let own = from.address_like(to.ip());
    until(&format!("a datagram from {to}"), || from.sends(to), Outcome::is_answer).answer().saw_source(own);
    until(&format!("a datagram from {to}"), || from.sends_unconnected(to), Outcome::is_answer)
        .answer()
        .saw_source(own);
}
