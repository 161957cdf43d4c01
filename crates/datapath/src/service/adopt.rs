//! Taking over what an earlier process wrote, so that a restart writes nothing where nothing changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use weft_abi::{BACKEND_PORT_WORDS, Backend, Frontend, FrontendKey, Slots};
use weft_model::{
    Claims,
    services::{BackendKey, Choice, FrontendKind, ServicePortKey, ServicePortPlan, WhenEmpty},
};

use super::{
    Claimant, Leftovers, Limits, ServiceError, Services, Stores, Surroundings,
    backends::Backends,
    counters::Counters,
    host_ports,
    own_addresses::OwnAddresses,
    port::{Entry, Installed, Run},
    slots::{Place, SlotRuns, class_of},
};
use crate::{
    encode,
    table::{ArrayTable, Table},
};

impl Services {
    /// Reads the tables. Until [`Services::replace`] says what is wanted, everything stays as it is.
    pub(crate) fn adopt(
        stores: Stores,
        limits: Limits,
        surroundings: Surroundings,
    ) -> Result<Services, ServiceError> {
        let frontends = Table::adopt(stores.frontends)?;
        let service_ports =
            frontends.desired().values().map(|frontend| frontend.service_port.saturating_add(1)).max();
        let service_ports = ArrayTable::adopt(stores.service_ports, service_ports.unwrap_or(0))?;
        let runs = (0..service_ports.used()).map(|index| service_ports.get(index));
        let runs = runs.flat_map(|port| [port.inside, port.outside]);
        let slots = runs.map(|run| run.first().saturating_add(run.count())).max();
        let slots = ArrayTable::adopt(stores.slots, slots.unwrap_or(0))?;
        let mut services = Services {
            limits,
            surroundings,
            frontends,
            source_ranges: Table::adopt(stores.source_ranges)?,
            members: Table::adopt(stores.members)?,
            service_ports,
            runs: SlotRuns::new(slots.size()),
            slots,
            backends: Backends::adopt(
                ArrayTable::adopt_dense(stores.backends)?,
                ArrayTable::adopt(stores.backend_ports, BACKEND_PORT_WORDS)?,
                Counters::new(stores.backend_counters),
            ),
            free_ports: Vec::new(),
            counters: Counters::new(stores.service_counters),
            claims: Claims::default(),
            own_addresses: OwnAddresses::default(),
            installed: BTreeMap::new(),
            unclaimed: BTreeMap::new(),
            refused: BTreeMap::new(),
            gone: Vec::new(),
            leftovers: Leftovers::default(),
            settled: false,
            unfinished: false,
        };
        services.find_entries();
        services.adopt_host_ports();
        Ok(services)
    }

    /// Takes the indexes and slots that are in use.
    fn find_entries(&mut self) {
        let named: BTreeSet<u32> = (self.frontends.desired().values())
            .filter(|frontend| frontend.flags & Frontend::ADDRESS == 0)
            .map(|frontend| frontend.service_port)
            .collect();
        for index in (0..self.service_ports.size()).rev() {
            if !named.contains(&index) {
                self.free_ports.push(index);
                continue;
            }
            let value = self.service_ports.get(index);
            let inside = self.reserve(value.inside);
            // The cluster IP's entry has one list for both.
            let outside =
                if value.outside == value.inside { Run::default() } else { self.reserve(value.outside) };
            self.unclaimed.insert(index, Entry { index, inside, outside });
        }
    }

    fn reserve(&mut self, slots: Slots) -> Run {
        if slots.count() == 0 || slots.count() > self.slots.size() {
            return Run::default();
        }
        // It may have been given more room than it fills now; the rest is free.
        let place = Place { first: slots.first(), class: class_of(slots.count()) };
        if self.runs.reserve(place) {
            Run { place: Some(place), count: slots.count() }
        } else {
            Run::default()
        }
    }

