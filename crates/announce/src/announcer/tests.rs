//! Several nodes and one API in memory, with requests and answers that are late or lost: no address ever has two nodes
//! that answer for it, and it always gets one again.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const ADDRESSES: [&str; 3] = ["192.168.1.130", "192.168.1.131", "fd00::82"];

/// When it comes, when its request was sent, the request, and what became of it.
type Answer = (Duration, Instant, Request, Result<Option<Lease>, Option<Lease>>);

struct World {
    start: Instant,
    now: Duration,
    version: u64,
    leases: BTreeMap<String, Lease>,
    nodes: Vec<Node>,
}

struct Node {
    name: String,
    announcer: Announcer,
    up: bool,
    /// The data plane's fence: it answers until then whatever the node does.
    fence: BTreeMap<IpAddr, Instant>,
    /// What it has been told of the Leases, a moment ago.
    view: Vec<(Duration, BTreeMap<String, Lease>)>,
    /// Requests under way: when they reach the API, when they were sent.
    requests: Vec<(Duration, Instant, Request)>,
    /// Answers under way.
    answers: Vec<Answer>,
}

impl World {
    fn new(nodes: usize) -> World {
        let start = Instant::now();
        let names: Vec<String> = (0..nodes).map(|number| format!("node-{number}")).collect();
        let wanted = ADDRESSES.iter().map(|text| (text.parse().unwrap(), true)).collect();
        let node = |name: &String| {
            let mut announcer = Announcer::new(name);
            announcer.set_nodes(&names);
            announcer.set_wanted(&wanted, start);
            Node {
                name: name.clone(),
                announcer,
                up: true,
                fence: BTreeMap::new(),
                view: Vec::new(),
                requests: Vec::new(),
                answers: Vec::new(),
            }
        };
        World {
            start,
            now: Duration::ZERO,
            version: 0,
            leases: BTreeMap::new(),
            nodes: names.iter().map(node).collect(),
        }
    }

    fn serve(&mut self, node: &str, request: &Request) -> Result<Option<Lease>, Option<Lease>> {
        let (address, before, holder) = match request {
            Request::Take { address, before } => (address, before.as_ref(), Some(node.to_owned())),
            Request::Give { address, lease, .. } => (address, Some(lease), None),
        };
        let name = lease_name(*address);
        let current = self.leases.get(&name);
        if current.map(|lease| &lease.version) != before.map(|lease| &lease.version) {
            return Err(current.cloned());
        }
        self.version += 1;
        let lease = Lease {
            name: name.clone(),
            holder,
            duration: Terms::ADDRESS.duration,
            transitions: 0,
            version: self.version.to_string(),
        };
        self.leases.insert(name, lease.clone());
        Ok(Some(lease))
    }

    /// Ten milliseconds. `delay` says how late the next things come; none: they are lost.
    fn step(&mut self, delay: &mut impl FnMut() -> Option<Duration>) {
        self.now += Duration::from_millis(10);
        let (time, now) = (self.now, self.start + self.now);
        for at in 0..self.nodes.len() {
            let name = self.nodes[at].name.clone();
            let (reached, left) =
                std::mem::take(&mut self.nodes[at].requests).into_iter().partition(|one| one.0 <= time);
            self.nodes[at].requests = left;
            let reached: Vec<(Duration, Instant, Request)> = reached;
            for (_, sent, request) in reached {
                let result = self.serve(&name, &request);
                match delay() {
                    Some(late) => self.nodes[at].answers.push((time + late, sent, request, result)),
                    None => self.nodes[at].answers.push((
                        time + Duration::from_millis(900),
                        sent,
                        request,
                        Err(None),
                    )),
                }
            }
        }
        let leases = self.leases.clone();
        for node in &mut self.nodes {
            if let Some(late) = delay() {
                node.view.push((time + late, leases.clone()));
            }
            if !node.up {
                continue;
            }
            let (seen, later) = std::mem::take(&mut node.view).into_iter().partition(|one| one.0 <= time);
            node.view = later;
            let seen: Vec<(Duration, BTreeMap<String, Lease>)> = seen;
            for (_, leases) in seen {
                node.announcer.see(&leases, now);
            }
            let (come, later) = std::mem::take(&mut node.answers).into_iter().partition(|one| one.0 <= time);
            node.answers = later;
            let come: Vec<Answer> = come;
            for (_, sent, request, result) in come {
                let (Request::Take { address, .. } | Request::Give { address, .. }) = request;
                match (request, result) {
                    (Request::Take { .. }, Ok(Some(lease))) => {
                        node.announcer.taken(address, lease, sent, now);
                    }
                    (_, Ok(lease)) => node.announcer.given(address, lease, now),
                    (_, Err(current)) => node.announcer.failed(address, current.as_ref(), now),
                }
            }
            let (requests, _) = node.announcer.next(now);
            node.fence = node.announcer.held(now).into_iter().collect();
            for request in requests {
                match delay() {
                    Some(late) => node.requests.push((time + late, now, request)),
                    None => node.answers.push((time + Duration::from_millis(900), now, request, Err(None))),
                }
            }
        }
    }

