//! The verbs of CNI.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nix::sys::statfs::{NSFS_MAGIC, statfs};
use weft_cni::{
    Call, Failure, NetConf, SpecVersion, Success, Verb,
    config::{self, Args},
    plugin::{code, queue},
    result::Interface,
};
use weft_datapath::{AddPodError, CheckPodError, host_interface};
use weft_model::{Bandwidth, PodKey, PortMapping, Protocol};

use super::{Node, attach::kernel_failure};
use crate::attachment::{Key, Made, Record};

/// The gateway of every container: no interface has it, a neighbour entry answers for it.
const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// What came of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// What the plugin is to print.
    pub output: String,
    /// What this very call made.
    pub made: Option<Key>,
}

impl Node {
    /// Serves a runtime's call.
    pub fn cni(&mut self, call: &Call) -> Answer {
        // The version decides how even an error is written.
        let version = NetConf::parse(&call.config).map_or(SpecVersion::NEWEST, |config| config.version);
        let answer = self.try_cni(call);
        if call.verb == Verb::Add {
            match &answer {
                Ok(_) => self.failed_adds.succeeded(call),
                Err(failure) => self.failed_adds.failed(call, failure),
            }
        }
        answer.unwrap_or_else(|failure| {
            match call.verb {
                // Asked again and again by runtimes; readiness is logged when it changes.
                Verb::Status => tracing::debug!("STATUS: {failure}"),
                verb => tracing::warn!(verb = verb.as_str(), container = call.container_id, "{failure}"),
            }
            Answer { output: failure.to_json(version), made: None }
        })
    }

    /// Removes what an ADD made, when its caller has not heard of it.
    pub fn undo(&mut self, made: &Key) {
        if let Err(error) = self.detach(made) {
            tracing::error!(attachment = %made, "an ADD that nobody heard of cannot be undone: {error}");
        }
    }

    fn try_cni(&mut self, call: &Call) -> Result<Answer, Failure> {
        let config = NetConf::parse(&call.config)?;
        config.version.allows(call.verb)?;
        call.validate()?;
        match call.verb {
            Verb::Add => self.add(call, &config),
            Verb::Del => self.del(call).map(|()| Answer::default()),
            Verb::Check => self.check(call, &config).map(|()| Answer::default()),
            Verb::Gc => self.gc(&config).map(|()| Answer::default()),
            Verb::Status => self
                .readiness()
                .map(|()| Answer::default())
                .map_err(|why| Failure::new(code::NOT_AVAILABLE, "this node cannot attach Pods now", why)),
            // The plugin answers this by itself.
            Verb::Version => Ok(Answer::default()),
        }
    }

    fn add(&mut self, call: &Call, config: &NetConf) -> Result<Answer, Failure> {
        let args = Args::parse(&call.args)?;
        let runtime = config.runtime()?;
        self.readiness().map_err(|why| {
            Failure::new(code::TRY_AGAIN, "this node cannot attach Pods yet: try again later", why)
        })?;
        let key = Key::new(&call.container_id, &call.ifname);
        self.take_queued(&self.config.queue_dir.join(key.as_str()))?;
        if let Some(output) = self.already_there(call, config, &key)? {
            return Ok(Answer { output, made: None });
        }
        check_netns(&call.netns)?;
        let port_mappings: Vec<PortMapping> = runtime.port_mappings.iter().map(port_mapping).collect();
        self.check_host_ports(&port_mappings)?;
        let mtu = self.datapath.as_ref().map_or(0, |open| open.plane.mtu().pod);
        let (key, record) = self.hand_out(|addresses| Record {
            container_id: call.container_id.clone(),
            ifname: call.ifname.clone(),
            network: config.name.clone(),
            netns: PathBuf::from(&call.netns),
            host_interface: host_interface(&call.container_id, &call.ifname),
            addresses,
            mtu,
            bandwidth: runtime.bandwidth.map(bandwidth),
            port_mappings,
            pod_uid: args.pod_uid.unwrap_or_default(),
            pod: args.pod_namespace.zip(args.pod_name).map(|(namespace, name)| PodKey { namespace, name }),
            made: None,
        })?;
        match self.make(&key, &record) {
            Ok(record) => Ok(Answer { output: result(&record, config), made: Some(key) }),
            Err(failure) => {
                if let Err(error) = self.detach(&key) {
                    // The record stays unfinished, and DEL or the next start removes it.
                    tracing::error!(attachment = %key, "a failed ADD cannot be undone: {error}");
                }
                Err(failure)
            }
        }
    }

