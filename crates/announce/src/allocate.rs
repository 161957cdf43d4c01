//! Which Service gets which address: a function of the Services and the pools as they are now.
//!
//! An address in a Service's status is kept while the Service may have it. What is new is chosen by the Service's name,
//! so that a Service that is made again gets the address that it had, if that is free.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    hash::Hasher,
    net::IpAddr,
};

use weft_model::BalancedService;

use crate::{
    hash::Fnv,
    pools::{Pool, Pools},
};

/// The class that names this implementation; Services without a class are served as well.
pub const CLASS: &str = "weft.network/announce";

/// What is to become of one Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision<'s> {
    /// The Service.
    pub service: &'s BalancedService,
    /// What its status is to hold, the families in its own order.
    pub addresses: Vec<IpAddr>,
    /// Why it does not have all that it wants.
    pub problem: Option<Problem>,
}

/// Why a Service does not have all the addresses that it wants.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// It asks for something that is no address, or for one that it cannot have.
    #[error("{0:?} cannot be its address: {1}")]
    Wish(String, &'static str),
    /// It asks for an address that no pool has for it.
    #[error("{0} is in no pool of loadBalancerPools (ConfigMap kube-system/weft) that serves this Service")]
    NotInPool(IpAddr),
    /// Another Service has the address.
    #[error("{0} belongs to Service {1} already; choose another one")]
    Taken(IpAddr, String),
    /// All addresses are given.
    #[error("no free {family} address: {}", exhausted(.pools))]
    Exhausted {
        /// `IPv4` or `IPv6`.
        family: &'static str,
        /// The pools that were looked through.
        pools: Vec<String>,
    },
}

fn exhausted(pools: &[String]) -> String {
    match pools {
        [] => "no pool of loadBalancerPools (ConfigMap kube-system/weft) has any for this Service".into(),
        [pool] => format!("pool {pool} is full; enlarge it, or free addresses"),
        _ => format!("pools {} are full; enlarge one, or free addresses", pools.join(", ")),
    }
}

impl Problem {
    /// One word for machines, as the reason of an Event.
    pub fn reason(&self) -> &'static str {
        match self {
            Problem::Wish(..) | Problem::NotInPool(_) => "LoadBalancerAddressRefused",
            Problem::Taken(..) => "LoadBalancerAddressConflict",
            Problem::Exhausted { .. } => "LoadBalancerPoolExhausted",
        }
    }
}

/// Decides about every Service that is ours; those that are somebody else's are not in the result. Addresses of nodes are
/// given to nobody, whatever the pools say: the node would lose all else that it has there.
pub fn allocate<'s>(
    services: &'s [BalancedService],
    pools: &Pools,
    nodes: &BTreeSet<IpAddr>,
) -> Vec<Decision<'s>> {
    if pools.is_empty() {
        return Vec::new();
    }
    let ours = |service: &&BalancedService| {
        let class = service.class.as_deref();
        (service.wants_addresses && class.is_none_or(|class| class == CLASS))
            || (!service.wants_addresses && service.held.iter().any(|address| pools.of(*address).is_some()))
    };
    let mut services: Vec<&BalancedService> = services.iter().filter(ours).collect();
    services.sort_by_key(|service| (service.created, &service.key));
    let mut given = Given::default();
    // Who has an address keeps it, before anybody gets a new one.
    for service in services.iter().filter(|service| service.wants_addresses) {
        for address in &service.held {
            if !nodes.contains(address) && may_keep(service, *address, pools) {
                given.keep(*address, service);
            }
        }
    }
    let mut problems: Vec<Option<Problem>> = Vec::new();
    // Who moves to another address frees one that somebody may be waiting for.
    let mut moved = true;
    while moved {
        moved = false;
        problems.clear();
        for service in &services {
            problems.push(wishes(service, pools, nodes, &mut given, &mut moved).err());
        }
    }
    for (service, problem) in services.iter().zip(&mut problems) {
        // Who asks for an address does not want another one.
        if service.wants_addresses && problem.is_none() {
            *problem = draw(service, pools, nodes, &mut given).err();
        }
    }
    let decide = |(service, problem): (&'s BalancedService, Option<Problem>)| Decision {
        service,
        addresses: given.of(service),
        problem,
    };
    services.into_iter().zip(problems).map(decide).collect()
}

fn may_keep(service: &BalancedService, address: IpAddr, pools: &Pools) -> bool {
    let serves = |pool: &Pool| pool.serves(&service.labels);
    service.families.contains(&address.is_ipv6()) && pools.of(address).is_some_and(serves)
}

