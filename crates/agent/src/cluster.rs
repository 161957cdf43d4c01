//! The agent and the API server: what is watched goes to the node, what the node reports goes to its object.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::sleep,
};
use weft_kube::{
    Client, Mirror, ObjectRef, ServiceEvents, WarningEvent, WatchHealth, keep_conditions, watch_nodes,
    watch_pods, watch_services, watch_slices,
};
use weft_model::{
    Node, NodeName, Protocol,
    services::{Event, SliceKey},
};

use crate::{
    drain::Drain,
    node::{Readiness, thread::Handle},
    socket::Api,
    store::write_atomically,
    symptoms::Symptoms,
};

/// Between two attempts to publish what the API server did not take.
const AGAIN: Duration = Duration::from_secs(5);

/// So many Services and EndpointSlices are on their way to the node's thread; then the watches wait.
const ON_THE_WAY: usize = 512;

/// State file: where API servers were last said to be. An agent that starts where Services are not served yet asks there.
pub(crate) const API_SERVERS: &str = "api-servers.json";
/// The Service whose endpoints they are.
const API: (&str, &str) = ("default", "kubernetes");

/// What is heard of Services and EndpointSlices, and when.
pub(crate) type Heard = mpsc::Receiver<(Instant, Event)>;

/// Follows the API server and reports to it until the drain begins.
pub(crate) struct Cluster {
    tasks: JoinSet<()>,
    services: Heard,
    servers: Servers,
}

impl Cluster {
    /// Starts to watch; returns what is seen. With `names`, what is heard of all Services is heard there too.
    pub(crate) fn watch(
        client: &Client,
        name: &NodeName,
        names: bool,
        state_dir: &std::path::Path,
    ) -> (Self, Api, Option<Heard>) {
        let (nodes, nodes_seen) = watch::channel(Mirror::default());
        let (pods, pods_seen) = watch::channel(Mirror::default());
        let health = || watch::channel(WatchHealth::default()).0;
        let (served, services) = mpsc::channel(ON_THE_WAY);
        let (all, heard) = names.then(|| mpsc::channel(ON_THE_WAY)).unzip();
        let events = ServiceEvents { served, all };
        let mut tasks = JoinSet::new();
        tasks.spawn(watch_nodes(client.clone(), nodes, health()));
        tasks.spawn(watch_pods(client.clone(), name.clone(), pods, health()));
        tasks.spawn(watch_services(client.clone(), events.clone(), health()));
        tasks.spawn(watch_slices(client.clone(), events, health()));
        let api = Api { client: client.clone(), nodes: nodes_seen, pods: pods_seen };
        let servers =
            Servers { client: client.clone(), file: state_dir.join(API_SERVERS), slices: BTreeMap::new() };
        (Self { tasks, services, servers }, api, heard)
    }

    /// Passes on what is seen and what is to be told, until the drain begins.
    pub(crate) async fn run(
        mut self,
        client: Client,
        name: NodeName,
        node: Handle,
        api: Api,
        (warnings, symptoms): (watch::Receiver<Vec<WarningEvent>>, watch::Receiver<Symptoms>),
        mut drain: Drain,
    ) -> anyhow::Result<()> {
        let readiness = node.readiness();
        let (conditions, wanted) = watch::channel(Vec::new());
        self.tasks.spawn(pass_nodes(api.nodes, node.clone()));
        self.tasks.spawn(pass_services(self.services, node, self.servers));
        self.tasks.spawn(keep_conditions(client.clone(), name, wanted));
        self.tasks.spawn(pass_conditions(readiness.clone(), conditions));
        self.tasks.spawn(publish(client.clone(), readiness, |readiness| readiness.events.clone()));
        self.tasks.spawn(publish(client.clone(), warnings, Vec::clone));
        self.tasks.spawn(publish(client, symptoms, |symptoms| symptoms.events.clone()));
        drain.begun().await;
        self.tasks.shutdown().await;
        Ok(())
    }
}

