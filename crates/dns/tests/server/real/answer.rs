//! Questions as the table writes them, and answers on a line.
//!
//! A question's name may have before a colon how it is asked: `tcp`, `plain` (no EDNS), `edns512` (so much is taken), `do`,
//! `norecursion`, `edns1` (a version that is not there). Otherwise it is asked over UDP with room for 1,232 octets, more over TCP.
//!
//! An answer is its code, `aa` and `tc`, then `soa` if the authority section has one, then its records, sorted; those of the
//! additional section after a second bar. A record's name is told where it is not the question's. Weights of SRV records are told where
//! they are not all alike. `outside` is what the world's DNS answers: that there is no such name.

use std::net::SocketAddr;

use hickory_proto::{
    op::{Edns, Message, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType},
};

use crate::support::{Client, question};

pub struct Asker {
    client: Client,
}

impl Asker {
    pub fn new(server: SocketAddr) -> Asker {
        Asker { client: Client::new("127.0.0.1", server) }
    }

    pub fn ask(&self, name: &str, kind: &str) -> String {
        let (how, name) = name.split_once(": ").unwrap_or(("", name));
        let mut message = question("x", "A");
        let kind = kind
            .strip_prefix("TYPE")
            .map_or_else(|| kind.parse().unwrap(), |number| RecordType::from(number.parse::<u16>().unwrap()));
        let mut query = Query::query(read(name), kind);
        query.name.set_fqdn(true);
        message.queries = vec![query];
        message.metadata.recursion_desired = how != "norecursion";
        let size = match how {
            "plain" => None,
            "edns1" => Some(1232),
            how => Some(how.strip_prefix("edns").map_or(1232, |size| size.parse().unwrap())),
        };
        if let Some(size) = size {
            let mut edns = Edns::new();
            edns.set_max_payload(size);
            edns.set_dnssec_ok(how == "do");
            edns.set_version(u8::from(how == "edns1"));
            message.set_edns(edns);
        }
        let answer = match how {
            "tcp" => self.client.connect().exchange(&message),
            _ => self.client.exchange(&message),
        };
        // What has no room is told by the other way, unless it is the question whether it has.
        let answer = match how {
            "" if answer.metadata.truncation => self.client.connect().exchange(&message),
            _ => answer,
        };
        told(&message, &answer)
    }
}

/// A name of whatever letters.
fn read(name: &str) -> Name {
    if name == "." { Name::root() } else { Name::from_labels(name.split('.').map(str::as_bytes)).unwrap() }
}

fn told(question: &Message, answer: &Message) -> String {
    let mut text = answer.metadata.response_code.to_str().to_owned();
    text = match text.as_str() {
        "No Error" => "NOERROR".to_owned(),
        "Non-Existent Domain" => "NXDOMAIN".to_owned(),
        _ => text,
    };
    for (flag, word) in [(answer.metadata.authoritative, " aa"), (answer.metadata.truncation, " tc")] {
        text.push_str(if flag { word } else { "" });
    }
    if answer.authorities.iter().any(|record| record.record_type() == RecordType::SOA) {
        text.push_str(" soa");
    }
    let asked = &question.queries[0].name;
    if answer.metadata.response_code == ResponseCode::NXDomain
        && answer.authorities.is_empty()
        && answer.answers.is_empty()
    {
        return "outside".to_owned();
    }
    // Of a cut answer it is by chance which records are left.
    if answer.metadata.truncation {
        return text;
    }
    let mut weights = answer.answers.iter().filter_map(|record| match &record.data {
        RData::SRV(srv) => Some(srv.weight),
        _ => None,
    });
    let first = weights.next();
    let alike = weights.all(|weight| Some(weight) == first);
    let mut bar = |records: &[Record], exact: bool| {
        let records = records.iter().filter(|record| record.record_type() != RecordType::OPT);
        let mut lines: Vec<String> = records.map(|one| line(one, asked, exact, alike)).collect();
        lines.sort();
        if !lines.is_empty() {
            text.push_str(" | ");
            text.push_str(&lines.join(", "));
        }
    };
    bar(&answer.answers, true);
    bar(&answer.additionals, false);
    text
}

/// A record; `exact`: its name must be the question's letter for letter, since clients that mix the case look for that.
fn line(record: &Record, asked: &Name, exact: bool, alike: bool) -> String {
    let (owner, asked) = (record.name.to_ascii(), asked.to_ascii());
    let owner = match () {
        () if owner == asked || (!exact && owner.eq_ignore_ascii_case(&asked)) => String::new(),
        () if owner.eq_ignore_ascii_case(&asked) => format!("{owner} "),
        () => format!("{} ", owner.to_lowercase()),
    };
    let data = match &record.data {
        RData::SOA(soa) => soa.mname.to_string(),
        RData::SRV(srv) if alike => format!("{} {} {}", srv.priority, srv.port, srv.target),
        data => data.to_string(),
    };
    format!("{owner}{} {}", record.record_type(), data.to_lowercase().trim_end())
}
