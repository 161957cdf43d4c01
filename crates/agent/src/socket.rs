//! The agent's socket: calls of the CNI plugin and of `weft status`, from root only.

use std::{
    fs, io,
    net::IpAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::timeout,
};
use weft_cni::{
    Call, Failure, SpecVersion,
    plugin::{code, frame},
};
use weft_kube::Client;
use weft_model::PodKey;

use crate::{
    admin::{self, ApiStatus, Listeners, Request, Response, Status, WatchStatus},
    dns::Dns,
    drain::Drain,
    metrics::Metrics,
    node::thread::{Ended, Handle},
    symptoms::Symptoms,
};

/// Connections served at a time; more wait.
const CONNECTIONS: usize = 256;
/// A client that says nothing for this long is gone.
const IDLE: Duration = Duration::from_secs(30);
/// What has been taken in is answered within this when the agent ends.
const DRAIN: Duration = Duration::from_secs(10);

/// What the socket's clients can ask for.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) node: Handle,
    /// What does not work.
    pub(crate) symptoms: watch::Receiver<Symptoms>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) listeners: Arc<Listeners>,
    pub(crate) api: Api,
    /// This node's DNS, if it has one.
    pub(crate) dns: Option<Dns>,
}

/// What is known of the API server.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) client: Client,
    pub(crate) nodes: watch::Receiver<weft_kube::Mirror<weft_model::NodeName, weft_model::Node>>,
    pub(crate) pods: watch::Receiver<weft_kube::Mirror<PodKey, weft_model::Pod>>,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum Envelope {
    Cni(Call),
    Admin(Request),
}

/// Binds the socket at `path`, for root only, in the place of one that an earlier agent left. Whoever holds the state
/// directory's lock may do so.
///
/// # Errors
/// Those of the file system, naming the path.
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("socket {}: {error}", path.display()));
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(named)?;
    }
    // Under another name first: nobody connects before the mode is right.
    let unfinished = unfinished(path);
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(named(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&unfinished).map_err(named)?;
    fs::set_permissions(&unfinished, fs::Permissions::from_mode(0o600)).map_err(named)?;
    fs::rename(&unfinished, path).map_err(named)?;
    Ok(listener)
}

fn unfinished(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    path.with_file_name(name)
}

/// Serves clients until the drain begins; then answers what was taken in, and returns.
pub(crate) async fn serve(listener: UnixListener, server: Server, mut drain: Drain) -> anyhow::Result<()> {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = drain.begun() => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) if is_root(&stream) => {
                let slot = Arc::clone(&slots).acquire_owned().await?;
                let (server, drain) = (server.clone(), drain.clone());
                connections.spawn(async move {
                    if let Err(error) = server.converse(stream, drain).await {
                        tracing::debug!("a client of the socket: {error}");
                    }
                    drop(slot);
                });
            }
            Ok(_) => tracing::warn!("a client of the socket that is not root was turned away"),
            Err(error) => {
                tracing::error!("socket: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    if timeout(DRAIN, async { while connections.join_next().await.is_some() {} }).await.is_err() {
        tracing::warn!("{} calls are not answered after {DRAIN:?}: left", connections.len());
    }
    Ok(())
}

/// The file's mode says as much; a socket that was opened before it was changed does not.
fn is_root(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == nix::unistd::geteuid().as_raw())
}

impl Server {
    async fn converse(&self, mut stream: UnixStream, mut drain: Drain) -> io::Result<()> {
        loop {
            let request = tokio::select! {
                () = drain.begun() => return Ok(()),
                request = timeout(IDLE, read(&mut stream)) => request,
            };
            let Ok(Some(request)) = request.unwrap_or(Ok(None)) else { return Ok(()) };
            let answer = tokio::select! {
                // A call whose caller is gone is not begun: the runtime's DEL may have overtaken it.
                biased;
                () = hung_up(&stream) => return Ok(()),
                answer = self.answer(&request) => answer?,
            };
            timeout(IDLE, write(&mut stream, &answer)).await.map_err(io::Error::from)??;
        }
    }

    async fn answer(&self, request: &[u8]) -> io::Result<Vec<u8>> {
        match serde_json::from_slice(request) {
            Ok(Envelope::Cni(call)) => Ok(self.cni(call).await.into_bytes()),
            Ok(Envelope::Admin(request)) => {
                let response =
                    self.admin(request).await.unwrap_or_else(|message| Response::Error { message });
                Ok(serde_json::to_vec(&response)?)
            }
            Err(error) => {
                Ok(serde_json::to_vec(&Response::Error { message: format!("no request: {error}") })?)
            }
        }
    }

