//! Services at the socket: the address that a process names is exchanged for a backend's once, when it connects or sends, and no
//! packet has to be translated.
//!
//! Left to the packets' programs is what they do better: connected UDP sockets, which nothing could move to another backend
//! once the kernel has their peer; source ranges, which ask for an address that a socket may not have yet; and what the rules
//! say is dropped rather than refused.

mod address;
pub mod choose;

use aya_ebpf::{
    EbpfContext as _,
    helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval},
    macros::{cgroup_sock, cgroup_sock_addr},
    programs::{SockAddrContext, SockContext},
};
use weft_abi::{
    AGENT_PRIORITY, Address, Config, Counter, DatagramKey, Frontend, FrontendKey, ServicePort, Slots,
    SocketPeer,
};

use self::{
    address::{Family, V4, V6, protocol},
    choose::{Choice, Spread, backend_of, choose, count_connection, may_be_backend},
};
use crate::{
    maps::{CONFIG, DATAGRAM_PEERS, FRONTENDS, SERVICE_PORTS, SOCKETS},
    steps::{
        count,
        node_socket::{self, Sender},
    },
};

/// The system call goes on.
const ALLOW: i32 = 1;
/// The system call fails; with EPERM unless [`bpf_set_retval`] says otherwise.
const DENY: i32 = 0;
const ECONNREFUSED: i32 = 111;
const TCP: u8 = 6;
const UDP: u8 = 17;

#[cgroup_sock_addr(connect4)]
pub fn sock_connect4(ctx: SockAddrContext) -> i32 {
    connect::<V4>(&ctx)
}

#[cgroup_sock_addr(connect6)]
pub fn sock_connect6(ctx: SockAddrContext) -> i32 {
    connect::<V6>(&ctx)
}

