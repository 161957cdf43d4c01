//! Flows whose packets are translated on their way.

use crate::{Address, Plain};

/// Most flows' directions: a flow has two entries.
pub const MAX_FLOWS: u32 = 524_288;

/// Most flows of one client in the cluster, so that it cannot use the table up: an eighth of it.
pub const MAX_FLOWS_OF_CLIENT: u32 = MAX_FLOWS / 2 / 8;

/// Most flows of one address outside, behind which there may be many clients: half of the table.
pub const MAX_FLOWS_OF_OUTSIDER: u32 = MAX_FLOWS / 2 / 2;

/// Most flows that come from outside, together: a quarter of the table is left to what begins on this node.
pub const MAX_FLOWS_OUTSIDE: u32 = MAX_FLOWS / 2 / 4 * 3;

/// Most flows that come from outside and are in the table although they are no Service's ([`Flow::ADDRESSED`]), together with those that
/// are: half of the share.
pub const MAX_FLOWS_ADDRESSED: u32 = MAX_FLOWS_OUTSIDE / 2;

/// Most clients that flows are counted of.
pub const MAX_FLOW_CLIENTS: u32 = MAX_FLOWS / 2;

/// Most fragmented packets under way; the one seen longest ago gives way.
pub const MAX_FRAGMENTS: u32 = 16_384;

/// One direction of a flow, as its packets arrive.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowKey {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Source port, network byte order.
    pub source_port_be: u16,
    /// Destination port, network byte order.
    pub destination_port_be: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub reserved: [u8; 3],
    /// Zero; of what entered the cluster by another node, [`FlowKey::entry_of`] that node.
    pub entry: u32,
}

/// What becomes of the packets of one direction of a flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flow {
    /// When a packet was last seen, nanoseconds of the monotonic clock; exact to a second.
    pub last_ns: u64,
    /// Source address to write.
    pub source: Address,
    /// Destination address to write.
    pub destination: Address,
    /// Of [`Flow::CLIENT_ENTRY`]: the node that the flow entered by.
    pub tunnel: Address,
    /// Source port to write, network byte order.
    pub source_port_be: u16,
    /// Destination port to write, network byte order.
    pub destination_port_be: u16,
    /// Index of the backend, or [`Flow::NO_BACKEND`].
    pub backend: u32,
    /// The backend's generation when it was chosen.
    pub generation: u32,
    /// Of [`Flow::CLIENT_LINK`]: the interface that the flow came by.
    pub ifindex: u32,
    /// [`FlowKey::entry`] of the other direction.
    pub pair_entry: u32,
    /// [`Flow::BACKEND_INSIDE`] and the like.
    pub way: u8,
    /// [`Flow::OPENED`] and the like.
    pub seen: u8,
    /// [`Flow::CLAMP`] and the like.
    pub flags: u16,
    /// Of [`Flow::LABELLED`], where the flow entered: when an answer last came by, as in [`Flow::last_ns`].
    pub answered_ns: u64,
}

/// Where flows begin.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// At a Pod or process of this node.
    Inside,
    /// Anywhere else.
    Outside,
}

impl Side {
    /// How many there are.
    pub const COUNT: u32 = 2;
}

/// What the fragments of one packet share.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FragmentKey {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Identification; IPv4's 16 bits, as they stand in the packet.
    pub id_be: u32,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

/// What only the first fragment says.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Fragment {
    /// Source port, network byte order.
    pub source_port_be: u16,
    /// Destination port, network byte order.
    pub destination_port_be: u16,
}

const _: () = assert!(size_of::<FlowKey>() == 44);
const _: () = assert!(size_of::<Flow>() == 88);
const _: () = assert!(size_of::<FragmentKey>() == 40);
const _: () = assert!(size_of::<Fragment>() == 4);

