//! An embedded Kubernetes API server, in memory.
//!
//! It speaks the Kubernetes API (discovery, list, watch, create, update, the four kinds of patch, delete,
//! Tables, OpenAPI) so that kubectl and other clients work against it unchanged. What it has no rules for, it
//! stores and serves. Requests carry a bearer token over TLS; what their clients may do is role-based (RBAC).

mod admission;
mod allocate;
mod api;
mod auth;
mod authorize;
mod collect;
mod connections;
mod convert;
mod defaults;
mod discovery;
mod error;
mod faults;
mod fields;
#[cfg(test)]
mod garbage;
mod http;
mod kubeconfig;
mod logs;
mod meta;
mod openapi;
mod patch;
mod quantity;
mod resources;
mod review;
mod schema;
mod selector;
mod server;
mod sessions;
mod store;
mod stream;
mod table;
mod tls;
mod validation;
mod verbs;
mod view;
mod watch;
pub mod yaml;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::{Arc, PoisonError, RwLock};

use ipnet::IpNet;
use tokio::sync::watch as signal;

pub use discovery::VERSION;
pub use faults::Faults;
pub use logs::{LogError, LogOptions, PodLogs};
pub use quantity::Quantity;
pub use review::{Refusal, builtin_kinds, check};
pub use server::ServeError;
pub use sessions::{Output, PodSessions, SessionError, SessionOptions, Streams, TerminalSize};
pub use tls::TlsError;

use api::Api;

/// What kubectl shows as the status of a Pod: its phase, or what keeps it from running, such as `CrashLoopBackOff`.
pub fn pod_summary(pod: &serde_json::Value) -> String {
    table::pods::summary(pod)
}

/// What a server is made from.
#[derive(Debug, Clone)]
pub struct Config {
    /// DNS names in the certificate.
    pub host_names: Vec<String>,
    /// Addresses in the certificate.
    pub addresses: Vec<IpAddr>,
    /// Ranges from which Services get their cluster IPs: one, or one of each family, the preferred first.
    pub service_ranges: Vec<IpNet>,
    /// Ports that Services of type NodePort and LoadBalancer get.
    pub node_ports: RangeInclusive<u16>,
    /// Where Pods reach this server, for the endpoints of the Service `kubernetes`; without it, that Service has none.
    pub advertise: Option<SocketAddr>,
    /// Whether Pods may get ephemeral containers; false where no kubelet runs them.
    pub ephemeral_containers: bool,
    /// How many changes each resource remembers at most (fewer when they are older than ten minutes): watches from
    /// before those get 410 Gone.
    pub history: usize,
}

impl Default for Config {
    fn default() -> Config {
        let names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
        Config {
            host_names: names.map(str::to_owned).to_vec(),
            addresses: vec![IpAddr::from([127, 0, 0, 1])],
            service_ranges: vec![IpNet::new_assert(IpAddr::from([10, 96, 0, 0]), 16)],
            node_ports: 30000..=32767,
            advertise: None,
            ephemeral_containers: true,
            history: 10_000,
        }
    }
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum NewError {
    /// No certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Something of the initial state was refused.
    #[error("setting up the API server: {0}")]
    Setup(String),
}

/// The server; clones share everything.
#[derive(Clone)]
pub struct ApiServer {
    api: Arc<Api>,
    tls: Arc<rustls::ServerConfig>,
}

impl fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiServer").finish_non_exhaustive()
    }
}

impl ApiServer {
    /// Makes a certificate authority, a server certificate and an administrator's token, and the objects that
    /// every cluster starts with. Listens nowhere yet.
    ///
    /// # Errors
    /// A host name that is none; no randomness.
    pub fn new(config: Config) -> Result<ApiServer, NewError> {
        let identity = tls::identity(&config.host_names, &config.addresses)?;
        let setup = |error: Box<error::ApiError>| NewError::Setup(error.message);
        let store = Arc::new(store::Store::new(config.history));
        let api = Arc::new(Api {
            store: store.clone(),
            registry: resources::Registry::new(),
            faults: Faults::new(store),
            connections: connections::Connections::new(connections::Limits::default()),
            tokens: auth::Tokens::new().map_err(setup)?,
            services: allocate::Services::new(config.service_ranges, config.node_ports),
            ephemeral_containers: config.ephemeral_containers,
            ca_pem: identity.ca_pem,
            logs: RwLock::new(None),
            sessions: RwLock::new(None),
        });
        verbs::bootstrap(&api, config.advertise).map_err(setup)?;
        Ok(ApiServer { api, tls: identity.config })
    }

    /// Answers on `listener` (of any network namespace) until `drain` is true or its sender is gone; then watches
    /// end, requests under way finish, and this returns. May be called for several listeners.
    ///
    /// # Errors
    /// The listener cannot be used.
    pub async fn serve(
        &self,
        listener: std::net::TcpListener,
        drain: signal::Receiver<bool>,
    ) -> Result<(), ServeError> {
        server::serve(self.api.clone(), self.tls.clone(), listener, drain).await
    }

    /// A kubeconfig for the administrator: authority and token inline. `server` is a URL, `name` the cluster's,
    /// user's and context's name.
    pub fn kubeconfig(&self, server: &str, name: &str) -> String {
        kubeconfig::render(server, name, &self.api.ca_pem, self.token())
    }

    /// The certificate authority, PEM.
    pub fn ca_pem(&self) -> &str {
        &self.api.ca_pem
    }

    /// The administrator's bearer token.
    pub fn token(&self) -> &str {
        self.api.tokens.admin()
    }

    /// Where `kubectl logs` is answered from.
    pub fn set_logs(&self, source: Arc<dyn PodLogs>) {
        *self.api.logs.write().unwrap_or_else(PoisonError::into_inner) = Some(source);
    }

    /// Where `kubectl exec`, `attach`, `port-forward` and `proxy` are answered from.
    pub fn set_sessions(&self, source: Arc<dyn PodSessions>) {
        *self.api.sessions.write().unwrap_or_else(PoisonError::into_inner) = Some(source);
    }

    /// What the server shall do wrong.
    pub fn faults(&self) -> &Faults {
        &self.api.faults
    }
}
