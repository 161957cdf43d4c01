//! Ten thousand Services with ten endpoints each, from the API server to the kernel: how long, in how much memory, and what one
//! more change costs then; and the same in a cluster of five thousand nodes. The agent is a process in a namespace of its own; its API
//! server is in this one.

use std::{
    fs::{self, File},
    io::Read as _,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use futures::{StreamExt as _, TryStreamExt as _};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use tokio::{runtime::Runtime, sync::watch, task::JoinHandle as JoinHandleOf};
use weft_agent::admin::{Client, Status};
use weft_apiserver::{ApiServer, Config};
use weft_scratch::Folder;

use crate::{
    binaries,
    report::{Goal, Row, percentile},
    topology::{Bpffs, Cgroup, Scratch, join},
};

pub const SERVICES: usize = 10_000;
const ENDPOINTS: usize = 10;
/// Other nodes, in the end.
const NODES: usize = 5_000;
/// Changes of an endpoint that are timed.
const CHANGES: usize = 300;
/// How long the agent is watched while nothing changes.
const REST: Duration = Duration::from_secs(20);
/// What takes longer than this does not happen.
pub const PATIENCE: Duration = Duration::from_secs(300);

const NODE: &str = "node-1";
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
/// Where the backend of the Service that is timed listens.
const PORT: u16 = 8080;

/// The benchmark.
pub fn run() -> anyhow::Result<Vec<Row>> {
    let cluster = Cluster::start()?;
    eprintln!("    {SERVICES} Services with {ENDPOINTS} endpoints each are created");
    cluster.fill()?;
    let mut agent = Agent::start(&cluster, &[])?;
    let took = agent.in_force(SERVICES + 1)?;
    let settled = agent.memory()?;
    cluster.start_backend()?;
    let changes = cluster.time_changes(&agent)?;
    let worst = agent.memory()?;
    agent.again(&cluster)?;
    let adopted = agent.in_force(SERVICES + 1)?;
    let many = among_many_nodes(&cluster, &agent)?;
    let millis = |seconds: f64| seconds * 1000.0;
    let p50 = millis(percentile(&changes, 0.5));
    let p99 = millis(percentile(&changes, 0.99));
    let mut rows = vec![
        Row::absolute(
            "10,000 Services, 100,000 endpoints: agent start to in force",
            "s",
            &[took],
            Goal::AtMost(3.0),
        ),
        Row::absolute("the same after a restart of the agent", "s", &[adopted], Goal::AtMost(3.0)),
        Row::absolute("agent's memory with them", "MiB", &[settled.now], Goal::AtMost(100.0)),
        Row::absolute("agent's memory at its most", "MiB", &[worst.most], Goal::AtMost(100.0)),
        Row::absolute("endpoint change, API request to kernel, p50", "ms", &[p50], Goal::AtMost(5.0)),
        Row::absolute("endpoint change, API request to kernel, p99", "ms", &[p99], Goal::AtMost(5.0)),
    ];
    rows.extend(many);
    Ok(rows)
}

/// None of the other nodes answers, which costs the most: what is lost is asked for again.
fn among_many_nodes(cluster: &Cluster, agent: &Agent) -> anyhow::Result<Vec<Row>> {
    eprintln!("    {NODES} nodes join");
    cluster.join_many()?;
    agent.wait_for("the nodes are not known", |status| status.peers.len() == NODES)?;
    // What follows from their arrival is no rest.
    thread::sleep(REST / 2);
    let before = agent.processor()?;
    thread::sleep(REST);
    let busy = (agent.processor()? - before) / REST.as_secs_f64() * 100.0;
    let memory = agent.memory()?;
    let changes = cluster.time_changes(agent)?;
    let p50 = percentile(&changes, 0.5) * 1000.0;
    Ok(vec![
        Row::absolute("and 5,000 nodes: the agent at rest, of a core", "%", &[busy], Goal::AtMost(5.0)),
        Row::absolute("agent's memory with them", "MiB", &[memory.now], Goal::AtMost(120.0)),
        Row::absolute("endpoint change, API request to kernel, p50", "ms", &[p50], Goal::AtMost(5.0)),
    ])
}

/// An API server, and the namespace and cgroup of the one node that it knows.
pub struct Cluster {
    /// The node.
    pub node: Scratch,
    _fabric: Scratch,
    cgroup: Cgroup,
    bpffs: Bpffs,
    folder: Folder,
    /// Where requests are made.
    pub runtime: Runtime,
    client: kube::Client,
    stop: watch::Sender<bool>,
    serving: Option<JoinHandle<anyhow::Result<()>>>,
}

/// Mebibytes.
pub struct Memory {
    /// Now.
    pub now: f64,
    /// At its most.
    pub most: f64,
}

impl Cluster {
    /// An API server that knows one node.
    pub fn start() -> anyhow::Result<Cluster> {
        let (node, fabric) = (Scratch::new()?, Scratch::new()?);
        join(&node, &fabric, [IpAddr::V4(ADDRESS), IpAddr::from([192, 168, 1, 1])])?;
        let api = ApiServer::new(Config::default())?;
        let inside = node.0.run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))??;
        let outside = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let folder = weft_scratch::folder();
        for (name, listener) in [("inside", &inside), ("outside", &outside)] {
            let url = format!("https://{}", listener.local_addr()?);
            fs::write(folder.path().join(name), api.kubeconfig(&url, "bench"))?;
        }
        let (stop, drain) = watch::channel(false);
        let serving = thread::spawn(move || serve(&api, inside, outside, &drain));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let client = runtime.block_on(connect(folder.path().join("outside")))?;
        let cluster = Cluster {
            node,
            _fabric: fabric,
            cgroup: Cgroup::new()?,
            bpffs: Bpffs::new(),
            folder,
            runtime,
            client,
            stop,
            serving: Some(serving),
        };
        cluster.add_node()?;
        Ok(cluster)
    }

    fn add_node(&self) -> anyhow::Result<()> {
        let spec = json!({ "podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"] });
        self.runtime.block_on(async {
            create(&self.client, "/api/v1/nodes", &json!({ "metadata": { "name": NODE }, "spec": spec }))
                .await?;
            let addresses = json!([{ "type": "InternalIP", "address": ADDRESS.to_string() }]);
            let path = format!("/api/v1/nodes/{NODE}/status");
            patch(&self.client, &path, &json!({ "status": { "addresses": addresses } })).await
        })
    }

    /// Many nodes join, of which nothing else is there.
    fn join_many(&self) -> anyhow::Result<()> {
        let all = (0..NODES).map(|number| async move {
            let name = format!("other-{number}");
            let range = format!("10.{}.{}.0/24", 16 + number / 256, number % 256);
            let node =
                json!({ "metadata": { "name": name }, "spec": { "podCIDR": range, "podCIDRs": [range] } });
            create(&self.client, "/api/v1/nodes", &node).await?;
            let address = format!("172.16.{}.{}", number / 250, 1 + number % 250);
            let addresses = json!([{ "type": "InternalIP", "address": address }]);
            let path = format!("/api/v1/nodes/{name}/status");
            patch(&self.client, &path, &json!({ "status": { "addresses": addresses } })).await
        });
        self.runtime.block_on(futures::stream::iter(all).buffer_unordered(16).try_collect::<()>())
    }

    /// Creates all Services and their endpoints; those of the first are nowhere yet.
    pub fn fill(&self) -> anyhow::Result<()> {
        let all = (0..SERVICES).map(|number| async move {
            create(&self.client, "/api/v1/namespaces/default/services", &service(number)).await?;
            create(&self.client, SLICES, &slice(number)).await
        });
        self.runtime.block_on(futures::stream::iter(all).buffer_unordered(16).try_collect::<()>())
    }

    /// Creates an object; `path` is its collection's.
    pub fn create(&self, path: &str, object: &Value) -> anyhow::Result<()> {
        self.runtime.block_on(create(&self.client, path, object))
    }

    /// Changes an object, while the caller does something else.
    pub fn patch_later(&self, path: &str, object: Value) -> JoinHandleOf<anyhow::Result<()>> {
        self.runtime.spawn(patch_owned(self.client.clone(), path.to_owned(), object))
    }

    /// Starts the backend of the Service that is timed.
    fn start_backend(&self) -> anyhow::Result<()> {
        let backend = self.node.0.run(|| TcpListener::bind((ADDRESS, PORT)))??;
        thread::spawn(move || while backend.accept().is_ok() {});
        Ok(())
    }

    /// The time from each request that changes an endpoint until a connection on the node meets the change, in seconds. The
    /// first Service's only endpoint comes and goes.
    fn time_changes(&self, agent: &Agent) -> anyhow::Result<Vec<f64>> {
        let path = "/api/v1/namespaces/default/services/s00000";
        let service: Value = self.runtime.block_on(get(&self.client, path))?;
        let address: IpAddr = service["spec"]["clusterIP"].as_str().context("a cluster IP")?.parse()?;
        let _inside = self.cgroup.enter()?;
        let mut times = Vec::new();
        let slice = format!("{SLICES}/s00000");
        for change in 0..CHANGES {
            agent.alive()?;
            let ready = change % 2 == 0;
            let endpoints = json!([endpoint(&ADDRESS.to_string(), ready)]);
            let begun = Instant::now();
            let meets = self.node.0.run(|| -> anyhow::Result<Duration> {
                let request = self.patch_later(&slice, json!({ "endpoints": endpoints }));
                loop {
                    let connected = TcpStream::connect(SocketAddr::new(address, 80)).is_ok();
                    if connected == ready {
                        let took = begun.elapsed();
                        self.runtime.block_on(request)??;
                        return Ok(took);
                    }
                    if begun.elapsed() > PATIENCE {
                        bail!("an endpoint's change does not reach the kernel");
                    }
                    thread::sleep(Duration::from_micros(50));
                }
            })??;
            times.push(meets.as_secs_f64());
        }
        Ok(times)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        match self.serving.take().map(JoinHandle::join) {
            Some(Ok(Err(error))) => eprintln!("warning: API server: {error:#}"),
            Some(Err(_)) => eprintln!("warning: the API server panicked"),
            _ => {}
        }
    }
}

