//! What a Service's name, and the names under it, stand for.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use super::{
    Name,
    address::{self, LONGEST_LABEL},
    entry::{Kept, Shape, Slice},
};
use crate::{Protocol, services::SlicePort};

/// The records of one Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Records {
    /// What its name stands for: cluster IPs, or all endpoints of a headless Service. None twice.
    pub v4: Box<[Ipv4Addr]>,
    /// The same in IPv6.
    pub v6: Box<[Ipv6Addr]>,
    /// What its name is another name of: of type ExternalName.
    pub alias: Option<Box<Name>>,
    /// Endpoints with a name of their own; of a headless Service every one has. Sorted by host name, then address.
    pub endpoints: Box<[EndpointRecord]>,
    /// Its name stands for its endpoints, and they have the ports.
    pub is_headless: bool,
    /// Its ports, when its name stands for a cluster IP; a headless Service has none itself.
    pub ports: Arc<[SlicePort]>,
}

/// An endpoint with a name under its Service's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndpointRecord {
    /// Its first label; without one the label is made of the address.
    pub hostname: Option<Arc<str>>,
    /// Its address.
    pub address: IpAddr,
    /// Its ports, named or not.
    pub ports: Arc<[SlicePort]>,
}

// === impl Records ===

impl Records {
    pub(super) fn new(service: &Kept, slices: &[Slice]) -> Self {
        let mut records = Self::default();
        match &service.shape {
            Shape::Nothing => {}
            Shape::Alias(target) => records.alias = Some(target.clone()),
            Shape::Cluster(addresses) => {
                records.set_addresses(addresses.iter().copied());
                records.ports = Arc::clone(&service.ports);
                records.endpoints = endpoints(slices, false);
            }
            Shape::Headless => {
                records.is_headless = true;
                records.endpoints = endpoints(slices, true);
                let addresses: Vec<IpAddr> = records.endpoints.iter().map(|one| one.address).collect();
                records.set_addresses(addresses.into_iter());
            }
        }
        records
    }

    /// Its name exists.
    pub fn has_name(&self) -> bool {
        self.alias.is_some() || !self.v4.is_empty() || !self.v6.is_empty()
    }

    /// Endpoints whose first label is this; several may share one.
    pub fn named(&self, label: &[u8]) -> &[EndpointRecord] {
        let hostname =
            |one: &EndpointRecord| one.hostname.as_deref().unwrap_or_default().as_bytes().cmp(label);
        let found = self.range(hostname);
        if !found.is_empty() {
            return found;
        }
        let Some(address) = address::parse(label) else { return &[] };
        self.range(|one| one.hostname.as_deref().cmp(&None).then(one.address.cmp(&address)))
    }

    /// It has a named port of this protocol.
    pub(super) fn has_port(&self, protocol: Protocol) -> bool {
        let headless = self.endpoints.iter().filter(|_| self.is_headless).flat_map(|one| one.ports.iter());
        self.ports.iter().chain(headless).any(|port| port.protocol == protocol && !port.name.is_empty())
    }

    /// Endpoints with this address; none with the same name twice.
    pub(super) fn at(&self, address: IpAddr) -> impl Iterator<Item = &EndpointRecord> {
        let is_it = move |one: &EndpointRecord| one.address == address;
        // One that stands in two slices, with other ports, stands here side by side.
        let same = self.endpoints.chunk_by(|a, b| a.hostname == b.hostname && a.address == b.address);
        same.filter_map(<[_]>::first).filter(move |one| is_it(one))
    }

    /// Addresses that lead back to names, in no order.
    pub(super) fn reversed(&self) -> impl Iterator<Item = IpAddr> {
        let own = self.v4.iter().copied().map(IpAddr::V4).chain(self.v6.iter().copied().map(IpAddr::V6));
        let endpoints = self.endpoints.iter().map(|one| one.address);
        own.filter(|_| !self.is_headless).chain(endpoints.filter(|_| self.is_headless))
    }

    fn set_addresses(&mut self, addresses: impl Iterator<Item = IpAddr>) {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for address in addresses {
            match address {
                IpAddr::V4(address) => v4.push(address),
                IpAddr::V6(address) => v6.push(address),
            }
        }
        v4.sort_unstable();
        v4.dedup();
        v6.sort_unstable();
        v6.dedup();
        (self.v4, self.v6) = (v4.into(), v6.into());
    }

    fn range(&self, compare: impl Fn(&EndpointRecord) -> std::cmp::Ordering) -> &[EndpointRecord] {
        let first = self.endpoints.partition_point(|one| compare(one).is_lt());
        let rest = self.endpoints.get(first..).unwrap_or_default();
        rest.get(..rest.partition_point(|one| compare(one).is_eq())).unwrap_or_default()
    }
}

/// Endpoints that are ready; those without a host name only if `all`.
fn endpoints(slices: &[Slice], all: bool) -> Box<[EndpointRecord]> {
    let mut endpoints: Vec<EndpointRecord> = Vec::new();
    for slice in slices {
        let ready = slice.endpoints.iter().filter(|one| one.ready && (all || one.hostname.is_some()));
        endpoints.extend(ready.map(|one| EndpointRecord {
            hostname: one.hostname.clone(),
            address: one.address,
            ports: Arc::clone(&slice.ports),
        }));
    }
    endpoints.sort_unstable();
    endpoints.dedup();
    endpoints.into()
}

// === impl EndpointRecord ===

impl EndpointRecord {
    /// The first label of its name.
    pub fn label<'l>(&'l self, written: &'l mut [u8; LONGEST_LABEL]) -> &'l [u8] {
        match &self.hostname {
            Some(hostname) => hostname.as_bytes(),
            None => {
                let length = address::write(self.address, written);
                written.get(..length).unwrap_or_default()
            }
        }
    }

    /// Both have the same name.
    pub(super) fn shares_name(&self, other: &Self) -> bool {
        self.hostname == other.hostname && (self.hostname.is_some() || self.address == other.address)
    }
}
