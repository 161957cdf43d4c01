//! Events in, changes of the plan out.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map},
    mem,
    net::IpAddr,
    sync::Arc,
};

use super::{
    AddressType, ClusterDns, Conflict, EndpointSlice, EndpointState, Event, Frontend, HealthCheck,
    LoadBalancer, LocalEndpoints, Protected, Refusal, Service, ServiceKey, ServicePort, ServicePortKey,
    ServicePortPlan, SliceKey, SlicePort, ThisNode, Why,
    choose::{self, KeptEndpoint, Slice},
    claims::{Claimant, Place, claim, place},
    intern::Interned,
};
use crate::{Claims, Protocol};

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

/// A Service, or what is known of one before it is.
#[derive(Debug, Default)]
struct Entry {
    service: Option<Box<Service>>,
    /// The list that the Service was last seen in.
    seen: u32,
    /// By name.
    slices: Vec<Slice>,
    /// What the data plane was told last.
    planned: Vec<PortId>,
    /// What the others were told last; few Services have it.
    outside: Option<Box<Outside>>,
}

#[derive(Debug, PartialEq, Eq)]
struct Outside {
    health_check: Option<HealthCheck>,
    load_balancer: Option<LoadBalancer>,
}

/// A port of a Service in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PortId {
    name: Arc<str>,
    protocol: Protocol,
    ipv6: bool,
}

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
        self.services.values_mut().for_each(|entry| entry.planned.clear());
        self.dirty = self.services.keys().map(|key| (key.clone(), Families::BOTH)).collect();
        self.take_changes()
    }

    /// There is something to take.
    pub fn has_changes(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// What several Services claim, and who of them is not reached by it.
    pub fn conflicts(&self) -> Vec<Conflict> {
        self.claims.conflicts().map(Conflict::new).collect()
    }

    /// Addresses that Services name and are not given, sorted.
    pub fn refusals(&self) -> Vec<Refusal> {
        let external = self.external.iter().filter_map(|key| self.service(key)).flat_map(|service| {
            service.external_ips.iter().filter_map(|address| {
                let why = self.node.protected.why_not(*address)?;
                Some(Refusal { service: service.key.clone(), slice: None, address: *address, why })
            })
        });
        let endpoints = self.refused_endpoints.iter().flat_map(|(slice, (service, addresses))| {
            addresses.iter().map(|(address, why)| Refusal {
                service: service.clone(),
                slice: Some(slice.clone()),
                address: *address,
                why: *why,
            })
        });
        let mut all: Vec<Refusal> = external.chain(endpoints).collect();
        all.sort();
        all.dedup();
        all
    }

    /// The Service that has an address and port of this node.
    pub fn holder(&self, address: IpAddr, port: u16, protocol: Protocol) -> Option<&ServiceKey> {
        self.claims.holder(&place(address, port, protocol)).map(|claimant| &claimant.service)
    }

    /// Whether an API server listens at an address and port.
    pub fn is_api_server(&self, address: IpAddr, port: u16) -> bool {
        let api = self.services.get(&ServiceKey::new(API.0, API.1));
        api.into_iter().flat_map(|entry| &entry.slices).any(|slice| {
            slice.ports.iter().any(|one| one.port == port)
                && slice.endpoints.iter().any(|endpoint| endpoint.address() == address)
        })
    }

    /// The Services that a port of this node answers health checks for.
    pub fn health_check_ports(&self) -> impl Iterator<Item = (u16, &ServiceKey)> {
        self.services
            .iter()
            .filter_map(|(key, entry)| Some((entry.outside.as_ref()?.health_check.as_ref()?.port, key)))
    }

    /// Services of type LoadBalancer without an address.
    pub fn without_address(&self) -> impl Iterator<Item = &Service> {
        let services = self.services.values().filter_map(|entry| entry.service.as_deref());
        services.filter(|service| service.is_outside() && service.ingress.is_empty())
    }

    /// The Service as it was last heard of.
    pub fn service(&self, key: &ServiceKey) -> Option<&Service> {
        self.services.get(key)?.service.as_deref()
    }

    /// The endpoints of a Service port, chosen or not; sorted by key, none twice.
    pub fn endpoints(&self, key: &ServicePortKey) -> Vec<EndpointState> {
        let Some(entry) = self.services.get(&key.service) else { return Vec::new() };
        choose::endpoints(&key.port, key.protocol, key.ipv6, &entry.slices)
    }

    /// How much is known.
    pub fn counts(&self) -> Counts {
        let services = self.services.values().filter(|entry| entry.service.is_some()).count();
        Counts { services, slices: self.slices.len(), endpoints: self.endpoints }
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
        marked.ipv4 |= families.ipv4;
        marked.ipv6 |= families.ipv6;
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

// === impl Entry ===

impl Entry {
    fn plan(
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