#[cgroup_sock_addr(sendmsg4)]
pub fn sock_sendmsg4(ctx: SockAddrContext) -> i32 {
    sendmsg::<V4>(&ctx)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sock_sendmsg6(ctx: SockAddrContext) -> i32 {
    sendmsg::<V6>(&ctx)
}

#[cgroup_sock_addr(recvmsg4)]
pub fn sock_recvmsg4(ctx: SockAddrContext) -> i32 {
    recvmsg::<V4>(&ctx)
}

#[cgroup_sock_addr(recvmsg6)]
pub fn sock_recvmsg6(ctx: SockAddrContext) -> i32 {
    recvmsg::<V6>(&ctx)
}

#[cgroup_sock_addr(getpeername4)]
pub fn sock_getpeername4(ctx: SockAddrContext) -> i32 {
    getpeername::<V4>(&ctx)
}

#[cgroup_sock_addr(getpeername6)]
pub fn sock_getpeername6(ctx: SockAddrContext) -> i32 {
    getpeername::<V6>(&ctx)
}

/// A socket that ends needs not be remembered.
#[cgroup_sock(sock_release)]
pub fn sock_release(ctx: SockContext) -> i32 {
    // SAFETY: the context pointer is valid while the program runs.
    let port_be = unsafe { (&raw const (*ctx.sock).dst_port).read_volatile() };
    // A connection that failed has no port any more.
    if port_be == 0 || may_be_backend(port_be) {
        // SAFETY: as above.
        let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
        // It may not be in the table.
        let _ = SOCKETS.remove(&cookie);
    }
    ALLOW
}

#[inline(always)]
fn connect<F: Family>(ctx: &SockAddrContext) -> i32 {
    let Some(protocol) = protocol(ctx) else { return ALLOW };
    let Some(place) = place(ctx) else { return ALLOW };
    if protocol == UDP {
        tell_apart(&place, &F::address(ctx), address::port(ctx));
    }
    if protocol == UDP && !place.is_node || place.is_node && is_agents(ctx) {
        return ALLOW;
    }
    match backend_for::<F>(ctx, protocol, &place) {
        Ok((asked, choice)) => {
            let peer = remembered(&asked, &choice, &place);
            if SOCKETS.insert(&place.socket, &peer, 0).is_err() {
                count::packet(Counter::SocketsFull);
            }
            F::set(ctx, &choice.backend.address, choice.backend.port_be);
            count::packet(Counter::SocketService);
            ALLOW
        }
        Err(verdict) => {
            forget(&place);
            verdict
        }
    }
}

/// The backend of the Service that a socket connects to. An error is the verdict about a socket that gets none.
#[inline(always)]
fn backend_for<F: Family>(
    ctx: &SockAddrContext,
    protocol: u8,
    place: &Place,
) -> Result<(FrontendKey, Choice), i32> {
    let asked = FrontendKey { address: F::address(ctx), port_be: address::port(ctx), protocol, reserved: 0 };
    let found = match find(&asked, place) {
        Found::Nothing => return Err(ALLOW),
        Found::Refused if protocol == UDP && may_answer(ctx, place) => return Err(ALLOW),
        Found::Refused => return Err(refuse()),
        Found::Frontend(found) => found,
    };
    if is_answered_here(ctx, &asked, &found, place) {
        return Err(ALLOW);
    }
    // What is left to the node's stack would find no socket.
    if protocol == UDP && found.flags & (Frontend::ROUTED | Frontend::NODE_SOCKET) == Frontend::ROUTED {
        return Err(ALLOW);
    }
    match given(&found, place) {
        Given::Backend(choice) => Ok((asked, choice)),
        Given::Refused => Err(refuse()),
        Given::Dropped if place.is_node && found.flags & Frontend::ROUTED == 0 => Err(DENY),
        Given::Dropped => Err(ALLOW),
    }
}

#[inline(always)]
fn sendmsg<F: Family>(ctx: &SockAddrContext) -> i32 {
    let Some(UDP) = protocol(ctx) else { return ALLOW };
    let Some(place) = place(ctx) else { return ALLOW };
    let asked =
        FrontendKey { address: F::address(ctx), port_be: address::port(ctx), protocol: UDP, reserved: 0 };
    let found = match find(&asked, &place) {
        Found::Nothing => {
            tell_apart(&place, &asked.address, asked.port_be);
            return ALLOW;
        }
        Found::Refused if may_answer(ctx, &place) => return ALLOW,
        Found::Refused => return refuse(),
        Found::Frontend(found) => found,
    };
    if is_answered_here(ctx, &asked, &found, &place) {
        return ALLOW;
    }
    // The kernel takes answers to a connected socket from its peer alone, and that is the Service: packets are translated instead.
    // An IPv6 socket that is connected to an IPv4 address comes here although its process names no address.
    if address::is_connected(ctx, asked.port_be) && F::peer(ctx) == asked.address {
        return ALLOW;
    }
    let to_frontend = datagram_key(&place, &asked.address, asked.port_be, false);
    // SAFETY: an entry that is replaced while it is read names a backend of this socket all the same.
    let before = unsafe { DATAGRAM_PEERS.get(&to_frontend) };
    if before.is_some_and(|peer| peer.backend == SocketPeer::BY_PACKET) && is_by_packet(&found, &place) {
        return ALLOW;
    }
    if let Some(backend) = before.and_then(|peer| backend_of(peer.backend, peer.generation, true)) {
        F::set(ctx, &backend.address, backend.port_be);
        return ALLOW;
    }
    match given(&found, &place) {
        Given::Backend(choice) => {
            let mut peer = remembered(&asked, &choice, &place);
            let backend = choice.backend;
            let from_backend = datagram_key(&place, &backend.address, backend.port_be, true);
            // SAFETY: as above.
            let other = unsafe { DATAGRAM_PEERS.get(&from_backend) };
            // The socket has it as another Service's already: one of the two is left to packets.
            if other.is_some_and(|other| other.frontend != asked) {
                if is_by_packet(&found, &place) {
                    peer.backend = SocketPeer::BY_PACKET;
                    let _ = DATAGRAM_PEERS.insert(&to_frontend, &peer, 0);
                    return ALLOW;
                }
                tell_apart(&place, &backend.address, backend.port_be);
            }
            // Without these the answer has the backend's address, which a process that looks at it would not take.
            let _ = DATAGRAM_PEERS.insert(&to_frontend, &peer, 0);
            let _ = DATAGRAM_PEERS.insert(&from_backend, &peer, 0);
            F::set(ctx, &choice.backend.address, choice.backend.port_be);
            count::packet(Counter::SocketService);
            ALLOW
        }
        Given::Refused => refuse(),
        Given::Dropped if place.is_node && found.flags & Frontend::ROUTED == 0 => DENY,
        Given::Dropped => ALLOW,
    }
}

/// Whether packets to a frontend are translated where a process did not name its backend.
#[inline(always)]
fn is_by_packet(found: &Frontend, place: &Place) -> bool {
    !place.is_node || found.flags & (Frontend::ROUTED | Frontend::NODE_SOCKET) == Frontend::ROUTED
}

/// From here on, what comes from this address is said to be from there: the process addresses it itself. If it is a backend whose
/// answers the socket takes for a Service's, the Service is left to the packets' programs, which tell the two apart.
#[inline(always)]
fn tell_apart(place: &Place, address: &Address, port_be: u16) {
    if !may_be_backend(port_be) {
        return;
    }
    let from_backend = datagram_key(place, address, port_be, true);
    // SAFETY: an entry that is replaced while it is read names a frontend of this socket all the same.
    let Some(mut peer) = unsafe { DATAGRAM_PEERS.get(&from_backend) }.copied() else { return };
    peer.backend = SocketPeer::BY_PACKET;
    let to_frontend = datagram_key(place, &peer.frontend.address, peer.frontend.port_be, false);
    let _ = DATAGRAM_PEERS.insert(&to_frontend, &peer, 0);
    // Another system call may have removed it.
    let _ = DATAGRAM_PEERS.remove(&from_backend);
}

#[inline(always)]
fn datagram_key(place: &Place, address: &Address, port_be: u16, is_backend: bool) -> DatagramKey {
    DatagramKey {
        cookie: place.socket,
        address: *address,
        port_be,
        is_backend: u16::from(is_backend),
        reserved: 0,
    }
}

#[inline(always)]
fn recvmsg<F: Family>(ctx: &SockAddrContext) -> i32 {
    let Some(UDP) = protocol(ctx) else { return ALLOW };
    // SAFETY: the context pointer is valid while the program runs.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    let (address, port_be) = (F::address(ctx), address::port(ctx));
    let key = DatagramKey { cookie, address, port_be, is_backend: 1, reserved: 0 };
    // SAFETY: an entry that is replaced while it is read names a frontend of this socket all the same.
    if let Some(peer) = unsafe { DATAGRAM_PEERS.get(&key) } {
        F::set(ctx, &peer.frontend.address, peer.frontend.port_be);
        return ALLOW;
    }
    // SAFETY: as above.
    if let Some(peer) = unsafe { SOCKETS.get(&cookie) }
        && let Some(backend) = backend_of(peer.backend, peer.generation, false)
        && backend.address == address
        && backend.port_be == port_be
    {
        F::set(ctx, &peer.frontend.address, peer.frontend.port_be);
    }
    ALLOW
}

#[inline(always)]
fn getpeername<F: Family>(ctx: &SockAddrContext) -> i32 {
    // Whoever accepts a connection asks too: for its client's port.
    if !may_be_backend(address::port(ctx)) {
        return ALLOW;
    }
    // SAFETY: the context pointer is valid while the program runs.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    // SAFETY: an entry that is replaced while it is read is this socket's all the same.
    if let Some(peer) = unsafe { SOCKETS.get(&cookie) } {
        F::set(ctx, &peer.frontend.address, peer.frontend.port_be);
    }
    ALLOW
}

/// Forgets what the socket was given before: it was disconnected, and is connected to something else.
#[inline(always)]
fn forget(place: &Place) {
    // SAFETY: only whether there is an entry is asked.
    if unsafe { SOCKETS.get(&place.socket) }.is_some() {
        // Another system call may have removed it.
        let _ = SOCKETS.remove(&place.socket);
    }
}

#[inline(always)]
fn remembered(asked: &FrontendKey, choice: &Choice, place: &Place) -> SocketPeer {
    SocketPeer {
        frontend: *asked,
        backend: choice.index,
        generation: choice.backend.generation,
        reserved: 0,
        netns_cookie: place.netns,
    }
}

/// Whether what goes to a cluster IP may be a backend's answer: a backend on the node of its client sees the cluster IP as the
/// client's address (docs/decisions/0002). The packets' programs know the client, and refuse what is no answer.
#[inline(always)]
fn may_answer(ctx: &SockAddrContext, place: &Place) -> bool {
    place.is_node && may_be_backend(address::own_port(ctx).to_be())
}

fn refuse() -> i32 {
    count::packet(Counter::Refused);
    // SAFETY: a helper without pointers.
    unsafe { bpf_set_retval(-ECONNREFUSED) };
    DENY
}

/// Where a system call is made.
struct Place {
    /// Cookie of the socket.
    socket: u64,
    /// Cookie of the network namespace.
    netns: u64,
    /// The namespace is the node's own.
    is_node: bool,
    config: &'static Config,
}

#[inline(always)]
fn place(ctx: &SockAddrContext) -> Option<Place> {
    let config = CONFIG.get(0)?;
    // SAFETY: the context pointer is valid while the program runs.
    let (socket, netns) =
        unsafe { (bpf_get_socket_cookie(ctx.as_ptr()), bpf_get_netns_cookie(ctx.as_ptr())) };
    Some(Place { socket, netns, is_node: netns == config.netns_cookie, config })
}

/// Whether the agent connects to an API server: what Services say must not come in between, since that is where they are heard of.
#[inline(always)]
fn is_agents(ctx: &SockAddrContext) -> bool {
    // SAFETY: the context pointer is valid while the program runs.
    let socket = unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk };
    // SAFETY: the kernel gives the socket that connects, and reads nothing of one that is not there.
    !socket.is_null() && unsafe { (*socket).priority } == AGENT_PRIORITY
}

