//! Hop limits: what a node forwards has one less to go, on every path.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    process::Command,
    time::{Duration, Instant},
};

use weft_datapath::{Counter, Path};
use weft_model::{Protocol, services::FrontendKind};
use weft_netns::Netns;

use crate::{
    cluster::{BALANCER, BOTH, Cluster, NODE_PORT, service},
    packet::Ip,
    raw::{Frames, MARK, has_mark},
    support::{Pod, until},
};

const HOUR: Duration = Duration::from_secs(3600);

/// The hops that a packet in a frame has left.
fn left(frame: &[u8]) -> u8 {
    if frame[12] == 8 { frame[14 + 8] } else { frame[14 + 7] }
}

fn datagram(from: IpAddr, to: IpAddr) -> Ip {
    Ip::udp(SocketAddr::new(from, 4000), SocketAddr::new(to, 4001), MARK)
}

/// E4: a packet loses a hop at every node that forwards it, and where it has none left its sender is told.
#[test]
fn e4_every_node_is_a_router_on_every_path() {
    let mut cluster = Cluster::new(Path::Overlay);
    let pods = [cluster.nodes[0].pod(), cluster.nodes[0].pod(), cluster.nodes[1].pod()];
    for path in [Path::Overlay, Path::Native] {
        cluster.take(path);
        lose_hops(&mut cluster, &pods, path);
        traceroute(&mut cluster, &pods, path);
    }
    assert!(cluster.count(Counter::HopsSpent) > 0);
    assert_eq!(cluster.count(Counter::Malformed), 0);
}

/// One router on the way to the same node's Pods, two to another node's.
fn lose_hops(cluster: &mut Cluster, [a, b, c]: &[Pod; 3], path: Path) {
    let from = Frames::open(&a.netns.0, "eth0");
    for family in BOTH {
        for (to, name, routers) in [(b, "same node", 1), (c, "other node", 2)] {
            let there = Frames::open(&to.netns.0, "eth0");
            from.send(&datagram(a.addresses[family], to.addresses[family]).hops(200).frame());
            let frame = there.next(has_mark).unwrap_or_else(|| panic!("{name} by {path:?}"));
            assert_eq!(left(&frame), 200 - routers, "{name} by {path:?}");
            // A forged neighbour advertisement needs 255, which nothing has that was forwarded.
            from.send(&datagram(a.addresses[family], to.addresses[family]).hops(255).frame());
            assert_eq!(left(&there.next(has_mark).unwrap()), 255 - routers);
        }
        // From the node's own stack nothing is taken.
        let there = Frames::open(&b.netns.0, "eth0");
        let node = cluster.nodes[0].addresses[family];
        let sender = cluster.nodes[0].netns.0.run(|| UdpSocket::bind((node, 0)).unwrap()).unwrap();
        sender.send_to(MARK, (b.addresses[family], 4001)).unwrap();
        assert_eq!(left(&there.next(has_mark).unwrap()), 64);
    }
}

