//! How many connections there are, whose, and for how long: nobody keeps others out by holding connections.
//!
//! A connection is a *stranger's* until a request on it was authenticated. There are few places for strangers, and little time;
//! when all places are taken, the address that holds most of them loses its oldest. Known clients have many places; when those
//! are all taken, the connection goes that has been idle longest.

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::watch;
use tokio::time::Instant;

/// Bounds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Places of strangers.
    pub(crate) strangers: usize,
    /// Places of known clients.
    pub(crate) known: usize,
    /// How long a stranger may take to be authenticated.
    pub(crate) introduction: Duration,
    /// How long a known client's connection may carry nothing.
    pub(crate) idle: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            strangers: 256,
            known: 8192,
            introduction: Duration::from_secs(15),
            // Longer than clients keep idle connections: Go's and hyper's let go of them after 90 seconds.
            idle: Duration::from_secs(180),
        }
    }
}

/// Every connection of a server, whichever listener it came by.
#[derive(Debug)]
pub(crate) struct Connections {
    limits: Limits,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    next: u64,
    places: HashMap<u64, Place>,
}

#[derive(Debug)]
struct Place {
    peer: IpAddr,
    known: bool,
    /// Requests under way.
    requests: usize,
    /// When it came, or when its last request ended.
    since: Instant,
    close: watch::Sender<bool>,
}

/// One connection's place; free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Connection {
    all: Arc<Connections>,
    number: u64,
    closed: watch::Receiver<bool>,
}

impl Connections {
    pub(crate) fn new(limits: Limits) -> Arc<Connections> {
        Arc::new(Connections { limits, held: Mutex::default() })
    }

    /// Takes a connection in; another may have to go for it.
    pub(crate) fn admit(self: &Arc<Self>, peer: IpAddr) -> Arc<Connection> {
        let (close, closed) = watch::channel(false);
        let mut held = self.lock();
        held.make_room_for_stranger(self.limits.strangers);
        let number = held.next;
        held.next += 1;
        let place = Place { peer, known: false, requests: 0, since: Instant::now(), close };
        held.places.insert(number, place);
        Arc::new(Connection { all: self.clone(), number, closed })
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn make_room_for_stranger(&mut self, limit: usize) {
        let mut by_peer: HashMap<IpAddr, usize> = HashMap::new();
        for place in self.places.values().filter(|place| !place.known) {
            *by_peer.entry(place.peer).or_default() += 1;
        }
        if by_peer.values().sum::<usize>() < limit {
            return;
        }
        let most = by_peer.into_iter().max_by_key(|(_, count)| *count).map(|(peer, _)| peer);
        let strangers = self.places.iter().filter(|(_, place)| !place.known && Some(place.peer) == most);
        self.close(strangers.min_by_key(|(number, _)| **number).map(|(number, _)| *number));
    }

    fn make_room_for_known(&mut self, limit: usize) {
        if self.places.values().filter(|place| place.known).count() < limit {
            return;
        }
        let idle = self.places.iter().filter(|(_, place)| place.known && place.requests == 0);
        self.close(idle.min_by_key(|(_, place)| place.since).map(|(number, _)| *number));
    }

    fn close(&mut self, number: Option<u64>) {
        if let Some(place) = number.and_then(|number| self.places.remove(&number)) {
            place.close.send_replace(true);
        }
    }
}

impl Place {
    /// How long it may stay as it is.
    fn left(&self, limits: &Limits, now: Instant) -> Duration {
        let spent = now.saturating_duration_since(self.since);
        match (self.known, self.requests) {
            (false, _) => limits.introduction.saturating_sub(spent),
            (true, 0) => limits.idle.saturating_sub(spent),
            // Looked at again once it may be idle.
            (true, _) => limits.idle,
        }
    }
}

impl Connection {
    /// A request on it was authenticated.
    pub(crate) fn introduce(&self) {
        let mut held = self.all.lock();
        if held.places.get(&self.number).is_some_and(|place| !place.known) {
            held.make_room_for_known(self.all.limits.known);
            if let Some(place) = held.places.get_mut(&self.number) {
                place.known = true;
            }
        }
    }

    /// A request begins; it ends when what is returned is dropped.
    pub(crate) fn request(self: &Arc<Self>) -> Underway {
        if let Some(place) = self.all.lock().places.get_mut(&self.number) {
            place.requests += 1;
        }
        Underway { connection: self.clone() }
    }

    /// Returns when the connection is to be closed.
    pub(crate) async fn expired(&self) {
        let mut closed = self.closed.clone();
        loop {
            let left = match self.all.lock().places.get(&self.number) {
                Some(place) => place.left(&self.all.limits, Instant::now()),
                None => return,
            };
            if left.is_zero() {
                return;
            }
            tokio::select! {
                // Without its sender the place is gone.
                _ = closed.wait_for(|closed| *closed) => return,
                () = tokio::time::sleep(left) => {}
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.all.lock().places.remove(&self.number);
    }
}

/// A request that is being answered, or a session that it has become.
#[derive(Debug)]
pub(crate) struct Underway {
    connection: Arc<Connection>,
}

impl Drop for Underway {
    fn drop(&mut self) {
        if let Some(place) = self.connection.all.lock().places.get_mut(&self.connection.number) {
            place.requests = place.requests.saturating_sub(1);
            // A stranger gets no more time by asking.
            if place.known {
                place.since = Instant::now();
            }
        }
    }
}

/// A body whose request is under way until its end.
pub(crate) struct Counted<B> {
    pub(crate) body: B,
    pub(crate) _underway: Underway,
}

impl<B: Body + Unpin> Body for Counted<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            strangers: 4,
            known: 2,
            introduction: Duration::from_secs(15),
            idle: Duration::from_secs(60),
        }
    }

    fn is_closed(connection: &Connection) -> bool {
        *connection.closed.borrow()
    }

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    /// E16: who holds most loses its oldest; nobody else does.
    #[test]
    fn strangers_who_hold_most_go_first() {
        let all = Connections::new(limits());
        let quiet = all.admit(B);
        let many: Vec<_> = (0..10).map(|_| all.admit(A)).collect();
        assert!(!is_closed(&quiet));
        let open = many.iter().filter(|one| !is_closed(one)).count();
        assert_eq!(open, 3);
        assert!(many[..7].iter().all(|one| is_closed(one)));
    }

    /// E16: a client that is at work is never closed for another.
    #[test]
    fn the_longest_idle_of_the_known_goes() {
        let all = Connections::new(limits());
        let busy = all.admit(A);
        busy.introduce();
        let _request = busy.request();
        let idle = all.admit(A);
        idle.introduce();
        let new = all.admit(B);
        new.introduce();
        assert!(is_closed(&idle) && !is_closed(&busy) && !is_closed(&new));
    }

    /// E16: who is not introduced has no time, whatever is asked meanwhile; who is at work has all.
    #[test]
    fn idle_connections_end() {
        let all = Connections::new(limits());
        let left = |connection: &Connection, after: Duration| {
            let held = all.lock();
            let place = &held.places[&connection.number];
            place.left(&all.limits, place.since + after)
        };
        let stranger = all.admit(A);
        drop(stranger.request());
        assert_eq!(left(&stranger, limits().introduction), Duration::ZERO);
        let known = all.admit(A);
        known.introduce();
        let watching = known.request();
        assert_eq!(left(&known, limits().idle * 10), limits().idle);
        drop(watching);
        assert_eq!(left(&known, limits().idle), Duration::ZERO);
        assert_ne!(left(&known, limits().idle / 2), Duration::ZERO);
    }
}
