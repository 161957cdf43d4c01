//! What a name stands for.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{
    EndpointRecord, Name, Records, Zone, address,
    entry::{Endpoint, Entry, Shape},
    reverse::{self, Reverse},
};
use crate::{Protocol, services::SlicePort};

/// What was found for a name.
#[derive(Debug)]
pub struct LookUp<'a> {
    /// What it stands for.
    pub found: Found<'a>,
    /// How many of the name's last labels are those of the zone that has it; 0 when no zone of ours has.
    pub zone_labels: usize,
}

/// What a name stands for.
#[derive(Debug)]
pub enum Found<'a> {
    /// Not for this zone to say: somebody else is to be asked.
    Elsewhere,
    /// Not all objects have been heard of, so that nothing can be said; or nothing was known of it before.
    NotSynced,
    /// There is no such name, nor any under it.
    Missing,
    /// The name has no records, but there are names under it.
    Empty,
    /// The zone itself.
    Apex,
    /// Where the zone is served.
    NameServer,
    /// The version of the specification.
    Version,
    /// A Service by its cluster IPs, or a headless one by its endpoints.
    Service(Owner<'a>, &'a Records),
    /// Endpoints of one host name; one at least.
    Endpoints(Owner<'a>, &'a [EndpointRecord]),
    /// Another name of something: a Service of type ExternalName.
    Alias(Owner<'a>, &'a Name),
    /// A named port of a Service.
    Ports(Ports<'a>),
    /// A Pod's address written as a label.
    Pod(IpAddr),
    /// The address of an endpoint without a host name, written as a label before a Service that has a cluster IP.
    Endpoint(Owner<'a>, IpAddr),
    /// An address backwards.
    Pointers(Pointers<'a>),
}

/// Namespace and name of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
}

/// Where a named port of a Service, or every port of it, is served.
#[derive(Clone, Copy, Debug)]
pub struct Ports<'a> {
    /// The Service.
    pub owner: Owner<'a>,
    records: &'a Records,
    /// Which port; all of them if absent.
    port: Option<(&'a str, Protocol)>,
}

/// One place where a port is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// The endpoint, or the Service's own name.
    pub endpoint: Option<&'a EndpointRecord>,
    /// The port, host byte order.
    pub port: u16,
}

/// The names that an address leads back to; one at least.
#[derive(Clone, Copy, Debug)]
pub struct Pointers<'a> {
    zone: &'a Zone,
    ids: &'a [u32],
    address: IpAddr,
}

// === impl Zone ===

impl Zone {
    /// What the name stands for. Allocates nothing.
    pub fn look_up<'a>(&'a self, name: &'a Name) -> LookUp<'a> {
        let domain = &self.settings.domain;
        match name.depth_under(domain) {
            Some(depth) => LookUp { found: self.known(name, depth), zone_labels: domain.len() },
            None => self.backwards(name),
        }
    }

    /// Before all is heard, what was known before is told, and nothing is said not to be there.
    fn known<'a>(&'a self, name: &'a Name, depth: usize) -> Found<'a> {
        if self.is_synced() {
            return self.inside(name, depth);
        }
        if !self.is_restored {
            return Found::NotSynced;
        }
        match self.inside(name, depth) {
            Found::Missing => Found::NotSynced,
            found => found,
        }
    }

    /// The name of a Service: its own, or one under it.
    pub fn name_of(&self, label: Option<&[u8]>, owner: Owner<'_>) -> Option<Name> {
        let own = [owner.name.as_bytes(), owner.namespace.as_bytes(), b"svc"];
        Name::from_labels(label.into_iter().chain(own).chain(self.settings.domain.labels())).ok()
    }

    /// A name with so many labels before the domain.
    fn inside<'a>(&'a self, name: &'a Name, depth: usize) -> Found<'a> {
        let Some(kind) = depth.checked_sub(1).and_then(|last| name.label(last)) else { return Found::Apex };
        match (kind, depth) {
            (b"svc", _) => self.service(name, depth - 1),
            (b"pod", _) if self.settings.pod_records => self.pod(name, depth - 1),
            (b"dns-version", 1) => Found::Version,
            (b"dns", 1) => Found::Empty,
            (b"dns", 2) if name.label(0) == Some(b"ns") => Found::NameServer,
            _ => Found::Missing,
        }
    }

