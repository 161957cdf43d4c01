//! Removing flows and affinities whose time is over.
//!
//! A call looks at a part of the tables and goes on there the next time, so that its cost is bounded however many entries
//! there are.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use aya::maps::{Array, HashMap, Map, MapData, MapError};
use nix::time::{ClockId, clock_gettime};
use weft_abi::{
    Address, Affinity, AffinityKey, Flow, FlowKey, MAX_AFFINITIES, MAX_FLOWS, Plain, ServicePort, Side, maps,
};

use super::sides::Sides;
use crate::{
    Datapath,
    load::{Programs, bpf_call},
    service::ServiceError,
    table::{BpfTableError, Raw},
};

/// Entries of each table that a call looks at; of a table that fills up several times as many.
const AT_ONCE: u32 = 16_384;
const PARTS_UNDER_PRESSURE: usize = 8;
const SECOND: u64 = 1_000_000_000;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// How full a table is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fullness {
    /// Entries, when all of them were last counted.
    pub used: usize,
    /// Entries that there is room for.
    pub room: usize,
}

/// What a call of [`Datapath::sweep`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Flows that it removed.
    pub flows_ended: usize,
    /// Affinities that it removed.
    pub affinities_ended: usize,
    /// The table of flows, in directions: two entries a flow.
    pub flows: Fullness,
    /// The table of affinities.
    pub affinities: Fullness,
}

/// A hash map that is gone through part by part.
struct Walk<K: Plain, V: Plain> {
    name: &'static str,
    map: HashMap<MapData, Raw<K>, Raw<V>>,
    descriptor: OwnedFd,
    /// Where to go on.
    place: Option<u32>,
    /// Entries that stay, since the beginning.
    seen: usize,
    /// The same of the last time that the end was reached.
    used: usize,
}

/// Goes through the tables of flows and affinities.
pub(crate) struct Sweeper {
    flows: Walk<FlowKey, Flow>,
    affinities: Walk<AffinityKey, Affinity>,
    begun: HashMap<MapData, Raw<Address>, u64>,
    ended: HashMap<MapData, Raw<Address>, u64>,
    sides: Sides,
    service_ports: Array<MapData, Raw<ServicePort>>,
}

impl Datapath {
    /// Removes flows and affinities whose time is over. Bounded work: call it about every second.
    ///
    /// # Errors
    /// When a table cannot be read or written; the next call tries again.
    pub fn sweep(&mut self) -> Result<Swept, ServiceError> {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC)
            .map_err(|errno| BpfTableError::Read { map: maps::FLOWS, source: errno.into() })?;
        Ok(self.sweeper.sweep(now.tv_sec() as u64 * SECOND + now.tv_nsec() as u64)?)
    }
}

/// Nanoseconds without a packet after which a direction of a flow is over. As long as those of the kernel's own connection
/// tracking, but for established connections: they are a day instead of five. Where room is needed, what has ended goes sooner, and
/// so does what was never answered: of a flood of clients that do not exist there is nothing else.
fn lifetime(key: &FlowKey, flow: &Flow, pressed: bool) -> u64 {
    let has = |bits| flow.seen & bits == bits;
    let both = has(Flow::OPENED | Flow::ANSWERED)
        // Its answers do not come by here.
        || flow.way == Flow::BACKEND_DIRECT && has(Flow::OPENED);
    let ended = has(Flow::RST) || has(Flow::FIN | Flow::PEER_FIN);
    // Who opened the connection has sent nothing but that: answers to it are sent again and again, and say nothing.
    let half_open =
        key.protocol == TCP && !has(if flow.is_forward() { Flow::OPENED } else { Flow::ANSWERED });
    let seconds = match key.protocol {
        TCP if half_open && pressed && !flow.is_forward() => 0,
        TCP if (half_open || ended) && pressed => 5,
        TCP if ended => 60,
        // One side has said all that it will; the other may still have much to say.
        TCP if has(Flow::FIN) || has(Flow::PEER_FIN) => 3600,
        TCP if both => 24 * 3600,
        UDP if both => 180,
        _ if !both && pressed => 5,
        UDP => 30,
        // SCTP has heartbeats.
        _ if both => 600,
        _ => 60,
    };
    seconds * SECOND
}

