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
use weft_abi::{Address, Config, ENTRY_VNI, GATEWAY_MAC, LABEL_SHIFT, NODE_MAC};

use super::{deliver::Tunnel, parse::skb};

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
/// Version 4, five words of header, no type of service.
const VERSION: u16 = 0x4500_u16.to_be();
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

/// Wraps a packet for which [`may_be`] holds; its outer hardware addresses are still to be written.
#[inline(always)]
pub fn wrap(ctx: &TcContext, config: &Config, remote: &Address, vni: u32) -> Result<(), i64> {
    let length = ctx.len() - ETHERNET + HEADERS;
    // SAFETY: the context pointer is valid while the program runs.
    let (inner, hash) = unsafe { ((*skb(ctx)).protocol as u16, bpf_get_hash_recalc(skb(ctx))) };
    let half = |word: u32, upper: bool| if upper { word as u16 } else { (word >> 16) as u16 };
    let (source, destination) = (config.tunnel_v4.words_be[3], remote.words_be[3]);
    let [d0, d1, d2, d3, d4, d5] = GATEWAY_MAC;
    let [s0, s1, s2, s3, s4, s5] = NODE_MAC;
    let pair = |a: u8, b: u8| u16::from_ne_bytes([a, b]);
    let ip = [
        VERSION,
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
        // The upper ports, spread by flow: what lies between may have several ways.
        (0xc000 | (hash ^ hash >> 16) as u16 & 0x3fff).to_be(),
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
    ctx.adjust_room(HEADERS as i32, BPF_ADJ_ROOM_MAC, u64::from(flags) | INNER_ETHERNET)?;
    ctx.store(TYPE, &words, 0)
}

/// Takes the outer headers off an entry tunnel's packet. What is anything else, or not plain enough, is left as it is.
#[inline(always)]
pub fn unwrap(ctx: &TcContext) -> Option<Tunnel> {
    // SAFETY: the context pointer is valid while the program runs.
    if unsafe { (*skb(ctx)).gso_size } != 0 {
        return None;
    }
    let words: [u16; WORDS] = ctx.load(TYPE).ok()?;
    let whole = words[1] == VERSION && words[4] & !DONT_FRAGMENT == 0;
    // A checksum is the stack's to verify.
    if words[0] != IPV4 || !whole || words[14] != 0 || words[15] != VXLAN_FLAGS {
        return None;
    }
    let vni = u32::from_be(u32::from(words[17]) | u32::from(words[18]) << 16) >> 8;
    if vni & ((1 << LABEL_SHIFT) - 1) != ENTRY_VNI {
        return None;
    }
    let flags = match words[25] {
        IPV4 => BPF_F_ADJ_ROOM_DECAP_L3_IPV4,
        IPV6 => BPF_F_ADJ_ROOM_DECAP_L3_IPV6,
        _ => return None,
    };
    let end = Address::from_v4_be(u32::from(words[7]) | u32::from(words[8]) << 16);
    let inner = words[25];
    ctx.adjust_room(-(HEADERS as i32), BPF_ADJ_ROOM_MAC, u64::from(flags)).ok()?;
    ctx.store(TYPE, &inner, 0).ok()?;
    Some(Tunnel { end, vni })
}
