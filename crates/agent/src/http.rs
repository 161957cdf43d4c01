//! Liveness, readiness and metrics over HTTP.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use anyhow::Context as _;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::CONTENT_TYPE,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, task::JoinSet, time::timeout};

use crate::{drain::Drain, socket::Server};

/// A client that does not send its request within this is turned away.
const HEADER: Duration = Duration::from_secs(5);
/// A connection has as long in all.
const LIFETIME: Duration = Duration::from_secs(60);
/// Connections at a time.
const CONNECTIONS: usize = 64;

const TEXT: &str = "text/plain; charset=utf-8";
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// # Errors
/// When the address cannot be had.
pub(crate) async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}: choose another address with --metrics, or --metrics off")
    })
}

/// Serves until the drain begins.
pub(crate) async fn serve(listener: TcpListener, server: Server, mut drain: Drain) -> anyhow::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let full = connections.len() >= CONNECTIONS;
        let accepted = tokio::select! {
            () = drain.begun() => return Ok(()),
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept(), if !full => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::error!("HTTP: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let server = server.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let server = server.clone();
                async move { Ok::<_, Infallible>(answer(&server, &request).await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER)
                .serve_connection(TokioIo::new(stream), service);
            if let Ok(Err(error)) = timeout(LIFETIME, connection).await {
                tracing::debug!("HTTP: {error}");
            }
        });
    }
}

async fn answer(server: &Server, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET\n".into());
    }
    match request.uri().path() {
        // The process answers, whatever the cluster is like: restarting it would help nobody.
        "/livez" => match server.node.status().await {
            Ok(_) => respond(StatusCode::OK, TEXT, "ok\n".into()),
            Err(error) => respond(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
        },
        "/readyz" | "/healthz" => {
            let blocked = server.node.readiness().borrow().blocked.clone();
            match blocked {
                None => respond(StatusCode::OK, TEXT, "ok\n".into()),
                Some(why) => respond(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{why}\n")),
            }
        }
        "/metrics" => {
            let text = match server.status().await {
                Ok(status) => server.metrics.encode(&status).map_err(|error| error.to_string()),
                Err(error) => Err(error),
            };
            match text {
                Ok(text) => respond(StatusCode::OK, OPENMETRICS, text),
                Err(error) => respond(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
            }
        }
        _ => respond(StatusCode::NOT_FOUND, TEXT, "there are /livez, /readyz and /metrics\n".into()),
    }
}

fn respond(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}
