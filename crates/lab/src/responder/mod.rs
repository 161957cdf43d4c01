//! What answers on a Pod's ports when the machine does not have the container's own program.
//!
//! Its sockets belong to the Pod's namespace, its tasks run in the lab process: a Pod costs no process. Every answer
//! says which Pod gave it and which source address it saw. One TCP port speaks HTTP/1 and 2, TLS with either in it,
//! and plain text, told apart by the first bytes.

mod http;
mod sctp;
mod tcp;
mod tls;
mod udp;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use socket2::{Domain, Protocol as SocketProtocol, Socket, Type};
use tokio::{sync::watch, task::JoinHandle};
use weft_netns::Netns;

/// Who answers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Identity {
    pub(crate) pod: String,
    pub(crate) namespace: String,
    pub(crate) node: String,
    pub(crate) service_account: String,
}

/// Protocol of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// A port that is to be answered on.
pub(crate) type Port = (Protocol, u16);

impl Protocol {
    /// As manifests name it; TCP where they do not. None that is not known.
    pub(crate) fn named(name: Option<&str>) -> Option<Protocol> {
        match name {
            None | Some("TCP") => Some(Protocol::Tcp),
            Some("UDP") => Some(Protocol::Udp),
            Some("SCTP") => Some(Protocol::Sctp),
            Some(_) => None,
        }
    }
}

/// The sockets of a port.
enum Opened {
    /// A listener, or a socket for datagrams.
    Own(Socket),
    /// Packets of SCTP, where the kernel has no sockets for it: one a family.
    Packets(Vec<Socket>),
}

/// An open port. Its task ends when the sender says true, once the connections that it has are over.
struct Listening {
    close: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// The responder of one Pod.
pub(crate) struct Responder {
    netns: Arc<Netns>,
    identity: Arc<Identity>,
    log: Arc<dyn Fn(&str) + Send + Sync>,
    listening: BTreeMap<Port, Listening>,
    /// Ports that could not be opened, so that each is reported once.
    failed: BTreeSet<Port>,
}

impl Responder {
    /// A responder that answers on no port yet. `log` takes a line for each exchange.
    pub(crate) fn new(
        netns: Arc<Netns>,
        identity: Identity,
        log: Arc<dyn Fn(&str) + Send + Sync>,
    ) -> Responder {
        let identity = Arc::new(identity);
        Responder { netns, identity, log, listening: BTreeMap::new(), failed: BTreeSet::new() }
    }

    /// Answers on exactly these ports from now on.
    ///
    /// # Errors
    /// The ports of `wanted` that cannot be opened now and could not be reported before, with the reason.
    pub(crate) fn set_ports(&mut self, wanted: &BTreeSet<Port>) -> Vec<(Port, String)> {
        let surplus: Vec<Port> =
            self.listening.keys().filter(|port| !wanted.contains(port)).copied().collect();
        for port in surplus {
            if let Some(open) = self.listening.remove(&port) {
                open.task.abort();
            }
        }
        self.failed.retain(|port| wanted.contains(port));
        let missing: Vec<Port> =
            wanted.iter().filter(|port| !self.listening.contains_key(port)).copied().collect();
        if missing.is_empty() {
            return Vec::new();
        }
        // One visit to the namespace for all of them.
        let opened = match self.netns.run(|| missing.iter().map(|port| open(*port)).collect::<Vec<_>>()) {
            Ok(opened) => opened,
            Err(error) => return missing.into_iter().map(|port| (port, error.to_string())).collect(),
        };
        let mut failures = Vec::new();
        for (port, socket) in missing.into_iter().zip(opened) {
            match socket.and_then(|socket| self.serve(port, socket)) {
                Ok(task) => {
                    self.failed.remove(&port);
                    self.listening.insert(port, task);
                }
                Err(error) => {
                    if self.failed.insert(port) {
                        failures.push((port, error.to_string()));
                    }
                }
            }
        }
        failures
    }

    /// Takes no new connection on any port but `kept`, and lets those that there are finish. The tasks end when they have.
    pub(crate) fn close_all_but(&mut self, kept: &BTreeSet<Port>) -> Vec<JoinHandle<()>> {
        let closed: Vec<Port> = self.listening.keys().filter(|port| !kept.contains(port)).copied().collect();
        let closed = closed.iter().filter_map(|port| self.listening.remove(port));
        closed
            .map(|open| {
                open.close.send_replace(true);
                open.task
            })
            .collect()
    }

