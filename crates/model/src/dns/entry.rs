//! What is kept of a Service and its EndpointSlices.

use std::{net::IpAddr, sync::Arc};

use super::{Name, Records};
use crate::services::{Service, ServiceType, SlicePort};

/// A Service, or what is known of one before it is.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) service: Option<Kept>,
    /// The list that the Service was last seen in.
    pub(super) seen: u32,
    /// By name.
    pub(super) slices: Vec<Slice>,
    pub(super) records: Records,
}

/// What of a Service its names need.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) shape: Shape,
    /// Its ports, named or not.
    pub(super) ports: Arc<[SlicePort]>,
}

/// What a Service's name stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// These addresses.
    Cluster(Box<[IpAddr]>),
    /// Its endpoints.
    Headless,
    /// Another name.
    Alias(Box<Name>),
    /// It has no address yet, or its external name is none.
    Nothing,
}

/// What of an EndpointSlice the names need.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Slice {
    pub(super) name: Arc<str>,
    pub(super) ports: Arc<[SlicePort]>,
    pub(super) endpoints: Box<[Endpoint]>,
}

/// All endpoints are kept, also those of Services that need none: a Service may come after its slices, and become headless.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) hostname: Option<Arc<str>>,
    pub(super) address: IpAddr,
    pub(super) ready: bool,
}

// === impl Shape ===

impl Shape {
    pub(super) fn of(service: &Service) -> Self {
        match service.kind {
            ServiceType::ExternalName => {
                let target = service.external_name.as_deref().unwrap_or_default();
                // What looks like an address is not resolved by DNS servers, says Kubernetes.
                let is_address = target.parse::<IpAddr>().is_ok();
                match target.parse::<Name>() {
                    Ok(name) if !is_address && !name.is_empty() => Self::Alias(Box::new(name)),
                    _ => Self::Nothing,
                }
            }
            _ if service.headless => Self::Headless,
            _ if service.cluster_ips.is_empty() => Self::Nothing,
            _ => Self::Cluster(service.cluster_ips.clone()),
        }
    }
}