enum Found {
    /// No address of a Service.
    Nothing,
    /// A port that the Service of this address does not have.
    Refused,
    Frontend(Frontend),
}

/// The frontend that a process asks for.
#[inline(always)]
fn find(asked: &FrontendKey, place: &Place) -> Found {
    // SAFETY: of an entry that is replaced while it is read, both are the Service's.
    if let Some(found) = unsafe { FRONTENDS.get(asked) }
        // Every Pod has a loopback of its own.
        && (place.is_node || found.flags & Frontend::LOOPBACK_ONLY == 0)
    {
        return Found::Frontend(*found);
    }
    // SAFETY: only whether there is an entry is asked.
    if unsafe { FRONTENDS.get(&FrontendKey::whole(asked.address)) }.is_some() {
        return Found::Refused;
    }
    if !place.is_node || !address::is_loopback(&asked.address) {
        return Found::Nothing;
    }
    // A node's own ports answer its own processes on loopback too.
    let node = if asked.address.v4_be().is_some() { place.config.tunnel_v4 } else { place.config.tunnel_v6 };
    // SAFETY: as above.
    match unsafe { FRONTENDS.get(&FrontendKey { address: node, ..*asked }) } {
        Some(found) if found.flags & Frontend::LOOPBACK != 0 => Found::Frontend(*found),
        _ => Found::Nothing,
    }
}

