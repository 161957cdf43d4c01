//! Array maps as tables.

use std::{
    collections::HashSet,
    os::fd::{AsFd as _, OwnedFd},
};

use aya::maps::{Array, Map, MapData};
use weft_abi::Plain;

use super::{BpfTableError, Raw, Written, bpf::at};
use crate::load::bpf_call;

/// Where the elements of an array are written to.
pub(crate) trait ArrayStore<V> {
    /// Writes one element.
    fn write(&mut self, index: u32, value: &V) -> Result<(), BpfTableError>;

    /// The first `count` elements.
    fn read(&mut self, count: u32) -> Result<Vec<V>, BpfTableError>;

    /// How many elements there are.
    fn size(&self) -> u32;
}

/// The counterpart of [`super::Table`] for arrays: keys are dense and elements are never missing, so that one vector is the mirror.
/// Each element is written once, in the order in which
/// they were first set.
pub(crate) struct ArrayTable<V> {
    store: Box<dyn ArrayStore<V> + Send>,
    /// None: what the kernel holds there is not known, nor cared for.
    desired: Vec<Option<V>>,
    pending: Vec<u32>,
}

impl<V: PartialEq + Copy + Default> ArrayTable<V> {
    /// Takes over what the kernel holds in the first `count` elements; the others are not in use.
    pub(crate) fn adopt(mut store: Box<dyn ArrayStore<V> + Send>, count: u32) -> Result<Self, BpfTableError> {
        let count = count.min(store.size());
        let desired = store.read(count)?.into_iter().map(Some).collect();
        Ok(ArrayTable { store, desired, pending: Vec::new() })
    }

    /// Takes over what the kernel holds up to the first long run of elements that are as the kernel made them: for a table whose
    /// elements are used from the first on and never become so again. Reading a large array to its end takes time.
    pub(crate) fn adopt_dense(mut store: Box<dyn ArrayStore<V> + Send>) -> Result<Self, BpfTableError> {
        let mut count = 1024.min(store.size());
        loop {
            let read = store.read(count)?;
            let used = read.iter().rposition(|value| *value != V::default()).map_or(0, |last| last + 1);
            if used < count as usize / 2 || count == store.size() {
                return Self::adopt(store, used as u32);
            }
            count = count.saturating_mul(4).min(store.size());
        }
    }

    /// No element from here on was ever set.
    pub(crate) fn used(&self) -> u32 {
        self.desired.len() as u32
    }

    /// How many elements there can be.
    pub(crate) fn size(&self) -> u32 {
        self.store.size()
    }

    /// The wanted value of an element.
    pub(crate) fn get(&self, index: u32) -> V {
        self.desired.get(index as usize).copied().flatten().unwrap_or_default()
    }

    /// Wants an element to be this.
    pub(crate) fn set(&mut self, index: u32, value: V) {
        let place = index as usize;
        if place >= self.desired.len() {
            self.desired.resize(place + 1, None);
        }
        let Some(element) = self.desired.get_mut(place).filter(|element| **element != Some(value)) else {
            return;
        };
        *element = Some(value);
        self.pending.push(index);
    }

    /// Writes what is pending; from the first that fails on, it stays so.
    pub(crate) fn flush(&mut self) -> Result<Written, BpfTableError> {
        let pending = std::mem::take(&mut self.pending);
        let mut written = Written::default();
        let mut seen = HashSet::new();
        for (place, index) in pending.iter().enumerate() {
            if !seen.insert(*index) {
                continue;
            }
            let value = self.get(*index);
            if let Err(error) = self.store.write(*index, &value) {
                self.pending = pending[place..].to_vec();
                return Err(error);
            }
            written.upserted += 1;
        }
        Ok(written)
    }

    /// Reads what the kernel holds and writes what differs.
    pub(crate) fn resync(&mut self) -> Result<Written, BpfTableError> {
        let actual = self.store.read(self.used())?;
        self.pending = (self.desired.iter().zip(&actual).enumerate())
            .filter(|(_, (desired, actual))| desired.is_some_and(|desired| desired != **actual))
            .map(|(index, _)| index as u32)
            .collect();
        self.flush()
    }

    /// What the kernel holds in the elements that are used.
    pub(crate) fn read(&mut self) -> Result<Vec<V>, BpfTableError> {
        self.store.read(self.used())
    }
}

/// An array map.
pub(crate) struct BpfArray<V: Plain> {
    name: &'static str,
    map: Array<MapData, Raw<V>>,
    /// The same map, for what aya does not offer.
    descriptor: OwnedFd,
}

impl<V: Plain> BpfArray<V> {
    pub(crate) fn new(name: &'static str, map: MapData) -> Result<Self, BpfTableError> {
        let descriptor = map
            .fd()
            .as_fd()
            .try_clone_to_owned()
            .map_err(|source| BpfTableError::Read { map: name, source })?;
        Ok(BpfArray { name, map: Array::try_from(Map::Array(map)).map_err(at(name))?, descriptor })
    }
}

impl<V: Plain> ArrayStore<V> for BpfArray<V> {
    fn write(&mut self, index: u32, value: &V) -> Result<(), BpfTableError> {
        self.map.set(index, Raw(*value), 0).map_err(at(self.name))
    }

    fn read(&mut self, count: u32) -> Result<Vec<V>, BpfTableError> {
        bpf_call::read_array(self.descriptor.as_fd(), count)
            .map_err(|source| BpfTableError::Read { map: self.name, source })
    }

    fn size(&self) -> u32 {
        self.map.len()
    }
}