/// Seconds after a client's last connection until its affinity is removed. It is kept for longer than it holds, as a sign that the
/// client's next choice is free: without a sign it is made by a hash, so that it is the same on every node.
fn affinity_lifetime(seconds: u64, pressed: bool) -> u64 {
    const SIGN: u64 = 24 * 3600;
    if pressed || seconds == 0 { seconds } else { seconds + SIGN }
}

fn is_over(now: u64, key: &FlowKey, flow: &Flow, pressed: bool) -> bool {
    now.saturating_sub(flow.last_ns) > lifetime(key, flow, pressed)
}

// === impl Sweeper ===

impl Sweeper {
    /// The pinned maps.
    pub(crate) fn open(programs: &Programs) -> Result<Sweeper, ServiceError> {
        let counts = |name| -> Result<_, ServiceError> {
            Ok(HashMap::try_from(Map::HashMap(programs.map(name)?)).map_err(at(name))?)
        };
        let name = maps::SERVICE_PORTS;
        Ok(Sweeper {
            flows: Walk::open(programs, maps::FLOWS)?,
            affinities: Walk::open(programs, maps::AFFINITIES)?,
            begun: counts(maps::FLOWS_BEGUN)?,
            ended: counts(maps::FLOWS_ENDED)?,
            sides: Sides::open(programs)?,
            service_ports: Array::try_from(Map::Array(programs.map(name)?)).map_err(at(name))?,
        })
    }

    fn sweep(&mut self, now: u64) -> Result<Swept, BpfTableError> {
        // A flow has two entries.
        let in_table = 2 * (self.sides.in_table(Side::Inside)? + self.sides.in_table(Side::Outside)?);
        let pressed = self.flows.entries().max(in_table as usize) > MAX_FLOWS as usize / 2;
        let mut flows_ended = 0;
        for _ in 0..if pressed { PARTS_UNDER_PRESSURE } else { 1 } {
            flows_ended += self.sweep_flows(now, pressed)?;
        }
        let affinities_ended = self.sweep_affinities(now)?;
        Ok(Swept {
            flows_ended,
            affinities_ended,
            flows: Fullness { used: self.flows.used, room: MAX_FLOWS as usize },
            affinities: Fullness { used: self.affinities.used, room: MAX_AFFINITIES as usize },
        })
    }

    /// A flow is over when both of its directions are.
    fn sweep_flows(&mut self, now: u64, pressed: bool) -> Result<usize, BpfTableError> {
        // Both directions of a flow may be in this part.
        let (mut over, mut forward) = (BTreeSet::new(), BTreeMap::new());
        if self.flows.place.is_none() {
            self.sides.begin()?;
        }
        let part = self.flows.next()?;
        part.iter().filter(|(_, flow)| flow.is_forward()).for_each(|(_, flow)| self.sides.see(flow.side()));
        for (key, flow) in part {
            let pair = key.pair(&flow);
            let other = if is_over(now, &key, &flow, pressed) { self.flows.get(&pair)? } else { continue };
            // A direction that belongs to another flow by now says nothing of this one.
            let other = other.filter(|other| pair.pair(other) == key);
            if other.is_some_and(|other| !is_over(now, &pair, &other, pressed)) {
                continue;
            }
            forward.extend(if flow.is_forward() {
                Some((key, (flow.client(&key), flow.side())))
            } else {
                other.map(|other| (pair, (other.client(&pair), other.side())))
            });
            over.insert(key);
            over.extend(other.map(|_| pair));
        }
        let ended = forward.len();
        let mut clients: BTreeMap<Address, u64> = BTreeMap::new();
        for (client, side) in forward.into_values() {
            *clients.entry(client).or_default() += 1;
            self.sides.end(side);
        }
        // Counted first: should this process end here, a client may have a few flows more, never fewer.
        for (client, count) in clients {
            self.count_ended(client, count)?;
        }
        for key in &over {
            self.flows.remove(key)?;
        }
        self.sides.write(self.flows.place.is_none())?;
        Ok(ended)
    }

