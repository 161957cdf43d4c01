//! Services in the kernel: what the plan says as frontends, Service ports, slots and backends.
//!
//! New backends are written before the slots that name them, those before the Service port that lists them, and that before its
//! frontends; what goes is removed in reverse. A list of backends changes in place, slot by slot, or moves to a free run of
//! slots; either way each connection finds either the old choice or the new.

mod adopt;
mod backends;
mod counters;
mod datapath;
mod frontends;
mod host_ports;
mod installed;
mod maglev;
mod own_addresses;
mod port;
mod slots;
mod sockets;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, net::IpAddr, time::Instant};

use weft_abi::{
    AffinityMember, Frontend, FrontendKey, MAX_AFFINITY_MEMBERS, MAX_FRONTENDS, MAX_SOURCE_RANGES,
    ServiceCounters, ServicePort, SourceRange, maps,
};
use weft_model::{
    Claims,
    services::{ServicePortKey, ServicePortPlan},
};

pub(crate) use self::host_ports::host_port_plan;
pub use self::installed::{InstalledBackend, InstalledServicePort};
use self::{
    backends::Backends, counters::Counters, host_ports::is_host_port, own_addresses::OwnAddresses,
    port::Installed, slots::SlotRuns,
};
pub(crate) use self::{backends::Gone, installed::CountReaders, sockets::SocketEnder};
use crate::{
    load::Programs,
    table::{ArrayTable, BpfArray, BpfHash, BpfLpm, BpfTableError, Store, Table, Written, array::ArrayStore},
};

/// The tables of Services could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// A map.
    #[error(transparent)]
    Table(#[from] BpfTableError),
    /// A map could not be opened.
    #[error(transparent)]
    Load(#[from] crate::LoadError),
}

/// What changing Services wrote, and what it had no room for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicesWritten {
    /// Entries of all tables.
    pub written: Written,
    /// Service ports that are not served as planned: they stay as they were, and are tried again with every change.
    pub refused: Vec<(ServicePortKey, Refused)>,
}

/// Why a Service port is not served as planned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A table has no room.
    #[error("the table of {0} is full; what is served already goes on as it was")]
    Full(&'static str),
    /// Another Service port has the frontend.
    #[error("{address} port {port} is {by}'s")]
    Taken {
        /// The address.
        address: IpAddr,
        /// The port, host byte order.
        port: u16,
        /// Whose it is.
        by: Box<ServicePortKey>,
    },
}

/// How many entries the tables take. The maps' own sizes, except in tests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) frontends: usize,
    pub(crate) source_ranges: usize,
    pub(crate) members: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            frontends: MAX_FRONTENDS as usize,
            source_ranges: MAX_SOURCE_RANGES as usize,
            members: MAX_AFFINITY_MEMBERS as usize,
        }
    }
}

/// What of the node Services must know.
#[derive(Clone, Debug, Default)]
pub(crate) struct Surroundings {
    /// This node's addresses.
    pub(crate) node_addresses: Vec<IpAddr>,
    /// All nodes' addresses.
    pub(crate) all_node_addresses: std::collections::BTreeSet<IpAddr>,
    /// Ranges of Service addresses.
    pub(crate) service_ranges: Vec<ipnet::IpNet>,
    /// Service addresses whose DNS port sockets of this node answer.
    pub(crate) dns_addresses: Vec<IpAddr>,
}

impl Surroundings {
    fn is_node_address(&self, address: IpAddr) -> bool {
        self.node_addresses.contains(&address) || self.all_node_addresses.contains(&address)
    }
}

/// A range and its bits.
type SourceRangeKey = (SourceRange, u32);

type Boxed<K, V> = Box<dyn Store<K, V, Error = BpfTableError> + Send>;

/// Where the tables are written to.
pub(crate) struct Stores {
    pub(crate) frontends: Boxed<FrontendKey, Frontend>,
    pub(crate) source_ranges: Boxed<SourceRangeKey, u32>,
    pub(crate) members: Boxed<AffinityMember, u32>,
    pub(crate) service_ports: Box<dyn ArrayStore<ServicePort> + Send>,
    pub(crate) slots: Box<dyn ArrayStore<u32> + Send>,
    pub(crate) backends: Box<dyn ArrayStore<weft_abi::Backend> + Send>,
    pub(crate) backend_ports: Box<dyn ArrayStore<u64> + Send>,
    pub(crate) service_counters: Box<dyn ArrayStore<ServiceCounters> + Send>,
    pub(crate) backend_counters: Box<dyn ArrayStore<u64> + Send>,
}

/// Who wants a frontend; their order is who has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claimant {
    is_of_host: bool,
    key: ServicePortKey,
}

