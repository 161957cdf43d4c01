//! Answering ARP and neighbour solicitations for LoadBalancer addresses, for as long as this node's lease on them lasts.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv6Addr, UdpSocket},
    time::{Duration, Instant},
};

use nix::time::{ClockId, clock_gettime};
use weft_abi::{Address, Announced, maps};

use crate::{
    Datapath,
    load::{LoadError, Programs},
    table::{BpfHash, BpfTableError, Table},
};

/// The addresses are not answered for as asked. Those that were answered for before fall silent when their time is over.
#[derive(Debug, thiserror::Error)]
pub enum AnnounceError {
    /// The table of addresses.
    #[error(transparent)]
    Table(#[from] BpfTableError),
    /// A map could not be opened.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The clock, or the multicast groups that neighbours ask in.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The addresses that this node answers for.
pub(crate) struct Announcements {
    table: Table<Address, Announced, BpfHash<Address, Announced>>,
    /// A member of the groups that IPv6 neighbours ask in: otherwise hardware may not hand their questions up.
    groups: BTreeMap<(u32, Ipv6Addr), UdpSocket>,
}

impl Announcements {
    /// The pinned map. What an earlier process announced goes on until its time is over.
    pub(crate) fn open(programs: &Programs) -> Result<Announcements, LoadOrTable> {
        let store = BpfHash::new(maps::ANNOUNCED, programs.map(maps::ANNOUNCED)?)?;
        Ok(Announcements { table: Table::adopt(store)?, groups: BTreeMap::new() })
    }
}

/// What can go wrong at the start.
pub(crate) type LoadOrTable = crate::service::ServiceError;

impl Datapath {
    /// Answers ARP and neighbour solicitations on the uplink for exactly these addresses, each until its time. Unless it is called
    /// again before that, the kernel falls silent by itself.
    ///
    /// # Errors
    /// When a table cannot be written, or a group cannot be joined.
    pub fn announce(&mut self, addresses: &[(IpAddr, Instant)]) -> Result<(), AnnounceError> {
        // The kernel's clock is read first: however long this process is stopped in between, no deadline becomes later by it.
        let clock = clock_gettime(ClockId::CLOCK_MONOTONIC)
            .map_err(|errno| AnnounceError::System { what: "read the clock", source: errno.into() })?;
        let (clock, now) = (Duration::from(clock), Instant::now());
        let wanted = (addresses.iter())
            .map(|(address, until)| {
                let until = clock.saturating_add(until.saturating_duration_since(now)).as_nanos();
                (Address::from(*address), Announced { until_ns: u64::try_from(until).unwrap_or(u64::MAX) })
            })
            .collect();
        self.announcements.table.replace(|_, _| true, wanted);
        self.announcements.table.flush()?;
        let uplink = self.uplink.index;
        let groups: Vec<(u32, Ipv6Addr)> = (addresses.iter())
            .filter_map(|(address, _)| match address {
                IpAddr::V6(v6) => Some((uplink, solicited_node(*v6))),
                IpAddr::V4(_) => None,
            })
            .collect();
        self.announcements.groups.retain(|group, _| groups.contains(group));
        for group in groups {
            if self.announcements.groups.contains_key(&group) {
                continue;
            }
            let joined = join(group.0, group.1).map_err(|source| AnnounceError::System {
                what: "join a group of IPv6 neighbours",
                source,
            })?;
            self.announcements.groups.insert(group, joined);
        }
        Ok(())
    }
}

/// The group in which neighbours ask for an address (RFC 4291 section 2.7.1).
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// A socket that does nothing but keep the group joined.
fn join(index: u32, group: Ipv6Addr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
    socket.join_multicast_v6(&group, index)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_of_an_address_has_its_last_three_bytes() {
        let address: Ipv6Addr = "fd00:192:168:1::ab12:3456".parse().unwrap();
        assert_eq!(solicited_node(address), "ff02::1:ff12:3456".parse::<Ipv6Addr>().unwrap());
    }
}
