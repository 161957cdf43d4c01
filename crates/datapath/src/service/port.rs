//! One Service port: from plan to entries.

use std::{collections::BTreeSet, time::Instant};

use weft_abi::{AffinityMember, ServicePort, Slots, SourceRange};
use weft_model::{
    Protocol,
    services::{BackendKey, BackendState, Choice, FrontendKind, ServicePortKey, ServicePortPlan, WhenEmpty},
};

use super::{
    Leftovers, Refused, Services, maglev,
    slots::{Place, class_of},
};
use crate::encode;

/// A Service port as the tables have it.
pub(super) struct Installed {
    /// What it was made from.
    pub(super) plan: ServicePortPlan,
    /// For the cluster IP.
    pub(super) internal: Option<Entry>,
    /// For all other frontends.
    pub(super) external: Option<Entry>,
}

/// An entry of the table of Service ports.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// Its index.
    pub(super) index: u32,
    /// Backends for connections from inside.
    pub(super) inside: Run,
    /// Backends for connections from outside, where they are others: a Maglev table.
    pub(super) outside: Run,
}

/// Slots in use.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Run {
    /// Where they are; nowhere while there are none.
    pub(super) place: Option<Place>,
    /// How many of them.
    pub(super) count: u32,
}

/// What an entry is to be.
struct Wanted<'p> {
    inside: &'p Choice,
    /// None: the same as inside.
    outside: Option<&'p Choice>,
}

/// Room that was taken for an entry which may yet be refused.
struct Prepared {
    index: u32,
    /// Free runs, where the lists do not fit into theirs.
    inside: Option<Place>,
    outside: Option<Place>,
}

// === impl Run ===

impl Run {
    fn slots(self) -> Slots {
        self.place.map_or(Slots::default(), |place| Slots::new(place.first, self.count))
    }

    /// Whether so many slots fit in place.
    fn fits(self, count: u32, is_table: bool) -> bool {
        match self.place {
            _ if count == 0 => true,
            None => false,
            // A table's length is part of it; a list may keep room for twice its length.
            Some(place) if is_table => place.class == class_of(count) && self.count == count,
            Some(place) => count <= 1 << place.class && count.saturating_mul(4) >= 1 << place.class,
        }
    }
}

impl Services {
    /// Brings one Service port to its plan, or refuses it whole.
    pub(super) fn plan_one(
        &mut self,
        key: ServicePortKey,
        plan: Option<ServicePortPlan>,
        leftovers: &mut Leftovers,
        now: Instant,
    ) {
        let old = self.installed.remove(&key);
        let Some(plan) = plan else {
            if let Some(old) = old {
                self.uninstall(&key, old, leftovers);
            }
            return;
        };
        if let Err(why) = self.check_room(&plan, key.protocol, old.as_ref(), now) {
            self.refuse(key, plan, why, old);
            return;
        }
        let (mut internal, mut external) = (None, None);
        if plan.frontends.iter().any(|frontend| frontend.kind == FrontendKind::ClusterIp) {
            internal = Some(Wanted { inside: &plan.internal, outside: None });
        }
        if plan.frontends.iter().any(|frontend| frontend.kind != FrontendKind::ClusterIp) {
            external = Some(Wanted { inside: &plan.cluster, outside: Some(&plan.external) });
        }
        let (old_internal, old_external) =
            old.as_ref().map_or((None, None), |old| (old.internal, old.external));
        let prepared = self.prepare(old_internal, internal.as_ref(), now).and_then(|first| {
            match self.prepare(old_external, external.as_ref(), now) {
                Ok(second) => Ok((first, second)),
                Err(why) => {
                    self.give_back(first, old_internal, now);
                    Err(why)
                }
            }
        });
        let (first, second) = match prepared {
            Ok(prepared) => prepared,
            Err(why) => return self.refuse(key, plan, why, old),
        };
        let old_plan = old.as_ref().map(|old| &old.plan);
        let old_members = old.as_ref().map(|old| self.members_of(old, key.protocol)).unwrap_or_default();
        let old_ranges = old.as_ref().map(source_ranges_of).unwrap_or_default();
        self.list_backends(old_plan.map_or(&[], |old| &old.known), &plan.known, key.protocol, leftovers, now);
        let affinity = first.as_ref().or(second.as_ref()).map_or(0, |prepared| prepared.index);
        let internal = self.commit(old_internal, internal, first, &plan, affinity, key.protocol, leftovers);
        let external = self.commit(old_external, external, second, &plan, affinity, key.protocol, leftovers);
        let installed = Installed { plan, internal, external };
        let members = self.members_of(&installed, key.protocol);
        leftovers.members.extend(old_members.difference(&members));
        members.into_iter().for_each(|member| self.members.set(member, 1));
        let ranges = source_ranges_of(&installed);
        leftovers.source_ranges.extend(old_ranges.difference(&ranges));
        ranges.into_iter().for_each(|range| self.source_ranges.set(range, 1));
        let old_frontends = old.map(|old| old.plan.frontends).unwrap_or_default();
        self.installed.insert(key.clone(), installed);
        self.lead_frontends(&key, &old_frontends);
    }

