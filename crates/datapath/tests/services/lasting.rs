//! Which backend a flow has, and for how long.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use weft_abi::{MAX_AFFINITIES, MAX_FLOWS, MAX_FLOWS_OF_CLIENT};
use weft_datapath::{Counter, Path};
use weft_model::Protocol;

use crate::{
    cluster::{
        BALANCER, BOTH, CLUSTER_IP, Cluster, NODE_PORT, Server, Tcp, Udp, at_backend, client, eventually,
        service,
    },
    stale,
    support::DEADLINE,
};

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

#[test]
fn a_backend_that_is_gone_resets_tcp_and_hands_udp_over_without_a_new_port() {
    let mut cluster = Cluster::new(Path::Overlay);
    let (asking, near, far) = (cluster.nodes[0].pod(), cluster.nodes[0].pod(), cluster.nodes[1].pod());
    for family in BOTH {
        // From a Pod, and from outside by a node that has neither of the backends' Pods or one.
        for inside in [true, false] {
            let serve = |pod: &crate::support::Pod, name| {
                let ip = pod.addresses[family];
                (Server::tcp(client(pod), name, ip).address, Server::udp(client(pod), name, ip).address)
            };
            let (first, second) = (serve(&near, "first"), serve(&far, "second"));
            let tcp = |to| service(Protocol::Tcp, &[to]).cluster_ip(family, 80).node_port(family, NODE_PORT);
            let udp = |to| service(Protocol::Udp, &[to]).cluster_ip(family, 80).node_port(family, NODE_PORT);
            cluster.serve(&tcp(first.0));
            cluster.serve(&udp(first.1));
            let target = if inside { at(CLUSTER_IP[family], 80) } else { cluster.node_port(1, family) };
            let from = || if inside { client(&asking) } else { &cluster.fabric.netns.0 };
            let connection = Tcp::connect(from(), target).unwrap();
            assert_eq!(connection.ask().unwrap().name, "first");
            let socket = Udp::connect(from(), target);
            let before = eventually("the first backend", || socket.ask());
            assert_eq!(before.name, "first");
            cluster.serve(&tcp(second.0));
            cluster.serve(&udp(second.1));
            let error = connection.ask().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
            let after = socket.ask().unwrap();
            assert_eq!((after.name.as_str(), after.client), ("second", before.client));
            let from = if inside { client(&asking) } else { cluster.outside() };
            assert_eq!(Tcp::connect(from, target).unwrap().ask().unwrap().name, "second");
        }
    }
}

#[test]
fn what_connections_to_a_backend_that_is_gone_leave_is_let_go_of_as_of_others_that_ended() {
    for family in BOTH {
        let mut cluster = Cluster::new(Path::Overlay);
        let pods = [cluster.nodes[0].pod(), cluster.nodes[0].pod()];
        let [first, second] =
            pods.each_ref().map(|pod| Server::tcp(client(pod), "tcp", pod.addresses[family]).address);
        let target = cluster.node_port(1, family);
        cluster.serve(&service(Protocol::Tcp, &[first]).node_port(family, NODE_PORT));
        let connect = |cluster: &Cluster, port| Tcp::connect_from(cluster.outside(), port, target).unwrap();
        let connections = [40_000, 40_001].map(|port| connect(&cluster, port));
        connections.iter().for_each(|connection| drop(connection.ask().unwrap()));
        cluster.serve(&service(Protocol::Tcp, &[second]).node_port(family, NODE_PORT));
        connections.iter().for_each(|connection| drop(connection.ask().unwrap_err()));
        drop(connections);
        // One of the two ports is used again, by way of the other backend.
        let again = connect(&cluster, 40_000);
        again.ask().unwrap();
        let node = &mut cluster.nodes[1];
        stale::age_flows(node, 120);
        let swept = node.with(|datapath| datapath.sweep().unwrap());
        assert_eq!(swept.flows.used, 2, "both directions of the one that goes on: {swept:?}");
        assert_eq!(stale::flows(node), (1, 1));
        again.ask().unwrap();
    }
}

