//! SCTP where the kernel has none: the first step of its handshake (RFC 9260 section 5.1), on packets.
//!
//! An INIT is answered by an INIT ACK whose state cookie, which is its maker's own business, says who answered. Nothing is
//! kept of it, and no association is ever made: that takes a kernel with SCTP, whose sockets are used where there are any.

use std::{io, net::SocketAddr, sync::Arc};

use crc32c::crc32c;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{io::Interest, net::UdpSocket, sync::watch};

use super::{
    Identity, canonical,
    udp::{self, Received},
};

/// Chunk types (section 3.2) and a parameter type (section 3.3.3).
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const STATE_COOKIE: u16 = 7;
/// Bytes of the common header, and of an INIT without parameters.
const COMMON: usize = 12;
const INIT_LENGTH: usize = 20;

/// Sockets that are given every SCTP packet of the calling thread's namespace, one a family that there is.
pub(super) fn open() -> io::Result<Vec<Socket>> {
    let mut sockets = Vec::new();
    for domain in [Domain::IPV4, Domain::IPV6] {
        match Socket::new(domain, Type::RAW.nonblocking().cloexec(), Some(Protocol::SCTP)) {
            Ok(socket) => {
                udp::prepare(&socket, domain == Domain::IPV6)?;
                sockets.push(socket);
            }
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sockets)
}

pub(super) async fn serve(
    sockets: Vec<UdpSocket>,
    port: u16,
    identity: Arc<Identity>,
    log: Arc<dyn Fn(&str) + Send + Sync>,
    mut closed: watch::Receiver<bool>,
) {
    let every = sockets.iter().map(|socket| answer(socket, port, &identity, &*log));
    tokio::select! {
        _ = futures::future::join_all(every) => {}
        _ = closed.wait_for(|closed| *closed) => {}
    }
}

async fn answer(socket: &UdpSocket, port: u16, identity: &Identity, log: &(dyn Fn(&str) + Send + Sync)) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let exchange = async {
            let received = socket.async_io(Interest::READABLE, || udp::receive(socket, &mut buffer)).await?;
            let packet = buffer.get(..received.length).unwrap_or_default();
            let Some((source, answer)) = reply(packet, port, &received, identity) else { return Ok(None) };
            socket.async_io(Interest::WRITABLE, || udp::send(socket, &answer, &received)).await?;
            Ok::<_, io::Error>(Some(source))
        };
        match exchange.await {
            Ok(Some(source)) => log(&format!("SCTP {port} from {source}")),
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "SCTP exchange failed"),
        }
    }
}

/// Who asks, and the INIT ACK, if the packet is an INIT for this port. IPv4 packets begin with their header.
fn reply(
    packet: &[u8],
    port: u16,
    received: &Received,
    identity: &Identity,
) -> Option<(SocketAddr, Vec<u8>)> {
    let ip = if received.source.is_ipv4() { usize::from(packet.first()? & 0xf) * 4 } else { 0 };
    let packet = packet.get(ip..)?;
    let number = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
    let is_init = number(2)? == port && *packet.get(COMMON)? == INIT && is_whole(packet);
    let tag = packet.get(COMMON + 4..COMMON + 8).filter(|_| is_init)?;
    let source = SocketAddr::new(canonical(received.source).ip(), number(0)?);
    let local = SocketAddr::new(received.destination.map_or(source.ip(), |to| to.ip().to_canonical()), port);
    let cookie = identity.line(local, source);
    let parameter = 4 + cookie.len();

    let mut answer = Vec::with_capacity(COMMON + INIT_LENGTH + parameter + 3);
    answer.extend(port.to_be_bytes());
    answer.extend(source.port().to_be_bytes());
    answer.extend(tag);
    answer.extend([0; 4]);
    answer.extend([INIT_ACK, 0]);
    answer.extend(u16::try_from(INIT_LENGTH + parameter).ok()?.to_be_bytes());
    // A tag and a first sequence number of its own: nothing comes of them.
    answer.extend(tag);
    answer.extend(0x1_0000_u32.to_be_bytes());
    answer.extend([0, 1, 0, 1]);
    answer.extend(tag);
    answer.extend(STATE_COOKIE.to_be_bytes());
    answer.extend(u16::try_from(parameter).ok()?.to_be_bytes());
    answer.extend(cookie.as_bytes());
    answer.resize(answer.len().next_multiple_of(4), 0);
    let checksum = crc32c(&answer).to_le_bytes();
    answer.splice(8..COMMON, checksum);
    Some((source, answer))
}

/// The checksum (section 6.8) is right.
fn is_whole(packet: &[u8]) -> bool {
    let Some((checksum, mut copy)) = packet.get(8..COMMON).zip(Some(packet.to_vec())) else { return false };
    copy.splice(8..COMMON, [0; 4]);
    checksum == crc32c(&copy).to_le_bytes()
}
