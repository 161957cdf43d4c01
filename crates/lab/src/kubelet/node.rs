//! One node: its Node object, Ready only while its network could take a Pod.

use std::{
    net::IpAddr,
    os::fd::AsFd,
    path::PathBuf,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde_json::{Value, json};
use tokio::{io::unix::AsyncFd, sync::watch};
use weft_netns::Netns;

use super::{
    Kubelets,
    cni::{Attachments, Network},
};
use crate::{
    controllers::now,
    place::{Cgroup, Names},
};

/// A node of the lab.
pub(crate) struct Node {
    pub(crate) name: String,
    /// What it says of its place (`topology.kubernetes.io/zone`).
    zone: String,
    pub(crate) netns: Arc<Netns>,
    pub(crate) cgroup: Cgroup,
    pub(crate) folder: PathBuf,
    pub(crate) names: Names,
    /// On the fabric.
    pub(crate) addresses: Vec<IpAddr>,
    pub(super) attachments: Attachments,
    inside: mpsc::Sender<Box<dyn FnOnce() + Send>>,
    /// Counts up when the CNI configuration changed.
    network: watch::Sender<u64>,
}

impl Node {
    pub(crate) fn new(
        name: String,
        zone: String,
        netns: Netns,
        cgroup: Cgroup,
        folder: PathBuf,
        names: Names,
        addresses: Vec<IpAddr>,
    ) -> Result<Node> {
        let netns = Arc::new(netns);
        let (inside, tasks) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let home = netns.clone();
        // A thread that stays inside the node, for the many short visits of probes.
        thread::Builder::new().name(name.clone()).spawn(move || {
            let worked = home.run(|| tasks.into_iter().for_each(|task| task()));
            if let Err(error) = worked {
                tracing::error!(%error, "the node's thread has ended");
            }
        })?;
        let (attachments, network) = (Attachments::default(), watch::Sender::new(0));
        Ok(Node { name, zone, netns, cgroup, folder, names, addresses, attachments, inside, network })
    }

    pub(crate) fn cni_conf(&self) -> PathBuf {
        self.folder.join("cni/net.d")
    }

    pub(crate) fn cni_bin(&self) -> PathBuf {
        self.folder.join("cni/bin")
    }

    /// Runs a short task inside the node's namespace.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        task: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let (answer, result) = tokio::sync::oneshot::channel();
        let task = Box::new(move || drop(answer.send(task())));
        self.inside.send(task).ok().context("the node's thread has ended")?;
        result.await.context("the node's thread has ended")
    }

    /// Becomes changed when the network configuration does.
    pub(super) fn network_changes(&self) -> watch::Receiver<u64> {
        self.network.subscribe()
    }
}

/// Keeps the node's condition true until the task is dropped.
pub(super) async fn keep(kubelets: Arc<Kubelets>, node: Arc<Node>) {
    let watching = watch_folder(&node);
    let readiness = keep_ready(&kubelets, &node);
    let collecting = collect(&kubelets, &node);
    let (watched, (), ()) = tokio::join!(watching, readiness, collecting);
    if let Err(error) = watched {
        tracing::error!(node = node.name, %error, "the CNI configuration folder is not watched any more");
    }
}

/// Makes the Node object.
pub(super) async fn register(kubelets: &Kubelets, node: &Node) -> kube::Result<()> {
    let addresses: Vec<Value> = node
        .addresses
        .iter()
        .map(|address| json!({ "type": "InternalIP", "address": address }))
        .chain([json!({ "type": "Hostname", "address": node.name })])
        .collect();
    let release = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
    let architecture = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let amounts = json!({ "cpu": "8", "memory": "16Gi", "ephemeral-storage": "100Gi", "pods": "250" });
    let status = json!({
        "addresses": addresses, "capacity": amounts, "allocatable": amounts,
        "nodeInfo": {
            "machineID": "", "systemUUID": "", "bootID": "", "kubeProxyVersion": "",
            "architecture": architecture,
            "operatingSystem": "linux", "osImage": "Weft lab",
            "kernelVersion": release.unwrap_or_default(),
            "containerRuntimeVersion": concat!("weft-lab://", env!("CARGO_PKG_VERSION")),
            "kubeletVersion": weft_apiserver::VERSION,
        },
        "conditions": conditions(false, "the node has just started"),
    });
    let object = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": node.name, "labels": {
            "kubernetes.io/hostname": node.name, "kubernetes.io/os": "linux",
            "kubernetes.io/arch": architecture,
            // What kubelets go on setting for old manifests.
            "beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": architecture,
            "topology.kubernetes.io/zone": node.zone, "topology.kubernetes.io/region": "lab",
        }},
        "status": status,
    });
    let object: NodeObject = serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
    kubelets.world.nodes.create(&kubelets.world.client, &object).await?;
    kubelets.world.nodes.patch_status(&kubelets.world.client, &object.metadata, &status).await
}

