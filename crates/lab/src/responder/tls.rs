//! TLS with a certificate of the responder's own making.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
};
use tokio_rustls::TlsAcceptor;

use super::{Identity, http};

/// Whether a connection begins with a TLS handshake record (RFC 8446, section 5.1).
pub(super) fn is_hello(first: &[u8]) -> bool {
    matches!(first, [0x16, 0x03, ..])
}

pub(super) async fn serve(
    stream: TcpStream,
    local: SocketAddr,
    source: SocketAddr,
    identity: Arc<Identity>,
    log: &Arc<dyn Fn(&str) + Send + Sync>,
    closed: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut stream = acceptor()?.accept(stream).await?;
    if stream.get_ref().1.alpn_protocol().is_some() {
        return http::serve(stream, local, source, identity, log.clone(), true, closed).await;
    }
    // No ALPN: look at what comes. TLS records cannot be peeked at, so the first bytes are put back in front.
    let mut first = vec![0; 4096];
    let count = stream.read(&mut first).await?;
    first.truncate(count);
    if http::is_request(first.get(..count.min(8)).unwrap_or_default()) {
        let (reader, writer) = tokio::io::split(stream);
        let whole = tokio::io::join(io::Cursor::new(first).chain(reader), writer);
        return http::serve(whole, local, source, identity, log.clone(), true, closed).await;
    }
    log(&format!("TLS {} from {source}", local.port()));
    while count > 0 && !first.is_empty() {
        stream.write_all(&first).await?;
        first.resize(4096, 0);
        let count = stream.read(&mut first).await?;
        first.truncate(count);
    }
    stream.shutdown().await
}

/// One certificate for the whole lab, made when the first client asks for TLS.
fn acceptor() -> io::Result<TlsAcceptor> {
    static CONFIG: OnceLock<Arc<ServerConfig>> = OnceLock::new();
    if let Some(config) = CONFIG.get() {
        return Ok(config.clone().into());
    }
    let config = Arc::new(server_config()?);
    Ok(CONFIG.get_or_init(|| config).clone().into())
}

fn server_config() -> io::Result<ServerConfig> {
    let names = vec!["weft-lab".to_owned(), "localhost".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).map_err(io::Error::other)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .map_err(io::Error::other)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
