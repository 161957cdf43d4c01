//! Deployments: a ReplicaSet for each Pod template that one had, and the steps from the old ones to the new one.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet, ReplicaSetSpec},
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};
use serde_json::json;

use super::{
    Again, Pass,
    owned::{hash_of, label, owned, owner_reference},
    status::condition,
};
use crate::world::World;

const HASH: &str = "pod-template-hash";
const REVISION: &str = "deployment.kubernetes.io/revision";

pub(super) async fn reconcile(world: &World) -> kube::Result<Again> {
    let sets = world.replica_sets.list();
    let mut pass = Pass::default();
    for deployment in world.deployments.list() {
        if deployment.metadata.deletion_timestamp.is_none() {
            pass.take(one(world, &deployment, owned(&sets, &*deployment)).await.map(|()| None));
        }
    }
    pass.end()
}

async fn one(world: &World, deployment: &Deployment, sets: Vec<Arc<ReplicaSet>>) -> kube::Result<()> {
    let Some(spec) = &deployment.spec else { return Ok(()) };
    let hash = hash_of(&spec.template);
    let name = format!("{}-{hash}", deployment.metadata.name.as_deref().unwrap_or_default());
    let (new, old): (Vec<_>, Vec<_>) =
        sets.into_iter().partition(|set| set.metadata.name.as_deref() == Some(name.as_str()));
    let newest_old = old.iter().map(|set| revision(&set.metadata)).max().unwrap_or(0);
    let Some(new) = new.first() else {
        if spec.paused == Some(true) && !old.is_empty() {
            return report(world, deployment, spec, None, &old).await;
        }
        let initial = if is_recreate(spec) && old.iter().any(|set| has_pods(set)) {
            0
        } else {
            room(spec, &old).clamp(0, wanted(spec))
        };
        let set = new_set(deployment, spec, &hash, name, newest_old + 1, initial);
        world.replica_sets.create(&world.client, &set).await?;
        return annotate(world, deployment, newest_old + 1).await;
    };
    if revision(&new.metadata) <= newest_old {
        // An earlier template has come back (rollout undo): its ReplicaSet becomes the newest.
        let patch = json!({ "metadata": { "annotations": { REVISION: (newest_old + 1).to_string() } } });
        world.replica_sets.patch(&world.client, &new.metadata, &patch).await?;
        annotate(world, deployment, newest_old + 1).await?;
    } else {
        annotate(world, deployment, revision(&new.metadata)).await?;
    }
    roll(world, spec, new, &old).await?;
    forget_history(world, spec, &old).await?;
    report(world, deployment, spec, Some(new), &old).await
}

/// One step towards all Pods being of the new ReplicaSet.
async fn roll(
    world: &World,
    spec: &DeploymentSpec,
    new: &ReplicaSet,
    old: &[Arc<ReplicaSet>],
) -> kube::Result<()> {
    let (wanted, have) = (wanted(spec), size(new));
    if spec.paused == Some(true) && old.iter().any(|set| size(set) > 0) {
        return Ok(());
    }
    if is_recreate(spec) {
        for set in old.iter().filter(|set| size(set) > 0) {
            scale(world, set, 0).await?;
        }
        return if old.iter().any(|set| has_pods(set)) { Ok(()) } else { scale(world, new, wanted).await };
    }
    let target = if have > wanted { wanted } else { room(spec, old).min(wanted).max(have) };
    scale(world, new, target).await?;
    scale_down_old(world, spec, new, target, old).await
}

/// Takes Pods from the old ReplicaSets, never more than `maxUnavailable` allows; those that are not ready first.
async fn scale_down_old(
    world: &World,
    spec: &DeploymentSpec,
    new: &ReplicaSet,
    new_size: i32,
    old: &[Arc<ReplicaSet>],
) -> kube::Result<()> {
    let least = wanted(spec) - max_unavailable(spec);
    let new_unavailable = (new_size - available(new)).max(0);
    let total = new_size + old.iter().map(|set| size(set)).sum::<i32>();
    let mut spare = total - least - new_unavailable;
    let mut sizes: Vec<i32> = old.iter().map(|set| size(set)).collect();
    for (set, size) in old.iter().zip(&mut sizes) {
        let taken = (*size - available(set)).clamp(0, spare.max(0));
        (*size, spare) = (*size - taken, spare - taken);
    }
    let all_available = available(new) + old.iter().map(|set| available(set)).sum::<i32>();
    let mut spare = spare.min(all_available - least);
    for size in &mut sizes {
        let taken = (*size).clamp(0, spare.max(0));
        (*size, spare) = (*size - taken, spare - taken);
    }
    for (set, size) in old.iter().zip(sizes) {
        scale(world, set, size).await?;
    }
    Ok(())
}

async fn scale(world: &World, set: &ReplicaSet, replicas: i32) -> kube::Result<()> {
    if size(set) == replicas {
        return Ok(());
    }
    world.replica_sets.patch(&world.client, &set.metadata, &json!({ "spec": { "replicas": replicas } })).await
}

async fn annotate(world: &World, deployment: &Deployment, revision: i64) -> kube::Result<()> {
    let patch = json!({ "metadata": { "annotations": { REVISION: revision.to_string() } } });
    world.deployments.patch(&world.client, &deployment.metadata, &patch).await
}

async fn forget_history(world: &World, spec: &DeploymentSpec, old: &[Arc<ReplicaSet>]) -> kube::Result<()> {
    let limit = spec.revision_history_limit.unwrap_or(10).max(0).unsigned_abs() as usize;
    let mut empty: Vec<_> = old.iter().filter(|set| size(set) == 0 && !has_pods(set)).collect();
    empty.sort_by_key(|set| revision(&set.metadata));
    let surplus = empty.len().saturating_sub(limit);
    for set in empty.into_iter().take(surplus) {
        world.replica_sets.delete(&world.client, &set.metadata, None).await?;
    }
    Ok(())
}

