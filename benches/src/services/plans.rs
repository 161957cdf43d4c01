//! Services to be measured, and where from.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path as FilePath,
    sync::Arc,
};

use weft_datapath::Path;
use weft_model::{
    Protocol,
    services::{
        BackendKey, BackendState, Choice, Frontend, FrontendKind, ServiceKey, ServicePortKey,
        ServicePortPlan, WhenEmpty,
    },
};
use weft_netns::{Netlink, netlink::VethSpec};

use crate::topology::{Node, Scratch};

/// Where cluster IPs are taken from: room for 100,000.
pub const RANGES: [&str; 1] = ["10.96.0.0/12"];

/// Many Services, of which one leads to a real backend.
pub struct Services {
    /// Frontend and backends of each.
    pub list: Vec<(Frontend, Vec<BackendKey>)>,
    measured: usize,
}

impl Services {
    /// `count` Services with cluster IPs and so many endpoints each. The middle one is measured.
    pub fn new(count: u32, endpoints: u32, backend: SocketAddr) -> Services {
        Services::measuring(count / 2, count, endpoints, backend)
    }

    /// The same, with the Service that is measured at the end of all lists.
    pub fn last(count: u32, endpoints: u32, backend: SocketAddr) -> Services {
        Services::measuring(count - 1, count, endpoints, backend)
    }

    fn measuring(measured: u32, count: u32, endpoints: u32, backend: SocketAddr) -> Services {
        let list = (0..count)
            .map(|number| {
                let address = Ipv4Addr::from(0x0a60_0000 + 10 + number).into();
                let frontend = Frontend { address, port: 80, kind: FrontendKind::ClusterIp };
                let endpoint = |endpoint: u32| match number == measured {
                    // Every connection to the Service that is measured must be answered.
                    true => BackendKey { address: backend.ip(), port: backend.port() },
                    // One Pod in 250, all over the Pod range, so that endpoints are shared as little as may be.
                    false => BackendKey {
                        address: Ipv4Addr::from(0x0af5_0000 + (number * endpoints + endpoint) % 0xffff)
                            .into(),
                        port: 8000 + (number / 0x8000) as u16,
                    },
                };
                let mut backends: Vec<BackendKey> = (0..endpoints).map(endpoint).collect();
                backends.sort();
                backends.dedup();
                (frontend, backends)
            })
            .collect();
        Services { list, measured: measured as usize }
    }

    /// One Service that is reached from outside.
    pub fn external(frontend: SocketAddr, backend: SocketAddr, kind: FrontendKind) -> Services {
        let frontend = Frontend { address: frontend.ip(), port: frontend.port(), kind };
        let backend = BackendKey { address: backend.ip(), port: backend.port() };
        Services { list: vec![(frontend, vec![backend])], measured: 0 }
    }

    /// Where the Service that is measured is reached.
    pub fn measured(&self) -> SocketAddr {
        let (frontend, _) = &self.list[self.measured];
        SocketAddr::new(frontend.address, frontend.port)
    }

    /// What a node is told of them.
    pub fn plans(&self) -> Vec<(ServicePortKey, ServicePortPlan)> {
        let plan = |(number, (frontend, backends)): (usize, &(Frontend, Vec<BackendKey>))| {
            let choice = Choice { backends: Arc::from(backends.as_slice()), when_empty: WhenEmpty::Reject };
            let key = ServicePortKey {
                service: ServiceKey::new("default", format!("service-{number}")),
                port: "".into(),
                protocol: Protocol::Tcp,
                ipv6: false,
            };
            let plan = ServicePortPlan {
                frontends: vec![*frontend],
                internal: choice.clone(),
                cluster: choice.clone(),
                external: choice,
                known: backends.iter().map(|key| BackendState { key: *key, serving: true }).collect(),
                affinity_seconds: None,
                source_ranges: Vec::new(),
                nobody_else: false,
            };
            (key, plan)
        };
        self.list.iter().enumerate().map(plan).collect()
    }
}

/// A link with nodes on it, and a host outside the cluster.
pub struct Fabric {
    netns: Scratch,
    /// The host, 192.168.1.254.
    pub outside: Scratch,
    bridge: u32,
}

impl Fabric {
    /// A bridge, and the host.
    pub fn new() -> anyhow::Result<Fabric> {
        let (netns, outside) = (Scratch::new()?, Scratch::new()?);
        let mut netlink = Netlink::open_in(&netns.0)?;
        netlink.add_bridge("br0")?;
        let bridge = netlink.link("br0")?.index;
        netlink.set_up(bridge)?;
        // A switch has no netfilter; with br_netfilter loaded the bridge has, and what it takes makes any two ways more alike.
        if FilePath::new("/proc/sys/net/bridge/bridge-nf-call-iptables").exists() {
            netns.program("sysctl -qw net.bridge.bridge-nf-call-iptables=0")?;
        }
        let fabric = Fabric { netns, outside, bridge };
        fabric.plug(&fabric.outside, 254)?;
        Ok(fabric)
    }

