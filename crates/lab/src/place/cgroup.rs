//! cgroup2 folders: whatever runs in one can be ended as a whole.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// A cgroup2 folder.
#[derive(Clone, Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Where cgroup2 is mounted, whatever the distribution's place for it.
    pub fn mount_point() -> Result<PathBuf> {
        let text = fs::read_to_string("/proc/self/mountinfo").context("/proc/self/mountinfo")?;
        let is_cgroup2 =
            |line: &&str| line.split(" - ").nth(1).is_some_and(|rest| rest.starts_with("cgroup2 "));
        match text.lines().find(is_cgroup2).and_then(|line| line.split(' ').nth(4)) {
            Some(path) => Ok(path.into()),
            None => bail!("cgroup2 is not mounted: mount -t cgroup2 none /sys/fs/cgroup"),
        }
    }

    /// The folder of a lab, `<cgroup2 mount>/weft-NAME`, made or not.
    pub fn of_lab(name: &super::LabName) -> Result<Cgroup> {
        Ok(Cgroup { path: Cgroup::mount_point()?.join(format!("weft-{name}")) })
    }

    /// A folder that was made before.
    pub fn at(path: &Path) -> Cgroup {
        Cgroup { path: path.to_owned() }
    }

    /// A folder below this one, made if it is not there.
    pub fn below(&self, name: &str) -> Result<Cgroup> {
        let path = self.path.join(name);
        fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(Cgroup { path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file that takes a process in.
    pub fn procs(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    /// Kills every process in it and below, waits until they are gone, and removes it. One that is not there is fine.
    pub fn remove(&self) -> Result<()> {
        if !self.path.exists() {
            return Ok(());
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut pause = Duration::from_millis(1);
        loop {
            self.kill()?;
            match remove_folders(&self.path) {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    let path = self.path.display();
                    return Err(error)
                        .context(format!("{path}: its processes were killed and do not go away"));
                }
                // The kernel tells nobody when the last zombie is gone from a folder.
                Err(_) => std::thread::sleep(pause),
            }
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    fn kill(&self) -> Result<()> {
        match fs::write(self.path.join("cgroup.kill"), "1") {
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.path.exists() => {
                // Kernels before 5.14.
                kill_one_by_one(&self.path)
            }
            Err(error) if self.path.exists() => Err(error).context(self.path.display().to_string()),
            _ => Ok(()),
        }
    }
}

fn kill_one_by_one(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            kill_one_by_one(&entry.path())?;
        }
    }
    let pids = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    for pid in pids.lines().filter_map(|line| line.parse().ok()) {
        // A process that has just ended is as good as killed.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
    Ok(())
}

fn remove_folders(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            remove_folders(&path)?;
        }
    }
    match fs::remove_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
