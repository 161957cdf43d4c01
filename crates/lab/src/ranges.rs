//! The addresses of a lab: which families it has and which ranges Pods, Services and nodes get.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// Which address of the fabric the host `outside` has.
pub(crate) const OUTSIDE_HOST: u8 = 254;

/// The cluster's own domain.
pub(crate) const CLUSTER_DOMAIN: &str = "cluster.local";
/// Which address of the Services' ranges the cluster's DNS has.
const CLUSTER_DNS: u8 = 10;

/// IP families of a lab, the first one of a dual-stack lab being IPv4.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpFamily {
    /// IPv4 alone.
    #[default]
    Ipv4,
    /// IPv6 alone.
    Ipv6,
    /// Both.
    Dual,
}

/// The cluster-wide ranges, one a family, in the order of the families.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranges {
    /// Pods; each node gets a part of each.
    pub pods: Vec<IpNet>,
    /// Services.
    pub services: Vec<IpNet>,
    /// Nodes, on the fabric.
    pub nodes: Vec<IpNet>,
}

impl IpFamily {
    /// The lab's ranges for these families.
    pub fn ranges(self) -> Ranges {
        let v4 = |a, b, c, d, length| Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length).into();
        let v6 = |segments: [u16; 8], length| Ipv6Net::new_assert(Ipv6Addr::from(segments), length).into();
        let pick = |four: IpNet, six: IpNet| match self {
            IpFamily::Ipv4 => vec![four],
            IpFamily::Ipv6 => vec![six],
            IpFamily::Dual => vec![four, six],
        };
        Ranges {
            pods: pick(v4(10, 244, 0, 0, 16), v6([0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0], 56)),
            services: pick(v4(10, 96, 0, 0, 16), v6([0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0], 112)),
            nodes: pick(v4(192, 168, 1, 0, 24), v6([0xfd00, 0x192, 0x168, 0x1, 0, 0, 0, 0], 64)),
        }
    }
}

impl Ranges {
    /// The `host`-th address of each node range, with the length of the range: 1 is the fabric's own.
    pub fn on_fabric(&self, host: u8) -> Vec<IpNet> {
        let address = |range: &IpNet| IpNet::new_assert(nth(range, host), range.prefix_len());
        self.nodes.iter().map(address).collect()
    }

    /// The addresses of the cluster's DNS: 10.96.0.10, fd00:10:96::a.
    pub fn cluster_dns(&self) -> Vec<IpAddr> {
        self.services.iter().map(|range| nth(range, CLUSTER_DNS)).collect()
    }

    /// Addresses of the fabric that LoadBalancer Services get, in a lab of so many nodes.
    pub fn load_balancers(&self, nodes: u8) -> Vec<IpNet> {
        // A large lab's nodes reach into the usual range.
        let (start, less) = if nodes <= 126 { (128, 6) } else { (208, 4) };
        let range = |address: IpNet| {
            IpNet::new_assert(address.addr(), if address.addr().is_ipv4() { 32 } else { 128 } - less)
        };
        self.on_fabric(start).into_iter().map(range).collect()
    }

    /// [`Ranges::on_fabric`] without the length.
    pub fn fabric_addresses(&self, host: u8) -> Vec<IpAddr> {
        self.on_fabric(host).iter().map(IpNet::addr).collect()
    }
}

fn nth(range: &IpNet, number: u8) -> IpAddr {
    match range {
        IpNet::V4(range) => Ipv4Addr::from(u32::from(range.network()) + u32::from(number)).into(),
        IpNet::V6(range) => Ipv6Addr::from(u128::from(range.network()) + u128::from(number)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dns_has_the_tenth_address() {
        let addresses: Vec<String> =
            IpFamily::Dual.ranges().cluster_dns().iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.96.0.10", "fd00:10:96::a"]);
    }

    #[test]
    fn load_balancers_are_no_nodes() {
        for nodes in [1, 126, 127, 200] {
            let ranges = IpFamily::Dual.ranges();
            for pool in ranges.load_balancers(nodes) {
                for host in (1..=nodes + 1).chain([OUTSIDE_HOST]) {
                    assert!(ranges.fabric_addresses(host).iter().all(|address| !pool.contains(address)));
                }
            }
        }
        let pools: Vec<String> =
            IpFamily::Dual.ranges().load_balancers(3).iter().map(ToString::to_string).collect();
        assert_eq!(pools, ["192.168.1.128/26", "fd00:192:168:1::80/122"]);
    }
}
