//! One Pod, from its start on a node to its end.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Result, bail};
use k8s_openapi::{
    api::core::v1::{Container, Pod, PodIP},
    apimachinery::pkg::util::intstr::IntOrString,
};
use serde_json::Value;
use tokio::{sync::watch, task::JoinHandle};

use super::{
    Kubelets,
    board::{Board, Slot},
    container::{Role, Surroundings, lock, ports_of, supervise},
    node::Node,
    sandbox::Sandbox,
    status,
};
use crate::{
    controllers::{is_finished, is_terminating, selects_labels},
    responder::{Identity, Port, Protocol, Responder},
    world::{World, key_of},
};

type Current = watch::Receiver<Option<Arc<Pod>>>;

/// Runs a Pod to its end. `current` holds the object as it is now, none when it is gone.
pub(super) async fn run(kubelets: Arc<Kubelets>, node: Arc<Node>, pod: Arc<Pod>, mut current: Current) {
    let board = Arc::new(Board::new(&pod));
    if !is_finished(&pod) && !is_terminating(&pod) {
        let reporter = tokio::spawn(report(kubelets.clone(), node.clone(), pod.clone(), board.clone()));
        if let Some(sandbox) = make_sandbox(&kubelets, &node, &pod, &board, &mut current).await {
            let sandbox = Arc::new(sandbox);
            run_containers(&kubelets, &node, &pod, &board, &sandbox, &mut current).await;
            remove_sandbox(&kubelets, &node, &pod, &sandbox).await;
        }
        ended(&mut current).await;
        reporter.abort();
    } else {
        ended(&mut current).await;
    }
    forget(&kubelets, &pod).await;
}

/// Waits until the Pod is deleted, or gone altogether.
async fn ended(current: &mut Current) {
    // Without a sender the lab is going down.
    let _ = current.wait_for(|pod| pod.as_ref().is_none_or(|pod| is_terminating(pod))).await;
}

async fn make_sandbox(
    kubelets: &Kubelets,
    node: &Node,
    pod: &Pod,
    board: &Board,
    current: &mut Current,
) -> Option<Sandbox> {
    let mut network = node.network_changes();
    let mut pause = Duration::from_millis(100);
    loop {
        network.mark_unchanged();
        // An attempt is never cut short: what it made it also takes away.
        match Sandbox::create(kubelets, node, pod).await {
            Ok(sandbox) => {
                board.change(|state| {
                    state.addresses.clone_from(&sandbox.addresses);
                    (state.networked, state.problem) = (true, None);
                    state.initialized = state.init.is_empty();
                });
                return Some(sandbox);
            }
            Err(error) => {
                let problem = format!("{error:#}");
                tracing::debug!(pod = pod.metadata.name, problem, "no sandbox yet");
                if board.read().problem.as_ref() != Some(&problem) {
                    kubelets.events.warning(pod, "FailedCreatePodSandBox", &problem);
                }
                board.change(|state| state.problem = Some(problem));
            }
        }
        tokio::select! {
            () = ended(current) => return None,
            // The sender lives as long as the node.
            _ = network.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(Duration::from_secs(5));
    }
}

/// A container that was started.
struct Started {
    stop: watch::Sender<Option<Duration>>,
    task: JoinHandle<i32>,
}

async fn run_containers(
    kubelets: &Arc<Kubelets>,
    node: &Arc<Node>,
    pod: &Arc<Pod>,
    board: &Arc<Board>,
    sandbox: &Arc<Sandbox>,
    current: &mut Current,
) {
    let mut told = (**pod).clone();
    let status = told.status.get_or_insert_default();
    status.pod_ips = Some(sandbox.addresses.iter().map(|ip| PodIP { ip: ip.to_string() }).collect());
    status.pod_ip = sandbox.addresses.first().map(ToString::to_string);
    status.host_ip = node.addresses.first().map(ToString::to_string);
    let told = Arc::new(told);
    let ports = Arc::new(Mutex::new(Ports::new(kubelets, told.clone(), sandbox)));
    let surroundings = Arc::new(Surroundings {
        kubelets: kubelets.clone(),
        node: node.clone(),
        pod: told,
        sandbox: sandbox.clone(),
        board: board.clone(),
        ports: ports.clone(),
    });
    let follower = tokio::spawn(follow_services(kubelets.world.clone(), ports, current.clone()));
    let mut started = Vec::new();
    let mut sidecars = Vec::new();
    if initialize(&surroundings, current, &mut sidecars).await {
        board.change(|state| state.initialized = true);
        let containers = pod.spec.as_ref().map(|spec| spec.containers.clone()).unwrap_or_default();
        for (index, container) in containers.into_iter().enumerate() {
            started.push(start(&surroundings, container, Role::App, Slot::App(index)));
        }
        let all = async {
            for one in &mut started {
                // A container whose task panicked counts as ended; the others go on.
                let _ = (&mut one.task).await;
            }
        };
        tokio::select! {
            () = all => started.clear(),
            () = ended(current) => {}
        }
    }
    let grace = grace_of(current, pod);
    stop(started, grace).await;
    // Sidecars end last, in reverse order of their start.
    sidecars.reverse();
    for sidecar in sidecars {
        stop(vec![sidecar], grace).await;
    }
    follower.abort();
}

fn start(surroundings: &Arc<Surroundings>, container: Container, role: Role, slot: Slot) -> Started {
    let (stop, stopped) = watch::channel(None);
    let task = tokio::spawn(supervise(surroundings.clone(), container, role, slot, stopped));
    Started { stop, task }
}

async fn stop(containers: Vec<Started>, grace: Duration) {
    for container in &containers {
        container.stop.send_replace(Some(grace));
    }
    for container in containers {
        let task = container.task;
        if task.is_finished() {
            continue;
        }
        let _ = task.await;
    }
}

fn grace_of(current: &Current, pod: &Pod) -> Duration {
    let asked = current.borrow().as_ref().and_then(|pod| pod.metadata.deletion_grace_period_seconds);
    let own = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    Duration::from_secs(asked.or(own).unwrap_or(30).max(0).unsigned_abs())
}

/// Runs the init containers one after the other. True when the others may start.
async fn initialize(
    surroundings: &Arc<Surroundings>,
    current: &mut Current,
    sidecars: &mut Vec<Started>,
) -> bool {
    let spec = surroundings.pod.spec.as_ref();
    let containers = spec.and_then(|spec| spec.init_containers.clone()).unwrap_or_default();
    for (index, container) in containers.into_iter().enumerate() {
        let slot = Slot::Init(index);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.push(start(surroundings, container, Role::Sidecar, slot));
            let mut changed = surroundings.board.subscribe();
            let begun = async {
                while !surroundings.board.read().init.get(index).is_some_and(|state| state.started) {
                    if changed.changed().await.is_err() {
                        return;
                    }
                }
            };
            tokio::select! {
                () = begun => continue,
                () = ended(current) => return false,
            }
        }
        let mut one = start(surroundings, container, Role::Init, slot);
        tokio::select! {
            code = &mut one.task => if !matches!(code, Ok(0)) { return false },
            () = ended(current) => {
                stop(vec![one], grace_of(current, &surroundings.pod)).await;
                return false;
            }
        }
    }
    true
}

