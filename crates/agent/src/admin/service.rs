//! What the kernel holds of a port of a Service, for `weft service`.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use weft_model::{
    Protocol,
    services::{BackendKey, Frontend},
};

/// A port of a Service in one family, as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service's name.
    pub name: String,
    /// The port's name; empty for the only, unnamed one.
    pub port: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Of IPv6, or of IPv4.
    pub ipv6: bool,
    /// It is a Pod's `hostPort`, and namespace and name are the Pod's; where the runtime told none, the namespace is empty and the
    /// name the container's id. The port is its number.
    pub host_port: bool,
    /// Every node answers it itself (the cluster's DNS): backends stand in while a node's agent is away.
    #[serde(default)]
    pub node_answers: bool,
    /// What it is reached by.
    pub frontends: Vec<Frontend>,
    /// Who may come to its LoadBalancer addresses: `None` for everybody.
    #[serde(default)]
    pub source_ranges: Option<Vec<IpNet>>,
    /// What stands behind it.
    pub backends: Vec<BackendStatus>,
    /// Connections that were given a backend.
    pub connections: u64,
    /// Connections that found none.
    pub without_backend: u64,
    /// How long a client comes back to the same backend, in seconds.
    pub affinity_seconds: Option<u32>,
    /// Why it is not served as it should be, if so.
    pub refused: Option<String>,
}

/// A backend of a port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendStatus {
    /// Address and port.
    pub key: BackendKey,
    /// What the API says of it.
    pub state: EndpointStatus,
    /// Its node gives no sign of life: others are chosen while there are any.
    #[serde(default)]
    pub unreachable: bool,
    /// The kernel takes it for serving.
    pub serving: bool,
    /// It is chosen for connections to the cluster IP.
    pub internal: bool,
    /// It is chosen for connections to other frontends from Pods and this node.
    pub cluster: bool,
    /// It is chosen for connections to other frontends from outside.
    pub external: bool,
    /// Connections that it was given, by all Services that list it.
    pub connections: u64,
}

/// What the API says of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndpointStatus {
    /// It takes connections.
    Ready,
    /// It is going away and still answers.
    Terminating,
    /// It is not ready, though it answers.
    Serving,
    /// It does not answer.
    NotReady,
    /// The API does not name it: the kernel is about to lose it, or it is a host port's Pod.
    Unknown,
}
