//! What a node has whatever the cluster looks like: devices, addresses, programs in their places.

use std::{collections::BTreeSet, net::IpAddr};

use weft_abi::{Address, Config, GATEWAY_MAC, TUNNEL_SOURCE_PORTS, programs};
use weft_model::PodRange;
use weft_netns::netlink::{Link, RouteSpec, VxlanSpec, or_exists, or_gone};

use super::{ApplyError, Datapath, OVERLAY, Repaired};
use crate::{encode, load::Direction, mtu::Mtu, route, sysctl, table::Raw, uplink};

impl Datapath {
    /// Everything that this node has whatever the cluster looks like. Idempotent; says what it had to do.
    pub(super) fn bring_up(&mut self) -> Result<Repaired, ApplyError> {
        let mut done = Vec::new();
        self.uplink =
            uplink::find(&mut self.netlink, self.settings.uplink.as_deref(), &self.settings.node_addresses)?;
        let ipv6 = sysctl::has_ipv6() && self.settings.pod_ranges.iter().any(|range| range.addr().is_ipv6());
        let overlay = self.overlay_device(&mut done)?;
        self.overlay = overlay.index;
        if sysctl::forward(OVERLAY, ipv6)? + sysctl::forward(&self.uplink.name, ipv6)? > 0 {
            done.push(format!("forwarding on {OVERLAY} and {} switched on", self.uplink.name));
        }
        if ipv6 && sysctl::forward_ipv6(&self.uplink.name)? > 0 {
            done.push("IPv6 forwarding switched on".to_owned());
        }
        if sysctl::any_source(OVERLAY)? {
            done.push(format!("sources from outside of the cluster allowed on {OVERLAY}"));
        }
        self.overlay_addresses(&overlay, &mut done)?;
        self.dns_routes(&overlay, &mut done)?;
        if self.tell_programs()? {
            done.push("indexes, MTUs and limits told to the programs".to_owned());
        }
        let uplink = self.uplink.name.clone();
        let hooks = [
            (programs::OVERLAY_INGRESS, OVERLAY, Direction::Ingress),
            (programs::OVERLAY_EGRESS, OVERLAY, Direction::Egress),
            (programs::UPLINK_INGRESS, uplink.as_str(), Direction::Ingress),
            (programs::UPLINK_EGRESS, uplink.as_str(), Direction::Egress),
        ];
        for (program, interface, direction) in hooks {
            if self.programs.attach(program, interface, direction)? {
                done.push(format!("{program} attached to {interface}"));
            }
        }
        if let Some(cgroup) = &self.settings.cgroup {
            let hooks = self.programs.attach_sockets(cgroup)?;
            if hooks > 0 {
                done.push(format!("{hooks} programs of sockets attached to {}", cgroup.display()));
            }
        }
        let pods = self.pods_in_table()?;
        let (interfaces, blocks) = self.programs.bind_pods(&mut self.netlink, &pods)?;
        if interfaces > 0 {
            done.push(format!("programs put back on {interfaces} Pods' interfaces"));
        }
        if blocks > 0 {
            done.push(format!("{blocks} programs of Pods' interfaces replaced"));
        }
        Ok(done)
    }

    /// What the programs must know of the node. Says whether it is news.
    pub(super) fn tell_programs(&mut self) -> Result<bool, ApplyError> {
        let flag = |is_set: bool, flag: u16| if is_set { flag } else { 0 };
        let (dns_gap_ns, dns_burst_ns) = encode::pace(self.settings.dns_questions_of_pod);
        let config = Config {
            overlay_ifindex: self.overlay,
            uplink_ifindex: self.uplink.index,
            overlay_mtu: Mtu::new(self.uplink.mtu, &self.settings.node_addresses, true).overlay,
            uplink_mtu: self.uplink.mtu,
            tunnel_v4: self.own_tunnel_end(true),
            tunnel_v6: self.own_tunnel_end(false),
            label_v4: self.own_plain_address(true).map(Address::from).unwrap_or_default(),
            label_v6: self.own_plain_address(false).map(Address::from).unwrap_or_default(),
            path_v4: self.own_path_address(true).map(Address::from).unwrap_or_default(),
            path_v6: self.own_path_address(false).map(Address::from).unwrap_or_default(),
            netns_cookie: self.own_namespace,
            dns_gap_ns,
            dns_burst_ns,
            vxlan_port_be: self.settings.vxlan_port.to_be(),
            flags: flag(self.settings.direct_return, Config::DIRECT_RETURN)
                | flag(self.settings.open_cluster_ips, Config::OPEN_CLUSTER_IPS)
                | flag(self.settings.any_hardware, Config::ANY_HARDWARE),
            routes: self.peers_changed,
            uplink_mac: self.uplink.mac,
            ..Config::default()
        };
        let news = self.config.get(&0, 0)?.0 != config;
        if news {
            self.config.set(0, Raw(config), 0)?;
        }
        Ok(news)
    }

