//! Nodes, leases, Events, and classes of priority and storage.

use serde_json::{Value, json};

use super::{Errors, address, count, is_given, list, named, names, one_of};
use crate::error::FieldError;

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// The highest priority that is not the system's.
const HIGHEST: i64 = 1_000_000_000;

pub(super) fn node(object: &Value, errors: &mut Errors) {
    let spec = &object["spec"];
    let taints = list(&spec["taints"], "metadata.taints", errors);
    for (at, taint) in taints.iter().enumerate() {
        let at = format!("metadata.taints[{at}]");
        named(&taint["key"], &format!("{at}.key"), names::label_key, errors);
        named(&taint["value"], &format!("{at}.value"), names::label_value, errors);
        if is_given(&taint["effect"]) {
            one_of(&taint["effect"], &format!("{at}.effect"), &EFFECTS, errors);
        } else {
            errors.push(FieldError::required(format!("{at}.effect"), ""));
        }
    }
    for (at, taint) in taints.iter().enumerate() {
        let same = |other: &&Value| other["key"] == taint["key"] && other["effect"] == taint["effect"];
        if taints.iter().take(at).any(|other| same(&other)) {
            let mut error = FieldError::duplicate(format!("metadata.taints[{at}]"), taint);
            error.message.push_str(": taints must be unique by key and effect pair");
            errors.push(error);
        }
    }
    const FIELD: &str = "spec.podCIDRs";
    let ranges = list(&spec["podCIDRs"], FIELD, errors);
    let parsed: Vec<_> = ranges
        .iter()
        .enumerate()
        .filter_map(|(at, range)| address::cidr(range, &format!("{FIELD}[{at}]"), errors))
        .collect();
    let many = |six: bool| parsed.iter().filter(|range| range.addr().is_ipv6() == six).count() > 1;
    if many(true) || many(false) {
        let why = "may specify no more than one CIDR for each IP family";
        errors.push(FieldError::invalid(FIELD, &spec["podCIDRs"], why));
    }
}

/// What may change of a node, by its spec or its status.
pub(super) fn node_update(before: &Value, object: &Value, errors: &mut Errors) {
    let addresses = list(&object["status"]["addresses"], "status.addresses", errors);
    for (at, value) in addresses.iter().enumerate() {
        if addresses.iter().take(at).any(|other| other == value) {
            errors.push(FieldError::duplicate(format!("status.addresses[{at}]"), value));
        }
    }
    let old = &before["spec"]["podCIDRs"];
    if old.as_array().is_some_and(|ranges| !ranges.is_empty()) && *old != object["spec"]["podCIDRs"] {
        let why = "node updates may not change podCIDR except from \"\" to valid";
        errors.push(FieldError::forbidden("spec.podCIDRs", why));
    }
    let old = &before["spec"]["providerID"];
    if is_given(old) && *old != object["spec"]["providerID"] {
        let why = "node updates may not change providerID except from \"\" to valid";
        errors.push(FieldError::forbidden("spec.providerID", why));
    }
}

pub(super) fn lease(spec: &Value, errors: &mut Errors) {
    let duration = &spec["leaseDurationSeconds"];
    if duration.as_i64().is_some_and(|seconds| seconds <= 0) {
        errors.push(FieldError::invalid("spec.leaseDurationSeconds", duration, "must be greater than 0"));
    }
    count(&spec["leaseTransitions"], "spec.leaseTransitions", errors);
}

pub(super) fn event(object: &Value, errors: &mut Errors) {
    let (namespace, own) = (&object["involvedObject"]["namespace"], &object["metadata"]["namespace"]);
    let wanted = namespace.as_str().unwrap_or_default();
    // Of what has no namespace there are Events in the default one.
    let sound = if wanted.is_empty() { *own == "default" || *own == "" } else { namespace == own };
    if !sound {
        let why = "does not match event.namespace";
        errors.push(FieldError::invalid("involvedObject.namespace", &wanted.into(), why));
    }
}

/// What an Event of the newer kind must have.
pub(super) fn new_event(object: &Value, errors: &mut Errors) {
    if !is_given(&object["eventTime"]) {
        errors.push(FieldError::required("eventTime", ""));
    }
    let kind = object["type"].as_str().unwrap_or_default();
    if !matches!(kind, "Normal" | "Warning") {
        errors.push(FieldError::invalid("type", &kind.into(), format!("has invalid value: {kind}")));
    }
}

pub(super) fn priority_class(object: &Value, errors: &mut Errors) {
    let (name, value) = (object["metadata"]["name"].as_str().unwrap_or_default(), &object["value"]);
    if name.starts_with("system-") {
        let known = json!({"system-cluster-critical": 2_000_000_000, "system-node-critical": 2_000_001_000});
        if known[name].is_null() {
            let why = format!(
                "priority class names with 'system-' prefix are reserved for system use only. error: {name} is not a known \
                 system priority class"
            );
            errors.push(FieldError::forbidden("metadata.name", &why));
        }
    } else if value.as_i64().is_some_and(|value| value > HIGHEST) {
        let why = format!("maximum allowed value of a user defined priority is {HIGHEST}");
        errors.push(FieldError::forbidden("value", &why));
    }
    let policies = ["PreemptLowerPriority", "Never"];
    one_of(&object["preemptionPolicy"], "preemptionPolicy", &policies, errors);
}

pub(super) fn storage_class(object: &Value, errors: &mut Errors) {
    let provisioner = &object["provisioner"];
    if is_given(provisioner) {
        let lower = provisioner.as_str().unwrap_or_default().to_lowercase();
        for why in names::label_key(&lower) {
            errors.push(FieldError::invalid("provisioner", provisioner, why));
        }
    } else {
        errors.push(FieldError::required("provisioner", ""));
    }
    one_of(&object["reclaimPolicy"], "reclaimPolicy", &["Delete", "Retain"], errors);
    let modes = ["Immediate", "WaitForFirstConsumer"];
    one_of(&object["volumeBindingMode"], "volumeBindingMode", &modes, errors);
}
