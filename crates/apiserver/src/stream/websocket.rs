//! Sessions over WebSocket: messages that begin with the number of their stream, or SPDY within them.

use std::future::Future;
use std::io;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use http::header::{HeaderMap, HeaderValue};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use super::Io;
use super::forward::relay;
use super::session::{Ends, LEAVE, status, streams, terminal_size};
use crate::sessions::{Output, PodSessions, SessionOptions};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// Closes the stream that the message names; since the fifth version.
const CLOSE: u8 = 255;
const LARGEST_MESSAGE: usize = 4 * 1024 * 1024;

type Socket = WebSocketStream<Io>;

/// What the handshake answers to the client's key.
pub(super) fn accept(headers: &HeaderMap) -> Option<HeaderValue> {
    let key = headers.get("sec-websocket-key")?;
    HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok()
}

async fn socket(io: Io) -> (SplitSink<Socket, Message>, SplitStream<Socket>) {
    let config = WebSocketConfig::default()
        .max_message_size(Some(LARGEST_MESSAGE))
        .max_frame_size(Some(LARGEST_MESSAGE));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await.split()
}

fn broken(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        other => io::Error::other(other),
    }
}

fn message(channel: u8, bytes: &[u8]) -> Message {
    let mut message = BytesMut::with_capacity(1 + bytes.len());
    message.put_u8(channel);
    message.extend_from_slice(bytes);
    Message::Binary(message.freeze())
}

/// All is said. Clients take a close without a code for a failure.
fn goodbye() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() }))
}

/// The next message with something in it; none when the client is gone.
async fn next(from: &mut SplitStream<Socket>) -> io::Result<Option<Bytes>> {
    while let Some(received) = from.next().await {
        match received {
            Ok(Message::Binary(bytes)) => return Ok(Some(bytes)),
            Ok(Message::Text(text)) => return Ok(Some(Bytes::from(text))),
            Ok(Message::Close(_)) | Err(Error::ConnectionClosed) => return Ok(None),
            // Answered by the library.
            Ok(_) => {}
            Err(error) => return Err(broken(error)),
        }
    }
    Ok(None)
}

/// A command, or what runs already.
pub(super) async fn run(
    io: Io,
    closes: bool,
    sessions: Arc<dyn PodSessions>,
    pod: Value,
    options: SessionOptions,
) -> io::Result<()> {
    let (mut to, mut from) = socket(io).await;
    let (streams, Ends { mut stdin, resize, mut output }) = streams(&options);
    let reading = async {
        while let Some(mut bytes) = next(&mut from).await? {
            if bytes.is_empty() {
                continue;
            }
            let channel = bytes.split_to(1)[0];
            match channel {
                // What runs may have no use for more.
                STDIN if !bytes.is_empty() => {
                    if let Some(sender) = &stdin {
                        let _ = sender.send(bytes).await;
                    }
                }
                RESIZE => {
                    if let Some(size) = terminal_size(&bytes) {
                        let _ = resize.send(size).await;
                    }
                }
                CLOSE if closes && bytes.first() == Some(&STDIN) => stdin = None,
                _ => {}
            }
        }
        io::Result::Ok(())
    };
    let working = async {
        let saying = async {
            while let Some(said) = output.recv().await {
                let message = match &said {
                    Output::Stdout(bytes) => message(STDOUT, bytes),
                    Output::Stderr(bytes) => message(STDERR, bytes),
                };
                to.send(message).await?;
            }
            Ok::<_, Error>(())
        };
        let (ended, said) = tokio::join!(sessions.run(pod, options, streams), saying);
        said?;
        to.send(message(ERROR, status(ended).to_string().as_bytes())).await?;
        to.send(goodbye()).await
    };
    until_read(reading, working).await
}