    fn count_ended(&mut self, client: Address, count: u64) -> Result<(), BpfTableError> {
        let read = |map: &HashMap<MapData, Raw<Address>, u64>, name| match map.get(&Raw(client), 0) {
            Ok(value) => Ok(value),
            Err(MapError::KeyNotFound) => Ok(0),
            Err(error) => Err(at(name)(error)),
        };
        let ended = read(&self.ended, maps::FLOWS_ENDED)? + count;
        if read(&self.begun, maps::FLOWS_BEGUN)? > ended {
            return self.ended.insert(Raw(client), ended, 0).map_err(at(maps::FLOWS_ENDED));
        }
        // It has none.
        or_gone(self.begun.remove(&Raw(client))).map_err(at(maps::FLOWS_BEGUN))?;
        or_gone(self.ended.remove(&Raw(client))).map_err(at(maps::FLOWS_ENDED))
    }

    fn sweep_affinities(&mut self, now: u64) -> Result<usize, BpfTableError> {
        let mut seconds: BTreeMap<u32, u64> = BTreeMap::new();
        let pressed = self.affinities.entries() > MAX_AFFINITIES as usize / 2;
        let mut ended = 0;
        for (key, affinity) in self.affinities.next()? {
            let seconds = match seconds.get(&key.affinity) {
                Some(seconds) => *seconds,
                None => {
                    let port = self.service_ports.get(&key.affinity, 0).map_err(at(maps::SERVICE_PORTS))?;
                    *seconds.entry(key.affinity).or_insert(u64::from(port.0.affinity_seconds))
                }
            };
            if now.saturating_sub(affinity.last_ns) > affinity_lifetime(seconds, pressed) * SECOND {
                self.affinities.remove(&key)?;
                ended += 1;
            }
        }
        Ok(ended)
    }
}

// === impl Walk ===

impl<K: Plain, V: Plain> Walk<K, V> {
    fn open(programs: &Programs, name: &'static str) -> Result<Self, ServiceError> {
        let data = programs.map(name)?;
        let descriptor = data
            .fd()
            .as_fd()
            .try_clone_to_owned()
            .map_err(|source| BpfTableError::Read { map: name, source })?;
        let map = HashMap::try_from(Map::HashMap(data)).map_err(at(name))?;
        Ok(Walk { name, map, descriptor, place: None, seen: 0, used: 0 })
    }

    /// Entries, as far as is known.
    fn entries(&self) -> usize {
        self.used.max(self.seen)
    }

    /// The next part.
    fn next(&mut self) -> Result<Vec<(K, V)>, BpfTableError> {
        let mut most = AT_ONCE;
        let part = loop {
            match bpf_call::read_hash(self.descriptor.as_fd(), &mut self.place, most) {
                // One of the map's buckets alone holds more.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && most < AT_ONCE << 4 => most <<= 1,
                Err(source) => {
                    self.place = None;
                    self.seen = 0;
                    return Err(BpfTableError::Read { map: self.name, source });
                }
                Ok(part) => break part,
            }
        };
        self.seen += part.len();
        if self.place.is_none() {
            self.used = std::mem::take(&mut self.seen);
        }
        Ok(part)
    }

