//! Events in, changes of the plan out.

mod entry;
mod queries;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map},
    mem,
    net::IpAddr,
    sync::Arc,
};

use super::{
    AddressType, ClusterDns, EndpointSlice, Event, Frontend, HealthCheck, LoadBalancer, Protected, Service,
    ServiceKey, ServicePort, ServicePortKey, ServicePortPlan, SliceKey, SlicePort, ThisNode, Unreachable,
    Why,
    choose::{self, KeptEndpoint, Slice},
    claims::{Claimant, Place, claim},
    intern::Interned,
};
use crate::Claims;
use entry::Entry;

/// What a node serves, kept in line with what the API says. The plan is a function of the objects, never of the order in
/// which they came.
pub struct Planner {
    node: ThisNode,
    services: HashMap<ServiceKey, Entry>,
    /// Which Service a slice belongs to, and the list that it was last seen in.
    slices: HashMap<SliceKey, (ServiceKey, u32)>,
    /// What is to be planned again.
    dirty: BTreeMap<ServiceKey, Families>,
    claims: Claims<Place, Claimant>,
    /// Services with `externalIPs`: few have any.
    external: BTreeSet<ServiceKey>,
    /// Endpoints that are not taken.
    refused_endpoints: BTreeMap<SliceKey, (ServiceKey, RefusedAddresses)>,
    /// Addresses of API servers that the node was told of; those of `default/kubernetes` come on top.
    api_servers: BTreeSet<IpAddr>,
    lists: Lists,
    endpoints: usize,
    strings: Interned<str>,
    zone_lists: Interned<[Arc<str>]>,
    port_lists: Interned<[SlicePort]>,
}

/// What has changed since the last time; `None` is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// For the data plane, sorted.
    pub ports: Vec<(ServicePortKey, Option<ServicePortPlan>)>,
    /// For the health checks of load balancers.
    pub health_checks: Vec<(ServiceKey, Option<HealthCheck>)>,
    /// For who answers for addresses.
    pub load_balancers: Vec<(ServiceKey, Option<LoadBalancer>)>,
}

/// How much a planner knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Services.
    pub services: usize,
    /// EndpointSlices.
    pub slices: usize,
    /// Endpoints in them.
    pub endpoints: usize,
}

/// Addresses, and why they are not taken.
type RefusedAddresses = Box<[(IpAddr, Why)]>;

#[derive(Clone, Copy, Debug, Default)]
struct Families {
    ipv4: bool,
    ipv6: bool,
}

/// Lists are numbered, so that what was not in the last one can be told.
#[derive(Debug, Default)]
struct Lists {
    services: u32,
    services_whole: bool,
    slices: u32,
    slices_whole: bool,
}

const FAMILIES: [bool; 2] = [false, true];

/// The Service whose endpoints are the API servers.
const API: (&str, &str) = ("default", "kubernetes");

// === impl Planner ===

impl Planner {
    /// A planner that knows nothing yet.
    pub fn new(node: ThisNode) -> Self {
        Self {
            node,
            services: HashMap::new(),
            slices: HashMap::new(),
            dirty: BTreeMap::new(),
            claims: Claims::default(),
            external: BTreeSet::new(),
            refused_endpoints: BTreeMap::new(),
            api_servers: BTreeSet::new(),
            lists: Lists::default(),
            endpoints: 0,
            strings: Interned::default(),
            zone_lists: Interned::default(),
            port_lists: Interned::default(),
        }
    }

    /// This was heard.
    pub fn hear(&mut self, event: Event) {
        match event {
            Event::Service(service) => self.set_service(service),
            Event::ServiceGone(key) => self.remove_service(&key),
            Event::Slice(slice) => self.set_slice(slice),
            Event::SliceGone(key) => self.remove_slice(&key),
            Event::ServicesBegin => self.lists.services += 1,
            Event::SlicesBegin => self.lists.slices += 1,
            Event::ServicesEnd => self.end_services(),
            Event::SlicesEnd => self.end_slices(),
        }
    }

    /// Both kinds have been listed whole: what is not known is not there.
    pub fn is_synced(&self) -> bool {
        self.lists.services_whole && self.lists.slices_whole
    }

