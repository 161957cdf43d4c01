//! An answer, and why it is that.

use std::{fmt, net::IpAddr};

use hickory_proto::{
    op::Message,
    rr::{Record, RecordType},
};
use serde::{Deserialize, Serialize};
use weft_model::dns::{Found, Name, Owner, Zone};

use super::{
    clients::Search,
    core::Core,
    query::{Header, Query, flag},
    walk::{self, Chain, End},
    writer::Writer,
};
use crate::question::Origin;

/// What a client would be answered, question by question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// In the order in which they are asked; the last one is what the client goes by.
    pub questions: Vec<Explained>,
}

/// One question and its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    /// The name asked, fully qualified.
    pub name: String,
    /// The type asked.
    pub kind: String,
    /// The response code, as dig writes it.
    pub code: String,
    /// The answer section, a record a line: name, TTL, type, data.
    pub answers: Vec<String>,
    /// The authority section.
    pub authorities: Vec<String>,
    /// The additional section.
    pub additionals: Vec<String>,
    /// What was found where, in the order in which it was looked for.
    pub why: Vec<Reason>,
}

/// What was found for a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// The name.
    pub name: String,
    /// What there is, and where that is from.
    pub source: Source,
}

/// Where an answer is from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// A Service's cluster IPs.
    Service {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A headless Service's ready endpoints.
    Headless {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// How many there are.
        endpoints: usize,
    },
    /// Endpoints of one name.
    Endpoint {
        /// Namespace of their Service.
        namespace: String,
        /// Name of their Service.
        service: String,
    },
    /// A named port of a Service.
    Port {
        /// Namespace of the Service.
        namespace: String,
        /// Name of the Service.
        service: String,
    },
    /// A Service of type ExternalName.
    ExternalName {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// What it names.
        target: String,
    },
    /// The first step of the client's search; this is what it is after.
    SearchStep {
        /// What the search comes to.
        result: String,
    },
    /// The same, but what the search comes to has no records of the type asked.
    SearchEmpty {
        /// What the search comes to.
        result: String,
    },
    /// An address written as a name.
    Pod,
    /// An address of a Service or an endpoint.
    Address,
    /// The zone speaks of itself.
    Zone,
    /// The name exists and has no records.
    Empty,
    /// There is no such name in the cluster.
    Missing,
    /// Not everything has been heard from the Kubernetes API yet.
    NotSynced,
    /// Aliases that lead to each other.
    Loop,
    /// Names that the administrator has set.
    Hosts,
    /// A name that is the same everywhere (RFC 6761).
    Special,
    /// A name that the administrator has set to stand for another.
    Rewrite,
    /// Remembered, since so many seconds.
    Cache {
        /// Seconds.
        age: u64,
    },
    /// Remembered for longer than it is good for, since nobody can be asked.
    Stale {
        /// Seconds.
        age: u64,
    },
    /// Another server said so.
    Upstream {
        /// Its address and port.
        server: String,
    },
    /// Nobody could be asked.
    Nobody {
        /// Why.
        reason: String,
    },
}

/// The longest message.
const LONGEST: usize = 65_535;

/// What the client at `client`, or one whose search is not known, would be answered when it looks for `name`: with its search if
/// `name` does not end with a dot. An address stands for its name below `in-addr.arpa` or `ip6.arpa`.
pub async fn explain(
    core: &Core,
    name: &str,
    kind: RecordType,
    client: Option<IpAddr>,
) -> Result<Explanation, weft_model::dns::NameError> {
    let reverse =
        name.parse::<IpAddr>().ok().map(|address| hickory_proto::rr::Name::from(address).to_string());
    let name = reverse.as_deref().unwrap_or(name);
    let asked: Name = name.parse()?;
    let search = client.and_then(|client| core.clients.search(client)).filter(|_| !name.ends_with('.'));
    let names = search.map_or_else(|| vec![asked.clone()], |search| steps(&search, &asked));
    let mut questions = Vec::new();
    for name in names {
        let explained = question(core, &name, kind, client).await;
        let is_found = !explained.answers.is_empty();
        questions.push(explained);
        if is_found {
            break;
        }
    }
    Ok(Explanation { questions })
}

/// What a client asks for one after the other, by glibc's rules (resolv.conf(5)).
fn steps(search: &Search, name: &Name) -> Vec<Name> {
    let domains = search.domains.iter().filter_map(|domain| name.under(domain).ok());
    let is_first = name.len() > search.ndots;
    let own = [name.clone()];
    let (first, last) = if is_first { (&own[..], &[][..]) } else { (&[][..], &own[..]) };
    first.iter().cloned().chain(domains).chain(last.iter().cloned()).collect()
}

async fn question(core: &Core, name: &Name, kind: RecordType, client: Option<IpAddr>) -> Explained {
    let section = [name.wire(), &u16::from(kind).to_be_bytes(), &[0, 1]].concat();
    let header = Header { id: 0, flags: flag::RECURSION_DESIRED };
    let query =
        Query { header, name: name.clone(), question: &section, kind: kind.into(), class: 1, edns: None };
    let chain = walk::resolve(core, &query, client.unwrap_or(IpAddr::from([0; 4]))).await;
    let mut buffer = vec![0; LONGEST];
    let length = Writer::new(&query, &mut buffer).map_or(0, |mut writer| {
        chain.write(core, &query, 0, &mut writer);
        writer.finish()
    });
    let message =
        Message::from_vec(buffer.get(..length).unwrap_or_default()).unwrap_or_else(|_| Message::query());
    let texts = |records: &[Record]| records.iter().map(text).collect();
    Explained {
        name: name.to_string(),
        kind: kind.to_string(),
        code: crate::forward::code_name(message.metadata.response_code),
        answers: texts(&message.answers),
        authorities: texts(&message.authorities),
        additionals: texts(&message.additionals),
        why: why(core, name, &chain),
    }
}

