//! The beginning of a flow: which Service is asked for, and which backend the client is given.

use aya_ebpf::{
    bindings::BPF_NOEXIST, helpers::bpf_get_prandom_u32, maps::lpm_trie::Key, programs::TcContext,
};
use weft_abi::{
    Address, BACKEND_TRIES, Backend, Config, Counter, Flow, FlowKey, Frontend, FrontendKey, PROBE_PORT,
    Route, ServicePort, Side, Slots, SourceRange, Step, port_at_backend, port_by_another_node, spread,
    spread_again,
};

use super::{
    SCTP, TCP, UDP, Verdict, Work,
    flow::lookup,
    hook, is_here, is_own, jump, label, mark_pod, part,
    table::{self, RST, SYN},
};
use crate::{
    maps::{CONFIG, FLOWS, FRONTENDS, SERVICE_PORTS, SOURCE_RANGES},
    sock::choose::{Choice, Spread, choose, count_connection, count_without_backend},
    steps::{
        count,
        deliver::{local_pod, route},
    },
};

/// Tries to find a backend, or a source port, by which the flow differs from the client's others.
const TRIES: u32 = BACKEND_TRIES + 2;
/// First of the ports that replace others: behind those that hosts give their own sockets.
const FIRST_PORT: u32 = 61_000;
const PORTS: u32 = 65_536 - FIRST_PORT;

/// [`Step::Request`].
#[inline(always)]
pub fn packet(ctx: &TcContext) -> Verdict {
    let Some(work) = super::work() else { return Verdict::drop(Counter::MissingStep) };
    let Some(config) = CONFIG.get(0) else { return Verdict::drop(Counter::MissingStep) };
    let asked = FrontendKey {
        address: work.key.destination,
        port_be: work.key.destination_port_be,
        protocol: work.key.protocol,
        reserved: 0,
    };
    // SAFETY: of an entry that is replaced while it is read, both are the Service's.
    let frontend = unsafe { FRONTENDS.get(&asked) }.copied();
    match frontend {
        Some(frontend) if frontend.flags & Frontend::ROUTED != 0 && is_stranger(config, work) => {
            Verdict::drop(Counter::InsideOnly)
        }
        Some(frontend) if frontend.flags & Frontend::NODE_SOCKET != 0 && work.no_socket == 0 => {
            jump(ctx, Step::Socket)
        }
        Some(frontend) if work.part != part::LATER && frontend.flags & Frontend::LOOPBACK_ONLY == 0 => {
            begin(ctx, config, work, &frontend).unwrap_or_else(|verdict| verdict)
        }
        _ => without_frontend(ctx, config, work),
    }
}

/// No Service listens there: the address may be one's all the same.
#[inline(always)]
fn without_frontend(ctx: &TcContext, config: &Config, work: &Work) -> Verdict {
    let is_service = is_services(&work.key.destination);
    let in_service_range = route(&work.key.destination).is_some_and(|route| route.path == Route::SERVICES);
    if is_service && in_service_range && is_stranger(config, work) {
        return Verdict::drop(Counter::InsideOnly);
    }
    if is_service && work.part == part::LATER {
        return Verdict::drop(Counter::Fragment);
    }
    if is_service {
        return jump(ctx, Step::Refuse);
    }
    if in_service_range {
        return Verdict::drop(Counter::NoService);
    }
    if is_strange_probe(config, work) {
        return Verdict::drop(Counter::ProbePort);
    }
    match work.hook {
        hook::POD_EGRESS => {
            count::packet(Counter::ToHost);
            Verdict::NEXT
        }
        hook::DIRECT => Verdict::drop(Counter::NoService),
        _ => Verdict::NEXT,
    }
}

/// Whether a packet comes from a host outside, and cluster IPs are not for such. What Pods and nodes send to Services is translated
/// where it is sent.
#[inline(always)]
fn is_stranger(config: &Config, work: &Work) -> bool {
    matches!(work.hook, hook::UPLINK_INGRESS | hook::DIRECT) && config.flags & Config::OPEN_CLUSTER_IPS == 0
}

