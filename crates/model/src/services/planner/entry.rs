//! One Service and how it is served.

use std::{mem, sync::Arc};

use super::{
    super::{
        HealthCheck, LoadBalancer, LocalEndpoints, Service, ServiceKey, ServicePortKey, ThisNode,
        choose::{self, Slice},
        claims::{Claimant, Place, claim},
    },
    Changes, FAMILIES, Families,
};
use crate::{Claims, Protocol};

/// A Service, or what is known of one before it is.
#[derive(Debug, Default)]
pub(super) struct Entry {
    pub(super) service: Option<Box<Service>>,
    /// The list that the Service was last seen in.
    pub(super) seen: u32,
    /// By name.
    pub(super) slices: Vec<Slice>,
    /// What the data plane was told last.
    planned: Vec<PortId>,
    /// What the others were told last; few Services have it.
    pub(super) outside: Option<Box<Outside>>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outside {
    pub(super) health_check: Option<HealthCheck>,
    pub(super) load_balancer: Option<LoadBalancer>,
}

/// A port of a Service in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PortId {
    name: Arc<str>,
    protocol: Protocol,
    ipv6: bool,
}

// === impl Entry ===

impl Entry {
    /// The data plane has been told nothing.
    pub(super) fn forget_planned(&mut self) {
        self.planned.clear();
    }

    pub(super) fn plan(
        &mut self,
        key: &ServiceKey,
        families: Families,
        node: &ThisNode,
        claims: &Claims<Place, Claimant>,
        changes: &mut Changes,
    ) {
        let before = mem::take(&mut self.planned);
        let (again, mut planned) = before.into_iter().partition::<Vec<_>, _>(|port| families.has(port.ipv6));
        let named = |id: &PortId| ServicePortKey {
            service: key.clone(),
            port: Arc::clone(&id.name),
            protocol: id.protocol,
            ipv6: id.ipv6,
        };
        let first = changes.ports.len();
        if let Some(service) = self.service.as_deref().filter(|service| service.is_served()) {
            for (port, ipv6) in service.ports.iter().flat_map(|port| FAMILIES.map(|ipv6| (port, ipv6))) {
                if !families.has(ipv6) || !service.has_family(ipv6) {
                    continue;
                }
                let mut frontends = choose::frontends(service, port, ipv6, node);
                frontends.retain(|one| {
                    let (place, claimant) = claim(key, port, *one);
                    claims.holder(&place) == Some(&claimant)
                });
                let plan = choose::plan(service, port, ipv6, frontends, &self.slices, node);
                let id = PortId { name: Arc::clone(&port.name), protocol: port.protocol, ipv6 };
                changes.ports.push((named(&id), Some(plan)));
                planned.push(id);
            }
        }
        let gone = again.iter().filter(|id| !planned.contains(id));
        changes.ports.extend(gone.map(|id| (named(id), None)));
        if let Some(new) = changes.ports.get_mut(first..) {
            new.sort_by(|a, b| a.0.cmp(&b.0));
        }
        planned.shrink_to_fit();
        self.planned = planned;
        self.tell_outside(key, changes);
    }

    /// What others than the data plane are told.
    fn tell_outside(&mut self, key: &ServiceKey, changes: &mut Changes) {
        let local = || LocalEndpoints::count(&choose::local_ready(&self.slices));
        let wanted = self.service.as_deref().filter(|service| service.is_outside()).map(|service| {
            let local = local();
            Outside {
                health_check: HealthCheck::of(service, local),
                load_balancer: LoadBalancer::of(service, local),
            }
        });
        let before = self.outside.as_deref();
        let health_check = wanted.as_ref().and_then(|wanted| wanted.health_check.clone());
        if before.and_then(|before| before.health_check.as_ref()) != health_check.as_ref() {
            changes.health_checks.push((key.clone(), health_check));
        }
        let load_balancer = wanted.as_ref().and_then(|wanted| wanted.load_balancer.clone());
        if before.and_then(|before| before.load_balancer.as_ref()) != load_balancer.as_ref() {
            changes.load_balancers.push((key.clone(), load_balancer));
        }
        self.outside = wanted.map(Box::new);
    }
}
