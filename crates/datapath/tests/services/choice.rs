//! Which backend a flow from outside is given, and what becomes of its source port.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr, UdpSocket},
};

use aya::maps::{Array, HashMap, Map, MapData};
use weft_abi::{
    Address, BACKEND_TRIES, Backend, FlowKey, Frontend, FrontendKey, ServicePort, maps, spread, spread_again,
};
use weft_datapath::Path;
use weft_model::Protocol;

use crate::{
    cluster::{Answer, BOTH, Cluster, NODE_PORT, Server, answer, client, service},
    stale::{Raw, open},
    support::{DEADLINE, Node},
};

const UDP: u8 = 17;

/// The tables of a node that say which backend a flow is given.
struct Tables {
    frontends: HashMap<MapData, Raw<FrontendKey>, Raw<Frontend>>,
    service_ports: Array<MapData, Raw<ServicePort>>,
    slots: Array<MapData, Raw<u32>>,
    backends: Array<MapData, Raw<Backend>>,
}

impl Tables {
    fn of(node: &Node) -> Tables {
        Tables {
            frontends: open(node, maps::FRONTENDS),
            service_ports: array(node, maps::SERVICE_PORTS),
            slots: array(node, maps::SLOTS),
            backends: array(node, maps::BACKENDS),
        }
    }

    /// The backends that a flow from outside is tried with, in their order.
    fn tried(&self, from: SocketAddr, to: SocketAddr) -> Vec<SocketAddr> {
        let flow = FlowKey {
            source: Address::from(from.ip()),
            source_port_be: from.port().to_be(),
            destination: Address::from(to.ip()),
            destination_port_be: to.port().to_be(),
            protocol: UDP,
            ..FlowKey::default()
        };
        let port_be = flow.destination_port_be;
        let asked = FrontendKey { address: flow.destination, port_be, protocol: UDP, reserved: 0 };
        let Frontend { service_port, .. } = self.frontends.get(&Raw(asked), 0).unwrap().0;
        let slots = self.service_ports.get(&service_port, 0).unwrap().0.outside;
        let backend = |attempt| {
            let number = spread_again(spread(&flow, false), attempt);
            let index = self.slots.get(&(slots.first() + number % slots.count()), 0).unwrap().0;
            let backend = self.backends.get(&index, 0).unwrap().0;
            SocketAddr::new(backend.address.into(), u16::from_be(backend.port_be))
        };
        (0..BACKEND_TRIES).map(backend).collect()
    }
}

fn array<V: weft_abi::Plain>(node: &Node, name: &str) -> Array<MapData, Raw<V>> {
    let data = MapData::from_pin(node.bpffs.path().join("weft/maps").join(name)).unwrap();
    Array::try_from(Map::Array(data)).unwrap()
}

/// One socket of the host outside asks each target once. Every answer is from who was asked.
fn ask(cluster: &Cluster, from: SocketAddr, targets: [SocketAddr; 2]) -> [Answer; 2] {
    let any: IpAddr = if from.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    let socket = cluster.outside().run(|| UdpSocket::bind((any, from.port()))).unwrap().unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    targets.map(|target| {
        socket.send_to(b"?", target).unwrap();
        let mut buffer = [0; 200];
        let (length, who) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!(who, target, "the answer is the one that was asked for");
        answer(&String::from_utf8_lossy(&buffer[..length]))
    })
}

/// Two flows that differ in the node's port alone would be one at a backend. The second goes to another backend and keeps its port;
/// where it is tried with no other (there may be no such flow in these tables), its port is changed.
#[test]
fn a_flow_that_would_be_another_one_at_its_backend_goes_to_the_next_and_keeps_its_port_while_there_is_one() {
    let mut cluster = Cluster::new(Path::Overlay);
    let pods = [cluster.nodes[0].pod(), cluster.nodes[1].pod()];
    for family in BOTH {
        let servers: Vec<_> = (pods.iter().zip(["near", "far"]))
            .map(|(pod, name)| (Server::udp(client(pod), name, pod.addresses[family]).address, name))
            .collect();
        let name = |backend: SocketAddr| servers.iter().find(|(server, _)| *server == backend).unwrap().1;
        let addresses: Vec<_> = servers.iter().map(|(address, _)| *address).collect();
        let wanted = service(Protocol::Udp, &addresses);
        cluster.serve(&wanted.node_port(family, NODE_PORT).node_port(family, NODE_PORT + 1));
        let node = cluster.nodes[0].addresses[family];
        let targets = [SocketAddr::new(node, NODE_PORT), SocketAddr::new(node, NODE_PORT + 1)];
        let tables = Tables::of(&cluster.nodes[0]);
        let (mut kept, mut changed) = (0, 0);
        // Below the ports that sockets are given by themselves.
        for port in 2_000..30_000 {
            let from = SocketAddr::new(cluster.outside_address(family), port);
            let [first, second] = targets.map(|target| tables.tried(from, target));
            if first[0] != second[0] {
                continue;
            }
            let next = second.iter().find(|backend| **backend != first[0]);
            match next {
                Some(_) if kept < 20 => kept += 1,
                None if changed < 5 => changed += 1,
                _ => continue,
            }
            let [one, two] = ask(&cluster, from, targets);
            assert_eq!((one.name.as_str(), one.client), (name(first[0]), from));
            assert_eq!(two.name, name(next.copied().unwrap_or(first[0])), "of {second:?}");
            assert_eq!(
                (two.client.ip(), two.client == from),
                (from.ip(), next.is_some()),
                "{two:?} of {from}"
            );
        }
        assert_eq!(kept, 20, "there are as many such ports");
    }
}

/// The same without a choice among servers: whatever two flows are given, they are two.
#[test]
fn no_two_flows_of_a_client_are_one_at_any_backend() {
    let mut cluster = Cluster::new(Path::Overlay);
    let pods = [cluster.nodes[0].pod(), cluster.nodes[1].pod()];
    for family in BOTH {
        let servers: Vec<_> = (pods.iter().zip(["near", "far"]))
            .map(|(pod, name)| Server::udp(client(pod), name, pod.addresses[family]).address)
            .collect();
        let wanted = service(Protocol::Udp, &servers);
        cluster.serve(&wanted.node_port(family, NODE_PORT).node_port(family, NODE_PORT + 1));
        let target = |node: usize, port| SocketAddr::new(cluster.nodes[node].addresses[family], port);
        for port in 2_000..2_020 {
            let from = SocketAddr::new(cluster.outside_address(family), port);
            let by_one = ask(&cluster, from, [target(0, NODE_PORT), target(0, NODE_PORT + 1)]);
            let by_other = ask(&cluster, from, [target(1, NODE_PORT), target(1, NODE_PORT + 1)]);
            let seen: BTreeSet<Answer> = by_one.into_iter().chain(by_other).collect();
            assert_eq!(seen.len(), 4, "{seen:?}");
        }
    }
}