async fn remove_sandbox(kubelets: &Kubelets, node: &Node, pod: &Pod, sandbox: &Sandbox) {
    let mut pause = Duration::from_millis(100);
    while let Err(error) = sandbox.remove(kubelets, node, pod).await {
        let problem = format!("{error:#}");
        tracing::warn!(pod = pod.metadata.name, problem, "could not take the Pod down, trying again");
        kubelets.events.warning(pod, "FailedKillPod", &problem);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    }
}

/// Tells the API that nothing of the Pod is left, and removes its files.
async fn forget(kubelets: &Kubelets, pod: &Pod) {
    let mut pause = Duration::from_millis(100);
    while let Err(error) = kubelets.world.pods.delete(&kubelets.world.client, &pod.metadata, Some(0)).await {
        tracing::warn!(pod = pod.metadata.name, %error, "could not delete the Pod, trying again");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    }
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    kubelets.logs.forget(uid);
    let folder = kubelets.lab.pod(uid);
    if folder.exists()
        && let Err(error) = std::fs::remove_dir_all(&folder)
    {
        tracing::warn!(folder = %folder.display(), %error, "files of a Pod stay until the lab goes");
    }
}

/// Writes the Pod's status whenever its board changed.
async fn report(kubelets: Arc<Kubelets>, node: Arc<Node>, pod: Arc<Pod>, board: Arc<Board>) {
    let mut changed = board.subscribe();
    let mut before = Value::Null;
    // Most Pods have their network and run within this time: one write less for each.
    let _ = tokio::time::timeout(Duration::from_millis(200), changed.changed()).await;
    let mut pause = Duration::from_millis(50);
    loop {
        changed.mark_unchanged();
        let status = status::of(&pod, &node, &board.read(), &before);
        if status != before {
            let world = &kubelets.world;
            match world.pods.patch_status(&world.client, &pod.metadata, &status).await {
                Ok(()) => (before, pause) = (status, Duration::from_millis(50)),
                Err(error) => {
                    tracing::warn!(pod = pod.metadata.name, %error, "could not write the Pod's status, trying again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(5));
                    continue;
                }
            }
        }
        if changed.changed().await.is_err() {
            return;
        }
    }
}

/// The ports on which the responder answers for a Pod.
pub(super) struct Ports {
    responder: Responder,
    world: World,
    pod: Arc<Pod>,
    /// Ports of each container that the responder stands in for.
    containers: BTreeMap<String, BTreeSet<Port>>,
    /// Ports of containers that run for real.
    excluded: BTreeMap<String, BTreeSet<Port>>,
}

impl Ports {
    fn new(kubelets: &Kubelets, pod: Arc<Pod>, sandbox: &Sandbox) -> Ports {
        let (namespace, name) = key_of(&pod.metadata);
        let spec = pod.spec.clone().unwrap_or_default();
        let identity = Identity {
            pod: name,
            namespace,
            node: spec.node_name.unwrap_or_default(),
            service_account: spec.service_account_name.unwrap_or_else(|| "default".into()),
        };
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let container = spec.containers.first().map(|container| container.name.clone()).unwrap_or_default();
        let logs = kubelets.logs.clone();
        let log = Arc::new(move |line: &str| {
            if let Some(log) = logs.get(&uid, &container, false) {
                log.write(line.to_owned());
            }
        });
        Ports {
            responder: Responder::new(sandbox.netns.clone(), identity, log),
            world: kubelets.world.clone(),
            pod,
            containers: BTreeMap::new(),
            excluded: BTreeMap::new(),
        }
    }

    /// Stands in for a container and says on which ports.
    pub(super) fn add(&mut self, container: &Container) -> Result<BTreeSet<Port>> {
        let own = ports_of(container);
        self.containers.insert(container.name.clone(), own.clone());
        let failed = self.refresh();
        let declared: Vec<_> = failed.into_iter().filter(|(port, _)| own.contains(port)).collect();
        if let Some(((protocol, port), why)) = declared.first() {
            self.remove(&container.name);
            bail!("cannot listen on port {port} ({protocol:?}): {why}");
        }
        let mut all = own;
        all.extend(self.of_services());
        Ok(all)
    }

    /// Leaves the ports of a container that runs for real to it.
    pub(super) fn exclude(&mut self, container: &Container) {
        self.excluded.insert(container.name.clone(), ports_of(container));
        self.refresh();
    }

    /// A container is ending: its ports take no new connections. The tasks end with the connections that there are.
    pub(super) fn close(&mut self, container: &str) -> Vec<JoinHandle<()>> {
        self.containers.remove(container);
        let kept = self.wanted();
        self.responder.close_all_but(&kept)
    }

    /// A container has ended.
    pub(super) fn remove(&mut self, container: &str) {
        self.containers.remove(container);
        self.excluded.remove(container);
        self.refresh();
    }

    fn wanted(&self) -> BTreeSet<Port> {
        let mut wanted: BTreeSet<Port> = self.containers.values().flatten().copied().collect();
        if !self.containers.is_empty() {
            wanted.extend(self.of_services());
        }
        for port in self.excluded.values().flatten() {
            wanted.remove(port);
        }
        wanted
    }

    fn refresh(&mut self) -> Vec<(Port, String)> {
        let failed = self.responder.set_ports(&self.wanted());
        for ((protocol, port), why) in &failed {
            tracing::warn!(pod = self.pod.metadata.name, ?protocol, port, why, "the responder cannot listen");
        }
        failed
    }

    /// Ports that Services name for this Pod.
    fn of_services(&self) -> BTreeSet<Port> {
        let mut ports = BTreeSet::new();
        for service in self.world.services.list() {
            let Some(spec) = &service.spec else { continue };
            let selected = selects_labels(spec.selector.as_ref(), self.pod.metadata.labels.as_ref());
            if service.metadata.namespace != self.pod.metadata.namespace || !selected {
                continue;
            }
            for port in spec.ports.iter().flatten() {
                let Some(protocol) = Protocol::named(port.protocol.as_deref()) else { continue };
                let number = match &port.target_port {
                    None => port.port,
                    Some(IntOrString::Int(0)) => port.port,
                    Some(IntOrString::Int(number)) => *number,
                    // A name is the name of a declared port, and those are answered on anyway.
                    Some(IntOrString::String(_)) => continue,
                };
                ports.extend(u16::try_from(number).ok().map(|number| (protocol, number)));
            }
        }
        ports
    }
}

/// Opens and closes ports as Services and the Pod's labels change.
async fn follow_services(world: World, ports: Arc<Mutex<Ports>>, mut current: Current) {
    let mut services = world.services.subscribe();
    loop {
        tokio::select! {
            changed = services.changed() => if changed.is_err() { return },
            changed = current.changed() => if changed.is_err() { return },
        }
        let pod = current.borrow_and_update().clone();
        let mut ports = lock(&ports);
        if let Some(pod) = pod {
            ports.pod = pod;
        }
        ports.refresh();
    }
}
