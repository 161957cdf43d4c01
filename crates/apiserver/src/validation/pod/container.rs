//! Containers of a Pod.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::super::{Errors, is_given, list, named, names, one_of, port_number, volume};
use super::probe;
use crate::error::FieldError;
use crate::quantity::Quantity;

/// Checks all containers of a Pod's spec; `volumes` are the names of its volumes.
pub(super) fn check(spec: &Value, at: &str, volumes: &BTreeSet<&str>, errors: &mut Errors) {
    let field = format!("{at}.containers");
    let containers = list(&spec["containers"], &field, errors);
    if containers.is_empty() {
        errors.push(FieldError::required(&field, ""));
    }
    let mut seen = BTreeSet::new();
    for (place, item) in containers.iter().enumerate() {
        let at = format!("{field}[{place}]");
        container(item, &at, volumes, errors);
        unique(item, &at, &mut seen, errors);
        probe::all(item, &at, errors);
    }
    host_ports(containers, &field, errors);
    let field = format!("{at}.initContainers");
    for (place, item) in list(&spec["initContainers"], &field, errors).iter().enumerate() {
        let at = format!("{field}[{place}]");
        container(item, &at, volumes, errors);
        one_of(
            &item["restartPolicy"],
            &format!("{at}.restartPolicy"),
            &["Always", "Never", "OnFailure"],
            errors,
        );
        unique(item, &at, &mut seen, errors);
        host_ports(std::slice::from_ref(item), &field, errors);
        if item["restartPolicy"] == "Always" {
            probe::all(item, &at, errors);
            continue;
        }
        for name in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
            if !item[name].is_null() {
                let why = "may not be set for init containers without restartPolicy=Always";
                errors.push(FieldError::forbidden(format!("{at}.{name}"), why));
            }
        }
    }
    let field = format!("{at}.ephemeralContainers");
    for (place, item) in list(&spec["ephemeralContainers"], &field, errors).iter().enumerate() {
        ephemeral(item, &format!("{field}[{place}]"), volumes, &mut seen, errors);
    }
    if spec["hostNetwork"] == true {
        for name in ["containers", "initContainers"] {
            host_network(&spec[name], &format!("{at}.{name}"), errors);
        }
    }
}

fn unique<'a>(item: &'a Value, at: &str, seen: &mut BTreeSet<&'a str>, errors: &mut Errors) {
    if let Some(name) = item["name"].as_str().filter(|name| !name.is_empty())
        && !seen.insert(name)
    {
        errors.push(FieldError::duplicate(format!("{at}.name"), &item["name"]));
    }
}

fn ephemeral<'a>(
    item: &'a Value,
    at: &str,
    volumes: &BTreeSet<&str>,
    seen: &mut BTreeSet<&'a str>,
    errors: &mut Errors,
) {
    container(item, at, volumes, errors);
    unique(item, at, seen, errors);
    let never = [
        "ports",
        "livenessProbe",
        "readinessProbe",
        "startupProbe",
        "lifecycle",
        "resizePolicy",
        "restartPolicy",
    ];
    for name in never {
        let value = &item[name];
        if !value.is_null() && value.as_array().is_none_or(|list| !list.is_empty()) {
            let why = "cannot be set for an Ephemeral Container";
            errors.push(FieldError::forbidden(format!("{at}.{name}"), why));
        }
    }
}

fn container(container: &Value, at: &str, volumes: &BTreeSet<&str>, errors: &mut Errors) {
    if !is_given(&container["name"]) {
        errors.push(FieldError::required(format!("{at}.name"), ""));
    } else {
        named(&container["name"], &format!("{at}.name"), names::dns_label, errors);
    }
    let image = container["image"].as_str().unwrap_or_default();
    if image.is_empty() {
        errors.push(FieldError::required(format!("{at}.image"), ""));
    } else if image.trim() != image {
        let why = "must not have leading or trailing whitespace";
        errors.push(FieldError::invalid(format!("{at}.image"), &container["image"], why));
    }
    let policies = ["File", "FallbackToLogsOnError"];
    one_of(
        &container["terminationMessagePolicy"],
        &format!("{at}.terminationMessagePolicy"),
        &policies,
        errors,
    );
    ports(container, at, errors);
    for (place, env) in list(&container["env"], &format!("{at}.env"), errors).iter().enumerate() {
        variable(env, &format!("{at}.env[{place}]"), errors);
    }
    let field = format!("{at}.envFrom");
    for (place, from) in list(&container["envFrom"], &field, errors).iter().enumerate() {
        environment(from, &format!("{field}[{place}]"), &field, errors);
    }
    mounts(container, &format!("{at}.volumeMounts"), volumes, errors);
    let policies = ["Always", "IfNotPresent", "Never"];
    one_of(&container["imagePullPolicy"], &format!("{at}.imagePullPolicy"), &policies, errors);
    resources(&container["resources"], &format!("{at}.resources"), errors);
    let context = &container["securityContext"];
    if context["privileged"] == true && context["allowPrivilegeEscalation"] == false {
        let why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
        errors.push(FieldError::invalid(format!("{at}.securityContext"), context, why));
    }
}

