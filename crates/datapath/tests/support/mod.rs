//! Nodes and Pods in throw-away namespaces: real kernel, real packets.

#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod answerer;
pub mod service;

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
    time::Duration,
};

use ipnet::IpNet;
use weft_datapath::{Applied, Datapath, Path, PodSpec, Settings, host_interface};
use weft_model::{Masquerade, NodeName, NodePlan, Peer};
use weft_netns::{
    Netlink, Netns,
    netlink::{RouteSpec, VethSpec},
};
pub use weft_scratch::{Bpffs, Scratch};

pub const DEADLINE: Duration = Duration::from_secs(5);

/// Nodes on one link.
pub struct Fabric {
    pub netns: Scratch,
    bridge: u32,
}

impl Fabric {
    pub fn new() -> Fabric {
        let netns = Scratch::new("t-fab-");
        let mut netlink = Netlink::open_in(&netns.0).unwrap();
        netlink.add_bridge("br0").unwrap();
        let bridge = netlink.link("br0").unwrap().index;
        netlink.set_up(bridge).unwrap();
        for (address, bits) in [("192.168.1.1", 24), ("fd00:192:168:1::1", 64)] {
            netlink.add_address(bridge, address.parse().unwrap(), bits).unwrap();
        }
        Fabric { netns, bridge }
    }

    /// From now on the link drops what comes from Pod addresses, as clouds do.
    pub fn drop_pod_addresses(&self) {
        let rules = "table bridge weft_test { chain forward { type filter hook forward priority 0; \
                     ip saddr 10.244.0.0/16 drop; ip6 saddr fd00:10:244::/48 drop; }; }";
        let mut nft = std::process::Command::new("nft");
        let output =
            self.netns.0.enter_child(nft.arg(rules)).unwrap().output().expect("nft: cargo xtask setup");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// From now on nothing comes from or goes to the node with this number.
    pub fn cut_off(&self, number: u8) {
        let mut netlink = Netlink::open_in(&self.netns.0).unwrap();
        let port = netlink.link(&format!("n{number}")).unwrap().index;
        netlink.set_down(port).unwrap();
    }

    /// Lowers the MTU of the link between the nodes, which their uplinks do not learn.
    pub fn set_mtu(&self, mtu: u32) {
        let mut netlink = Netlink::open_in(&self.netns.0).unwrap();
        for link in netlink.links().unwrap().iter().filter(|link| link.kind == "veth") {
            netlink.set_mtu(link.index, mtu).unwrap();
        }
    }

    pub fn node(&self, number: u8) -> Node {
        let mut node = self.bare_node(number);
        node.start();
        node
    }

    /// A node without a data plane yet. The kernel takes long to verify one: with what it is to have, it is started once.
    pub fn bare_node(&self, number: u8) -> Node {
        let netns = Scratch::new("t-node-");
        let mut fabric = Netlink::open_in(&self.netns.0).unwrap();
        let port = format!("n{number}");
        fabric
            .add_veth(&VethSpec {
                name: &port,
                peer_name: "eth0",
                peer_netns: Some(&netns.0),
                mac: None,
                peer_mac: None,
                mtu: None,
            })
            .unwrap();
        let index = fabric.link(&port).unwrap().index;
        fabric.set_master(index, self.bridge).unwrap();
        fabric.set_up(index).unwrap();
        let mut netlink = Netlink::open_in(&netns.0).unwrap();
        let uplink = netlink.link("eth0").unwrap().index;
        let loopback = netlink.link("lo").unwrap().index;
        netlink.set_up(loopback).unwrap();
        netlink.set_up(uplink).unwrap();
        let addresses: Vec<IpAddr> = vec![
            format!("192.168.1.{number}").parse().unwrap(),
            format!("fd00:192:168:1::{number}").parse().unwrap(),
        ];
        netlink.add_address(uplink, addresses[0], 24).unwrap();
        netlink.add_address(uplink, addresses[1], 64).unwrap();
        netlink.set_route(&RouteSpec::default_via("192.168.1.1".parse().unwrap(), uplink)).unwrap();
        netlink.set_route(&RouteSpec::default_via("fd00:192:168:1::1".parse().unwrap(), uplink)).unwrap();
        let pod_ranges = vec![
            format!("10.244.{number}.0/24").parse().unwrap(),
            format!("fd00:10:244:{number}::/64").parse().unwrap(),
        ];
        Node {
            name: NodeName::new(format!("node-{number}")),
            netns,
            bpffs: Bpffs::new(),
            addresses,
            pod_ranges,
            datapath: None,
            next: 2,
        }
    }
}

/// A host behind the fabric, over a link with a smaller MTU.
pub fn host_behind(fabric: &Fabric, mtu: u32) -> Scratch {
    let host = Scratch::new("t-far-");
    let mut router = Netlink::open_in(&fabric.netns.0).unwrap();
    let (name, peer_name, peer_netns) = ("far", "eth0", Some(&host.0));
    router
        .add_veth(&VethSpec { name, peer_name, peer_netns, mac: None, peer_mac: None, mtu: Some(mtu) })
        .unwrap();
    let mut netlink = Netlink::open_in(&host.0).unwrap();
    for (side, name, last) in [(&mut router, "far", 1), (&mut netlink, "eth0", 2)] {
        let index = side.link(name).unwrap().index;
        side.set_up(index).unwrap();
        side.add_address(index, format!("198.51.100.{last}").parse().unwrap(), 24).unwrap();
        side.add_address(index, format!("2001:db8::{last}").parse().unwrap(), 64).unwrap();
    }
    let index = netlink.link("eth0").unwrap().index;
    for gateway in ["198.51.100.1", "2001:db8::1"] {
        netlink.set_route(&RouteSpec::default_via(gateway.parse().unwrap(), index)).unwrap();
    }
    fabric
        .netns
        .0
        .run(|| {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
            std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        })
        .unwrap();
    host
}

pub struct Node {
    pub name: NodeName,
    pub netns: Scratch,
    pub bpffs: Bpffs,
    pub addresses: Vec<IpAddr>,
    pub pod_ranges: Vec<IpNet>,
    datapath: Option<Datapath>,
    next: u8,
}

impl Node {
    pub fn settings(&self) -> Settings {
        Settings {
            node: self.name.clone(),
            bpffs: self.bpffs.path().join("weft"),
            uplink: None,
            vxlan_port: 8472,
            service_ranges: Vec::new(),
            dns_addresses: Vec::new(),
            dns_questions_of_pod: 0,
            cgroup: None,
            direct_return: false,
            open_cluster_ips: false,
            any_hardware: false,
            pod_ranges: self.pod_ranges.clone(),
            node_addresses: self.addresses.clone(),
        }
    }

