//! The volumes of a Pod whose containers run for real, as folders of the lab.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::Result;
use k8s_openapi::api::core::v1::{
    Container, DownwardAPIVolumeFile, KeyToPath, Pod, SecretVolumeSource, Volume, VolumeProjection,
};

use super::{
    account,
    env::{Environment, Sources, field_of},
    process::Mount,
};
use crate::place::{Inside, LabDir, make_dir, one_part};

/// Prepares the volumes that a container mounts. A claim is a folder that all Pods of the lab that name it share.
pub(super) async fn mounts(
    lab: &LabDir,
    pod: &Pod,
    container: &Container,
    environment: &Environment,
    sources: &mut Sources,
) -> Result<Vec<Mount>> {
    let mut mounts = Vec::new();
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    for wanted in container.volume_mounts.iter().flatten() {
        let Some(volume) = volumes.iter().find(|volume| volume.name == wanted.name) else { continue };
        let source = prepare(lab, pod, volume, sources).await?;
        let given = |path: &Option<String>| path.clone().filter(|path| !path.is_empty());
        let part = given(&wanted.sub_path)
            .or_else(|| given(&wanted.sub_path_expr).map(|path| environment.expand(&path)));
        let read_only = wanted.read_only == Some(true) || volume.host_path.is_some();
        let target = PathBuf::from(&wanted.mount_path);
        mounts.push(Mount { source, part: part.map(PathBuf::from), target, read_only });
    }
    Ok(mounts)
}

/// Files by their path in the volume: content and mode.
type Files = BTreeMap<String, (Vec<u8>, u32)>;

const MODE: u32 = 0o644;

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
            lab.volume(namespace, &claim.claim_name)?
        }
        None => lab.pod(one_part(uid)?).join("volumes").join(one_part(&volume.name)?),
    };
    make_dir(&folder)?;
    let mut files = Files::new();
    if let Some(map) = &volume.config_map {
        let entries = sources.config_map(&map.name, map.optional == Some(true)).await?;
        files.extend(pick(entries, map.items.as_deref(), map.default_mode));
    }
    if let Some(SecretVolumeSource { secret_name: Some(name), items, optional, default_mode }) =
        &volume.secret
    {
        let entries = sources.secret(name, *optional == Some(true)).await?;
        files.extend(pick(entries, items.as_deref(), *default_mode));
    }
    if let Some(fields) = &volume.downward_api {
        files.extend(fields_of(pod, fields.items.as_deref(), fields.default_mode));
    }
    if let Some(projected) = &volume.projected {
        for projection in projected.sources.iter().flatten() {
            files.extend(project(pod, projection, projected.default_mode, sources).await?);
        }
    }
    if !files.is_empty() {
        let inside = Inside::below(&folder)?;
        for (path, (content, mode)) in files {
            inside.write(Path::new(&path), &content, mode)?;
        }
    }
    Ok(folder)
}

async fn project(
    pod: &Pod,
    projection: &VolumeProjection,
    mode: Option<i32>,
    sources: &mut Sources,
) -> Result<Files> {
    let mut files = Files::new();
    if let Some(map) = &projection.config_map {
        let entries = sources.config_map(&map.name, map.optional == Some(true)).await?;
        files.extend(pick(entries, map.items.as_deref(), mode));
    }
    if let Some(secret) = &projection.secret {
        let entries = sources.secret(&secret.name, secret.optional == Some(true)).await?;
        files.extend(pick(entries, secret.items.as_deref(), mode));
    }
    if let Some(fields) = &projection.downward_api {
        files.extend(fields_of(pod, fields.items.as_deref(), mode));
    }
    if let Some(token) = &projection.service_account_token {
        let content = sources.token(account::of(pod), token.audience.as_deref()).await?;
        files.insert(token.path.clone(), (content.into_bytes(), bits(mode)));
    }
    Ok(files)
}

fn pick(mut entries: BTreeMap<String, Vec<u8>>, items: Option<&[KeyToPath]>, mode: Option<i32>) -> Files {
    let Some(items) = items else {
        return entries.into_iter().map(|(key, content)| (key, (content, bits(mode)))).collect();
    };
    let file =
        |item: &KeyToPath| Some((item.path.clone(), (entries.remove(&item.key)?, bits(item.mode.or(mode)))));
    items.iter().filter_map(file).collect()
}

fn fields_of(pod: &Pod, items: Option<&[DownwardAPIVolumeFile]>, mode: Option<i32>) -> Files {
    let file = |item: &DownwardAPIVolumeFile| {
        let path = item.field_ref.as_ref()?.field_path.as_str();
        Some((item.path.clone(), (field_of(pod, path).into_bytes(), bits(item.mode.or(mode)))))
    };
    items.unwrap_or_default().iter().filter_map(file).collect()
}

fn bits(mode: Option<i32>) -> u32 {
    mode.and_then(|mode| u32::try_from(mode).ok()).map_or(MODE, |mode| mode & 0o777)
}
