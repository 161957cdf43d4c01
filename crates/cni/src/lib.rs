//! The Container Network Interface, version 1.1.0: what a runtime says to a plugin, and what the plugin says to the
//! agent.
//!
//! [`plugin`] is all that the binary `weft-cni` is made of, and uses std alone; [`config`] and [`result`] are for the
//! agent, which does the work. The two speak over a unix socket in [frames](plugin::frame): the plugin forwards the
//! [`Call`] that a runtime made, the agent answers with the bytes to print.
//!
//! Specification: <https://github.com/containernetworking/cni/blob/spec-v1.1.0/SPEC.md>

pub mod config;
pub mod plugin;
pub mod result;

pub use config::NetConf;
pub use plugin::{Call, Failure, SpecVersion, Verb};
pub use result::Success;
