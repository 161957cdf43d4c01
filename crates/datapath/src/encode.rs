//! Model to ABI: byte order lives here and in `weft-abi` alone.

use std::net::IpAddr;

use ipnet::IpNet;
use weft_abi::{Address, Path, Route};

/// A prefix as the longest-prefix table has it: the address and its bits, counted in the mapped form.
pub(crate) fn prefix(range: IpNet) -> (Address, u32) {
    let bits = u32::from(range.prefix_len());
    match range {
        IpNet::V4(_) => (Address::from(range.network()), bits + Address::V4_PREFIX_BITS),
        IpNet::V6(_) => (Address::from(range.network()), bits),
    }
}

/// The way to another node, and where its tunnels begin.
pub(crate) fn route(next_hop: IpAddr, tunnel: IpAddr, path: Path) -> Route {
    Route { next_hop: next_hop.into(), tunnel: tunnel.into(), path: path as u32, reserved: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

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
