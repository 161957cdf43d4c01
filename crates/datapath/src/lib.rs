//! Plan to kernel: the only crate that talks to it. eBPF maps and programs, links, routes, neighbours, nftables.
//!
//! Invariants: everything is idempotent and level-triggered (what is wanted is compared with what the kernel holds, and
//! only the difference is written); what is pinned outlives the process; nothing here decides anything about the
//! cluster.

pub mod cgroup;
mod config;
mod datapath;
mod encode;
mod flow;
mod load;
mod mtu;
mod nft;
mod pod;
pub mod probe;
pub mod requirements;
mod route;
mod service;
mod sysctl;
pub mod table;
mod uplink;

pub use config::{PodSpec, Settings};
pub use datapath::{Applied, ApplyError, Counters, Datapath, OpenError, Repaired};
pub use flow::{AnnounceError, Fullness, Swept};
pub use load::{LoadError, Origin};
pub use mtu::Mtu;
pub use pod::{AddPodError, CheckPodError, InstalledPod, PodLinks, host_interface};
pub use service::{InstalledBackend, InstalledServicePort, Refused, ServiceError, ServicesWritten};
pub use uplink::{Uplink, UplinkError};
pub use weft_abi::{ABI_VERSION, AGENT_PRIORITY, Counter, Path};

/// Tells contents apart, not against anybody who forges them: FNV-1a, the same in every build and process.
fn fingerprint(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}
