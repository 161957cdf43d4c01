//! Between the version that is stored and the version that a client speaks.

use serde_json::{Map, Value, json};

use crate::meta;
use crate::resources::ResourceType;

/// `None`: the stored object is already in the served version. It may have been stored when another was the stored one.
pub(crate) fn to_served(resource: &ResourceType, stored: &Value) -> Option<Value> {
    let api_version = resource.api_version();
    if stored["apiVersion"] == api_version.as_str() {
        return None;
    }
    let mut object = stored.clone();
    match api_version.as_str() {
        "events.k8s.io/v1" => rename(&mut object, EVENT, false),
        "autoscaling/v1" => autoscaler_to_v1(&mut object),
        // Custom resources: versions differ in name only (conversion strategy None).
        _ => {}
    }
    meta::map_of(&mut object).insert("apiVersion".to_owned(), api_version.into());
    Some(object)
}

/// From what a client sent to what is stored.
pub(crate) fn to_stored(resource: &ResourceType, object: &mut Value) {
    let api_version = resource.api_version();
    if api_version != resource.storage_version {
        match api_version.as_str() {
            "events.k8s.io/v1" => rename(object, EVENT, true),
            "autoscaling/v1" => autoscaler_to_v2(object),
            _ => {}
        }
    }
    meta::map_of(object).insert("apiVersion".to_owned(), resource.storage_version.clone().into());
}

/// Fields of an Event: in core/v1, in events.k8s.io/v1.
const EVENT: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

fn rename(object: &mut Value, names: &[(&str, &str)], to_stored: bool) {
    let object = meta::map_of(object);
    for (stored, served) in names {
        let (from, to) = if to_stored { (served, stored) } else { (stored, served) };
        if let Some(value) = object.remove(*from) {
            object.insert((*to).to_owned(), value);
        }
    }
}

const CPU: &str = "targetCPUUtilizationPercentage";

fn autoscaler_to_v1(object: &mut Value) {
    let spec = meta::map(meta::map_of(object), "spec");
    let metrics = spec.remove("metrics");
    let target = metrics
        .iter()
        .filter_map(Value::as_array)
        .flatten()
        .find(|metric| metric["type"] == "Resource" && metric["resource"]["name"] == "cpu");
    if let Some(target) = target.and_then(|metric| metric["resource"]["target"].get("averageUtilization")) {
        spec.insert(CPU.to_owned(), target.clone());
    }
    spec.remove("behavior");
    let status = meta::map(meta::map_of(object), "status");
    let current = status.remove("currentMetrics");
    let current = current
        .iter()
        .filter_map(Value::as_array)
        .flatten()
        .find_map(|metric| metric["resource"]["current"].get("averageUtilization").cloned());
    if let Some(current) = current {
        status.insert("currentCPUUtilizationPercentage".to_owned(), current);
    }
    status.remove("conditions");
    meta::default(status, "currentReplicas", 0);
}

fn autoscaler_to_v2(object: &mut Value) {
    let spec: &mut Map<String, Value> = meta::map(meta::map_of(object), "spec");
    if let Some(target) = spec.remove(CPU) {
        let metric = json!({"type": "Resource", "resource": {
            "name": "cpu", "target": {"type": "Utilization", "averageUtilization": target},
        }});
        spec.insert("metrics".to_owned(), json!([metric]));
    }
}
