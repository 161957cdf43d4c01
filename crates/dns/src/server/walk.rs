//! Answers that take more than one look: aliases, and the search walk answered at its first step.
//!
//! A Pod that looks for `api.example.com` asks for `api.example.com.default.svc.cluster.local` first, then for two more
//! names of the cluster and those of its node's domains, and only then for what it meant. Since the Pod's namespace is
//! known by its address, the first question gives the rest away, and is answered with an alias to the name that the walk
//! would have ended at. Where clients differ in how they go on, the first question gets its own answer and no more.

use std::net::IpAddr;

use hickory_proto::op::ResponseCode;
use weft_model::dns::{Found, Name};

use super::{
    answer::{Answer, write_everything},
    clients::Search,
    core::Core,
    outside,
    query::{Query, code, flag, kind},
    writer::{Section, Writer},
};
use crate::question::Reply;

/// What a question leads to.
#[derive(Debug)]
pub struct Chain {
    /// From one name to the next; the first is the question's.
    pub links: Vec<Link>,
    /// What is at their end.
    pub end: End,
    /// The first link is a search, answered.
    pub is_walk: bool,
}

/// One name is another.
#[derive(Debug)]
pub struct Link {
    /// The other.
    pub to: Name,
    /// The zone says so, or a search, or else others.
    pub said: Option<Reply>,
}

/// What is at the end of the links, or at the name itself.
#[derive(Debug)]
pub enum End {
    /// The zone says.
    Zone,
    /// Others said.
    Reply(Reply),
    /// A search came to this name, which has no records of the type asked. It is answered as a name without such records,
    /// because an alias to one would count as an answer for some clients (glibc), and as none for others.
    SearchEmpty(Box<Name>),
    /// The links lead nowhere.
    Loop,
}

/// What a step of a walk comes to.
enum Step {
    Found,
    Empty,
    Missing,
    Failed,
}

/// Links that are followed: more are taken for a loop.
const MOST_LINKS: usize = 8;
/// Enough to see whether there is an answer.
const PROBE: usize = 512;

/// The name may be the first step of this client's search.
pub fn may_be_step(core: &Core, query: &Query<'_>, client: IpAddr) -> bool {
    core.clients.search(client).is_some_and(|search| meant(&search, &query.name).is_some())
}

/// Finds the answer: what the zone or others have for the name, else what the client's search would find.
pub async fn resolve(core: &Core, query: &Query<'_>, client: IpAddr) -> Chain {
    let signed = query.edns.is_some_and(|edns| edns.dnssec_ok);
    if query.kind == kind::ANY {
        // Whether the name exists is all that others need to be asked: the answer has no more records than one (RFC 8482).
        return follow(core, &query.name, kind::A, signed).await;
    }
    let own = follow(core, &query.name, query.kind, signed).await;
    let is_missing = own.links.is_empty() && matches!(own.end, End::Zone) && is_missing(core, &query.name);
    // Who asks for an alias would take the one that stands for the walk for it.
    if !core.settings.load().walk || !is_missing || query.kind == kind::CNAME {
        return own;
    }
    let Some(search) = core.clients.search(client) else { return own };
    let Some(meant) = meant(&search, &query.name) else { return own };
    walk(core, &search, &meant, query.kind, signed).await.unwrap_or(own)
}

/// What a client with this search means when it asks for `name` as the first step.
pub fn meant(search: &Search, name: &Name) -> Option<Name> {
    let labels = name.depth_under(search.domains.first()?)?;
    // With more dots, the name as it is was the first step and has failed.
    (1..=search.ndots).contains(&labels).then(|| name.first(labels))
}

/// The remaining steps of a walk. `None` when nothing is found, or when clients differ in what they would do.
async fn walk(core: &Core, search: &Search, meant: &Name, kind: u16, signed: bool) -> Option<Chain> {
    let domains = search.domains.iter().skip(1).map(Some).chain([None]);
    for domain in domains {
        let name = match domain.map(|domain| meant.under(domain)) {
            Some(Ok(name)) => name,
            // Too long for a name: clients leave it out.
            Some(Err(_)) => continue,
            None => meant.clone(),
        };
        let mut chain = follow(core, &name, kind, signed).await;
        match chain.step(core, &name, kind) {
            Step::Missing => continue,
            // glibc goes on after such a step, musl does not.
            Step::Empty if domain.is_some() => return None,
            // musl stops here and says that there are no such records; glibc takes the remaining steps and says the same.
            Step::Empty => {
                return Some(Chain {
                    links: Vec::new(),
                    end: End::SearchEmpty(Box::new(name)),
                    is_walk: true,
                });
            }
            // musl stops at a failure, glibc goes on after it: told of it at the first step, each ends as it would have.
            Step::Failed | Step::Found => {
                chain.links.insert(0, Link { to: name, said: None });
                chain.is_walk = true;
                return Some(chain);
            }
        }
    }
    None
}

