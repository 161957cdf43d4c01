//! Clients in Pods and on nodes.

use std::io::ErrorKind;

use weft_datapath::{Counter, Path};
use weft_model::{Protocol, services::WhenEmpty};

use crate::cluster::{
    BOTH, CLUSTER_IP, Cluster, NODE_PORT, Server, Tcp, Udp, at_backend, client, eventually, service,
};

fn at(address: &str, port: u16) -> std::net::SocketAddr {
    std::net::SocketAddr::new(address.parse().unwrap(), port)
}

fn cluster_ip_from_pods(path: Path) {
    let mut cluster = Cluster::new(path);
    let (asking, near, far) = (cluster.nodes[0].pod(), cluster.nodes[0].pod(), cluster.nodes[1].pod());
    for family in BOTH {
        for backend in [&near, &far] {
            let ip = backend.addresses[family];
            let tcp = Server::tcp(client(backend), "tcp", ip);
            let udp = Server::udp(client(backend), "udp", ip);
            let vip = at(CLUSTER_IP[family], 80);
            cluster.serve(&service(Protocol::Tcp, &[tcp.address]).cluster_ip(family, 80));
            cluster.serve(&service(Protocol::Udp, &[udp.address]).cluster_ip(family, 80));
            let connection = Tcp::connect(client(&asking), vip).unwrap();
            assert_eq!(connection.ask().unwrap().client, at_backend(connection.local()));
            assert_eq!(connection.ask_for(300_000).unwrap().1, 300_000);
            let socket = Udp::connect(client(&asking), vip);
            let answer = eventually("an answer over UDP", || socket.ask());
            assert_eq!((answer.name.as_str(), answer.client), ("udp", at_backend(socket.local())));
            // What is not a Service's goes on as ever.
            assert_eq!(Tcp::connect(client(&asking), tcp.address).unwrap().ask().unwrap().name, "tcp");
        }
    }
    assert_eq!(cluster.count(Counter::Untranslated), 0);
    assert_eq!(cluster.count(Counter::MissingStep), 0);
}

#[test]
fn pods_reach_cluster_ips_with_near_and_far_backends_over_the_overlay() {
    cluster_ip_from_pods(Path::Overlay);
}

#[test]
fn pods_reach_cluster_ips_with_near_and_far_backends_over_native_routes() {
    cluster_ip_from_pods(Path::Native);
}

#[test]
fn a_pod_that_asks_its_own_service_may_be_given_itself() {
    let mut cluster = Cluster::new(Path::Overlay);
    let pod = cluster.nodes[0].pod();
    for family in BOTH {
        let tcp = Server::tcp(client(&pod), "itself", pod.addresses[family]);
        let udp = Server::udp(client(&pod), "itself", pod.addresses[family]);
        let node = cluster.nodes[0].addresses[family];
        cluster.serve(
            &service(Protocol::Tcp, &[tcp.address]).cluster_ip(family, 80).node_port(family, NODE_PORT),
        );
        cluster.serve(&service(Protocol::Udp, &[udp.address]).cluster_ip(family, 80));
        for target in [at(CLUSTER_IP[family], 80), cluster.node_port(0, family)] {
            let answer = Tcp::connect(client(&pod), target).unwrap().ask().unwrap();
            assert_eq!((answer.name.as_str(), answer.client.ip()), ("itself", node));
        }
        let answer = eventually("UDP", || Udp::connect(client(&pod), at(CLUSTER_IP[family], 80)).ask());
        assert_eq!((answer.name.as_str(), answer.client.ip()), ("itself", node));
    }
}

