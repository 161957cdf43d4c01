//! What the cluster's administrator sets: the key `dns` of the ConfigMap `kube-system/weft`.
//!
//! ```yaml
//! ttl: 5                      # of the cluster's own names, in seconds
//! negativeTtl: 5              # of "there is no such name" in the cluster
//! podRecords: true            # a-b-c-d.<namespace>.pod.<zone>
//! searchWalk: true            # a Pod's search list is walked for it, at its first question
//! allowFrom: [203.0.113.0/24]
//! limits: {queriesPerClient: 20000, forwardedPerClient: 256, connectionsPerClient: 64}     # a second; at a time
//! upstreams: [192.0.2.53, 'tcp://[2001:db8::53]:5353']     # without it: those of the node's resolv.conf
//! stubDomains:
//!   corp.example: [10.1.0.53, 10.1.0.54:5353]
//! hosts:
//!   db.example.com: [192.0.2.7, '2001:db8::7']
//!   '*.apps.example.com': [192.0.2.8]
//! rewrites:
//!   - {name: old.example.com, to: web.shop.svc.cluster.local}
//!   - {suffix: old.example, to: new.example}              # a.old.example is asked as a.new.example
//! timeout: 2s                 # after which a client is told that nobody answered
//! cache: {bytes: 16777216, maxTtl: 1h, maxNegativeTtl: 30m, staleFor: 1d, prefetch: true}
//! ```
//!
//! A configuration that is wrong changes nothing.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use hickory_proto::rr::Name;
use ipnet::IpNet;
use serde::Deserialize;

/// What is wrong with the settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ConfigMap kube-system/weft, key dns: {0}")]
pub struct SettingsError(String);

/// How the cluster's DNS is to work.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// TTL of the cluster's own names and of `hosts`, in seconds.
    pub ttl: Ttl,
    /// TTL of what is not there in the cluster, in seconds.
    pub negative_ttl: Ttl,
    /// Names made of Pods' addresses are answered.
    pub pod_records: bool,
    /// A Pod's search list is walked for it.
    pub search_walk: bool,
    /// How much one client may have of what all share.
    pub limits: ClientLimits,
    /// Who is answered beside the cluster's Pods and nodes.
    pub allow_from: Vec<IpNet>,
    /// Whom to ask what is nobody else's; empty: the name servers of the node's resolv.conf.
    pub upstreams: Vec<ServerAddress>,
    /// Whom to ask for these domains and what is below them; the longest that fits counts.
    pub stub_domains: BTreeMap<Domain, Vec<ServerAddress>>,
    /// Addresses of names.
    pub hosts: BTreeMap<HostName, Vec<IpAddr>>,
    /// Names that stand for others; the first that fits counts.
    pub rewrites: Vec<Rewrite>,
    /// The longest that a client waits for others, time-outs included.
    #[serde(deserialize_with = "duration")]
    pub timeout: Duration,
    /// What is remembered.
    pub cache: CacheSettings,
}

/// How much one client may have of what all share.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ClientLimits {
    /// Questions a second over UDP.
    pub queries_per_client: u32,
    /// Questions that others are being asked for, at a time.
    pub forwarded_per_client: usize,
    /// TCP connections, at a time.
    pub connections_per_client: usize,
}

/// What is remembered, and for how long.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CacheSettings {
    /// About so much memory, in bytes.
    pub bytes: usize,
    /// The longest that an answer is good for, whatever its TTL.
    #[serde(deserialize_with = "duration")]
    pub max_ttl: Duration,
    /// The longest that "there is none" is good for (RFC 2308, section 5).
    #[serde(deserialize_with = "duration")]
    pub max_negative_ttl: Duration,
    /// What nobody can be asked for is answered for so long after its time (RFC 8767); zero: not at all.
    #[serde(deserialize_with = "duration")]
    pub stale_for: Duration,
    /// What is asked often is fetched again before its time is over.
    pub prefetch: bool,
}

/// A time to live, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Ttl(pub u32);

/// A DNS server: UDP, and TCP for what is too large, or TCP alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct ServerAddress {
    /// Where it is.
    pub address: SocketAddr,
    /// It is asked over TCP only.
    pub tcp: bool,
}

