//! Which groups, versions and resources there are.

use serde_json::{Map, Value, json};

use crate::error::{ApiError, Result};
use crate::resources::{ResourceType, Types, Version};

/// The version of Kubernetes whose types this server has (`schema/types.txt`), and as which it speaks. What follows the plus
/// does not count in comparisons: Helm charts ask for versions.
pub const VERSION: &str = concat!("v1.34.0+weft.", env!("CARGO_PKG_VERSION"));

pub(crate) fn version() -> Value {
    let mut numbers = VERSION.trim_start_matches('v').split('.');
    json!({
        "major": numbers.next(), "minor": numbers.next(), "gitVersion": VERSION,
        "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc",
        "platform": format!("linux/{}", if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" }),
    })
}

/// Does the `Accept` header prefer aggregated discovery?
pub(crate) fn wants_aggregated(accept: &str) -> bool {
    let first = accept.split(',').next().unwrap_or_default();
    first.contains("as=APIGroupDiscoveryList") && first.contains("v=v2") && !first.contains("v=v2beta1")
}

/// `/api` or `/apis`, aggregated: everything in one answer.
pub(crate) fn aggregated(types: &Types, core: bool) -> Value {
    let items: Vec<Value> = ordered(types)
        .into_iter()
        .filter(|(group, _)| group.is_empty() == core)
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|(version, resources)| {
                    let resources: Vec<Value> = resources.iter().map(|resource| entry(resource)).collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            let metadata = if core {
                json!({"creationTimestamp": null})
            } else {
                json!({"name": group, "creationTimestamp": null})
            };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items,
    })
}

/// The built-in groups in the order of their APIServices' priority. Where two groups have a resource of the same name, clients
/// take the first.
const FIRST: [&str; 20] = [
    "",
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
    "flowcontrol.apiserver.k8s.io",
];

/// Every group: the built-in ones first, the others by name.
fn ordered(types: &Types) -> Vec<(&String, &Vec<Version>)> {
    let mut groups: Vec<_> = types.groups.iter().collect();
    groups.sort_by_key(|(name, _)| {
        (FIRST.iter().position(|first| first == name).unwrap_or(FIRST.len()), name.as_str())
    });
    groups
}

fn entry(resource: &ResourceType) -> Value {
    let kind = json!({"group": resource.group, "version": resource.version, "kind": resource.kind});
    let subresources: Vec<Value> = resource
        .subresources
        .iter()
        .map(|name| {
            let (group, version, kind) = subresource_kind(resource, name);
            json!({
                "subresource": name, "verbs": subresource_verbs(name),
                "responseKind": {"group": group, "version": version, "kind": kind},
            })
        })
        .collect();
    let mut entry = json!({
        "resource": resource.plural, "responseKind": kind, "singularResource": resource.singular,
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" }, "verbs": resource.verbs(),
    });
    add_names(&mut entry, resource);
    if !subresources.is_empty() {
        entry["subresources"] = subresources.into();
    }
    entry
}

fn add_names(entry: &mut Value, resource: &ResourceType) {
    if !resource.short_names.is_empty() {
        entry["shortNames"] = resource.short_names.clone().into();
    }
    if !resource.categories.is_empty() {
        entry["categories"] = resource.categories.clone().into();
    }
}

/// `/api`.
pub(crate) fn core_versions() -> Value {
    json!({
        "kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": ""}],
    })
}

/// `/apis`.
pub(crate) fn groups(types: &Types) -> Value {
    let groups: Vec<Value> = ordered(types)
        .into_iter()
        .filter(|(group, _)| !group.is_empty())
        .filter_map(|(name, _)| group(types, name).ok())
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/GROUP`.
pub(crate) fn group(types: &Types, name: &str) -> Result<Value> {
    let versions =
        types.groups.get(name).filter(|_| !name.is_empty()).ok_or_else(ApiError::no_such_resource)?;
    let versions: Vec<Value> = versions
        .iter()
        .map(|(version, _)| json!({"groupVersion": format!("{name}/{version}"), "version": version}))
        .collect();
    Ok(json!({
        "kind": "APIGroup", "apiVersion": "v1", "name": name, "versions": versions,
        "preferredVersion": versions.first(),
    }))
}

/// `/api/v1`, `/apis/GROUP/VERSION`.
pub(crate) fn resources(types: &Types, group: &str, version: &str) -> Result<Value> {
    let (_, list) = types
        .groups
        .get(group)
        .and_then(|versions| versions.iter().find(|(name, _)| name == version))
        .ok_or_else(ApiError::no_such_resource)?;
    let mut entries = Vec::new();
    for resource in list {
        let mut entry = json!({
            "name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced,
            "kind": resource.kind, "verbs": resource.verbs(),
        });
        add_names(&mut entry, resource);
        entries.push(entry);
        for name in &resource.subresources {
            let (group, version, kind) = subresource_kind(resource, name);
            let mut entry = Map::new();
            entry.insert("name".to_owned(), format!("{}/{name}", resource.plural).into());
            entry.insert("singularName".to_owned(), "".into());
            entry.insert("namespaced".to_owned(), resource.namespaced.into());
            entry.insert("kind".to_owned(), kind.into());
            entry.insert("verbs".to_owned(), json!(subresource_verbs(name)));
            if (group, version) != (&resource.group, &resource.version) {
                entry.insert("group".to_owned(), group.into());
                entry.insert("version".to_owned(), version.into());
            }
            entries.push(entry.into());
        }
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Ok(json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": entries,
    }))
}

fn subresource_kind<'a>(resource: &'a ResourceType, name: &str) -> (&'a str, &'a str, &'a str) {
    match name {
        "scale" => ("autoscaling", "v1", "Scale"),
        "eviction" => ("policy", "v1", "Eviction"),
        "binding" => ("", "v1", "Binding"),
        "token" => ("authentication.k8s.io", "v1", "TokenRequest"),
        "exec" => ("", "v1", "PodExecOptions"),
        "attach" => ("", "v1", "PodAttachOptions"),
        "portforward" => ("", "v1", "PodPortForwardOptions"),
        "proxy" if resource.plural == "services" => ("", "v1", "ServiceProxyOptions"),
        "proxy" => ("", "v1", "PodProxyOptions"),
        _ => (&resource.group, &resource.version, &resource.kind),
    }
}

fn subresource_verbs(name: &str) -> &'static [&'static str] {
    match name {
        "log" => &["get"],
        "exec" | "attach" | "portforward" => &["create", "get"],
        "proxy" => &["create", "delete", "get", "patch", "update"],
        "binding" | "eviction" | "token" => &["create"],
        "finalize" => &["update"],
        _ => &["get", "patch", "update"],
    }
}