async fn report(
    world: &World,
    deployment: &Deployment,
    spec: &DeploymentSpec,
    new: Option<&ReplicaSet>,
    old: &[Arc<ReplicaSet>],
) -> kube::Result<()> {
    let sum =
        |count: fn(&ReplicaSet) -> i32| new.map_or(0, count) + old.iter().map(|set| count(set)).sum::<i32>();
    let (replicas, ready, available) = (sum(counted), sum(ready), sum(available));
    let updated = new.map_or(0, counted);
    let wanted = wanted(spec);
    let held = deployment.status.as_ref().and_then(|status| status.conditions.as_ref());
    let enough = available >= wanted - max_unavailable(spec);
    let (reason, message) = if enough {
        ("MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    let available_condition = condition(held, "Available", enough, reason, message);
    let complete = updated == wanted && replicas == wanted && available == wanted;
    let set_name = new.and_then(|set| set.metadata.name.as_deref()).unwrap_or_default();
    let progressing = if complete {
        let message = format!("ReplicaSet \"{set_name}\" has successfully progressed.");
        condition(held, "Progressing", true, "NewReplicaSetAvailable", &message)
    } else {
        condition(
            held,
            "Progressing",
            true,
            "ReplicaSetUpdated",
            &format!("ReplicaSet \"{set_name}\" is progressing."),
        )
    };
    let status = json!({
        "observedGeneration": deployment.metadata.generation,
        "replicas": replicas, "updatedReplicas": updated, "readyReplicas": ready,
        "availableReplicas": available, "unavailableReplicas": (wanted.max(replicas) - available).max(0),
        "conditions": [available_condition, progressing],
    });
    world.deployments.patch_status(&world.client, &deployment.metadata, &status).await
}

fn new_set(
    deployment: &Deployment,
    spec: &DeploymentSpec,
    hash: &str,
    name: String,
    revision: i64,
    replicas: i32,
) -> ReplicaSet {
    let mut template = spec.template.clone();
    label(template.metadata.get_or_insert_with(ObjectMeta::default), HASH, hash);
    let mut selector = spec.selector.clone();
    selector.match_labels.get_or_insert_with(BTreeMap::new).insert(HASH.into(), hash.into());
    let metadata = ObjectMeta {
        name: Some(name),
        namespace: deployment.metadata.namespace.clone(),
        labels: template.metadata.as_ref().and_then(|metadata| metadata.labels.clone()),
        annotations: Some(BTreeMap::from([(REVISION.into(), revision.to_string())])),
        owner_references: Some(vec![owner_reference(deployment)]),
        ..ObjectMeta::default()
    };
    let spec = ReplicaSetSpec {
        replicas: Some(replicas),
        selector,
        template: Some(template),
        min_ready_seconds: spec.min_ready_seconds,
    };
    ReplicaSet { metadata, spec: Some(spec), status: None }
}

/// How many Pods of the new ReplicaSet there may be beside those of the old ones.
fn room(spec: &DeploymentSpec, old: &[Arc<ReplicaSet>]) -> i32 {
    wanted(spec) + max_surge(spec) - old.iter().map(|set| size(set)).sum::<i32>()
}

fn wanted(spec: &DeploymentSpec) -> i32 {
    spec.replicas.unwrap_or(1).max(0)
}

fn is_recreate(spec: &DeploymentSpec) -> bool {
    spec.strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate")
}

fn max_surge(spec: &DeploymentSpec) -> i32 {
    let rolling = spec.strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
    share(rolling.and_then(|rolling| rolling.max_surge.as_ref()), wanted(spec), true)
}

fn max_unavailable(spec: &DeploymentSpec) -> i32 {
    if is_recreate(spec) {
        return wanted(spec);
    }
    let rolling = spec.strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
    let unavailable =
        share(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()), wanted(spec), false);
    // With neither surge nor unavailability a rollout could take no step.
    if unavailable == 0 && max_surge(spec) == 0 { 1.min(wanted(spec)) } else { unavailable.min(wanted(spec)) }
}

/// A number, or a percentage of `whole` (25% if absent), rounded up or down.
pub(super) fn share(value: Option<&IntOrString>, whole: i32, up: bool) -> i32 {
    let percent = match value {
        Some(IntOrString::Int(number)) => return (*number).max(0),
        Some(IntOrString::String(text)) => text.trim_end_matches('%').parse().unwrap_or(25),
        None => 25,
    };
    let parts = whole.saturating_mul(percent);
    if up { parts.saturating_add(99) / 100 } else { parts / 100 }
}

fn revision(metadata: &ObjectMeta) -> i64 {
    let annotations = metadata.annotations.as_ref();
    annotations.and_then(|annotations| annotations.get(REVISION)?.parse().ok()).unwrap_or(0)
}

fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

fn counted(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |status| status.replicas)
}

fn has_pods(set: &ReplicaSet) -> bool {
    counted(set) > 0 || size(set) > 0
}

fn ready(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0)
}

fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_round_as_kubernetes_rounds() {
        let percent = IntOrString::String("25%".into());
        assert_eq!(share(Some(&percent), 3, true), 1);
        assert_eq!(share(Some(&percent), 3, false), 0);
        assert_eq!(share(None, 10, true), 3);
        assert_eq!(share(Some(&IntOrString::Int(2)), 10, true), 2);
    }
}