/// Gives a Service the addresses that it asks for. What it had instead it keeps until it gets them.
fn wishes<'s>(
    service: &'s BalancedService,
    pools: &Pools,
    nodes: &BTreeSet<IpAddr>,
    given: &mut Given<'s>,
    moved: &mut bool,
) -> Result<(), Problem> {
    if !service.wants_addresses {
        return Ok(());
    }
    let mut seen: Vec<IpAddr> = Vec::new();
    for text in &service.wishes {
        let wrong = |why| Problem::Wish(text.clone(), why);
        let address: IpAddr = text.parse().map_err(|_| wrong("it is no IP address"))?;
        if !service.families.contains(&address.is_ipv6()) {
            return Err(wrong("the Service does not have its family (spec.ipFamilies)"));
        }
        if seen.iter().any(|other| other.is_ipv6() == address.is_ipv6()) {
            return Err(wrong("a Service has one address a family, and asks for two"));
        }
        seen.push(address);
        if nodes.contains(&address) {
            return Err(wrong("it is a node's"));
        }
        if !may_keep(service, address, pools) {
            return Err(Problem::NotInPool(address));
        }
        *moved |= given.exchange(address, service)?;
    }
    Ok(())
}

/// Gives a Service an address of each family that it lacks.
fn draw<'s>(
    service: &'s BalancedService,
    pools: &Pools,
    nodes: &BTreeSet<IpAddr>,
    given: &mut Given<'s>,
) -> Result<(), Problem> {
    let mut hasher = Fnv::default();
    hasher.write(service.key.to_string().as_bytes());
    let start = hasher.finish();
    let mut failed = Ok(());
    for ipv6 in &service.families {
        if given.has(service, *ipv6) {
            continue;
        }
        let serving: Vec<&Pool> = pools
            .pools
            .iter()
            .filter(|pool| pool.auto_assign && pool.serves(&service.labels))
            .filter(|pool| pool.ranges().any(|range| range.is_ipv6() == *ipv6))
            .collect();
        let ranges = serving.iter().flat_map(|pool| pool.ranges()).filter(|range| range.is_ipv6() == *ipv6);
        let free = ranges
            .flat_map(|range| range.from(start))
            .find(|address| given.is_free(*address) && !nodes.contains(address));
        match free {
            Some(address) => given.keep(address, service),
            // A family that no pool has is not missed where one is enough.
            None if serving.is_empty() && service.families.len() > 1 && !service.needs_every_family => {}
            None => {
                let family = if *ipv6 { "IPv6" } else { "IPv4" };
                let pools = serving.iter().map(|pool| pool.name.clone()).collect();
                failed = Err(Problem::Exhausted { family, pools });
            }
        }
    }
    failed
}

/// Who has what, one address a family and Service.
#[derive(Default)]
struct Given<'s> {
    owners: BTreeMap<IpAddr, &'s BalancedService>,
}

impl<'s> Given<'s> {
    fn is_free(&self, address: IpAddr) -> bool {
        !self.owners.contains_key(&address)
    }

    fn keep(&mut self, address: IpAddr, service: &'s BalancedService) {
        if !self.has(service, address.is_ipv6()) {
            self.owners.entry(address).or_insert(service);
        }
    }

    /// True when the Service did not have the address before.
    fn exchange(&mut self, address: IpAddr, service: &'s BalancedService) -> Result<bool, Problem> {
        match self.owners.entry(address) {
            Entry::Occupied(owner) if owner.get().key != service.key => {
                return Err(Problem::Taken(address, owner.get().key.to_string()));
            }
            Entry::Occupied(_) => return Ok(false),
            Entry::Vacant(_) => {}
        }
        let other = |held: &IpAddr, owner: &BalancedService| {
            owner.key == service.key && held.is_ipv6() == address.is_ipv6()
        };
        self.owners.retain(|held, owner| !other(held, owner));
        self.owners.insert(address, service);
        Ok(true)
    }

    fn has(&self, service: &BalancedService, ipv6: bool) -> bool {
        self.owners.iter().any(|(address, owner)| owner.key == service.key && address.is_ipv6() == ipv6)
    }

    fn of(&self, service: &BalancedService) -> Vec<IpAddr> {
        let own = |ipv6: bool| {
            let mut all = self.owners.iter();
            all.find(|(address, owner)| owner.key == service.key && address.is_ipv6() == ipv6)
        };
        service.families.iter().filter_map(|ipv6| own(*ipv6).map(|(address, _)| *address)).collect()
    }
}

#[cfg(test)]
mod tests;
