//! Kubernetes objects to and from model types: watches, Node conditions, Events.
//!
//! Level-triggered: a watch keeps a [`Mirror`] equal to what the API says, over broken connections, expired versions and
//! an API server that is away; whoever reads a mirror sees the last known state and never an order of events. Only the
//! fields that the network uses are kept.

mod client;
mod condition;
mod convert;
mod error;
mod event;
mod mirror;
mod watch;

pub use client::{Client, ConnectError};
pub use condition::{Condition, keep_conditions};
pub use convert::{node, pod};
pub use error::ApiError;
pub use event::{NodeRef, WarningEvent};
pub use mirror::Mirror;
pub use watch::{WatchHealth, watch_nodes, watch_pods};
