//! The table of flows under somebody who wants it full.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use aya::maps::{Array, Map, MapData};
use weft_abi::{MAX_FLOWS_ADDRESSED, MAX_FLOWS_OUTSIDE, Side, maps};
use weft_datapath::{Counter, Path};
use weft_model::Protocol;
use weft_netns::Netlink;

use crate::{
    cluster::{BOTH, CLUSTER_IP, Cluster, NODE_PORT, Server, Tcp, Udp, eventually, service},
    neighbour::Neighbours,
    packet::Ip,
    raw::Frames,
    support::{Node, until},
};

/// A6: clients that do not exist leave room for what begins on the node itself, and go first.
#[test]
fn a6_half_open_connections_leave_the_nodes_own_flows_their_share() {
    const ROOM: u64 = 2000;
    let mut cluster = Cluster::new(Path::Overlay);
    let backend = cluster.nodes[0].pod();
    let client = cluster.nodes[0].pod();
    for family in BOTH {
        let tcp = Server::tcp(&backend.netns.0, "tcp", backend.addresses[family]);
        let udp = Server::udp(&backend.netns.0, "udp", backend.addresses[family]);
        cluster.serve(&service(Protocol::Tcp, &[tcp.address]).node_port(family, NODE_PORT));
        cluster.serve(&service(Protocol::Udp, &[udp.address]).named("udp").cluster_ip(family, 53));
    }
    let port = cluster.node_port(0, 0);
    eventually("a true client", || Tcp::connect(cluster.outside(), port)?.ask());
    let (near, far) = (cluster.nodes[0].pod(), cluster.nodes[1].pod());
    let neighbours = BOTH.map(|family| Neighbours::of(&cluster, family, &near, &far));
    // All but the last of them have been there before.
    let begun = outside(&cluster.nodes[0]).get(&0, 0).unwrap();
    outside(&cluster.nodes[0]).set(Side::Outside as u32, u64::from(MAX_FLOWS_OUTSIDE) - ROOM, 0).unwrap();
    let mac = |netns, interface| Netlink::open_in(netns).unwrap().link(interface).unwrap().mac;
    let mut to = mac(&cluster.nodes[0].netns.0, "eth0");
    to.extend(mac(cluster.outside(), "br0"));
    to.extend([8, 0]);
    let frames = Frames::open(cluster.outside(), "br0");
    let before = cluster.nodes[0].drops(Counter::FlowsFull);
    for number in 0..ROOM as u32 + 1000 {
        let nobody = SocketAddr::new(IpAddr::V4(Ipv4Addr::from(0xcb00_7100 + number)), 1000);
        let mut frame = to.clone();
        frame.extend(syn(nobody, port).bytes());
        frames.send(&frame);
    }
    until("those that are too many to be counted", || {
        cluster.nodes[0].drops(Counter::FlowsFull) >= before + 1000
    });
    for family in BOTH {
        let to = SocketAddr::new(CLUSTER_IP[family].parse().unwrap(), 53);
        let asked = eventually("a Pod that asks a Service", || Udp::connect(&client.netns.0, to).ask());
        assert_eq!(asked.name, "udp");
    }
    // As soon as all of the table has been looked through, what is left is known again.
    until("the count to be right", || {
        cluster.nodes[0].with(|datapath| datapath.sweep().unwrap());
        let map = outside(&cluster.nodes[0]);
        let read = |index| map.get(&index, 0).unwrap();
        let left = read(Side::Outside as u32) - read(Side::COUNT + Side::Outside as u32);
        left < 2 * ROOM && read(0) > begun
    });
    neighbours.into_iter().for_each(Neighbours::lost_nothing);
    eventually("a true client again", || Tcp::connect(cluster.outside(), port)?.ask());
}

