//! Several nodes, one API server and the network between them in memory. Messages and requests are late, lost or repeated, nodes
//! pause, restart and are cut off, clocks drift: no address ever has two nodes that answer for it, and it always gets one again.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const ADDRESSES: [&str; 3] = ["192.168.1.130", "192.168.1.131", "fd00::82"];
/// How long a step of the world is.
const STEP: Duration = Duration::from_millis(10);
/// After this an unanswered request has failed.
const PATIENCE: Duration = Duration::from_millis(900);

struct World {
    start: Instant,
    now: Duration,
    version: u64,
    leases: BTreeMap<String, Lease>,
    /// Writes that the API server has granted.
    writes: usize,
    nodes: Vec<Node>,
    /// Nobody reaches the API server.
    api_is_away: bool,
}

struct Node {
    name: String,
    announcer: Announcer,
    /// The process runs.
    up: bool,
    /// The machine runs: its data plane answers, and its agent could.
    alive: bool,
    hears_api: bool,
    /// Nodes that it can exchange messages with.
    hears: BTreeSet<String>,
    /// How fast its clock runs, in thousandths.
    speed: u32,
    /// The data plane's fence: it answers until then whatever the process does.
    fence: BTreeMap<IpAddr, Instant>,
    /// What the process has told its data plane.
    told: BTreeMap<IpAddr, Instant>,
    /// The process has heard of Leases.
    is_informed: bool,
    /// Votes that were kept.
    kept: BTreeMap<String, u64>,
    views: Vec<(Duration, BTreeMap<String, Lease>)>,
    /// Requests under way: when they reach the API server, when they were sent by the node's clock.
    requests: Vec<(Duration, Instant, Duration, Request)>,
    answers: Vec<Answer>,
    mail: Vec<(Duration, String, Message)>,
}

struct Answer {
    at: Duration,
    sent: Instant,
    about: About,
    outcome: Outcome,
}

/// What becomes of a write, as its sender hears.
enum Outcome {
    Written(Lease),
    /// The Lease is like this instead.
    Refused(Option<Lease>),
    /// Nothing was heard.
    Unknown,
}

impl Node {
    fn clock(&self, start: Instant, now: Duration) -> Instant {
        start + now * self.speed / 1000
    }
}

impl World {
    fn new(count: usize) -> World {
        let start = Instant::now();
        let names: Vec<String> = (0..count).map(|number| format!("node-{number}")).collect();
        let node = |name: &String| {
            let mut node = Node {
                name: name.clone(),
                announcer: Announcer::new(name, Some(BTreeMap::new()), 0, start),
                up: true,
                alive: true,
                hears_api: true,
                hears: names.iter().cloned().collect(),
                speed: 1000,
                fence: BTreeMap::new(),
                told: BTreeMap::new(),
                is_informed: false,
                kept: BTreeMap::new(),
                views: Vec::new(),
                requests: Vec::new(),
                answers: Vec::new(),
                mail: Vec::new(),
            };
            introduce(&mut node.announcer, &names, start);
            node
        };
        let nodes = names.iter().map(node).collect();
        World {
            start,
            now: Duration::ZERO,
            version: 0,
            leases: BTreeMap::new(),
            writes: 0,
            nodes,
            api_is_away: false,
        }
    }

