//! By what a container speaks to the API server: the token of its ServiceAccount and the server's authority.

use std::path::{Path, PathBuf};

use anyhow::Result;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::{Kubelets, env::Sources, process::Mount};
use crate::{
    place::{Inside, make_dir, one_part},
    world::key_of,
};

/// Where clients look for it.
const PLACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The account that a Pod runs as.
pub(super) fn of(pod: &Pod) -> &str {
    let given = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
    given.filter(|name| !name.is_empty()).unwrap_or("default")
}

/// The folder with token, authority and namespace, unless the Pod or its account wants none.
pub(super) async fn mount(
    kubelets: &Kubelets,
    pod: &Pod,
    container: &Container,
    sources: &Sources,
) -> Result<Option<Mount>> {
    let (namespace, _) = key_of(&pod.metadata);
    let account = of(pod);
    let own = pod.spec.as_ref().and_then(|spec| spec.automount_service_account_token);
    let held = kubelets.world.service_accounts.get(&namespace, account);
    let wanted = own.or_else(|| held?.automount_service_account_token).unwrap_or(true);
    let taken =
        container.volume_mounts.iter().flatten().any(|mount| mount.mount_path.trim_end_matches('/') == PLACE);
    if !wanted || taken {
        return Ok(None);
    }
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let source = kubelets.lab.pod(one_part(uid)?).join("account");
    if !source.join("token").exists() {
        make_dir(&source)?;
        let token = sources.token(account, None).await?;
        let inside = Inside::below(&source)?;
        for (name, content) in
            [("ca.crt", kubelets.authority.as_str()), ("namespace", &namespace), ("token", &token)]
        {
            inside.write(Path::new(name), content.as_bytes(), 0o644)?;
        }
    }
    Ok(Some(Mount { source, part: None, target: PathBuf::from(PLACE), read_only: true }))
}
