//! The cluster's DNS server.
//!
//! ```text
//! Kubernetes API ──▶ zone (model) ──▶ server ──▶ client
//!                                       │
//!                                       └──▶ forwarder ──▶ cache, hosts, stub domains, upstreams
//! ```
//!
//! What the zone has is answered from memory; everything else goes to the [forwarder](forward).

pub mod forward;
#[doc(hidden)]
pub mod fuzz;
pub mod question;
pub mod server;
pub mod settings;
pub mod stub;
