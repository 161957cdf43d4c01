//! What a client asks, read without trust (RFC 1035 section 4, RFC 6891).

use weft_model::dns::Name;

/// A question that can be answered.
#[derive(Clone, Debug)]
pub struct Query<'m> {
    /// The header as it came.
    pub header: Header,
    /// The name asked, in lower case.
    pub name: Name,
    /// The question section as it came: the case of its letters is the client's secret (0x20).
    pub question: &'m [u8],
    /// The type asked.
    pub kind: u16,
    /// The class asked.
    pub class: u16,
    /// The client speaks EDNS.
    pub edns: Option<Edns>,
}

/// The first words of a message, host byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The client's number of the message.
    pub id: u16,
    /// Flags, the operation, the code.
    pub flags: u16,
}

/// What an OPT record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns {
    /// The largest UDP payload that the client takes.
    pub size: u16,
    /// Its version; only 0 exists.
    pub version: u8,
    /// The client takes DNSSEC records; told back as it came.
    pub dnssec_ok: bool,
}

/// Why a message is not answered as a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is no query: nothing is answered, or two servers could talk to each other for ever.
    Silent,
    /// It is answered with this code and nothing else.
    Code(Header, u16),
}

/// Flags and codes, as they stand in the header.
pub mod flag {
    /// An answer.
    pub const RESPONSE: u16 = 1 << 15;
    /// The operation: 0 is a query.
    pub const OPERATION: u16 = 0xf << 11;
    /// The zone's own word.
    pub const AUTHORITATIVE: u16 = 1 << 10;
    /// More than fits.
    pub const TRUNCATED: u16 = 1 << 9;
    /// Others are to be asked.
    pub const RECURSION_DESIRED: u16 = 1 << 8;
    /// Others are asked.
    pub const RECURSION_AVAILABLE: u16 = 1 << 7;
    /// The client does the checking.
    pub const CHECKING_DISABLED: u16 = 1 << 4;
}

/// Response codes (RFC 1035, RFC 6891).
pub mod code {
    /// Fine.
    pub const NO_ERROR: u16 = 0;
    /// The query is not understood.
    pub const FORMAT: u16 = 1;
    /// Try again.
    pub const SERVER_FAILURE: u16 = 2;
    /// No such name.
    pub const NO_NAME: u16 = 3;
    /// This is not done here.
    pub const NOT_IMPLEMENTED: u16 = 4;
    /// This is not done for you.
    pub const REFUSED: u16 = 5;
    /// An EDNS version that is not known.
    pub const BAD_VERSION: u16 = 16;
}

/// Types of records.
pub mod kind {
    /// An IPv4 address.
    pub const A: u16 = 1;
    /// A name server.
    pub const NS: u16 = 2;
    /// Another name.
    pub const CNAME: u16 = 5;
    /// Start of a zone.
    pub const SOA: u16 = 6;
    /// The name of an address.
    pub const PTR: u16 = 12;
    /// A host's description; the answer to questions for everything (RFC 8482).
    pub const HINFO: u16 = 13;
    /// Text.
    pub const TXT: u16 = 16;
    /// An IPv6 address.
    pub const AAAA: u16 = 28;
    /// Where a port is served.
    pub const SRV: u16 = 33;
    /// EDNS.
    pub const OPT: u16 = 41;
    /// A zone's changes.
    pub const IXFR: u16 = 251;
    /// A whole zone.
    pub const AXFR: u16 = 252;
    /// Everything.
    pub const ANY: u16 = 255;
}

/// The class IN.
pub const INTERNET: u16 = 1;

const HEADER: usize = 12;

// === impl Query ===

impl<'m> Query<'m> {
    /// Reads a message.
    ///
    /// # Errors
    /// It is to be refused; how.
    pub fn read(message: &'m [u8]) -> Result<Self, Refusal> {
        let word = |place: usize| Some(u16::from_be_bytes([*message.get(place)?, *message.get(place + 1)?]));
        let (Some(id), Some(flags)) = (word(0), word(2)) else { return Err(Refusal::Silent) };
        let header = Header { id, flags };
        if message.len() < HEADER || flags & flag::RESPONSE != 0 {
            return Err(Refusal::Silent);
        }
        if flags & flag::OPERATION != 0 {
            return Err(Refusal::Code(header, code::NOT_IMPLEMENTED));
        }
        let malformed = Refusal::Code(header, code::FORMAT);
        let count = |section: usize| word(4 + 2 * section).ok_or(malformed);
        if count(0)? != 1 {
            return Err(malformed);
        }
        let (name, end) = Name::read(message, HEADER).map_err(|_| malformed)?;
        let (kind, class) = (word(end).ok_or(malformed)?, word(end + 2).ok_or(malformed)?);
        let question = message.get(HEADER..end + 4).ok_or(malformed)?;
        let mut query = Self { header, name, question, kind, class, edns: None };
        let (answers, authorities, additionals) = (count(1)?, count(2)?, count(3)?);
        // A client that asks for a zone's changes says which it has.
        if answers != 0 || authorities > u16::from(kind == kind::IXFR) {
            return Err(malformed);
        }
        let mut place = end + 4;
        for _ in 0..authorities {
            place = Record::read(message, place).ok_or(malformed)?.end;
        }
        for _ in 0..additionals {
            let record = Record::read(message, place).ok_or(malformed)?;
            place = record.end;
            if record.kind == kind::OPT {
                if query.edns.is_some() || !record.is_root {
                    return Err(malformed);
                }
                query.edns = Some(Edns {
                    size: record.class,
                    version: (record.ttl >> 16) as u8,
                    dnssec_ok: record.ttl & 0x8000 != 0,
                });
            }
        }
        Ok(query)
    }
}

/// What of a record counts.
struct Record {
    is_root: bool,
    kind: u16,
    class: u16,
    ttl: u32,
    end: usize,
}

// === impl Record ===

impl Record {
    fn read(message: &[u8], at: usize) -> Option<Self> {
        let end = skip_name(message, at)?;
        let fixed: [u8; 10] = message.get(end..end + 10)?.try_into().ok()?;
        let [k1, k2, c1, c2, t1, t2, t3, t4, l1, l2] = fixed;
        let end_of_data = end + 10 + usize::from(u16::from_be_bytes([l1, l2]));
        (end_of_data <= message.len()).then_some(Self {
            is_root: end == at + 1,
            kind: u16::from_be_bytes([k1, k2]),
            class: u16::from_be_bytes([c1, c2]),
            ttl: u32::from_be_bytes([t1, t2, t3, t4]),
            end: end_of_data,
        })
    }
}

/// Behind a name, compressed or not.
fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length @ 1..=63 => at += 1 + usize::from(length),
            192.. => return Some(at + 2),
            _ => return None,
        }
    }
}