#[test]
fn connections_to_a_terminating_backend_go_on_and_new_ones_go_elsewhere() {
    let mut cluster = Cluster::new(Path::Overlay);
    let (asking, ending, other) = (cluster.nodes[0].pod(), cluster.nodes[1].pod(), cluster.nodes[1].pod());
    let server =
        |pod, ip| (Server::tcp(client(pod), "tcp", ip).address, Server::udp(client(pod), "udp", ip).address);
    let (ending, other) = (server(&ending, ending.v4()), server(&other, other.v4()));
    cluster.serve(&service(Protocol::Tcp, &[ending.0]).cluster_ip(0, 80));
    cluster.serve(&service(Protocol::Udp, &[ending.1]).cluster_ip(0, 80));
    let connection = Tcp::connect(client(&asking), at(CLUSTER_IP[0], 80)).unwrap();
    let socket = Udp::connect(client(&asking), at(CLUSTER_IP[0], 80));
    connection.ask().unwrap();
    socket.ask().unwrap();
    let accepted = |cluster: &mut Cluster| cluster.count(Counter::PacketService);
    cluster.serve(&service(Protocol::Tcp, &[ending.0, other.0]).cluster_ip(0, 80).only(&[other.0]));
    cluster.serve(&service(Protocol::Udp, &[ending.1, other.1]).cluster_ip(0, 80).only(&[other.1]));
    let before = accepted(&mut cluster);
    connection.ask().unwrap();
    socket.ask().unwrap();
    assert_eq!(accepted(&mut cluster), before, "no flow began anew");
    let installed = cluster.nodes[0].with(|datapath| datapath.services().unwrap());
    Tcp::connect(client(&asking), at(CLUSTER_IP[0], 80)).unwrap().ask().unwrap();
    let after = cluster.nodes[0].with(|datapath| datapath.services().unwrap());
    assert_ne!(installed, after, "counted for the other backend");
}

#[test]
fn a_udp_client_that_began_before_there_was_a_backend_reaches_the_first_one() {
    let mut cluster = Cluster::new(Path::Overlay);
    let (asking, backend) = (cluster.nodes[0].pod(), cluster.nodes[1].pod());
    for family in BOTH {
        cluster.serve(&service(Protocol::Udp, &[]).cluster_ip(family, 53));
        let socket = Udp::connect(client(&asking), at(CLUSTER_IP[family], 53));
        assert_eq!(socket.ask().unwrap_err().kind(), ErrorKind::ConnectionRefused);
        let server = Server::udp(client(&backend), "first", backend.addresses[family]);
        cluster.serve(&service(Protocol::Udp, &[server.address]).cluster_ip(family, 53));
        assert_eq!(eventually("the first backend", || socket.ask()).name, "first");
    }
}

#[test]
fn a_client_with_affinity_comes_back_to_its_backend_whatever_node_it_enters_by() {
    let mut cluster = Cluster::new(Path::Overlay);
    let asking = cluster.nodes[0].pod();
    let pods: Vec<_> = (0..8).map(|number| cluster.nodes[number % 2].pod()).collect();
    for family in BOTH {
        let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
        let servers: Vec<_> = (pods.iter().zip(names))
            .map(|(pod, name)| Server::tcp(client(pod), name, pod.addresses[family]).address)
            .collect();
        let mut wanted = service(Protocol::Tcp, &servers).cluster_ip(family, 80).balancer(family, 80);
        wanted.plan.affinity_seconds = Some(3600);
        cluster.serve(&wanted);
        let name = |from: &weft_netns::Netns, to| Tcp::connect(from, to).unwrap().ask().unwrap().name;
        let vip = at(CLUSTER_IP[family], 80);
        let inside = name(client(&asking), vip);
        let balancer = at(BALANCER[family], 80);
        cluster.route_outside(balancer.ip(), 0);
        let outside = name(cluster.outside(), balancer);
        for _ in 0..10 {
            assert_eq!(name(client(&asking), vip), inside);
            assert_eq!(name(cluster.outside(), balancer), outside);
        }
        cluster.route_outside(balancer.ip(), 1);
        for _ in 0..3 {
            assert_eq!(name(cluster.outside(), balancer), outside, "by the other node");
        }
        // It may no longer be chosen: another one, and that one from then on.
        let gone = servers[names.iter().position(|name| *name == inside).unwrap()];
        let rest: Vec<_> = servers.iter().copied().filter(|server| *server != gone).collect();
        let mut without =
            service(Protocol::Tcp, &servers).cluster_ip(family, 80).balancer(family, 80).only(&rest);
        without.plan.affinity_seconds = Some(3600);
        cluster.serve(&without);
        let next = name(client(&asking), vip);
        assert_ne!(next, inside);
        assert_eq!(name(client(&asking), vip), next);
    }
}

