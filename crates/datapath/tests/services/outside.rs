//! Clients outside of the cluster.

use std::{io::ErrorKind, net::SocketAddr, time::Duration};

use weft_datapath::{Counter, Path};
use weft_model::{Protocol, services::WhenEmpty};

use crate::cluster::{BALANCER, BOTH, CLUSTER_IP, Cluster, NODE_PORT, Server, Tcp, Udp, eventually, service};

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
    assert_eq!(cluster.count(Counter::Untranslated), 0);
    assert_eq!(cluster.count(Counter::MissingStep), 0);
}

#[test]
fn a_node_port_with_a_local_and_a_remote_backend_keeps_the_clients_address_over_the_overlay() {
    node_port_keeps_the_client(Path::Overlay);
}

#[test]
fn a_node_port_with_a_local_and_a_remote_backend_keeps_the_clients_address_over_native_routes() {
    node_port_keeps_the_client(Path::Native);
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
