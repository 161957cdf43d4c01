//! Brings manifests to the API server by server-side apply, and says what each one did.

use std::collections::{BTreeSet, HashMap};

use anyhow::{Context, Result, anyhow};
use futures::{StreamExt, stream};
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
    discovery::{Discovery, Scope},
};
use serde_json::{Value, json};

use crate::{
    Usage,
    manifest::{Manifest, unknown},
};

const MANAGER: &str = "weft-lab";
/// Where kubectl keeps what it has applied last.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// What the annotations of an object may have, less some room for others, in bytes.
const LONGEST_ANNOTATION: usize = 250 * 1024;
/// Requests under way at once.
const AT_ONCE: usize = 16;

/// What applying an object did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// `deployment.apps/web`, as kubectl names it.
    pub object: String,
    /// Namespace, for an object that has one.
    pub namespace: Option<String>,
    /// What happened.
    pub outcome: Outcome,
}

/// Objects were refused.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct Refused {
    what: String,
    /// What was applied all the same, and stays.
    pub applied: Vec<Applied>,
    /// The objects are what is wrong, not the API server or the way to it.
    pub is_usage: bool,
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is new.
    Created,
    /// It was there and is different now.
    Configured,
    /// It was there as it is.
    Unchanged,
}

/// A kind as the API server serves it.
#[derive(Clone, Debug)]
struct Served {
    resource: ApiResource,
    namespaced: bool,
}

/// Applies everything: namespaces, custom resource definitions and volumes first, then what others refer to, then the rest.
/// A namespace that no manifest makes is made; a kind that nobody defines is defined as one of any content.
///
/// # Errors
/// [`Refused`] with the objects that were, and their files and lines. What was applied stays; after namespaces and custom resource
/// definitions, and after what workloads refer to, nothing further is applied if one was refused.
pub async fn apply(client: &Client, manifests: &[Manifest]) -> Result<Vec<Applied>> {
    let mut kinds = discover(client).await?;
    let mut results: Vec<Option<Applied>> = vec![None; manifests.len()];
    let mut extra = Vec::new();
    for stage in 0..STAGES {
        let members: Vec<usize> = (0..manifests.len())
            .filter(|index| manifests.get(*index).is_some_and(|manifest| stage_of(manifest) == stage))
            .collect();
        let chosen: Vec<&Manifest> = members.iter().filter_map(|index| manifests.get(*index)).collect();
        if chosen.is_empty() {
            continue;
        }
        if chosen.iter().any(|manifest| !kinds.contains_key(&kind_of(manifest))) {
            kinds = discover(client).await?;
            extra.extend(define_unknown(client, &chosen, &mut kinds).await?);
        }
        if stage > 0 {
            extra.extend(make_namespaces(client, &chosen, &kinds).await?);
        }
        let kinds = &kinds;
        let applied: Vec<Result<Applied>> = stream::iter(chosen)
            .map(|manifest| {
                let served = kinds.get(&kind_of(manifest)).cloned();
                async move {
                    let served = served.ok_or_else(|| Usage(not_served(manifest, kinds)));
                    match served {
                        Ok(served) => apply_one(client, manifest, &served).await,
                        Err(unknown) => Err(unknown.into()),
                    }
                    .with_context(|| manifest.place.to_string())
                }
            })
            .buffered(AT_ONCE)
            .collect()
            .await;
        let mut refused = Vec::new();
        let mut is_usage = true;
        for (index, applied) in members.into_iter().zip(applied) {
            match (applied, results.get_mut(index)) {
                (Ok(applied), Some(result)) => *result = Some(applied),
                (Ok(_), None) => {}
                (Err(error), _) => {
                    is_usage &= error.is::<Usage>();
                    refused.push(format!("{error:#}"));
                }
            }
        }
        let mut what = match refused.as_slice() {
            [] => continue,
            [one] => one.clone(),
            several => format!("{} objects are refused:\n  {}", several.len(), several.join("\n  ")),
        };
        let applied: Vec<Applied> = extra.into_iter().chain(results.into_iter().flatten()).collect();
        let others = manifests.iter().filter(|manifest| stage_of(manifest) > stage).count();
        if others > 0 {
            what += &format!("\n{others} more that may need them are not applied");
        }
        return Err(Refused { what, applied, is_usage }.into());
    }
    Ok(extra.into_iter().chain(results.into_iter().flatten()).collect())
}

const STAGES: usize = 3;

fn stage_of(manifest: &Manifest) -> usize {
    match manifest.kind() {
        // A claim finds the volumes and classes that are there when it is made.
        "Namespace" | "CustomResourceDefinition" | "StorageClass" | "PersistentVolume" => 0,
        "Deployment"
        | "StatefulSet"
        | "DaemonSet"
        | "ReplicaSet"
        | "ReplicationController"
        | "Job"
        | "CronJob"
        | "Pod" => 2,
        _ => 1,
    }
}

