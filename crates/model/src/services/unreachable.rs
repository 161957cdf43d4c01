//! Endpoints that are beyond reach, whatever the API says of them.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;

/// Addresses behind nodes that give no sign of life: Pods' and the nodes' own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unreachable {
    /// Sorted; none within another.
    ranges: Arc<[IpNet]>,
}

impl Unreachable {
    /// All addresses of these ranges.
    pub fn new(ranges: Vec<IpNet>) -> Self {
        Self { ranges: IpNet::aggregate(&ranges).into() }
    }

    /// Whether no address is among them.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether an address is among them.
    pub fn has(&self, address: IpAddr) -> bool {
        let after = self.ranges.partition_point(|range| range.network() <= address);
        let range = after.checked_sub(1).and_then(|last| self.ranges.get(last));
        range.is_some_and(|range| range.contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range() -> impl Strategy<Value = IpNet> {
        let ipv4 = (any::<[u8; 2]>(), 20..=32_u8)
            .prop_map(|([a, b], length)| IpNet::new(IpAddr::from([10, 244, a & 7, b]), length).unwrap());
        let ipv6 = (any::<u16>(), 112..=128_u8).prop_map(|(host, length)| {
            IpNet::new(IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, host]), length).unwrap()
        });
        prop_oneof![ipv4, ipv6]
    }

    proptest! {
        #[test]
        fn an_address_is_beyond_reach_if_it_is_in_one_of_the_ranges(
            ranges in proptest::collection::vec(range(), 0..6),
            asked in range(),
        ) {
            let address = asked.addr();
            let within = ranges.iter().any(|range| range.contains(&address));
            prop_assert_eq!(Unreachable::new(ranges).has(address), within);
        }
    }
}