    async fn cni(&self, call: Call) -> String {
        let (begun, verb) = (Instant::now(), call.verb);
        let answer = self.node.cni(call).await.unwrap_or_else(|Ended| {
            Failure::new(code::TRY_AGAIN, "the agent is ending: try again later", "")
                .to_json(SpecVersion::NEWEST)
        });
        let failed = weft_cni::plugin::scan::top_level(&answer, &["code"])
            .is_ok_and(|found| found.iter().any(Option::is_some));
        self.metrics.cni(verb, !failed, begun.elapsed());
        answer
    }

    async fn admin(&self, request: Request) -> Result<Response, String> {
        match request {
            Request::Status => Ok(Response::Status(Box::new(self.status().await?))),
            Request::Services => Ok(Response::Services { services: self.node.service_status().await? }),
            Request::ProbeListen { at } => {
                let place = admin::find_place(&at, &self.status().await?)?;
                let (id, listeners) = self.listeners.open(&place).map_err(|error| error.to_string())?;
                Ok(Response::Listening { id, listeners })
            }
            Request::ProbeClose { id } => {
                let _ = self.listeners.close(id).await;
                Ok(Response::Done)
            }
            Request::Probe { from, to } => {
                let place = admin::find_place(&from, &self.status().await?)?;
                let probed = tokio::task::spawn_blocking(move || admin::probe(&place, &to)).await;
                let outcomes =
                    probed.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
                Ok(Response::Probed { outcomes })
            }
            Request::Visit { from, to } => {
                let place = admin::find_place(&from, &self.status().await?)?;
                let visited = tokio::task::spawn_blocking(move || admin::visit(&place, &to)).await;
                let outcomes =
                    visited.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
                Ok(Response::Visited { outcomes })
            }
            Request::Dns { name, kind, from } => {
                let dns = self
                    .dns
                    .as_ref()
                    .ok_or("this agent answers no DNS: it was started without --cluster-dns")?;
                let client = from.as_ref().map(|pod| self.api.address_of(pod)).transpose()?;
                Ok(Response::Dns { explanation: dns.explain(&name, &kind, client).await? })
            }
            Request::ResolvConf { of } => {
                let place = admin::find_place(&of, &self.status().await?)?;
                let read = tokio::task::spawn_blocking(move || admin::resolv_conf(&place)).await;
                let text = read.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
                Ok(Response::ResolvConf { text })
            }
            Request::Resolve { from, stub, names } => {
                let place = admin::find_place(&from, &self.status().await?)?;
                let resolved =
                    tokio::task::spawn_blocking(move || admin::resolve(&place, stub, &names)).await;
                let outcomes =
                    resolved.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
                Ok(Response::Resolved { outcomes })
            }
        }
    }

    /// The node's status, and the API server's.
    pub(crate) async fn status(&self) -> Result<Status, String> {
        let mut status = *self.node.status().await.map_err(|error| error.to_string())?;
        status.api = Some(self.api.status());
        status.problems.clone_from(&self.symptoms.borrow().problems);
        status.dns = self.dns.as_ref().map(Dns::status);
        Ok(status)
    }
}

impl Api {
    /// The first address of a Pod of this node.
    fn address_of(&self, pod: &PodKey) -> Result<IpAddr, String> {
        let pods = self.pods.borrow();
        let found = pods.objects().get(pod).ok_or_else(|| format!("Pod {pod} is not on this node"))?;
        found.ips.first().copied().ok_or_else(|| format!("Pod {pod} has no address yet"))
    }

    fn status(&self) -> ApiStatus {
        let watches = self.client.watches().health().into_iter().map(|(name, health)| WatchStatus {
            name,
            error: health.error,
            failures: health.failures,
            unreadable: health.unreadable,
        });
        let watches: Vec<WatchStatus> = watches.collect();
        ApiStatus {
            server: self.client.server().to_owned(),
            synced: self.nodes.borrow().is_synced() && self.pods.borrow().is_synced(),
            error: watches.iter().find_map(|watch| watch.error.clone()),
            failures: watches.iter().map(|watch| watch.failures).sum(),
            pods: self.pods.borrow().objects().len() as u64,
            watches,
        }
    }
}

/// Resolves when the client has closed its end.
async fn hung_up(stream: &UnixStream) {
    match stream.ready(Interest::READABLE).await {
        Ok(ready) if !ready.is_read_closed() => std::future::pending().await,
        _ => {}
    }
}

/// A frame; `None` when the client is done.
async fn read(stream: &mut UnixStream) -> io::Result<Option<Vec<u8>>> {
    let mut header = [0; 4];
    match stream.read_exact(&mut header).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    };
    let length = frame::length(header)?;
    let mut body = Vec::new();
    stream.take(length as u64).read_to_end(&mut body).await?;
    if body.len() < length { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(Some(body)) }
}

async fn write(stream: &mut UnixStream, body: &[u8]) -> io::Result<()> {
    stream.write_all(&frame::header(body.len())?).await?;
    stream.write_all(body).await
}
