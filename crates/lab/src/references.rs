//! What objects refer to, and whether it is there: a misspelt name is found before anybody waits for what never comes.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use futures::try_join;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
        batch::v1::{CronJob, Job},
        core::v1::{ConfigMap, Container, Pod, PodSpec, PodTemplateSpec, Secret, Service},
    },
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};
use kube::{Api, Client, Resource, api::ListParams};
use serde::de::DeserializeOwned;

use crate::{
    controllers::selects_labels,
    manifest::{Manifest, Warning},
};

/// A ConfigMap or a Secret of a Pod's namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    /// By its name.
    ConfigMap(String),
    /// By its name.
    Secret(String),
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::ConfigMap(name) => write!(f, "ConfigMap {name}"),
            Source::Secret(name) => write!(f, "Secret {name}"),
        }
    }
}

/// What a container is not started without: the sources of its variables and of the volumes that it mounts.
pub(crate) fn needed_by(spec: &PodSpec, container: &Container) -> BTreeSet<Source> {
    let mut needed = BTreeSet::new();
    let mut map = |name: &str, optional: Option<bool>| {
        if optional != Some(true) && !name.is_empty() {
            needed.insert(Source::ConfigMap(name.to_owned()));
        }
    };
    let mounted: BTreeSet<&str> =
        container.volume_mounts.iter().flatten().map(|mount| mount.name.as_str()).collect();
    let volumes = || spec.volumes.iter().flatten().filter(|volume| mounted.contains(volume.name.as_str()));
    let projected = || volumes().filter_map(|volume| volume.projected.as_ref()?.sources.as_ref()).flatten();
    let variables = || container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref());
    for one in container.env_from.iter().flatten().filter_map(|from| from.config_map_ref.as_ref()) {
        map(&one.name, one.optional);
    }
    for one in variables().filter_map(|from| from.config_map_key_ref.as_ref()) {
        map(&one.name, one.optional);
    }
    for one in volumes().filter_map(|volume| volume.config_map.as_ref()) {
        map(&one.name, one.optional);
    }
    for one in projected().filter_map(|source| source.config_map.as_ref()) {
        map(&one.name, one.optional);
    }
    let mut secret = |name: &str, optional: Option<bool>| {
        if optional != Some(true) && !name.is_empty() {
            needed.insert(Source::Secret(name.to_owned()));
        }
    };
    for one in container.env_from.iter().flatten().filter_map(|from| from.secret_ref.as_ref()) {
        secret(&one.name, one.optional);
    }
    for one in variables().filter_map(|from| from.secret_key_ref.as_ref()) {
        secret(&one.name, one.optional);
    }
    for one in volumes().filter_map(|volume| volume.secret.as_ref()) {
        secret(one.secret_name.as_deref().unwrap_or_default(), one.optional);
    }
    for one in projected().filter_map(|source| source.secret.as_ref()) {
        secret(&one.name, one.optional);
    }
    needed
}

/// A warning for each reference of these manifests that leads nowhere in the cluster as it is now: ConfigMaps and Secrets that
/// containers need, Pods that Services select, and the named ports of those.
///
/// # Errors
/// When the API server does not answer.
pub async fn dangling(client: &Client, manifests: &[Manifest]) -> Result<Vec<Warning>> {
    let mut seen: BTreeMap<&str, Seen> = BTreeMap::new();
    let mut warnings = Vec::new();
    for manifest in manifests {
        let (service, pods) = (service_of(manifest), pods_of(manifest));
        if service.is_none() && pods.is_none() {
            continue;
        }
        let namespace = manifest.namespace().unwrap_or("default");
        if !seen.contains_key(namespace) {
            seen.insert(namespace, Seen::of(client, namespace).await?);
        }
        let Some(seen) = seen.get(namespace) else { continue };
        let of_service = service.and_then(|service| seen.problem_of_service(&service, namespace));
        let of_pods = pods.and_then(|spec| seen.problem_of_pods(&spec, namespace));
        warnings.extend(of_service.into_iter().chain(of_pods).map(|problem| Warning {
            place: manifest.place.clone(),
            what: format!("{} {}: {problem}", manifest.kind(), manifest.name()),
        }));
    }
    Ok(warnings)
}

