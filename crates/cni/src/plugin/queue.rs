//! DEL calls that wait for an agent which is away: a file each, named after the attachment.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::Call;

/// Leaves `call` in `dir`, durably: either the whole file is there afterwards or none.
///
/// # Errors
/// Those of the file system.
pub fn push(dir: &Path, call: &Call) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let name = file_name(&call.container_id, &call.ifname);
    // Two plugins may queue the same DEL at once: each writes a file of its own.
    let temporary = dir.join(format!(".{name}.{}", std::process::id()));
    let written = write(&temporary, call.to_json().as_bytes())
        .and_then(|()| fs::rename(&temporary, dir.join(name)))
        .and_then(|()| File::open(dir)?.sync_all());
    if written.is_err() {
        // Best effort: the error that matters is the first.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// The files that wait in `dir`; none when there is no such folder.
///
/// # Errors
/// Those of the file system.
pub fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut waiting = Vec::new();
    for entry in entries {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            waiting.push(entry.path());
        }
    }
    Ok(waiting)
}

/// The file of an attachment: no two share one, since a container's name holds no '@'.
pub fn file_name(container_id: &str, ifname: &str) -> String {
    // An interface's name may hold nearly any byte.
    let ifname: String = ifname
        .bytes()
        .map(|b| if is_plain(b) { char::from(b).into() } else { format!("@{b:02x}") })
        .collect();
    format!("{container_id}@{ifname}")
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.')
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
