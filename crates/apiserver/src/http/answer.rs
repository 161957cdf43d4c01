//! Building responses.

use std::io;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use http::header::{CONTENT_TYPE, HeaderValue, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use serde_json::Value;

use crate::error::ApiError;

/// A body: whole, or a stream.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;
pub(crate) type Answer = Response<Body>;

pub(crate) fn empty() -> Body {
    whole(Bytes::new())
}

fn whole(body: Bytes) -> Body {
    Full::new(body).map_err(|never| match never {}).boxed_unsync()
}

/// A path that ends otherwise.
pub(crate) fn moved(path: &str, query: Option<&str>) -> Answer {
    let to = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    let mut response = text(301, "");
    if let Ok(to) = HeaderValue::from_str(&to) {
        response.headers_mut().insert(LOCATION, to);
    }
    response
}

pub(crate) fn json(code: u16, value: &Value) -> Answer {
    bytes(code, "application/json", Bytes::from(value.to_string()))
}

pub(crate) fn bytes(code: u16, content_type: &'static str, body: Bytes) -> Answer {
    let mut response = Response::new(whole(body));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert("cache-control", HeaderValue::from_static("no-cache, private"));
    response
}

pub(crate) fn text(code: u16, body: impl Into<String>) -> Answer {
    bytes(code, "text/plain; charset=utf-8", Bytes::from(body.into()))
}

/// Of paths that no API has.
pub(crate) fn no_page() -> Answer {
    text(404, "404 page not found\n")
}

pub(crate) fn stream(content_type: &'static str, chunks: BoxStream<'static, Bytes>) -> Answer {
    let frames = chunks.map(|chunk| Ok::<_, io::Error>(Frame::data(chunk)));
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
