//! Conditions, as the workload kinds report them.

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use serde::Serialize;
use serde_json::{Value, json};

/// This second. The API's times have no fractions.
pub(crate) fn now() -> Time {
    Time(Timestamp::from_second(Timestamp::now().as_second()).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// A condition that keeps its times while its status stays, so that writing it again changes nothing.
/// `held` is the list of conditions that the object has now.
pub(super) fn condition(
    held: Option<&impl Serialize>,
    kind: &str,
    status: bool,
    reason: &str,
    message: &str,
) -> Value {
    let held = held.and_then(|held| serde_json::to_value(held).ok()).unwrap_or(Value::Null);
    let before = held.as_array().into_iter().flatten().find(|condition| condition["type"] == kind);
    let status = if status { "True" } else { "False" };
    let same_status = before.filter(|before| before["status"] == status);
    let same = same_status.filter(|before| before["reason"] == reason && before["message"] == message);
    let transition = same_status.map(|before| before["lastTransitionTime"].clone());
    let mut made = json!({
        "type": kind, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": transition.unwrap_or_else(|| json!(now())),
    });
    if kind == "Progressing" || kind == "Available" {
        let update = same.map(|before| before["lastUpdateTime"].clone());
        made["lastUpdateTime"] = update.unwrap_or_else(|| json!(now()));
    }
    made
}