#[test]
fn every_node_picks_the_same_backend_for_a_connection_which_outlives_its_entry_node() {
    let mut cluster = Cluster::of(3, Path::Overlay, false);
    let pods: Vec<_> = (0..6).map(|number| cluster.nodes[number % 3].pod()).collect();
    for family in BOTH {
        let servers: Vec<_> = pods
            .iter()
            .zip(["a", "b", "c", "d", "e", "f"])
            .map(|(pod, name)| Server::tcp(client(pod), name, pod.addresses[family]).address)
            .collect();
        cluster.serve(&service(Protocol::Tcp, &servers).balancer(family, 80));
        let balancer = at(BALANCER[family], 80);
        for _ in 0..6 {
            cluster.route_outside(balancer.ip(), 0);
            let connection = Tcp::connect(cluster.outside(), balancer).unwrap();
            let first = connection.ask().unwrap();
            for node in [1, 2, 0] {
                cluster.route_outside(balancer.ip(), node);
                assert_eq!(connection.ask().unwrap(), first, "by node {node}");
            }
        }
    }
}

#[test]
fn two_flows_of_a_client_that_would_become_one_at_the_only_backend_stay_two() {
    let mut cluster = Cluster::new(Path::Overlay);
    let pods = [cluster.nodes[0].pod(), cluster.nodes[1].pod()];
    for family in BOTH {
        let servers: Vec<_> =
            pods.iter().map(|pod| Server::udp(client(pod), "udp", pod.addresses[family]).address).collect();
        let any: IpAddr = if family == 0 { [0; 4].into() } else { [0_u16; 8].into() };
        let asked = |cluster: &Cluster, targets: &[SocketAddr]| -> Vec<SocketAddr> {
            let socket = cluster.outside().run(|| UdpSocket::bind((any, 0))).unwrap().unwrap();
            socket.set_read_timeout(Some(DEADLINE)).unwrap();
            let seen = |target: &SocketAddr| {
                socket.send_to(b"?", target).unwrap();
                let mut buffer = [0; 200];
                let (length, from) = socket.recv_from(&mut buffer).unwrap();
                assert_eq!(from, *target, "the answer is the one that was asked for");
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                text.split(' ').nth(1).unwrap().parse().unwrap()
            };
            targets.iter().map(seen).collect()
        };
        let ports = |cluster: &mut Cluster, backends: &[SocketAddr]| {
            let wanted = service(Protocol::Udp, backends);
            cluster.serve(&wanted.node_port(family, NODE_PORT).node_port(family, NODE_PORT + 1));
        };
        let target = |node: usize, port| SocketAddr::new(cluster.nodes[node].addresses[family], port);
        let same_node = [target(0, NODE_PORT), target(0, NODE_PORT + 1)];
        let two_nodes = [target(0, NODE_PORT), target(1, NODE_PORT), target(1, NODE_PORT + 1)];
        for backend in &servers {
            ports(&mut cluster, &[*backend]);
            for targets in [&same_node[..], &two_nodes[..]] {
                let mut seen = asked(&cluster, targets);
                seen.sort();
                seen.dedup();
                assert_eq!(seen.len(), targets.len(), "another source port each: {seen:?}");
                assert!(seen.iter().all(|client| client.ip() == cluster.outside_address(family)));
            }
        }
    }
}

#[test]
fn two_flows_of_a_client_by_two_other_nodes_stay_two_at_the_backend() {
    let mut cluster = Cluster::of(4, Path::Overlay, false);
    let backend = cluster.nodes[0].pod();
    for family in BOTH {
        let server = Server::tcp(client(&backend), "tcp", backend.addresses[family]);
        cluster.serve(&service(Protocol::Tcp, &[server.address]).node_port(family, NODE_PORT));
        let connections: Vec<_> = (1..4)
            .map(|node| {
                let to = cluster.node_port(node, family);
                Tcp::connect_from(cluster.outside(), 45_000, to).unwrap()
            })
            .collect();
        for _ in 0..3 {
            let mut seen: Vec<_> = connections.iter().map(|c| c.ask().unwrap().client.port()).collect();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), 3, "another source port each");
        }
    }
}

