//! Packets that the kernel's own sockets do not make: SCTP where the kernel has none, don't-fragment, foreign tunnels.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    time::Duration,
};

use crc32c::crc32c;
use weft_netns::Netns;

use crate::support::DEADLINE;

const IPPROTO_SCTP: libc::c_int = 132;
const IPV4_HEADER: usize = 20;

/// A raw socket that speaks SCTP packets (RFC 9260 section 3).
pub struct Sctp(UdpSocket);

/// What came in.
pub struct Packet {
    pub from: IpAddr,
    pub ports: (u16, u16),
    pub chunk: Vec<u8>,
    pub checksum_is_right: bool,
}

impl Sctp {
    pub fn open(netns: &Netns, own: IpAddr) -> Sctp {
        let open = || {
            let family = if own.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
            // SAFETY: a call without pointers, whose descriptor is ours.
            let socket = unsafe {
                let descriptor = libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, IPPROTO_SCTP);
                assert!(descriptor >= 0, "{}", io::Error::last_os_error());
                // Addresses are given and taken as a datagram socket's are.
                UdpSocket::from(OwnedFd::from_raw_fd(descriptor))
            };
            // Bound, so that it is only sent what is its own.
            let address = nix::sys::socket::SockaddrStorage::from(SocketAddr::new(own, 0));
            nix::sys::socket::bind(socket.as_raw_fd(), &address).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
            socket
        };
        Sctp(netns.run(open).unwrap())
    }

    pub fn send(&self, port: u16, to: SocketAddr, chunk: &[u8]) -> io::Result<()> {
        let mut packet = Vec::new();
        packet.extend(port.to_be_bytes());
        packet.extend(to.port().to_be_bytes());
        packet.extend([0; 8]);
        packet.extend(chunk);
        let checksum = crc32c(&packet).to_le_bytes();
        packet[8..12].copy_from_slice(&checksum);
        self.0.send_to(&packet, SocketAddr::new(to.ip(), 0)).map(drop)
    }

    pub fn receive(&self) -> io::Result<Packet> {
        let mut buffer = [0; 4000];
        let (length, from) = self.0.recv_from(&mut buffer)?;
        let start = if from.is_ipv4() { IPV4_HEADER } else { 0 };
        let mut packet = buffer[start..length].to_vec();
        let checksum: [u8; 4] = packet[8..12].try_into().unwrap();
        packet[8..12].fill(0);
        let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
        Ok(Packet {
            from: from.ip(),
            ports: (port(0), port(2)),
            checksum_is_right: u32::from_le_bytes(checksum) == crc32c(&packet),
            chunk: packet[12..].to_vec(),
        })
    }
}

/// An INIT chunk with so many bytes more than it needs.
pub fn init_chunk(more: usize) -> Vec<u8> {
    let mut chunk = vec![1, 0];
    chunk.extend(u16::try_from(20 + more).unwrap().to_be_bytes());
    chunk.extend((0..16 + more).map(|number| number as u8 ^ 0x5a));
    chunk
}

/// Waits for one datagram.
pub fn expect(socket: &UdpSocket, payload: &[u8]) -> SocketAddr {
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut buffer = [0; 100];
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], payload);
    from
}
