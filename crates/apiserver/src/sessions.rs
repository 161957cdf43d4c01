//! Where the answers to `exec`, `attach`, `portforward` and `proxy` come from.

use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use futures::future::BoxFuture;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// What a client wants of a container, as in `PodExecOptions` and `PodAttachOptions`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SessionOptions {
    /// The container; always one of the Pod's.
    pub container: String,
    /// The command to run in it; none to attach to what runs in it.
    pub command: Option<Vec<String>>,
    /// The client sends input.
    pub stdin: bool,
    /// The client wants output.
    pub stdout: bool,
    /// The client wants error output.
    pub stderr: bool,
    /// On a terminal; error output is among the output then.
    pub tty: bool,
}

/// What a container says.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Standard output.
    Stdout(Bytes),
    /// Standard error.
    Stderr(Bytes),
}

/// Size of the client's terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Lines.
    pub height: u16,
}

/// What a session is connected to. It ends when the session's future does.
#[derive(Debug)]
pub struct Streams {
    /// Input; closed at its end.
    pub stdin: mpsc::Receiver<Bytes>,
    /// The terminal's size, whenever it changes.
    pub resize: mpsc::Receiver<TerminalSize>,
    /// Output.
    pub output: mpsc::Sender<Output>,
}

/// Why there is no session.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct SessionError(pub String);

/// The lab's kubelets, to the API server.
pub trait PodSessions: Send + Sync {
    /// Runs a command in a container, or attaches to it, and returns the exit code. `pod` is the whole Pod object. Ends, and
    /// ends what was started, when the future is dropped: the client is gone then.
    fn run(
        &self,
        pod: Value,
        options: SessionOptions,
        streams: Streams,
    ) -> BoxFuture<'static, Result<i32, SessionError>>;

    /// Connects to a port inside the Pod, on its loopback address.
    fn connect(&self, pod: Value, port: u16) -> BoxFuture<'static, io::Result<TcpStream>>;

    /// Connects to an address of the cluster's network.
    fn dial(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<TcpStream>>;
}