    /// The result of an earlier ADD of the same attachment, if it is still what it was.
    fn already_there(&mut self, call: &Call, config: &NetConf, key: &Key) -> Result<Option<String>, Failure> {
        let Some(record) = self.attachments.get(key).cloned() else { return Ok(None) };
        if record.made.is_none() {
            // An ADD failed here and could not be undone then.
            self.detach(key)?;
            return Ok(None);
        }
        let exists = |why: String| {
            Err(Failure::new(code::EXISTS, "this container already has this interface: call DEL first", why))
        };
        if record.netns != Path::new(&call.netns) {
            return exists(format!("{} in {}", record.ifname, record.netns.display()));
        }
        let Some(open) = &mut self.datapath else { return Ok(None) };
        match open.plane.check_pod(&record.spec()) {
            Ok(()) => Ok(Some(result(&record, config))),
            Err(error) => exists(error.to_string()),
        }
    }

    fn make(&mut self, key: &Key, record: &Record) -> Result<Record, Failure> {
        let Some(open) = &mut self.datapath else {
            return Err(Failure::new(code::TRY_AGAIN, "the data plane is not open: try again later", ""));
        };
        let links = open.plane.add_pod(&record.spec()).map_err(|error| match error {
            AddPodError::InterfaceExists(_) => {
                Failure::new(code::EXISTS, "the interface's name (CNI_IFNAME) is taken", error.to_string())
            }
            AddPodError::Netns(_) => Failure::new(
                code::ENVIRONMENT,
                "the namespace (CNI_NETNS) cannot be entered",
                error.to_string(),
            ),
            error => kernel_failure(&error),
        })?;
        self.finish(key, Made::from(&links))
    }

    fn del(&mut self, call: &Call) -> Result<(), Failure> {
        let key = Key::new(&call.container_id, &call.ifname);
        if self.datapath.is_none() {
            // Without a data plane nothing can be removed; the runtime need not wait for the API server to be back.
            return queue::push(&self.config.queue_dir, call).map_err(|error| {
                let details = format!("{}: {error}", self.config.queue_dir.display());
                Failure::new(code::IO, "the data plane is not open and DEL could not be queued", details)
            });
        }
        if self.attachments.contains_key(&key) {
            return self.detach(&key);
        }
        self.detach_unrecorded(&host_interface(&call.container_id, &call.ifname))
    }

    fn check(&mut self, call: &Call, config: &NetConf) -> Result<(), Failure> {
        if config.previous.is_none() {
            return Err(Failure::new(
                code::CONFIG,
                "CHECK needs prevResult",
                "the result of ADD, in the configuration",
            ));
        }
        let key = Key::new(&call.container_id, &call.ifname);
        let Some(record) = self.attachments.get(&key).filter(|record| record.made.is_some()) else {
            return Err(Failure::new(code::UNKNOWN_CONTAINER, "no such attachment", key.to_string()));
        };
        let mut spec = record.spec();
        spec.netns = PathBuf::from(&call.netns);
        let Some(open) = &mut self.datapath else {
            return Err(Failure::new(code::TRY_AGAIN, "the data plane is not open: try again later", ""));
        };
        open.plane.check_pod(&spec).map_err(|error| match error {
            CheckPodError::Missing(_) => {
                Failure::new(code::BROKEN, "the attachment is broken", error.to_string())
            }
            CheckPodError::Ask(AddPodError::Netns(_)) => {
                Failure::new(code::BROKEN, "the namespace (CNI_NETNS) cannot be entered", error.to_string())
            }
            CheckPodError::Ask(error) => kernel_failure(&error),
        })
    }

    /// Removes what belongs to no valid attachment, goes on after errors and tells them all at the end.
    fn gc(&mut self, config: &NetConf) -> Result<(), Failure> {
        if config.disable_gc {
            return Ok(());
        }
        let Some(valid) = &config.valid_attachments else {
            // Taking "not said" for "none" would remove every Pod of the node.
            return Err(Failure::new(
                code::CONFIG,
                "GC needs cni.dev/valid-attachments",
                "the key is missing",
            ));
        };
        let keep: BTreeSet<Key> = valid.iter().map(|a| Key::new(&a.container_id, &a.ifname)).collect();
        let keep_interfaces: BTreeSet<String> =
            valid.iter().map(|a| host_interface(&a.container_id, &a.ifname)).collect();
        let stale: Vec<Key> = self
            .attachments
            .iter()
            .filter(|(key, record)| record.network == config.name && !keep.contains(key))
            .map(|(key, _)| key.clone())
            .collect();
        let orphans: Vec<String> =
            self.orphans.keys().filter(|name| !keep_interfaces.contains(*name)).cloned().collect();
        let mut failures = Vec::new();
        for key in &stale {
            tracing::info!(attachment = %key, "removed by GC");
            failures.extend(self.detach(key).err().map(|failure| format!("{key}: {failure}")));
        }
        for name in &orphans {
            tracing::info!(interface = name, "removed by GC");
            failures.extend(self.detach_unrecorded(name).err().map(|failure| format!("{name}: {failure}")));
        }
        if failures.is_empty() {
            return Ok(());
        }
        Err(Failure::new(code::KERNEL, "not everything could be removed", failures.join("; ")))
    }

