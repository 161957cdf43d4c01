//! Who is led where by a Service port: its frontends, of which two Service ports may want one.

use std::net::IpAddr;

use weft_abi::{Frontend, FrontendKey};
use weft_model::services::{self, FrontendKind, ServicePortKey, ServicePortPlan};

use super::{Claimant, Services, host_ports::is_on_loopback};
use crate::encode;

/// Port of DNS, RFC 1035 section 4.2.
const DNS_PORT: u16 = 53;

impl Services {
    /// Leads the frontends of an installed Service port to it, and those that it no longer has to whoever else wants them.
    pub(super) fn lead_frontends(&mut self, key: &ServicePortKey, old: &[services::Frontend]) {
        let Some(installed) = self.installed.get(key) else { return };
        let frontends = installed.plan.frontends.clone();
        let claimant = Claimant::of(key);
        for frontend in &frontends {
            let entry = encode::frontend_key(frontend.address, frontend.port, key.protocol);
            self.claims.add(entry, claimant.clone());
            if self.claims.holder(&entry) == Some(&claimant) {
                self.set_frontend(entry, key, frontend);
            }
        }
        for frontend in old.iter().filter(|old| !frontends.iter().any(|new| same_place(old, new))) {
            self.release_frontend(key, frontend);
        }
    }

    pub(super) fn release_frontend(&mut self, key: &ServicePortKey, frontend: &services::Frontend) {
        let entry = encode::frontend_key(frontend.address, frontend.port, key.protocol);
        let claimant = Claimant::of(key);
        let was_own = self.claims.holder(&entry) == Some(&claimant);
        match self.claims.remove(&entry, &claimant).map(|next| next.key.clone()) {
            Some(next) => {
                let wanted = self.installed.get(&next).and_then(|next| {
                    next.plan.frontends.iter().find(|other| same_place(other, frontend)).copied()
                });
                if let Some(wanted) = wanted {
                    self.set_frontend(entry, &next, &wanted);
                }
            }
            None if was_own => self.unset_frontend(&entry),
            None => {}
        }
    }

    fn set_frontend(&mut self, entry: FrontendKey, key: &ServicePortKey, frontend: &services::Frontend) {
        let Some(installed) = self.installed.get(key) else { return };
        let of_entry =
            if frontend.kind == FrontendKind::ClusterIp { installed.internal } else { installed.external };
        let Some(of_entry) = of_entry else { return };
        let value = Frontend {
            service_port: of_entry.index,
            flags: self.frontend_flags(key, &installed.plan, frontend),
        };
        self.frontends.set(entry, value);
        if value.flags & Frontend::OWN_ADDRESS == 0 {
            self.uncount_address(&entry);
        } else if self.own_addresses.count(entry) {
            let whole = Frontend { service_port: 0, flags: Frontend::ADDRESS };
            self.frontends.set(FrontendKey::whole(entry.address), whole);
        }
    }

    fn unset_frontend(&mut self, entry: &FrontendKey) {
        self.frontends.unset(entry);
        self.uncount_address(entry);
    }

    fn uncount_address(&mut self, entry: &FrontendKey) {
        if self.own_addresses.uncount(entry) {
            self.frontends.unset(&FrontendKey::whole(entry.address));
        }
    }

    fn frontend_flags(
        &self,
        key: &ServicePortKey,
        plan: &ServicePortPlan,
        frontend: &services::Frontend,
    ) -> u32 {
        let around = &self.surroundings;
        let mut flags = match frontend.kind {
            FrontendKind::ClusterIp => Frontend::OWN_ADDRESS,
            FrontendKind::NodePort => Frontend::NODE_ADDRESS | Frontend::LOOPBACK,
            FrontendKind::HostPort => {
                let of_host = Frontend::NODE_ADDRESS | Frontend::HOST_PORT;
                if frontend.address.is_loopback() {
                    of_host | Frontend::LOOPBACK_ONLY
                } else if is_on_loopback(key) {
                    of_host | Frontend::LOOPBACK
                } else {
                    of_host
                }
            }
            // Some clusters put nodes' addresses there, which have other ports of their own.
            FrontendKind::LoadBalancer if around.is_node_address(frontend.address) => 0,
            FrontendKind::LoadBalancer => Frontend::OWN_ADDRESS,
            FrontendKind::ExternalIp => 0,
        };
        if around.service_ranges.iter().any(|range| range.contains(&frontend.address)) {
            flags |= Frontend::ROUTED;
        }
        if frontend.port == DNS_PORT && around.dns_addresses.contains(&frontend.address) {
            flags |= Frontend::NODE_SOCKET;
        }
        if frontend.kind == FrontendKind::LoadBalancer && (plan.nobody_else || !plan.source_ranges.is_empty())
        {
            flags |= Frontend::SOURCE_RANGES;
            let allowed = |address: &IpAddr| plan.source_ranges.iter().any(|range| range.contains(address));
            if around.node_addresses.iter().any(allowed) {
                flags |= Frontend::NODE_ALLOWED;
            }
        }
        flags
    }
}

fn same_place(one: &services::Frontend, other: &services::Frontend) -> bool {
    (one.address, one.port) == (other.address, other.port)
}