// SAFETY: integers without padding.
unsafe impl Plain for FlowKey {}
// SAFETY: integers without padding.
unsafe impl Plain for Flow {}
// SAFETY: integers without padding.
unsafe impl Plain for FragmentKey {}
// SAFETY: integers without padding.
unsafe impl Plain for Fragment {}

impl FlowKey {
    /// A number for the node whose tunnel ends there. Nodes of one fabric differ in what it is made of.
    #[inline(always)]
    pub const fn entry_of(tunnel: &Address) -> u32 {
        let [a, b, c, d] = tunnel.words_be;
        // Never zero, which stands for no tunnel.
        match a.rotate_left(5) ^ b.rotate_left(11) ^ c.rotate_left(17) ^ d {
            0 => 1,
            number => number,
        }
    }

    /// The same packet on its way back, untranslated.
    #[inline(always)]
    pub const fn turned(&self) -> FlowKey {
        FlowKey {
            source: self.destination,
            destination: self.source,
            source_port_be: self.destination_port_be,
            destination_port_be: self.source_port_be,
            ..*self
        }
    }

    /// The other direction of a flow whose packets arrive as `self` and leave as `flow` says.
    #[inline(always)]
    pub const fn pair(&self, flow: &Flow) -> FlowKey {
        FlowKey {
            source: flow.destination,
            destination: flow.source,
            source_port_be: flow.destination_port_be,
            destination_port_be: flow.source_port_be,
            protocol: self.protocol,
            reserved: [0; 3],
            entry: flow.pair_entry,
        }
    }
}

impl Flow {
    /// No backend of this node's tables: another node chose it.
    pub const NO_BACKEND: u32 = u32::MAX;

    // Ways, of packets towards the backend.
    /// From a Pod or process of this node to the backend, as if the client had addressed it.
    pub const BACKEND_INSIDE: u8 = 1;
    /// From elsewhere to a backend of this node, or through [`crate::ENTRY_VNI`] to the backend's node.
    pub const BACKEND_OUTSIDE: u8 = 2;
    /// Untranslated through [`crate::DIRECT_VNI`] to the backend's node, which translates and answers itself.
    pub const BACKEND_DIRECT: u8 = 3;
    /// What entered by another node, or is [`Flow::ADDRESSED`], to its backend on this one.
    pub const BACKEND_ENTERED: u8 = 4;
    // Ways, of packets towards the client.
    /// To a Pod or node of the cluster.
    pub const CLIENT_ROUTE: u8 = 5;
    /// Out by the interface that the flow came by.
    pub const CLIENT_LINK: u8 = 6;
    /// To this node's own stack.
    pub const CLIENT_NODE: u8 = 7;
    /// Through [`crate::ENTRY_VNI`] to the node that the flow entered by.
    pub const CLIENT_ENTRY: u8 = 8;
    /// Out of the cluster by the host's stack, which took in what the client sent: [`Flow::ADDRESSED`].
    pub const CLIENT_STACK: u8 = 9;

    /// TCP: a packet without SYN passed; of other protocols any.
    pub const OPENED: u8 = 1;
    /// The other direction is [`Flow::OPENED`].
    pub const ANSWERED: u8 = 2;
    /// TCP: a FIN passed.
    pub const FIN: u8 = 4;
    /// TCP: a FIN passed in the other direction.
    pub const PEER_FIN: u8 = 8;
    /// TCP: an RST passed in either direction.
    pub const RST: u8 = 16;

    /// What the other end may send comes through the overlay, which the MSS must fit.
    pub const CLAMP: u16 = 1;
    /// Between the node that the flow entered by and the node of its backend, a label stands for the client: the first node's plain
    /// address with a port that no other flow to this backend has. With it packets travel natively, and no fabric sees an address
    /// that is not the cluster's. Until the other node is known to know the label, and for fragments, the client stands in the
    /// packet, and the label in the tunnel's [`crate::ENTRY_VNI`].
    pub const LABELLED: u16 = 2;
    /// The backend sees another source port than the client's.
    pub const OTHER_PORT: u16 = 4;
    /// The client is outside and addressed the Pod itself, which is a backend of Services too: the flow is in the table so that
    /// the two are told apart, and nothing but its source port is ever translated.
    pub const ADDRESSED: u16 = 8;

