//! How the server answers, and how much it does for one client.

use std::time::Duration;

/// How the server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long a record of the zone is good for, in seconds.
    pub ttl: u32,
    /// How long "there is no such name" is good for, in seconds.
    pub negative_ttl: u32,
    /// The last name of a client's search is answered at its first step.
    pub walk: bool,
    /// How many threads answer over UDP.
    pub threads: usize,
    /// How much is done.
    pub limits: Limits,
}

/// How much is done at a time, so that one client cannot starve the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Questions of one client in a second; more are not answered over UDP, and later over TCP.
    pub queries_of_client: u32,
    /// Questions of one client that others are being asked for; the next one is answered SERVFAIL.
    pub asked_of_client: usize,
    /// The same of all clients.
    pub asked: usize,
    /// TCP connections of one client; the next one is closed.
    pub connections_of_client: usize,
    /// The same of all clients.
    pub connections: usize,
    /// Questions on one TCP connection that are being answered; the next one is read when one of them is.
    pub pipelined: usize,
    /// How long a TCP connection may be silent, or not take its answers.
    pub idle: Duration,
}

// === impl Settings ===

impl From<&crate::settings::Settings> for Settings {
    /// What the cluster's administrator has set.
    fn from(set: &crate::settings::Settings) -> Self {
        let limits = Limits {
            queries_of_client: set.limits.queries_per_client,
            asked_of_client: set.limits.forwarded_per_client,
            connections_of_client: set.limits.connections_per_client,
            ..Limits::default()
        };
        let (ttl, negative_ttl) = (set.ttl.0, set.negative_ttl.0);
        Self { ttl, negative_ttl, walk: set.search_walk, limits, ..Self::default() }
    }
}

impl Default for Settings {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(4);
        Self { ttl: 5, negative_ttl: 5, walk: true, threads, limits: Limits::default() }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queries_of_client: 20_000,
            asked_of_client: 256,
            asked: 4096,
            connections_of_client: 64,
            connections: 1024,
            pipelined: 32,
            idle: Duration::from_secs(10),
        }
    }
}
