//! StatefulSets: Pods with lasting names, made in order and taken away in reverse.

use std::sync::Arc;

use k8s_openapi::{
    api::{
        apps::v1::{StatefulSet, StatefulSetSpec},
        core::v1::{PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, Volume},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde_json::json;

use super::{
    Again, Pass,
    owned::{count, hash_of, is_active, is_finished, is_ready, is_terminating, label, owned, pod_from},
};
use crate::world::{World, key_of};

const REVISION: &str = "controller-revision-hash";

pub(super) async fn reconcile(world: &World) -> kube::Result<Again> {
    let pods = world.pods.list();
    let mut pass = Pass::default();
    for set in world.stateful_sets.list() {
        if set.metadata.deletion_timestamp.is_none() {
            pass.take(one(world, &set, owned(&pods, &*set)).await);
        }
    }
    pass.end()
}

async fn one(world: &World, set: &StatefulSet, mut pods: Vec<Arc<Pod>>) -> kube::Result<Again> {
    let Some(spec) = &set.spec else { return Ok(None) };
    let name = set.metadata.name.as_deref().unwrap_or_default();
    let ordinal = |pod: &Pod| -> Option<i32> {
        pod.metadata.name.as_deref()?.strip_prefix(name)?.strip_prefix('-')?.parse().ok()
    };
    pods.retain(|pod| ordinal(pod).is_some());
    pods.sort_by_key(|pod| ordinal(pod));
    let hash = hash_of(&spec.template);
    let revision = format!("{name}-{hash}");
    let again = report(world, set, spec, &pods, &revision).await?;

    let first = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0);
    let wanted = first..first + spec.replicas.unwrap_or(1).max(0);
    let ordered = spec.pod_management_policy.as_deref() != Some("Parallel");
    for number in wanted.clone() {
        let pod = pods.iter().find(|pod| ordinal(pod) == Some(number));
        match pod {
            None => {
                if !claim_volumes(world, set, spec, number).await? {
                    return Ok(again);
                }
                let pod = pod_of(set, spec, name, number, &revision);
                world.pods.create(&world.client, &pod).await?;
            }
            Some(pod) if is_finished(pod) && !is_terminating(pod) => {
                world.pods.delete(&world.client, &pod.metadata, None).await?;
            }
            Some(_) => {}
        }
        if ordered && !pod.is_some_and(|pod| is_active(pod) && is_ready(pod)) {
            return Ok(again);
        }
    }
    for pod in pods.iter().rev().filter(|pod| ordinal(pod).is_some_and(|number| !wanted.contains(&number))) {
        if !is_terminating(pod) {
            world.pods.delete(&world.client, &pod.metadata, None).await?;
        }
        if ordered {
            return Ok(again);
        }
    }
    update(world, spec, &pods, &revision, &ordinal).await?;
    Ok(again)
}

/// Replaces one Pod of an older template at a time, the highest number first.
async fn update(
    world: &World,
    spec: &StatefulSetSpec,
    pods: &[Arc<Pod>],
    revision: &str,
    ordinal: &(dyn Fn(&Pod) -> Option<i32> + Sync),
) -> kube::Result<()> {
    let strategy = spec.update_strategy.as_ref();
    if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete") {
        return Ok(());
    }
    let partition = strategy
        .and_then(|strategy| strategy.rolling_update.as_ref())
        .and_then(|rolling| rolling.partition)
        .unwrap_or(0);
    for pod in pods.iter().rev().filter(|pod| ordinal(pod).is_some_and(|number| number >= partition)) {
        if is_terminating(pod) {
            return Ok(());
        }
        if revision_of(pod) != Some(revision) {
            return world.pods.delete(&world.client, &pod.metadata, None).await;
        }
        if !is_ready(pod) {
            return Ok(());
        }
    }
    Ok(())
}

async fn report(
    world: &World,
    set: &StatefulSet,
    spec: &StatefulSetSpec,
    pods: &[Arc<Pod>],
    revision: &str,
) -> kube::Result<Again> {
    let active: Vec<&Pod> = pods.iter().map(|pod| &**pod).filter(|pod| is_active(pod)).collect();
    let counts = count(active.iter().copied(), spec.min_ready_seconds);
    let updated = active.iter().filter(|pod| revision_of(pod) == Some(revision)).count();
    let complete = updated == active.len();
    let before = set.status.as_ref().and_then(|status| status.current_revision.clone());
    let current = if complete { revision.to_owned() } else { before.unwrap_or_else(|| revision.to_owned()) };
    let status = json!({
        "observedGeneration": set.metadata.generation,
        "replicas": counts.replicas, "readyReplicas": counts.ready, "availableReplicas": counts.available,
        "updatedReplicas": updated, "currentReplicas": if complete { active.len() } else { active.len() - updated },
        "currentRevision": current, "updateRevision": revision, "collisionCount": 0,
    });
    world.stateful_sets.patch_status(&world.client, &set.metadata, &status).await?;
    Ok(counts.soonest)
}

fn revision_of(pod: &Pod) -> Option<&str> {
    pod.metadata.labels.as_ref()?.get(REVISION).map(String::as_str)
}

fn pod_of(set: &StatefulSet, spec: &StatefulSetSpec, name: &str, number: i32, revision: &str) -> Pod {
    let pod_name = format!("{name}-{number}");
    let mut pod = pod_from(set, &spec.template, pod_name.clone());
    label(&mut pod.metadata, "statefulset.kubernetes.io/pod-name", &pod_name);
    label(&mut pod.metadata, "apps.kubernetes.io/pod-index", &number.to_string());
    label(&mut pod.metadata, REVISION, revision);
    let pod_spec = pod.spec.get_or_insert_default();
    pod_spec.hostname = Some(pod_name.clone());
    pod_spec.subdomain = spec.service_name.clone().filter(|service| !service.is_empty());
    let claims = spec.volume_claim_templates.iter().flatten().filter_map(|claim| claim.metadata.name.clone());
    for claim in claims {
        let volumes = pod_spec.volumes.get_or_insert_with(Vec::new);
        volumes.retain(|volume| volume.name != claim);
        let source = PersistentVolumeClaimVolumeSource {
            claim_name: format!("{claim}-{pod_name}"),
            ..PersistentVolumeClaimVolumeSource::default()
        };
        volumes.push(Volume { name: claim, persistent_volume_claim: Some(source), ..Volume::default() });
    }
    pod
}

/// Makes the claims of one Pod, which stay when it goes. Whether they are there: one that was deleted is waited for, as long as
/// it has not ended.
async fn claim_volumes(
    world: &World,
    set: &StatefulSet,
    spec: &StatefulSetSpec,
    number: i32,
) -> kube::Result<bool> {
    let (namespace, set_name) = key_of(&set.metadata);
    let mut are_there = true;
    for template in spec.volume_claim_templates.iter().flatten() {
        let given = template.metadata.clone();
        let name = format!("{}-{set_name}-{number}", given.name.as_deref().unwrap_or_default());
        if let Some(held) = world.persistent_volume_claims.get(&namespace, &name) {
            are_there &= held.metadata.deletion_timestamp.is_none();
            continue;
        }
        let mut labels = given.labels.unwrap_or_default();
        labels.extend(spec.selector.match_labels.clone().unwrap_or_default());
        let metadata = ObjectMeta {
            name: Some(name),
            namespace: set.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: given.annotations,
            ..ObjectMeta::default()
        };
        let claim = PersistentVolumeClaim { metadata, spec: template.spec.clone(), status: None };
        world.persistent_volume_claims.create(&world.client, &claim).await?;
    }
    Ok(are_there)
}
