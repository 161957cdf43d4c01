//! What objects get that clients leave out.

mod pod;
mod service;
mod workload;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::meta::{self, default};
use crate::resources::ResourceType;
use crate::validation::custom;

/// Does `metadata.generation` count changes of what is wanted?
pub(crate) fn has_generation(resource: &ResourceType) -> bool {
    if resource.custom.is_some() {
        return true;
    }
    matches!(
        resource.plural.as_str(),
        "pods"
            | "podtemplates"
            | "deployments"
            | "replicasets"
            | "statefulsets"
            | "daemonsets"
            | "replicationcontrollers"
            | "jobs"
            | "cronjobs"
            | "ingresses"
            | "ingressclasses"
            | "networkpolicies"
            | "poddisruptionbudgets"
            | "endpointslices"
            | "customresourcedefinitions"
            | "flowschemas"
            | "prioritylevelconfigurations"
            | "priorityclasses"
            | "mutatingwebhookconfigurations"
            | "validatingwebhookconfigurations"
            | "validatingadmissionpolicies"
            | "validatingadmissionpolicybindings"
    )
}

/// Does anything differ beside metadata and status?
pub(crate) fn desired_differs(resource: &ResourceType, before: &Value, after: &Value) -> bool {
    let ignored = |name: &str| {
        matches!(name, "metadata" | "apiVersion" | "kind") || (name == "status" && resource.has("status"))
    };
    let empty = Map::new();
    let (before, after) = (before.as_object().unwrap_or(&empty), after.as_object().unwrap_or(&empty));
    let wanted = |map: &Map<String, Value>| map.keys().filter(|name| !ignored(name)).count();
    wanted(before) != wanted(after)
        || after.iter().any(|(name, value)| !ignored(name) && before.get(name) != Some(value))
}

/// The status that a new object starts with: a client's is not taken.
pub(crate) fn initial_status(resource: &ResourceType, object: &mut Value) {
    let kept = !resource.has("status") || (resource.is("", "nodes"));
    let object = meta::map_of(object);
    let status = match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => Some(pod::status(object)),
        ("", "namespaces") => Some(json!({"phase": "Active"})),
        ("", "services") => Some(json!({"loadBalancer": {}})),
        ("", "persistentvolumes") => {
            Some(json!({"phase": "Pending", "lastPhaseTransitionTime": meta::now()}))
        }
        ("", "persistentvolumeclaims") => Some(json!({"phase": "Pending"})),
        ("networking.k8s.io", "ingresses") => Some(json!({"loadBalancer": {}})),
        ("", "resourcequotas") => Some(json!({})),
        ("policy", "poddisruptionbudgets") => Some(json!({
            "currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0,
        })),
        ("autoscaling", _) => Some(json!({"currentMetrics": null, "desiredReplicas": 0})),
        ("apps" | "batch", _) | ("", "replicationcontrollers") if resource.has("status") => {
            Some(workload::status(&resource.plural))
        }
        ("apiextensions.k8s.io", _) => None,
        _ if kept => return,
        _ => None,
    };
    match status {
        Some(status) => object.insert("status".to_owned(), status),
        None => object.remove("status"),
    };
}

