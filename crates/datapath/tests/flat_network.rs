//! The network model between two nodes: every Pod reaches every Pod and every node without NAT, by each path.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Instant,
};

use support::{Fabric, tcp, tunnelled, udp};
use weft_datapath::{Counter, Path};
use weft_model::{Bandwidth, PortMapping, Protocol};

fn both_ways(path: Path) {
    let fabric = Fabric::new();
    let (mut one, mut two) = (fabric.node(2), fabric.node(3));
    one.join(&[&two], path);
    two.join(&[&one], path);
    let (a, b, c) = (one.pod(), one.pod(), two.pod());
    let (pa, pb, pc) = (&a.netns.0, &b.netns.0, &c.netns.0);
    let mtu = one.with(|datapath| datapath.mtu());
    assert_eq!(mtu.pod, if path == Path::Overlay { 1450 } else { 1500 });
    for family in [0, 1] {
        let [ip_a, ip_b, ip_c] = [a.addresses[family], b.addresses[family], c.addresses[family]];
        let [node_1, node_2] = [one.addresses[family], two.addresses[family]];
        let (n1, n2) = (&one.netns.0, &two.netns.0);
        // Same node, across nodes, back again.
        assert_eq!(tcp(pa, pb, ip_b).unwrap(), ip_a);
        assert_eq!(tcp(pa, pc, ip_c).unwrap(), ip_a);
        assert_eq!(tcp(pc, pa, ip_a).unwrap(), ip_c);
        // Node to its own Pod and to the other node's, and the reverse.
        assert_eq!(tcp(n1, pa, ip_a).unwrap(), node_1);
        assert_eq!(tcp(n1, pc, ip_c).unwrap(), node_1);
        assert_eq!(tcp(pa, n1, node_1).unwrap(), ip_a);
        assert_eq!(tcp(pa, n2, node_2).unwrap(), ip_a);
        // As large as the Pod's interface lets through, with don't-fragment.
        let headers = if ip_c.is_ipv4() { 28 } else { 48 };
        let full = mtu.pod as usize - headers;
        for (from, to, address, source) in
            [(pa, pb, ip_b, ip_a), (pa, pc, ip_c, ip_a), (n1, pc, ip_c, node_1)]
        {
            assert_eq!(udp(from, to, address, full).unwrap(), source);
        }
    }
    let expected = if path == Path::Overlay { Counter::ToOverlay } else { Counter::ToNative };
    assert!(one.drops(expected) > 0);
    assert!(one.drops(Counter::SameNode) > 0);
    let tracked = |node: &support::Node| {
        node.netns.0.run(|| std::fs::read_to_string("/proc/thread-self/net/nf_conntrack").unwrap()).unwrap()
    };
    for node in [&one, &two] {
        assert!(!tracked(node).contains("dport=8472"), "tunnel packets are not tracked");
    }
    for counter in Counter::ALL.iter().filter(|counter| counter.is_drop()) {
        assert_eq!((one.drops(*counter), two.drops(*counter)), (0, 0), "{}", counter.name());
    }
}

#[test]
fn the_network_model_holds_over_the_overlay() {
    both_ways(Path::Overlay);
}

#[test]
fn the_network_model_holds_over_native_routes() {
    both_ways(Path::Native);
}

/// What a CPU has kept of the ways to other nodes is forgotten when they change.
#[test]
fn the_next_packet_takes_the_path_that_is_set() {
    let fabric = Fabric::new();
    let (mut one, mut two) = (fabric.node(2), fabric.node(3));
    two.join(&[&one], Path::Native);
    let (a, b) = (one.pod(), two.pod());
    let ways = [Some(Path::Native), Some(Path::Overlay), None];
    for way in ways.iter().cycle().take(30) {
        match way {
            Some(path) => one.join(&[&two], *path),
            None => one.join(&[], Path::Native),
        };
        for family in [0, 1] {
            let counters = [Counter::ToNative, Counter::ToOverlay, Counter::ToHost];
            let before = counters.map(|counter| one.drops(counter));
            let (from, to) = (a.addresses[family], b.addresses[family]);
            let socket = a.netns.0.run(|| UdpSocket::bind((from, 0)).unwrap()).unwrap();
            socket.send_to(b"next", (to, 9)).unwrap();
            let mut taken = Vec::new();
            support::until("the packet to be counted", || {
                let now = counters.map(|counter| one.drops(counter));
                taken = (0..3).filter(|way| now[*way] > before[*way]).map(|way| ways[way]).collect();
                !taken.is_empty()
            });
            assert_eq!(taken, [*way], "to {to}");
        }
    }
}