/// Whether a packet is for where this node takes in probes, or promises of who answers for addresses, but from nobody who sends any: it
/// would push the nodes' own out of the socket's queue.
#[inline(always)]
fn is_strange_probe(config: &Config, work: &Work) -> bool {
    let key = &work.key;
    if key.destination_port_be != PROBE_PORT.to_be() || key.protocol != UDP {
        return false;
    }
    let taken_in = [&config.path_v4, &config.path_v6, &config.label_v4, &config.label_v6];
    let from = route(&key.source);
    let is_nodes = from.is_some_and(|route| route.label(work.ipv6 == 0).is_some());
    if taken_in.contains(&&key.destination) {
        return !is_nodes;
    }
    // Whether an address outside is a node's that has just joined is not known here.
    is_own(config, &key.destination) && !is_nodes && (work.hook == hook::POD_EGRESS || from.is_some())
}

/// Tries to make the flow, and has its first packet sent on with it.
#[inline(always)]
fn begin(ctx: &TcContext, config: &Config, work: &mut Work, frontend: &Frontend) -> Result<Verdict, Verdict> {
    if frontend.flags & Frontend::SOURCE_RANGES != 0 && !may_come(work, frontend) {
        return Err(Verdict::drop(Counter::SourceRange));
    }
    let Some(service_port) = SERVICE_PORTS.get(frontend.service_port) else {
        return Err(jump(ctx, Step::Refuse));
    };
    let inside = work.hook == hook::POD_EGRESS || work.hook == hook::OVERLAY_EGRESS;
    let side = if inside { Side::Inside } else { Side::Outside };
    // The node's own connections may have this very port, and what they are answered is the host's.
    let of_node = frontend.flags & Frontend::NODE_ADDRESS != 0;
    if of_node && work.key.protocol == TCP && !table::opens(work) {
        return Err(Verdict::NEXT);
    }
    // The middle of a connection that nobody here knows. From outside it may have entered by another node before, and every
    // node picks the same backend; from inside it has none.
    if work.key.protocol == TCP && work.tcp & SYN == 0 && inside {
        return Err(if work.tcp & RST != 0 {
            Verdict::drop(Counter::NoBackend)
        } else {
            jump(ctx, Step::Refuse)
        });
    }
    let slots = Slots(if inside { service_port.inside.0 } else { service_port.outside.0 });
    if slots.count() == 0 {
        return Err(without_backend(ctx, frontend, service_port, inside));
    }
    if work.again == 0 && !table::may_begin(&work.key.source, side) {
        return Err(Verdict::drop(Counter::FlowsFull));
    }
    let client = match work.hook {
        hook::POD_EGRESS => {
            local_pod(&work.key.source).map_or(work.key.source, |pod| Address::of_netns(pod.netns_cookie))
        }
        hook::OVERLAY_EGRESS => Address::of_netns(config.netns_cookie),
        _ => work.key.source,
    };
    let with_affinity = service_port.affinity_seconds != 0;
    let hash = spread(&work.key, with_affinity);
    let (attempt, labelled) = (work.attempt, work.labelled != 0);
    // The other node chose one of this node's, which may have changed since.
    let another = attempt < BACKEND_TRIES && !with_affinity && !labelled || work.hook == hook::DIRECT;
    let other = if another { attempt } else { 0 };
    let how = if inside { Spread::Random } else { Spread::Hash(spread_again(hash, other)) };
    let Some(choice) = choose(frontend.service_port, service_port, slots, how, &client) else {
        return Err(without_backend(ctx, frontend, service_port, inside));
    };
    if work.hook == hook::DIRECT && !is_here(config, &choice.backend.address) {
        return Err(try_again(ctx, work));
    }
    // It would lead on to another Service, and perhaps back here.
    if is_services(&choice.backend.address) {
        return Err(without_backend(ctx, frontend, service_port, inside));
    }
    let change_port = attempt >= BACKEND_TRIES || (with_affinity || labelled) && attempt > 0;
    // A node's address is a frontend on that node alone: the backend's could not translate.
    let direct = config.flags & Config::DIRECT_RETURN != 0 && !of_node;
    work.labelled = u32::from(entries(config, work, &choice, change_port, direct));
    match insert(work) {
        Inserted::Yes => {}
        Inserted::Taken => return Err(try_again(ctx, work)),
        Inserted::Full => return Err(Verdict::drop(Counter::FlowsFull)),
    }
    count_connection(frontend.service_port, choice.index);
    if work.again == 0 {
        table::count_begun(&work.key.source, side);
    }
    count::packet(Counter::PacketService);
    if work.hook == hook::POD_EGRESS {
        mark_pod(&work.key.source);
    }
    Ok(jump(ctx, Step::Flow))
}