    /// The Service is this now.
    pub fn set_service(&mut self, mut service: Service) {
        let key = self.intern_key(&service.key);
        service.key = key.clone();
        service.uid = (*service.uid).into();
        for port in &mut service.ports {
            port.name = self.strings.one(&port.name);
        }
        let entry = self.services.entry(key.clone()).or_default();
        entry.seen = self.lists.services;
        if entry.service.as_deref() == Some(&service) {
            return;
        }
        let old = entry.service.take();
        self.change_claims(old.as_deref(), Some(&service));
        if service.external_ips.is_empty() {
            self.external.remove(&key);
        } else {
            self.external.insert(key.clone());
        }
        self.services.entry(key.clone()).or_default().service = Some(Box::new(service));
        self.mark(&key, Families::BOTH);
    }

    /// There is no such Service.
    pub fn remove_service(&mut self, key: &ServiceKey) {
        let Some(old) = self.services.get_mut(key).and_then(|entry| entry.service.take()) else { return };
        self.change_claims(Some(&old), None);
        self.external.remove(key);
        self.mark(key, Families::BOTH);
    }

    /// The EndpointSlice is this now.
    pub fn set_slice(&mut self, slice: EndpointSlice) {
        let service =
            self.intern_key(&ServiceKey::new(Arc::clone(&slice.key.namespace), Arc::clone(&slice.service)));
        let key = SliceKey { namespace: Arc::clone(&service.namespace), name: (*slice.key.name).into() };
        let seen = self.lists.slices;
        match self.slices.entry(key.clone()) {
            hash_map::Entry::Occupied(mut known) => {
                let before = mem::replace(known.get_mut(), (service.clone(), seen)).0;
                if before != service {
                    self.drop_slice(&before, &key.name);
                }
            }
            hash_map::Entry::Vacant(new) => drop(new.insert((service.clone(), seen))),
        }
        let ports: Arc<[SlicePort]> = slice
            .ports
            .iter()
            .map(|port| SlicePort { name: self.strings.one(&port.name), ..*port })
            .collect();
        // A Service must not lead to what every node, and every Pod, has for itself, nor to another Service.
        let protected = &self.node.protected;
        let refused: RefusedAddresses = (slice.endpoints.iter())
            .filter_map(|one| Some((one.address, protected.why_no_endpoint(one.address)?)))
            .collect();
        if refused.is_empty() {
            self.refused_endpoints.remove(&key);
        } else {
            self.refused_endpoints.insert(key.clone(), (service.clone(), refused));
        }
        let taken =
            (slice.endpoints.iter()).filter(|endpoint| protected.why_no_endpoint(endpoint.address).is_none());
        let endpoints = taken.map(|endpoint| {
            KeptEndpoint::new(endpoint, &self.node.name, &mut self.strings, &mut self.zone_lists)
        });
        let slice = Slice {
            name: key.name,
            address_type: slice.address_type,
            endpoints: endpoints.collect(),
            ports: self.port_lists.one(&ports),
        };
        self.keep_slice(&service, slice);
    }

    /// There is no such EndpointSlice.
    pub fn remove_slice(&mut self, key: &SliceKey) {
        self.refused_endpoints.remove(key);
        if let Some((service, _)) = self.slices.remove(key) {
            self.drop_slice(&service, &key.name);
        }
    }

    /// The node has these addresses and this zone now; its name never changes.
    pub fn set_node(&mut self, addresses: &[IpAddr], zone: Option<&str>) {
        if self.node.addresses != addresses {
            let new = ThisNode { addresses: addresses.to_vec(), ..self.node.clone() };
            let old = mem::replace(&mut self.node, new);
            // Whoever gains or loses a frontend by it is planned again with all others.
            let services: Vec<ServiceKey> = self.services.keys().cloned().collect();
            self.claim_anew(&services, &old);
        } else if self.node.zone.as_deref() == zone {
            return;
        }
        self.node.zone = zone.map(Arc::from);
        self.dirty.extend(self.services.keys().map(|key| (key.clone(), Families::BOTH)));
    }

