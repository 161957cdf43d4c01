//! The candidates: Weft's data plane between namespaces, and the floors and peers it is compared with.

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    path::{Path as FilePath, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};
use ipnet::IpNet;
use weft_datapath::{Datapath, Path, PodSpec, Settings, cgroup, host_interface};
use weft_model::{Masquerade, NodeName, NodePlan, Peer};
use weft_netns::{Netlink, Netns, netlink::VethSpec, random_name};
pub use weft_scratch::Bpffs;

/// A namespace that goes with the value.
pub struct Scratch(pub Netns);

impl Scratch {
    /// A new namespace with loopback up.
    pub fn new() -> anyhow::Result<Scratch> {
        let name = random_name("bench-");
        weft_scratch::netns(&name);
        let scratch = Scratch(Netns::create(&name)?);
        let mut netlink = Netlink::open_in(&scratch.0)?;
        let loopback = netlink.link("lo")?.index;
        netlink.set_up(loopback)?;
        Ok(scratch)
    }

    /// Runs a program inside.
    pub fn program(&self, line: &str) -> anyhow::Result<()> {
        let mut words = line.split_whitespace();
        let mut command = Command::new(words.next().context("no program")?);
        let output = self.0.enter_child(command.args(words))?.output().with_context(|| line.to_owned())?;
        if !output.status.success() {
            bail!("`{line}`: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = Netns::delete(self.0.name()) {
            eprintln!("warning: {error}");
        }
    }
}

/// A cgroup, which this process may be in or not: whether its sockets are Weft's business.
pub struct Cgroup {
    cgroup: weft_scratch::Cgroup,
    /// Where the process is otherwise.
    home: PathBuf,
}

/// The process is in the cgroup as long as this lives.
pub struct Inside<'c>(&'c Cgroup);

impl Cgroup {
    /// A new one below the cgroup2 mount.
    pub fn new() -> anyhow::Result<Cgroup> {
        let mount = cgroup::mount_point()?.context("no cgroup2 is mounted")?;
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default().to_owned();
        Ok(Cgroup { cgroup: weft_scratch::Cgroup::new(), home: mount.join(own) })
    }

    /// Its folder.
    pub fn path(&self) -> &FilePath {
        self.cgroup.path()
    }

    /// Moves this process there.
    pub fn enter(&self) -> anyhow::Result<Inside<'_>> {
        move_to(self.path())?;
        Ok(Inside(self))
    }
}

fn move_to(cgroup: &FilePath) -> anyhow::Result<()> {
    let procs = cgroup.join("cgroup.procs");
    fs::write(&procs, "0").with_context(|| procs.display().to_string())
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        if let Err(error) = move_to(&self.0.home) {
            eprintln!("warning: {error:#}");
        }
    }
}

/// Joins two namespaces by a veth pair and gives each end an address.
pub fn join(one: &Scratch, two: &Scratch, addresses: [IpAddr; 2]) -> anyhow::Result<()> {
    let mut netlink = Netlink::open_in(&one.0)?;
    netlink.add_veth(&VethSpec {
        name: "eth0",
        peer_name: "eth0",
        peer_netns: Some(&two.0),
        mac: None,
        peer_mac: None,
        mtu: None,
    })?;
    for (scratch, address) in [one, two].into_iter().zip(addresses) {
        let mut netlink = Netlink::open_in(&scratch.0)?;
        let index = netlink.link("eth0")?.index;
        netlink.set_up(index)?;
        netlink.add_address(index, address, 24)?;
    }
    Ok(())
}

/// A node with Weft's data plane.
pub struct Node {
    /// Its namespace.
    pub netns: Scratch,
    name: NodeName,
    address: IpAddr,
    range: IpNet,
    bpffs: Bpffs,
    datapath: Option<Datapath>,
    next: u8,
}

impl Node {
    /// A node whose `eth0` is there already.
    pub fn start(netns: Scratch, number: u8) -> anyhow::Result<Node> {
        Node::start_with(netns, number, |_| Ok(()))
    }

    /// The same with other settings.
    pub fn start_with(
        netns: Scratch,
        number: u8,
        change: impl FnOnce(&mut Settings) -> anyhow::Result<()>,
    ) -> anyhow::Result<Node> {
        let bpffs = Bpffs::new();
        let address = IpAddr::from([192, 168, 1, number]);
        let range: IpNet = format!("10.244.{number}.0/24").parse()?;
        let name = NodeName::new(format!("node-{number}"));
        let mut settings = Settings {
            node: name.clone(),
            bpffs: bpffs.path().join("weft"),
            uplink: Some("eth0".to_owned()),
            vxlan_port: 8472,
            service_ranges: Vec::new(),
            cgroup: None,
            direct_return: false,
            open_cluster_ips: false,
            any_hardware: false,
            dns_addresses: Vec::new(),
            dns_questions_of_pod: 0,
            pod_ranges: vec![range],
            node_addresses: vec![address],
        };
        change(&mut settings)?;
        let datapath = netns.0.run(|| Datapath::open(&settings))??;
        Ok(Node { netns, name, address, range, bpffs, datapath: Some(datapath), next: 2 })
    }

