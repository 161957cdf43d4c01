//! HTTP/1 and HTTP/2: 200 and who answered, whatever was asked.

use std::{convert::Infallible, io, net::SocketAddr, pin::pin, sync::Arc};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, header, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};

use super::Identity;

const METHODS: [&[u8]; 10] = [
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"DELETE ",
    b"OPTIONS ",
    b"PATCH ",
    b"TRACE ",
    b"CONNECT ",
    // The preface of HTTP/2 without TLS.
    b"PRI * HT",
];

/// Whether a connection that begins so speaks HTTP. `first` holds at most eight bytes.
pub(super) fn is_request(first: &[u8]) -> bool {
    METHODS.iter().any(|method| {
        let shown = first.len().min(method.len()).min(8);
        shown >= 3 && first.get(..shown) == method.get(..shown)
    })
}

pub(super) async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    local: SocketAddr,
    source: SocketAddr,
    identity: Arc<Identity>,
    log: Arc<dyn Fn(&str) + Send + Sync>,
    tls: bool,
    mut closed: watch::Receiver<bool>,
) -> io::Result<()> {
    let service = service_fn(move |request: Request<Incoming>| {
        let scheme = if tls { "HTTPS" } else { "HTTP" };
        log(&format!("{scheme} {} {} from {source}", request.method(), request.uri()));
        let response = answer(&request, &identity, local, source, tls);
        async move { Ok::<_, Infallible>(response) }
    });
    let server = auto::Builder::new(TokioExecutor::new());
    let mut connection = pin!(server.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = async { drop(closed.wait_for(|closed| *closed).await) } => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    ended.map_err(io::Error::other)
}

fn answer(
    request: &Request<Incoming>,
    identity: &Identity,
    local: SocketAddr,
    source: SocketAddr,
    tls: bool,
) -> Response<Full<Bytes>> {
    let text_of =
        |name| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let wants_json = text_of(header::ACCEPT).contains("application/json");
    let host =
        request.uri().authority().map_or_else(|| text_of(header::HOST).to_owned(), ToString::to_string);
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let forwarded = request.headers().get("x-forwarded-for").and_then(|value| value.to_str().ok());
    let (kind, body) = if wants_json {
        let body = json!({
            "pod": identity.pod, "namespace": identity.namespace, "node": identity.node,
            "serviceAccount": identity.service_account,
            "address": local.ip(), "port": local.port(), "source": source.ip(), "sourcePort": source.port(),
            "method": request.method().as_str(), "path": path, "host": host, "tls": tls, "forwardedFor": forwarded,
        });
        ("application/json", format!("{body}\n"))
    } else {
        let tls = if tls { "yes" } else { "no" };
        let mut more =
            vec![("method", request.method().as_str()), ("path", path), ("host", &host), ("tls", tls)];
        if let Some(forwarded) = forwarded {
            more.push(("forwarded-for", forwarded));
        }
        ("text/plain; charset=utf-8", identity.describe(local, source, &more))
    };
    let mut response = Response::new(Full::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response.headers_mut().insert(header::SERVER, header::HeaderValue::from_static("weft-lab"));
    response
}

#[cfg(test)]
mod tests {
    use super::is_request;

    #[test]
    fn requests_are_told_from_other_text() {
        for first in [&b"GET / HT"[..], b"POST /ap", b"DELETE /", b"PRI * HT", b"OPTIONS "] {
            assert!(is_request(first), "{first:?}");
        }
        for first in [&b""[..], b"PING\r\n", b"*1\r\n$4\r\n", b"\x16\x03\x01", b"GE"] {
            assert!(!is_request(first), "{first:?}");
        }
    }
}
