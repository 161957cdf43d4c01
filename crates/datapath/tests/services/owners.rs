//! Flows whose backend lives on, but belongs to another Service by now; and choices that are made again.

use std::net::{IpAddr, SocketAddr};

use weft_abi::{Affinity, AffinityKey, maps};
use weft_datapath::Path;
use weft_model::{Protocol, services::ServicePortPlan};

use crate::{
    cluster::{BOTH, CLUSTER_IP, Cluster, NODE_PORT, Server, Tcp, Udp, Wanted, client, eventually, service},
    stale::{Raw, open},
    support::{Pod, until},
};

/// UDP of the same clients from the same ports, in the order of [`clients`]: who answers each of them.
struct Steady(Vec<Udp>);

/// A Pod and a host outside, at the cluster IP and at a node's port.
fn steady(cluster: &Cluster, pod: &Pod, family: usize) -> Steady {
    let cluster_ip: IpAddr = CLUSTER_IP[family].parse().unwrap();
    let by_node = cluster.node_port(0, family);
    Steady(vec![
        Udp::connect(client(pod), SocketAddr::new(cluster_ip, 53)),
        Udp::connect(&cluster.nodes[0].netns.0, SocketAddr::new(cluster_ip, 53)),
        Udp::connect(cluster.outside(), by_node),
    ])
}

impl Steady {
    fn all_reach(&self, what: &str, name: &str) {
        for (number, socket) in self.0.iter().enumerate() {
            until(&format!("{what}: client {number} to reach {name}"), || {
                socket.ask().is_ok_and(|answer| answer.name == name)
            });
        }
    }
}

fn web(family: usize, backend: SocketAddr) -> Wanted {
    service(Protocol::Udp, &[backend]).cluster_ip(family, 53).node_port(family, NODE_PORT)
}

fn remove(cluster: &mut Cluster, wanted: &Wanted) {
    for node in &mut cluster.nodes {
        let change: Vec<(_, Option<ServicePortPlan>)> = vec![(wanted.key.clone(), None)];
        node.with(|datapath| datapath.change_services(change).map(drop).unwrap());
    }
}

/// A2: datagrams go where the Service is now, whoever else still has the backend that they went to.
#[test]
fn a2_a_flow_leaves_a_backend_that_is_no_longer_its_services() {
    let mut cluster = Cluster::new(Path::Overlay);
    let (asker, backend) = (cluster.nodes[0].pod(), cluster.nodes[1].pod());
    for family in BOTH {
        let address = backend.addresses[family];
        let old = Server::udp(client(&backend), "old", address).address;
        let new = Server::udp(client(&backend), "new", address).address;
        // Keeps the old backend alive.
        let other = service(Protocol::Udp, &[old]).named("other").cluster_ip(family, 54);
        cluster.serve(&other);
        cluster.serve(&web(family, old));
        let clients = steady(&cluster, &asker, family);
        clients.all_reach("at first", "old");

        cluster.serve(&web(family, new));
        clients.all_reach("its selector names another Pod", "new");

        cluster.serve(&web(family, old));
        clients.all_reach("and back", "old");
        // The Service lives on without its addresses, which another one has now.
        let mut without = service(Protocol::Udp, &[old]);
        without.key.ipv6 = family == 1;
        cluster.serve(&without);
        cluster.serve(&web(family, new).named("heir"));
        clients.all_reach("its addresses are another's", "new");

        remove(&mut cluster, &web(family, new).named("heir"));
        for socket in &clients.0 {
            until("nobody to answer for a Service that is gone", || socket.ask().is_err());
        }
        remove(&mut cluster, &without);
        remove(&mut cluster, &other);
    }
}

/// A2: connections stay with their Pod, as long as it is somebody's backend.
#[test]
fn a2_a_connection_stays_with_its_pod() {
    let mut cluster = Cluster::new(Path::Overlay);
    let backend = cluster.nodes[1].pod();
    for family in BOTH {
        let address = backend.addresses[family];
        let [old, new] = ["old", "new"].map(|name| Server::tcp(client(&backend), name, address).address);
        let web = |backend| service(Protocol::Tcp, &[backend]).node_port(family, NODE_PORT);
        cluster.serve(&service(Protocol::Tcp, &[old]).named("other").cluster_ip(family, 81));
        cluster.serve(&web(old));
        let to = cluster.node_port(0, family);
        let connection = eventually("a connection", || Tcp::connect(cluster.outside(), to));
        assert_eq!(connection.ask().unwrap().name, "old");
        cluster.serve(&web(new));
        let another = eventually("another", || Tcp::connect(cluster.outside(), to)?.ask());
        assert_eq!(another.name, "new");
        assert_eq!(connection.ask().unwrap().name, "old");
    }
}

/// A3: another node's port leads to the asker's own node as well.
#[test]
fn a3_another_nodes_port_leads_to_the_askers_own_node() {
    for path in [Path::Overlay, Path::Native] {
        let mut cluster = Cluster::new(path);
        let asker = cluster.nodes[0].pod();
        for family in BOTH {
            let address = cluster.nodes[0].addresses[family];
            let tcp = Server::tcp(&cluster.nodes[0].netns.0, "tcp", address).address;
            let udp = Server::udp(&cluster.nodes[0].netns.0, "udp", address).address;
            cluster.serve(&service(Protocol::Tcp, &[tcp]).node_port(family, NODE_PORT));
            cluster.serve(&service(Protocol::Udp, &[udp]).named("udp").node_port(family, NODE_PORT));
            let to = cluster.node_port(1, family);
            let answer = eventually("TCP", || Tcp::connect(client(&asker), to)?.ask());
            // The answers must come back by the node that was asked.
            assert_eq!((answer.name.as_str(), answer.client.ip()), ("tcp", to.ip()), "{path:?}");
            assert_eq!(eventually("UDP", || Udp::connect(client(&asker), to).ask()).name, "udp", "{path:?}");
        }
    }
}

/// A9: once a client's affinity is over its next choice is free, also where choices are made by a hash.
#[test]
fn a9_affinity_ends_for_clients_outside() {
    let mut cluster = Cluster::new(Path::Overlay);
    let (backend, asker) = (cluster.nodes[1].pod(), cluster.nodes[1].pod());
    for family in BOTH {
        let address = backend.addresses[family];
        let servers = ["a", "b", "c", "d"].map(|name| Server::tcp(client(&backend), name, address).address);
        let mut wanted = service(Protocol::Tcp, &servers).node_port(family, NODE_PORT);
        wanted.plan.affinity_seconds = Some(60);
        cluster.serve(&wanted);
        let to = cluster.node_port(0, family);
        // By another node's port a Pod is a client as any other.
        for from in [cluster.outside(), client(&asker)] {
            let ask = || eventually("an answer", || Tcp::connect(from, to)?.ask()).name;
            let first = ask();
            assert!((0..5).all(|_| ask() == first), "it comes back");
            let mut affinities = open::<AffinityKey, Affinity>(&cluster.nodes[0], maps::AFFINITIES);
            until("another backend to be chosen", || {
                let known: Vec<_> = affinities.iter().filter_map(Result::ok).collect();
                for (key, Raw(affinity)) in known {
                    affinities.insert(key, Raw(Affinity { last_ns: 0, ..affinity }), 0).unwrap();
                }
                ask() != first
            });
        }
    }
}
