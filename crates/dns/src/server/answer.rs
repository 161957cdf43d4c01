//! What the zone has, as records.

use std::net::IpAddr;

use weft_model::dns::{EndpointRecord, Found, LookUp, Name, Owner, Pointers, Ports, Records, Target, Zone};

use super::{
    query::{code, flag, kind},
    settings::Settings,
    writer::{Full, Section, Writer},
};

/// An answer from the zone: what it says of `name`, which the client asked for or an alias led to.
pub struct Answer<'a> {
    /// The zone.
    pub zone: &'a Zone,
    /// How long answers are good for.
    pub settings: &'a Settings,
    /// The name.
    pub name: &'a Name,
    /// The type asked.
    pub kind: u16,
    /// Which of several addresses comes first, modulo their number: so clients spread.
    pub turn: usize,
}

/// The whole of a label made of an address.
const LABEL: usize = 63;
/// What a record of a name server's zone says of when to come back; nobody transfers this zone.
const REFRESH: [u32; 3] = [7200, 1800, 86_400];

// === impl Answer ===

impl Answer<'_> {
    /// Writes all of it.
    pub fn write(&self, look_up: &LookUp<'_>, writer: &mut Writer<'_>) {
        writer.set_flag(flag::AUTHORITATIVE);
        let before = writer.count(Section::Answer);
        let written = match &look_up.found {
            Found::NotSynced | Found::Elsewhere => {
                writer.set_code(code::SERVER_FAILURE);
                return;
            }
            Found::Missing => {
                writer.set_code(code::NO_NAME);
                Ok(())
            }
            Found::Empty => Ok(()),
            _ if self.kind == kind::ANY => write_everything(self.name, self.settings.ttl, writer),
            found => self.records(found, writer),
        };
        if written.is_err() {
            writer.set_flag(flag::TRUNCATED);
        } else if writer.count(Section::Answer) == before {
            // A negative answer without its SOA would not be kept; one that has no room for it is still right.
            let _fits = self.soa(Section::Authority, look_up.zone_labels, writer);
        }
    }

    /// Says that the name, which is one under the cluster's domain, has no records of the type.
    pub fn write_empty(&self, writer: &mut Writer<'_>) {
        let labels = self.zone.settings().domain.len();
        // Without its SOA the answer would not be kept; it is right all the same.
        let _fits = self.soa(Section::Authority, labels, writer);
    }

    fn records(&self, found: &Found<'_>, writer: &mut Writer<'_>) -> Result<(), Full> {
        match found {
            Found::Service(owner, records) if self.kind == kind::SRV => {
                self.ports(&Ports::all(*owner, records), writer)
            }
            Found::Service(_, records) => self.service(self.name, Section::Answer, records, writer),
            Found::Endpoints(_, endpoints) if self.kind == kind::SRV => self.ports_of(endpoints, writer),
            Found::Endpoints(_, endpoints) => self.endpoints(self.name, Section::Answer, endpoints, writer),
            Found::Alias(_, target) => writer.alias(self.name, self.settings.ttl, target),
            Found::Ports(ports) if self.kind == kind::SRV => self.ports(ports, writer),
            Found::Ports(ports) => self.addresses_of_port(ports, writer),
            Found::Pointers(pointers) if self.kind == kind::PTR => self.pointers(pointers, writer),
            Found::Pod(address) | Found::Endpoint(_, address) if kind_of(*address) == self.kind => {
                self.address(*address, writer)
            }
            Found::Version if self.kind == kind::TXT => {
                writer.record(Section::Answer, self.name, kind::TXT, self.settings.ttl, |data| {
                    data.put(b"\x051.1.0")
                })
            }
            Found::NameServer => {
                let servers = self.zone.settings().name_servers.iter().copied();
                servers.filter(|one| kind_of(*one) == self.kind).try_for_each(|one| self.address(one, writer))
            }
            Found::Apex => self.apex(writer),
            _ => Ok(()),
        }
    }

    fn address(&self, address: IpAddr, writer: &mut Writer<'_>) -> Result<(), Full> {
        writer.address(Section::Answer, self.name, self.settings.ttl, address)
    }

    fn service(
        &self,
        owner: &Name,
        section: Section,
        records: &Records,
        writer: &mut Writer<'_>,
    ) -> Result<(), Full> {
        let ttl = self.settings.ttl;
        match self.kind {
            kind::A => turned(&records.v4, self.turn)
                .try_for_each(|one| writer.address(section, owner, ttl, (*one).into())),
            kind::AAAA => turned(&records.v6, self.turn)
                .try_for_each(|one| writer.address(section, owner, ttl, (*one).into())),
            _ => Ok(()),
        }
    }

    fn endpoints(
        &self,
        owner: &Name,
        section: Section,
        endpoints: &[EndpointRecord],
        writer: &mut Writer<'_>,
    ) -> Result<(), Full> {
        // One that stands in two slices stands here side by side.
        let unlike_before = |place: &usize| {
            let address = |place: usize| endpoints.get(place).map(|one| one.address);
            place.checked_sub(1).and_then(address) != address(*place)
        };
        let places = (0..endpoints.len()).map(|one| (one + self.turn) % endpoints.len().max(1));
        for one in places.filter(unlike_before).filter_map(|place| endpoints.get(place)) {
            if kind_of(one.address) == self.kind {
                writer.address(section, owner, self.settings.ttl, one.address)?;
            }
        }
        Ok(())
    }

    fn ports(&self, ports: &Ports<'_>, writer: &mut Writer<'_>) -> Result<(), Full> {
        let count = ports.targets().count().max(1);
        let weight = u16::try_from(100 / count).unwrap_or_default().max(1);
        for target in ports.targets() {
            let Some(name) = self.target(ports.owner, &target) else { continue };
            writer.record(Section::Answer, self.name, kind::SRV, self.settings.ttl, |data| {
                data.put_u16(0)?;
                data.put_u16(weight)?;
                data.put_u16(target.port)?;
                // RFC 2782: the target is not compressed.
                data.put(name.wire())
            })?;
        }
        // What has no room here the client asks for.
        let _fits = self.addresses_of(ports, writer);
        Ok(())
    }

    /// The ports of the endpoints of one name: the specification has no SRV there, CoreDNS has.
    fn ports_of(&self, endpoints: &[EndpointRecord], writer: &mut Writer<'_>) -> Result<(), Full> {
        let mut ports: Vec<u16> =
            endpoints.iter().flat_map(|one| one.ports.iter()).map(|port| port.port).collect();
        ports.sort_unstable();
        ports.dedup();
        let weight = u16::try_from(100 / ports.len().max(1)).unwrap_or_default().max(1);
        for port in &ports {
            writer.record(Section::Answer, self.name, kind::SRV, self.settings.ttl, |data| {
                data.put_u16(0)?;
                data.put_u16(weight)?;
                data.put_u16(*port)?;
                data.put(self.name.wire())
            })?;
        }
        for kind in [kind::A, kind::AAAA].into_iter().filter(|_| !ports.is_empty()) {
            let of_kind = Answer { kind, turn: 0, ..*self };
            // What has no room here the client asks for.
            let _fits = of_kind.endpoints(self.name, Section::Additional, endpoints, writer);
        }
        Ok(())
    }

    fn addresses_of(&self, ports: &Ports<'_>, writer: &mut Writer<'_>) -> Result<(), Full> {
        let mut last: Option<Name> = None;
        for target in ports.targets() {
            let Some(name) = self.target(ports.owner, &target) else { continue };
            if last.as_ref() == Some(&name) {
                continue;
            }
            for kind in [kind::A, kind::AAAA] {
                let of_kind = Answer { kind, turn: 0, ..*self };
                match target.endpoint {
                    None => of_kind.service(&name, Section::Additional, ports.records(), writer)?,
                    Some(endpoint) => {
                        let mut written = [0; LABEL];
                        let named = ports.records().named(endpoint.label(&mut written));
                        of_kind.endpoints(&name, Section::Additional, named, writer)?;
                    }
                }
            }
            last = Some(name);
        }
        Ok(())
    }

    /// The addresses that serve a port, under the port's own name: the specification has only SRV there, CoreDNS these as well.
    fn addresses_of_port(&self, ports: &Ports<'_>, writer: &mut Writer<'_>) -> Result<(), Full> {
        let is_own = ports.targets().any(|target| target.endpoint.is_none());
        if is_own {
            return self.service(self.name, Section::Answer, ports.records(), writer);
        }
        let endpoints = ports.targets().filter_map(|target| target.endpoint);
        // An endpoint's target stands for all endpoints of the same name.
        let endpoints = endpoints.flat_map(|one| {
            let mut written = [0; LABEL];
            ports.records().named(one.label(&mut written))
        });
        let mut addresses: Vec<IpAddr> =
            endpoints.map(|one| one.address).filter(|one| kind_of(*one) == self.kind).collect();
        addresses.sort_unstable();
        addresses.dedup();
        turned(&addresses, self.turn).try_for_each(|one| self.address(*one, writer))
    }

    fn target(&self, owner: Owner<'_>, target: &Target<'_>) -> Option<Name> {
        let mut written = [0; LABEL];
        self.zone.name_of(target.endpoint.map(|one| one.label(&mut written)), owner)
    }

    fn pointers(&self, pointers: &Pointers<'_>, writer: &mut Writer<'_>) -> Result<(), Full> {
        for (owner, endpoint) in pointers.names() {
            let mut written = [0; LABEL];
            let Some(name) = self.zone.name_of(endpoint.map(|one| one.label(&mut written)), owner) else {
                continue;
            };
            writer
                .record(Section::Answer, self.name, kind::PTR, self.settings.ttl, |data| data.name(&name))?;
        }
        Ok(())
    }

    fn apex(&self, writer: &mut Writer<'_>) -> Result<(), Full> {
        match self.kind {
            kind::SOA => self.soa(Section::Answer, self.name.len(), writer),
            kind::NS => {
                let server = self.under_domain(&[b"ns", b"dns"]);
                writer.record(Section::Answer, self.name, kind::NS, self.settings.ttl, |data| {
                    data.name(&server)
                })?;
                for address in &self.zone.settings().name_servers {
                    let _fits = writer.address(Section::Additional, &server, self.settings.ttl, *address);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The SOA record of the zone that has the last `labels` of the name. Its minimum is how long "no" is good for (RFC 2308).
    fn soa(&self, section: Section, labels: usize, writer: &mut Writer<'_>) -> Result<(), Full> {
        let (server, mailbox) = (self.under_domain(&[b"ns", b"dns"]), self.under_domain(&[b"hostmaster"]));
        let ttl = if section == Section::Answer { self.settings.ttl } else { self.settings.negative_ttl };
        writer.record(section, &self.name.last(labels), kind::SOA, ttl, |data| {
            data.name(&server)?;
            data.name(&mailbox)?;
            data.put(&self.zone.serial().to_be_bytes())?;
            REFRESH.iter().try_for_each(|number| data.put(&number.to_be_bytes()))?;
            data.put(&self.settings.negative_ttl.to_be_bytes())
        })
    }

    fn under_domain(&self, labels: &[&[u8]]) -> Name {
        let domain = &self.zone.settings().domain;
        Name::from_labels(labels.iter().copied().chain(domain.labels())).unwrap_or_default()
    }
}

/// The answer to a question for everything (RFC 8482 section 4.2): as little as there can be.
pub fn write_everything(owner: &Name, ttl: u32, writer: &mut Writer<'_>) -> Result<(), Full> {
    writer.record(Section::Answer, owner, kind::HINFO, ttl, |data| data.put(b"\x07RFC8482\x00"))
}

fn kind_of(address: IpAddr) -> u16 {
    if address.is_ipv4() { kind::A } else { kind::AAAA }
}

/// All of them, beginning with another one each time.
fn turned<T>(all: &[T], turn: usize) -> impl Iterator<Item = &T> {
    let (before, after) = all.split_at(turn.checked_rem(all.len()).unwrap_or_default());
    after.iter().chain(before)
}
