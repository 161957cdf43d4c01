//! Clients that use a port again before the last connection from it is forgotten.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
};

use nix::{
    libc,
    sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket,
        sockopt::{Linger, ReuseAddr},
    },
};
use weft_datapath::{Counter, Path};
use weft_model::Protocol;
use weft_netns::Netns;

use crate::{
    cluster::{BOTH, Cluster, NODE_PORT, Server, service},
    stale,
};

/// Connects from a port, asks, and gives up (RST), so that the port can be used again at once.
fn ask_from(netns: &Netns, from: SocketAddr, to: SocketAddr) -> String {
    netns
        .run(|| {
            let family = if from.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
            let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
            setsockopt(&socket, ReuseAddr, &true).unwrap();
            setsockopt(&socket, Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
            let raw = std::os::fd::AsRawFd::as_raw_fd(&socket);
            bind(raw, &SockaddrStorage::from(from)).unwrap();
            connect(raw, &SockaddrStorage::from(to)).unwrap();
            let stream = TcpStream::from(socket);
            (&stream).write_all(b"?\n").unwrap();
            let mut answer = String::new();
            BufReader::new(&stream).read_line(&mut answer).unwrap();
            answer
        })
        .unwrap()
}

#[test]
fn a_client_that_uses_its_port_again_reaches_near_and_far_backends_as_the_first_time() {
    let mut cluster = Cluster::new(Path::Overlay);
    let backend = cluster.nodes[0].pod();
    for family in BOTH {
        let server = Server::tcp(&backend.netns.0, "tcp", backend.addresses[family]);
        cluster.serve(&service(Protocol::Tcp, &[server.address]).node_port(family, NODE_PORT));
        let from = SocketAddr::new(cluster.outside_address(family), 40_000);
        for node in [0, 1] {
            for _ in 0..3 {
                assert!(
                    ask_from(cluster.outside(), from, cluster.node_port(node, family)).starts_with("tcp")
                );
            }
        }
    }
    // An answer that went astray would have been left to the host's stack.
    assert_eq!(cluster.count(Counter::ToHost), 0);
}

#[test]
fn connections_from_one_port_one_after_the_other_are_one_flow_whatever_backend_they_are_given() {
    for path in [Path::Overlay, Path::Native] {
        let mut cluster = Cluster::new(path);
        let backends = [cluster.nodes[0].pod(), cluster.nodes[1].pod()];
        for family in BOTH {
            let [near, far] = backends
                .each_ref()
                .map(|backend| Server::tcp(&backend.netns.0, "tcp", backend.addresses[family]));
            let from = SocketAddr::new(cluster.outside_address(family), 40_000);
            for backend in [&near, &far, &far, &near, &near] {
                cluster.serve(&service(Protocol::Tcp, &[backend.address]).node_port(family, NODE_PORT));
                for _ in 0..2 {
                    let to = cluster.node_port(0, family);
                    assert!(ask_from(cluster.outside(), from, to).starts_with("tcp"), "{path:?}");
                }
            }
        }
        for (number, node) in cluster.nodes.iter().enumerate() {
            // A flow a family.
            assert_eq!(stale::flows(node), (2, 2), "node {number} by {path:?}");
        }
    }
}