/// A domain, in lower case, fully qualified.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Domain(Name);

/// A name, or all names below a domain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub enum HostName {
    /// This name.
    Exact(Domain),
    /// `*.domain`: every name below it that is not named itself.
    Below(Domain),
}

/// Names that stand for others.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RewriteFields")]
pub enum Rewrite {
    /// This name for that one.
    Name {
        /// As it is asked.
        from: Domain,
        /// What it stands for.
        to: Domain,
    },
    /// Every name below a domain for the same below another.
    Suffix {
        /// As it is asked.
        from: Domain,
        /// What it stands for.
        to: Domain,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RewriteFields {
    name: Option<Domain>,
    suffix: Option<Domain>,
    to: Domain,
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self {
            ttl: Ttl(5),
            negative_ttl: Ttl(5),
            pod_records: true,
            search_walk: true,
            limits: ClientLimits::default(),
            allow_from: Vec::new(),
            upstreams: Vec::new(),
            stub_domains: BTreeMap::new(),
            hosts: BTreeMap::new(),
            rewrites: Vec::new(),
            timeout: Duration::from_secs(2),
            cache: CacheSettings::default(),
        }
    }
}

impl FromStr for Settings {
    type Err = SettingsError;

    fn from_str(yaml: &str) -> Result<Self, SettingsError> {
        if yaml.trim().is_empty() {
            return Ok(Self::default());
        }
        let settings: Self =
            serde_saphyr::from_str(yaml).map_err(|error| SettingsError(in_one_line(&error, yaml)))?;
        settings.check().map_err(SettingsError)?;
        Ok(settings)
    }
}

impl Settings {
    fn check(&self) -> Result<(), String> {
        if let Some((domain, _)) = self.stub_domains.iter().find(|(_, servers)| servers.is_empty()) {
            return Err(format!("stubDomains: {domain} has no servers: name at least one, or leave it out"));
        }
        if let Some((name, _)) = self.hosts.iter().find(|(_, addresses)| addresses.is_empty()) {
            return Err(format!("hosts: {name} has no addresses: name at least one, or leave it out"));
        }
        if !(Duration::from_millis(100)..=Duration::from_secs(30)).contains(&self.timeout) {
            return Err(format!("timeout: {:?} is not between 100ms and 30s", self.timeout));
        }
        let ClientLimits { queries_per_client, forwarded_per_client, connections_per_client } = self.limits;
        if queries_per_client == 0 || forwarded_per_client == 0 || connections_per_client == 0 {
            return Err("limits: 0 would answer nobody: name a number above it".to_owned());
        }
        Ok(())
    }
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self {
            bytes: 16 << 20,
            max_ttl: Duration::from_secs(3600),
            max_negative_ttl: Duration::from_secs(1800),
            stale_for: Duration::from_secs(86_400),
            prefetch: true,
        }
    }
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self { queries_per_client: 20_000, forwarded_per_client: 256, connections_per_client: 64 }
    }
}

// === impl Ttl ===

impl TryFrom<String> for Ttl {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.trim().parse() {
            Ok(seconds @ 0..=3600) => Ok(Self(seconds)),
            _ => Err(format!("{text:?} is no TTL: write a number of seconds, 3600 at most, as in 5")),
        }
    }
}

// === impl ServerAddress ===

impl From<SocketAddr> for ServerAddress {
    fn from(address: SocketAddr) -> Self {
        Self { address, tcp: false }
    }
}

impl TryFrom<String> for ServerAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (tcp, rest) = match text.split_once("://") {
            None => (false, text.as_str()),
            Some(("tcp", rest)) => (true, rest),
            Some((scheme, _)) => {
                return Err(format!(
                    "{text:?}: {scheme} is not spoken; DNS servers are asked over UDP or tcp://"
                ));
            }
        };
        let address = rest.parse::<SocketAddr>().or_else(|_| {
            let bare = rest.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(rest);
            bare.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53))
        });
        match address {
            Ok(address)
                if address.ip().is_unspecified() || address.ip().is_multicast() || address.port() == 0 =>
            {
                Err(format!("{text:?} is nobody's address"))
            }
            Ok(address) => Ok(Self { address, tcp }),
            Err(_) => Err(format!(
                "{text:?} is no DNS server: write 192.0.2.53, 192.0.2.53:5353 or [2001:db8::53]:53"
            )),
        }
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.tcp { "tcp://" } else { "" }, self.address)
    }
}