fn service_of(manifest: &Manifest) -> Option<Service> {
    let is_one = manifest.kind() == "Service" && manifest.api_version() == "v1";
    is_one.then(|| serde_json::from_value(manifest.object.clone()).ok())?
}

fn pods_of(manifest: &Manifest) -> Option<PodSpec> {
    serde_json::from_value(manifest.pod_spec()?.clone()).ok()
}

/// What a namespace has.
struct Seen {
    sources: BTreeSet<Source>,
    /// Pods, and templates of Pods that may still be made.
    pods: Vec<(ObjectMeta, PodSpec)>,
}

impl Seen {
    async fn of(client: &Client, namespace: &str) -> Result<Seen> {
        let (maps, secrets, pods, deployments, stateful_sets, daemon_sets, replica_sets, jobs, cron_jobs) = try_join!(
            list::<ConfigMap>(client, namespace),
            list::<Secret>(client, namespace),
            list::<Pod>(client, namespace),
            list::<Deployment>(client, namespace),
            list::<StatefulSet>(client, namespace),
            list::<DaemonSet>(client, namespace),
            list::<ReplicaSet>(client, namespace),
            list::<Job>(client, namespace),
            list::<CronJob>(client, namespace),
        )?;
        let templates = (deployments.into_iter().filter_map(|one| Some(one.spec?.template)))
            .chain(stateful_sets.into_iter().filter_map(|one| Some(one.spec?.template)))
            .chain(daemon_sets.into_iter().filter_map(|one| Some(one.spec?.template)))
            .chain(replica_sets.into_iter().filter_map(|one| one.spec?.template))
            .chain(jobs.into_iter().filter_map(|one| Some(one.spec?.template)))
            .chain(cron_jobs.into_iter().filter_map(|one| Some(one.spec?.job_template.spec?.template)));
        let of_template = |PodTemplateSpec { metadata, spec }| Some((metadata.unwrap_or_default(), spec?));
        let maps = maps.into_iter().filter_map(|one| one.metadata.name).map(Source::ConfigMap);
        let secrets = secrets.into_iter().filter_map(|one| one.metadata.name).map(Source::Secret);
        Ok(Seen {
            sources: maps.chain(secrets).collect(),
            pods: (pods.into_iter().filter_map(|pod| Some((pod.metadata, pod.spec?))))
                .chain(templates.filter_map(of_template))
                .collect(),
        })
    }

    fn problem_of_pods(&self, spec: &PodSpec, namespace: &str) -> Option<String> {
        let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let needed: BTreeSet<Source> = containers.flat_map(|container| needed_by(spec, container)).collect();
        let missing: Vec<String> = needed.difference(&self.sources).map(ToString::to_string).collect();
        (!missing.is_empty()).then(|| {
            format!(
                "namespace {namespace} has no {}: a kubelet would not start its containers; here only those that run for real wait, \
                 stand-ins start without",
                missing.join(", no ")
            )
        })
    }

    fn problem_of_service(&self, service: &Service, namespace: &str) -> Option<String> {
        let spec = service.spec.as_ref()?;
        let selector = spec.selector.as_ref().filter(|selector| !selector.is_empty())?;
        if spec.type_.as_deref() == Some("ExternalName") {
            return None;
        }
        let selected: Vec<&PodSpec> = self
            .pods
            .iter()
            .filter(|(metadata, _)| selects_labels(Some(selector), metadata.labels.as_ref()))
            .map(|(_, spec)| spec)
            .collect();
        let labels: Vec<String> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let labels = labels.join(",");
        if selected.is_empty() {
            return Some(format!(
                "no Pod of namespace {namespace} has the labels {labels}: it has no endpoints"
            ));
        }
        let has = |name: &str| {
            let containers = selected
                .iter()
                .flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
            containers
                .flat_map(|container| container.ports.iter().flatten())
                .any(|port| port.name.as_deref() == Some(name))
        };
        let lost = spec.ports.iter().flatten().find_map(|port| match &port.target_port {
            Some(IntOrString::String(name)) if !has(name) => Some((port.port, name)),
            _ => None,
        })?;
        Some(format!(
            "no Pod with the labels {labels} has a port named {}: it has no endpoints at port {}",
            lost.1, lost.0
        ))
    }
}

