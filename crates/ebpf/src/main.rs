//! Weft's kernel programs: a file a hook, `steps/` shared by them.
//!
//! Invariants: a packet between Pods never meets the host's netfilter; every drop is counted by reason; no map is
//! written here except counters.

#![no_std]
#![no_main]

mod maps;
mod overlay;
mod pod;
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
