//! The network configuration, as the agent reads it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::plugin::{Call, Failure, SpecVersion, call::is_identifier, code};

/// A network configuration that a runtime passed on stdin.
#[derive(Clone, Debug, PartialEq)]
pub struct NetConf {
    /// The version that the result is to have.
    pub version: SpecVersion,
    /// The network's name.
    pub name: String,
    /// `runtimeConfig` as it came, for [`NetConf::runtime`]: only ADD needs it, and nothing in it keeps DEL from its work.
    runtime: Value,
    /// The result of the plugin before this one, or with CHECK and DEL, of ADD.
    pub previous: Option<Value>,
    /// GC: what is still in use. `None` when the runtime did not say.
    pub valid_attachments: Option<Vec<Attachment>>,
    /// GC is to do nothing: other runtimes use this network too.
    pub disable_gc: bool,
}

/// `runtimeConfig`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RuntimeConfig {
    /// Ports of the node that lead to the container.
    #[serde(deserialize_with = "absent_as_default")]
    pub port_mappings: Vec<PortMapping>,
    /// Limits on its traffic.
    pub bandwidth: Option<Bandwidth>,
}

/// One entry of the capability `portMappings`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// The node's port.
    #[serde(default, deserialize_with = "absent_as_default")]
    pub host_port: u16,
    /// The container's port.
    #[serde(default, deserialize_with = "absent_as_default")]
    pub container_port: u16,
    /// `tcp`, `udp` or `sctp`
    #[serde(default)]
    pub protocol: Protocol,
    /// The node's address; all of them when absent, empty or unspecified.
    #[serde(rename = "hostIP", default, deserialize_with = "address_or_any")]
    pub host_ip: Option<IpAddr>,
}

/// The protocol of a port mapping, written in small letters, read in any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP
    #[default]
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

/// The capability `bandwidth`: rates in bits per second, bursts in bits; 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Bandwidth {
    /// Towards the container.
    #[serde(deserialize_with = "absent_as_default")]
    pub ingress_rate: u64,
    /// Towards the container.
    #[serde(deserialize_with = "absent_as_default")]
    pub ingress_burst: u64,
    /// From the container.
    #[serde(deserialize_with = "absent_as_default")]
    pub egress_rate: u64,
    /// From the container.
    #[serde(deserialize_with = "absent_as_default")]
    pub egress_burst: u64,
}

/// A container's interface, as GC names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
pub struct Attachment {
    /// `CNI_CONTAINERID` of its ADD.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// `CNI_IFNAME` of its ADD.
    pub ifname: String,
}

/// The pairs of `CNI_ARGS` that Kubernetes' runtimes set; others are passed over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args {
    /// `K8S_POD_NAMESPACE`
    pub pod_namespace: Option<String>,
    /// `K8S_POD_NAME`
    pub pod_name: Option<String>,
    /// `K8S_POD_UID`
    pub pod_uid: Option<String>,
}

/// The configuration's keys that are read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    cni_version: Option<String>,
    #[serde(default)]
    name: String,
    #[serde(default)]
    runtime_config: Value,
    prev_result: Option<Value>,
    #[serde(rename = "cni.dev/valid-attachments")]
    valid_attachments: Option<Vec<Attachment>>,
    /// What a draft of 1.1.0 called it.
    #[serde(rename = "cni.dev/attachments")]
    draft_attachments: Option<Vec<Attachment>>,
    #[serde(rename = "disableGC", default)]
    disable_gc: Option<bool>,
}

// === impl NetConf ===

impl NetConf {
    /// Reads the configuration of a call.
    ///
    /// # Errors
    /// Code 6 when it is not JSON, 7 when a key has the wrong type or the name is missing, 1 for an unknown version.
    pub fn parse(config: &str) -> Result<Self, Failure> {
        let raw: Raw = serde_json::from_str(config).map_err(|error| match error.classify() {
            serde_json::error::Category::Data => wrong(error.to_string()),
            _ => Failure::new(code::DECODE, "the network configuration is not JSON", error.to_string()),
        })?;
        let version = SpecVersion::parse(raw.cni_version.as_deref())?;
        if raw.name.is_empty() {
            return Err(wrong("the network's name is missing (key \"name\")".to_owned()));
        }
        if !is_identifier(&raw.name) {
            return Err(wrong(format!(
                "name {:?} must begin with a letter or digit and hold only those, '_', '.' and '-'",
                raw.name
            )));
        }
        if raw.prev_result.as_ref().is_some_and(|previous| !previous.is_object()) {
            return Err(wrong("prevResult is not an object".to_owned()));
        }
        Ok(Self {
            version,
            name: raw.name,
            runtime: raw.runtime_config,
            previous: raw.prev_result,
            valid_attachments: raw.valid_attachments.or(raw.draft_attachments),
            disable_gc: raw.disable_gc.unwrap_or_default(),
        })
    }

