//! What is more than a packet of ports: fragments, errors, other protocols, and the ways between nodes.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use weft_datapath::{Counter, Path};
use weft_model::{Protocol, services::FrontendKind};
use weft_netns::Netns;

use crate::{
    cluster::{
        BALANCER, BOTH, CLUSTER_IP, Cluster, NODE_PORT, Server, Tcp, Udp, client, eventually, service,
    },
    raw::{self, Sctp},
    support::{self, dont_fragment, host_behind, until},
};

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

#[test]
fn fragments_reach_near_and_far_backends_and_come_back() {
    for path in [Path::Overlay, Path::Native] {
        let mut cluster = Cluster::new(path);
        let (asking, backend) = (cluster.nodes[1].pod(), cluster.nodes[0].pod());
        for family in BOTH {
            let server = Server::udp(client(&backend), "udp", backend.addresses[family]);
            cluster.serve(
                &service(Protocol::Udp, &[server.address])
                    .cluster_ip(family, 80)
                    .node_port(family, NODE_PORT),
            );
            let ask = |from: &Netns, to| {
                let socket = Udp::connect(from, to);
                let (answer, length) = eventually(&format!("4000 bytes to {to}"), || socket.ask_with(4000));
                assert_eq!((answer.name.as_str(), length), ("udp", 4000));
            };
            ask(cluster.outside(), cluster.node_port(0, family));
            ask(cluster.outside(), cluster.node_port(1, family));
            ask(client(&asking), at(CLUSTER_IP[family], 80));
        }
    }
}

#[test]
fn a_client_learns_the_mtu_of_the_way_between_nodes() {
    let mut cluster = Cluster::new(Path::Overlay);
    let backend = cluster.nodes[0].pod();
    for (family, headers) in [(0, 28), (1, 48)] {
        let server = Server::udp(client(&backend), "udp", backend.addresses[family]);
        cluster.serve(&service(Protocol::Udp, &[server.address]).node_port(family, NODE_PORT));
        let socket = Udp::connect(cluster.outside(), cluster.node_port(1, family));
        eventually("a small packet", || socket.ask());
        dont_fragment(&socket.0);
        socket.ask_with(1500 - headers).unwrap_err();
        let error = socket.ask_with(1500 - headers).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE), "{error}");
        socket.ask_with(1450 - headers).unwrap();
    }
}

#[test]
fn a_backend_learns_the_mtu_of_a_narrow_link_to_the_client() {
    let mut cluster = Cluster::new(Path::Overlay);
    let far = host_behind(&cluster.fabric, 1300);
    let backend = cluster.nodes[0].pod();
    for (family, headers) in [(0, 28), (1, 48)] {
        let ip = backend.addresses[family];
        for node in [0, 1] {
            let server = client(&backend).run(|| UdpSocket::bind((ip, 0))).unwrap().unwrap();
            server.set_read_timeout(Some(support::DEADLINE)).unwrap();
            dont_fragment(&server);
            let address = server.local_addr().unwrap();
            cluster.serve(&service(Protocol::Udp, &[address]).node_port(family, NODE_PORT));
            let socket = Udp::connect(&far.0, cluster.node_port(node, family));
            let mut buffer = [0; 2000];
            let peer = eventually("the client", || {
                socket.0.send(b"?")?;
                server.recv_from(&mut buffer).map(|(_, peer)| peer)
            });
            let large = vec![7; 1400 - headers];
            until("the backend to learn of it", || {
                let sent = server.send_to(&large, peer);
                sent.is_err_and(|error| error.raw_os_error() == Some(libc::EMSGSIZE))
            });
            server.send_to(&vec![7; 1300 - headers], peer).unwrap();
            assert_eq!(socket.0.recv(&mut buffer).unwrap(), 1300 - headers);
            // The next backend is to learn it by itself.
            let exceptions = client(&backend).run(|| {
                std::fs::write("/proc/sys/net/ipv4/route/flush", "1").unwrap();
                std::fs::write("/proc/sys/net/ipv6/route/flush", "1").unwrap();
            });
            exceptions.unwrap();
        }
    }
    assert!(cluster.count(Counter::ErrorTranslated) >= 4);
}

#[test]
fn a_backend_without_a_listener_is_a_refusal_that_the_client_can_tell() {
    let mut cluster = Cluster::new(Path::Overlay);
    let (asking, backend) = (cluster.nodes[1].pod(), cluster.nodes[0].pod());
    for family in BOTH {
        let nobody = SocketAddr::new(backend.addresses[family], 9);
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            cluster.serve(&service(protocol, &[nobody]).cluster_ip(family, 80).node_port(family, NODE_PORT));
        }
        let vip = at(CLUSTER_IP[family], 80);
        for (from, to) in [
            (cluster.outside(), cluster.node_port(0, family)),
            (cluster.outside(), cluster.node_port(1, family)),
            (client(&asking), vip),
        ] {
            let refused = || match Udp::connect(from, to).ask() {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
                other => Err(std::io::Error::other(format!("{other:?}"))),
            };
            eventually("ECONNREFUSED over UDP", refused);
            let error = Tcp::connect(from, to).map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        }
    }
    assert!(cluster.count(Counter::ErrorTranslated) >= 6);
}

