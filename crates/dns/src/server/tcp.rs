//! TCP: many questions on one connection, answered as soon as each can be (RFC 7766).

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::Poll,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    sync::{mpsc, watch},
    time::timeout,
};

use super::{
    core::{Core, Now, Outcome, fail},
    stats::{Asked, Counters},
};

/// The longest message: its length has two octets.
const LONGEST: usize = 65_535;
/// How long a server that ends waits for a question on a connection.
const LINGER: Duration = Duration::from_millis(500);
/// How often a client that has asked too often in this second is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Place in [`PROTOCOLS`](super::stats::PROTOCOLS).
const TCP: usize = 1;

/// Takes connections until told to stop; those that are there then have their answers and are closed.
pub async fn serve(
    core: Arc<Core>,
    listener: std::net::TcpListener,
    counters: Arc<Counters>,
    stop: watch::Receiver<()>,
) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "cannot listen for DNS over TCP"),
    };
    let take = |stream, peer: SocketAddr| {
        let Some(place) = core.connections.take(peer.ip()) else { return };
        let (core, counters, stop) = (Arc::clone(&core), Arc::clone(&counters), stop.clone());
        tokio::spawn(async move {
            let _place = place;
            if let Err(error) = converse(&core, stream, peer, &counters, stop).await {
                tracing::debug!(%error, %peer, "DNS over TCP");
            }
        });
    };
    let mut stopped = stop.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // The server, which would say so, is gone.
            _ = stopped.changed() => break,
        };
        match accepted {
            Ok((stream, peer)) => take(stream, peer),
            Err(error) => {
                tracing::warn!(%error, "cannot take a DNS connection");
                // Descriptors have run out: some are given back soon.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    // Those that wait already are this listener's: the kernel would end them with it.
    while let Poll::Ready(Ok((stream, peer))) =
        poll_fn(|context| Poll::Ready(listener.poll_accept(context))).await
    {
        take(stream, peer);
    }
}

/// Answers what comes on one connection.
async fn converse(
    core: &Arc<Core>,
    stream: TcpStream,
    peer: SocketAddr,
    counters: &Arc<Counters>,
    mut stop: watch::Receiver<()>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut from, to) = stream.into_split();
    let limits = core.settings.load().limits.clone();
    // As many answers as can wait in the channel are on their way at a time.
    let (answers, queue) = mpsc::channel(limits.pipelined.max(1));
    let writing = write(to, queue, limits.idle);
    let reading = async move {
        let mut buffer = vec![0; LONGEST];
        let (mut turn, mut is_ending) = (0, false);
        loop {
            let next = read(&mut from, if is_ending { LINGER } else { limits.idle });
            tokio::pin!(next);
            let message = tokio::select! {
                message = &mut next => message?,
                // What is on its way is read still.
                _ = stop.changed(), if !is_ending => {
                    is_ending = true;
                    timeout(LINGER, next).await.unwrap_or(Ok(None))?
                }
            };
            let Some(message) = message else { break };
            turn += 1;
            let Ok(place) = answers.clone().reserve_owned().await else { break };
            let settings = core.settings.load_full();
            while !core.rate.admit(
                peer.ip(),
                core.rate.second(Instant::now()),
                settings.limits.queries_of_client,
            ) {
                // Over UDP it would not be answered; here it waits, and whoever sends more waits too.
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            let taken = Instant::now();
            let outcome = {
                let now = Now { zone: &core.zone(), settings: &settings, client: peer.ip(), turn };
                core.answer(&now, &message, |_| LONGEST, &mut buffer)
            };
            let asked = |kind| Asked { protocol: TCP, client: peer.ip(), kind, size: message.len() };
            let (length, asked) = match outcome {
                // What is no query will not become one.
                Outcome::Silent => {
                    counters.ignored.fetch_add(1, Relaxed);
                    break;
                }
                Outcome::Answer(length, kind) => (length, asked(kind)),
                Outcome::Ask(kind) => match core.waiting.take(peer.ip()) {
                    Some(waiting) => {
                        let (asked, counters) = (asked(kind), Arc::clone(counters));
                        let coming = core.ask(message.into(), peer.ip(), |_| LONGEST, turn);
                        tokio::spawn(async move {
                            let _waiting = waiting;
                            let answer = coming.await;
                            counters.count(asked, &answer, taken.elapsed());
                            drop(place.send(answer));
                        });
                        continue;
                    }
                    None => {
                        counters.refused.fetch_add(1, Relaxed);
                        (fail(&message, &mut buffer), asked(kind))
                    }
                },
            };
            let answer = buffer.get(..length).unwrap_or_default();
            counters.count(asked, answer, taken.elapsed());
            place.send(answer.to_vec());
        }
        Ok::<_, io::Error>(())
    };
    let (read, written) = tokio::join!(reading, writing);
    read.and(written)
}

/// The next message; `None` when the client has ended, or is silent for too long.
async fn read(from: &mut OwnedReadHalf, patience: Duration) -> io::Result<Option<Vec<u8>>> {
    let message = async {
        let mut length = [0; 2];
        if let Err(error) = from.read_exact(&mut length).await {
            return if error.kind() == io::ErrorKind::UnexpectedEof { Ok(None) } else { Err(error) };
        }
        let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
        from.read_exact(&mut message).await?;
        Ok(Some(message))
    };
    timeout(patience, message).await.unwrap_or(Ok(None))
}

/// Writes answers as they come, until nobody is left who makes some.
async fn write(
    mut to: OwnedWriteHalf,
    mut queue: mpsc::Receiver<Vec<u8>>,
    patience: Duration,
) -> io::Result<()> {
    while let Some(answer) = queue.recv().await {
        let Ok(length) = u16::try_from(answer.len()) else { continue };
        if answer.is_empty() {
            continue;
        }
        // One write, so that length and answer leave in one packet.
        let framed = [&length.to_be_bytes()[..], &answer].concat();
        timeout(patience, to.write_all(&framed))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    }
    to.shutdown().await
}