/// What hosts outside send to Pods themselves is in the table as long as there is much room for Services' clients, and gets there without.
#[test]
fn what_is_sent_to_pods_themselves_leaves_room_for_the_clients_of_services() {
    let mut cluster = Cluster::new(Path::Overlay);
    let backend = cluster.nodes[0].pod();
    let server = Server::tcp(&backend.netns.0, "tcp", backend.v4());
    cluster.serve(&service(Protocol::Tcp, &[server.address]).node_port(0, NODE_PORT));
    cluster.route_outside(backend.v4(), 0);
    let index = Side::Outside as u32;
    for room in [0, 1] {
        let full = u64::from(MAX_FLOWS_ADDRESSED) - room;
        for (to, begun) in [(server.address, room), (cluster.node_port(0, 0), 1)] {
            outside(&cluster.nodes[0]).set(index, full, 0).unwrap();
            let connection = Tcp::connect(cluster.outside(), to).unwrap();
            assert_eq!(connection.ask().unwrap().client, connection.local());
            assert_eq!(outside(&cluster.nodes[0]).get(&index, 0).unwrap() - full, begun, "{to}");
        }
    }
}

/// A late packet of a connection that is over does not end the connection that uses its port now.
#[test]
fn what_comes_late_of_a_connection_ends_no_later_one_of_its_port() {
    let mut cluster = Cluster::new(Path::Overlay);
    let backend = cluster.nodes[1].pod();
    let server = Server::tcp(&backend.netns.0, "tcp", backend.v4());
    let other_port = NODE_PORT + 1;
    cluster.serve(&service(Protocol::Tcp, &[server.address]).node_port(0, NODE_PORT));
    cluster.serve(&service(Protocol::Tcp, &[server.address]).named("other").node_port(0, other_port));
    let [here, there] = [0, 1].map(|node| cluster.node_port(node, 0));
    let other = SocketAddr::new(here.ip(), other_port);
    let mac = |netns, interface| Netlink::open_in(netns).unwrap().link(interface).unwrap().mac;
    let mut to = mac(&cluster.nodes[0].netns.0, "eth0");
    to.extend(mac(cluster.outside(), "br0"));
    to.extend([8, 0]);
    let frames = Frames::open(cluster.outside(), "br0");
    for (port, flags) in (40_000..).zip([RST, RST | ACK, FIN | ACK, ACK]) {
        let connect = |to| {
            let connection = Tcp::connect_from(cluster.outside(), port, to).unwrap();
            let answer = connection.ask().unwrap();
            (connection, answer)
        };
        let (first, _) = connect(here);
        socket2::SockRef::from(&first.0).set_linger(Some(Duration::ZERO)).unwrap();
        drop(first);
        let (second, answer) = connect(other);
        assert_eq!(answer.client.port(), port, "its port is free again");
        let mut late = to.clone();
        late.extend(tcp(SocketAddr::new(cluster.outside_address(0), port), here, flags).bytes());
        frames.send(&late);
        let (third, _) = connect(there);
        for connection in [second, third] {
            connection.ask().unwrap_or_else(|error| panic!("late {flags:#x}: {error}"));
        }
    }
    assert!(cluster.nodes[0].drops(Counter::Late) >= 4, "each of them, and nothing of it was lost");
    assert_eq!(cluster.nodes[0].drops(Counter::Untranslated), 0);
}

fn outside(node: &Node) -> Array<MapData, u64> {
    let pin = node.bpffs.path().join("weft/maps").join(maps::FLOW_SIDES);
    Map::Array(MapData::from_pin(pin).unwrap()).try_into().unwrap()
}

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// The first packet of a connection.
fn syn(from: SocketAddr, to: SocketAddr) -> Ip {
    tcp(from, to, SYN)
}

/// A packet of a connection, with these flags.
fn tcp(from: SocketAddr, to: SocketAddr, flags: u8) -> Ip {
    const TCP: u8 = 6;
    let mut tcp = Vec::new();
    tcp.extend(from.port().to_be_bytes());
    tcp.extend(to.port().to_be_bytes());
    tcp.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 4, 0, 0, 0, 0, 0]);
    Ip::new(from.ip(), to.ip(), TCP, tcp).with_checksum(16)
}
