//! The kinds as they are decoded: only what the network uses. A cluster has very many of them, with much else in
//! them, and what is not decoded costs neither time nor memory.

use std::sync::Arc;

use serde::Deserialize;

use crate::watch::Versioned;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ServiceObject {
    pub(super) metadata: Metadata,
    pub(super) spec: Spec,
    pub(super) status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct SliceObject {
    pub(super) metadata: Metadata,
    pub(super) address_type: String,
    pub(super) ports: Option<Vec<SlicePort>>,
    pub(super) endpoints: Option<Vec<Endpoint>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NamespaceObject {
    metadata: Metadata,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Metadata {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) uid: String,
    pub(super) resource_version: Option<String>,
    pub(super) labels: Option<Labels>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Labels {
    #[serde(rename = "kubernetes.io/service-name")]
    pub(super) service_name: Option<String>,
    #[serde(rename = "service.kubernetes.io/service-proxy-name")]
    pub(super) proxy_name: Option<String>,
    #[serde(rename = "service.kubernetes.io/headless")]
    pub(super) headless: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Spec {
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    #[serde(rename = "clusterIP")]
    pub(super) cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    pub(super) cluster_ips: Option<Vec<String>>,
    pub(super) ports: Option<Vec<ServicePort>>,
    #[serde(rename = "externalIPs")]
    pub(super) external_ips: Option<Vec<String>>,
    pub(super) internal_traffic_policy: Option<String>,
    pub(super) external_traffic_policy: Option<String>,
    pub(super) external_name: Option<String>,
    pub(super) session_affinity: Option<String>,
    pub(super) session_affinity_config: Option<SessionAffinityConfig>,
    pub(super) load_balancer_source_ranges: Option<Vec<String>>,
    pub(super) health_check_node_port: Option<i32>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ServicePort {
    pub(super) name: Option<String>,
    pub(super) protocol: Option<String>,
    pub(super) port: i32,
    pub(super) node_port: Option<i32>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SessionAffinityConfig {
    #[serde(rename = "clientIP")]
    pub(super) client_ip: Option<ClientIp>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ClientIp {
    pub(super) timeout_seconds: Option<u32>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Status {
    pub(super) load_balancer: Option<LoadBalancer>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct LoadBalancer {
    pub(super) ingress: Option<Vec<Ingress>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Ingress {
    pub(super) ip: Option<String>,
    pub(super) ip_mode: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SlicePort {
    pub(super) name: Option<String>,
    pub(super) protocol: Option<String>,
    pub(super) port: Option<i32>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Endpoint {
    pub(super) addresses: Option<Vec<String>>,
    pub(super) conditions: Option<Conditions>,
    pub(super) node_name: Option<String>,
    pub(super) hostname: Option<String>,
    pub(super) hints: Option<Hints>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Conditions {
    pub(super) ready: Option<bool>,
    pub(super) serving: Option<bool>,
    pub(super) terminating: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Hints {
    pub(super) for_zones: Option<Vec<Name>>,
    pub(super) for_nodes: Option<Vec<Name>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Name {
    pub(super) name: String,
}

// === impl ServiceObject, SliceObject, NamespaceObject ===

impl ServiceObject {
    /// This network carries its traffic.
    pub(crate) fn is_ours(&self) -> bool {
        self.metadata.is_ours()
    }
}

impl SliceObject {
    /// This network carries its Service's traffic.
    pub(crate) fn is_ours(&self) -> bool {
        self.metadata.is_ours()
    }
}

impl NamespaceObject {
    /// Its name.
    pub(crate) fn own_name(&self) -> Arc<str> {
        self.metadata.name.as_str().into()
    }
}

impl Metadata {
    /// `namespace/name`.
    fn full_name(&self) -> String {
        if self.namespace.is_empty() {
            self.name.clone()
        } else {
            format!("{}/{}", self.namespace, self.name)
        }
    }

    /// As [`super::OURS`] selects.
    fn is_ours(&self) -> bool {
        self.labels.as_ref().is_none_or(|labels| labels.proxy_name.is_none() && labels.headless.is_none())
    }
}

// === impl Versioned ===

impl Versioned for ServiceObject {
    fn version(&self) -> Option<String> {
        self.metadata.resource_version.clone()
    }

    fn name(&self) -> String {
        self.metadata.full_name()
    }
}

impl Versioned for NamespaceObject {
    fn version(&self) -> Option<String> {
        self.metadata.resource_version.clone()
    }

    fn name(&self) -> String {
        self.metadata.full_name()
    }
}

impl Versioned for SliceObject {
    fn version(&self) -> Option<String> {
        self.metadata.resource_version.clone()
    }

    fn name(&self) -> String {
        self.metadata.full_name()
    }
}
