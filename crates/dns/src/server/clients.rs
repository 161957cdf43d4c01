//! Who asks, and where they look for names.

use std::{net::IpAddr, sync::Arc};

use weft_model::dns::{Name, NameError};

/// Who asks: the agent knows the Pods of its node.
pub trait Clients: Send + Sync {
    /// How the client at this address searches for names that are not fully qualified, as its resolv.conf says; `None`
    /// when that is not known for certain, and then no search is answered at its first step.
    fn search(&self, address: IpAddr) -> Option<Arc<Search>>;

    /// Whether the client at this address is answered; if not, it is told so (REFUSED). A cluster's names and a recursive
    /// server are for the cluster's own Pods and nodes.
    fn may_ask(&self, address: IpAddr) -> bool;
}

/// The `search` and `ndots` of a resolv.conf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Search {
    /// In which domains, in this order.
    pub domains: Vec<Name>,
    /// Names with so many dots are looked up as they are first.
    pub ndots: usize,
}

/// Nobody's search is known, and everybody is answered.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoClients;

// === impl Search ===

impl Search {
    /// What kubelet writes for a Pod of dnsPolicy ClusterFirst in `namespace`; `more` are the node's own search domains,
    /// then those of the Pod's dnsConfig.
    ///
    /// # Errors
    /// Namespace and domain are too long for a name.
    pub fn cluster_first(namespace: &str, domain: &Name, more: &[Name]) -> Result<Self, NameError> {
        let svc = Name::from_labels([&b"svc"[..]])?.under(domain)?;
        let own = Name::from_labels([namespace.as_bytes()])?.under(&svc)?;
        let mut domains: Vec<Name> = Vec::new();
        for one in [own, svc, domain.clone()].iter().chain(more) {
            if !domains.contains(one) {
                domains.push(one.clone());
            }
        }
        Ok(Self { domains, ndots: 5 })
    }
}

// === impl NoClients ===

impl Clients for NoClients {
    fn search(&self, _: IpAddr) -> Option<Arc<Search>> {
        None
    }

    fn may_ask(&self, _: IpAddr) -> bool {
        true
    }
}
