//! Two nodes that serve Services, Pods on both, and a host outside. No socket hooks: everything goes packet by packet.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    sync::Arc,
    thread,
    time::Duration,
};

use aya::maps::{Array, Map, MapData};
use weft_datapath::{Counter, Path, Settings};
use weft_model::{
    Protocol,
    services::{Frontend, FrontendKind, ServiceKey, ServicePortKey, ServicePortPlan, WhenEmpty},
};
use weft_netns::{Netlink, Netns, netlink::RouteSpec};

use crate::support::{DEADLINE, Fabric, Node, Pod, service::service_port};

/// Addresses of a Service, one a family.
pub const CLUSTER_IP: [&str; 2] = ["10.96.0.10", "fd00:10:96::10"];
/// Addresses of the Service that sockets of nodes answer.
pub const DNS_IP: [&str; 2] = ["10.96.0.53", "fd00:10:96::53"];
/// Addresses on the nodes' link that no host has.
pub const BALANCER: [&str; 2] = ["192.168.1.200", "fd00:192:168:1::200"];
pub const NODE_PORT: u16 = 30080;
pub const BOTH: [usize; 2] = [0, 1];

pub struct Cluster {
    pub fabric: Fabric,
    pub nodes: Vec<Node>,
    kept: Vec<Pod>,
}

impl Cluster {
    pub fn new(path: Path) -> Cluster {
        Cluster::of(2, path, false)
    }

    pub fn of(nodes: u8, path: Path, direct_return: bool) -> Cluster {
        let fabric = Fabric::new();
        let mut cluster = Cluster {
            nodes: (0..nodes).map(|number| fabric.bare_node(number + 2)).collect(),
            fabric,
            kept: Vec::new(),
        };
        for node in &mut cluster.nodes {
            start(node, direct_return);
        }
        cluster.take(path);
        for node in &mut cluster.nodes {
            node.with(|datapath| datapath.replace_services(Vec::new()).unwrap());
        }
        cluster
    }

    /// From here on, the nodes send each other packets this way.
    pub fn take(&mut self, path: Path) {
        let peers: Vec<_> = self.nodes.iter().map(Node::as_peer).collect();
        for node in &mut self.nodes {
            let others: Vec<_> = peers.iter().filter(|peer| peer.name != node.name).cloned().collect();
            let paths = others.iter().map(|other| (other.name.clone(), path)).collect();
            let plan = node.plan(&others);
            node.with(|datapath| datapath.apply(&plan, &paths).map(|_| ()).unwrap());
        }
    }

    /// What an upgrade does: another process, with programs of another build.
    pub fn restart_with_other_programs(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        node.stop();
        let meta = MapData::from_pin(node.bpffs.path().join("weft/maps/META")).unwrap();
        let mut meta: Array<_, u64> = Map::Array(meta).try_into().unwrap();
        meta.set(1, 7, 0).unwrap();
        start(node, false);
    }

    /// The host outside, which is the nodes' gateway as well.
    pub fn outside(&self) -> &Netns {
        &self.fabric.netns.0
    }

    pub fn outside_address(&self, family: usize) -> IpAddr {
        ["192.168.1.1", "fd00:192:168:1::1"][family].parse().unwrap()
    }

    /// Leads the host outside to an address by way of a node.
    pub fn route_outside(&self, to: IpAddr, node: usize) {
        let mut netlink = Netlink::open_in(self.outside()).unwrap();
        let bridge = netlink.link("br0").unwrap().index;
        let gateway = self.nodes[node].addresses[usize::from(to.is_ipv6())];
        let bits = if to.is_ipv4() { 32 } else { 128 };
        let route = RouteSpec { gateway: Some(gateway), ..RouteSpec::new(to, bits, bridge) };
        netlink.set_route(&route).unwrap();
    }

    /// Has every node serve it.
    pub fn serve(&mut self, wanted: &Wanted) {
        for node in &mut self.nodes {
            let mut wanted = wanted.clone();
            for (family, port) in wanted.node_ports.clone() {
                wanted.frontend(SocketAddr::new(node.addresses[family], port), FrontendKind::NodePort);
            }
            let change = vec![(wanted.key, Some(wanted.plan))];
            let written = node.with(|datapath| datapath.change_services(change).unwrap());
            assert_eq!(written.refused, []);
        }
    }

