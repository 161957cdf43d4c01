//! ReplicaSets: as many Pods as asked for.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::Pod};
use serde_json::json;

use super::{
    Again, Pass,
    owned::{controller_uid, count, is_active, is_ready, owner_reference, pod_from, with_suffix},
    selector::selects,
};
use crate::world::World;

/// Requests under way at once.
pub(super) const AT_ONCE: usize = 16;

pub(super) async fn reconcile(world: &World) -> kube::Result<Again> {
    let pods = world.pods.list();
    let mut pass = Pass::default();
    for set in world.replica_sets.list() {
        if set.metadata.deletion_timestamp.is_none() {
            pass.take(one(world, &set, &pods).await);
        }
    }
    pass.end()
}

async fn one(world: &World, set: &ReplicaSet, pods: &[Arc<Pod>]) -> kube::Result<Again> {
    let Some(spec) = &set.spec else { return Ok(None) };
    let active: Vec<Arc<Pod>> =
        claim(world, set, pods).await?.into_iter().filter(|pod| is_active(pod)).collect();
    let counts = count(active.iter().map(|pod| &**pod), spec.min_ready_seconds);
    let missing = spec.replicas.unwrap_or(1) - counts.replicas;
    let status = json!({
        "observedGeneration": set.metadata.generation,
        "replicas": counts.replicas, "fullyLabeledReplicas": counts.replicas,
        "readyReplicas": counts.ready, "availableReplicas": counts.available,
    });
    world.replica_sets.patch_status(&world.client, &set.metadata, &status).await?;
    let Some(template) = &spec.template else { return Ok(None) };
    let base = set.metadata.name.as_deref().unwrap_or_default();
    stream::iter(0..missing)
        .map(|_| async {
            let mut pod = pod_from(set, template, with_suffix(base));
            pod.metadata.generate_name = Some(format!("{base}-"));
            world.pods.create(&world.client, &pod).await
        })
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await?;
    for pod in least_useful(active).into_iter().take((-missing).max(0).unsigned_abs() as usize) {
        world.pods.delete(&world.client, &pod.metadata, None).await?;
    }
    Ok(counts.soonest)
}

/// The Pods of this ReplicaSet. Takes up Pods that it selects and nobody owns, and lets go those whose labels were
/// changed, as Kubernetes does.
async fn claim(world: &World, set: &ReplicaSet, pods: &[Arc<Pod>]) -> kube::Result<Vec<Arc<Pod>>> {
    let Some(spec) = &set.spec else { return Ok(Vec::new()) };
    let mut claimed = Vec::new();
    for pod in pods.iter().filter(|pod| pod.metadata.namespace == set.metadata.namespace) {
        let selected = selects(&spec.selector, pod.metadata.labels.as_ref());
        let owner = controller_uid(&pod.metadata);
        let ours = owner.is_some() && owner == set.metadata.uid.as_deref();
        if ours && selected {
            claimed.push(pod.clone());
        } else if ours && is_active(pod) {
            let patch = json!({ "metadata": { "ownerReferences": [] } });
            world.pods.patch(&world.client, &pod.metadata, &patch).await?;
        } else if owner.is_none() && selected && is_active(pod) {
            let patch = json!({ "metadata": { "ownerReferences": [owner_reference(set)] } });
            world.pods.patch(&world.client, &pod.metadata, &patch).await?;
            claimed.push(pod.clone());
        }
    }
    Ok(claimed)
}

/// In the order in which Pods are given up: without a node, not ready, youngest.
fn least_useful(mut pods: Vec<Arc<Pod>>) -> Vec<Arc<Pod>> {
    pods.sort_by_key(|pod| {
        let placed = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
        let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (placed, is_ready(pod), std::cmp::Reverse(created))
    });
    pods
}
