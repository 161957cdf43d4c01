//! Pod specs.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Errors, count, list, names, one_of, port_number, volume};
use crate::error::FieldError;

pub(super) fn spec(spec: &Value, at: &str, errors: &mut Errors) {
    let field = |name: &str| format!("{at}.{name}");
    let containers = list(&spec["containers"], &field("containers"), errors);
    if containers.is_empty() {
        errors.push(FieldError::required(field("containers"), ""));
    }
    let volumes = volumes(&spec["volumes"], &field("volumes"), errors);
    let mut seen = BTreeSet::new();
    for name in ["initContainers", "containers"] {
        for (place, item) in list(&spec[name], &field(name), errors).iter().enumerate() {
            let at = format!("{at}.{name}[{place}]");
            if !item.is_object() {
                errors.push(FieldError::type_invalid(at, item, "must be an object"));
                continue;
            }
            if item["name"].is_string() && !seen.insert(item["name"].as_str()) {
                errors.push(FieldError::duplicate(format!("{at}.name"), &item["name"]));
            }
            container(item, &at, &volumes, errors);
        }
    }
    one_of(&spec["restartPolicy"], &field("restartPolicy"), &["Always", "OnFailure", "Never"], errors);
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    one_of(&spec["dnsPolicy"], &field("dnsPolicy"), &policies, errors);
    count(&spec["terminationGracePeriodSeconds"], &field("terminationGracePeriodSeconds"), errors);
}

fn named(item: &Value, at: &str, errors: &mut Errors) {
    let name = &item["name"];
    match name.as_str() {
        None | Some("") => errors.push(FieldError::required(format!("{at}.name"), "")),
        Some(text) => {
            if let Err(why) = names::dns_label(text) {
                errors.push(FieldError::invalid(format!("{at}.name"), name, why));
            }
        }
    }
}

fn volumes<'a>(value: &'a Value, at: &str, errors: &mut Errors) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    for (place, volume) in list(value, at, errors).iter().enumerate() {
        let at = format!("{at}[{place}]");
        named(volume, &at, errors);
        if let Some(name) = volume["name"].as_str()
            && !seen.insert(name)
        {
            errors.push(FieldError::duplicate(format!("{at}.name"), &volume["name"]));
        }
        volume::source(volume, &at, errors);
    }
    seen
}

fn container(container: &Value, at: &str, volumes: &BTreeSet<&str>, errors: &mut Errors) {
    named(container, at, errors);
    match &container["image"] {
        Value::Null => errors.push(FieldError::required(format!("{at}.image"), "")),
        Value::String(image) if image.is_empty() => {
            errors.push(FieldError::required(format!("{at}.image"), ""));
        }
        Value::String(image) if image.trim() != image => {
            let why = "must not have leading or trailing whitespace";
            errors.push(FieldError::invalid(format!("{at}.image"), &container["image"], why));
        }
        Value::String(_) => {}
        other => errors.push(FieldError::type_invalid(format!("{at}.image"), other, "must be a string")),
    }
    for name in ["command", "args"] {
        for (place, word) in list(&container[name], &format!("{at}.{name}"), errors).iter().enumerate() {
            if !word.is_string() {
                let field = format!("{at}.{name}[{place}]");
                errors.push(FieldError::type_invalid(field, word, "must be a string"));
            }
        }
    }
    ports(container, at, errors);
    for (place, env) in list(&container["env"], &format!("{at}.env"), errors).iter().enumerate() {
        let at = format!("{at}.env[{place}]");
        match env["name"].as_str() {
            None | Some("") => errors.push(FieldError::required(format!("{at}.name"), "")),
            Some(name) if name.contains('=') => {
                errors.push(FieldError::invalid(format!("{at}.name"), &env["name"], "must not contain '='"));
            }
            Some(_) => {}
        }
        if !env["value"].is_null() && !env["value"].is_string() {
            errors.push(FieldError::type_invalid(format!("{at}.value"), &env["value"], "must be a string"));
        }
    }
    let mut places = BTreeSet::new();
    for (place, mount) in
        list(&container["volumeMounts"], &format!("{at}.volumeMounts"), errors).iter().enumerate()
    {
        let at = format!("{at}.volumeMounts[{place}]");
        match mount["mountPath"].as_str() {
            None | Some("") => errors.push(FieldError::required(format!("{at}.mountPath"), "")),
            Some(path) if !places.insert(path) => {
                let why = "must be unique";
                errors.push(FieldError::invalid(format!("{at}.mountPath"), &mount["mountPath"], why));
            }
            Some(_) => {}
        }
        volume::descending(&mount["subPath"], &format!("{at}.subPath"), errors);
        volume::descending(&mount["subPathExpr"], &format!("{at}.subPathExpr"), errors);
        if [&mount["subPath"], &mount["subPathExpr"]]
            .iter()
            .all(|path| path.as_str().is_some_and(|p| !p.is_empty()))
        {
            let why = "subPathExpr and subPath are mutually exclusive";
            errors.push(FieldError::invalid(format!("{at}.subPathExpr"), &mount["subPathExpr"], why));
        }
        match mount["name"].as_str() {
            None | Some("") => errors.push(FieldError::required(format!("{at}.name"), "")),
            Some(name) if !volumes.contains(name) => {
                errors.push(FieldError::not_found(format!("{at}.name"), &mount["name"]));
            }
            Some(_) => {}
        }
    }
    let policies = ["Always", "IfNotPresent", "Never"];
    one_of(&container["imagePullPolicy"], &format!("{at}.imagePullPolicy"), &policies, errors);
}

