//! HTTP for machines that ask whether all is well: short requests, short answers, one at a time a connection.

mod metrics;

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::Future,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

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
use tokio::{
    net::TcpListener,
    task::{AbortHandle, Id, JoinSet},
    time::timeout,
};

pub(crate) use metrics::answer as answer_metrics;

use crate::drain::Drain;

/// A client that does not send its request within this is turned away.
const HEADER: Duration = Duration::from_secs(5);
/// A connection has as long in all.
const LIFETIME: Duration = Duration::from_secs(60);
/// Connections at a time. One more takes the place of the oldest: an answer takes milliseconds, so whoever has been there for
/// long is not in a hurry.
const CONNECTIONS: usize = 256;
/// Connections of one client at a time, by its address. One more takes the place of its own oldest.
const CONNECTIONS_OF_CLIENT: usize = 8;

pub(crate) const TEXT: &str = "text/plain; charset=utf-8";
pub(crate) const JSON: &str = "application/json";

/// An answer.
pub(crate) type Answer = Response<Full<Bytes>>;

/// # Errors
/// When the address cannot be had.
pub(crate) async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}: choose another address with --metrics, or --metrics off")
    })
}

/// Connections that are being served, oldest first.
#[derive(Default)]
struct Connections {
    tasks: JoinSet<()>,
    open: VecDeque<(IpAddr, AbortHandle)>,
}

impl Connections {
    /// Serves one more; nobody is locked out by those that hold theirs.
    fn add(&mut self, client: IpAddr, serving: impl Future<Output = ()> + Send + 'static) {
        let of_client =
            || self.open.iter().enumerate().filter(|(_, (of, _))| *of == client).map(|(place, _)| place);
        let oldest = if of_client().count() >= CONNECTIONS_OF_CLIENT {
            of_client().next()
        } else {
            (self.open.len() >= CONNECTIONS).then_some(0)
        };
        if let Some((_, gone)) = oldest.and_then(|place| self.open.remove(place)) {
            gone.abort();
        }
        self.open.push_back((client, self.tasks.spawn(serving)));
    }

    fn forget(&mut self, ended: &Id) {
        self.open.retain(|(_, task)| task.id() != *ended);
    }
}

/// Answers every GET with what `answer` makes of its path, until the drain begins.
pub(crate) async fn serve<F, A>(listener: TcpListener, answer: F, mut drain: Drain) -> anyhow::Result<()>
where
    F: Fn(String) -> A + Clone + Send + 'static,
    A: Future<Output = Answer> + Send,
{
    let mut connections = Connections::default();
    loop {
        let accepted = tokio::select! {
            () = drain.begun() => return Ok(()),
            Some(ended) = connections.tasks.join_next_with_id() => {
                connections.forget(&ended.map_or_else(|error| error.id(), |(id, ())| id));
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        let (stream, client) = match accepted {
            Ok((stream, client)) => (stream, client.ip().to_canonical()),
            Err(error) => {
                tracing::error!("HTTP: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let answer = answer.clone();
        connections.add(client, async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = answer.clone();
                async move {
                    let known = [Method::GET, Method::HEAD].contains(request.method());
                    Ok::<_, Infallible>(if known {
                        answer(request.uri().path().to_owned()).await
                    } else {
                        respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET\n".into())
                    })
                }
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

pub(crate) fn respond(status: StatusCode, kind: &'static str, body: String) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}
