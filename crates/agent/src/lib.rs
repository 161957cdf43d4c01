//! The node agent: wires watch, plan, data plane and CNI. It decides nothing by itself.
//!
//! ```text
//! API server ──▶ cluster ──▶ node's thread ──▶ data plane ──▶ kernel
//!                   ▲            ▲   ▲
//!      conditions ──┘    probes ─┘   └── socket ◀── weft-cni, weft status
//! ```
//!
//! What the kernel holds outlives the process: an agent that ends, however, leaves the data plane in place, and the next
//! one adopts it.

pub mod admin;
mod announce;
pub mod attachment;
mod cluster;
mod dns;
mod drain;
mod found;
mod health;
mod http;
mod install;
mod limits;
mod memory;
mod metrics;
pub mod node;
mod options;
mod socket;
pub mod store;
mod symptoms;

use std::{future::Future, net::IpAddr, pin::pin, sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use weft_kube::Client;
use weft_model::{NodeName, plan};

pub use options::{DnsAddress, Listen, Options, Routing, Switch};
pub use weft_datapath::requirements;

use cluster::Cluster;
use dns::Dns;
use health::NodeHealth;
use socket::Server;
use store::Store;

/// The agent was started by somebody else than root.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the agent must run as root: it makes links in Pods' namespaces and loads kernel programs")]
pub struct NotRoot;

/// How long the end of the agent waits for what its data plane is doing.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Runs the agent until `shutdown` resolves: then answers the calls that it has taken in, and returns. The data plane
/// stays as it is.
///
/// # Errors
/// When something that it cannot do without is missing or taken, or a part of it fails.
pub async fn run(options: Options, shutdown: impl Future<Output = ()> + Send) -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Err(NotRoot.into());
    }
    memory::be_frugal();
    limits::raise_open_files();
    let mut shutdown = pin!(shutdown);
    loop {
        match run_once(&options, shutdown.as_mut()).await? {
            Ended::Asked => return Ok(()),
            Ended::Changed => {
                tracing::info!(
                    "the cluster's Service ranges or its DNS Service are others now: starting anew with them"
                );
            }
        }
    }
}

/// Why the agent ended.
enum Ended {
    /// It was asked to.
    Asked,
    /// What it was started with is not so any more.
    Changed,
}

