//! Services that a socket of this node answers itself (cluster DNS): as long as there is one, nothing is translated.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{
        BPF_F_CURRENT_NETNS, bpf_sock, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 as Tuple4,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 as Tuple6,
    },
    helpers::{bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release},
};
use weft_abi::{Address, FrontendKey};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Who sends to a frontend.
pub struct Sender {
    pub address: Address,
    pub port_be: u16,
}

impl Sender {
    /// Nobody in particular: finds sockets that listen, and no connection.
    pub const ANYBODY: Sender = Sender { address: Address { words_be: [0; 4] }, port_be: 0 };
}

/// Whether a socket in this namespace is bound to the frontend's address. Sockets that are bound to any address do not
/// count: they are somebody else's.
///
/// `context` is a packet's or a system call's.
#[inline(always)]
pub fn answers(context: *mut c_void, sender: &Sender, asked: &FrontendKey) -> bool {
    match asked.protocol {
        UDP => is_bound(context, sender, asked),
        // What a connection leaves behind when it has ended is no socket that could be found; who listens can.
        TCP => is_bound(context, sender, asked) || is_bound(context, &Sender::ANYBODY, asked),
        _ => false,
    }
}

#[inline(always)]
fn is_bound(context: *mut c_void, sender: &Sender, asked: &FrontendKey) -> bool {
    let (sport, dport) = (sender.port_be, asked.port_be);
    let udp = asked.protocol == UDP;
    match asked.address.v4_be() {
        Some(daddr) => {
            let ipv4 = Tuple4 { saddr: sender.address.words_be[3], daddr, sport, dport };
            let mut tuple = bpf_sock_tuple { __bindgen_anon_1: bpf_sock_tuple__bindgen_ty_1 { ipv4 } };
            // SAFETY: the tuple outlives the call and is as long as is said; the socket is held until it is released.
            unsafe {
                let socket = lookup(context, udp, &mut tuple, size_of::<Tuple4>());
                if socket.is_null() {
                    return false;
                }
                let own = (&raw const (*socket).src_ip4).read_volatile() == daddr;
                bpf_sk_release(socket.cast());
                own
            }
        }
        None => {
            let (saddr, daddr) = (sender.address.words_be, asked.address.words_be);
            let ipv6 = Tuple6 { saddr, daddr, sport, dport };
            let mut tuple = bpf_sock_tuple { __bindgen_anon_1: bpf_sock_tuple__bindgen_ty_1 { ipv6 } };
            // SAFETY: as above.
            unsafe {
                let socket = lookup(context, udp, &mut tuple, size_of::<Tuple6>());
                if socket.is_null() {
                    return false;
                }
                let words = &raw const (*socket).src_ip6;
                let own = (&raw const (*words)[3]).read_volatile() == daddr[3]
                    && (&raw const (*words)[2]).read_volatile() == daddr[2]
                    && (&raw const (*words)[1]).read_volatile() == daddr[1]
                    && (&raw const (*words)[0]).read_volatile() == daddr[0];
                bpf_sk_release(socket.cast());
                own
            }
        }
    }
}

/// A socket of this namespace, to be released.
///
/// # Safety
/// The context is the program's, and the tuple has so many bytes.
#[inline(always)]
unsafe fn lookup(context: *mut c_void, udp: bool, tuple: &mut bpf_sock_tuple, size: usize) -> *mut bpf_sock {
    let (size, netns) = (size as u32, BPF_F_CURRENT_NETNS as i64 as u64);
    // SAFETY: the caller's.
    unsafe {
        if udp {
            bpf_sk_lookup_udp(context, tuple, size, netns, 0)
        } else {
            bpf_sk_lookup_tcp(context, tuple, size, netns, 0)
        }
    }
}
