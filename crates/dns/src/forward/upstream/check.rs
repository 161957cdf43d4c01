//! What an upstream says, and what of it is believed.
//!
//! Believed is what answers the question: the records of the name asked for and of the aliases that it leads through, as far as
//! those are the upstream's business; and the SOA that says for how long there is none. Everything else is left out.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, MessageType, OpCode, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType},
};

use crate::{forward::cache::Stored, question::Question};

/// A longer chain of aliases is a mistake or an attack.
const LONGEST_CHAIN: usize = 16;

/// What came of asking one upstream.
#[derive(Debug)]
pub(in crate::forward) enum Said {
    /// An answer; the aliases end where it says.
    Answer(Stored),
    /// An alias leads to this name, which is somebody else's business, or was not answered.
    Alias(Stored, Name),
    /// It did not answer, though it is there: another may.
    Refusal(ResponseCode),
    /// It sent to other servers instead of answering.
    Referral,
}

/// Whether a message answers a query: its number, its question, and that it is an answer at all (RFC 5452, section 9).
pub(in crate::forward) fn answers(message: &Message, id: u16, question: &Question) -> bool {
    let asked = || match message.queries.as_slice() {
        [one] => {
            one.query_type == question.kind && one.query_class == DNSClass::IN && one.name == question.name
        }
        // Some leave the question out when they refuse.
        [] => !matches!(message.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain),
        _ => false,
    };
    message.metadata.id == id
        && message.metadata.message_type == MessageType::Response
        && message.metadata.op_code == OpCode::Query
        && asked()
}

/// What of an answer is believed. `is_theirs` says of a name whether this upstream is asked for it.
pub(in crate::forward) fn believe(
    message: Message,
    question: &Question,
    from: SocketAddr,
    is_theirs: impl Fn(&Name) -> bool,
) -> Said {
    let code = message.metadata.response_code;
    if !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain) {
        return Said::Refusal(code);
    }
    let records = message.answers.into_iter().filter(|record| record.dns_class == DNSClass::IN);
    let mut records: Vec<Record> = records.collect();
    let mut answers: Vec<Record> = Vec::new();
    let mut name = question.name.clone();
    // Each step takes its records out, so that a circle ends.
    for _ in 0..LONGEST_CHAIN {
        let wanted = |record: &Record| {
            record.name == name && (record.record_type() == question.kind || question.kind == RecordType::ANY)
        };
        if records.iter().any(wanted) {
            let proof = |record: &Record| question.signed && record.name == name && is_signature(record);
            answers.extend(records.extract_if(.., |record| wanted(record) || proof(record)));
            let ttl = least_ttl(&answers);
            // That a wildcard stands for the name is proved beside it.
            let proofs = proofs(&message.authorities, question, &name);
            return Said::Answer(stored(ResponseCode::NoError, answers, proofs, from, ttl));
        }
        let Some(target) = take_alias(&mut records, &mut answers, &name, question.signed) else { break };
        name = target.to_lowercase();
        if !is_theirs(&name) {
            let ttl = least_ttl(&answers);
            return Said::Alias(stored(ResponseCode::NoError, answers, Vec::new(), from, ttl), name);
        }
    }
    let soa = message.authorities.iter().find(|record| {
        matches!(record.data, RData::SOA(_)) && record.dns_class == DNSClass::IN && record.name.zone_of(&name)
    });
    let alias_ttl = least_ttl(&answers);
    if let Some((soa, minimum)) = soa.and_then(|record| match &record.data {
        RData::SOA(soa) => Some((record, soa.minimum)),
        _ => None,
    }) {
        // RFC 2308, section 5.
        let mut soa = soa.clone();
        soa.ttl = sane(soa.ttl).min(sane(minimum));
        let ttl = alias_ttl.min(soa.ttl);
        let mut authorities = proofs(&message.authorities, question, &name);
        authorities.insert(0, soa);
        return Said::Answer(stored(code, answers, authorities, from, ttl));
    }
    if code == ResponseCode::NXDomain {
        return Said::Answer(stored(code, answers, Vec::new(), from, 0));
    }
    if !answers.is_empty() {
        return Said::Alias(stored(code, answers, Vec::new(), from, alias_ttl), name);
    }
    if message.authorities.iter().any(|record| record.record_type() == RecordType::NS) {
        return Said::Referral;
    }
    // There is none, and no word of for how long: it is not remembered.
    Said::Answer(stored(code, answers, Vec::new(), from, 0))
}

/// Moves the alias of `name` over, and the DNAME that it was made of; its target.
fn take_alias(
    records: &mut Vec<Record>,
    answers: &mut Vec<Record>,
    name: &Name,
    signed: bool,
) -> Option<Name> {
    let is_source = |record: &mut Record| {
        record.record_type() == RecordType::DNAME && record.name.zone_of(name) && record.name != *name
    };
    answers.extend(records.extract_if(.., is_source));
    let at =
        records.iter().position(|record| record.name == *name && matches!(record.data, RData::CNAME(_)))?;
    let alias = records.swap_remove(at);
    let target = match &alias.data {
        RData::CNAME(target) => target.0.clone(),
        _ => return None,
    };
    answers.push(alias);
    if signed {
        answers.extend(records.extract_if(.., |record| record.name == *name && is_signature(record)));
    }
    Some(target)
}

/// What proves that there is none, or that a wildcard stands for it, where that was asked for (RFC 4035, section 3.1.3).
fn proofs(authorities: &[Record], question: &Question, name: &Name) -> Vec<Record> {
    let is_proof = |record: &&Record| {
        let kind = record.record_type();
        let proves = is_signature(record) || matches!(kind, RecordType::NSEC | RecordType::NSEC3);
        // Those of names beside it; the zone that both are in is at most its top level.
        proves && record.dns_class == DNSClass::IN && record.name.trim_to(1).zone_of(name)
    };
    authorities.iter().filter(|_| question.signed).filter(is_proof).cloned().collect()
}

fn is_signature(record: &Record) -> bool {
    record.record_type() == RecordType::RRSIG
}

fn stored(
    code: ResponseCode,
    mut answers: Vec<Record>,
    mut authorities: Vec<Record>,
    from: SocketAddr,
    ttl: u32,
) -> Stored {
    for record in answers.iter_mut().chain(&mut authorities) {
        record.ttl = sane(record.ttl);
    }
    let ttl = Duration::from_secs(ttl.into());
    Stored { code, answers, authorities, from, at: Instant::now(), ttl }
}

fn least_ttl(records: &[Record]) -> u32 {
    records.iter().map(|record| sane(record.ttl)).min().unwrap_or(u32::MAX)
}

/// A TTL with its highest bit set is none (RFC 2181, section 8).
fn sane(ttl: u32) -> u32 {
    if ttl > i32::MAX as u32 { 0 } else { ttl }
}
