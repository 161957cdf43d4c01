//! TCP: HTTP, TLS or plain, by the first bytes.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::{Identity, canonical, http, tls};

/// Who does not speak first within this time is greeted.
const PATIENCE: Duration = Duration::from_millis(300);

type Log = Arc<dyn Fn(&str) + Send + Sync>;

pub(super) async fn serve(
    listener: TcpListener,
    identity: Arc<Identity>,
    log: Log,
    mut closed: watch::Receiver<bool>,
) {
    // Connections end with this task: a Pod that is gone takes its connections with it.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = closed.wait_for(|closed| *closed) => break,
        };
        match accepted {
            Ok((stream, source)) => {
                let (identity, log, closed) = (identity.clone(), log.clone(), closed.clone());
                connections.spawn(async move {
                    let source = canonical(source);
                    if let Err(error) = connection(stream, source, identity, &log, closed).await {
                        tracing::debug!(%source, %error, "connection ended");
                    }
                });
            }
            // Too many open files, or a client that was gone before it was accepted.
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn connection(
    stream: TcpStream,
    source: SocketAddr,
    identity: Arc<Identity>,
    log: &Log,
    closed: watch::Receiver<bool>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let local = canonical(stream.local_addr()?);
    let mut first = [0; 8];
    let Ok(peeked) = tokio::time::timeout(PATIENCE, stream.peek(&mut first)).await else {
        log(&format!("TCP {} from {source}, greeted", local.port()));
        return plain(stream, identity.line(local, source).as_bytes()).await;
    };
    let seen = peeked?;
    let first = first.get(..seen).unwrap_or_default();
    if tls::is_hello(first) {
        return tls::serve(stream, local, source, identity, log, closed).await;
    }
    if http::is_request(first) {
        return http::serve(stream, local, source, identity, log.clone(), false, closed).await;
    }
    if seen > 0 {
        log(&format!("TCP {} from {source}", local.port()));
    }
    plain(stream, b"").await
}

/// Says `greeting`, then echoes.
async fn plain(mut stream: TcpStream, greeting: &[u8]) -> io::Result<()> {
    if !greeting.is_empty() {
        stream.write_all(greeting).await?;
        stream.write_all(b"\n").await?;
    }
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(buffer.get(..count).unwrap_or_default()).await?;
    }
}
