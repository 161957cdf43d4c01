//! `kubectl exec`, `cp`, `attach` and `port-forward`, and the proxies of Pods and Services, as the API server asks for them.

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use k8s_openapi::api::core::v1::Container;
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    process::{Child, ChildStdin},
    sync::{OnceCell, mpsc},
};
use weft_apiserver::{Output, PodSessions, SessionError, SessionOptions, Streams};
use weft_netns::Netns;

use super::{
    Kubelets,
    container::{Surroundings, lock, shim},
    log::ContainerLog,
    probe::Inside,
    process::{ContainerPlace, ContainerSpec},
    terminal::Terminal,
};
use crate::place::{Cgroup, enter, write_file};

/// How long what a command has said may take to arrive after it has ended: something it left behind may hold its output open.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The containers that run, by Pod and name.
#[derive(Default)]
pub(super) struct Live {
    containers: Mutex<HashMap<(String, String), Arc<LiveContainer>>>,
}

/// A container that runs.
pub(super) struct LiveContainer {
    pub(super) context: Arc<Surroundings>,
    pub(super) container: Container,
    pub(super) log: Arc<ContainerLog>,
    /// None if the responder stands in for it.
    pub(super) inside: Option<Inside>,
    pub(super) input: tokio::sync::Mutex<Option<Input>>,
    /// What commands find that are run in a stand-in: a container in which nothing else runs. Made when it is first asked for.
    pub(super) shell: OnceCell<(Child, Inside)>,
}

/// The input of what runs, if the container has one.
pub(super) enum Input {
    Pipe(ChildStdin),
    Terminal(Arc<Terminal>),
}

impl Live {
    pub(super) fn add(&self, uid: &str, container: LiveContainer) {
        let key = (uid.to_owned(), container.container.name.clone());
        lock(&self.containers).insert(key, Arc::new(container));
    }

    pub(super) fn remove(&self, uid: &str, container: &str) {
        lock(&self.containers).remove(&(uid.to_owned(), container.to_owned()));
    }

    fn get(&self, uid: &str, container: &str) -> Option<Arc<LiveContainer>> {
        lock(&self.containers).get(&(uid.to_owned(), container.to_owned())).cloned()
    }
}

impl LiveContainer {
    async fn inside(&self) -> Result<Inside> {
        if let Some(inside) = &self.inside {
            return Ok(inside.clone());
        }
        let shell = self.shell.get_or_try_init(|| self.context.start_shell(&self.container)).await?;
        Ok(shell.1.clone())
    }
}

/// What the API server asks.
pub(crate) struct Sessions {
    kubelets: Arc<Kubelets>,
}

impl Sessions {
    pub(crate) fn new(kubelets: Arc<Kubelets>) -> Sessions {
        Sessions { kubelets }
    }
}

impl PodSessions for Sessions {
    fn run(
        &self,
        pod: Value,
        options: SessionOptions,
        streams: Streams,
    ) -> BoxFuture<'static, Result<i32, SessionError>> {
        let kubelets = self.kubelets.clone();
        async move {
            let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            let Some(live) = kubelets.live.get(uid, &options.container) else {
                return Err(SessionError(format!(
                    "container not found (\"{}\" of Pod {name} does not run)",
                    options.container
                )));
            };
            let ended = match options.command.clone() {
                Some(words) => execute(&kubelets, &live, &words, &options, streams).await,
                None => attach(&live, &options, streams).await,
            };
            ended.map_err(|error| SessionError(format!("{error:#}")))
        }
        .boxed()
    }

    fn connect(&self, pod: Value, port: u16) -> BoxFuture<'static, io::Result<TcpStream>> {
        let lab = self.kubelets.lab.clone();
        async move {
            let text = |name: &str| pod["metadata"][name].as_str().unwrap_or_default().to_owned();
            let record = lab
                .pod_record(&text("namespace"), &text("name"))
                .map_err(|error| io::Error::other(format!("{error:#}")))?;
            let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
            let mut failed = None;
            for address in loopback {
                match connect_from(&record.netns, SocketAddr::new(address, port)).await {
                    Ok(stream) => return Ok(stream),
                    Err(error) => drop(failed.get_or_insert(error)),
                }
            }
            Err(failed.unwrap_or_else(|| io::Error::from(io::ErrorKind::ConnectionRefused)))
        }
        .boxed()
    }

    fn dial(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<TcpStream>> {
        let kubelets = self.kubelets.clone();
        async move {
            let node =
                node_of(&kubelets, address.ip()).map_err(|error| io::Error::other(format!("{error:#}")))?;
            connect_from(&node, address).await
        }
        .boxed()
    }
}