    /// A name with so many labels before `svc`.
    fn service<'a>(&'a self, name: &'a Name, depth: usize) -> Found<'a> {
        if depth == 0 {
            return Found::Empty;
        }
        let Some(namespace) = name.text(depth - 1).and_then(|label| self.namespaces.get(label)) else {
            return Found::Missing;
        };
        if depth == 1 {
            return Found::Empty;
        }
        let id = name.text(depth - 2).and_then(|label| namespace.services.get(label));
        let Some(entry) = id.and_then(|id| self.entry(*id)) else { return Found::Missing };
        match depth {
            2 => entry.itself(),
            3 => entry.under(name),
            4 => entry.port(name),
            _ => Found::Missing,
        }
    }

    /// A name with so many labels before `pod`.
    fn pod<'a>(&self, name: &Name, depth: usize) -> Found<'a> {
        let Some(last) = depth.checked_sub(1) else { return Found::Empty };
        if !name.text(last).is_some_and(|label| self.namespaces.contains_key(label)) {
            return Found::Missing;
        }
        match (depth, name.label(0).and_then(address::parse)) {
            (1, _) => Found::Empty,
            (2, Some(address)) => Found::Pod(address),
            _ => Found::Missing,
        }
    }

    fn backwards<'a>(&'a self, name: &Name) -> LookUp<'a> {
        const ELSEWHERE: LookUp<'static> = LookUp { found: Found::Elsewhere, zone_labels: 0 };
        let Some(reverse) = Reverse::parse(name) else { return ELSEWHERE };
        let known = match reverse {
            Reverse::Address(address) => self.reverse.get(&address).map(|ids| (address, ids)),
            Reverse::Prefix(_) | Reverse::Under(_) => None,
        };
        let prefix = match reverse {
            Reverse::Address(address) => IpNet::from(address),
            Reverse::Prefix(prefix) | Reverse::Under(prefix) => prefix,
        };
        let range = self.settings.ranges.iter().find(|range| range.contains(&prefix));
        let found = match (known, range, reverse) {
            (Some((address, ids)), _, _) => {
                Found::Pointers(Pointers { zone: self, ids: ids.as_slice(), address })
            }
            (None, None, _) => return ELSEWHERE,
            (None, Some(_), _) if !self.is_synced() => Found::NotSynced,
            (None, Some(_), Reverse::Prefix(_)) => Found::Empty,
            (None, Some(_), _) => Found::Missing,
        };
        LookUp { found, zone_labels: range.map_or(name.len(), reverse::zone_labels).min(name.len()) }
    }
}

// === impl Entry ===

impl Entry {
    fn owner(&self) -> Owner<'_> {
        Owner { namespace: &self.namespace, name: &self.name }
    }

    fn itself(&self) -> Found<'_> {
        match &self.records.alias {
            Some(target) => Found::Alias(self.owner(), target),
            None if self.records.has_name() => Found::Service(self.owner(), &self.records),
            None => Found::Missing,
        }
    }

    /// One label before the Service's name.
    fn under<'a>(&'a self, name: &Name) -> Found<'a> {
        let Some(label) = name.label(0) else { return Found::Missing };
        let named = self.records.named(label);
        if !named.is_empty() {
            return Found::Endpoints(self.owner(), named);
        }
        if let Some(address) = address::parse(label).filter(|address| self.has_endpoint(*address)) {
            return Found::Endpoint(self.owner(), address);
        }
        match protocol(label) {
            Some(protocol) if self.records.has_port(protocol) => Found::Empty,
            _ => Found::Missing,
        }
    }

    /// The Service has a cluster IP, and a ready endpoint at this address that has no host name. Headless Services have a
    /// record for each endpoint instead.
    fn has_endpoint(&self, address: IpAddr) -> bool {
        let is_it = |one: &Endpoint| one.ready && one.address == address && one.hostname.is_none();
        self.service.as_ref().is_some_and(|service| matches!(service.shape, Shape::Cluster(_)))
            && self.slices.iter().any(|slice| slice.endpoints.iter().any(is_it))
    }

    /// Two labels before the Service's name: `_port._protocol`.
    fn port<'a>(&'a self, name: &'a Name) -> Found<'a> {
        let port = name.text(0).and_then(|label| label.strip_prefix('_')).filter(|port| !port.is_empty());
        let (Some(port), Some(protocol)) = (port, name.label(1).and_then(protocol)) else {
            return Found::Missing;
        };
        let ports = Ports { owner: self.owner(), records: &self.records, port: Some((port, protocol)) };
        if ports.targets().next().is_some() { Found::Ports(ports) } else { Found::Missing }
    }
}