    pub fn start(&mut self) {
        self.start_with(self.settings());
    }

    pub fn start_with(&mut self, settings: Settings) {
        self.datapath = Some(self.netns.0.run(|| Datapath::open(&settings).unwrap()).unwrap());
    }

    /// What a killed agent leaves: everything in the kernel, nothing in the process.
    pub fn stop(&mut self) {
        self.datapath = None;
    }

    /// Runs something on this node's data plane, inside its namespace.
    pub fn with<T: Send>(&mut self, task: impl FnOnce(&mut Datapath) -> T + Send) -> T {
        let datapath = self.datapath.as_mut().unwrap();
        self.netns.0.run(|| task(datapath)).unwrap()
    }

    pub fn plan(&self, others: &[Peer]) -> NodePlan {
        NodePlan {
            node: self.name.clone(),
            pod_ranges: self.pod_ranges.clone(),
            refused: Vec::new(),
            peers: others.to_vec(),
            masquerade: Masquerade {
                sources: self.pod_ranges.clone(),
                exempt: ["10.244.0.0/16", "192.168.1.2/31", "fd00:10:244::/48", "fd00:192:168:1::2/127"]
                    .iter()
                    .map(|text| text.parse().unwrap())
                    .collect(),
            },
        }
    }

    /// Writes the plan for a cluster of this node and the others; says what it wrote.
    pub fn join(&mut self, others: &[&Node], path: Path) -> Applied {
        let plan = self.plan(&others.iter().map(|other| other.as_peer()).collect::<Vec<_>>());
        let paths: BTreeMap<NodeName, Path> = others.iter().map(|other| (other.name.clone(), path)).collect();
        self.with(|datapath| datapath.apply(&plan, &paths).unwrap())
    }

    pub fn as_peer(&self) -> Peer {
        Peer {
            name: self.name.clone(),
            node_addresses: self.addresses.clone(),
            pod_ranges: self.pod_ranges.clone(),
        }
    }

    pub fn pod(&mut self) -> Pod {
        self.pod_like(|_| {})
    }

    pub fn pod_like(&mut self, change: impl FnOnce(&mut PodSpec)) -> Pod {
        let netns = Scratch::new("t-pod-");
        let number = self.next;
        self.next += 1;
        let addresses: Vec<IpAddr> = self
            .pod_ranges
            .iter()
            .map(|range| match range.network() {
                IpAddr::V4(base) => {
                    IpAddr::from(std::net::Ipv4Addr::from(u32::from(base) + u32::from(number)))
                }
                IpAddr::V6(base) => {
                    IpAddr::from(std::net::Ipv6Addr::from(u128::from(base) + 16 + u128::from(number)))
                }
            })
            .collect();
        let mut spec = PodSpec {
            netns: netns.0.path().to_owned(),
            interface: "eth0".to_owned(),
            host_interface: host_interface(netns.0.name(), "eth0"),
            addresses: addresses.clone(),
            mtu: self.with(|datapath| datapath.mtu().pod),
            bandwidth: None,
            port_mappings: Vec::new(),
        };
        change(&mut spec);
        self.with(|datapath| datapath.add_pod(&spec).unwrap());
        Pod { netns, addresses, spec }
    }

