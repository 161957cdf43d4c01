//! Workloads.

use serde_json::Value;

use super::text::{age_of, duration, items, joined, number, or_none, plain, selector, since, word};
use super::{AGE, Column};
use crate::meta;

const CONTAINERS: Column = ("Containers", "string", 1);
const IMAGES: Column = ("Images", "string", 1);
const SELECTOR: Column = ("Selector", "string", 1);

pub(super) const DEPLOYMENT: &[Column] = &[
    ("Ready", "string", 0),
    ("Up-to-date", "integer", 0),
    ("Available", "integer", 0),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

/// Containers and images of a template.
fn template(spec: &Value) -> [Value; 2] {
    let containers = &spec["template"]["spec"]["containers"];
    [joined(containers, "name"), joined(containers, "image")]
}

pub(super) fn deployment(object: &Value) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let [containers, images] = template(spec);
    vec![
        format!("{}/{}", number(&status["readyReplicas"]), number(&spec["replicas"])).into(),
        number(&status["updatedReplicas"]).into(),
        number(&status["availableReplicas"]).into(),
        age_of(object),
        containers,
        images,
        selector(&spec["selector"]),
    ]
}

pub(super) const REPLICA_SET: &[Column] = &[
    ("Desired", "integer", 0),
    ("Current", "integer", 0),
    ("Ready", "integer", 0),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) fn replica_set(object: &Value) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let [containers, images] = template(spec);
    vec![
        number(&spec["replicas"]).into(),
        number(&status["replicas"]).into(),
        number(&status["readyReplicas"]).into(),
        age_of(object),
        containers,
        images,
        selector(&spec["selector"]),
    ]
}

pub(super) const STATEFUL_SET: &[Column] = &[("Ready", "string", 0), AGE, CONTAINERS, IMAGES];

pub(super) fn stateful_set(object: &Value) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let [containers, images] = template(spec);
    vec![
        format!("{}/{}", number(&status["readyReplicas"]), number(&spec["replicas"])).into(),
        age_of(object),
        containers,
        images,
    ]
}

pub(super) const DAEMON_SET: &[Column] = &[
    ("Desired", "integer", 0),
    ("Current", "integer", 0),
    ("Ready", "integer", 0),
    ("Up-to-date", "integer", 0),
    ("Available", "integer", 0),
    ("Node Selector", "string", 0),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) fn daemon_set(object: &Value) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let [containers, images] = template(spec);
    vec![
        number(&status["desiredNumberScheduled"]).into(),
        number(&status["currentNumberScheduled"]).into(),
        number(&status["numberReady"]).into(),
        number(&status["updatedNumberScheduled"]).into(),
        number(&status["numberAvailable"]).into(),
        selector(&spec["template"]["spec"]["nodeSelector"]),
        age_of(object),
        containers,
        images,
        selector(&spec["selector"]),
    ]
}

pub(super) const REVISION: &[Column] = &[("Controller", "string", 0), ("Revision", "integer", 0), AGE];

pub(super) fn revision(object: &Value) -> Vec<Value> {
    let owner = &object["metadata"]["ownerReferences"][0];
    let owner = if owner.is_object() {
        format!("{}/{}", word(&owner["kind"]).to_lowercase(), word(&owner["name"]))
    } else {
        String::new()
    };
    vec![or_none(owner), number(&object["revision"]).into(), age_of(object)]
}

pub(super) const JOB: &[Column] = &[
    ("Status", "string", 0),
    ("Completions", "string", 0),
    ("Duration", "string", 0),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) fn job(object: &Value) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let [containers, images] = template(spec);
    let done = number(&status["succeeded"]);
    let completions = match (spec["completions"].as_i64(), spec["parallelism"].as_i64()) {
        (Some(wanted), _) => format!("{done}/{wanted}"),
        (None, Some(parallel)) if parallel > 1 => format!("{done}/1 of {parallel}"),
        _ => format!("{done}/1"),
    };
    let start = status["startTime"].as_str();
    let taken = match (start, status["completionTime"].as_str()) {
        (Some(start), None) => since(start),
        (Some(start), Some(end)) => match (meta::age(start), meta::age(end)) {
            (Some(start), Some(end)) => duration(start - end),
            _ => String::new(),
        },
        _ => String::new(),
    };
    let is = |kind: &str| {
        items(&status["conditions"])
            .iter()
            .any(|condition| condition["type"] == kind && condition["status"] == "True")
    };
    let state = if is("Complete") {
        "Complete"
    } else if is("Failed") {
        "Failed"
    } else if meta::is_deleting(object) {
        "Terminating"
    } else if is("Suspended") {
        "Suspended"
    } else if is("FailureTarget") {
        "FailureTarget"
    } else if is("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    };
    vec![
        state.into(),
        completions.into(),
        taken.into(),
        age_of(object),
        containers,
        images,
        selector(&spec["selector"]),
    ]
}

pub(super) const CRON_JOB: &[Column] = &[
    ("Schedule", "string", 0),
    ("Timezone", "string", 0),
    ("Suspend", "boolean", 0),
    ("Active", "integer", 0),
    ("Last Schedule", "string", 0),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) fn cron_job(object: &Value) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let inner = &spec["jobTemplate"]["spec"];
    let [containers, images] = template(inner);
    let suspended = if spec["suspend"] == true { "True" } else { "False" };
    vec![
        word(&spec["schedule"]).into(),
        or_none(word(&spec["timeZone"])),
        suspended.into(),
        items(&status["active"]).len().into(),
        or_none(status["lastScheduleTime"].as_str().map(since).unwrap_or_default()),
        age_of(object),
        containers,
        images,
        selector(&inner["selector"]),
    ]
}

pub(super) const AUTOSCALER: &[Column] = &[
    ("Reference", "string", 0),
    ("Targets", "string", 0),
    ("MinPods", "string", 0),
    ("MaxPods", "string", 0),
    ("Replicas", "string", 0),
    AGE,
];

pub(super) fn autoscaler(object: &Value) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let reference = &spec["scaleTargetRef"];
    let metrics = items(&spec["metrics"]);
    let current = items(&status["currentMetrics"]);
    let targets: Vec<String> = metrics
        .iter()
        .enumerate()
        .map(|(at, metric)| {
            let resource = &metric["resource"];
            let now = current
                .get(at)
                .and_then(|metric| metric["resource"]["current"]["averageUtilization"].as_i64())
                .map_or_else(|| "<unknown>".to_owned(), |percent| format!("{percent}%"));
            let wanted = match resource["target"]["averageUtilization"].as_i64() {
                Some(percent) => format!("{percent}%"),
                None => plain(&resource["target"]["averageValue"]),
            };
            format!("{}: {now}/{wanted}", word(&resource["name"]))
        })
        .collect();
    vec![
        format!("{}/{}", word(&reference["kind"]), word(&reference["name"])).into(),
        or_none(targets.join(", ")),
        plain(&spec["minReplicas"]).into(),
        plain(&spec["maxReplicas"]).into(),
        number(&status["currentReplicas"]).to_string().into(),
        age_of(object),
    ]
}

pub(super) const BUDGET: &[Column] = &[
    ("Min Available", "string", 0),
    ("Max Unavailable", "string", 0),
    ("Allowed Disruptions", "integer", 0),
    AGE,
];

pub(super) fn budget(object: &Value) -> Vec<Value> {
    let given = |field: &str| match plain(&object["spec"][field]).as_str() {
        "" => Value::from("N/A"),
        text => text.into(),
    };
    vec![
        given("minAvailable"),
        given("maxUnavailable"),
        number(&object["status"]["disruptionsAllowed"]).into(),
        age_of(object),
    ]
}