/// The namespace of the node that an address is on, or of any node.
fn node_of(kubelets: &Kubelets, address: IpAddr) -> Result<String> {
    let has = |pod: &k8s_openapi::api::core::v1::Pod| {
        let ips = pod.status.as_ref().and_then(|status| status.pod_ips.as_ref());
        ips.into_iter().flatten().any(|ip| ip.ip.parse() == Ok(address))
    };
    let pod = kubelets.world.pods.list().into_iter().find(|pod| has(pod));
    let wanted = pod.and_then(|pod| pod.spec.as_ref()?.node_name.clone());
    let nodes = kubelets.lab.record()?.nodes;
    let own = nodes.iter().find(|node| Some(&node.name) == wanted.as_ref());
    Ok(own.or_else(|| nodes.first()).context("the lab has no node")?.netns.clone())
}

async fn connect_from(netns: &str, address: SocketAddr) -> io::Result<TcpStream> {
    let netns = Netns::open(netns).map_err(io::Error::other)?;
    let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    // The socket is made in there and used from here.
    let socket = netns
        .run(|| Socket::new(domain, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP)))
        .map_err(io::Error::other)??;
    let connecting = TcpSocket::from_std_stream(socket.into()).connect(address);
    tokio::time::timeout(Duration::from_secs(10), connecting).await?
}

/// Runs a command in a container.
async fn execute(
    kubelets: &Kubelets,
    live: &LiveContainer,
    words: &[String],
    options: &SessionOptions,
    streams: Streams,
) -> Result<i32> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let inside = live.inside().await?;
    let mut env = inside.env.clone();
    if options.tty {
        env.push(("TERM".to_owned(), "xterm".to_owned()));
    }
    let place = ContainerPlace::Running { pid_file: inside.folder.join("pid") };
    let spec = ContainerSpec { argv: words.to_vec(), env, cwd: inside.cwd.clone(), place };
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let file = inside.folder.join(format!("session-{number}.json"));
    write_file(&file, &serde_json::to_vec(&spec)?)?;
    let _file = Removed(file.clone());
    let mut command = shim(kubelets, &file);
    let here = Netns::current()?;
    let terminal = if options.tty {
        Some(Terminal::give(&mut command)?)
    } else {
        let stdin = if options.stdin { Stdio::piped() } else { Stdio::null() };
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        None
    };
    let mut running = Running { cgroup: inside.cgroup.below(&format!("session-{number}"))?, is_over: false };
    enter(&mut command, &here, &running.cgroup)?;
    let child = kubelets.spawner.spawn(command).await?;
    let code = match terminal {
        Some(terminal) => on_terminal(child, &terminal, streams).await,
        None => on_pipes(child, streams).await,
    }?;
    running.is_over = true;
    Ok(code)
}

/// Everything that a command started. It ends when its client goes away; what a command that has ended left running stays as long as
/// the container.
struct Running {
    cgroup: Cgroup,
    is_over: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.is_over {
            // It is kept while something runs in it.
            let _ = std::fs::remove_dir(self.cgroup.path());
            return;
        }
        let cgroup = self.cgroup.clone();
        // Without a runtime the lab ends, and everything with it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || {
                if let Err(error) = cgroup.remove() {
                    tracing::warn!("a command whose client has gone runs on: {error:#}");
                }
            });
        }
    }
}

/// A file that goes with its session.
struct Removed(std::path::PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        // The whole folder may be gone.
        let _ = std::fs::remove_file(&self.0);
    }
}

async fn on_pipes(mut child: Child, streams: Streams) -> Result<i32> {
    let Streams { mut stdin, output, .. } = streams;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let mut input = child.stdin.take();
    let typing = async {
        while let Some(bytes) = stdin.recv().await {
            if let Some(pipe) = &mut input
                && pipe.write_all(&bytes).await.is_err()
            {
                // It does not read any more.
                input = None;
            }
        }
        input = None;
        std::future::pending::<Infallible>().await
    };
    let saying = async {
        tokio::join!(tell(out, &output, Output::Stdout), tell(err, &output, Output::Stderr));
    };
    let mut saying = std::pin::pin!(saying);
    let ending = async {
        let status = tokio::select! {
            status = child.wait() => status,
            () = &mut saying => return child.wait().await,
        };
        let _ = tokio::time::timeout(LAST_WORDS, saying).await;
        status
    };
    let status = tokio::select! {
        status = ending => status?,
        never = typing => match never {},
    };
    Ok(code_of(status))
}

