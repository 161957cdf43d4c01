//! Kubernetes objects to and from model types: watches, Node conditions, Events.
//!
//! Level-triggered: a watch keeps a [`Mirror`] equal to what the API says, or passes on [`weft_model::services::Event`]s
//! that add up to it, over broken connections, expired versions and an API server that is away; whoever reads sees the last
//! known state and never depends on an order of events. Only the fields that the network uses are kept.

mod balanced;
mod client;
mod cluster;
mod condition;
mod connect;
mod convert;
mod error;
mod event;
mod lease;
mod mirror;
mod services;
mod watch;

pub use client::{Access, Client, ConnectError};
pub use condition::{Condition, keep_conditions};
pub use convert::{node, pod};
pub use error::ApiError;
pub use event::{ObjectRef, WarningEvent};
pub use lease::LeaseError;
pub use mirror::Mirror;
pub use watch::{
    Events, ServiceEvents, WatchHealth, Watches, watch_balanced, watch_leases, watch_namespaces, watch_nodes,
    watch_pods, watch_services, watch_settings, watch_slices,
};
