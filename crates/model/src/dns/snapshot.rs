//! What was known, as octets: for an agent that has started again and has not heard of the API yet.
//!
//! ```text
//! "weftdns\n", version, length and checksum of the rest; when it was written, the settings, the nodes' ranges, the zone
//! ```
//!
//! Numbers are little-endian. A zone is a row of Namespaces and of entries in any order, so that it can be written in parts
//! between which it changes: whoever writes looks at its serial, and writes again.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::IpNet;
use thiserror::Error;

use super::{
    Name, Settings, Zone,
    entry::{Endpoint, Entry, Kept, Shape, Slice},
    zone::is_label,
};
use crate::{
    Protocol,
    services::{SliceKey, SlicePort},
};

/// What an agent keeps over a restart to answer from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// When it was written: seconds since 1970.
    pub written_at: u64,
    /// The settings of DNS in force, as the administrator wrote them.
    pub settings: String,
    /// The ranges of all nodes' Pods.
    pub ranges: Vec<IpNet>,
    /// The names, see [`Zone::write_part`].
    pub zone: Vec<u8>,
}

/// Why octets are no snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SnapshotError {
    /// Not written by us.
    #[error("it is no snapshot of names")]
    Stranger,
    /// Written by another version.
    #[error("it was written by another version ({0}, and this one writes {VERSION})")]
    Version(u32),
    /// Not as it was written.
    #[error("it is cut off, or has changed since it was written")]
    Broken,
}

const MAGIC: &[u8; 8] = b"weftdns\n";
/// To be raised when anything of the format changes.
const VERSION: u32 = 1;
/// So many entries are written at a time.
const PART: usize = 64;

/// What a row begins with.
mod row {
    pub const NAMESPACE: u8 = 1;
    pub const ENTRY: u8 = 2;
}

/// What is known of an entry's Service.
mod shape {
    pub const UNKNOWN: u8 = 0;
    pub const CLUSTER: u8 = 1;
    pub const HEADLESS: u8 = 2;
    pub const ALIAS: u8 = 3;
    pub const NOTHING: u8 = 4;
}

const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

// === impl Snapshot ===

impl Snapshot {
    /// As it is kept.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(self.zone.len() + self.settings.len() + 1024);
        body.extend(self.written_at.to_le_bytes());
        put_text(&mut body, &self.settings);
        put_length(&mut body, self.ranges.len());
        for range in &self.ranges {
            put_address(&mut body, range.addr());
            body.push(range.prefix_len());
        }
        body.extend(&self.zone);
        let mut bytes = Vec::with_capacity(body.len() + 32);
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((body.len() as u64).to_le_bytes());
        bytes.extend(checksum(&body).to_le_bytes());
        bytes.extend(body);
        bytes
    }

    /// What was kept.
    ///
    /// # Errors
    /// That is none, or none of this version, or not whole.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let mut reader = Reader(bytes);
        if !reader.take(MAGIC.len()).is_ok_and(|magic| magic == MAGIC) {
            return Err(SnapshotError::Stranger);
        }
        let version = reader.number().map(u32::from_le_bytes)?;
        if version != VERSION {
            return Err(SnapshotError::Version(version));
        }
        let [length, sum] = [reader.number()?, reader.number()?].map(u64::from_le_bytes);
        if reader.0.len() as u64 != length || checksum(reader.0) != sum {
            return Err(SnapshotError::Broken);
        }
        let written_at = reader.number().map(u64::from_le_bytes)?;
        let settings = reader.text()?.to_owned();
        let ranges = reader.list(|reader| {
            let address = reader.address()?;
            IpNet::new(address, reader.octet()?).map_err(|_| SnapshotError::Broken)
        })?;
        Ok(Self { written_at, settings, ranges, zone: reader.0.to_vec() })
    }
}

/// FNV-1a: tells what was cut off or overwritten, not what somebody forged.
fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

// === impl Zone ===

impl Zone {
    /// Appends a part of what is known, the one that begins at `from`; the first begins at 0. Returns where the next one
    /// begins. What changes between two parts may be missing or be there twice: then [`Zone::serial`] is another.
    pub fn write_part(&self, from: usize, to: &mut Vec<u8>) -> Option<usize> {
        if from == 0 {
            for (name, _) in self.namespaces.iter().filter(|(_, namespace)| namespace.is_known) {
                to.push(row::NAMESPACE);
                put_text(to, name);
            }
        }
        let end = from.saturating_add(PART).min(self.entries.len());
        let part = self.entries.get(from..end).unwrap_or_default();
        part.iter().flatten().for_each(|entry| put_entry(to, entry));
        (end < self.entries.len()).then_some(end)
    }