fn mounts(container: &Value, at: &str, volumes: &BTreeSet<&str>, errors: &mut Errors) {
    let mut places = BTreeSet::new();
    for (place, mount) in list(&container["volumeMounts"], at, errors).iter().enumerate() {
        let field = |name: &str| format!("{at}[{place}].{name}");
        let (name, path) =
            (mount["name"].as_str().unwrap_or_default(), mount["mountPath"].as_str().unwrap_or_default());
        if name.is_empty() {
            errors.push(FieldError::required(field("name"), ""));
        }
        if !volumes.contains(name) {
            errors.push(FieldError::not_found(field("name"), &name.into()));
        }
        if path.is_empty() {
            errors.push(FieldError::required(field("mountPath"), ""));
        }
        if !places.insert(path) {
            errors.push(FieldError::invalid(field("mountPath"), &mount["mountPath"], "must be unique"));
        }
        volume::descending(&mount["subPath"], &format!("{at}.subPath"), errors);
        if is_given(&mount["subPathExpr"]) && is_given(&mount["subPath"]) {
            let why = "subPathExpr and subPath are mutually exclusive";
            errors.push(FieldError::invalid(field("subPathExpr"), &mount["subPathExpr"], why));
        }
        volume::descending(&mount["subPathExpr"], &format!("{at}.subPathExpr"), errors);
    }
}

fn ports(container: &Value, at: &str, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (place, port) in list(&container["ports"], &format!("{at}.ports"), errors).iter().enumerate() {
        let at = format!("{at}.ports[{place}]");
        if let Some(name) = port["name"].as_str().filter(|name| !name.is_empty()) {
            if !names::port_name(name).is_empty() {
                named(&port["name"], &format!("{at}.name"), names::port_name, errors);
            } else if !seen.insert(name) {
                errors.push(FieldError::duplicate(format!("{at}.name"), &port["name"]));
            }
        }
        if port["containerPort"].is_null() || port["containerPort"] == 0 {
            errors.push(FieldError::required(format!("{at}.containerPort"), ""));
        } else {
            port_number(&port["containerPort"], &format!("{at}.containerPort"), errors);
        }
        if !port["hostPort"].is_null() && port["hostPort"] != 0 {
            port_number(&port["hostPort"], &format!("{at}.hostPort"), errors);
        }
        one_of(&port["protocol"], &format!("{at}.protocol"), &["SCTP", "TCP", "UDP"], errors);
    }
}

/// A port of the node can be had once.
fn host_ports(containers: &[Value], at: &str, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (place, container) in containers.iter().enumerate() {
        for (index, port) in container["ports"].as_array().into_iter().flatten().enumerate() {
            let Some(number) = port["hostPort"].as_u64().filter(|number| *number != 0) else { continue };
            let text = |name: &str| port[name].as_str().unwrap_or_default().to_owned();
            let key = format!("{}/{}/{number}", text("protocol"), text("hostIP"));
            if !seen.insert(key.clone()) {
                let field = format!("{at}[{place}].ports[{index}].hostPort");
                errors.push(FieldError::duplicate(field, &key.into()));
            }
        }
    }
}

/// In the host's network a container's port is the host's.
fn host_network(containers: &Value, at: &str, errors: &mut Errors) {
    for (place, container) in containers.as_array().into_iter().flatten().enumerate() {
        for (index, port) in container["ports"].as_array().into_iter().flatten().enumerate() {
            if port["hostPort"] != port["containerPort"] {
                let why = "must match `containerPort` when `hostNetwork` is true";
                let field = format!("{at}[{place}].ports[{index}].hostPort");
                errors.push(FieldError::invalid(field, &port["hostPort"], why));
            }
        }
    }
}

const FIELDS: [&str; 11] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

fn variable(env: &Value, at: &str, errors: &mut Errors) {
    if is_given(&env["name"]) {
        named(&env["name"], &format!("{at}.name"), names::env_name, errors);
    } else {
        errors.push(FieldError::required(format!("{at}.name"), ""));
    }
    let source = &env["valueFrom"];
    if source.is_null() {
        return;
    }
    let field = format!("{at}.valueFrom");
    let mut count = 0;
    for name in ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"] {
        if source[name].is_null() {
            continue;
        }
        count += 1;
        let (item, at) = (&source[name], format!("{field}.{name}"));
        match name {
            "fieldRef" => field_of(&item["fieldPath"], &format!("{at}.fieldPath"), errors),
            "configMapKeyRef" | "secretKeyRef" => {
                if !is_given(&item["name"]) {
                    errors.push(FieldError::required(format!("{at}.name"), ""));
                }
                if is_given(&item["key"]) {
                    named(&item["key"], &format!("{at}.key"), names::config_key, errors);
                } else {
                    errors.push(FieldError::required(format!("{at}.key"), ""));
                }
            }
            _ => {}
        }
    }
    let why = match count {
        0 => {
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
        }
        _ if is_given(&env["value"]) => "may not be specified when `value` is not empty",
        1 => return,
        _ => "may not have more than one field specified at a time",
    };
    errors.push(FieldError::invalid(field, &"".into(), why));
}

