//! Events of Pods, as `kubectl describe` shows them. Written in the background: nothing waits for one.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
};

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinSet};

use crate::controllers::now;

/// Events that are remembered, maximum, so that what happens again is counted.
const REMEMBERED: usize = 4096;

/// An Event that was written.
struct Told {
    name: String,
    count: u32,
}

/// Writes an Event, or counts it as one that was written before.
async fn write(
    api: &Api<DynamicObject>,
    told: &mut HashMap<String, Told>,
    event: Value,
) -> Result<(), kube::Error> {
    let parts = [&event["involvedObject"]["uid"], &event["source"], &event["reason"], &event["message"]];
    let same = parts.map(Value::to_string).join(" ");
    if let Some(before) = told.get_mut(&same) {
        before.count += 1;
        let change = json!({ "count": before.count, "lastTimestamp": event["lastTimestamp"] });
        match api.patch(&before.name, &PatchParams::default(), &Patch::Merge(&change)).await {
            // Somebody has removed it: it is new again.
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            done => return done.map(drop),
        }
    }
    let name = event["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let event = serde_json::from_value(event).map_err(kube::Error::SerdeError)?;
    api.create(&PostParams::default(), &event).await?;
    if told.len() >= REMEMBERED {
        told.clear();
    }
    told.insert(same, Told { name, count: 1 });
    Ok(())
}

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
            let mut told: HashMap<String, Told> = HashMap::new();
            while let Some(event) = receiver.recv().await {
                let namespace = event["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
                let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &resource);
                if let Err(error) = write(&api, &mut told, event).await {
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
