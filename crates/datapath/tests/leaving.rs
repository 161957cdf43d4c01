//! Leaving the cluster: path MTU, ping and traceroute through a node.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::process::Command;

use support::{Fabric, Pod, host_behind, udp, until};
use weft_datapath::Path;

fn ping(pod: &Pod, arguments: &[&str]) -> (bool, String) {
    let mut ping = Command::new("ping");
    let output =
        pod.netns.0.enter_child(ping.args(arguments)).unwrap().output().expect("ping: cargo xtask setup");
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn the_icmp_error_of_a_narrow_link_outside_reaches_the_pod_translated_back() {
    let fabric = Fabric::new();
    let mut node = fabric.node(2);
    node.join(&[], Path::Overlay);
    let far = host_behind(&fabric, 1300);
    let pod = node.pod();
    for (address, own, headers) in
        [("198.51.100.2", node.addresses[0], 28), ("2001:db8::2", node.addresses[1], 48)]
    {
        let address = address.parse().unwrap();
        let full = pod.spec.mtu as usize - headers;
        // IPv6 neighbours are found once the new links' own addresses are settled.
        until("small packets to arrive", || udp(&pod.netns.0, &far.0, address, 100).is_ok());
        assert_eq!(udp(&pod.netns.0, &far.0, address, 100).unwrap(), own, "masqueraded");
        assert!(udp(&pod.netns.0, &far.0, address, full).is_err(), "too large for the link");
        let error = udp(&pod.netns.0, &far.0, address, full).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE), "the Pod learnt of it: {error}");
        assert_eq!(udp(&pod.netns.0, &far.0, address, 1300 - headers).unwrap(), own);
    }
}

#[test]
fn ping_works_to_pods_to_nodes_and_outside_and_traceroute_sees_the_node() {
    let fabric = Fabric::new();
    let (mut one, mut two) = (fabric.node(2), fabric.node(3));
    one.join(&[&two], Path::Overlay);
    two.join(&[&one], Path::Overlay);
    let far = host_behind(&fabric, 1500);
    let (a, b, c) = (one.pod(), one.pod(), two.pod());
    let outside: [std::net::IpAddr; 2] = ["198.51.100.2".parse().unwrap(), "2001:db8::2".parse().unwrap()];
    for family in [0, 1] {
        for target in [
            b.addresses[family],
            c.addresses[family],
            one.addresses[family],
            two.addresses[family],
            outside[family],
        ] {
            let (answered, said) = ping(&a, &["-c", "1", "-W", "5", &target.to_string()]);
            assert!(answered, "{target}: {said}");
        }
        // With one hop to live a packet ends at the node, which says so.
        let (answered, said) = ping(&a, &["-c", "1", "-W", "5", "-t", "1", &outside[family].to_string()]);
        assert!(!answered && said.contains("exceeded"), "{said}");
    }
    drop(far);
}
