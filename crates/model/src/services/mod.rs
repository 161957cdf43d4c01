//! Services: from what the API says to what a node serves.
//!
//! A [`Planner`] is told what the API says by [`Event`]s, in any order, and says what of the plan has changed. One
//! endpoint's change costs the work of its Service, whatever the cluster's size.

mod choose;
mod claims;
pub(crate) mod intern;
mod object;
mod outside;
mod plan;
mod planner;
mod protected;
mod unreachable;

pub use choose::{ClusterDns, EndpointState, ThisNode};
pub use claims::Conflict;
pub use object::{
    AddressType, Endpoint, EndpointSlice, Event, Ingress, Service, ServicePort, ServiceType, SliceKey,
    SlicePort, TrafficPolicy,
};
pub use outside::{HealthCheck, LoadBalancer, LocalEndpoints};
pub use plan::{
    BackendKey, BackendState, Choice, Frontend, FrontendKind, ServiceKey, ServicePortKey, ServicePortPlan,
    WhenEmpty,
};
pub use planner::{Changes, Counts, Planner};
pub use protected::{Protected, Refusal, Why, is_special};
pub use unreachable::Unreachable;
