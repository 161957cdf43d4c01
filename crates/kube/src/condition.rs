//! Conditions on this node's Node object.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{api::core::v1::Node, jiff::Timestamp};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::{sync::watch, time::timeout};
use weft_model::NodeName;

use crate::{ApiError, Client};

/// A condition as it is to stand on the Node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Condition {
    /// Its type, as `NetworkUnavailable`.
    pub kind: &'static str,
    /// True or False.
    pub status: bool,
    /// One word for machines.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
}

/// Others write this status too (a cloud's controller sets NetworkUnavailable): look again this often.
const AGAIN: Duration = Duration::from_secs(60);
const AFTER_FAILURE: Duration = Duration::from_secs(2);

/// Keeps the conditions of `node` as `wanted` says; those that it does not name are left alone. Ends when the sender of
/// `wanted` is dropped.
pub async fn keep_conditions(client: Client, node: NodeName, mut wanted: watch::Receiver<Vec<Condition>>) {
    let api: Api<Node> = Api::all(client.kube);
    let mut failures = 0_u32;
    loop {
        let now = wanted.borrow_and_update().clone();
        let pause = match write(&api, &node, &now).await {
            Ok(()) => {
                failures = 0;
                AGAIN
            }
            Err(error) => {
                failures += 1;
                // A node that is only joining has no object yet.
                if failures == 2 && !error.is_away() {
                    tracing::warn!("conditions of Node {node} cannot be written: {error}; trying again");
                }
                AFTER_FAILURE
            }
        };
        if let Ok(Err(_)) = timeout(pause, wanted.changed()).await {
            return;
        }
    }
}

async fn write(api: &Api<Node>, node: &NodeName, wanted: &[Condition]) -> Result<(), ApiError> {
    if wanted.is_empty() {
        return Ok(());
    }
    let current = api.get(node.as_str()).await?;
    let changes = changes(&current, wanted, &Timestamp::now().to_string());
    if changes.is_empty() {
        return Ok(());
    }
    // A strategic merge goes by the condition's type and leaves the others alone.
    let patch = Patch::Strategic(json!({ "status": { "conditions": changes } }));
    api.patch_status(node.as_str(), &PatchParams::default(), &patch).await?;
    Ok(())
}

/// The conditions that differ from what the Node has, as they are to be written.
fn changes(current: &Node, wanted: &[Condition], now: &str) -> Vec<Value> {
    let present = current.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let present: BTreeMap<_, _> = present.map(|condition| (condition.type_.as_str(), condition)).collect();
    let mut changes = Vec::new();
    for condition in wanted {
        let status = if condition.status { "True" } else { "False" };
        let before = present.get(condition.kind);
        let same_status = before.is_some_and(|before| before.status == status);
        let same = |text: &Option<String>, wanted: &String| text.as_deref().unwrap_or_default() == wanted;
        if same_status
            && before
                .is_some_and(|b| same(&b.reason, &condition.reason) && same(&b.message, &condition.message))
        {
            continue;
        }
        let mut change = json!({
            "type": condition.kind, "status": status, "reason": condition.reason, "message": condition.message,
            "lastHeartbeatTime": now,
        });
        if !same_status {
            change["lastTransitionTime"] = now.into();
        }
        changes.push(change);
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready() -> Condition {
        Condition {
            kind: "NetworkUnavailable",
            status: false,
            reason: "WeftIsUp".into(),
            message: "up".into(),
        }
    }

    fn node(conditions: Value) -> Node {
        serde_json::from_value(json!({ "metadata": { "name": "n" }, "status": { "conditions": conditions } }))
            .unwrap()
    }

    #[test]
    fn a_new_condition_is_written_with_its_time() {
        let changes = changes(&node(json!([])), &[ready()], "T");
        assert_eq!(changes.len(), 1);
        assert_eq!(changes[0]["status"], "False");
        assert_eq!(changes[0]["lastTransitionTime"], "T");
    }

    #[test]
    fn what_stands_already_is_not_written() {
        let there = json!([
            { "type": "NetworkUnavailable", "status": "False", "reason": "WeftIsUp", "message": "up" },
            { "type": "Ready", "status": "True" },
        ]);
        assert!(changes(&node(there), &[ready()], "T").is_empty());
    }

    #[test]
    fn another_reason_is_no_transition() {
        let there =
            json!([{ "type": "NetworkUnavailable", "status": "False", "reason": "Other", "message": "" }]);
        let changes = changes(&node(there), &[ready()], "T");
        assert_eq!(changes[0].get("lastTransitionTime"), None);
    }

    #[test]
    fn what_others_wrote_over_ours_is_written_again() {
        let there = json!([{ "type": "NetworkUnavailable", "status": "True", "reason": "NoRouteCreated" }]);
        assert_eq!(changes(&node(there), &[ready()], "T").len(), 1);
    }
}