    fn names(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.name.clone()).collect()
    }

    fn serve(&mut self, request: &Request) -> Outcome {
        let Request::Write { name, before, write, .. } = request else { panic!("{request:?}") };
        let current = self.leases.get(name);
        if current.map(|lease| &lease.version) != before.as_ref().map(|lease| &lease.version) {
            return Outcome::Refused(current.cloned());
        }
        self.version += 1;
        self.writes += 1;
        let lease = Lease {
            name: name.clone(),
            holder: write.holder.clone(),
            duration: write.duration,
            transitions: 0,
            version: self.version.to_string(),
            epoch: write.epoch,
            voters: write.voters.clone(),
        };
        self.leases.insert(name.clone(), lease.clone());
        Outcome::Written(lease)
    }

    /// `delay` says how late the next thing comes; none: it is lost.
    fn step(&mut self, delay: &mut impl FnMut() -> Option<Duration>) {
        self.now += STEP;
        let time = self.now;
        for at in 0..self.nodes.len() {
            let arrived = extract(&mut self.nodes[at].requests, |one| one.0 <= time);
            for (_, sent, sent_at, request) in arrived {
                let Request::Write { about, .. } = request.clone() else { continue };
                let outcome = if self.api_is_away { Outcome::Unknown } else { self.serve(&request) };
                // Whoever hears nothing in time takes the request for failed, whatever became of it.
                let late =
                    delay().filter(|late| self.nodes[at].hears_api && time + *late < sent_at + PATIENCE);
                let (at_time, outcome) = match late {
                    Some(late) if !self.api_is_away => (time + late, outcome),
                    _ => (sent_at + PATIENCE, Outcome::Unknown),
                };
                self.nodes[at].answers.push(Answer { at: at_time, sent, about, outcome });
            }
        }
        let mut letters = Vec::new();
        for at in 0..self.nodes.len() {
            if self.nodes[at].hears_api
                && !self.api_is_away
                && let Some(late) = delay()
            {
                let leases = self.leases.clone();
                self.nodes[at].views.push((time + late, leases));
            }
            if self.nodes[at].up && self.nodes[at].alive {
                self.run(at, delay, &mut letters);
            }
        }
        for (from, to, message) in letters {
            let Some(late) = delay() else { continue };
            let is_heard = |one: &Node, other: &str| one.hears.contains(other);
            let sender = self.nodes.iter().find(|node| node.name == from).unwrap();
            if !is_heard(sender, &to) {
                continue;
            }
            if let Some(node) = self.nodes.iter_mut().find(|node| node.name == to)
                && is_heard(node, &from)
            {
                node.mail.push((time + late, from, message));
            }
        }
    }

    fn run(
        &mut self,
        at: usize,
        delay: &mut impl FnMut() -> Option<Duration>,
        letters: &mut Vec<(String, String, Message)>,
    ) {
        let (time, start) = (self.now, self.start);
        let node = &mut self.nodes[at];
        let now = node.clock(start, time);
        for (_, leases) in extract(&mut node.views, |one| one.0 <= time) {
            node.announcer.see(&leases, now);
            node.is_informed = true;
        }
        let mut out = Vec::new();
        for (_, from, message) in extract(&mut node.mail, |one| one.0 <= time) {
            out.extend(node.announcer.hear(&from, &message, now));
        }
        for answer in extract(&mut node.answers, |one| one.at <= time) {
            match answer.outcome {
                Outcome::Written(lease) => node.announcer.written(&answer.about, lease, answer.sent, now),
                Outcome::Refused(current) => {
                    node.announcer.failed(&answer.about, Some(current.as_ref()), now);
                }
                Outcome::Unknown => node.announcer.failed(&answer.about, None, now),
            }
        }
        if node.is_informed {
            let (requests, _) = node.announcer.next(1_700_000_000 + time.as_secs(), now);
            out.extend(requests);
        }
        let held: BTreeMap<IpAddr, Instant> = node.announcer.held(now).into_iter().collect();
        if held != node.told {
            (node.told, node.fence) = (held.clone(), held);
        }
        if let Some(voted) = node.announcer.unsaved() {
            node.kept.clone_from(voted);
        }
        for request in out {
            match request {
                Request::Send(to, message) => letters.push((node.name.clone(), to, message)),
                write @ Request::Write { .. } => match delay().filter(|_| node.hears_api) {
                    Some(late) => node.requests.push((time + late, now, time, write)),
                    None => {
                        let Request::Write { about, .. } = write else { continue };
                        node.answers.push(Answer {
                            at: time + PATIENCE,
                            sent: now,
                            about,
                            outcome: Outcome::Unknown,
                        });
                    }
                },
            }
        }
    }

    /// The process ends, and another one begins, which knows what was kept.
    fn restart(&mut self, at: usize) {
        let kept = Some(self.nodes[at].kept.clone());
        self.begin(at, kept);
    }

    fn begin(&mut self, at: usize, kept: Option<BTreeMap<String, u64>>) {
        let (names, start, time) = (self.names(), self.start, self.now);
        let node = &mut self.nodes[at];
        let now = node.clock(start, time);
        node.announcer = Announcer::new(&node.name, kept, 1000 + time.as_millis() as u64, now);
        introduce(&mut node.announcer, &names, now);
        node.answers.clear();
        node.mail.clear();
        node.views.clear();
        node.told.clear();
        node.is_informed = false;
    }

    fn run_for(&mut self, time: Duration) {
        for _ in 0..time.as_millis() / STEP.as_millis() {
            self.step(&mut soon);
            self.check();
        }
    }

    fn answering(&self, address: &str) -> Vec<&str> {
        let address = address.parse::<IpAddr>().unwrap();
        let answers = |node: &&Node| {
            let now = node.clock(self.start, self.now);
            node.alive && node.fence.get(&address).is_some_and(|until| *until > now)
        };
        self.nodes.iter().filter(answers).map(|node| node.name.as_str()).collect()
    }

    /// Never two.
    #[track_caller]
    fn check(&self) {
        for address in ADDRESSES {
            let answering = self.answering(address);
            assert!(answering.len() <= 1, "{address} at {:?}: {answering:?}", self.now);
        }
    }

    #[track_caller]
    fn holder(&self, address: &str) -> String {
        let answering = self.answering(address);
        assert_eq!(answering.len(), 1, "{address} at {:?}", self.now);
        answering[0].to_owned()
    }

    fn node(&mut self, name: &str) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.name == name).unwrap()
    }

    /// The node exchanges no messages with others any more, or does again.
    fn cut_from_peers(&mut self, name: &str, cut: bool) {
        let names: BTreeSet<String> = self.names().into_iter().collect();
        self.node(name).hears = if cut { BTreeSet::new() } else { names };
    }
}