async fn on_terminal(mut child: Child, terminal: &Terminal, streams: Streams) -> Result<i32> {
    let Streams { mut stdin, mut resize, output } = streams;
    let saying = async {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            match terminal.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(count) => {
                    let bytes = Bytes::copy_from_slice(buffer.get(..count).unwrap_or_default());
                    if output.send(Output::Stdout(bytes)).await.is_err() {
                        return;
                    }
                }
            }
        }
    };
    let typing = async {
        loop {
            tokio::select! {
                Some(bytes) = stdin.recv() => if terminal.write_all(&bytes).await.is_err() { break },
                Some(size) = resize.recv() => terminal.resize(size),
                else => break,
            }
        }
        std::future::pending::<Infallible>().await
    };
    let mut saying = std::pin::pin!(saying);
    let ending = async {
        let status = tokio::select! {
            status = child.wait() => status,
            () = &mut saying => return child.wait().await,
        };
        let _ = tokio::time::timeout(LAST_WORDS, saying).await;
        status
    };
    let status = tokio::select! {
        status = ending => status?,
        never = typing => match never {},
    };
    Ok(code_of(status))
}

async fn tell(
    from: Option<impl AsyncRead + Unpin>,
    to: &mpsc::Sender<Output>,
    as_what: impl Fn(Bytes) -> Output,
) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; 32 * 1024];
    while let Ok(count) = from.read(&mut buffer).await {
        let bytes = Bytes::copy_from_slice(buffer.get(..count).unwrap_or_default());
        if bytes.is_empty() || to.send(as_what(bytes)).await.is_err() {
            return;
        }
    }
}

fn code_of(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1)
}

/// Shows what a container says from now on, and types into it, until it ends.
async fn attach(live: &LiveContainer, options: &SessionOptions, streams: Streams) -> Result<i32> {
    let Streams { mut stdin, mut resize, output } = streams;
    if options.tty && live.container.tty != Some(true) {
        bail!("Unable to use a TTY - container {} did not allocate one", live.container.name);
    }
    let mut said = live.log.listen();
    let mut written = live.log.subscribe();
    // An error means the same: nobody writes any more.
    let ended = async move { drop(written.wait_for(|written| written.ended).await) };
    let mut ended = std::pin::pin!(ended);
    let wants = |one: &Output| match one {
        Output::Stdout(_) => options.stdout,
        Output::Stderr(_) => options.stderr,
    };
    let once = live.container.stdin_once == Some(true);
    let mut typing = options.stdin;
    loop {
        tokio::select! {
            biased;
            one = said.recv() => match one {
                Ok(one) if wants(&one) => if output.send(one).await.is_err() { return Ok(0) },
                Ok(_) => {}
                // Faster than the client reads: as with any terminal, what scrolled by is gone.
                Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                Err(tokio::sync::broadcast::error::RecvError::Closed) => return Ok(0),
            },
            () = &mut ended => {
                while let Ok(one) = said.try_recv() {
                    if wants(&one) && output.send(one).await.is_err() {
                        break;
                    }
                }
                return Ok(0);
            }
            bytes = stdin.recv(), if typing => match bytes {
                Some(bytes) => type_in(live, &bytes).await,
                None => {
                    typing = false;
                    if once {
                        *live.input.lock().await = None;
                    }
                }
            },
            Some(size) = resize.recv() => {
                if let Some(Input::Terminal(terminal)) = &*live.input.lock().await {
                    terminal.resize(size);
                }
            }
        }
    }
}

async fn type_in(live: &LiveContainer, bytes: &[u8]) {
    let mut input = live.input.lock().await;
    let typed = match &mut *input {
        Some(Input::Pipe(pipe)) => pipe.write_all(bytes).await,
        Some(Input::Terminal(terminal)) => terminal.write_all(bytes).await,
        None => Ok(()),
    };
    if typed.is_err() {
        *input = None;
    }
}