async fn pass_nodes(mut nodes: watch::Receiver<Mirror<NodeName, Node>>, node: Handle) {
    loop {
        let known = {
            let mirror = nodes.borrow_and_update();
            mirror.is_synced().then(|| mirror.objects().values().cloned().collect())
        };
        if let Some(known) = known
            && node.set_nodes(known).await.is_err()
        {
            return;
        }
        if nodes.changed().await.is_err() {
            return;
        }
    }
}

/// Where API servers are, as the API itself says.
struct Servers {
    client: Client,
    file: PathBuf,
    slices: BTreeMap<SliceKey, Vec<SocketAddr>>,
}

impl Servers {
    fn hear(&mut self, event: &Event) {
        let known = match event {
            Event::Slice(slice) if (&*slice.key.namespace, &*slice.service) == API => {
                let endpoints = slice.endpoints.iter().filter(|endpoint| endpoint.ready);
                let ports = slice.ports.iter().filter(|port| port.protocol == Protocol::Tcp);
                let ports: Vec<u16> = ports.map(|port| port.port).collect();
                let addresses =
                    endpoints.flat_map(|one| ports.iter().map(|port| SocketAddr::new(one.address, *port)));
                self.slices.insert(slice.key.clone(), addresses.collect())
            }
            Event::SliceGone(key) => match self.slices.remove(key) {
                None => return,
                gone => gone,
            },
            _ => return,
        };
        let all: Vec<SocketAddr> = self.slices.values().flatten().copied().collect();
        // A cluster has one; that it has none is no news that an agent could use.
        if all.is_empty() || known.as_ref() == Some(&all) {
            return;
        }
        self.client.learn_servers(all.clone());
        let saved = serde_json::to_vec(&all)
            .map_err(io::Error::from)
            .and_then(|bytes| write_atomically(&self.file, &bytes, 0o644));
        if let Err(error) = saved {
            tracing::warn!("where API servers are is not remembered: {}: {error}", self.file.display());
        }
    }
}

async fn pass_services(mut events: Heard, node: Handle, mut servers: Servers) {
    let mut batch = Vec::new();
    while events.recv_many(&mut batch, ON_THE_WAY).await > 0 {
        batch.iter().for_each(|(_, event)| servers.hear(event));
        if node.hear(std::mem::take(&mut batch)).await.is_err() {
            return;
        }
    }
}

async fn pass_conditions(
    mut readiness: watch::Receiver<Readiness>,
    conditions: watch::Sender<Vec<weft_kube::Condition>>,
) {
    loop {
        let wanted = readiness.borrow_and_update().conditions.clone();
        conditions.send_if_modified(|last| {
            let news = !wanted.is_empty() && *last != wanted;
            if news {
                last.clone_from(&wanted);
            }
            news
        });
        if readiness.changed().await.is_err() {
            return;
        }
    }
}

/// Publishes each warning once; again when it went away and came back.
async fn publish<T>(client: Client, mut source: watch::Receiver<T>, warnings: fn(&T) -> Vec<WarningEvent>) {
    let mut told: HashSet<(ObjectRef, String)> = HashSet::new();
    let name = |event: &WarningEvent| (event.about.clone(), event.message.clone());
    loop {
        let events = warnings(&source.borrow_and_update());
        told.retain(|one| events.iter().any(|event| name(event) == *one));
        let mut failed = false;
        for event in events.iter().filter(|event| !told.contains(&name(event))).collect::<Vec<_>>() {
            match client.publish(event).await {
                Ok(()) => drop(told.insert(name(event))),
                Err(error) => {
                    if !error.is_away() {
                        tracing::warn!("Event about {} cannot be published: {error}", event.about);
                    }
                    failed = true;
                }
            }
        }
        tokio::select! {
            () = sleep(AGAIN), if failed => {}
            changed = source.changed() => if changed.is_err() { return },
        }
    }
}