fn text(record: &Record) -> String {
    format!("{} {} {} {}", record.name, record.ttl, record.record_type(), record.data)
}

fn why(core: &Core, name: &Name, chain: &Chain) -> Vec<Reason> {
    let zone = core.zone();
    let mut reasons = Vec::new();
    let mut from = name;
    let mut reason = |name: &Name, source| reasons.push(Reason { name: name.to_string(), source });
    for (number, link) in chain.links.iter().enumerate() {
        let source = match &link.said {
            Some(reply) => Source::from(&reply.origin),
            None if chain.is_walk && number == 0 => Source::SearchStep { result: link.to.to_string() },
            None => source(&zone, from).unwrap_or(Source::Missing),
        };
        reason(from, source);
        from = &link.to;
    }
    let source = match &chain.end {
        End::Reply(reply) => Source::from(&reply.origin),
        End::SearchEmpty(result) => Source::SearchEmpty { result: result.to_string() },
        End::Loop => Source::Loop,
        End::Zone => source(&zone, from).unwrap_or(Source::Missing),
    };
    reason(from, source);
    reasons
}

/// What the zone says of a name; `None` when it is for others to say.
fn source(zone: &Zone, name: &Name) -> Option<Source> {
    let own = |owner: Owner<'_>| (owner.namespace.to_owned(), owner.name.to_owned());
    Some(match zone.look_up(name).found {
        Found::Elsewhere => return None,
        Found::NotSynced => Source::NotSynced,
        Found::Missing => Source::Missing,
        Found::Empty => Source::Empty,
        Found::Apex | Found::NameServer | Found::Version => Source::Zone,
        Found::Service(owner, records) => {
            let (namespace, name) = own(owner);
            match records.is_headless {
                true => Source::Headless { namespace, name, endpoints: records.endpoints.len() },
                false => Source::Service { namespace, name },
            }
        }
        Found::Endpoints(owner, _) | Found::Endpoint(owner, _) => {
            let (namespace, service) = own(owner);
            Source::Endpoint { namespace, service }
        }
        Found::Ports(ports) => {
            let (namespace, service) = own(ports.owner);
            Source::Port { namespace, service }
        }
        Found::Alias(owner, target) => {
            let (namespace, name) = own(owner);
            Source::ExternalName { namespace, name, target: target.to_string() }
        }
        Found::Pod(_) => Source::Pod,
        Found::Pointers(_) => Source::Address,
    })
}

// === impl Source ===

impl From<&Origin> for Source {
    fn from(origin: &Origin) -> Self {
        match origin {
            Origin::Hosts => Self::Hosts,
            Origin::Special => Self::Special,
            Origin::Rewrite => Self::Rewrite,
            Origin::Cache(age) => Self::Cache { age: age.as_secs() },
            Origin::Stale(age) => Self::Stale { age: age.as_secs() },
            Origin::Upstream(server) => Self::Upstream { server: server.to_string() },
            Origin::Nobody(reason) => Self::Nobody { reason: reason.clone() },
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service { namespace, name } => write!(f, "Service {namespace}/{name}, its cluster IP"),
            Self::Headless { namespace, name, endpoints } => {
                write!(f, "headless Service {namespace}/{name}, its {endpoints} ready endpoints")
            }
            Self::Endpoint { namespace, service } => {
                write!(f, "an endpoint of Service {namespace}/{service}")
            }
            Self::Port { namespace, service } => write!(f, "a named port of Service {namespace}/{service}"),
            Self::ExternalName { namespace, name, target } => {
                write!(f, "Service {namespace}/{name} of type ExternalName, another name of {target}")
            }
            Self::SearchStep { result } => {
                write!(f, "the first step of the Pod's search, answered with its result {result}")
            }
            Self::SearchEmpty { result } => write!(
                f,
                "the first step of the Pod's search, which ends at {result}: that exists, without records of this type"
            ),
            Self::Pod => f.write_str("an address written as a name"),
            Self::Address => f.write_str("an address of a Service or an endpoint"),
            Self::Zone => f.write_str("the cluster's zone itself"),
            Self::Empty => f.write_str("exists, and has no records itself"),
            Self::Missing => f.write_str("no such name in the cluster"),
            Self::NotSynced => {
                f.write_str("not everything has been heard from the Kubernetes API yet: try again")
            }
            Self::Loop => f.write_str("names that lead to each other"),
            Self::Hosts => f.write_str("hosts in the ConfigMap kube-system/weft"),
            Self::Special => f.write_str("the same everywhere, and never asked for (RFC 6761)"),
            Self::Rewrite => f.write_str("rewrites in the ConfigMap kube-system/weft"),
            Self::Cache { age } => write!(f, "remembered for {age} s"),
            Self::Stale { age } => {
                write!(f, "remembered for {age} s, longer than it is good for: nobody can be asked")
            }
            Self::Upstream { server } => write!(f, "asked of {server}"),
            Self::Nobody { reason } => write!(f, "nobody could be asked: {reason}"),
        }
    }
}