    /// The client, given the key of the packets that go towards the backend.
    #[inline(always)]
    pub const fn client(&self, key: &FlowKey) -> Address {
        // Where it entered by another node, the key may have a label instead.
        if self.way == Flow::BACKEND_ENTERED { self.source } else { key.source }
    }

    /// Where the flow begins, given the direction towards the backend.
    #[inline(always)]
    pub const fn side(&self) -> Side {
        if self.way == Flow::BACKEND_INSIDE { Side::Inside } else { Side::Outside }
    }

    /// Whether these packets go towards the backend.
    #[inline(always)]
    pub const fn is_forward(&self) -> bool {
        self.way <= Flow::BACKEND_ENTERED
    }

    /// Whether nothing is to come of the connection any more.
    #[inline(always)]
    pub const fn is_over(&self) -> bool {
        let ends = Flow::FIN | Flow::PEER_FIN;
        self.seen & ends == ends || self.seen & Flow::RST != 0
    }

    /// Whether the connection is ending or has ended: a SYN begins another.
    #[inline(always)]
    pub const fn is_closing(&self) -> bool {
        self.seen & (Flow::FIN | Flow::PEER_FIN | Flow::RST) != 0
    }
}

/// A number that spreads flows evenly, the same on every node: of a flow's client and frontend, or of the client's address alone.
#[inline(always)]
pub const fn spread(key: &FlowKey, client_alone: bool) -> u32 {
    const fn mix(hash: u64, word: u64) -> u64 {
        let hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^ hash >> 29
    }
    const fn pair(high: u32, low: u32) -> u64 {
        (high as u64) << 32 | low as u64
    }
    let client = &key.source.words_be;
    let mut hash = mix(mix(0x7765_6674, pair(client[0], client[1])), pair(client[2], client[3]));
    if !client_alone {
        let service = &key.destination.words_be;
        hash = mix(mix(hash, pair(service[0], service[1])), pair(service[2], service[3]));
        let ports = (key.source_port_be as u32) << 16 | key.destination_port_be as u32;
        hash = mix(hash, pair(key.protocol as u32, ports));
    }
    (mix(hash, 0) >> 32) as u32
}

/// How many backends a flow is tried with, so that it differs from the client's others by its backend. Then its source port is
/// changed.
pub const BACKEND_TRIES: u32 = 6;

/// The source port that a backend sees of a client in the cluster, host byte order: the client may ask the backend itself from its own
/// port at the same time, and an answer tells the two apart by nothing else. One to one, so that flows of different ports do not meet;
/// ports that hosts give their own sockets (32768 to 60999, where nothing else is set) become others. Those below 1024 stay, because
/// servers trust them.
#[inline(always)]
pub const fn port_at_backend(port: u16) -> u16 {
    const FIRST: u32 = 1024;
    const COUNT: u32 = 65_536 - FIRST;
    if (port as u32) < FIRST {
        return port;
    }
    (FIRST + (port as u32 - FIRST + COUNT / 2) % COUNT) as u16
}

/// The same where the client's own node does not translate: another port, of which the two nodes need not tell each other.
#[inline(always)]
pub const fn port_by_another_node(port: u16) -> u16 {
    let port = port_at_backend(port);
    if port < 1024 { port } else { port ^ 512 }
}

