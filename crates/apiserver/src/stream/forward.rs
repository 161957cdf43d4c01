//! `portforward`: connections to ports of a Pod.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::spdy::{self, Event, Writer};
use crate::sessions::PodSessions;

/// Connections that one client may have under way.
const MOST: usize = 1024;
const QUEUE: usize = 64;

/// The two streams of one connection, of which one may be there before the other.
#[derive(Default)]
struct Pair {
    data: Option<u32>,
    error: Option<u32>,
    port: Option<u16>,
}

/// Over SPDY: for each connection the client opens two streams that have a number in common, one for what goes wrong, and one
/// for the data.
pub(super) async fn over_spdy<S: AsyncRead + AsyncWrite + Send + 'static>(
    io: S,
    sessions: Arc<dyn PodSessions>,
    pod: Value,
) -> io::Result<()> {
    let (mut reader, writer) = spdy::start(io)?;
    let mut pairs: HashMap<String, Pair> = HashMap::new();
    let mut open: HashMap<u32, mpsc::Sender<Bytes>> = HashMap::new();
    // The connections end with the client.
    let mut tasks = JoinSet::new();
    while let Some(event) = reader.next().await? {
        while tasks.try_join_next().is_some() {}
        match event {
            Event::Open { stream, headers } => {
                let text = |name: &str| headers.get(name).map(String::as_str).unwrap_or_default();
                // Clients of old number nothing: the streams of a pair follow each other then.
                let number = match text("requestid") {
                    "" => format!("stream {}", (stream.saturating_sub(1)) / 4),
                    number => number.to_owned(),
                };
                if pairs.len() + open.len() >= MOST {
                    return Err(io::Error::other("too many connections are forwarded at once"));
                }
                let pair = pairs.entry(number.clone()).or_default();
                pair.port = pair.port.or(text("port").parse().ok());
                match text("streamtype") {
                    "data" => pair.data = Some(stream),
                    "error" => pair.error = Some(stream),
                    _ => {}
                }
                if let Pair { data: Some(data), error: Some(error), port } = *pair {
                    pairs.remove(&number);
                    let (sender, received) = mpsc::channel(QUEUE);
                    open.insert(data, sender);
                    let (sessions, pod, writer) = (sessions.clone(), pod.clone(), writer.clone());
                    tasks.spawn(async move {
                        let carried = carry(sessions, pod, port, &writer, data, received).await;
                        let problem = carried.err().map(|error| error.to_string()).unwrap_or_default();
                        // The client may be gone.
                        let _ = writer.data(error, problem.as_bytes(), true).await;
                        let _ = writer.data(data, &[], true).await;
                    });
                }
            }
            Event::Data { stream, bytes, last } => {
                if let Some(sender) = open.get(&stream).filter(|_| !bytes.is_empty())
                    && sender.send(bytes).await.is_err()
                {
                    open.remove(&stream);
                }
                if last {
                    open.remove(&stream);
                }
            }
            Event::Reset { stream } => drop(open.remove(&stream)),
        }
    }
    Ok(())
}

async fn carry<S: AsyncRead + AsyncWrite>(
    sessions: Arc<dyn PodSessions>,
    pod: Value,
    port: Option<u16>,
    writer: &Writer<S>,
    stream: u32,
    received: mpsc::Receiver<Bytes>,
) -> io::Result<()> {
    let port = port.ok_or_else(|| io::Error::other("the client named no port"))?;
    let say = |bytes: Bytes| async move { writer.data(stream, &bytes, false).await };
    relay(sessions, pod, port, received, say).await
}

/// A connection to a port of the Pod: what is `received` is written to it, and what is read from it is said. It ends when the program has
/// said all it had to say, whatever the client would still send.
pub(super) async fn relay<F: Future<Output = io::Result<()>>>(
    sessions: Arc<dyn PodSessions>,
    pod: Value,
    port: u16,
    mut received: mpsc::Receiver<Bytes>,
    mut say: impl FnMut(Bytes) -> F,
) -> io::Result<()> {
    let connection = sessions.connect(pod, port).await.map_err(|error| failed(port, &error))?;
    let (mut read, mut write) = connection.into_split();
    let there = async {
        while let Some(bytes) = received.recv().await {
            write.write_all(&bytes).await?;
        }
        write.shutdown().await
    };
    let back = async {
        let mut buffer = vec![0; 32 * 1024];
        loop {
            match read.read(&mut buffer).await? {
                0 => return Ok(()),
                count => say(Bytes::copy_from_slice(buffer.get(..count).unwrap_or_default())).await?,
            }
        }
    };
    let mut back = std::pin::pin!(back);
    tokio::select! {
        ended = &mut back => ended,
        sent = there => {
            sent?;
            back.await
        }
    }
}

/// As a kubelet says it.
fn failed(port: u16, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("error forwarding port {port} to pod: {error}"))
}
