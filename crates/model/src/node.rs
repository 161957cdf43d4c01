//! Nodes as the network sees them.

use std::{fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The name of a Node object; unique in the cluster. Cheap to clone: everything that is known of a node is kept by its name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct NodeName(Arc<str>);

/// What of a Node the network uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: NodeName,
    /// The Node object's UID; Events need it. Empty when not known.
    pub uid: String,
    /// `metadata.creationTimestamp`, in seconds since the epoch. Older nodes win conflicts.
    pub created: i64,
    /// Addresses of type InternalIP, in the API's order.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`, truncated to their prefix: at most one a family.
    pub pod_ranges: Vec<IpNet>,
    /// The Ready condition is True.
    pub ready: bool,
    /// The label `topology.kubernetes.io/zone`.
    #[serde(default)]
    pub zone: Option<String>,
    /// The node is about to go: load balancers are to send it nothing new.
    #[serde(default)]
    pub leaving: bool,
    /// The label `node.kubernetes.io/exclude-from-external-load-balancers`: it is to answer for no address from outside.
    #[serde(default)]
    pub excluded: bool,
}

// === impl NodeName ===

impl NodeName {
    /// The name `name`, as the API has it.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for NodeName {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

impl From<String> for NodeName {
    fn from(name: String) -> Self {
        Self::new(name)
    }
}

impl From<NodeName> for String {
    fn from(name: NodeName) -> Self {
        name.as_str().to_owned()
    }
}
