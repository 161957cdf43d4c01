//! PersistentVolumeClaims: each is bound to a PersistentVolume, one that somebody has made for it or a new one. What they hold is a
//! folder of the lab, a claim's own, whatever its volume says.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use serde_json::{Value, json};

use super::{
    Again, Pass,
    owned::is_finished,
    status::now,
    volume_choice::{Choice, choose, is_for, names},
};
use crate::{
    place::LabDir,
    world::{World, key_of},
};

/// Keeps a deleted claim as long as a Pod uses it.
const PROTECTION: &str = "kubernetes.io/pvc-protection";

pub(super) async fn reconcile(world: &World, lab: &LabDir) -> kube::Result<Again> {
    let mut pass = Pass::default();
    for volume in world.persistent_volumes.list() {
        pass.take(settle(world, &volume).await.map(|()| None));
    }
    let pods = world.pods.list();
    let mut claims = world.persistent_volume_claims.list();
    // Those that want one volume and no other come first.
    claims.sort_by_key(|claim| volume_name(claim).is_none());
    for claim in claims {
        let done = if claim.metadata.deletion_timestamp.is_some() {
            end(world, lab, &claim, &pods).await
        } else {
            bind(world, lab, &claim).await
        };
        pass.take(done.map(|()| None));
    }
    pass.end()
}

/// Says how a volume stands. One whose claim has gone goes as well if its policy says so.
async fn settle(world: &World, volume: &PersistentVolume) -> kube::Result<()> {
    let spec = volume.spec.as_ref();
    let claim = spec.and_then(|spec| spec.claim_ref.as_ref());
    let phase = match claim.map(|claim| (claim, claim.uid.as_deref())) {
        // Kept for a claim of this name, whenever it comes.
        None | Some((_, None)) => "Available",
        Some((reference, uid)) => {
            let (namespace, name) =
                (reference.namespace.as_deref().unwrap_or_default(), reference.name.as_deref());
            let held = world.persistent_volume_claims.get(namespace, name.unwrap_or_default());
            if held.is_some_and(|held| held.metadata.uid.as_deref() == uid) {
                "Bound"
            } else if is_deleted_with_claim(volume) {
                if volume.metadata.deletion_timestamp.is_some() {
                    return Ok(());
                }
                return world.persistent_volumes.delete(&world.client, &volume.metadata, None).await;
            } else {
                "Released"
            }
        }
    };
    if volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some(phase) {
        return Ok(());
    }
    let status = json!({ "phase": phase, "lastPhaseTransitionTime": now() });
    world.persistent_volumes.patch_status(&world.client, &volume.metadata, &status).await
}

fn is_deleted_with_claim(volume: &PersistentVolume) -> bool {
    let policy = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    policy == Some("Delete")
}

fn volume_name(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.spec.as_ref()?.volume_name.as_deref().filter(|name| !name.is_empty())
}