/// The next try is a run of its own: the kernel checks every way through a loop, and a node's start would wait for it.
#[inline(always)]
fn try_again(ctx: &TcContext, work: &mut Work) -> Verdict {
    work.attempt += 1;
    if work.attempt < TRIES { jump(ctx, Step::Request) } else { Verdict::drop(Counter::FlowsFull) }
}

/// Whether an address is a Service's own.
#[inline(always)]
fn is_services(address: &Address) -> bool {
    // SAFETY: only whether there is an entry is asked.
    unsafe { FRONTENDS.get(&FrontendKey::whole(*address)) }.is_some()
}

#[inline(always)]
fn without_backend(
    ctx: &TcContext,
    frontend: &Frontend,
    service_port: &ServicePort,
    inside: bool,
) -> Verdict {
    count_without_backend(frontend.service_port);
    let drop = if inside { ServicePort::DROP_INSIDE } else { ServicePort::DROP_OUTSIDE };
    if service_port.flags & drop != 0 {
        return Verdict::drop(Counter::NoBackend);
    }
    jump(ctx, Step::Refuse)
}

/// Whether the source is in the ranges of the Service.
#[inline(always)]
fn may_come(work: &Work, frontend: &Frontend) -> bool {
    if work.hook == hook::OVERLAY_EGRESS && frontend.flags & Frontend::NODE_ALLOWED != 0 {
        return true;
    }
    let source = SourceRange { service_port: frontend.service_port, address: work.key.source };
    SOURCE_RANGES.get(Key::new(SourceRange::SERVICE_PORT_BITS + 128, source)).is_some()
}

/// Both directions of the flow to a backend. Says whether it is labelled.
#[inline(always)]
fn entries(config: &Config, work: &mut Work, choice: &Choice, change_port: bool, direct: bool) -> bool {
    let backend: &Backend = choice.backend;
    let key = &work.key;
    let inside = work.hook == hook::POD_EGRESS || work.hook == hook::OVERLAY_EGRESS;
    let here = is_here(config, &backend.address);
    let from_link = matches!(work.hook, hook::UPLINK_INGRESS | hook::OVERLAY_INGRESS);
    let to_backend = if from_link && !here { route(&backend.address) } else { None };
    let from_client = if inside { None } else { route(&key.source) };
    // The backend is the client's own node: to a Pod of its own it would answer past this node.
    let by_its_pod = to_backend.is_some_and(|to| {
        to.label(work.ipv6 == 0).is_some() && from_client.is_some_and(|from| from.tunnel == to.tunnel)
    });
    let outside = from_link && !here && to_backend.is_none() || by_its_pod;
    let (mut source, borrowed) = source(config, work, backend, outside);
    // The node's own address has sockets of its own behind it; a Service's has none.
    let mut source_port_be = if change_port || borrowed && source != key.destination {
        other_port()
    } else if inside {
        at_backend(key, port_at_backend)
    } else if here && (from_client.is_some() || is_own(config, &backend.address)) {
        at_backend(key, port_by_another_node)
    } else {
        key.source_port_be
    };
    let way = match work.hook {
        _ if inside => Flow::BACKEND_INSIDE,
        hook::UPLINK_INGRESS if direct && !here && !borrowed => Flow::BACKEND_DIRECT,
        _ => Flow::BACKEND_OUTSIDE,
    };
    let label = if way == Flow::BACKEND_OUTSIDE && !here && !borrowed {
        label::address(config, work, to_backend)
    } else {
        None
    };
    let mut labelled = 0;
    if let Some(label) = label {
        (source, labelled) = (label, Flow::LABELLED);
        source_port_be = if change_port { label::other_port() } else { key.source_port_be };
    }
    let seen = if key.protocol != TCP || work.tcp & SYN == 0 { Flow::OPENED } else { 0 };
    work.flow = Flow {
        last_ns: work.now_ns,
        source,
        destination: backend.address,
        tunnel: Address { words_be: [0; 4] },
        source_port_be,
        destination_port_be: backend.port_be,
        backend: choice.index,
        generation: backend.generation,
        ifindex: 0,
        pair_entry: 0,
        way,
        seen,
        flags: labelled,
        answered_ns: 0,
    };
    if way == Flow::BACKEND_DIRECT {
        // The backend's node translates.
        work.flow.destination = key.destination;
        work.flow.destination_port_be = key.destination_port_be;
    }
    work.other = key.pair(&work.flow);
    let (way, flags) = match work.hook {
        hook::POD_EGRESS | hook::OVERLAY_INGRESS => (Flow::CLIENT_ROUTE, 0),
        hook::OVERLAY_EGRESS => (Flow::CLIENT_NODE, 0),
        hook::DIRECT => (Flow::CLIENT_LINK, Flow::CLAMP),
        _ => (Flow::CLIENT_LINK, 0),
    };
    work.reply = Flow {
        last_ns: work.now_ns,
        source: key.destination,
        destination: key.source,
        tunnel: Address { words_be: [0; 4] },
        source_port_be: key.destination_port_be,
        destination_port_be: key.source_port_be,
        backend: choice.index,
        generation: backend.generation,
        ifindex: config.uplink_ifindex,
        pair_entry: 0,
        way,
        seen: if seen != 0 { Flow::ANSWERED } else { 0 },
        flags: flags | labelled,
        answered_ns: 0,
    };
    labelled != 0
}