type Kind = (String, String);

fn kind_of(manifest: &Manifest) -> Kind {
    (manifest.api_version().to_owned(), manifest.kind().to_owned())
}

async fn discover(client: &Client) -> Result<HashMap<Kind, Served>> {
    let discovery = Discovery::new(client.clone()).run().await.context("ask the API server for its kinds")?;
    let mut kinds = HashMap::new();
    for group in discovery.groups() {
        for version in group.versions() {
            for (resource, capabilities) in group.versioned_resources(version) {
                let namespaced = capabilities.scope == Scope::Namespaced;
                let key = (resource.api_version.clone(), resource.kind.clone());
                kinds.entry(key).or_insert(Served { resource, namespaced });
            }
        }
    }
    Ok(kinds)
}

/// That a kind is not served, and which one is that is nearly called so.
fn not_served(manifest: &Manifest, kinds: &HashMap<Kind, Served>) -> String {
    let known = kinds.keys().map(|(version, kind)| (kind.as_str(), version.as_str()));
    unknown(manifest.api_version(), manifest.kind(), known)
}

/// Whether a kind is but one letter away from another of its group.
fn is_misspelt(version: &str, kind: &str, kinds: &HashMap<Kind, Served>) -> bool {
    kinds.keys().any(|(other, name)| other == version && strsim::damerau_levenshtein(name, kind) == 1)
}

async fn apply_one(client: &Client, manifest: &Manifest, served: &Served) -> Result<Applied> {
    let api: Api<DynamicObject> = api_for(client, served, manifest.namespace());
    let before = api.get_opt(manifest.name()).await.map_err(plain)?;
    // As kubectl asks: what the kind does not have is refused.
    let params = PatchParams::apply(MANAGER).force().validation_strict();
    let mut object = manifest.object.clone();
    if served.namespaced && manifest.namespace().is_none() {
        object["metadata"]["namespace"] = json!("default");
    }
    tell_kubectl(&mut object);
    let after = api.patch(manifest.name(), &params, &Patch::Apply(&object)).await.map_err(plain)?;
    let outcome = match before {
        None => Outcome::Created,
        Some(before) if content(before.clone()) == content(after.clone()) => Outcome::Unchanged,
        Some(_) => Outcome::Configured,
    };
    Ok(Applied { object: shown(served, manifest.name()), namespace: after.namespace(), outcome })
}

/// Keeps in an object what kubectl compares with, so that it goes on with what was applied here.
fn tell_kubectl(object: &mut Value) {
    let annotations = &mut object["metadata"]["annotations"];
    if annotations.is_null() {
        *annotations = json!({});
    }
    // The API server refuses annotations that are no object.
    let Some(annotations) = annotations.as_object_mut() else { return };
    annotations.remove(LAST_APPLIED);
    let applied = format!("{object}\n");
    if applied.len() < LONGEST_ANNOTATION {
        object["metadata"]["annotations"][LAST_APPLIED] = applied.into();
    }
}

/// What people write into an object: without what the API server and the controllers add meanwhile.
fn content(mut object: DynamicObject) -> (DynamicObject, Value) {
    let metadata = &mut object.metadata;
    (metadata.resource_version, metadata.generation, metadata.managed_fields) = (None, None, None);
    if let Some(annotations) = &mut metadata.annotations {
        annotations.retain(|key, _| !key.starts_with("deployment.kubernetes.io/"));
    }
    metadata.annotations = metadata.annotations.take().filter(|annotations| !annotations.is_empty());
    let mut data = std::mem::take(&mut object.data);
    if let Some(fields) = data.as_object_mut() {
        fields.remove("status");
        let generated = fields.get_mut("spec").and_then(Value::as_object_mut);
        if let Some(spec) = generated.filter(|spec| spec.contains_key("backoffLimit")) {
            spec.remove("selector");
        }
    }
    (object, data)
}

fn api_for(client: &Client, served: &Served, namespace: Option<&str>) -> Api<DynamicObject> {
    if served.namespaced {
        Api::namespaced_with(client.clone(), namespace.unwrap_or("default"), &served.resource)
    } else {
        Api::all_with(client.clone(), &served.resource)
    }
}

fn shown(served: &Served, name: &str) -> String {
    let kind = served.resource.kind.to_ascii_lowercase();
    let group = &served.resource.group;
    if group.is_empty() { format!("{kind}/{name}") } else { format!("{kind}.{group}/{name}") }
}

