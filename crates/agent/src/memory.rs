//! How the process asks for memory and gives it back.

/// Allocations from this size on, in bytes, are given back to the system as soon as they are freed: pages of lists, maps as they
/// are read.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 128 << 10;
/// Pools of memory that threads share. Each keeps what it once had.
#[cfg(target_env = "gnu")]
const POOLS: libc::c_int = 2;

/// An agent is small next to what it works for: no pool a thread, and nothing large is kept for later.
pub(crate) fn be_frugal() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets parameters of the allocator; what it does not take stays as it was.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        libc::mallopt(libc::M_ARENA_MAX, POOLS);
    }
}

/// Gives what is free back to the system: after something large that does not come again soon.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the allocator looks through its own free memory; it takes no argument that could be wrong.
    unsafe {
        libc::malloc_trim(0);
    }
}
