//! Events of Pods, as `kubectl describe` shows them. Written in the background: nothing waits for one.

use std::sync::atomic::{AtomicU64, Ordering};

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, PostParams},
};
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinSet};

use crate::controllers::now;

pub(crate) struct Events {
    sender: mpsc::UnboundedSender<Value>,
    number: AtomicU64,
}

impl Events {
    pub(crate) fn start(client: Client, tasks: &mut JoinSet<()>) -> Events {
        let (sender, mut receiver) = mpsc::unbounded_channel::<Value>();
        tasks.spawn(async move {
            let resource = ApiResource {
                group: String::new(),
                version: "v1".into(),
                api_version: "v1".into(),
                kind: "Event".into(),
                plural: "events".into(),
            };
            while let Some(event) = receiver.recv().await {
                let namespace = event["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
                let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &resource);
                let made = match serde_json::from_value(event) {
                    Ok(event) => api.create(&PostParams::default(), &event).await.map(|_| ()),
                    Err(error) => Err(kube::Error::SerdeError(error)),
                };
                if let Err(error) = made {
                    tracing::debug!(%error, "an Event could not be written");
                }
            }
        });
        Events { sender, number: AtomicU64::new(0) }
    }

    /// Something ordinary that the Pod's kubelet tells.
    pub(crate) fn normal(&self, pod: &Pod, reason: &str, message: &str) {
        self.send(pod, "kubelet", "Normal", reason, message);
    }

    /// Something that somebody may have to look at.
    pub(crate) fn warning(&self, pod: &Pod, reason: &str, message: &str) {
        self.send(pod, "kubelet", "Warning", reason, message);
    }

    /// Why a Pod has no node.
    pub(crate) fn unschedulable(&self, pod: &Pod, message: &str) {
        self.send(pod, "default-scheduler", "Warning", "FailedScheduling", message);
    }

    fn send(&self, pod: &Pod, component: &str, kind: &str, reason: &str, message: &str) {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
        let event = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {
                "name": format!("{name}.{}{number:x}", uid.get(..8).unwrap_or(uid)),
                "namespace": pod.metadata.namespace,
            },
            "involvedObject": {
                "apiVersion": "v1", "kind": "Pod", "namespace": pod.metadata.namespace, "name": name, "uid": uid,
            },
            "type": kind, "reason": reason, "message": message, "count": 1,
            "firstTimestamp": now(), "lastTimestamp": now(),
            "source": { "component": component, "host": node },
            "reportingComponent": component, "reportingInstance": node,
        });
        // The receiver lives as long as the lab.
        let _ = self.sender.send(event);
    }
}
