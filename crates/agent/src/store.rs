//! The state directory: what must be known after a restart. A reboot empties it, as it does the kernel.
//!
//! Every file is written whole under another name and renamed, so a process that is killed at any point leaves the old
//! file or the new one. Nothing is synced to disk: after a power cut the kernel has forgotten as much.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};
use serde::{Serialize, de::DeserializeOwned};

use crate::attachment::{Key, Record};

const ATTACHMENTS: &str = "attachments";
const UNFINISHED: &str = ".unfinished-";

/// The state directory of one agent. Held locked: two agents on one directory would hand out addresses twice.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    _lock: Flock<fs::File>,
}

/// The state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another agent is at it.
    #[error(
        "another agent uses the state directory {0}: end it, or give this one its own --state-dir and --socket"
    )]
    Locked(PathBuf),
    /// The file system refused.
    #[error("state file {path}: {cause}")]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What the file system said.
        cause: io::Error,
    },
}

impl Store {
    /// Makes the directory when it is missing, and locks it.
    ///
    /// # Errors
    /// When another agent has it, or the file system refuses.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let attachments = dir.join(ATTACHMENTS);
        DirBuilder::new().recursive(true).mode(0o700).create(&attachments).map_err(at(&attachments))?;
        let path = dir.join("lock");
        let lock = OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(at(&path))?;
        let lock = match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => return Err(StoreError::Locked(dir.to_owned())),
            Err((_, error)) => return Err(at(&path)(error.into())),
        };
        let store = Self { dir: dir.to_owned(), _lock: lock };
        for folder in [dir, &attachments] {
            for entry in fs::read_dir(folder).map_err(at(folder))? {
                let path = entry.map_err(at(folder))?.path();
                if path
                    .file_name()
                    .is_some_and(|name| name.as_encoded_bytes().starts_with(UNFINISHED.as_bytes()))
                {
                    fs::remove_file(&path).map_err(at(&path))?;
                }
            }
        }
        Ok(store)
    }

    /// Everything that is recorded as handed out. A file that does not read is logged and left out: what it stands for
    /// is found in the kernel.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn records(&self) -> Result<Vec<Record>, StoreError> {
        let folder = self.dir.join(ATTACHMENTS);
        let mut records = Vec::new();
        for entry in fs::read_dir(&folder).map_err(at(&folder))? {
            let path = entry.map_err(at(&folder))?.path();
            let read = fs::read(&path).map_err(|error| error.to_string());
            match read.and_then(|bytes| serde_json::from_slice::<Record>(&bytes).map_err(|e| e.to_string())) {
                Ok(record) => records.push(record),
                Err(error) => tracing::error!("record {} left out: {error}", path.display()),
            }
        }
        Ok(records)
    }

    /// Records an attachment, before anything is made of it.
    ///
    /// # Errors
    /// When the file system refuses; the old record, if any, is still whole.
    pub fn write_record(&self, key: &Key, record: &Record) -> Result<(), StoreError> {
        write(&self.dir.join(ATTACHMENTS), key.as_str(), record)
    }

    /// Forgets an attachment. One that is not there is fine.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn remove_record(&self, key: &Key) -> Result<(), StoreError> {
        let path = self.dir.join(ATTACHMENTS).join(key.as_str());
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&path)(error)),
            _ => Ok(()),
        }
    }

    /// Keeps a value under `name`.
    ///
    /// # Errors
    /// When the file system refuses; the old value is still whole.
    pub fn save<T: Serialize>(&self, name: &str, value: &T) -> Result<(), StoreError> {
        write(&self.dir, name, value)
    }

    /// The value that was kept under `name`; `None` when there is none, or none that this version can read.
    pub fn load<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let path = self.dir.join(name);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!("state file {}: {error}", path.display());
                return None;
            }
        };
        serde_json::from_slice(&bytes)
            .inspect_err(|error| tracing::warn!("state file {} is of no use: {error}", path.display()))
            .ok()
    }
}

/// Writes `bytes` to `path` whole or not at all, readable as `mode` says.
///
/// # Errors
/// Those of the file system.
pub fn write_atomically(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no file name"))?;
    let mut unfinished = std::ffi::OsString::from(UNFINISHED);
    unfinished.push(name);
    let unfinished = path.with_file_name(unfinished);
    let written = (|| {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&unfinished)?;
        file.write_all(bytes)?;
        fs::rename(&unfinished, path)
    })();
    if written.is_err() {
        // The error that matters is the first.
        let _ = fs::remove_file(&unfinished);
    }
    written
}

fn write<T: Serialize>(folder: &Path, name: &str, value: &T) -> Result<(), StoreError> {
    let path = folder.join(name);
    let bytes = serde_json::to_vec(value).map_err(|error| at(&path)(error.into()))?;
    write_atomically(&path, &bytes, 0o600).map_err(at(&path))
}

fn at(path: &Path) -> impl Fn(io::Error) -> StoreError {
    let path = path.to_owned();
    move |cause| StoreError::File { path: path.clone(), cause }
}
