//! Paths that others wrote, used only inside of one folder: no `..`, no absolute path and no symbolic link leads out.

use std::{
    io::{Read, Write},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, open, openat, openat2, renameat},
    sys::stat::{Mode, fchmod, mkdirat},
    unistd::{UnlinkatFlags, unlinkat},
};

/// A folder that paths do not leave.
pub(crate) struct Inside {
    folder: OwnedFd,
    shown: PathBuf,
    way: ResolveFlag,
}

impl Inside {
    /// Paths below `folder`; one that would leave it is an error.
    pub(crate) fn below(folder: &Path) -> Result<Inside> {
        Inside::of(folder, ResolveFlag::RESOLVE_BENEATH)
    }

    /// Paths as a process sees them whose root folder is `folder`.
    pub(crate) fn as_root(folder: &Path) -> Result<Inside> {
        Inside::of(folder, ResolveFlag::RESOLVE_IN_ROOT)
    }

    fn of(folder: &Path, way: ResolveFlag) -> Result<Inside> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let opened = open(folder, flags, Mode::empty()).with_context(|| folder.display().to_string())?;
        let way = way | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        Ok(Inside { folder: opened, shown: folder.to_owned(), way })
    }

    /// The folder at `path`, made with those above it if it is not there; with `file`, an empty file instead. What is there
    /// already is taken as it is.
    pub(crate) fn make(&self, path: &Path, file: bool) -> Result<OwnedFd> {
        let parts: Vec<Component<'_>> = path
            .components()
            .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir))
            .collect();
        let mut prefix = PathBuf::new();
        let mut at = self.find(Path::new("."))?;
        for (number, part) in parts.iter().enumerate() {
            prefix.push(part);
            at = match self.open(&prefix, OFlag::O_PATH) {
                Ok(found) => found,
                Err(Errno::ENOENT) => {
                    let made = if file && number + 1 == parts.len() {
                        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                        openat(at.as_fd(), part.as_os_str(), flags, Mode::from_bits_truncate(0o644)).map(drop)
                    } else {
                        mkdirat(at.as_fd(), part.as_os_str(), Mode::from_bits_truncate(0o755))
                    };
                    made.with_context(|| self.shown(&prefix))?;
                    self.find(&prefix)?
                }
                Err(error) => return Err(error).with_context(|| self.shown(&prefix)),
            };
        }
        Ok(at)
    }

    /// Writes a file, with the folders above it. A reader sees the old content or the new.
    pub(crate) fn write(&self, path: &Path, content: &[u8], mode: u32) -> Result<()> {
        if self.read(path).is_some_and(|held| held == content) {
            return Ok(());
        }
        let Some(name) = path.file_name() else { bail!("{} is no file", self.shown(path)) };
        let folder = self.make(path.parent().unwrap_or(Path::new("")), false)?;
        let mut fresh = std::ffi::OsString::from("..new-");
        fresh.push(name);
        let work = || -> nix::Result<()> {
            match unlinkat(folder.as_fd(), fresh.as_os_str(), UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(error) => return Err(error),
            }
            let flags =
                OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let mode = Mode::from_bits_truncate(mode);
            let made = openat(folder.as_fd(), fresh.as_os_str(), flags, mode)?;
            // Whatever the process masks.
            fchmod(&made, mode)?;
            let written = std::fs::File::from(made).write_all(content);
            written.map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
            renameat(folder.as_fd(), fresh.as_os_str(), folder.as_fd(), name)
        };
        work().with_context(|| self.shown(path))
    }

    fn read(&self, path: &Path) -> Option<Vec<u8>> {
        let mut file = std::fs::File::from(self.open(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK).ok()?);
        let mut content = Vec::new();
        let is_file = file.metadata().is_ok_and(|metadata| metadata.is_file());
        (is_file && file.read_to_end(&mut content).is_ok()).then_some(content)
    }

    /// What is at `path`.
    pub(crate) fn find(&self, path: &Path) -> Result<OwnedFd> {
        self.open(path, OFlag::O_PATH).with_context(|| self.shown(path))
    }

    fn open(&self, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
        loop {
            let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(self.way);
            match openat2(self.folder.as_fd(), path, how) {
                // Somebody renamed something meanwhile, so that the kernel cannot tell whether the path stays inside.
                Err(Errno::EAGAIN) => {}
                other => return other,
            }
        }
    }

    fn shown(&self, path: &Path) -> String {
        format!("{} in {}", path.display(), self.shown.display())
    }
}

/// A path that leads to what a descriptor stands for, as long as the descriptor is open.
pub(crate) fn path_of(descriptor: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_raw_fd()))
}

/// A name that is one part of a path: what others chose becomes no other folder.
pub(crate) fn one_part(name: &str) -> Result<&str> {
    let mut parts = Path::new(name).components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(part)), None) if part == name => Ok(name),
        _ => bail!("{name:?} cannot be the name of a file"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    /// E15: whatever path an object names, nothing is written outside of its volume.
    #[test]
    fn nothing_is_written_outside_of_the_folder() {
        let machine = weft_scratch::folder();
        let volume = machine.path().join("volume");
        fs::create_dir_all(&volume).unwrap();
        let victim = machine.path().join("victim");
        fs::write(&victim, "mine").unwrap();
        symlink(&victim, volume.join("link")).unwrap();
        symlink(machine.path(), volume.join("folder")).unwrap();
        let inside = Inside::below(&volume).unwrap();
        for path in ["../victim", "a/../../victim", "folder/victim", "..", ""] {
            assert!(inside.write(Path::new(path), b"theirs", 0o644).is_err(), "{path}");
        }
        let absolute = volume.join(victim.strip_prefix("/").unwrap());
        inside.write(&victim, b"below", 0o644).unwrap();
        assert_eq!(fs::read_to_string(absolute).unwrap(), "below");
        // A link that a container has put in the place of its file is replaced, not followed.
        inside.write(Path::new("link"), b"theirs", 0o600).unwrap();
        assert_eq!(fs::read_to_string(volume.join("link")).unwrap(), "theirs");
        assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
        inside.write(Path::new("a/b/c"), b"deep", 0o755).unwrap();
        assert_eq!(fs::read_to_string(volume.join("a/b/c")).unwrap(), "deep");
    }

    /// E15: a mount point is found as the container sees its root folder.
    #[test]
    fn a_root_folder_is_not_left() {
        let machine = weft_scratch::folder();
        let root = machine.path().join("root");
        fs::create_dir_all(root.join("run")).unwrap();
        symlink("/run", root.join("var")).unwrap();
        let inside = Inside::as_root(&root).unwrap();
        inside.make(Path::new("/var/x"), false).unwrap();
        inside.make(Path::new("/../../y/z"), true).unwrap();
        assert!(root.join("run/x").is_dir() && root.join("y/z").is_file());
        assert!(!machine.path().join("y").exists());
    }

    #[test]
    fn names_are_one_part() {
        assert!(one_part("data-web-0").is_ok() && one_part("a.b").is_ok());
        for name in ["", ".", "..", "a/b", "/a", "../a", "a/"] {
            assert!(one_part(name).is_err(), "{name}");
        }
    }
}
