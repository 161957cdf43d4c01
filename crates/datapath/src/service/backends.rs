//! Which backend has which index.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    time::Instant,
};

use weft_abi::{Backend, backend_port};
use weft_model::{
    Protocol,
    services::{BackendKey, BackendState},
};

use super::{counters::Counters, slots::REST};
use crate::{
    encode,
    table::{ArrayTable, BpfTableError, Written},
};

/// A backend whose entry was retired: nobody lists it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gone {
    /// The entry as it was.
    pub(crate) backend: Backend,
    /// Its index.
    pub(crate) index: u32,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    index: u32,
    /// How many Service ports list it.
    users: u32,
    /// How many of them say that it answers.
    serving: u32,
}

/// The table of backends. The same address, port and protocol is one backend, however many Services list it.
pub(super) struct Backends {
    table: ArrayTable<Backend>,
    /// Ports that backends have or had; bits are never taken back.
    ports: ArrayTable<u64>,
    counters: Counters<u64>,
    records: HashMap<(BackendKey, Protocol), Record>,
    /// Indexes that were used and are free.
    free: Vec<u32>,
    resting: VecDeque<(Instant, u32)>,
    /// Whose flags may have changed: several Service ports may speak of one backend before anything is written.
    touched: BTreeSet<(BackendKey, Protocol)>,
}

impl Backends {
    /// Takes over what the kernel holds: listed by nobody yet, retired by [`Backends::retire_unlisted`] if that stays so.
    pub(super) fn adopt(
        table: ArrayTable<Backend>,
        ports: ArrayTable<u64>,
        counters: Counters<u64>,
    ) -> Backends {
        let mut backends = Backends {
            table,
            ports,
            counters,
            records: HashMap::new(),
            free: Vec::new(),
            resting: VecDeque::new(),
            touched: BTreeSet::new(),
        };
        for index in (0..backends.table.used()).rev() {
            let entry = backends.table.get(index);
            match encode::backend_key(&entry) {
                Some(key) if entry.flags & Backend::LIVE != 0 => {
                    backends.records.insert(key, Record { index, users: 0, serving: 0 });
                }
                _ => backends.free.push(index),
            }
        }
        backends
    }

    /// How many more there is room for.
    pub(super) fn room(&mut self, now: Instant) -> usize {
        self.wake(now);
        self.free.len() + (self.table.size() - self.table.used()) as usize
    }

    /// Whether a backend has an index already.
    pub(super) fn is_known(&self, key: BackendKey, protocol: Protocol) -> bool {
        self.records.contains_key(&(key, protocol))
    }

    /// The index of a backend that was listed.
    pub(super) fn index(&self, key: BackendKey, protocol: Protocol) -> Option<u32> {
        self.records.get(&(key, protocol)).map(|record| record.index)
    }

    /// The entry of this index.
    pub(super) fn entry(&self, index: u32) -> Backend {
        self.table.get(index)
    }

    /// One more Service port lists the backend. Nothing happens where there is no room.
    pub(super) fn list(&mut self, state: BackendState, protocol: Protocol, now: Instant) {
        let key = (state.key, protocol);
        if !self.records.contains_key(&key) {
            self.wake(now);
            let used = self.free.pop().inspect(|index| self.counters.begin(*index));
            let Some(index) = used.or_else(|| self.unused()) else { return };
            // What remembers the entry's last life must see that this is another.
            let generation = self.table.get(index).generation;
            let (word, bit) = backend_port(state.key.port);
            self.ports.set(word, self.ports.get(word) | bit);
            self.table.set(index, encode::backend(state.key, protocol, Backend::LIVE, generation));
            self.records.insert(key, Record { index, users: 0, serving: 0 });
        }
        if let Some(record) = self.records.get_mut(&key) {
            record.users += 1;
            record.serving += u32::from(state.serving);
        }
        self.touched.insert(key);
    }

    /// A Service port says something else of a backend that it lists.
    pub(super) fn relist(&mut self, old: BackendState, new: BackendState, protocol: Protocol) {
        let key = (new.key, protocol);
        if let Some(record) = self.records.get_mut(&key) {
            record.serving = (record.serving + u32::from(new.serving)).saturating_sub(u32::from(old.serving));
        }
        self.touched.insert(key);
    }

    /// A Service port lists the backend no longer.
    pub(super) fn unlist(&mut self, state: BackendState, protocol: Protocol, now: Instant) -> Option<Gone> {
        let key = (state.key, protocol);
        let record = self.records.get_mut(&key)?;
        record.users = record.users.saturating_sub(1);
        record.serving = record.serving.saturating_sub(u32::from(state.serving));
        if record.users > 0 {
            self.touched.insert(key);
            return None;
        }
        self.retire(&key, now)
    }

    /// Retires what an earlier process listed and nobody has listed since.
    pub(super) fn retire_unlisted(&mut self, now: Instant) -> Vec<Gone> {
        let unlisted: Vec<_> =
            self.records.iter().filter(|(_, record)| record.users == 0).map(|(key, _)| *key).collect();
        unlisted.iter().filter_map(|key| self.retire(key, now)).collect()
    }

    pub(super) fn flush(&mut self) -> Result<Written, BpfTableError> {
        for key in std::mem::take(&mut self.touched) {
            self.write_flags(&key);
        }
        self.counters.flush()?;
        let mut written = self.ports.flush()?;
        written += self.table.flush()?;
        Ok(written)
    }

    pub(super) fn resync(&mut self) -> Result<Written, BpfTableError> {
        let mut written = self.ports.resync()?;
        written += self.table.resync()?;
        Ok(written)
    }

    /// What the kernel holds.
    pub(super) fn read(&mut self) -> Result<Vec<Backend>, BpfTableError> {
        self.table.read()
    }

    fn retire(&mut self, key: &(BackendKey, Protocol), now: Instant) -> Option<Gone> {
        let index = self.records.remove(key)?.index;
        let backend = self.table.get(index);
        self.table
            .set(index, Backend { flags: 0, generation: backend.generation.wrapping_add(1), ..backend });
        self.resting.push_back((now, index));
        Some(Gone { backend, index })
    }

    fn write_flags(&mut self, key: &(BackendKey, Protocol)) {
        let Some(record) = self.records.get(key) else { return };
        let flags = Backend::LIVE | if record.serving > 0 { Backend::SERVING } else { 0 };
        let entry = self.table.get(record.index);
        self.table.set(record.index, Backend { flags, ..entry });
    }

    /// An index that never was used; what was set but not written yet counts as used.
    fn unused(&self) -> Option<u32> {
        Some(self.table.used()).filter(|index| *index < self.table.size())
    }

    fn wake(&mut self, now: Instant) {
        while let Some((since, index)) = self.resting.front().copied()
            && now.saturating_duration_since(since) >= REST
        {
            self.resting.pop_front();
            self.free.push(index);
        }
    }
}
