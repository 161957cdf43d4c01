//! The sockets that probes leave by and arrive at: one for each of this node's probe addresses.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsFd,
    time::Duration,
};

use ipnet::IpNet;
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt,
        sockopt::{Ipv4RecvErr, Ipv6RecvErr},
    },
};
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

    /// The next request that a node's kernel refused, because its agent is away: the length of what it was, and where it had gone to.
    pub(super) fn refusal(&self, buffer: &mut [u8]) -> Option<(usize, IpAddr)> {
        self.sockets.iter().find_map(|(_, socket)| next_refusal(socket, buffer))
    }

    /// The next probe: its socket, its length, and where it came from.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> Option<(usize, usize, SocketAddr)> {
        self.sockets.iter().enumerate().find_map(|(index, (_, socket))| {
            // An ICMP error comes up here once, too: it is read from the queue of errors.
            let (length, from) = socket.recv_from(buffer).ok()?;
            Some((index, length, from))
        })
    }
}

/// The next error of one socket that says "nobody listens at this port": the length of the request's payload, and where it had gone to.
fn next_refusal(socket: &UdpSocket, buffer: &mut [u8]) -> Option<(usize, IpAddr)> {
    use std::os::fd::AsRawFd;
    loop {
        let mut control = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
        let mut parts = [io::IoSliceMut::new(buffer)];
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let message =
            recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags).ok()?;
        let to = message.address.as_ref().and_then(address);
        let from = message.cmsgs().ok()?.find_map(|one| match one {
            ControlMessageOwned::Ipv4RecvErr(error, from)
                if (error.ee_origin, error.ee_type, error.ee_code) == (libc::SO_EE_ORIGIN_ICMP, 3, 3) =>
            {
                from.map(|from| IpAddr::V4(u32::from_be(from.sin_addr.s_addr).into()))
            }
            ControlMessageOwned::Ipv6RecvErr(error, from)
                if (error.ee_origin, error.ee_type, error.ee_code) == (libc::SO_EE_ORIGIN_ICMP6, 1, 4) =>
            {
                from.map(|from| IpAddr::V6(from.sin6_addr.s6_addr.into()))
            }
            _ => None,
        });
        // Only the node itself can know.
        if let Some(to) = to.filter(|to| from == Some(*to)) {
            return Some((message.bytes, to));
        }
    }
}

fn address(address: &SockaddrStorage) -> Option<IpAddr> {
    let ipv4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    ipv4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
}

/// Don't-fragment is set, and what the kernel believes of the path's MTU is not asked: that is what is to be proved.
fn open(address: IpAddr) -> io::Result<UdpSocket> {
    use std::os::fd::AsRawFd;
    let socket = UdpSocket::bind((address, PORT))?;
    socket.set_nonblocking(true)?;
    match address {
        IpAddr::V4(_) => setsockopt(&socket, Ipv4RecvErr, &true)?,
        IpAddr::V6(_) => setsockopt(&socket, Ipv6RecvErr, &true)?,
    }
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
