//! What a lab still waits for while it comes up.

use futures::future::select_all;
use k8s_openapi::api::core::v1::{Node, Pod};
use tokio::{sync::watch, time::Instant};

use super::{Progress, agent::Failures, plural};
use crate::{
    controllers::{is_ready, is_terminating},
    world::World,
};

/// An agent that has ended so often in a row will not come up.
const HOPELESS: u32 = 5;

/// Waits until every node is Ready and every Pod runs and is ready, or has succeeded. Returns what is missing at
/// the deadline, or when an agent does not stay up.
pub(super) async fn wait(
    world: &World,
    mut agents: watch::Receiver<Failures>,
    nodes: usize,
    deadline: Instant,
    tell: &impl Fn(Progress),
) -> Vec<String> {
    let mut inputs = vec![
        world.nodes.subscribe(),
        world.pods.subscribe(),
        world.deployments.subscribe(),
        world.replica_sets.subscribe(),
        world.stateful_sets.subscribe(),
        world.daemon_sets.subscribe(),
        world.jobs.subscribe(),
    ];
    let mut shown = String::new();
    loop {
        for input in &mut inputs {
            input.mark_unchanged();
        }
        let failures = agents.borrow_and_update().clone();
        let state = State::of(world, nodes, &failures);
        if state.missing.is_empty() || failures.values().any(|(times, _)| *times >= HOPELESS) {
            return state.missing;
        }
        let line = format!(
            "{}/{} ready, {}/{} running",
            state.ready_nodes,
            plural(nodes, "node"),
            state.ready_pods,
            plural(state.pods, "Pod")
        );
        if line != shown {
            tell(Progress::Waiting(line.clone()));
            shown = line;
        }
        let changed = select_all(inputs.iter_mut().map(|input| Box::pin(input.changed())));
        tokio::select! {
            _ = changed => {}
            Ok(()) = agents.changed() => {}
            () = tokio::time::sleep_until(deadline) => return state.missing,
        }
    }
}

struct State {
    ready_nodes: usize,
    pods: usize,
    ready_pods: usize,
    missing: Vec<String>,
}

impl State {
    fn of(world: &World, nodes: usize, failures: &Failures) -> State {
        let ready_nodes = world.nodes.list().iter().filter(|node| node_is_ready(node)).count();
        let mut missing = Vec::new();
        for node in world.nodes.list().iter().filter(|node| !node_is_ready(node)) {
            let name = node.metadata.name.as_deref().unwrap_or_default();
            let problem =
                failures.get(name).map_or_else(|| node_problem(node), |(_, problem)| problem.clone());
            missing.push(format!("node {name}: {problem}"));
        }
        if ready_nodes < nodes && missing.is_empty() {
            missing.push(format!("{} of {nodes} nodes have registered", world.nodes.list().len()));
        }
        missing.extend(workloads(world));
        let pods = world.pods.list();
        let fine = |pod: &Pod| is_ready(pod) || phase(pod) == "Succeeded" || is_terminating(pod);
        for pod in pods.iter().filter(|pod| !fine(pod)) {
            missing.push(format!("Pod {}: {}", name_of(&pod.metadata), pod_problem(pod)));
        }
        State {
            ready_nodes,
            pods: pods.len(),
            ready_pods: pods.iter().filter(|pod| fine(pod)).count(),
            missing,
        }
    }
}

/// Workloads that lack Pods.
fn workloads(world: &World) -> Vec<String> {
    let mut missing = Vec::new();
    let mut note = |kind: &str, metadata: &_, have: i32, wanted: i32| {
        if have < wanted {
            let what = if kind == "Job" { "made" } else { "ready" };
            missing.push(format!("{kind} {}: {have} of {} {what}", name_of(metadata), plural_of(wanted)));
        }
    };
    for one in world.deployments.list() {
        let wanted = one.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        note(
            "Deployment",
            &one.metadata,
            one.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0),
            wanted,
        );
    }
    for one in world.stateful_sets.list() {
        let wanted = one.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        note(
            "StatefulSet",
            &one.metadata,
            one.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0),
            wanted,
        );
    }
    for one in world.daemon_sets.list() {
        let status = one.status.clone().unwrap_or_default();
        let seen = status.observed_generation == one.metadata.generation;
        let wanted = if seen { status.desired_number_scheduled } else { 1 };
        note("DaemonSet", &one.metadata, if seen { status.number_ready } else { 0 }, wanted);
    }
    for one in world.jobs.list() {
        let status = one.status.clone().unwrap_or_default();
        let begun = status.active.unwrap_or(0) + status.succeeded.unwrap_or(0) + status.failed.unwrap_or(0);
        let suspended = one.spec.as_ref().and_then(|spec| spec.suspend) == Some(true);
        note("Job", &one.metadata, begun, i32::from(!suspended));
    }
    missing
}

fn plural_of(count: i32) -> String {
    plural(usize::try_from(count).unwrap_or(0), "Pod")
}

fn name_of(metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> String {
    let (namespace, name) = crate::world::key_of(metadata);
    format!("{namespace}/{name}")
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

fn node_is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn node_problem(node: &Node) -> String {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.into_iter().flatten().find(|condition| condition.type_ == "Ready");
    ready.and_then(|ready| ready.message.clone()).unwrap_or_else(|| "not Ready yet".into())
}

fn pod_problem(pod: &Pod) -> String {
    let status = pod.status.clone().unwrap_or_default();
    let containers =
        status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    let waiting = containers.filter_map(|container| container.state.as_ref()?.waiting.clone()).next();
    if let Some(waiting) = waiting {
        let reason = waiting.reason.unwrap_or_default();
        return waiting.message.map_or(reason.clone(), |message| format!("{reason}: {message}"));
    }
    let refused = status.conditions.iter().flatten().find(|condition| condition.status == "False");
    let why = refused.and_then(|condition| condition.message.clone()).filter(|message| !message.is_empty());
    format!("{}{}", phase(pod), why.map_or(String::new(), |why| format!(": {why}")))
}