/// The number of a further try, from what [`spread`] says: far on in the table of backends, where neighbours are often the same.
#[inline(always)]
pub const fn spread_again(spread: u32, attempt: u32) -> u32 {
    spread.wrapping_add(attempt.wrapping_mul(0x9e37_79b9))
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;

    fn key(client: u32, port: u16) -> FlowKey {
        FlowKey {
            source: Address::from_v4_be(client.to_be()),
            destination: Address::from_v4_be(0x0a60_000a_u32.to_be()),
            source_port_be: port.to_be(),
            destination_port_be: 80_u16.to_be(),
            protocol: 6,
            ..FlowKey::default()
        }
    }

    /// Chi-squared of `number` draws over ten, nine degrees of freedom: above 33.7 once in ten thousand times.
    fn chi_squared(draws: impl Iterator<Item = u32>) -> f64 {
        let mut counts = [0_u32; 10];
        draws.for_each(|draw| counts[draw as usize % 10] += 1);
        let mean = f64::from(counts.iter().sum::<u32>()) / 10.0;
        counts.iter().map(|count| (f64::from(*count) - mean).powi(2) / mean).sum()
    }

    #[test]
    fn the_ports_of_one_client_and_the_addresses_of_many_are_spread_as_chance_would() {
        let ports = (0..10_000).map(|port| spread(&key(0xc0a8_01fe, 32_768 + port), false));
        assert!(chi_squared(ports) < 33.7);
        let clients = (0..10_000).map(|client| spread(&key(0x0a00_0000 + client, 40_000), true));
        assert!(chi_squared(clients) < 33.7);
    }

    #[test]
    fn of_the_client_alone_the_port_does_not_matter() {
        assert_eq!(spread(&key(1, 1), true), spread(&key(1, 2), true));
        assert_ne!(spread(&key(1, 1), false), spread(&key(1, 2), false));
    }

    #[test]
    fn ports_at_backends_are_one_to_one_and_not_those_of_sockets() {
        use std::collections::BTreeSet;
        let ports: BTreeSet<u16> = (0..=u16::MAX).map(port_at_backend).collect();
        assert_eq!(ports.len(), 65_536);
        assert!((0..1024).all(|port| port_at_backend(port) == port));
        assert!((1024..=u16::MAX).all(|port| port_at_backend(port) >= 1024 && port_at_backend(port) != port));
        let by_another: BTreeSet<u16> = (0..=u16::MAX).map(port_by_another_node).collect();
        assert_eq!(by_another.len(), 65_536);
        assert!((1024..=u16::MAX).all(|port| port_by_another_node(port) != port_at_backend(port)));
        let of_sockets = 32_768..=60_999;
        for at_backend in [port_at_backend, port_by_another_node] {
            assert!((0..1024).all(|port| at_backend(port) == port));
            assert!((1024..=u16::MAX).all(|port| at_backend(port) >= 1024));
            assert!(of_sockets.clone().all(|port| !of_sockets.contains(&at_backend(port))));
        }
    }

    #[test]
    fn nodes_of_one_fabric_have_numbers_of_their_own() {
        use std::collections::BTreeSet;
        let v4 = (0..65_536_u32).map(|host| Address::from_v4_be((0x0a00_0000 + host).to_be()));
        let v6 = (0..65_536_u32).map(|host| Address { words_be: [0xfd, 0x10, 0, host.to_be()] });
        assert_eq!(v4.map(|end| FlowKey::entry_of(&end)).collect::<BTreeSet<_>>().len(), 65_536);
        assert_eq!(v6.map(|end| FlowKey::entry_of(&end)).collect::<BTreeSet<_>>().len(), 65_536);
    }

    #[test]
    fn a_flow_and_its_pair_name_each_other() {
        let forward = key(7, 9);
        let flow = Flow {
            source: forward.source,
            destination: Address::from_v4_be(3),
            source_port_be: 5,
            destination_port_be: 6,
            ..Flow::default()
        };
        let reply = forward.pair(&flow);
        let back = Flow {
            source: forward.destination,
            destination: forward.source,
            source_port_be: forward.destination_port_be,
            destination_port_be: forward.source_port_be,
            ..Flow::default()
        };
        assert_eq!(reply.pair(&back), forward);
    }
}