    fn serve(&self, (protocol, port): Port, opened: Opened) -> io::Result<Listening> {
        let (identity, log) = (self.identity.clone(), self.log.clone());
        let (close, closed) = watch::channel(false);
        let task = match (protocol, opened) {
            (Protocol::Udp, Opened::Own(socket)) => {
                let socket = tokio::net::UdpSocket::from_std(socket.into())?;
                tokio::spawn(udp::serve(socket, identity, log, closed))
            }
            // A one-to-one socket of SCTP is used as TCP's is.
            (_, Opened::Own(socket)) => {
                let listener = tokio::net::TcpListener::from_std(socket.into())?;
                tokio::spawn(tcp::serve(listener, identity, log, closed))
            }
            (_, Opened::Packets(sockets)) => {
                let sockets: io::Result<Vec<_>> = sockets
                    .into_iter()
                    .map(|socket| tokio::net::UdpSocket::from_std(socket.into()))
                    .collect();
                tokio::spawn(sctp::serve(sockets?, port, identity, log, closed))
            }
        };
        Ok(Listening { close, task })
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        for open in self.listening.values() {
            open.task.abort();
        }
    }
}

impl Identity {
    /// The whole answer as lines of `key: value`.
    fn describe(&self, local: SocketAddr, source: SocketAddr, more: &[(&str, &str)]) -> String {
        let mut text = String::new();
        for (key, value) in [
            ("pod", self.pod.as_str()),
            ("namespace", &self.namespace),
            ("node", &self.node),
            ("address", &local.ip().to_string()),
            ("port", &local.port().to_string()),
            ("source", &source.ip().to_string()),
            ("source-port", &source.port().to_string()),
        ]
        .iter()
        .chain(more)
        {
            let _ = writeln!(text, "{key}: {value}");
        }
        text
    }

    /// One line, for protocols that have no more room.
    fn line(&self, local: SocketAddr, source: SocketAddr) -> String {
        format!(
            "pod={} namespace={} node={} address={} source={}",
            self.pod,
            self.namespace,
            self.node,
            local.ip(),
            source.ip()
        )
    }
}

/// Opens a socket in the calling thread's namespace: both families on one, IPv4 alone where there is no IPv6.
fn open((protocol, port): Port) -> io::Result<Opened> {
    let (kind, number) = match protocol {
        Protocol::Tcp => (Type::STREAM, SocketProtocol::TCP),
        Protocol::Udp => (Type::DGRAM, SocketProtocol::UDP),
        Protocol::Sctp => (Type::STREAM, SocketProtocol::SCTP),
    };
    let open_for = |domain: Domain, address: IpAddr| -> io::Result<Socket> {
        let socket = Socket::new(domain, kind.nonblocking().cloexec(), Some(number))?;
        if domain == Domain::IPV6 {
            socket.set_only_v6(false)?;
        }
        if kind == Type::STREAM {
            socket.set_reuse_address(true)?;
        } else {
            udp::prepare(&socket, domain == Domain::IPV6)?;
        }
        socket.bind(&SocketAddr::new(address, port).into())?;
        if kind == Type::STREAM {
            socket.listen(1024)?;
        }
        Ok(socket)
    };
    let opened = match open_for(Domain::IPV6, Ipv6Addr::UNSPECIFIED.into()) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) => {
            open_for(Domain::IPV4, Ipv4Addr::UNSPECIFIED.into())
        }
        other => other,
    };
    match opened {
        Err(error)
            if protocol == Protocol::Sctp
                && matches!(error.raw_os_error(), Some(libc::EPROTONOSUPPORT | libc::ESOCKTNOSUPPORT)) =>
        {
            sctp::open().map(Opened::Packets)
        }
        opened => opened.map(Opened::Own),
    }
}

/// An IPv4 address as such, however the socket writes it.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpStream, UdpSocket},
    };

    async fn responder() -> (Responder, u16) {
        let identity = Identity { pod: "web-1".into(), namespace: "shop".into(), ..Identity::default() };
        let netns = Arc::new(Netns::current().unwrap());
        let mut responder = Responder::new(netns, identity, Arc::new(|_| {}));
        // The kernel names a free port, which is then free again.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let failed = responder.set_ports(&BTreeSet::from([(Protocol::Tcp, free), (Protocol::Udp, free)]));
        assert!(failed.is_empty(), "{failed:?}");
        (responder, free)
    }

    #[tokio::test]
    async fn http_tells_pod_and_source() {
        let (_responder, port) = responder().await;
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.write_all(b"GET /health?x=1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        for line in ["pod: web-1", "namespace: shop", "source: 127.0.0.1", "path: /health?x=1"] {
            assert!(answer.contains(line), "{line} in {answer}");
        }
    }

    #[tokio::test]
    async fn plain_tcp_is_greeted_and_echoed() {
        let (_responder, port) = responder().await;
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let mut greeting = [0; 9];
        stream.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"pod=web-1");
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.write_all(b"PING\r\n").await.unwrap();
        let mut echoed = [0; 6];
        stream.read_exact(&mut echoed).await.unwrap();
        assert_eq!(&echoed, b"PING\r\n");
    }

    #[tokio::test]
    async fn udp_is_echoed_with_its_source() {
        let (_responder, port) = responder().await;
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(b"hello", ("127.0.0.1", port)).await.unwrap();
        let mut buffer = [0; 512];
        let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
        assert_eq!(from.port(), port);
        let answer = String::from_utf8_lossy(&buffer[..length]);
        assert!(answer.starts_with("hello\n") && answer.contains("source=127.0.0.1"), "{answer}");
    }
}
