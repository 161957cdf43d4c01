//! Requests as the tables write them.
//!
//! `create services` is a POST of the body to the table's own namespace; `update services/a`, `merge services/a`, `strategic`, `json`
//! and `apply` are PUT and the patches, `get`, `list` and `delete` what they say. `services/a/status` is a subresource,
//! `?dryRun=All` a query. A path that begins with `/` is taken as it is, `NS` in it being the namespace; `create! services`
//! sends the body as it stands, otherwise it is YAML that is sent as JSON, with `apiVersion` and `kind` filled in.

use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use weft_apiserver::yaml::Document;

use super::answer;
use super::table::Entry;
use crate::support::http::Client;

/// Who plays a table.
pub struct Player {
    client: Client,
    namespace: String,
    /// The `date` that the last answer had.
    pub date: String,
}

/// `apiVersion`, plural, kind; a star where there are no namespaces.
const KINDS: &[(&str, &str, &str)] = &[
    ("v1", "configmaps", "ConfigMap"),
    ("v1", "endpoints", "Endpoints"),
    ("v1", "events", "Event"),
    ("v1", "limitranges", "LimitRange"),
    ("v1", "*namespaces", "Namespace"),
    ("v1", "*nodes", "Node"),
    ("v1", "*persistentvolumes", "PersistentVolume"),
    ("v1", "persistentvolumeclaims", "PersistentVolumeClaim"),
    ("v1", "pods", "Pod"),
    ("v1", "podtemplates", "PodTemplate"),
    ("v1", "replicationcontrollers", "ReplicationController"),
    ("v1", "resourcequotas", "ResourceQuota"),
    ("v1", "secrets", "Secret"),
    ("v1", "serviceaccounts", "ServiceAccount"),
    ("v1", "services", "Service"),
    ("apps/v1", "daemonsets", "DaemonSet"),
    ("apps/v1", "deployments", "Deployment"),
    ("apps/v1", "replicasets", "ReplicaSet"),
    ("apps/v1", "statefulsets", "StatefulSet"),
    ("autoscaling/v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler"),
    ("batch/v1", "cronjobs", "CronJob"),
    ("batch/v1", "jobs", "Job"),
    ("coordination.k8s.io/v1", "leases", "Lease"),
    ("discovery.k8s.io/v1", "endpointslices", "EndpointSlice"),
    ("networking.k8s.io/v1", "*ingressclasses", "IngressClass"),
    ("networking.k8s.io/v1", "ingresses", "Ingress"),
    ("networking.k8s.io/v1", "networkpolicies", "NetworkPolicy"),
    ("node.k8s.io/v1", "*runtimeclasses", "RuntimeClass"),
    ("policy/v1", "poddisruptionbudgets", "PodDisruptionBudget"),
    ("rbac.authorization.k8s.io/v1", "*clusterrolebindings", "ClusterRoleBinding"),
    ("rbac.authorization.k8s.io/v1", "*clusterroles", "ClusterRole"),
    ("rbac.authorization.k8s.io/v1", "rolebindings", "RoleBinding"),
    ("rbac.authorization.k8s.io/v1", "roles", "Role"),
    ("scheduling.k8s.io/v1", "*priorityclasses", "PriorityClass"),
    ("storage.k8s.io/v1", "*storageclasses", "StorageClass"),
];

impl Player {
    pub fn new(client: Client, namespace: &str) -> Player {
        Player { client, namespace: namespace.to_owned(), date: String::new() }
    }

