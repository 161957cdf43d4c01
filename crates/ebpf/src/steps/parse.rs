//! Reading addresses from a packet.

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use weft_abi::Address;

use super::hops::Hops;

/// Ethernet header, bytes.
pub const ETHERNET: usize = 14;
/// Offsets up to here are within what the verifier takes for one; transport headers behind more are rare.
const NEAR: usize = 0xff;
const ETHERTYPE_IPV4: u16 = 0x0800_u16.to_be();
const ETHERTYPE_IPV6: u16 = 0x86dd_u16.to_be();
const ETHERTYPE_ARP: u16 = 0x0806_u16.to_be();

/// What a frame carries.
pub enum Packet {
    /// An IP packet of either family.
    Ip(Ip),
    /// ARP for IPv4 over Ethernet (RFC 826), with the sender's protocol address.
    Arp { sender: Address },
    /// Cut short, without a hop left, or not what its header says.
    Malformed,
    /// Another protocol.
    Other,
}

/// What the hooks must know of an IP packet.
#[derive(Clone, Copy)]
pub struct Ip {
    pub source: Address,
    pub destination: Address,
    pub hops: Hops,
    /// IP protocol number; of IPv6 that of the first header behind its own.
    pub protocol: u8,
}

/// Without options, 16-bit words.
type Ipv4 = [u16; 10];

#[repr(C)]
struct Ipv6 {
    version: u8,
    _flow: [u8; 3],
    length_be: [u8; 2],
    next_header: u8,
    hops: u8,
    source: [u32; 4],
    destination: [u32; 4],
}

#[repr(C)]
struct Arp {
    _until_sender: [u8; 14],
    sender_be: [u8; 4],
}

/// Reads the addresses of a frame.
#[inline(always)]
pub fn packet(ctx: &TcContext) -> Packet {
    // SAFETY: the context pointer is valid while the program runs.
    let protocol = unsafe { (*skb(ctx)).protocol } as u16;
    match protocol {
        ETHERTYPE_IPV4 => ipv4(ctx),
        ETHERTYPE_IPV6 => ipv6(ctx),
        ETHERTYPE_ARP => arp(ctx),
        _ => Packet::Other,
    }
}

/// Reads 16-bit words at an offset of the frame. Where they lie in its linear part, as headers do, that needs no call of the kernel.
///
/// # Errors
/// The frame ends before them.
#[inline(always)]
pub fn words<const N: usize>(ctx: &TcContext, at: usize) -> Result<[u16; N], i64> {
    let start = ctx.data() + (at & NEAR);
    if at > NEAR || start + 2 * N > ctx.data_end() {
        return ctx.load(at);
    }
    // SAFETY: the bounds were checked. Frames begin at even addresses, and so do their headers.
    Ok(unsafe { *(start as *const [u16; N]) })
}

/// The program's context.
#[inline(always)]
pub fn skb(ctx: &TcContext) -> *mut __sk_buff {
    ctx.skb.skb
}

/// Whether an address stays on its link (IPv6 link-local unicast and all multicast: RFC 4291 section 2.4, RFC 5771): such
/// packets are between a Pod and its gateway and are never forwarded.
#[inline(always)]
pub fn stays_on_link(address: &Address) -> bool {
    if let Some(v4_be) = address.v4_be() {
        return u32::from_be(v4_be) >= 0xe000_0000;
    }
    is_link_local(address) || u32::from_be(address.words_be[0]) & 0xff00_0000 == 0xff00_0000
}

/// Whether an address is IPv6 link-local unicast.
#[inline(always)]
pub fn is_link_local(address: &Address) -> bool {
    u32::from_be(address.words_be[0]) & 0xffc0_0000 == 0xfe80_0000
}

/// Whether an IP packet is as long as its header says. Only frames of the least size are padded.
#[inline(always)]
fn is_as_long(ctx: &TcContext, length: u32) -> bool {
    /// What follows the Ethernet header in the least frame, where a VLAN tag is gone by now.
    const LEAST: u32 = 50;
    let rest = ctx.len().wrapping_sub(ETHERNET as u32);
    rest == length || length < rest && rest <= LEAST
}

