//! Pods and pod templates.

use serde_json::{Map, Value, json};

use crate::meta::{self, default, map};

type Object = Map<String, Value>;

pub(super) fn status(pod: &Object) -> Value {
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    let mut status = json!({"phase": "Pending", "qosClass": qos(spec)});
    if spec["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
        status["conditions"] = json!([{
            "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
            "lastTransitionTime": meta::now(),
        }]);
    }
    status
}

/// What every condition and address of a status has.
pub(super) fn complete_status(pod: &mut Object) {
    let Some(Value::Object(status)) = pod.get_mut("status") else { return };
    conditions(status, &["lastProbeTime", "lastTransitionTime"]);
    // The first address is the one.
    if let Some(address) = status.get("podIP").cloned().filter(|address| address != "") {
        let list = status.entry("podIPs").or_insert_with(|| json!([]));
        match list.as_array_mut() {
            Some(list) if list.is_empty() => list.push(json!({"ip": address})),
            Some(list) => {
                if let Some(first) = list.first_mut() {
                    meta::map_of(first).insert("ip".to_owned(), address);
                }
            }
            None => {}
        }
    }
}

/// Time fields that the stored form has as `null` if they are not set.
pub(super) fn conditions(status: &mut Object, times: &[&str]) {
    for condition in status.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Value::Object(condition) = condition {
            for name in times {
                condition.entry(*name).or_insert(Value::Null);
            }
        }
    }
}

/// A Pod: what its spec has as a template, and what admission adds.
pub(super) fn pod(pod: &mut Object) {
    complete_status(pod);
    spec(map(pod, "spec"));
    let pod_spec = map(pod, "spec");
    default(pod_spec, "enableServiceLinks", true);
    default(pod_spec, "serviceAccountName", "default");
    let account = pod_spec.get("serviceAccountName").cloned().unwrap_or_default();
    pod_spec.insert("serviceAccount".to_owned(), account);
    default(pod_spec, "priority", 0);
    default(pod_spec, "preemptionPolicy", "PreemptLowerPriority");
    tolerate(pod_spec);
    for list in ["containers", "initContainers"] {
        for container in pod_spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            requests(container);
        }
    }
}

/// The object at `template`.
pub(super) fn template(owner: &mut Object) {
    if let Some(Value::Object(template)) = owner.get_mut("template") {
        map(template, "metadata");
        spec(map(template, "spec"));
    }
}

/// For five minutes, Pods stay on nodes that are not ready or not reachable.
fn tolerate(spec: &mut Object) {
    let list = spec.entry("tolerations").or_insert_with(|| json!([]));
    let Some(list) = list.as_array_mut() else { return };
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerates = |item: &Value| {
            let effect = &item["effect"];
            let covers = item["key"] == key || (item["key"].is_null() && item["operator"] == "Exists");
            covers && (effect.is_null() || effect == "" || effect == "NoExecute")
        };
        if !list.iter().any(tolerates) {
            list.push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300,
            }));
        }
    }
}

/// What is limited and not requested is requested at its limit.
fn requests(container: &mut Value) {
    let Some(limits) = container["resources"]["limits"].as_object().cloned() else { return };
    if let Some(resources) = container.get_mut("resources").and_then(Value::as_object_mut) {
        let requests = map(resources, "requests");
        for (name, quantity) in limits {
            default(requests, &name, quantity);
        }
    }
}

pub(super) fn spec(spec: &mut Object) {
    default(spec, "restartPolicy", "Always");
    default(spec, "dnsPolicy", "ClusterFirst");
    default(spec, "terminationGracePeriodSeconds", 30);
    if spec.get("terminationGracePeriodSeconds").and_then(Value::as_i64).is_some_and(|seconds| seconds < 0) {
        spec.insert("terminationGracePeriodSeconds".to_owned(), 1.into());
    }
    default(spec, "securityContext", json!({}));
    default(spec, "schedulerName", "default-scheduler");
    if let Some(account) = spec.get("serviceAccountName").cloned() {
        default(spec, "serviceAccount", account);
    } else if let Some(account) = spec.get("serviceAccount").cloned() {
        default(spec, "serviceAccountName", account);
    }
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for item in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Value::Object(item) = item {
                container(item, host_network);
            }
        }
    }
    for item in spec.get_mut("volumes").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Value::Object(item) = item {
            volume(item);
        }
    }
}

