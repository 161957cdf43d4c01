//! Reading addresses from a packet.

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use weft_abi::Address;

/// Ethernet header, bytes.
const ETHERNET: usize = 14;
/// Offsets up to here are within what the verifier takes for one; transport headers behind more are rare.
const NEAR: usize = 0xff;
const ETHERTYPE_IPV4: u16 = 0x0800_u16.to_be();
const ETHERTYPE_IPV6: u16 = 0x86dd_u16.to_be();
const ETHERTYPE_ARP: u16 = 0x0806_u16.to_be();

/// What a frame carries.
pub enum Packet {
    /// An IP packet of either family.
    Ip { source: Address, destination: Address },
    /// ARP for IPv4 over Ethernet (RFC 826), with the sender's protocol address.
    Arp { sender: Address },
    /// Cut short, or not what its header says.
    Malformed,
    /// Another protocol.
    Other,
}

#[repr(C)]
struct Ipv4 {
    version_and_length: u8,
    _until_source: [u8; 11],
    source_be: [u8; 4],
    destination_be: [u8; 4],
}

#[repr(C)]
struct Ipv6 {
    _until_source: [u8; 8],
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
    let first = u32::from_be(address.words_be[0]);
    first & 0xffc0_0000 == 0xfe80_0000 || first & 0xff00_0000 == 0xff00_0000
}

#[inline(always)]
fn ipv4(ctx: &TcContext) -> Packet {
    let Some(header) = header::<Ipv4>(ctx) else { return Packet::Malformed };
    // SAFETY: `header` checked the bounds.
    unsafe {
        if (*header).version_and_length >> 4 != 4 {
            return Packet::Malformed;
        }
        Packet::Ip {
            source: Address::from_v4_be(word(&raw const (*header).source_be)),
            destination: Address::from_v4_be(word(&raw const (*header).destination_be)),
        }
    }
}

#[inline(always)]
fn ipv6(ctx: &TcContext) -> Packet {
    let Some(header) = header::<Ipv6>(ctx) else { return Packet::Malformed };
    // SAFETY: `header` checked the bounds; the header may be unaligned, so it is read as such.
    unsafe {
        Packet::Ip {
            source: Address { words_be: (&raw const (*header).source).read_unaligned() },
            destination: Address { words_be: (&raw const (*header).destination).read_unaligned() },
        }
    }
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
