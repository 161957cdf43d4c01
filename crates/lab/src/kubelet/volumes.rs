//! The volumes of a Pod whose containers run for real, as folders of the lab.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{
    Container, DownwardAPIVolumeFile, KeyToPath, Pod, SecretVolumeSource, Volume, VolumeProjection,
};

use super::{
    env::{Sources, field_of},
    process::Mount,
};
use crate::place::{LabDir, make_dir};

/// Prepares the volumes that a container mounts. A claim is a folder that all Pods of the lab that name it share.
pub(super) async fn mounts(
    lab: &LabDir,
    pod: &Pod,
    container: &Container,
    sources: &mut Sources,
) -> Result<Vec<Mount>> {
    let mut mounts = Vec::new();
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    for wanted in container.volume_mounts.iter().flatten() {
        let Some(volume) = volumes.iter().find(|volume| volume.name == wanted.name) else { continue };
        let folder = prepare(lab, pod, volume, sources).await?;
        let source = match wanted.sub_path.as_deref().filter(|path| !path.is_empty()) {
            // A path that leaves its volume would show the lab's own files.
            Some(path)
                if Path::new(path)
                    .components()
                    .all(|part| matches!(part, std::path::Component::Normal(_))) =>
            {
                folder.join(path)
            }
            _ => folder,
        };
        if !source.exists() {
            make_dir(&source)?;
        }
        let read_only = wanted.read_only == Some(true) || volume.host_path.is_some();
        mounts.push(Mount { source, target: PathBuf::from(&wanted.mount_path), read_only });
    }
    Ok(mounts)
}

async fn prepare(lab: &LabDir, pod: &Pod, volume: &Volume, sources: &mut Sources) -> Result<PathBuf> {
    if let Some(host) = &volume.host_path
        && Path::new(&host.path).exists()
    {
        return Ok(PathBuf::from(&host.path));
    }
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let folder = match &volume.persistent_volume_claim {
        Some(claim) => {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            lab.path().join("claims").join(namespace).join(&claim.claim_name)
        }
        None => lab.pod(uid).join("volumes").join(&volume.name),
    };
    make_dir(&folder)?;
    let mut files = BTreeMap::new();
    if let Some(map) = &volume.config_map {
        let entries = sources.config_map(&map.name, map.optional == Some(true)).await?;
        files.extend(pick(entries, map.items.as_deref()));
    }
    if let Some(SecretVolumeSource { secret_name: Some(name), items, optional, .. }) = &volume.secret {
        let entries = sources.secret(name, *optional == Some(true)).await?;
        files.extend(pick(entries, items.as_deref()));
    }
    if let Some(fields) = &volume.downward_api {
        files.extend(fields_of(pod, fields.items.as_deref()));
    }
    for projection in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
        files.extend(project(pod, projection, sources).await?);
    }
    for (name, content) in files {
        let path = folder.join(name);
        if let Some(parent) = path.parent() {
            make_dir(parent)?;
        }
        fs::write(&path, content).with_context(|| path.display().to_string())?;
    }
    Ok(folder)
}

async fn project(
    pod: &Pod,
    projection: &VolumeProjection,
    sources: &mut Sources,
) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    if let Some(map) = &projection.config_map {
        let entries = sources.config_map(&map.name, map.optional == Some(true)).await?;
        files.extend(pick(entries, map.items.as_deref()));
    }
    if let Some(secret) = &projection.secret {
        let entries = sources.secret(&secret.name, secret.optional == Some(true)).await?;
        files.extend(pick(entries, secret.items.as_deref()));
    }
    if let Some(fields) = &projection.downward_api {
        files.extend(fields_of(pod, fields.items.as_deref()));
    }
    Ok(files)
}

fn pick(mut entries: BTreeMap<String, Vec<u8>>, items: Option<&[KeyToPath]>) -> BTreeMap<String, Vec<u8>> {
    let Some(items) = items else { return entries };
    items.iter().filter_map(|item| Some((item.path.clone(), entries.remove(&item.key)?))).collect()
}

fn fields_of(pod: &Pod, items: Option<&[DownwardAPIVolumeFile]>) -> BTreeMap<String, Vec<u8>> {
    let value = |item: &DownwardAPIVolumeFile| {
        let path = item.field_ref.as_ref()?.field_path.as_str();
        Some((item.path.clone(), field_of(pod, path).into_bytes()))
    };
    items.unwrap_or_default().iter().filter_map(value).collect()
}
