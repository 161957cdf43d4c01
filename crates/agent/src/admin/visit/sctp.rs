//! SCTP: the first step of its handshake (RFC 9260 section 5.1), INIT and what it is answered, over a raw socket.
//!
//! Packets of its own need no SCTP in the kernel, and are refused as visibly as any. The lab's responder, where it speaks for
//! itself, says in the state cookie, which means something to its maker alone, who answers and whom it saw; of any other
//! server the kernel's own socket asks, where there is one.

use std::{
    hash::{BuildHasher as _, RandomState},
    io::{self, IoSliceMut},
    net::SocketAddr,
    os::fd::AsRawFd as _,
};

use crc32c::crc32c;
use nix::{
    errno::Errno,
    sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recv, recvmsg, send, setsockopt, sockopt},
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::Interest,
    net::{TcpSocket, TcpStream, UdpSocket},
    time::timeout,
};

use super::{AGAIN, DEADLINE, Visited, read};

const SCTP: Protocol = Protocol::SCTP;
/// Chunk types (section 3.2) and a parameter type (section 3.3.3).
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const STATE_COOKIE: u16 = 7;
/// Bytes of the common header, of a chunk's, and of an INIT ACK before its parameters.
const COMMON: usize = 12;
const CHUNK: usize = 4;
const INIT_LENGTH: usize = 20;
/// First of the ports that are free by convention.
const FIRST_PORT: u16 = 49_152;
/// Errors that may be told of other probes to the same address.
const MOST_ERRORS: u32 = 1000;
/// Longer packets are no answer.
const LONGEST: usize = 2048;

/// Whether the kernel has sockets for SCTP; asking for one loads the module, where there is one.
pub fn kernel_speaks_sctp() -> bool {
    Socket::new(Domain::IPV4, Type::STREAM, Some(SCTP)).is_ok()
}

pub(super) async fn visit(to: SocketAddr, ask: bool) -> io::Result<Visited> {
    let probe = Probe::open(to)?;
    let asked = async {
        loop {
            probe.send()?;
            if let Ok(answer) = timeout(AGAIN, probe.answer()).await {
                return answer;
            }
        }
    };
    let visited = timeout(DEADLINE, asked).await.map_err(|_| io::ErrorKind::TimedOut)??;
    match visited {
        // Who it is, is more than is needed.
        Visited::Connected if ask && kernel_speaks_sctp() => match connect(to).await {
            Ok(stream) => Ok(super::ask(stream, to).await.unwrap_or(visited)),
            Err(_) => Ok(visited),
        },
        _ => Ok(visited),
    }
}

/// A one-to-one socket (RFC 6458 section 4) is used as TCP's is.
async fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking(), Some(SCTP))?;
    let connecting = TcpSocket::from_std_stream(socket.into()).connect(to);
    timeout(DEADLINE, connecting).await.map_err(|_| io::ErrorKind::TimedOut)?
}

/// One association that is only begun.
struct Probe {
    socket: UdpSocket,
    to: SocketAddr,
    port: u16,
    tag: u32,
}

impl Probe {
    fn open(to: SocketAddr) -> io::Result<Probe> {
        let socket = Socket::new(Domain::for_address(to), Type::RAW.nonblocking(), Some(SCTP))?;
        // Errors with the packets that they are about: other probes of the namespace may go to the same address.
        if to.is_ipv4() {
            setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
        } else {
            setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
        }
        socket.connect(&SocketAddr::new(to.ip(), 0).into())?;
        let random = RandomState::new().hash_one(to);
        let port = FIRST_PORT | random as u16;
        // The runtime knows no raw sockets: they are read and written as those for datagrams are.
        let socket = UdpSocket::from_std(socket.into())?;
        // Zero is no tag (section 3.3.2).
        Ok(Probe { socket, to, port, tag: (random >> 32) as u32 | 1 })
    }

    fn send(&self) -> io::Result<()> {
        let mut packet = Vec::with_capacity(COMMON + INIT_LENGTH);
        packet.extend(self.port.to_be_bytes());
        packet.extend(self.to.port().to_be_bytes());
        packet.extend([0; 8]);
        packet.extend([INIT, 0, 0, INIT_LENGTH as u8]);
        packet.extend(self.tag.to_be_bytes());
        // The window, one stream each way, the first sequence number.
        packet.extend(0x1_0000_u32.to_be_bytes());
        packet.extend([0, 1, 0, 1]);
        packet.extend(self.tag.to_be_bytes());
        let checksum = crc32c(&packet).to_le_bytes();
        packet.splice(8..COMMON, checksum);
        match send(self.socket.as_raw_fd(), &packet, MsgFlags::MSG_DONTWAIT) {
            // An error that came in is told here as well; whose it is, the queue says.
            Err(Errno::ECONNREFUSED) => Ok(()),
            sent => Ok(sent.map(drop)?),
        }
    }

