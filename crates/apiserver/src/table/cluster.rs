//! Nodes, namespaces, configuration, storage, access, events.

use serde_json::Value;

use super::text::{age_of, items, number, or_none, plain, since, word};
use super::{AGE, Column};
use crate::meta;

pub(super) const NODE: &[Column] = &[
    ("Status", "string", 0),
    ("Roles", "string", 0),
    AGE,
    ("Version", "string", 0),
    ("Internal-IP", "string", 1),
    ("External-IP", "string", 1),
    ("OS-Image", "string", 1),
    ("Kernel-Version", "string", 1),
    ("Container-Runtime", "string", 1),
];

pub(super) fn node(object: &Value) -> Vec<Value> {
    let (status, info) = (&object["status"], &object["status"]["nodeInfo"]);
    let ready = items(&status["conditions"]).iter().find(|condition| condition["type"] == "Ready");
    let mut state = match ready.map(|condition| word(&condition["status"])) {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if object["spec"]["unschedulable"] == true {
        state.push_str(",SchedulingDisabled");
    }
    let address = |kind: &str| {
        let found = items(&status["addresses"]).iter().find(|address| address["type"] == kind);
        or_none(found.map(|address| word(&address["address"])).unwrap_or_default())
    };
    let known = |value: &Value| match word(value) {
        "" => Value::from("<unknown>"),
        text => text.into(),
    };
    vec![
        state.into(),
        or_none(roles(object)),
        age_of(object),
        word(&info["kubeletVersion"]).into(),
        address("InternalIP"),
        address("ExternalIP"),
        known(&info["osImage"]),
        known(&info["kernelVersion"]),
        known(&info["containerRuntimeVersion"]),
    ]
}

fn roles(node: &Value) -> String {
    let labels = node["metadata"]["labels"].as_object();
    let mut roles: Vec<&str> = labels
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some("") | None => (key == "kubernetes.io/role").then(|| word(value)),
            role => role,
        })
        .collect();
    roles.sort_unstable();
    roles.join(",")
}

pub(super) const NAMESPACE: &[Column] = &[("Status", "string", 0), AGE];

pub(super) fn namespace(object: &Value) -> Vec<Value> {
    vec![word(&object["status"]["phase"]).into(), age_of(object)]
}

fn entries(object: &Value) -> Value {
    let count = |field: &str| object[field].as_object().map_or(0, serde_json::Map::len);
    (count("data") + count("binaryData")).into()
}

pub(super) const CONFIG_MAP: &[Column] = &[("Data", "string", 0), AGE];

pub(super) fn config_map(object: &Value) -> Vec<Value> {
    vec![entries(object), age_of(object)]
}

pub(super) const SECRET: &[Column] = &[("Type", "string", 0), ("Data", "string", 0), AGE];

pub(super) fn secret(object: &Value) -> Vec<Value> {
    vec![word(&object["type"]).into(), entries(object), age_of(object)]
}

pub(super) const SERVICE_ACCOUNT: &[Column] = &[("Secrets", "string", 0), AGE];

pub(super) fn service_account(object: &Value) -> Vec<Value> {
    vec![items(&object["secrets"]).len().into(), age_of(object)]
}

fn modes(value: &Value) -> String {
    let short = |mode: &Value| match word(mode) {
        "ReadWriteOnce" => "RWO".to_owned(),
        "ReadOnlyMany" => "ROX".to_owned(),
        "ReadWriteMany" => "RWX".to_owned(),
        "ReadWriteOncePod" => "RWOP".to_owned(),
        other => other.to_owned(),
    };
    items(value).iter().map(short).collect::<Vec<_>>().join(",")
}

pub(super) const VOLUME: &[Column] = &[
    ("Capacity", "string", 0),
    ("Access Modes", "string", 0),
    ("Reclaim Policy", "string", 0),
    ("Status", "string", 0),
    ("Claim", "string", 0),
    ("StorageClass", "string", 0),
    ("VolumeAttributesClass", "string", 0),
    ("Reason", "string", 0),
    AGE,
    ("VolumeMode", "string", 1),
];

/// A thing on its way out says so.
fn phase(object: &Value) -> Value {
    if meta::is_deleting(object) { "Terminating".into() } else { word(&object["status"]["phase"]).into() }
}

pub(super) fn volume(object: &Value) -> Vec<Value> {
    let spec = &object["spec"];
    let claim = &spec["claimRef"];
    let claim = if claim.is_object() {
        format!("{}/{}", word(&claim["namespace"]), word(&claim["name"]))
    } else {
        String::new()
    };
    vec![
        plain(&spec["capacity"]["storage"]).into(),
        modes(&spec["accessModes"]).into(),
        word(&spec["persistentVolumeReclaimPolicy"]).into(),
        phase(object),
        claim.into(),
        word(&spec["storageClassName"]).into(),
        unset(&spec["volumeAttributesClassName"]),
        word(&object["status"]["reason"]).into(),
        age_of(object),
        unset(&spec["volumeMode"]),
    ]
}

fn unset(value: &Value) -> Value {
    match word(value) {
        "" => "<unset>".into(),
        text => text.into(),
    }
}