fn ports(container: &Value, at: &str, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (place, port) in list(&container["ports"], &format!("{at}.ports"), errors).iter().enumerate() {
        let at = format!("{at}.ports[{place}]");
        port_number(&port["containerPort"], &format!("{at}.containerPort"), errors);
        one_of(&port["protocol"], &format!("{at}.protocol"), &["SCTP", "TCP", "UDP"], errors);
        if !port["hostPort"].is_null() {
            port_number(&port["hostPort"], &format!("{at}.hostPort"), errors);
        }
        match port["name"].as_str() {
            None => {}
            Some(name) => {
                if let Err(why) = port_name(name) {
                    errors.push(FieldError::invalid(format!("{at}.name"), &port["name"], why));
                }
                if !seen.insert(name) {
                    errors.push(FieldError::duplicate(format!("{at}.name"), &port["name"]));
                }
            }
        }
    }
}

/// IANA service names.
pub(super) fn port_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > 15 {
        return Err("must be no more than 15 characters and not empty");
    }
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if !name.bytes().all(allowed) || !name.bytes().any(|b| b.is_ascii_lowercase()) {
        return Err(
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-), and at least one letter",
        );
    }
    if name.contains("--") || name.starts_with('-') || name.ends_with('-') {
        return Err("must not contain consecutive hyphens, nor start or end with one");
    }
    Ok(())
}

/// Of a running Pod little may change.
pub(super) fn update(before: &Value, after: &Value, errors: &mut Errors) {
    let (before, after) = (frozen(before), frozen(after));
    if before != after {
        let why = "pod updates may not change fields other than `spec.containers[*].image`,\
                   `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to \
                   existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was \
                   previously negative)";
        errors.push(FieldError::forbidden("spec", why));
    }
}

/// Through `resize`, resources may change as well.
pub(super) fn resize(before: &Value, after: &Value, errors: &mut Errors) {
    let without = |spec: &Value| {
        let mut spec = frozen(spec);
        for list in ["containers", "initContainers"] {
            for item in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                if let Value::Object(item) = item {
                    item.remove("resources");
                }
            }
        }
        spec
    };
    if without(before) != without(after) {
        errors.push(FieldError::forbidden("spec", "only cpu and memory resources are mutable by resize"));
    }
}

fn frozen(spec: &Value) -> Value {
    let mut spec = spec.clone();
    for list in ["containers", "initContainers"] {
        for item in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Value::Object(item) = item {
                item.remove("image");
            }
        }
    }
    if let Value::Object(spec) = &mut spec {
        for name in
            ["activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "schedulingGates"]
        {
            spec.remove(name);
        }
    }
    spec
}
