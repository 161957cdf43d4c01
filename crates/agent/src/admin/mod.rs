//! What `weft status` and `weft verify` ask an agent, over the same socket as the CNI plugin.

mod client;
mod dns;
mod listen;
mod place;
mod probe;
mod resolve;
mod service;
mod visit;

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use weft_model::{NodeName, PodKey};

pub use weft_dns::{
    question::record_type,
    server::{Explained, Explanation},
    stub::{Answer, LookedUp, StubResolver},
};

pub use client::{Client, ClientError};
pub use dns::{DnsServerStatus, DnsStatus};
pub(crate) use listen::Listeners;
pub(crate) use place::find as find_place;
pub(crate) use probe::probe;
pub use resolve::LookUp;
pub(crate) use resolve::{resolv_conf, resolve};
pub use service::{BackendStatus, EndpointStatus, ServiceStatus};
pub(crate) use visit::visit;
pub use visit::{Visit, Visited, kernel_speaks_sctp, visit_from};

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Request {
    /// Everything that the agent says of itself: [`Response::Status`].
    Status,
    /// What the kernel holds of Services: [`Response::Services`].
    Services,
    /// Opens listeners on each address of a place: [`Response::Listening`]. They close by themselves after a minute.
    ProbeListen {
        /// Where.
        at: Place,
    },
    /// Closes them: [`Response::Done`].
    ProbeClose {
        /// As [`Response::Listening`] told.
        id: u64,
    },
    /// Connects from a place to listeners elsewhere, all at once: [`Response::Probed`].
    Probe {
        /// Where from.
        from: Place,
        /// Where to.
        to: Vec<Target>,
    },
    /// Connects from a place to Services, all at once: [`Response::Visited`].
    Visit {
        /// Where from.
        from: Place,
        /// Where to.
        to: Vec<Visit>,
    },
    /// What this node's DNS answers, and why: [`Response::Dns`].
    Dns {
        /// The name; without a final dot the Pod's search list is walked for it.
        name: String,
        /// The type (`A`, `AAAA`, `SRV`, …).
        #[serde(rename = "type")]
        kind: String,
        /// Who asks: a Pod of the node; without one, somebody who asks for just this name.
        from: Option<PodKey>,
    },
    /// What processes in a place are told to ask: [`Response::ResolvConf`].
    ResolvConf {
        /// Where.
        of: Place,
    },
    /// Looks names up from a place, all at once: [`Response::Resolved`].
    Resolve {
        /// Where from.
        from: Place,
        /// How.
        stub: StubResolver,
        /// Which.
        names: Vec<LookUp>,
    },
}

/// A network namespace on the agent's node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// The node's own, which host-network Pods share.
    Host,
    /// A Pod's.
    Pod(PodKey),
}

