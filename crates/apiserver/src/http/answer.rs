//! Building responses.

use std::convert::Infallible;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{Full, StreamBody};
use hyper::body::Frame;
use serde_json::Value;

use crate::error::ApiError;

/// A body: whole, or a stream.
pub(crate) type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

pub(crate) fn json(code: u16, value: &Value) -> Answer {
    bytes(code, "application/json", Bytes::from(value.to_string()))
}

pub(crate) fn bytes(code: u16, content_type: &'static str, body: Bytes) -> Answer {
    let mut response = Response::new(UnsyncBoxBody::new(Full::new(body)));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert("cache-control", HeaderValue::from_static("no-cache, private"));
    response
}

pub(crate) fn text(code: u16, body: impl Into<String>) -> Answer {
    bytes(code, "text/plain; charset=utf-8", Bytes::from(body.into()))
}

pub(crate) fn stream(content_type: &'static str, chunks: BoxStream<'static, Bytes>) -> Answer {
    let frames = chunks.map(|chunk| Ok::<_, Infallible>(Frame::data(chunk)));
    let mut response = Response::new(UnsyncBoxBody::new(StreamBody::new(frames)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert("cache-control", HeaderValue::from_static("no-cache, private"));
    response
}

pub(crate) fn error(error: &ApiError) -> Answer {
    let mut response = json(error.code, &error.status());
    if error.code == 429 {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    if error.code == 401 {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}
