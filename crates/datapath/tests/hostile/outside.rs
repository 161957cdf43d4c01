//! A host outside, and Pods, at what is not meant for them.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use weft_datapath::{Counter, Path, Settings, probe};
use weft_model::{PodRange, Protocol, services::FrontendKind};
use weft_netns::Netns;

use crate::{
    cluster::{
        BOTH, CLUSTER_IP, Cluster, DNS_IP, NODE_PORT, Server, Tcp, Udp, eventually, service, settings,
    },
    neighbour::Neighbours,
    packet::Ip,
    raw::{Frames, MARK},
    support::{Node, Pod, tunnelled, until},
};

/// E10: by a route through a node nobody outside reaches what is meant for the cluster, unless it is opened.
#[test]
fn e10_cluster_ips_are_for_the_cluster_unless_they_are_opened() {
    let mut cluster = Cluster::new(Path::Overlay);
    let backend = cluster.nodes[1].pod();
    let client = cluster.nodes[0].pod();
    let far = crate::support::host_behind(&cluster.fabric, 1500);
    for family in BOTH {
        let address = backend.addresses[family];
        let tcp = Server::tcp(&backend.netns.0, "there", address);
        let udp = Server::udp(&backend.netns.0, "there", address);
        cluster.serve(
            &service(Protocol::Tcp, &[tcp.address]).cluster_ip(family, 80).node_port(family, NODE_PORT),
        );
        cluster.serve(&service(Protocol::Udp, &[udp.address]).named("udp").cluster_ip(family, 80));
        let cluster_ip: IpAddr = CLUSTER_IP[family].parse().unwrap();
        let to = SocketAddr::new(cluster_ip, 80);
        let dns: IpAddr = DNS_IP[family].parse().unwrap();
        let at_dns = SocketAddr::new(dns, 53);
        cluster
            .serve(&service(Protocol::Udp, &[udp.address]).named("dns").at(at_dns, FrontendKind::ClusterIp));
        cluster.route_outside(cluster_ip, 0);
        cluster.route_outside(dns, 0);
        let inside = |node: &mut Node| node.drops(Counter::InsideOnly);
        let outside = [cluster.outside(), &far.0].map(|netns| Netns::from_path(netns.path()).unwrap());
        for from in outside {
            for (what, port) in [("a port", 80), ("no port", 81)] {
                let before = inside(&mut cluster.nodes[0]);
                let patience = Duration::from_millis(150);
                let refused = Tcp::connect_within(&from, SocketAddr::new(cluster_ip, port), patience);
                let error = refused.err().map(|error| error.kind());
                assert_eq!(error, Some(io::ErrorKind::TimedOut), "{what} of a cluster IP");
                assert!(inside(&mut cluster.nodes[0]) > before, "{what}: counted");
            }
            for to in [to, at_dns] {
                let before = inside(&mut cluster.nodes[0]);
                let asked = Udp::connect(&from, to);
                asked.0.send(b"?").unwrap();
                until("the question to be counted", || inside(&mut cluster.nodes[0]) > before);
            }
            // What is meant for them.
            let port = cluster.node_port(0, family);
            assert_eq!(eventually("node port", || Tcp::connect(&from, port)?.ask()).name, "there");
        }
        assert_eq!(eventually("cluster IP", || Tcp::connect(&client.netns.0, to)?.ask()).name, "there");
        set_open(&mut cluster.nodes[0], true);
        assert_eq!(eventually("opened", || Tcp::connect(cluster.outside(), to)?.ask()).name, "there");
        set_open(&mut cluster.nodes[0], false);
    }
}

/// Starts the node's data plane anew, which lets hosts outside use cluster IPs or not.
fn set_open(node: &mut Node, open_cluster_ips: bool) {
    node.stop();
    node.start_with(Settings { open_cluster_ips, ..settings(node, false) });
}

/// E18: only nodes' addresses reach the port of the probes, whatever others send there: an unprivileged process of a Pod of this node
/// and of another, and a host outside.
#[test]
fn e18_a_flood_at_the_probes_does_not_reach_their_socket() {
    let mut cluster = Cluster::new(Path::Overlay);
    let (near, far) = (cluster.nodes[0].pod(), cluster.nodes[1].pod());
    let neighbours = BOTH.map(|family| Neighbours::of(&cluster, family, &near, &far));
    for path in [Path::Overlay, Path::Native] {
        cluster.take(path);
        for family in BOTH {
            let range = PodRange::new(cluster.nodes[0].pod_ranges[family]).unwrap();
            for to in [range.plain_address(), range.path_address()] {
                cluster.route_outside(to, 0);
                let outside = Some(cluster.outside_address(family));
                only_nodes_reach(
                    &mut cluster,
                    SocketAddr::new(to, probe::PORT),
                    (&near, &far),
                    outside,
                    path,
                );
            }
            // Where nodes promise each other who answers for an address.
            let node = SocketAddr::new(cluster.nodes[0].addresses[family], probe::PORT);
            only_nodes_reach(&mut cluster, node, (&near, &far), None, path);
        }
    }
    neighbours.into_iter().for_each(Neighbours::lost_nothing);
}

