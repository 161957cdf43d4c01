//! Clients outside of the cluster.

use std::{
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use weft_datapath::{Counter, Path};
use weft_model::{Bandwidth, Protocol, services::WhenEmpty};

use crate::{
    cluster::{
        BALANCER, BOTH, CLUSTER_IP, Cluster, NODE_PORT, Server, Tcp, Udp, client, eventually, service,
    },
    support,
};

/// Every node port leads to the one backend, wherever it is, and keeps the client's address.
fn node_port_keeps_the_client(path: Path) {
    let mut cluster = Cluster::new(path);
    let backend = cluster.nodes[0].pod();
    for family in BOTH {
        let ip = backend.addresses[family];
        let tcp = Server::tcp(&backend.netns.0, "tcp", ip);
        let udp = Server::udp(&backend.netns.0, "udp", ip);
        cluster.serve(&service(Protocol::Tcp, &[tcp.address]).node_port(family, NODE_PORT));
        cluster.serve(&service(Protocol::Udp, &[udp.address]).node_port(family, NODE_PORT));
        // The first node has the backend, the second does not.
        for node in [0, 1] {
            let target = cluster.node_port(node, family);
            let connection = Tcp::connect(cluster.outside(), target)
                .unwrap_or_else(|error| panic!("{target} by {path:?}: {error}"));
            let answer = connection.ask().unwrap();
            assert_eq!((answer.name.as_str(), answer.client), ("tcp", connection.local()));
            // Enough for many full segments each way, which must fit the overlay whatever the ends believe.
            let (_, received) = connection.ask_for(300_000).unwrap();
            assert_eq!(received, 300_000, "{target} by {path:?}");
            let socket = Udp::connect(cluster.outside(), target);
            let answer = eventually("an answer over UDP", || socket.ask());
            assert_eq!(answer.name, "udp");
            assert_eq!(answer.client.port(), socket.local().port());
            assert_eq!(answer.client.ip(), cluster.outside_address(family));
        }
    }
    for counter in [Counter::Untranslated, Counter::MissingStep, Counter::FlowsFull] {
        assert_eq!(cluster.count(counter), 0, "{counter:?}");
    }
}

#[test]
fn a_node_port_with_a_local_and_a_remote_backend_keeps_the_clients_address_over_the_overlay() {
    node_port_keeps_the_client(Path::Overlay);
}

#[test]
fn a_node_port_with_a_local_and_a_remote_backend_keeps_the_clients_address_over_native_routes() {
    node_port_keeps_the_client(Path::Native);
}

/// What such a Pod receives goes through a queue of the host, where it is met again.
#[test]
fn a_pod_with_a_rate_limit_is_reached_as_others_are() {
    let mut cluster = Cluster::new(Path::Overlay);
    let limits = Bandwidth {
        ingress_rate: 1_000_000_000,
        ingress_burst: 0,
        egress_rate: 1_000_000_000,
        egress_burst: 0,
    };
    let backend = cluster.nodes[0].pod_like(|spec| spec.bandwidth = Some(limits));
    for family in BOTH {
        let ip = backend.addresses[family];
        let (tcp, udp) = (Server::tcp(&backend.netns.0, "tcp", ip), Server::udp(&backend.netns.0, "udp", ip));
        cluster.serve(&service(Protocol::Tcp, &[tcp.address]).node_port(family, NODE_PORT));
        cluster.serve(&service(Protocol::Udp, &[udp.address]).named("udp").node_port(family, NODE_PORT));
        cluster.route_outside(ip, 0);
        for node in [0, 1] {
            let target = cluster.node_port(node, family);
            for to in [target, tcp.address] {
                let connection = Tcp::connect(cluster.outside(), to).unwrap();
                assert_eq!(connection.ask().unwrap().client, connection.local(), "{to}");
            }
            for to in [target, udp.address] {
                let socket = Udp::connect(cluster.outside(), to);
                let answer = eventually("an answer over UDP", || socket.ask());
                assert_eq!(answer.client.port(), socket.local().port(), "{to}");
            }
        }
    }
}

#[test]
fn a_header_with_options_is_translated_like_one_without() {
    let mut cluster = Cluster::new(Path::Native);
    let backend = cluster.nodes[0].pod();
    let ip = backend.v4();
    let (tcp, udp) = (Server::tcp(&backend.netns.0, "tcp", ip), Server::udp(&backend.netns.0, "udp", ip));
    cluster.serve(&service(Protocol::Tcp, &[tcp.address]).node_port(0, NODE_PORT));
    cluster.serve(&service(Protocol::Udp, &[udp.address]).node_port(0, NODE_PORT));
    for node in [0, 1] {
        let target = cluster.node_port(node, 0);
        let connection = Tcp::connect(cluster.outside(), target).unwrap();
        support::header_options(connection.0.as_fd());
        let (answer, received) = connection.ask_for(100_000).unwrap();
        assert_eq!((answer.client, received), (connection.local(), 100_000));
        let socket = Udp::connect(cluster.outside(), target);
        support::header_options(socket.0.as_fd());
        let answer = eventually("an answer over UDP", || socket.ask());
        assert_eq!(answer.client.port(), socket.local().port());
    }
    assert_eq!(cluster.count(Counter::Untranslated), 0);
}

#[test]
fn a_connection_of_the_nodes_own_that_has_a_node_port_as_its_source_port_is_left_to_the_host() {
    let mut cluster = Cluster::new(Path::Overlay);
    let (pod, backend) = (cluster.nodes[0].pod(), cluster.nodes[1].pod());
    for family in BOTH {
        let served = Server::tcp(&backend.netns.0, "served", backend.addresses[family]);
        cluster.serve(&service(Protocol::Tcp, &[served.address]).node_port(family, NODE_PORT));
        let places = [
            Server::tcp(cluster.outside(), "other", cluster.outside_address(family)),
            Server::tcp(&pod.netns.0, "other", pod.addresses[family]),
            Server::tcp(&backend.netns.0, "other", backend.addresses[family]),
        ];
        for server in places {
            let connection = Tcp::connect_from(&cluster.nodes[0].netns.0, NODE_PORT, server.address).unwrap();
            let (answer, length) = connection.ask_for(100_000).unwrap();
            assert_eq!((answer.name.as_str(), length), ("other", 100_000));
        }
    }
}

#[test]
fn what_is_refused_and_what_is_dropped_are_told_apart() {
    let mut cluster = Cluster::new(Path::Overlay);
    let within = Duration::from_millis(400);
    for family in BOTH {
        let balancer = SocketAddr::new(BALANCER[family].parse().unwrap(), 80);
        cluster.route_outside(balancer.ip(), 0);
        cluster.route_outside(CLUSTER_IP[family].parse().unwrap(), 0);
        let at = |port| SocketAddr::new(balancer.ip(), port);
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            cluster.serve(
                &service(protocol, &[]).named("refusing").balancer(family, 80).node_port(family, NODE_PORT),
            );
            cluster.serve(
                &service(protocol, &[]).named("dropping").balancer(family, 81).when_empty(WhenEmpty::Drop),
            );
        }
        let connect = |to| Tcp::connect_within(cluster.outside(), to, within).map(drop).unwrap_err().kind();
        // At once: the first try is within the time that one packet takes.
        assert_eq!(connect(balancer), ErrorKind::ConnectionRefused, "no backend");
        assert_eq!(connect(cluster.node_port(1, family)), ErrorKind::ConnectionRefused, "no backend");
        assert_eq!(connect(at(82)), ErrorKind::ConnectionRefused, "a port that the Service lacks");
        assert_eq!(connect(at(81)), ErrorKind::TimedOut, "the rules say drop");
        let ask = |to| Udp::connect(cluster.outside(), to).ask().unwrap_err().kind();
        assert_eq!(ask(balancer), ErrorKind::ConnectionRefused, "port unreachable");
        assert_eq!(ask(cluster.node_port(1, family)), ErrorKind::ConnectionRefused, "port unreachable");
        assert_eq!(ask(at(82)), ErrorKind::ConnectionRefused, "port unreachable");
        assert_eq!(ask(at(81)), ErrorKind::WouldBlock, "the rules say drop");
        let mut ping = std::process::Command::new("ping");
        let target = balancer.ip().to_string();
        let ping = cluster.outside().enter_child(ping.args(["-c", "1", "-W", "5", &target])).unwrap();
        let said = String::from_utf8(ping.output().expect("ping: cargo xtask setup").stdout).unwrap();
        assert!(said.to_lowercase().contains("port unreachable"), "a ping is told the same: {said}");
        let before = cluster.count(Counter::NoService);
        let nobody = SocketAddr::new(CLUSTER_IP[family].parse().unwrap(), 80);
        let connected = Tcp::connect_within(cluster.outside(), nobody, within).map(drop).unwrap_err().kind();
        assert_eq!(connected, ErrorKind::TimedOut, "an address that no Service has");
        assert!(cluster.count(Counter::NoService) > before);
    }
}

