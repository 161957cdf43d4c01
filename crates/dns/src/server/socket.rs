//! Sockets: several for one address, which need not be there yet.

use std::{
    io,
    net::{SocketAddr, TcpListener, UdpSocket},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use socket2::{Domain, Protocol, Socket, Type};

use super::StartError;

/// What a burst of queries may take of the kernel's memory, in octets, for each socket.
const RECEIVE_BUFFER: libc::c_int = 4 << 20;
/// How often a free port for both protocols is looked for.
const ATTEMPTS: usize = 16;
/// Connections that wait to be taken.
const BACKLOG: i32 = 1024;

/// A listener, and `count` datagram sockets among which the kernel spreads clients.
pub fn open(address: SocketAddr, count: usize) -> Result<(TcpListener, Vec<UdpSocket>), StartError> {
    let tcp = |source| StartError::Listen { address, protocol: "TCP", source };
    let udp = |source| StartError::Listen { address, protocol: "UDP", source };
    for attempt in 1.. {
        let listener = listen(address).map_err(tcp)?;
        let chosen = listener.local_addr().map_err(tcp)?;
        match (0..count.max(1)).map(|_| bind(chosen)).collect::<io::Result<Vec<_>>>() {
            Ok(sockets) => return Ok((listener, sockets)),
            // The port that the kernel chose for the one is taken for the other.
            Err(error)
                if address.port() == 0 && attempt < ATTEMPTS && error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(udp(error)),
        }
    }
    Err(udp(io::ErrorKind::AddrInUse.into()))
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = new(address, Type::STREAM, Protocol::TCP)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = new(address, Type::DGRAM, Protocol::UDP)?;
    if enlarge(&socket).is_err() {
        // Without the capability: as much as the machine allows everybody.
        socket.set_recv_buffer_size(RECEIVE_BUFFER as usize)?;
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn new(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_port(true)?;
    socket.set_reuse_address(kind == Type::STREAM)?;
    if address.is_ipv4() {
        socket.set_freebind_v4(true)?;
    } else {
        socket.set_freebind_v6(true)?;
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

fn enlarge(socket: &Socket) -> io::Result<()> {
    let size = RECEIVE_BUFFER;
    let length = size_of_val(&size) as libc::socklen_t;
    // SAFETY: the value is as long as said.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const size).cast(),
            length,
        )
    };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Something that threads can wait for beside sockets.
pub fn event() -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Lets everybody know who waits for it, for ever.
pub fn signal(event: &OwnedFd) -> io::Result<()> {
    let one = 1_u64.to_ne_bytes();
    // SAFETY: the buffer is as long as said.
    let written = unsafe { libc::write(event.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    if written < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
