//! What is known of the paths to one node. No I/O and no clock: time comes in, requests go out.

use std::{
    hash::{BuildHasher, RandomState},
    time::{Duration, Instant},
};

use weft_abi::Path;

use super::{
    Routing,
    pace::{Pace, USUAL},
    silence::{Silence, Standing},
};

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(1);
/// How long an answer that is too late for that is still a sign of life.
const LATE: Duration = Duration::from_secs(3);
/// Lost in a row before a path that worked counts as broken.
const LOST: u32 = 3;
/// Until a path that was just chosen is in force, probably.
const CHANGE: Duration = Duration::from_millis(100);
/// Answered in a row before a path that broke counts as whole again.
const REGAINED: u32 = 5;

/// What is known of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// Where it gives no sign of life any more, though most other nodes do.
    pub silent: Families,
}

/// Address families.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Families {
    /// IPv4.
    pub ipv4: bool,
    /// IPv6.
    pub ipv6: bool,
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
    /// By family.
    silences: Box<[Silence]>,
    /// Families over which it has just come to be suspected.
    suspected: Vec<usize>,
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
    sent: Instant,
    /// Its answer says no more than that there is life: it was late, or it was asked for that alone.
    sign_only: bool,
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
            silences: vec![Silence::default(); families].into(),
            suspected: Vec::new(),
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
        self.waiting.retain(|waiting| now < waiting.sent + LATE);
        let lost = |waiting: &&mut Waiting| !waiting.sign_only && waiting.sent + TIMEOUT <= now;
        for late in self.waiting.iter_mut().filter(lost) {
            late.sign_only = true;
            if let Some(track) = track(&mut self.tracks, late.family, late.probe) {
                track.lost(now);
            }
            let telling = matters(late.probe, self.routing, self.path);
            if let Some(silence) = self.silences.get_mut(late.family).filter(|_| telling) {
                silence.lost();
            }
        }
        self.choose_path(now);
        let mut requests = Vec::new();
        let (routing, path) = (self.routing, self.path);
        for (family, (tracks, silence)) in self.tracks.iter_mut().zip(&mut self.silences).enumerate() {
            let before = silence.standing();
            let late = silence.is_late(now);
            if before == Standing::Alive && silence.standing() != before {
                self.suspected.push(family);
            }
            for (probe, track) in PROBES.into_iter().zip(tracks) {
                let matters = matters(probe, routing, path);
                if (track.next > now && !(matters && late)) || !is_asked(probe, routing) {
                    continue;
                }
                let sign_only = track.next > now;
                if !sign_only {
                    let interval = track.interval(pace, matters);
                    track.next = now + if silence.returns() { interval.min(USUAL) } else { interval };
                }
                if matters {
                    silence.asked(now);
                }
                self.sent += 1;
                let nonce = self.nonces.hash_one(self.sent);
                self.waiting.push(Waiting { nonce, family, probe, sent: now, sign_only });
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
        let lost =
            self.waiting.iter().filter(|waiting| !waiting.sign_only).map(|waiting| waiting.sent + TIMEOUT);
        tracks.chain(lost).chain(self.silences.iter().filter_map(Silence::next)).min()
    }

    /// An answer arrived. One that nobody waits for is ignored.
    pub(super) fn answered(&mut self, nonce: u64, now: Instant) {
        let Some(place) = self.waiting.iter().position(|waiting| waiting.nonce == nonce) else { return };
        let waiting = self.waiting.swap_remove(place);
        if let Some(silence) = self.silences.get_mut(waiting.family) {
            silence.sign(now);
        }
        if waiting.sign_only {
            return;
        }
        let silent = self.works(Probe::Path) == Some(false);
        if let Some(track) = track(&mut self.tracks, waiting.family, waiting.probe) {
            track.answered();
        }
        if silent && self.works(Probe::Path) == Some(true) {
            self.ask_underlay_again(now);
        }
        self.choose_path(now);
    }

    /// The node's kernel says that nobody answers probes there: its agent is away, and its Pods are not.
    pub(super) fn refused(&mut self, nonce: u64, now: Instant) {
        let waiting = self.waiting.iter().find(|waiting| waiting.nonce == nonce);
        if let Some(silence) = waiting.and_then(|waiting| self.silences.get_mut(waiting.family)) {
            silence.sign(now);
        }
    }

    /// Others wonder whether it is still there: it is asked at once.
    pub(super) fn ask(&mut self, family: usize, now: Instant) {
        let (routing, path) = (self.routing, self.path);
        if !self.silences.get(family).is_some_and(|silence| silence.may_be_asked(now)) {
            return;
        }
        for (probe, track) in PROBES.into_iter().zip(self.tracks.get_mut(family).into_iter().flatten()) {
            if matters(probe, routing, path) {
                track.next = track.next.min(now);
            }
        }
    }

    /// Families over which it has come to be suspected since the last call.
    pub(super) fn suspected(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.suspected)
    }

    /// How it stands, by family.
    pub(super) fn standings(&self) -> impl Iterator<Item = Standing> {
        self.silences.iter().map(Silence::standing)
    }

    /// It has just given a sign of life over this family.
    pub(super) fn is_fresh(&self, family: usize, now: Instant) -> bool {
        self.silences.get(family).is_some_and(|silence| silence.is_fresh(now))
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
        let reachable = self.works(Probe::Path);
        Health { path: self.path, why, proved, reachable, mtu, silent: Families::default() }
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
mod tests;
