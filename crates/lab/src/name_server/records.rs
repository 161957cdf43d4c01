//! The records of the host outside: a file of lines `NAME TTL TYPE VALUE`.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    time::SystemTime,
};

use anyhow::{Context, Result, bail};

/// Aliases that are followed at most.
const LONGEST_CHAIN: usize = 8;
/// What a name, a label and a text may have, in bytes.
const LONGEST_NAME: usize = 253;
const LONGEST_LABEL: usize = 63;
const LONGEST_TEXT: usize = 255;

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Data {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Cname(String),
    Txt(String),
}

/// Owner, time to live in seconds, and what it says.
pub(super) type Record = (String, u32, Data);

/// What there is of a name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Aliases first, in order.
    Records(Vec<Record>),
    /// It is there, or has names below it, but no such record.
    Nothing,
    NoSuchName,
}

/// The records, as the file says them.
pub(super) struct Records {
    path: PathBuf,
    /// When the file was last written, and how long it is, as far as it was read.
    seen: Option<(SystemTime, u64)>,
    by_name: BTreeMap<String, Vec<(u32, Data)>>,
}

impl Data {
    /// Number of its type.
    pub(super) fn kind(&self) -> u16 {
        match self {
            Data::A(_) => 1,
            Data::Cname(_) => 5,
            Data::Txt(_) => 16,
            Data::Aaaa(_) => 28,
        }
    }
}

/// `A`, `AAAA`, and so on; a number for what this server has none of.
pub(super) fn kind_name(kind: u16) -> String {
    match kind {
        1 => "A".into(),
        2 => "NS".into(),
        5 => "CNAME".into(),
        6 => "SOA".into(),
        12 => "PTR".into(),
        13 => "HINFO".into(),
        15 => "MX".into(),
        16 => "TXT".into(),
        28 => "AAAA".into(),
        33 => "SRV".into(),
        65 => "HTTPS".into(),
        other => format!("TYPE{other}"),
    }
}

impl Records {
    /// The records of a file, read again whenever it has changed.
    pub(super) fn follow(path: PathBuf) -> Records {
        let mut records = Records { path, seen: None, by_name: BTreeMap::new() };
        records.refresh();
        records
    }

    /// What there is of a name (lower case, no final dot), aliases followed.
    pub(super) fn find(&mut self, name: &str, kind: u16) -> Found {
        self.refresh();
        if !self.exists(name) {
            return Found::NoSuchName;
        }
        let mut found = Vec::new();
        let mut owner = name.to_owned();
        for _ in 0..LONGEST_CHAIN {
            let records = self.by_name.get(&owner).map(Vec::as_slice).unwrap_or_default();
            let of_kind = records.iter().filter(|(_, data)| data.kind() == kind);
            found.extend(of_kind.map(|(ttl, data)| (owner.clone(), *ttl, data.clone())));
            let alias = records.iter().find_map(|(ttl, data)| match data {
                Data::Cname(target) if data.kind() != kind => Some((*ttl, target.clone())),
                _ => None,
            });
            let Some((ttl, target)) = alias else { break };
            found.push((owner, ttl, Data::Cname(target.clone())));
            owner = target;
        }
        if found.is_empty() { Found::Nothing } else { Found::Records(found) }
    }

    /// It has records, or a name below it has.
    fn exists(&self, name: &str) -> bool {
        let below = format!(".{name}");
        self.by_name.contains_key(name) || self.by_name.keys().any(|known| known.ends_with(&below))
    }

    /// A file that is wrong somewhere changes nothing, and is said to be.
    fn refresh(&mut self) {
        let now = fs::metadata(&self.path).and_then(|meta| Ok((meta.modified()?, meta.len())));
        let Ok(now) =
            now.inspect_err(|error| tracing::warn!(file = %self.path.display(), %error, "no records"))
        else {
            return;
        };
        if self.seen == Some(now) {
            return;
        }
        self.seen = Some(now);
        let read = fs::read_to_string(&self.path).context("read").and_then(|text| parse(&text));
        match read {
            Ok(records) => self.by_name = records,
            Err(error) => {
                let error = format!("{error:#}");
                tracing::warn!(file = %self.path.display(), error, "the records of the host outside stay as they were");
            }
        }
    }
}

fn parse(text: &str) -> Result<BTreeMap<String, Vec<(u32, Data)>>> {
    let mut by_name: BTreeMap<String, Vec<(u32, Data)>> = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        let (name, ttl, data) = record(line).with_context(|| format!("line {}: {line}", index + 1))?;
        by_name.entry(name).or_default().push((ttl, data));
    }
    Ok(by_name)
}

fn record(line: &str) -> Result<Record> {
    let mut words = line.splitn(4, char::is_whitespace);
    let (Some(owner), Some(ttl), Some(kind), Some(value)) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        bail!("a record is NAME TTL TYPE VALUE");
    };
    let value = value.trim();
    let data = match kind {
        "A" => Data::A(value.parse().context("an A record has an IPv4 address")?),
        "AAAA" => Data::Aaaa(value.parse().context("an AAAA record has an IPv6 address")?),
        "CNAME" => Data::Cname(name(value)?),
        "TXT" if value.len() <= LONGEST_TEXT => Data::Txt(value.to_owned()),
        "TXT" => bail!("a text has {LONGEST_TEXT} bytes at most"),
        _ => bail!("a record is A, AAAA, CNAME or TXT, not {kind}"),
    };
    Ok((name(owner)?, ttl.parse().context("the time to live is a number of seconds")?, data))
}

fn name(text: &str) -> Result<String> {
    let name = text.trim_end_matches('.').to_ascii_lowercase();
    let fits = |label: &str| !label.is_empty() && label.len() <= LONGEST_LABEL;
    if name.len() > LONGEST_NAME || !name.split('.').all(fits) {
        bail!("{text} is no name");
    }
    Ok(name)
}