#[test]
fn new_programs_take_flows_over_in_the_middle() {
    let mut cluster = Cluster::new(Path::Overlay);
    let (asking, backend) = (cluster.nodes[0].pod(), cluster.nodes[1].pod());
    let server = Server::tcp(client(&backend), "tcp", backend.v4());
    let wanted = service(Protocol::Tcp, &[server.address]).cluster_ip(0, 80).node_port(0, NODE_PORT);
    cluster.serve(&wanted);
    let inside = Tcp::connect(client(&asking), at(CLUSTER_IP[0], 80)).unwrap();
    let outside = Tcp::connect(cluster.outside(), cluster.node_port(0, 0)).unwrap();
    inside.ask().unwrap();
    outside.ask().unwrap();
    for node in 0..2 {
        cluster.restart_with_other_programs(node);
        // Nothing is served anew: what the kernel has goes on.
        assert_eq!(inside.ask().unwrap().client, at_backend(inside.local()));
        assert_eq!(outside.ask_for(100_000).unwrap().1, 100_000);
        let new = Tcp::connect(client(&asking), at(CLUSTER_IP[0], 80)).unwrap();
        new.ask().unwrap();
    }
    assert_eq!(cluster.count(Counter::MissingStep), 0);
}

#[test]
fn one_pod_cannot_use_up_the_table_of_flows() {
    let mut cluster = Cluster::new(Path::Overlay);
    let (greedy, modest, backend) = (cluster.nodes[0].pod(), cluster.nodes[0].pod(), cluster.nodes[0].pod());
    let server = Server::udp(client(&backend), "udp", backend.v4());
    cluster.serve(&service(Protocol::Udp, &[server.address]).named("modest").cluster_ip(0, 53));
    let services: u16 = 40;
    for port in 1..=services {
        // Nobody listens: what matters is that each is another flow.
        let backend = SocketAddr::new(backend.v4(), 100 + port);
        let wanted = service(Protocol::Udp, &[backend]).named(&format!("greedy-{port}"));
        cluster.serve(&wanted.cluster_ip(0, 1000 + port));
    }
    let mut sent = 0;
    client(&greedy)
        .run(|| {
            while sent < MAX_FLOWS_OF_CLIENT + 1000 {
                let socket = UdpSocket::bind((greedy.v4(), 0)).unwrap();
                for port in 1..=services {
                    // An answer from nobody is an error of the next call.
                    let _ = socket.send_to(b"?", at(CLUSTER_IP[0], 1000 + port));
                    sent += 1;
                }
            }
        })
        .unwrap();
    assert!(cluster.count(Counter::FlowsFull) > 0);
    let began = cluster.count(Counter::PacketService);
    assert!(began <= u64::from(MAX_FLOWS_OF_CLIENT), "{began}");
    assert_eq!(Udp::connect(client(&modest), at(CLUSTER_IP[0], 53)).ask().unwrap().name, "udp");
    let swept = (0..40).map(|_| cluster.nodes[0].with(|datapath| datapath.sweep().unwrap())).last().unwrap();
    assert!(swept.flows.used as u64 >= began, "{swept:?}");
    assert_eq!(swept.flows_ended, 0, "their time is not over");
}

#[test]
fn flows_and_affinities_whose_time_is_over_are_let_go_of_and_others_stay() {
    let mut cluster = Cluster::new(Path::Overlay);
    let (asking, backend) = (cluster.nodes[0].pod(), cluster.nodes[1].pod());
    let server = Server::tcp(client(&backend), "tcp", backend.v4());
    let mut wanted = service(Protocol::Tcp, &[server.address]).cluster_ip(0, 80);
    wanted.plan.affinity_seconds = Some(3600);
    cluster.serve(&wanted);
    let connection = Tcp::connect(client(&asking), at(CLUSTER_IP[0], 80)).unwrap();
    connection.ask().unwrap();
    stale::add_flows(&cluster.nodes[0], 30_000);
    stale::add_affinities(&cluster.nodes[0], 30_000);
    let mut ended = (0, 0);
    let mut last = None;
    for _ in 0..20 {
        let swept = cluster.nodes[0].with(|datapath| datapath.sweep().unwrap());
        ended.0 += swept.flows_ended;
        ended.1 += swept.affinities_ended;
        last = Some(swept);
    }
    assert_eq!(ended, (30_000, 30_000));
    let last = last.unwrap();
    assert_eq!((last.flows.used, last.affinities.used), (2, 1));
    assert_eq!(stale::clients(&cluster.nodes[0]), 1, "the one that has a flow");
    connection.ask().unwrap();
    let again = Tcp::connect_within(client(&asking), at(CLUSTER_IP[0], 80), Duration::from_secs(5)).unwrap();
    again.ask().unwrap();
}

