//! UDP sockets: what is asked, and by whom it is answered.

use std::net::SocketAddr;

use weft_datapath::Path;
use weft_model::{Protocol, services::FrontendKind};

use crate::{
    VIP, VIP6, at,
    process::Process,
    service::{Server, Services, plan},
    support::Fabric,
};

/// Asks all of them before it takes an answer: each answers.
fn asks_at_once<const N: usize>(process: &mut Process, mut asked: [SocketAddr; N]) {
    for to in asked {
        process.send(to).unwrap();
    }
    let mut answered = asked.map(|_| process.receive().0);
    answered.sort();
    asked.sort();
    assert_eq!(answered, asked);
}

#[test]
fn an_unconnected_udp_socket_stays_with_its_backend_and_moves_when_that_is_gone_without_changing_its_port() {
    let fabric = Fabric::new();
    let mut services = Services::new(&fabric, 2);
    let (client, backend) = (services.node.pod(), services.node.pod());
    let (one, two) = (Server::udp(&backend, backend.v4()), Server::udp(&backend, backend.v4()));
    let mut wanted = plan(Protocol::Udp, &[one.address, two.address]);
    wanted.frontend(at(VIP, 53), FrontendKind::ClusterIp);
    services.serve(wanted.clone());
    let mut process = Process::in_pod(&services, &client);
    let port = process.udp();
    process.send(at(VIP, 53)).unwrap();
    let (from, first) = process.receive();
    assert_eq!(from, at(VIP, 53), "the answer comes from where it was asked");
    for _ in 0..20 {
        process.send(at(VIP, 53)).unwrap();
        assert_eq!(process.receive(), (from, first.clone()));
    }
    let (gone, left) = if first.starts_with(&one.name) { (&one, &two) } else { (&two, &one) };
    wanted.not_serving(gone.address);
    services.serve(wanted);
    process.send(at(VIP, 53)).unwrap();
    let (from, text) = process.receive();
    assert_eq!((from, text), (at(VIP, 53), format!("{} {}", left.name, SocketAddr::new(client.v4(), port))));
}

/// One socket has dealings with a Pod both as the backend of Services and as itself: each is answered by whom it asked.
#[test]
fn an_unconnected_udp_socket_asks_two_services_and_their_backend() {
    let fabric = Fabric::new();
    let mut services = Services::new(&fabric, 2);
    // Cluster IPs are routed to the programs.
    services.node.join(&[], Path::Overlay);
    let (client, backend) = (services.node.pod(), services.node.pod());
    let other = "10.96.0.11";
    let server = Server::udp(&backend, backend.v4());
    let mut wanted = plan(Protocol::Udp, &[server.address]);
    wanted.frontend(at(VIP, 53), FrontendKind::ClusterIp);
    wanted.frontend(at(other, 53), FrontendKind::ClusterIp);
    services.serve(wanted);
    let orders = [
        [at(VIP, 53), at(other, 53), server.address],
        [at(VIP, 53), server.address, at(other, 53)],
        [server.address, at(VIP, 53), at(other, 53)],
    ];
    for (mut process, place) in
        [(Process::in_pod(&services, &client), "Pod"), (Process::on_node(&services), "node")]
    {
        for order in orders {
            process.udp();
            for to in order.into_iter().chain(order) {
                process.send(to).unwrap();
                assert_eq!(process.receive().0, to, "{order:?} of the {place}");
            }
            asks_at_once(&mut process, order);
            process.send(at(VIP, 53)).unwrap();
            process.receive();
            process.connect(server.address).unwrap();
            process.send_connected().unwrap();
            assert_eq!(process.receive().0, server.address, "connected to the backend");
        }
    }
}

/// A backend of the node's own (`hostNetwork`) sees a client of its node come from the cluster IP: its answers go there.
#[test]
fn a_udp_server_of_the_node_answers_the_node_s_own_clients() {
    let fabric = Fabric::new();
    let mut services = Services::new(&fabric, 2);
    // Cluster IPs are routed to the programs.
    services.node.join(&[], Path::Overlay);
    let [v4, v6] = [0, 1].map(|family| services.node.addresses[family]);
    let anywhere = ["0.0.0.0", "::"].map(|address| address.parse().unwrap());
    for (vip, node, bound) in [(VIP, v4, v4), (VIP6, v6, v6), (VIP, v4, anywhere[0]), (VIP6, v6, anywhere[1])]
    {
        let mut server = Process::on_node(&services);
        let port = server.udp_at(bound);
        let mut wanted = plan(Protocol::Udp, &[SocketAddr::new(node, port)]);
        wanted.frontend(at(vip, 80), FrontendKind::ClusterIp);
        services.serve(wanted);
        let mut client = Process::on_node(&services);
        client.udp_at(bound);
        client.connect(at(vip, 80)).unwrap();
        client.send_connected().unwrap();
        let (from, _) = server.receive();
        assert_eq!(from.ip(), at(vip, 80).ip(), "{bound}");
        assert_eq!(server.send(from), Ok(()), "{bound}");
        assert_eq!(client.receive().0, at(vip, 80), "{bound}");
    }
}

/// A1: a connected IPv4 socket may name its peer once more, and is answered all the same.
#[test]
fn a_connected_udp_socket_that_names_the_service_again_is_answered() {
    let fabric = Fabric::new();
    let mut services = Services::new(&fabric, 2);
    let (client, backend) = (services.node.pod(), services.node.pod());
    for (vip, ip) in [(VIP, backend.v4()), (VIP6, backend.v6())] {
        let server = Server::udp(&backend, ip);
        let mut wanted = plan(Protocol::Udp, &[server.address]);
        wanted.frontend(at(vip, 80), FrontendKind::ClusterIp);
        services.serve(wanted);
        let mut process = Process::in_pod(&services, &client);
        if ip.is_ipv4() {
            process.udp()
        } else {
            process.udp6()
        };
        process.connect(at(vip, 80)).unwrap();
        for _ in 0..3 {
            process.send(at(vip, 80)).unwrap();
            let (from, answer) = process.receive();
            assert_eq!((from, answer.starts_with(&server.name)), (at(vip, 80), true), "{answer}");
        }
    }
}

/// What is not routed to the programs, as ports of the node itself are not, is translated at the socket alone.
#[test]
fn an_unconnected_udp_socket_of_the_node_asks_its_own_port_and_a_cluster_ip() {
    let fabric = Fabric::new();
    let mut services = Services::new(&fabric, 2);
    services.node.join(&[], Path::Overlay);
    let backend = services.node.pod();
    let server = Server::udp(&backend, backend.v4());
    let mut wanted = plan(Protocol::Udp, &[server.address]);
    let own = SocketAddr::new(services.node.addresses[0], 30053);
    wanted.frontend(at(VIP, 53), FrontendKind::ClusterIp);
    wanted.frontend(own, FrontendKind::NodePort);
    services.serve(wanted);
    let mut process = Process::on_node(&services);
    for order in [[at(VIP, 53), own], [own, at(VIP, 53)]] {
        process.udp();
        for to in order.into_iter().chain(order) {
            process.send(to).unwrap();
            assert_eq!(process.receive().0, to, "{order:?}");
        }
        asks_at_once(&mut process, order);
    }
}
