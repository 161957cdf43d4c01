//! Loading the kernel programs, pinning them, and taking over what an earlier process pinned.
//!
//! A node's own interfaces have tcx links, pinned. Pods' interfaces share two blocks of classic traffic control instead: a
//! tcx attachment waits for an RCU grace period while it holds the lock that every network change of the machine needs
//! (some 15 ms each), a block is bound in microseconds and replaced for all Pods at once.
//!
//! Programs of sockets are linked to a cgroup, likewise by pinned links.
//!
//! Layout below the bpffs folder: `maps/NAME`, `programs/NAME`, `links/PROGRAM-INTERFACE` (or `-cgroup`). The map `META` says which
//! ABI and which object the rest was made from.

mod blocks;
pub(crate) mod bpf_call;
mod links;
mod pins;
mod sockets;

use std::path::{Path, PathBuf};

use aya::{
    EbpfError, EbpfLoader, include_bytes_aligned,
    maps::{Array, Map, MapData, MapError, PerCpuArray, ProgramArray},
    pin::PinError,
    programs::{ProgramError, SchedClassifier, links::LinkError},
};
use weft_abi::{ABI_VERSION, Config, Counter, maps, programs};
use weft_netns::NetlinkError;

pub(crate) use links::Direction;
use sockets::SocketProgram;

use crate::{fingerprint, table::Raw};

/// The object that `build.rs` made; empty where there was no BPF toolchain.
static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/weft"));

/// Name of the map that says what the pins were made from.
const META: &str = "META";
const META_ABI: u32 = 0;
const META_FINGERPRINT: u32 = 1;

/// The kernel programs could not be loaded or taken over.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Built without a BPF toolchain.
    #[error(
        "this build has no kernel programs: install the BPF toolchain (`cargo xtask setup`) and build again"
    )]
    NoObject,
    /// The folder is not on a bpffs.
    #[error(
        "{0} is not on a BPF file system: mount one there (mount -t bpf bpf /sys/fs/bpf) or choose another --bpffs"
    )]
    NotBpffs(PathBuf),
    /// Something else pinned there, or another version of Weft.
    #[error(
        "the pins in {folder} were made for ABI {found}, this build has ABI {ABI_VERSION}: drain this node, remove \
         {folder}, and start again"
    )]
    Abi {
        /// The bpffs folder.
        folder: PathBuf,
        /// ABI of the pins.
        found: u64,
    },
    /// A file operation in bpffs failed.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The object could not be loaded.
    #[error("loading the kernel programs: {0}")]
    Object(#[from] EbpfError),
    /// A program was refused; the verifier's log is part of the message.
    #[error("program {name}: {source}")]
    Program {
        /// Name of the program.
        name: String,
        /// What the kernel said.
        source: ProgramError,
    },
    /// A map could not be opened.
    #[error("map {name}: {source}")]
    Map {
        /// Name of the map.
        name: String,
        /// What the kernel said.
        source: MapError,
    },
    /// Something could not be pinned.
    #[error("pinning {name}: {source}")]
    Pin {
        /// What was to be pinned.
        name: String,
        /// What the kernel said.
        source: PinError,
    },
    /// A pinned link could not be opened.
    #[error("link {name}: {source}")]
    Link {
        /// Name of the pin.
        name: String,
        /// What the kernel said.
        source: LinkError,
    },
    /// The blocks of Pods' interfaces.
    #[error(transparent)]
    Blocks(#[from] NetlinkError),
    /// Not in this build: a name that the object lacks.
    #[error("the kernel object has no {0}")]
    Missing(String),
}

/// How the programs came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// There was nothing; everything was loaded.
    Loaded,
    /// Everything was pinned by an earlier process with the same object; nothing was written.
    Adopted,
    /// Maps were kept, programs replaced in their links without a gap.
    Replaced,
}

