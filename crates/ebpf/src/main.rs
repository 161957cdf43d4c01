//! Weft's kernel programs: a file a hook, `steps/` shared by them.
//!
//! Invariants: a packet between Pods never meets the host's netfilter; every drop is counted by reason; tables that
//! state what the cluster is are only read here; what is written is what the programs themselves remember and count.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod maps;
mod overlay;
mod pod;
mod service;
mod sock;
mod steps;
mod uplink;

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses a program that can reach this.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
