//! One network namespace, held open by a file descriptor.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::{fs::MetadataExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    thread,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

/// Where named namespaces are bound, as iproute2 does it.
const NAMED: &str = "/run/netns";

/// Only one thread of this process may turn [`NAMED`] into a mount point at a time.
static PREPARE: Mutex<()> = Mutex::new(());

/// A network namespace. Dropping it closes the descriptor; a named one stays until [`Netns::delete`].
#[derive(Debug)]
pub struct Netns {
    file: File,
    path: PathBuf,
}

/// What went wrong with a namespace, and where.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// A file operation or system call failed.
    #[error("network namespace {path}: {step}: {source}")]
    System {
        /// What was being done.
        step: &'static str,
        /// The namespace's file.
        path: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The name is in use.
    #[error("network namespace {0} exists already")]
    Exists(PathBuf),
    /// The name cannot be the name of a file in /run/netns.
    #[error("'{0}' cannot be the name of a network namespace")]
    Name(String),
    /// The closure that ran inside the namespace panicked.
    #[error("the task in network namespace {0} panicked")]
    Panicked(PathBuf),
}

impl Netns {
    /// Makes a new namespace and binds it to `/run/netns/NAME`. Its loopback is down.
    ///
    /// # Errors
    /// [`NetnsError::Exists`] if the name is taken; otherwise nothing is left behind.
    pub fn create(name: &str) -> Result<Netns, NetnsError> {
        let path = named(name)?;
        let system = |step, source: io::Error| NetnsError::System { step, path: path.clone(), source };
        prepare_folder().map_err(|source| system("prepare /run/netns", source))?;
        match File::options().write(true).create_new(true).open(&path) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(NetnsError::Exists(path));
            }
            Err(error) => return Err(system("create its file", error)),
        }
        let bound = in_thread(&path, || {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let own = format!("/proc/self/task/{}/ns/net", nix::unistd::gettid());
            mount(Some(own.as_str()), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        });
        let opened = match bound {
            Ok(Ok(())) => Netns::from_path(&path),
            Ok(Err(error)) => Err(system("unshare and bind", error.into())),
            Err(error) => Err(error),
        };
        if opened.is_err() {
            // The error that matters is the first one.
            let _ = Netns::delete(name);
        }
        opened
    }

    /// Makes a new namespace that has no name: it ends with the last descriptor, process or socket that holds it, however
    /// those end. Its loopback is down.
    pub fn anonymous() -> Result<Netns, NetnsError> {
        let path = Path::new("(without a name)");
        let made = in_thread(path, || -> io::Result<File> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open(format!("/proc/self/task/{}/ns/net", nix::unistd::gettid()))
        })?;
        let failed = |source| NetnsError::System { step: "unshare", path: path.to_owned(), source };
        Ok(Netns { file: made.map_err(failed)?, path: path.to_owned() })
    }

    /// Opens `/run/netns/NAME`.
    pub fn open(name: &str) -> Result<Netns, NetnsError> {
        Netns::from_path(&named(name)?)
    }

    /// Opens a namespace by any file that stands for one (`/proc/PID/ns/net`, a bind mount).
    pub fn from_path(path: &Path) -> Result<Netns, NetnsError> {
        let system = |step, source| NetnsError::System { step, path: path.to_owned(), source };
        let file = File::open(path).map_err(|source| system("open", source))?;
        Ok(Netns { file, path: path.to_owned() })
    }

    /// The namespace of the calling thread.
    pub fn current() -> Result<Netns, NetnsError> {
        Netns::from_path(Path::new(&format!("/proc/self/task/{}/ns/net", nix::unistd::gettid())))
    }

    /// Unbinds and removes `/run/netns/NAME`. The kernel ends the namespace once no process, socket or descriptor
    /// holds it. What is not there is not an error.
    pub fn delete(name: &str) -> Result<(), NetnsError> {
        let path = named(name)?;
        // EINVAL: the file is there but nothing is mounted on it (a creation that was cut short).
        match umount2(&path, MntFlags::MNT_DETACH) {
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
            Err(error) => return Err(NetnsError::System { step: "unmount", path, source: error.into() }),
        }
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(NetnsError::System { step: "remove its file", path, source })
            }
            _ => Ok(()),
        }
    }

    /// The names in `/run/netns`, sorted.
    pub fn list() -> Result<Vec<String>, NetnsError> {
        let entries = match fs::read_dir(NAMED) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(NetnsError::System { step: "list", path: NAMED.into(), source }),
        };
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        names.sort();
        Ok(names)
    }

    /// The file this namespace was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The last element of [`Netns::path`]: the name, for a named namespace.
    pub fn name(&self) -> &str {
        self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }

    /// Whether both stand for the same namespace, whatever paths they were opened by.
    pub fn is_same(&self, other: &Netns) -> Result<bool, NetnsError> {
        let identity =
            |netns: &Netns| {
                let step = "stat";
                let metadata = netns.file.metadata();
                metadata
                    .map(|metadata| (metadata.dev(), metadata.ino()))
                    .map_err(|source| NetnsError::System { step, path: netns.path.clone(), source })
            };
        Ok(identity(self)? == identity(other)?)
    }

    /// The number that the kernel knows this namespace by (`SO_NETNS_COOKIE`): never zero, never used again while the machine
    /// runs.
    pub fn cookie(&self) -> Result<u64, NetnsError> {
        let asked = self.run(|| -> io::Result<u64> {
            let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
            let (mut cookie, mut size) = (0_u64, size_of::<u64>() as libc::socklen_t);
            // SAFETY: both out parameters outlive the call, and the size is that of the first.
            let result = unsafe {
                libc::getsockopt(
                    socket.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_NETNS_COOKIE,
                    (&raw mut cookie).cast(),
                    &raw mut size,
                )
            };
            if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
        })?;
        asked.map_err(|source| NetnsError::System {
            step: "ask for its cookie",
            path: self.path.clone(),
            source,
        })
    }

    /// Runs `task` in a thread of its own that has entered this namespace, and waits for it. Sockets that it makes
    /// stay in this namespace wherever they are used afterwards.
    pub fn run<T: Send>(&self, task: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        let entered = in_thread(&self.path, || setns(&self.file, CloneFlags::CLONE_NEWNET).map(|()| task()))?;
        entered.map_err(|error| NetnsError::System {
            step: "enter",
            path: self.path.clone(),
            source: error.into(),
        })
    }

    /// Makes `command` start inside this namespace.
    pub fn enter_child<'c>(&self, command: &'c mut Command) -> Result<&'c mut Command, NetnsError> {
        let file = self.file.try_clone().map_err(|source| NetnsError::System {
            step: "duplicate its descriptor",
            path: self.path.clone(),
            source,
        })?;
        // SAFETY: between fork and exec only setns(2) is called, which is async-signal-safe.
        Ok(unsafe { command.pre_exec(move || Ok(setns(&file, CloneFlags::CLONE_NEWNET)?)) })
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for Netns {
    fn as_raw_fd(&self) -> i32 {
        self.file.as_raw_fd()
    }
}

