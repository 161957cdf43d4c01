//! The connection to the API server.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use kube::config::{KubeConfigOptions, Kubeconfig};

/// The server ends a watch after this long, and it is opened again where it ended: a connection that died in silence is
/// found out within as much.
pub(crate) const WATCH_SECONDS: u32 = 60;
/// No request is without an answer, or a watch without an end, for longer than this.
const READ_TIMEOUT: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 15);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Speaks to the API server. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    pub(crate) kube: kube::Client,
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
    /// The certificates or the token are wrong.
    #[error("credentials for {server}: {cause}")]
    Credentials {
        /// The server's URL.
        server: String,
        /// What is wrong with them.
        cause: kube::Error,
    },
}

impl Client {
    /// A client as `kubeconfig` says, or as a Pod has it when there is none. Does not connect yet.
    ///
    /// # Errors
    /// When the file or the credentials in it are unusable.
    pub async fn new(kubeconfig: Option<&Path>) -> Result<Self, ConnectError> {
        let mut config = match kubeconfig {
            None => kube::Config::incluster()?,
            Some(path) => {
                let wrong = |cause| ConnectError::Kubeconfig { path: path.to_owned(), cause };
                let file = Kubeconfig::read_from(path).map_err(wrong)?;
                kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                    .await
                    .map_err(wrong)?
            }
        };
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        config.read_timeout = Some(READ_TIMEOUT);
        // Who asks decides when to ask again, and says meanwhile that there was no answer.
        config.default_retry = false;
        let server = config.cluster_url.to_string();
        let kube = kube::Client::try_from(config)
            .map_err(|cause| ConnectError::Credentials { server: server.clone(), cause })?;
        Ok(Self { kube, server })
    }

    /// The server's URL.
    pub fn server(&self) -> &str {
        &self.server
    }
}
