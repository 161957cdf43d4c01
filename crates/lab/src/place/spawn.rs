//! Starts processes inside a node or Pod, so that none outlives the lab.

use std::{
    fs::File,
    io::{self, Write},
    os::unix::process::CommandExt,
    process::Command,
    sync::mpsc,
    thread,
};

use anyhow::{Context, Result};
use tokio::{process::Child, sync::oneshot};
use weft_netns::Netns;

use super::Cgroup;

/// The one thread that starts processes. The kernel ends a process with PDEATHSIG when the *thread* that started it
/// ends; threads of a pool end when they are idle, this one lives as long as the lab.
#[derive(Clone)]
pub(crate) struct Spawner {
    requests: mpsc::Sender<(Command, oneshot::Sender<io::Result<Child>>)>,
}

impl Spawner {
    /// Starts the thread. Must be called inside the runtime that waits for the processes.
    pub(crate) fn start() -> Result<Spawner> {
        let (requests, receiver) = mpsc::channel::<(Command, oneshot::Sender<io::Result<Child>>)>();
        let runtime = tokio::runtime::Handle::current();
        thread::Builder::new().name("spawner".into()).spawn(move || {
            let _inside = runtime.enter();
            for (command, answer) in receiver {
                let mut command = tokio::process::Command::from(command);
                // A child that nobody waits for any more must not go on.
                let _ = answer.send(command.kill_on_drop(true).spawn());
            }
        })?;
        Ok(Spawner { requests })
    }

    /// Starts `command`; it is killed when the lab process ends.
    pub(crate) async fn spawn(&self, mut command: Command) -> Result<Child> {
        // SAFETY: between fork and exec only prctl(2) is called, which is async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).map_err(io::Error::from)
            });
        }
        let program = command.get_program().to_string_lossy().into_owned();
        let (answer, child) = oneshot::channel();
        self.requests.send((command, answer)).ok().context("the spawner has ended")?;
        child.await.context("the spawner has ended")?.with_context(|| format!("start {program}"))
    }
}

/// Makes `command` start inside a namespace and a cgroup.
pub(crate) fn enter(command: &mut Command, netns: &Netns, cgroup: &Cgroup) -> Result<()> {
    let path = cgroup.procs();
    let mut procs = File::options().write(true).open(&path).with_context(|| path.display().to_string())?;
    // SAFETY: between fork and exec only write(2) is called, which is async-signal-safe. "0" is the writer itself.
    unsafe { command.pre_exec(move || procs.write_all(b"0")) };
    netns.enter_child(command)?;
    Ok(())
}
