//! Names looked up from a place, as a process there would; and what such a process is told to ask.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use tokio::{sync::Semaphore, task::JoinSet};
use weft_dns::stub::{LookedUp, StubResolver};

use super::place::{Found, run_in};

/// Look-ups under way at once.
const AT_ONCE: usize = 64;

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

/// The resolv.conf that processes in a place see: the first one's that is found there with files of its own, as containers have, or
/// else of any. None where there is no process.
///
/// # Errors
/// When `/proc` or the place cannot be looked at.
pub(crate) fn resolv_conf(of: &Found) -> io::Result<Option<String>> {
    let Some(netns) = &of.netns else { return fs::read_to_string("/etc/resolv.conf").map(Some) };
    let wanted = identity(netns)?;
    let own = identity(Path::new("/proc/self/ns/mnt"))?;
    let mut shared = None;
    for entry in fs::read_dir("/proc")? {
        let process = entry?.path();
        // Processes end while they are looked at, and most are not there.
        if identity(&process.join("ns/net")).is_ok_and(|found| found == wanted)
            && let Ok(text) = fs::read_to_string(inside(&process))
        {
            // Whoever starts a container is in the Pod's network before the container is, and sees the files that the agent sees.
            if identity(&process.join("ns/mnt")).is_ok_and(|files| files != own) {
                return Ok(Some(text));
            }
            shared.get_or_insert(text);
        }
    }
    Ok(shared)
}

fn inside(process: &Path) -> PathBuf {
    process.join("root/etc/resolv.conf")
}

/// What tells a namespace from others.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
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
        sys::signal::{Signal, killpg},
        unistd::Pid,
    };

    use super::*;

    /// A group of processes; ended when dropped.
    struct Group(Child);

    impl Drop for Group {
        fn drop(&mut self) {
            let _ = killpg(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGKILL);
            let _ = self.0.wait();
        }
    }

    /// Who starts a container is in the network of the Pod before the container is, and sees the machine's files.
    #[test]
    fn the_files_of_a_pods_containers_count() {
        const OWN: &str = "nameserver 192.0.2.53\n";
        let folder = weft_scratch::folder();
        let file = folder.path().join("resolv.conf");
        fs::write(&file, OWN).unwrap();
        let container = format!("mount --bind {} /etc/resolv.conf && exec sleep 60", file.display());
        let starts = format!("unshare --mount sh -c '{container}' & wait");
        let mut command = Command::new("unshare");
        let starter = Group(command.args(["--net", "sh", "-c", &starts]).process_group(0).spawn().unwrap());
        let netns = PathBuf::from(format!("/proc/{}/ns/net", starter.0.id()));
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            // Before the namespace is made it is the machine's, where others run.
            let place = Found { netns: Some(netns.clone()), addresses: Vec::new() };
            if resolv_conf(&place).unwrap().as_deref() == Some(OWN) {
                return;
            }
            assert!(Instant::now() < deadline, "the container's file is not found");
            thread::sleep(Duration::from_millis(20));
        }
    }
}
