//! What tests and benchmarks throw away. Everything here goes with its value, also when a test panics; and when the process
//! that made it is gone, also when it was killed, together with whatever that process started. See [`lab`] for what is made by
//! others, and `WEFT_KEEP=1` to keep what a killed process leaves.
#![allow(clippy::panic, reason = "tests fail by panicking")]

mod janitor;

use std::{
    fs::{self, DirBuilder},
    net::IpAddr,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use weft_netns::{Netlink, Netns, random_name};

/// A network namespace.
pub struct Scratch(pub Netns);

impl Scratch {
    /// A new one whose name begins so.
    ///
    /// # Panics
    /// Without root.
    #[track_caller]
    pub fn new(prefix: &str) -> Scratch {
        let name = random_name(prefix);
        netns(&name);
        Scratch(Netns::create(&name).unwrap_or_else(|error| panic!("{error} (this needs root)")))
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Addresses of an interface inside that others can reach, sorted.
    #[track_caller]
    pub fn addresses(&self, interface: &str) -> Vec<IpAddr> {
        let read = || {
            let mut inside = Netlink::open_in(&self.0)?;
            let index = inside.link(interface)?.index;
            inside.addresses(Some(index))
        };
        let found = read().unwrap_or_else(|error| panic!("addresses of {interface}: {error}"));
        let global = found.into_iter().filter(|found| found.global);
        let mut addresses: Vec<IpAddr> = global.map(|found| found.address).collect();
        addresses.sort();
        addresses
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Some tests have removed it themselves.
        let _ = Netns::delete(self.0.name());
    }
}

/// A BPF file system; with it goes every pin.
pub struct Bpffs(PathBuf);

impl Bpffs {
    /// A new one.
    ///
    /// # Panics
    /// Without root.
    #[track_caller]
    #[expect(clippy::new_without_default, reason = "it mounts")]
    pub fn new() -> Bpffs {
        let path = std::env::temp_dir().join(random_name("t-bpf-"));
        janitor::remove("bpffs", &[text(&path)]);
        fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mounted = mount(Some("bpf"), &path, Some("bpf"), MsFlags::empty(), None::<&str>);
        mounted.unwrap_or_else(|error| panic!("mount a bpffs on {}: {error}", path.display()));
        Bpffs(path)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.0);
    }
}

/// A cgroup; whatever runs in it ends with it.
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// A new one below the cgroup2 mount.
    ///
    /// # Panics
    /// Without root, or without such a mount.
    #[track_caller]
    #[expect(clippy::new_without_default, reason = "it makes a folder")]
    pub fn new() -> Cgroup {
        let path = cgroup_mount().join(random_name("t-cg-"));
        janitor::remove("cgroup", &[text(&path)]);
        fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Cgroup(path)
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
        // It is busy until what was ended is gone.
        for _ in 0..1000 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A folder that only its owner may use.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left of it goes with the process.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A folder.
///
/// # Panics
/// When it cannot be made.
#[track_caller]
pub fn folder() -> Folder {
    let path = std::env::temp_dir().join(random_name("t-dir-"));
    janitor::remove("folder", &[text(&path)]);
    let made = DirBuilder::new().mode(0o700).create(&path);
    made.unwrap_or_else(|error| panic!("make folder {}: {error}", path.display()));
    Folder(path)
}

/// A network namespace of this name, which the caller makes.
pub fn netns(name: &str) {
    janitor::remove("netns", &[name]);
}

/// A lab of this name, which the caller brings up by this `weft`, and takes down.
pub fn lab(name: &str, weft: &Path) {
    janitor::remove("lab", &[name, text(weft)]);
}

/// Containers of these names whose file systems lie in this folder, which a container runtime starts on behalf of the caller.
pub fn containers(folder: &Path, prefix: &str) {
    janitor::remove("containers", &[text(folder), prefix]);
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_else(|| panic!("{} is no text", path.display()))
}

fn cgroup_mount() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mount = mounts.find(|fields| fields.get(2) == Some(&"cgroup2"));
    mount
        .and_then(|fields| fields.get(1).map(PathBuf::from))
        .unwrap_or_else(|| panic!("no cgroup2 is mounted"))
}
