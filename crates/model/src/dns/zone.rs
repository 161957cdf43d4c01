//! What is known, kept in line with what the API says.

use std::{
    collections::{HashMap, hash_map},
    mem,
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use super::{
    Name, NamespaceEvent, Records,
    entry::{Endpoint, Entry, Kept, Shape, Slice},
    list::Lists,
};
use crate::services::{EndpointSlice, Event, Service, ServiceKey, SliceKey, SlicePort, intern::Interned};

/// What a cluster's names are like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The cluster's domain, `cluster.local`.
    pub domain: Name,
    /// `a-b-c-d.NAMESPACE.pod.DOMAIN` stands for a.b.c.d, whether or not there is such a Pod.
    pub pod_records: bool,
    /// Addresses of the cluster's DNS Service: `ns.dns.DOMAIN`.
    pub name_servers: Vec<IpAddr>,
    /// Ranges of Services and of Pods: nobody else is asked for names of addresses in them.
    pub ranges: Vec<IpNet>,
}

/// The cluster's names.
#[derive(Debug)]
pub struct Zone {
    pub(super) settings: Settings,
    pub(super) namespaces: HashMap<Arc<str>, Namespace>,
    pub(super) entries: Vec<Option<Box<Entry>>>,
    /// Whose entries mention an address that leads back to names.
    pub(super) reverse: HashMap<IpAddr, Ids>,
    /// Places in `entries` without one.
    free: Vec<u32>,
    /// Which Service a slice belongs to, and the list that it was last seen in.
    slices: HashMap<SliceKey, (u32, u32)>,
    lists: [Lists; 3],
    serial: u32,
    pub(super) strings: Interned<str>,
    pub(super) ports: Interned<[SlicePort]>,
    /// It knows what was known before, see [`Zone::restored`].
    pub(super) is_restored: bool,
}

/// How much a zone knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Namespaces.
    pub namespaces: usize,
    /// Services.
    pub services: usize,
    /// Endpoints in slices, those that have no name included.
    pub endpoints: usize,
}

/// A Namespace, or one that objects are in.
#[derive(Debug, Default)]
pub(super) struct Namespace {
    /// It was heard of itself.
    pub(super) is_known: bool,
    seen: u32,
    /// Places in the zone's entries.
    pub(super) services: HashMap<Arc<str>, u32>,
}

/// Places in the zone's entries, ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ids {
    One(u32),
    Many(Box<[u32]>),
}

const SERVICES: usize = 0;
const SLICES: usize = 1;
const NAMESPACES: usize = 2;

// === impl Zone ===

