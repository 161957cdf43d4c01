//! The stand-in for the kubelets: one task a node that keeps its Node object, one task a Pod that makes it run.

mod account;
mod board;
mod cni;
mod command;
mod container;
mod env;
mod log;
mod names;
mod node;
mod pod;
mod probe;
mod process;
mod sandbox;
mod session;
mod status;
mod terminal;
mod volumes;

use std::{collections::HashMap, net::IpAddr, path::PathBuf, sync::Arc};

use k8s_openapi::api::core::v1::Pod;
use tokio::{sync::watch, task::JoinSet};

pub use process::{ContainerPlace, ContainerSpec, Mount, NotStarted, run_container};
pub(crate) use process::{read_spec, run};

pub(crate) use log::{ContainerLog, Logs};
pub(crate) use node::Node;
pub(crate) use session::Sessions;

use crate::{
    place::{LabDir, Spawner},
    world::{Events, World},
};

/// What every kubelet of the lab shares.
pub(crate) struct Kubelets {
    pub(crate) world: World,
    pub(crate) lab: LabDir,
    pub(crate) spawner: Spawner,
    pub(crate) logs: Arc<Logs>,
    events: Arc<Events>,
    /// The `weft` executable, which starts containers.
    pub(crate) executable: PathBuf,
    live: session::Live,
    /// Addresses of the cluster's DNS.
    cluster_dns: Vec<IpAddr>,
    /// The API server's certificate authority, PEM.
    authority: String,
}

impl Kubelets {
    pub(crate) fn new(
        world: World,
        lab: LabDir,
        spawner: Spawner,
        logs: Arc<Logs>,
        executable: PathBuf,
        cluster_dns: Vec<IpAddr>,
        authority: String,
    ) -> Arc<Kubelets> {
        let events = world.events.clone();
        let live = session::Live::default();
        Arc::new(Kubelets { world, lab, spawner, logs, events, executable, live, cluster_dns, authority })
    }

    /// Makes the Node objects, in order: the first node gets the first Pod range.
    pub(crate) async fn register(&self, nodes: &[Arc<Node>]) -> kube::Result<()> {
        for node in nodes {
            node::register(self, node).await?;
        }
        Ok(())
    }

    /// Keeps the Node objects and runs the Pods of `nodes` until the task is dropped.
    pub(crate) async fn run(self: Arc<Self>, nodes: Vec<Arc<Node>>) {
        let mut tasks = JoinSet::new();
        for node in &nodes {
            tasks.spawn(node::keep(self.clone(), node.clone()));
        }
        let nodes: HashMap<String, Arc<Node>> =
            nodes.into_iter().map(|node| (node.name.clone(), node)).collect();
        let mut running: HashMap<String, watch::Sender<Option<Arc<Pod>>>> = HashMap::new();
        let mut changed = self.world.pods.subscribe();
        loop {
            changed.mark_unchanged();
            self.dispatch(&nodes, &mut running, &mut tasks);
            while tasks.try_join_next().is_some() {}
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Starts a task for each Pod that is new here and tells the others what changed.
    fn dispatch(
        self: &Arc<Self>,
        nodes: &HashMap<String, Arc<Node>>,
        running: &mut HashMap<String, watch::Sender<Option<Arc<Pod>>>>,
        tasks: &mut JoinSet<()>,
    ) {
        let mut seen = std::collections::HashSet::new();
        for pod in self.world.pods.list() {
            let (Some(uid), Some(spec)) = (pod.metadata.uid.clone(), &pod.spec) else { continue };
            let Some(node) = spec.node_name.as_ref().and_then(|name| nodes.get(name)) else { continue };
            seen.insert(uid.clone());
            match running.get(&uid) {
                Some(sender) => {
                    sender.send_if_modified(|held| {
                        let newer = held.as_ref().is_some_and(|held| {
                            held.metadata.resource_version != pod.metadata.resource_version
                        });
                        if newer {
                            *held = Some(pod.clone());
                        }
                        newer
                    });
                }
                None => {
                    let (sender, receiver) = watch::channel(Some(pod.clone()));
                    tasks.spawn(pod::run(self.clone(), node.clone(), pod, receiver));
                    running.insert(uid, sender);
                }
            }
        }
        running.retain(|uid, sender| {
            let stays = seen.contains(uid);
            if !stays {
                sender.send_replace(None);
            }
            stays
        });
    }
}
