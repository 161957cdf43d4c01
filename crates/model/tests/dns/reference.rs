//! What the Kubernetes DNS specification says, in the most plain way: a list of all records, and a walk over it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use weft_model::{
    Protocol,
    dns::{Found, Name, Owner, Ports, Zone},
    services::{Endpoint, EndpointSlice, Service, ServiceKey, ServiceType, SliceKey},
};

/// What the API has.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub services: BTreeMap<ServiceKey, Service>,
    pub slices: BTreeMap<SliceKey, EndpointSlice>,
    pub namespaces: BTreeSet<Arc<str>>,
}

/// What is said of a name: nothing, or its records, of which there may be none.
pub type Said = Option<BTreeSet<String>>;

const ZONE: &str = "cluster.local";

// === impl World ===

impl World {
    /// Every record with its owner, without final dots.
    pub fn records(&self) -> Vec<(String, String)> {
        let mut records = Vec::new();
        for service in self.services.values() {
            let name = format!("{}.{}.svc.{ZONE}", service.key.name, service.key.namespace);
            if service.kind == ServiceType::ExternalName {
                if let Some(target) =
                    service.external_name.as_deref().filter(|name| name.parse::<IpAddr>().is_err())
                {
                    records.push((name, format!("CNAME {target}")));
                }
            } else if service.headless {
                self.headless(service, &name, &mut records);
            } else if !service.cluster_ips.is_empty() {
                self.cluster(service, &name, &mut records);
            }
        }
        for (address, name) in self.pointers() {
            records.push((backwards(address), format!("PTR {name}")));
        }
        records
    }

    /// What is said of every name that there is, and of `others`.
    pub fn says(&self, others: &[String]) -> BTreeMap<String, Said> {
        let records = self.records();
        let mut said: BTreeMap<String, Said> = BTreeMap::new();
        for other in others {
            said.insert(other.clone(), None);
        }
        for namespace in self.all_namespaces() {
            for kind in ["svc", "pod"] {
                said.insert(format!("{namespace}.{kind}.{ZONE}"), Some(BTreeSet::new()));
            }
        }
        for (owner, _) in &records {
            // Every name above one that exists does too, as far as the zone goes.
            let mut above = owner.as_str();
            while above.ends_with(ZONE) && above.len() > ZONE.len() {
                said.insert(above.to_owned(), Some(BTreeSet::new()));
                above = above.split_once('.').unwrap().1;
            }
        }
        for (owner, data) in records {
            said.entry(owner).or_default().get_or_insert_default().insert(data);
        }
        said
    }

    fn all_namespaces(&self) -> BTreeSet<Arc<str>> {
        let of_services = self.services.keys().map(|key| Arc::clone(&key.namespace));
        let of_slices = self.slices.keys().map(|key| Arc::clone(&key.namespace));
        self.namespaces.iter().cloned().chain(of_services).chain(of_slices).collect()
    }

    fn ready<'w>(&'w self, service: &'w Service) -> impl Iterator<Item = (&'w EndpointSlice, &'w Endpoint)> {
        let of_it = |slice: &&EndpointSlice| {
            slice.key.namespace == service.key.namespace && slice.service == service.key.name
        };
        let slices = self.slices.values().filter(of_it);
        slices
            .flat_map(|slice| slice.endpoints.iter().map(move |one| (slice, one)))
            .filter(|(_, one)| one.ready)
    }

    fn headless(&self, service: &Service, name: &str, records: &mut Vec<(String, String)>) {
        for (slice, endpoint) in self.ready(service) {
            let own = format!("{}.{name}", label(endpoint));
            records.push((name.to_owned(), address(endpoint.address)));
            records.push((own.clone(), address(endpoint.address)));
            for port in &*slice.ports {
                let target = format!("SRV {} {own}", port.port);
                if !port.name.is_empty() {
                    let owner = format!("_{}.{}.{name}", port.name, protocol(port.protocol));
                    records.push((owner, target.clone()));
                }
                records.push((name.to_owned(), target));
            }
        }
    }

    fn cluster(&self, service: &Service, name: &str, records: &mut Vec<(String, String)>) {
        records.extend(service.cluster_ips.iter().map(|one| (name.to_owned(), address(*one))));
        for port in &*service.ports {
            let target = format!("SRV {} {name}", port.port);
            if !port.name.is_empty() {
                let owner = format!("_{}.{}.{name}", port.name, protocol(port.protocol));
                records.push((owner, target.clone()));
            }
            records.push((name.to_owned(), target));
        }
        for (_, endpoint) in self.ready(service) {
            records.push((format!("{}.{name}", label(endpoint)), address(endpoint.address)));
        }
    }

    fn pointers(&self) -> Vec<(IpAddr, String)> {
        let mut own: BTreeMap<IpAddr, &ServiceKey> = BTreeMap::new();
        let has_name = |service: &&Service| service.kind != ServiceType::ExternalName;
        for service in self.services.values().filter(has_name).filter(|service| !service.headless) {
            for address in &service.cluster_ips {
                own.entry(*address).or_insert(&service.key);
            }
        }
        let mut pointers: Vec<(IpAddr, String)> = own
            .iter()
            .map(|(address, key)| (*address, format!("{}.{}.svc.{ZONE}", key.name, key.namespace)))
            .collect();
        for service in self.services.values().filter(has_name).filter(|service| service.headless) {
            for (_, endpoint) in self.ready(service) {
                if !own.contains_key(&endpoint.address) {
                    let name = format!(
                        "{}.{}.{}.svc.{ZONE}",
                        label(endpoint),
                        service.key.name,
                        service.key.namespace
                    );
                    pointers.push((endpoint.address, name));
                }
            }
        }
        pointers
    }
}

