//! What is known of the paths to one node. No I/O and no clock: time comes in, requests go out.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    time::{Duration, Instant},
};

use weft_abi::Path;

use super::Routing;

/// Between two probes while nothing is known yet.
const FIRST_INTERVAL: Duration = Duration::from_millis(100);
/// Between two probes afterwards.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Lost in a row before a path that worked counts as broken.
const LOST: u32 = 3;
/// Answered in a row before a path that broke counts as whole again.
const REGAINED: u32 = 5;

/// What is known of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The path to use.
    pub path: Path,
    /// Why it is that one.
    pub why: &'static str,
    /// Whether it was set or proved to be the one, not only assumed until a probe comes back or is lost.
    pub proved: bool,
    /// Whether probes over the path in use come back; absent before anything is known.
    pub reachable: Option<bool>,
    /// Whether packets as large as the path should take do get through.
    pub mtu: MtuProof,
}

/// The MTU of the path in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MtuProof {
    /// Nothing is known yet.
    Unknown,
    /// Packets of this many bytes come back.
    Proved(u32),
    /// Small packets come back, packets of this many bytes do not.
    Mismatch(u32),
}

/// What a probe proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Probe {
    /// That the underlay carries Pod addresses.
    Plain,
    /// That the path in use works.
    Path,
    /// That the path in use takes packets as large as it should.
    FullSize,
}

const PROBES: [Probe; 3] = [Probe::Plain, Probe::Path, Probe::FullSize];

/// A probe to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// Index of the address family's pair.
    pub(super) family: usize,
    pub(super) probe: Probe,
    pub(super) nonce: u64,
    /// Size of the IP packet, in bytes; 0 for the smallest.
    pub(super) packet_size: u32,
}

/// Everything known of one node.
#[derive(Debug)]
pub(super) struct Peer {
    routing: Routing,
    path: Path,
    overlay_mtu: u32,
    uplink_mtu: u32,
    /// One a family and kind of probe.
    tracks: BTreeMap<(usize, Probe), Track>,
    waiting: BTreeMap<u64, Waiting>,
    nonces: RandomState,
    sent: u64,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    track: (usize, Probe),
    until: Instant,
}

/// One kind of probe over one family.
#[derive(Clone, Copy, Debug)]
struct Track {
    next: Instant,
    answered: u32,
    lost: u32,
    /// Absent before the first answer or the third loss.
    works: Option<bool>,
}

impl Track {
    fn new(now: Instant) -> Track {
        Track { next: now, answered: 0, lost: 0, works: None }
    }

    fn answered(&mut self) {
        self.lost = 0;
        self.answered = self.answered.saturating_add(1);
        let enough = if self.works == Some(false) { REGAINED } else { 1 };
        if self.answered >= enough {
            self.works = Some(true);
        }
    }

    fn lost(&mut self) {
        self.answered = 0;
        self.lost = self.lost.saturating_add(1);
        if self.lost >= LOST {
            self.works = Some(false);
        }
    }
}

impl Peer {
    pub(super) fn new(routing: Routing, families: usize, now: Instant) -> Peer {
        let tracks = (0..families).flat_map(|family| PROBES.map(|probe| ((family, probe), Track::new(now))));
        Peer {
            routing,
            path: if routing == Routing::Native { Path::Native } else { Path::Overlay },
            overlay_mtu: 0,
            uplink_mtu: 0,
            tracks: tracks.collect(),
            waiting: BTreeMap::new(),
            nonces: RandomState::new(),
            sent: 0,
        }
    }

    pub(super) fn set_mtu(&mut self, overlay: u32, uplink: u32) {
        if (overlay, uplink) != (self.overlay_mtu, self.uplink_mtu) {
            (self.overlay_mtu, self.uplink_mtu) = (overlay, uplink);
            self.forget_path();
        }
    }

