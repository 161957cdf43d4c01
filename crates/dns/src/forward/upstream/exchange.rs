//! One question to one server, and its answer.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query},
    rr::DNSClass,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::{Instant, sleep, sleep_until, timeout_at},
};

use super::{check, connection::Shared};
use crate::question::Question;

/// The largest datagram that is asked for: one that crosses any network unfragmented.
const PAYLOAD: u16 = 1232;
/// After so many datagrams that are no answer somebody is guessing, and guesses do not get through TCP's handshake.
const MOST_FORGED: u32 = 3;

/// Why a server did not answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(in crate::forward) enum ExchangeError {
    /// So many datagrams were sent to it.
    #[error("did not answer")]
    Silent(u32),
    #[error("was not asked: too many questions are on their way to it")]
    Crowded,
    #[error("did not answer the question; {0} datagrams answered something else")]
    Forged(u32),
    #[error("what it answered cannot be read: {0}")]
    Unreadable(String),
    #[error("{0}")]
    Io(String),
    #[error("the question cannot be written: {0}")]
    Unwritable(String),
}

/// How a server is asked.
#[derive(Clone, Copy)]
pub(super) struct Way<'w> {
    pub(super) address: SocketAddr,
    /// It is asked over TCP alone, by this connection.
    pub(super) shared: Option<&'w Shared>,
    pub(super) edns: bool,
    /// A datagram that was not answered for so long may be lost, and a connection held up: the question is sent again.
    pub(super) again: Duration,
}

/// Asks, and waits for the answer until `deadline`.
///
/// # Errors
/// When there was none.
pub(super) async fn exchange(
    way: Way<'_>,
    id: u16,
    question: &Question,
    deadline: Instant,
) -> Result<Message, ExchangeError> {
    let query = query(id, question, way.edns)?;
    let over_tcp = over_tcp(way.address, id, question, &query);
    if let Some(shared) = way.shared {
        let asked = over_shared(shared, way.again, question, &query, over_tcp);
        return timeout_at(deadline, asked).await.unwrap_or(Err(ExchangeError::Silent(1)));
    }
    match over_udp(way, id, question, &query, deadline).await {
        Ok(message) if !message.metadata.truncation => return Ok(message),
        Ok(_) => {}
        Err(ExchangeError::Forged(count)) if Instant::now() < deadline && count >= MOST_FORGED => {}
        Err(error) => return Err(error),
    }
    timeout_at(deadline, over_tcp).await.unwrap_or(Err(ExchangeError::Silent(1)))
}

fn query(id: u16, question: &Question, edns: bool) -> Result<Vec<u8>, ExchangeError> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let mut query = Query::query(question.name.clone(), question.kind);
    query.set_query_class(DNSClass::IN);
    message.add_query(query);
    if edns {
        let mut edns = Edns::new();
        edns.set_max_payload(PAYLOAD);
        edns.set_dnssec_ok(question.signed);
        message.set_edns(edns);
    }
    message.to_vec().map_err(|error| ExchangeError::Unwritable(error.to_string()))
}

/// A socket of its own for every question: its port, which the kernel chooses, is half of what a forger must guess.
async fn over_udp(
    way: Way<'_>,
    id: u16,
    question: &Question,
    query: &[u8],
    deadline: Instant,
) -> Result<Message, ExchangeError> {
    let any = match way.address {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any).await?;
    // Datagrams of others are the kernel's to drop, and that nobody listens is heard.
    socket.connect(way.address).await?;
    socket.send(query).await?;
    // Some send more than they were asked for.
    let mut buffer = vec![0; 4096];
    let (mut sent, mut forged) = (1, 0);
    let mut wait = way.again;
    let mut again = Instant::now() + wait;
    loop {
        tokio::select! {
            received = socket.recv(&mut buffer) => {
                let datagram = buffer.get(..received?).unwrap_or_default();
                match Message::from_vec(datagram) {
                    Ok(message) if check::answers(&message, id, question) => return Ok(message),
                    _ => forged += 1,
                }
                if forged >= MOST_FORGED {
                    return Err(ExchangeError::Forged(forged));
                }
            }
            () = sleep_until(again), if again < deadline => {
                wait *= 2;
                again = Instant::now() + wait;
                socket.send(query).await?;
                sent += 1;
            }
            () = sleep_until(deadline) => {
                return Err(if forged == 0 { ExchangeError::Silent(sent) } else { ExchangeError::Forged(forged) });
            }
        }
    }
}

/// By the connection that all share. A server may close that, or work off one question after the other on it: then this one gets a
/// connection of its own.
async fn over_shared(
    shared: &Shared,
    again: Duration,
    question: &Question,
    query: &[u8],
    own: impl Future<Output = Result<Message, ExchangeError>>,
) -> Result<Message, ExchangeError> {
    let mut asked = shared.ask(query).await?;
    let is_held_up = tokio::select! {
        answer = &mut asked.answer => match answer {
            Ok(answer) => return read(&answer, asked.id, question),
            Err(_) => false,
        },
        () = sleep(again) => true,
    };
    if !is_held_up {
        return own.await;
    }
    shared.retire(&asked).await;
    tokio::select! {
        Ok(answer) = &mut asked.answer => read(&answer, asked.id, question),
        Ok(message) = own => Ok(message),
        else => Err(ExchangeError::Io("closed the connection without an answer".to_owned())),
    }
}

async fn over_tcp(
    address: SocketAddr,
    id: u16,
    question: &Question,
    query: &[u8],
) -> Result<Message, ExchangeError> {
    let mut stream = TcpStream::connect(address).await?;
    let length = u16::try_from(query.len()).map_err(|error| ExchangeError::Unwritable(error.to_string()))?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(query);
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; length.into()];
    stream.read_exact(&mut answer).await?;
    read(&answer, id, question)
}

fn read(answer: &[u8], id: u16, question: &Question) -> Result<Message, ExchangeError> {
    let message = Message::from_vec(answer).map_err(|error| ExchangeError::Unreadable(error.to_string()))?;
    if check::answers(&message, id, question) { Ok(message) } else { Err(ExchangeError::Forged(1)) }
}

impl From<io::Error> for ExchangeError {
    fn from(error: io::Error) -> Self {
        Self::Io(error.to_string())
    }
}
