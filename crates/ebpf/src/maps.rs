//! The maps, pinned by the loader but for the scratch space.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray},
};
use weft_abi::{
    Address, Affinity, AffinityKey, AffinityMember, Announced, BACKEND_PORT_WORDS, Backend, Config, Counter,
    DatagramKey, Flow, FlowKey, Fragment, FragmentKey, Frontend, FrontendKey, MAX_AFFINITIES,
    MAX_AFFINITY_MEMBERS, MAX_ANNOUNCED, MAX_BACKENDS, MAX_DATAGRAM_PEERS, MAX_FLOW_CLIENTS, MAX_FLOWS,
    MAX_FRAGMENTS, MAX_FRONTENDS, MAX_PODS, MAX_ROUTES, MAX_SERVICE_PORTS, MAX_SLOTS, MAX_SOCKETS,
    MAX_SOURCE_RANGES, Pod, Route, ServiceCounters, ServicePort, Side, SocketPeer, SourceRange, programs,
};

use crate::steps::{service::Work, ways::Ways};

#[map]
pub static PODS: HashMap<Address, Pod> = HashMap::pinned(MAX_PODS, 0);

#[map]
pub static ROUTES: LpmTrie<Address, Route> = LpmTrie::pinned(MAX_ROUTES, 0);

#[map]
pub static FRONTENDS: HashMap<FrontendKey, Frontend> = HashMap::pinned(MAX_FRONTENDS, BPF_F_NO_PREALLOC);

#[map]
pub static SERVICE_PORTS: Array<ServicePort> = Array::pinned(MAX_SERVICE_PORTS, 0);

#[map]
pub static SERVICE_COUNTERS: Array<ServiceCounters> = Array::pinned(MAX_SERVICE_PORTS, 0);

#[map]
pub static SLOTS: Array<u32> = Array::pinned(MAX_SLOTS, 0);

#[map]
pub static BACKENDS: Array<Backend> = Array::pinned(MAX_BACKENDS, 0);

#[map]
pub static BACKEND_COUNTERS: Array<u64> = Array::pinned(MAX_BACKENDS, 0);

#[map]
pub static BACKEND_PORTS: Array<u64> = Array::pinned(BACKEND_PORT_WORDS, 0);

#[map]
pub static SOURCE_RANGES: LpmTrie<SourceRange, u32> = LpmTrie::pinned(MAX_SOURCE_RANGES, BPF_F_NO_PREALLOC);

#[map]
pub static AFFINITIES: HashMap<AffinityKey, Affinity> = HashMap::pinned(MAX_AFFINITIES, BPF_F_NO_PREALLOC);

#[map]
pub static AFFINITY_MEMBERS: HashMap<AffinityMember, u32> =
    HashMap::pinned(MAX_AFFINITY_MEMBERS, BPF_F_NO_PREALLOC);

#[map]
pub static SOCKETS: HashMap<u64, SocketPeer> = HashMap::pinned(MAX_SOCKETS, BPF_F_NO_PREALLOC);

#[map]
pub static DATAGRAM_PEERS: LruHashMap<DatagramKey, SocketPeer> = LruHashMap::pinned(MAX_DATAGRAM_PEERS, 0);

#[map]
pub static FLOWS: HashMap<FlowKey, Flow> = HashMap::pinned(MAX_FLOWS, BPF_F_NO_PREALLOC);

#[map]
pub static FLOWS_BEGUN: HashMap<Address, u64> = HashMap::pinned(MAX_FLOW_CLIENTS, BPF_F_NO_PREALLOC);

/// Written by user space alone.
#[map]
pub static FLOWS_ENDED: HashMap<Address, u64> = HashMap::pinned(MAX_FLOW_CLIENTS, BPF_F_NO_PREALLOC);

/// Flows by side: begun, written here, then ended, written by user space.
#[map]
pub static FLOW_SIDES: Array<u64> = Array::pinned(2 * Side::COUNT, 0);

#[map]
pub static FRAGMENTS: LruHashMap<FragmentKey, Fragment> = LruHashMap::pinned(MAX_FRAGMENTS, 0);

#[map]
pub static STEPS: ProgramArray = ProgramArray::pinned(programs::STEPS.len() as u32, 0);

/// What the steps hand on to each other; nothing of it outlives a packet.
#[map]
pub static WORK: PerCpuArray<Work> = PerCpuArray::with_max_entries(1, 0);

/// See [`crate::steps::ways`].
#[map]
pub static WAYS: PerCpuArray<Ways> = PerCpuArray::with_max_entries(1, 0);

/// When this CPU's bucket of ICMP errors to clients outside is full again: coarse monotonic nanoseconds.
#[map]
pub static REFUSALS: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

#[map]
pub static ANNOUNCED: HashMap<Address, Announced> = HashMap::pinned(MAX_ANNOUNCED, BPF_F_NO_PREALLOC);

#[map]
pub static CONFIG: Array<Config> = Array::pinned(1, 0);

#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::pinned(Counter::ALL.len() as u32, 0);

/// What the pins were made from; read and written by the loader alone.
#[map]
pub static META: Array<u64> = Array::pinned(2, 0);
