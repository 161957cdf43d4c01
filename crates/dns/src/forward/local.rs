//! What is answered without asking anybody: configured names, and those that stand for no host (RFC 6761, 7686).

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use hickory_proto::{
    op::ResponseCode,
    rr::{
        Name, RData, Record, RecordType,
        rdata::{CNAME, PTR},
    },
};

use crate::{
    question::{Origin, Question, Reply},
    settings::{HostName, Rewrite, Settings},
};

/// How long it is good that there is no such name, where that will never change, in seconds.
const FOREVER: u32 = 86_400;

/// Names that need nobody.
pub(super) struct Local {
    exact: HashMap<Name, Vec<IpAddr>>,
    below: BTreeMap<Name, Vec<IpAddr>>,
    reverse: HashMap<Name, Vec<Name>>,
    rewrites: Vec<Rewrite>,
    ttl: u32,
}

// === impl Local ===

impl Local {
    pub(super) fn new(settings: &Settings) -> Self {
        let mut local = Self {
            exact: HashMap::new(),
            below: BTreeMap::new(),
            reverse: HashMap::new(),
            rewrites: settings.rewrites.clone(),
            ttl: settings.ttl.0,
        };
        for (name, addresses) in &settings.hosts {
            match name {
                HostName::Exact(name) => {
                    local.exact.insert(name.name().clone(), addresses.clone());
                    for address in addresses {
                        let names = local.reverse.entry(Name::from(*address)).or_default();
                        names.push(name.name().clone());
                    }
                }
                HostName::Below(domain) => drop(local.below.insert(domain.name().clone(), addresses.clone())),
            }
        }
        local
    }

    /// The names and addresses that are configured.
    pub(super) fn len(&self) -> usize {
        self.exact.len() + self.below.len()
    }

    /// What a name stands for.
    pub(super) fn rewritten(&self, name: &Name) -> Option<Name> {
        self.rewrites.iter().find_map(|rewrite| match rewrite {
            Rewrite::Name { from, to } => (from.name() == name).then(|| to.name().clone()),
            Rewrite::Suffix { from, to } if from.contains(name) => {
                let kept = name.num_labels().saturating_sub(from.name().num_labels());
                let labels = Name::from_labels(name.iter().take(kept.into())).ok()?;
                // Too long a name stands for nothing.
                labels.append_domain(to.name()).ok()
            }
            Rewrite::Suffix { .. } => None,
        })
    }

    /// The record that says what a name stands for.
    pub(super) fn alias(&self, from: Name, to: Name) -> Record {
        Record::from_rdata(from, self.ttl, RData::CNAME(CNAME(to)))
    }

    /// The answer, if nobody needs to be asked.
    pub(super) fn answer(&self, question: &Question) -> Option<Reply> {
        self.host(question).or_else(|| special(question))
    }

    fn host(&self, question: &Question) -> Option<Reply> {
        if question.kind == RecordType::PTR
            && let Some(names) = self.reverse.get(&question.name)
        {
            let record = |name: &Name| {
                Record::from_rdata(question.name.clone(), self.ttl, RData::PTR(PTR(name.clone())))
            };
            return Some(reply(ResponseCode::NoError, names.iter().map(record).collect(), Origin::Hosts));
        }
        let addresses = self.exact.get(&question.name).or_else(|| self.wildcard(&question.name))?;
        // A configured name is configured as a whole: it has no records of other types.
        Some(reply(ResponseCode::NoError, records(question, addresses, self.ttl), Origin::Hosts))
    }

    /// The addresses of the closest domain that has some for every name below it.
    fn wildcard(&self, name: &Name) -> Option<&Vec<IpAddr>> {
        if self.below.is_empty() {
            return None;
        }
        let labels = usize::from(name.num_labels());
        (0..labels).rev().find_map(|kept| self.below.get(&name.trim_to(kept)))
    }
}

fn records(question: &Question, addresses: &[IpAddr], ttl: u32) -> Vec<Record> {
    let of_type = addresses.iter().filter_map(|address| match (address, question.kind) {
        (IpAddr::V4(v4), RecordType::A) => Some(RData::A((*v4).into())),
        (IpAddr::V6(v6), RecordType::AAAA) => Some(RData::AAAA((*v6).into())),
        _ => None,
    });
    of_type.map(|data| Record::from_rdata(question.name.clone(), ttl, data)).collect()
}

