//! Network namespaces (create, enter, run in a thread, remove) and a small synchronous rtnetlink client.
//!
//! Invariants: the calling thread never changes its own namespace (work is done in a short-lived thread that has
//! entered the other one), and nothing here runs `ip`, needs an async runtime or keeps state of its own.

mod name;
mod namespace;
pub mod netlink;

pub use name::random_name;
pub use namespace::{Netns, NetnsError};
pub use netlink::{Netlink, NetlinkError};