#[test]
fn sctp_keeps_the_clients_address_and_a_right_checksum() {
    let mut cluster = Cluster::new(Path::Overlay);
    let (asking, backend) = (cluster.nodes[1].pod(), cluster.nodes[0].pod());
    for family in BOTH {
        let ip = backend.addresses[family];
        cluster.serve(
            &service(Protocol::Sctp, &[SocketAddr::new(ip, 8132)])
                .cluster_ip(family, 132)
                .node_port(family, NODE_PORT),
        );
        let targets = [
            (cluster.outside(), cluster.outside_address(family), cluster.node_port(0, family)),
            (cluster.outside(), cluster.outside_address(family), cluster.node_port(1, family)),
            (client(&asking), asking.addresses[family], at(CLUSTER_IP[family], 132)),
        ];
        for (number, (from, own, to)) in targets.into_iter().enumerate() {
            let server = Sctp::open(client(&backend), ip);
            let asking = Sctp::open(from, own);
            let port = 40_000 + number as u16;
            // Chunks of several lengths: how far the ports are from the end of the packet counts.
            for length in [0, 3, 100, 1001] {
                let chunk = raw::init_chunk(length);
                let packet = eventually("an SCTP packet", || {
                    asking.send(port, to, &chunk)?;
                    server.receive()
                });
                assert_eq!((packet.from, packet.ports), (own, (port, 8132)));
                assert_eq!(packet.chunk, chunk);
                assert!(packet.checksum_is_right, "{length} bytes to {to}");
                server.send(8132, SocketAddr::new(packet.from, port), &chunk).unwrap();
                let packet = asking.receive().unwrap();
                assert_eq!((packet.from, packet.ports), (to.ip(), (to.port(), port)));
                assert!(packet.checksum_is_right, "the answer to {length} bytes from {to}");
            }
        }
    }
}

#[test]
fn processes_of_nodes_are_backends_too() {
    for path in [Path::Overlay, Path::Native] {
        let mut cluster = Cluster::of(3, path, false);
        let asking = cluster.nodes[2].pod();
        for family in BOTH {
            let ip = cluster.nodes[0].addresses[family];
            let tcp = Server::tcp(&cluster.nodes[0].netns.0, "node", ip);
            let udp = Server::udp(&cluster.nodes[0].netns.0, "node", ip);
            for (protocol, server) in [(Protocol::Tcp, &tcp), (Protocol::Udp, &udp)] {
                let wanted = service(protocol, &[server.address]).cluster_ip(family, 80);
                cluster.serve(&wanted.node_port(family, NODE_PORT));
            }
            let vip = at(CLUSTER_IP[family], 80);
            for (from, seen, to) in [
                (cluster.outside(), cluster.outside_address(family), cluster.node_port(0, family)),
                (cluster.outside(), cluster.outside_address(family), cluster.node_port(1, family)),
                (client(&asking), asking.addresses[family], vip),
                // By a third node.
                (client(&asking), asking.addresses[family], cluster.node_port(1, family)),
                (client(&asking), asking.addresses[family], cluster.node_port(0, family)),
            ] {
                let connection =
                    Tcp::connect(from, to).unwrap_or_else(|error| panic!("{to} {path:?} {error}"));
                let (answer, length) = connection.ask_for(100_000).unwrap();
                assert_eq!((answer.client.ip(), length), (seen, 100_000));
                let socket = Udp::connect(from, to);
                assert_eq!(eventually("UDP", || socket.ask()).client.ip(), seen);
            }
        }
    }
}

#[test]
fn a_node_port_of_another_node_answers_pods_and_nodes() {
    for path in [Path::Overlay, Path::Native] {
        let mut cluster = Cluster::of(3, path, false);
        let (asking, backend) = (cluster.nodes[0].pod(), cluster.nodes[2].pod());
        for family in BOTH {
            let server = Server::tcp(client(&backend), "far", backend.addresses[family]);
            cluster.serve(&service(Protocol::Tcp, &[server.address]).node_port(family, NODE_PORT));
            for node in [1, 2] {
                for (from, seen) in [
                    (client(&asking), asking.addresses[family]),
                    (&cluster.nodes[0].netns.0, cluster.nodes[0].addresses[family]),
                ] {
                    let connection = Tcp::connect(from, cluster.node_port(node, family)).unwrap();
                    let (answer, length) = connection.ask_for(100_000).unwrap();
                    assert_eq!((answer.client.ip(), length), (seen, 100_000), "by node {node} {path:?}");
                }
            }
            let nobody = SocketAddr::new(cluster.nodes[1].addresses[family], NODE_PORT + 1);
            let refused = Tcp::connect(client(&asking), nobody).map(drop).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        }
    }
}

