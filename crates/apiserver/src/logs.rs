//! Where the answers to `GET pods/NAME/log` come from.

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use serde_json::Value;

/// What a client wants of a container's log; times and limits as in `PodLogOptions`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LogOptions {
    /// The container; always one of the Pod's.
    pub container: String,
    /// Go on as the container writes.
    pub follow: bool,
    /// The log of the container's last run before this one.
    pub previous: bool,
    /// Begin each line with its RFC 3339 time.
    pub timestamps: bool,
    /// Only so many lines from the end.
    pub tail_lines: Option<u64>,
    /// Only what is younger than so many seconds.
    pub since_seconds: Option<u64>,
    /// Only what is younger than this RFC 3339 time.
    pub since_time: Option<String>,
    /// At most so many bytes.
    pub limit_bytes: Option<u64>,
}

/// Why there is no log to show.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    /// The container has not started, or has no earlier run: HTTP 400 with this message.
    #[error("{0}")]
    Unavailable(String),
    /// The node that runs the Pod does not answer: HTTP 502 with this message.
    #[error("{0}")]
    Node(String),
}

/// The lab's kubelets, to the API server.
pub trait PodLogs: Send + Sync {
    /// The log of one container. `pod` is the whole Pod object. The stream ends when the log does, or, when
    /// following, when the container ends.
    fn logs(
        &self,
        pod: Value,
        options: LogOptions,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Bytes>, LogError>>;
}
