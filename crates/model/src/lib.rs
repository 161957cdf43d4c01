//! Cluster objects to plan: pure and synchronous.
//!
//! Nothing here does I/O: the same objects in, the same plan out, whatever the order in which they came. Addresses
//! are [`std::net::IpAddr`]; byte order is the business of `weft-datapath`.

pub mod balanced;
mod claims;
pub mod dns;
pub mod ipam;
pub mod lease;
pub mod node;
pub mod plan;
pub mod pod;
pub mod services;

pub use balanced::BalancedService;
pub use claims::Claims;
pub use ipam::{Ipam, PodRange};
pub use lease::{Lease, LeaseWrite};
pub use node::{Node, NodeName};
pub use plan::{Masquerade, NodePlan, Peer, RangeConflict};
pub use pod::{Bandwidth, DnsPolicy, Phase, Pod, PodDns, PodKey, PortMapping, Protocol};
