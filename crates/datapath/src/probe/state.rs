//! What is known of the paths to one node. No I/O and no clock: time comes in, requests go out.

use std::{
    hash::{BuildHasher, RandomState},
    time::{Duration, Instant},
};

use weft_abi::Path;

use super::{Routing, pace::Pace};

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Lost in a row before a path that worked counts as broken.
const LOST: u32 = 3;
/// Until a path that was just chosen is in force, probably.
const CHANGE: Duration = Duration::from_millis(100);
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probe {
    /// That the underlay carries Pod addresses.
    Plain,
    /// That the path in use works.
    Path,
    /// That the path in use takes packets as large as it should.
    FullSize,
}

/// In the order of their tracks.
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
    /// By family and [`PROBES`].
    tracks: Box<[[Track; PROBES.len()]]>,
    /// Few: a track is asked anew when the last answer is overdue, or ten times while nothing is known.
    waiting: Vec<Waiting>,
    nonces: RandomState,
    sent: u64,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    nonce: u64,
    family: usize,
    probe: Probe,
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
    /// It has worked before.
    worked: bool,
}

impl Track {
    fn new(now: Instant) -> Track {
        Track { next: now, answered: 0, lost: 0, works: None, worked: false }
    }

    fn answered(&mut self) {
        self.lost = 0;
        self.answered = self.answered.saturating_add(1);
        // What has never worked did not break: its first answer is proof, however late it comes.
        let enough = if self.works == Some(false) && self.worked { REGAINED } else { 1 };
        if self.answered >= enough {
            (self.works, self.worked) = (Some(true), true);
        }
    }

    /// Whether it was lost is asked again at once, so that what broke is known soon however seldom it is asked.
    fn lost(&mut self, now: Instant) {
        self.answered = 0;
        self.lost = self.lost.saturating_add(1);
        if self.lost >= LOST {
            self.works = Some(false);
        } else {
            self.next = self.next.min(now);
        }
    }

    /// How long until it is asked again, for one that matters more or less.
    fn interval(&self, pace: &Pace, matters: bool) -> Duration {
        // What is answered again is on its way to be whole.
        let returns = self.works == Some(false) && self.answered > 0;
        match self.works {
            None => pace.first,
            Some(_) if matters || returns => pace.usual,
            Some(_) => pace.rare,
        }
    }
}

