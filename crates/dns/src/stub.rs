//! A client as C libraries have one: it reads a resolv.conf, walks its search list and asks its servers.
//!
//! `weft verify` asks with it, in a Pod's place and as the Pod's own resolv.conf says.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr as _,
    time::Duration,
};

use hickory_proto::{
    op::ResponseCode,
    rr::{Name, RecordType},
};
use serde::{Deserialize, Serialize};

use crate::{
    forward::{ask_plainly, code_name},
    question::Question,
};

/// So long one server is waited for. Each is asked twice.
const PATIENCE: Duration = Duration::from_secs(2);
const ROUNDS: u32 = 2;
const PORT: u16 = 53;
/// With fewer dots than this a name is looked for in the search list first, if nothing else is said.
const NDOTS: usize = 1;

/// What a resolv.conf says (resolv.conf(5)).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StubResolver {
    /// Who is asked, in turn.
    pub servers: Vec<IpAddr>,
    /// Domains in which a name is looked for.
    pub searches: Vec<String>,
    /// With so many dots in it a name is tried as it is first.
    pub ndots: usize,
}

/// What came of looking a name up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookedUp {
    /// The response code (`NOERROR`, `NXDOMAIN`, …), or why there was no answer.
    pub code: String,
    /// The name for which this is the answer: a step of the search list.
    pub name: String,
    /// The answer section.
    pub answers: Vec<Answer>,
}

/// A record of an answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Answer {
    /// Whose record it is.
    pub name: String,
    /// In seconds.
    pub ttl: u32,
    /// `A`, `CNAME`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// As a zone file has it.
    pub value: String,
}

/// What an answer is worth; the first are worth more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Worth {
    Records,
    /// Nobody answered: the walk ends here.
    Silence,
    /// A server did not know.
    Failure,
    NoRecords,
    NoName,
}

// === impl StubResolver ===

impl StubResolver {
    /// As this text says. What cannot be understood is passed over, as C libraries do.
    pub fn parse(resolv_conf: &str) -> Self {
        let mut stub = Self { ndots: NDOTS, ..Self::default() };
        for line in resolv_conf.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    stub.servers.extend(words.next().and_then(|word| word.parse::<IpAddr>().ok()))
                }
                // The last of them counts.
                Some("search") => stub.searches = words.map(str::to_owned).collect(),
                Some("options") => {
                    let mut numbers = words.filter_map(|word| word.strip_prefix("ndots:")?.parse().ok());
                    stub.ndots = numbers.next_back().unwrap_or(stub.ndots);
                }
                _ => {}
            }
        }
        stub
    }

    /// The names that are tried for this one, in order, fully qualified.
    pub fn steps(&self, name: &str) -> Vec<String> {
        if name.ends_with('.') {
            return vec![name.to_owned()];
        }
        let whole = format!("{name}.");
        let searched = self.searches.iter().map(|domain| match domain.trim_end_matches('.') {
            "" => whole.clone(),
            domain => format!("{name}.{domain}."),
        });
        if name.matches('.').count() >= self.ndots {
            [whole.clone()].into_iter().chain(searched).collect()
        } else {
            searched.chain([whole.clone()]).collect()
        }
    }

    /// Looks a name up, for the records of one type: the first step that has any counts. Without one, what a server that did
    /// not know said is worth more than that the name has other records, and that more than that there is no such name.
    pub async fn look_up(&self, name: &str, kind: &str) -> LookedUp {
        let mut best: Option<(Worth, LookedUp)> = None;
        for step in self.steps(name) {
            let (worth, found) = self.step(&step, kind).await;
            let last = matches!(worth, Worth::Records | Worth::Silence);
            if best.as_ref().is_none_or(|(held, _)| worth < *held) {
                best = Some((worth, found));
            }
            if last {
                break;
            }
        }
        best.map_or_else(|| no_answer(name, "no name to look up"), |(_, found)| found)
    }

    /// What the servers say of one name.
    async fn step(&self, name: &str, kind: &str) -> (Worth, LookedUp) {
        let question = match (Name::from_ascii(name), RecordType::from_str(kind)) {
            (Ok(name), Ok(kind)) => Question { name: name.to_lowercase(), kind, signed: false },
            (Err(error), _) => return (Worth::Silence, no_answer(name, &format!("no name: {error}"))),
            (_, Err(error)) => return (Worth::Silence, no_answer(name, &format!("no type: {error}"))),
        };
        let mut last = (Worth::Silence, no_answer(name, "its resolv.conf names no server"));
        for server in (0..ROUNDS).flat_map(|_| &self.servers) {
            let server = SocketAddr::new(*server, PORT);
            let message = match ask_plainly(server, &question, PATIENCE).await {
                Ok(message) => message,
                Err(error) => {
                    last = (Worth::Silence, no_answer(name, &format!("{server} {error}")));
                    continue;
                }
            };
            let code = message.metadata.response_code;
            let answers: Vec<Answer> = message.answers.iter().map(Answer::of).collect();
            let found = LookedUp { code: code_name(code), name: name.to_owned(), answers };
            match code {
                ResponseCode::NoError if found.answers.is_empty() => return (Worth::NoRecords, found),
                ResponseCode::NoError => return (Worth::Records, found),
                ResponseCode::NXDomain => return (Worth::NoName, found),
                // Another server may know.
                _ => last = (Worth::Failure, found),
            }
        }
        last
    }
}

impl Answer {
    fn of(record: &hickory_proto::rr::Record) -> Self {
        Self {
            name: record.name.to_string(),
            ttl: record.ttl,
            kind: record.record_type().to_string(),
            value: record.data.to_string(),
        }
    }
}

fn no_answer(name: &str, why: &str) -> LookedUp {
    LookedUp { code: why.to_owned(), name: name.to_owned(), answers: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "search shop.svc.cluster.local svc.cluster.local cluster.local\n\
        nameserver 10.96.0.10\nnameserver fd00:10:96::a\noptions edns0 ndots:5\n";

    #[test]
    fn a_resolv_conf_is_read_as_a_c_library_does() {
        let stub = StubResolver::parse(POD);
        assert_eq!(stub.servers, [IpAddr::from([10, 96, 0, 10]), "fd00:10:96::a".parse().unwrap()]);
        assert_eq!(stub.ndots, 5);
        assert_eq!(StubResolver::parse("nameserver nonsense\noptions ndots:x\n").ndots, 1);
    }

    #[test]
    fn few_dots_are_searched_first_and_many_last() {
        let stub = StubResolver::parse(POD);
        assert_eq!(
            stub.steps("api.example.com"),
            [
                "api.example.com.shop.svc.cluster.local.",
                "api.example.com.svc.cluster.local.",
                "api.example.com.cluster.local.",
                "api.example.com."
            ]
        );
        assert_eq!(stub.steps("a.b.c.d.e.f").first().map(String::as_str), Some("a.b.c.d.e.f."));
        assert_eq!(stub.steps("api.example.com."), ["api.example.com."]);
    }
}