/// The agent's process.
pub struct Agent {
    process: Child,
    begun: Instant,
    socket: PathBuf,
    log: PathBuf,
}

impl Agent {
    /// Starts it with these arguments and those that it always has here.
    pub fn start(cluster: &Cluster, more: &[&str]) -> anyhow::Result<Agent> {
        let path = |name: &str| cluster.folder.path().join(name);
        fs::create_dir_all(path("bin"))?;
        fs::write(path("bin/weft-cni"), "no Pod is attached here")?;
        let (socket, log) = (path("agent.sock"), path("agent.log"));
        let mut command = Command::new(binaries::path("weft")?);
        command.args(["agent", "--node-name", NODE, "--uplink", "eth0", "--service-cidr", "10.96.0.0/16"]);
        command.args(["--metrics", "off", "--healthz", "off", "--routing", "overlay"]).args(more);
        command
            .arg("--cgroup-root")
            .arg(cluster.cgroup.path())
            .arg("--bpffs")
            .arg(cluster.bpffs.path().join("weft"));
        for (flag, name) in [
            ("--kubeconfig", "inside"),
            ("--cni-conf-dir", "net.d"),
            ("--cni-bin-dir", "bin"),
            ("--state-dir", "state"),
        ] {
            command.arg(flag).arg(path(name));
        }
        command.arg("--socket").arg(&socket).stdin(Stdio::null()).stderr(File::create(&log)?);
        let begun = Instant::now();
        let process = cluster.node.0.enter_child(&mut command)?.spawn().context("weft agent")?;
        Ok(Agent { process, begun, socket, log })
    }

