//! ICMP errors of a Pod about what was never sent to it.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use weft_datapath::{Counter, Path};
use weft_netns::{Netlink, Netns};

use crate::{
    cluster::{BOTH, Cluster},
    frames::behind_options,
    packet::{ICMP, Ip},
    raw::{Frames, MARK},
    support::{Pod, tcp, udp, until},
};

/// A port unreachable, or a packet too big, about a packet.
fn error(from: IpAddr, to: IpAddr, about: &Ip, too_big: bool) -> Ip {
    let (kind, code) = match (from.is_ipv4(), too_big) {
        (true, false) => (3, 3),
        (true, true) => (3, 4),
        (false, false) => (1, 4),
        (false, true) => (2, 0),
    };
    let mtu = if too_big { 1280_u16.to_be_bytes() } else { [0; 2] };
    Ip::icmp(from, to, kind, code, [0, 0, mtu[0], mtu[1]], &about.bytes())
}

/// E9: an error that a Pod sends is about what was sent to that Pod, or it is dropped and counted, whatever it hides behind.
#[test]
fn e9_a_pod_tells_of_nobody_elses_packets() {
    let mut cluster = Cluster::new(Path::Overlay);
    let (a, liar) = (cluster.nodes[0].pod(), cluster.nodes[0].pod());
    let (c, node) = (cluster.nodes[1].pod(), cluster.nodes[0].addresses.clone());
    let other = cluster.nodes[1].addresses.clone();
    let frames = Frames::open(&liar.netns.0, "eth0");
    for family in BOTH {
        let at = |pod: &Pod| pod.addresses[family];
        // A connected socket of another Pod, which a true error would end.
        let (socket, own) = connected(&a.netns.0, at(&a), SocketAddr::new(at(&c), 9000));
        let flow = Ip::udp(own, SocketAddr::new(at(&c), 9000), MARK);
        // The node's own tunnel, whose path's MTU would be lowered.
        let tunnel =
            Ip::udp(SocketAddr::new(node[family], 50_000), SocketAddr::new(other[family], 8472), MARK);
        let mut lies: Vec<(IpAddr, Ip)> = Vec::new();
        for (to, about) in [(at(&a), &flow), (node[family], &tunnel), (at(&c), &tunnel)] {
            // A redirect, of IPv4: by way of the liar. IPv6's is neighbour discovery.
            if let IpAddr::V4(gateway) = at(&liar) {
                lies.push((to, Ip::icmp(at(&liar), to, 5, 1, gateway.octets(), &about.bytes())));
            }
            for too_big in [false, true] {
                let lie = error(at(&liar), to, about, too_big);
                if family == 0 {
                    // With header options, and in fragments that hide what it is about.
                    lies.push((to, lie.clone()));
                } else {
                    lies.push((to, behind_options(&lie, 1)));
                    lies.push((to, behind_options(&lie, 6)));
                    lies.push((to, lie));
                }
            }
        }
        for (to, lie) in lies {
            let before = cluster.nodes[0].drops(Counter::ForeignError);
            frames.send(&lie.frame());
            until(&format!("the lie to {to} to be counted"), || {
                cluster.nodes[0].drops(Counter::ForeignError) > before
            });
        }
        in_fragments(&mut cluster, &frames, &error(at(&liar), at(&a), &flow, false));
        assert_eq!(socket.send(b"still there").unwrap(), 11, "the socket has heard of nothing");
        // What was sent to it, it may tell of.
        let (socket, own) = connected(&a.netns.0, at(&a), SocketAddr::new(at(&liar), 9000));
        let truth = error(at(&liar), at(&a), &Ip::udp(own, SocketAddr::new(at(&liar), 9000), MARK), false);
        frames.send(&truth.frame());
        until("the true error to arrive", || match socket.send(b"?") {
            Err(error) => error.kind() == io::ErrorKind::ConnectionRefused,
            Ok(_) => false,
        });
    }
    assert_eq!(cluster.nodes[1].drops(Counter::ForeignError), 0);
    // The path is as wide as before.
    let full = a.spec.mtu as usize;
    assert_eq!(udp(&a.netns.0, &c.netns.0, c.v4(), full - 28).unwrap(), a.v4());
    assert_eq!(tcp(&a.netns.0, &c.netns.0, c.v6()).unwrap(), a.v6());
}

fn connected(netns: &Netns, own: IpAddr, to: SocketAddr) -> (UdpSocket, SocketAddr) {
    let socket = netns.run(|| UdpSocket::bind((own, 0)).unwrap()).unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let own = socket.local_addr().unwrap();
    (socket, own)
}

/// The first fragment of an error says that it is one; alone it is dropped, and the rest is nobody's.
fn in_fragments(cluster: &mut Cluster, frames: &Frames, lie: &Ip) {
    const FRAGMENT: u8 = 44;
    let before = cluster.nodes[0].drops(Counter::ForeignError);
    let mut first = lie.clone();
    first.payload.truncate(8);
    let frame = if lie.protocol == ICMP {
        let mut ip = first.bytes();
        // More fragments.
        ip[6] = 0x20;
        crate::packet::resum(&mut ip);
        crate::packet::frame(crate::packet::IPV4, &ip)
    } else {
        let mut payload = vec![first.protocol, 0, 0, 1, 0, 0, 0, 9];
        payload.extend(&first.payload);
        Ip { protocol: FRAGMENT, payload, ..first }.frame()
    };
    frames.send(&frame);
    until("the fragment to be counted", || cluster.nodes[0].drops(Counter::ForeignError) > before);
}

/// E9: of a tunnel between two nodes of a link nobody else has anything to tell.
#[test]
fn e9_a_stranger_on_the_link_tells_of_no_tunnel() {
    let mut cluster = Cluster::new(Path::Overlay);
    let (a, c) = (cluster.nodes[0].pod(), cluster.nodes[1].pod());
    let full = a.spec.mtu as usize;
    let mac = |netns, interface| Netlink::open_in(netns).unwrap().link(interface).unwrap().mac;
    let mut start = mac(&cluster.nodes[0].netns.0, "eth0");
    start.extend(mac(cluster.outside(), "br0"));
    let frames = Frames::open(cluster.outside(), "br0");
    for family in BOTH {
        // They know each other.
        assert_eq!(tcp(&a.netns.0, &c.netns.0, c.addresses[family]).unwrap(), a.addresses[family]);
        let [own, other] = [0, 1].map(|node| cluster.nodes[node].addresses[family]);
        assert_eq!(tcp(&cluster.nodes[0].netns.0, &cluster.nodes[1].netns.0, other).unwrap(), own);
        let tunnel = Ip::udp(SocketAddr::new(own, 50_000), SocketAddr::new(other, 8472), MARK);
        let before = cluster.nodes[0].drops(Counter::ForeignError);
        // In its own name, and in that of the other node.
        for (number, from) in (1..).zip([cluster.outside_address(family), other]) {
            let lie = error(from, own, &tunnel, true).frame();
            frames.send(&[&start, &lie[12..]].concat());
            until("the lie to be counted", || {
                cluster.nodes[0].drops(Counter::ForeignError) >= before + number
            });
        }
    }
    assert_eq!(udp(&a.netns.0, &c.netns.0, c.v4(), full - 28).unwrap(), a.v4());
}
