//! What user space and the kernel programs share: map keys and values, limits, reasons.
//!
//! Every type is plain data without padding, and its size is asserted at compile time: both sides are built from this
//! one source, and a change of any of it raises [`ABI_VERSION`], which is checked against what is pinned.

#![no_std]

mod address;
mod affinity;
mod announced;
mod backend;
mod config;
mod counter;
mod flow;
mod frontend;
mod pod;
mod route;
mod service_port;
mod socket;
mod source_range;

pub use address::Address;
pub use affinity::{Affinity, AffinityKey, AffinityMember, MAX_AFFINITIES, MAX_AFFINITY_MEMBERS};
pub use announced::{Announced, MAX_ANNOUNCED};
pub use backend::{BACKEND_PORT_WORDS, Backend, MAX_BACKENDS, backend_port};
pub use config::Config;
pub use counter::Counter;
pub use flow::{
    BACKEND_TRIES, Flow, FlowKey, Fragment, FragmentKey, MAX_FLOW_CLIENTS, MAX_FLOWS, MAX_FLOWS_ADDRESSED,
    MAX_FLOWS_OF_CLIENT, MAX_FLOWS_OF_OUTSIDER, MAX_FLOWS_OUTSIDE, MAX_FRAGMENTS, Side, port_at_backend,
    port_by_another_node, spread, spread_again,
};
pub use frontend::{Frontend, FrontendKey, MAX_FRONTENDS};
pub use pod::{MAX_PODS, Pod};
pub use route::{MAX_ROUTES, Path, Route};
pub use service_port::{MAX_SERVICE_PORTS, MAX_SLOTS, ServiceCounters, ServicePort, Slots};
pub use socket::{AGENT_PRIORITY, DatagramKey, MAX_DATAGRAM_PEERS, MAX_SOCKETS, SocketPeer};
pub use source_range::{MAX_SOURCE_RANGES, SourceRange};

/// Version of everything in this crate. Maps that were pinned under another version are never adopted.
pub const ABI_VERSION: u32 = 13;

/// UDP port of the probes that nodes send each other.
pub const PROBE_PORT: u16 = 8473;

/// VXLAN network identifier (RFC 7348) of the overlay: packets of Pods and nodes, under their own addresses.
pub const OVERLAY_VNI: u32 = 1;

/// VXLAN network identifier of flows from outside, between the node that they entered by and the node of their backend: their
/// sources are nobody's in the cluster, and what a backend answers goes back through the node that the flow came by. The bits from
/// [`LABEL_SHIFT`] on are the flow's label, or zero, see [`Flow::LABELLED`].
pub const ENTRY_VNI: u32 = 2;

/// Bits of an [`ENTRY_VNI`] below the flow's label, which is a port as it stands in a packet.
pub const LABEL_SHIFT: u32 = 8;

/// VXLAN network identifier of flows from outside whose answers take no detour: from the node that they entered by to the node of
/// their backend, still addressed to the Service.
pub const DIRECT_VNI: u32 = 3;

/// UDP ports that tunnel packets are sent from, the last of them excluded, by the overlay's device and by the programs: all packets of a
/// flow from one and the same, so that what lies between, and the queues of network cards, keep them in order.
pub const TUNNEL_SOURCE_PORTS: (u16, u16) = (0xc000, 0xffff);

/// Hardware address of every Pod's gateway and of every overlay device. It is one and the same everywhere, so that a
/// frame that a Pod addressed to its gateway is for the receiving node's overlay device too, and nothing on the way
/// rewrites it. Locally administered, unicast.
pub const GATEWAY_MAC: [u8; 6] = [0x02, 0x77, 0x65, 0x66, 0x74, 0x01];

/// Source address of frames that a node's own stack sends into the overlay. It differs from [`GATEWAY_MAC`] because a VXLAN
/// device takes a frame from its own address for a loop and drops it.
pub const NODE_MAC: [u8; 6] = [0x02, 0x77, 0x65, 0x66, 0x74, 0x02];

