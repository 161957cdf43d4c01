//! DNS messages (RFC 1035, 6891), as much as a server of a few records needs.

use super::records::{Data, Found};

/// Question class IN.
const IN: u16 = 1;
/// The pseudo-record of EDNS.
const OPT: u16 = 41;
const SOA: u16 = 6;
/// How long a missing name may be taken for missing, in seconds.
const NEGATIVE_TTL: u32 = 5;
/// What a datagram may always hold, and what this server sends at most, in bytes.
const SMALLEST: u16 = 512;
const LARGEST: u16 = 1232;

/// A question, and how it may be answered.
pub(super) struct Query<'a> {
    /// In lower case, without a final dot; the root is empty.
    pub(super) name: String,
    pub(super) kind: u16,
    /// Its header and question, as they came.
    header: [u8; 12],
    question: &'a [u8],
    /// What fits into an answer, if it was said (EDNS).
    room: Option<u16>,
}

/// Why a message gets no answer, or which.
pub(super) enum Refusal {
    Silence,
    Code(Vec<u8>),
}

impl<'a> Query<'a> {
    /// Reads a message.
    pub(super) fn parse(message: &'a [u8]) -> Result<Query<'a>, Refusal> {
        let Some(header) = message.first_chunk::<12>() else { return Err(Refusal::Silence) };
        let count = |at: usize| {
            u16::from_be_bytes([
                header.get(at).copied().unwrap_or(0),
                header.get(at + 1).copied().unwrap_or(0),
            ])
        };
        if header[2] & 0x80 != 0 {
            return Err(Refusal::Silence);
        }
        let refuse = |code: u8| Refusal::Code(head(header, code, [0; 4]).to_vec());
        if header[2] & 0x78 != 0 {
            // Not implemented.
            return Err(refuse(4));
        }
        let malformed = || refuse(1);
        if count(4) != 1 {
            return Err(malformed());
        }
        let (name, after) = name(message, 12).ok_or_else(malformed)?;
        let number = |at: usize| message.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes);
        let kind = number(after).ok_or_else(malformed)?;
        let class = number(after + 2).ok_or_else(malformed)?;
        if class != IN {
            // Refused.
            return Err(refuse(5));
        }
        let question = message.get(12..after + 4).ok_or_else(malformed)?;
        // A query has nothing before its additional records; EDNS is the first of them from every client there is.
        let rest = message.get(after + 4..).unwrap_or_default();
        let edns = count(6) == 0 && count(8) == 0 && count(10) > 0 && rest.get(..3) == Some(&[0, 0, 41]);
        let room = if edns { number(after + 4 + 3) } else { None };
        Ok(Query { name, kind, header: *header, question, room })
    }

    /// The answer; without its records if they do not fit into the client's datagram.
    pub(super) fn answer(&self, found: &Found, datagram: bool) -> Vec<u8> {
        let whole = self.write(found, false);
        let room = self.room.unwrap_or(SMALLEST).clamp(SMALLEST, LARGEST);
        if datagram && whole.len() > room.into() { self.write(found, true) } else { whole }
    }

    fn write(&self, found: &Found, truncated: bool) -> Vec<u8> {
        let (answers, code) = match found {
            Found::Records(records) => (records.as_slice(), 0),
            Found::Nothing => (&[][..], 0),
            Found::NoSuchName => (&[][..], 3),
        };
        let answers = if truncated { &[] } else { answers };
        let negative = answers.is_empty() && !truncated;
        let answer_count = u16::try_from(answers.len()).unwrap_or(u16::MAX).to_be_bytes();
        let counts = [answer_count[0], answer_count[1], u8::from(negative), u8::from(self.room.is_some())];
        let mut message = head(&self.header, code, counts).to_vec();
        if truncated {
            message[2] |= 2;
        }
        message[5] = 1;
        message.extend(self.question);
        for (owner, ttl, data) in answers {
            let content = match data {
                Data::A(address) => address.octets().to_vec(),
                Data::Aaaa(address) => address.octets().to_vec(),
                Data::Cname(target) => wire(target),
                Data::Txt(text) => [&[u8::try_from(text.len()).unwrap_or(255)], text.as_bytes()].concat(),
            };
            // The question's own writing of the name, in its own case.
            let owner = if *owner == self.name { vec![0xc0, 12] } else { wire(owner) };
            record(&mut message, &owner, data.kind(), IN, *ttl, &content);
        }
        if negative {
            let zone = self.name.rsplitn(3, '.').take(2).collect::<Vec<_>>();
            let zone = wire(&zone.into_iter().rev().collect::<Vec<_>>().join("."));
            let numbers = [1, 3600, 600, 86400, NEGATIVE_TTL].map(u32::to_be_bytes).concat();
            let content = [wire("ns.outside"), wire("hostmaster.outside"), numbers].concat();
            record(&mut message, &zone, SOA, IN, NEGATIVE_TTL, &content);
        }
        if self.room.is_some() {
            record(&mut message, &[0], OPT, LARGEST, 0, &[]);
        }
        message
    }
}

/// The header of an answer, with counts of answers (two bytes), authorities and additional records, and no question.
fn head(asked: &[u8; 12], code: u8, [high, low, authorities, additional]: [u8; 4]) -> [u8; 12] {
    // A response, authoritative, with the client's wish for recursion, and recursion as if there were any.
    let flags = 0x84 | (asked[2] & 0x79);
    [asked[0], asked[1], flags, 0x80 | code, 0, 0, high, low, 0, authorities, 0, additional]
}

fn record(message: &mut Vec<u8>, owner: &[u8], kind: u16, class: u16, ttl: u32, content: &[u8]) {
    message.extend(owner);
    message.extend(kind.to_be_bytes());
    message.extend(class.to_be_bytes());
    message.extend(ttl.to_be_bytes());
    message.extend(u16::try_from(content.len()).unwrap_or(u16::MAX).to_be_bytes());
    message.extend(content);
}

/// The name at a place, in lower case, and where it ends. Questions are not compressed.
fn name(message: &[u8], at: usize) -> Option<(String, usize)> {
    let (mut at, begin) = (at, at);
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join("."), at));
        }
        if length > 63 || at + length - begin > 254 {
            return None;
        }
        let label = message.get(at..at + length)?;
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        at += length;
    }
}

/// A name as it is sent. The file of records was checked for names that are none.
fn wire(name: &str) -> Vec<u8> {
    let mut wire = Vec::with_capacity(name.len() + 2);
    for label in name.split('.').filter(|label| !label.is_empty()) {
        wire.push(u8::try_from(label.len()).unwrap_or(63));
        wire.extend(label.as_bytes());
    }
    wire.push(0);
    wire
}