/// Follows aliases of the zone and into it, and asks others for names that are not of the zone.
async fn follow(core: &Core, name: &Name, kind: u16, signed: bool) -> Chain {
    let mut links: Vec<Link> = Vec::new();
    let done = |links, end| Chain { links, end, is_walk: false };
    loop {
        let last = links.last().map_or(name, |link| &link.to);
        let target = match core.zone().look_up(last).found {
            Found::Alias(_, _) if kind == kind::CNAME => return done(links, End::Zone),
            Found::Alias(_, target) => Some(target.clone()),
            Found::Elsewhere => None,
            _ => return done(links, End::Zone),
        };
        let link = match target {
            Some(to) => Link { to, said: None },
            None => {
                let reply = outside::ask(core, last, kind, signed).await;
                match outside::leads_to(&reply, kind).filter(|to| is_ours(core, to)) {
                    Some(to) => Link { to, said: Some(reply) },
                    None => return done(links, End::Reply(reply)),
                }
            }
        };
        if links.len() == MOST_LINKS {
            return done(links, End::Loop);
        }
        links.push(link);
    }
}

/// It is for the zone to say what the name is.
fn is_ours(core: &Core, name: &Name) -> bool {
    !matches!(core.zone().look_up(name).found, Found::Elsewhere)
}

fn is_missing(core: &Core, name: &Name) -> bool {
    matches!(core.zone().look_up(name).found, Found::Missing)
}

// === impl Chain ===

impl Chain {
    /// Writes the answer to `query`.
    pub fn write(&self, core: &Core, query: &Query<'_>, turn: usize, writer: &mut Writer<'_>) {
        if self.has_failed() {
            writer.set_code(code::SERVER_FAILURE);
            return;
        }
        let settings = core.settings.load();
        if query.kind == kind::ANY && self.is_there() {
            let _fits = write_everything(&query.name, settings.ttl, writer);
            return;
        }
        let is_ours = self.links.first().is_some_and(|link| link.said.is_none());
        if is_ours {
            writer.set_flag(flag::AUTHORITATIVE);
        }
        let own = settings.ttl;
        let ttl = match &self.end {
            End::Reply(reply) => reply.answers.iter().map(|one| one.ttl).fold(own, u32::min),
            End::Zone | End::SearchEmpty(_) | End::Loop => own,
        };
        let mut owner = &query.name;
        for link in &self.links {
            let written = match &link.said {
                Some(reply) => outside::write_answers(reply, writer),
                None => writer.alias(owner, ttl, &link.to),
            };
            if written.is_err() {
                writer.set_flag(flag::TRUNCATED);
                return;
            }
            owner = &link.to;
        }
        match &self.end {
            End::Reply(reply) => outside::write(reply, writer),
            End::SearchEmpty(_) => {
                writer.set_flag(flag::AUTHORITATIVE);
                let zone = core.zone();
                Answer { zone: &zone, settings: &settings, name: &query.name, kind: query.kind, turn }
                    .write_empty(writer);
            }
            End::Zone | End::Loop => self.write_zone(core, owner, query.kind, turn, writer),
        }
    }

    fn write_zone(&self, core: &Core, name: &Name, kind: u16, turn: usize, writer: &mut Writer<'_>) {
        let (zone, settings) = (core.zone(), core.settings.load());
        let look_up = zone.look_up(name);
        Answer { zone: &zone, settings: &settings, name, kind, turn }.write(&look_up, writer);
    }

    fn has_failed(&self) -> bool {
        match &self.end {
            End::Loop => true,
            End::Zone | End::SearchEmpty(_) => false,
            End::Reply(reply) => !matches!(reply.code, ResponseCode::NoError | ResponseCode::NXDomain),
        }
    }

    /// Others said of the question's name that it exists: it has records or is an alias, whatever that leads to (RFC 6604).
    fn is_there(&self) -> bool {
        match &self.end {
            _ if !self.links.is_empty() => true,
            End::Reply(reply) => reply.code != ResponseCode::NXDomain || !reply.answers.is_empty(),
            End::Zone | End::SearchEmpty(_) | End::Loop => false,
        }
    }

    /// Others said that the name at the end does not exist.
    fn is_missing(&self) -> bool {
        matches!(&self.end, End::Reply(reply) if reply.code == ResponseCode::NXDomain)
    }

    /// What it comes to as the step of a walk that `name` is.
    fn step(&self, core: &Core, name: &Name, kind: u16) -> Step {
        match &self.end {
            _ if self.has_failed() => Step::Failed,
            _ if self.is_missing() => Step::Missing,
            End::Reply(reply) if reply.answers.iter().any(|one| u16::from(one.record_type()) == kind) => {
                Step::Found
            }
            End::Reply(_) | End::SearchEmpty(_) | End::Loop => Step::Empty,
            End::Zone => self.step_in_zone(core, self.links.last().map_or(name, |link| &link.to), kind),
        }
    }

    fn step_in_zone(&self, core: &Core, name: &Name, kind: u16) -> Step {
        match core.zone().look_up(name).found {
            Found::Missing => return Step::Missing,
            Found::NotSynced => return Step::Failed,
            _ => {}
        }
        let query = Query {
            header: Default::default(),
            name: name.clone(),
            question: &[],
            kind,
            class: 1,
            edns: None,
        };
        let mut probe = [0; PROBE];
        let Ok(mut writer) = Writer::new(&query, &mut probe) else { return Step::Failed };
        self.write_zone(core, name, kind, 0, &mut writer);
        if writer.count(Section::Answer) > 0 { Step::Found } else { Step::Empty }
    }
}
