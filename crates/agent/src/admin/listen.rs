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
    task::AbortHandle,
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
    tasks: BTreeMap<u64, AbortHandle>,
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
        open.tasks.retain(|_, task| !task.is_finished());
        if open.tasks.len() >= MOST {
            return Err(io::Error::other(format!(
                "{MOST} listeners are open already: close some, or wait a minute"
            )));
        }
        open.last += 1;
        let id = open.last;
        let all = served.into_iter().map(|(tcp, udp)| async move {
            tokio::join!(serve_tcp(&tcp), serve_udp(&udp));
        });
        let task = tokio::spawn(async move {
            let mut tasks = tokio::task::JoinSet::new();
            all.for_each(|one| drop(tasks.spawn(one)));
            // Listeners have no end of their own.
            let _ = timeout(LIFETIME, tasks.join_all()).await;
        });
        open.tasks.insert(id, task.abort_handle());
        Ok((id, listeners))
    }

    /// Closes the listeners that [`Listeners::open`] called `id`. False when they are closed already.
    pub(crate) fn close(&self, id: u64) -> bool {
        let task = self.open.lock().unwrap_or_else(PoisonError::into_inner).tasks.remove(&id);
        task.map(|task| task.abort()).is_some()
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
