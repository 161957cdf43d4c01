//! Runs one container's command, in a process of its own that has nothing else to do.
//!
//! The kubelet starts `weft lab container SPEC` inside the Pod's network namespace and cgroup. That process gives the
//! command a process, mount, host name and IPC namespace, and as root folder the machine's own files, copy-on-write:
//! a container reads the machine's programs and never writes to its files. It is no security boundary.

use std::{
    ffi::CString,
    fs,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, FromRawFd, OwnedFd},
        unix::fs::DirBuilderExt,
    },
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use nix::{
    fcntl::{OFlag, open},
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::{
        prctl,
        signal::{SigSet, Signal, kill},
        stat::Mode,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, chdir, execvpe, fork, pivot_root, sethostname},
};
use serde::{Deserialize, Serialize};

use crate::place::{Inside, Tree, path_of};

/// What to run, and in what.
#[derive(Debug, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Program and arguments; in a new container, none to run nothing in it.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// Folder to start in.
    pub cwd: PathBuf,
    /// How to get there.
    pub place: ContainerPlace,
}

/// A new container, or one that runs.
#[derive(Debug, Serialize, Deserialize)]
pub enum ContainerPlace {
    /// Make the namespaces and the root folder.
    New {
        /// Host name.
        hostname: String,
        /// Folder for what the container writes; on a file system that can be an upper layer.
        layer: PathBuf,
        /// What is mounted into it.
        mounts: Vec<Mount>,
        /// File that gets the process id of the container's first process.
        pid_file: PathBuf,
    },
    /// Enter the container of this process.
    Running {
        /// File that holds the process id.
        pid_file: PathBuf,
    },
}

/// A file or folder that a container sees.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Mount {
    /// Where it is on the machine.
    pub source: PathBuf,
    /// The part of it that is mounted; never outside of it.
    pub part: Option<PathBuf>,
    /// Where the container sees it.
    pub target: PathBuf,
    /// Not to be written to.
    pub read_only: bool,
}

/// A program cannot be started.
#[derive(Debug, thiserror::Error)]
#[error("{program}")]
pub struct NotStarted {
    /// What it is called.
    pub program: String,
    /// Why.
    pub source: io::Error,
}

impl NotStarted {
    /// The exit code that shells and env(1) have for it: 127 if there is no such program, else 126.
    pub fn exit_code(&self) -> u8 {
        if self.source.kind() == io::ErrorKind::NotFound { 127 } else { 126 }
    }
}

/// Runs the container that the file `spec` describes, to its end. Must be called by a process with one thread.
///
/// # Errors
/// What could not be set up. The exit code of the command is passed on, 128 and the signal if one ended it.
pub fn run_container(spec: &Path) -> Result<ExitCode> {
    run(&read_spec(spec)?)
}

pub(crate) fn read_spec(path: &Path) -> Result<ContainerSpec> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

/// The same for a description that is at hand.
pub(crate) fn run(spec: &ContainerSpec) -> Result<ExitCode> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // Signals are waited for, not handled: nothing may be lost between two waits.
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD]);
    signals.thread_block()?;
    match &spec.place {
        ContainerPlace::New { pid_file, .. } => {
            // This process keeps its own mounts: it has files of the machine to write.
            unshare(CloneFlags::CLONE_NEWPID).context("make the container's process namespace")?;
            let (made, making) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
            let child = fork_child(|| first_process(spec, making.try_clone()?))?;
            drop(making);
            // Who enters by this file finds the container whole.
            if fs::File::from(made).read(&mut [0])? == 1 {
                write_whole(pid_file, &child.to_string())?;
            }
            wait_for(child, &signals)
        }
        ContainerPlace::Running { pid_file } => {
            enter(pid_file)?;
            let child = fork_child(|| execute(spec))?;
            wait_for(child, &signals)
        }
    }
}

