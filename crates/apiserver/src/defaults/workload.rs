//! Deployments, ReplicaSets, StatefulSets, DaemonSets, Jobs, CronJobs.

use serde_json::{Map, Value, json};

use super::pod;
use crate::meta::{default, map};

type Object = Map<String, Value>;

pub(super) fn status(plural: &str) -> Value {
    match plural {
        "daemonsets" => json!({
            "currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0,
        }),
        "replicasets" => json!({"replicas": 0}),
        "statefulsets" => json!({"replicas": 0, "availableReplicas": 0}),
        "replicationcontrollers" => json!({"replicas": 0}),
        _ => json!({}),
    }
}

pub(super) fn workload(plural: &str, object: &mut Object, name: &str, uid: &str, before: Option<&Value>) {
    if plural == "controllerrevisions" {
        return;
    }
    let spec = map(object, "spec");
    pod::template(spec);
    match plural {
        "deployments" => deployment(spec),
        "replicasets" => default(spec, "replicas", 1),
        "replicationcontrollers" => {
            controller(spec);
            labels_of_template(object);
        }
        "statefulsets" => stateful(spec),
        "daemonsets" => {
            rolling(spec, "updateStrategy", &[("maxUnavailable", json!(1)), ("maxSurge", json!(0))]);
            default(spec, "revisionHistoryLimit", 10);
            template_generation(object, before);
        }
        "jobs" => {
            job(spec);
            if before.is_none() {
                job_labels(object, name, uid);
                // A name that is too long for a label is told once.
                if name.len() <= 63 {
                    labels_of_template(object);
                }
            }
        }
        "cronjobs" => {
            default(spec, "concurrencyPolicy", "Allow");
            default(spec, "suspend", false);
            default(spec, "successfulJobsHistoryLimit", 3);
            default(spec, "failedJobsHistoryLimit", 1);
            if let Some(Value::Object(template)) = spec.get_mut("jobTemplate") {
                map(template, "metadata");
                let inner = map(template, "spec");
                pod::template(inner);
            }
        }
        _ => {}
    }
}

fn deployment(spec: &mut Object) {
    default(spec, "replicas", 1);
    default(spec, "revisionHistoryLimit", 10);
    default(spec, "progressDeadlineSeconds", 600);
    rolling(spec, "strategy", &[("maxSurge", json!("25%")), ("maxUnavailable", json!("25%"))]);
}

/// A strategy that rolls unless it says otherwise.
fn rolling(spec: &mut Object, field: &str, parameters: &[(&str, Value)]) {
    let strategy = map(spec, field);
    default(strategy, "type", "RollingUpdate");
    if strategy.get("type").is_some_and(|kind| kind == "RollingUpdate") {
        let rolling = map(strategy, "rollingUpdate");
        for (name, value) in parameters {
            default(rolling, name, value.clone());
        }
    }
}

fn controller(spec: &mut Object) {
    default(spec, "replicas", 1);
    if let Some(labels) = spec.get("template").map(|template| template["metadata"]["labels"].clone())
        && labels.is_object()
    {
        default(spec, "selector", labels);
    }
}

fn stateful(spec: &mut Object) {
    default(spec, "replicas", 1);
    default(spec, "serviceName", "");
    default(spec, "podManagementPolicy", "OrderedReady");
    default(spec, "revisionHistoryLimit", 10);
    rolling(spec, "updateStrategy", &[("partition", json!(0))]);
    let retention = map(spec, "persistentVolumeClaimRetentionPolicy");
    default(retention, "whenDeleted", "Retain");
    default(retention, "whenScaled", "Retain");
    for claim in spec.get_mut("volumeClaimTemplates").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Value::Object(claim) = claim {
            default(claim, "apiVersion", "v1");
            default(claim, "kind", "PersistentVolumeClaim");
            default(map(claim, "spec"), "volumeMode", "Filesystem");
            default(map(claim, "status"), "phase", "Pending");
        }
    }
}

fn job(spec: &mut Object) {
    let given = |name: &str| spec.get(name).is_some_and(|value| !value.is_null());
    // Parallelism alone makes a work queue: completions stay unset.
    if !given("completions") && !given("parallelism") {
        default(spec, "completions", 1);
    }
    default(spec, "parallelism", 1);
    // What bounds the failures of each index needs no bound of all.
    let limit = if spec.contains_key("backoffLimitPerIndex") { i32::MAX } else { 6 };
    default(spec, "backoffLimit", limit);
    default(spec, "completionMode", "NonIndexed");
    default(spec, "suspend", false);
    default(spec, "manualSelector", false);
    let replaced = if spec.contains_key("podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    default(spec, "podReplacementPolicy", replaced);
    let rules = spec.get_mut("podFailurePolicy").and_then(|policy| policy.get_mut("rules"));
    for rule in rules.and_then(Value::as_array_mut).into_iter().flatten() {
        let conditions = rule.get_mut("onPodConditions").and_then(Value::as_array_mut);
        for condition in conditions.into_iter().flatten() {
            if let Value::Object(condition) = condition {
                default(condition, "status", "True");
            }
        }
    }
}

/// An owner without labels has those of its Pods.
fn labels_of_template(owner: &mut Object) {
    let labels = owner.get("spec").map(|spec| spec["template"]["metadata"]["labels"].clone());
    let own = map(map(owner, "metadata"), "labels");
    if own.is_empty()
        && let Some(Value::Object(labels)) = labels
    {
        *own = labels;
    }
    if own.is_empty() {
        map(owner, "metadata").remove("labels");
    }
}

/// How often the template of a DaemonSet was changed, as an annotation.
fn template_generation(set: &mut Object, before: Option<&Value>) {
    const NAME: &str = "deprecated.daemonset.template.generation";
    let old = before.map(|before| {
        let count = before["metadata"]["annotations"][NAME].as_str().and_then(|text| text.parse().ok());
        let same = set.get("spec").is_some_and(|spec| spec["template"] == before["spec"]["template"]);
        count.unwrap_or(1_i64) + i64::from(!same)
    });
    let annotations = map(map(set, "metadata"), "annotations");
    annotations.insert(NAME.to_owned(), old.unwrap_or(1).to_string().into());
}

/// A Job's Pods are told apart by its uid.
fn job_labels(job: &mut Object, name: &str, uid: &str) {
    let spec = map(job, "spec");
    if spec.get("manualSelector") == Some(&Value::Bool(true)) {
        return;
    }
    if let Some(Value::Object(template)) = spec.get_mut("template") {
        let labels = pod::labels(template);
        for prefix in ["", "batch.kubernetes.io/"] {
            labels.insert(format!("{prefix}controller-uid"), uid.into());
            labels.insert(format!("{prefix}job-name"), name.into());
        }
    }
    default(map(map(spec, "selector"), "matchLabels"), "batch.kubernetes.io/controller-uid", uid);
}
