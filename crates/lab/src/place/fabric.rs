//! The wires between the nodes: a bridge in a namespace of its own, and a link to each node.

use std::{fs, net::IpAddr, path::Path};

use anyhow::{Context, Result};
use ipnet::IpNet;
use weft_netns::{
    Netns,
    netlink::{Netlink, RouteSpec, VethSpec},
};

use super::LabDir;
use crate::Ranges;

const BRIDGE: &str = "fabric";
/// Interface of a node.
const UPLINK: &str = "eth0";

/// The fabric of one lab.
#[derive(Debug)]
pub(crate) struct Fabric {
    netns: Netns,
    bridge: u32,
    mtu: u32,
}

impl Fabric {
    /// Makes the namespace, the bridge and its addresses.
    pub(crate) fn create(lab: &LabDir, ranges: &Ranges, mtu: u32) -> Result<Fabric> {
        let netns = Netns::create(&lab.netns("fabric"))?;
        start_namespace(&netns)?;
        let mut netlink = Netlink::open_in(&netns)?;
        netlink.add_bridge(BRIDGE)?;
        let bridge = netlink.link(BRIDGE)?.index;
        netlink.set_mtu(bridge, mtu)?;
        netlink.set_up(bridge)?;
        for address in ranges.on_fabric(1) {
            netlink.add_address(bridge, address.addr(), address.prefix_len())?;
        }
        Ok(Fabric { netns, bridge, mtu })
    }

    /// Makes a host's namespace, a node's or another, and joins it. `number` is the last part of its addresses.
    pub(crate) fn add_host(&self, lab: &LabDir, name: &str, ranges: &Ranges, number: u8) -> Result<Netns> {
        let netns = Netns::create(&lab.netns(name))?;
        start_namespace(&netns)?;
        let spec = VethSpec {
            name,
            peer_name: UPLINK,
            peer_netns: Some(&netns),
            mac: None,
            peer_mac: None,
            mtu: Some(self.mtu),
        };
        let mut fabric = Netlink::open_in(&self.netns)?;
        fabric.add_veth(&spec)?;
        let port = fabric.link(name)?.index;
        fabric.set_master(port, self.bridge)?;
        fabric.set_up(port)?;
        let mut inside = Netlink::open_in(&netns)?;
        let uplink = inside.link(UPLINK)?.index;
        inside.set_up(uplink)?;
        for (address, gateway) in ranges.on_fabric(number).into_iter().zip(ranges.fabric_addresses(1)) {
            self.address(&mut inside, uplink, address, gateway)?;
        }
        Ok(netns)
    }

    fn address(&self, inside: &mut Netlink, uplink: u32, address: IpNet, gateway: IpAddr) -> Result<()> {
        inside.add_address(uplink, address.addr(), address.prefix_len())?;
        inside.set_route(&RouteSpec::default_via(gateway, uplink)).map_err(Into::into)
    }

    /// The namespace of the bridge.
    pub(crate) fn netns(&self) -> &Netns {
        &self.netns
    }
}

/// Loopback up, and IPv6 addresses usable at once: the lab knows that they are unique.
pub(crate) fn start_namespace(netns: &Netns) -> Result<()> {
    netns.run(|| {
        let path = Path::new("/proc/sys/net/ipv6/conf/default/accept_dad");
        // A kernel without IPv6 has no such file and needs none.
        if path.exists() { fs::write(path, "0").with_context(|| path.display().to_string()) } else { Ok(()) }
    })??;
    let mut netlink = Netlink::open_in(netns)?;
    let loopback = netlink.link("lo")?.index;
    netlink.set_up(loopback)?;
    Ok(())
}