impl Zone {
    /// A zone that knows nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            namespaces: HashMap::new(),
            entries: Vec::new(),
            reverse: HashMap::new(),
            free: Vec::new(),
            slices: HashMap::new(),
            lists: [Lists::default(); 3],
            serial: 1,
            strings: Interned::default(),
            ports: Interned::default(),
            is_restored: false,
        }
    }

    /// This was heard of Services and EndpointSlices.
    pub fn hear(&mut self, event: &Event) {
        match event {
            Event::Service(service) => self.set_service(service),
            Event::ServiceGone(key) => self.remove_service(key),
            Event::Slice(slice) => self.set_slice(slice),
            Event::SliceGone(key) => self.remove_slice(key),
            Event::ServicesBegin => self.begin(SERVICES),
            Event::SlicesBegin => self.begin(SLICES),
            Event::ServicesEnd => self.end_services(),
            Event::SlicesEnd => self.end_slices(),
        }
    }

    /// This was heard of Namespaces.
    pub fn hear_namespace(&mut self, event: &NamespaceEvent) {
        match event {
            NamespaceEvent::Begin => self.begin(NAMESPACES),
            NamespaceEvent::Namespace(name) => {
                let (name, seen) = (self.strings.one(name), self.list(NAMESPACES).last);
                let namespace = self.namespaces.entry(name).or_default();
                let is_new = !mem::replace(&mut namespace.is_known, true);
                namespace.seen = seen;
                self.changed_if(is_new);
            }
            NamespaceEvent::Gone(name) => self.remove_namespace(name),
            NamespaceEvent::End => self.end_namespaces(),
        }
    }

    /// Services, EndpointSlices and Namespaces have been listed whole: what is not known is not there.
    pub fn is_synced(&self) -> bool {
        self.lists.iter().all(|list| list.is_whole)
    }

    /// What the names are like.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The names are like this now.
    pub fn set_settings(&mut self, settings: Settings) {
        let is_new = self.settings != settings;
        self.settings = settings;
        self.changed_if(is_new);
    }

    /// Counts changes of what is answered; for the SOA record.
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// How much is known.
    pub fn size(&self) -> Size {
        let entries = || self.entries.iter().flatten();
        Size {
            namespaces: self.namespaces.values().filter(|one| one.is_known).count(),
            services: entries().filter(|entry| entry.service.is_some()).count(),
            endpoints: entries().flat_map(|entry| &entry.slices).map(|slice| slice.endpoints.len()).sum(),
        }
    }

    /// The records of a Service, if it or a slice of it was heard of.
    pub fn records(&self, key: &ServiceKey) -> Option<&Records> {
        let id = self.id(&key.namespace, &key.name)?;
        self.entry(id).map(|entry| &entry.records)
    }

    pub(super) fn id(&self, namespace: &str, service: &str) -> Option<u32> {
        self.namespaces.get(namespace)?.services.get(service).copied()
    }

    pub(super) fn entry(&self, id: u32) -> Option<&Entry> {
        self.entries.get(usize::try_from(id).ok()?)?.as_deref()
    }

    pub(super) fn entry_mut(&mut self, id: u32) -> Option<&mut Entry> {
        self.entries.get_mut(usize::try_from(id).ok()?)?.as_deref_mut()
    }

    fn set_service(&mut self, service: &Service) {
        let mut ports: Vec<SlicePort> = Vec::new();
        for port in &service.ports {
            ports.push(SlicePort {
                name: self.strings.one(&port.name),
                protocol: port.protocol,
                port: port.port,
            });
        }
        let kept = Kept { shape: Shape::of(service), ports: self.ports.one(&ports) };
        let id = self.id_or_new(&service.key.namespace, &service.key.name);
        let seen = self.list(SERVICES).last;
        let Some(entry) = self.entry_mut(id) else { return };
        entry.seen = seen;
        if entry.service.as_ref() != Some(&kept) {
            entry.service = Some(kept);
            self.renew(id);
        }
    }

    fn remove_service(&mut self, key: &ServiceKey) {
        let Some(id) = self.id(&key.namespace, &key.name) else { return };
        if self.entry_mut(id).is_some_and(|entry| entry.service.take().is_some()) {
            self.renew(id);
        }
    }

    fn set_slice(&mut self, slice: &EndpointSlice) {
        let id = self.id_or_new(&slice.key.namespace, &slice.service);
        let key =
            SliceKey { namespace: self.strings.one(&slice.key.namespace), name: Arc::from(&*slice.key.name) };
        let kept = self.kept_slice(slice, Arc::clone(&key.name));
        if self.keep_slice(id, key, kept) {
            self.renew(id);
        }
    }

    /// The Service's entry has this slice, and no other has it; whether that is news.
    pub(super) fn keep_slice(&mut self, id: u32, key: SliceKey, kept: Slice) -> bool {
        let seen = self.list(SLICES).last;
        match self.slices.entry(key) {
            hash_map::Entry::Occupied(mut known) => {
                let before = mem::replace(known.get_mut(), (id, seen)).0;
                if before != id {
                    self.drop_slice(before, &kept.name);
                }
            }
            hash_map::Entry::Vacant(new) => drop(new.insert((id, seen))),
        }
        let Some(entry) = self.entry_mut(id) else { return false };
        match entry.slices.binary_search_by(|one| one.name.cmp(&kept.name)) {
            Ok(place) => match entry.slices.get_mut(place) {
                Some(known) if *known != kept => *known = kept,
                _ => return false,
            },
            Err(place) => {
                // Most Services have one or two.
                entry.slices.reserve_exact(1);
                entry.slices.insert(place, kept);
            }
        }
        true
    }

    fn kept_slice(&mut self, slice: &EndpointSlice, name: Arc<str>) -> Slice {
        let mut ports = Vec::with_capacity(slice.ports.len());
        for port in &slice.ports {
            ports.push(SlicePort { name: self.strings.one(&port.name), ..*port });
        }
        // Addresses of the type FQDN are not read as addresses to begin with.
        let endpoints = slice.endpoints.iter().map(|one| Endpoint {
            hostname: one
                .hostname
                .as_deref()
                .filter(|name| is_label(name))
                .map(|name| self.strings.one(name)),
            address: one.address,
            ready: one.ready,
        });
        Slice { name, endpoints: endpoints.collect(), ports: self.ports.one(&ports) }
    }

    fn remove_slice(&mut self, key: &SliceKey) {
        if let Some((id, _)) = self.slices.remove(key) {
            self.drop_slice(id, &key.name);
        }
    }

    fn drop_slice(&mut self, id: u32, name: &str) {
        let Some(entry) = self.entry_mut(id) else { return };
        let Ok(place) = entry.slices.binary_search_by(|one| (*one.name).cmp(name)) else { return };
        entry.slices.remove(place);
        self.renew(id);
    }

    /// Records are made anew of what is known of the Service; an entry of which nothing is known goes.
    pub(super) fn renew(&mut self, id: u32) {
        let Some(entry) = self.entry_mut(id) else { return };
        let records = match &entry.service {
            Some(service) => Records::new(service, &entry.slices),
            None => Records::default(),
        };
        if records != entry.records {
            let before = mem::replace(&mut entry.records, records);
            self.renew_reverse(id, &before);
            self.changed_if(true);
        }
        let Some(entry) = self.entry(id) else { return };
        if entry.service.is_some() || !entry.slices.is_empty() {
            return;
        }
        let (namespace, name) = (Arc::clone(&entry.namespace), Arc::clone(&entry.name));
        if let Some(place) = self.entries.get_mut(id as usize) {
            *place = None;
            self.free.push(id);
        }
        if let Some(known) = self.namespaces.get_mut(&namespace) {
            known.services.remove(&name);
            if known.services.is_empty() && !known.is_known {
                self.namespaces.remove(&namespace);
            }
        }
    }

    fn renew_reverse(&mut self, id: u32, before: &Records) {
        let Some(entry) = self.entries.get(id as usize).and_then(Option::as_deref) else { return };
        let sorted = |records: &Records| {
            let mut all: Vec<IpAddr> = records.reversed().collect();
            all.sort_unstable();
            all.dedup();
            all
        };
        let (old, new) = (sorted(before), sorted(&entry.records));
        for address in old.iter().filter(|one| new.binary_search(one).is_err()) {
            if let hash_map::Entry::Occupied(mut ids) = self.reverse.entry(*address)
                && !ids.get_mut().remove(id)
            {
                ids.remove();
            }
        }
        for address in new.into_iter().filter(|one| old.binary_search(one).is_err()) {
            self.reverse.entry(address).and_modify(|ids| ids.add(id)).or_insert(Ids::One(id));
        }
    }

    pub(super) fn id_or_new(&mut self, namespace: &str, name: &str) -> u32 {
        if let Some(id) = self.id(namespace, name) {
            return id;
        }
        let (namespace, name) = (self.strings.one(namespace), self.strings.one(name));
        let id = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            // As many Services as fit into memory.
            (self.entries.len() - 1) as u32
        });
        if let Some(place) = self.entries.get_mut(id as usize) {
            *place = Some(Box::new(Entry {
                namespace: Arc::clone(&namespace),
                name: Arc::clone(&name),
                service: None,
                seen: 0,
                slices: Vec::new(),
                records: Records::default(),
            }));
        }
        self.namespaces.entry(namespace).or_default().services.insert(name, id);
        id
    }

    fn remove_namespace(&mut self, name: &str) {
        let Some(namespace) = self.namespaces.get_mut(name) else { return };
        let was_known = mem::take(&mut namespace.is_known);
        if namespace.services.is_empty() {
            self.namespaces.remove(name);
        }
        self.changed_if(was_known);
    }

    fn begin(&mut self, kind: usize) {
        if let Some(list) = self.lists.get_mut(kind) {
            list.begin();
        }
    }

    /// A list is whole; its number.
    fn end(&mut self, kind: usize) -> u32 {
        self.lists.get_mut(kind).map_or(0, |list| {
            list.is_whole = true;
            list.last
        })
    }

    fn list(&self, kind: usize) -> Lists {
        self.lists.get(kind).copied().unwrap_or_default()
    }

    fn end_services(&mut self) {
        let last = self.end(SERVICES);
        let stale = |entry: &&Entry| entry.service.is_some() && entry.seen != last;
        let gone: Vec<ServiceKey> = self
            .entries
            .iter()
            .filter_map(Option::as_deref)
            .filter(stale)
            .map(|entry| ServiceKey::new(Arc::clone(&entry.namespace), Arc::clone(&entry.name)))
            .collect();
        gone.iter().for_each(|key| self.remove_service(key));
    }

    fn end_slices(&mut self) {
        let last = self.end(SLICES);
        let stale = self.slices.iter().filter(|(_, (_, seen))| *seen != last);
        let gone: Vec<SliceKey> = stale.map(|(key, _)| key.clone()).collect();
        gone.iter().for_each(|key| self.remove_slice(key));
    }

    fn end_namespaces(&mut self) {
        let last = self.end(NAMESPACES);
        let stale = self.namespaces.iter().filter(|(_, one)| one.is_known && one.seen != last);
        let gone: Vec<Arc<str>> = stale.map(|(name, _)| Arc::clone(name)).collect();
        gone.iter().for_each(|name| self.remove_namespace(name));
    }

    fn changed_if(&mut self, is_changed: bool) {
        self.serial = self.serial.wrapping_add(u32::from(is_changed));
    }
}

/// It can stand in a name as one label.
pub(super) fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|octet| {
            octet == b'-' || octet == b'_' || octet.is_ascii_lowercase() || octet.is_ascii_digit()
        })
}

// === impl Ids ===

impl Ids {
    pub(super) fn as_slice(&self) -> &[u32] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }

    fn add(&mut self, id: u32) {
        if let Err(place) = self.as_slice().binary_search(&id) {
            let mut all = self.as_slice().to_vec();
            all.insert(place, id);
            *self = Self::Many(all.into());
        }
    }

    /// Whether one is left.
    fn remove(&mut self, id: u32) -> bool {
        let left: Vec<u32> = self.as_slice().iter().copied().filter(|one| *one != id).collect();
        match *left.as_slice() {
            [] => return false,
            [one] => *self = Self::One(one),
            _ => *self = Self::Many(left.into()),
        }
        true
    }
}
