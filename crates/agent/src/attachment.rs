//! A container's interface, as it is recorded.

use std::{
    fmt, fs,
    net::IpAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use weft_cni::plugin::queue;
use weft_datapath::{PodLinks, PodSpec};
use weft_model::{Bandwidth, PodKey, PortMapping};

/// Names an attachment: container and interface. Fit to be a file's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

/// What is known of an attachment. Written before anything is made of it, and again when it is whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// `CNI_CONTAINERID`
    pub container_id: String,
    /// `CNI_IFNAME`
    pub ifname: String,
    /// The name of the network that it belongs to; GC looks at its own only.
    pub network: String,
    /// The file of its network namespace.
    pub netns: PathBuf,
    /// The interface on the node.
    pub host_interface: String,
    /// Its addresses, one a family.
    pub addresses: Vec<IpAddr>,
    /// Its MTU, bytes.
    pub mtu: u32,
    /// Its rate limits.
    pub bandwidth: Option<Bandwidth>,
    /// Ports of the node that lead to it.
    pub port_mappings: Vec<PortMapping>,
    /// The Pod, when the runtime named it.
    pub pod: Option<PodKey>,
    /// The Pod's UID, when the runtime named it; Events need it.
    #[serde(default)]
    pub pod_uid: String,
    /// What was made; `None` as long as ADD has not finished.
    pub made: Option<Made>,
}

/// The hardware addresses of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// Of the interface on the node.
    pub host_mac: [u8; 6],
    /// Of the interface in the container.
    pub pod_mac: [u8; 6],
    /// Device and inode of the network namespace: its file may become another's. Records of before do not have it.
    #[serde(default)]
    pub namespace: Option<(u64, u64)>,
}

/// Device and inode of a namespace's file, which identify the namespace. `None` if the file cannot be read.
pub fn identity(netns: &Path) -> Option<(u64, u64)> {
    fs::metadata(netns).ok().map(|file| (file.dev(), file.ino()))
}

// === impl Key ===

impl Key {
    /// The attachment of `ifname` in a container.
    pub fn new(container_id: &str, ifname: &str) -> Self {
        Self(queue::file_name(container_id, ifname))
    }

    /// As a file's name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl Record ===

impl Record {
    /// Its key.
    pub fn key(&self) -> Key {
        Key::new(&self.container_id, &self.ifname)
    }

    /// The file of its network namespace is gone, or is another's by now.
    pub fn is_without_namespace(&self) -> bool {
        match identity(&self.netns) {
            None => true,
            found => self.made.and_then(|made| made.namespace).is_some_and(|made| Some(made) != found),
        }
    }

    /// What the data plane is to make, or to check.
    pub fn spec(&self) -> PodSpec {
        PodSpec {
            netns: self.netns.clone(),
            interface: self.ifname.clone(),
            host_interface: self.host_interface.clone(),
            addresses: self.addresses.clone(),
            mtu: self.mtu,
            bandwidth: self.bandwidth,
            port_mappings: self.port_mappings.clone(),
        }
    }
}

// === impl Made ===

impl From<&PodLinks> for Made {
    fn from(links: &PodLinks) -> Self {
        Self { host_mac: links.host_mac, pod_mac: links.pod_mac, namespace: None }
    }
}
