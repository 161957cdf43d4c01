//! A Pod's interface: a veth pair, its addresses and routes, its programs.

mod inside;
mod removal;

use std::{collections::BTreeSet, fmt::Write as _, net::IpAddr};

use ipnet::IpNet;
pub(crate) use removal::Removal;
use weft_abi::{Address, GATEWAY_MAC, Pod};
use weft_netns::{
    Netlink, NetlinkError, Netns, NetnsError,
    netlink::{NeighbourSpec, VethSpec},
};

use crate::{
    config::PodSpec,
    datapath::Datapath,
    fingerprint,
    load::LoadError,
    route::RouteTo,
    service::{Refused, ServiceError, ServicesWritten, host_port_plan},
    sysctl::{self, SysctlError},
    table::BpfTableError,
};

/// First letters of every host-side interface.
pub(crate) const HOST_PREFIX: &str = "weft";

/// What [`Datapath::add_pod`] made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodLinks {
    /// Name of the interface on the host.
    pub host_interface: String,
    /// Its hardware address.
    pub host_mac: [u8; 6],
    /// Hardware address of the interface in the Pod.
    pub pod_mac: [u8; 6],
    /// MTU of both, in bytes.
    pub mtu: u32,
}

/// A Pod as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InstalledPod {
    /// Name of the interface on the host.
    pub host_interface: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// A Pod's interface could not be made. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum AddPodError {
    /// The interface name is taken inside the Pod.
    #[error("the Pod already has an interface {0}")]
    InterfaceExists(String),
    /// The kernel did not take an address into use.
    #[error("{0} was given to the Pod, but the kernel does not take packets for it in")]
    NotLocal(IpAddr),
    /// The Pod's namespace.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// A link, address, route or neighbour.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// An interface setting.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// A program or its link.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The table of Pods.
    #[error(transparent)]
    Table(#[from] BpfTableError),
    /// Tables of the ports of the node.
    #[error(transparent)]
    HostPorts(#[from] ServiceError),
    /// A port of the node.
    #[error("port {port} of the node does not lead to the Pod: {why}")]
    HostPort {
        /// The port.
        port: String,
        /// Why.
        why: Refused,
    },
}

/// What is wrong with a Pod's interface.
#[derive(Debug, thiserror::Error)]
pub enum CheckPodError {
    /// Something that ADD made is not there any more.
    #[error("missing: {0}")]
    Missing(String),
    /// The kernel could not be asked.
    #[error(transparent)]
    Ask(#[from] AddPodError),
}

/// The host-side interface name of an attachment: the same for the same container and interface, at most 15 bytes.
pub fn host_interface(container_id: &str, interface: &str) -> String {
    let bytes = container_id.bytes().chain([0]).chain(interface.bytes());
    let hash = fingerprint(bytes);
    let mut name = HOST_PREFIX.to_owned();
    // 44 of the 64 bits fit.
    let _ = write!(name, "{:011x}", hash >> 20);
    name
}

/// Sets the rate limits of a Pod: what it receives by a queue of the host's side, what it sends by one of its own. Returns the
/// Pod's flags.
fn shape(spec: &PodSpec, host: &mut Netlink, index: u32, inside: &mut Netlink) -> Result<u32, AddPodError> {
    /// The least that lets a full packet through at once, with some to spare, bytes.
    const LEAST_BURST: u64 = 65_536;
    let Some(limits) = spec.bandwidth else { return Ok(0) };
    let bytes = |bits: u64| bits / 8;
    let burst = |bits: u64| u32::try_from(bytes(bits).max(LEAST_BURST)).unwrap_or(u32::MAX);
    if limits.egress_rate > 0 {
        let link = inside.link(&spec.interface)?;
        inside.set_token_bucket(link.index, bytes(limits.egress_rate), burst(limits.egress_burst))?;
    }
    if limits.ingress_rate == 0 {
        return Ok(0);
    }
    host.set_token_bucket(index, bytes(limits.ingress_rate), burst(limits.ingress_burst))?;
    Ok(Pod::SHAPED)
}

impl Datapath {
    /// Makes a Pod's interface: all of it or nothing. The programs run and the Pod is in the table before the link is
    /// up.
    pub fn add_pod(&mut self, spec: &PodSpec) -> Result<PodLinks, AddPodError> {
        let netns = Netns::from_path(&spec.netns)?;
        let mut inside = Netlink::open_in(&netns)?;
        let taken = |inside: &mut Netlink| match inside.link(&spec.interface) {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        };
        // What an attempt that was cut short may have left under this name, or a removal has not finished.
        self.remove_pod(&spec.host_interface)?;
        if self.netlink.link(&spec.host_interface).is_ok() || taken(&mut inside)? {
            self.removal.wait();
            if taken(&mut inside)? {
                return Err(AddPodError::InterfaceExists(spec.interface.clone()));
            }
        }
        let made = self.make_pod(spec, &netns, &mut inside);
        if made.is_err()
            && let Err(error) = self.remove_pod(&spec.host_interface)
        {
            tracing::warn!(interface = spec.host_interface, %error, "undoing a failed ADD");
        }
        made
    }

    fn make_pod(
        &mut self,
        spec: &PodSpec,
        netns: &Netns,
        inside: &mut Netlink,
    ) -> Result<PodLinks, AddPodError> {
        let host = spec.host_interface.as_str();
        self.netlink.add_veth(&VethSpec {
            name: host,
            peer_name: &spec.interface,
            peer_netns: Some(netns),
            mac: Some(GATEWAY_MAC),
            peer_mac: None,
            mtu: Some(spec.mtu),
        })?;
        let link = self.netlink.link(host)?;
        let (has_v4, has_v6) =
            (spec.addresses.iter().any(IpAddr::is_ipv4), spec.addresses.iter().any(IpAddr::is_ipv6));
        if has_v4 {
            sysctl::set(&format!("ipv4/conf/{host}/forwarding"), "1")?;
        }
        if sysctl::has_ipv6() {
            sysctl::no_autoconfiguration(host)?;
        }
        let flags = shape(spec, &mut self.netlink, link.index, inside)?;
        let netns_cookie = netns.cookie()?;
        self.namespaces.insert(netns_cookie, spec.netns.clone());
        for address in &spec.addresses {
            self.pods.set(
                Address::from(*address),
                Pod { ifindex: link.index, flags, netns_cookie, asked_until_ns: 0 },
            );
        }
        self.pods.flush()?;
        self.programs.bind_pod(&mut self.netlink, link.index)?;
        self.netlink.set_up(link.index)?;
        if has_v6 {
            self.netlink.add_address(link.index, inside::GATEWAY_V6.into(), 64)?;
        }
        let pod_mac = inside::configure(inside, spec)?;
        for address in &spec.addresses {
            let neighbour = NeighbourSpec { index: link.index, address: *address, mac: pod_mac };
            self.netlink.set_neighbour(&neighbour)?;
            self.routes.set(
                IpNet::from(*address),
                RouteTo { index: link.index, gateway: None, source: self.own_address(*address) },
            );
        }
        self.routes.flush()?;
        self.map_ports(spec)?;
        Ok(PodLinks { host_interface: host.to_owned(), host_mac: GATEWAY_MAC, pod_mac, mtu: spec.mtu })
    }

    /// Leads ports of the node to the Pod.
    fn map_ports(&mut self, spec: &PodSpec) -> Result<(), AddPodError> {
        let own = self.settings.node_addresses.clone();
        let plans: Vec<_> = (spec.port_mappings.iter())
            .flat_map(|mapping| spec.addresses.iter().map(move |address| (mapping, *address)))
            .filter_map(|(mapping, address)| host_port_plan(mapping, address, &own))
            .collect();
        if plans.is_empty() {
            return Ok(());
        }
        let keys: BTreeSet<_> = plans.iter().map(|(key, _)| key.clone()).collect();
        let changes = plans.into_iter().map(|(key, plan)| (key, Some(plan))).collect();
        let ServicesWritten { refused, .. } = self.change_services(changes)?;
        match refused.into_iter().find(|(key, _)| keys.contains(key)) {
            Some((key, why)) => Err(AddPodError::HostPort { port: key.port.to_string(), why }),
            None => Ok(()),
        }
    }

    /// Leads no port of the node to these addresses any more.
    fn unmap_ports(&mut self, addresses: &[Address]) -> Result<(), AddPodError> {
        let pods: Vec<IpAddr> = addresses.iter().map(|address| IpAddr::from(*address)).collect();
        let keys = self.services.host_ports_to(&pods);
        if !keys.is_empty() {
            self.change_services(keys.into_iter().map(|key| (key, None)).collect())?;
        }
        Ok(())
    }

    /// Cuts a Pod off and removes everything that belongs to its interface; the interface itself goes a moment later. What
    /// is not there is not an error.
    pub fn remove_pod(&mut self, host_interface: &str) -> Result<(), AddPodError> {
        let index = match self.netlink.link(host_interface) {
            Ok(link) => link.index,
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let addresses: Vec<IpAddr> = (self.pods.desired().iter())
            .filter(|(_, pod)| pod.ifindex == index)
            .map(|(address, _)| IpAddr::from(*address))
            .collect();
        self.forget_addresses(&addresses)?;
        self.removal.enqueue(index)?;
        Ok(())
    }

    /// Nothing leads to these addresses any more, also where their interface went by itself, with its namespace: the next Pod that
    /// is given one must not get what was the last one's.
    pub fn forget_addresses(&mut self, addresses: &[IpAddr]) -> Result<(), AddPodError> {
        let addresses: Vec<Address> = addresses.iter().map(|address| Address::from(*address)).collect();
        self.unmap_ports(&addresses)?;
        for address in addresses {
            self.pods.unset(&address);
            self.routes.unset(&IpNet::from(IpAddr::from(address)));
        }
        self.pods.flush()?;
        self.routes.flush()?;
        Ok(())
    }

    /// Whether everything that [`Datapath::add_pod`] made is still there. Additions by others are not an error.
    pub fn check_pod(&mut self, spec: &PodSpec) -> Result<(), CheckPodError> {
        let missing = |what: String| Err(CheckPodError::Missing(what));
        let host = spec.host_interface.as_str();
        let link = match self.netlink.link(host) {
            Err(error) if error.is_not_found() => return missing(format!("interface {host} on the node")),
            other => other.map_err(AddPodError::from)?,
        };
        for address in &spec.addresses {
            let entry = self.pods.desired().get(&Address::from(*address));
            if entry.is_none_or(|pod| pod.ifindex != link.index) {
                return missing(format!("{address} in the table of Pods"));
            }
        }
        let netns = Netns::from_path(&spec.netns).map_err(AddPodError::from)?;
        let mut inside = Netlink::open_in(&netns).map_err(AddPodError::from)?;
        if let Some(what) = inside::missing(&mut inside, spec)? {
            return missing(what);
        }
        let routes = self.netlink.routes().map_err(AddPodError::from)?;
        for address in &spec.addresses {
            let prefix_len = if address.is_ipv4() { 32 } else { 128 };
            let is_it = |route: &weft_netns::netlink::Route| {
                route.destination == *address && route.prefix_len == prefix_len && route.index == link.index
            };
            if !routes.iter().any(is_it) {
                return missing(format!("route to {address} on the node"));
            }
        }
        Ok(())
    }

    /// The Pods that the kernel has now, by their entries and their interfaces: one that has only the one or the other
    /// is listed as well.
    pub fn pods(&mut self) -> Result<Vec<InstalledPod>, AddPodError> {
        let mut pods = Vec::new();
        let leaving = self.removal.pending();
        for link in self.netlink.links()? {
            if !is_pod_interface(&link.name) || leaving.contains(&link.index) {
                continue;
            }
            let addresses: Vec<IpAddr> = (self.pods.desired().iter())
                .filter(|(_, pod)| pod.ifindex == link.index)
                .map(|(address, _)| IpAddr::from(*address))
                .collect();
            pods.push(InstalledPod { host_interface: link.name, addresses });
        }
        pods.sort();
        Ok(pods)
    }
}

/// Whether a host-side interface was named by [`host_interface`].
pub(crate) fn is_pod_interface(name: &str) -> bool {
    name.strip_prefix(HOST_PREFIX)
        .is_some_and(|rest| rest.len() == 11 && rest.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_interfaces_fit_differ_and_are_recognised() {
        let one = host_interface("0a1b2c", "eth0");
        assert_eq!(one.len(), 15);
        assert_eq!(one, host_interface("0a1b2c", "eth0"));
        assert_ne!(one, host_interface("0a1b2c", "eth1"));
        assert_ne!(host_interface("ab", "c"), host_interface("a", "bc"));
        assert!(is_pod_interface(&one));
        assert!(!is_pod_interface("weft0") && !is_pod_interface("eth0"));
    }
}