fn extract<T>(from: &mut Vec<T>, is_due: impl Fn(&T) -> bool) -> Vec<T> {
    let (due, later) = std::mem::take(from).into_iter().partition(is_due);
    *from = later;
    due
}

fn introduce(announcer: &mut Announcer, names: &[String], now: Instant) {
    let peer = Peer { addresses: Vec::new(), votes: true, ready: true, zone: None };
    announcer.set_peers(&names.iter().map(|name| (name.clone(), peer.clone())).collect(), now);
    announcer.set_candidates(names);
    announcer.set_wanted(&ADDRESSES.iter().map(|text| (text.parse().unwrap(), true)).collect(), now);
}

fn soon() -> Option<Duration> {
    Some(STEP)
}

/// A world in which every address is answered for, and promises have been asked for.
fn settled(count: usize) -> World {
    let mut world = World::new(count);
    world.run_for(Duration::from_secs(4));
    for address in ADDRESSES {
        world.holder(address);
    }
    world
}

#[test]
fn every_address_has_one_node_and_they_are_spread() {
    settled(3);
    let names: Vec<String> = (0..4).map(|number| format!("node-{number}")).collect();
    let first = |at: u8| {
        let address = IpAddr::from([192, 168, 1, at]);
        names.iter().position(|name| patience(&names, name, address) == Duration::ZERO).unwrap()
    };
    let mut counts = [0; 4];
    (0..=255).for_each(|at| counts[first(at)] += 1);
    assert!(counts.iter().all(|count| (40..90).contains(count)), "{counts:?}");
}

/// B7: what it costs the API server does not depend on how many addresses there are, and is nothing while nothing changes.
#[test]
fn nothing_is_written_while_nothing_changes() {
    for count in [1, 2, 3, 9] {
        let mut world = settled(count);
        let before = world.writes;
        world.run_for(Duration::from_secs(30));
        assert_eq!(world.writes, before, "{count} nodes");
    }
}