/// The tables of Services.
pub(crate) struct Services {
    limits: Limits,
    surroundings: Surroundings,
    frontends: Table<FrontendKey, Frontend, Boxed<FrontendKey, Frontend>>,
    source_ranges: Table<SourceRangeKey, u32, Boxed<SourceRangeKey, u32>>,
    members: Table<AffinityMember, u32, Boxed<AffinityMember, u32>>,
    service_ports: ArrayTable<ServicePort>,
    slots: ArrayTable<u32>,
    backends: Backends,
    runs: SlotRuns,
    /// Indexes of Service ports that are free, last the next to be used.
    free_ports: Vec<u32>,
    counters: Counters<ServiceCounters>,
    /// Of several Service ports that want the same frontend, the first by name has it: the same on every node. Ports of the node
    /// that lead to Pods come after all Services, as with kube-proxy.
    claims: Claims<FrontendKey, Claimant>,
    own_addresses: OwnAddresses,
    installed: BTreeMap<ServicePortKey, Installed>,
    /// Entries of an earlier process that no Service port has taken over yet.
    unclaimed: BTreeMap<u32, port::Entry>,
    /// Plans that there was no room for.
    refused: BTreeMap<ServicePortKey, (ServicePortPlan, Refused)>,
    /// Backends that are gone and whose sockets are still to be ended.
    gone: Vec<Gone>,
    /// What is to be taken back once what is new is written: what a failed write leaves here, the next one takes back.
    leftovers: Leftovers,
    /// What an earlier process left has been compared with a whole plan.
    settled: bool,
    /// The last write failed half-way: what the tables hold is compared with what is installed.
    unfinished: bool,
}

/// What is taken back once nothing leads to it any more.
#[derive(Default)]
struct Leftovers {
    members: Vec<AffinityMember>,
    source_ranges: Vec<SourceRangeKey>,
    service_ports: Vec<u32>,
    runs: Vec<slots::Place>,
    backends: Vec<(weft_model::services::BackendState, weft_model::Protocol)>,
}

impl Services {
    /// All there is: what is not in it goes, except ports of the node that lead to Pods.
    pub(crate) fn replace(
        &mut self,
        plans: Vec<(ServicePortKey, ServicePortPlan)>,
        now: Instant,
    ) -> Result<ServicesWritten, ServiceError> {
        let wanted: BTreeMap<ServicePortKey, ServicePortPlan> = plans.into_iter().collect();
        let old =
            self.installed.iter().filter(|(_, installed)| !is_host_port(&installed.plan)).map(|(key, _)| key);
        let refused = self.refused.iter().filter(|(_, (plan, _))| !is_host_port(plan)).map(|(key, _)| key);
        let gone: Vec<ServicePortKey> =
            old.chain(refused).filter(|key| !wanted.contains_key(key)).cloned().collect();
        let mut changes: Vec<_> = gone.into_iter().map(|key| (key, None)).collect();
        if !self.settled {
            // Indexes and runs that the kernel has are taken before any new one is.
            self.adopt_indexes(&wanted);
        }
        changes.extend(wanted.into_iter().map(|(key, plan)| (key, Some(plan))));
        self.unfinished |= !std::mem::replace(&mut self.settled, true);
        self.change(changes, now)
    }

    /// What has changed; nothing is gone.
    pub(crate) fn change(
        &mut self,
        changes: Vec<(ServicePortKey, Option<ServicePortPlan>)>,
        now: Instant,
    ) -> Result<ServicesWritten, ServiceError> {
        // What there was no room for is tried again; what is said last holds.
        let waiting = std::mem::take(&mut self.refused);
        let waiting = waiting.into_iter().map(|(key, (plan, _))| (key, Some(plan)));
        let latest: BTreeMap<ServicePortKey, Option<ServicePortPlan>> = waiting.chain(changes).collect();
        // Removals make room for what is new.
        let (new, gone): (Vec<_>, Vec<_>) = latest.into_iter().partition(|(_, plan)| plan.is_some());
        let mut leftovers = std::mem::take(&mut self.leftovers);
        for (key, plan) in gone.into_iter().chain(new) {
            self.plan_one(key, plan, &mut leftovers, now);
        }
        // Before a whole list is known, an earlier process's entries are nobody's to take.
        let sweep = self.settled && self.unfinished;
        if sweep {
            self.drop_unclaimed(&mut leftovers);
        }
        self.leftovers = leftovers;
        self.unfinished = true;
        let mut written = self.write_new()?;
        written += self.remove_old(sweep, now)?;
        self.unfinished = false;
        Ok(ServicesWritten { written, refused: self.not_served() })
    }