/// Listeners at one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The address.
    pub address: IpAddr,
    /// Its TCP port.
    pub tcp_port: u16,
    /// Its UDP port.
    pub udp_port: u16,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub enum Response {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Services`].
    Services {
        /// One a port and family.
        services: Vec<ServiceStatus>,
    },
    /// To [`Request::ProbeListen`].
    Listening {
        /// To be named when they are to be closed.
        id: u64,
        /// One an address.
        listeners: Vec<Target>,
    },
    /// To [`Request::Probe`], in the order of the targets.
    Probed {
        /// One a target.
        outcomes: Vec<Outcome>,
    },
    /// To [`Request::Visit`], in the order of the Services.
    Visited {
        /// One a connection.
        outcomes: Vec<Vec<Visited>>,
    },
    /// To [`Request::Dns`].
    Dns {
        /// Question by question.
        explanation: Explanation,
    },
    /// To [`Request::ResolvConf`].
    ResolvConf {
        /// The file; none when no process runs there.
        text: Option<String>,
    },
    /// To [`Request::Resolve`], in the order of the names.
    Resolved {
        /// One a name.
        outcomes: Vec<LookedUp>,
    },
    /// It was done.
    Done,
    /// It was not done.
    Error {
        /// Why not.
        message: String,
    },
}

/// What came of the probes of one target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The target.
    pub target: Target,
    /// Over TCP.
    pub tcp: Reply,
    /// Over UDP, a small packet.
    pub udp: Reply,
    /// Over UDP, a packet of full size that must not be fragmented.
    pub full_size: Reply,
    /// The size of that packet, IP header included, in bytes.
    pub mtu: Option<u32>,
}

/// What the far side answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// It saw the probe come from this address.
    Seen(IpAddr),
    /// There was no answer, or no sense in it.
    Failed(String),
}

/// The state of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Weft's version.
    pub version: String,
    /// The agent's node.
    pub node: NodeName,
    /// Pods can be attached.
    pub ready: bool,
    /// Why not.
    pub why_not: Option<String>,
    /// The API server.
    pub api: Option<ApiStatus>,
    /// The node's addresses.
    pub node_addresses: Vec<IpAddr>,
    /// The interface towards the other nodes.
    pub uplink: Option<String>,
    /// Largest packets.
    pub mtu: Option<MtuStatus>,
    /// The node's Pod ranges.
    pub pod_ranges: Vec<RangeStatus>,
    /// The other nodes.
    pub peers: Vec<PeerStatus>,
    /// Ranges of this cluster that are refused, and why.
    pub conflicts: Vec<String>,
    /// The containers on this node.
    pub pods: Vec<PodStatus>,
    /// Pods of this node that the network did not take, the last time that it was asked to.
    #[serde(default)]
    pub failed_adds: Vec<FailedAdd>,
    /// What the kernel programs counted.
    pub counters: Vec<CounterStatus>,
    /// How often something was put back that somebody else had removed.
    pub repairs: u64,
    /// What is known of Services.
    pub services: ServicesStatus,
    /// The cluster's DNS, if this node answers it.
    #[serde(default)]
    pub dns: Option<DnsStatus>,
    /// What else does not work, in sentences.
    #[serde(default)]
    pub problems: Vec<String>,
}

/// A Pod whose last ADD failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedAdd {
    /// The Pod.
    pub pod: PodKey,
    /// Why.
    pub why: String,
    /// How often in a row.
    pub times: u64,
}

/// What an agent knows of Services, and how far it is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicesStatus {
    /// The kernel holds what the API says.
    pub synced: bool,
    /// Why the last write failed; `None` when it did not.
    pub error: Option<String>,
    /// Services known, headless ones not among them.
    pub services: u64,
    /// Their EndpointSlices.
    pub slices: u64,
    /// Endpoints in those.
    pub endpoints: u64,
    /// Endpoints that get no new connections while their Services have others: their nodes give no sign of life.
    #[serde(default)]
    pub unreachable_endpoints: u64,
    /// Ports that are not served as they should be, and why.
    pub refused: Vec<String>,
    /// Addresses that several Services name, or that nobody may: a Service is not reached by them.
    pub conflicts: Vec<String>,
    /// Services of type LoadBalancer that nobody has given an address.
    #[serde(default)]
    pub without_address: Vec<WithoutAddress>,
    /// Entries of the table of flows, two a flow.
    #[serde(default)]
    pub flows: u64,
    /// Entries that it has room for.
    #[serde(default)]
    pub flows_room: u64,
    /// Clients that come back to their backend.
    #[serde(default)]
    pub affinities: u64,
    /// So many there is room for.
    #[serde(default)]
    pub affinities_room: u64,
    /// Writes to the kernel since the agent's start.
    pub syncs: u64,
    /// Changes of Services heard since the agent's start.
    pub service_events: u64,
    /// Changes of EndpointSlices heard since the agent's start.
    pub slice_events: u64,
    /// When the kernel was last written to, in seconds since the epoch.
    pub last_written: Option<u64>,
}

/// A Service of type LoadBalancer without an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WithoutAddress {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// How the agent and the API server stand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiStatus {
    /// The server's URL.
    pub server: String,
    /// Nodes and Pods have been listed since the agent started.
    pub synced: bool,
    /// Why the watches do not follow; `None` when they do.
    pub error: Option<String>,
    /// How often a watch has failed.
    pub failures: u64,
    /// Pods that the API has bound to this node, those of the host network included.
    pub pods: u64,
    /// Every watch.
    #[serde(default)]
    pub watches: Vec<WatchStatus>,
}

/// How a watch of the API server stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchStatus {
    /// What is watched.
    pub name: String,
    /// Why it does not follow; `None` while it does.
    pub error: Option<String>,
    /// How often it has failed.
    pub failures: u64,
    /// Objects that cannot be read, and why: they are left out.
    pub unreadable: BTreeMap<String, String>,
}

/// Largest packets, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MtuStatus {
    /// Of the uplink.
    pub uplink: u32,
    /// Of the overlay.
    pub overlay: u32,
    /// Of new Pods.
    pub pod: u32,
}

/// A Pod range of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeStatus {
    /// The range.
    pub range: IpNet,
    /// How many Pods it has room for.
    pub capacity: u64,
    /// How many of them are free.
    pub free: u64,
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its name.
    pub name: NodeName,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its Pod ranges.
    pub pod_ranges: Vec<IpNet>,
    /// `overlay` or `native`.
    pub path: String,
    /// Why that one.
    pub why: String,
    /// Probes over the path in use come back; `None` before anything is known.
    pub reachable: Option<bool>,
    /// It gives no sign of life, though most others do: connections to Services go elsewhere while they can.
    #[serde(default)]
    pub silent: bool,
    /// Packets of this size pass.
    pub proved_mtu: Option<u32>,
    /// Packets of this size should pass and do not.
    pub mtu_mismatch: Option<u32>,
}

/// A container on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodStatus {
    /// The Pod, when the runtime named it.
    pub pod: Option<PodKey>,
    /// The runtime's name of it.
    pub container_id: String,
    /// Its interface.
    pub interface: String,
    /// The same on the node's side.
    pub host_interface: String,
    /// The file of its network namespace.
    pub netns: PathBuf,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its MTU.
    pub mtu: u32,
}

/// A counter of the kernel programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterStatus {
    /// Its name.
    pub name: String,
    /// It counts dropped packets.
    pub drop: bool,
    /// Packets since the programs were first loaded.
    pub packets: u64,
}
