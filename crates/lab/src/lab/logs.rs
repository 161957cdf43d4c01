//! `kubectl logs`: the kubelets' memory, as the API server asks for it.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::{
    StreamExt,
    future::{BoxFuture, FutureExt},
    stream::{self, BoxStream},
};
use k8s_openapi::jiff::{Timestamp, ToSpan};
use serde_json::Value;
use weft_apiserver::{LogError, LogOptions, PodLogs};

use crate::kubelet::{ContainerLog, Logs};

pub(super) struct Source {
    logs: Arc<Logs>,
}

impl Source {
    pub(super) fn new(logs: Arc<Logs>) -> Source {
        Source { logs }
    }
}

impl PodLogs for Source {
    fn logs(
        &self,
        pod: Value,
        options: LogOptions,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Bytes>, LogError>> {
        let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
        let found = self.logs.get(uid, &options.container, options.previous);
        async move {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            let container = &options.container;
            let log = found.ok_or_else(|| {
                let what = if options.previous { "has no earlier run" } else { "is waiting to start" };
                LogError::Unavailable(format!("container \"{container}\" in pod \"{name}\" {what}"))
            })?;
            Ok(read(log, options))
        }
        .boxed()
    }
}

/// The lines that were asked for, and those that follow.
fn read(log: Arc<ContainerLog>, options: LogOptions) -> BoxStream<'static, Bytes> {
    let since = earliest(&options);
    let (mut lines, next) = log.since(0);
    lines.retain(|(time, _)| since.is_none_or(|since| *time >= since));
    if let Some(tail) = options.tail_lines {
        let surplus = lines.len().saturating_sub(usize::try_from(tail).unwrap_or(usize::MAX));
        lines.drain(..surplus);
    }
    let timestamps = options.timestamps;
    let first = shown(lines, timestamps);
    let limit = options.limit_bytes.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let whole: BoxStream<'static, Bytes> = if options.follow {
        let written = log.subscribe();
        let rest = stream::unfold((log, written, next), move |(log, mut written, next)| async move {
            loop {
                let state = *written.borrow_and_update();
                let (lines, after) = log.since(next);
                if !lines.is_empty() {
                    return Some((shown(lines, timestamps), (log, written, after)));
                }
                if state.ended || written.changed().await.is_err() {
                    return None;
                }
            }
        });
        stream::once(async move { first }).chain(rest).boxed()
    } else {
        stream::once(async move { first }).boxed()
    };
    match limit {
        None => whole,
        Some(limit) => whole
            .scan(limit, |left, mut bytes| {
                bytes.truncate(*left);
                *left -= bytes.len();
                std::future::ready(if bytes.is_empty() { None } else { Some(bytes) })
            })
            .boxed(),
    }
}

fn earliest(options: &LogOptions) -> Option<Timestamp> {
    let ago = options
        .since_seconds
        .and_then(|seconds| Timestamp::now().checked_sub(i64::try_from(seconds).ok()?.seconds()).ok());
    ago.or_else(|| options.since_time.as_ref()?.parse().ok())
}

fn shown(lines: Vec<(Timestamp, Bytes)>, timestamps: bool) -> Bytes {
    let mut text = BytesMut::new();
    for (time, line) in lines {
        if timestamps {
            text.extend_from_slice(format!("{time} ").as_bytes());
        }
        text.extend_from_slice(&line);
        text.extend_from_slice(b"\n");
    }
    text.freeze()
}
