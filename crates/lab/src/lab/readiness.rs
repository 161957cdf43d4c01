//! What a lab still waits for while it comes up.

use std::{sync::Arc, time::Duration};

use futures::future::select_all;
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Node, Pod},
};
use tokio::{sync::watch, time::Instant};

use super::{Progress, agent::Failures, plural};
use crate::{
    controllers::{controller_uid, end_of, is_ready, is_terminating, owned},
    world::World,
};

/// An agent that has ended so often in a row will not come up.
const HOPELESS: u32 = 5;
/// What is waited for is told at least so often.
const REMINDER: Duration = Duration::from_secs(10);

/// Waits until every node is Ready and every Pod runs and is ready, or has succeeded. Returns what is missing at
/// the deadline, or as soon as something has failed for good, or when an agent does not stay up.
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
        let is_over = state.missing.is_empty()
            || !state.failed.is_empty()
            || failures.values().any(|(times, _)| *times >= HOPELESS);
        if is_over {
            return state.all();
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
            () = tokio::time::sleep_until(deadline) => return state.all(),
            // Told again: somebody waits.
            () = tokio::time::sleep(REMINDER) => shown.clear(),
        }
    }
}

struct State {
    ready_nodes: usize,
    pods: usize,
    ready_pods: usize,
    missing: Vec<String>,
    /// What will never become ready.
    failed: Vec<String>,
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
        let mut pods = world.pods.list();
        let mut failed = Vec::new();
        for job in world.jobs.list() {
            match job_problem(&job, &owned(&pods, &*job)) {
                Some(Problem::Final(problem)) => failed.push(problem),
                Some(Problem::Passing(problem)) => missing.push(problem),
                None => {}
            }
        }
        // For a Pod that has failed, its controller has another made or has failed as well.
        pods.retain(|pod| phase(pod) != "Failed" || controller_uid(&pod.metadata).is_none());
        let fine = |pod: &Pod| is_ready(pod) || phase(pod) == "Succeeded" || is_terminating(pod);
        for pod in pods.iter().filter(|pod| !fine(pod)) {
            let problem = format!("Pod {}: {}", name_of(&pod.metadata), pod_problem(pod));
            if phase(pod) == "Failed" { &mut failed } else { &mut missing }.push(problem);
        }
        State {
            failed,
            ready_nodes,
            pods: pods.len(),
            ready_pods: pods.iter().filter(|pod| fine(pod)).count(),
            missing,
        }
    }

    /// What is missing, what never comes first.
    fn all(self) -> Vec<String> {
        [self.failed, self.missing].concat()
    }
}

/// What keeps a Job from being done.
#[derive(Debug, PartialEq)]
enum Problem {
    Passing(String),
    Final(String),
}

/// A Job must have begun; of one whose Pods fail, the end is waited for.
fn job_problem(job: &Job, pods: &[Arc<Pod>]) -> Option<Problem> {
    let name = name_of(&job.metadata);
    if let Some(end) = end_of(job) {
        let (reason, message) = (end.reason.as_deref().unwrap_or(""), end.message.as_deref().unwrap_or(""));
        return (end.type_ == "Failed")
            .then(|| Problem::Final(format!("Job {name} has failed: {reason}: {message}")));
    }
    if job.spec.as_ref().and_then(|spec| spec.suspend) == Some(true) {
        return None;
    }
    let failed = pods.iter().filter(|pod| phase(pod) == "Failed").count();
    match (pods.len(), failed) {
        (0, _) => Some(Problem::Passing(format!("Job {name}: 0 of 1 Pod made"))),
        (_, 0) => None,
        _ => Some(Problem::Passing(format!(
            "Job {name}: {} failed, and it tries again",
            plural(failed, "Pod")
        ))),
    }
}

/// Workloads that lack Pods.
fn workloads(world: &World) -> Vec<String> {
    let mut missing = Vec::new();
    let mut note = |kind: &str, metadata: &_, have: i32, wanted: i32| {
        if have < wanted {
            missing.push(format!("{kind} {}: {have} of {} ready", name_of(metadata), plural_of(wanted)));
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn job(condition: &str) -> Job {
        let conditions = json!([{ "type": condition, "status": "True", "reason": "Why", "message": "so" }]);
        let conditions = if condition.is_empty() { json!([]) } else { conditions };
        let metadata = json!({ "name": "load", "namespace": "shop" });
        serde_json::from_value(json!({ "metadata": metadata, "status": { "conditions": conditions } }))
            .unwrap()
    }

    fn pod(phase: &str) -> Arc<Pod> {
        Arc::new(serde_json::from_value(json!({ "metadata": {}, "status": { "phase": phase } })).unwrap())
    }

    /// A10: what has failed for good is final; a Pod that failed is not, while its Job may make another.
    #[test]
    fn only_a_job_that_has_failed_is_final() {
        let passing = |text: &str| Some(Problem::Passing(format!("Job shop/load: {text}")));
        assert_eq!(
            job_problem(&job("Failed"), &[pod("Failed")]),
            Some(Problem::Final("Job shop/load has failed: Why: so".into()))
        );
        assert_eq!(job_problem(&job("Complete"), &[pod("Failed"), pod("Succeeded")]), None);
        assert_eq!(job_problem(&job(""), &[]), passing("0 of 1 Pod made"));
        assert_eq!(job_problem(&job(""), &[pod("Running")]), None);
        assert_eq!(
            job_problem(&job(""), &[pod("Failed"), pod("Running")]),
            passing("1 Pod failed, and it tries again")
        );
    }
}