async fn run_once(options: &Options, shutdown: impl Future<Output = ()> + Send) -> anyhow::Result<Ended> {
    let name = NodeName::new(options.node_name.as_str());
    let store = Store::open(&options.state_dir)?;
    let client = Client::with(&weft_kube::Access {
        kubeconfig: options.kubeconfig.clone(),
        servers: options.api_servers.clone(),
        kubelet: options.kubelet_kubeconfigs.clone(),
        remembered: store.load(cluster::API_SERVERS).unwrap_or_default(),
        priority: Some(weft_datapath::AGENT_PRIORITY),
    })
    .await?;
    let mut found = found::Found::remembered(&store);
    let finder = found::Finder::new(client.clone(), options);
    let (missing, missed) = watch::channel(None);
    if finder.is_needed() {
        let lacks;
        (found, lacks) = finder.look(&found).await;
        missing.send_replace(lacks);
    }
    let options = found.complete(options);
    tracing::info!(service_ranges = ?options.service_cidrs, dns = ?options.cluster_dns, "the cluster's own addresses");
    let listener = socket::bind(&options.socket)?;
    let http = match options.metrics.0 {
        Some(address) => Some(http::bind(address).await?),
        None => None,
    };
    let config = config(&options, &name, client.addresses())?;
    let ranges =
        announce::Ranges { pods: options.pod_cidrs.clone(), services: options.service_cidrs.clone() };
    let metrics = Arc::new(metrics::Metrics::new());
    let (health_checks, health_checked) = mpsc::unbounded_channel();
    let to_node = Arc::clone(&metrics);
    let starting = move || node::thread::start(config, store, health_checks, to_node);
    let (handle, mut node_ended) = tokio::task::spawn_blocking(starting).await.context("node")??;
    tracing::info!(node = %name, api = client.server(), version = env!("CARGO_PKG_VERSION"), "agent starts");

    let (begin, drain) = drain::drain();
    let dns = Dns::new(&options, &name)?;
    let (cluster, api, names) = Cluster::watch(&client, &name, dns.is_some(), &options.state_dir);
    let (symptoms, symptoms_seen) = watch::channel(symptoms::Symptoms::default());
    let server = Server {
        node: handle.clone(),
        symptoms: symptoms_seen.clone(),
        metrics,
        listeners: Arc::default(),
        api: api.clone(),
        dns: dns.clone(),
    };
    let mut parts = JoinSet::new();
    parts.spawn(socket::serve(listener, server.clone(), drain.clone()));
    if let Some(http) = http {
        let answer = move |path: String| http::answer_metrics(server.clone(), path);
        parts.spawn(http::serve(http, answer, drain.clone()));
    }
    if let Some(address) = options.healthz.0 {
        let health = NodeHealth { name: name.clone(), node: handle.clone(), nodes: api.nodes.clone() };
        parts.spawn(health::serve_node(address, health, drain.clone()));
    }
    let (warnings, ports_warn) = watch::channel(Vec::new());
    let ports = health::serve_ports(
        name.clone(),
        handle.clone(),
        health_checked,
        api.nodes.clone(),
        warnings,
        drain.clone(),
    );
    parts.spawn(ports);
    let looked_at = symptoms::Sources {
        name: name.clone(),
        node: handle.clone(),
        nodes: api.nodes.clone(),
        pods: api.pods.clone(),
        missing: missed,
        settings: dns.clone(),
        dns: options.cluster_dns.clone(),
        domain: options.cluster_domain.clone(),
    };
    parts.spawn(symptoms::look(looked_at, symptoms, drain.clone()));
    let mut finding = tokio::spawn(finder.watch(found, missing, drain.clone()));
    if let (Some(dns), Some(heard)) = (dns, names) {
        let sources =
            dns::Sources { heard, nodes: api.nodes.clone(), pods: api.pods.clone(), node: handle.clone() };
        parts.spawn(dns.run(client.clone(), sources, drain.clone()));
    }
    let state_dir = options.state_dir.clone();
    parts.spawn(install::run(options, handle.readiness(), drain.clone()));
    parts.spawn(announce::hold(
        client.clone(),
        name.clone(),
        handle.clone(),
        api.nodes.clone(),
        state_dir,
        drain.clone(),
    ));
    parts.spawn(announce::lead(client.clone(), name.clone(), api.nodes.clone(), ranges, drain.clone()));
    parts.spawn(cluster.run(client, name, handle.clone(), api, (ports_warn, symptoms_seen), drain));

    let outcome = tokio::select! {
        () = shutdown => Ok(Ended::Asked),
        Ok(Some(_)) = &mut finding => Ok(Ended::Changed),
        _ = &mut node_ended => Err(anyhow::anyhow!("the node's thread ended; what the kernel holds goes on working")),
        Some(part) = parts.join_next() => match part {
            Ok(Ok(())) => Err(anyhow::anyhow!("a part of the agent ended by itself")),
            Ok(Err(error)) => Err(error),
            Err(panic) => Err(panic.into()),
        },
    };
    tracing::info!("agent ends; the data plane stays");
    begin.begin();
    while let Some(part) = parts.join_next().await {
        if let Err(error) = part.context("a part of the agent panicked").and_then(|ended| ended) {
            tracing::error!("{error:#}");
        }
    }
    // Last: the socket's clients were waiting for it, and what it is removing is to be gone.
    handle.end();
    if tokio::time::timeout(LAST_WORDS, &mut node_ended).await.is_err() {
        tracing::warn!(
            "the node's thread is still busy after {LAST_WORDS:?}: what it has not done, the next agent does"
        );
    }
    outcome
}

/// Resolves when this process is asked to end: SIGTERM or SIGINT.
///
/// # Errors
/// When the signals cannot be listened to.
pub fn asked_to_end() -> std::io::Result<impl Future<Output = ()> + Send> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn config(options: &Options, name: &NodeName, api_servers: Vec<IpAddr>) -> anyhow::Result<node::Config> {
    let cgroup = match &options.cgroup_root {
        Some(named) => Some(weft_datapath::cgroup::folder(named).context("--cgroup-root")?),
        None => weft_datapath::cgroup::mount_point().context("looking for the cgroup2 mount")?,
    };
    if cgroup.is_none() {
        tracing::warn!(
            "cgroup2 is not mounted: connections to Services are translated packet by packet, and processes of the node \
             reach no node port on loopback; mount it, or name it with --cgroup-root"
        );
    }
    Ok(node::Config {
        name: name.clone(),
        bpffs: options.bpffs.clone(),
        uplink: options.uplink.clone(),
        vxlan_port: options.vxlan_port,
        cgroup,
        direct_return: options.direct_return,
        open_cluster_ips: options.open_cluster_ips,
        any_hardware: options.any_hardware,
        dns_addresses: options.cluster_dns.clone(),
        own_ports: options.own_ports(),
        external_ips: options.external_ips == options::Switch::On,
        api_servers,
        routing: options.routing.into(),
        plan: plan::Settings {
            pod_ranges: options.pod_cidrs.clone(),
            service_ranges: options.service_cidrs.clone(),
            non_masquerade: options.non_masquerade_cidrs.clone(),
        },
        queue_dir: options.queue_dir(),
    })
}
