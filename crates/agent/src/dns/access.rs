//! Who is answered: Pods, nodes, and whom the settings name.

use std::{
    collections::HashSet,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use ipnet::IpNet;

/// How long this node's own addresses are taken to be as they were read. An address that is new may be refused for as long.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// Which clients are answered.
#[derive(Debug, Default)]
pub(super) struct Access {
    /// Ascending, none within another. Absent while neither nodes nor ranges are known: then every client is answered.
    allowed: ArcSwapOption<Vec<IpNet>>,
    own: Mutex<OwnAddresses>,
}

/// Addresses of this node's interfaces.
#[derive(Debug, Default)]
struct OwnAddresses {
    addresses: HashSet<IpAddr>,
    read_at: Option<Instant>,
}

// === impl Access ===

impl Access {
    /// Answers clients of these ranges, and those of this node.
    pub(super) fn allow(&self, ranges: &Vec<IpNet>) {
        let mut allowed = IpNet::aggregate(ranges);
        allowed.sort_unstable_by_key(IpNet::network);
        if self.allowed.load().as_deref() != Some(&allowed) {
            self.allowed.store(Some(allowed.into()));
        }
    }

    /// Whether the client at this address is answered.
    pub(super) fn admits(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        let allowed = self.allowed.load();
        let Some(allowed) = &*allowed else { return true };
        let above = allowed.partition_point(|range| range.network() <= client);
        let range = above.checked_sub(1).and_then(|place| allowed.get(place));
        range.is_some_and(|range| range.contains(&client)) || client.is_loopback() || self.is_own(client)
    }

    /// Whether the address is one of this node's: a process may ask from any of them, whichever the API names.
    fn is_own(&self, address: IpAddr) -> bool {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if own.read_at.is_none_or(|at| at.elapsed() >= READ_AGAIN) {
            match nix::ifaddrs::getifaddrs() {
                Ok(all) => {
                    let addresses = all.filter_map(|one| one.address);
                    own.addresses = addresses
                        .filter_map(|one| {
                            let v4 = one.as_sockaddr_in().map(|one| IpAddr::from(one.ip()));
                            v4.or_else(|| one.as_sockaddr_in6().map(|one| IpAddr::from(one.ip())))
                        })
                        .collect();
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot read this node's addresses: DNS clients at new ones are refused")
                }
            }
            own.read_at = Some(Instant::now());
        }
        own.addresses.contains(&address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(access: &Access, client: &str) -> bool {
        access.admits(client.parse().unwrap())
    }

    /// E10
    #[test]
    fn clients_of_the_ranges_and_of_this_node_are_answered_and_strangers_are_not() {
        let access = Access::default();
        assert!(admits(&access, "203.0.113.9"), "nothing is known yet");
        let ranges = ["10.244.0.0/24", "10.244.1.0/24", "fd00:10:244::/64", "192.0.2.7/32", "10.96.0.0/16"];
        access.allow(&ranges.map(|one| one.parse().unwrap()).into());
        for client in ["10.244.1.9", "::ffff:10.244.0.2", "fd00:10:244::7", "192.0.2.7", "127.0.0.1", "::1"] {
            assert!(admits(&access, client), "{client}");
        }
        for client in ["203.0.113.9", "10.244.2.1", "10.243.255.255", "192.0.2.8", "2001:db8::1", "0.0.0.0"] {
            assert!(!admits(&access, client), "{client}");
        }
        access.allow(&["0.0.0.0/0", "::/0", "10.244.0.0/16"].map(|one| one.parse().unwrap()).into());
        assert!(admits(&access, "203.0.113.9") && admits(&access, "2001:db8::1"));
    }
}
