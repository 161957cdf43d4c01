//! A server whose sockets are closed when it is dropped.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use socket2::{Domain, Socket, Type};
use weft_netns::Netns;

/// How long it takes at most to notice that it is to end.
const GLANCE: Duration = Duration::from_millis(20);

/// Answers every datagram, and the first line of every connection, with its name and the client that it sees.
pub struct Answerer {
    end: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Answerer {
    /// UDP and TCP at this address, which the namespace takes packets in for.
    pub fn at(netns: &Netns, address: SocketAddr, name: &'static str) -> Answerer {
        let (udp, tcp): (UdpSocket, TcpListener) =
            netns.run(|| (bound(address, Type::DGRAM).into(), bound(address, Type::STREAM).into())).unwrap();
        let end = Arc::new(AtomicBool::new(false));
        udp.set_read_timeout(Some(GLANCE)).unwrap();
        tcp.set_nonblocking(true).unwrap();
        let (until, also_until) = (Arc::clone(&end), Arc::clone(&end));
        let datagrams = thread::spawn(move || {
            let mut buffer = [0; 1500];
            while !until.load(Ordering::Relaxed) {
                if let Ok((_, peer)) = udp.recv_from(&mut buffer) {
                    let _ = udp.send_to(format!("{name} {peer}").as_bytes(), peer);
                }
            }
        });
        let connections = thread::spawn(move || {
            while !also_until.load(Ordering::Relaxed) {
                let Ok((stream, peer)) = tcp.accept() else {
                    thread::sleep(GLANCE / 4);
                    continue;
                };
                stream.set_nonblocking(false).unwrap();
                let _ = BufReader::new(&stream).read_line(&mut String::new());
                let _ = writeln!(&stream, "{name} {peer} ");
            }
        });
        Answerer { end, threads: vec![datagrams, connections] }
    }

    /// The same at every address of the namespace.
    pub fn everywhere(netns: &Netns, like: IpAddr, port: u16, name: &'static str) -> Answerer {
        let any: IpAddr = if like.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
        Answerer::at(netns, SocketAddr::new(any, port), name)
    }
}

impl Drop for Answerer {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// A socket at an address that no interface needs to have.
fn bound(address: SocketAddr, kind: Type) -> Socket {
    let socket = Socket::new(Domain::for_address(address), kind, None).unwrap();
    if address.is_ipv4() {
        socket.set_freebind_v4(true).unwrap();
    } else {
        socket.set_freebind_v6(true).unwrap();
        socket.set_only_v6(true).unwrap();
    }
    socket.set_reuse_address(true).unwrap();
    socket.bind(&address.into()).unwrap();
    if kind == Type::STREAM {
        socket.listen(16).unwrap();
    }
    socket
}