    /// Serves the DEL calls that came while no agent was there.
    pub fn take_queue(&mut self) {
        if self.datapath.is_none() {
            return;
        }
        let waiting = match queue::list(&self.config.queue_dir) {
            Ok(waiting) => waiting,
            Err(error) => {
                tracing::error!("queue of DEL calls {}: {error}", self.config.queue_dir.display());
                return;
            }
        };
        for path in waiting {
            if let Err(error) = self.take_queued(&path) {
                tracing::warn!("queued DEL {}: {error}; trying again", path.display());
            }
        }
    }

    /// Serves the DEL call that `path` holds, if it is there.
    fn take_queued(&mut self, path: &Path) -> Result<(), Failure> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => {
                return Err(Failure::new(code::IO, "a queued DEL cannot be read", error.to_string()));
            }
        };
        match serde_json::from_slice::<Call>(&bytes) {
            Ok(call) if call.verb == Verb::Del && call.validate().is_ok() => self.del(&call)?,
            Ok(_) => tracing::error!("{} is no DEL call: removed", path.display()),
            Err(error) => tracing::error!("{} is no call ({error}): removed", path.display()),
        }
        fs::remove_file(path)
            .map_err(|error| Failure::new(code::IO, "a queued DEL cannot be removed", error.to_string()))
    }
}

/// Refuses what is no namespace, and the node's own, whose interfaces are not a container's.
fn check_netns(netns: &str) -> Result<(), Failure> {
    let wrong = |why: &str| {
        Err(Failure::new(code::ENVIRONMENT, "invalid environment", format!("CNI_NETNS {netns:?}: {why}")))
    };
    let identity = |path: &str| fs::metadata(path).map(|file| (file.dev(), file.ino()));
    match (identity(netns), identity("/proc/thread-self/ns/net")) {
        (Err(error), _) => wrong(&error.to_string()),
        (Ok(container), Ok(own)) if container == own => wrong("it is the node's own namespace"),
        _ if !statfs(netns).is_ok_and(|file| file.filesystem_type() == NSFS_MAGIC) => {
            wrong("it is no namespace")
        }
        _ => Ok(()),
    }
}

fn result(record: &Record, config: &NetConf) -> String {
    let mac = |bytes: Option<[u8; 6]>| {
        bytes.map(|b| b.map(|byte| format!("{byte:02x}")).join(":")).unwrap_or_default()
    };
    let interface = |name: &str, bytes| Interface { name: name.to_owned(), mac: mac(bytes), mtu: record.mtu };
    let via =
        |address: IpAddr| -> IpAddr { if address.is_ipv4() { GATEWAY_V4.into() } else { GATEWAY_V6.into() } };
    let default = |address: IpAddr| -> IpNet {
        if address.is_ipv4() { Ipv4Net::default().into() } else { Ipv6Net::default().into() }
    };
    let success = Success {
        host: interface(&record.host_interface, record.made.map(|made| made.host_mac)),
        container: interface(&record.ifname, record.made.map(|made| made.pod_mac)),
        sandbox: record.netns.display().to_string(),
        addresses: record.addresses.iter().map(|&address| (address.into(), via(address))).collect(),
        routes: record.addresses.iter().map(|&address| (default(address), via(address))).collect(),
    };
    success.to_json(config.version, config.previous.as_ref()).to_string()
}

fn port_mapping(mapping: &config::PortMapping) -> PortMapping {
    PortMapping {
        host_ip: mapping.host_ip,
        host_port: mapping.host_port,
        container_port: mapping.container_port,
        protocol: match mapping.protocol {
            config::Protocol::Tcp => Protocol::Tcp,
            config::Protocol::Udp => Protocol::Udp,
            config::Protocol::Sctp => Protocol::Sctp,
        },
    }
}

fn bandwidth(limits: config::Bandwidth) -> Bandwidth {
    Bandwidth {
        ingress_rate: limits.ingress_rate,
        ingress_burst: config::burst(limits.ingress_rate, limits.ingress_burst),
        egress_rate: limits.egress_rate,
        egress_burst: config::burst(limits.egress_rate, limits.egress_burst),
    }
}
