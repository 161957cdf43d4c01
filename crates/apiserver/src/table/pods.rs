//! Pods: the one table whose cells take thought.

use serde_json::Value;

use super::text::{age_of, items, number, or_none, since, word};
use super::{AGE, Column};

pub(super) const COLUMNS: &[Column] = &[
    ("Ready", "string", 0),
    ("Status", "string", 0),
    ("Restarts", "string", 0),
    AGE,
    ("IP", "string", 1),
    ("Node", "string", 1),
    ("Nominated Node", "string", 1),
    ("Readiness Gates", "string", 1),
];

pub(super) fn cells(pod: &Value) -> Vec<Value> {
    let status = &pod["status"];
    let containers = items(&pod["spec"]["containers"]);
    let states = items(&status["containerStatuses"]);
    let sidecars: Vec<&Value> = items(&pod["spec"]["initContainers"])
        .iter()
        .filter(|item| item["restartPolicy"] == "Always")
        .collect();
    let inits = items(&status["initContainerStatuses"]);
    let sidecar_states =
        inits.iter().filter(|state| sidecars.iter().any(|item| item["name"] == state["name"]));
    let counted: Vec<&Value> = states.iter().chain(sidecar_states).collect();
    let ready = counted.iter().filter(|state| state["ready"] == true).count();
    let total = containers.len() + sidecars.len();
    let restarts: i64 = counted.iter().map(|state| number(&state["restartCount"])).sum();
    let last = counted
        .iter()
        .filter_map(|state| state["lastState"]["terminated"]["finishedAt"].as_str())
        .max()
        .filter(|_| restarts > 0);
    let restarts = match last {
        Some(time) => format!("{restarts} ({} ago)", since(time)),
        None => restarts.to_string(),
    };
    let ip = status["podIPs"][0]["ip"].as_str().unwrap_or(word(&status["podIP"]));
    vec![
        format!("{ready}/{total}").into(),
        summary(pod).into(),
        restarts.into(),
        age_of(pod),
        or_none(ip),
        or_none(word(&pod["spec"]["nodeName"])),
        or_none(word(&status["nominatedNodeName"])),
        gates(pod),
    ]
}

fn gates(pod: &Value) -> Value {
    let gates = items(&pod["spec"]["readinessGates"]);
    if gates.is_empty() {
        return "<none>".into();
    }
    let conditions = items(&pod["status"]["conditions"]);
    let met = |gate: &&Value| {
        conditions
            .iter()
            .any(|condition| condition["type"] == gate["conditionType"] && condition["status"] == "True")
    };
    format!("{}/{}", gates.iter().filter(met).count(), gates.len()).into()
}

/// The word under STATUS.
pub(crate) fn summary(pod: &Value) -> String {
    let status = &pod["status"];
    let phase = word(&status["phase"]);
    let mut reason = match word(&status["reason"]) {
        "" => phase.to_owned(),
        reason => reason.to_owned(),
    };
    let gated = items(&status["conditions"])
        .iter()
        .any(|condition| condition["type"] == "PodScheduled" && condition["reason"] == "SchedulingGated");
    if gated {
        "SchedulingGated".clone_into(&mut reason);
    }
    let initializing = init(pod);
    match &initializing {
        Some(text) => reason.clone_from(text),
        None => main(pod, &mut reason),
    }
    if pod["metadata"]["deletionTimestamp"].is_string() {
        if status["reason"] == "NodeLost" {
            return "Unknown".to_owned();
        }
        if !matches!(phase, "Succeeded" | "Failed") {
            return "Terminating".to_owned();
        }
    }
    reason
}

/// `Init:…` while init containers are under way.
fn init(pod: &Value) -> Option<String> {
    let inits = items(&pod["spec"]["initContainers"]);
    for (at, state) in items(&pod["status"]["initContainerStatuses"]).iter().enumerate() {
        let sidecar =
            inits.iter().any(|item| item["name"] == state["name"] && item["restartPolicy"] == "Always");
        let (terminated, waiting) = (&state["state"]["terminated"], &state["state"]["waiting"]);
        if terminated["exitCode"] == 0 || (sidecar && state["started"] == true) {
            continue;
        }
        return Some(if terminated.is_object() {
            ended(terminated, "Init:")
        } else {
            match word(&waiting["reason"]) {
                "" | "PodInitializing" => format!("Init:{at}/{}", inits.len()),
                reason => format!("Init:{reason}"),
            }
        });
    }
    None
}

fn ended(terminated: &Value, prefix: &str) -> String {
    match (word(&terminated["reason"]), number(&terminated["signal"])) {
        ("", 0) => format!("{prefix}ExitCode:{}", number(&terminated["exitCode"])),
        ("", signal) => format!("{prefix}Signal:{signal}"),
        (reason, _) => format!("{prefix}{reason}"),
    }
}

fn main(pod: &Value, reason: &mut String) {
    let mut running = false;
    for state in items(&pod["status"]["containerStatuses"]).iter().rev() {
        let (terminated, waiting) = (&state["state"]["terminated"], &state["state"]["waiting"]);
        if !word(&waiting["reason"]).is_empty() {
            word(&waiting["reason"]).clone_into(reason);
        } else if terminated.is_object() {
            *reason = ended(terminated, "");
        } else if state["ready"] == true && state["state"]["running"].is_object() {
            running = true;
        }
    }
    if reason == "Completed" && running {
        let ready = items(&pod["status"]["conditions"])
            .iter()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
        if ready { "Running" } else { "NotReady" }.clone_into(reason);
    }
}
