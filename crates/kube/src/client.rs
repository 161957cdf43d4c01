//! The connection to the API server.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use http::{HeaderValue, header::USER_AGENT};
use hyper_timeout::TimeoutConnector;
use hyper_util::{client::legacy, rt::TokioExecutor};
use kube::{
    client::{Body, ConfigExt as _},
    config::{KubeConfigOptions, Kubeconfig},
};
use tower::ServiceBuilder;

use crate::{
    connect::{Connector, Priority, Servers, host_and_port},
    error::{self, Causes},
    watch::Watches,
};

/// The server ends a watch after this long, and it is opened again where it ended: a connection that died in silence is
/// found out within as much.
pub(crate) const WATCH_SECONDS: u32 = 60;
/// No request is without an answer, or a watch without an end, for longer than this.
const READ_TIMEOUT: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 15);
/// By its part before the slash, API servers name who wrote a field (`managedFields`); audit logs have all of it.
const AGENT: HeaderValue = HeaderValue::from_static(concat!("weft/", env!("CARGO_PKG_VERSION")));
/// Connection and handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(8);

/// How an API server is reached.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Credentials and server; without one, as a Pod of the cluster has them.
    pub kubeconfig: Option<PathBuf>,
    /// API servers, as `https://HOST:PORT` or `HOST:PORT`, asked in this order.
    pub servers: Vec<String>,
    /// A kubelet's kubeconfig, of which the server and its authorities are used: the first of these that is there. Without
    /// credentials of a Pod they are not looked at.
    pub kubelet: Vec<PathBuf>,
    /// Servers that were known before.
    pub remembered: Vec<SocketAddr>,
    /// `SO_PRIORITY` of sockets until they are connected.
    pub priority: Option<u32>,
}

/// Speaks to the API server. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    pub(crate) kube: kube::Client,
    pub(crate) watches: Watches,
    servers: Servers,
    server: String,
}

/// The API server cannot be spoken to, whether it is there or not.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The file is missing, no YAML, or names files that are missing.
    #[error("kubeconfig {path}: {cause}")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: kube::config::KubeconfigError,
    },
    /// No file was named, and this is no Pod of a cluster.
    #[error("no kubeconfig named, and not in a cluster ({0}): name one with --kubeconfig FILE")]
    InCluster(#[from] kube::config::InClusterError),
    /// A server that was named is no URL.
    #[error("API server {server:?}: {cause}; write https://HOST:PORT")]
    Server {
        /// As it was named.
        server: String,
        /// What is wrong with it.
        cause: http::uri::InvalidUri,
    },
    /// The certificates or the token are wrong.
    #[error("credentials for {server}: {cause}")]
    Credentials {
        /// The server's URL.
        server: String,
        /// What is wrong with them.
        cause: Box<kube::Error>,
    },
}

impl Client {
    /// A client as `kubeconfig` says, or as a Pod has it when there is none. Does not connect yet.
    ///
    /// # Errors
    /// When the file or the credentials in it are unusable.
    pub async fn new(kubeconfig: Option<&Path>) -> Result<Self, ConnectError> {
        Self::with(&Access { kubeconfig: kubeconfig.map(Path::to_owned), ..Access::default() }).await
    }

    /// A client with this access. Does not connect yet.
    ///
    /// # Errors
    /// When a file, the credentials in it or a server's URL are unusable.
    pub async fn with(access: &Access) -> Result<Self, ConnectError> {
        let mut config = match &access.kubeconfig {
            None => kube::Config::incluster()?,
            Some(path) => read(path).await?,
        };
        let mut named = Vec::new();
        for server in &access.servers {
            named.push(named_server(server)?);
        }
        let in_cluster = access.kubeconfig.is_none();
        if in_cluster && let Some(kubelet) = of_kubelet(&access.kubelet).await {
            named.push(host_and_port(&kubelet.cluster_url));
            if let (Some(own), Some(more)) = (&mut config.root_cert, kubelet.root_cert) {
                own.extend(more);
            }
        }
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        config.read_timeout = Some(READ_TIMEOUT);
        config.headers.push((USER_AGENT, AGENT));
        let url = config.cluster_url.to_string();
        let server = if named.is_empty() { url.clone() } else { named.join(", ") };
        // The Service's address is the last: whether it leads anywhere is this very network's to see to.
        let servers = Servers::new(named, in_cluster || !access.servers.is_empty());
        servers.learn(access.remembered.clone());
        let connector = Connector { servers: servers.clone(), priority: Priority(access.priority) };
        let kube =
            client(config, connector).map_err(|cause| ConnectError::Credentials { server: url, cause })?;
        Ok(Self { kube, watches: Watches::default(), servers, server })
    }

    /// Where the server is: its URL, or the addresses that it is asked at.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The addresses of API servers that are known; names are not among them.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let uri: Option<http::Uri> = self.server.parse().ok();
        let host = uri.as_ref().and_then(http::Uri::host).unwrap_or_default();
        let own: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
        own.into_iter().chain(self.servers.addresses()).collect()
    }

    /// API servers are at these addresses too.
    pub fn learn_servers(&self, addresses: Vec<SocketAddr>) {
        self.servers.learn(addresses);
    }

    /// All watches of this client.
    pub fn watches(&self) -> &Watches {
        &self.watches
    }
}

async fn read(path: &Path) -> Result<kube::Config, ConnectError> {
    let wrong = |cause| ConnectError::Kubeconfig { path: path.to_owned(), cause };
    let file = Kubeconfig::read_from(path).map_err(wrong)?;
    kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(wrong)
}

/// What of the first kubelet's kubeconfig that is there can be read.
async fn of_kubelet(files: &[PathBuf]) -> Option<kube::Config> {
    let path = files.iter().find(|path| path.exists())?;
    match read(path).await {
        Ok(config) => Some(config),
        Err(error) => {
            tracing::warn!("the kubelet's API server is not known: {error}; name one with --api-server");
            None
        }
    }
}

fn named_server(server: &str) -> Result<String, ConnectError> {
    let url = if server.contains("://") { server.to_owned() } else { format!("https://{server}") };
    let uri: http::Uri =
        url.parse().map_err(|cause| ConnectError::Server { server: server.to_owned(), cause })?;
    Ok(host_and_port(&uri))
}

/// kube's own stack with another connector. Who asks decides when to ask again. That there was no answer is told here, once for
/// all who ask.
fn client(config: kube::Config, connector: Connector) -> Result<kube::Client, Box<kube::Error>> {
    let namespace = config.default_namespace.clone();
    let (servers, url) = (connector.servers.clone(), config.cluster_url.clone());
    let mut connector =
        TimeoutConnector::new(config.rustls_https_connector_with_connector(connector).map_err(Box::new)?);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_read_timeout(config.read_timeout);
    let client: legacy::Client<_, Body> = legacy::Client::builder(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(Box::new)?)
        .layer(config.extra_headers_layer().map_err(Box::new)?)
        .map_result(move |answer: Result<http::Response<_>, _>| {
            match &answer {
                Ok(answer) if error::is_away(answer.status().as_u16()) => {
                    servers.answered(&url, Some(&answer.status()));
                }
                Ok(_) => servers.answered(&url, None),
                Err(error) => servers.answered(&url, Some(&Causes(error))),
            }
            answer.map_err(tower::BoxError::from)
        })
        .service(client);
    Ok(kube::Client::new(service, namespace))
}
