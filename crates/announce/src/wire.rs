//! Messages of agents over UDP, between the addresses of their nodes.

use std::{
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr},
    task::Poll,
};

use tokio::{io::ReadBuf, net::UdpSocket};

use crate::{announcer::message::LONGEST, run::Wire};

/// The port that agents use among themselves, also for probing paths.
pub const PORT: u16 = 8473;

/// A socket for each address of this node.
#[derive(Debug, Default)]
pub struct UdpWire {
    sockets: Vec<(IpAddr, UdpSocket)>,
    /// The addresses that were wanted last, whether or not they could be listened at.
    wanted: Vec<IpAddr>,
}

impl Wire for UdpWire {
    fn listen(&mut self, own: &[IpAddr]) {
        if self.wanted == own {
            return;
        }
        self.wanted = own.to_vec();
        self.sockets.retain(|(address, _)| own.contains(address));
        for address in own {
            if self.sockets.iter().any(|(known, _)| known == address) {
                continue;
            }
            match open(*address) {
                Ok(socket) => self.sockets.push((*address, socket)),
                Err(error) => tracing::warn!(
                    "other agents cannot be heard at {address} port {PORT}/UDP: {error}; without them this node answers for \
                     LoadBalancer addresses only while it hears the API server"
                ),
            }
        }
    }

    fn send(&mut self, to: &[IpAddr], octets: &[u8]) {
        let pair = |to: &IpAddr| {
            let socket = self.sockets.iter().find(|(own, _)| own.is_ipv4() == to.is_ipv4())?;
            Some((&socket.1, SocketAddr::new(*to, PORT)))
        };
        let Some((socket, to)) = to.iter().find_map(pair) else { return };
        if let Err(error) = socket.try_send_to(octets, to) {
            // It is asked again; what is silent for long shows in who answers for addresses.
            tracing::debug!("a message to the agent at {to}: {error}");
        }
    }

    async fn receive(&mut self) -> (IpAddr, Vec<u8>) {
        poll_fn(|context| {
            for (_, socket) in &self.sockets {
                let mut octets = [0; LONGEST];
                let mut buffer = ReadBuf::new(&mut octets);
                match socket.poll_recv_from(context, &mut buffer) {
                    Poll::Ready(Ok(from)) => {
                        return Poll::Ready((from.ip().to_canonical(), buffer.filled().to_vec()));
                    }
                    Poll::Ready(Err(error)) => {
                        // An ICMP error of an earlier message is told once.
                        tracing::debug!("a message of another agent: {error}");
                        context.waker().wake_by_ref();
                    }
                    Poll::Pending => {}
                }
            }
            Poll::Pending
        })
        .await
    }
}

fn open(address: IpAddr) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind((address, PORT))?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}
