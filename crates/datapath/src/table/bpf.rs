//! eBPF maps as tables.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use aya::maps::{HashMap, LpmTrie, MapData, MapError, lpm_trie::Key};
use weft_abi::Plain;

use super::Store;
use crate::load::bpf_call;

/// Lets plain data cross into aya, whose trait cannot be implemented for a type of another crate.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct Raw<T: Plain>(pub(crate) T);

// SAFETY: `Plain` promises the same as `Pod`.
unsafe impl<T: Plain> aya::Pod for Raw<T> {}

/// A map refused a write or could not be read.
#[derive(Debug, thiserror::Error)]
pub enum BpfTableError {
    /// The map has no room.
    #[error("map {map} is full; the entry was refused, what is in it stays in force")]
    Full {
        /// Name of the map.
        map: &'static str,
    },
    /// The map could not be read whole.
    #[error("reading map {map}: {source}")]
    Read {
        /// Name of the map.
        map: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Anything else.
    #[error("map {map}: {source}")]
    Map {
        /// Name of the map.
        map: &'static str,
        /// What the kernel or aya said.
        source: MapError,
    },
}

/// A hash map.
pub struct BpfHash<K: Plain, V: Plain> {
    name: &'static str,
    map: HashMap<MapData, Raw<K>, Raw<V>>,
}

/// A longest-prefix table; keys are (data, bits).
pub struct BpfLpm<K: Plain, V: Plain> {
    name: &'static str,
    map: LpmTrie<MapData, Raw<K>, Raw<V>>,
    /// The same map, for what aya does not offer.
    descriptor: OwnedFd,
    room: u32,
}

impl<K: Plain, V: Plain> BpfHash<K, V> {
    pub(crate) fn new(name: &'static str, map: MapData) -> Result<Self, BpfTableError> {
        let map = HashMap::try_from(aya::maps::Map::HashMap(map)).map_err(at(name))?;
        Ok(BpfHash { name, map })
    }
}

impl<K: Plain, V: Plain> BpfLpm<K, V> {
    pub(crate) fn new(name: &'static str, map: MapData) -> Result<Self, BpfTableError> {
        let room = map.info().map_err(at(name))?.max_entries();
        let descriptor = (map.fd().as_fd().try_clone_to_owned())
            .map_err(|source| BpfTableError::Read { map: name, source })?;
        let map = LpmTrie::try_from(aya::maps::Map::LpmTrie(map)).map_err(at(name))?;
        Ok(BpfLpm { name, map, descriptor, room })
    }
}

impl<K: Plain, V: Plain> Store<K, V> for BpfHash<K, V> {
    type Error = BpfTableError;

    fn upsert(&mut self, key: &K, value: &V) -> Result<(), BpfTableError> {
        self.map.insert(Raw(*key), Raw(*value), 0).map_err(at(self.name))
    }

    fn remove(&mut self, key: &K) -> Result<(), BpfTableError> {
        or_gone(self.map.remove(&Raw(*key))).map_err(at(self.name))
    }

    fn dump(&mut self) -> Result<Vec<(K, V)>, BpfTableError> {
        let entries = self.map.iter().map(|entry| entry.map(|(key, value)| (key.0, value.0)));
        entries.collect::<Result<_, _>>().map_err(at(self.name))
    }
}

impl<K: Plain, V: Plain> Store<(K, u32), V> for BpfLpm<K, V> {
    type Error = BpfTableError;

    fn upsert(&mut self, key: &(K, u32), value: &V) -> Result<(), BpfTableError> {
        self.map.insert(&Key::new(key.1, Raw(key.0)), Raw(*value), 0).map_err(at(self.name))
    }

    fn remove(&mut self, key: &(K, u32)) -> Result<(), BpfTableError> {
        or_gone(self.map.remove(&Key::new(key.1, Raw(key.0)))).map_err(at(self.name))
    }

    fn dump(&mut self) -> Result<Vec<((K, u32), V)>, BpfTableError> {
        bpf_call::read_trie(self.descriptor.as_fd(), self.room)
            .map_err(|source| BpfTableError::Read { map: self.name, source })
    }
}

pub(super) fn at(map: &'static str) -> impl Fn(MapError) -> BpfTableError {
    move |source| match &source {
        // E2BIG from a hash map, ENOSPC from a longest-prefix table.
        MapError::SyscallError(error)
            if matches!(error.io_error.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC)) =>
        {
            BpfTableError::Full { map }
        }
        _ => BpfTableError::Map { map, source },
    }
}

fn or_gone(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