    fn refuse(&mut self, key: ServicePortKey, plan: ServicePortPlan, why: Refused, old: Option<Installed>) {
        if let Some(old) = old {
            self.installed.insert(key.clone(), old);
        }
        self.refused.insert(key, (plan, why));
    }

    /// Whether all tables but those of indexes and slots have room for a plan.
    fn check_room(
        &mut self,
        plan: &ServicePortPlan,
        protocol: Protocol,
        old: Option<&Installed>,
        now: Instant,
    ) -> Result<(), Refused> {
        let old_frontends = old.map_or(0, |old| old.plan.frontends.len());
        // An entry for the address itself may come with each.
        let more = 2 * plan.frontends.len().saturating_sub(old_frontends);
        if more > 0 && self.frontends.desired().len() + more > self.limits.frontends {
            return Err(Refused::Full("frontends"));
        }
        let room = self.backends.room(now);
        // Those that go give their entries back only afterwards.
        if plan.known.len() > room {
            let unknown = plan.known.iter().filter(|state| !self.backends.is_known(state.key, protocol));
            if unknown.count() > room {
                return Err(Refused::Full("backends"));
            }
        }
        if plan.source_ranges.len() + self.source_ranges.desired().len() > self.limits.source_ranges {
            return Err(Refused::Full("source ranges"));
        }
        let mut members = 0;
        if plan.affinity_seconds.is_some() {
            members +=
                plan.internal.backends.len() + plan.cluster.backends.len() + plan.external.backends.len();
        }
        if protocol == Protocol::Udp {
            members += 2 * plan.known.len();
        }
        if members > 0 && members + self.members.desired().len() > self.limits.members {
            return Err(Refused::Full("backends of Services with affinity, and of UDP ports"));
        }
        Ok(())
    }

    /// Takes an index and runs for an entry that needs new ones.
    fn prepare(
        &mut self,
        old: Option<Entry>,
        wanted: Option<&Wanted<'_>>,
        now: Instant,
    ) -> Result<Option<Prepared>, Refused> {
        let Some(wanted) = wanted else { return Ok(None) };
        let index = match old {
            Some(old) => old.index,
            None => {
                let free = self.free_ports.pop().ok_or(Refused::Full("Service ports"))?;
                self.counters.begin(free);
                free
            }
        };
        let mut prepared = Prepared { index, inside: None, outside: None };
        let lists = [
            (old.map(|old| old.inside), wanted.inside.backends.len() as u32, false),
            (
                old.map(|old| old.outside),
                wanted.outside.map_or(0, |choice| maglev::size(choice.backends.len())),
                true,
            ),
        ];
        for (place, (run, count, is_table)) in lists.into_iter().enumerate() {
            if run.unwrap_or_default().fits(count, is_table) {
                continue;
            }
            let Some(found) = self.runs.allocate(class_of(count), now) else {
                self.give_back(Some(prepared), old, now);
                return Err(Refused::Full("slots"));
            };
            *(if place == 0 { &mut prepared.inside } else { &mut prepared.outside }) = Some(found);
        }
        Ok(Some(prepared))
    }