    /// What `externalIPs` may not name is this now.
    pub fn set_protected(&mut self, protected: Protected) {
        self.api_servers.clone_from(&protected.api_servers);
        self.protect(protected);
    }

    /// With the API servers that the API itself tells of.
    fn protect(&mut self, mut protected: Protected) {
        protected.api_servers.clone_from(&self.api_servers);
        let api = self.services.get(&ServiceKey::new(API.0, API.1));
        let slices = api.into_iter().flat_map(|entry| &entry.slices);
        let addresses = slices.flat_map(|slice| &slice.endpoints).map(KeptEndpoint::address);
        protected.api_servers.extend(addresses);
        if self.node.protected == protected {
            return;
        }
        let new = ThisNode { protected, ..self.node.clone() };
        let old = mem::replace(&mut self.node, new);
        let services: Vec<ServiceKey> = self.external.iter().cloned().collect();
        self.claim_anew(&services, &old)
            .into_iter()
            .chain(services)
            .for_each(|service| self.mark(&service, Families::BOTH));
    }

    /// Claims what these Services are reached by, instead of what they were reached by on the node as it was. Returns who else
    /// gains or loses something by that.
    fn claim_anew(&mut self, services: &[ServiceKey], old: &ThisNode) -> Vec<ServiceKey> {
        let mut others = Vec::new();
        for key in services {
            let entry = self.services.get(key);
            let Some(service) = entry.and_then(|entry| entry.service.as_deref()) else { continue };
            each_frontend(service, old, |port, one| {
                let (place, claimant) = claim(key, port, one);
                others.extend(self.claims.remove(&place, &claimant).map(|heir| heir.service.clone()));
            });
            each_frontend(service, &self.node, |port, one| {
                let (place, claimant) = claim(key, port, one);
                others.extend(self.claims.add(place, claimant).map(|loser| loser.service));
            });
        }
        others
    }

    /// The cluster DNS, as far as nodes answer for it, is this now.
    pub fn set_dns(&mut self, dns: ClusterDns) {
        if self.node.dns == dns {
            return;
        }
        let before = mem::replace(&mut self.node.dns, dns);
        let concerned = |service: &&Service| before.is_of(service) || self.node.dns.is_of(service);
        let services = self.services.values().filter_map(|entry| entry.service.as_deref());
        let keys: Vec<ServiceKey> = services.filter(concerned).map(|service| service.key.clone()).collect();
        keys.iter().for_each(|key| self.mark(key, Families::BOTH));
    }

    /// What is behind nodes that give no sign of life is this now. Costs a look at every endpoint: such nodes are rare.
    pub fn set_unreachable(&mut self, unreachable: Unreachable) {
        if self.node.unreachable == unreachable {
            return;
        }
        let before = mem::replace(&mut self.node.unreachable, unreachable);
        for (key, entry) in &self.services {
            let changed =
                entry.slices.iter().filter(|slice| choose::differs(slice, &before, &self.node.unreachable));
            let families = changed.map(|slice| Families::of(slice.address_type)).reduce(Families::and);
            if let Some(families) = families {
                let marked = self.dirty.entry(key.clone()).or_default();
                *marked = marked.and(families);
            }
        }
    }

    /// What has changed in the plan since the last call.
    pub fn take_changes(&mut self) -> Changes {
        let mut changes = Changes::default();
        for (key, families) in mem::take(&mut self.dirty) {
            let Some(entry) = self.services.get_mut(&key) else { continue };
            entry.plan(&key, families, &self.node, &self.claims, &mut changes);
            if entry.service.is_none() && entry.slices.is_empty() {
                self.services.remove(&key);
            }
        }
        changes
    }

    /// The same with all ports that there are, changed or not, and none that is gone: for a data plane that starts anew.
    pub fn take_all(&mut self) -> Changes {
        self.services.values_mut().for_each(Entry::forget_planned);
        self.dirty = self.services.keys().map(|key| (key.clone(), Families::BOTH)).collect();
        self.take_changes()
    }

    /// There is something to take.
    pub fn has_changes(&self) -> bool {
        !self.dirty.is_empty()
    }