    /// What the runtime asks for by the capabilities that the configuration declares. Names are read without case, as Go reads
    /// them: containerd writes its own fields' names.
    ///
    /// # Errors
    /// Code 7 when it asks for something that cannot be, or for too much.
    pub fn runtime(&self) -> Result<RuntimeConfig, Failure> {
        let runtime: Option<RuntimeConfig> = serde_json::from_value(as_go_reads(self.runtime.clone()))
            .map_err(|error| wrong(format!("runtimeConfig: {error}")))?;
        let runtime = runtime.unwrap_or_default();
        let mappings = &runtime.port_mappings;
        if mappings.len() > MAX_PORT_MAPPINGS {
            return Err(wrong(format!(
                "portMappings: {} entries; a container may have {MAX_PORT_MAPPINGS} at most",
                mappings.len()
            )));
        }
        if let Some(port) = mappings.iter().find(|port| port.host_port == 0 || port.container_port == 0) {
            return Err(wrong(format!(
                "portMappings: {} → {}: ports go from 1 to 65535",
                port.host_port, port.container_port
            )));
        }
        let rates = runtime.bandwidth.map(|limits| [limits.ingress_rate, limits.egress_rate]);
        if let Some(rate) = rates.iter().flatten().find(|rate| (1..LEAST_RATE).contains(*rate)) {
            return Err(wrong(format!(
                "bandwidth: {rate} bits per second let nothing through; at least {LEAST_RATE}, or 0 for no limit"
            )));
        }
        Ok(runtime)
    }
}

/// A container may have so many ports of the node.
pub const MAX_PORT_MAPPINGS: usize = 1024;

/// The least rate that is taken, in bits per second: what Kubernetes' own annotations may say.
const LEAST_RATE: u64 = 1000;

/// The burst for a rate, in bits: as it is asked for, and what flows in 50 ms where none is. Runtimes write the largest number
/// that they know where nobody asked for one: a limit that begins after hundreds of megabytes is none.
pub fn burst(rate: u64, asked: u64) -> u64 {
    /// 2^31 - 1, and 2^32 - 1: the largest numbers of Go's `int32` and `uint32`.
    const NOT_ASKED: u64 = i32::MAX as u64;
    if asked == 0 || asked >= NOT_ASKED { rate / 20 } else { asked }
}

/// The names of `runtimeConfig` that are read.
const NAMES: [&str; 10] = [
    "portMappings",
    "bandwidth",
    "hostPort",
    "containerPort",
    "protocol",
    "hostIP",
    "ingressRate",
    "ingressBurst",
    "egressRate",
    "egressBurst",
];

/// The value with the names in it as they are read here: Go's encoding/json takes them without case, as Unicode folds it.
fn as_go_reads(value: Value) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(as_go_reads).collect(),
        Value::Object(fields) => {
            let named = fields.into_iter().map(|(name, value)| {
                // The two letters beyond ASCII that fold to letters of it.
                let plain = if name.is_ascii() {
                    name.clone()
                } else {
                    name.replace('ſ', "s").replace('\u{212a}', "k")
                };
                let known = NAMES.iter().find(|known| known.eq_ignore_ascii_case(&plain));
                (known.map_or(name, |known| (*known).to_owned()), as_go_reads(value))
            });
            Value::Object(named.collect())
        }
        other => other,
    }
}

// === impl Args ===

impl Args {
    /// Reads `CNI_ARGS`.
    ///
    /// # Errors
    /// Code 4 when a part is no `KEY=VALUE`.
    pub fn parse(args: &str) -> Result<Self, Failure> {
        let mut parsed = Self::default();
        for pair in args.split(';').filter(|pair| !pair.is_empty()) {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(Failure::new(
                    code::ENVIRONMENT,
                    "invalid environment",
                    format!("CNI_ARGS holds {pair:?}, which is no KEY=VALUE"),
                ));
            };
            match key {
                "K8S_POD_NAMESPACE" => parsed.pod_namespace = Some(value.to_owned()),
                "K8S_POD_NAME" => parsed.pod_name = Some(value.to_owned()),
                "K8S_POD_UID" => parsed.pod_uid = Some(value.to_owned()),
                _ => {}
            }
        }
        Ok(parsed)
    }
}

/// The request that [`Call::to_json`] writes.
impl<'de> Deserialize<'de> for Call {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Request {
            command: String,
            container_id: String,
            netns: String,
            ifname: String,
            args: String,
            config: String,
        }
        let request = Request::deserialize(deserializer)?;
        let verb = crate::Verb::parse(&request.command)
            .ok_or_else(|| serde::de::Error::custom(format!("unknown command {:?}", request.command)))?;
        Ok(Self {
            verb,
            container_id: request.container_id,
            netns: request.netns,
            ifname: request.ifname,
            args: request.args,
            config: request.config,
        })
    }
}

impl<'de> Deserialize<'de> for Protocol {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = Option::<String>::deserialize(from)?.unwrap_or_default();
        match text.to_ascii_lowercase().as_str() {
            "" | "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "sctp" => Ok(Self::Sctp),
            _ => Err(serde::de::Error::custom(format!("protocol {text:?} is none of tcp, udp and sctp"))),
        }
    }
}

fn wrong(details: String) -> Failure {
    Failure::new(code::CONFIG, "the network configuration is wrong", details)
}

/// Go's encoders write `null` for what is empty.
fn absent_as_default<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(
    from: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

fn address_or_any<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<IpAddr>, D::Error> {
    let text = Option::<String>::deserialize(from)?.unwrap_or_default();
    if text.is_empty() {
        return Ok(None);
    }
    let address: IpAddr =
        text.parse().map_err(|_| serde::de::Error::custom(format!("hostIP {text:?} is no address")))?;
    // Runtimes write 0.0.0.0 for a hostPort without an address, on dual-stack nodes too.
    Ok(Some(address).filter(|address| !address.is_unspecified()))
}
