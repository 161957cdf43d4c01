//! Answers, octet by octet.

use std::net::IpAddr;

use weft_model::dns::Name;

use super::query::{Edns, Header, INTERNET, Query, code, flag, kind};

/// An answer in the making, in a buffer as long as the answer may become.
pub struct Writer<'b> {
    buffer: &'b mut [u8],
    length: usize,
    header: Header,
    /// The name at [`QUESTION`]; what is written after it points into it.
    question: &'b Name,
    /// The last alias's target, and where it stands.
    alias: Option<(Name, usize)>,
    counts: [u16; 4],
    code: u16,
    edns: Option<Edns>,
}

/// The sections of a message after the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// What was asked for.
    Answer = 1,
    /// Who says that there is nothing.
    Authority = 2,
    /// What the client would ask next.
    Additional = 3,
}

/// It does not fit any more; what was begun of it is taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Where the question's name stands.
const QUESTION: usize = 12;
/// What an OPT record without options takes.
const OPT: usize = 11;
/// The largest UDP answer, whatever the client says: what passes everywhere without fragments (DNS flag day 2020).
pub const LARGEST_UDP: usize = 1232;
/// The largest UDP answer to a client without EDNS.
const PLAIN_UDP: u16 = 512;

/// How many octets an answer to this may have over UDP.
pub fn udp_limit(query: &Query<'_>) -> usize {
    let asked = query.edns.map_or(PLAIN_UDP, |edns| edns.size.max(PLAIN_UDP));
    usize::from(asked).min(LARGEST_UDP)
}

/// An answer of nothing but a code. How long it is.
pub fn write_refusal(header: Header, code: u16, buffer: &mut [u8]) -> usize {
    let Some(start) = buffer.get_mut(..QUESTION) else { return 0 };
    start.fill(0);
    let kept = header.flags & (flag::OPERATION | flag::RECURSION_DESIRED);
    let [i1, i2] = header.id.to_be_bytes();
    let [f1, f2] = (flag::RESPONSE | kept | (code & 0xf)).to_be_bytes();
    if let Some(words) = start.first_chunk_mut::<4>() {
        *words = [i1, i2, f1, f2];
    }
    QUESTION
}

// === impl Writer ===

impl<'b> Writer<'b> {
    /// An answer to `query`, as long as `buffer` at most.
    ///
    /// # Errors
    /// Not even the question fits.
    pub fn new(query: &'b Query<'_>, buffer: &'b mut [u8]) -> Result<Self, Full> {
        let kept = query.header.flags & (flag::RECURSION_DESIRED | flag::CHECKING_DISABLED);
        let mut writer = Self {
            buffer,
            length: QUESTION,
            header: Header { id: query.header.id, flags: flag::RESPONSE | flag::RECURSION_AVAILABLE | kept },
            question: &query.name,
            alias: None,
            counts: [1, 0, 0, 0],
            code: code::NO_ERROR,
            edns: query.edns,
        };
        writer.put(query.question)?;
        if query.edns.is_some() && writer.length + OPT > writer.buffer.len() {
            return Err(Full);
        }
        Ok(writer)
    }

    /// The response code is this.
    pub fn set_code(&mut self, code: u16) {
        self.code = code;
    }

    /// This flag is set.
    pub fn set_flag(&mut self, flag: u16) {
        self.header.flags |= flag;
    }

    /// How many records a section has so far.
    pub fn count(&self, section: Section) -> u16 {
        self.counts.get(section as usize).copied().unwrap_or_default()
    }

    /// Adds a record; `data` writes what is behind its length.
    ///
    /// # Errors
    /// It does not fit, and nothing of it is written.
    pub fn record(
        &mut self,
        section: Section,
        owner: &Name,
        kind: u16,
        ttl: u32,
        data: impl FnOnce(&mut Self) -> Result<(), Full>,
    ) -> Result<(), Full> {
        let (before, alias) = (self.length, self.alias.is_some());
        let written = self.try_record(owner, kind, ttl, data);
        match (&written, self.counts.get_mut(section as usize)) {
            (Ok(()), Some(count)) => *count += 1,
            _ => {
                self.length = before;
                if !alias {
                    self.alias = None;
                }
            }
        }
        written
    }

