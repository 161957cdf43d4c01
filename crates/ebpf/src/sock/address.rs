//! The address in a system call.

use aya_ebpf::{bindings::bpf_sock, programs::SockAddrContext};
use weft_abi::Address;

use super::{TCP, UDP};

const IPPROTO_MPTCP: u32 = 262;

/// Family of a hook. In an IPv6 hook, an IPv4 peer stands mapped, as in [`Address`].
pub trait Family {
    /// The address that the process named, or that is about to be told to it.
    fn address(ctx: &SockAddrContext) -> Address;

    /// Puts another address and port there.
    fn set(ctx: &SockAddrContext, address: &Address, port_be: u16);

    /// The address that the socket is connected to; of one that is not, unspecified.
    fn peer(ctx: &SockAddrContext) -> Address;
}

/// IPv4.
pub enum V4 {}
/// IPv6.
pub enum V6 {}

// The verifier wants the context's fields read and written one by one, in their own size: hence volatile.

impl Family for V4 {
    #[inline(always)]
    fn address(ctx: &SockAddrContext) -> Address {
        // SAFETY: the context is valid while the program runs.
        Address::from_v4_be(unsafe { (&raw const (*ctx.sock_addr).user_ip4).read_volatile() })
    }

    #[inline(always)]
    fn set(ctx: &SockAddrContext, address: &Address, port_be: u16) {
        // SAFETY: the context is valid while the program runs.
        unsafe {
            (&raw mut (*ctx.sock_addr).user_ip4).write_volatile(address.words_be[3]);
            (&raw mut (*ctx.sock_addr).user_port).write_volatile(u32::from(port_be));
        }
    }

    #[inline(always)]
    fn peer(ctx: &SockAddrContext) -> Address {
        // SAFETY: the context, and the socket that it names, are valid while the program runs.
        Address::from_v4_be(unsafe { (&raw const (*socket(ctx)).dst_ip4).read_volatile() })
    }
}

impl Family for V6 {
    #[inline(always)]
    fn address(ctx: &SockAddrContext) -> Address {
        // SAFETY: the context is valid while the program runs.
        unsafe {
            let words = &raw const (*ctx.sock_addr).user_ip6;
            Address {
                words_be: [
                    (&raw const (*words)[0]).read_volatile(),
                    (&raw const (*words)[1]).read_volatile(),
                    (&raw const (*words)[2]).read_volatile(),
                    (&raw const (*words)[3]).read_volatile(),
                ],
            }
        }
    }

    #[inline(always)]
    fn set(ctx: &SockAddrContext, address: &Address, port_be: u16) {
        // SAFETY: the context is valid while the program runs.
        unsafe {
            let words = &raw mut (*ctx.sock_addr).user_ip6;
            (&raw mut (*words)[0]).write_volatile(address.words_be[0]);
            (&raw mut (*words)[1]).write_volatile(address.words_be[1]);
            (&raw mut (*words)[2]).write_volatile(address.words_be[2]);
            (&raw mut (*words)[3]).write_volatile(address.words_be[3]);
            (&raw mut (*ctx.sock_addr).user_port).write_volatile(u32::from(port_be));
        }
    }

    #[inline(always)]
    fn peer(ctx: &SockAddrContext) -> Address {
        // SAFETY: the context, and the socket that it names, are valid while the program runs.
        unsafe {
            let words = &raw const (*socket(ctx)).dst_ip6;
            Address {
                words_be: [
                    (&raw const (*words)[0]).read_volatile(),
                    (&raw const (*words)[1]).read_volatile(),
                    (&raw const (*words)[2]).read_volatile(),
                    (&raw const (*words)[3]).read_volatile(),
                ],
            }
        }
    }
}

/// The socket of a system call.
#[inline(always)]
fn socket(ctx: &SockAddrContext) -> *mut bpf_sock {
    // SAFETY: the context is valid while the program runs.
    unsafe { (&raw const (*ctx.sock_addr).__bindgen_anon_1.sk).read_volatile() }
}

/// Whether the socket of a system call is connected, to this port in network byte order.
#[inline(always)]
pub fn is_connected(ctx: &SockAddrContext, port_be: u16) -> bool {
    /// `TCP_ESTABLISHED`, which the kernel uses for connected UDP sockets too.
    const ESTABLISHED: u32 = 1;
    let socket = socket(ctx);
    // SAFETY: the context, and the socket that it names, are valid while the program runs.
    unsafe {
        (&raw const (*socket).state).read_volatile() == ESTABLISHED
            && (&raw const (*socket).dst_port).read_volatile() == port_be
    }
}

/// The port that the socket of a system call is bound to, host byte order; 0 before it is bound.
#[inline(always)]
pub fn own_port(ctx: &SockAddrContext) -> u16 {
    // SAFETY: the context, and the socket that it names, are valid while the program runs.
    unsafe { (&raw const (*socket(ctx)).src_port).read_volatile() as u16 }
}

/// The port in a system call, network byte order.
#[inline(always)]
pub fn port(ctx: &SockAddrContext) -> u16 {
    // SAFETY: the context is valid while the program runs.
    unsafe { (&raw const (*ctx.sock_addr).user_port).read_volatile() as u16 }
}

/// TCP or UDP; other sockets are not looked at.
#[inline(always)]
pub fn protocol(ctx: &SockAddrContext) -> Option<u8> {
    // SAFETY: the context is valid while the program runs.
    match unsafe { (&raw const (*ctx.sock_addr).protocol).read_volatile() } {
        IPPROTO_MPTCP => Some(TCP),
        protocol if protocol == u32::from(TCP) => Some(TCP),
        protocol if protocol == u32::from(UDP) => Some(UDP),
        _ => None,
    }
}

/// 127.0.0.0/8 and ::1.
#[inline(always)]
pub fn is_loopback(address: &Address) -> bool {
    match address.v4_be() {
        Some(v4_be) => u32::from_be(v4_be) >> 24 == 127,
        None => address.words_be == [0, 0, 0, 1_u32.to_be()],
    }
}