/// Gives a claim its volume, and says so of both.
async fn bind(world: &World, lab: &LabDir, claim: &PersistentVolumeClaim) -> kube::Result<()> {
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    let held = volume_name(claim).and_then(|name| world.persistent_volumes.get("", name));
    if phase == Some("Bound") {
        if held.is_some_and(|volume| is_for(&volume, claim)) {
            return Ok(());
        }
        // What it was bound to has been taken away.
        let status = json!({ "phase": "Lost" });
        return world.persistent_volume_claims.patch_status(&world.client, &claim.metadata, &status).await;
    }
    let volumes = world.persistent_volumes.list();
    let (volume, class) = match choose(claim, &volumes, &world.storage_classes.list()) {
        Choice::None => return protect(world, claim, json!({})).await,
        Choice::Held(volume) => {
            let class = volume.spec.as_ref().and_then(|spec| spec.storage_class_name.clone());
            (volume, class)
        }
        Choice::New(volume) => {
            let mut volume = *volume;
            let (namespace, name) = key_of(&claim.metadata);
            let folder = lab.volume(&namespace, &name).map_err(failure)?;
            let spec = volume.spec.get_or_insert_default();
            let source = spec.host_path.get_or_insert_default();
            source.path = folder.display().to_string();
            source.type_ = Some("DirectoryOrCreate".to_owned());
            let class = spec.storage_class_name.clone();
            world.persistent_volumes.create(&world.client, &volume).await?;
            (Arc::new(volume), class)
        }
    };
    let name = volume.metadata.name.clone().unwrap_or_default();
    let Some(volume) = world.persistent_volumes.get("", &name) else { return Ok(()) };
    if !names(&volume, claim) {
        let patch = json!({ "spec": { "claimRef": reference(claim) } });
        world.persistent_volumes.patch(&world.client, &volume.metadata, &patch).await?;
    }
    let mut spec = json!({ "volumeName": name });
    if claim.spec.as_ref().is_some_and(|spec| spec.storage_class_name.is_none()) {
        spec["storageClassName"] = class.into();
    }
    protect(world, claim, spec).await?;
    let given = volume.spec.as_ref();
    let status = json!({
        "phase": "Bound",
        "accessModes": given.and_then(|spec| spec.access_modes.clone()),
        "capacity": given.and_then(|spec| spec.capacity.clone()),
    });
    world.persistent_volume_claims.patch_status(&world.client, &claim.metadata, &status).await
}

/// Writes into a claim's spec, and that it is not to go before its Pods.
async fn protect(world: &World, claim: &PersistentVolumeClaim, spec: Value) -> kube::Result<()> {
    let mut patch = json!({ "spec": spec });
    let mut finalizers = claim.metadata.finalizers.clone().unwrap_or_default();
    if !finalizers.iter().any(|name| name == PROTECTION) {
        finalizers.push(PROTECTION.to_owned());
        patch["metadata"] = json!({ "finalizers": finalizers });
    }
    world.persistent_volume_claims.patch(&world.client, &claim.metadata, &patch).await
}

/// Lets a deleted claim go once no Pod uses it, with what it holds.
async fn end(
    world: &World,
    lab: &LabDir,
    claim: &PersistentVolumeClaim,
    pods: &[Arc<Pod>],
) -> kube::Result<()> {
    let finalizers = claim.metadata.finalizers.clone().unwrap_or_default();
    let left: Vec<&String> = finalizers.iter().filter(|name| *name != PROTECTION).collect();
    if left.len() == finalizers.len() || pods.iter().any(|pod| uses(pod, claim)) {
        return Ok(());
    }
    let volume = volume_name(claim).and_then(|name| world.persistent_volumes.get("", name));
    if volume.is_none_or(|volume| is_deleted_with_claim(&volume)) {
        let (namespace, name) = key_of(&claim.metadata);
        let folder = lab.volume(&namespace, &name).map_err(failure)?;
        match tokio::fs::remove_dir_all(&folder).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failure(anyhow::Error::new(error).context(folder.display().to_string())));
            }
            _ => {}
        }
    }
    let patch = json!({ "metadata": { "finalizers": left } });
    world.persistent_volume_claims.patch(&world.client, &claim.metadata, &patch).await?;
    if left.is_empty() {
        world.persistent_volume_claims.forget(&claim.metadata);
    }
    Ok(())
}

/// Whether a Pod has a claim's folder. One without a node has not started.
fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let Some(spec) = pod.spec.as_ref().filter(|spec| spec.node_name.is_some()) else { return false };
    let mut claims =
        spec.volumes.iter().flatten().filter_map(|volume| volume.persistent_volume_claim.as_ref());
    pod.metadata.namespace == claim.metadata.namespace
        && !is_finished(pod)
        && claims.any(|source| Some(&source.claim_name) == claim.metadata.name.as_ref())
}

/// What names a claim in its volume.
fn reference(claim: &PersistentVolumeClaim) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": claim.metadata.namespace,
        "name": claim.metadata.name, "uid": claim.metadata.uid,
    })
}

/// A failure of the machine, as one of the API: it is told and tried again.
fn failure(error: anyhow::Error) -> kube::Error {
    kube::Error::Service(error.into())
}
