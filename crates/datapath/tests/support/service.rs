//! Service ports to be served.

use std::net::SocketAddr;

use weft_model::{
    Protocol,
    services::{BackendKey, BackendState, Choice, ServiceKey, ServicePortKey, ServicePortPlan, WhenEmpty},
};

/// The port of a Service `default/web` with these backends, all of them ready, and no frontend yet.
pub fn service_port(protocol: Protocol, backends: &[SocketAddr]) -> (ServicePortKey, ServicePortPlan) {
    let mut keys: Vec<BackendKey> =
        backends.iter().map(|address| BackendKey { address: address.ip(), port: address.port() }).collect();
    keys.sort();
    let choice = Choice { backends: keys.clone().into(), when_empty: WhenEmpty::Reject };
    let key = ServicePortKey {
        service: ServiceKey::new("default", "web"),
        port: "".into(),
        protocol,
        ipv6: backends.first().is_some_and(SocketAddr::is_ipv6),
    };
    let plan = ServicePortPlan {
        frontends: Vec::new(),
        internal: choice.clone(),
        cluster: choice.clone(),
        external: choice,
        known: keys.into_iter().map(|key| BackendState { key, serving: true }).collect(),
        affinity_seconds: None,
        source_ranges: Vec::new(),
        nobody_else: false,
    };
    (key, plan)
}