    /// What comes back for this probe.
    async fn answer(&self) -> io::Result<Visited> {
        self.socket.async_io(Interest::READABLE | Interest::ERROR, || self.look()).await
    }

    /// Looks through everything that has come in.
    fn look(&self) -> io::Result<Visited> {
        let mut errors = 0;
        loop {
            if let Some(visited) = self.error()? {
                return Ok(visited);
            }
            match self.packet() {
                Ok(Some(visited)) => return Ok(visited),
                Ok(None) => {}
                // Of another probe, or the queue has it now.
                Err(error) if error != Errno::EAGAIN && errors < MOST_ERRORS => errors += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// An answer to this probe, if the next packet is one. The kernel shows IPv4 headers and no others.
    fn packet(&self) -> nix::Result<Option<Visited>> {
        let mut buffer = [0; LONGEST];
        let length = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT)?;
        let packet = buffer.get(..length).unwrap_or_default();
        let header = match packet.first() {
            Some(first) if self.to.is_ipv4() => usize::from(first & 0xf) * 4,
            _ => 0,
        };
        Ok(packet.get(header..).and_then(|packet| self.understand(packet)))
    }

    fn understand(&self, packet: &[u8]) -> Option<Visited> {
        let ours = self.ports(packet)? == (self.to.port(), self.port)
            && packet.get(4..8)? == self.tag.to_be_bytes()
            && is_whole(packet);
        let chunk = packet.get(COMMON..).filter(|_| ours)?;
        match *chunk.first()? {
            INIT_ACK => {
                let cookie = cookie(chunk).map(String::from_utf8_lossy);
                let said = cookie.filter(|cookie| cookie.starts_with("pod="));
                Some(said.map_or(Visited::Connected, |said| read(&said)))
            }
            ABORT => Some(Visited::Refused),
            _ => None,
        }
    }

    /// What an ICMP error about this probe says, if the next one is about it. It quotes the packet from its ports on.
    fn error(&self) -> io::Result<Option<Visited>> {
        let mut buffer = [0; LONGEST];
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let mut space = nix::cmsg_space!([u8; 256]);
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let descriptor = self.socket.as_raw_fd();
        let message = match recvmsg::<SockaddrStorage>(descriptor, &mut slices, Some(&mut space), flags) {
            Err(Errno::EAGAIN) => return Ok(None),
            message => message?,
        };
        let number = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::Ipv4RecvErr(error, _) => Some(error.ee_errno),
            ControlMessageOwned::Ipv6RecvErr(error, _) => Some(error.ee_errno),
            _ => None,
        });
        let length = message.bytes;
        let quoted = buffer.get(..length).and_then(|packet| self.ports(packet));
        if quoted != Some((self.port, self.to.port())) {
            return Ok(None);
        }
        let error = io::Error::from_raw_os_error(number.unwrap_or_default().cast_signed());
        if error.kind() == io::ErrorKind::ConnectionRefused { Ok(Some(Visited::Refused)) } else { Err(error) }
    }

    /// Source and destination.
    fn ports(&self, packet: &[u8]) -> Option<(u16, u16)> {
        let port = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
        Some((port(0)?, port(2)?))
    }
}

/// The state cookie of an INIT ACK.
fn cookie(chunk: &[u8]) -> Option<&[u8]> {
    let number = |bytes: &[u8], at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    let length = usize::from(number(chunk, 2)?);
    let mut parameters = chunk.get(INIT_LENGTH..length)?;
    loop {
        let length = usize::from(number(parameters, 2)?).max(CHUNK);
        if number(parameters, 0)? == STATE_COOKIE {
            return parameters.get(CHUNK..length);
        }
        parameters = parameters.get(length.next_multiple_of(4)..)?;
    }
}

/// The checksum (section 6.8) is right.
fn is_whole(packet: &[u8]) -> bool {
    let Some((checksum, mut copy)) = packet.get(8..COMMON).zip(Some(packet.to_vec())) else { return false };
    copy.splice(8..COMMON, [0; 4]);
    checksum == crc32c(&copy).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_specification() {
        // RFC 3720 section B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn a_cookie_is_found_behind_other_parameters_and_nonsense_has_none() {
        let mut chunk = vec![INIT_ACK, 0, 0, 0];
        chunk.extend([0; 16]);
        chunk.extend([0, 8, 0, 6, 1, 2, 0, 0, 0, 7, 0, 7, b'p', b'o', b'd', 0]);
        chunk[3] = chunk.len() as u8 - 1;
        assert_eq!(cookie(&chunk), Some(&b"pod"[..]));
        for length in 0..chunk.len() {
            let _ = cookie(&chunk[..length]);
        }
        chunk[29] = 9;
        assert_eq!(cookie(&chunk), None);
    }
}