fn container(container: &mut Object, host_network: bool) {
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
    let policy = if is_latest(image) { "Always" } else { "IfNotPresent" };
    default(container, "imagePullPolicy", policy);
    default(container, "resources", json!({}));
    default(container, "terminationMessagePath", "/dev/termination-log");
    default(container, "terminationMessagePolicy", "File");
    for port in container.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Value::Object(port) = port {
            default(port, "protocol", "TCP");
            if let (true, Some(number)) = (host_network, port.get("containerPort").cloned()) {
                default(port, "hostPort", number);
            }
        }
    }
    for env in container.get_mut("env").and_then(Value::as_array_mut).into_iter().flatten() {
        let field = env.get_mut("valueFrom").and_then(|source| source.get_mut("fieldRef"));
        if let Some(Value::Object(field)) = field {
            default(field, "apiVersion", "v1");
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(Value::Object(item)) = container.get_mut(name) {
            probe(item);
        }
    }
    if let Some(Value::Object(hooks)) = container.get_mut("lifecycle") {
        for hook in hooks.values_mut() {
            if let Some(Value::Object(get)) = hook.get_mut("httpGet") {
                http_get(get);
            }
        }
    }
}

fn is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let name = image.rsplit('/').next().unwrap_or_default();
    name.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn probe(probe: &mut Object) {
    for (name, value) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        default(probe, name, value);
    }
    if let Some(Value::Object(get)) = probe.get_mut("httpGet") {
        http_get(get);
    }
    if let Some(Value::Object(grpc)) = probe.get_mut("grpc") {
        default(grpc, "service", "");
    }
}

fn http_get(get: &mut Object) {
    default(get, "path", "/");
    default(get, "scheme", "HTTP");
}

fn volume(volume: &mut Object) {
    if volume.len() == 1 && volume.contains_key("name") {
        volume.insert("emptyDir".to_owned(), json!({}));
    }
    for (source, mode) in [("secret", 420), ("configMap", 420), ("projected", 420), ("downwardAPI", 420)] {
        if let Some(Value::Object(source)) = volume.get_mut(source) {
            default(source, "defaultMode", mode);
        }
    }
    if let Some(Value::Object(path)) = volume.get_mut("hostPath") {
        default(path, "type", "");
    }
    fields(volume.get_mut("downwardAPI"));
    let sources = volume.get_mut("projected").and_then(|projected| projected.get_mut("sources"));
    for source in sources.and_then(Value::as_array_mut).into_iter().flatten() {
        fields(source.get_mut("downwardAPI"));
        if let Some(Value::Object(token)) = source.get_mut("serviceAccountToken") {
            default(token, "expirationSeconds", 3600);
        }
    }
}

/// The version of the fields of a Pod that become files.
fn fields(source: Option<&mut Value>) {
    let items = source.and_then(|source| source.get_mut("items")).and_then(Value::as_array_mut);
    for item in items.into_iter().flatten() {
        if let Some(Value::Object(field)) = item.get_mut("fieldRef") {
            default(field, "apiVersion", "v1");
        }
    }
}

/// The quality of service that requests and limits make.
fn qos(spec: &Value) -> &'static str {
    let containers: Vec<&Value> =
        ["containers", "initContainers"].iter().filter_map(|list| spec[*list].as_array()).flatten().collect();
    let of = |container: &Value, kind: &str, name: &str| container["resources"][kind].get(name).cloned();
    let any = containers.iter().any(|container| {
        ["limits", "requests"]
            .iter()
            .any(|kind| ["cpu", "memory"].iter().any(|name| of(container, kind, name).is_some()))
    });
    let all = containers.iter().all(|container| {
        ["cpu", "memory"].iter().all(|name| {
            let limit = of(container, "limits", name);
            limit.is_some() && of(container, "requests", name).is_none_or(|request| Some(request) == limit)
        })
    });
    match (any, all) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// Labels as a map, for owners that check their templates.
pub(super) fn labels(object: &mut Object) -> &mut Object {
    map(meta::map(object, "metadata"), "labels")
}