/// Who answers a ping that may go so far.
fn ping(from: &Netns, to: IpAddr, hops: u8) -> String {
    let mut ping = Command::new("ping");
    let arguments = ["-n", "-c", "1", "-W", "2", "-t", &hops.to_string(), &to.to_string()];
    let output = from.enter_child(ping.args(arguments)).unwrap().output().expect("ping: cargo xtask setup");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The sender of a time exceeded that a datagram with so few hops causes, and the one that it is about.
fn expires(from: &Pod, to: SocketAddr, hops: u8) -> IpAddr {
    let family = usize::from(to.is_ipv6());
    let frames = Frames::open(&from.netns.0, "eth0");
    let own = SocketAddr::new(from.addresses[family], 4000);
    let is_exceeded = |frame: &[u8]| {
        let (at, kind) = if family == 0 { (14 + 20, 11) } else { (14 + 40, 3) };
        has_mark(frame) && frame[at] == kind
    };
    // The kernel limits its errors, so more than one try may be needed.
    let mut found = None;
    until("a time exceeded", || {
        frames.send(&Ip::udp(own, to, MARK).hops(hops).frame());
        found = frames.soon(is_exceeded);
        found.is_some()
    });
    let frame = found.unwrap();
    if family == 0 {
        IpAddr::from(<[u8; 4]>::try_from(&frame[14 + 12..14 + 16]).unwrap())
    } else {
        IpAddr::from(<[u8; 16]>::try_from(&frame[14 + 8..14 + 24]).unwrap())
    }
}

/// What has no hop left ends at the router where it has none, which says so.
fn traceroute(cluster: &mut Cluster, [a, b, c]: &[Pod; 3], path: Path) {
    for family in BOTH {
        let [one, two] = [0, 1].map(|node| cluster.nodes[node].addresses[family]);
        for (to, hops, router) in [(b, 1, one), (c, 1, one), (c, 2, two)] {
            let to = SocketAddr::new(to.addresses[family], 33_434);
            assert_eq!(expires(a, to, hops), router, "{to} with {hops} by {path:?}");
        }
        for (to, hops) in [(b, 2), (c, 3)] {
            let said = ping(&a.netns.0, to.addresses[family], hops);
            assert!(said.contains("1 received"), "{said}");
        }
        // By a Service as well: the first router is this node.
        let server = SocketAddr::new(c.addresses[family], 9000);
        cluster.serve(&service(Protocol::Udp, &[server]).cluster_ip(family, 53).node_port(family, NODE_PORT));
        let there = Frames::open(&c.netns.0, "eth0");
        let cluster_ip: IpAddr = crate::cluster::CLUSTER_IP[family].parse().unwrap();
        assert_eq!(expires(a, SocketAddr::new(cluster_ip, 53), 1), one);
        let own = SocketAddr::new(a.addresses[family], 4000);
        Frames::open(&a.netns.0, "eth0")
            .send(&Ip::udp(own, SocketAddr::new(cluster_ip, 53), MARK).hops(9).frame());
        assert_eq!(left(&there.next(has_mark).unwrap()), 7, "{path:?}");
    }
}

/// E3: two Services whose backends are each other's addresses pass a packet on until it has no hop left, and no longer; and where the
/// addresses are the Services' own, not at all.
#[test]
fn e3_a_loop_of_two_services_ends() {
    let mut cluster = Cluster::new(Path::Native);
    for family in BOTH {
        let bridge = Frames::open(cluster.outside(), "n3");
        let own = cluster.outside_address(family);
        for kind in [FrontendKind::ExternalIp, FrontendKind::LoadBalancer] {
            let from = cluster.outside().run(|| UdpSocket::bind((own, 0)).unwrap()).unwrap();
            let one = SocketAddr::new(BALANCER[family].parse().unwrap(), 80);
            let other =
                SocketAddr::new(["192.168.1.201", "fd00:192:168:1::201"][family].parse().unwrap(), 80);
            cluster.serve(&service(Protocol::Udp, &[other]).at(one, kind));
            cluster.serve(&service(Protocol::Udp, &[one]).named("other").at(other, kind));
            // Each is answered for by another node.
            for (node, address) in [(0, one.ip()), (1, other.ip())] {
                cluster.nodes[node]
                    .with(|datapath| datapath.announce(&[(address, Instant::now() + HOUR)]).unwrap());
            }
            cluster.route_outside(one.ip(), 0);
            let refused = cluster.nodes[0].drops(Counter::Refused);
            let mut rounds = 0;
            if kind == FrontendKind::LoadBalancer {
                until("the packet to be refused", || {
                    let _ = from.send_to(MARK, one);
                    cluster.nodes[0].drops(Counter::Refused) > refused
                });
                // What the other node sends is what was refused, if anything.
                continue;
            }
            until("a round", || {
                let _ = from.send_to(MARK, one);
                bridge.soon(has_mark).is_some()
            });
            while bridge.soon(has_mark).is_some() {
                rounds += 1;
                assert!(rounds < 300, "the packet goes round and round");
            }
        }
    }
}