    fn answering(&self, address: &str) -> Vec<&str> {
        let (address, now) = (address.parse::<IpAddr>().unwrap(), self.start + self.now);
        let answers = |node: &&Node| node.fence.get(&address).is_some_and(|until| *until > now);
        self.nodes.iter().filter(answers).map(|node| node.name.as_str()).collect()
    }
}

fn soon() -> Option<Duration> {
    Some(Duration::from_millis(10))
}

#[test]
fn every_address_has_one_node_and_they_are_spread() {
    let mut world = World::new(3);
    for _ in 0..100 {
        world.step(&mut soon);
    }
    let holders: Vec<Vec<&str>> = ADDRESSES.iter().map(|address| world.answering(address)).collect();
    assert!(holders.iter().all(|holders| holders.len() == 1), "{holders:?}");
    let names: Vec<String> = (0..4).map(|number| format!("node-{number}")).collect();
    let first = |at: u8| {
        let address = IpAddr::from([192, 168, 1, at]);
        names.iter().position(|name| patience(&names, name, address) == Duration::ZERO).unwrap()
    };
    let mut counts = [0; 4];
    (0..=255).for_each(|at| counts[first(at)] += 1);
    assert!(counts.iter().all(|count| (40..90).contains(count)), "{counts:?}");
}

#[test]
fn the_addresses_of_a_dead_node_move_within_three_seconds() {
    let mut world = World::new(3);
    for _ in 0..300 {
        world.step(&mut soon);
    }
    let dead = world.answering(ADDRESSES[0])[0].to_owned();
    world.nodes.iter_mut().find(|node| node.name == dead).unwrap().up = false;
    let mut steps = 0;
    while world.answering(ADDRESSES[0]).first().is_none_or(|name| **name == dead) {
        world.step(&mut soon);
        steps += 1;
    }
    assert!(steps < 300, "{} ms", steps * 10);
    // When it comes back, what others hold is left to them.
    let now_at = world.answering(ADDRESSES[0])[0].to_owned();
    world.nodes.iter_mut().find(|node| node.name == dead).unwrap().up = true;
    for _ in 0..500 {
        world.step(&mut soon);
    }
    assert_eq!(world.answering(ADDRESSES[0]), [now_at]);
}

#[test]
fn who_can_no_longer_serve_gives_up_at_once() {
    let mut world = World::new(2);
    for _ in 0..100 {
        world.step(&mut soon);
    }
    let holder = world.answering(ADDRESSES[0])[0].to_owned();
    let now = world.start + world.now;
    let node = world.nodes.iter_mut().find(|node| node.name == holder).unwrap();
    node.announcer.set_wanted(&BTreeMap::from([(ADDRESSES[0].parse().unwrap(), false)]), now);
    for _ in 0..30 {
        world.step(&mut soon);
    }
    let next = world.answering(ADDRESSES[0]);
    assert!(next.len() == 1 && next[0] != holder, "{next:?}");
}

#[test]
fn who_may_no_longer_answer_hands_over_and_takes_part_again() {
    let mut world = World::new(2);
    let may = |world: &mut World, names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        world.nodes.iter_mut().for_each(|node| node.announcer.set_nodes(&names));
        for _ in 0..30 {
            world.step(&mut soon);
        }
    };
    may(&mut world, &["node-0", "node-1"]);
    for only in ["node-0", "node-1", "node-0"] {
        may(&mut world, &[only]);
        assert!(ADDRESSES.iter().all(|address| world.answering(address) == [only]), "only {only}");
    }
    may(&mut world, &[]);
    assert!(ADDRESSES.iter().all(|address| world.answering(address).is_empty()), "nobody may");
    may(&mut world, &["node-0", "node-1"]);
    may(&mut world, &["node-0", "node-1"]);
    assert!(ADDRESSES.iter().all(|address| world.answering(address).len() == 1), "both may again");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Requests, answers and news come up to two seconds late, in any order, or never; nodes stop and go on.
    #[test]
    fn two_nodes_never_answer_for_one_address(
        delays in proptest::collection::vec(proptest::option::weighted(0.9, 0_u64..200), 64),
        stops in proptest::collection::vec((0_usize..3, 0_usize..1500, 0_usize..600), 0..4),
    ) {
        let mut world = World::new(3);
        let mut at = 0;
        let mut delay = move || {
            at = (at + 1) % delays.len();
            // Most things are quick.
            delays[at].map(|late| Duration::from_millis(if late < 150 { late / 5 } else { (late - 140) * 33 }))
        };
        for step in 0..1500 {
            for (node, from, length) in &stops {
                if step == *from { world.nodes[*node].up = false; }
                if step == from + length { world.nodes[*node].up = true; }
            }
            world.step(&mut delay);
            for address in ADDRESSES {
                prop_assert!(world.answering(address).len() <= 1, "{address} at {:?}: {:?}", world.now, world.answering(address));
            }
        }
        for node in &mut world.nodes { node.up = true; }
        for _ in 0..800 { world.step(&mut soon); }
        for address in ADDRESSES {
            prop_assert_eq!(world.answering(address).len(), 1);
        }
    }
}
