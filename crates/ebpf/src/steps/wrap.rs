//! VXLAN (RFC 7348) written and taken off by the programs themselves: for a single packet that costs a fraction of what the devices
//! of both ends take. What the hardware or the kernel has joined of several packets is left to the device, which knows how to
//! cut it again.

use aya_ebpf::{
    bindings::{
        BPF_F_ADJ_ROOM_DECAP_L3_IPV4, BPF_F_ADJ_ROOM_DECAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L2_ETH,
        BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_ADJ_ROOM_FIXED_GSO,
        bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    },
    helpers::bpf_get_hash_recalc,
    programs::TcContext,
};
use weft_abi::{Address, Config, GATEWAY_MAC, NODE_MAC, TUNNEL_SOURCE_PORTS};

use super::{
    deliver::Tunnel,
    parse::{skb, words},
};

/// Ethernet header, bytes.
const ETHERNET: u32 = 14;
/// Offset of the Ethernet header's type: from here on the outer headers are written.
const TYPE: usize = 12;
/// IPv4, UDP, VXLAN and the inner Ethernet header, bytes.
const HEADERS: u32 = 20 + 8 + 8 + 14;
/// The same from [`TYPE`] on, in words of 16 bits.
const WORDS: usize = (2 + HEADERS as usize) / 2;
const IPV4: u16 = 0x0800_u16.to_be();
const IPV6: u16 = 0x86dd_u16.to_be();
/// Version 4, five words of header, no type of service but for what is said of congestion (RFC 3168).
const VERSION: u16 = 0x4500_u16.to_be();
const CONGESTION: u16 = 3_u16.to_be();
const DONT_FRAGMENT: u16 = 0x4000_u16.to_be();
const TTL_AND_UDP: u16 = 0x4011_u16.to_be();
/// The identifier is valid.
const VXLAN_FLAGS: u16 = 0x0800_u16.to_be();
/// `BPF_F_ADJ_ROOM_ENCAP_L2` of the inner Ethernet header.
const INNER_ETHERNET: u64 = (ETHERNET as u64) << 56;

/// Whether the packet can be wrapped here: a single one, that fits, between IPv4 addresses.
#[inline(always)]
pub fn may_be(ctx: &TcContext, config: &Config, remote: &Address) -> bool {
    // SAFETY: the context pointer is valid while the program runs.
    let gso_size = unsafe { (*skb(ctx)).gso_size };
    gso_size == 0
        && remote.v4_be().is_some()
        && config.tunnel_v4.words_be[3] != 0
        && ctx.len() + HEADERS <= config.uplink_mtu + ETHERNET
}

/// Wraps a packet for which [`may_be`] holds; its outer hardware addresses are still to be written. Returns whether it did: the kernel
/// wraps nothing that is marked as wrapped, which what comes out of a tunnel may be until it has crossed a wire.
///
/// # Errors
/// The packet is spoilt.
#[inline(always)]
pub fn wrap(ctx: &TcContext, config: &Config, remote: &Address, vni: u32) -> Result<bool, i64> {
    let length = ctx.len() - ETHERNET + HEADERS;
    // SAFETY: the context pointer is valid while the program runs.
    let (inner, hash) = unsafe { ((*skb(ctx)).protocol as u16, bpf_get_hash_recalc(skb(ctx))) };
    let half = |word: u32, upper: bool| if upper { word as u16 } else { (word >> 16) as u16 };
    let (source, destination) = (config.tunnel_v4.words_be[3], remote.words_be[3]);
    let [d0, d1, d2, d3, d4, d5] = GATEWAY_MAC;
    let [s0, s1, s2, s3, s4, s5] = NODE_MAC;
    let pair = |a: u8, b: u8| u16::from_ne_bytes([a, b]);
    // Whoever may mark the packet instead of dropping it may do so on this way as well (RFC 6040).
    let [first]: [u16; 1] = words(ctx, ETHERNET as usize)?;
    let congestion = if inner == IPV4 { first } else { (u16::from_be(first) >> 4).to_be() } & CONGESTION;
    let ip = [
        VERSION | congestion,
        (length as u16).to_be(),
        0,
        DONT_FRAGMENT,
        TTL_AND_UDP,
        half(source, true),
        half(source, false),
        half(destination, true),
        half(destination, false),
    ];
    let mut sum = 0_u32;
    for word in ip {
        sum += u32::from(word);
    }
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let vni_be = (vni << 8).to_be();
    let words: [u16; WORDS] = [
        IPV4,
        ip[0],
        ip[1],
        ip[2],
        ip[3],
        ip[4],
        !(sum as u16),
        ip[5],
        ip[6],
        ip[7],
        ip[8],
        source_port(hash).to_be(),
        config.vxlan_port_be,
        ((length - 20) as u16).to_be(),
        0,
        VXLAN_FLAGS,
        0,
        half(vni_be, true),
        half(vni_be, false),
        pair(d0, d1),
        pair(d2, d3),
        pair(d4, d5),
        pair(s0, s1),
        pair(s2, s3),
        pair(s4, s5),
        inner,
    ];
    let flags = BPF_F_ADJ_ROOM_FIXED_GSO
        | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4
        | BPF_F_ADJ_ROOM_ENCAP_L4_UDP
        | BPF_F_ADJ_ROOM_ENCAP_L2_ETH;
    if ctx.adjust_room(HEADERS as i32, BPF_ADJ_ROOM_MAC, u64::from(flags) | INNER_ETHERNET).is_err() {
        return Ok(false);
    }
    ctx.store(TYPE, &words, 0)?;
    Ok(true)
}