    /// The overlay device, made anew if it is not there or is another.
    fn overlay_device(&mut self, done: &mut Repaired) -> Result<Link, ApplyError> {
        let mtu = Mtu::new(self.uplink.mtu, &self.settings.node_addresses, true).overlay;
        let port = self.settings.vxlan_port;
        let fits = |link: &Link| {
            link.kind == "vxlan"
                && link.no_arp
                && link.mac == GATEWAY_MAC
                && link.vxlan.is_some_and(|(_, p)| p == port)
        };
        let found = match self.netlink.link(OVERLAY) {
            Ok(link) if fits(&link) => Some(link),
            Ok(link) => {
                or_gone(self.netlink.delete_link(link.index))?;
                None
            }
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error.into()),
        };
        let link = match found {
            Some(link) => link,
            None => {
                let source_ports = TUNNEL_SOURCE_PORTS;
                self.netlink.add_vxlan(&VxlanSpec {
                    name: OVERLAY,
                    port,
                    source_ports,
                    mac: GATEWAY_MAC,
                    mtu,
                })?;
                if sysctl::has_ipv6() {
                    sysctl::no_autoconfiguration(OVERLAY)?;
                }
                done.push(format!("{OVERLAY} made"));
                self.netlink.link(OVERLAY)?
            }
        };
        if link.mtu != mtu {
            self.netlink.set_mtu(link.index, mtu)?;
            done.push(format!("MTU of {OVERLAY} set to {mtu}"));
        }
        if !link.up {
            self.netlink.set_up(link.index)?;
            done.push(format!("{OVERLAY} set up"));
        }
        Ok(link)
    }

    /// The addresses by which this node's own end of each path is probed.
    fn overlay_addresses(&mut self, overlay: &Link, done: &mut Repaired) -> Result<(), ApplyError> {
        let wanted: BTreeSet<IpAddr> = (self.settings.pod_ranges.iter())
            .filter_map(|range| PodRange::new(*range).ok())
            .flat_map(|range| [range.path_address(), range.plain_address()])
            .collect();
        let present = self.netlink.addresses(Some(overlay.index))?;
        for address in &wanted {
            if !present.iter().any(|found| found.address == *address) {
                let prefix_len = if address.is_ipv4() { 32 } else { 128 };
                or_exists(self.netlink.add_address(overlay.index, *address, prefix_len))?;
                done.push(format!("{address} given to {OVERLAY}"));
            }
        }
        for old in present.iter().filter(|found| found.global && !wanted.contains(&found.address)) {
            or_gone(self.netlink.delete_address(overlay.index, old.address, old.prefix_len))?;
            done.push(format!("{} taken from {OVERLAY}", old.address));
        }
        Ok(())
    }

    /// The addresses of the cluster DNS are taken in here, although no interface has them: nothing is ever sent from them but
    /// answers.
    fn dns_routes(&mut self, overlay: &Link, done: &mut Repaired) -> Result<(), ApplyError> {
        let present: Vec<RouteSpec> = (self.netlink.local_routes()?.into_iter())
            .filter(|route| route.protocol == route::PROTOCOL)
            .collect();
        for address in &self.settings.dns_addresses {
            // The node's own processes do not ask from the address that they ask: the answer would be to a port of the Service.
            let source = self.own_path_address(address.is_ipv4());
            let there = |route: &RouteSpec| {
                route.destination == *address && route.index == overlay.index && route.source == source
            };
            if present.iter().any(there) {
                continue;
            }
            let bits = if address.is_ipv4() { 32 } else { 128 };
            let taken_in = RouteSpec {
                protocol: route::PROTOCOL,
                local: true,
                source,
                ..RouteSpec::new(*address, bits, overlay.index)
            };
            self.netlink.set_route(&taken_in)?;
            done.push(format!("{address} taken in"));
        }
        for old in present.iter().filter(|old| !self.settings.dns_addresses.contains(&old.destination)) {
            or_gone(self.netlink.delete_route(old))?;
            done.push(format!("{} not taken in any more", old.destination));
        }
        Ok(())
    }
}