/// Whether a socket of the node answers: its own processes reach it as they would any other. What a Pod sends is seen packet by
/// packet, which tells at each whether there still is such a socket.
#[inline(always)]
fn is_answered_here(ctx: &SockAddrContext, asked: &FrontendKey, found: &Frontend, place: &Place) -> bool {
    found.flags & Frontend::NODE_SOCKET != 0
        && (!place.is_node || node_socket::answers(ctx.as_ptr(), &Sender::ANYBODY, asked))
}

enum Given {
    Backend(Choice),
    Refused,
    Dropped,
}

/// The backend for a new connection, or what becomes of it without one.
#[inline(always)]
fn given(frontend: &Frontend, place: &Place) -> Given {
    if frontend.flags & Frontend::SOURCE_RANGES != 0
        && !(place.is_node && frontend.flags & Frontend::NODE_ALLOWED != 0)
    {
        return Given::Dropped;
    }
    let Some(service_port) = SERVICE_PORTS.get(frontend.service_port) else { return Given::Refused };
    let (slots, client) = (Slots(service_port.inside.0), Address::of_netns(place.netns));
    match choose(frontend.service_port, service_port, slots, Spread::Random, &client) {
        Some(choice) => {
            count_connection(frontend.service_port, choice.index);
            Given::Backend(choice)
        }
        None => {
            choose::count_without_backend(frontend.service_port);
            if service_port.flags & ServicePort::DROP_INSIDE != 0 { Given::Dropped } else { Given::Refused }
        }
    }
}
