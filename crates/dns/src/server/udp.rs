//! UDP: threads that take many questions at a time.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::{AsRawFd as _, OwnedFd},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use tokio::runtime::Handle;

use super::{
    batch::{self, Batch},
    core::{Core, Outcome, fail},
    writer::udp_limit,
};

/// One thread's part of the server.
pub struct Worker {
    core: Arc<Core>,
    sockets: Vec<Arc<UdpSocket>>,
    stop: Arc<OwnedFd>,
    runtime: Handle,
    /// Grows with each question.
    turn: usize,
}

// === impl Worker ===

impl Worker {
    pub fn new(core: Arc<Core>, sockets: Vec<Arc<UdpSocket>>, stop: Arc<OwnedFd>) -> Self {
        Self { core, sockets, stop, runtime: Handle::current(), turn: 0 }
    }

    /// Answers until told to stop.
    pub fn run(mut self) {
        let runtime = self.runtime.clone();
        let _within = runtime.enter();
        let mut batch = Batch::new();
        let wanted = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut waiting: Vec<libc::pollfd> = self.sockets.iter().map(|one| wanted(one.as_raw_fd())).collect();
        waiting.push(wanted(self.stop.as_raw_fd()));
        loop {
            if let Err(error) = wait(&mut waiting) {
                tracing::error!(%error, "cannot wait for DNS queries");
                return;
            }
            if waiting.last().is_some_and(|stop| stop.revents != 0) {
                return;
            }
            for (place, _) in waiting.iter().enumerate().filter(|(_, one)| one.revents != 0) {
                if let Some(socket) = self.sockets.get(place).cloned() {
                    self.drain(&socket, &mut batch);
                }
            }
        }
    }

    /// Answers what is there, but not for ever: others wait too.
    fn drain(&mut self, socket: &Arc<UdpSocket>, batch: &mut Batch) {
        const ROUNDS: usize = 16;
        for _ in 0..ROUNDS {
            // An ICMP error of an earlier answer is told as an error once; what else there is comes with the next round.
            let Ok(count) = batch.receive(socket) else { return };
            self.answer(socket, batch, count);
            let failed = batch.send(socket);
            if failed > 0 {
                tracing::debug!(failed, "DNS answers could not be sent");
            }
            if count < batch::SIZE {
                return;
            }
        }
    }

    fn answer(&mut self, socket: &Arc<UdpSocket>, batch: &mut Batch, count: usize) {
        let core = Arc::clone(&self.core);
        let mut asked = 0_u64;
        let zone = core.zone();
        for place in 0..count {
            self.turn = self.turn.wrapping_add(1);
            let Some(datagram) = batch.datagram(place) else { continue };
            let client = datagram.peer.ip();
            match core.answer(&zone, datagram.question, client, udp_limit, self.turn, datagram.answer) {
                Outcome::Silent => {}
                Outcome::Answer(length) => batch.answered(place, length),
                Outcome::Ask => asked |= 1 << place,
            }
        }
        // Asking takes the zone's lock itself.
        drop(zone);
        for place in (0..count).filter(|place| asked & (1 << place) != 0) {
            self.ask(socket, batch, place);
        }
    }

    /// What is remembered is answered with the rest; what is not, whenever it is known.
    fn ask(&self, socket: &Arc<UdpSocket>, batch: &mut Batch, place: usize) {
        let Some(datagram) = batch.datagram(place) else { return };
        let peer = datagram.peer;
        let mut coming = self.core.ask(datagram.question.into(), peer.ip(), udp_limit, self.turn);
        match coming.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => {
                let length = answer.len();
                if let Some(room) = datagram.answer.get_mut(..length).filter(|room| !room.is_empty()) {
                    room.copy_from_slice(&answer);
                    batch.answered(place, length);
                }
            }
            Poll::Pending => {
                let socket = Arc::clone(socket);
                let Some(waiting) = self.core.waiting.take(peer.ip()) else {
                    let length = fail(datagram.question, datagram.answer);
                    return batch.answered(place, length);
                };
                self.runtime.spawn(async move {
                    let _waiting = waiting;
                    send(&socket, peer, &coming.await);
                });
            }
        }
    }
}

fn send(socket: &UdpSocket, peer: SocketAddr, answer: &[u8]) {
    if !answer.is_empty()
        && let Err(error) = socket.send_to(answer, peer)
    {
        tracing::debug!(%error, %peer, "a DNS answer could not be sent");
    }
}

fn wait(waiting: &mut [libc::pollfd]) -> io::Result<()> {
    loop {
        // SAFETY: there are as many as said.
        let ready = unsafe { libc::poll(waiting.as_mut_ptr(), waiting.len() as libc::nfds_t, -1) };
        if ready >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