impl Peer {
    pub(super) fn new(routing: Routing, families: usize, now: Instant) -> Peer {
        Peer {
            routing,
            path: if routing == Routing::Native { Path::Native } else { Path::Overlay },
            overlay_mtu: 0,
            uplink_mtu: 0,
            tracks: vec![[Track::new(now); PROBES.len()]; families].into(),
            waiting: Vec::new(),
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
    pub(super) fn due(&mut self, now: Instant, pace: &Pace) -> Vec<Request> {
        while let Some(late) = self.waiting.iter().position(|waiting| waiting.until <= now) {
            let late = self.waiting.swap_remove(late);
            if let Some(track) = track(&mut self.tracks, late.family, late.probe) {
                track.lost(now);
            }
        }
        self.choose_path(now);
        let mut requests = Vec::new();
        let (routing, path) = (self.routing, self.path);
        for (family, tracks) in self.tracks.iter_mut().enumerate() {
            for (probe, track) in PROBES.into_iter().zip(tracks) {
                if track.next > now || !is_asked(probe, routing) {
                    continue;
                }
                track.next = now + track.interval(pace, matters(probe, routing, path));
                self.sent += 1;
                let nonce = self.nonces.hash_one(self.sent);
                self.waiting.push(Waiting { nonce, family, probe, until: now + TIMEOUT });
                let packet_size = match (probe, path) {
                    (Probe::Plain | Probe::Path, _) => 0,
                    (Probe::FullSize, Path::Overlay) => self.overlay_mtu,
                    (Probe::FullSize, Path::Native) => self.uplink_mtu,
                };
                requests.push(Request { family, probe, nonce, packet_size });
            }
        }
        requests
    }

    /// When [`Peer::due`] has something to do next, if nothing is answered before; `None` when never.
    pub(super) fn next(&self) -> Option<Instant> {
        let asked = |(probe, track): (Probe, &Track)| is_asked(probe, self.routing).then_some(track.next);
        let tracks = self.tracks.iter().flat_map(|tracks| PROBES.into_iter().zip(tracks).filter_map(asked));
        tracks.chain(self.waiting.iter().map(|waiting| waiting.until)).min()
    }

    /// An answer arrived. One that nobody waits for is ignored.
    pub(super) fn answered(&mut self, nonce: u64, now: Instant) {
        if let Some(place) = self.waiting.iter().position(|waiting| waiting.nonce == nonce) {
            let waiting = self.waiting.swap_remove(place);
            let silent = self.works(Probe::Path) == Some(false);
            if let Some(track) = track(&mut self.tracks, waiting.family, waiting.probe) {
                track.answered();
            }
            if silent && self.works(Probe::Path) == Some(true) {
                self.ask_underlay_again(now);
            }
            self.choose_path(now);
        }
    }

    /// The node answers again: that the underlay did not carry Pod addresses meanwhile says nothing any more.
    fn ask_underlay_again(&mut self, now: Instant) {
        for tracks in &mut self.tracks {
            let plain = &mut tracks[Probe::Plain as usize];
            if plain.works == Some(false) {
                *plain = Track { worked: plain.worked, ..Track::new(now) };
            }
        }
    }

    pub(super) fn health(&self) -> Health {
        let expected = if self.path == Path::Native { self.uplink_mtu } else { self.overlay_mtu };
        let mtu = match (self.works(Probe::Path), self.works(Probe::FullSize)) {
            (_, Some(true)) => MtuProof::Proved(expected),
            (Some(true), Some(false)) => MtuProof::Mismatch(expected),
            _ => MtuProof::Unknown,
        };
        // A node that answers neither way proves nothing of the underlay: it may not be up yet.
        let proved = match self.works(Probe::Plain) {
            Some(true) => true,
            Some(false) => self.works(Probe::Path) == Some(true),
            None => false,
        };
        let why = match (self.routing, self.works(Probe::Plain)) {
            (Routing::Overlay, _) => "--routing overlay",
            (Routing::Native, _) => "--routing native",
            (Routing::Auto, Some(true)) => "the underlay carries Pod addresses",
            (Routing::Auto, Some(false)) if proved => "the underlay does not carry Pod addresses",
            (Routing::Auto, Some(false)) => "the node does not answer",
            (Routing::Auto, None) => "not proved yet",
        };
        let proved = self.routing != Routing::Auto || proved;
        Health { path: self.path, why, proved, reachable: self.works(Probe::Path), mtu }
    }

    /// Whether a kind of probe works: over every family.
    fn works(&self, probe: Probe) -> Option<bool> {
        let mut tracks = self.tracks.iter().map(|tracks| tracks[probe as usize].works);
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
            self.of_path().for_each(|track| track.next = now + CHANGE);
        }
    }

    /// What was proved of the path in use says nothing of another one.
    fn forget_path(&mut self) {
        self.waiting.retain(|waiting| waiting.probe == Probe::Plain);
        self.of_path().for_each(|track| *track = Track::new(track.next));
    }

    /// What is known of the path in use.
    fn of_path(&mut self) -> impl Iterator<Item = &mut Track> {
        let of_path = |(probe, track)| (probe != Probe::Plain).then_some(track);
        self.tracks.iter_mut().flat_map(move |tracks| PROBES.into_iter().zip(tracks).filter_map(of_path))
    }
}

fn track(tracks: &mut [[Track; PROBES.len()]], family: usize, probe: Probe) -> Option<&mut Track> {
    tracks.get_mut(family).map(|tracks| &mut tracks[probe as usize])
}

/// Whether there is anything to learn from it.
fn is_asked(probe: Probe, routing: Routing) -> bool {
    probe != Probe::Plain || routing == Routing::Auto
}

/// Whether it tells what breaks: the one by which the path is chosen, or, where that one does not tell of the path in use, that path's
/// own. That a path becomes better, and how large its packets may be, changes seldom.
fn matters(probe: Probe, routing: Routing, path: Path) -> bool {
    let by_plain = routing == Routing::Auto && path == Path::Native;
    match probe {
        Probe::Plain => by_plain,
        Probe::Path => !by_plain,
        Probe::FullSize => false,
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
        pace: Pace,
        sent: usize,
    }

    impl Bench {
        fn new(routing: Routing, passes: fn(&Request, Path) -> bool) -> Bench {
            let now = Instant::now();
            let mut peer = Peer::new(routing, 2, now);
            peer.set_mtu(1450, 1500);
            Bench { peer, now, passes, pace: Pace::of(2), sent: 0 }
        }

        fn run(&mut self, time: Duration) -> Health {
            let end = self.now + time;
            while self.now < end {
                self.now += Duration::from_millis(50);
                for request in self.peer.due(self.now, &self.pace) {
                    self.sent += 1;
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

    /// B10: a node that answers neither way, because it is not up yet, proves nothing; its first answer does.
    #[test]
    fn a_node_that_is_not_up_yet_proves_nothing() {
        let mut bench = Bench::new(Routing::Auto, |_, _| false);
        let health = bench.run(LONG);
        assert_eq!((health.proved, health.why), (false, "the node does not answer"));
        bench.passes = |_, _| true;
        let health = bench.run(Duration::from_secs(2));
        assert_eq!((health.proved, health.path), (true, Path::Native));
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
        let moment = bench.pace.usual + TIMEOUT;
        assert_eq!(bench.run(moment).path, Path::Native);
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
        peer.due(now, &Pace::of(1));
        (0..1000).for_each(|nonce| peer.answered(nonce, now));
        assert_eq!(peer.health().path, Path::Overlay);
    }

    #[test]
    fn what_works_is_asked_for_no_more_often_than_it_must() {
        let mut bench = Bench::new(Routing::Auto, |_, _| true);
        bench.run(LONG);
        bench.sent = 0;
        bench.run(LONG);
        // Two families: one probe in each interval, and two more in each fifth.
        assert!((24..=32).contains(&bench.sent), "{}", bench.sent);
    }

    #[test]
    fn however_seldom_it_is_asked_what_broke_is_known_a_few_time_outs_later() {
        let mut bench = Bench::new(Routing::Auto, |_, _| true);
        bench.pace = Pace::of(5000);
        let (usual, rare) = (bench.pace.usual, bench.pace.rare);
        assert!(usual > 5 * TIMEOUT);
        assert_eq!(bench.run(rare).path, Path::Native);
        bench.passes = |request, _| request.probe != Probe::Plain;
        assert_eq!(bench.run(usual + 4 * TIMEOUT).path, Path::Overlay);
    }

    #[test]
    fn when_something_is_due_is_said() {
        let mut bench = Bench::new(Routing::Auto, |request, _| request.probe != Probe::FullSize);
        bench.run(LONG);
        for _ in 0..100 {
            let next = bench.peer.next().unwrap();
            assert!(bench.peer.due(next - Duration::from_millis(1), &bench.pace).is_empty());
            let sent = bench.sent;
            bench.now = next - Duration::from_millis(50);
            bench.run(Duration::from_millis(50));
            // Overdue answers make something due too.
            assert!(bench.sent > sent || bench.peer.next() > Some(next));
        }
    }
}
