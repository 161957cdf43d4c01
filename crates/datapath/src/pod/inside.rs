//! The Pod's side: addresses, routes, the gateway's neighbour entry.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    thread,
    time::{Duration, Instant},
};

use weft_abi::GATEWAY_MAC;
use weft_netns::{
    Netlink, NetlinkError,
    netlink::{NeighbourSpec, RouteSpec},
};

use super::AddPodError;
use crate::config::PodSpec;

/// A Pod's IPv4 gateway: link-local (RFC 3927), the same in every Pod.
const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// A Pod's IPv6 gateway: link-local, the same in every Pod.
pub(super) const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Gives the Pod its addresses and routes and sets its link up. Returns the interface's hardware address.
pub(super) fn configure(inside: &mut Netlink, spec: &PodSpec) -> Result<[u8; 6], AddPodError> {
    let link = inside.link(&spec.interface)?;
    let mac = <[u8; 6]>::try_from(link.mac.as_slice())
        .map_err(|_| NetlinkError::Answer(format!("hardware address of {}", spec.interface)))?;
    if let Ok(loopback) = inside.link("lo")
        && !loopback.up
    {
        inside.set_up(loopback.index)?;
    }
    inside.set_up(link.index)?;
    for address in &spec.addresses {
        inside.add_address(link.index, *address, if address.is_ipv4() { 32 } else { 128 })?;
        let gateway = gateway(*address);
        inside.set_neighbour(&NeighbourSpec { index: link.index, address: gateway, mac: GATEWAY_MAC })?;
        for route in routes(gateway, link.index) {
            inside.set_route(&route)?;
        }
    }
    for address in spec.addresses.iter().filter(|address| address.is_ipv6()) {
        wait_until_local(inside, *address)?;
    }
    Ok(mac)
}

/// A Pod that starts can be reached: the kernel must have finished with its addresses, which takes it some microseconds.
fn wait_until_local(inside: &mut Netlink, address: IpAddr) -> Result<(), AddPodError> {
    const DEADLINE: Duration = Duration::from_secs(2);
    const PAUSE: Duration = Duration::from_micros(50);
    let deadline = Instant::now() + DEADLINE;
    while !inside.is_local(address)? {
        if Instant::now() > deadline {
            return Err(AddPodError::NotLocal(address));
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}

/// The first thing that [`configure`] made and that is not there any more.
pub(super) fn missing(inside: &mut Netlink, spec: &PodSpec) -> Result<Option<String>, AddPodError> {
    let link = match inside.link(&spec.interface) {
        Err(error) if error.is_not_found() => {
            return Ok(Some(format!("interface {} in the Pod", spec.interface)));
        }
        other => other?,
    };
    if !link.up {
        return Ok(Some(format!("interface {} in the Pod is down", spec.interface)));
    }
    let (addresses, present) = (inside.addresses(Some(link.index))?, inside.routes()?);
    for address in &spec.addresses {
        if !addresses.iter().any(|found| found.address == *address) {
            return Ok(Some(format!("address {address} in the Pod")));
        }
        let gateway = gateway(*address);
        let has_default = present.iter().any(|route| {
            route.prefix_len == 0 && route.gateway == Some(gateway) && route.index == link.index
        });
        if !has_default {
            return Ok(Some(format!("default route via {gateway} in the Pod")));
        }
    }
    Ok(None)
}

fn gateway(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => GATEWAY_V4.into(),
        IpAddr::V6(_) => GATEWAY_V6.into(),
    }
}

/// The gateway is on the link although its address is in no network of the Pod's; IPv6 link-local always is.
fn routes(gateway: IpAddr, index: u32) -> Vec<RouteSpec> {
    let default = RouteSpec::default_via(gateway, index);
    match gateway {
        IpAddr::V4(_) => vec![RouteSpec::new(gateway, 32, index), default],
        IpAddr::V6(_) => vec![default],
    }
}