pub(super) const CLAIM: &[Column] = &[
    ("Status", "string", 0),
    ("Volume", "string", 0),
    ("Capacity", "string", 0),
    ("Access Modes", "string", 0),
    ("StorageClass", "string", 0),
    ("VolumeAttributesClass", "string", 0),
    AGE,
    ("VolumeMode", "string", 1),
];

pub(super) fn claim(object: &Value) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let bound = !word(&spec["volumeName"]).is_empty();
    let (capacity, access) = if bound {
        (plain(&status["capacity"]["storage"]), modes(&status["accessModes"]))
    } else {
        (String::new(), String::new())
    };
    vec![
        phase(object),
        word(&spec["volumeName"]).into(),
        capacity.into(),
        access.into(),
        word(&spec["storageClassName"]).into(),
        unset(&spec["volumeAttributesClassName"]),
        age_of(object),
        unset(&spec["volumeMode"]),
    ]
}

pub(super) const EVENT: &[Column] = &[
    ("Last Seen", "string", 0),
    ("Type", "string", 0),
    ("Reason", "string", 0),
    ("Object", "string", 0),
    ("Subobject", "string", 1),
    ("Source", "string", 1),
    ("Message", "string", 0),
    ("First Seen", "string", 1),
    ("Count", "string", 1),
    ("Name", "string", 1),
];

pub(super) fn event(object: &Value) -> Vec<Value> {
    let involved = &object["involvedObject"];
    let first = [&object["firstTimestamp"], &object["eventTime"]].into_iter().find_map(Value::as_str);
    let last = [&object["series"]["lastObservedTime"], &object["lastTimestamp"]];
    let last = last.into_iter().find_map(Value::as_str).or(first);
    let seen = |time: Option<&str>| time.map_or_else(|| "<unknown>".to_owned(), since);
    let source = match (word(&object["source"]["component"]), word(&object["source"]["host"])) {
        ("", "") => word(&object["reportingComponent"]).to_owned(),
        (component, "") => component.to_owned(),
        (component, host) => format!("{component}, {host}"),
    };
    let count = match (&object["series"]["count"], &object["count"]) {
        (Value::Number(count), _) | (_, Value::Number(count)) => count.to_string(),
        _ => "1".to_owned(),
    };
    vec![
        seen(last).into(),
        word(&object["type"]).into(),
        word(&object["reason"]).into(),
        format!("{}/{}", word(&involved["kind"]).to_lowercase(), word(&involved["name"])).into(),
        word(&involved["fieldPath"]).into(),
        source.into(),
        word(&object["message"]).trim().into(),
        seen(first).into(),
        count.into(),
        meta::name(object).into(),
    ]
}

pub(super) const LEASE: &[Column] = &[("Holder", "string", 0), AGE];

pub(super) fn lease(object: &Value) -> Vec<Value> {
    vec![word(&object["spec"]["holderIdentity"]).into(), age_of(object)]
}

pub(super) const STORAGE_CLASS: &[Column] = &[
    ("Provisioner", "string", 0),
    ("ReclaimPolicy", "string", 0),
    ("VolumeBindingMode", "string", 0),
    ("AllowVolumeExpansion", "boolean", 0),
    AGE,
];

pub(super) fn storage_class(object: &Value) -> Vec<Value> {
    vec![
        word(&object["provisioner"]).into(),
        word(&object["reclaimPolicy"]).into(),
        word(&object["volumeBindingMode"]).into(),
        (object["allowVolumeExpansion"] == true).into(),
        age_of(object),
    ]
}

pub(super) const PRIORITY_CLASS: &[Column] =
    &[("Value", "integer", 0), ("Global-Default", "boolean", 0), AGE, ("PreemptionPolicy", "string", 0)];

pub(super) fn priority_class(object: &Value) -> Vec<Value> {
    vec![
        number(&object["value"]).into(),
        (object["globalDefault"] == true).into(),
        age_of(object),
        word(&object["preemptionPolicy"]).into(),
    ]
}

pub(super) const RUNTIME_CLASS: &[Column] = &[("Handler", "string", 0), AGE];

pub(super) fn runtime_class(object: &Value) -> Vec<Value> {
    vec![word(&object["handler"]).into(), age_of(object)]
}

pub(super) const CREATED: &[Column] = &[("Created At", "date", 0)];

pub(super) fn created(object: &Value) -> Vec<Value> {
    vec![word(&object["metadata"]["creationTimestamp"]).into()]
}

pub(super) const BINDING: &[Column] = &[
    ("Role", "string", 0),
    AGE,
    ("Users", "string", 1),
    ("Groups", "string", 1),
    ("ServiceAccounts", "string", 1),
];

pub(super) fn binding(object: &Value) -> Vec<Value> {
    let role = &object["roleRef"];
    let of = |kind: &str| {
        let names: Vec<String> = items(&object["subjects"])
            .iter()
            .filter(|subject| subject["kind"] == kind)
            .map(|subject| match word(&subject["namespace"]) {
                "" => word(&subject["name"]).to_owned(),
                namespace => format!("{namespace}/{}", word(&subject["name"])),
            })
            .collect();
        Value::from(names.join(", "))
    };
    vec![
        format!("{}/{}", word(&role["kind"]), word(&role["name"])).into(),
        age_of(object),
        of("User"),
        of("Group"),
        of("ServiceAccount"),
    ]
}