/// Whether a packet is longer than its header could say, which it may be until it is segmented ("BIG TCP"): then the header says
/// nothing.
#[inline(always)]
fn is_huge(ctx: &TcContext) -> bool {
    const MOST: u32 = 65_535;
    // SAFETY: the context pointer is valid while the program runs.
    ctx.len() > MOST + ETHERNET as u32 && unsafe { (*skb(ctx)).gso_size } != 0
}

#[inline(always)]
fn ipv4(ctx: &TcContext) -> Packet {
    let Some(header) = header::<Ipv4>(ctx) else { return Packet::Malformed };
    // SAFETY: `header` checked the bounds. Frames begin at even addresses, and so do their headers.
    let word = |at: usize| u32::from(unsafe { *header.cast::<u16>().add(at) });
    let [version_and_length, _] = (word(0) as u16).to_ne_bytes();
    let own_length = u32::from(version_and_length & 0xf) * 4;
    let length = u32::from(u16::from_be(word(1) as u16));
    let says_right = version_and_length >> 4 == 4
        && own_length >= size_of::<Ipv4>() as u32
        && (length >= own_length && is_as_long(ctx, length) || length == 0 && is_huge(ctx));
    let [left, protocol] = (word(4) as u16).to_ne_bytes();
    if !says_right || left == 0 {
        return Packet::Malformed;
    }
    let pair = |at: usize| Address::from_v4_be(word(at) | word(at + 1) << 16);
    Packet::Ip(Ip {
        source: pair(6),
        destination: pair(8),
        hops: Hops {
            left: u32::from(left),
            ipv6: 0,
            protocol: u32::from(protocol),
            checksum_be: word(5),
            in_place: 1,
        },
        protocol,
    })
}

#[inline(always)]
fn ipv6(ctx: &TcContext) -> Packet {
    let Some(header) = header::<Ipv6>(ctx) else { return Packet::Malformed };
    // SAFETY: `header` checked the bounds; the header may be unaligned, so it is read as such.
    let (version, length, next_header, left, source, destination) = unsafe {
        (
            (*header).version,
            u16::from_be_bytes((*header).length_be),
            (*header).next_header,
            (*header).hops,
            Address { words_be: (&raw const (*header).source).read_unaligned() },
            Address { words_be: (&raw const (*header).destination).read_unaligned() },
        )
    };
    let own_length = size_of::<Ipv6>() as u32;
    let says_right =
        version >> 4 == 6 && (is_as_long(ctx, own_length + u32::from(length)) || length == 0 && is_huge(ctx));
    // IPv4's addresses are never on the wire as IPv6's (RFC 4942 section 2.2): here they would be taken for what they are not.
    if !says_right || left == 0 || source.v4_be().is_some() || destination.v4_be().is_some() {
        return Packet::Malformed;
    }
    Packet::Ip(Ip {
        source,
        destination,
        hops: Hops { left: u32::from(left), ipv6: 1, protocol: 0, checksum_be: 0, in_place: 0 },
        protocol: next_header,
    })
}

#[inline(always)]
fn arp(ctx: &TcContext) -> Packet {
    let Some(header) = header::<Arp>(ctx) else { return Packet::Malformed };
    // SAFETY: `header` checked the bounds.
    Packet::Arp { sender: Address::from_v4_be(unsafe { word(&raw const (*header).sender_be) }) }
}

/// # Safety
/// The four bytes lie within the packet.
#[inline(always)]
unsafe fn word(bytes: *const [u8; 4]) -> u32 {
    // SAFETY: the caller checked the bounds.
    unsafe { bytes.cast::<u32>().read_unaligned() }
}

/// The header behind Ethernet's, if the packet has it. Headers that lie beyond the linear part are pulled into it.
#[inline(always)]
fn header<T>(ctx: &TcContext) -> Option<*const T> {
    let end = ETHERNET + size_of::<T>();
    if ctx.data() + end > ctx.data_end() {
        ctx.pull_data(end as u32).ok()?;
        if ctx.data() + end > ctx.data_end() {
            return None;
        }
    }
    Some((ctx.data() + ETHERNET) as *const T)
}
