//! The Service that sockets of a node answer: cluster DNS.

use std::net::SocketAddr;

use weft_datapath::{Counter, Path};
use weft_model::Protocol;
use weft_netns::Netns;

use crate::{
    cluster::{BOTH, Cluster, DNS_IP, Tcp, Udp, client, eventually, service},
    support::answerer::Answerer,
};

fn dns(family: usize) -> SocketAddr {
    SocketAddr::new(DNS_IP[family].parse().unwrap(), 53)
}

/// A cluster whose DNS Service has a Pod of the second node as its only backend.
fn cluster(path: Path, family: usize) -> (Cluster, Answerer) {
    let mut cluster = Cluster::new(path);
    let far = cluster.nodes[1].pod();
    let at = SocketAddr::new(far.addresses[family], 53);
    let answerer = Answerer::at(client(&far), at, "far");
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        let wanted = service(protocol, &[at]).at(dns(family), weft_model::services::FrontendKind::ClusterIp);
        cluster.serve(&wanted);
    }
    // Its interface lives as long as the cluster.
    cluster.keep(far);
    (cluster, answerer)
}

/// Who answers a new socket of each protocol; both see the client itself.
fn who(from: &Netns, family: usize) -> String {
    let udp = eventually("an answer over UDP", || {
        let socket = Udp::connect(from, dns(family));
        let answer = socket.ask()?;
        assert_eq!(answer.client.port(), socket.local().port());
        Ok(answer)
    });
    let tcp = Tcp::connect(from, dns(family)).unwrap();
    let answer = tcp.ask().unwrap();
    assert_eq!((&answer.name, answer.client.ip()), (&udp.name, udp.client.ip()));
    udp.name
}

fn a_socket_of_the_node_answers_while_there_is_one(path: Path) {
    for family in BOTH {
        let (mut cluster, _far) = cluster(path, family);
        let pod = cluster.nodes[0].pod();
        assert_eq!(who(client(&pod), family), "far");
        // One client keeps its socket all along.
        let patient = Udp::connect(client(&pod), dns(family));
        let translated = cluster.nodes[0].drops(Counter::PacketService);
        {
            let node = &cluster.nodes[0].netns.0;
            let _here = Answerer::at(node, dns(family), "here");
            assert_eq!(who(client(&pod), family), "here");
            let answer = eventually("an answer from here", || patient.ask());
            assert_eq!((answer.name.as_str(), answer.client), ("here", patient.local()));
        }
        assert_eq!(cluster.nodes[0].drops(Counter::PacketService), translated, "nothing was translated");
        let answer = eventually("an answer from another node", || patient.ask());
        assert_eq!((answer.name.as_str(), answer.client), ("far", patient.local()));
        assert_eq!(who(client(&pod), family), "far");
        let _here = Answerer::at(&cluster.nodes[0].netns.0, dns(family), "here");
        assert_eq!(who(client(&pod), family), "here");
    }
}

#[test]
fn a_socket_of_the_node_answers_while_there_is_one_and_others_over_the_overlay_when_not() {
    a_socket_of_the_node_answers_while_there_is_one(Path::Overlay);
}

#[test]
fn a_socket_of_the_node_answers_while_there_is_one_and_others_over_native_routes_when_not() {
    a_socket_of_the_node_answers_while_there_is_one(Path::Native);
}

#[test]
fn a_socket_that_is_bound_to_every_address_is_somebody_elses() {
    for family in BOTH {
        let (mut cluster, _far) = cluster(Path::Native, family);
        let pod = cluster.nodes[0].pod();
        let node = &cluster.nodes[0].netns.0;
        let _stranger = Answerer::everywhere(node, dns(family).ip(), 53, "stranger");
        assert_eq!(who(client(&pod), family), "far");
    }
}

#[test]
fn what_the_node_answers_itself_is_not_tracked_and_ports_that_the_service_has_not_are_refused() {
    for family in BOTH {
        let (mut cluster, _far) = cluster(Path::Native, family);
        let pod = cluster.nodes[0].pod();
        let node = &cluster.nodes[0].netns.0;
        let tracked = || {
            let file = "/proc/thread-self/net/nf_conntrack";
            node.run(|| std::fs::read_to_string(file).unwrap()).unwrap()
        };
        let _here = Answerer::at(node, dns(family), "here");
        assert_eq!(who(client(&pod), family), "here");
        assert!(!tracked().contains("port=53 "), "{}", tracked());
        // What else listens on the node is not reached by this address.
        let _other = Answerer::everywhere(node, dns(family).ip(), 8053, "other");
        let refused = Tcp::connect(client(&pod), SocketAddr::new(dns(family).ip(), 8053)).map(drop);
        assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    }
}
