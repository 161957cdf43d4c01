//! One source port for a Service and, beside it, for its backend: each is answered by whom it asked.

use std::{
    io::Read as _,
    net::{IpAddr, Shutdown, SocketAddr, UdpSocket},
};

use weft_datapath::Path;
use weft_model::Protocol;
use weft_netns::Netns;

use crate::{
    cluster::{Answer, BOTH, CLUSTER_IP, Cluster, NODE_PORT, Server, Tcp, Udp, client, service},
    support::{DEADLINE, dont_fragment, until},
};

/// A connected UDP socket of this port, which others may have as well.
fn udp(from: &Netns, port: u16, to: SocketAddr) -> Udp {
    use socket2::{Domain, Socket, Type};
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    let socket = from.run(|| Socket::new(Domain::for_address(to), Type::DGRAM, None).unwrap()).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&SocketAddr::new(any, port).into()).unwrap();
    let socket = UdpSocket::from(socket);
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    Udp(socket)
}

/// Asks, and closes until both ends have.
fn ask_and_close(connection: &Tcp) -> Answer {
    let answer = connection.ask().unwrap();
    connection.0.shutdown(Shutdown::Write).unwrap();
    (&connection.0).read_to_end(&mut Vec::new()).unwrap();
    answer
}

#[test]
fn what_asks_a_service_asks_its_backend_from_the_same_port_as_well() {
    for path in [Path::Overlay, Path::Native] {
        let mut cluster = Cluster::of(3, path, false);
        let asking = cluster.nodes[0].pod();
        let backends = [cluster.nodes[0].pod(), cluster.nodes[2].pod()];
        let mut ports = 40_000..;
        for (family, backend) in
            BOTH.into_iter().flat_map(|family| backends.each_ref().map(|one| (family, one)))
        {
            let tcp = Server::tcp(client(backend), "there", backend.addresses[family]);
            let datagrams = Server::udp(client(backend), "there", backend.addresses[family]);
            cluster.serve(
                &service(Protocol::Tcp, &[tcp.address]).cluster_ip(family, 80).node_port(family, NODE_PORT),
            );
            cluster.serve(
                &service(Protocol::Udp, &[datagrams.address])
                    .named("udp")
                    .cluster_ip(family, 80)
                    .node_port(family, NODE_PORT),
            );
            let cluster_ip = SocketAddr::new(CLUSTER_IP[family].parse().unwrap(), 80);
            let services = [cluster_ip, cluster.node_port(1, family), cluster.node_port(2, family)];
            for (from, to) in [client(&asking), &cluster.nodes[0].netns.0]
                .into_iter()
                .flat_map(|from| services.map(|to| (from, to)))
            {
                // One after the other, and both at a time, whichever is first.
                for order in [[to, tcp.address], [tcp.address, to]] {
                    let port = ports.next().unwrap();
                    for to in order {
                        ask_and_close(&Tcp::connect_from(from, port, to).unwrap());
                    }
                    let port = ports.next().unwrap();
                    let both = order.map(|to| Tcp::connect_from(from, port, to).unwrap());
                    for (connection, to) in both.iter().zip(order) {
                        connection
                            .ask()
                            .unwrap_or_else(|error| panic!("{path:?} {to} of {order:?}: {error}"));
                    }
                }
                let port = ports.next().unwrap();
                for to in [datagrams.address, to, datagrams.address, to] {
                    udp(from, port, to).ask().unwrap_or_else(|error| panic!("UDP {path:?} {to}: {error}"));
                }
            }
        }
    }
}

/// One of the two is translated by the client's node and one by another, which need not know of each other.
#[test]
fn a_client_in_the_cluster_asks_two_frontends_of_one_backend_from_the_same_port() {
    for path in [Path::Overlay, Path::Native] {
        let mut cluster = Cluster::of(3, path, false);
        let asking = cluster.nodes[0].pod();
        let backend = cluster.nodes[2].pod();
        let mut ports = 40_000..;
        for family in BOTH {
            let node = &cluster.nodes[2];
            let servers = [
                Server::udp(client(&backend), "there", backend.addresses[family]),
                Server::udp(&node.netns.0, "there", node.addresses[family]),
            ];
            for server in servers {
                cluster.serve(
                    &service(Protocol::Udp, &[server.address])
                        .cluster_ip(family, 80)
                        .node_port(family, NODE_PORT),
                );
                let cluster_ip = SocketAddr::new(CLUSTER_IP[family].parse().unwrap(), 80);
                let all = [cluster_ip, cluster.node_port(1, family), cluster.node_port(2, family)];
                for from in [client(&asking), &cluster.nodes[0].netns.0] {
                    for (one, other) in [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)] {
                        let port = ports.next().unwrap();
                        let both = [all[one], all[other]].map(|to| udp(from, port, to));
                        for socket in both.iter().chain(&both) {
                            socket.ask().unwrap_or_else(|error| {
                                panic!("{path:?} {} and {}: {error}", all[one], all[other])
                            });
                        }
                    }
                }
            }
        }
    }
}

