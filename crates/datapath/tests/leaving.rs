//! Leaving the cluster: path MTU, ping and traceroute through a node.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    net::{IpAddr, UdpSocket},
    process::Command,
};

use support::{DEADLINE, Fabric, Node, Pod, host_behind, tcp, udp, until};
use weft_datapath::{Counter, Path};
use weft_netns::{Netlink, Netns, netlink::RouteSpec};

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
    let outside: [IpAddr; 2] = ["198.51.100.2".parse().unwrap(), "2001:db8::2".parse().unwrap()];
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

/// Has the router send what is for an address to a node.
fn lead(fabric: &Fabric, to: IpAddr, node: IpAddr) {
    let mut router = Netlink::open_in(&fabric.netns.0).unwrap();
    let link = router.link("br0").unwrap().index;
    let bits = if to.is_ipv4() { 32 } else { 128 };
    router.set_route(&RouteSpec { gateway: Some(node), ..RouteSpec::new(to, bits, link) }).unwrap();
}

/// Whether a datagram from one address to another is answered from there.
fn is_answered(from: &Netns, own: IpAddr, to: &Netns, address: IpAddr) -> bool {
    let server = to.run(|| UdpSocket::bind((address, 0)).unwrap()).unwrap();
    let client = from.run(|| UdpSocket::bind((own, 0)).unwrap()).unwrap();
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
    }
    client.connect(server.local_addr().unwrap()).unwrap();
    client.send(b"?").unwrap();
    let mut buffer = [0; 8];
    let (_, asking) = server.recv_from(&mut buffer).unwrap();
    server.send_to(b"!", asking).unwrap();
    client.recv(&mut buffer).is_ok()
}

/// Where a router knows the Pods' ranges, hosts outside reach Pods by their own addresses, and what Pods answer is not masqueraded.
#[test]
fn a_host_outside_that_has_a_route_reaches_a_pod_and_is_answered_from_its_address() {
    let fabric = Fabric::new();
    let (mut node, other) = (fabric.node(2), fabric.bare_node(3));
    node.join(&[&other], Path::Native);
    let far = host_behind(&fabric, 1500);
    let pod = node.pod();
    for (family, outside) in ["198.51.100.2", "2001:db8::2"].into_iter().enumerate() {
        let (outside, address) = (outside.parse().unwrap(), pod.addresses[family]);
        lead(&fabric, address, node.addresses[family]);
        until("small packets to arrive", || udp(&far.0, &pod.netns.0, address, 100).is_ok());
        assert_eq!(tcp(&far.0, &pod.netns.0, address).unwrap(), outside, "the server sees who asks");
        assert!(is_answered(&far.0, outside, &pod.netns.0, address), "from the Pod's own address");
        // The other way it is the node that others see, as ever.
        assert_eq!(tcp(&pod.netns.0, &far.0, outside).unwrap(), node.addresses[family]);
    }
}

/// A router may know one node for the Pods of all.
#[test]
fn a_host_outside_reaches_a_pod_by_way_of_another_node_where_nodes_reach_each_other_natively() {
    for path in [Path::Native, Path::Overlay] {
        let fabric = Fabric::new();
        let (mut node, mut other) = (fabric.node(2), fabric.node(3));
        node.join(&[&other], path);
        other.join(&[&node], path);
        let far = host_behind(&fabric, 1500);
        let pod = node.pod();
        for (family, outside) in ["198.51.100.2", "2001:db8::2"].into_iter().enumerate() {
            let (outside, address) = (outside.parse().unwrap(), pod.addresses[family]);
            lead(&fabric, address, other.addresses[family]);
            if path == Path::Native {
                until("small packets to arrive", || udp(&far.0, &pod.netns.0, address, 100).is_ok());
                assert_eq!(tcp(&far.0, &pod.netns.0, address).unwrap(), outside, "the server sees who asks");
                assert!(is_answered(&far.0, outside, &pod.netns.0, address), "from the Pod's own address");
                continue;
            }
            let dropped = |node: &mut Node| node.drops(Counter::TunnelSource);
            let before = dropped(&mut node) + dropped(&mut other);
            until("a node to drop it", || {
                assert!(udp(&far.0, &pod.netns.0, address, 100).is_err(), "a node wraps what its own send");
                dropped(&mut node) + dropped(&mut other) > before
            });
        }
    }
}
