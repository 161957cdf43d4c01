//! A terminal for a process in a container.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    pty::{Winsize, openpty},
};
use tokio::io::unix::AsyncFd;
use weft_apiserver::TerminalSize;

/// The side of it that is not the process's.
pub(super) struct Terminal {
    master: AsyncFd<OwnedFd>,
}

impl Terminal {
    /// Makes one and gives its other side to `command`, whose session it leads.
    pub(super) fn give(command: &mut Command) -> Result<Terminal> {
        let pair = openpty(None, None).context("make a terminal")?;
        fcntl(pair.master.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        fcntl(pair.master.as_fd(), FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
        command.stdin(Stdio::from(pair.slave.try_clone()?));
        command.stdout(Stdio::from(pair.slave.try_clone()?)).stderr(Stdio::from(pair.slave));
        // SAFETY: between fork and exec only setsid(2) and ioctl(2) are called, which are async-signal-safe; 0 is the terminal.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                match libc::ioctl(0, libc::TIOCSCTTY, 0) {
                    0 => Ok(()),
                    _ => Err(io::Error::last_os_error()),
                }
            });
        }
        // SAFETY: the descriptor is owned by what is returned and stays open and the same as long as that lives.
        let master = unsafe { AsyncFd::register(pair.master)? };
        Ok(Terminal { master })
    }

    /// What the process writes; 0 once nobody has the other side any more.
    pub(super) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.master.readable().await?;
            let read = ready.try_io(|master| Ok(nix::unistd::read(master.get_ref(), buffer)?));
            match read {
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => return Ok(0),
                Ok(read) => return read,
                Err(_not_ready) => {}
            }
        }
    }

    /// Types.
    pub(super) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut ready = self.master.writable().await?;
            match ready.try_io(|master| Ok(nix::unistd::write(master.get_ref(), bytes)?)) {
                Ok(written) => bytes = bytes.get(written?..).unwrap_or_default(),
                Err(_not_ready) => {}
            }
        }
        Ok(())
    }

    pub(super) fn resize(&self, size: TerminalSize) {
        let size = Winsize { ws_row: size.height, ws_col: size.width, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: TIOCSWINSZ reads one `winsize`. A terminal whose process is gone needs no size.
        let _ = unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    }
}
