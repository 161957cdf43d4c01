//! What load balancers ask a node: is it fit (port 10256), and has a Service endpoints here (its health check port)?
//!
//! Both are open to everybody: Kubernetes has them so, and they tell nothing else.

mod node;
mod ports;

pub(crate) use node::{NodeHealth, serve_node};
pub(crate) use ports::serve_ports;