    /// Makes the other node known, by one path.
    pub fn meet(&mut self, other: &Node, path: Path) -> anyhow::Result<()> {
        let peer = Peer {
            name: other.name.clone(),
            node_addresses: vec![other.address],
            pod_ranges: vec![other.range],
        };
        self.apply(vec![peer], &BTreeMap::from([(other.name.clone(), path)]))
    }

    /// There is no other node, and so no overlay that would take from its Pods' MTU.
    pub fn alone(&mut self) -> anyhow::Result<()> {
        self.apply(Vec::new(), &BTreeMap::new())
    }

    fn apply(&mut self, peers: Vec<Peer>, paths: &BTreeMap<NodeName, Path>) -> anyhow::Result<()> {
        let plan = NodePlan {
            node: self.name.clone(),
            pod_ranges: vec![self.range],
            peers,
            refused: Vec::new(),
            masquerade: Masquerade::default(),
        };
        self.with(|datapath| datapath.apply(&plan, paths))??;
        Ok(())
    }

    /// Its address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// A Pod: its namespace and its address.
    pub fn pod(&mut self) -> anyhow::Result<(Scratch, IpAddr)> {
        let netns = Scratch::new()?;
        let IpAddr::V4(base) = self.range.network() else { bail!("an IPv4 range") };
        let address = IpAddr::from(std::net::Ipv4Addr::from(u32::from(base) + u32::from(self.next)));
        self.next += 1;
        let spec = PodSpec {
            netns: netns.0.path().to_owned(),
            interface: "eth0".to_owned(),
            host_interface: host_interface(netns.0.name(), "eth0"),
            addresses: vec![address],
            mtu: self.with(|datapath| datapath.mtu().pod)?,
            bandwidth: None,
            port_mappings: Vec::new(),
        };
        self.with(|datapath| datapath.add_pod(&spec))??;
        Ok((netns, address))
    }

    /// Runs something on its data plane, inside its namespace.
    pub fn with<T: Send>(&mut self, task: impl FnOnce(&mut Datapath) -> T + Send) -> anyhow::Result<T> {
        let datapath = self.datapath.as_mut().context("the data plane is closed")?;
        Ok(self.netns.0.run(|| task(datapath))?)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Its descriptors first, then its pins.
        self.datapath = None;
        let _ = &self.bpffs;
    }
}

/// Two nodes as Flannel sets them up: Pods on a bridge, routes over a VXLAN device with permanent neighbours. Returns the
/// namespaces to keep, a Pod of each node, and the second Pod's address.
pub fn kernel_vxlan() -> anyhow::Result<(Vec<Scratch>, Scratch, Scratch, IpAddr)> {
    let (one, two) = (Scratch::new()?, Scratch::new()?);
    join(&one, &two, [IpAddr::from([192, 168, 1, 2]), IpAddr::from([192, 168, 1, 3])])?;
    let mut pods = Vec::new();
    for (node, own, other) in [(&one, 2, 3), (&two, 3, 2)] {
        for line in [
            "sysctl -qw net.ipv4.ip_forward=1".to_owned(),
            format!(
                "ip link add flannel.1 address 02:00:00:00:00:0{own} mtu 1450 type vxlan id 1 local 192.168.1.{own} dev eth0 dstport 8472 nolearning"
            ),
            format!("ip addr add 10.244.{own}.0/32 dev flannel.1"),
            "ip link set flannel.1 up".to_owned(),
            format!("ip route add 10.244.{other}.0/24 via 10.244.{other}.0 dev flannel.1 onlink"),
            format!(
                "ip neigh add 10.244.{other}.0 lladdr 02:00:00:00:00:0{other} dev flannel.1 nud permanent"
            ),
            format!("bridge fdb append 02:00:00:00:00:0{other} dev flannel.1 dst 192.168.1.{other}"),
            "ip link add cni0 mtu 1450 type bridge".to_owned(),
            format!("ip addr add 10.244.{own}.1/24 dev cni0"),
            "ip link set cni0 up".to_owned(),
        ] {
            node.program(&line)?;
        }
        let pod = Scratch::new()?;
        let mut netlink = Netlink::open_in(&node.0)?;
        netlink.add_veth(&VethSpec {
            name: "pod",
            peer_name: "eth0",
            peer_netns: Some(&pod.0),
            mac: None,
            peer_mac: None,
            mtu: Some(1450),
        })?;
        node.program("ip link set pod up master cni0")?;
        pod.program("ip link set eth0 up")?;
        pod.program(&format!("ip addr add 10.244.{own}.2/24 dev eth0"))?;
        pod.program(&format!("ip route add default via 10.244.{own}.1"))?;
        pods.push(pod);
    }
    let (second, first) = (pods.pop().context("two Pods")?, pods.pop().context("two Pods")?);
    Ok((vec![one, two], first, second, IpAddr::from([10, 244, 3, 2])))
}
