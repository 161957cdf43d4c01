//! One node: its plan, its data plane, its attachments. Synchronous, and owned by one [thread].
//!
//! Nothing is decided here that the model does not decide: this keeps what the API says, what the probes found and what
//! was handed out, and brings the data plane in line with it.

mod attach;
mod cni;
mod failed;
mod host_ports;
mod plan;
mod services;
mod status;
pub mod thread;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use tokio::sync::mpsc;
use weft_datapath::{Datapath, Path, Settings, Swept, probe};
use weft_dns::settings::ClientLimits;
use weft_model::{
    Ipam, NodeName, NodePlan, RangeConflict, plan as model_plan,
    services::{HealthCheck, ServiceKey},
};

use crate::{
    attachment::{Key, Record},
    store::{Store, StoreError},
};

pub use cni::Answer;
pub use host_ports::OwnPort;
pub use services::{InSync, Programmed};
pub use status::Readiness;

use services::Services;

/// What a node is told once.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its name.
    pub name: NodeName,
    /// Its bpffs folder.
    pub bpffs: PathBuf,
    /// Its uplink, when it is named.
    pub uplink: Option<String>,
    /// UDP port of the overlay.
    pub vxlan_port: u16,
    /// Sockets of processes in this cgroup and below are connected to Services' backends.
    pub cgroup: Option<PathBuf>,
    /// A backend's node answers clients from outside itself.
    pub direct_return: bool,
    /// Hosts outside may use cluster IPs, by a route through this node.
    pub open_cluster_ips: bool,
    /// Tunnel packets of nodes of the uplink's link may come from any hardware address.
    pub any_hardware: bool,
    /// Addresses of the cluster's DNS Service, which this node answers itself.
    pub dns_addresses: Vec<IpAddr>,
    /// Ports that the agent itself has: no Pod's.
    pub own_ports: Vec<OwnPort>,
    /// Services are reached by `spec.externalIPs`.
    pub external_ips: bool,
    /// Addresses of API servers.
    pub api_servers: Vec<IpAddr>,
    /// Which paths may be used.
    pub routing: probe::Routing,
    /// What the cluster's administrator has set.
    pub plan: model_plan::Settings,
    /// Where queued DEL calls wait.
    pub queue_dir: PathBuf,
}

/// New Pods' MTU follows the paths that are proved: wait this long for proof before the first Pod. Proof comes within milliseconds;
/// on a machine whose cores are busy it takes longer.
const SETTLE: Duration = Duration::from_secs(5);

/// The state of one node.
pub struct Node {
    config: Config,
    store: Store,
    attachments: BTreeMap<Key, Record>,
    /// Host interfaces that the kernel has and no record tells of, with their addresses: the state directory was lost.
    orphans: BTreeMap<String, Vec<IpAddr>>,
    ipam: Option<Ipam>,
    /// Nodes as the API last told them, or as they were saved.
    nodes: Vec<weft_model::Node>,
    synced: bool,
    plan: Option<NodePlan>,
    refused: Vec<RangeConflict>,
    datapath: Option<Open>,
    health: BTreeMap<NodeName, probe::Health>,
    /// The verdicts in force; kept over a restart, so that it changes no path before it knows better.
    paths: BTreeMap<NodeName, Path>,
    /// Why no Pod can be attached, as far as plan and data plane are concerned.
    blocked: Option<String>,
    /// Since when, for whatever reason.
    blocked_since: Option<Instant>,
    /// What of it has been logged as an error.
    complained: Option<String>,
    /// Somebody broke what cannot be put back at once.
    unrepaired: Option<String>,
    settled_by: Option<Instant>,
    repairs: u64,
    swept: Swept,
    services: Services,
    failed_adds: failed::FailedAdds,
    /// Questions a second that one Pod may ask the cluster's DNS.
    dns_questions_of_pod: u32,
    report: Report,
}

/// Takes what has changed of health checks.
pub type HealthCheckChanges = mpsc::UnboundedSender<Vec<(ServiceKey, Option<HealthCheck>)>>;

/// Takes what the probes found, from their thread.
pub type Report = Arc<dyn Fn(BTreeMap<NodeName, probe::Health>) + Send + Sync>;

/// A data plane and what it was opened for.
struct Open {
    plane: Datapath,
    pod_ranges: Vec<IpNet>,
    node_addresses: Vec<IpAddr>,
    /// `None` when the probes' sockets could not be made.
    prober: Option<probe::Prober>,
}

impl Node {
    /// A node as its state directory has it. `report` is given what probes find, from another thread, to be passed to
    /// [`Node::set_health`]; `health_checks` is given what load balancers are to be answered.
    ///
    /// # Errors
    /// When the state directory cannot be used.
    pub fn open(
        config: Config,
        store: Store,
        report: Report,
        health_checks: HealthCheckChanges,
    ) -> Result<Self, StoreError> {
        let attachments = store.records()?.into_iter().map(|record| (record.key(), record)).collect();
        let mut node = Self {
            nodes: store.load(plan::NODES).unwrap_or_default(),
            paths: plan::load_paths(&store),
            services: Services::new(&config.name, &config.plan.service_ranges, health_checks),
            config,
            store,
            attachments,
            orphans: BTreeMap::new(),
            ipam: None,
            synced: false,
            plan: None,
            refused: Vec::new(),
            datapath: None,
            health: BTreeMap::new(),
            blocked: None,
            blocked_since: None,
            complained: None,
            unrepaired: None,
            settled_by: None,
            repairs: 0,
            swept: Swept::default(),
            failed_adds: failed::FailedAdds::default(),
            dns_questions_of_pod: ClientLimits::default().queries_per_client,
            report,
        };
        if !node.nodes.is_empty() {
            node.nodes_changed();
        }
        Ok(node)
    }

    fn settings(&self, pod_ranges: &[IpNet], node_addresses: &[IpAddr]) -> Settings {
        Settings {
            node: self.config.name.clone(),
            bpffs: self.config.bpffs.clone(),
            uplink: self.config.uplink.clone(),
            vxlan_port: self.config.vxlan_port,
            service_ranges: self.config.plan.service_ranges.clone(),
            cgroup: self.config.cgroup.clone(),
            direct_return: self.config.direct_return,
            open_cluster_ips: self.config.open_cluster_ips,
            any_hardware: self.config.any_hardware,
            dns_addresses: self.config.dns_addresses.clone(),
            dns_questions_of_pod: self.dns_questions_of_pod,
            pod_ranges: pod_ranges.to_vec(),
            node_addresses: node_addresses.to_vec(),
        }
    }
}