/// What a CPU sends at once, and in each second after.
const REFUSALS_BURST: u64 = 50;
const REFUSALS_A_SECOND: u64 = 1000;

#[test]
fn a_flood_from_outside_is_refused_no_more_often_than_a_kernel_would_and_pods_and_resets_as_ever() {
    let mut cluster = Cluster::new(Path::Native);
    let pod = cluster.nodes[0].pod();
    for family in BOTH {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let empty = service(protocol, &[]).cluster_ip(family, 80).node_port(family, NODE_PORT);
            cluster.serve(&empty);
        }
        let to = cluster.node_port(0, family);
        let any = SocketAddr::new(cluster.outside_address(family), 0);
        let socket = cluster.outside().run(|| UdpSocket::bind(any).unwrap()).unwrap();
        let before = cluster.count(Counter::Refused);
        let limited = cluster.count(Counter::RefusalRate);
        let (begun, mut sent) = (Instant::now(), 0_u64);
        eventually("refusals to be left out", || {
            for _ in 0..5000 {
                // Neighbours are found meanwhile.
                sent += u64::from(socket.send_to(b"flood", to).is_ok());
            }
            let left_out = cluster.count(Counter::RefusalRate) - limited;
            if left_out > 1000 { Ok(()) } else { Err(std::io::Error::other(format!("{left_out} of {sent}"))) }
        });
        let refused = cluster.count(Counter::Refused) - before;
        let cpus = u64::try_from(std::thread::available_parallelism().unwrap().get()).unwrap();
        // The programs' clock is a tick late.
        let seconds = begun.elapsed().as_secs() + 1;
        let most = cpus * (REFUSALS_BURST + 1 + REFUSALS_A_SECOND * seconds);
        assert!((1..=most).contains(&refused), "{refused} of {sent} in {seconds} s");
        // Resets are not counted against it, and neither is what a Pod is refused.
        for _ in 0..200 {
            let error = Tcp::connect(cluster.outside(), to).map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        }
        let before = cluster.count(Counter::Refused);
        let vip = SocketAddr::new(CLUSTER_IP[family].parse().unwrap(), 80);
        let any = SocketAddr::new(pod.addresses[family], 0);
        let socket = client(&pod).run(|| UdpSocket::bind(any).unwrap()).unwrap();
        for _ in 0..2000 {
            socket.send_to(b"flood", vip).unwrap();
        }
        assert_eq!(cluster.count(Counter::Refused) - before, 2000);
        // Once the flood is over everybody is told again.
        let refused = || match Udp::connect(cluster.outside(), to).ask() {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
            other => Err(std::io::Error::other(format!("{other:?}"))),
        };
        eventually("ECONNREFUSED over UDP", refused);
    }
}