/// The source that the backend sees: the client, unless its answers would not come by here. Then it is an address whose answers
/// do, and said to be borrowed.
#[inline(always)]
fn source(config: &Config, work: &Work, backend: &Backend, outside: bool) -> (Address, bool) {
    let key = &work.key;
    match work.hook {
        // A client that is its own backend, perhaps by way of another node: nobody takes packets from itself.
        _ if backend.address == key.source && work.hook != hook::OVERLAY_EGRESS => {
            (node_address(config, key), true)
        }
        // The node that is its own backend: answers to the Service's address go through the overlay device.
        hook::OVERLAY_EGRESS if is_own(config, &backend.address) => (key.destination, true),
        // A backend outside of the cluster would answer the client itself, and so would a node its own Pod.
        _ if outside => (node_address(config, key), true),
        _ => (key.source, false),
    }
}

/// This node's address of the packet's family, or, if it has none, the Service's.
#[inline(always)]
fn node_address(config: &Config, key: &FlowKey) -> Address {
    let own = if key.source.v4_be().is_some() { &config.tunnel_v4 } else { &config.tunnel_v6 };
    if own.words_be == [0; 4] { key.destination } else { *own }
}

/// The source port that a backend sees of a client in the cluster, and a process of this node of any. SCTP keeps its own, as all ends of
/// an association do.
#[inline(always)]
pub fn at_backend(key: &FlowKey, port: impl Fn(u16) -> u16) -> u16 {
    if key.protocol == SCTP { key.source_port_be } else { port(u16::from_be(key.source_port_be)).to_be() }
}

/// A source port for what cannot keep its own.
#[inline(always)]
pub fn other_port() -> u16 {
    // SAFETY: a helper without pointers.
    ((FIRST_PORT + unsafe { bpf_get_prandom_u32() } % PORTS) as u16).to_be()
}

enum Inserted {
    Yes,
    /// Another flow of the client has the backend's answers already.
    Taken,
    Full,
}

/// Writes both directions, the answers' first.
#[inline(always)]
fn insert(work: &Work) -> Inserted {
    if work.flow.way != Flow::BACKEND_DIRECT {
        if let Err(error) = FLOWS.insert(&work.other, &work.reply, u64::from(BPF_NOEXIST)) {
            if error != -EEXIST {
                return Inserted::Full;
            }
            // What is left of this very flow is replaced.
            let own = lookup(&work.other).filter(|reply| {
                work.other.pair(reply) == work.key
                    // A label that another flow has stays that flow's.
                    || work.reply.flags & Flow::LABELLED == 0
                        && work.reply.way == Flow::CLIENT_LINK
                        && table::takes_over(work, reply)
            });
            let Some(reply) = own else { return Inserted::Taken };
            *reply = work.reply;
        }
    }
    match table::put(work, &work.key) {
        Ok(()) => Inserted::Yes,
        Err(_) => {
            let _ = FLOWS.remove(&work.other);
            Inserted::Full
        }
    }
}

const EEXIST: i32 = 17;
