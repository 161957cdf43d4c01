//! What objects refer to, and whether it is there: a misspelt name is found before anybody waits for what never comes.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use futures::try_join;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
        batch::v1::{CronJob, Job},
        core::v1::{
            ConfigMap, Container, ContainerPort, Node, Pod, PodSpec, PodTemplateSpec, ReplicationController,
            Secret, Service, ServicePort,
        },
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
/// containers need, nodes that Pods name, Pods that Services select, and the ports of those.
///
/// # Errors
/// When the API server does not answer.
pub async fn dangling(client: &Client, manifests: &[Manifest]) -> Result<Vec<Warning>> {
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await?.items;
    let nodes: Vec<String> = nodes.into_iter().filter_map(|node| node.metadata.name).collect();
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
        let of_service =
            service.map(|service| seen.problems_of_service(&service, namespace)).unwrap_or_default();
        let of_node = pods.as_ref().and_then(|spec| problem_of_node(spec, &nodes));
        let of_pods = pods.and_then(|spec| seen.problem_of_pods(&spec, namespace));
        warnings.extend(of_service.into_iter().chain(of_node).chain(of_pods).map(|problem| Warning {
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

fn problem_of_node(spec: &PodSpec, nodes: &[String]) -> Option<String> {
    let name = spec.node_name.as_ref().filter(|name| !name.is_empty() && !nodes.contains(name))?;
    Some(format!(
        "there is no node {name}: a Pod that names it never runs; the nodes are {}",
        nodes.join(", ")
    ))
}

/// What a namespace has.
struct Seen {
    sources: BTreeSet<Source>,
    /// Pods, and templates of Pods that may still be made.
    pods: Vec<(ObjectMeta, PodSpec)>,
}

impl Seen {
    async fn of(client: &Client, namespace: &str) -> Result<Seen> {
        let (maps, secrets, pods) = try_join!(
            list::<ConfigMap>(client, namespace),
            list::<Secret>(client, namespace),
            list::<Pod>(client, namespace),
        )?;
        let (deployments, stateful_sets, daemon_sets, replica_sets, old_sets, jobs, cron_jobs) = try_join!(
            list::<Deployment>(client, namespace),
            list::<StatefulSet>(client, namespace),
            list::<DaemonSet>(client, namespace),
            list::<ReplicaSet>(client, namespace),
            list::<ReplicationController>(client, namespace),
            list::<Job>(client, namespace),
            list::<CronJob>(client, namespace),
        )?;
        let templates = (deployments.into_iter().filter_map(|one| Some(one.spec?.template)))
            .chain(stateful_sets.into_iter().filter_map(|one| Some(one.spec?.template)))
            .chain(daemon_sets.into_iter().filter_map(|one| Some(one.spec?.template)))
            .chain(replica_sets.into_iter().filter_map(|one| one.spec?.template))
            .chain(old_sets.into_iter().filter_map(|one| one.spec?.template))
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

    fn problems_of_service(&self, service: &Service, namespace: &str) -> Vec<String> {
        let Some(spec) = &service.spec else { return Vec::new() };
        let Some(selector) = spec.selector.as_ref().filter(|selector| !selector.is_empty()) else {
            return Vec::new();
        };
        if spec.type_.as_deref() == Some("ExternalName") {
            return Vec::new();
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
            return vec![format!(
                "no Pod of namespace {namespace} has the labels {labels}: it has no endpoints"
            )];
        }
        let declared: Vec<&ContainerPort> = selected.iter().flat_map(|spec| ports_of(spec)).collect();
        let numbers: BTreeSet<i32> = declared.iter().map(|port| port.container_port).collect();
        // What a Pod that declares no port listens on is not known; Pods of a headless Service are asked at any port.
        let is_known = selected.iter().all(|spec| ports_of(spec).next().is_some())
            && spec.cluster_ip.as_deref() != Some("None");
        let lost = |port: &ServicePort| match &port.target_port {
            Some(IntOrString::String(name)) => {
                let has = declared.iter().any(|port| port.name.as_ref() == Some(name));
                (!has).then(|| {
                    format!(
                        "no Pod with the labels {labels} has a port named {name}: it has no endpoints at port {}",
                        port.port
                    )
                })
            }
            target => {
                let number = match target {
                    Some(IntOrString::Int(number)) => *number,
                    _ => port.port,
                };
                (is_known && !numbers.contains(&number)).then(|| {
                    let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
                    format!(
                        "no Pod with the labels {labels} declares port {number}, to which port {} leads; they declare {}",
                        port.port,
                        numbers.join(", ")
                    )
                })
            }
        };
        spec.ports.iter().flatten().filter_map(lost).collect()
    }
}

fn ports_of(spec: &PodSpec) -> impl Iterator<Item = &ContainerPort> {
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    containers.flat_map(|container| container.ports.iter().flatten())
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
        let silent = json!({ "containers": [{ "name": "a" }] });
        let pods = vec![pod(&json!({ "app": "web" }), &web()), pod(&json!({ "app": "silent" }), &silent)];
        let seen = Seen { sources: BTreeSet::new(), pods };
        let problem = |spec: serde_json::Value| {
            let service = serde_json::from_value(json!({ "spec": spec })).unwrap();
            let problems = seen.problems_of_service(&service, "shop");
            (!problems.is_empty()).then(|| problems.join("; "))
        };
        let selecting = |app: &str, target: serde_json::Value| {
            problem(json!({ "selector": { "app": app }, "ports": [{ "port": 80, "targetPort": target }] }))
        };
        assert_eq!(selecting("web", json!("http")), None);
        assert_eq!(selecting("web", json!(8080)), None);
        assert_eq!(selecting("silent", json!(9)), None, "what listens there is not known");
        let number = selecting("web", json!(9)).unwrap();
        assert_eq!(
            number,
            "no Pod with the labels app=web declares port 9, to which port 80 leads; they declare 8080"
        );
        let own =
            problem(json!({ "selector": { "app": "web" }, "ports": [{ "port": 80 }, { "port": 8080 }] }));
        assert_eq!(own.unwrap().matches("declares port 80,").count(), 1, "of port 80 alone");
        let headless =
            json!({ "clusterIP": "None", "selector": { "app": "web" }, "ports": [{ "port": 80 }] });
        assert_eq!(problem(headless), None, "its Pods are asked at any port");
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
