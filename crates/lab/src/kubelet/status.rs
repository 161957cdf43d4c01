//! A Pod's status, as the API has it, from its board.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::{
    board::{ContainerState, Phase, PodState},
    node::Node,
};
use crate::controllers::now;

/// Builds the status. `before` is the status that was written last: times of conditions that stay are kept.
pub(super) fn of(pod: &Pod, node: &Node, state: &PodState, before: &Value) -> Value {
    let spec = pod.spec.clone().unwrap_or_default();
    let restart = spec.restart_policy.as_deref().unwrap_or("Always");
    let phase = phase(state, restart);
    let over = matches!(phase, "Succeeded" | "Failed");
    let all_ready = !over && state.app.iter().all(|container| container.ready);
    let not_ready: Vec<&str> = state.app.iter().filter(|c| !c.ready).map(|c| c.name.as_str()).collect();
    let why = if over {
        ("PodCompleted", String::new())
    } else {
        ("ContainersNotReady", format!("containers with unready status: [{}]", not_ready.join(" ")))
    };
    let condition = |kind: &str, status: bool, why: &(&str, String)| condition(before, kind, status, why);
    let fine = ("", String::new());
    let ready = if all_ready { &fine } else { &why };
    let init = ("ContainersNotInitialized", "init containers have not ended yet".to_owned());
    let mut status = json!({
        "phase": phase,
        "conditions": [
            condition("PodReadyToStartContainers", state.networked, &fine),
            condition("Initialized", state.initialized, if state.initialized { &fine } else { &init }),
            condition("Ready", all_ready, ready),
            condition("ContainersReady", all_ready, ready),
            condition("PodScheduled", true, &fine),
        ],
        "hostIP": node.addresses.first(),
        "hostIPs": node.addresses.iter().map(|ip| json!({ "ip": ip })).collect::<Vec<_>>(),
        "startTime": state.started,
        "qosClass": "BestEffort",
        "containerStatuses": state.app.iter().map(container).collect::<Vec<_>>(),
    });
    if !state.init.is_empty() {
        status["initContainerStatuses"] = state.init.iter().map(container).collect();
    }
    if let Some(first) = state.addresses.first() {
        status["podIP"] = json!(first);
        status["podIPs"] = state.addresses.iter().map(|ip| json!({ "ip": ip })).collect();
    }
    status
}

fn phase(state: &PodState, restart: &str) -> &'static str {
    let failed_init = state.init.iter().any(|c| matches!(&c.phase, Phase::Ended(ended) if ended.code != 0));
    if !state.initialized {
        return if failed_init && restart == "Never" { "Failed" } else { "Pending" };
    }
    let ended: Vec<_> = state
        .app
        .iter()
        .filter_map(|c| match &c.phase {
            Phase::Ended(ended) => Some(ended.code),
            _ => None,
        })
        .collect();
    if ended.len() == state.app.len() && restart != "Always" {
        return if ended.iter().all(|code| *code == 0) { "Succeeded" } else { "Failed" };
    }
    let begun = |c: &ContainerState| !matches!(c.phase, Phase::Waiting { .. }) || c.restarts > 0;
    if state.app.iter().any(begun) { "Running" } else { "Pending" }
}

fn container(state: &ContainerState) -> Value {
    let ended = |ended: &super::board::Ended| {
        json!({ "terminated": {
            "exitCode": ended.code, "reason": ended.reason, "message": ended.message,
            "startedAt": ended.started, "finishedAt": ended.finished, "containerID": state.id,
        }})
    };
    let now = match &state.phase {
        Phase::Waiting { reason, message } if message.is_empty() => {
            json!({ "waiting": { "reason": reason } })
        }
        Phase::Waiting { reason, message } => json!({ "waiting": { "reason": reason, "message": message } }),
        Phase::Running { since } => json!({ "running": { "startedAt": since } }),
        Phase::Ended(end) => ended(end),
    };
    let mut status = json!({
        "name": state.name, "image": state.image, "imageID": "", "containerID": state.id,
        "ready": state.ready, "started": state.started, "restartCount": state.restarts, "state": now,
    });
    if let Some(last) = &state.last {
        status["lastState"] = ended(last);
    }
    status
}

fn condition(before: &Value, kind: &str, status: bool, (reason, message): &(&str, String)) -> Value {
    let status = if status { "True" } else { "False" };
    let held = before["conditions"].as_array().into_iter().flatten();
    let same = held.filter(|held| held["type"] == kind && held["status"] == status);
    let since = same.map(|held| held["lastTransitionTime"].clone()).next();
    let mut made = json!({
        "type": kind, "status": status, "lastProbeTime": null,
        "lastTransitionTime": since.unwrap_or_else(|| json!(now())),
    });
    if !reason.is_empty() {
        made["reason"] = json!(reason);
        made["message"] = json!(message);
    }
    made
}
