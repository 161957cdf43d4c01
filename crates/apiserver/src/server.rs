//! Listeners and connections.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::api::Api;
use crate::connections::{Connection, Counted};
use crate::http::handle;

const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// Why a listener cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("serving the Kubernetes API on {address}: {source}")]
pub struct ServeError {
    address: String,
    source: io::Error,
}

pub(crate) async fn serve(
    api: Arc<Api>,
    tls: Arc<rustls::ServerConfig>,
    listener: std::net::TcpListener,
    mut drain: watch::Receiver<bool>,
) -> Result<(), ServeError> {
    let address = listener.local_addr().map_or_else(|_| "an unknown address".to_owned(), |a| a.to_string());
    let listener = listener
        .set_nonblocking(true)
        .and_then(|()| TcpListener::from_std(listener))
        .map_err(|source| ServeError { address, source })?;
    let acceptor = TlsAcceptor::from(tls);
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // An error means that nobody can ask for the drain any more: the owner is gone.
            _ = drain.wait_for(|drain| *drain) => break,
        };
        match accepted {
            Ok((stream, _)) if api.faults.refuses() => drop(stream),
            Ok((stream, peer)) => {
                let place = api.connections.admit(peer.ip());
                let (api, acceptor) = (api.clone(), acceptor.clone());
                let connection = connection(api, acceptor, stream, place, graceful.watcher(), drain.clone());
                tokio::spawn(async move {
                    if let Err(error) = connection.await {
                        tracing::debug!(%peer, %error, "connection ended");
                    }
                });
            }
            Err(error) => {
                // Out of descriptors and the like: let others finish before the next attempt.
                tracing::warn!(%error, "accepting a connection to the Kubernetes API");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(DRAIN_LIMIT, graceful.shutdown()).await.is_err() {
        tracing::warn!("connections to the Kubernetes API were still open at the end of the drain");
    }
    Ok(())
}

type ConnectionError = Box<dyn std::error::Error + Send + Sync>;

async fn connection(
    api: Arc<Api>,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    place: Arc<Connection>,
    watcher: hyper_util::server::graceful::Watcher,
    drain: watch::Receiver<bool>,
) -> Result<(), ConnectionError> {
    let mut cut = api.faults.connections();
    stream.set_nodelay(true)?;
    let stream = tokio::select! {
        stream = tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)) => stream??,
        () = place.expired() => return Ok(()),
    };
    let from = place.clone();
    let service = service_fn(move |request| {
        let (api, drain, from) = (api.clone(), drain.clone(), from.clone());
        async move {
            let underway = from.request();
            let answer = handle(api, request, &from, drain).await;
            Ok::<_, std::convert::Infallible>(answer.map(|body| Counted { body, _underway: underway }))
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(1000);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
    tokio::select! {
        result = watcher.watch(connection) => result,
        _ = cut.changed() => Ok(()),
        () = place.expired() => Ok(()),
    }
}
