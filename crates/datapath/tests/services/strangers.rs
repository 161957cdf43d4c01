//! What other hosts of the link must not be able to do, and what they are told.

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    process::Command,
    time::{Duration, Instant},
};

use weft_abi::{DIRECT_VNI, ENTRY_VNI};
use weft_datapath::{Counter, Path};
use weft_model::Protocol;

use crate::{
    cluster::{BALANCER, BOTH, Cluster, Server, Tcp, client, service},
    raw::expect,
    support::{tunnelled, until},
};

#[test]
fn entry_packets_of_strangers_are_dropped_and_counted() {
    let mut cluster = Cluster::new(Path::Overlay);
    let (victim, liar) = (cluster.nodes[0].pod(), cluster.nodes[1].pod());
    let server = client(&victim).run(|| UdpSocket::bind((victim.v4(), 0)).unwrap()).unwrap();
    let to = server.local_addr().unwrap();
    cluster.serve(&service(Protocol::Udp, &[to]).balancer(0, 80));
    let balancer = SocketAddr::new(BALANCER[0].parse().unwrap(), 80);
    let claimed = "203.0.113.7:7777".parse().unwrap();
    let node = (cluster.nodes[0].addresses[0], 8472);
    for from in [cluster.outside(), client(&liar)] {
        let socket = from.run(|| UdpSocket::bind(("0.0.0.0", 0)).unwrap()).unwrap();
        for (vni, destination) in [(ENTRY_VNI, to), (DIRECT_VNI, balancer), (77, to)] {
            let lie = tunnelled(u8::try_from(vni).unwrap(), claimed, destination, b"lie");
            socket.send_to(&lie, node).unwrap();
        }
    }
    until("the lies to be counted", || cluster.nodes[0].drops(Counter::TunnelSource) >= 6);
    let socket = client(&liar).run(|| UdpSocket::bind((liar.v4(), 0)).unwrap()).unwrap();
    socket.send_to(b"truth", to).unwrap();
    assert_eq!(expect(&server, b"truth"), socket.local_addr().unwrap());
}

#[test]
fn an_entry_tunnel_leads_to_the_nodes_own_backends_alone() {
    let mut cluster = Cluster::of(3, Path::Overlay, false);
    let other = cluster.nodes[1].pod();
    // A node that is known, and sends what is not this node's to deliver.
    let node = &cluster.nodes[2].netns.0;
    let socket = node.run(|| UdpSocket::bind(("0.0.0.0", 0)).unwrap()).unwrap();
    let claimed = "203.0.113.7:7777".parse().unwrap();
    let lie = tunnelled(u8::try_from(ENTRY_VNI).unwrap(), claimed, SocketAddr::new(other.v4(), 9), b"lie");
    socket.send_to(&lie, (cluster.nodes[0].addresses[0], 8472)).unwrap();
    until("the lie to be counted", || cluster.nodes[0].drops(Counter::TunnelSource) == 1);
}

#[test]
fn balancer_addresses_are_answered_for_exactly_as_long_as_the_fence_lies_ahead() {
    let mut cluster = Cluster::new(Path::Overlay);
    let backend = cluster.nodes[1].pod();
    // Neighbours that do not answer are given up soon.
    cluster
        .outside()
        .run(|| {
            for family in ["ipv4", "ipv6"] {
                fs::write(format!("/proc/sys/net/{family}/neigh/br0/retrans_time_ms"), "30").unwrap();
            }
        })
        .unwrap();
    let forget = |cluster: &Cluster| {
        for version in ["-4", "-6"] {
            let mut ip = Command::new("ip");
            let flushed = cluster
                .outside()
                .enter_child(ip.args([version, "neigh", "flush", "dev", "br0"]))
                .unwrap()
                .status()
                .unwrap();
            assert!(flushed.success());
        }
    };
    let hour = Duration::from_secs(3600);
    for family in BOTH {
        let server = Server::tcp(client(&backend), "tcp", backend.addresses[family]);
        cluster.serve(&service(Protocol::Tcp, &[server.address]).balancer(family, 80));
        let balancer = SocketAddr::new(BALANCER[family].parse().unwrap(), 80);
        let reached = |cluster: &Cluster| {
            forget(cluster);
            Tcp::connect_within(cluster.outside(), balancer, Duration::from_millis(700)).is_ok()
        };
        assert!(!reached(&cluster), "nobody answers");
        cluster.nodes[0]
            .with(|datapath| datapath.announce(&[(balancer.ip(), Instant::now() + hour)]).unwrap());
        until("the first node to answer", || reached(&cluster));
        assert!(cluster.nodes[0].drops(Counter::Announced) > 0);
        cluster.nodes[0].with(|datapath| datapath.announce(&[(balancer.ip(), Instant::now())]).unwrap());
        assert!(!reached(&cluster), "the fence has been passed");
        cluster.nodes[1]
            .with(|datapath| datapath.announce(&[(balancer.ip(), Instant::now() + hour)]).unwrap());
        assert!(reached(&cluster), "the other node answers");
        cluster.nodes[1].with(|datapath| datapath.announce(&[]).unwrap());
        assert!(!reached(&cluster), "no longer announced");
        assert!(cluster.nodes[1].drops(Counter::Announced) > 0);
    }
}
