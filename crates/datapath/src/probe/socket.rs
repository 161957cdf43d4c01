//! The sockets that probes leave by and arrive at: one for each of this node's probe addresses.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsFd,
    time::Duration,
};

use ipnet::IpNet;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use weft_model::PodRange;

use super::PORT;

#[derive(Debug)]
pub(super) struct Sockets {
    sockets: Vec<(IpAddr, UdpSocket)>,
}

impl Sockets {
    pub(super) fn open(own_ranges: &[IpNet]) -> io::Result<Sockets> {
        let layouts = own_ranges.iter().filter_map(|range| PodRange::new(*range).ok());
        let addresses = layouts.flat_map(|range| [range.plain_address(), range.path_address()]);
        let sockets = addresses.map(|address| Ok((address, open(address)?))).collect::<io::Result<_>>()?;
        Ok(Sockets { sockets })
    }

    pub(super) fn send(&self, from: IpAddr, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        let socket = self.sockets.iter().find(|(address, _)| *address == from);
        let (_, socket) = socket.ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
        socket.send_to(bytes, to).map(drop)
    }

    /// Sends from the socket that [`Sockets::receive`] named.
    pub(super) fn answer(&self, socket: usize, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        let socket = self.sockets.get(socket);
        let (_, socket) = socket.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        socket.send_to(bytes, to).map(drop)
    }

    /// Whether something arrived within the time-out.
    pub(super) fn wait(&self, timeout: Duration) -> bool {
        let mut polled: Vec<PollFd<'_>> =
            self.sockets.iter().map(|(_, socket)| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::ZERO);
        poll(&mut polled, timeout).is_ok_and(|ready| ready > 0)
    }

    /// The next probe: its socket, its length, and where it came from.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> Option<(usize, usize, SocketAddr)> {
        self.sockets.iter().enumerate().find_map(|(index, (_, socket))| {
            // An ICMP error that a former probe raised comes up here once; the probe counts as lost all the same.
            let (length, from) = socket.recv_from(buffer).ok()?;
            Some((index, length, from))
        })
    }
}

/// Don't-fragment is set, and what the kernel believes of the path's MTU is not asked: that is what is to be proved.
fn open(address: IpAddr) -> io::Result<UdpSocket> {
    use std::os::fd::AsRawFd;
    let socket = UdpSocket::bind((address, PORT))?;
    socket.set_nonblocking(true)?;
    let (level, name, value) = match address {
        IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE),
        IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE),
    };
    let length = libc::socklen_t::try_from(size_of_val(&value)).map_err(io::Error::other)?;
    // SAFETY: the option's value is an int that outlives the call, and its length is given.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length) };
    if result == 0 { Ok(socket) } else { Err(io::Error::last_os_error()) }
}
