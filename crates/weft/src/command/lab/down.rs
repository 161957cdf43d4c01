//! `weft lab down`

use std::{
    os::fd::{AsFd, FromRawFd, OwnedFd},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use weft_lab::LabDir;

use super::LabArgs;

/// Take a lab down and remove every trace of it
#[derive(Args, Debug)]
pub struct Down {
    #[command(flatten)]
    lab: LabArgs,
    /// Every lab of this machine
    #[arg(long, conflicts_with = "name")]
    all: bool,
}

/// How long a lab process may take to remove everything before it is killed.
const PATIENCE: Duration = Duration::from_secs(20);

impl Down {
    pub fn run(self) -> Result<ExitCode> {
        if let Some(dead) = self.lab.dead() {
            weft_lab::clean()?;
            println!("lab {} is down", dead.name());
            return Ok(ExitCode::SUCCESS);
        }
        let labs = if self.all { super::running()? } else { vec![self.lab.choose()?] };
        for lab in labs {
            down(&lab)?;
            println!("lab {} is down", lab.name());
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn down(lab: &LabDir) -> Result<()> {
    let pid = match lab.record() {
        Ok(record) => record.pid,
        Err(error) if lab.is_running() => {
            return Err(error).context("the lab is still coming up: try again in a moment");
        }
        Err(_) => return weft_lab::clean(),
    };
    let Some(process) = open_process(pid)? else { return weft_lab::clean() };
    signal(&process, libc::SIGTERM)?;
    if !ends_within(&process, PATIENCE)? {
        signal(&process, libc::SIGKILL)?;
        if !ends_within(&process, PATIENCE)? {
            bail!("the lab process {pid} does not end");
        }
    }
    // Nothing is left of a lab that ended by itself; of one that was killed, this removes it.
    weft_lab::clean()
}

/// A descriptor of the lab process, which cannot come to stand for another one; none if it has ended.
fn open_process(pid: i32) -> Result<Option<OwnedFd>> {
    // SAFETY: pidfd_open(2) returns a new descriptor, which is owned from here on, or an error.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        let error = std::io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::ESRCH) {
            Ok(None)
        } else {
            Err(error).context("pidfd_open")
        };
    }
    // SAFETY: the descriptor is new and nobody else's.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd)?) }))
}

fn signal(process: &OwnedFd, signal: i32) -> Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: pidfd_send_signal(2) reads its arguments only; the descriptor is open.
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal, 0, 0) };
    if sent < 0 {
        let error = std::io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ESRCH) {
            return Err(error).context("signal the lab process");
        }
    }
    Ok(())
}

fn ends_within(process: &OwnedFd, time: Duration) -> Result<bool> {
    let mut watched = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    Ok(poll(&mut watched, PollTimeout::try_from(time)?)? > 0)
}