    /// The Pod ends with the cluster.
    pub fn keep(&mut self, pod: Pod) {
        self.kept.push(pod);
    }

    pub fn node_port(&self, node: usize, family: usize) -> SocketAddr {
        SocketAddr::new(self.nodes[node].addresses[family], NODE_PORT)
    }

    pub fn count(&mut self, counter: Counter) -> u64 {
        self.nodes.iter_mut().map(|node| node.drops(counter)).sum()
    }
}

fn start(node: &mut Node, direct_return: bool) {
    let settings = settings(node, direct_return);
    node.start_with(settings);
}

/// Those of a node that serves Services.
pub fn settings(node: &Node, direct_return: bool) -> Settings {
    let mut settings = node.settings();
    settings.service_ranges = vec!["10.96.0.0/16".parse().unwrap(), "fd00:10:96::/112".parse().unwrap()];
    settings.dns_addresses = DNS_IP.iter().map(|address| address.parse().unwrap()).collect();
    settings.direct_return = direct_return;
    settings
}

/// A Service port to be served.
#[derive(Clone)]
pub struct Wanted {
    pub key: ServicePortKey,
    pub plan: ServicePortPlan,
    node_ports: Vec<(usize, u16)>,
}

pub fn service(protocol: Protocol, backends: &[SocketAddr]) -> Wanted {
    let (key, plan) = service_port(protocol, backends);
    Wanted { key, plan, node_ports: Vec::new() }
}

impl Wanted {
    pub fn named(mut self, name: &str) -> Wanted {
        self.key.service = ServiceKey::new("default", name);
        self
    }

    fn frontend(&mut self, address: SocketAddr, kind: FrontendKind) {
        self.plan.frontends.push(Frontend { address: address.ip(), port: address.port(), kind });
        self.plan.frontends.sort();
    }

    pub fn at(mut self, address: SocketAddr, kind: FrontendKind) -> Wanted {
        self.key.ipv6 = address.is_ipv6();
        self.frontend(address, kind);
        self
    }

    pub fn cluster_ip(self, family: usize, port: u16) -> Wanted {
        self.at(SocketAddr::new(CLUSTER_IP[family].parse().unwrap(), port), FrontendKind::ClusterIp)
    }

    pub fn balancer(self, family: usize, port: u16) -> Wanted {
        self.at(SocketAddr::new(BALANCER[family].parse().unwrap(), port), FrontendKind::LoadBalancer)
    }

    /// On every node's own address.
    pub fn node_port(mut self, family: usize, port: u16) -> Wanted {
        self.key.ipv6 = family == 1;
        self.node_ports.push((family, port));
        self
    }

    /// What becomes of connections where there is no backend.
    pub fn when_empty(mut self, when_empty: WhenEmpty) -> Wanted {
        for choice in [&mut self.plan.internal, &mut self.plan.cluster, &mut self.plan.external] {
            choice.when_empty = when_empty;
        }
        self
    }

    /// Only these are given to new connections; the others end.
    pub fn only(mut self, backends: &[SocketAddr]) -> Wanted {
        let keys = service(self.key.protocol, backends).plan.internal.backends;
        for choice in [&mut self.plan.internal, &mut self.plan.cluster, &mut self.plan.external] {
            choice.backends = Arc::clone(&keys);
        }
        self
    }
}

/// A server that answers every line, or datagram, with its name and the client that it sees.
pub struct Server {
    pub address: SocketAddr,
}