/// Names of the maps, in the object and in bpffs.
pub mod maps {
    /// [`crate::Address`] → [`crate::Pod`]: the Pods of this node.
    pub const PODS: &str = "PODS";
    /// Longest prefix of [`crate::Address`] → [`crate::Route`]: where other nodes and their Pods are.
    pub const ROUTES: &str = "ROUTES";
    /// [`crate::FrontendKey`] → [`crate::Frontend`]: what Services are reached by.
    pub const FRONTENDS: &str = "FRONTENDS";
    /// Index → [`crate::ServicePort`].
    pub const SERVICE_PORTS: &str = "SERVICE_PORTS";
    /// Index of a Service port → [`crate::ServiceCounters`].
    pub const SERVICE_COUNTERS: &str = "SERVICE_COUNTERS";
    /// Index → index of a backend.
    pub const SLOTS: &str = "SLOTS";
    /// Index → [`crate::Backend`].
    pub const BACKENDS: &str = "BACKENDS";
    /// Index of a backend → connections that it was given.
    pub const BACKEND_COUNTERS: &str = "BACKEND_COUNTERS";
    /// Index → bits of [`crate::backend_port`].
    pub const BACKEND_PORTS: &str = "BACKEND_PORTS";
    /// Longest prefix of [`crate::SourceRange`] → 1.
    pub const SOURCE_RANGES: &str = "SOURCE_RANGES";
    /// [`crate::AffinityKey`] → [`crate::Affinity`].
    pub const AFFINITIES: &str = "AFFINITIES";
    /// [`crate::AffinityMember`] → 1.
    pub const AFFINITY_MEMBERS: &str = "AFFINITY_MEMBERS";
    /// Cookie of a connected socket → [`crate::SocketPeer`].
    pub const SOCKETS: &str = "SOCKETS";
    /// [`crate::DatagramKey`] → [`crate::SocketPeer`].
    pub const DATAGRAM_PEERS: &str = "DATAGRAM_PEERS";
    /// [`crate::FlowKey`] → [`crate::Flow`].
    pub const FLOWS: &str = "FLOWS";
    /// [`crate::Address`] of a client → flows that it was given.
    pub const FLOWS_BEGUN: &str = "FLOWS_BEGUN";
    /// [`crate::Address`] of a client → flows of it that were removed.
    pub const FLOWS_ENDED: &str = "FLOWS_ENDED";
    /// [`crate::Side`] → flows that were begun there, then, after [`crate::Side::COUNT`] of these, flows that were removed.
    pub const FLOW_SIDES: &str = "FLOW_SIDES";
    /// [`crate::FragmentKey`] → [`crate::Fragment`].
    pub const FRAGMENTS: &str = "FRAGMENTS";
    /// Index of a step → the program that does it.
    pub const STEPS: &str = "STEPS";
    /// [`crate::Address`] → [`crate::Announced`].
    pub const ANNOUNCED: &str = "ANNOUNCED";
    /// One [`crate::Config`].
    pub const CONFIG: &str = "CONFIG";
    /// [`crate::Counter`] → packets, per CPU.
    pub const COUNTERS: &str = "COUNTERS";
}

/// Names of the programs, in the object and in bpffs.
pub mod programs {
    /// tcx ingress of a Pod's host-side interface: what a Pod sends.
    pub const POD_EGRESS: &str = "pod_egress";
    /// tcx egress of a Pod's host-side interface: what the host stack sends to a Pod.
    pub const POD_INGRESS: &str = "pod_ingress";
    /// tcx ingress of the overlay device.
    pub const OVERLAY_INGRESS: &str = "overlay_ingress";
    /// tcx egress of the overlay device.
    pub const OVERLAY_EGRESS: &str = "overlay_egress";
    /// tcx ingress of the uplink.
    pub const UPLINK_INGRESS: &str = "uplink_ingress";
    /// cgroup connect, IPv4: gives TCP connections to Services their backend.
    pub const SOCK_CONNECT4: &str = "sock_connect4";
    /// The same, IPv6.
    pub const SOCK_CONNECT6: &str = "sock_connect6";
    /// cgroup sendmsg, IPv4: gives datagrams of unconnected sockets to Services their backend.
    pub const SOCK_SENDMSG4: &str = "sock_sendmsg4";
    /// The same, IPv6.
    pub const SOCK_SENDMSG6: &str = "sock_sendmsg6";
    /// cgroup recvmsg, IPv4: gives what comes from a backend the address that was asked.
    pub const SOCK_RECVMSG4: &str = "sock_recvmsg4";
    /// The same, IPv6.
    pub const SOCK_RECVMSG6: &str = "sock_recvmsg6";
    /// cgroup getpeername, IPv4: tells a process the address that it asked for.
    pub const SOCK_GETPEERNAME4: &str = "sock_getpeername4";
    /// The same, IPv6.
    pub const SOCK_GETPEERNAME6: &str = "sock_getpeername6";
    /// cgroup sock_release: forgets a socket.
    pub const SOCK_RELEASE: &str = "sock_release";
    /// tcx egress of the uplink: answers of the node's own processes that are backends.
    pub const UPLINK_EGRESS: &str = "uplink_egress";
    /// What the others jump to, in the order of [`crate::Step`].
    pub const STEPS: [&str; 7] = [
        "service_flow",
        "service_request",
        "service_enter",
        "service_error",
        "service_refuse",
        "service_neighbour",
        "service_socket",
    ];
    /// All that run on interfaces.
    pub const ALL: [&str; 13] = [
        POD_EGRESS,
        POD_INGRESS,
        OVERLAY_INGRESS,
        OVERLAY_EGRESS,
        UPLINK_INGRESS,
        UPLINK_EGRESS,
        STEPS[0],
        STEPS[1],
        STEPS[2],
        STEPS[3],
        STEPS[4],
        STEPS[5],
        STEPS[6],
    ];
}

/// Parts of what is done with a Service's packet: a program each, an index into the map of steps.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Finds the packet's flow and translates it.
    Flow,
    /// Finds a frontend, and begins a flow.
    Request,
    /// Begins a flow that entered by another node.
    Enter,
    /// Translates an ICMP error with the flow that it is about.
    Error,
    /// Refuses.
    Refuse,
    /// Answers ARP and neighbour solicitations.
    Neighbour,
    /// Looks for a socket of the node that answers for the Service.
    Socket,
}

/// Data that may cross between user space and the kernel as bytes.
///
/// # Safety
/// The type has no padding, no pointers, and every bit pattern of its size is a value of it.
pub unsafe trait Plain: Copy + 'static {}

// SAFETY: integers are plain.
unsafe impl Plain for u32 {}
// SAFETY: integers are plain.
unsafe impl Plain for u64 {}