    fn try_record(
        &mut self,
        owner: &Name,
        kind: u16,
        ttl: u32,
        data: impl FnOnce(&mut Self) -> Result<(), Full>,
    ) -> Result<(), Full> {
        self.name(owner)?;
        self.start_record(kind, INTERNET, ttl)?;
        let place = self.length;
        data(self)?;
        let length = u16::try_from(self.length - place).map_err(|_| Full)?;
        self.buffer.get_mut(place - 2..place).ok_or(Full)?.copy_from_slice(&length.to_be_bytes());
        Ok(())
    }

    fn start_record(&mut self, kind: u16, class: u16, ttl: u32) -> Result<(), Full> {
        let ([k1, k2], [c1, c2], [t1, t2, t3, t4]) =
            (kind.to_be_bytes(), class.to_be_bytes(), ttl.to_be_bytes());
        self.put(&[k1, k2, c1, c2, t1, t2, t3, t4, 0, 0])
    }

    /// An address record.
    ///
    /// # Errors
    /// It does not fit.
    pub fn address(&mut self, section: Section, owner: &Name, ttl: u32, address: IpAddr) -> Result<(), Full> {
        match address {
            IpAddr::V4(v4) => self.record(section, owner, kind::A, ttl, |data| data.put(&v4.octets())),
            IpAddr::V6(v6) => self.record(section, owner, kind::AAAA, ttl, |data| data.put(&v6.octets())),
        }
    }

    /// A CNAME; what is written next under `target` points to it.
    ///
    /// # Errors
    /// It does not fit.
    pub fn alias(&mut self, owner: &Name, ttl: u32, target: &Name) -> Result<(), Full> {
        self.record(Section::Answer, owner, kind::CNAME, ttl, |data| {
            let place = data.length;
            data.name(target)?;
            data.alias = Some((target.clone(), place));
            Ok(())
        })
    }

    /// Octets as they are.
    ///
    /// # Errors
    /// They do not fit.
    pub fn put(&mut self, octets: &[u8]) -> Result<(), Full> {
        let end = self.length + octets.len();
        // The OPT record has its place in any case.
        if end + self.edns.map_or(0, |_| OPT) > self.buffer.len() {
            return Err(Full);
        }
        self.buffer.get_mut(self.length..end).ok_or(Full)?.copy_from_slice(octets);
        self.length = end;
        Ok(())
    }

    /// A number.
    ///
    /// # Errors
    /// It does not fit.
    pub fn put_u16(&mut self, number: u16) -> Result<(), Full> {
        self.put(&number.to_be_bytes())
    }

    /// A name whose end may point to what stands there already (RFC 1035 section 4.1.4).
    ///
    /// # Errors
    /// It does not fit.
    pub fn name(&mut self, name: &Name) -> Result<(), Full> {
        if let Some((alias, place)) = &self.alias
            && alias == name
            && *place < 0x4000
        {
            return self.put(&pointer(*place));
        }
        let same = name.labels().rev().zip(self.question.labels().rev()).take_while(|(a, b)| a == b).count();
        if same == 0 {
            return self.put(name.wire());
        }
        self.put(name.wire().get(..name.offset_of_last(same)).unwrap_or_default())?;
        self.put(&pointer(QUESTION + self.question.offset_of_last(same)))
    }

    /// Closes the answer; how long it is.
    pub fn finish(mut self) -> usize {
        if let Some(edns) = self.edns.take() {
            let ttl = u32::from(self.code >> 4) << 24 | if edns.dnssec_ok { 0x8000 } else { 0 };
            let size = LARGEST_UDP as u16;
            if self.put(&[0]).and_then(|()| self.start_record(kind::OPT, size, ttl)).is_ok()
                && let Some(count) = self.counts.get_mut(Section::Additional as usize)
            {
                *count += 1;
            }
        }
        let [i1, i2] = self.header.id.to_be_bytes();
        let [f1, f2] = (self.header.flags | (self.code & 0xf)).to_be_bytes();
        let [[a1, a2], [b1, b2], [c1, c2], [d1, d2]] = self.counts.map(u16::to_be_bytes);
        if let Some(start) = self.buffer.first_chunk_mut::<QUESTION>() {
            *start = [i1, i2, f1, f2, a1, a2, b1, b2, c1, c2, d1, d2];
        }
        self.length
    }
}

fn pointer(place: usize) -> [u8; 2] {
    (0xc000 | (place as u16 & 0x3fff)).to_be_bytes()
}
