//! Connections from one place to Services: who answers, and whom it saw.

mod sctp;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};
use weft_model::Protocol;

use super::place::{Found, run_in};

pub use sctp::kernel_speaks_sctp;

/// For a connection, and for an answer.
const DEADLINE: Duration = Duration::from_secs(2);
/// A server that does not answer within this is connected all the same.
const ANSWER: Duration = Duration::from_secs(1);
/// A datagram may be lost, the first ones above all while neighbours are being found.
const AGAIN: Duration = Duration::from_millis(300);
/// Connections under way at once.
const AT_ONCE: usize = 64;
/// Of an answer more is not read.
const LONGEST: u64 = 4096;

/// The port of DNS servers, which answer nothing but DNS, and what each of them answers without looking anything up: that it
/// knows no such operation (RFC 1035, section 4.1.1: STATUS, and the root as question).
const DNS: u16 = 53;
const DNS_STATUS: &[u8] = &[0x77, 0x66, 0x10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1];

/// A Service to visit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Visit {
    /// By which protocol.
    pub protocol: Protocol,
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// Say something that the lab's responder answers: over TCP a connection alone is enough, over UDP it is not.
    pub ask: bool,
    /// How many connections.
    pub times: u16,
}

/// What became of one connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Visited {
    /// Somebody answered.
    Answered {
        /// The Pod that answered, if it said so: `namespace/name`.
        by: Option<String>,
        /// The source address that it saw, if it said so.
        source: Option<IpAddr>,
    },
    /// There was a connection, and no answer.
    Connected,
    /// It was refused.
    Refused,
    /// Nothing came back.
    Silent,
    /// Something else went wrong.
    Failed(String),
}

/// Visits every Service from a place. Blocks until the last one has an outcome.
///
/// # Errors
/// When the place cannot be entered.
pub(crate) fn visit(from: &Found, visits: &[Visit]) -> io::Result<Vec<Vec<Visited>>> {
    visit_from(from.netns.as_deref(), visits)
}

/// Visits every Service from a network namespace, the caller's own without one. Blocks until the last one has an outcome.
///
/// # Errors
/// When the namespace cannot be entered.
pub fn visit_from(netns: Option<&Path>, visits: &[Visit]) -> io::Result<Vec<Vec<Visited>>> {
    run_in(netns, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let room = std::sync::Arc::new(Semaphore::new(AT_ONCE));
            let mut running = JoinSet::new();
            for (index, visit) in visits.iter().copied().enumerate() {
                for _ in 0..visit.times {
                    let room = room.clone();
                    running.spawn(async move {
                        // The semaphore is never closed.
                        let _place = room.acquire().await;
                        (index, once(visit).await)
                    });
                }
            }
            let mut outcomes = vec![Vec::new(); visits.len()];
            for (index, outcome) in running.join_all().await {
                if let Some(list) = outcomes.get_mut(index) {
                    list.push(outcome);
                }
            }
            Ok(outcomes)
        })
    })?
}

async fn once(visit: Visit) -> Visited {
    let to = SocketAddr::new(visit.address, visit.port);
    let outcome = match visit.protocol {
        Protocol::Tcp => tcp(to, visit.ask).await,
        Protocol::Udp => udp(to).await,
        Protocol::Sctp => sctp::visit(to, visit.ask).await,
    };
    outcome.unwrap_or_else(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => Visited::Refused,
        io::ErrorKind::TimedOut => Visited::Silent,
        _ => Visited::Failed(error.to_string()),
    })
}

async fn tcp(to: SocketAddr, ask: bool) -> io::Result<Visited> {
    let connecting = timeout(DEADLINE, TcpStream::connect(to)).await;
    let stream = connecting.map_err(|_| io::ErrorKind::TimedOut)??;
    if ask { self::ask(stream, to).await } else { Ok(Visited::Connected) }
}

async fn ask(mut stream: TcpStream, to: SocketAddr) -> io::Result<Visited> {
    let question = format!("GET / HTTP/1.0\r\nHost: {to}\r\nUser-Agent: weft-verify\r\n\r\n");
    stream.write_all(question.as_bytes()).await?;
    let mut answer = Vec::new();
    let mut reader = stream.take(LONGEST);
    // What speaks another protocol may say nothing, or hang up.
    match timeout(ANSWER, reader.read_to_end(&mut answer)).await {
        Ok(Ok(_)) if !answer.is_empty() => Ok(read(&String::from_utf8_lossy(&answer))),
        _ => Ok(Visited::Connected),
    }
}

async fn udp(to: SocketAddr) -> io::Result<Visited> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(to).await?;
    let question: &[u8] = if to.port() == DNS { DNS_STATUS } else { b"weft" };
    let mut buffer = [0; 1024];
    let asked = async {
        loop {
            socket.send(question).await?;
            if let Ok(received) = timeout(AGAIN, socket.recv(&mut buffer)).await {
                return received;
            }
        }
    };
    let length = timeout(DEADLINE, asked).await.map_err(|_| io::ErrorKind::TimedOut)??;
    Ok(read(&String::from_utf8_lossy(buffer.get(..length).unwrap_or_default())))
}

/// What the lab's responder says, in lines over TCP and in one line over UDP.
fn read(answer: &str) -> Visited {
    let value = |name: &str| {
        let mut words = answer.lines().flat_map(|line| {
            line.split_once(": ").into_iter().chain(line.split(' ').filter_map(|word| word.split_once('=')))
        });
        words.find(|(key, _)| *key == name).map(|(_, value)| value.trim().to_owned())
    };
    let by = value("pod").map(|pod| format!("{}/{pod}", value("namespace").unwrap_or_default()));
    Visited::Answered { by, source: value("source").and_then(|source| source.parse().ok()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_responder_are_understood() {
        let who = Visited::Answered { by: Some("shop/web-1".into()), source: Some([10, 244, 0, 2].into()) };
        assert_eq!(read("HTTP/1.0 200 OK\r\n\r\npod: web-1\nnamespace: shop\nsource: 10.244.0.2\n"), who);
        assert_eq!(read("weft\npod=web-1 namespace=shop node=n address=1.2.3.4 source=10.244.0.2\n"), who);
        assert_eq!(read("HTTP/1.0 404 Not Found\r\n\r\n"), Visited::Answered { by: None, source: None });
    }
}
