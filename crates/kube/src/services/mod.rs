//! Services and EndpointSlices to model types.

mod convert;
mod object;

pub(crate) use convert::{service, slice};
pub(crate) use object::{NamespaceObject, ServiceObject, SliceObject};

/// The label of an EndpointSlice that names its Service.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Selects what is served here: neither headless nor somebody else's. Slices carry the labels of their Service.
pub(crate) const OURS: &str = "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name";
