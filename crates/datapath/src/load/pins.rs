//! The pins of maps and programs.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use aya::{
    maps::{Array, Map, MapData, MapError, ProgramArray},
    pin::PinError,
    programs::{ProgramError, SchedClassifier},
};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use weft_abi::{maps, programs};

use super::{LoadError, META, map_error};

const FOLDERS: [&str; 3] = ["maps", "programs", "links"];

/// Makes the folders, if the place is on a bpffs.
pub(super) fn prepare(folder: &Path) -> Result<(), LoadError> {
    let there = if folder.exists() { folder } else { folder.parent().unwrap_or(folder) };
    if !statfs(there).is_ok_and(|stat| stat.filesystem_type() == BPF_FS_MAGIC) {
        return Err(LoadError::NotBpffs(folder.to_owned()));
    }
    for name in FOLDERS {
        let path = folder.join(name);
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.map_err(|source| LoadError::File { path, source })?;
    }
    Ok(())
}

/// The map that says what the pins were made from, if it is pinned.
pub(super) fn open_meta(folder: &Path) -> Result<Option<Array<MapData, u64>>, LoadError> {
    let data = match MapData::from_pin(folder.join("maps").join(META)) {
        Ok(data) => data,
        Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {
            return Ok(None);
        }
        Err(source) => return Err(LoadError::Map { name: META.to_owned(), source }),
    };
    Array::try_from(Map::Array(data)).map(Some).map_err(map_error(META))
}

/// Every program from its pin; nothing if one is missing.
pub(super) fn open_programs(
    folder: &Path,
) -> Result<Option<Vec<(&'static str, SchedClassifier)>>, LoadError> {
    let mut opened = Vec::new();
    for name in programs::ALL {
        let path = folder.join("programs").join(name);
        if !path.exists() {
            return Ok(None);
        }
        let at = |source| LoadError::Program { name: name.to_owned(), source };
        let pinned = SchedClassifier::from_pin(&path).map_err(at)?;
        opened.push((name, pinned));
    }
    Ok(Some(opened))
}

/// A handle of its own to a loaded program.
pub(super) fn own(program: &SchedClassifier) -> Result<SchedClassifier, ProgramError> {
    SchedClassifier::from_program_info(program.info()?, "".into())
}

/// Pins a program in place of an older one, at no moment leaving the name without a program.
pub(super) fn pin_program(
    folder: &Path,
    name: &str,
    pin: impl FnOnce(&Path) -> Result<(), PinError>,
) -> Result<(), LoadError> {
    let programs = folder.join("programs");
    let (new, path) = (programs.join(format!("new-{name}")), programs.join(name));
    remove_if_there(&new)?;
    pin(&new).map_err(|source| LoadError::Pin { name: name.to_owned(), source })?;
    fs::rename(&new, &path).map_err(|source| LoadError::File { path, source })
}

/// Whether every step has its program: without its pin, the kernel would have emptied the map of them.
pub(super) fn steps_are_whole(folder: &Path) -> Result<bool, LoadError> {
    let path = folder.join("maps").join(maps::STEPS);
    if !path.exists() {
        return Ok(false);
    }
    let at = map_error(maps::STEPS);
    let data = MapData::from_pin(path).map_err(&at)?;
    let steps = ProgramArray::try_from(Map::ProgramArray(data)).map_err(&at)?;
    Ok(steps.indices().flatten().count() == programs::STEPS.len())
}

/// Makes room for a new map of this name without ending the old one, which what runs still uses.
pub(super) fn set_aside(folder: &Path, name: &str) -> Result<(), LoadError> {
    let (pin, aside) = (folder.join("maps").join(name), aside(folder, name));
    // A load that was cut short: what runs uses the one that was set aside then.
    if aside.exists() {
        return remove_if_there(&pin);
    }
    match fs::rename(&pin, &aside) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(LoadError::File { path: pin, source }),
        _ => Ok(()),
    }
}

/// Ends a map that was set aside.
pub(super) fn remove_set_aside(folder: &Path, name: &str) -> Result<(), LoadError> {
    remove_if_there(&aside(folder, name))
}

fn aside(folder: &Path, name: &str) -> PathBuf {
    folder.join("maps").join(format!("{name}_OLD"))
}

/// Removes a pin; one that is not there is not an error.
pub(super) fn remove_if_there(path: &Path) -> Result<(), LoadError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(LoadError::File { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// The names of the pinned links.
pub(super) fn link_names(folder: &Path) -> Result<Vec<String>, LoadError> {
    let path: PathBuf = folder.join("links");
    let at = |source| LoadError::File { path: path.clone(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(&path).map_err(at)? {
        names.extend(entry.map_err(at)?.file_name().into_string());
    }
    Ok(names)
}
