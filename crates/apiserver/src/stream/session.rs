//! What runs in a container and its client, whichever way they are connected; and over SPDY.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::spdy::{self, Event, Writer};
use crate::sessions::{Output, PodSessions, SessionError, SessionOptions, Streams, TerminalSize};

/// How long a client may take to open its streams, or to go when all was said.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
pub(super) const LEAVE: Duration = Duration::from_secs(2);
/// Messages under way in one direction.
const QUEUE: usize = 16;

/// The client's ends of a session's streams.
pub(super) struct Ends {
    /// None: no input is taken, or it is over.
    pub(super) stdin: Option<mpsc::Sender<Bytes>>,
    pub(super) resize: mpsc::Sender<TerminalSize>,
    pub(super) output: mpsc::Receiver<Output>,
}

pub(super) fn streams(options: &SessionOptions) -> (Streams, Ends) {
    let (stdin, input) = mpsc::channel(QUEUE);
    let (resize, sizes) = mpsc::channel(QUEUE);
    let (said, output) = mpsc::channel(QUEUE);
    let stdin = options.stdin.then_some(stdin);
    (Streams { stdin: input, resize: sizes, output: said }, Ends { stdin, resize, output })
}

/// How it ended, as clients read it on the error stream.
pub(super) fn status(result: Result<i32, SessionError>) -> Value {
    match result {
        Ok(0) => json!({"metadata": {}, "status": "Success"}),
        Ok(code) => json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Err(SessionError(why)) => json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "reason": "InternalError", "message": why, "code": 500,
        }),
    }
}

/// `{"Width": 80, "Height": 24}`
pub(super) fn terminal_size(bytes: &[u8]) -> Option<TerminalSize> {
    let value: Value = serde_json::from_slice(bytes).ok()?;
    let side = |name: &str| u16::try_from(value[name].as_u64()?).ok();
    Some(TerminalSize { width: side("Width")?, height: side("Height")? })
}

/// A session over SPDY: a stream each for what is wanted, and one for how it ended.
pub(super) async fn run<S: AsyncRead + AsyncWrite + Send + 'static>(
    io: S,
    sessions: Arc<dyn PodSessions>,
    pod: Value,
    options: SessionOptions,
) -> io::Result<()> {
    let (mut reader, writer) = spdy::start(io)?;
    let wanted = [
        ("error", true),
        ("stdin", options.stdin),
        ("stdout", options.stdout),
        ("stderr", options.stderr),
        ("resize", options.tty),
    ];
    let wanted = wanted.into_iter().filter(|(_, wanted)| *wanted).count();
    let mut opened: HashMap<String, u32> = HashMap::new();
    let opening = async {
        while opened.len() < wanted {
            match reader.next().await? {
                Some(Event::Open { stream, mut headers }) => {
                    opened.insert(headers.remove("streamtype").unwrap_or_default(), stream);
                }
                Some(_) => {}
                None => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            }
        }
        Ok(())
    };
    tokio::time::timeout(PATIENCE, opening).await.map_err(io::Error::other)??;
    let (streams, Ends { mut stdin, resize, mut output }) = streams(&options);
    let stream_of = |name: &str| opened.get(name).copied();
    let (input, sizes) = (stream_of("stdin"), stream_of("resize"));
    let reading = async {
        loop {
            match reader.next().await {
                Ok(Some(Event::Data { stream, bytes, last })) if Some(stream) == input => {
                    // What runs may have no use for more.
                    if let Some(sender) = stdin.as_ref().filter(|_| !bytes.is_empty()) {
                        let _ = sender.send(bytes).await;
                    }
                    if last {
                        stdin = None;
                    }
                }
                Ok(Some(Event::Data { stream, bytes, .. })) if Some(stream) == sizes => {
                    if let Some(size) = terminal_size(&bytes) {
                        let _ = resize.send(size).await;
                    }
                }
                Ok(Some(Event::Reset { stream })) if Some(stream) == input => stdin = None,
                Ok(Some(_)) => {}
                Ok(None) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    };
    let (out, err) = (stream_of("stdout"), stream_of("stderr"));
    let saying = async {
        while let Some(said) = output.recv().await {
            let (stream, bytes) = match &said {
                Output::Stdout(bytes) => (out, bytes),
                Output::Stderr(bytes) => (err, bytes),
            };
            if let Some(stream) = stream {
                writer.data(stream, bytes, false).await?;
            }
        }
        io::Result::Ok(())
    };
    let working = async {
        let (ended, said) = tokio::join!(sessions.run(pod, options, streams), saying);
        said?;
        end(&writer, [out, err], stream_of("error"), &status(ended)).await
    };
    let mut reading = std::pin::pin!(reading);
    tokio::select! {
        gone = &mut reading => return gone,
        worked = working => worked?,
    }
    // What the client has not read yet would be lost if the connection were closed now.
    let _ = tokio::time::timeout(LEAVE, reading).await;
    Ok(())
}

async fn end<S: AsyncRead + AsyncWrite>(
    writer: &Writer<S>,
    outputs: [Option<u32>; 2],
    error: Option<u32>,
    status: &Value,
) -> io::Result<()> {
    if let Some(error) = error {
        writer.data(error, status.to_string().as_bytes(), true).await?;
    }
    for stream in outputs.into_iter().flatten() {
        writer.data(stream, &[], true).await?;
    }
    writer.go_away().await
}
