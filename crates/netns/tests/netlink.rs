//! The netlink client against the real kernel, in throw-away namespaces.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::IpAddr;

use weft_netns::{
    Netlink,
    netlink::{NeighbourSpec, RouteSpec, VethSpec, VxlanSpec},
};
use weft_scratch::Scratch;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn a_veth_pair_between_two_namespaces_with_addresses_routes_and_neighbours() {
    let (left, right) = (Scratch::new("t-nl-"), Scratch::new("t-nl-"));
    let mut netlink = Netlink::open_in(&left.0).unwrap();
    let mac = [2, 0, 0, 0, 0, 1];
    let spec = VethSpec {
        name: "a",
        peer_name: "b",
        peer_netns: Some(&right.0),
        mac: Some(mac),
        peer_mac: None,
        mtu: Some(1400),
    };
    netlink.add_veth(&spec).unwrap();
    assert!(netlink.add_veth(&spec).unwrap_err().is_exists());
    let link = netlink.link("a").unwrap();
    assert_eq!((link.mtu, link.mac.as_slice(), link.kind.as_str()), (1400, mac.as_slice(), "veth"));
    netlink.set_up(link.index).unwrap();

    let mut there = Netlink::open_in(&right.0).unwrap();
    let peer = there.link("b").unwrap();
    there.set_up(peer.index).unwrap();

    for (address, prefix_len) in [(ip("10.1.0.1"), 32), (ip("fd00::1"), 128)] {
        netlink.add_address(link.index, address, prefix_len).unwrap();
        let addresses = netlink.addresses(Some(link.index)).unwrap();
        assert!(addresses.iter().any(|found| found.address == address && found.prefix_len == prefix_len));
    }
    for (destination, prefix_len) in [(ip("10.2.0.0"), 16), (ip("fd01::"), 64)] {
        let mut route = RouteSpec::new(destination, prefix_len, link.index);
        route.mtu = Some(1300);
        netlink.set_route(&route).unwrap();
        let found = |netlink: &mut Netlink| {
            netlink.routes().unwrap().into_iter().find(|found| found.destination == destination)
        };
        assert_eq!(found(&mut netlink).unwrap().mtu, Some(1300));
        netlink.delete_route(&route).unwrap();
        assert_eq!(found(&mut netlink), None);
        assert!(netlink.delete_route(&route).unwrap_err().is_not_found());

        let neighbour = NeighbourSpec { index: link.index, address: destination, mac };
        netlink.set_neighbour(&neighbour).unwrap();
        netlink.set_neighbour(&neighbour).unwrap();
        let seen = netlink.neighbours().unwrap();
        assert!(seen.iter().any(|seen| seen.address == destination && seen.permanent && seen.mac == mac));
    }
    netlink.delete_link(link.index).unwrap();
    assert!(netlink.link("a").unwrap_err().is_not_found());
    assert!(there.link("b").unwrap_err().is_not_found());
}

#[test]
fn a_vxlan_device_in_metadata_mode_and_a_bridge() {
    let scratch = Scratch::new("t-nl-");
    let mut netlink = Netlink::open_in(&scratch.0).unwrap();
    let source_ports = (49_152, 65_535);
    netlink
        .add_vxlan(&VxlanSpec { name: "vx", port: 8472, source_ports, mac: [2, 0, 0, 0, 0, 9], mtu: 1450 })
        .unwrap();
    let link = netlink.link("vx").unwrap();
    assert_eq!((link.kind.as_str(), link.no_arp, link.mtu), ("vxlan", true, 1450));
    assert_eq!(link.vxlan, Some((0, 8472)));

    netlink.add_bridge("br").unwrap();
    let bridge = netlink.link("br").unwrap();
    let pair = VethSpec { name: "p", peer_name: "q", peer_netns: None, mac: None, peer_mac: None, mtu: None };
    netlink.add_veth(&pair).unwrap();
    let port = netlink.link("p").unwrap();
    netlink.set_master(port.index, bridge.index).unwrap();
    assert_eq!(netlink.link_by_index(port.index).unwrap().master, Some(bridge.index));
    assert_eq!(netlink.links().unwrap().len(), 5, "lo, vx, br, p, q");
}
