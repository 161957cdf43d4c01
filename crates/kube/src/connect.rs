//! Connections to API servers, by their real addresses: a node whose Services are not served yet reaches no Service.
//!
//! There may be several. The one that answered last is asked first; one that does not connect gives way to the next, over
//! attempts. Certificates are checked against the name in the URL, whichever address was dialled.

use std::{
    fmt,
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::net::{TcpSocket, TcpStream, lookup_host};

/// An address that does not connect within this gives way to the next.
const PATIENCE: Duration = Duration::from_secs(2);
/// So many addresses are tried before an attempt has failed; the next one goes on behind them.
const TRIES: usize = 2;

/// Where API servers are. Cheap to clone: all clones learn the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Servers(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    /// Named by whoever started this process: `host:port`.
    named: Vec<String>,
    /// What the API told of itself.
    learned: Vec<SocketAddr>,
    /// Whether the host of the URL may be asked, and when: first or last.
    url: Url,
    /// The address to begin with.
    next: usize,
    /// None answers, and that was told.
    away: bool,
}

#[derive(Clone, Copy, Debug, Default)]
enum Url {
    #[default]
    First,
    Last,
}

/// The sockets' `SO_PRIORITY` until they are connected.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Priority(pub(crate) Option<u32>);

/// Connects to one of the servers.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    pub(crate) servers: Servers,
    pub(crate) priority: Priority,
}

// === impl Servers ===

impl Servers {
    /// The servers `host:port`, in this order; that of the URL comes after them if there are any.
    pub(crate) fn new(named: Vec<String>, url_last: bool) -> Self {
        let url = if url_last { Url::Last } else { Url::First };
        Self(Arc::new(Mutex::new(Known { named, url, ..Known::default() })))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn learn(&self, addresses: Vec<SocketAddr>) {
        self.known().learned = addresses;
    }

    /// Addresses that are known, names left out.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let known = self.known();
        let named = known.named.iter().filter_map(|one| one.parse::<SocketAddr>().ok()).map(|one| one.ip());
        named.chain(known.learned.iter().map(SocketAddr::ip)).collect()
    }

    /// `host:port` of all, in the order in which they are asked; `url` is that of the request.
    fn all(&self, url: String) -> Vec<String> {
        let known = self.known();
        let learned = known.learned.iter().map(ToString::to_string);
        let mut all: Vec<String> = match known.url {
            Url::First => std::iter::once(url).chain(known.named.iter().cloned()).collect(),
            Url::Last => known.named.iter().cloned().chain(learned).chain([url]).collect(),
        };
        let mut seen = std::collections::BTreeSet::new();
        all.retain(|one| seen.insert(one.clone()));
        all
    }

    async fn connect(&self, url: String, priority: Priority) -> io::Result<TcpStream> {
        let all = self.all(url);
        let first = self.known().next;
        let mut failures = Vec::new();
        for attempt in 0..TRIES.min(all.len()) {
            let place = (first + attempt) % all.len();
            let server = &all[place];
            match tokio::time::timeout(PATIENCE, dial(server, priority)).await.unwrap_or_else(|_| {
                Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("{server}: no answer within {PATIENCE:?}"),
                ))
            }) {
                Ok(stream) => {
                    self.known().next = place;
                    return Ok(stream);
                }
                Err(error) => failures.push(error.to_string()),
            }
        }
        self.known().next = (first + TRIES) % all.len();
        Err(io::Error::other(failures.join("; ")))
    }

    /// Tells once that there is no answer, and once that there is one again, whoever asked and however often. `url` is that
    /// of the server; `away` says why there was none.
    pub(crate) fn answered(&self, url: &http::Uri, away: Option<&dyn fmt::Display>) {
        let url = host_and_port(url);
        let was_away = std::mem::replace(&mut self.known().away, away.is_some());
        match away {
            Some(why) if !was_away => {
                let servers = self.all(url).join(", ");
                tracing::warn!(
                    "API server {servers} is away: {why}; what is known stays in force, trying again"
                );
            }
            None if was_away => {
                let all = self.all(url);
                tracing::info!("API server {} answers again", all[self.known().next % all.len()]);
            }
            _ => {}
        }
    }
}

async fn dial(server: &str, priority: Priority) -> io::Result<TcpStream> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{server}: {error}"));
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in lookup_host(server).await.map_err(named)? {
        let socket =
            if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(named)?;
        priority.set(&socket).map_err(named)?;
        match socket.connect(address).await {
            Ok(stream) => {
                // What is sent from now on is as urgent as anything else.
                if priority.0.is_some() {
                    Priority(Some(0)).set(&stream).map_err(named)?;
                }
                stream.set_nodelay(true).map_err(named)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(named(last))
}

// === impl Priority ===

impl Priority {
    fn set(self, socket: &impl AsFd) -> io::Result<()> {
        let Some(priority) = self.0 else { return Ok(()) };
        nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::Priority, &priority.cast_signed())
            .map_err(io::Error::from)
    }
}

// === impl Connector ===

impl tower::Service<http::Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<TcpStream>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: http::Uri) -> Self::Future {
        let (servers, priority) = (self.servers.clone(), self.priority);
        Box::pin(async move {
            let stream = servers.connect(host_and_port(&uri), priority).await?;
            Ok(TokioIo::new(stream))
        })
    }
}

/// `host:port` of a URL; an IPv6 address in brackets.
pub(crate) fn host_and_port(uri: &http::Uri) -> String {
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("http") { 80 } else { 443 });
    format!("{}:{port}", uri.host().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;

    use super::*;

    fn closed() -> String {
        // A port that was free a moment ago; nobody listens there.
        std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().to_string()
    }

    /// B1: of several servers one that answers is found, and asked first from then on.
    #[tokio::test]
    async fn one_of_several_that_answers_is_found() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let open = listener.local_addr().unwrap();
        let servers = Servers::new(vec![closed(), closed(), open.to_string()], true);
        let url = closed();
        let first = servers.connect(url.clone(), Priority(None)).await.unwrap_err().to_string();
        assert!(first.matches("127.0.0.1:").count() == 2, "{first}");
        assert_eq!(servers.connect(url.clone(), Priority(None)).await.unwrap().peer_addr().unwrap(), open);
        assert_eq!(servers.connect(url, Priority(None)).await.unwrap().peer_addr().unwrap(), open);
    }

    #[test]
    fn what_was_learned_comes_before_the_service() {
        let servers = Servers::new(vec!["172.20.0.1:6443".to_owned()], true);
        servers.learn(vec!["172.20.0.1:6443".parse().unwrap(), "[fd00::1]:6443".parse().unwrap()]);
        assert_eq!(
            servers.all("10.96.0.1:443".to_owned()),
            ["172.20.0.1:6443", "[fd00::1]:6443", "10.96.0.1:443"]
        );
        assert_eq!(servers.addresses().len(), 3);
        let uri = |text: &str| host_and_port(&text.parse().unwrap());
        assert_eq!(
            (uri("https://[fd00::1]"), uri("http://a.b/x")),
            ("[fd00::1]:443".into(), "a.b:80".into())
        );
    }
}
