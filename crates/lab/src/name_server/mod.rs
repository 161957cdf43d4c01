//! The DNS server of the host outside: what the cluster's DNS and the nodes forward to.
//!
//! It stands for the servers of the world outside, and shares nothing with the cluster's own: what one does wrong the other
//! does not hide. Its records are lines of a file, which may be edited while it runs; it writes down what it was asked.

mod message;
mod records;

use std::{
    fs::File,
    io::Write,
    net::{IpAddr, SocketAddr},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinSet,
};
use weft_netns::Netns;

use message::{Query, Refusal};
use records::Records;

const PORT: u16 = 53;
/// A client that says nothing for so long is gone.
const IDLE: Duration = Duration::from_secs(30);
/// The list of queries begins anew at this size, in bytes.
const LONGEST_LIST: u64 = 4 << 20;

/// What every socket answers from.
struct Server {
    records: Mutex<Records>,
    asked: Mutex<Asked>,
}

/// The file of what was asked: protocol, client, name and type.
struct Asked {
    file: File,
}

/// Where the server's files are.
pub(crate) fn records_file(folder: &Path) -> PathBuf {
    folder.join("records")
}

/// Answers on these addresses of a namespace until the tasks are dropped. `records` is what it begins with.
pub(crate) fn start(
    netns: &Netns,
    addresses: &[IpAddr],
    folder: &Path,
    records: &str,
    tasks: &mut JoinSet<()>,
) -> Result<()> {
    let path = records_file(folder);
    std::fs::write(&path, records).with_context(|| path.display().to_string())?;
    let server = Arc::new(Server {
        records: Mutex::new(Records::follow(path)),
        asked: Mutex::new(Asked::open(&folder.join("asked"))?),
    });
    for address in addresses {
        let address = SocketAddr::new(*address, PORT);
        let open = || -> std::io::Result<_> {
            let (udp, tcp) = (std::net::UdpSocket::bind(address)?, std::net::TcpListener::bind(address)?);
            udp.set_nonblocking(true)?;
            tcp.set_nonblocking(true)?;
            Ok((udp, tcp))
        };
        let (udp, tcp) = netns.run(open)?.with_context(|| format!("listen on {address}"))?;
        tasks.spawn(datagrams(UdpSocket::from_std(udp)?, server.clone()));
        tasks.spawn(connections(TcpListener::from_std(tcp)?, server.clone()));
    }
    Ok(())
}

async fn datagrams(socket: UdpSocket, server: Arc<Server>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, client)) => {
                let question = buffer.get(..length).unwrap_or_default();
                if let Some(answer) = server.answer(question, "UDP", client)
                    && let Err(error) = socket.send_to(&answer, client).await
                {
                    tracing::debug!(%client, %error, "an answer could not be sent");
                }
            }
            // An ICMP error for an earlier answer is told here.
            Err(error) => tracing::debug!(%error, "a query could not be received"),
        }
    }
}

async fn connections(listener: TcpListener, server: Arc<Server>) {
    let mut open = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, client)) => {
                open.spawn(connection(stream, client, server.clone()));
            }
            Err(error) => {
                tracing::debug!(%error, "a connection could not be taken");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        while open.try_join_next().is_some() {}
    }
}

async fn connection(mut stream: TcpStream, client: SocketAddr, server: Arc<Server>) {
    let mut question = Vec::new();
    // Ends when the client is gone, silent, or talks nonsense.
    while let Ok(Ok(length)) = tokio::time::timeout(IDLE, stream.read_u16()).await {
        question.resize(length.into(), 0);
        if !matches!(tokio::time::timeout(IDLE, stream.read_exact(&mut question)).await, Ok(Ok(_))) {
            return;
        }
        let Some(answer) = server.answer(&question, "TCP", client) else { return };
        let Ok(length) = u16::try_from(answer.len()) else { return };
        let framed = [&length.to_be_bytes(), answer.as_slice()].concat();
        if stream.write_all(&framed).await.is_err() {
            return;
        }
    }
}

impl Server {
    /// The answer to a message; none to what is no query.
    fn answer(&self, question: &[u8], protocol: &str, client: SocketAddr) -> Option<Vec<u8>> {
        let query = match Query::parse(question) {
            Ok(query) => query,
            Err(Refusal::Silence) => return None,
            Err(Refusal::Code(answer)) => return Some(answer),
        };
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).note(&query, protocol, client);
        let found = self.records.lock().unwrap_or_else(PoisonError::into_inner).find(&query.name, query.kind);
        Some(query.answer(&found, protocol == "UDP"))
    }
}

impl Asked {
    fn open(path: &Path) -> Result<Asked> {
        let mut options = File::options();
        let file = options.create(true).append(true).mode(0o600).open(path);
        Ok(Asked { file: file.with_context(|| path.display().to_string())? })
    }