/// Ends when the client is gone, or when all is said and the client has had the time to read it: it would be lost if the connection
/// were closed while something of the client's is not read either.
async fn until_read(
    reading: impl Future<Output = io::Result<()>>,
    saying: impl Future<Output = Result<(), Error>>,
) -> io::Result<()> {
    let mut reading = std::pin::pin!(reading);
    tokio::select! {
        gone = &mut reading => return gone,
        said = saying => said.map_err(broken)?,
    }
    let _ = tokio::time::timeout(LEAVE, reading).await;
    Ok(())
}

/// Carries what is spoken within binary messages, by `speak`.
pub(super) async fn tunnel<F>(io: Io, speak: impl FnOnce(DuplexStream) -> F) -> io::Result<()>
where
    F: Future<Output = io::Result<()>>,
{
    let (mut to, mut from) = socket(io).await;
    let (inner, outer) = tokio::io::duplex(256 * 1024);
    let (mut read, mut write) = tokio::io::split(outer);
    let inwards = async {
        while let Some(bytes) = next(&mut from).await? {
            write.write_all(&bytes).await?;
        }
        write.shutdown().await
    };
    let outwards = async {
        let mut buffer = vec![0; 32 * 1024];
        loop {
            match read.read(&mut buffer).await? {
                0 => return to.send(goodbye()).await.map_err(broken),
                count => {
                    let bytes = Bytes::copy_from_slice(buffer.get(..count).unwrap_or_default());
                    to.send(Message::Binary(bytes)).await.map_err(broken)?;
                }
            }
        }
    };
    let mut carrying = std::pin::pin!(async { tokio::try_join!(inwards, outwards) });
    tokio::select! {
        spoken = speak(inner) => spoken?,
        carried = &mut carrying => return carried.map(drop),
    }
    // What was said last is still to be carried, and read.
    let _ = tokio::time::timeout(LEAVE, carrying).await;
    Ok(())
}

/// Connections to ports of a Pod: for each port a stream of data and one for what goes wrong.
pub(super) async fn forward(
    io: Io,
    sessions: Arc<dyn PodSessions>,
    pod: Value,
    ports: Vec<u16>,
) -> io::Result<()> {
    let (mut to, mut from) = socket(io).await;
    let (say, mut said) = mpsc::channel::<Message>(64);
    let mut writers = Vec::new();
    let mut tasks = tokio::task::JoinSet::new();
    for (number, port) in ports.into_iter().enumerate() {
        let Ok(data) = u8::try_from(number * 2) else { break };
        let (sender, received) = mpsc::channel::<Bytes>(64);
        writers.push(Some(sender));
        let (say, sessions, pod) = (say.clone(), sessions.clone(), pod.clone());
        tasks.spawn(async move {
            let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
            // Each stream begins with the port that it is of.
            for channel in [data, data + 1] {
                say.send(message(channel, &port.to_le_bytes())).await.map_err(gone)?;
            }
            let say_data = |bytes: Bytes| {
                let sent = say.send(message(data, &bytes));
                async move { sent.await.map_err(gone) }
            };
            let carried = relay(sessions, pod, port, received, say_data);
            if let Err(error) = carried.await {
                say.send(message(data + 1, error.to_string().as_bytes())).await.map_err(gone)?;
            }
            Ok::<(), io::Error>(())
        });
    }
    drop(say);
    let reading = async {
        while let Some(mut bytes) = next(&mut from).await? {
            if bytes.is_empty() {
                continue;
            }
            let channel = bytes.split_to(1)[0];
            let closed = channel == CLOSE;
            let channel = if closed { bytes.first().copied().unwrap_or(CLOSE) } else { channel };
            let Some(place) = writers.get_mut(usize::from(channel / 2)).filter(|_| channel % 2 == 0) else {
                continue;
            };
            if closed {
                *place = None;
            } else if let Some(sender) = place {
                let _ = sender.send(bytes).await;
            }
        }
        io::Result::Ok(())
    };
    let writing = async {
        while let Some(message) = said.recv().await {
            to.send(message).await?;
        }
        to.send(goodbye()).await
    };
    until_read(reading, writing).await
}