    /// What is not served as planned, and why: one reason each.
    fn not_served(&self) -> Vec<(ServicePortKey, Refused)> {
        let taken = self.claims.conflicts().map(|(frontend, who, by)| {
            let (address, port) = (frontend.address.into(), u16::from_be(frontend.port_be));
            (who.key.clone(), Refused::Taken { address, port, by: Box::new(by.key.clone()) })
        });
        let full = self.refused.iter().map(|(key, (_, why))| (key.clone(), why.clone()));
        taken.chain(full).collect::<BTreeMap<_, _>>().into_iter().collect()
    }

    fn write_new(&mut self) -> Result<Written, ServiceError> {
        // Before anything leads to them.
        self.counters.flush()?;
        let mut written = self.backends.flush()?;
        written += self.slots.flush()?;
        written += self.members.flush()?;
        written += self.source_ranges.flush()?;
        written += self.service_ports.flush()?;
        written += self.frontends.flush()?;
        Ok(written)
    }

    fn remove_old(&mut self, sweep: bool, now: Instant) -> Result<Written, ServiceError> {
        for index in std::mem::take(&mut self.leftovers.service_ports) {
            self.service_ports.set(index, ServicePort::default());
            self.free_ports.push(index);
        }
        for range in std::mem::take(&mut self.leftovers.source_ranges) {
            self.source_ranges.unset(&range);
        }
        for member in std::mem::take(&mut self.leftovers.members) {
            self.members.unset(&member);
        }
        for (state, protocol) in std::mem::take(&mut self.leftovers.backends) {
            self.gone.extend(self.backends.unlist(state, protocol, now));
        }
        if sweep {
            self.gone.extend(self.backends.retire_unlisted(now));
        }
        let mut written = self.service_ports.flush()?;
        written += self.source_ranges.flush()?;
        written += self.members.flush()?;
        written += self.backends.flush()?;
        // Only now does nothing lead to them.
        for run in std::mem::take(&mut self.leftovers.runs) {
            self.runs.release(run, now);
        }
        Ok(written)
    }

    /// Puts back what somebody else changed in the tables.
    pub(crate) fn resync(&mut self) -> Result<Written, ServiceError> {
        let mut written = self.backends.resync()?;
        written += self.slots.resync()?;
        written += self.members.resync()?;
        written += self.source_ranges.resync()?;
        written += self.service_ports.resync()?;
        written += self.frontends.resync()?;
        Ok(written)
    }

    /// The node's own addresses, or those of the others, are these now. Frontends that are planned from now on go by them.
    pub(crate) fn set_surroundings(&mut self, surroundings: Surroundings) {
        self.surroundings = surroundings;
    }

    /// Backends that are gone since this was asked last.
    pub(crate) fn take_gone(&mut self) -> Vec<Gone> {
        std::mem::take(&mut self.gone)
    }
}

// === impl Claimant ===

impl Claimant {
    fn of(key: &ServicePortKey) -> Claimant {
        Claimant { is_of_host: host_ports::is_of_host(key), key: key.clone() }
    }
}

// === impl Stores ===

impl Stores {
    /// The pinned maps.
    pub(crate) fn open(programs: &Programs) -> Result<(Stores, CountReaders), ServiceError> {
        let map = |name| programs.map(name);
        let stores = Stores {
            frontends: Box::new(BpfHash::new(maps::FRONTENDS, map(maps::FRONTENDS)?)?),
            source_ranges: Box::new(BpfLpm::new(maps::SOURCE_RANGES, map(maps::SOURCE_RANGES)?)?),
            members: Box::new(BpfHash::new(maps::AFFINITY_MEMBERS, map(maps::AFFINITY_MEMBERS)?)?),
            service_ports: Box::new(BpfArray::new(maps::SERVICE_PORTS, map(maps::SERVICE_PORTS)?)?),
            slots: Box::new(BpfArray::new(maps::SLOTS, map(maps::SLOTS)?)?),
            backends: Box::new(BpfArray::new(maps::BACKENDS, map(maps::BACKENDS)?)?),
            backend_ports: Box::new(BpfArray::new(maps::BACKEND_PORTS, map(maps::BACKEND_PORTS)?)?),
            service_counters: Box::new(BpfArray::new(maps::SERVICE_COUNTERS, map(maps::SERVICE_COUNTERS)?)?),
            backend_counters: Box::new(BpfArray::new(maps::BACKEND_COUNTERS, map(maps::BACKEND_COUNTERS)?)?),
        };
        let counts = CountReaders {
            service_ports: Box::new(BpfArray::new(maps::SERVICE_COUNTERS, map(maps::SERVICE_COUNTERS)?)?),
            backends: Box::new(BpfArray::new(maps::BACKEND_COUNTERS, map(maps::BACKEND_COUNTERS)?)?),
        };
        Ok((stores, counts))
    }
}
