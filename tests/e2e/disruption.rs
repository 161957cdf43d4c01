//! What breaks does not take more with it than it must, and comes back by itself.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
};

use nix::sys::signal::{Signal, kill};
use weft_tests::{Lab, Place, wait_until};

const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: a}
spec: {nodeName: node-1, containers: [{name: web, image: nginx, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: b}
spec: {nodeName: node-2, containers: [{name: web, image: nginx, ports: [{containerPort: 80}]}]}
";

const NEW_POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: late}
spec: {nodeName: node-2, containers: [{name: web, image: nginx, ports: [{containerPort: 80}]}]}
";

/// Runs `disturb` while requests go from one Pod to the other without a pause. None may fail.
fn without_a_failed_request(from: &Place, to: std::net::SocketAddr, disturb: impl FnOnce()) {
    let (over, done, failed) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let counter = if from.exchanges_once(to).is_ok() { &done } else { &failed };
                counter.fetch_add(1, Ordering::Relaxed);
            }
        });
        wait_until("requests before", || done.load(Ordering::Relaxed) > 10);
        disturb();
        let so_far = done.load(Ordering::Relaxed);
        wait_until("requests afterwards", || done.load(Ordering::Relaxed) > so_far + 10);
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(failed.into_inner(), 0, "failed, of {}", done.into_inner());
}

#[test]
fn a_killed_agent_breaks_no_connection_and_no_request() {
    for routing in ["native", "overlay"] {
        let lab = Lab::with_nodes(2).option("--routing", routing).running(PODS).up();
        let (a, b) = (lab.pod("a"), lab.pod("b"));
        let server = b.echoes_on(7000);
        let mut stream = a.opens(server);
        without_a_failed_request(&a, server, || {
            for node in ["node-1", "node-2"] {
                let agent = lab.agent(node);
                kill(agent, Signal::SIGKILL).unwrap();
                stream.goes_on();
                wait_until("the agent to be started again", || lab.agent(node) != agent);
                stream.goes_on();
            }
        });
        stream.goes_on();
        lab.apply(NEW_POD);
        a.connects_to((lab.pod("late").address(), 80).into()).comes_from("late").saw_source(a.address());
    }
}

#[test]
fn pods_reach_each_other_while_the_api_server_is_away() {
    let lab = Lab::with_nodes(2).running(PODS).up();
    let (a, b) = (lab.pod("a"), lab.pod("b"));
    let server = b.echoes_on(7000);
    let mut stream = a.opens(server);
    let process = nix::unistd::Pid::from_raw(lab.pid());
    // The lab process holds the API server and every kubelet; the agents are processes of their own.
    without_a_failed_request(&a, server, || {
        kill(process, Signal::SIGSTOP).unwrap();
        for _ in 0..100 {
            stream.goes_on();
        }
        kill(process, Signal::SIGCONT).unwrap();
    });
    lab.apply(NEW_POD);
    a.connects_to((lab.pod("late").address(), 80).into()).comes_from("late");
}

#[test]
fn a_node_that_was_cut_off_is_reached_again() {
    let lab = Lab::with_nodes(2).running(PODS).up();
    let (a, b) = (lab.pod("a"), lab.pod("b"));
    let web = (b.address(), 80).into();
    a.connects_to(web);
    lab.cut_off("node-2");
    wait_until("node-2 to be cut off", || a.exchanges_once(web).is_err());
    // What is on the node itself goes on.
    lab.node("node-2").connects_to(web);
    lab.join("node-2");
    a.connects_to(web).comes_from("b").saw_source(a.address());
}
