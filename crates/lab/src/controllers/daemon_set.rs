//! DaemonSets: one Pod on every node that the template may run on. Taints are not looked at: the lab has none.

use std::sync::Arc;

use k8s_openapi::api::{
    apps::v1::{DaemonSet, DaemonSetSpec},
    core::v1::{Node, Pod},
};
use serde_json::json;

use super::{
    Again, Pass,
    deployment::share,
    owned::{
        count, hash_of, is_active, is_finished, is_ready, is_terminating, label, owned, pod_from, with_suffix,
    },
    scheduler::allows,
};
use crate::world::World;

const REVISION: &str = "controller-revision-hash";

pub(super) async fn reconcile(world: &World) -> kube::Result<Again> {
    let (pods, nodes) = (world.pods.list(), world.nodes.list());
    let mut pass = Pass::default();
    for set in world.daemon_sets.list() {
        if set.metadata.deletion_timestamp.is_none() {
            pass.take(one(world, &set, &nodes, owned(&pods, &*set)).await);
        }
    }
    pass.end()
}

async fn one(
    world: &World,
    set: &DaemonSet,
    nodes: &[Arc<Node>],
    pods: Vec<Arc<Pod>>,
) -> kube::Result<Again> {
    let Some(spec) = &set.spec else { return Ok(None) };
    let hash = hash_of(&spec.template);
    let pod_spec = spec.template.spec.clone().unwrap_or_default();
    let wanted: Vec<&str> = nodes
        .iter()
        .filter(|node| allows(node, &pod_spec))
        .filter_map(|node| node.metadata.name.as_deref())
        .collect();
    let node_of = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
    for node in &wanted {
        let here: Vec<_> = pods.iter().filter(|pod| node_of(pod) == *node).collect();
        if here.is_empty() {
            let mut pod =
                pod_from(set, &spec.template, with_suffix(set.metadata.name.as_deref().unwrap_or_default()));
            label(&mut pod.metadata, REVISION, &hash);
            pod.spec.get_or_insert_default().node_name = Some((*node).to_owned());
            world.pods.create(&world.client, &pod).await?;
        }
        for pod in here.iter().filter(|pod| is_finished(pod) && !is_terminating(pod)) {
            world.pods.delete(&world.client, &pod.metadata, None).await?;
        }
    }
    for pod in pods.iter().filter(|pod| !wanted.contains(&node_of(pod).as_str()) && !is_terminating(pod)) {
        world.pods.delete(&world.client, &pod.metadata, None).await?;
    }
    update(world, spec, &pods, &hash, wanted.len()).await?;
    report(world, set, spec, &pods, &hash, wanted.len()).await
}

async fn update(
    world: &World,
    spec: &DaemonSetSpec,
    pods: &[Arc<Pod>],
    hash: &str,
    wanted: usize,
) -> kube::Result<()> {
    let strategy = spec.update_strategy.as_ref();
    if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete") {
        return Ok(());
    }
    let limit = strategy.and_then(|strategy| strategy.rolling_update.as_ref()?.max_unavailable.as_ref());
    let limit =
        limit.map_or(1, |limit| share(Some(limit), i32::try_from(wanted).unwrap_or(i32::MAX), true).max(1));
    let down = wanted.saturating_sub(pods.iter().filter(|pod| is_active(pod) && is_ready(pod)).count());
    let mut budget = (limit.unsigned_abs() as usize).saturating_sub(down);
    for pod in pods.iter().filter(|pod| is_active(pod) && revision_of(pod) != Some(hash)) {
        // One that is not ready is down already.
        if is_ready(pod) {
            if budget == 0 {
                continue;
            }
            budget -= 1;
        }
        world.pods.delete(&world.client, &pod.metadata, None).await?;
    }
    Ok(())
}

async fn report(
    world: &World,
    set: &DaemonSet,
    spec: &DaemonSetSpec,
    pods: &[Arc<Pod>],
    hash: &str,
    wanted: usize,
) -> kube::Result<Again> {
    let active: Vec<&Pod> = pods.iter().map(|pod| &**pod).filter(|pod| is_active(pod)).collect();
    let counts = count(active.iter().copied(), spec.min_ready_seconds);
    let wanted = i32::try_from(wanted).unwrap_or(i32::MAX);
    let status = json!({
        "observedGeneration": set.metadata.generation,
        "desiredNumberScheduled": wanted, "currentNumberScheduled": counts.replicas, "numberMisscheduled": 0,
        "numberReady": counts.ready, "numberAvailable": counts.available,
        "numberUnavailable": (wanted - counts.available).max(0),
        "updatedNumberScheduled": active.iter().filter(|pod| revision_of(pod) == Some(hash)).count(),
    });
    world.daemon_sets.patch_status(&world.client, &set.metadata, &status).await?;
    Ok(counts.soonest)
}

fn revision_of(pod: &Pod) -> Option<&str> {
    pod.metadata.labels.as_ref()?.get(REVISION).map(String::as_str)
}
