//! The lab process: brings everything up, keeps it, and takes it down.

mod agent;
mod cluster_dns;
mod logs;
mod outside;
mod pools;
mod readiness;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use futures::future::BoxFuture;
use kube::{
    Client,
    config::{KubeConfigOptions, Kubeconfig},
};
use nix::{
    mount::{MsFlags, mount},
    sys::resource::{Resource, getrlimit, setrlimit},
};
use serde::{Deserialize, Serialize};
use tokio::{runtime::Runtime, sync::watch, task::JoinSet, time::Instant};
use weft_apiserver::{ApiServer, Config};
use weft_netns::Netns;

use crate::{
    Usage,
    apply::{Applied, apply},
    controllers,
    kubelet::{Kubelets, Logs, Node, Sessions},
    manifest::Manifest,
    place::{self, Cgroup, Fabric, LabDir, LabName, LabRecord, NodeRecord, Spawner, make_dir, write_file},
    ranges::{IpFamily, Ranges},
    references::dangling,
    world::World,
};
use outside::Outside;

/// Port of the API server on the fabric.
const API_PORT: u16 = 6443;

/// How long what is under way on threads of its own is waited for, before the lab is removed.
const ENDING: Duration = Duration::from_secs(30);

/// What a lab shall be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Options {
    /// Its name.
    pub name: LabName,
    /// How many nodes, 1 to 200.
    pub nodes: u8,
    /// Over how many zones they are spread, 1 to `nodes`.
    pub zones: u8,
    /// IP families of nodes, Pods and Services.
    pub ip_family: IpFamily,
    /// How Pods reach other nodes: `auto`, `overlay` or `native`.
    pub routing: String,
    /// The nodes' agents answer DNS; otherwise it is left to Pods with the label `k8s-app: kube-dns`.
    pub dns: bool,
    /// MTU of the fabric, in bytes.
    pub mtu: u32,
    /// How long everything may take to become ready.
    pub timeout: Duration,
    /// The `weft` executable; `weft-cni` lies beside it.
    pub executable: PathBuf,
}

/// What a lab tells while it comes up.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Progress {
    /// A part is done.
    Step(String),
    /// Something that whoever wrote the manifests may not mean.
    Warning(String),
    /// How far the wait is; replaces the one before it.
    Waiting(String),
    /// Everything is up.
    Ready(Box<LabRecord>),
    /// The lab is up, but these things are not ready.
    NotReady(Vec<String>),
}

/// Runs a lab on `runtime` until `stop` becomes true, then removes every trace of it. An error while it comes up removes it
/// too. The runtime is the lab's alone: only when it has ended does nothing make anything any more, not even what was under
/// way on a thread of its own.
///
/// # Errors
/// What could not be made; what could not be removed.
pub fn run(
    runtime: Runtime,
    options: Options,
    manifests: Vec<Manifest>,
    claimed: impl FnOnce(&LabDir) -> Result<()>,
    tell: impl Fn(Progress),
    unproved: impl Unproved,
    mut stop: watch::Receiver<bool>,
) -> Result<()> {
    check(&options)?;
    raise_file_limit()?;
    let (dir, lock) = LabDir::claim(&options.name)?;
    let worked = runtime.block_on(async {
        let mut tasks = JoinSet::new();
        let worked = tokio::select! {
            worked = up(&options, &manifests, &dir, claimed, &tell, &unproved, &mut tasks) => worked,
            _ = stop.wait_for(|stop| *stop) => Ok(()),
        };
        if worked.is_ok() {
            // Without a sender nobody could ask for the end.
            let _ = stop.wait_for(|stop| *stop).await;
        }
        worked
    });
    runtime.shutdown_timeout(ENDING);
    let removed = place::remove(&dir);
    drop(lock);
    worked.and(removed)
}

/// Each Pod takes a few descriptors; the usual soft limit is enough for a hundred of them.
fn raise_file_limit() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raise the limit of open files")
}

/// What can be known to be wrong before anything is made.
fn check(options: &Options) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!(NotRoot);
    }
    if !(1..=200).contains(&options.nodes) {
        bail!(Usage(format!("a lab has 1 to 200 nodes, not {}", options.nodes)));
    }
    if !(1..=options.nodes).contains(&options.zones) {
        let nodes = plural(options.nodes.into(), "node");
        bail!(Usage(format!("{nodes} cannot be spread over {} zones", options.zones)));
    }
    let least = if options.ip_family == IpFamily::Ipv4 { 576 } else { 1400 };
    if !(least..=9216).contains(&options.mtu) {
        bail!(Usage(format!("the MTU must be {least} to 9216 bytes, not {}", options.mtu)));
    }
    let plugin = plugin_of(options);
    if !plugin.is_file() {
        bail!("{} is missing: it is built with weft (cargo build -p weft -p weft-cni)", plugin.display());
    }
    Ok(())
}