    /// A zone that knows what another wrote, and has heard nothing itself: what it does not know may be there all the same.
    ///
    /// # Errors
    /// That is no zone.
    pub fn restored(settings: Settings, mut bytes: &[u8]) -> Result<Self, SnapshotError> {
        let mut zone = Self::new(settings);
        zone.is_restored = true;
        while let Some((kind, rest)) = bytes.split_first() {
            let mut reader = Reader(rest);
            match *kind {
                row::NAMESPACE => {
                    let name = zone.strings.one(reader.text()?);
                    zone.namespaces.entry(name).or_default().is_known = true;
                }
                row::ENTRY => zone.restore_entry(&mut reader)?,
                _ => return Err(SnapshotError::Broken),
            }
            bytes = reader.0;
        }
        Ok(zone)
    }

    fn restore_entry(&mut self, reader: &mut Reader<'_>) -> Result<(), SnapshotError> {
        let (namespace, name) = (reader.text()?, reader.text()?);
        let id = self.id_or_new(namespace, name);
        let kept = match reader.octet()? {
            shape::UNKNOWN => None,
            kind => {
                let shape = reader.shape(kind)?;
                Some(Kept { shape, ports: self.restore_ports(reader)? })
            }
        };
        let slices = reader.length()?;
        for _ in 0..slices {
            self.restore_slice(id, namespace, reader)?;
        }
        if let Some(entry) = self.entry_mut(id) {
            entry.service = kept;
        }
        self.renew(id);
        Ok(())
    }

    fn restore_slice(
        &mut self,
        id: u32,
        namespace: &str,
        reader: &mut Reader<'_>,
    ) -> Result<(), SnapshotError> {
        let name: Arc<str> = reader.text()?.into();
        let ports = self.restore_ports(reader)?;
        let endpoints = reader.list(|reader| {
            let hostname = match reader.octet()? {
                0 => None,
                _ => Some(reader.text()?),
            };
            if hostname.is_some_and(|name| !is_label(name)) {
                return Err(SnapshotError::Broken);
            }
            let hostname = hostname.map(|name| self.strings.one(name));
            Ok(Endpoint { hostname, address: reader.address()?, ready: reader.octet()? != 0 })
        })?;
        let key = SliceKey { namespace: self.strings.one(namespace), name: Arc::clone(&name) };
        self.keep_slice(id, key, Slice { name, ports, endpoints: endpoints.into() });
        Ok(())
    }

    fn restore_ports(&mut self, reader: &mut Reader<'_>) -> Result<Arc<[SlicePort]>, SnapshotError> {
        let ports = reader.list(|reader| {
            let name = self.strings.one(reader.text()?);
            let protocol = *PROTOCOLS.get(usize::from(reader.octet()?)).ok_or(SnapshotError::Broken)?;
            Ok(SlicePort { name, protocol, port: reader.number().map(u16::from_le_bytes)? })
        })?;
        Ok(self.ports.one(&ports))
    }
}

fn put_entry(to: &mut Vec<u8>, entry: &Entry) {
    to.push(row::ENTRY);
    put_text(to, &entry.namespace);
    put_text(to, &entry.name);
    match &entry.service {
        None => to.push(shape::UNKNOWN),
        Some(kept) => {
            match &kept.shape {
                Shape::Cluster(addresses) => {
                    to.push(shape::CLUSTER);
                    put_length(to, addresses.len());
                    addresses.iter().for_each(|address| put_address(to, *address));
                }
                Shape::Headless => to.push(shape::HEADLESS),
                Shape::Alias(name) => {
                    to.push(shape::ALIAS);
                    to.extend(name.wire());
                }
                Shape::Nothing => to.push(shape::NOTHING),
            }
            put_ports(to, &kept.ports);
        }
    }
    put_length(to, entry.slices.len());
    for slice in &entry.slices {
        put_text(to, &slice.name);
        put_ports(to, &slice.ports);
        put_length(to, slice.endpoints.len());
        for endpoint in &slice.endpoints {
            to.push(u8::from(endpoint.hostname.is_some()));
            endpoint.hostname.iter().for_each(|name| put_text(to, name));
            put_address(to, endpoint.address);
            to.push(u8::from(endpoint.ready));
        }
    }
}