fn protocol(label: &[u8]) -> Option<Protocol> {
    match label {
        b"_tcp" => Some(Protocol::Tcp),
        b"_udp" => Some(Protocol::Udp),
        b"_sctp" => Some(Protocol::Sctp),
        _ => None,
    }
}

// === impl Ports ===

impl<'a> Ports<'a> {
    /// Every port of a Service, named or not: what its own name answers SRV with, as CoreDNS does. There may be none.
    pub fn all(owner: Owner<'a>, records: &'a Records) -> Self {
        Self { owner, records, port: None }
    }

    /// Where it is served; no name and port number twice.
    pub fn targets(&self) -> impl Iterator<Item = Target<'a>> + use<'a> {
        let Self { records, port, .. } = *self;
        let is_it = move |one: &SlicePort| {
            port.is_none_or(|(name, protocol)| *one.name == *name && one.protocol == protocol)
        };
        let own = records.ports.iter().enumerate().filter(move |(place, one)| {
            let before = records.ports.get(..*place).unwrap_or_default();
            is_it(one) && !before.iter().any(|other| is_it(other) && other.port == one.port)
        });
        let own = own.map(|(_, one)| Target { endpoint: None, port: one.port });
        let endpoints: &[EndpointRecord] = if records.is_headless { &records.endpoints } else { &[] };
        let served = endpoints.iter().enumerate().flat_map(move |(place, endpoint)| {
            let before = endpoints.get(..place).unwrap_or_default();
            let ports = endpoint.ports.iter().enumerate().filter(move |(place, one)| {
                let is_same = |other: &SlicePort| is_it(other) && other.port == one.port;
                let earlier = endpoint.ports.get(..*place).unwrap_or_default();
                // Endpoints that share a name stand side by side.
                let mut same = before.iter().rev().take_while(|other| other.shares_name(endpoint));
                is_it(one)
                    && !earlier.iter().any(is_same)
                    && !same.any(|other| other.ports.iter().any(is_same))
            });
            ports.map(move |(_, one)| Target { endpoint: Some(endpoint), port: one.port })
        });
        own.chain(served)
    }

    /// The addresses of a target: its endpoints', or the Service's.
    pub fn records(&self) -> &'a Records {
        self.records
    }
}

// === impl Pointers ===

impl<'a> Pointers<'a> {
    /// The names: of Services whose cluster IP it is, else of endpoints.
    pub fn names(&self) -> impl Iterator<Item = (Owner<'a>, Option<&'a EndpointRecord>)> + use<'a> {
        let Self { zone, ids, address } = *self;
        let entries = move || ids.iter().filter_map(move |id| zone.entry(*id));
        // A cluster IP is one Service's; if two say it for a moment, the first has it whatever the order they came in.
        let own = entries().filter(|entry| !entry.records.is_headless).map(Entry::owner);
        let own = own.min_by_key(|owner| (owner.namespace, owner.name));
        let endpoints = entries().filter(move |entry| own.is_none() && entry.records.is_headless);
        let endpoints = endpoints
            .flat_map(move |entry| entry.records.at(address).map(move |one| (entry.owner(), Some(one))));
        own.map(|owner| (owner, None)).into_iter().chain(endpoints)
    }
}
