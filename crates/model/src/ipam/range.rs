//! How a node's Pod range is laid out.
//!
//! | | IPv4 | IPv6 |
//! | --- | --- | --- |
//! | path address: its route follows the path that Pods use | base | base+1 |
//! | plain address: always routed over the plain underlay | base+1 | base+2 |
//! | Pods | base+2 … broadcast-1 | base+3 … last |
//!
//! IPv6's base is the subnet-router anycast address (RFC 4291, 2.6.1) and stays unused.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// A node's Pod range of one family, large enough for a Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodRange(IpNet);

/// The range has no room for a Pod beside the node's own two addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Pod range {0} has no room for a Pod: it must be /30 or larger (IPv6: /126 or larger)")]
pub struct RangeTooSmall(pub IpNet);

impl PodRange {
    /// The range `net`, truncated to its prefix.
    ///
    /// # Errors
    /// When it has no room for a Pod.
    pub fn new(net: IpNet) -> Result<Self, RangeTooSmall> {
        let longest = if net.addr().is_ipv4() { 30 } else { 126 };
        if net.prefix_len() > longest { Err(RangeTooSmall(net)) } else { Ok(Self(net.trunc())) }
    }

    /// The range as a prefix.
    pub fn net(&self) -> IpNet {
        self.0
    }

    /// The node's address whose route follows the path that Pods use.
    pub fn path_address(&self) -> IpAddr {
        self.at(if self.is_ipv4() { 0 } else { 1 })
    }

    /// The node's address that is always routed over the plain underlay.
    pub fn plain_address(&self) -> IpAddr {
        self.at(if self.is_ipv4() { 1 } else { 2 })
    }

    /// The first address that a Pod can have.
    pub fn first(&self) -> IpAddr {
        self.at(self.first_offset())
    }

    /// The last address that a Pod can have.
    pub fn last(&self) -> IpAddr {
        self.at(self.last_offset())
    }

    /// `address` is one that a Pod can have.
    pub fn has_pod_address(&self, address: IpAddr) -> bool {
        self.offset(address).is_some()
    }

    /// How many Pods the range has room for.
    pub fn capacity(&self) -> u128 {
        // ::/0 less its three first addresses still fits.
        self.last_offset() - self.first_offset() + 1
    }

    /// The distance from the range's base, when a Pod can have `address`.
    pub(super) fn offset(&self, address: IpAddr) -> Option<u128> {
        if !self.0.contains(&address) {
            return None;
        }
        let offset = bits(address) - bits(self.0.network());
        (self.first_offset()..=self.last_offset()).contains(&offset).then_some(offset)
    }

    /// The address at `offset` from the base, which must lie in the range.
    pub(super) fn at(&self, offset: u128) -> IpAddr {
        match self.0.network() {
            // An offset in an IPv4 range fits in 32 bits.
            IpAddr::V4(base) => Ipv4Addr::from_bits(base.to_bits() + offset as u32).into(),
            IpAddr::V6(base) => Ipv6Addr::from_bits(base.to_bits() + offset).into(),
        }
    }

    pub(super) fn first_offset(&self) -> u128 {
        if self.is_ipv4() { 2 } else { 3 }
    }

    pub(super) fn last_offset(&self) -> u128 {
        match self.0 {
            IpNet::V4(net) => u128::from(u32::MAX.checked_shr(net.prefix_len().into()).unwrap_or(0)) - 1,
            IpNet::V6(net) => u128::MAX.checked_shr(net.prefix_len().into()).unwrap_or(0),
        }
    }

    fn is_ipv4(&self) -> bool {
        matches!(self.0, IpNet::V4(_))
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> PodRange {
        PodRange::new(text.parse().unwrap()).unwrap()
    }

    #[test]
    fn ipv4_layout() {
        let range = range("10.244.3.0/24");
        assert_eq!(range.path_address().to_string(), "10.244.3.0");
        assert_eq!(range.plain_address().to_string(), "10.244.3.1");
        assert_eq!(range.first().to_string(), "10.244.3.2");
        assert_eq!(range.last().to_string(), "10.244.3.254");
        assert_eq!(range.capacity(), 253);
    }

    #[test]
    fn ipv6_layout() {
        let range = range("fd00:10:244:3::/64");
        assert_eq!(range.path_address().to_string(), "fd00:10:244:3::1");
        assert_eq!(range.plain_address().to_string(), "fd00:10:244:3::2");
        assert_eq!(range.first().to_string(), "fd00:10:244:3::3");
        assert_eq!(range.last().to_string(), "fd00:10:244:3:ffff:ffff:ffff:ffff");
    }

    #[test]
    fn host_bits_are_cut_off() {
        assert_eq!(range("10.244.3.77/24"), range("10.244.3.0/24"));
    }

    #[test]
    fn smallest_and_largest() {
        assert_eq!(range("10.0.0.0/30").capacity(), 1);
        assert_eq!(range("fd00::/126").capacity(), 1);
        assert_eq!(range("::/0").capacity(), u128::MAX - 2);
        assert_eq!(range("0.0.0.0/0").capacity(), u128::from(u32::MAX) - 2);
        for small in ["10.0.0.0/31", "10.0.0.0/32", "fd00::/127", "fd00::/128"] {
            assert!(PodRange::new(small.parse().unwrap()).is_err(), "{small}");
        }
    }

    #[test]
    fn only_pods_addresses_are_pods_addresses() {
        let range = range("10.244.3.0/24");
        for no in ["10.244.3.0", "10.244.3.1", "10.244.3.255", "10.244.4.2", "::ffff:10.244.3.5"] {
            assert!(!range.has_pod_address(no.parse().unwrap()), "{no}");
        }
        assert!(range.has_pod_address("10.244.3.2".parse().unwrap()));
        assert!(range.has_pod_address("10.244.3.254".parse().unwrap()));
    }
}
