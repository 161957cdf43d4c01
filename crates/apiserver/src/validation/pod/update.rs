//! What may change of a Pod.

use serde_json::Value;

use super::super::Errors;
use crate::error::FieldError;

const FROZEN: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,\
                      `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
                      `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

fn length(spec: &Value, list: &str) -> usize {
    spec[list].as_array().map_or(0, Vec::len)
}

/// Of a running Pod little may change.
pub(in super::super) fn update(before: &Value, after: &Value, errors: &mut Errors) {
    let counted = [("containers", "containers"), ("initContainers", "init containers")];
    for (list, words) in counted {
        if length(before, list) != length(after, list) {
            let why = format!("pod updates may not add or remove {words}");
            errors.push(FieldError::forbidden(format!("spec.{list}"), &why));
            return;
        }
    }
    let (old, new) = (&before["activeDeadlineSeconds"], &after["activeDeadlineSeconds"]);
    match (old.as_i64(), new.as_i64()) {
        (Some(_), None) => {
            let why = "must not update from a positive integer to nil value";
            errors.push(FieldError::invalid("spec.activeDeadlineSeconds", new, why));
            return;
        }
        (Some(before), Some(after)) if after > before => {
            let why = "must be less than or equal to previous value";
            errors.push(FieldError::invalid("spec.activeDeadlineSeconds", new, why));
            return;
        }
        _ => {}
    }
    if !tolerates_more(&before["tolerations"], &after["tolerations"]) {
        let why = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(FieldError::forbidden("spec.tolerations", why));
    }
    let gates = |spec: &Value| spec["schedulingGates"].as_array().cloned().unwrap_or_default();
    let had = gates(before);
    for (at, gate) in gates(after).iter().enumerate().filter(|(_, gate)| !had.contains(gate)) {
        let name = gate["name"].as_str().unwrap_or_default();
        let why = format!("only deletion is allowed, but found new scheduling gate '{name}'");
        errors.push(FieldError::forbidden(format!("spec.schedulingGates[{at}].name"), &why));
    }
    if frozen(before) != frozen(after) {
        errors.push(FieldError::forbidden("spec", FROZEN));
    }
}

/// Every toleration is still there, for whatever time.
fn tolerates_more(before: &Value, after: &Value) -> bool {
    let timeless = |toleration: &Value| {
        let mut toleration = toleration.clone();
        if let Value::Object(map) = &mut toleration {
            map.remove("tolerationSeconds");
        }
        toleration
    };
    let list = |value: &Value| value.as_array().into_iter().flatten().map(timeless).collect::<Vec<Value>>();
    let after = list(after);
    list(before).iter().all(|toleration| after.contains(toleration))
}

/// Through `resize`, resources may change as well.
pub(in super::super) fn resize(before: &Value, after: &Value, errors: &mut Errors) {
    let without = |spec: &Value| {
        let mut spec = frozen(spec);
        each(&mut spec, |item| {
            item.remove("resources");
        });
        spec
    };
    if without(before) != without(after) {
        errors.push(FieldError::forbidden("spec", "only cpu and memory resources are mutable by resize"));
    }
}

/// Through `ephemeralcontainers` some come, and none goes or changes.
pub(in super::super) fn ephemeral(before: &Value, after: &Value, errors: &mut Errors) {
    const FIELD: &str = "spec.ephemeralContainers";
    let now = after["ephemeralContainers"].as_array().map(Vec::as_slice).unwrap_or_default();
    for old in before["ephemeralContainers"].as_array().into_iter().flatten() {
        let name = old["name"].as_str().unwrap_or_default();
        let why = match now.iter().find(|item| item["name"] == old["name"]) {
            None => format!("existing ephemeral containers {name:?} may not be removed\n"),
            Some(item) if item != old => {
                format!("existing ephemeral containers {name:?} may not be changed\n")
            }
            Some(_) => continue,
        };
        errors.push(FieldError::forbidden(FIELD, &why));
    }
}

fn each(spec: &mut Value, change: impl Fn(&mut serde_json::Map<String, Value>)) {
    for list in ["containers", "initContainers"] {
        for item in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Value::Object(item) = item {
                change(item);
            }
        }
    }
}

/// What stays.
fn frozen(spec: &Value) -> Value {
    let mut spec = spec.clone();
    each(&mut spec, |item| {
        item.remove("image");
    });
    // Where a Pod waits at a gate, it may still be told better where to run.
    let gated = length(&spec, "schedulingGates") > 0;
    if let Value::Object(map) = &mut spec {
        let free =
            ["activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "schedulingGates"];
        for name in free {
            map.remove(name);
        }
        if gated {
            map.remove("nodeSelector");
            map.remove("affinity");
        }
    }
    spec
}