    fn get(&self, key: &K) -> Result<Option<V>, BpfTableError> {
        match self.map.get(&Raw(*key), 0) {
            Ok(value) => Ok(Some(value.0)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(at(self.name)(error)),
        }
    }

    fn remove(&mut self, key: &K) -> Result<(), BpfTableError> {
        let removed = or_gone(self.map.remove(&Raw(*key))).map_err(at(self.name));
        let count = if self.place.is_none() { &mut self.used } else { &mut self.seen };
        *count = count.saturating_sub(1);
        removed
    }
}

fn at(map: &'static str) -> impl Fn(MapError) -> BpfTableError {
    move |source| BpfTableError::Map { map, source }
}

fn or_gone(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn over(protocol: u8, way: u8, seen: u8, seconds: u64) -> bool {
        let key = FlowKey { protocol, ..FlowKey::default() };
        let flow = Flow { way, seen, last_ns: 1000 * SECOND, ..Flow::default() };
        is_over((1000 + seconds) * SECOND, &key, &flow, false)
    }

    #[test]
    fn connections_last_a_day_what_ends_or_never_began_a_minute() {
        let both = Flow::OPENED | Flow::ANSWERED;
        for (seen, seconds) in [
            (0, 60),
            (Flow::OPENED, 60),
            (both, 86_400),
            (both | Flow::FIN, 3600),
            (both | Flow::FIN | Flow::PEER_FIN, 60),
            (both | Flow::RST, 60),
        ] {
            assert!(!over(TCP, Flow::BACKEND_INSIDE, seen, seconds), "{seen}");
            assert!(over(TCP, Flow::BACKEND_INSIDE, seen, seconds + 1), "{seen}");
        }
        assert!(!over(TCP, Flow::BACKEND_DIRECT, Flow::OPENED, 86_400), "the answers do not come by here");
    }

    #[test]
    fn where_room_is_needed_only_what_has_ended_goes_sooner() {
        let key = FlowKey { protocol: TCP, ..FlowKey::default() };
        let both = Flow::OPENED | Flow::ANSWERED;
        for (seen, goes) in
            [(both | Flow::FIN | Flow::PEER_FIN, true), (both | Flow::FIN, false), (both, false)]
        {
            let flow = Flow { seen, way: Flow::BACKEND_OUTSIDE, ..Flow::default() };
            assert_eq!(is_over(6 * SECOND, &key, &flow, true), goes, "{seen}");
        }
    }

    /// A6: under pressure what nobody has answered goes first, however often it is answered that there is an answer.
    #[test]
    fn a6_where_room_is_needed_unanswered_flows_go_first() {
        let over = |protocol, way, seen, seconds| {
            let key = FlowKey { protocol, ..FlowKey::default() };
            let flow = Flow { way, seen, ..Flow::default() };
            is_over(seconds * SECOND, &key, &flow, true)
        };
        let (request, answer) = (Flow::BACKEND_OUTSIDE, Flow::CLIENT_LINK);
        for protocol in [TCP, UDP, 132] {
            assert!(!over(protocol, request, 0, 5));
            assert!(over(protocol, request, 0, 6), "{protocol}: never answered");
        }
        assert!(over(TCP, answer, Flow::OPENED, 1), "a SYN-ACK that is sent again keeps nothing");
        let both = Flow::OPENED | Flow::ANSWERED;
        assert!(!over(TCP, request, both, 86_400));
        assert!(!over(TCP, answer, both, 86_400));
        assert!(!over(UDP, request, both, 180));
    }

    #[test]
    fn datagrams_last_three_minutes_once_they_are_answered() {
        assert!(over(UDP, Flow::BACKEND_INSIDE, Flow::OPENED, 31));
        assert!(!over(UDP, Flow::BACKEND_INSIDE, Flow::OPENED | Flow::ANSWERED, 180));
        assert!(over(UDP, Flow::CLIENT_ROUTE, Flow::OPENED | Flow::ANSWERED, 181));
    }

    #[test]
    fn a_clock_that_is_behind_ends_nothing() {
        let key = FlowKey { protocol: UDP, ..FlowKey::default() };
        let flow = Flow { last_ns: 5 * SECOND, ..Flow::default() };
        assert!(!is_over(SECOND, &key, &flow, false));
    }
}
