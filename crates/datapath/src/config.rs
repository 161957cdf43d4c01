//! What the data plane is told about its node and about a Pod.

use std::{net::IpAddr, path::PathBuf};

use ipnet::IpNet;
use weft_model::{Bandwidth, NodeName, PortMapping};

/// What the data plane must know about its node.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This node.
    pub node: NodeName,
    /// Folder for pins, on a bpffs; made if its parent is there.
    pub bpffs: PathBuf,
    /// Interface towards the other nodes; absent: the one that has a node address.
    pub uplink: Option<String>,
    /// UDP port of the overlay.
    pub vxlan_port: u16,
    /// Pod ranges of this node.
    pub pod_ranges: Vec<IpNet>,
    /// Addresses of this node.
    pub node_addresses: Vec<IpAddr>,
    /// Ranges of Service addresses.
    pub service_ranges: Vec<IpNet>,
    /// Service addresses whose port 53 sockets of this node answer while there are any: the cluster DNS.
    pub dns_addresses: Vec<IpAddr>,
    /// Questions a second that these sockets are given of each Pod address (connections, over TCP); 0: all.
    pub dns_questions_of_pod: u32,
    /// Sockets of processes in this cgroup and below are connected to Services' backends; absent: only packets are translated.
    pub cgroup: Option<PathBuf>,
    /// Hosts outside may use cluster IPs, by a route through this node.
    pub open_cluster_ips: bool,
    /// Tunnel packets of nodes of the uplink's link may come from any hardware address.
    pub any_hardware: bool,
    /// A backend's node answers clients from outside itself, instead of through the node that they came by.
    pub direct_return: bool,
}

/// A Pod's interface to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSpec {
    /// File of the Pod's network namespace.
    pub netns: PathBuf,
    /// Interface name inside the Pod.
    pub interface: String,
    /// Interface name on the host, see [`crate::host_interface`].
    pub host_interface: String,
    /// Addresses of the Pod, one a family.
    pub addresses: Vec<IpAddr>,
    /// MTU of the Pod's interface, in bytes.
    pub mtu: u32,
    /// Rate limits, if any.
    pub bandwidth: Option<Bandwidth>,
    /// Ports of the node that lead to this Pod.
    pub port_mappings: Vec<PortMapping>,
}
