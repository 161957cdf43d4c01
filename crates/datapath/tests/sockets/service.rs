//! A node that serves Services, and servers that say who they are.

use std::{
    io::{BufRead, BufReader, Write},
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    sync::Arc,
    thread,
};

use aya::maps::{HashMap, Map, MapData};
use weft_datapath::{Datapath, InstalledServicePort, ServicesWritten};
use weft_model::{
    Protocol,
    services::{BackendKey, BackendState, Frontend, FrontendKind, ServicePortKey, ServicePortPlan},
};
use weft_netns::random_name;
use weft_scratch::Cgroup;

use crate::support::{Fabric, Node, Pod, service::service_port};

/// Addresses of the Service that sockets of the node answer.
pub const DNS: &str = "10.96.0.53";
pub const DNS6: &str = "fd00:10:96::53";

/// A node with socket hooks on a cgroup of its own.
pub struct Services {
    pub node: Node,
    pub cgroup: Cgroup,
}

impl Services {
    pub fn new(fabric: &Fabric, number: u8) -> Services {
        let mut services = Services { node: fabric.bare_node(number), cgroup: Cgroup::new() };
        services.start();
        services.replace(Vec::new());
        services
    }

    pub fn start(&mut self) {
        let mut settings = self.node.settings();
        settings.cgroup = Some(self.cgroup.path().to_owned());
        settings.service_ranges = vec!["10.96.0.0/16".parse().unwrap(), "fd00:10:96::/112".parse().unwrap()];
        settings.dns_addresses = [DNS, DNS6].map(|address| address.parse().unwrap()).to_vec();
        self.node.start_with(settings);
    }

    pub fn serve(&mut self, wanted: Wanted) {
        let change = vec![(wanted.key, Some(wanted.plan))];
        let written = self.node.with(|datapath| datapath.change_services(change).unwrap());
        assert_eq!(written.refused, []);
    }

    pub fn replace(&mut self, wanted: Vec<Wanted>) -> ServicesWritten {
        let plans = wanted.into_iter().map(|wanted| (wanted.key, wanted.plan)).collect();
        self.node.with(|datapath: &mut Datapath| datapath.replace_services(plans).unwrap())
    }

    /// Connected sockets that the kernel programs remember.
    pub fn remembered_sockets(&self) -> usize {
        let pin = self.node.bpffs.path().join("weft/maps").join(weft_abi::maps::SOCKETS);
        let map = Map::HashMap(MapData::from_pin(pin).unwrap());
        let sockets: HashMap<_, u64, [u8; size_of::<weft_abi::SocketPeer>()]> =
            HashMap::try_from(map).unwrap();
        sockets.keys().map(Result::unwrap).count()
    }

    pub fn installed(&mut self) -> InstalledServicePort {
        self.node.with(|datapath| datapath.services().unwrap()).remove(0)
    }
}

/// A Service port to be served.
#[derive(Clone)]
pub struct Wanted {
    pub key: ServicePortKey,
    pub plan: ServicePortPlan,
}

pub fn plan(protocol: Protocol, backends: &[SocketAddr]) -> Wanted {
    let (key, plan) = service_port(protocol, backends);
    Wanted { key, plan }
}

impl Wanted {
    pub fn frontend(&mut self, address: SocketAddr, kind: FrontendKind) {
        self.plan.frontends.push(Frontend { address: address.ip(), port: address.port(), kind });
    }

    /// The backend ends: new connections go elsewhere.
    pub fn draining(&mut self, backend: SocketAddr) {
        let key = BackendKey { address: backend.ip(), port: backend.port() };
        for choice in [&mut self.plan.internal, &mut self.plan.cluster, &mut self.plan.external] {
            choice.backends = choice.backends.iter().copied().filter(|other| *other != key).collect();
        }
        let mut known = self.plan.known.to_vec();
        known.retain(|state| state.key != key);
        known.push(BackendState { key, serving: true });
        known.sort();
        self.plan.known = Arc::from(known);
    }

    /// The backend ends and answers no longer.
    pub fn not_serving(&mut self, backend: SocketAddr) {
        self.draining(backend);
        let states = self.plan.known.iter().map(|state| {
            let gone = (state.key.address, state.key.port) == (backend.ip(), backend.port());
            BackendState { serving: state.serving && !gone, ..*state }
        });
        self.plan.known = states.collect();
    }
}

/// A server in a Pod. Answers every line, or datagram, with its name and the client that it sees.
pub struct Server {
    pub name: String,
    pub address: SocketAddr,
}

impl Server {
    pub fn tcp(pod: &Pod, ip: IpAddr) -> Server {
        Server::tcp_at(pod, SocketAddr::new(ip, 0))
    }

    pub fn tcp_at(pod: &Pod, address: SocketAddr) -> Server {
        let listener = pod.netns.0.run(|| TcpListener::bind(address)).unwrap().unwrap();
        let server = Server { name: random_name("server-"), address: listener.local_addr().unwrap() };
        let name = server.name.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let name = name.clone();
                thread::spawn(move || {
                    let peer = stream.peer_addr().unwrap();
                    for line in BufReader::new(&stream).lines() {
                        if line.is_err() || writeln!(&stream, "{name} {}", peer.ip()).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        server
    }

    pub fn udp(pod: &Pod, ip: IpAddr) -> Server {
        let socket = pod.netns.0.run(|| UdpSocket::bind((ip, 0))).unwrap().unwrap();
        let server = Server { name: random_name("server-"), address: socket.local_addr().unwrap() };
        let name = server.name.clone();
        thread::spawn(move || {
            let mut buffer = [0; 256];
            while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(format!("{name} {peer}").as_bytes(), peer);
            }
        });
        server
    }

    /// What a TCP server says to a client.
    pub fn greeting(&self, client: IpAddr) -> String {
        format!("{} {client}", self.name)
    }
}