// === impl Domain ===

impl Domain {
    /// Its name.
    pub fn name(&self) -> &Name {
        &self.0
    }

    /// The name is the domain's, or below it.
    pub fn contains(&self, name: &Name) -> bool {
        self.0.zone_of(name)
    }
}

impl TryFrom<String> for Domain {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Domain {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = Name::from_ascii(text).map_err(|error| format!("{text:?} is no domain name: {error}"))?;
        if text.is_empty() || name.iter().any(|label| label == b"*") {
            return Err(format!("{text:?} is no domain name: write it as in corp.example"));
        }
        let mut name = name.to_lowercase();
        name.set_fqdn(true);
        Ok(Self(name))
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// === impl HostName ===

impl TryFrom<String> for HostName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.strip_prefix("*.") {
            Some(domain) => domain.parse().map(Self::Below),
            None => text.parse().map(Self::Exact),
        }
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => name.fmt(f),
            Self::Below(domain) => write!(f, "*.{domain}"),
        }
    }
}

// === impl Rewrite ===

impl TryFrom<RewriteFields> for Rewrite {
    type Error = String;

    fn try_from(fields: RewriteFields) -> Result<Self, String> {
        let to = fields.to;
        match (fields.name, fields.suffix) {
            (Some(from), None) if from != to => Ok(Self::Name { from, to }),
            (None, Some(from)) if from.contains(to.name()) || to.contains(from.name()) => Err(format!(
                "{from} and {to} contain each other, so that a name would have no end: choose another domain"
            )),
            (None, Some(from)) => Ok(Self::Suffix { from, to }),
            (Some(from), None) => Err(format!("{from} is rewritten to itself")),
            _ => Err("a rewrite has a name or a suffix, one of both, and a to".to_owned()),
        }
    }
}

/// What is wrong, after the setting's name and line: `dns.cache.maxTtl (line 2): …`.
fn in_one_line(error: &serde_saphyr::Error, yaml: &str) -> String {
    let text = error.without_snippet().to_string();
    let what = text.lines().next().unwrap_or_default();
    let what = what.split(" at line ").next().unwrap_or_default().trim_end_matches(':');
    let Some(line) = error.location().map(|location| location.line()) else { return what.to_owned() };
    let lines = yaml.lines().take(usize::try_from(line).unwrap_or(usize::MAX));
    format!("{} (line {line}): {what}", setting(lines.collect()))
}

/// The name of the setting that the last of these lines is of: its key, and those that it stands below.
fn setting(lines: Vec<&str>) -> String {
    let mut keys: Vec<&str> = Vec::new();
    let mut depth = usize::MAX;
    for line in lines.into_iter().rev() {
        let indented = line.len() - line.trim_start().len();
        let Some((key, _)) = line.trim().split_once(':').filter(|_| indented < depth) else { continue };
        if !key.starts_with(['-', '{', '[', '#']) {
            keys.insert(0, key.trim_matches(['\'', '"']));
            depth = indented;
        }
    }
    ["dns"].into_iter().chain(keys).collect::<Vec<_>>().join(".")
}

/// A number of seconds, or a number with its unit: `500ms`, `2s`, `30m`, `1h`, `1d`.
fn duration<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text).ok_or_else(|| {
        serde::de::Error::custom(format!(
            "{text:?} is no length of time: write it as in 500ms, 2s, 30m, 1h or 1d"
        ))
    })
}

fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let seconds = match unit {
        "ms" => return Some(Duration::from_millis(number)),
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    // Beyond a century nobody means what they wrote, and sums of times must not overflow.
    number.checked_mul(seconds).filter(|seconds| *seconds < 3_200_000_000).map(Duration::from_secs)
}

#[cfg(test)]
mod tests;
