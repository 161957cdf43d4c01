//! Events about Nodes, Services, Pods and settings.

use std::fmt;

use k8s_openapi::{api::core::v1::Event, jiff::Timestamp};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use weft_model::{Node, NodeName, PodKey, services::ServiceKey};

use crate::{ApiError, Client};

/// Node objects have no namespace; their Events stand here.
const NAMESPACE: &str = "default";
const COMPONENT: &str = "weft";

/// The object that an Event is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ObjectRef {
    /// Its kind, as `Node`.
    pub kind: &'static str,
    /// Its namespace, if it has one.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// A warning about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WarningEvent {
    /// The object that it is about.
    pub about: ObjectRef,
    /// The node that says so.
    pub reporter: NodeName,
    /// One word for machines, as `PodRangeConflict`.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
    /// What makes this Event the same as an earlier one: several nodes may report one thing.
    pub key: String,
}

// === impl ObjectRef ===

impl ObjectRef {
    /// The Node.
    pub fn node(node: &Node) -> Self {
        Self { kind: "Node", namespace: None, name: node.name.to_string(), uid: node.uid.clone() }
    }

    /// The Service `key`.
    pub fn service(key: &ServiceKey, uid: &str) -> Self {
        Self {
            kind: "Service",
            namespace: Some(key.namespace.to_string()),
            name: key.name.to_string(),
            uid: uid.to_owned(),
        }
    }

    /// The Pod `key`.
    pub fn pod(key: &PodKey, uid: &str) -> Self {
        let (namespace, name) = (Some(key.namespace.clone()), key.name.clone());
        Self { kind: "Pod", namespace, name, uid: uid.to_owned() }
    }

    /// A ConfigMap, whichever of its name it is.
    pub fn config_map(namespace: &str, name: &str) -> Self {
        let (namespace, name) = (Some(namespace.to_owned()), name.to_owned());
        Self { kind: "ConfigMap", namespace, name, uid: String::new() }
    }

    /// Where Events about it stand.
    fn events(&self) -> &str {
        self.namespace.as_deref().unwrap_or(NAMESPACE)
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind)?;
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        f.write_str(&self.name)
    }
}

impl Client {
    /// Tells the API, or that it happened again.
    ///
    /// # Errors
    /// What the API server answered.
    pub async fn publish(&self, warning: &WarningEvent) -> Result<(), ApiError> {
        let api: Api<Event> = Api::namespaced(self.kube.clone(), warning.about.events());
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
            "metadata": { "name": name, "namespace": self.about.events() },
            "type": "Warning",
            "reason": self.reason,
            "message": self.message,
            "involvedObject": {
                "apiVersion": "v1", "kind": self.about.kind, "namespace": self.about.namespace,
                "name": self.about.name, "uid": self.about.uid,
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
            about: ObjectRef { kind: "Node", namespace: None, name: "node-1".into(), uid: "u1".into() },
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
        assert_eq!(event.metadata.namespace.as_deref(), Some("default"));
    }

    #[test]
    fn an_event_about_a_service_stands_in_its_namespace() {
        let warning = WarningEvent {
            about: ObjectRef::service(&ServiceKey::new("shop", "web"), "u1"),
            reporter: "node-2".into(),
            reason: "ServiceRefused",
            message: "full".into(),
            key: "node-2 http".into(),
        };
        assert_eq!(warning.about.to_string(), "Service shop/web");
        let event = warning.object("web.x", "2026-01-01T00:00:00Z").unwrap();
        assert_eq!(event.metadata.namespace.as_deref(), Some("shop"));
        assert_eq!(event.involved_object.namespace.as_deref(), Some("shop"));
    }
}
