//! What is known of the paths to a node, and of its life.

use super::*;
use crate::probe::{silence::AGAIN, worker::TOLD};

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
    let health = Bench::new(Routing::Auto, |request, _| request.probe != Probe::Plain || request.family == 0);
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

/// The longest time until a node that is gone is known to be, of few nodes.
const KNOWN_BY: Duration = Duration::from_millis(2300);

fn bench_of_a_dead_node(routing: Routing) -> Bench {
    let mut bench = Bench::new(routing, |_, _| true);
    bench.run(LONG);
    bench.passes = |_, _| false;
    bench
}

fn standings(bench: &Bench) -> Vec<Standing> {
    bench.peer.standings().collect()
}

/// A8: within 3 s, whichever path was in use.
#[test]
fn a_node_that_is_gone_is_silent_soon() {
    for routing in [Routing::Auto, Routing::Overlay, Routing::Native] {
        let mut bench = bench_of_a_dead_node(routing);
        bench.run(AGAIN);
        assert!(!standings(&bench).contains(&Standing::Silent));
        bench.run(KNOWN_BY - AGAIN);
        assert_eq!(standings(&bench), [Standing::Silent; 2], "{routing:?}");
        bench.run(LONG);
        assert_eq!(standings(&bench), [Standing::Silent; 2], "{routing:?}");
    }
}

/// A8: taken back once it answers, and not on its first answer.
#[test]
fn a_node_that_is_back_is_silent_no_more() {
    for routing in [Routing::Auto, Routing::Overlay, Routing::Native] {
        let mut bench = bench_of_a_dead_node(routing);
        bench.run(LONG);
        bench.passes = |_, _| true;
        bench.run(Duration::from_secs(1));
        assert_eq!(standings(&bench), [Standing::Silent; 2], "{routing:?}");
        bench.run(Duration::from_secs(9));
        assert_eq!(standings(&bench), [Standing::Alive; 2], "{routing:?}");
    }
}

/// A8: where the underlay does not carry Pod addresses, its lost probes do not keep a node from coming back.
#[test]
fn a_node_that_is_back_over_the_overlay_alone_is_silent_no_more() {
    let mut bench = bench_of_a_dead_node(Routing::Auto);
    bench.run(LONG);
    bench.passes = |request, _| request.probe == Probe::Path;
    bench.run(LONG);
    assert_eq!(standings(&bench), [Standing::Alive; 2]);
}

#[test]
fn one_that_was_never_heard_is_not_silent_and_is_not_asked_more_often() {
    let mut bench = Bench::new(Routing::Overlay, |_, _| false);
    bench.run(LONG);
    assert_eq!(standings(&bench), [Standing::Alive; 2]);
    bench.sent = 0;
    bench.run(LONG);
    // Two families: the path each second and once more when that is late, its full size each fifth.
    assert!(bench.sent <= 2 * (2 * 10 + 3), "{}", bench.sent);
}

/// A8: only its agent is away.
#[test]
fn a_node_whose_kernel_refuses_probes_is_not_silent() {
    let mut bench = bench_of_a_dead_node(Routing::Auto);
    for _ in 0..200 {
        bench.now += Duration::from_millis(50);
        for request in bench.peer.due(bench.now, &bench.pace) {
            bench.peer.refused(request.nonce, bench.now);
        }
    }
    assert_eq!(standings(&bench), [Standing::Alive; 2]);
    assert_eq!(bench.peer.health().reachable, Some(false), "nobody answers, though");
}

/// A8: no verdict from late packets, even from all of them.
#[test]
fn a_node_that_answers_late_is_not_silent() {
    let mut bench = Bench::new(Routing::Overlay, |_, _| true);
    bench.run(LONG);
    let mut answers: Vec<(Instant, u64)> = Vec::new();
    for _ in 0..400 {
        bench.now += Duration::from_millis(50);
        let now = bench.now;
        answers.extend(
            (bench.peer.due(now, &bench.pace).iter())
                .map(|request| (now + Duration::from_millis(1100), request.nonce)),
        );
        let (arrived, under_way) = answers.iter().partition(|(at, _)| *at <= now);
        answers = under_way;
        let arrived: Vec<(Instant, u64)> = arrived;
        arrived.iter().for_each(|(_, nonce)| bench.peer.answered(*nonce, now));
        assert!(!standings(&bench).contains(&Standing::Silent));
    }
}

/// A8, at a user's size: each of 5,000 nodes asks each other one every seven seconds only. Those that happen to ask first tell others.
#[test]
fn among_thousands_of_nodes_all_know_soon_and_few_messages_are_sent() {
    const NODES: usize = 5000;
    let pace = Pace::of(NODES);
    let begin = Instant::now();
    let mut now = begin;
    let numbers = RandomState::new();
    let mut drawn = 0;
    let mut random = |below: usize| {
        drawn += 1;
        usize::try_from(numbers.hash_one(drawn) % below as u64).unwrap()
    };
    let mut nodes: Vec<Peer> = (0..NODES)
        .map(|_| {
            let mut peer = Peer::new(Routing::Overlay, 1, now);
            let first = peer.due(now, &pace);
            first.iter().for_each(|request| peer.answered(request.nonce, now));
            // They began at different times.
            let ago = pace.usual.mul_f64(random(1000) as f64 / 1000.0);
            peer.tracks[0].iter_mut().for_each(|track| track.next = now + pace.rare);
            peer.tracks[0][Probe::Path as usize].next = now + ago;
            peer
        })
        .collect();
    now += Duration::from_millis(500);
    let died = now;
    let (mut told, mut asked) = (0, 0);
    loop {
        now += Duration::from_millis(50);
        let mut doubts = Vec::new();
        for peer in &mut nodes {
            asked += peer.due(now, &pace).len();
            doubts.extend(peer.suspected().iter().flat_map(|_| 0..TOLD).map(|_| random(NODES)));
        }
        told += doubts.len();
        doubts.iter().for_each(|place| nodes[*place].ask(0, now));
        let silent = nodes.iter().filter(|peer| peer.standings().all(|one| one == Standing::Silent)).count();
        if silent == NODES {
            break;
        }
        assert!(now < died + Duration::from_millis(2600), "{silent} know after {:?}", now - died);
    }
    assert!(told <= NODES * TOLD, "{told}");
    assert!(asked <= NODES * 5, "{asked}");
}
