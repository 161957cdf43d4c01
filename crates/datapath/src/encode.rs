//! Model to ABI: byte order lives here and in `weft-abi` alone.

use std::net::IpAddr;

use ipnet::IpNet;
use weft_abi::{Address, Backend, FrontendKey, Path, Route, SourceRange};
use weft_model::{Protocol, services::BackendKey};

/// A prefix as the longest-prefix table has it: the address and its bits, counted in the mapped form.
pub(crate) fn prefix(range: IpNet) -> (Address, u32) {
    let bits = u32::from(range.prefix_len());
    match range {
        IpNet::V4(_) => (Address::from(range.network()), bits + Address::V4_PREFIX_BITS),
        IpNet::V6(_) => (Address::from(range.network()), bits),
    }
}

/// The way to another node's Pods, and where its tunnels begin.
pub(crate) fn route(next_hop: IpAddr, tunnel: IpAddr, path: Path) -> Route {
    Route { next_hop: next_hop.into(), tunnel: tunnel.into(), path: path as u32, ..Route::default() }
}

/// The same to the node's own address; the plain addresses label its flows.
pub(crate) fn route_to_node(next_hop: IpAddr, tunnel: IpAddr, path: Path, plain: &[IpAddr]) -> Route {
    let mut route = route(next_hop, tunnel, path);
    for address in plain {
        match address {
            IpAddr::V4(v4) => route.label_v4_be = u32::from_ne_bytes(v4.octets()),
            IpAddr::V6(_) => route.label_v6 = Address::from(*address),
        }
    }
    route
}

/// The IP protocol number.
pub(crate) fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

/// The protocol of an IP protocol number, if Services have it.
pub(crate) fn protocol(number: u8) -> Option<Protocol> {
    [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|known| protocol_number(*known) == number)
}

/// What a Service is reached by.
pub(crate) fn frontend_key(address: IpAddr, port: u16, protocol: Protocol) -> FrontendKey {
    FrontendKey {
        address: address.into(),
        port_be: port.to_be(),
        protocol: protocol_number(protocol),
        reserved: 0,
    }
}

/// A backend's entry.
pub(crate) fn backend(key: BackendKey, protocol: Protocol, flags: u8, generation: u32) -> Backend {
    Backend {
        address: key.address.into(),
        port_be: key.port.to_be(),
        protocol: protocol_number(protocol),
        flags,
        generation,
    }
}

/// Whose entry it is; none if it never was anybody's.
pub(crate) fn backend_key(entry: &Backend) -> Option<(BackendKey, Protocol)> {
    let key = BackendKey { address: entry.address.into(), port: u16::from_be(entry.port_be) };
    Some((key, protocol(entry.protocol)?))
}

/// A range of sources of a Service port, and its bits.
pub(crate) fn source_range(service_port: u32, range: IpNet) -> (SourceRange, u32) {
    let (address, bits) = prefix(range);
    (SourceRange { service_port, address }, SourceRange::SERVICE_PORT_BITS + bits)
}

/// A range of Service addresses.
pub(crate) fn service_range() -> Route {
    Route { path: Route::SERVICES, ..Route::default() }
}

/// So long may a Pod ask at once what it may ask in that time, nanoseconds. All that comes at once stands in the queue of one
/// socket, which has room for several Pods' bursts.
const BURST_NS: u64 = 50_000_000;
/// Where that is less, so many questions may come at once: a program that starts looks several names up, each in several domains
/// and for both families.
const BURST: u64 = 64;
/// But no more than what may be asked in a second: so long at most does it take until a Pod that has asked too much may ask
/// at another pace.
const LONGEST_BURST_NS: u64 = 1_000_000_000;

/// From one question to the next, and how far ahead of that a Pod may be, nanoseconds; zero questions a second: no limit.
pub(crate) fn pace(questions: u32) -> (u64, u64) {
    let gap = 1_000_000_000_u64.checked_div(u64::from(questions)).unwrap_or(0);
    (gap, (BURST * gap).clamp(BURST_NS, LONGEST_BURST_NS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_has_a_burst_and_none_is_no_limit() {
        assert_eq!(pace(20_000), (50_000, 50_000_000));
        assert_eq!(pace(100), (10_000_000, 640_000_000));
        assert_eq!(pace(1), (1_000_000_000, 1_000_000_000));
        assert_eq!((pace(0).0, pace(u32::MAX).0), (0, 0));
    }

    #[test]
    fn prefixes_of_both_families_share_one_table() {
        assert_eq!(
            prefix("10.244.1.0/24".parse().unwrap()),
            (Address::from(IpAddr::from([10, 244, 1, 0])), 120)
        );
        let v6: IpNet = "fd00:10:244:1::/64".parse().unwrap();
        assert_eq!(prefix(v6), (Address::from(v6.network()), 64));
    }
}