    pub fn drops(&mut self, counter: weft_datapath::Counter) -> u64 {
        let counters = self.with(|datapath| datapath.counters().unwrap());
        counters.iter().find(|(found, _)| *found == counter).unwrap().1
    }
}

pub struct Pod {
    pub netns: Scratch,
    pub addresses: Vec<IpAddr>,
    pub spec: PodSpec,
}

impl Pod {
    pub fn v4(&self) -> IpAddr {
        self.addresses[0]
    }

    pub fn v6(&self) -> IpAddr {
        self.addresses[1]
    }
}

/// Waits for a condition.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + DEADLINE;
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "waited for: {what}");
        std::thread::yield_now();
    }
}

/// Connects over TCP from one namespace to an address that is served in another for this one call. Returns the source
/// address that the server saw.
pub fn tcp(from: &Netns, to: &Netns, address: IpAddr) -> Result<IpAddr, std::io::Error> {
    let listener = to.run(|| TcpListener::bind((address, 0))).unwrap()?;
    let target = listener.local_addr()?;
    let server = std::thread::spawn(move || -> std::io::Result<IpAddr> {
        let (mut stream, peer) = listener.accept()?;
        stream.write_all(b"weft")?;
        Ok(peer.ip())
    });
    let client = from.run(|| TcpStream::connect_timeout(&target, DEADLINE)).unwrap();
    match client {
        Ok(mut stream) => {
            stream.set_read_timeout(Some(DEADLINE))?;
            let mut greeting = String::new();
            stream.read_to_string(&mut greeting)?;
            assert_eq!(greeting, "weft");
            server.join().unwrap()
        }
        Err(error) => {
            // Wakes the server up from inside its own namespace.
            let _ = to.run(|| TcpStream::connect_timeout(&target, DEADLINE)).unwrap();
            let _ = server.join();
            Err(error)
        }
    }
}

/// Sends one UDP packet with `payload` bytes and don't-fragment set. Returns the source that the receiver saw.
pub fn udp(from: &Netns, to: &Netns, address: IpAddr, payload: usize) -> Result<IpAddr, std::io::Error> {
    let server = to.run(|| UdpSocket::bind((address, 0))).unwrap()?;
    server.set_read_timeout(Some(Duration::from_millis(800)))?;
    let target = server.local_addr()?;
    from.run(|| send_unfragmented(target, payload)).unwrap()?;
    let mut buffer = vec![0; 65_535];
    let (length, peer) = server.recv_from(&mut buffer)?;
    assert_eq!(length, payload);
    Ok(peer.ip())
}

fn send_unfragmented(target: SocketAddr, payload: usize) -> std::io::Result<()> {
    let any: IpAddr = if target.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    let socket = UdpSocket::bind((any, 0))?;
    dont_fragment(&socket);
    socket.send_to(&vec![7; payload], target)?;
    Ok(())
}

/// From now on nothing of this socket is sent in fragments.
pub fn dont_fragment(socket: &UdpSocket) {
    let (level, name) = if socket.local_addr().unwrap().is_ipv4() {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER)
    };
    set_option(socket.as_fd(), level, name, &libc::IP_PMTUDISC_DO.to_ne_bytes());
}

/// From now on each IPv4 header of this socket has options (RFC 791 section 3.1), that say nothing.
pub fn header_options(socket: BorrowedFd<'_>) {
    const IP_OPTIONS: i32 = 4;
    set_option(socket, libc::IPPROTO_IP, IP_OPTIONS, &[1, 1, 1, 0]);
}

fn set_option(socket: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) {
    // SAFETY: the option's value outlives the call and its length is given.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast(), value.len() as u32)
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// A VXLAN packet (RFC 7348) of some network identifier around an IPv4 UDP packet.
pub fn tunnelled(vni: u8, source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let octets = |address: SocketAddr| match address.ip() {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(_) => panic!("IPv4"),
    };
    let udp_length = u16::try_from(8 + payload.len()).unwrap();
    let mut ip = vec![0x45, 0];
    ip.extend((udp_length + 20).to_be_bytes());
    ip.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    ip.extend(octets(source));
    ip.extend(octets(destination));
    let sum = ip.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u32>();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut packet = vec![8, 0, 0, 0, 0, 0, vni, 0];
    packet.extend([0x02, 0x77, 0x65, 0x66, 0x74, 0x01, 2, 0, 0, 0, 0, 7, 8, 0]);
    packet.extend(ip);
    packet.extend(source.port().to_be_bytes());
    packet.extend(destination.port().to_be_bytes());
    packet.extend(udp_length.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}