    /// Gives back what was taken for an entry that is refused after all.
    fn give_back(&mut self, prepared: Option<Prepared>, old: Option<Entry>, now: Instant) {
        let Some(prepared) = prepared else { return };
        for place in [prepared.inside, prepared.outside].into_iter().flatten() {
            self.runs.release(place, now);
        }
        if old.is_none() {
            self.free_ports.push(prepared.index);
        }
    }

    /// Writes an entry, for which room was taken before, or takes it away.
    #[allow(clippy::too_many_arguments, reason = "what was and what is to be, side by side")]
    fn commit(
        &mut self,
        old: Option<Entry>,
        wanted: Option<Wanted<'_>>,
        prepared: Option<Prepared>,
        plan: &ServicePortPlan,
        affinity: u32,
        protocol: Protocol,
        leftovers: &mut Leftovers,
    ) -> Option<Entry> {
        let (Some(wanted), Some(prepared)) = (wanted, prepared) else {
            if let Some(old) = old {
                leftovers.service_ports.push(old.index);
                leftovers.runs.extend([old.inside.place, old.outside.place].into_iter().flatten());
            }
            return None;
        };
        let (was_inside, was_outside) = old.map_or_else(Default::default, |old| (old.inside, old.outside));
        let list = self.indexes(&wanted.inside.backends, protocol);
        let inside = self.write_list(was_inside, prepared.inside, list, leftovers);
        let outside = match wanted.outside {
            Some(choice) => {
                let indexes: Vec<Option<u32>> =
                    choice.backends.iter().map(|backend| self.backends.index(*backend, protocol)).collect();
                let table = maglev::table(&choice.backends);
                let table: Vec<u32> = table
                    .iter()
                    .filter_map(|place| indexes.get(*place as usize).copied().flatten())
                    .collect();
                self.write_run(was_outside, prepared.outside, &table, leftovers)
            }
            None => Run::default(),
        };
        let when = |choice: &Choice, flag| if choice.when_empty == WhenEmpty::Drop { flag } else { 0 };
        let outside_choice = wanted.outside.unwrap_or(wanted.inside);
        let value = ServicePort {
            inside: inside.slots(),
            outside: if wanted.outside.is_some() { outside.slots() } else { inside.slots() },
            affinity_seconds: plan.affinity_seconds.unwrap_or(0),
            affinity,
            flags: when(wanted.inside, ServicePort::DROP_INSIDE)
                | when(outside_choice, ServicePort::DROP_OUTSIDE),
            reserved: 0,
        };
        self.service_ports.set(prepared.index, value);
        Some(Entry { index: prepared.index, inside, outside })
    }

    fn indexes(&self, backends: &[BackendKey], protocol: Protocol) -> Vec<u32> {
        backends.iter().filter_map(|backend| self.backends.index(*backend, protocol)).collect()
    }

    /// A list of backends in any order: those that stay keep their slots, as far as there are no holes.
    fn write_list(
        &mut self,
        was: Run,
        moved: Option<Place>,
        wanted: Vec<u32>,
        leftovers: &mut Leftovers,
    ) -> Run {
        let mut list: Vec<u32> = was.place.map_or_else(Vec::new, |place| {
            (0..was.count).map(|slot| self.slots.get(place.first + slot)).collect()
        });
        let keep: BTreeSet<u32> = wanted.iter().copied().collect();
        let mut seen = BTreeSet::new();
        let mut slot = 0;
        while let Some(index) = list.get(slot) {
            if keep.contains(index) && seen.insert(*index) {
                slot += 1;
            } else {
                list.swap_remove(slot);
            }
        }
        list.extend(wanted.into_iter().filter(|index| !seen.contains(index)));
        self.write_run(was, moved, &list, leftovers)
    }