/// The API server's own words, without the transport's: [`Usage`] if the object is what is wrong.
fn plain(error: kube::Error) -> anyhow::Error {
    match error {
        kube::Error::Api(status) if matches!(status.code, 400 | 403 | 404 | 422) => {
            Usage(status.message).into()
        }
        kube::Error::Api(status) => anyhow!("{}", status.message),
        other => other.into(),
    }
}

async fn make_namespaces(
    client: &Client,
    manifests: &[&Manifest],
    kinds: &HashMap<Kind, Served>,
) -> Result<Vec<Applied>> {
    let wanted: BTreeSet<&str> = manifests.iter().filter_map(|manifest| manifest.namespace()).collect();
    let Some(served) = kinds.get(&("v1".to_owned(), "Namespace".to_owned())) else { return Ok(Vec::new()) };
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &served.resource);
    let mut made = Vec::new();
    for name in wanted {
        if api.get_opt(name).await.map_err(plain)?.is_some() {
            continue;
        }
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
        api.patch(name, &PatchParams::apply(MANAGER), &Patch::Apply(&namespace)).await.map_err(plain)?;
        made.push(Applied { object: shown(served, name), namespace: None, outcome: Outcome::Created });
    }
    Ok(made)
}

/// Defines the kinds that nobody defines, so that what the lab does not act on is stored and served all the same.
async fn define_unknown(
    client: &Client,
    manifests: &[&Manifest],
    kinds: &mut HashMap<Kind, Served>,
) -> Result<Vec<Applied>> {
    let unknown: BTreeSet<(Kind, bool)> = manifests
        .iter()
        .filter(|manifest| !kinds.contains_key(&kind_of(manifest)))
        .map(|manifest| (kind_of(manifest), manifest.namespace().is_some()))
        .collect();
    let definition_kind = ("apiextensions.k8s.io/v1".to_owned(), "CustomResourceDefinition".to_owned());
    let mut made = Vec::new();
    for ((api_version, kind), _) in &unknown {
        let Some(served) = kinds.get(&definition_kind).cloned() else { break };
        let Some((group, version)) = api_version.split_once('/') else { continue };
        if kinds.contains_key(&(api_version.clone(), kind.clone())) || is_misspelt(api_version, kind, kinds) {
            continue;
        }
        // Most kinds are namespaced; one that no object gives a namespace to is taken as cluster-wide by its name.
        let namespaced =
            unknown.contains(&((api_version.clone(), kind.clone()), true)) || !kind.starts_with("Cluster");
        let definition = definition(group, version, kind, namespaced);
        let name = definition["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &served.resource);
        api.patch(&name, &PatchParams::apply(MANAGER), &Patch::Apply(&definition)).await.map_err(plain)?;
        made.push(Applied { object: shown(&served, &name), namespace: None, outcome: Outcome::Created });
        let resource = ApiResource {
            group: group.into(),
            version: version.into(),
            api_version: api_version.clone(),
            kind: kind.clone(),
            plural: plural(kind),
        };
        kinds.insert((api_version.clone(), kind.clone()), Served { resource, namespaced });
    }
    Ok(made)
}

fn definition(group: &str, version: &str, kind: &str, namespaced: bool) -> serde_json::Value {
    let plural = plural(kind);
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{plural}.{group}"),
            "annotations": { "weft.dev/made-by": "lab: no manifest defines this kind" },
        },
        "spec": {
            "group": group, "scope": if namespaced { "Namespaced" } else { "Cluster" },
            "names": { "kind": kind, "listKind": format!("{kind}List"), "plural": plural, "singular": kind.to_ascii_lowercase() },
            "versions": [{
                "name": version, "served": true, "storage": true,
                "schema": { "openAPIV3Schema": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } },
            }],
        },
    })
}

/// As the field forms plurals of kinds.
fn plural(kind: &str) -> String {
    let kind = kind.to_ascii_lowercase();
    if kind.ends_with('s') || kind.ends_with('x') || kind.ends_with("ch") || kind.ends_with("sh") {
        return format!("{kind}es");
    }
    match kind.strip_suffix('y') {
        Some(stem) if !stem.ends_with(['a', 'e', 'o', 'u']) => format!("{stem}ies"),
        _ => format!("{kind}s"),
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Outcome::Created => "created",
            Outcome::Configured => "configured",
            Outcome::Unchanged => "unchanged",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::plural;

    #[test]
    fn plurals() {
        for (kind, expected) in [
            ("ServiceMonitor", "servicemonitors"),
            ("NetworkPolicy", "networkpolicies"),
            ("Gateway", "gateways"),
            ("Ingress", "ingresses"),
        ] {
            assert_eq!(plural(kind), expected);
        }
    }
}
