//! Entries as the kernel programs left them long ago.

use aya::maps::{HashMap, Map, MapData};
use weft_abi::{Address, Affinity, AffinityKey, Flow, FlowKey, maps};

use crate::support::Node;

#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Raw<T: weft_abi::Plain>(pub T);

// SAFETY: `Plain` promises the same.
unsafe impl<T: weft_abi::Plain> aya::Pod for Raw<T> {}

pub fn open<K: weft_abi::Plain, V: weft_abi::Plain>(
    node: &Node,
    name: &str,
) -> HashMap<MapData, Raw<K>, Raw<V>> {
    let data = MapData::from_pin(node.bpffs.path().join("weft/maps").join(name)).unwrap();
    HashMap::try_from(Map::HashMap(data)).unwrap()
}

/// So many flows, each of a client of its own, last seen when the machine was started.
pub fn add_flows(node: &Node, count: u32) {
    let (mut flows, mut begun) = (open(node, maps::FLOWS), open::<_, u64>(node, maps::FLOWS_BEGUN));
    for number in 0..count {
        let address = |first: u32| Address::from_v4_be((first << 24 | number).to_be());
        let (client, frontend, backend) = (address(1), address(2), address(3));
        let key = FlowKey { source: client, destination: frontend, protocol: 17, ..FlowKey::default() };
        let forward = Flow {
            last_ns: 1,
            source: client,
            destination: backend,
            way: Flow::BACKEND_INSIDE,
            ..Flow::default()
        };
        let reply = Flow {
            last_ns: 1,
            source: frontend,
            destination: client,
            way: Flow::CLIENT_ROUTE,
            ..Flow::default()
        };
        flows.insert(Raw(key.pair(&forward)), Raw(reply), 0).unwrap();
        flows.insert(Raw(key), Raw(forward), 0).unwrap();
        begun.insert(Raw(client), Raw(1), 0).unwrap();
    }
}

/// So many affinities to Service ports that are no more.
pub fn add_affinities(node: &Node, count: u32) {
    let mut affinities = open(node, maps::AFFINITIES);
    for number in 0..count {
        let key = AffinityKey { client: Address::from_v4_be(number.to_be()), affinity: 60_000, reserved: 0 };
        affinities.insert(Raw(key), Raw(Affinity { last_ns: 1, backend: 0, generation: 0 }), 0).unwrap();
    }
}

/// How many clients have flows.
pub fn clients(node: &Node) -> usize {
    let ended = open::<Address, u64>(node, maps::FLOWS_ENDED).keys().count();
    assert_eq!(ended, 0, "nobody has flows that ended and others that did not");
    open::<Address, u64>(node, maps::FLOWS_BEGUN).keys().count()
}

/// How many flows the node has, and how many it has counted for their clients.
pub fn flows(node: &Node) -> (u64, u64) {
    let flows = open::<FlowKey, Flow>(node, maps::FLOWS);
    let forward = flows.iter().filter(|entry| entry.as_ref().unwrap().1.0.is_forward()).count();
    let sum = |name| open::<Address, u64>(node, name).iter().map(|entry| entry.unwrap().1.0).sum::<u64>();
    (forward as u64, sum(maps::FLOWS_BEGUN) - sum(maps::FLOWS_ENDED))
}

/// No packet of the node's flows has been seen for so many seconds more.
pub fn age_flows(node: &Node, seconds: u64) {
    let mut flows = open::<FlowKey, Flow>(node, maps::FLOWS);
    for (key, Raw(mut flow)) in flows.iter().map(Result::unwrap).collect::<Vec<_>>() {
        flow.last_ns = flow.last_ns.saturating_sub(seconds * 1_000_000_000);
        flows.insert(key, Raw(flow), 0).unwrap();
    }
}

/// The node knows of no flow any more.
pub fn forget_flows(node: &Node) {
    let mut flows = open::<FlowKey, Flow>(node, maps::FLOWS);
    let keys: Vec<_> = flows.keys().map(Result::unwrap).collect();
    keys.iter().for_each(|key| flows.remove(key).unwrap());
}
