//! The maps, all pinned by the loader.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LpmTrie, PerCpuArray},
};
use weft_abi::{Address, Config, Counter, MAX_POD_PORTS, MAX_PODS, MAX_ROUTES, Pod, PodPort, Route};

#[map]
pub static PODS: HashMap<Address, Pod> = HashMap::pinned(MAX_PODS, 0);

#[map]
pub static ROUTES: LpmTrie<Address, Route> = LpmTrie::pinned(MAX_ROUTES, 0);

#[map]
pub static POD_PORTS: HashMap<PodPort, u32> = HashMap::pinned(MAX_POD_PORTS, 0);

#[map]
pub static CONFIG: Array<Config> = Array::pinned(1, 0);

#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::pinned(Counter::ALL.len() as u32, 0);

/// What the pins were made from; read and written by the loader alone.
#[map]
pub static META: Array<u64> = Array::pinned(2, 0);