    /// Ends the agent, and starts the next one.
    fn again(&mut self, cluster: &Cluster) -> anyhow::Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        *self = Agent::start(cluster, &[])?;
        Ok(())
    }

    /// Fails when it has ended; why.
    pub fn alive(&self) -> anyhow::Result<()> {
        if !PathBuf::from(format!("/proc/{}/stat", self.process.id())).exists() {
            bail!("the agent has ended: {}", self.words());
        }
        Ok(())
    }

    fn words(&self) -> String {
        let mut log = String::new();
        // What cannot be read is not told.
        let _ = File::open(&self.log).and_then(|mut file| file.read_to_string(&mut log));
        log.lines().rev().take(5).collect::<Vec<_>>().join("\n")
    }

    /// Waits until the kernel serves so many Services; how long that took from the agent's start, in seconds.
    pub fn in_force(&self, services: usize) -> anyhow::Result<f64> {
        self.wait_for("Services are not in force", |status| {
            status.services.synced && status.services.services == services as u64
        })
    }

    /// Waits until the agent says so; how long that took from its start, in seconds.
    fn wait_for(&self, otherwise: &str, so: impl Fn(&Status) -> bool) -> anyhow::Result<f64> {
        loop {
            let status = Client::connect(&self.socket).and_then(|mut client| client.status());
            if status.as_ref().is_ok_and(&so) {
                return Ok(self.begun.elapsed().as_secs_f64());
            }
            self.alive()?;
            if self.begun.elapsed() > PATIENCE {
                let services = status.map(|status| (status.services, status.peers.len()));
                bail!("{otherwise}: {services:?}; {}", self.words());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The processor time that it has had, in seconds.
    fn processor(&self) -> anyhow::Result<f64> {
        const TICKS: f64 = 100.0;
        let text = fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        // Behind the name: state, ten more, and then its own time and the kernel's for it (proc_pid_stat(5)).
        let (_, fields) = text.rsplit_once(") ").context("no fields")?;
        let ticks: Vec<f64> = fields
            .split(' ')
            .skip(11)
            .take(2)
            .map(str::parse)
            .collect::<Result<_, _>>()
            .context("no time")?;
        Ok(ticks.iter().sum::<f64>() / TICKS)
    }

    pub fn memory(&self) -> anyhow::Result<Memory> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let mebibytes = |key: &str| -> anyhow::Result<f64> {
            let line =
                status.lines().find_map(|line| line.strip_prefix(key)).context("the process has memory")?;
            let kibibytes: f64 = line.trim_matches(|c: char| !c.is_ascii_digit()).parse()?;
            Ok(kibibytes / 1024.0)
        };
        Ok(Memory { now: mebibytes("VmRSS")?, most: mebibytes("VmHWM")? })
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Where slices are.
pub const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

fn service(number: usize) -> Value {
    let name = format!("s{number:05}");
    json!({
        "metadata": { "name": name, "labels": { "app.kubernetes.io/name": name } },
        "spec": { "selector": { "app": name }, "ports": [{ "name": "http", "port": 80, "targetPort": "http" }] },
    })
}

/// As a cluster has it: with an owner, a target and a zone each.
fn slice(number: usize) -> Value {
    let name = format!("s{number:05}");
    let endpoints: Vec<Value> = (0..ENDPOINTS)
        .map(|i| {
            let host = number * ENDPOINTS + i;
            let mut one = endpoint(&format!("10.{}.{}.{}", 128 + host / 65_025, host / 255 % 255, 1 + host % 255), true);
            let target = json!({ "kind": "Pod", "namespace": "default", "name": format!("{name}-7d9c6bb7b-x{i:04}"), "uid": format!("{host:032x}") });
            one["targetRef"] = target;
            one["nodeName"] = json!(format!("node-{}", 2 + host % 100));
            one["zone"] = json!("zone-a");
            one
        })
        .collect();
    json!({
        "metadata": { "name": name, "labels": {
            "kubernetes.io/service-name": name, "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
        } },
        "addressType": "IPv4",
        "ports": [{ "name": "http", "port": PORT, "protocol": "TCP" }],
        "endpoints": if number == 0 { Vec::new() } else { endpoints },
    })
}

/// An endpoint as a slice has it.
pub fn endpoint(address: &str, ready: bool) -> Value {
    json!({ "addresses": [address], "conditions": { "ready": ready, "serving": ready, "terminating": false } })
}

fn serve(
    api: &ApiServer,
    inside: TcpListener,
    outside: TcpListener,
    drain: &watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let both = tokio::join!(api.serve(inside, drain.clone()), api.serve(outside, drain.clone()));
        both.0?;
        both.1?;
        Ok(())
    })
}

async fn connect(kubeconfig: PathBuf) -> anyhow::Result<kube::Client> {
    let file = Kubeconfig::read_from(kubeconfig)?;
    let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    Ok(kube::Client::try_from(config)?)
}

async fn create(client: &kube::Client, path: &str, object: &Value) -> anyhow::Result<()> {
    send(client, "POST", path, "application/json", Some(object)).await.map(drop)
}

async fn patch(client: &kube::Client, path: &str, object: &Value) -> anyhow::Result<()> {
    send(client, "PATCH", path, "application/merge-patch+json", Some(object)).await.map(drop)
}

async fn patch_owned(client: kube::Client, path: String, object: Value) -> anyhow::Result<()> {
    patch(&client, &path, &object).await
}

async fn get(client: &kube::Client, path: &str) -> anyhow::Result<Value> {
    send(client, "GET", path, "application/json", None).await
}

async fn send(
    client: &kube::Client,
    method: &str,
    path: &str,
    kind: &str,
    object: Option<&Value>,
) -> anyhow::Result<Value> {
    let body = object.map_or_else(Vec::new, |object| object.to_string().into_bytes());
    let request =
        http::Request::builder().method(method).uri(path).header("content-type", kind).body(body)?;
    Ok(client.request(request).await?)
}
