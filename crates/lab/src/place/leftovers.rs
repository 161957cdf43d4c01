//! Removes what labs leave on the machine when their process is gone.

use std::{fs, path::Path};

use anyhow::{Context, Result, anyhow};
use nix::mount::{MntFlags, umount2};
use weft_netns::Netns;

use super::{Cgroup, LabDir, LabName, lock_all};

/// Removes the leftovers of every lab whose process is gone. Labs that run are not touched.
///
/// # Errors
/// The first failure, after everything else was tried.
pub fn clean() -> Result<()> {
    if LabDir::all()?.iter().all(LabDir::is_running) && stray()?.is_empty() {
        return Ok(());
    }
    let _all = lock_all()?;
    clean_locked()
}

/// [`clean`] for a caller that holds the lock of all labs.
pub(super) fn clean_locked() -> Result<()> {
    let mut first = Ok(());
    let folders = LabDir::all()?.into_iter().filter(|lab| !lab.is_running());
    for lab in folders.chain(stray()?.iter().map(LabDir::of)) {
        let removed = remove(&lab);
        if first.is_ok() {
            first = removed;
        }
    }
    first
}

/// Names of labs that have a namespace or a cgroup but no folder: their folder was deleted by hand.
fn stray() -> Result<Vec<LabName>> {
    let mut names = Vec::new();
    let mut add = |text: &str| {
        let Some(name) = text.strip_prefix("weft-").and_then(|rest| rest.split('-').next()?.parse().ok())
        else {
            return;
        };
        if !LabDir::of(&name).path().exists() && !names.contains(&name) {
            names.push(name);
        }
    };
    for netns in Netns::list()? {
        // Only what a lab has: tests of other parts may name namespaces likewise.
        if netns.ends_with("-fabric") {
            add(&netns);
        }
    }
    Ok(names)
}

/// Removes everything of a lab whose process is gone: processes, mounts, namespaces, cgroups, files.
pub(crate) fn remove(lab: &LabDir) -> Result<()> {
    let mut failures = Vec::new();
    let mut note = |result: Result<()>| failures.extend(result.err().map(|error| format!("{error:#}")));
    note(Cgroup::of_lab(lab.name()).and_then(|cgroup| cgroup.remove()));
    note(unmount_below(lab.path()));
    let prefix = lab.netns("");
    match Netns::list() {
        Ok(names) => {
            for name in names.iter().filter(|name| name.starts_with(&prefix)) {
                note(Netns::delete(name).map_err(Into::into));
            }
        }
        Err(error) => note(Err(error.into())),
    }
    if lab.path().exists() {
        note(fs::remove_dir_all(lab.path()).with_context(|| lab.path().display().to_string()));
    }
    if failures.is_empty() {
        return Ok(());
    }
    Err(anyhow!("lab {} is not removed completely: {}", lab.name(), failures.join("; ")))
}

/// Unmounts every mount below a folder, the latest first.
fn unmount_below(folder: &Path) -> Result<()> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("/proc/self/mountinfo")?;
    let points = text.lines().filter_map(|line| line.split(' ').nth(4));
    for point in points.collect::<Vec<_>>().into_iter().rev() {
        if Path::new(point).starts_with(folder) {
            umount2(point, MntFlags::MNT_DETACH).with_context(|| format!("unmount {point}"))?;
        }
    }
    Ok(())
}