/// A lab makes network namespaces, mounts and BPF programs.
#[derive(Debug, thiserror::Error)]
#[error("a lab needs root: run the command with sudo")]
pub struct NotRoot;

fn plugin_of(options: &Options) -> PathBuf {
    options.executable.with_file_name("weft-cni")
}

async fn up(
    options: &Options,
    manifests: &[Manifest],
    dir: &LabDir,
    claimed: impl FnOnce(&LabDir) -> Result<()>,
    tell: &impl Fn(Progress),
    unproved: &impl Unproved,
    tasks: &mut JoinSet<()>,
) -> Result<()> {
    let deadline = Instant::now() + options.timeout;
    claimed(dir)?;
    let ranges = options.ip_family.ranges();
    let spawner = Spawner::start()?;
    let own = Cgroup::of_lab(&options.name)?;
    own.below("lab")?;

    let (fabric, nodes, outside) = {
        let (options, dir, ranges) = (options.clone(), dir.clone(), ranges.clone());
        tokio::task::spawn_blocking(move || make_nodes(&options, &dir, &ranges, &own)).await??
    };
    let answering = outside.answer(tasks)?;
    tasks.spawn(async move {
        let _answering = answering;
        std::future::pending().await
    });
    tell(Progress::Step(format!("{} and the host outside on the fabric", plural(nodes.len(), "node"))));

    let (server, address) = serve(dir, options, &ranges, &fabric, tasks)?;
    let client =
        client_of(&server.kubeconfig(&format!("https://{address}"), &options.name.to_string())).await?;
    let mut record = record_of(options, dir, address, &nodes, &outside);
    dir.write_record(&record)?;
    let (failures, failed) = watch::channel(agent::Failures::new());
    for node in &nodes {
        let agent = agent::Agent::new(options, dir, &ranges, node.clone(), spawner.clone(), failures.clone());
        tasks.spawn(agent.keep());
    }
    tell(Progress::Step(format!("API server on https://{address}")));

    let world = World::follow(client.clone(), tasks).await;
    controllers::start(&world, dir, &ranges, server.ca_pem(), tasks);
    let store = Arc::new(Logs::default());
    server.set_logs(Arc::new(logs::Source::new(store.clone())));
    let executable = options.executable.clone();
    let dns = ranges.cluster_dns();
    let authority = server.ca_pem().to_owned();
    let kubelets = Kubelets::new(world.clone(), dir.clone(), spawner, store, executable, dns, authority);
    kubelets.register(&nodes).await.context("register the nodes")?;
    server.set_sessions(Arc::new(Sessions::new(kubelets.clone())));
    tasks.spawn(kubelets.run(nodes));
    cluster_dns::make(&client, &ranges.cluster_dns()).await?;
    pools::make(&client, &ranges.load_balancers(options.nodes)).await?;
    let applied: Vec<Applied> = apply(&client, manifests).await?;
    if !applied.is_empty() {
        tell(Progress::Step(format!(
            "{} from {}",
            plural(applied.len(), "object"),
            plural(manifests.len(), "manifest")
        )));
    }
    for warning in dangling(&client, manifests).await? {
        tell(Progress::Warning(format!("{}: {}", warning.place, warning.what)));
    }

    let mut missing = readiness::wait(&world, failed, usize::from(options.nodes), deadline, tell).await;
    if missing.is_empty() {
        missing = prove(&record, unproved, deadline, tell).await;
    }
    record.ready = missing.is_empty();
    dir.write_record(&record)?;
    tell(if record.ready { Progress::Ready(Box::new(record)) } else { Progress::NotReady(missing) });
    Ok(())
}

/// What of a lab's network is not proved yet, a line each. The lab does not ask its agents itself: it speaks to the API and
/// to CNI alone.
pub trait Unproved: Fn(LabRecord) -> BoxFuture<'static, Vec<String>> {}

impl<F: Fn(LabRecord) -> BoxFuture<'static, Vec<String>>> Unproved for F {}

/// Waits until every path between nodes is proved: that everything runs does not mean that it reaches each other. Returns what
/// is still not proved at the deadline.
async fn prove(
    record: &LabRecord,
    unproved: &impl Unproved,
    deadline: Instant,
    tell: &impl Fn(Progress),
) -> Vec<String> {
    let mut pause = Duration::from_millis(10);
    let mut shown = 0;
    loop {
        let missing = unproved(record.clone()).await;
        if missing.is_empty() || Instant::now() >= deadline {
            return missing;
        }
        if missing.len() != shown {
            shown = missing.len();
            tell(Progress::Waiting(format!("everything runs; {} to prove", plural(shown, "path"))));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(250));
    }
}