    fn end_services(&mut self) {
        self.lists.services_whole = true;
        let last = self.lists.services;
        let stale = |(_, entry): &(&ServiceKey, &Entry)| entry.service.is_some() && entry.seen != last;
        let gone: Vec<ServiceKey> = self.services.iter().filter(stale).map(|(key, _)| key.clone()).collect();
        gone.iter().for_each(|key| self.remove_service(key));
    }

    fn end_slices(&mut self) {
        self.lists.slices_whole = true;
        let last = self.lists.slices;
        let stale = self.slices.iter().filter(|(_, (_, seen))| *seen != last);
        let gone: Vec<SliceKey> = stale.map(|(key, _)| key.clone()).collect();
        gone.iter().for_each(|key| self.remove_slice(key));
    }

    fn intern_key(&mut self, key: &ServiceKey) -> ServiceKey {
        ServiceKey { namespace: self.strings.one(&key.namespace), name: self.strings.one(&key.name) }
    }

    fn mark(&mut self, key: &ServiceKey, families: Families) {
        let marked = self.dirty.entry(key.clone()).or_default();
        *marked = marked.and(families);
    }

    fn change_claims(&mut self, old: Option<&Service>, new: Option<&Service>) {
        let mut others = Vec::new();
        if let Some(old) = old {
            each_frontend(old, &self.node, |port, one| {
                let (place, claimant) = claim(&old.key, port, one);
                others.extend(self.claims.remove(&place, &claimant).map(|heir| heir.service.clone()));
            });
        }
        if let Some(new) = new {
            each_frontend(new, &self.node, |port, one| {
                let (place, claimant) = claim(&new.key, port, one);
                others.extend(self.claims.add(place, claimant).map(|loser| loser.service));
            });
        }
        others.iter().for_each(|other| self.mark(other, Families::BOTH));
    }

    fn keep_slice(&mut self, service: &ServiceKey, slice: Slice) {
        let entry = self.services.entry(service.clone()).or_default();
        let mut touched = Families::of(slice.address_type);
        match entry.slices.binary_search_by(|one| one.name.cmp(&slice.name)) {
            Ok(place) => {
                let Some(known) = entry.slices.get_mut(place).filter(|known| **known != slice) else {
                    return;
                };
                touched = touched.and(Families::of(known.address_type));
                self.endpoints = self.endpoints + slice.endpoints.len() - known.endpoints.len();
                *known = slice;
            }
            Err(place) => {
                self.endpoints += slice.endpoints.len();
                // Most Services have one or two.
                entry.slices.reserve_exact(1);
                entry.slices.insert(place, slice);
            }
        }
        self.mark(service, touched);
        self.slices_changed(service);
    }

    fn drop_slice(&mut self, service: &ServiceKey, name: &str) {
        let Some(entry) = self.services.get_mut(service) else { return };
        let Ok(place) = entry.slices.binary_search_by(|one| (*one.name).cmp(name)) else { return };
        let slice = entry.slices.remove(place);
        self.endpoints -= slice.endpoints.len();
        self.mark(service, Families::of(slice.address_type));
        self.slices_changed(service);
    }

    /// The API's own endpoints are nobody else's.
    fn slices_changed(&mut self, service: &ServiceKey) {
        if (&*service.namespace, &*service.name) == API {
            self.protect(self.node.protected.clone());
        }
    }
}

fn each_frontend(service: &Service, node: &ThisNode, mut each: impl FnMut(&ServicePort, Frontend)) {
    for port in &service.ports {
        for ipv6 in FAMILIES {
            choose::frontends(service, port, ipv6, node).into_iter().for_each(|one| each(port, one));
        }
    }
}

// === impl Families ===

impl Families {
    const BOTH: Self = Self { ipv4: true, ipv6: true };

    fn of(address_type: AddressType) -> Self {
        Self { ipv4: address_type == AddressType::Ipv4, ipv6: address_type == AddressType::Ipv6 }
    }

    fn and(self, other: Self) -> Self {
        Self { ipv4: self.ipv4 || other.ipv4, ipv6: self.ipv6 || other.ipv6 }
    }

    fn has(self, ipv6: bool) -> bool {
        if ipv6 { self.ipv6 } else { self.ipv4 }
    }
}
