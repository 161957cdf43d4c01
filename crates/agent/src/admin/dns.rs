//! What an agent says of the cluster's DNS.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// The cluster's DNS on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsStatus {
    /// Where it is answered; nowhere before all names are known.
    pub addresses: Vec<SocketAddr>,
    /// Why it is not answered.
    pub error: Option<String>,
    /// All names have been heard of since the agent's start.
    pub synced: bool,
    /// They have not been, and what was known before its start is answered: how many seconds ago that was written.
    #[serde(default)]
    pub snapshot_age: Option<u64>,
    /// Namespaces known.
    pub namespaces: u64,
    /// Services known, headless ones and those of other proxies among them.
    pub services: u64,
    /// Endpoints known.
    pub endpoints: u64,
    /// Why the settings are not in force; those of before are.
    pub settings_error: Option<String>,
    /// Why nobody is asked for names outside of the cluster.
    pub no_upstreams: Option<String>,
    /// The servers that are asked.
    pub upstreams: Vec<DnsServerStatus>,
}

/// A DNS server that is asked for names outside of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsServerStatus {
    /// Where it is.
    pub server: String,
    /// The domain that it is asked for; `.` for all that is nobody else's.
    pub domain: String,
    /// Why it is not asked; `None` when it is.
    pub down: Option<String>,
    /// Its round trip, in microseconds.
    pub round_trip_us: Option<u64>,
}