fn conditions(ready: bool, message: &str) -> Value {
    let fine = |kind: &str, reason: &str| {
        json!({ "type": kind, "status": "False", "reason": reason, "message": "",
            "lastHeartbeatTime": now(), "lastTransitionTime": now() })
    };
    let (status, reason) = if ready { ("True", "KubeletReady") } else { ("False", "KubeletNotReady") };
    json!([
        fine("MemoryPressure", "KubeletHasSufficientMemory"),
        fine("DiskPressure", "KubeletHasNoDiskPressure"),
        fine("PIDPressure", "KubeletHasSufficientPID"),
        { "type": "Ready", "status": status, "reason": reason, "message": message,
          "lastHeartbeatTime": now(), "lastTransitionTime": now() },
    ])
}

/// Ready when there is a CNI configuration and its plugins say that they could ADD.
async fn keep_ready(kubelets: &Kubelets, node: &Node) {
    const STEADY: Duration = Duration::from_secs(10);
    let mut changes = node.network_changes();
    let mut said: Option<Result<(), String>> = None;
    let mut pause = Duration::from_millis(50);
    loop {
        changes.mark_unchanged();
        let state = usable(kubelets, node).await.map_err(|error| format!("{error:#}"));
        let mut next = STEADY;
        if said.as_ref() != Some(&state) {
            match say(kubelets, node, &state).await {
                Ok(()) => said = Some(state.clone()),
                Err(error) => {
                    tracing::warn!(node = node.name, %error, "could not write the node's condition, trying again");
                    next = pause;
                }
            }
        }
        if state.is_err() {
            next = pause;
        }
        pause =
            if next == STEADY { Duration::from_millis(50) } else { (pause * 2).min(Duration::from_secs(2)) };
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(next) => {}
        }
    }
}

async fn usable(kubelets: &Kubelets, node: &Node) -> Result<()> {
    let Some(network) = Network::load(&node.cni_conf())? else {
        anyhow::bail!(
            "container runtime network not ready: no CNI configuration in {}",
            node.cni_conf().display()
        );
    };
    network.status(&kubelets.spawner, node).await
}

/// Writes the kubelet's own conditions. A strategic merge leaves those of others, the agent's among them, as they are.
async fn say(kubelets: &Kubelets, node: &Node, state: &Result<(), String>) -> kube::Result<()> {
    let message = state.as_ref().err().map_or("kubelet is posting ready status", String::as_str);
    let patch = json!({ "status": { "conditions": conditions(state.is_ok(), message) } });
    let api: Api<NodeObject> = Api::all(kubelets.world.client.clone());
    match api.patch_status(&node.name, &PatchParams::default(), &Patch::Strategic(&patch)).await {
        Ok(object) => kubelets.world.nodes.put(object),
        // Somebody deleted the object: a kubelet registers again.
        Err(kube::Error::Api(status)) if status.is_not_found() => register(kubelets, node).await?,
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Tells the plugins once a minute which Pods are still there.
async fn collect(kubelets: &Kubelets, node: &Node) {
    loop {
        tokio::time::sleep(Duration::from_secs(60)).await;
        let collected = match Network::load(&node.cni_conf()) {
            Ok(Some(network)) => network.collect(&kubelets.spawner, node, &node.attachments).await,
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = collected {
            tracing::warn!(node = node.name, error = format!("{error:#}"), "CNI GC failed");
        }
    }
}

/// Counts the network's changes up whenever a file of the configuration folder changed.
async fn watch_folder(node: &Node) -> Result<()> {
    let folder = node.cni_conf();
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    let events = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_DELETE;
    inotify.add_watch(&folder, events).with_context(|| folder.display().to_string())?;
    node.network.send_modify(|version| *version += 1);
    // SAFETY: the duplicated descriptor is owned by `descriptor` and stays open and the same as long as it lives.
    let descriptor = unsafe { AsyncFd::register(inotify.as_fd().try_clone_to_owned()?)? };
    loop {
        let mut readable = descriptor.readable().await?;
        match inotify.read_events() {
            Ok(_) => node.network.send_modify(|version| *version += 1),
            Err(nix::Error::EAGAIN) => readable.clear_ready(),
            Err(error) => return Err(error.into()),
        }
    }
}