/// Servers that trust such ports (NFS, as exports usually are) see one.
#[test]
fn a_port_of_the_superuser_stays_one() {
    let mut cluster = Cluster::new(Path::Overlay);
    let (asking, backend) = (cluster.nodes[0].pod(), cluster.nodes[1].pod());
    for family in BOTH {
        let server = Server::tcp(client(&backend), "there", backend.addresses[family]);
        cluster.serve(
            &service(Protocol::Tcp, &[server.address]).cluster_ip(family, 80).node_port(family, NODE_PORT),
        );
        let cluster_ip = SocketAddr::new(CLUSTER_IP[family].parse().unwrap(), 80);
        let services = [cluster_ip, cluster.node_port(0, family), cluster.node_port(1, family)];
        for (port, to) in (1021..).zip(services) {
            // Once it is over, its port asks the backend itself.
            for to in [to, server.address] {
                let answer = ask_and_close(&Tcp::connect_from(client(&asking), port, to).unwrap());
                assert_eq!(answer.client.port(), port, "{to}");
            }
        }
    }
}

/// Clients outside keep their port (what they are told of it crosses NAT: STUN), unless they have dealings with the Pod already.
#[test]
fn a_host_outside_asks_a_service_and_its_backend_from_the_same_port() {
    for path in [Path::Overlay, Path::Native] {
        let mut cluster = Cluster::new(path);
        let backend = cluster.nodes[0].pod();
        let mut ports = 40_000..;
        for family in BOTH {
            let pod = Served::start(client(&backend), backend.addresses[family], family);
            pod.by(&mut cluster);
            cluster.route_outside(backend.addresses[family], 0);
            for node in [0, 1] {
                pod.asked_from_outside(&cluster, node, &mut ports);
            }
            // What asks one of the two alone keeps its port.
            for to in [pod.tcp, cluster.node_port(0, family), cluster.node_port(1, family)] {
                let port = ports.next().unwrap();
                let answer = ask_and_close(&Tcp::connect_from(cluster.outside(), port, to).unwrap());
                assert_eq!(answer.client.port(), port, "{to}");
            }
        }
    }
}

/// What the host's stack tells of such packets is told to the socket that sent them.
#[test]
fn a_datagram_that_is_too_large_for_the_pod_is_told_to_who_sent_it() {
    let mut cluster = Cluster::new(Path::Overlay);
    let backend = cluster.nodes[0].pod();
    for (family, headers) in [(0, 28), (1, 48)] {
        let pod = Served::start(client(&backend), backend.addresses[family], family);
        pod.by(&mut cluster);
        cluster.route_outside(backend.addresses[family], 0);
        let sockets = [cluster.node_port(0, family), pod.udp].map(|to| udp(cluster.outside(), 40_000, to));
        for socket in &sockets {
            dont_fragment(&socket.0);
            socket.ask().unwrap();
        }
        let [of_service, direct] = sockets;
        let large = vec![7; 1500 - headers];
        until("the datagram to be refused", || {
            let sent = direct.0.send(&large).map_err(|error| error.raw_os_error());
            assert_eq!(of_service.0.take_error().unwrap().map(|error| error.to_string()), None);
            sent == Err(Some(libc::EMSGSIZE))
        });
    }
}

/// The same of a process of the node itself (`hostNetwork`), which many more can address.
#[test]
fn a_host_outside_asks_a_service_and_the_node_that_is_its_backend_from_the_same_port() {
    for path in [Path::Overlay, Path::Native] {
        let mut cluster = Cluster::new(path);
        let mut ports = 40_000..;
        for family in BOTH {
            let node = &cluster.nodes[0];
            let process = Served::start(&node.netns.0, node.addresses[family], family);
            process.by(&mut cluster);
            for node in [0, 1] {
                process.asked_from_outside(&cluster, node, &mut ports);
            }
        }
    }
}

/// The backend of a Service that has node ports.
struct Served {
    tcp: SocketAddr,
    udp: SocketAddr,
    family: usize,
}

impl Served {
    fn start(netns: &Netns, address: IpAddr, family: usize) -> Served {
        Served {
            tcp: Server::tcp(netns, "there", address).address,
            udp: Server::udp(netns, "there", address).address,
            family,
        }
    }

    fn by(&self, cluster: &mut Cluster) {
        cluster.serve(&service(Protocol::Tcp, &[self.tcp]).node_port(self.family, NODE_PORT));
        cluster.serve(&service(Protocol::Udp, &[self.udp]).named("udp").node_port(self.family, NODE_PORT));
    }

    fn asked_from_outside(&self, cluster: &Cluster, node: usize, ports: &mut impl Iterator<Item = u16>) {
        let (from, to) = (cluster.outside(), cluster.node_port(node, self.family));
        for order in [[to, self.tcp], [self.tcp, to]] {
            let port = ports.next().unwrap();
            for to in order {
                ask_and_close(
                    &Tcp::connect_from(from, port, to).unwrap_or_else(|error| panic!("{to}: {error}")),
                );
            }
            let port = ports.next().unwrap();
            let both = order.map(|to| {
                Tcp::connect_from(from, port, to).unwrap_or_else(|error| panic!("{to} of {order:?}: {error}"))
            });
            for (connection, to) in both.iter().zip(order) {
                let (_, length) =
                    connection.ask_for(100_000).unwrap_or_else(|error| panic!("{to} of {order:?}: {error}"));
                assert_eq!(length, 100_000, "{to} of {order:?}");
            }
        }
        for first in [self.udp, to] {
            let port = ports.next().unwrap();
            let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
            let socket = from.run(|| UdpSocket::bind((any, port)).unwrap()).unwrap();
            socket.set_read_timeout(Some(DEADLINE)).unwrap();
            for to in [first, to, self.udp, to, self.udp] {
                socket.send_to(b"?", to).unwrap();
                let (_, answered) = socket.recv_from(&mut [0; 256]).unwrap();
                assert_eq!(answered, to, "after {first}");
            }
        }
    }
}
