//! Names looked up from a place, as a process there would; and what such a process is told to ask.

use std::{
    fs::{self, File, Metadata},
    io::{self, Read as _},
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::{
    fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2},
    sys::stat::Mode,
};
use serde::{Deserialize, Serialize};
use tokio::{sync::Semaphore, task::JoinSet};
use weft_dns::stub::{LookedUp, StubResolver};

use super::place::{Found, run_in};

/// Look-ups under way at once.
const AT_ONCE: usize = 64;
/// Whom processes are told to ask.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Bytes of it that are read, maximum.
const LONGEST: u64 = 65_536;

/// A name to look up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookUp {
    /// The name; without a final dot the search list is walked for it.
    pub name: String,
    /// The type (`A`, `AAAA`, `SRV`, …).
    #[serde(rename = "type")]
    pub kind: String,
}

/// Looks every name up from a place. Blocks until the last one has an outcome.
///
/// # Errors
/// When the place cannot be entered.
pub(crate) fn resolve(from: &Found, stub: StubResolver, names: &[LookUp]) -> io::Result<Vec<LookedUp>> {
    run_in(from.netns.as_deref(), || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (room, stub) = (Arc::new(Semaphore::new(AT_ONCE)), Arc::new(stub));
            let mut running = JoinSet::new();
            for (index, LookUp { name, kind }) in names.iter().cloned().enumerate() {
                let (room, stub) = (room.clone(), stub.clone());
                running.spawn(async move {
                    // The semaphore is never closed.
                    let _place = room.acquire().await;
                    (index, stub.look_up(&name, &kind).await)
                });
            }
            let mut outcomes = running.join_all().await;
            outcomes.sort_by_key(|(index, _)| *index);
            Ok(outcomes.into_iter().map(|(_, outcome)| outcome).collect())
        })
    })?
}

/// The resolv.conf that a place's own processes see: one that names servers, if there is one. None where no process has a file
/// of its own.
///
/// # Errors
/// When `/proc` or the place cannot be looked at.
pub(crate) fn resolv_conf(of: &Found) -> io::Result<Option<String>> {
    let Some(netns) = &of.netns else { return fs::read_to_string(RESOLV_CONF).map(Some) };
    let wanted = identity(netns)?;
    let mut without_servers = None;
    for entry in fs::read_dir("/proc")? {
        let process = entry?.path();
        // Processes end while they are looked at, and most are not there.
        if identity(&process.join("ns/net")).is_ok_and(|found| found == wanted)
            && is_own(&process, wanted)
            && let Ok(text) = inside(&process).and_then(|file| read(&file))
        {
            if !StubResolver::parse(&text).servers.is_empty() {
                return Ok(Some(text));
            }
            // What keeps a Pod's namespaces has the file of its image, if any.
            without_servers.get_or_insert(text);
        }
    }
    Ok(without_servers)
}

/// Whether the file that a process sees in a network is another than that of whoever started it from outside of the network, and
/// than the agent's. Who starts a container is in the Pod's network before the container is, and sees the machine's file; so does
/// what a runtime runs there.
fn is_own(process: &Path, netns: (u64, u64)) -> bool {
    let Ok(file) = inside(process).and_then(|file| file.metadata()) else { return false };
    let is_it = |other: io::Result<Metadata>| other.is_ok_and(|other| told(&other) == told(&file));
    let mut outside = parent(process);
    while let Some(within) =
        outside.take_if(|one| identity(&one.join("ns/net")).is_ok_and(|net| net == netns))
    {
        outside = parent(&within);
    }
    let its = outside.map(|outside| inside(&outside).and_then(|file| file.metadata()));
    !is_it(fs::metadata(RESOLV_CONF)) && !its.is_some_and(is_it)
}

fn parent(process: &Path) -> Option<PathBuf> {
    let status = fs::read_to_string(process.join("status")).ok()?;
    let pid = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    Some(Path::new("/proc").join(pid.trim()))
}