#[test]
fn full_tables_turn_new_flows_away_leave_the_others_alone_and_take_new_ones_once_there_is_room() {
    let mut cluster = Cluster::new(Path::Overlay);
    let (asking, backend) = (cluster.nodes[0].pod(), cluster.nodes[1].pod());
    let server = Server::tcp(client(&backend), "tcp", backend.v4());
    let mut wanted = service(Protocol::Tcp, &[server.address]).cluster_ip(0, 80);
    cluster.serve(&wanted);
    let vip = at(CLUSTER_IP[0], 80);
    let connection = Tcp::connect(client(&asking), vip).unwrap();
    // Room for all but this one.
    stale::add_flows(&cluster.nodes[0], MAX_FLOWS / 2 - 1);
    let within = Duration::from_millis(300);
    Tcp::connect_within(client(&asking), vip, within).map(drop).unwrap_err();
    assert!(cluster.nodes[0].drops(Counter::FlowsFull) > 0);
    connection.ask().unwrap();
    assert!(Tcp::connect(client(&asking), server.address).unwrap().ask().is_ok(), "no Service, no flow");
    let swept: usize =
        (0..40).map(|_| cluster.nodes[0].with(|datapath| datapath.sweep().unwrap().flows_ended)).sum();
    assert_eq!(swept as u32, MAX_FLOWS / 2 - 1);
    Tcp::connect(client(&asking), vip).unwrap().ask().unwrap();
    // What cannot be remembered of affinity is no reason to turn anybody away.
    wanted.plan.affinity_seconds = Some(60);
    cluster.serve(&wanted);
    stale::add_affinities(&cluster.nodes[0], MAX_AFFINITIES);
    Tcp::connect(client(&asking), vip).unwrap().ask().unwrap();
    assert!(cluster.nodes[0].drops(Counter::AffinitiesFull) > 0);
    connection.ask().unwrap();
}

#[test]
fn new_flows_spread_evenly_over_the_backends_from_inside_and_from_outside() {
    const FLOWS: u64 = 2000;
    let mut cluster = Cluster::new(Path::Overlay);
    let (asking, near, far) = (cluster.nodes[0].pod(), cluster.nodes[0].pod(), cluster.nodes[1].pod());
    // Nobody listens: where they are sent is what counts.
    for (inside, port) in [(true, 101), (false, 201)] {
        let backends: Vec<SocketAddr> = [near.v4(), far.v4()]
            .into_iter()
            .flat_map(|ip| [SocketAddr::new(ip, port), SocketAddr::new(ip, port + 1)])
            .collect();
        let wanted = service(Protocol::Udp, &backends).named(if inside { "inside" } else { "outside" });
        let (from, wanted, to) = if inside {
            (client(&asking), wanted.cluster_ip(0, 80), at(CLUSTER_IP[0], 80))
        } else {
            (cluster.outside(), wanted.node_port(0, NODE_PORT), cluster.node_port(0, 0))
        };
        let send = || {
            for _ in 0..FLOWS {
                let socket = UdpSocket::bind(("0.0.0.0", 0)).unwrap();
                socket.send_to(b"?", to).unwrap();
            }
        };
        // Another namespace may be asked for while one is borrowed: it is the same by name.
        let from = weft_netns::Netns::open(from.name()).unwrap();
        cluster.serve(&wanted);
        from.run(send).unwrap();
        let counts = |cluster: &mut Cluster| -> Vec<u64> {
            let installed = cluster.nodes[0].with(|datapath| datapath.services().unwrap());
            let port = installed.into_iter().find(|port| port.key == wanted.key).unwrap();
            let list = if inside { port.internal } else { port.external };
            list.iter().map(|backend| backend.connections).collect()
        };
        // Ports are given out again: some of the flows are one.
        let counts = counts(&mut cluster);
        let mean = counts.iter().sum::<u64>() / 4;
        assert!(mean > 400, "{counts:?}");
        for count in &counts {
            // A standard deviation is 19.4: five of them.
            assert!(count.abs_diff(mean) < 97, "inside {inside}: {counts:?}");
        }
    }
}