/// A field of the Pod that a variable may be.
fn field_of(path: &Value, at: &str, errors: &mut Errors) {
    let text = path.as_str().unwrap_or_default();
    let known = text.strip_suffix(']').and_then(|rest| rest.split_once('[')).map_or(
        FIELDS.contains(&text) && !text.ends_with("annotations") && !text.ends_with("labels"),
        |(field, _)| matches!(field, "metadata.annotations" | "metadata.labels"),
    );
    if text.is_empty() {
        errors.push(FieldError::required(at, ""));
    } else if !known {
        let why = format!("error converting fieldPath: field label not supported: {text}");
        errors.push(FieldError::invalid(at, path, why));
    }
}

fn environment(from: &Value, at: &str, whole: &str, errors: &mut Errors) {
    if is_given(&from["prefix"]) {
        named(&from["prefix"], &format!("{at}.prefix"), names::env_name, errors);
    }
    let sources: Vec<&str> =
        ["configMapRef", "secretRef"].into_iter().filter(|name| !from[*name].is_null()).collect();
    for name in &sources {
        if !is_given(&from[*name]["name"]) {
            errors.push(FieldError::required(format!("{at}.{name}.name"), ""));
        }
    }
    let why = match sources.len() {
        0 => "must specify one of: `configMapRef` or `secretRef`",
        1 => return,
        _ => "may not have more than one field specified at a time",
    };
    errors.push(FieldError::invalid(whole, &"".into(), why));
}

fn resources(resources: &Value, at: &str, errors: &mut Errors) {
    let amount = |value: &Value| value.as_str().and_then(Quantity::parse);
    for kind in ["limits", "requests"] {
        for (name, value) in resources[kind].as_object().into_iter().flatten() {
            let field = format!("{at}.{kind}[{name}]");
            resource_name(name, &field, errors);
            if amount(value).is_some_and(|amount| amount.is_negative()) {
                errors.push(FieldError::invalid(field, value, "must be greater than or equal to 0"));
            }
        }
    }
    for (name, request) in resources["requests"].as_object().into_iter().flatten() {
        let limit = &resources["limits"][name];
        let Some((request_amount, limit_amount)) = amount(request).zip(amount(limit)) else { continue };
        let whole = !matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage");
        let why = match () {
            () if whole && request_amount != limit_amount => {
                format!("must be equal to {name} limit of {}", limit_amount.canonical())
            }
            () if request_amount > limit_amount => {
                format!("must be less than or equal to {name} limit of {}", limit_amount.canonical())
            }
            () => continue,
        };
        errors.push(FieldError::invalid(format!("{at}.requests"), request, why));
    }
}

/// A resource that every node may have, or one of a vendor's.
fn resource_name(name: &str, at: &str, errors: &mut Errors) {
    let value = Value::from(name);
    named(&value, at, names::label_key, errors);
    let standard =
        matches!(name, "cpu" | "memory" | "ephemeral-storage" | "storage") || name.starts_with("hugepages-");
    if !name.contains('/') && !standard {
        for why in [
            "must be a standard resource type or fully qualified",
            "must be a standard resource for containers",
        ] {
            errors.push(FieldError::invalid(at, &value, why));
        }
    }
}

/// Ports and variables that stand twice.
pub(super) fn warnings(spec: &Value, at: &str) -> Vec<String> {
    let mut told = Vec::new();
    let mut by_name: BTreeMap<&str, String> = BTreeMap::new();
    let lists = ["containers", "initContainers"];
    for (list, place, container) in lists.into_iter().flat_map(|list| {
        spec[list].as_array().into_iter().flatten().enumerate().map(move |(place, item)| (list, place, item))
    }) {
        let at = format!("{at}.{list}[{place}]");
        let mut seen = BTreeSet::new();
        for (index, env) in container["env"].as_array().into_iter().flatten().enumerate() {
            let name = env["name"].as_str().unwrap_or_default();
            if !seen.insert(name) {
                told.push(format!(
                    "{at}.env[{index}]: hides previous definition of {name:?}, which may be dropped when using apply"
                ));
            }
        }
        let mut numbers: BTreeMap<String, String> = BTreeMap::new();
        for (index, port) in container["ports"].as_array().into_iter().flatten().enumerate() {
            let here = format!("{at}.ports[{index}]");
            let key = format!("{}/{}/{}", port["containerPort"], port["protocol"], port["hostPort"]);
            if let Some(other) = numbers.get(&key) {
                told.push(format!("{here}: duplicate port definition with {other}"));
            } else {
                numbers.insert(key, here.clone());
            }
            let Some(name) = port["name"].as_str().filter(|name| !name.is_empty()) else { continue };
            if let Some(other) = by_name.get(name) {
                told.push(format!(
                    "{here}: duplicate port name {name:?} with {other}, services and probes that select ports by name \
                     will use {other}"
                ));
            } else {
                by_name.insert(name, here);
            }
        }
    }
    told
}
