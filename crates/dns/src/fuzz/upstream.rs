//! Servers that answer anything.

use std::{
    net::Ipv4Addr,
    sync::{Arc, LazyLock, Mutex},
};

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, Record, RecordType},
};

use super::server::{check, zone};
use crate::{
    forward,
    question::{Asked, Question, Reply, Resolver},
    server::{NoClients, fuzz::Answerer},
};

const NAMES: [&str; 4] = ["www.example.com.", "a.b.c.d.example.com.", "example.com.", "cluster.example.com."];
const KINDS: [RecordType; 8] = [
    RecordType::A,
    RecordType::AAAA,
    RecordType::CNAME,
    RecordType::MX,
    RecordType::TXT,
    RecordType::SOA,
    RecordType::SRV,
    RecordType::HTTPS,
];

static SAID: LazyLock<Arc<Said>> = LazyLock::new(Arc::default);
static ANSWERER: LazyLock<Answerer> =
    LazyLock::new(|| Answerer::new(zone(), Arc::clone(&*SAID) as _, Arc::new(NoClients)));

/// The answer of a server to one of a few questions: the first octet says to which, and how much of the answer's head is put right,
/// so that the rest is looked at; the rest is the answer.
pub fn upstream(data: &[u8]) {
    let Some((&how, datagram)) = data.split_first() else { return };
    let name = Name::from_ascii(NAMES[usize::from(how) % NAMES.len()]).unwrap();
    let question =
        Question { name, kind: KINDS[usize::from(how >> 2) % KINDS.len()], signed: how & 0x20 != 0 };
    let mut datagram = datagram.to_vec();
    let id = 0x1234_u16;
    if how & 0x80 != 0 && datagram.len() >= 12 {
        put_right(&mut datagram, id, &question);
    }
    let Some(reply) = forward::fuzz::believe(&datagram, id, &question) else { return };
    is_to_the_question(&question, &reply);
    *SAID.0.lock().unwrap() = Some(reply);
    let message = ask(&question);
    for tcp in [false, true] {
        let answer = ANSWERER.answer(&message, Ipv4Addr::LOCALHOST.into(), tcp);
        assert!(answer.is_some(), "a question is answered");
        check(&message, tcp, answer.as_deref());
    }
}

/// What was said last.
#[derive(Default)]
struct Said(Mutex<Option<Reply>>);

impl Resolver for Said {
    fn ask<'a>(&'a self, _: &'a Question) -> Asked<'a> {
        Box::pin(async { self.0.lock().unwrap().clone().expect("something was said") })
    }
}

/// Number, flags and question are as they should be; code, counts and everything after are the fuzzer's.
fn put_right(datagram: &mut Vec<u8>, id: u16, question: &Question) {
    let asked = ask(question);
    datagram.splice(..2, id.to_be_bytes());
    datagram[2] = 0x80;
    datagram[4..6].copy_from_slice(&[0, 1]);
    // Few records of each kind, or most of what is tried ends before it begins.
    for count in [6, 8, 10] {
        datagram[count] = 0;
        datagram[count + 1] &= 7;
    }
    datagram.splice(12..12, asked[12..].iter().copied());
}

fn ask(question: &Question) -> Vec<u8> {
    let mut message = Message::new(0x4321, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(question.name.clone(), question.kind));
    message.to_vec().unwrap()
}

/// Every record is the name's, or that of an alias before it leads to.
fn is_to_the_question(question: &Question, reply: &Reply) {
    if !matches!(reply.code, ResponseCode::NoError | ResponseCode::NXDomain) {
        assert!(reply.answers.is_empty() && reply.authorities.is_empty());
    }
    let mut names = vec![question.name.clone()];
    for record in &reply.answers {
        assert!(i32::try_from(record.ttl).is_ok(), "a TTL beyond all bounds");
        let leads = |name: &Name| {
            *name == record.name || record.record_type() == RecordType::DNAME && record.name.zone_of(name)
        };
        assert!(names.iter().any(leads), "{record} was not asked for");
        if let hickory_proto::rr::RData::CNAME(target) = &record.data {
            names.push(target.0.clone());
        }
    }
    let is_soa = |record: &Record| {
        record.record_type() == RecordType::SOA && names.iter().any(|name| record.name.zone_of(name))
    };
    let is_proof = |record: &Record| {
        let kinds = [RecordType::RRSIG, RecordType::NSEC, RecordType::NSEC3];
        question.signed && kinds.contains(&record.record_type())
    };
    let last = |record: &Record| is_soa(record) || is_proof(record);
    assert!(reply.authorities.iter().all(last), "the authority is another's");
}
