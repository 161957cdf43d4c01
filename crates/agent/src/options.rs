//! The command line of `weft agent`.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use clap::{Args, ValueEnum};
use ipnet::IpNet;
use weft_datapath::probe;
use weft_model::Protocol;

use crate::node::OwnPort;

/// What the agent is told. The defaults are the conventional places of a node.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// How to reach the API server; without it, as a Pod of the cluster does
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// An API server, as https://HOST:PORT; several are asked in turn. In a Pod this is how a node without Services finds it
    #[arg(long = "api-server", value_name = "URL", value_delimiter = ',')]
    pub api_servers: Vec<String>,
    /// In a Pod: a file of the node's kubelet that names the API server, of which the address and the authorities are used; the
    /// first that is there
    #[arg(
        long = "kubelet-kubeconfig",
        value_name = "FILE",
        value_delimiter = ',',
        default_values = ["/etc/kubernetes/kubelet.conf", "/var/lib/kubelet/kubeconfig"]
    )]
    pub kubelet_kubeconfigs: Vec<PathBuf>,
    /// The name of this node's Node object
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub node_name: String,
    /// Where container runtimes look for network configurations
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub cni_conf_dir: PathBuf,
    /// Where container runtimes look for CNI plugins
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    pub cni_bin_dir: PathBuf,
    /// What is handed out is recorded here; a reboot must empty it
    #[arg(long, value_name = "DIR", default_value = "/run/weft")]
    pub state_dir: PathBuf,
    /// Where kernel programs and maps are pinned, on a bpffs
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/weft")]
    pub bpffs: PathBuf,
    /// The cgroup2 folder whose processes are this node's; without it, the cgroup2 mount
    #[arg(long, value_name = "DIR")]
    pub cgroup_root: Option<PathBuf>,
    /// Answer clients from outside straight from their backend's node, instead of through the node that they came by. Only
    /// where the network lets a node send from the addresses of others
    #[arg(long)]
    pub direct_return: bool,
    /// Let hosts outside use cluster IPs by a route through this node. Without it, what comes from outside reaches node ports,
    /// LoadBalancer addresses and external addresses alone
    #[arg(long)]
    pub open_cluster_ips: bool,
    /// Take tunnel packets of nodes of this link from any hardware address. Only where nodes send from other hardware addresses than
    /// they answer ARP with (bonding modes balance-tlb and balance-alb, proxies)
    #[arg(long)]
    pub any_hardware: bool,
    /// The socket for the CNI plugin and for `weft status`
    #[arg(long, value_name = "FILE", default_value = "/run/weft/agent.sock")]
    pub socket: PathBuf,
    /// The interface towards the other nodes; without it, the one that has this node's address
    #[arg(long, value_name = "DEV")]
    pub uplink: Option<String>,
    /// How Pods' packets go to other nodes
    #[arg(long, value_enum, default_value_t)]
    pub routing: Routing,
    /// A range that nodes' Pod ranges are cut from; its addresses are reached without masquerading
    #[arg(long = "pod-cidr", value_name = "CIDR")]
    pub pod_cidrs: Vec<IpNet>,
    /// A range of Service addresses; no Pod range may overlap it. Without any, those of the cluster's ServiceCIDR objects
    #[arg(long = "service-cidr", value_name = "CIDR", value_delimiter = ',')]
    pub service_cidrs: Vec<IpNet>,
    /// An address of the cluster's DNS Service, which this node answers itself; `auto`: those of kube-system/kube-dns, which is
    /// made where it is missing. Without any, this node leaves DNS to others
    #[arg(long = "cluster-dns", value_name = "IP|auto", value_delimiter = ',')]
    pub dns: Vec<DnsAddress>,
    /// The same, once they are known
    #[arg(skip)]
    pub cluster_dns: Vec<IpAddr>,
    /// The kubelet's configuration, which names the DNS Service's address where it has to be made
    #[arg(long, value_name = "FILE", default_value = "/var/lib/kubelet/config.yaml")]
    pub kubelet_config: PathBuf,
    /// The domain of the cluster's names
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Names the DNS servers that are asked for names outside of the cluster
    #[arg(long, value_name = "FILE", default_value = "/etc/resolv.conf")]
    pub resolv_conf: PathBuf,
    /// A range outside the cluster that Pods reach with their own address
    #[arg(long = "non-masquerade-cidr", value_name = "CIDR")]
    pub non_masquerade_cidrs: Vec<IpNet>,
    /// Where readiness, liveness and metrics are served, or `off`
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:9464")]
    pub metrics: Listen,
    /// Where load balancers ask whether this node is fit (`/healthz`, `/livez`), or `off`
    #[arg(long, value_name = "ADDR:PORT", default_value = "[::]:10256")]
    pub healthz: Listen,
    /// Whether Services are reached by their `externalIPs`: whoever may write a Service may name any address there
    #[arg(long, value_enum, value_name = "ON|OFF", default_value_t = Switch::On)]
    pub external_ips: Switch,
    /// UDP port of the overlay
    #[arg(long, value_name = "PORT", default_value_t = 8472)]
    pub vxlan_port: u16,
}

/// Whether something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// It is done
    On,
    /// It is not done
    Off,
}

/// How Pods' packets go to other nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Routing {
    /// Natively where that is proved to work, else through the overlay
    #[default]
    Auto,
    /// Always through the overlay
    Overlay,
    /// Always natively
    Native,
}

/// An address of the cluster's DNS Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsAddress {
    /// It is found.
    Auto,
    /// This one.
    At(IpAddr),
}

/// Where something is served, if anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen(pub Option<SocketAddr>);

// === impl Options ===

impl Options {
    /// Where DEL calls wait that came while the agent was away.
    pub(crate) fn queue_dir(&self) -> PathBuf {
        self.state_dir.join("cni-queue")
    }

    /// Ports of the node that the agent has.
    pub(crate) fn own_ports(&self) -> Vec<OwnPort> {
        let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
        let of = |listen: Listen, what| {
            listen.0.map(|address| OwnPort { port: address.port(), protocol: tcp, what })
        };
        let overlay = OwnPort { port: self.vxlan_port, protocol: udp, what: "the overlay (--vxlan-port)" };
        let probes = OwnPort { port: probe::PORT, protocol: udp, what: "probes between nodes" };
        [
            of(self.healthz, "health checks (--healthz)"),
            of(self.metrics, "metrics (--metrics)"),
            Some(overlay),
            Some(probes),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

// === impl Routing ===

impl From<Routing> for probe::Routing {
    fn from(routing: Routing) -> Self {
        match routing {
            Routing::Auto => Self::Auto,
            Routing::Overlay => Self::Overlay,
            Routing::Native => Self::Native,
        }
    }
}

// === impl DnsAddress ===

impl DnsAddress {
    pub(crate) fn address(self) -> Option<IpAddr> {
        match self {
            Self::Auto => None,
            Self::At(address) => Some(address),
        }
    }
}

impl FromStr for DnsAddress {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "auto" { Ok(Self::Auto) } else { text.parse().map(Self::At) }
    }
}

// === impl Listen ===

impl FromStr for Listen {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" { Ok(Self(None)) } else { text.parse().map(|address| Self(Some(address))) }
    }
}