    fn note(&mut self, query: &Query<'_>, protocol: &str, client: SocketAddr) {
        let client = client.ip();
        let line = format!("{protocol} {client} {} {}\n", query.name, records::kind_name(query.kind));
        let write = || {
            if self.file.metadata()?.len() > LONGEST_LIST {
                self.file.set_len(0)?;
            }
            (&self.file).write_all(line.as_bytes())
        };
        if let Err(error) = write() {
            tracing::warn!(%error, "a query of the host outside was not written down");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    /// A query for a name and type, with room for so many bytes, or none said.
    fn query(name: &str, kind: u16, room: Option<u16>) -> Vec<u8> {
        let mut text = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(room.is_some())];
        for label in name.split('.') {
            text.push(u8::try_from(label.len()).unwrap());
            text.extend(label.as_bytes());
        }
        text.push(0);
        text.extend(kind.to_be_bytes());
        text.extend([0, 1]);
        if let Some(room) = room {
            text.extend([0, 0, 41]);
            text.extend(room.to_be_bytes());
            text.extend([0; 6]);
        }
        text
    }

    struct Fixture {
        server: Server,
        folder: weft_scratch::Folder,
    }

    impl Fixture {
        fn new(records: &str) -> Fixture {
            let folder = weft_scratch::folder();
            std::fs::write(records_file(folder.path()), records).unwrap();
            let server = Server {
                records: Mutex::new(Records::follow(records_file(folder.path()))),
                asked: Mutex::new(Asked::open(&folder.path().join("asked")).unwrap()),
            };
            Fixture { server, folder }
        }

        /// Code, flags' second byte apart, count of answers, and the whole message.
        fn ask(&self, question: &[u8], protocol: &str) -> (u8, bool, u16, Vec<u8>) {
            let client = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
            let answer = self.server.answer(question, protocol, client).unwrap();
            assert_eq!(answer[..2], question[..2], "the message's number");
            (answer[3] & 15, answer[2] & 2 != 0, u16::from_be_bytes([answer[6], answer[7]]), answer)
        }
    }

    const RECORDS: &str = "\
        # names outside\n\
        a.example.com 60 A 192.0.2.1\n\
        A.example.com 60 A 192.0.2.2\n\
        www.example.com 60 CNAME a.example.com\n\
        a.example.com 60 TXT some words\n";

    #[test]
    fn names_have_their_records_and_aliases_lead_on() {
        let server = Fixture::new(RECORDS);
        assert_eq!(server.ask(&query("a.Example.com", 1, None), "UDP").2, 2);
        let (code, _, count, answer) = server.ask(&query("www.example.com", 1, None), "UDP");
        assert_eq!((code, count), (0, 3), "the alias and both addresses");
        assert!(answer.windows(4).any(|part| part == [192, 0, 2, 2]));
        let (code, _, count, answer) = server.ask(&query("a.example.com", 16, Some(1232)), "UDP");
        assert_eq!((code, count), (0, 1));
        assert!(answer.windows(11).any(|part| part == b"\x0asome words"));
        let asked = std::fs::read_to_string(server.folder.path().join("asked")).unwrap();
        assert!(asked.starts_with("UDP 127.0.0.1 a.example.com A\n"), "{asked}");
    }

    #[test]
    fn what_is_not_there_is_told_from_what_has_no_such_record() {
        let server = Fixture::new(RECORDS);
        let (code, _, count, answer) = server.ask(&query("b.example.com", 1, None), "UDP");
        assert_eq!((code, count, answer[9]), (3, 0, 1), "NXDOMAIN with an SOA");
        let (code, _, count, answer) = server.ask(&query("a.example.com", 28, None), "UDP");
        assert_eq!((code, count, answer[9]), (0, 0, 1), "no AAAA, with an SOA");
        assert_eq!(server.ask(&query("example.com", 1, None), "UDP").0, 0, "it has names below it");
    }

    #[test]
    fn what_does_not_fit_is_truncated_except_over_tcp() {
        let many: String = (0..100).map(|n| format!("many.example.com 60 A 192.0.2.{n}\n")).collect();
        let server = Fixture::new(&many);
        assert!(server.ask(&query("many.example.com", 1, None), "UDP").1);
        let (_, truncated, count, answer) = server.ask(&query("many.example.com", 1, Some(1232)), "UDP");
        assert!(truncated && count == 0 && answer.len() <= 1232);
        let (_, truncated, count, _) = server.ask(&query("many.example.com", 1, None), "TCP");
        assert_eq!((truncated, count), (false, 100));
    }

    #[test]
    fn a_file_that_changes_is_read_again_and_a_bad_one_changes_nothing() {
        let server = Fixture::new(RECORDS);
        let ask = |server: &Fixture| server.ask(&query("new.example.com", 1, None), "UDP").0;
        assert_eq!(ask(&server), 3);
        std::fs::write(records_file(server.folder.path()), "new.example.com 1 A 192.0.2.9 and more\n")
            .unwrap();
        assert_eq!(ask(&server), 3);
        assert_eq!(server.ask(&query("a.example.com", 1, None), "UDP").2, 2, "as before");
        std::fs::write(records_file(server.folder.path()), "new.example.com 1 A 192.0.2.9\n").unwrap();
        assert_eq!(ask(&server), 0);
    }

    #[test]
    fn what_is_no_query_gets_no_answer_and_what_is_odd_a_code() {
        let server = Fixture::new(RECORDS);
        let client = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let good = query("a.example.com", 1, None);
        for length in 0..12 {
            assert_eq!(server.server.answer(&good[..length], "UDP", client), None);
        }
        let mut reply = good.clone();
        reply[2] |= 0x80;
        assert_eq!(server.server.answer(&reply, "UDP", client), None, "a reply");
        let mut update = good.clone();
        update[2] |= 5 << 3;
        assert_eq!(server.ask(&update, "UDP").0, 4);
        for length in 12..good.len() {
            assert_eq!(server.ask(&good[..length], "UDP").0, 1, "cut off at {length}");
        }
    }
}