    fn write_run(
        &mut self,
        was: Run,
        moved: Option<Place>,
        entries: &[u32],
        leftovers: &mut Leftovers,
    ) -> Run {
        if moved.is_some() || entries.is_empty() {
            leftovers.runs.extend(was.place);
        }
        let place = moved.or(was.place).filter(|_| !entries.is_empty());
        if let Some(place) = place {
            for (slot, index) in entries.iter().enumerate() {
                self.slots.set(place.first + slot as u32, *index);
            }
        }
        Run { place, count: entries.len() as u32 }
    }

    /// Lists the backends that are new or say something else of themselves; those that are gone are unlisted at the end.
    fn list_backends(
        &mut self,
        old: &[BackendState],
        new: &[BackendState],
        protocol: Protocol,
        leftovers: &mut Leftovers,
        now: Instant,
    ) {
        for state in new {
            match old.binary_search_by_key(&state.key, |old| old.key).ok().and_then(|place| old.get(place)) {
                None => self.backends.list(*state, protocol, now),
                Some(before) if before != state => self.backends.relist(*before, *state, protocol),
                Some(_) => {}
            }
        }
        for state in old {
            if new.binary_search_by_key(&state.key, |new| new.key).is_err() {
                leftovers.backends.push((*state, protocol));
            }
        }
    }

    pub(super) fn members_of(&self, installed: &Installed, protocol: Protocol) -> BTreeSet<AffinityMember> {
        let mut members = BTreeSet::new();
        let plan = &installed.plan;
        if protocol == Protocol::Udp {
            let indexes = plan.known.iter().filter_map(|state| self.backends.index(state.key, protocol));
            for backend in indexes {
                for entry in [installed.internal, installed.external].into_iter().flatten() {
                    let (service_port, role) = (entry.index, AffinityMember::STAYS);
                    members.insert(AffinityMember { service_port, backend, role });
                }
            }
        }
        if plan.affinity_seconds.is_none() {
            return members;
        }
        let mut add = |entry: Option<Entry>, choice: &Choice, role| {
            let Some(entry) = entry else { return };
            for backend in self.indexes(&choice.backends, protocol) {
                members.insert(AffinityMember { service_port: entry.index, backend, role });
            }
        };
        add(installed.internal, &plan.internal, AffinityMember::INSIDE);
        add(installed.internal, &plan.internal, AffinityMember::OUTSIDE);
        add(installed.external, &plan.cluster, AffinityMember::INSIDE);
        add(installed.external, &plan.external, AffinityMember::OUTSIDE);
        members
    }

    fn uninstall(&mut self, key: &ServicePortKey, old: Installed, leftovers: &mut Leftovers) {
        for frontend in &old.plan.frontends {
            self.release_frontend(key, frontend);
        }
        leftovers.members.extend(self.members_of(&old, key.protocol));
        leftovers.source_ranges.extend(source_ranges_of(&old));
        for entry in [old.internal, old.external].into_iter().flatten() {
            leftovers.service_ports.push(entry.index);
            leftovers.runs.extend([entry.inside.place, entry.outside.place].into_iter().flatten());
        }
        leftovers.backends.extend(old.plan.known.iter().map(|state| (*state, key.protocol)));
    }
}

/// Source ranges are the external entry's.
pub(super) fn source_ranges_of(installed: &Installed) -> BTreeSet<(SourceRange, u32)> {
    let Some(entry) = installed.external else { return BTreeSet::new() };
    installed.plan.source_ranges.iter().map(|range| encode::source_range(entry.index, *range)).collect()
}
