//! By what a place of the lab knows names: files of its own in /etc, and its host name.
//!
//! Whatever is started in a node, a Pod or the host outside gets a mount and a host name namespace around it, in which they
//! stand in the place of the machine's. So does a /sys that tells of its own network.

use std::{
    ffi::{CString, OsStr},
    fs, io,
    os::unix::{ffi::OsStrExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::sethostname,
};

use super::{make_dir, tree::mount_own_sys};

/// Where glibc looks names up. The machine's may ask a daemon that knows only the machine's own names.
const NSSWITCH: &str = "nsswitch.conf";
const HOSTNAME: &str = "hostname";
const FILES: [&str; 4] = ["resolv.conf", "hosts", HOSTNAME, NSSWITCH];

/// The folder that holds the files of one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Names {
    folder: PathBuf,
}

impl Names {
    pub(crate) fn at(folder: PathBuf) -> Names {
        Names { folder }
    }

    /// Writes the files.
    pub(crate) fn write(&self, hostname: &str, resolv_conf: &str, hosts: &str) -> Result<()> {
        make_dir(&self.folder)?;
        let machine = fs::read_to_string(Path::new("/etc").join(NSSWITCH)).unwrap_or_default();
        let contents = [resolv_conf, hosts, &format!("{hostname}\n"), &nsswitch(&machine)];
        for (file, content) in FILES.into_iter().zip(contents) {
            let path = self.folder.join(file);
            fs::write(&path, content).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    /// Its resolv.conf.
    pub(crate) fn resolv_conf(&self) -> Result<String> {
        read(&self.folder.join("resolv.conf"))
    }

    /// Its hosts.
    pub(crate) fn hosts(&self) -> Result<String> {
        read(&self.folder.join("hosts"))
    }

    /// Each file, and where it belongs.
    pub(crate) fn files(&self) -> impl Iterator<Item = (PathBuf, PathBuf)> + '_ {
        FILES.into_iter().map(|file| (self.folder.join(file), Path::new("/etc").join(file)))
    }

    /// Makes `command` start among these names; it must enter its network namespace before. What the machine mounts later is seen inside as well: the namespaces of
    /// Pods among it.
    pub(crate) fn enter_child(&self, command: &mut Command) -> Result<()> {
        let hostname = read(&self.folder.join(HOSTNAME))?;
        let hostname = hostname.trim().to_owned();
        let over = Over::of(self)?;
        let enter = move || -> io::Result<()> {
            unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS)?;
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none)?;
            over.mount()?;
            mount_own_sys()?;
            Ok(sethostname(&hostname)?)
        };
        // SAFETY: between fork and exec only system calls are made, with strings that were made before: nothing allocates.
        unsafe { command.pre_exec(enter) };
        Ok(())
    }
}

/// How the files come to stand in /etc.
enum Over {
    /// Each on the machine's own.
    Binds(Vec<(CString, CString)>),
    /// The machine lacks one, so that there is nothing to mount it on: both folders as one, which cannot be written to.
    Overlay(CString),
}

impl Over {
    fn of(names: &Names) -> Result<Over> {
        if names.files().any(|(_, target)| !target.exists()) {
            let options = format!("lowerdir={}:/etc", names.folder.display());
            return Ok(Over::Overlay(c_string(options.as_ref())?));
        }
        let binds = names
            .files()
            .map(|(source, target)| Ok((c_string(source.as_os_str())?, c_string(target.as_os_str())?)));
        Ok(Over::Binds(binds.collect::<Result<_>>()?))
    }

    fn mount(&self) -> nix::Result<()> {
        match self {
            Over::Binds(binds) => binds.iter().try_for_each(|(source, target)| {
                let (source, target) = (source.as_c_str(), target.as_c_str());
                mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            }),
            Over::Overlay(options) => {
                let options = Some(options.as_c_str());
                mount(Some("overlay"), "/etc", Some("overlay"), MsFlags::empty(), options)
            }
        }
    }
}

fn c_string(text: &OsStr) -> Result<CString> {
    CString::new(text.as_bytes()).with_context(|| format!("{text:?} holds a zero byte"))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| path.display().to_string())
}

/// The machine's sources of names, except that hosts are looked up in the place's own files and by DNS.
fn nsswitch(machine: &str) -> String {
    let others = machine.lines().filter(|line| !line.trim_start().starts_with("hosts:"));
    others.chain(["hosts: files dns"]).map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn daemons_of_the_machine_are_not_asked_for_hosts() {
        let machine = "passwd: files systemd\nhosts: files mymachines resolve [!UNAVAIL=return] dns\n";
        assert_eq!(nsswitch(machine), "passwd: files systemd\nhosts: files dns\n");
    }
}