/// B7
#[test]
fn the_addresses_of_a_dead_node_move_within_three_seconds() {
    for count in [2, 3, 6] {
        let mut world = settled(count);
        let dead = world.holder(ADDRESSES[0]);
        world.node(&dead).alive = false;
        let begun = world.now;
        while world.answering(ADDRESSES[0]).is_empty() {
            world.step(&mut soon);
            world.check();
            assert!(world.now - begun < Duration::from_secs(3), "{count} nodes");
        }
        // When it comes back, what others hold is left to them.
        let now_at = world.holder(ADDRESSES[0]);
        world.node(&dead).alive = true;
        world.run_for(Duration::from_secs(5));
        assert_eq!(world.holder(ADDRESSES[0]), now_at);
    }
}

/// B7: nobody can take anything over, and nobody has to fall silent.
#[test]
fn an_api_server_that_is_away_silences_no_address() {
    for count in [1, 2, 3, 6] {
        let mut world = settled(count);
        let before = ADDRESSES.map(|address| world.holder(address));
        world.api_is_away = true;
        for _ in 0..90 {
            world.run_for(Duration::from_secs(1));
            assert_eq!(
                ADDRESSES.map(|address| world.holder(address)),
                before,
                "{count} nodes, {:?}",
                world.now
            );
        }
        world.api_is_away = false;
        world.run_for(Duration::from_secs(5));
        assert_eq!(ADDRESSES.map(|address| world.holder(address)), before);
    }
}

/// B7
#[test]
fn an_api_server_that_is_slow_silences_no_address() {
    let mut world = settled(3);
    let before = ADDRESSES.map(|address| world.holder(address));
    for _ in 0..3000 {
        world.step(&mut || Some(Duration::from_millis(10)));
        for node in &mut world.nodes {
            node.requests
                .iter_mut()
                .for_each(|request| request.0 = request.0.max(request.2 + Duration::from_secs(5)));
        }
        assert_eq!(ADDRESSES.map(|address| world.holder(address)), before);
    }
}

/// B7: cut from the API server alone, from the other nodes alone, and from both.
#[test]
fn a_holder_goes_on_while_it_hears_the_api_server_or_enough_peers_and_falls_silent_without_both() {
    for count in [2, 3, 6] {
        let mut world = settled(count);
        let holder = world.holder(ADDRESSES[0]);
        world.node(&holder).hears_api = false;
        world.run_for(Duration::from_secs(20));
        assert_eq!(world.holder(ADDRESSES[0]), holder, "{count} nodes: without the API server");
        world.node(&holder).hears_api = true;
        world.run_for(Duration::from_secs(5));
        world.cut_from_peers(&holder, true);
        world.run_for(Duration::from_secs(20));
        assert_eq!(world.holder(ADDRESSES[0]), holder, "{count} nodes: without peers");
        world.node(&holder).hears_api = false;
        let begun = world.now;
        while world.answering(ADDRESSES[0]).first().is_none_or(|name| **name == holder) {
            world.step(&mut soon);
            world.check();
            assert!(world.now - begun < Duration::from_secs(5), "{count} nodes: without both");
        }
        // It learns that it was voted out, and takes part again.
        world.node(&holder).hears_api = true;
        world.cut_from_peers(&holder, false);
        world.run_for(Duration::from_secs(5));
        ADDRESSES.iter().for_each(|address| drop(world.holder(address)));
    }
}

/// With the API server away, one node of three that is dead as well silences nobody else's addresses.
#[test]
fn a_node_that_dies_while_the_api_server_is_away_takes_only_its_own_addresses_along() {
    let mut world = settled(3);
    let holders = ADDRESSES.map(|address| world.holder(address));
    let dead = holders[0].clone();
    world.api_is_away = true;
    world.node(&dead).alive = false;
    world.run_for(Duration::from_secs(30));
    for (address, holder) in ADDRESSES.iter().zip(&holders) {
        let expected: Vec<&str> = if *holder == dead { Vec::new() } else { vec![holder] };
        assert_eq!(world.answering(address), expected);
    }
    world.api_is_away = false;
    world.run_for(Duration::from_secs(3));
    ADDRESSES.iter().for_each(|address| drop(world.holder(address)));
}

