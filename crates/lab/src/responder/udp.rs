//! UDP: the datagram back, and a line that says who answered.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::SocketAddr,
    os::fd::AsRawFd,
    sync::Arc,
};

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn6, SockaddrStorage, recvmsg, sendmsg,
    setsockopt, sockopt,
};
use socket2::Socket;
use tokio::{io::Interest, net::UdpSocket, sync::watch};

use super::{Identity, canonical};

/// What is not longer than this is answered with a line about who answered.
const SHORT: usize = 256;

/// Asks the kernel to tell the address that each datagram was sent to, so that the answer comes from there.
pub(super) fn prepare(socket: &Socket, v6: bool) -> io::Result<()> {
    if v6 {
        setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    } else {
        setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?;
    }
    Ok(())
}

pub(super) async fn serve(
    socket: UdpSocket,
    identity: Arc<Identity>,
    log: Arc<dyn Fn(&str) + Send + Sync>,
    mut closed: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let exchanged = tokio::select! {
            exchanged = exchange(&socket, &mut buffer, &identity) => exchanged,
            _ = closed.wait_for(|closed| *closed) => return,
        };
        match exchanged {
            Ok((port, source)) => log(&format!("UDP {port} from {source}")),
            // An ICMP error for an earlier answer is told here: its client is gone, the others are not.
            Err(error) => tracing::debug!(%error, "UDP exchange failed"),
        }
    }
}

async fn exchange(
    socket: &UdpSocket,
    buffer: &mut [u8],
    identity: &Identity,
) -> io::Result<(u16, SocketAddr)> {
    let received = socket.async_io(Interest::READABLE, || receive(socket, buffer)).await?;
    let source = canonical(received.source);
    let port = socket.local_addr()?.port();
    let local = SocketAddr::new(received.destination.map_or(source.ip(), |to| to.ip().to_canonical()), port);
    let data = buffer.get(..received.length).unwrap_or_default();
    let mut answer = data.to_vec();
    if data.len() <= SHORT {
        if !answer.ends_with(b"\n") {
            answer.push(b'\n');
        }
        answer.extend(identity.line(local, source).as_bytes());
        answer.push(b'\n');
    }
    socket.async_io(Interest::WRITABLE, || send(socket, &answer, &received)).await?;
    Ok((port, source))
}

pub(super) struct Received {
    pub(super) length: usize,
    pub(super) source: SocketAddr,
    /// The address that the datagram was sent to, and as the kernel wants it back.
    pub(super) destination: Option<SocketAddr>,
    info: Option<Info>,
}

#[derive(Clone, Copy)]
pub(super) enum Info {
    V4(libc::in_pktinfo),
    V6(libc::in6_pktinfo),
}

pub(super) fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Received> {
    let mut space = nix::cmsg_space!(libc::in6_pktinfo, libc::in_pktinfo);
    let mut slices = [IoSliceMut::new(buffer)];
    let message = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut slices,
        Some(&mut space),
        MsgFlags::MSG_DONTWAIT,
    )?;
    let source = message
        .address
        .as_ref()
        .and_then(to_std)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a datagram without a source"))?;
    let (mut destination, mut info) = (None, None);
    for control in message.cmsgs()? {
        match control {
            ControlMessageOwned::Ipv6PacketInfo(mut found) => {
                let address =
                    SockaddrIn6::from(std::net::SocketAddrV6::new(found.ipi6_addr.s6_addr.into(), 0, 0, 0));
                destination = Some(SocketAddr::new(address.ip().into(), 0));
                // The route decides where the answer leaves, not the interface that the question came by.
                if !address.ip().is_unicast_link_local() {
                    found.ipi6_ifindex = 0;
                }
                info = Some(Info::V6(found));
            }
            ControlMessageOwned::Ipv4PacketInfo(mut found) => {
                let address = u32::from_be(found.ipi_spec_dst.s_addr);
                destination = Some(SocketAddr::new(std::net::Ipv4Addr::from(address).into(), 0));
                found.ipi_ifindex = 0;
                info = Some(Info::V4(found));
            }
            _ => {}
        }
    }
    Ok(Received { length: message.bytes, source, destination, info })
}

pub(super) fn send(socket: &UdpSocket, answer: &[u8], received: &Received) -> io::Result<usize> {
    let to = SockaddrStorage::from(received.source);
    let slices = [IoSlice::new(answer)];
    let control = received.info.as_ref().map(|info| match info {
        Info::V4(info) => ControlMessage::Ipv4PacketInfo(info),
        Info::V6(info) => ControlMessage::Ipv6PacketInfo(info),
    });
    let controls = control.as_slice();
    Ok(sendmsg(socket.as_raw_fd(), &slices, controls, MsgFlags::MSG_DONTWAIT, Some(&to))?)
}

fn to_std(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddr::V4((*v4).into()));
    }
    address.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into()))
}