impl Server {
    pub fn tcp(netns: &Netns, name: &'static str, ip: IpAddr) -> Server {
        let listener = netns.run(|| TcpListener::bind((ip, 0))).unwrap().unwrap();
        let server = Server { address: listener.local_addr().unwrap() };
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                thread::spawn(move || {
                    let Ok(peer) = stream.peer_addr() else { return };
                    for line in BufReader::new(&stream).lines() {
                        let Ok(line) = line else { return };
                        // As much as was asked for.
                        let length = line.parse().unwrap_or(0);
                        if writeln!(&stream, "{name} {peer} {}", "x".repeat(length)).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        server
    }

    pub fn udp(netns: &Netns, name: &'static str, ip: IpAddr) -> Server {
        let socket = netns.run(|| UdpSocket::bind((ip, 0))).unwrap().unwrap();
        let server = Server { address: socket.local_addr().unwrap() };
        thread::spawn(move || {
            let mut buffer = vec![0; 65_535];
            while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                let mut answer = format!("{name} {peer} ").into_bytes();
                // As long as what was asked.
                answer.resize(length.max(answer.len()), b'x');
                let _ = socket.send_to(&answer, peer);
            }
        });
        server
    }
}

/// Who answered, and whom it saw.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Answer {
    pub name: String,
    pub client: SocketAddr,
}

pub fn answer(text: &str) -> Answer {
    let mut words = text.split(' ');
    let name = words.next().unwrap().to_owned();
    Answer { name, client: words.next().unwrap().parse().unwrap() }
}

/// A connection of a client.
pub struct Tcp(pub TcpStream);

impl Tcp {
    pub fn connect(from: &Netns, to: SocketAddr) -> io::Result<Tcp> {
        Tcp::connect_within(from, to, DEADLINE)
    }

    pub fn connect_within(from: &Netns, to: SocketAddr, within: Duration) -> io::Result<Tcp> {
        let stream = from.run(|| TcpStream::connect_timeout(&to, within)).unwrap()?;
        stream.set_read_timeout(Some(DEADLINE))?;
        Ok(Tcp(stream))
    }

    /// From a source port of choice, which other connections may have as well.
    pub fn connect_from(from: &Netns, port: u16, to: SocketAddr) -> io::Result<Tcp> {
        use nix::sys::socket::{
            AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
        };
        let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
        let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let stream = from.run(|| -> io::Result<TcpStream> {
            let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
            setsockopt(&socket, sockopt::ReuseAddr, &true)?;
            bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(any, port)))?;
            connect(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
            Ok(TcpStream::from(socket))
        });
        let stream = stream.unwrap()?;
        stream.set_read_timeout(Some(DEADLINE))?;
        Ok(Tcp(stream))
    }

    pub fn ask(&self) -> io::Result<Answer> {
        self.ask_for(0).map(|(answer, _)| answer)
    }

    /// Asks for so many bytes more; says how many came.
    pub fn ask_for(&self, bytes: usize) -> io::Result<(Answer, usize)> {
        writeln!(&self.0, "{bytes}")?;
        let mut line = String::new();
        if BufReader::new(&self.0).read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok((answer(&line), line.matches('x').count()))
    }

    pub fn local(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }
}

/// A connected socket of a client.
pub struct Udp(pub UdpSocket);

impl Udp {
    pub fn connect(from: &Netns, to: SocketAddr) -> Udp {
        let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
        let socket = from.run(|| UdpSocket::bind((any, 0))).unwrap().unwrap();
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
        Udp(socket)
    }

    pub fn ask(&self) -> io::Result<Answer> {
        self.ask_with(1).map(|(answer, _)| answer)
    }

    /// Asks with so many bytes; says how many came back.
    pub fn ask_with(&self, bytes: usize) -> io::Result<(Answer, usize)> {
        self.0.send(&vec![7; bytes])?;
        let mut buffer = vec![0; 65_535];
        let length = self.0.recv(&mut buffer)?;
        Ok((answer(&String::from_utf8_lossy(&buffer[..length])), length))
    }

    pub fn local(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }
}

/// The first packets of a new namespace may find its neighbours unsettled.
pub fn eventually<T>(what: &str, mut task: impl FnMut() -> io::Result<T>) -> T {
    let deadline = std::time::Instant::now() + 2 * DEADLINE;
    loop {
        match task() {
            Ok(done) => return done,
            Err(error) => assert!(std::time::Instant::now() < deadline, "{what}: {error}"),
        }
    }
}

/// What a backend sees of a client in the cluster, if its packets are translated.
pub fn at_backend(client: SocketAddr) -> SocketAddr {
    SocketAddr::new(client.ip(), weft_abi::port_at_backend(client.port()))
}

pub fn client(pod: &Pod) -> &Netns {
    &pod.netns.0
}