/// Makes the fabric, every node's namespace, cgroup and folders, and the host outside.
fn make_nodes(
    options: &Options,
    dir: &LabDir,
    ranges: &Ranges,
    own: &Cgroup,
) -> Result<(Fabric, Vec<Arc<Node>>, Outside)> {
    let fabric = Fabric::create(dir, ranges, options.mtu)?;
    let mut nodes = Vec::new();
    for number in 1..=options.nodes {
        let name = format!("node-{number}");
        let host = number + 1;
        let netns = fabric.add_host(dir, &name, ranges, host)?;
        let cgroup = own.below(&name)?;
        let folder = dir.node(&name);
        for part in ["cni/net.d", "cni/bin", "state", "bpf"] {
            make_dir(&folder.join(part))?;
        }
        let bpf = folder.join("bpf");
        mount(Some("bpf"), &bpf, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
            .with_context(|| format!("mount a BPF file system on {}", bpf.display()))?;
        let zone = format!("zone-{}", (number - 1) % options.zones + 1);
        let (names, addresses) = (dir.names(&folder), ranges.fabric_addresses(host));
        outside::write_names(&names, &name, &addresses, ranges)?;
        nodes.push(Arc::new(Node::new(name, zone, netns, cgroup, folder, names, addresses)?));
    }
    let outside = Outside::create(dir, &fabric, ranges, own)?;
    Ok((fabric, nodes, outside))
}

/// Starts the API server: on loopback for the machine's users, on the fabric for the agents.
fn serve(
    dir: &LabDir,
    options: &Options,
    ranges: &Ranges,
    fabric: &Fabric,
    tasks: &mut JoinSet<()>,
) -> Result<(ApiServer, SocketAddr)> {
    let gateways = ranges.fabric_addresses(1);
    let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
    let services = ranges.services.iter().filter_map(|range| range.hosts().next());
    let server = ApiServer::new(Config {
        addresses: [loopback].into_iter().chain(gateways.iter().copied()).chain(services).collect(),
        service_ranges: ranges.services.clone(),
        advertise: gateways.first().map(|gateway| SocketAddr::new(*gateway, API_PORT)),
        ephemeral_containers: false,
        ..Config::default()
    })?;
    let outside = TcpListener::bind((loopback, 0)).context("listen on loopback")?;
    let address = outside.local_addr()?;
    let mut listeners = vec![outside];
    for gateway in &gateways {
        let listening = fabric.netns().run(|| TcpListener::bind((*gateway, API_PORT)))?;
        listeners.push(listening.with_context(|| format!("listen on {gateway} on the fabric"))?);
    }
    let (drain, drained) = watch::channel(false);
    for listener in listeners {
        let (server, drained) = (server.clone(), drained.clone());
        tasks.spawn(async move {
            if let Err(error) = server.serve(listener, drained).await {
                tracing::error!(%error, "the API server has ended");
            }
        });
    }
    // The sender lives as long as the lab.
    tasks.spawn(async move {
        drain.closed().await;
    });
    let name = format!("weft-{}", options.name);
    write_file(&dir.kubeconfig(), server.kubeconfig(&format!("https://{address}"), &name).as_bytes())?;
    if let Some(gateway) = gateways.first() {
        let url = format!("https://{}", SocketAddr::new(*gateway, API_PORT));
        write_file(&dir.path().join("agent.kubeconfig"), server.kubeconfig(&url, &name).as_bytes())?;
    }
    Ok((server, address))
}

/// A client for a kubeconfig.
pub async fn client_of(kubeconfig: &str) -> Result<Client> {
    // Another part of the process may have chosen the same provider already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = Kubeconfig::from_yaml(kubeconfig).context("the lab's kubeconfig")?;
    let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

fn record_of(
    options: &Options,
    dir: &LabDir,
    api: SocketAddr,
    nodes: &[Arc<Node>],
    outside: &Outside,
) -> LabRecord {
    let nodes = nodes.iter().map(|node| NodeRecord {
        name: node.name.clone(),
        netns: Netns::name(&node.netns).to_owned(),
        addresses: node.addresses.clone(),
        cgroup: node.cgroup.path().to_owned(),
        socket: dir.node(&node.name).join("agent.sock"),
    });
    LabRecord {
        name: options.name.clone(),
        pid: nix::unistd::getpid().as_raw(),
        started: controllers::now().0.to_string(),
        ready: false,
        nodes: nodes.collect(),
        outside: outside.record(),
        api,
        ip_family: options.ip_family,
        routing: options.routing.clone(),
    }
}

/// `1 node`, `3 nodes`.
pub(crate) fn plural(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}
