//! UDP: threads that take many questions at a time.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::{AsRawFd as _, OwnedFd},
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use tokio::runtime::Handle;

use super::{
    batch::{self, Batch},
    core::{Core, Now, Outcome, fail},
    fair::Fair,
    stats::{Asked, Counters},
    writer::udp_limit,
};

/// One thread's part of the server.
pub struct Worker {
    core: Arc<Core>,
    sockets: Vec<Arc<UdpSocket>>,
    stop: Arc<OwnedFd>,
    runtime: Handle,
    fair: Fair,
    counters: Arc<Counters>,
    /// Grows with each question.
    turn: usize,
}

/// How long a server that ends waits for others' answers.
const LINGER: Duration = Duration::from_secs(5);
/// How often it looks whether they are there, in milliseconds.
const LOOK_AGAIN: i32 = 20;
/// Place in [`PROTOCOLS`](super::stats::PROTOCOLS).
const UDP: usize = 0;

// === impl Worker ===

impl Worker {
    pub fn new(
        core: Arc<Core>,
        sockets: Vec<Arc<UdpSocket>>,
        stop: Arc<OwnedFd>,
        counters: Arc<Counters>,
    ) -> Self {
        let (runtime, fair) = (Handle::current(), Fair::new());
        Self { core, sockets, stop, runtime, fair, counters, turn: 0 }
    }

    /// Answers until told to stop, and then as long as somebody waits for an answer: the address may be another server's by
    /// then, but what the kernel still gives to these sockets nobody else hears.
    pub fn run(mut self) {
        let runtime = self.runtime.clone();
        let _within = runtime.enter();
        let mut batch = Batch::new();
        let wanted = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut waiting: Vec<libc::pollfd> = vec![wanted(self.stop.as_raw_fd())];
        waiting.extend(self.sockets.iter().map(|one| wanted(one.as_raw_fd())));
        let mut deadline: Option<Instant> = None;
        loop {
            if let Err(error) = wait(&mut waiting, deadline.is_some()) {
                tracing::error!(%error, "cannot wait for DNS queries");
                return;
            }
            if let Some(stop) = waiting.first_mut().filter(|stop| stop.revents != 0) {
                // The kernel passes over it from now on.
                stop.fd = -1;
                deadline = Some(Instant::now() + LINGER);
            }
            for (socket, _) in
                self.sockets.clone().iter().zip(waiting.iter().skip(1)).filter(|(_, one)| one.revents != 0)
            {
                self.drain(socket, &mut batch);
            }
            if deadline.is_some_and(|deadline| self.is_done() || Instant::now() >= deadline) {
                self.sockets.clone().iter().for_each(|socket| self.drain(socket, &mut batch));
                return;
            }
        }
    }

    /// Nobody waits for an answer from one of these sockets.
    fn is_done(&self) -> bool {
        self.sockets.iter().all(|socket| Arc::strong_count(socket) == 1)
    }

    /// Answers what is there, but not for ever: others wait too.
    fn drain(&mut self, socket: &Arc<UdpSocket>, batch: &mut Batch) {
        const ROUNDS: usize = 16;
        for _ in 0..ROUNDS {
            // An ICMP error of an earlier answer is told as an error once; what else there is comes with the next round.
            let Ok(count) = batch.receive(socket) else { return };
            let is_full = count == batch::SIZE;
            self.fair.batch(is_full);
            self.answer(socket, batch, count);
            let failed = batch.send(socket);
            self.counters.unsent.fetch_add(failed, Relaxed);
            if !is_full {
                return;
            }
        }
    }

    fn answer(&mut self, socket: &Arc<UdpSocket>, batch: &mut Batch, count: usize) {
        let core = Arc::clone(&self.core);
        let settings = core.settings.load();
        let taken = Instant::now();
        let second = core.rate.second(taken);
        let mut asked = 0_u64;
        let zone = core.zone();
        for place in 0..count {
            self.turn = self.turn.wrapping_add(1);
            let Some(datagram) = batch.datagram(place) else { continue };
            let (peer, client) = (datagram.peer, datagram.peer.ip());
            if !core.rate.admit(client, second, settings.limits.queries_of_client)
                || self.fair.is_behind() && !self.fair.admit(client)
            {
                self.counters.shed.fetch_add(1, Relaxed);
                continue;
            }
            let now = Now { zone: &zone, settings: &settings, client, turn: self.turn };
            let outcome = core.answer(&now, datagram.question, udp_limit, datagram.answer);
            match outcome {
                Outcome::Silent => drop(self.counters.ignored.fetch_add(1, Relaxed)),
                Outcome::Answer(length, kind) => batch.answered(place, length, peer, kind),
                Outcome::Ask(kind) => {
                    batch.set_kind(place, kind);
                    asked |= 1 << place;
                }
            }
        }
        // Asking takes the zone's lock itself.
        drop(zone);
        let after = taken.elapsed();
        batch.each_answer(|size, peer, kind, answer| {
            self.counters.count(Asked { protocol: UDP, client: peer.ip(), kind, size }, answer, after);
        });
        for place in (0..count).filter(|place| asked & (1 << place) != 0) {
            self.ask(socket, batch, place, taken);
        }
    }

    /// What is remembered is answered with the rest; what is not, whenever it is known.
    fn ask(&self, socket: &Arc<UdpSocket>, batch: &mut Batch, place: usize, taken: Instant) {
        let kind = batch.kind(place);
        let Some(datagram) = batch.datagram(place) else { return };
        let peer = datagram.peer;
        let asked = Asked { protocol: UDP, client: peer.ip(), kind, size: datagram.question.len() };
        let length = match self.core.waiting.take(peer.ip()) {
            Some(waiting) => {
                let mut coming = self.core.ask(datagram.question.into(), peer.ip(), udp_limit, self.turn);
                match coming.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(answer) => copy(&answer, datagram.answer),
                    Poll::Pending => {
                        let (socket, counters) = (Arc::clone(socket), Arc::clone(&self.counters));
                        self.runtime.spawn(async move {
                            let _waiting = waiting;
                            let answer = coming.await;
                            counters.count(asked, &answer, taken.elapsed());
                            send(&socket, peer, &answer);
                        });
                        return;
                    }
                }
            }
            None => {
                self.counters.refused.fetch_add(1, Relaxed);
                fail(datagram.question, datagram.answer)
            }
        };
        self.counters.count(asked, datagram.answer.get(..length).unwrap_or_default(), taken.elapsed());
        if length > 0 {
            batch.answered(place, length, peer, kind);
        }
    }
}

/// How many octets were copied: all or none.
fn copy(answer: &[u8], room: &mut [u8]) -> usize {
    let Some(room) = room.get_mut(..answer.len()) else { return 0 };
    room.copy_from_slice(answer);
    answer.len()
}

fn send(socket: &UdpSocket, peer: SocketAddr, answer: &[u8]) {
    if !answer.is_empty()
        && let Err(error) = socket.send_to(answer, peer)
    {
        tracing::debug!(%error, %peer, "a DNS answer could not be sent");
    }
}

fn wait(waiting: &mut [libc::pollfd], is_ending: bool) -> io::Result<()> {
    let most = if is_ending { LOOK_AGAIN } else { -1 };
    loop {
        // SAFETY: there are as many as said.
        let ready = unsafe { libc::poll(waiting.as_mut_ptr(), waiting.len() as libc::nfds_t, most) };
        if ready >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
