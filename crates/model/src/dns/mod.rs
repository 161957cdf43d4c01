//! The cluster's names: from what the API says to what a name stands for.
//!
//! A [`Zone`] hears the same [`Event`](crate::services::Event)s as the Services' planner, and of Namespaces; what it
//! answers is a function of the objects, never of the order in which they came. It follows the Kubernetes DNS-Based
//! Service Discovery specification 1.1.0. A look-up ([`Zone::look_up`]) allocates nothing.
//!
//! How answers look in a message, how long they may be kept, and who is asked for all other names is not said here.

mod address;
mod entry;
mod list;
mod look_up;
mod name;
mod records;
mod reverse;
mod snapshot;
mod zone;

pub use list::NamespaceEvent;
pub use look_up::{Found, LookUp, Owner, Pointers, Ports, Target};
pub use name::{Name, NameError};
pub use records::{EndpointRecord, Records};
pub use snapshot::{Snapshot, SnapshotError};
pub use zone::{Settings, Size, Zone};