    /// Makes the table's namespace.
    pub async fn prepare(&self) -> (u16, Value) {
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}});
        self.client.call(Method::POST, "/api/v1/namespaces", "application/json", &namespace).await
    }

    /// Sends one request and puts the answer into lines.
    pub async fn play(&mut self, entry: &Entry) -> Vec<String> {
        let (verb, rest) =
            entry.request.split_once(' ').unwrap_or_else(|| panic!("{}: no path", entry.title));
        let (path, kind) = self.path(rest, &entry.title);
        let plain = verb.trim_end_matches('!');
        let (method, media) = match plain {
            "create" | "post" => (Method::POST, "application/json"),
            "update" => (Method::PUT, "application/json"),
            "merge" => (Method::PATCH, "application/merge-patch+json"),
            "strategic" => (Method::PATCH, "application/strategic-merge-patch+json"),
            "json" => (Method::PATCH, "application/json-patch+json"),
            "apply" => (Method::PATCH, "application/apply-patch+yaml"),
            "get" | "list" => (Method::GET, "application/json"),
            "delete" => (Method::DELETE, "application/json"),
            "patch" => (Method::PATCH, "application/octet-stream"),
            other => panic!("{}: {other:?} is not a request", entry.title),
        };
        let (body, sent) = if entry.body.is_empty() || verb.ends_with('!') {
            (entry.body.clone(), Value::Null)
        } else {
            let kind = kind.filter(|_| matches!(plain, "create" | "update" | "apply"));
            let value = object(entry, kind);
            (value.to_string(), value)
        };
        // What a patch changes is told against the object as it was.
        let base = match plain {
            "create" | "update" | "post" => sent.clone(),
            "merge" | "strategic" | "json" | "apply" => {
                let (code, before) = self.client.get(path.split('?').next().unwrap_or_default()).await;
                if code == 200 { before } else { sent.clone() }
            }
            _ => Value::Null,
        };
        let response =
            self.client.send(self.client.request(method, &path, media, body)).await.expect("an answer");
        let text = |value: &http::HeaderValue| value.to_str().expect("text").to_owned();
        self.date = response.headers().get("date").map(text).unwrap_or_default();
        let warnings: Vec<String> = response.headers().get_all("warning").iter().map(text).collect();
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.expect("a whole body").to_bytes();
        answer::lines(code, &warnings, &bytes, &base, &entry.body)
    }

    /// The object that an entry creates at its usual path.
    pub fn created(entry: &Entry, namespace: &str) -> Option<Value> {
        let rest = entry.request.strip_prefix("create ")?;
        let row = |name: &str| KINDS.iter().find(|row| row.1.trim_start_matches('*') == name);
        let (api_version, scope, kind) = row(rest.split(['/', '?']).next()?)?;
        let mut object = object(entry, Some((api_version, kind)));
        if !scope.starts_with('*') {
            object["metadata"]["namespace"] = namespace.into();
        }
        Some(object)
    }

    /// The URL's path, and `apiVersion` and kind of what it names.
    fn path(&self, short: &str, title: &str) -> (String, Option<(&'static str, &'static str)>) {
        if short.starts_with('/') {
            return (short.replace("/NS/", &format!("/{}/", self.namespace)), None);
        }
        let end = short.find(['/', '?']).unwrap_or(short.len());
        let (plural, rest) = short.split_at(end);
        let row = KINDS.iter().find(|row| row.1.trim_start_matches('*') == plural);
        let (api_version, scope, kind) =
            row.unwrap_or_else(|| panic!("{title}: {plural:?} is not in the list of kinds"));
        let root = if api_version.contains('/') { "apis" } else { "api" };
        let namespace = match scope.starts_with('*') {
            true => String::new(),
            false => format!("namespaces/{}/", self.namespace),
        };
        (format!("/{root}/{api_version}/{namespace}{plural}{rest}"), Some((api_version, kind)))
    }
}

/// An entry's body, with what kind of object it is.
fn object(entry: &Entry, kind: Option<(&str, &str)>) -> Value {
    let read = Document::read(&entry.body, 1);
    let mut value = read.unwrap_or_else(|error| panic!("{}: {error:?}", entry.title)).value;
    if let (Some((api_version, kind)), Value::Object(map)) = (kind, &mut value) {
        map.entry("apiVersion").or_insert_with(|| api_version.into());
        map.entry("kind").or_insert_with(|| kind.into());
    }
    value
}
