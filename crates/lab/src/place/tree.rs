//! A tree of mounts, taken from one place and put to another by descriptors: no path is looked up a second time.

use std::{
    ffi::{CStr, c_int},
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use nix::{
    fcntl::{OFlag, open},
    mount::{MsFlags, mount},
    sys::stat::Mode,
};

/// open_tree(2): a copy, with what is mounted below.
const OPEN_TREE_CLONE: c_int = 1;
/// move_mount(2): both sides are the descriptors themselves.
const MOVE_MOUNT_F_EMPTY_PATH: c_int = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: c_int = 0x40;
/// mount_setattr(2).
const MOUNT_ATTR_RDONLY: u64 = 1;

/// `struct mount_attr`.
#[repr(C)]
struct Attributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// A copy of a folder or file with everything that is mounted below it; mounted nowhere yet.
pub(crate) struct Tree(OwnedFd);

impl Tree {
    /// Copies what `source` stands for.
    pub(crate) fn of(source: &OwnedFd) -> io::Result<Tree> {
        let flags = OPEN_TREE_CLONE | libc::AT_RECURSIVE | libc::AT_EMPTY_PATH | libc::O_CLOEXEC;
        // SAFETY: open_tree(2) reads a terminated string and returns a new descriptor, owned from here on, or an error.
        let tree = unsafe {
            let found = checked(libc::syscall(libc::SYS_open_tree, source.as_raw_fd(), c"".as_ptr(), flags))?;
            OwnedFd::from_raw_fd(found as c_int)
        };
        Ok(Tree(tree))
    }

    /// Mounts it on what `target` stands for; with `read_only`, nothing of it can be written to, also not what is mounted
    /// below it.
    pub(crate) fn attach(self, target: &OwnedFd, read_only: bool) -> io::Result<()> {
        if read_only {
            let wanted = Attributes { set: MOUNT_ATTR_RDONLY, clear: 0, propagation: 0, user_namespace: 0 };
            let flags = libc::AT_RECURSIVE | libc::AT_EMPTY_PATH;
            // SAFETY: mount_setattr(2) reads a terminated string and a structure of the size that is given.
            let set = unsafe {
                let size = size_of::<Attributes>();
                let (tree, empty) = (self.0.as_raw_fd(), c"".as_ptr());
                libc::syscall(libc::SYS_mount_setattr, tree, empty, flags, &raw const wanted, size)
            };
            checked(set)?;
        }
        let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
        // SAFETY: move_mount(2) reads terminated strings.
        let moved = unsafe {
            let (from, to, empty) = (self.0.as_raw_fd(), target.as_raw_fd(), c"".as_ptr());
            libc::syscall(libc::SYS_move_mount, from, empty, to, empty, flags)
        };
        checked(moved).map(drop)
    }
}

/// Makes /sys tell of the network namespace that this process is in, as `ip netns exec` does, and keeps what the machine
/// mounts below it: cgroups, BPF and trace file systems. Allocates nothing, so that it may stand between fork and exec.
pub(crate) fn mount_own_sys() -> io::Result<()> {
    const KEPT: [&CStr; 2] = [c"/sys/fs", c"/sys/kernel"];
    let folder = |path: &CStr| open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty());
    let [fs, kernel] = KEPT.map(|path| Tree::of(&folder(path)?));
    let none = None::<&CStr>;
    mount(Some(c"sysfs"), c"/sys", Some(c"sysfs"), MsFlags::empty(), none)?;
    for (tree, path) in [fs?, kernel?].into_iter().zip(KEPT) {
        tree.attach(&folder(path)?, false)?;
    }
    Ok(())
}

fn checked(answer: libc::c_long) -> io::Result<libc::c_long> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}