/// Fills in what is absent. `before` is the object that is replaced, if one is.
pub(crate) fn apply(resource: &ResourceType, object: &mut Value, before: Option<&Value>) {
    if let Some(schema) = &resource.custom {
        custom::default_and_prune(&schema.schema, object);
        return;
    }
    let name = meta::name(object).to_owned();
    let uid = meta::uid(object).to_owned();
    let object = meta::map_of(object);
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => pod::pod(object),
        ("", "podtemplates") => pod::template(object),
        ("", "services") => service::service(object, before),
        ("", "namespaces") => namespace(object, &name, before.is_none()),
        ("", "secrets") => secret(object),
        ("", "persistentvolumes") => {
            let spec = meta::map(object, "spec");
            default(spec, "persistentVolumeReclaimPolicy", "Retain");
            default(spec, "volumeMode", "Filesystem");
            if let Some(Value::Object(path)) = spec.get_mut("hostPath") {
                default(path, "type", "");
            }
        }
        ("", "persistentvolumeclaims") => default(meta::map(object, "spec"), "volumeMode", "Filesystem"),
        ("", "nodes") => node(object),
        ("", "limitranges") => limits(object),
        ("coordination.k8s.io", "leases") => {
            // Fields of a feature that is not on.
            let spec = meta::map(object, "spec");
            for name in ["strategy", "preferredHolder"] {
                spec.remove(name);
            }
        }
        ("apps" | "batch", _) | ("", "replicationcontrollers") => {
            workload::workload(&resource.plural, object, &name, &uid, before);
        }
        ("", "endpoints") => {
            for subset in object.get_mut("subsets").and_then(Value::as_array_mut).into_iter().flatten() {
                ports(meta::map_of(subset), "ports", false);
            }
        }
        ("discovery.k8s.io", "endpointslices") => {
            ports(object, "ports", true);
            for endpoint in object.get_mut("endpoints").and_then(Value::as_array_mut).into_iter().flatten() {
                let endpoint = meta::map_of(endpoint);
                meta::map(endpoint, "conditions");
                if before.is_none() {
                    endpoint.remove("deprecatedTopology");
                }
            }
            listed(object, &["endpoints", "ports"]);
        }
        ("", "events") => event(object),
        ("networking.k8s.io", "ingressclasses") => {
            let spec = meta::map(object, "spec");
            if let Some(Value::Object(parameters)) = spec.get_mut("parameters") {
                default(parameters, "scope", "Cluster");
            }
        }
        ("rbac.authorization.k8s.io", "roles" | "clusterroles") => listed(object, &["rules"]),
        ("networking.k8s.io", "networkpolicies") => service::network_policy(object),
        ("storage.k8s.io", "storageclasses") => {
            default(object, "reclaimPolicy", "Delete");
            default(object, "volumeBindingMode", "Immediate");
        }
        ("scheduling.k8s.io", "priorityclasses") => {
            default(object, "preemptionPolicy", "PreemptLowerPriority");
        }
        ("autoscaling", _) => autoscaler(object),
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => binding(object),
        ("apiextensions.k8s.io", "customresourcedefinitions") => definition(object),
        _ => {}
    }
}

/// Lists that are null where there is nothing in them.
fn listed(object: &mut Map<String, Value>, names: &[&str]) {
    for name in names {
        if object.get(*name).and_then(Value::as_array).is_none_or(Vec::is_empty) {
            object.insert((*name).to_owned(), Value::Null);
        }
    }
}

/// What is limited at most is so if nothing is said; and is asked for, if nothing is said of that.
fn limits(object: &mut Map<String, Value>) {
    let limits = meta::map(object, "spec").get_mut("limits").and_then(Value::as_array_mut);
    for limit in limits.into_iter().flatten().filter(|limit| limit["type"] == "Container") {
        let limit = meta::map_of(limit);
        for (to, from) in [("default", "max"), ("defaultRequest", "default"), ("defaultRequest", "min")] {
            let Some(Value::Object(from)) = limit.get(from).cloned() else { continue };
            let to = meta::map(limit, to);
            from.into_iter().for_each(|(name, value)| default(to, &name, value));
        }
    }
}

fn event(object: &mut Map<String, Value>) {
    for name in ["eventTime", "firstTimestamp", "lastTimestamp"] {
        object.entry(name).or_insert(Value::Null);
    }
    for name in ["reportingComponent", "reportingInstance"] {
        default(object, name, "");
    }
    meta::map(object, "source");
}

/// Four fifths of the processors, if nothing else is said; as fast up, and as fast down, as it is used to.
fn autoscaler(object: &mut Map<String, Value>) {
    let spec = meta::map(object, "spec");
    default(spec, "minReplicas", 1);
    if spec.get("metrics").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        let target = json!({"type": "Utilization", "averageUtilization": 80});
        let metric = json!({"type": "Resource", "resource": {"name": "cpu", "target": target}});
        spec.insert("metrics".to_owned(), json!([metric]));
    }
    if !spec.contains_key("behavior") {
        return;
    }
    let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
    let pods = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
    let behavior = meta::map(spec, "behavior");
    let up = meta::map(behavior, "scaleUp");
    default(up, "stabilizationWindowSeconds", 0);
    default(up, "selectPolicy", "Max");
    default(up, "policies", json!([pods, percent]));
    let down = meta::map(behavior, "scaleDown");
    default(down, "selectPolicy", "Max");
    default(down, "policies", json!([percent]));
}