/// Where a tunnel packet is sent from, by the hash of what is within: as the kernel's devices do.
#[inline(always)]
fn source_port(hash: u32) -> u16 {
    const FIRST: u16 = TUNNEL_SOURCE_PORTS.0;
    const COUNT: u64 = (TUNNEL_SOURCE_PORTS.1 - FIRST) as u64;
    FIRST + (u64::from(hash ^ hash << 16) * COUNT >> 32) as u16
}

/// A packet in a tunnel that the programs can take out of it themselves.
pub struct Wrapped {
    pub tunnel: Tunnel,
    /// Ethernet type of what is within.
    inner: u16,
}

/// The frame as a tunnel's, if it is plain enough: a single packet between IPv4 addresses, without a checksum, which is the stack's to
/// verify.
#[inline(always)]
pub fn wrapped(ctx: &TcContext) -> Option<Wrapped> {
    // SAFETY: the context pointer is valid while the program runs.
    if unsafe { (*skb(ctx)).gso_size } != 0 {
        return None;
    }
    let words: [u16; WORDS] = words(ctx, TYPE).ok()?;
    let whole = words[1] & !CONGESTION == VERSION && words[4] & !DONT_FRAGMENT == 0;
    // What was marked on its way is the stack's to tell the inner packet.
    let marked = words[1] & CONGESTION == CONGESTION;
    let inner = words[25];
    let plain = words[0] == IPV4 && whole && !marked && words[14] == 0 && words[15] == VXLAN_FLAGS;
    if !plain || !matches!(inner, IPV4 | IPV6) {
        return None;
    }
    let end = Address::from_v4_be(u32::from(words[7]) | u32::from(words[8]) << 16);
    let vni = u32::from_be(u32::from(words[17]) | u32::from(words[18]) << 16) >> 8;
    Some(Wrapped { tunnel: Tunnel { end, vni }, inner })
}

impl Wrapped {
    /// Where what is within goes; nothing if that cannot be read, or is where its last hop ends.
    #[inline(always)]
    pub fn destination(&self, ctx: &TcContext) -> Option<Address> {
        const IP: usize = (ETHERNET + HEADERS) as usize;
        let pair = |a: u16, b: u16| u32::from(a) | u32::from(b) << 16;
        let (hops, address) = if self.inner == IPV4 {
            let ip: [u16; 10] = words(ctx, IP).ok()?;
            (ip[4].to_ne_bytes()[0], Address::from_v4_be(pair(ip[8], ip[9])))
        } else {
            let ip: [u16; 20] = words(ctx, IP).ok()?;
            let words_be =
                [pair(ip[12], ip[13]), pair(ip[14], ip[15]), pair(ip[16], ip[17]), pair(ip[18], ip[19])];
            (ip[3].to_ne_bytes()[1], Address { words_be })
        };
        if hops > 1 { Some(address) } else { None }
    }

    /// Takes the outer headers off.
    #[inline(always)]
    pub fn unwrap(&self, ctx: &TcContext) -> Result<(), i64> {
        let flags =
            if self.inner == IPV4 { BPF_F_ADJ_ROOM_DECAP_L3_IPV4 } else { BPF_F_ADJ_ROOM_DECAP_L3_IPV6 };
        ctx.adjust_room(-(HEADERS as i32), BPF_ADJ_ROOM_MAC, u64::from(flags))?;
        ctx.store(TYPE, &self.inner, 0)
    }
}