fn put_ports(to: &mut Vec<u8>, ports: &[SlicePort]) {
    put_length(to, ports.len());
    for port in ports {
        put_text(to, &port.name);
        to.push(PROTOCOLS.iter().position(|one| *one == port.protocol).unwrap_or_default() as u8);
        to.extend(port.port.to_le_bytes());
    }
}

fn put_text(to: &mut Vec<u8>, text: &str) {
    put_length(to, text.len());
    to.extend(text.as_bytes());
}

fn put_address(to: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => {
            to.push(4);
            to.extend(v4.octets());
        }
        IpAddr::V6(v6) => {
            to.push(6);
            to.extend(v6.octets());
        }
    }
}

/// Nothing that an API server takes is as long as 4 GiB.
fn put_length(to: &mut Vec<u8>, length: usize) {
    to.extend((length as u32).to_le_bytes());
}

/// What is still to be read.
struct Reader<'b>(&'b [u8]);

// === impl Reader ===

impl<'b> Reader<'b> {
    fn take(&mut self, length: usize) -> Result<&'b [u8], SnapshotError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(SnapshotError::Broken)?;
        self.0 = rest;
        Ok(taken)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], SnapshotError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(SnapshotError::Broken)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn octet(&mut self) -> Result<u8, SnapshotError> {
        self.number().map(u8::from_le_bytes)
    }

    /// A number of things, each of which is an octet at least.
    fn length(&mut self) -> Result<usize, SnapshotError> {
        let length = self.number().map(u32::from_le_bytes)? as usize;
        if length > self.0.len() { Err(SnapshotError::Broken) } else { Ok(length) }
    }

    fn text(&mut self) -> Result<&'b str, SnapshotError> {
        let length = self.length()?;
        std::str::from_utf8(self.take(length)?).map_err(|_| SnapshotError::Broken)
    }

    fn address(&mut self) -> Result<IpAddr, SnapshotError> {
        match self.octet()? {
            4 => Ok(Ipv4Addr::from(self.number::<4>()?).into()),
            6 => Ok(Ipv6Addr::from(self.number::<16>()?).into()),
            _ => Err(SnapshotError::Broken),
        }
    }

    fn shape(&mut self, kind: u8) -> Result<Shape, SnapshotError> {
        Ok(match kind {
            shape::CLUSTER => Shape::Cluster(self.list(Self::address)?.into()),
            shape::HEADLESS => Shape::Headless,
            shape::ALIAS => {
                let (name, end) = Name::read(self.0, 0).map_err(|_| SnapshotError::Broken)?;
                self.take(end)?;
                Shape::Alias(Box::new(name))
            }
            shape::NOTHING => Shape::Nothing,
            _ => return Err(SnapshotError::Broken),
        })
    }

    fn list<T>(
        &mut self,
        mut one: impl FnMut(&mut Self) -> Result<T, SnapshotError>,
    ) -> Result<Vec<T>, SnapshotError> {
        let length = self.length()?;
        (0..length).map(|_| one(self)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Snapshot {
        Snapshot {
            written_at: 7,
            settings: "ttl: 30".to_owned(),
            ranges: vec!["10.244.1.0/24".parse().unwrap(), "fd00:10:244::/64".parse().unwrap()],
            zone: vec![row::NAMESPACE, 1, 0, 0, 0, b'x'],
        }
    }

    #[test]
    fn what_is_kept_is_what_was_written() {
        let bytes = snapshot().to_bytes();
        assert_eq!(Snapshot::from_bytes(&bytes), Ok(snapshot()));
        assert_eq!(Snapshot::from_bytes(&Snapshot::default().to_bytes()), Ok(Snapshot::default()));
    }

    #[test]
    fn what_is_not_as_it_was_written_is_refused() {
        let bytes = snapshot().to_bytes();
        for place in 0..bytes.len() {
            assert!(Snapshot::from_bytes(&bytes[..place]).is_err(), "cut off at {place}");
            let mut changed = bytes.clone();
            changed[place] ^= 1;
            assert!(Snapshot::from_bytes(&changed).is_err(), "changed at {place}");
        }
        let longer = [&bytes[..], b"x"].concat();
        assert_eq!(Snapshot::from_bytes(&longer), Err(SnapshotError::Broken));
        assert_eq!(Snapshot::from_bytes(b"{}"), Err(SnapshotError::Stranger));
        let mut newer = bytes;
        newer[8] = 2;
        assert_eq!(Snapshot::from_bytes(&newer), Err(SnapshotError::Version(2)));
    }
}