fn named(name: &str) -> Result<PathBuf, NetnsError> {
    if name.is_empty() || name.contains(['/', '\0']) || name == "." || name == ".." {
        return Err(NetnsError::Name(name.to_owned()));
    }
    Ok(Path::new(NAMED).join(name))
}

/// Makes `/run/netns` a shared mount point as iproute2 does, so that unmounting a name here unmounts it in every
/// mount namespace that has a copy; otherwise such a copy would keep the namespace alive.
fn prepare_folder() -> io::Result<()> {
    let _guard = PREPARE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    fs::create_dir_all(NAMED)?;
    let share =
        || mount(None::<&str>, NAMED, None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>);
    match share() {
        Err(nix::Error::EINVAL) => {
            mount(Some(NAMED), NAMED, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?;
            share()?;
        }
        other => other?,
    }
    Ok(())
}

fn in_thread<T: Send>(path: &Path, task: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
    thread::scope(|scope| scope.spawn(task).join()).map_err(|_| NetnsError::Panicked(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random_name;

    #[test]
    fn a_named_namespace_is_made_entered_listed_and_removed() {
        let name = random_name("t-ns-");
        weft_scratch::netns(&name);
        let netns = Netns::create(&name).unwrap();
        assert!(matches!(Netns::create(&name), Err(NetnsError::Exists(_))));
        assert!(Netns::list().unwrap().contains(&name));
        assert!(!netns.is_same(&Netns::current().unwrap()).unwrap());
        let inside = netns.run(|| Netns::current().unwrap()).unwrap();
        assert!(inside.is_same(&netns).unwrap());
        Netns::delete(&name).unwrap();
        Netns::delete(&name).unwrap();
        assert!(!Netns::list().unwrap().contains(&name));
    }

    #[test]
    fn a_namespace_without_a_name_is_entered_like_any_other() {
        let (one, other) = (Netns::anonymous().unwrap(), Netns::anonymous().unwrap());
        let inside = one.run(|| Netns::current().unwrap()).unwrap();
        assert!(inside.is_same(&one).unwrap() && !inside.is_same(&other).unwrap());
        assert!(!inside.is_same(&Netns::current().unwrap()).unwrap());
    }

    #[test]
    fn a_child_starts_inside() {
        let name = random_name("t-ns-");
        weft_scratch::netns(&name);
        let netns = Netns::create(&name).unwrap();
        let mut command = Command::new("readlink");
        let output = netns.enter_child(command.arg("/proc/self/ns/net")).unwrap().output().unwrap();
        Netns::delete(&name).unwrap();
        let inode = netns.file.metadata().unwrap().ino();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), format!("net:[{inode}]"));
    }

    #[test]
    fn a_panic_inside_is_an_error_outside() {
        let name = random_name("t-ns-");
        weft_scratch::netns(&name);
        let netns = Netns::create(&name).unwrap();
        let result = netns.run(|| panic!("inside"));
        Netns::delete(&name).unwrap();
        assert!(matches!(result, Err(NetnsError::Panicked(_))));
    }

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        for name in ["", ".", "..", "a/b", "a\0"] {
            assert!(matches!(Netns::create(name), Err(NetnsError::Name(_))), "{name:?}");
        }
    }
}
