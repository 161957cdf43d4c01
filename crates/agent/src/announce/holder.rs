//! This node answers for the addresses whose Leases name it, as long as it can prove that nobody has voted it out.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, time::Instant};

use tokio::{sync::watch, task::JoinSet};
use weft_announce::{Fence, Inputs, Peer, UdpWire, announcer::LABEL, link::Mac, run};
use weft_kube::{Client, Mirror, WatchHealth, watch_leases};
use weft_model::{
    Node, NodeName,
    services::{LoadBalancer, ServiceKey},
};

use super::{Leases, votes::KeptVotes};
use crate::{drain::Drain, node::thread::Handle};

/// Services with addresses from outside.
pub(crate) type Balancers = BTreeMap<ServiceKey, LoadBalancer>;

/// Takes part in the election of each address, and answers for those that it wins. Returns when the drain begins: what is
/// held lapses then, unless the next agent goes on in time.
pub(crate) async fn hold(
    client: Client,
    name: NodeName,
    node: Handle,
    nodes: watch::Receiver<Mirror<NodeName, Node>>,
    state_dir: PathBuf,
    mut drain: Drain,
) -> anyhow::Result<()> {
    let (mirror, leases) = watch::channel(Mirror::default());
    let (health, _) = watch::channel(WatchHealth::default());
    let mut tasks = JoinSet::new();
    tasks.spawn(watch_leases(client.clone(), LABEL, mirror, health));
    let inputs = Inputs {
        me: name.to_string(),
        wanted: of(node.balancers(), |balancers| balancers.as_ref().map(wanted), &mut tasks),
        candidates: of(
            nodes.clone(),
            |nodes| nodes.is_synced().then(|| candidates(nodes.objects().values())),
            &mut tasks,
        ),
        peers: of(nodes, |nodes| nodes.is_synced().then(|| peers(nodes.objects().values())), &mut tasks),
        leases: of(leases, |leases| leases.is_synced().then(|| leases.objects().clone()), &mut tasks),
    };
    let votes = KeptVotes::in_dir(&state_dir);
    tasks.spawn(run(inputs, Leases { client, label: LABEL }, NodeFence { node }, votes, UdpWire::default()));
    drain.begun().await;
    tasks.shutdown().await;
    Ok(())
}

/// Follows what somebody else makes of a channel's value.
fn of<T, U>(
    mut from: watch::Receiver<T>,
    convert: impl Fn(&T) -> U + Send + Sync + 'static,
    tasks: &mut JoinSet<()>,
) -> watch::Receiver<U>
where
    T: Send + Sync + 'static,
    U: PartialEq + Send + Sync + 'static,
{
    let (sender, receiver) = watch::channel(convert(&from.borrow_and_update()));
    tasks.spawn(async move {
        loop {
            let new = convert(&from.borrow_and_update());
            sender.send_if_modified(|held| {
                let news = *held != new;
                *held = new;
                news
            });
            if from.changed().await.is_err() {
                // What it says last stays; whoever listens ends by itself.
                return sender.closed().await;
            }
        }
    });
    receiver
}

/// The addresses of Services, and whether this node can serve each.
fn wanted(balancers: &Balancers) -> BTreeMap<IpAddr, bool> {
    let mut wanted = BTreeMap::new();
    for balancer in balancers.values() {
        for address in &balancer.addresses {
            let here = !balancer.local_only || balancer.local.of(address.is_ipv6()) > 0;
            *wanted.entry(*address).or_default() |= here;
        }
    }
    wanted
}

/// Nodes that may answer for addresses: those that are ready, or, when none is, all the same those that are not; never one
/// that is excluded.
fn candidates<'n>(nodes: impl Iterator<Item = &'n Node>) -> Vec<String> {
    let included: Vec<&Node> = nodes.filter(|node| !node.excluded).collect();
    let ready: Vec<&Node> = included.iter().filter(|node| node.ready && !node.leaving).copied().collect();
    let candidates = if ready.is_empty() { included } else { ready };
    candidates.into_iter().map(|node| node.name.to_string()).collect()
}

/// Every node, and which of them vote: those that could take addresses over.
fn peers<'n>(nodes: impl Iterator<Item = &'n Node>) -> BTreeMap<String, Peer> {
    let peer = |node: &Node| Peer {
        addresses: node.addresses.clone(),
        votes: !node.excluded,
        ready: node.ready && !node.leaving,
        zone: node.zone.clone(),
    };
    nodes.map(|node| (node.name.to_string(), peer(node))).collect()
}

/// The data plane of this node.
struct NodeFence {
    node: Handle,
}

impl Fence for NodeFence {
    async fn set(&mut self, held: Vec<(IpAddr, Instant)>) -> bool {
        match self.node.announce(held).await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!("announced addresses: {error}");
                false
            }
        }
    }

    async fn uplink(&mut self) -> Option<(u32, Mac)> {
        self.node.uplink().await
    }
}

#[cfg(test)]
mod tests {
    use weft_model::services::LocalEndpoints;

    use super::*;

    #[test]
    fn nodes_that_are_excluded_never_answer_and_those_that_are_not_ready_when_none_is() {
        let node = |name: &str, ready, excluded| Node {
            name: name.into(),
            uid: String::new(),
            created: 0,
            addresses: Vec::new(),
            pod_ranges: Vec::new(),
            ready,
            zone: None,
            leaving: false,
            excluded,
        };
        let of = |nodes: &[Node]| candidates(nodes.iter());
        assert_eq!(of(&[node("a", true, false), node("b", true, true), node("c", false, false)]), ["a"]);
        assert_eq!(of(&[node("a", false, false), node("b", true, true)]), ["a"]);
        assert!(of(&[node("a", true, true), node("b", false, true)]).is_empty());
    }

    #[test]
    fn a_local_policy_needs_an_endpoint_of_the_family() {
        let balancer = |local_only, ipv4| LoadBalancer {
            uid: "u".into(),
            addresses: ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()].into(),
            local_only,
            local: LocalEndpoints { ipv4, ipv6: 0 },
        };
        let of = |balancer| wanted(&Balancers::from([(ServiceKey::new("a", "b"), balancer)]));
        assert_eq!(of(balancer(false, 0)).into_values().collect::<Vec<_>>(), [true, true]);
        assert_eq!(of(balancer(true, 1)).into_values().collect::<Vec<_>>(), [true, false]);
    }
}