    /// A node with the last part of its address.
    pub fn node(&self, number: u8, direct_return: bool) -> anyhow::Result<Node> {
        let netns = Scratch::new()?;
        self.plug(&netns, number)?;
        Node::start_with(netns, number, |settings| {
            settings.direct_return = direct_return;
            Ok(())
        })
    }

    /// Joins a namespace to the link.
    pub fn plug(&self, netns: &Scratch, number: u8) -> anyhow::Result<()> {
        let port = format!("p{number}");
        let mut netlink = Netlink::open_in(&self.netns.0)?;
        netlink.add_veth(&VethSpec {
            name: &port,
            peer_name: "eth0",
            peer_netns: Some(&netns.0),
            mac: None,
            peer_mac: None,
            mtu: None,
        })?;
        let index = netlink.link(&port)?.index;
        netlink.set_master(index, self.bridge)?;
        netlink.set_up(index)?;
        let mut inside = Netlink::open_in(&netns.0)?;
        let uplink = inside.link("eth0")?.index;
        inside.set_up(uplink)?;
        inside.add_address(uplink, IpAddr::from([192, 168, 1, number]), 24)?;
        Ok(())
    }
}

/// The same hosts without Weft or Services: a static route to the Pod, by the entry node if the Pod is not there.
pub struct Routed {
    /// The client's host.
    pub outside: Scratch,
    /// The Pod.
    pub server: Scratch,
    _nodes: Vec<Scratch>,
    _fabric: Fabric,
}

impl Routed {
    /// A Pod with this address, on the node that the client's packets enter by or on the next.
    pub fn new(address: IpAddr, is_local: bool, path: Path) -> anyhow::Result<Routed> {
        let fabric = Fabric::new()?;
        let outside = Scratch::new()?;
        fabric.plug(&outside, 253)?;
        let (entry, other, server) = (Scratch::new()?, Scratch::new()?, Scratch::new()?);
        fabric.plug(&entry, 2)?;
        fabric.plug(&other, 3)?;
        let host = if is_local { &entry } else { &other };
        pod_link(host, &server, address)?;
        for node in [&entry, &other] {
            node.program("sysctl -qw net.ipv4.ip_forward=1")?;
            // The way through the entry node is what is compared, not a shortcut.
            node.program(
                "sysctl -qw net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.eth0.send_redirects=0",
            )?;
            node.program("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth0.rp_filter=0")?;
        }
        if !is_local {
            let [to_other, to_entry] = match path {
                Path::Native => ["192.168.1.3", "192.168.1.2"],
                Path::Overlay => {
                    for (node, own, peer) in [(&entry, 2, 3), (&other, 3, 2)] {
                        node.program(&format!(
                            "ip link add vxlan0 type vxlan id 7 dstport 8472 local 192.168.1.{own} remote 192.168.1.{peer}"
                        ))?;
                        node.program(&format!("ip addr add 10.255.0.{own}/24 dev vxlan0"))?;
                        node.program("ip link set vxlan0 up")?;
                        node.program("sysctl -qw net.ipv4.conf.vxlan0.rp_filter=0")?;
                    }
                    ["10.255.0.3", "10.255.0.2"]
                }
            };
            entry.program(&format!("ip route add {address}/32 via {to_other}"))?;
            other.program(&format!("ip route add 192.168.1.253/32 via {to_entry}"))?;
        }
        outside.program(
            "sysctl -qw net.ipv4.conf.eth0.accept_redirects=0 net.ipv4.conf.all.accept_redirects=0",
        )?;
        outside.program(&format!("ip route add {address}/32 via 192.168.1.2"))?;
        Ok(Routed { outside, server, _nodes: vec![entry, other], _fabric: fabric })
    }
}

/// A Pod on a bare routed veth: its address and a default route in it, a route to it on its host.
pub fn pod_link(host: &Scratch, pod: &Scratch, address: IpAddr) -> anyhow::Result<()> {
    let name = weft_netns::random_name("pod");
    let mut netlink = Netlink::open_in(&host.0)?;
    netlink.add_veth(&VethSpec {
        name: &name,
        peer_name: "eth0",
        peer_netns: Some(&pod.0),
        mac: None,
        peer_mac: None,
        mtu: None,
    })?;
    let index = netlink.link(&name)?.index;
    netlink.set_up(index)?;
    netlink.add_address(index, IpAddr::from([169, 254, 1, 1]), 32)?;
    host.program(&format!("ip route add {address}/32 dev {name}"))?;
    pod.program("ip link set eth0 up")?;
    pod.program(&format!("ip addr add {address}/32 dev eth0"))?;
    pod.program("ip route add 169.254.1.1 dev eth0")?;
    pod.program("ip route add default via 169.254.1.1")?;
    Ok(())
}