#[test]
fn a_pod_that_sends_from_anothers_address_is_dropped_and_counted() {
    let fabric = Fabric::new();
    let mut node = fabric.node(2);
    let (a, b, c) = (node.pod(), node.pod(), node.pod());
    for family in [0, 1] {
        let stolen = b.addresses[family];
        let mut inside = weft_netns::Netlink::open_in(&a.netns.0).unwrap();
        let link = inside.link("eth0").unwrap();
        inside.add_address(link.index, stolen, if stolen.is_ipv4() { 32 } else { 128 }).unwrap();
        let before = node.drops(Counter::SourceAddress);
        let target = c.addresses[family];
        let server = c.netns.0.run(|| std::net::UdpSocket::bind((target, 0)).unwrap()).unwrap();
        let to = server.local_addr().unwrap();
        a.netns
            .0
            .run(|| std::net::UdpSocket::bind((stolen, 0)).unwrap().send_to(b"lie", to).unwrap())
            .unwrap();
        // What comes after it on the same way shows that it is not merely late.
        a.netns
            .0
            .run(|| {
                std::net::UdpSocket::bind((a.addresses[family], 0)).unwrap().send_to(b"truth", to).unwrap()
            })
            .unwrap();
        server.set_read_timeout(Some(support::DEADLINE)).unwrap();
        let mut buffer = [0; 16];
        let (length, _) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"truth");
        assert!(node.drops(Counter::SourceAddress) > before);
    }
}

#[test]
fn a_pod_that_makes_tunnel_packets_itself_is_dropped_and_counted() {
    let fabric = Fabric::new();
    let (mut one, mut two) = (fabric.node(2), fabric.node(3));
    one.join(&[&two], Path::Overlay);
    two.join(&[&one], Path::Overlay);
    let (liar, victim, friend) = (one.pod(), two.pod(), one.pod());
    let server = victim.netns.0.run(|| UdpSocket::bind((victim.v4(), 0)).unwrap()).unwrap();
    let target = server.local_addr().unwrap();
    let lie =
        tunnelled(1, SocketAddr::new(friend.v4(), 1000), SocketAddr::new(victim.v4(), target.port()), b"lie");
    let to = (two.addresses[0], 8472);
    let before = two.drops(Counter::TunnelSource);
    liar.netns.0.run(|| UdpSocket::bind((liar.v4(), 0)).unwrap().send_to(&lie, to).unwrap()).unwrap();
    support::until("the lie to be counted", || two.drops(Counter::TunnelSource) > before);
    friend
        .netns
        .0
        .run(|| UdpSocket::bind((friend.v4(), 0)).unwrap().send_to(b"truth", target).unwrap())
        .unwrap();
    server.set_read_timeout(Some(support::DEADLINE)).unwrap();
    let mut buffer = [0; 16];
    let (length, from) = server.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], from.ip()), (&b"truth"[..], friend.v4()));
}

#[test]
fn what_leaves_the_cluster_is_masqueraded_and_nothing_else() {
    let fabric = Fabric::new();
    let mut node = fabric.node(2);
    node.join(&[], Path::Overlay);
    let pod = node.pod();
    for (outside, node_address) in
        [("192.168.1.1", node.addresses[0]), ("fd00:192:168:1::1", node.addresses[1])]
    {
        let outside: IpAddr = outside.parse().unwrap();
        assert_eq!(tcp(&pod.netns.0, &fabric.netns.0, outside).unwrap(), node_address);
    }
}

#[test]
fn a_packet_too_large_for_the_overlay_gets_the_icmp_error_that_path_mtu_discovery_needs() {
    let fabric = Fabric::new();
    let (mut one, mut two) = (fabric.node(2), fabric.node(3));
    // The Pod was made while every path was native, and its MTU is the uplink's.
    one.join(&[&two], Path::Native);
    let a = one.pod();
    assert_eq!(a.spec.mtu, 1500);
    one.join(&[&two], Path::Overlay);
    two.join(&[&one], Path::Overlay);
    let c = two.pod();
    for (family, headers) in [(0, 28), (1, 48)] {
        let (pa, pc) = (&a.netns.0, &c.netns.0);
        assert!(udp(pa, pc, c.addresses[family], 1500 - headers).is_err(), "too large for the overlay");
        let error = udp(pa, pc, c.addresses[family], 1500 - headers).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE), "the Pod learnt the path's MTU: {error}");
        assert_eq!(udp(pa, pc, c.addresses[family], 1450 - headers).unwrap(), a.addresses[family]);
        assert_eq!(tcp(pa, pc, c.addresses[family]).unwrap(), a.addresses[family]);
    }
}