#[test]
fn a_process_that_stops_falls_silent_and_one_that_is_started_again_goes_on() {
    let mut world = settled(3);
    let holder = world.holder(ADDRESSES[0]);
    let at = world.nodes.iter().position(|node| node.name == holder).unwrap();
    world.restart(at);
    for _ in 0..500 {
        world.step(&mut soon);
        assert_eq!(world.holder(ADDRESSES[0]), holder, "a restart is no outage");
    }
    world.nodes[at].up = false;
    world.run_for(Duration::from_secs(3));
    let next = world.holder(ADDRESSES[0]);
    assert_ne!(next, holder);
    world.nodes[at].up = true;
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.holder(ADDRESSES[0]), next);
}

#[test]
fn who_can_no_longer_serve_gives_up_at_once() {
    let mut world = settled(2);
    let holder = world.holder(ADDRESSES[0]);
    let now = world.start + world.now;
    world.node(&holder).announcer.set_wanted(&BTreeMap::from([(ADDRESSES[0].parse().unwrap(), false)]), now);
    world.run_for(Duration::from_millis(300));
    assert_ne!(world.holder(ADDRESSES[0]), holder);
}

#[test]
fn who_may_no_longer_answer_hands_over_and_takes_part_again() {
    let mut world = settled(2);
    let may = |world: &mut World, names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        world.nodes.iter_mut().for_each(|node| node.announcer.set_candidates(&names));
        world.run_for(Duration::from_millis(500));
    };
    for only in ["node-0", "node-1", "node-0"] {
        may(&mut world, &[only]);
        assert!(ADDRESSES.iter().all(|address| world.answering(address) == [only]), "only {only}");
    }
    may(&mut world, &[]);
    assert!(ADDRESSES.iter().all(|address| world.answering(address).is_empty()), "nobody may");
    may(&mut world, &["node-0", "node-1"]);
    assert!(ADDRESSES.iter().all(|address| world.answering(address).len() == 1), "both may again");
}

/// Agents that renew a Lease for each address are left alone, and leave alone what newer ones hold.
#[test]
fn an_address_that_an_older_agent_holds_is_taken_when_it_is_no_longer_renewed() {
    let mut world = World::new(2);
    let name = lease_name(ADDRESSES[0].parse().unwrap());
    let renew = |world: &mut World| {
        world.version += 1;
        let lease = Lease {
            name: name.clone(),
            holder: Some("old".to_owned()),
            duration: DURATION,
            transitions: 0,
            version: world.version.to_string(),
            epoch: None,
            voters: Vec::new(),
        };
        world.leases.insert(name.clone(), lease);
    };
    for _ in 0..10 {
        renew(&mut world);
        world.run_for(Duration::from_millis(700));
        assert!(world.answering(ADDRESSES[0]).is_empty());
    }
    world.run_for(Duration::from_secs(3));
    world.holder(ADDRESSES[0]);
    assert!(world.leases[&name].duration > Duration::from_secs(86_400));
}

#[test]
fn voters_are_of_several_zones_and_stay() {
    let peer =
        |zone: &str, ready| Peer { addresses: Vec::new(), votes: true, ready, zone: Some(zone.to_owned()) };
    let mut peers: BTreeMap<String, Peer> =
        (0..9).map(|number| (format!("node-{number}"), peer(["a", "b", "c"][number % 3], true))).collect();
    peers.insert("lame".to_owned(), peer("d", false));
    peers.insert("excluded".to_owned(), Peer { votes: false, ..peer("e", true) });
    let now = Instant::now();
    let mut announcer = Announcer::new("node-0", Some(BTreeMap::new()), 0, now);
    announcer.set_peers(&peers, now);
    let voters = announcer.voters();
    assert_eq!(voters.len(), VOTERS);
    let of_zone =
        |zone: &str| voters.iter().filter(|name| peers[*name].zone.as_deref() == Some(zone)).count();
    assert!(["a", "b", "c"].iter().all(|zone| (1..=2).contains(&of_zone(zone))), "{voters:?}");
    assert!(!voters.iter().any(|name| ["node-0", "lame", "excluded"].contains(&name.as_str())), "{voters:?}");
    for voters in 0..=VOTERS {
        assert!(promises_needed(voters) + votes_needed(voters) > voters);
    }
}

