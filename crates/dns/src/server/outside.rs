//! What others are asked, and what they said as records.

use hickory_proto::op::ResponseCode;
use hickory_proto::{
    rr::{Name as HickoryName, RData, Record, RecordType},
    serialize::binary::{BinEncodable as _, BinEncoder, NameEncoding},
};
use weft_model::dns::Name;

use super::{
    core::Core,
    query::{flag, kind},
    writer::{Full, Section, Writer},
};
use crate::question::{Origin, Question, Reply};

/// Asks others.
pub async fn ask(core: &Core, name: &Name, kind: u16, signed: bool) -> Reply {
    let kind = RecordType::from(kind);
    match HickoryName::from_labels(name.labels()) {
        Ok(mut name) => {
            name.set_fqdn(true);
            core.resolver.ask(&Question { name, kind, signed }).await
        }
        Err(error) => Reply {
            code: ResponseCode::FormErr,
            answers: Vec::new(),
            authorities: Vec::new(),
            origin: Origin::Nobody(format!("{name}: {error}")),
        },
    }
}

/// Writes what others said.
pub fn write(reply: &Reply, writer: &mut Writer<'_>) {
    writer.set_code(u16::from(reply.code));
    if write_answers(reply, writer).is_err() {
        writer.set_flag(flag::TRUNCATED);
        return;
    }
    for record in &reply.authorities {
        let _fits = write_record(Section::Authority, record, writer);
    }
}

/// Writes the answer section of what others said.
///
/// # Errors
/// Not all of it fits.
pub fn write_answers(reply: &Reply, writer: &mut Writer<'_>) -> Result<(), Full> {
    reply.answers.iter().try_for_each(|record| write_record(Section::Answer, record, writer))
}

/// The name that an answer leads to and says nothing of.
pub fn leads_to(reply: &Reply, kind: u16) -> Option<Name> {
    let last = reply.answers.last().filter(|_| reply.code == ResponseCode::NoError && kind != kind::CNAME)?;
    match &last.data {
        RData::CNAME(target) => Name::from_labels(target.iter()).ok(),
        _ => None,
    }
}

/// A record that is none is left out.
fn write_record(section: Section, record: &Record, writer: &mut Writer<'_>) -> Result<(), Full> {
    let kind = u16::from(record.record_type());
    let Ok(owner) = Name::from_labels(record.name.iter()) else { return Ok(()) };
    if kind == kind::OPT {
        return Ok(());
    }
    let target = |name: &HickoryName| Name::from_labels(name.iter()).ok();
    match &record.data {
        RData::A(address) => writer.address(section, &owner, record.ttl, address.0.into()),
        RData::AAAA(address) => writer.address(section, &owner, record.ttl, address.0.into()),
        RData::CNAME(alias) if section == Section::Answer => match target(alias) {
            Some(target) => writer.alias(&owner, record.ttl, &target),
            None => Ok(()),
        },
        other => {
            let mut data = Vec::new();
            let mut encoder = BinEncoder::new(&mut data);
            // Pointers would count from the start of the data.
            encoder.set_name_encoding(NameEncoding::Uncompressed);
            if other.emit(&mut encoder).is_err() {
                return Ok(());
            }
            writer.record(section, &owner, kind, record.ttl, |to| to.put(&data))
        }
    }
}
