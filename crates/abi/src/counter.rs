//! What the programs count.

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident = $text:literal $kind:ident),+ $(,)?) => {
        /// An index into the counters. Drops have a reason each; everything else names the way a packet took.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Counter {
            $($(#[$doc])* $name),+
        }

        impl Counter {
            /// Every counter, in index order.
            pub const ALL: &'static [Counter] = &[$(Counter::$name),+];

            /// Its name in metrics and in `weft status`.
            pub const fn name(self) -> &'static str {
                match self { $(Counter::$name => $text),+ }
            }

            /// Whether it counts dropped packets.
            pub const fn is_drop(self) -> bool {
                match self { $(Counter::$name => counters!(@ $kind)),+ }
            }
        }
    };
    (@ drop) => { true };
    (@ pass) => { false };
}

counters! {
    /// From a Pod to a Pod of the same node.
    SameNode = "same-node" pass,
    /// Into the overlay, from a Pod.
    ToOverlay = "to-overlay" pass,
    /// From the overlay, to a Pod.
    FromOverlay = "from-overlay" pass,
    /// To another node over a native route, from a Pod.
    ToNative = "to-native" pass,
    /// From the uplink, to a Pod.
    FromNative = "from-native" pass,
    /// From a Pod, left to the host's stack (this node itself, or outside the cluster).
    ToHost = "to-host" pass,
    /// From the host's stack to a Pod.
    FromHost = "from-host" pass,
    /// A Pod sent from an address that is not its own.
    SourceAddress = "source-address" drop,
    /// The packet is cut short, has no hop left where it begins, or is not what its header says.
    Malformed = "malformed" drop,
    /// Neither IPv4, IPv6 nor ARP.
    Protocol = "protocol" drop,
    /// The host's stack sent a Pod what is addressed to another.
    NotThisPod = "not-this-pod" drop,
    /// Sent into the overlay without a node that has the destination.
    NoTunnel = "no-tunnel" drop,
    /// The kernel refused the tunnel key.
    TunnelKey = "tunnel-key" drop,
    /// Out of a tunnel came a source that is not at the tunnel's other end, or the tunnel's other end is a node of this link and the
    /// frame is not that node's.
    TunnelSource = "tunnel-source" drop,
    /// From another node with a label in the client's place that this node does not know, or does not know any more.
    UnknownLabel = "unknown-label" drop,
    /// A connection to a Service was given its backend at the socket.
    SocketService = "socket-service" pass,
    /// A connection to a Service was given its backend packet by packet.
    PacketService = "packet-service" pass,
    /// A connection was refused: the Service has no backend, or not this port.
    Refused = "refused" pass,
    /// A Service without a backend, whose rules say that packets are dropped.
    NoBackend = "no-backend" drop,
    /// An address of the Service range that no Service has.
    NoService = "no-service" drop,
    /// Not among the source ranges of a Service.
    SourceRange = "source-range" drop,
    /// The client's affinity could not be remembered: the table is full.
    AffinitiesFull = "affinities-full" pass,
    /// A connected socket could not be remembered: the table is full.
    SocketsFull = "sockets-full" pass,
    /// A new flow found the table of flows full, or its client has too many in it.
    FlowsFull = "flows-full" drop,
    /// A Pod asks the node's DNS more often than one client may.
    DnsRate = "dns-rate" drop,
    /// More ICMP errors were due to clients outside than a CPU sends in a second.
    RefusalRate = "refusal-rate" drop,
    /// A later fragment whose first has not been seen.
    Fragment = "fragment" drop,
    /// A flow from outside, handed to the node of its backend.
    ToEntry = "to-entry" pass,
    /// An ICMP error, translated with the flow that it is about.
    ErrorTranslated = "error-translated" pass,
    /// The packet could not be translated or answered.
    Untranslated = "untranslated" drop,
    /// A kernel program that another one jumps to is missing.
    MissingStep = "missing-step" drop,
    /// ARP and neighbour solicitations answered for LoadBalancer addresses.
    Announced = "announced" pass,
    /// A packet had no hop left: the host's stack tells its sender so.
    HopsSpent = "hops-spent" pass,
    /// A packet had no hop left, and nobody can be told.
    HopLimit = "hop-limit" drop,
    /// A Pod's frame has a VLAN tag.
    Vlan = "vlan" drop,
    /// A Pod sent neighbour discovery to an address beyond its link.
    BeyondLink = "beyond-link" drop,
    /// An ICMP error of a Pod about a packet that was not sent to it, or of a stranger about a tunnel between nodes of one link.
    ForeignError = "foreign-error" drop,
    /// Somebody who is no node sent something to the port of the nodes' probes.
    ProbePort = "probe-port" drop,
    /// A host outside asked for an address that is meant for the cluster alone.
    InsideOnly = "inside-only" drop,
    /// What a Pod says to its IPv6 link alone (duplicate address detection, reports of groups): its node has no use for it.
    LinkOnly = "link-only" pass,
    /// What came of a connection after its end, when its client's port was a later connection's already.
    Late = "late" pass,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_dense_and_names_differ() {
        for (index, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(*counter as usize, index);
            assert!(Counter::ALL[..index].iter().all(|other| other.name() != counter.name()));
        }
    }
}