/// Process 1 of the container: makes its root folder, starts the command and reaps whatever is left to it.
fn first_process(spec: &ContainerSpec, made: OwnedFd) -> Result<ExitCode> {
    if let ContainerPlace::New { hostname, layer, mounts, .. } = &spec.place {
        let own = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC;
        unshare(own).context("make the container's namespaces")?;
        sethostname(hostname).context("set the host name")?;
        make_root(layer, mounts)?;
    }
    fs::File::from(made).write_all(b"1")?;
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD]);
    if spec.argv.is_empty() {
        return hold(&signals);
    }
    let child = fork_child(|| execute(spec))?;
    wait_for(child, &signals)
}

/// Keeps a container in which nothing runs, and reaps what others ran in it.
fn hold(signals: &SigSet) -> Result<ExitCode> {
    loop {
        if signals.wait()? != Signal::SIGCHLD {
            return Ok(ExitCode::SUCCESS);
        }
        while waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG))
            .is_ok_and(|status| status != WaitStatus::StillAlive)
        {}
    }
}

/// Writes a file that is there only when it is whole.
fn write_whole(path: &Path, text: &str) -> Result<()> {
    let fresh = path.with_extension("new");
    fs::write(&fresh, text)
        .and_then(|()| fs::rename(&fresh, path))
        .with_context(|| path.display().to_string())
}

fn execute(spec: &ContainerSpec) -> Result<ExitCode> {
    SigSet::all().thread_unblock()?;
    if !spec.cwd.exists() {
        fs::create_dir_all(&spec.cwd).with_context(|| spec.cwd.display().to_string())?;
    }
    chdir(&spec.cwd).with_context(|| spec.cwd.display().to_string())?;
    let text = |text: &str| CString::new(text).with_context(|| format!("{text:?} holds a zero byte"));
    let argv = spec.argv.iter().map(|word| text(word)).collect::<Result<Vec<_>>>()?;
    let env =
        spec.env.iter().map(|(name, value)| text(&format!("{name}={value}"))).collect::<Result<Vec<_>>>()?;
    let Some(program) = argv.first() else { bail!("no command") };
    // execvpe looks the program up in this process's own PATH, which the lab has set for it.
    let Err(error) = execvpe(program, &argv, &env);
    Err(NotStarted { program: program.to_string_lossy().into_owned(), source: error.into() }.into())
}

/// Forks; the child runs `task` and exits with what it says.
fn fork_child(task: impl FnOnce() -> Result<ExitCode>) -> Result<Pid> {
    // SAFETY: this process has one thread, so the child may do whatever the parent may.
    match unsafe { fork() }.context("fork")? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let code = match prctl::set_pdeathsig(Signal::SIGKILL).map_err(Into::into).and_then(|()| task()) {
                Ok(code) if code == ExitCode::SUCCESS => 0,
                Ok(code) => exit_number(code),
                Err(error) => {
                    eprintln!("{error:#}");
                    error.downcast_ref::<NotStarted>().map_or(127, |error| error.exit_code().into())
                }
            };
            // SAFETY: _exit(2) ends the child without running the parent's exit handlers.
            unsafe { libc::_exit(code) }
        }
    }
}

/// `ExitCode` does not give its number back; the codes that are made here are few enough to be found.
fn exit_number(code: ExitCode) -> i32 {
    (0..=255u8).find(|number| ExitCode::from(*number) == code).map_or(1, i32::from)
}

/// Waits for `child`, passes SIGTERM and SIGINT on to it, and reaps everything else that ends.
fn wait_for(child: Pid, signals: &SigSet) -> Result<ExitCode> {
    loop {
        loop {
            match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == child => {
                    return Ok(ExitCode::from(u8::try_from(code & 0xff).unwrap_or(1)));
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => {
                    return Ok(ExitCode::from(u8::try_from(128 + signal as i32).unwrap_or(255)));
                }
                Ok(WaitStatus::StillAlive) => break,
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(nix::Error::ECHILD) => bail!("the container's process is gone"),
                Err(error) => return Err(error).context("wait for the container"),
            }
        }
        match signals.wait()? {
            Signal::SIGCHLD => {}
            // It may have ended in this moment.
            signal => drop(kill(child, signal)),
        }
    }
}