fn reply(code: ResponseCode, answers: Vec<Record>, origin: Origin) -> Reply {
    Reply { code, answers, authorities: Vec::new(), origin }
}

/// Names that are the same everywhere, and must not be asked for: `localhost`, `invalid`, `onion`.
fn special(question: &Question) -> Option<Reply> {
    let top = question.name.iter().next_back()?;
    match top {
        b"localhost" => {
            let addresses = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
            Some(reply(ResponseCode::NoError, records(question, &addresses, FOREVER), Origin::Special))
        }
        b"invalid" | b"onion" => Some(reply(ResponseCode::NXDomain, Vec::new(), Origin::Special)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(yaml: &str) -> Local {
        Local::new(&yaml.parse().unwrap())
    }

    fn ask(local: &Local, name: &str, kind: RecordType) -> Option<(ResponseCode, Vec<String>)> {
        let reply = local.answer(&Question { name: Name::from_ascii(name).unwrap(), kind, signed: false })?;
        Some((reply.code, reply.answers.iter().map(|record| record.data.to_string()).collect()))
    }

    #[test]
    fn a_host_has_its_addresses_by_family_and_its_name_back() {
        let local = local("hosts: {db.example.com: [192.0.2.7, '2001:db8::7']}");
        let fine =
            |data: &[&str]| Some((ResponseCode::NoError, data.iter().map(ToString::to_string).collect()));
        assert_eq!(ask(&local, "db.example.com.", RecordType::A), fine(&["192.0.2.7"]));
        assert_eq!(ask(&local, "db.example.com.", RecordType::AAAA), fine(&["2001:db8::7"]));
        assert_eq!(ask(&local, "db.example.com.", RecordType::MX), fine(&[]));
        assert_eq!(ask(&local, "7.2.0.192.in-addr.arpa.", RecordType::PTR), fine(&["db.example.com."]));
        assert_eq!(ask(&local, "example.com.", RecordType::A), None);
        assert_eq!(ask(&local, "x.db.example.com.", RecordType::A), None);
    }

    #[test]
    fn a_wildcard_is_for_what_is_below_it_and_not_named_itself() {
        let local = local(
            "hosts: {'*.example.com': [192.0.2.1], '*.b.example.com': [192.0.2.2], a.example.com: [192.0.2.3]}",
        );
        let address = |name| ask(&local, name, RecordType::A).map(|(_, data)| data.join(" "));
        assert_eq!(address("x.example.com."), Some("192.0.2.1".to_owned()));
        assert_eq!(address("x.y.example.com."), Some("192.0.2.1".to_owned()));
        assert_eq!(address("x.b.example.com."), Some("192.0.2.2".to_owned()));
        assert_eq!(address("a.example.com."), Some("192.0.2.3".to_owned()));
        assert_eq!(address("example.com."), None);
    }

    #[test]
    fn the_first_rewrite_that_fits_counts() {
        let local = local(
            "rewrites: [{name: a.old.example, to: one.example}, {suffix: old.example, to: new.example}]",
        );
        let to = |name: &str| local.rewritten(&Name::from_ascii(name).unwrap()).map(|name| name.to_string());
        assert_eq!(to("a.old.example.").as_deref(), Some("one.example."));
        assert_eq!(to("x.y.old.example.").as_deref(), Some("x.y.new.example."));
        assert_eq!(to("old.example.").as_deref(), Some("new.example."));
        assert_eq!(to("cold.example."), None);
    }

    #[test]
    fn names_that_stand_for_no_host_are_not_asked_for() {
        let local = local("");
        assert_eq!(ask(&local, "localhost.", RecordType::A).unwrap().1, ["127.0.0.1"]);
        assert_eq!(ask(&local, "a.localhost.", RecordType::AAAA).unwrap().1, ["::1"]);
        assert_eq!(ask(&local, "a.invalid.", RecordType::A).unwrap().0, ResponseCode::NXDomain);
        assert_eq!(ask(&local, "a.onion.", RecordType::A).unwrap().0, ResponseCode::NXDomain);
    }
}