/// What is done to the world at a step.
#[derive(Clone, Debug)]
enum Disturbance {
    Pause(usize, bool),
    Die(usize, bool),
    Restart(usize),
    Api(usize, bool),
    ApiAway(bool),
    Link(usize, usize, bool),
}

fn disturbance() -> impl Strategy<Value = Disturbance> {
    let node = 0_usize..4;
    prop_oneof![
        (node.clone(), any::<bool>()).prop_map(|(node, on)| Disturbance::Pause(node, on)),
        (node.clone(), any::<bool>()).prop_map(|(node, on)| Disturbance::Die(node, on)),
        node.clone().prop_map(Disturbance::Restart),
        (node.clone(), any::<bool>()).prop_map(|(node, on)| Disturbance::Api(node, on)),
        any::<bool>().prop_map(Disturbance::ApiAway),
        (node.clone(), node, any::<bool>()).prop_map(|(one, other, on)| Disturbance::Link(one, other, on)),
    ]
}

impl World {
    fn disturb(&mut self, disturbance: &Disturbance) {
        let count = self.nodes.len();
        match *disturbance {
            Disturbance::Pause(at, on) => self.nodes[at % count].up = on,
            Disturbance::Die(at, on) => {
                let was = std::mem::replace(&mut self.nodes[at % count].alive, on);
                if on && !was {
                    // A reboot empties everything, what was kept of votes too.
                    self.nodes[at % count].fence.clear();
                    self.begin(at % count, None);
                }
            }
            Disturbance::Restart(at) => self.restart(at % count),
            Disturbance::Api(at, on) => self.nodes[at % count].hears_api = on,
            Disturbance::ApiAway(on) => self.api_is_away = on,
            Disturbance::Link(one, other, on) => {
                let (one, other) = (one % count, other % count);
                let name = self.nodes[other].name.clone();
                if on {
                    self.nodes[one].hears.insert(name);
                } else {
                    self.nodes[one].hears.remove(&name);
                }
            }
        }
    }

    fn heal(&mut self) {
        let names: BTreeSet<String> = self.names().into_iter().collect();
        self.api_is_away = false;
        for at in 0..self.nodes.len() {
            self.disturb(&Disturbance::Die(at, true));
            let node = &mut self.nodes[at];
            (node.up, node.hears_api, node.hears) = (true, true, names.clone());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Everything comes up to two seconds late, in any order, or never; nodes pause, die, restart, are cut from the API server and
    /// from each other; clocks run up to two in a hundred too fast or too slow.
    #[test]
    fn two_nodes_never_answer_for_one_address(
        count in 1_usize..5,
        speeds in proptest::collection::vec(980_u32..=1020, 4),
        delays in proptest::collection::vec(proptest::option::weighted(0.9, 0_u64..200), 64),
        disturbances in proptest::collection::vec((0_usize..2500, disturbance()), 0..30),
    ) {
        let mut world = World::new(count);
        for (node, speed) in world.nodes.iter_mut().zip(&speeds) {
            node.speed = *speed;
        }
        let mut at = 0;
        let mut delay = move || {
            at = (at + 1) % delays.len();
            // Most things are quick.
            delays[at].map(|late| Duration::from_millis(if late < 150 { late / 5 } else { (late - 140) * 33 }))
        };
        for step in 0..2500 {
            for (_, disturbance) in disturbances.iter().filter(|(at, _)| *at == step) {
                world.disturb(disturbance);
            }
            world.step(&mut delay);
            world.check();
        }
        world.heal();
        world.run_for(Duration::from_secs(12));
        for address in ADDRESSES {
            prop_assert_eq!(world.answering(address).len(), 1, "{} at {:?}", address, world.now);
        }
    }
}
