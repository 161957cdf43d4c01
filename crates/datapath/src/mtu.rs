//! MTU, worked out from the uplink.

use std::net::IpAddr;

/// What VXLAN adds in front of an inner layer-3 packet over IPv4: outer IPv4 20, UDP 8, VXLAN 8, inner Ethernet 14.
const VXLAN_OVER_IPV4: u32 = 50;
/// The same over IPv6.
const VXLAN_OVER_IPV6: u32 = 70;
/// The least that IPv6 works with (RFC 8200 section 5).
const MINIMUM: u32 = 1280;

/// Largest layer-3 packets, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mtu {
    /// Of the uplink.
    pub uplink: u32,
    /// Of the overlay.
    pub overlay: u32,
    /// Of new Pods: lowered from the uplink's by what the paths in use add, and by nothing else.
    pub pod: u32,
}

impl Mtu {
    /// Works out the MTUs from the uplink's and from the addresses between which tunnels run.
    pub fn new(uplink: u32, node_addresses: &[IpAddr], overlay_in_use: bool) -> Mtu {
        let only_ipv6 = node_addresses.iter().all(IpAddr::is_ipv6) && !node_addresses.is_empty();
        let overhead = if only_ipv6 { VXLAN_OVER_IPV6 } else { VXLAN_OVER_IPV4 };
        let overlay = uplink.saturating_sub(overhead).max(MINIMUM);
        Mtu { uplink, overlay, pod: if overlay_in_use { overlay } else { uplink } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_chosen_path_lowers_it() {
        let v4 = [IpAddr::from([192, 168, 1, 2])];
        let v6: [IpAddr; 1] = ["fd00::2".parse().unwrap()];
        assert_eq!(Mtu::new(1500, &v4, true), Mtu { uplink: 1500, overlay: 1450, pod: 1450 });
        assert_eq!(Mtu::new(1500, &v4, false).pod, 1500);
        assert_eq!(Mtu::new(9000, &v6, true).pod, 8930);
        assert_eq!(Mtu::new(1280, &v6, true).pod, 1280, "IPv6 needs 1280");
    }
}
