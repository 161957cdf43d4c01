//! Flows from outside whose backend is on another node, over native routes: after the first packet they need no tunnel.

use std::{fs, io::ErrorKind, net::SocketAddr};

use weft_datapath::{Counter, Path};
use weft_model::Protocol;

use crate::{
    cluster::{BOTH, Cluster, NODE_PORT, Server, Tcp, Udp, client, eventually, service},
    stale,
    support::{Pod, answerer::Answerer, host_behind},
};

/// Two nodes with native routes; the backend is on the first.
fn cluster() -> Cluster {
    Cluster::new(Path::Native)
}

/// Packets that the nodes' overlay devices have taken in.
fn by_overlay_device(cluster: &Cluster) -> [u64; 2] {
    [0, 1].map(|node| {
        let file = || fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        let devices = cluster.nodes[node].netns.0.run(file).unwrap();
        let line = devices.lines().find_map(|line| line.trim().strip_prefix("weft0:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    })
}

/// The backend serves the node port over TCP and UDP.
fn serve_both(cluster: &mut Cluster, backend: &Pod, family: usize) {
    let tcp = Server::tcp(client(backend), "tcp", backend.addresses[family]);
    let udp = Server::udp(client(backend), "udp", backend.addresses[family]);
    cluster.serve(&service(Protocol::Tcp, &[tcp.address]).node_port(family, NODE_PORT));
    cluster.serve(&service(Protocol::Udp, &[udp.address]).node_port(family, NODE_PORT));
}

#[test]
fn what_follows_the_first_packet_goes_natively_and_the_backend_sees_the_client() {
    let mut cluster = cluster();
    let backend = cluster.nodes[0].pod();
    for family in BOTH {
        serve_both(&mut cluster, &backend, family);
        let target = cluster.node_port(1, family);
        let tunnelled = cluster.nodes[1].drops(Counter::ToEntry);
        let connection = Tcp::connect(cluster.outside(), target).unwrap();
        let (answer, length) = connection.ask_for(300_000).unwrap();
        assert_eq!((answer.client, length), (connection.local(), 300_000));
        let socket = Udp::connect(cluster.outside(), target);
        for _ in 0..50 {
            assert_eq!(connection.ask().unwrap().client, connection.local());
            let seen = eventually("an answer over UDP", || socket.ask()).client;
            assert_eq!((seen.port(), seen.ip()), (socket.local().port(), cluster.outside_address(family)));
        }
        let tunnelled = cluster.nodes[1].drops(Counter::ToEntry) - tunnelled;
        assert!((2..20).contains(&tunnelled), "{tunnelled} packets of hundreds went through the tunnel");
        assert_eq!(by_overlay_device(&cluster), [0, 0], "and these were wrapped without its device");
    }
    assert!(cluster.nodes[1].drops(Counter::ToNative) > 100);
    assert_eq!(cluster.nodes[0].drops(Counter::ToEntry), 0, "every answer goes natively");
    for counter in [Counter::UnknownLabel, Counter::Untranslated, Counter::TunnelSource] {
        assert_eq!(cluster.count(counter), 0, "{}", counter.name());
    }
}

#[test]
fn clients_with_the_same_port_are_told_apart() {
    let mut cluster = cluster();
    let backend = cluster.nodes[0].pod();
    let far = host_behind(&cluster.fabric, 1500);
    for family in BOTH {
        let tcp = Server::tcp(client(&backend), "tcp", backend.addresses[family]);
        cluster.serve(&service(Protocol::Tcp, &[tcp.address]).node_port(family, NODE_PORT));
        let target = cluster.node_port(1, family);
        // Again and again, so that labels are used again too.
        for _ in 0..5 {
            let connect = |from| eventually("a connection", || Tcp::connect_from(from, 40_000, target));
            let (near, far) = (connect(cluster.outside()), connect(&far.0));
            for _ in 0..3 {
                assert_eq!(near.ask().unwrap().client, near.local());
                assert_eq!(far.ask().unwrap().client, far.local());
            }
            assert_eq!((near.local().port(), far.local().port()), (40_000, 40_000));
        }
    }
}

#[test]
fn a_node_that_forgets_a_flow_is_told_of_it_again_and_no_connection_ends() {
    let mut cluster = cluster();
    let backend = cluster.nodes[0].pod();
    for family in BOTH {
        let tcp = Server::tcp(client(&backend), "tcp", backend.addresses[family]);
        cluster.serve(&service(Protocol::Tcp, &[tcp.address]).node_port(family, NODE_PORT));
        let connection = Tcp::connect(cluster.outside(), cluster.node_port(1, family)).unwrap();
        assert_eq!(connection.ask().unwrap().client, connection.local());
        stale::forget_flows(&cluster.nodes[0]);
        connection.0.set_read_timeout(Some(4 * crate::support::DEADLINE)).unwrap();
        assert_eq!(connection.ask().unwrap().client, connection.local());
        assert!(cluster.nodes[0].drops(Counter::UnknownLabel) > 0);
    }
}

#[test]
fn connections_go_on_when_the_path_between_the_nodes_changes() {
    let mut cluster = cluster();
    let backend = cluster.nodes[0].pod();
    for family in BOTH {
        serve_both(&mut cluster, &backend, family);
        let target = cluster.node_port(1, family);
        let connection = Tcp::connect(cluster.outside(), target).unwrap();
        let socket = Udp::connect(cluster.outside(), target);
        for path in [Path::Native, Path::Overlay, Path::Native] {
            cluster.take(path);
            for bytes in [0, 100_000] {
                let (answer, length) = connection.ask_for(bytes).unwrap();
                assert_eq!((answer.client, length), (connection.local(), bytes), "{path:?}");
            }
            let answer = eventually("UDP", || socket.ask());
            assert_eq!(answer.client.port(), socket.local().port(), "{path:?}");
        }
        cluster.take(Path::Native);
    }
}

#[test]
fn a_port_that_nobody_listens_at_any_more_is_told_to_the_client() {
    let mut cluster = cluster();
    let backend = cluster.nodes[0].pod();
    for family in BOTH {
        let at = SocketAddr::new(backend.addresses[family], 5300);
        let answerer = Answerer::at(client(&backend), at, "while");
        cluster.serve(&service(Protocol::Udp, &[at]).node_port(family, NODE_PORT));
        let socket = Udp::connect(cluster.outside(), cluster.node_port(1, family));
        let answer = eventually("an answer", || socket.ask());
        assert_eq!(answer.client.ip(), cluster.outside_address(family));
        drop(answerer);
        eventually("the refusal", || match socket.ask() {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
            Err(error) => Err(error),
            Ok(answer) => panic!("{answer:?}"),
        });
    }
}