#[test]
fn a_client_may_be_given_itself_also_by_another_node() {
    for path in [Path::Overlay, Path::Native] {
        let mut cluster = Cluster::new(path);
        let pod = cluster.nodes[0].pod();
        for family in BOTH {
            let by = cluster.nodes[1].addresses[family];
            let places = [
                (client(&pod), pod.addresses[family]),
                (&cluster.nodes[0].netns.0, cluster.nodes[0].addresses[family]),
            ];
            let servers = places.map(|(netns, ip)| Server::tcp(netns, "itself", ip));
            for (place, server) in servers.iter().enumerate() {
                cluster.serve(&service(Protocol::Tcp, &[server.address]).node_port(family, NODE_PORT));
                let from = if place == 0 { client(&pod) } else { &cluster.nodes[0].netns.0 };
                let connection = Tcp::connect(from, cluster.node_port(1, family)).unwrap();
                let (answer, length) = connection.ask_for(100_000).unwrap();
                assert_eq!((answer.client.ip(), length), (by, 100_000), "{place} by {path:?}");
            }
        }
    }
}

#[test]
fn pods_are_refused_what_the_service_lacks_and_dropped_where_the_rules_say_so() {
    let mut cluster = Cluster::new(Path::Overlay);
    let pod = cluster.nodes[0].pod();
    for family in BOTH {
        let vip = CLUSTER_IP[family];
        let within = std::time::Duration::from_millis(400);
        let connect = |to| Tcp::connect_within(client(&pod), to, within).map(drop).unwrap_err().kind();
        assert_eq!(connect(at(vip, 80)), ErrorKind::TimedOut, "nobody's address");
        cluster.serve(&service(Protocol::Tcp, &[]).cluster_ip(family, 80));
        cluster.serve(&service(Protocol::Udp, &[]).cluster_ip(family, 80));
        let dropping = service(Protocol::Tcp, &[]).named("dropping").cluster_ip(family, 82);
        cluster.serve(&dropping.when_empty(WhenEmpty::Drop));
        assert_eq!(connect(at(vip, 82)), ErrorKind::TimedOut, "the rules say drop");
        let node = &cluster.nodes[0].netns.0;
        let dropped = Tcp::connect_within(node, at(vip, 82), within).map(drop).unwrap_err();
        assert_eq!(dropped.kind(), ErrorKind::TimedOut, "for the node's processes too");
        for port in [80, 81] {
            assert_eq!(connect(at(vip, port)), ErrorKind::ConnectionRefused);
            let refused = Udp::connect(client(&pod), at(vip, port)).ask().unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "port unreachable: {refused}");
        }
    }
}

#[test]
fn what_the_nodes_processes_send_to_cluster_ips_untranslated_is_translated_in_the_overlay_device() {
    for path in [Path::Overlay, Path::Native] {
        let mut cluster = Cluster::new(path);
        let (near, far) = (cluster.nodes[0].pod(), cluster.nodes[1].pod());
        for family in BOTH {
            let vip = at(CLUSTER_IP[family], 53);
            let own = cluster.nodes[0].addresses[family];
            let other = cluster.nodes[1].addresses[family];
            let places = [
                (client(&near), near.addresses[family], own),
                (client(&far), far.addresses[family], own),
                // Itself: only the Service's address brings the answer back through the device.
                (&cluster.nodes[0].netns.0, own, vip.ip()),
                (&cluster.nodes[1].netns.0, other, own),
            ];
            let servers: Vec<_> = places
                .iter()
                .map(|(netns, ip, seen)| {
                    (Server::udp(netns, "udp", *ip), Server::tcp(netns, "tcp", *ip), *seen)
                })
                .collect();
            for (udp, tcp, seen) in &servers {
                cluster.serve(&service(Protocol::Udp, &[udp.address]).cluster_ip(family, 53));
                cluster.serve(&service(Protocol::Tcp, &[tcp.address]).cluster_ip(family, 53));
                let netns = &cluster.nodes[0].netns.0;
                let socket = Udp::connect(netns, vip);
                let answer = eventually(&format!("{} by {path:?}", udp.address), || socket.ask());
                assert_eq!((answer.name.as_str(), answer.client.ip()), ("udp", *seen));
                let connection = Tcp::connect(netns, vip).unwrap();
                assert_eq!(connection.ask_for(100_000).unwrap().1, 100_000);
            }
            let refused = Tcp::connect(&cluster.nodes[0].netns.0, at(CLUSTER_IP[family], 54));
            assert_eq!(refused.map(drop).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        }
    }
}