fn only_nodes_reach(
    cluster: &mut Cluster,
    to: SocketAddr,
    (near, far): (&Pod, &Pod),
    outside: Option<IpAddr>,
    path: Path,
) {
    const FLOOD: u64 = 300;
    let family = usize::from(to.is_ipv6());
    let other = PodRange::new(cluster.nodes[1].pod_ranges[family]).unwrap();
    let socket = cluster.nodes[0].netns.0.run(|| UdpSocket::bind(to).unwrap()).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let pods = [(&near.netns.0, near.addresses[family]), (&far.netns.0, far.addresses[family])];
    let strangers = pods.into_iter().chain(outside.map(|own| (cluster.outside(), own)));
    let senders: Vec<UdpSocket> =
        strangers.map(|(netns, own)| netns.run(|| UdpSocket::bind((own, 0)).unwrap()).unwrap()).collect();
    for sender in &senders {
        let before = cluster.nodes[0].drops(Counter::ProbePort);
        // The first packets may wait for a neighbour.
        until("a stranger's flood to be counted", || {
            for _ in 0..FLOOD {
                let _ = sender.send_to(MARK, to);
            }
            cluster.nodes[0].drops(Counter::ProbePort) >= before + FLOOD
        });
    }
    let node = cluster.nodes[1].addresses[family];
    // Promises come from nodes' own addresses alone.
    let of_nodes = [other.plain_address(), other.path_address(), node];
    for own in of_nodes.into_iter().filter(|own| outside.is_some() || *own == node) {
        let sender = cluster.nodes[1].netns.0.run(|| UdpSocket::bind((own, 0)).unwrap()).unwrap();
        let mut buffer = [0; 100];
        let mut heard = None;
        until("a node to be heard", || {
            sender.send_to(b"probe", to).unwrap();
            heard = socket.recv_from(&mut buffer).ok();
            heard.is_some()
        });
        let (length, from) = heard.unwrap();
        assert_eq!((&buffer[..length], from.ip()), (&b"probe"[..], own), "{to} by {path:?}");
    }
}

/// E11: a tunnel packet in the name of a node comes from that node's hardware address, if it comes from the link at all.
#[test]
fn e11_a_tunnel_packet_in_a_nodes_name_comes_from_its_hardware() {
    let mut cluster = Cluster::new(Path::Overlay);
    let (victim, friend) = (cluster.nodes[0].pod(), cluster.nodes[1].pod());
    let server = victim.netns.0.run(|| UdpSocket::bind((victim.v4(), 0)).unwrap()).unwrap();
    server.set_read_timeout(Some(crate::support::DEADLINE)).unwrap();
    let to = server.local_addr().unwrap();
    let talk = |what: &[u8]| {
        let sender = friend.netns.0.run(|| UdpSocket::bind((friend.v4(), 0)).unwrap()).unwrap();
        sender.send_to(what, to).unwrap();
        let mut buffer = [0; 100];
        let (length, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from.ip()), (what, friend.v4()));
    };
    talk(b"before");
    let mac = |netns: &Netns, interface: &str| -> Vec<u8> {
        weft_netns::Netlink::open_in(netns).unwrap().link(interface).unwrap().mac
    };
    let to_node = mac(&cluster.nodes[0].netns.0, "eth0");
    let (liar, node) = (mac(cluster.outside(), "br0"), mac(&cluster.nodes[1].netns.0, "eth0"));
    let [own, other] = [0, 1].map(|number| cluster.nodes[number].addresses[0]);
    let frames = Frames::open(cluster.outside(), "br0");
    let by_whom = [liar.as_slice(), &[0; 6]];
    for (vni, liar) in [1, 2, 3].into_iter().flat_map(|vni| by_whom.map(|liar| (vni, liar))) {
        let inner = tunnelled(vni, SocketAddr::new(friend.v4(), 1000), to, MARK);
        let outer = Ip::udp(SocketAddr::new(other, 50_000), SocketAddr::new(own, 8472), &inner);
        let mut frame = to_node.clone();
        frame.extend(liar);
        frame.extend([8, 0]);
        frame.extend(outer.bytes());
        assert_ne!(liar, node);
        let before = cluster.nodes[0].drops(Counter::TunnelSource);
        frames.send(&frame);
        until("the lie to be counted", || cluster.nodes[0].drops(Counter::TunnelSource) > before);
    }
    talk(b"after");
}