/// What a zone says of a name.
pub fn zone_says(zone: &Zone, name: &str) -> Said {
    let name: Name = name.parse().unwrap();
    let mut buffer = [0; 63];
    let records: BTreeSet<String> = match zone.look_up(&name).found {
        Found::Missing | Found::Elsewhere => return None,
        Found::Empty | Found::Apex => BTreeSet::new(),
        Found::Service(owner, records) => {
            let v4 = records.v4.iter().map(|one| address((*one).into()));
            let addresses = v4.chain(records.v6.iter().map(|one| address((*one).into())));
            addresses.chain(targets(zone, &Ports::all(owner, records))).collect()
        }
        Found::Endpoint(_, endpoint) => [address(endpoint)].into(),
        Found::Endpoints(_, endpoints) => endpoints.iter().map(|one| address(one.address)).collect(),
        Found::Alias(_, target) => [format!("CNAME {}", target.to_string().trim_end_matches('.'))].into(),
        Found::Ports(ports) => targets(zone, &ports),
        Found::Pointers(pointers) => {
            let all: Vec<_> = pointers.names().collect();
            let said: BTreeSet<String> = all
                .iter()
                .map(|(owner, one)| {
                    format!("PTR {}", name_of(zone, one.map(|one| one.label(&mut buffer)), *owner))
                })
                .collect();
            assert_eq!(said.len(), all.len(), "a name twice: {all:?}");
            said
        }
        other => panic!("{name}: {other:?}"),
    };
    Some(records)
}

fn targets(zone: &Zone, ports: &Ports<'_>) -> BTreeSet<String> {
    let mut buffer = [0; 63];
    let all: Vec<_> = ports.targets().collect();
    let said: BTreeSet<String> = all
        .iter()
        .map(|one| {
            let label = one.endpoint.map(|one| one.label(&mut buffer));
            format!("SRV {} {}", one.port, name_of(zone, label, ports.owner))
        })
        .collect();
    assert_eq!(said.len(), all.len(), "a target twice: {all:?}");
    said
}

fn name_of(zone: &Zone, label: Option<&[u8]>, owner: Owner<'_>) -> String {
    zone.name_of(label, owner).unwrap().to_string().trim_end_matches('.').to_owned()
}

fn address(address: IpAddr) -> String {
    format!("{} {address}", if address.is_ipv4() { "A" } else { "AAAA" })
}

fn label(endpoint: &Endpoint) -> String {
    match &endpoint.hostname {
        Some(hostname) => hostname.to_string(),
        None => {
            let label = endpoint.address.to_string().replace(['.', ':'], "-");
            let zero = |at_end: bool| if at_end { "0" } else { "" };
            format!("{}{label}{}", zero(label.starts_with('-')), zero(label.ends_with('-')))
        }
    }
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "_tcp",
        Protocol::Udp => "_udp",
        Protocol::Sctp => "_sctp",
    }
}

pub fn backwards(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(v6) => {
            let nibbles: Vec<String> =
                format!("{:032x}", v6.to_bits()).chars().rev().map(String::from).collect();
            format!("{}.ip6.arpa", nibbles.join("."))
        }
    }
}