#[test]
fn a_pods_rate_limits_hold_for_what_it_sends_and_for_what_it_receives() {
    /// A megabyte a second, and what the bucket lets through at once.
    const RATE: u64 = 8_000_000;
    const BURST: u64 = 65_536;
    const SENT: usize = 400_000;
    let fabric = Fabric::new();
    let mut node = fabric.node(2);
    let free = node.pod();
    let limits = Bandwidth { ingress_rate: RATE, ingress_burst: 0, egress_rate: RATE, egress_burst: 0 };
    let limited = node.pod_like(|spec| spec.bandwidth = Some(limits));
    for (from, to) in [(&free, &limited), (&limited, &free)] {
        let listener = to.netns.0.run(|| TcpListener::bind((to.v4(), 0)).unwrap()).unwrap();
        let target = listener.local_addr().unwrap();
        let client =
            from.netns.0.run(|| TcpStream::connect_timeout(&target, support::DEADLINE).unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let start = Instant::now();
        let sender = std::thread::spawn(move || (&client).write_all(&vec![7; SENT]));
        let mut received = vec![0; SENT];
        server.read_exact(&mut received).unwrap();
        sender.join().unwrap().unwrap();
        let rate = (SENT as f64 - 2.0 * BURST as f64) * 8.0 / start.elapsed().as_secs_f64();
        assert!(rate <= RATE as f64 * 1.05, "{rate} bits a second");
    }
}

#[test]
fn ports_of_the_node_lead_to_a_pod_and_its_answers_come_from_there() {
    let fabric = Fabric::new();
    let (mut one, mut two) = (fabric.node(2), fabric.node(3));
    one.join(&[&two], Path::Native);
    two.join(&[&one], Path::Native);
    let (near, far) = (one.pod(), two.pod());
    let mapping = |host_ip: Option<IpAddr>, host_port| PortMapping {
        host_ip,
        host_port,
        container_port: 8080,
        protocol: Protocol::Tcp,
    };
    let own = one.addresses.clone();
    let mappings = vec![mapping(None, 80), mapping(Some(own[0]), 81), mapping(Some(own[1]), 82)];
    let server = one.pod_like(|spec| spec.port_mappings = mappings);
    let serve = |address: IpAddr| server.netns.0.run(|| TcpListener::bind((address, 8080)).unwrap()).unwrap();
    let listeners = [serve(server.v4()), serve(server.v6())];
    let fabric_address: [IpAddr; 2] = ["192.168.1.1".parse().unwrap(), "fd00:192:168:1::1".parse().unwrap()];
    for (family, port) in [(0, 80), (0, 81), (1, 80), (1, 82)] {
        for (client, address) in [
            (&fabric.netns.0, fabric_address[family]),
            (&near.netns.0, near.addresses[family]),
            (&far.netns.0, far.addresses[family]),
            (&two.netns.0, two.addresses[family]),
            // A Pod reaches itself by its node.
            (&server.netns.0, own[family]),
        ] {
            let target = (own[family], port).into();
            let stream = client.run(|| TcpStream::connect_timeout(&target, support::DEADLINE)).unwrap();
            let mut stream = stream.unwrap_or_else(|error| panic!("{address} to {target}: {error}"));
            let (mut accepted, peer) = listeners[family].accept().unwrap();
            assert_eq!(peer.ip(), address, "the client's address is kept");
            accepted.write_all(b"weft").unwrap();
            let mut greeting = [0; 4];
            stream.read_exact(&mut greeting).unwrap();
        }
    }
    // Directly as well, with the Pod's own address and port.
    assert!(
        far.netns
            .0
            .run(|| TcpStream::connect_timeout(&(server.v4(), 8080).into(), support::DEADLINE))
            .unwrap()
            .is_ok()
    );
    let host_interface = server.spec.host_interface.clone();
    assert_eq!(one.with(|datapath| datapath.repair().unwrap()), Vec::<String>::new());
    one.stop();
    one.start();
    assert_eq!(one.with(|datapath| datapath.repair().unwrap()), Vec::<String>::new(), "mappings are adopted");
    one.with(|datapath| datapath.remove_pod(&host_interface).unwrap());
    let refused =
        fabric.netns.0.run(|| TcpStream::connect_timeout(&(own[0], 80).into(), support::DEADLINE)).unwrap();
    assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn a_pod_is_reached_the_moment_it_is_there() {
    let fabric = Fabric::new();
    let mut node = fabric.node(2);
    let first = node.pod();
    for _ in 0..10 {
        let pod = node.pod();
        for family in [0, 1] {
            let [from, to] = [first.addresses[family], pod.addresses[family]];
            // One packet each, no second try.
            assert_eq!(udp(&first.netns.0, &pod.netns.0, to, 100).unwrap(), from, "from a Pod");
            assert_eq!(udp(&pod.netns.0, &first.netns.0, from, 100).unwrap(), to, "to a Pod");
            let host = node.addresses[family];
            assert_eq!(udp(&node.netns.0, &pod.netns.0, to, 100).unwrap(), host, "from the node");
            assert_eq!(udp(&pod.netns.0, &node.netns.0, host, 100).unwrap(), to, "to the node");
        }
    }
}
