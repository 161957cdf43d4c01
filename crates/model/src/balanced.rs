//! Services that get addresses from outside.

use std::{collections::BTreeMap, net::IpAddr};

use crate::services::ServiceKey;

/// What of a Service the allocation of LoadBalancer addresses uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BalancedService {
    /// Namespace and name.
    pub key: ServiceKey,
    /// The object's UID.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub version: String,
    /// `metadata.creationTimestamp`, in seconds since the epoch. Older Services win conflicts.
    pub created: i64,
    /// Its labels, for the pools' selectors.
    pub labels: BTreeMap<String, String>,
    /// It is of type LoadBalancer and is not being deleted.
    pub wants_addresses: bool,
    /// `spec.loadBalancerClass`.
    pub class: Option<String>,
    /// It has an address of these families (`spec.ipFamilies`), true for IPv6, in order.
    pub families: Vec<bool>,
    /// `spec.ipFamilyPolicy` is RequireDualStack: it is not content with one of them.
    pub needs_every_family: bool,
    /// Addresses that it asks for, as they are written: the annotation `weft.network/load-balancer-ips`, or else
    /// `spec.loadBalancerIP`.
    pub wishes: Vec<String>,
    /// `status.loadBalancer.ingress` has these addresses.
    pub held: Vec<IpAddr>,
}