/// The loaded programs and the folder they are pinned in.
pub(crate) struct Programs {
    folder: PathBuf,
    programs: Vec<(&'static str, SchedClassifier)>,
    sockets: Vec<SocketProgram>,
    pub(crate) origin: Origin,
}

impl Programs {
    /// Takes over what is pinned in `folder`, or loads what is missing or of another build.
    pub(crate) fn open(folder: &Path) -> Result<Programs, LoadError> {
        if OBJECT.is_empty() {
            return Err(LoadError::NoObject);
        }
        pins::prepare(folder)?;
        let mut meta = pins::open_meta(folder)?;
        let read = |meta: &Option<Array<MapData, u64>>, index| match meta {
            Some(meta) => meta.get(&index, 0).map_err(map_error(META)),
            None => Ok(0),
        };
        // A zero version is a load that was cut short before it was declared whole: it is redone.
        let (found, fingerprint) = (read(&meta, META_ABI)?, read(&meta, META_FINGERPRINT)?);
        if found != 0 && found != u64::from(ABI_VERSION) {
            return Err(LoadError::Abi { folder: folder.to_owned(), found });
        }
        if found != 0
            && fingerprint == object_fingerprint()
            && let Some(programs) = pins::open_programs(folder)?
            && let Some(sockets) = sockets::open(folder)?
            && pins::steps_are_whole(folder)?
        {
            return Ok(Programs { folder: folder.to_owned(), programs, sockets, origin: Origin::Adopted });
        }
        // What runs goes on jumping to steps of its own build until it is replaced.
        pins::set_aside(folder, maps::STEPS)?;
        let (programs, sockets) = load(folder)?;
        let mut loaded = Programs {
            folder: folder.to_owned(),
            programs,
            sockets,
            origin: if found == 0 { Origin::Loaded } else { Origin::Replaced },
        };
        loaded.fill_steps()?;
        loaded.replace_in_links()?;
        for (name, program) in &mut loaded.programs {
            pins::pin_program(folder, name, |path| program.pin(path))?;
        }
        if meta.is_none() {
            meta = pins::open_meta(folder)?;
        }
        let mut meta = meta.ok_or_else(|| LoadError::Missing(META.to_owned()))?;
        for (index, value) in [(META_FINGERPRINT, object_fingerprint()), (META_ABI, u64::from(ABI_VERSION))] {
            meta.set(index, value, 0).map_err(map_error(META))?;
        }
        pins::remove_set_aside(folder, maps::STEPS)?;
        Ok(loaded)
    }

    /// Lets the programs jump to each other.
    fn fill_steps(&mut self) -> Result<(), LoadError> {
        let mut steps = ProgramArray::try_from(Map::ProgramArray(self.map(maps::STEPS)?))
            .map_err(map_error(maps::STEPS))?;
        for (index, name) in (0..).zip(programs::STEPS) {
            let at = |source| LoadError::Program { name: name.to_owned(), source };
            let program = self.program(name)?.fd().map_err(at)?;
            steps.set(index, program, 0).map_err(map_error(maps::STEPS))?;
        }
        Ok(())
    }

    /// A pinned map.
    pub(crate) fn map(&self, name: &str) -> Result<MapData, LoadError> {
        MapData::from_pin(self.folder.join("maps").join(name)).map_err(map_error(name))
    }

    /// The configuration of the programs.
    pub(crate) fn config(&self) -> Result<Array<MapData, Raw<Config>>, LoadError> {
        Array::try_from(Map::Array(self.map(maps::CONFIG)?)).map_err(map_error(maps::CONFIG))
    }

    /// What the programs counted, over all CPUs.
    pub(crate) fn counters(&self) -> Result<Vec<(Counter, u64)>, LoadError> {
        let map = PerCpuArray::<_, u64>::try_from(Map::PerCpuArray(self.map(maps::COUNTERS)?))
            .map_err(map_error(maps::COUNTERS))?;
        let sum = |counter: &Counter| {
            let values = map.get(&(*counter as u32), 0).map_err(map_error(maps::COUNTERS))?;
            Ok((*counter, values.iter().sum()))
        };
        Counter::ALL.iter().map(sum).collect()
    }

    fn program(&mut self, name: &str) -> Result<&mut SchedClassifier, LoadError> {
        let found = self.programs.iter_mut().find(|(candidate, _)| *candidate == name);
        found.map(|(_, program)| program).ok_or_else(|| LoadError::Missing(name.to_owned()))
    }
}

fn load(folder: &Path) -> Result<Loaded, LoadError> {
    let mut object = EbpfLoader::new().default_map_pin_directory(folder.join("maps")).load(OBJECT)?;
    let mut loaded = Vec::new();
    for name in programs::ALL {
        let at = |source| LoadError::Program { name: name.to_owned(), source };
        let program = object.program_mut(name).ok_or_else(|| LoadError::Missing(name.to_owned()))?;
        let program: &mut SchedClassifier = program.try_into().map_err(at)?;
        program.load().map_err(at)?;
        loaded.push((name, pins::own(program).map_err(at)?));
    }
    Ok((loaded, sockets::load(&mut object, folder)?))
}

/// Programs of interfaces by name, and programs of sockets.
type Loaded = (Vec<(&'static str, SchedClassifier)>, Vec<SocketProgram>);

/// Tells builds apart.
fn object_fingerprint() -> u64 {
    fingerprint(OBJECT.iter().copied())
}

fn map_error(name: &str) -> impl Fn(MapError) -> LoadError {
    move |source| LoadError::Map { name: name.to_owned(), source }
}