async fn list<K>(client: &Client, namespace: &str) -> Result<Vec<K>>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    Ok(Api::<K>::namespaced(client.clone(), namespace).list(&ListParams::default()).await?.items)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(labels: &serde_json::Value, spec: &serde_json::Value) -> (ObjectMeta, PodSpec) {
        let metadata = serde_json::from_value(json!({ "labels": labels })).unwrap();
        (metadata, serde_json::from_value(spec.clone()).unwrap())
    }

    fn web() -> serde_json::Value {
        json!({
            "containers": [{
                "name": "web",
                "ports": [{ "name": "http", "containerPort": 8080 }],
                "env": [
                    { "name": "A", "valueFrom": { "configMapKeyRef": { "name": "settings", "key": "a" } } },
                    { "name": "B", "valueFrom": { "secretKeyRef": { "name": "may", "key": "b", "optional": true } } },
                ],
                "envFrom": [{ "secretRef": { "name": "keys" } }],
                "volumeMounts": [{ "name": "files", "mountPath": "/files" }],
            }],
            "volumes": [
                { "name": "files", "projected": { "sources": [
                    { "configMap": { "name": "files" } }, { "secret": { "name": "may", "optional": true } },
                ] } },
                { "name": "unused", "secret": { "secretName": "unused" } },
            ],
        })
    }

    #[test]
    fn what_a_container_needs_is_what_it_mounts_and_reads_unless_it_is_optional() {
        let (_, spec) = pod(&json!({}), &web());
        let needed: Vec<String> =
            needed_by(&spec, &spec.containers[0]).iter().map(ToString::to_string).collect();
        assert_eq!(needed, ["ConfigMap files", "ConfigMap settings", "Secret keys"]);
        let sources = [Source::ConfigMap("files".into()), Source::Secret("keys".into())];
        let seen = Seen { sources: sources.into(), pods: Vec::new() };
        let problem = seen.problem_of_pods(&spec, "shop").unwrap();
        assert!(problem.starts_with("namespace shop has no ConfigMap settings: "), "{problem}");
    }

    #[test]
    fn a_service_that_selects_nothing_or_names_a_port_that_nobody_has_is_told() {
        let seen = Seen { sources: BTreeSet::new(), pods: vec![pod(&json!({ "app": "web" }), &web())] };
        let problem = |spec: serde_json::Value| {
            seen.problem_of_service(&serde_json::from_value(json!({ "spec": spec })).unwrap(), "shop")
        };
        let selecting = |app: &str, target: serde_json::Value| {
            problem(json!({ "selector": { "app": app }, "ports": [{ "port": 80, "targetPort": target }] }))
        };
        assert_eq!(selecting("web", json!("http")), None);
        assert_eq!(selecting("web", json!(9)), None, "what listens there is not known");
        let nothing = selecting("wbe", json!("http")).unwrap();
        assert_eq!(nothing, "no Pod of namespace shop has the labels app=wbe: it has no endpoints");
        let port = selecting("web", json!("htpp")).unwrap();
        assert_eq!(
            port,
            "no Pod with the labels app=web has a port named htpp: it has no endpoints at port 80"
        );
        assert_eq!(problem(json!({ "ports": [{ "port": 80 }] })), None, "endpoints of its own");
    }
}