fn namespace(object: &mut Map<String, Value>, name: &str, new: bool) {
    let labels = meta::map(meta::map(object, "metadata"), "labels");
    labels.insert("kubernetes.io/metadata.name".to_owned(), name.into());
    let spec = meta::map(object, "spec");
    default(spec, "finalizers", json!([]));
    if let Some(Value::Array(finalizers)) = spec.get_mut("finalizers")
        && new
        && !finalizers.iter().any(|finalizer| finalizer == "kubernetes")
    {
        finalizers.push("kubernetes".into());
    }
    default(meta::map(object, "status"), "phase", "Active");
}

/// `stringData` is written into `data`, and never shown.
fn secret(object: &mut Map<String, Value>) {
    default(object, "type", "Opaque");
    if let Some(Value::Object(texts)) = object.remove("stringData") {
        let data = meta::map(object, "data");
        for (name, text) in texts {
            // What is not a text is left for validation to refuse.
            let value = text.as_str().map_or(text.clone(), |text| STANDARD.encode(text).into());
            data.insert(name, value);
        }
    }
}

fn node(object: &mut Map<String, Value>) {
    let spec = meta::map(object, "spec");
    // `podCIDR` is the first of `podCIDRs`, whichever was given.
    let first = spec.get("podCIDRs").and_then(|ranges| ranges.get(0)).cloned();
    match (spec.get("podCIDR").cloned(), first) {
        (Some(range), first) if first.as_ref() != Some(&range) => {
            spec.insert("podCIDRs".to_owned(), json!([range]));
        }
        (None, Some(first)) => default(spec, "podCIDR", first),
        _ => {}
    }
    if spec.is_empty() {
        object.remove("spec");
    }
    let status = meta::map(object, "status");
    pod::conditions(status, &["lastHeartbeatTime", "lastTransitionTime"]);
    if let Some(capacity) = status.get("capacity").cloned() {
        default(status, "allocatable", capacity);
    }
    default(meta::map(meta::map(status, "daemonEndpoints"), "kubeletEndpoint"), "Port", 0);
    let info = meta::map(status, "nodeInfo");
    let names = [
        "architecture",
        "bootID",
        "containerRuntimeVersion",
        "kernelVersion",
        "kubeProxyVersion",
        "kubeletVersion",
        "machineID",
        "operatingSystem",
        "osImage",
        "systemUUID",
    ];
    for name in names {
        default(info, name, "");
    }
}

/// Protocol TCP, and for slices a name, in every port of a list.
fn ports(object: &mut Map<String, Value>, list: &str, named: bool) {
    for port in object.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
        if let Value::Object(port) = port {
            default(port, "protocol", "TCP");
            if named {
                default(port, "name", "");
            }
        }
    }
}

fn binding(object: &mut Map<String, Value>) {
    const GROUP: &str = "rbac.authorization.k8s.io";
    default(meta::map(object, "roleRef"), "apiGroup", GROUP);
    for subject in object.get_mut("subjects").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Value::Object(subject) = subject
            && subject.get("kind").is_some_and(|kind| kind != "ServiceAccount")
        {
            default(subject, "apiGroup", GROUP);
        }
    }
}

fn definition(object: &mut Map<String, Value>) {
    let name = object.get("metadata").and_then(|metadata| metadata["creationTimestamp"].as_str());
    let created = name.map_or_else(meta::now, str::to_owned);
    let spec = meta::map(object, "spec");
    default(spec, "conversion", json!({"strategy": "None"}));
    let stored: Vec<Value> = spec
        .get("versions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter(|version| version["storage"] == true)
        .map(|version| version["name"].clone())
        .collect();
    let names = meta::map(spec, "names");
    let kind = names.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    default(names, "singular", kind.to_lowercase());
    default(names, "listKind", format!("{kind}List"));
    let accepted = Value::Object(names.clone());
    let status = meta::map(object, "status");
    status.insert("acceptedNames".to_owned(), accepted);
    status.insert("storedVersions".to_owned(), stored.into());
    let condition = |kind: &str, reason: &str, message: &str| {
        json!({
            "type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": created,
        })
    };
    default(
        status,
        "conditions",
        json!([
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ]),
    );
}