#[test]
fn backends_outside_of_the_cluster_answer_by_the_node_that_was_asked() {
    let mut cluster = Cluster::new(Path::Overlay);
    let far = host_behind(&cluster.fabric, 1500);
    let asking = cluster.nodes[0].pod();
    for family in BOTH {
        let ip = cluster.outside_address(family);
        let server = Server::tcp(cluster.outside(), "outside", ip);
        cluster.serve(
            &service(Protocol::Tcp, &[server.address]).cluster_ip(family, 80).node_port(family, NODE_PORT),
        );
        let node = cluster.nodes[0].addresses[family];
        let vip = at(CLUSTER_IP[family], 80);
        for (from, to) in
            [(client(&asking), vip), (&cluster.nodes[0].netns.0, vip), (&far.0, cluster.node_port(0, family))]
        {
            let connection =
                eventually(&format!("{to}"), || Tcp::connect_within(from, to, Duration::from_secs(1)));
            let (answer, length) = connection.ask_for(100_000).unwrap();
            assert_eq!((answer.client.ip(), length), (node, 100_000), "{to}");
        }
    }
}

#[test]
fn direct_return_keeps_the_client_and_spares_the_answers_the_detour() {
    for path in [Path::Overlay, Path::Native] {
        let mut cluster = Cluster::of(2, path, true);
        let backend = cluster.nodes[0].pod();
        for family in BOTH {
            let tcp = Server::tcp(client(&backend), "direct", backend.addresses[family]);
            let udp = Server::udp(client(&backend), "direct", backend.addresses[family]);
            let wanted = service(Protocol::Tcp, &[tcp.address]).balancer(family, 80);
            cluster.serve(&wanted.node_port(family, NODE_PORT));
            cluster.serve(&service(Protocol::Udp, &[udp.address]).balancer(family, 80));
            let balancer = at(BALANCER[family], 80);
            for node in [0, 1] {
                cluster.route_outside(balancer.ip(), node);
                let connection = Tcp::connect(cluster.outside(), balancer).unwrap();
                let (answer, length) = connection.ask_for(300_000).unwrap();
                assert_eq!((answer.client, length), (connection.local(), 300_000));
                let socket = Udp::connect(cluster.outside(), balancer);
                assert_eq!(eventually("UDP", || socket.ask()).client.port(), socket.local().port());
                let nobody = Tcp::connect(cluster.outside(), at(BALANCER[family], 81)).map(drop).unwrap_err();
                assert_eq!(nobody.kind(), ErrorKind::ConnectionRefused);
            }
        }
        assert!(cluster.nodes[1].drops(Counter::ToEntry) > 0, "there");
        assert_eq!(cluster.nodes[0].drops(Counter::ToEntry), 0, "not back");
        // A node's own address is known to that node alone, and answered for by it.
        for family in BOTH {
            let connection = Tcp::connect(cluster.outside(), cluster.node_port(1, family)).unwrap();
            assert_eq!(connection.ask().unwrap().client, connection.local());
        }
        let back = if path == Path::Overlay { Counter::ToEntry } else { Counter::ToNative };
        assert!(cluster.nodes[0].drops(back) > 0, "back by the entry node");
    }
}

#[test]
fn source_ranges_let_in_whom_they_name_and_drop_the_rest() {
    let mut cluster = Cluster::new(Path::Overlay);
    let (friend, stranger, backend) =
        (cluster.nodes[0].pod(), cluster.nodes[0].pod(), cluster.nodes[1].pod());
    for family in BOTH {
        let server = Server::tcp(client(&backend), "tcp", backend.addresses[family]);
        let balancer = at(BALANCER[family], 80);
        cluster.route_outside(balancer.ip(), 0);
        let bits = if family == 0 { 32 } else { 128 };
        let allowed = |addresses: &[IpAddr]| {
            let mut wanted = service(Protocol::Tcp, &[server.address])
                .at(balancer, FrontendKind::LoadBalancer)
                .node_port(family, NODE_PORT);
            wanted.plan.source_ranges =
                addresses.iter().map(|address| ipnet::IpNet::new(*address, bits).unwrap()).collect();
            wanted.plan.nobody_else = true;
            wanted
        };
        let come = |from: &Netns, to| Tcp::connect_within(from, to, Duration::from_millis(400)).is_ok();
        cluster.serve(&allowed(&[friend.addresses[family]]));
        assert!(come(client(&friend), balancer));
        assert!(!come(client(&stranger), balancer));
        assert!(!come(cluster.outside(), balancer));
        assert!(come(cluster.outside(), cluster.node_port(0, family)), "LoadBalancer addresses alone");
        let dropped = cluster.count(Counter::SourceRange);
        assert!(dropped > 0);
        cluster.serve(&allowed(&[cluster.outside_address(family)]));
        assert!(come(cluster.outside(), balancer));
        assert!(!come(client(&friend), balancer));
    }
}
