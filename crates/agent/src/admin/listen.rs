//! Listeners that tell who they see.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, UdpSocket},
    task::JoinSet,
    time::timeout,
};

use super::{
    Target,
    place::{Found, run_in},
};

/// Listeners that nobody closes end after this.
const LIFETIME: Duration = Duration::from_secs(60);
/// More at a time is not `weft verify`.
const MOST: usize = 4096;

/// The open listeners of an agent.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    last: u64,
    /// A task for each address. Listeners that ended are removed when the next ones are opened.
    listeners: BTreeMap<u64, JoinSet<()>>,
}

impl Listeners {
    /// Opens a TCP and a UDP socket at each address of a place; they answer until they are closed.
    ///
    /// # Errors
    /// When a socket cannot be made there.
    pub(crate) fn open(&self, place: &Found) -> io::Result<(u64, Vec<Target>)> {
        let sockets = run_in(place.netns.as_deref(), || {
            place.addresses.iter().map(|&address| bind(address)).collect::<io::Result<Vec<_>>>()
        })??;
        let mut listeners = Vec::new();
        let mut served = Vec::new();
        for (tcp, udp) in sockets {
            tcp.set_nonblocking(true)?;
            udp.set_nonblocking(true)?;
            let (tcp, udp) = (TcpListener::from_std(tcp)?, UdpSocket::from_std(udp)?);
            let (at, tcp_port, udp_port) =
                (tcp.local_addr()?.ip(), tcp.local_addr()?.port(), udp.local_addr()?.port());
            listeners.push(Target { address: at, tcp_port, udp_port });
            served.push((tcp, udp));
        }
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.listeners.retain(|_, tasks| {
            while tasks.try_join_next().is_some() {}
            !tasks.is_empty()
        });
        if open.listeners.len() >= MOST {
            return Err(io::Error::other(format!(
                "{MOST} listeners are open already: close some, or wait a minute"
            )));
        }
        open.last += 1;
        let id = open.last;
        let mut tasks = JoinSet::new();
        for (tcp, udp) in served {
            drop(tasks.spawn(async move {
                // Listeners have no end of their own.
                let _ = timeout(LIFETIME, async { tokio::join!(serve_tcp(&tcp), serve_udp(&udp)) }).await;
            }));
        }
        drop(open.listeners.insert(id, tasks));
        Ok((id, listeners))
    }

    /// Closes the listeners that [`Listeners::open`] called `id`, and returns when nothing answers there any
    /// more. False when they are closed already.
    pub(crate) async fn close(&self, id: u64) -> bool {
        let tasks = self.open.lock().unwrap_or_else(PoisonError::into_inner).listeners.remove(&id);
        let Some(mut tasks) = tasks else { return false };
        tasks.shutdown().await;
        true
    }
}

fn bind(address: IpAddr) -> io::Result<(std::net::TcpListener, std::net::UdpSocket)> {
    let at = SocketAddr::new(address, 0);
    let named = |error: io::Error| io::Error::new(error.kind(), format!("listening at {address}: {error}"));
    Ok((std::net::TcpListener::bind(at).map_err(named)?, std::net::UdpSocket::bind(at).map_err(named)?))
}

/// Writes the client's address to every client.
async fn serve_tcp(listener: &TcpListener) {
    loop {
        match listener.accept().await {
            Ok((mut stream, client)) => {
                drop(tokio::spawn(async move {
                    // A client that went away learns nothing.
                    let _ = stream.write_all(client.ip().to_canonical().to_string().as_bytes()).await;
                    let _ = stream.shutdown().await;
                }));
            }
            Err(error) => {
                tracing::warn!("probe listener: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Answers every packet with its source's address and its length.
async fn serve_udp(socket: &UdpSocket) {
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, client)) => {
                let answer = format!("{} {length}", client.ip().to_canonical());
                // A client that went away learns nothing.
                let _ = socket.send_to(answer.as_bytes(), client).await;
            }
            // An ICMP error of an earlier answer.
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nothing_answers_where_listeners_were_closed() {
        let listeners = Listeners::default();
        let here = Found { netns: None, addresses: vec![[127, 0, 0, 1].into()] };
        for _ in 0..100 {
            let (id, targets) = listeners.open(&here).unwrap();
            let at = SocketAddr::new(targets[0].address, targets[0].tcp_port);
            drop(std::net::TcpStream::connect(at).unwrap());
            assert!(listeners.close(id).await);
            let error = std::net::TcpStream::connect(at).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        }
        assert!(!listeners.close(1).await, "closed already");
    }
}