    /// Ports of the node that lead to Pods are known from the tables alone.
    fn adopt_host_ports(&mut self) {
        let mut found: BTreeMap<u32, Vec<FrontendKey>> = BTreeMap::new();
        for (key, frontend) in self.frontends.desired() {
            if frontend.flags & Frontend::HOST_PORT != 0 {
                found.entry(frontend.service_port).or_default().push(*key);
            }
        }
        for (index, frontends) in found {
            let Some(entry) = self.unclaimed.get(&index).copied() else { continue };
            let backend = entry.inside.place.map(|place| self.slots.get(place.first));
            let Some(backend) = backend.map(|backend| self.backends.entry(backend)) else { continue };
            let Some(first) = frontends.first().copied() else { continue };
            let (Some((key, _)), Some(protocol)) =
                (encode::backend_key(&backend), encode::protocol(first.protocol))
            else {
                continue;
            };
            if backend.flags & Backend::LIVE == 0 {
                continue;
            }
            let addresses: Vec<IpAddr> = frontends.iter().map(|frontend| frontend.address.into()).collect();
            let port = u16::from_be(first.port_be);
            let first_flags = self.frontends.desired().get(&first).map_or(0, |frontend| frontend.flags);
            let on = (first_flags & Frontend::LOOPBACK == 0).then(|| addresses[0]);
            let of = host_ports::key(on, port, protocol, addresses[0].is_ipv6());
            let plan = host_ports::plan(addresses, port, key.address, key.port);
            self.unclaimed.remove(&index);
            plan.known
                .iter()
                .for_each(|state| self.backends.list(*state, protocol, std::time::Instant::now()));
            for frontend in frontends {
                self.claims.add(frontend, Claimant::of(&of));
            }
            self.installed.insert(of, Installed { plan, internal: None, external: Some(entry) });
        }
    }

    /// Gives the Service ports of a whole plan the entries that their frontends lead to already.
    pub(super) fn adopt_indexes(&mut self, wanted: &BTreeMap<ServicePortKey, ServicePortPlan>) {
        for (key, plan) in wanted {
            let mut entry = |is_cluster_ip: bool| {
                let of_kind = plan
                    .frontends
                    .iter()
                    .filter(|frontend| (frontend.kind == FrontendKind::ClusterIp) == is_cluster_ip);
                let mut indexes = of_kind.filter_map(|frontend| {
                    let entry = encode::frontend_key(frontend.address, frontend.port, key.protocol);
                    self.frontends.desired().get(&entry).map(|frontend| frontend.service_port)
                });
                indexes.find_map(|index| self.unclaimed.remove(&index))
            };
            let (internal, external) = (entry(true), entry(false));
            if internal.is_some() || external.is_some() {
                self.installed.insert(key.clone(), Installed { plan: nothing(), internal, external });
            }
        }
    }

    /// Takes away what an earlier process, or a write that failed half-way, left in the tables and nothing installed has a place
    /// for.
    pub(super) fn drop_unclaimed(&mut self, leftovers: &mut Leftovers) {
        let stale: Vec<FrontendKey> = (self.frontends.desired().iter())
            .filter(|(key, frontend)| {
                if frontend.flags & Frontend::ADDRESS != 0 {
                    !self.own_addresses.has(&key.address)
                } else {
                    self.claims.holder(key).is_none()
                }
            })
            .map(|(key, _)| *key)
            .collect();
        stale.iter().for_each(|key| self.frontends.unset(key));
        for (index, entry) in std::mem::take(&mut self.unclaimed) {
            leftovers.service_ports.push(index);
            leftovers.runs.extend([entry.inside.place, entry.outside.place].into_iter().flatten());
        }
        let used: BTreeSet<u32> = (self.installed.values())
            .flat_map(|installed| [installed.internal, installed.external])
            .flatten()
            .map(|entry| entry.index)
            .collect();
        // Left behind where no frontend led any more: cleared, though free already.
        for index in 0..self.service_ports.used() {
            if !used.contains(&index) {
                self.service_ports.set(index, Default::default());
            }
        }
        let mut members = BTreeSet::new();
        let mut ranges = BTreeSet::new();
        for (key, installed) in &self.installed {
            members.extend(self.members_of(installed, key.protocol));
            ranges.extend(super::port::source_ranges_of(installed));
        }
        // What was left over before may be wanted again.
        leftovers.members =
            self.members.desired().keys().filter(|member| !members.contains(*member)).copied().collect();
        leftovers.source_ranges =
            self.source_ranges.desired().keys().filter(|range| !ranges.contains(*range)).copied().collect();
    }
}

/// The plan of which nothing is known.
fn nothing() -> ServicePortPlan {
    let none = Choice { backends: Arc::from(Vec::<BackendKey>::new()), when_empty: WhenEmpty::Reject };
    ServicePortPlan {
        frontends: Vec::new(),
        internal: none.clone(),
        cluster: none.clone(),
        external: none,
        known: Arc::from(Vec::new()),
        affinity_seconds: None,
        source_ranges: Vec::new(),
        nobody_else: false,
    }
}