    /// The probes whose time has come. What was not answered in time counts as lost first.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Request> {
        let late: Vec<u64> = self
            .waiting
            .iter()
            .filter(|(_, waiting)| waiting.until <= now)
            .map(|(nonce, _)| *nonce)
            .collect();
        for nonce in late {
            if let Some(waiting) = self.waiting.remove(&nonce)
                && let Some(track) = self.tracks.get_mut(&waiting.track)
            {
                track.lost();
            }
        }
        self.choose_path(now);
        let mut requests = Vec::new();
        for (&(family, probe), track) in &mut self.tracks {
            if track.next > now || probe == Probe::Plain && self.routing != Routing::Auto {
                continue;
            }
            track.next = now + if track.works.is_none() { FIRST_INTERVAL } else { INTERVAL };
            self.sent += 1;
            let nonce = self.nonces.hash_one(self.sent);
            self.waiting.insert(nonce, Waiting { track: (family, probe), until: now + TIMEOUT });
            let packet_size = match (probe, self.path) {
                (Probe::Plain | Probe::Path, _) => 0,
                (Probe::FullSize, Path::Overlay) => self.overlay_mtu,
                (Probe::FullSize, Path::Native) => self.uplink_mtu,
            };
            requests.push(Request { family, probe, nonce, packet_size });
        }
        requests
    }

    /// An answer arrived. One that nobody waits for is ignored.
    pub(super) fn answered(&mut self, nonce: u64, now: Instant) {
        if let Some(waiting) = self.waiting.remove(&nonce)
            && let Some(track) = self.tracks.get_mut(&waiting.track)
        {
            track.answered();
            self.choose_path(now);
        }
    }

    pub(super) fn health(&self) -> Health {
        let expected = if self.path == Path::Native { self.uplink_mtu } else { self.overlay_mtu };
        let mtu = match (self.works(Probe::Path), self.works(Probe::FullSize)) {
            (_, Some(true)) => MtuProof::Proved(expected),
            (Some(true), Some(false)) => MtuProof::Mismatch(expected),
            _ => MtuProof::Unknown,
        };
        let why = match (self.routing, self.works(Probe::Plain)) {
            (Routing::Overlay, _) => "--routing overlay",
            (Routing::Native, _) => "--routing native",
            (Routing::Auto, Some(true)) => "the underlay carries Pod addresses",
            (Routing::Auto, Some(false)) => "the underlay does not carry Pod addresses",
            (Routing::Auto, None) => "not proved yet",
        };
        let proved = self.routing != Routing::Auto || self.works(Probe::Plain).is_some();
        Health { path: self.path, why, proved, reachable: self.works(Probe::Path), mtu }
    }

    /// Whether a kind of probe works: over every family.
    fn works(&self, probe: Probe) -> Option<bool> {
        let mut tracks =
            self.tracks.iter().filter(|((_, kind), _)| *kind == probe).map(|(_, track)| track.works);
        tracks
            .try_fold(true, |all, works| works.map(|works| all && works))
            .filter(|_| !self.tracks.is_empty())
    }

    fn choose_path(&mut self, now: Instant) {
        if self.routing != Routing::Auto {
            return;
        }
        let path = if self.works(Probe::Plain) == Some(true) { Path::Native } else { Path::Overlay };
        if path != self.path {
            self.path = path;
            self.forget_path();
            for ((_, probe), track) in &mut self.tracks {
                if *probe != Probe::Plain {
                    track.next = now + FIRST_INTERVAL;
                }
            }
        }
    }

    /// What was proved of the path in use says nothing of another one.
    fn forget_path(&mut self) {
        self.waiting.retain(|_, waiting| waiting.track.1 == Probe::Plain);
        for ((_, probe), track) in &mut self.tracks {
            if *probe != Probe::Plain {
                *track = Track { next: track.next, ..Track::new(track.next) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A peer, a clock, and which probes its network lets through.
    struct Bench {
        peer: Peer,
        now: Instant,
        passes: fn(&Request, Path) -> bool,
    }

    impl Bench {
        fn new(routing: Routing, passes: fn(&Request, Path) -> bool) -> Bench {
            let now = Instant::now();
            let mut peer = Peer::new(routing, 2, now);
            peer.set_mtu(1450, 1500);
            Bench { peer, now, passes }
        }

        fn run(&mut self, time: Duration) -> Health {
            let end = self.now + time;
            while self.now < end {
                self.now += Duration::from_millis(50);
                for request in self.peer.due(self.now) {
                    if (self.passes)(&request, self.peer.path) {
                        self.peer.answered(request.nonce, self.now);
                    }
                }
            }
            self.peer.health()
        }
    }

    const LONG: Duration = Duration::from_secs(10);

    #[test]
    fn native_where_the_probe_comes_back() {
        let health = Bench::new(Routing::Auto, |_, _| true).run(LONG);
        assert_eq!(
            (health.path, health.reachable, health.mtu),
            (Path::Native, Some(true), MtuProof::Proved(1500))
        );
    }

    #[test]
    fn overlay_where_it_does_not() {
        let health = Bench::new(Routing::Auto, |request, _| request.probe != Probe::Plain).run(LONG);
        assert_eq!(
            (health.path, health.reachable, health.mtu),
            (Path::Overlay, Some(true), MtuProof::Proved(1450))
        );
        assert_eq!(health.why, "the underlay does not carry Pod addresses");
    }

    #[test]
    fn overlay_where_only_one_family_comes_back() {
        let health =
            Bench::new(Routing::Auto, |request, _| request.probe != Probe::Plain || request.family == 0);
        let mut health = health;
        assert_eq!(health.run(LONG).path, Path::Overlay);
    }

    #[test]
    fn a_native_path_that_stops_working_falls_back_and_returns_only_when_it_is_steady() {
        let mut bench = Bench::new(Routing::Auto, |_, _| true);
        assert_eq!(bench.run(LONG).path, Path::Native);
        bench.passes = |request, _| request.probe != Probe::Plain;
        assert_eq!(bench.run(LONG).path, Path::Overlay);
        bench.passes = |_, _| true;
        assert_eq!(bench.run(Duration::from_secs(3)).path, Path::Overlay, "not on the first answers");
        assert_eq!(bench.run(LONG).path, Path::Native);
    }

    #[test]
    fn one_lost_probe_changes_nothing() {
        let mut bench = Bench::new(Routing::Auto, |_, _| true);
        bench.run(LONG);
        bench.passes = |_, _| false;
        assert_eq!(bench.run(INTERVAL + TIMEOUT).path, Path::Native);
    }

    #[test]
    fn a_path_that_loses_large_packets_is_a_mismatch() {
        let health = Bench::new(Routing::Auto, |request, _| request.packet_size < 1400).run(LONG);
        assert_eq!((health.reachable, health.mtu), (Some(true), MtuProof::Mismatch(1500)));
        let health = Bench::new(Routing::Overlay, |request, _| request.packet_size < 1400).run(LONG);
        assert_eq!((health.path, health.mtu), (Path::Overlay, MtuProof::Mismatch(1450)));
    }

    #[test]
    fn a_forced_path_is_kept_whatever_is_proved() {
        let health = Bench::new(Routing::Native, |_, _| false).run(LONG);
        assert_eq!((health.path, health.reachable), (Path::Native, Some(false)));
        let health = Bench::new(Routing::Overlay, |_, _| true).run(LONG);
        assert_eq!(health.path, Path::Overlay);
    }

    #[test]
    fn an_answer_that_nobody_waits_for_proves_nothing() {
        let now = Instant::now();
        let mut peer = Peer::new(Routing::Auto, 1, now);
        peer.due(now);
        (0..1000).for_each(|nonce| peer.answered(nonce, now));
        assert_eq!(peer.health().path, Path::Overlay);
    }
}
