//! Events about Nodes.

use k8s_openapi::{api::core::v1::Event, jiff::Timestamp};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use weft_model::{Node, NodeName};

use crate::{ApiError, Client};

/// Node objects have no namespace; their Events stand here.
const NAMESPACE: &str = "default";
const COMPONENT: &str = "weft";

/// The Node that an Event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRef {
    /// Its name.
    pub name: NodeName,
    /// Its UID.
    pub uid: String,
}

/// A warning about a Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WarningEvent {
    /// The Node that it is about.
    pub about: NodeRef,
    /// The node that says so.
    pub reporter: NodeName,
    /// One word for machines, as `PodRangeConflict`.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
    /// What makes this Event the same as an earlier one: several nodes may report one thing.
    pub key: String,
}

impl From<&Node> for NodeRef {
    fn from(node: &Node) -> Self {
        Self { name: node.name.clone(), uid: node.uid.clone() }
    }
}

impl Client {
    /// Tells the API, or that it happened again.
    ///
    /// # Errors
    /// What the API server answered.
    pub async fn publish(&self, warning: &WarningEvent) -> Result<(), ApiError> {
        let api: Api<Event> = Api::namespaced(self.kube.clone(), NAMESPACE);
        let name = warning.object_name();
        let now = Timestamp::now().to_string();
        let created = match api.create(&PostParams::default(), &warning.object(&name, &now)?).await {
            Err(kube::Error::Api(status)) if status.code == 409 => None,
            created => Some(created?),
        };
        if created.is_none() {
            let count =
                api.get_opt(&name).await?.and_then(|event| event.count).unwrap_or(0).saturating_add(1);
            let again =
                Patch::Merge(json!({ "count": count, "lastTimestamp": now, "message": warning.message }));
            api.patch(&name, &PatchParams::default(), &again).await?;
        }
        Ok(())
    }
}

// === impl WarningEvent ===

impl WarningEvent {
    fn object_name(&self) -> String {
        let key: String = self
            .key
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
            .collect();
        format!("{}.{COMPONENT}-{}", self.about.name, key.trim_matches('-'))
    }

    fn object(&self, name: &str, now: &str) -> kube::Result<Event> {
        serde_json::from_value(json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": { "name": name, "namespace": NAMESPACE },
            "type": "Warning",
            "reason": self.reason,
            "message": self.message,
            "involvedObject": {
                "apiVersion": "v1", "kind": "Node", "name": self.about.name, "uid": self.about.uid,
            },
            "source": { "component": COMPONENT, "host": self.reporter },
            "reportingComponent": COMPONENT,
            "reportingInstance": self.reporter,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }))
        .map_err(kube::Error::SerdeError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_names_the_node_and_has_a_legal_name() {
        let warning = WarningEvent {
            about: NodeRef { name: "node-1".into(), uid: "u1".into() },
            reporter: "node-2".into(),
            reason: "PodRangeConflict",
            message: "both".into(),
            key: "node-2 fd00::/64".into(),
        };
        let name = warning.object_name();
        assert_eq!(name, "node-1.weft-node-2-fd00---64");
        let event = warning.object(&name, "2026-01-01T00:00:00Z").unwrap();
        assert_eq!(event.involved_object.kind.as_deref(), Some("Node"));
        assert_eq!(event.involved_object.uid.as_deref(), Some("u1"));
        assert_eq!(event.type_.as_deref(), Some("Warning"));
    }
}