fn enter(pid_file: &Path) -> Result<()> {
    let text = fs::read_to_string(pid_file).context("the container does not run")?;
    let pid: i32 = text.trim().parse().with_context(|| pid_file.display().to_string())?;
    // SAFETY: pidfd_open(2) returns a new descriptor, which is owned from here on, or an error.
    let pidfd = unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error()).context("the container does not run");
        }
        OwnedFd::from_raw_fd(i32::try_from(fd)?)
    };
    let all = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWNET;
    setns(pidfd.as_fd(), all).context("enter the container")
}

/// Makes the machine's files the container's root, copy-on-write, with its own /proc, /tmp and mounts.
fn make_root(layer: &Path, mounts: &[Mount]) -> Result<()> {
    let none = None::<&str>;
    // Mounts made here stay here; what the machine unmounts goes away here too, or namespaces would be kept alive.
    mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none).context("part the mounts")?;
    let (upper, work, root) = (layer.join("upper"), layer.join("work"), layer.join("root"));
    for folder in [&upper, &work, &root] {
        make_dir(folder, 0o755)?;
    }
    let options = format!("lowerdir=/,upperdir={},workdir={}", upper.display(), work.display());
    mount(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .context("mount the root folder (overlay)")?;
    let inside = |path: &str| root.join(path);
    mount(Some("proc"), &inside("proc"), Some("proc"), MsFlags::empty(), none).context("mount /proc")?;
    mount(Some("/dev"), &inside("dev"), none, MsFlags::MS_BIND | MsFlags::MS_REC, none)
        .context("mount /dev")?;
    // What it tells of the network is the Pod's, since this process is in the Pod's namespace.
    mount(Some("sysfs"), &inside("sys"), Some("sysfs"), MsFlags::MS_RDONLY, none).context("mount /sys")?;
    let cgroups = Path::new("/sys/fs/cgroup");
    if cgroups.is_dir() {
        let tree = Tree::of(&open(cgroups, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?)?;
        let place = open(&inside("sys/fs/cgroup"), OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
        tree.attach(&place, true).context("mount /sys/fs/cgroup")?;
    }
    for folder in ["tmp", "run"] {
        mount(Some("tmpfs"), &inside(folder), Some("tmpfs"), MsFlags::empty(), Some("mode=1777"))
            .with_context(|| format!("mount /{folder}"))?;
    }
    let inside_root = Inside::as_root(&root)?;
    for one in mounts {
        bind(&inside_root, one).with_context(|| format!("mount {}", one.target.display()))?;
    }
    let old = inside("tmp").join(".machine");
    make_dir(&old, 0o700)?;
    pivot_root(&root, &old).context("change the root folder")?;
    chdir("/")?;
    umount2("/tmp/.machine", MntFlags::MNT_DETACH).context("leave the machine's root folder")?;
    fs::remove_dir("/tmp/.machine").context("/tmp/.machine")
}

/// Mounts a file or folder into the container. Neither path leads out: not the part out of its volume, nor the place out
/// of the root folder, whatever links stand in either.
fn bind(root: &Inside, wanted: &Mount) -> Result<()> {
    let source = match &wanted.part {
        Some(part) => Inside::below(&wanted.source)?.make(part, false)?,
        None => open(&wanted.source, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
            .with_context(|| wanted.source.display().to_string())?,
    };
    let target = root.make(&wanted.target, !path_of(&source).is_dir())?;
    Ok(Tree::of(&source)?.attach(&target, wanted.read_only)?)
}

fn make_dir(path: &Path, mode: u32) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(mode).create(path).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::CommandExt, process::Command};

    use super::NotStarted;

    #[test]
    fn a_program_that_is_not_there_is_told_from_one_that_cannot_be_run() {
        let code = |program: &str| {
            let source = Command::new(program).exec();
            NotStarted { program: program.to_owned(), source }.exit_code()
        };
        assert_eq!(code("weft-no-such-program"), 127);
        assert_eq!(code("/weft-no-such/program"), 127);
        assert_eq!(code("/etc/passwd"), 126);
        assert_eq!(code("/etc"), 126);
    }
}
