//! Leaving the cluster: path MTU, ping and traceroute through a node.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::process::Command;

use support::{Fabric, Pod, Scratch, udp, until};
use weft_datapath::Path;
use weft_netns::{
    Netlink,
    netlink::{RouteSpec, VethSpec},
};

/// A host behind the fabric, over a link with a smaller MTU.
fn host_behind(fabric: &Fabric, mtu: u32) -> Scratch {
    let host = Scratch::new("t-far-");
    let mut router = Netlink::open_in(&fabric.netns.0).unwrap();
    let (name, peer_name, peer_netns) = ("far", "eth0", Some(&host.0));
    router
        .add_veth(&VethSpec { name, peer_name, peer_netns, mac: None, peer_mac: None, mtu: Some(mtu) })
        .unwrap();
    let mut netlink = Netlink::open_in(&host.0).unwrap();
    for (side, name, last) in [(&mut router, "far", 1), (&mut netlink, "eth0", 2)] {
        let index = side.link(name).unwrap().index;
        side.set_up(index).unwrap();
        side.add_address(index, format!("198.51.100.{last}").parse().unwrap(), 24).unwrap();
        side.add_address(index, format!("2001:db8::{last}").parse().unwrap(), 64).unwrap();
    }
    let index = netlink.link("eth0").unwrap().index;
    for gateway in ["198.51.100.1", "2001:db8::1"] {
        netlink.set_route(&RouteSpec::default_via(gateway.parse().unwrap(), index)).unwrap();
    }
    fabric
        .netns
        .0
        .run(|| {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
            std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        })
        .unwrap();
    host
}

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
