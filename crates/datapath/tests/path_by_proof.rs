//! The path between nodes is proved, not assumed.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::mpsc::{Receiver, channel},
    time::Instant,
};

use support::{DEADLINE, Fabric, Node};
use weft_datapath::{
    Path,
    probe::{Families, Health, MtuProof, Prober, Routing},
};
use weft_model::{NodeName, Peer};

struct Probing {
    prober: Prober,
    reports: Receiver<BTreeMap<NodeName, Health>>,
}

impl Probing {
    fn start(node: &mut Node, others: &[Peer], routing: Routing) -> Probing {
        let (sender, reports) = channel();
        let ranges = node.pod_ranges.clone();
        let prober = node
            .netns
            .0
            .run(|| {
                Prober::start(&ranges, routing, move |health| {
                    let _ = sender.send(health);
                })
                .unwrap()
            })
            .unwrap();
        prober.set_peers(&node.plan(others), BTreeSet::new(), node.with(|datapath| datapath.mtu()));
        Probing { prober, reports }
    }

    /// Applies what is reported until it is as wanted.
    fn until(&mut self, node: &mut Node, others: &[Peer], what: &str, wanted: impl Fn(&Health) -> bool) {
        self.seen_until(node, others, what, wanted);
    }

    /// The same; returns what was reported before.
    fn seen_until(
        &mut self,
        node: &mut Node,
        others: &[Peer],
        what: &str,
        wanted: impl Fn(&Health) -> bool,
    ) -> Vec<Health> {
        let mut seen = Vec::new();
        let deadline = Instant::now() + DEADLINE * 4;
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            let Ok(health) = self.reports.recv_timeout(left) else { break };
            let plan = node.plan(others);
            node.with(|datapath| datapath.apply(&plan, &weft_datapath::probe::paths(&health)).unwrap());
            self.prober.set_peers(&plan, BTreeSet::new(), node.with(|datapath| datapath.mtu()));
            if !health.is_empty() && health.values().all(&wanted) {
                return seen;
            }
            seen.extend(health.into_values());
        }
        panic!("waited for {what}, last saw {:?}", seen.last());
    }
}

#[test]
fn native_on_one_link_overlay_once_it_no_longer_carries_pod_addresses_and_the_mtu_is_proved() {
    let fabric = Fabric::new();
    let (mut one, mut two) = (fabric.node(2), fabric.node(3));
    one.join(&[&two], Path::Overlay);
    two.join(&[&one], Path::Overlay);
    let (peer_one, peer_two) = ([one.as_peer()], [two.as_peer()]);
    let mut from_one = Probing::start(&mut one, &peer_two, Routing::Auto);
    let mut from_two = Probing::start(&mut two, &peer_one, Routing::Auto);
    let mut both_become = |what: &str, wanted: fn(&Health) -> bool| {
        std::thread::scope(|scope| {
            scope.spawn(|| from_one.until(&mut one, &peer_two, what, wanted));
            scope.spawn(|| from_two.until(&mut two, &peer_one, what, wanted));
        });
    };
    both_become("the native path", |health| {
        health.path == Path::Native && health.mtu == MtuProof::Proved(1500)
    });
    fabric.drop_pod_addresses();
    both_become("the overlay", |health| health.path == Path::Overlay && health.mtu == MtuProof::Proved(1450));
}

#[test]
fn an_underlay_with_a_smaller_mtu_than_the_uplink_is_a_mismatch() {
    let fabric = Fabric::new();
    let (mut one, mut two) = (fabric.node(2), fabric.node(3));
    one.join(&[&two], Path::Overlay);
    two.join(&[&one], Path::Overlay);
    fabric.set_mtu(1400);
    let (peer_one, peer_two) = ([one.as_peer()], [two.as_peer()]);
    let mut from_one = Probing::start(&mut one, &peer_two, Routing::Overlay);
    let _from_two = Probing::start(&mut two, &peer_one, Routing::Overlay);
    from_one.until(&mut one, &peer_two, "a mismatch", |health| {
        health.reachable == Some(true) && health.mtu == MtuProof::Mismatch(1450)
    });
}

/// A8: an agent that is away is told from a node that is gone, over either path and in both families.
#[test]
fn a_node_whose_agent_is_away_gives_signs_of_life_and_one_that_is_gone_does_not() {
    for routing in [Routing::Auto, Routing::Overlay] {
        let fabric = Fabric::new();
        let (mut one, mut two) = (fabric.node(2), fabric.node(3));
        one.join(&[&two], Path::Overlay);
        two.join(&[&one], Path::Overlay);
        let (peer_one, peer_two) = ([one.as_peer()], [two.as_peer()]);
        let mut from_one = Probing::start(&mut one, &peer_two, routing);
        let mut from_two = Probing::start(&mut two, &peer_one, routing);
        let path = if routing == Routing::Auto { Path::Native } else { Path::Overlay };
        let proved = |health: &Health| health.path == path && health.mtu != MtuProof::Unknown;
        from_one.until(&mut one, &peer_two, "the path", proved);
        from_two.until(&mut two, &peer_one, "the path", proved);
        drop(from_two);
        let away = "the agent to be away";
        let seen = from_one.seen_until(&mut one, &peer_two, away, |health| health.reachable == Some(false));
        assert!(seen.iter().all(|health| health.silent == Families::default()), "{seen:?}");
        fabric.cut_off(3);
        from_one.until(&mut one, &peer_two, "the node to be silent", |health| {
            health.silent == Families { ipv4: true, ipv6: true }
        });
    }
}
