//! What is asked, and what is answered.

use std::{net::SocketAddr, pin::Pin, time::Duration};

use hickory_proto::{
    op::ResponseCode,
    rr::{Name, Record, RecordType},
};

/// The type of records that a text names: `AAAA`, or as RFC 3597 (section 5) writes those without a name, `TYPE65`.
pub fn record_type(text: &str) -> Option<RecordType> {
    let text = text.to_ascii_uppercase();
    let number = text.strip_prefix("TYPE").filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
    number.and_then(|number| number.parse::<u16>().ok()).map(RecordType::from).or_else(|| text.parse().ok())
}

/// What is asked of the forwarder. The class is IN: no other is forwarded.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// The name, fully qualified, in lower case.
    pub name: Name,
    /// The type.
    pub kind: RecordType,
    /// With the records by which the answer can be validated (the DO bit, RFC 4035 section 3.2.1).
    pub signed: bool,
}

/// What the forwarder answers. The server gives it the client's message number, the question's own case and the client's size.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The response code: [`ResponseCode::ServFail`] when nobody could be asked and nothing is remembered.
    pub code: ResponseCode,
    /// The answer section, TTLs as they are to be sent.
    pub answers: Vec<Record>,
    /// The authority section: the SOA of a negative answer.
    pub authorities: Vec<Record>,
    /// Where it is from.
    pub origin: Origin,
}

/// Where an answer is from, for people and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Configured names.
    Hosts,
    /// A name that is the same everywhere (RFC 6761).
    Special,
    /// A name that is configured to stand for another.
    Rewrite,
    /// Remembered for so long.
    Cache(Duration),
    /// Remembered for longer than it is good for, since nobody could be asked (RFC 8767).
    Stale(Duration),
    /// This upstream said so.
    Upstream(SocketAddr),
    /// Nobody could be asked; why.
    Nobody(String),
}

/// Who is asked for what is not the cluster's: the forwarder, or a stand-in of it in tests.
pub trait Resolver: Send + Sync {
    /// Asks. What is known already is there at the first poll, which may be made with a waker that does nothing, in any
    /// thread that has entered the runtime: the server looks once before it hands a question over.
    fn ask<'a>(&'a self, question: &'a Question) -> Asked<'a>;
}

/// A reply that is still to come.
pub type Asked<'a> = Pin<Box<dyn Future<Output = Reply> + Send + 'a>>;