/// The file as a process sees it, whose links lead nowhere else; not open yet, because to open what is no file may wait, or do something.
fn inside(process: &Path) -> io::Result<File> {
    let folder = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = open(&process.join("root"), folder, Mode::empty())?;
    let way = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(way);
    Ok(File::from(openat2(root, RESOLV_CONF, how)?))
}

/// Its text, so far as anybody reads it.
fn read(file: &File) -> io::Result<String> {
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut text = String::new();
    let opened = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    opened.take(LONGEST).read_to_string(&mut text)?;
    Ok(text)
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::metadata(path).map(|metadata| told(&metadata))
}

/// What tells a namespace or a file from others.
fn told(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::process::CommandExt as _,
        process::{Child, Command},
        thread,
        time::{Duration, Instant},
    };

    use nix::{
        mount::{MsFlags, mount},
        sched::{CloneFlags, unshare},
        sys::signal::{Signal, killpg},
        unistd::{Pid, mkfifo},
    };

    use super::*;

    const OWN: &str = "nameserver 192.0.2.53\n";

    /// A group of processes; ended when dropped.
    struct Group(Child);

    impl Drop for Group {
        fn drop(&mut self) {
            let _ = killpg(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGKILL);
            let _ = self.0.wait();
        }
    }

    /// Processes in a network of their own: one that keeps it, with a file that names nobody, and one that starts a container there,
    /// and sees the machine's files; and the container.
    fn pod(folder: &Path) -> Group {
        fs::write(folder.join("own"), OWN).unwrap();
        fs::write(folder.join("pause"), "# of an image\n").unwrap();
        // Whoever opens it waits for a writer.
        mkfifo(&folder.join("pipe"), Mode::S_IRUSR).unwrap();
        let sees = |file: &str| {
            let file = folder.join(file);
            format!(
                "unshare --mount sh -c 'mount --bind {} /etc/resolv.conf && exec sleep 60'",
                file.display()
            )
        };
        let starts = format!("{} & {} & {} & wait", sees("pipe"), sees("pause"), sees("own"));
        let mut command = Command::new("unshare");
        Group(command.args(["--net", "sh", "-c", &starts]).process_group(0).spawn().unwrap())
    }

    fn finds_the_containers_file(pod: &Group) {
        let netns = PathBuf::from(format!("/proc/{}/ns/net", pod.0.id()));
        let machines = identity(Path::new("/proc/self/ns/net")).unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut found = None;
        while found.as_deref() != Some(OWN) {
            assert!(Instant::now() < deadline, "the container's file is not found, but {found:?}");
            thread::sleep(Duration::from_millis(20));
            // Before the namespace is made it is the machine's, where others run.
            if identity(&netns).unwrap() != machines {
                let place = Found { netns: Some(netns.clone()), addresses: Vec::new() };
                found = resolv_conf(&place).unwrap();
                assert!(found.as_ref().is_none_or(|text| text == OWN || text.starts_with('#')), "{found:?}");
            }
        }
    }

    #[test]
    fn the_files_of_a_pods_containers_count() {
        let folder = weft_scratch::folder();
        finds_the_containers_file(&pod(folder.path()));
    }

    /// A lab's agents see other files than the lab, which starts containers; and so does an agent in a container.
    #[test]
    fn the_machines_file_is_no_containers_whatever_the_agent_sees() {
        let folder = weft_scratch::folder();
        let agents = folder.path().join("agents");
        fs::write(&agents, "nameserver 192.0.2.1\n").unwrap();
        let pod = pod(folder.path());
        let look = || {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let none: Option<&str> = None;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
            mount(Some(&agents), RESOLV_CONF, none, MsFlags::MS_BIND, none).unwrap();
            finds_the_containers_file(&pod);
        };
        thread::scope(|scope| scope.spawn(look).join().unwrap());
    }
}
